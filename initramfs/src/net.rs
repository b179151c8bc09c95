//! Addresses by rtnetlink: messages made purely, sent one by one, each answered. Never reads a route.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::failure::{Doing, Done, Failure};

/// Where the name server is written; `/etc/resolv.conf` should be a link to it.
const RESOLV: &str = "/run/resolv.conf";
/// A driver that was just loaded may take that long to show its port.
const PORT_WAIT: Duration = Duration::from_secs(3);

/// Protocol 0, which rustix spells `None`.
const NETLINK_ROUTE: Option<rustix::net::Protocol> = None;
/// NLM_F_REQUEST | NLM_F_ACK.
const ASK: u16 = 1 | 4;
/// NLM_F_CREATE | NLM_F_REPLACE.
const MAKE: u16 = 0x400 | 0x100;

/// One request, without its header.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// RTM_NEWLINK with IFF_UP.
fn up(index: u32) -> Request {
    let mut body = vec![0; 4];
    for part in [index, 1, 1] {
        body.extend(part.to_ne_bytes());
    }
    Request { kind: 16, flags: ASK, body }
}

/// RTM_NEWADDR, or RTM_DELADDR.
fn address(index: u32, addr: IpAddr, prefix: u8, there: bool) -> Request {
    let mut body = vec![family(addr), prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    // IFA_LOCAL, IFA_ADDRESS.
    attribute(&mut body, 2, &octets(addr));
    attribute(&mut body, 1, &octets(addr));
    if there { Request { kind: 20, flags: ASK | MAKE, body } } else { Request { kind: 21, flags: ASK, body } }
}

/// RTM_NEWROUTE of the default route, in the main table, made at boot, everywhere, unicast.
fn route(index: u32, gateway: IpAddr) -> Request {
    let mut body = vec![family(gateway), 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    // RTA_GATEWAY, RTA_OIF.
    attribute(&mut body, 5, &octets(gateway));
    attribute(&mut body, 4, &index.to_ne_bytes());
    Request { kind: 24, flags: ASK | MAKE, body }
}

fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 2 } else { 10 }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(value.len() + 4).unwrap_or(4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(request: &Request) -> Vec<u8> {
    let mut message = u32::try_from(request.body.len() + 16).unwrap_or(0).to_ne_bytes().to_vec();
    message.extend(request.kind.to_ne_bytes());
    message.extend(request.flags.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(&request.body);
    message
}

/// NLMSG_ERROR's number, which is 0 when it went well.
fn answer(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..).and_then(|r| r.first_chunk()).map(|c| u16::from_ne_bytes(*c));
    match (kind, reply.get(16..).and_then(|r| r.first_chunk()).map(|c| i32::from_ne_bytes(*c))) {
        (Some(2), Some(0)) => Ok(()),
        (Some(2), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn ask(request: &Request) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)?;
    sendto(&socket, &message(request), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0u8; 1024];
    let (_, bytes) = recv(&socket, &mut reply[..], RecvFlags::empty())?;
    answer(reply.get(..bytes).unwrap_or_default())
}

/// The first Ethernet port that is a device, waited for a little.
pub fn port() -> Done<String> {
    let until = Instant::now() + PORT_WAIT;
    loop {
        let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        // ARPHRD_ETHER; bridges and the like have no device.
        let ethernet = entries.filter(|e| number(&e.path().join("type")) == Some(1) && e.path().join("device").exists());
        let first = ethernet.filter_map(|e| Some((number(&e.path().join("ifindex"))?, e.file_name().into_string().ok()?))).min();
        match first {
            Some((_, name)) => return Ok(name),
            None if Instant::now() >= until => {
                return Err(Failure::new("find an Ethernet port for plinth.ip", "there is none: is its driver in the list of modules?"));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn number(file: &std::path::Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn index(port: &str) -> Done<u32> {
    let file = format!("/sys/class/net/{port}/ifindex");
    number(std::path::Path::new(&file)).ok_or_else(|| Failure::new(format!("find network port {port}"), "not there"))
}

/// Takes a port up; the loopback gets its address with that.
pub fn link_up(port: &str) -> Done {
    ask(&up(index(port)?)).doing(|| format!("take {port} up"))
}

/// Gives a port an address, the machine a default route and a name server.
pub fn configure(port: &str, addr: IpAddr, prefix: u8, gateway: Option<IpAddr>, dns: &[IpAddr]) -> Done {
    let index = index(port)?;
    ask(&up(index)).doing(|| format!("take {port} up"))?;
    ask(&address(index, addr, prefix, true)).doing(|| format!("give {port} the address {addr}/{prefix}"))?;
    if let Some(gateway) = gateway {
        ask(&route(index, gateway)).doing(|| format!("route through {gateway} on {port}"))?;
    }
    resolv(dns)
}

/// Takes an address back.
pub fn take_back(port: &str, addr: IpAddr, prefix: u8) -> Done {
    ask(&address(index(port)?, addr, prefix, false)).doing(|| format!("take {addr}/{prefix} from {port}"))
}

/// Written whole, and only when it changes.
fn resolv(dns: &[IpAddr]) -> Done {
    let text: String = dns.iter().map(|d| format!("nameserver {d}\n")).collect();
    if text.is_empty() || fs::read_to_string(RESOLV).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let part = format!("{RESOLV}.new");
    fs::write(&part, text).and_then(|()| fs::rename(&part, RESOLV)).doing(|| format!("write {RESOLV}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn messages_are_laid_out_as_rtnetlink_reads_them() {
        let addr = message(&address(7, "10.0.2.15".parse().unwrap(), 24, true));
        let expected: [&[u8]; 6] = [
            &40u32.to_ne_bytes(),
            &20u16.to_ne_bytes(),
            &0x505u16.to_ne_bytes(),
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[2, 24, 0, 0, 7, 0, 0, 0],
            &[8, 0, 2, 0, 10, 0, 2, 15, 8, 0, 1, 0, 10, 0, 2, 15],
        ];
        assert_eq!(addr, expected.concat());
        let via = route(7, "fd00::1".parse().unwrap());
        assert_eq!((via.body.len(), &via.body[12..16]), (12 + 20 + 8, &[20, 0, 5, 0][..]));
        assert_eq!(up(3).body, [[0; 4], 3u32.to_ne_bytes(), 1u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
    }

    #[test]
    fn an_answer_is_an_error_number() {
        let reply = |kind: u16, error: i32| [&[36, 0, 0, 0][..], &kind.to_ne_bytes(), &[0; 10], &error.to_ne_bytes()].concat();
        assert!(answer(&reply(2, 0)).is_ok());
        assert_eq!(answer(&reply(2, -17)).unwrap_err().raw_os_error(), Some(17));
        assert!(answer(&reply(16, 0)).is_err() && answer(&[]).is_err());
    }
}
