//! Connections the kernel remembers, by ctnetlink. Only system calls on the stack: it runs in a child between fork and exit.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::netlink::find;

/// NFNL_SUBSYS_CTNETLINK in the upper byte, and what is asked in the lower.
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
/// NLM_F_REQUEST with NLM_F_DUMP.
const DUMP: u16 = 1 | 0x300;
/// NLM_F_REQUEST with NLM_F_ACK.
const ASK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const CTA_TUPLE_ORIG: u16 = 1;
/// In a tuple.
const CTA_TUPLE_PROTO: u16 = 2;
/// In that.
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// The header and `struct nfgenmsg`, whose first byte is the family.
const HEAD: usize = 16 + 4;
/// The kernel fills no more than that at a time.
type Reply = [u8; 32768];

/// Forgets who sent datagrams to these ports, so that the next one goes by the rules of now.
pub fn forget_udp(family: u8, ports: &[u16]) -> Result<(), Errno> {
    let open = || socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER));
    let (list, delete) = (open()?, open()?);
    let mut ask = [0; HEAD];
    head(&mut ask, CT_GET, DUMP);
    if let Some(slot) = ask.get_mut(16) {
        *slot = family;
    }
    send(&list, &ask)?;
    let mut reply: Reply = [0; _];
    loop {
        let (_, len) = recv(&list, &mut reply[..], RecvFlags::empty())?;
        let mut rest = reply.get_mut(..len).unwrap_or_default();
        while let Some((len, kind)) = measure(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(Errno::OPNOTSUPP),
                _ => {}
            }
            let (message, behind) = rest.split_at_mut_checked(len).ok_or(Errno::PROTO)?;
            if is_udp_to(message, ports) {
                // What names an entry is what was told of it. One that is gone by now is what was wanted.
                head(message, CT_DELETE, ASK);
                send(&delete, message)?;
                let mut answer = [0; 256];
                recv(&delete, &mut answer[..], RecvFlags::empty())?;
            }
            rest = behind.get_mut(len.next_multiple_of(4) - len..).unwrap_or_default();
        }
    }
}

fn head(message: &mut [u8], kind: u16, flags: u16) {
    let len = u32::try_from(message.len()).unwrap_or_default().to_ne_bytes();
    let ([k0, k1], [f0, f1], [l0, l1, l2, l3]) = (kind.to_ne_bytes(), flags.to_ne_bytes(), len);
    if let Some(slot) = message.first_chunk_mut() {
        *slot = [l0, l1, l2, l3, k0, k1, f0, f1];
    }
}

fn send(socket: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    sendto(socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map(drop)
}

/// The length and kind of the first message.
fn measure(messages: &[u8]) -> Option<(usize, u16)> {
    let len = messages.first_chunk().map(|l| u32::from_ne_bytes(*l))?;
    let kind = messages.get(4..)?.first_chunk().map(|k| u16::from_ne_bytes(*k))?;
    Some((usize::try_from(len).ok().filter(|l| *l >= 16)?, kind))
}

fn is_udp_to(message: &[u8], ports: &[u16]) -> bool {
    let attributes = message.get(HEAD..).unwrap_or_default();
    let Some(proto) = find(attributes, CTA_TUPLE_ORIG).and_then(|tuple| find(tuple, CTA_TUPLE_PROTO)) else { return false };
    let port = find(proto, CTA_PROTO_DST_PORT).and_then(|p| p.first_chunk()).map(|p| u16::from_be_bytes(*p));
    find(proto, CTA_PROTO_NUM) == Some(&[UDP]) && port.is_some_and(|p| ports.contains(&p))
}
