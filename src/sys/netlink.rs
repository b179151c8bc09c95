//! Changes to network interfaces, by rtnetlink: messages prepared here, told to the kernel by a short-lived child that may enter another
//! network namespace between two of them.
//!
//! Why a child: this process never leaves its namespaces, and the kernel answers only when it is done, which takes as long as whoever else
//! changes interfaces at that moment. The child runs nothing but system calls on what was prepared before the fork.
#![expect(unsafe_code, reason = "fork, ioctl and _exit have no safe form")]

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netdevice::{index_to_name_inlined, name_to_index};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::unix::pipe::Receiver;

use super::spawn::{Child, c_path};
use super::{conntrack, namespaces, pause};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Refused {
    /// What was asked of it.
    pub doing: String,
    /// Its answer.
    #[source]
    pub source: io::Error,
}

/// Two interfaces that are each other's other end.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The end in the namespace the script begins in, a port of `bridge` and up from the start.
    pub near: &'a str,
    /// Its address.
    pub near_mac: Mac,
    /// The end in `namespace`, down.
    pub far: &'a str,
    /// Its address.
    pub far_mac: Mac,
    /// Whose port the near end becomes.
    pub bridge: &'a str,
    /// Where the far end is put.
    pub namespace: BorrowedFd<'a>,
    /// Of both; `None`: the kernel's.
    pub mtu: Option<u32>,
}

/// Steps, in order; the first that fails is the last.
#[derive(Debug, Default)]
pub struct Script<'a> {
    steps: Vec<(String, Step<'a>)>,
}

#[derive(Debug)]
enum Step<'a> {
    /// All that follows is told in that network namespace.
    Enter(BorrowedFd<'a>),
    Tell(Message),
    /// A kernel setting; unless it is required, a kernel without it is taken as it is.
    Set {
        file: CString,
        value: u8,
        required: bool,
    },
    /// Whether the interface is a bridge.
    Check(Message),
    /// Until its link is up, as the namespace the script began in sees it.
    Await(Message),
    /// The bridge gets this address, unless it has it; from then on its hardware address is its own and not that of one of its ports.
    Own {
        bridge: String,
        addr: Ipv4Addr,
        mask: Ipv4Addr,
        add: Message,
        keep_mac: Message,
    },
    /// The interface packets to that address leave by may carry loopback addresses; no way there is none.
    Localnet(Message),
    /// Who sent datagrams to these ports is forgotten, as far as it can be: such connections end by themselves in a while.
    ForgetUdp {
        family: u8,
        ports: Vec<u16>,
    },
}

/// One request, with the places where the indexes of interfaces go, which are not known before it is told.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    indexes: Vec<(usize, String)>,
    /// An answer that is as good as success.
    also_fine: Option<Errno>,
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// NLM_F_REQUEST.
const REQUEST: u16 = 1;
/// With NLM_F_ACK.
const ASK: u16 = REQUEST | 4;
/// With NLM_F_CREATE.
const MAKE: u16 = ASK | 0x400;
/// With NLM_F_EXCL too.
const MAKE_NEW: u16 = MAKE | 0x200;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
/// Of IFLA_EXT_MASK: without counters.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
/// In IFLA_LINKINFO.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// In IFLA_INFO_DATA of a veth: the other end, a message of its own.
const VETH_INFO_PEER: u16 = 1;
/// In IFLA_PROTINFO of a bridge's port: hairpin.
const IFLA_BRPORT_MODE: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;

/// Where the header of a request ends.
const BODY: usize = 16;
/// Where `ifi_index` and `ifa_index` stand.
const INDEX: usize = BODY + 4;

impl Message {
    fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Message { bytes, indexes: Vec::new(), also_fine: None }
    }

    /// `struct ifinfomsg`.
    fn link(mut self, family: u8, up: bool) -> Message {
        let flags = if up { IFF_UP } else { 0 };
        self.bytes.extend([family, 0, 0, 0]);
        for part in [0, flags, flags] {
            self.bytes.extend(part.to_ne_bytes());
        }
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        self.bytes.extend(u16::try_from(value.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn optional(self, kind: u16, value: Option<u32>) -> Message {
        match value {
            Some(value) => self.attribute(kind, &value.to_ne_bytes()),
            None => self,
        }
    }

    fn name(self, name: &str) -> Message {
        self.attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
    }

    /// Attributes inside an attribute.
    fn nest(self, kind: u16, inside: impl FnOnce(Message) -> Message) -> Message {
        let part = inside(Message { bytes: Vec::new(), indexes: Vec::new(), also_fine: None });
        self.attribute(kind, &part.bytes)
    }

    /// All about an interface but its counters.
    fn ask_link(name: &str) -> Message {
        let message = Message::new(RTM_GETLINK, REQUEST).link(0, false).about(name);
        message.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
    }

    /// An attribute that holds an interface's index.
    fn index_attribute(mut self, kind: u16, name: &str) -> Message {
        self.indexes.push((self.bytes.len() + 4, name.to_owned()));
        self.attribute(kind, &[0; 4])
    }

    /// About that interface.
    fn about(mut self, name: &str) -> Message {
        self.indexes.push((INDEX, name.to_owned()));
        self
    }

    fn or(mut self, errno: Errno) -> Message {
        self.also_fine = Some(errno);
        self
    }

    /// The length stands first.
    fn done(mut self) -> Message {
        let len = u32::try_from(self.bytes.len()).unwrap_or_default().to_ne_bytes();
        self.bytes.splice(..4, len);
        self
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// `struct ifaddrmsg`, of universal scope.
fn address(name: &str, addr: Ipv4Addr, prefix: u8) -> Message {
    let mut message = Message::new(RTM_NEWADDR, MAKE_NEW);
    message.bytes.extend([AF_INET, prefix, 0, 0, 0, 0, 0, 0]);
    let message = message.about(name).attribute(IFA_LOCAL, &addr.octets()).attribute(IFA_ADDRESS, &addr.octets());
    message.attribute(IFA_BROADCAST, &(addr.to_bits() | !mask(prefix)).to_be_bytes())
}

impl<'a> Script<'a> {
    fn push(mut self, doing: String, step: Step<'a>) -> Self {
        self.steps.push((doing, step));
        self
    }

    fn tell(self, doing: String, message: Message) -> Self {
        self.push(doing, Step::Tell(message.done()))
    }

    /// A bridge of this name, unless there is one.
    pub fn bridge(self, name: &str, mtu: Option<u32>) -> Self {
        let message = Message::new(RTM_NEWLINK, MAKE_NEW).link(0, false).name(name).optional(IFLA_MTU, mtu);
        let message = message.nest(IFLA_LINKINFO, |m| m.attribute(IFLA_INFO_KIND, b"bridge"));
        let is_one = Message::ask_link(name).done();
        let script = self.tell(format!("make bridge `{name}`"), message.or(Errno::EXIST));
        // Before anything is done to an interface that is somebody's.
        script.push(format!("find a bridge in `{name}`: an interface of that name is there already and is none"), Step::Check(is_one))
    }

    /// Two ends.
    pub fn pair(self, p: &Pair<'a>) -> Self {
        let far = |m: Message| {
            let m = m.link(0, false).name(p.far).attribute(IFLA_ADDRESS, &p.far_mac).optional(IFLA_MTU, p.mtu);
            m.attribute(IFLA_NET_NS_FD, &p.namespace.as_raw_fd().to_ne_bytes())
        };
        let info = |m: Message| m.attribute(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |m| m.nest(VETH_INFO_PEER, far));
        let message = Message::new(RTM_NEWLINK, MAKE_NEW).link(0, true).index_attribute(IFLA_MASTER, p.bridge);
        let message = message.name(p.near).attribute(IFLA_ADDRESS, &p.near_mac).optional(IFLA_MTU, p.mtu).nest(IFLA_LINKINFO, info);
        self.tell(format!("make interface `{}` with `{}` for its other end, a port of bridge `{}`", p.far, p.near, p.bridge), message)
    }

    /// The bridge sends frames back through this port.
    pub fn hairpin(self, port: &str) -> Self {
        let message = Message::new(RTM_SETLINK, ASK).link(AF_BRIDGE, false).about(port);
        let message = message.nest(IFLA_PROTINFO | NLA_F_NESTED, |m| m.attribute(IFLA_BRPORT_MODE, &[1]));
        self.tell(format!("set hairpin mode of `{port}`"), message)
    }

    /// Brings it up.
    pub fn up(self, name: &str) -> Self {
        self.tell(format!("bring up `{name}`"), Message::new(RTM_NEWLINK, ASK).link(0, true).about(name))
    }

    /// Removes it, if it is there.
    pub fn remove(self, name: &str) -> Self {
        self.tell(format!("remove interface `{name}`"), Message::new(RTM_DELLINK, ASK).link(0, false).about(name).or(Errno::NODEV))
    }

    /// Gives it an address.
    pub fn address(self, name: &str, addr: Ipv4Addr, prefix: u8) -> Self {
        self.tell(format!("give `{name}` address {addr}/{prefix}"), address(name, addr, prefix))
    }

    /// Gives a bridge its address, unless it has it. Another one is an error.
    pub fn own_address(self, bridge: &str, addr: Ipv4Addr, prefix: u8) -> Self {
        let keep_mac = Message::new(RTM_SETLINK, ASK).link(0, false).about(bridge).attribute(IFLA_ADDRESS, &[0; 6]).done();
        let add = address(bridge, addr, prefix).or(Errno::EXIST).done();
        let own = Step::Own { bridge: bridge.to_owned(), addr, mask: mask(prefix).into(), add, keep_mac };
        self.push(format!("give bridge `{bridge}` address {addr}/{prefix}, where it may have no other"), own)
    }

    /// A way through a gateway.
    pub fn route(self, name: &str, to: (Ipv4Addr, u8), gateway: Ipv4Addr) -> Self {
        // `struct rtmsg`: the main table, RTPROT_BOOT, universal scope, unicast.
        let mut message = Message::new(RTM_NEWROUTE, MAKE);
        message.bytes.extend([AF_INET, to.1, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
        let message = message.index_attribute(RTA_OIF, name).attribute(RTA_DST, &to.0.octets()).attribute(RTA_GATEWAY, &gateway.octets());
        self.tell(format!("add route to {}/{} via {gateway} on `{name}`", to.0, to.1), message)
    }

    /// A digit in a file below /proc/sys/net, of the namespace the script is in; a kernel without it is taken as it is.
    pub fn set(self, file: &str, value: u8) -> Self {
        self.setting(file, value, false)
    }

    /// The same, of what has to be so.
    pub fn require(self, file: &str, value: u8) -> Self {
        self.setting(file, value, true)
    }

    fn setting(self, file: &str, value: u8, required: bool) -> Self {
        // No name of an interface has a NUL: the kernel would not have it.
        let path = CString::new(format!("/proc/sys/net/{file}")).unwrap_or_default();
        self.push(format!("write {value} to /proc/sys/net/{file}"), Step::Set { file: path, value: b'0' + value, required })
    }

    /// Lets the way to `to` carry packets from 127.0.0.0/8, which is where a client on the host may be.
    pub fn localnet(self, to: Ipv4Addr) -> Self {
        // `struct rtmsg`: one address, nothing else asked for.
        let mut message = Message::new(RTM_GETROUTE, REQUEST);
        message.bytes.extend([AF_INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let message = message.attribute(RTA_DST, &to.octets()).done();
        self.push(format!("set route_localnet of the interface towards {to}"), Step::Localnet(message))
    }

    /// Forgets the senders of datagrams to these ports of the host, as addresses of this one's family.
    pub fn forget_udp(self, like: IpAddr, ports: Vec<u16>) -> Self {
        let family = if like.is_ipv4() { AF_INET } else { AF_INET6 };
        self.push("forget senders of datagrams".into(), Step::ForgetUdp { family, ports })
    }

    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Waits until frames go through it: the kernel tells a bridge of a carrier some time after there is one.
    pub fn carried(self, name: &str) -> Self {
        self.push(format!("wait for the link of `{name}`"), Step::Await(Message::ask_link(name).done()))
    }

    /// What follows is done in that network namespace.
    pub fn enter(self, namespace: BorrowedFd<'a>) -> Self {
        self.push("enter the pod's network namespace".into(), Step::Enter(namespace))
    }

    /// Does it all, or up to what is refused, or until patience ends.
    pub async fn run(mut self, patience: Duration) -> Result<(), Refused> {
        let failed = |source| Refused { doing: "start a process to set up a network".into(), source };
        let (report, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let report = Receiver::from_owned_fd(report).map_err(failed)?;
        // SAFETY: the child makes system calls on memory prepared before, allocates nothing and leaves by _exit.
        let mut child = match unsafe { nix::unistd::fork() }.map_err(|e| failed(e.into()))? {
            ForkResult::Child => {
                // Nobody would know of what is made after our end.
                let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
                let (at, errno) = perform(&mut self.steps).err().map_or((0, 0), |(at, errno)| (at, errno.raw_os_error()));
                let _ = pause::tell(&tell, at, errno);
                // SAFETY: ends the child without running the parent's destructors and exit handlers.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound);
                pid.and_then(|pid| Child::adopt(pid, false).map_err(|e| e.kind())).map_err(|kind| failed(kind.into()))?
            }
        };
        drop(tell);
        let answer = tokio::time::timeout(patience, namespaces::answer(&report)).await;
        if !matches!(answer, Ok(Ok(_))) {
            child.kill();
        }
        child.wait().await.map_err(failed)?;
        let silent =
            |_| Refused { doing: format!("hear from the kernel within {} s", patience.as_secs()), source: io::ErrorKind::TimedOut.into() };
        let died = |source| Refused { doing: "hear from the process that sets up the network".into(), source };
        match answer.map_err(silent)?.map_err(died)? {
            (_, 0) => Ok(()),
            (at, errno) => {
                let step = usize::try_from(at).ok().and_then(|at| self.steps.get(at));
                let doing = step.map_or_else(|| "open a netlink socket".to_owned(), |(doing, _)| doing.clone());
                Err(Refused { doing, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

/// In the child.
fn perform(steps: &mut [(String, Step<'_>)]) -> Result<(), (u32, Errno)> {
    let open = || -> Result<_, Errno> {
        // Protocol 0 of netlink is routing, which rustix spells `None`.
        let route = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok((route, socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?))
    };
    let no_socket = |e| (u32::MAX, e);
    let home = open().map_err(no_socket)?;
    let (mut route, mut inet) = open().map_err(no_socket)?;
    for (at, (_, step)) in (0..).zip(steps) {
        let done = match step {
            Step::Enter(namespace) => move_into_link_name_space(*namespace, Some(LinkNameSpaceType::Network))
                .and_then(|()| open())
                .map(|opened| (route, inet) = opened),
            Step::Tell(message) => tell(&route, message),
            Step::Set { file, value, required } => match set(file, *value) {
                Err(_) if !*required => Ok(()),
                set => set,
            },
            Step::Check(message) => is_bridge(&route, message),
            Step::Await(message) => carried(&home.0, message),
            Step::Own { bridge, addr, mask, add, keep_mac } => own(&route, &inet, bridge, (*addr, *mask), add, keep_mac),
            Step::Localnet(message) => localnet(&route, message),
            Step::ForgetUdp { family, ports } => {
                let _ = conntrack::forget_udp(*family, ports);
                Ok(())
            }
        };
        done.map_err(|errno| (at, errno))?;
    }
    Ok(())
}

/// Nothing is written where it stands already: that may be read-only.
fn set(file: &CStr, value: u8) -> Result<(), Errno> {
    let mut now = [0; 2];
    let fd = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::io::read(&fd, &mut now).is_ok() && now == [value, b'\n'] {
        return Ok(());
    }
    let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, &[value]).map(drop)
}

/// One reply fits: a link without its counters has some hundred bytes.
type Reply = [u8; 8192];

fn tell(route: &OwnedFd, message: &mut Message) -> Result<(), Errno> {
    let mut reply: Reply = [0; _];
    match ask(route, message, &mut reply).and_then(answer) {
        Err(e) if Some(e) == message.also_fine => Ok(()),
        told => told,
    }
}

/// The kernel has answered when the request is sent.
fn ask<'a>(route: &OwnedFd, message: &mut Message, reply: &'a mut Reply) -> Result<&'a [u8], Errno> {
    for (at, name) in &message.indexes {
        let index = name_to_index(route, name)?.to_ne_bytes();
        message.bytes.get_mut(*at..).and_then(|b| b.first_chunk_mut()).map(|slot| *slot = index).ok_or(Errno::INVAL)?;
    }
    sendto(route, &message.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let (_, len) = recv(route, &mut reply[..], RecvFlags::empty())?;
    Ok(reply.get(..len).unwrap_or_default())
}

/// IF_OPER_UP, looked for at growing intervals, 2.6 s in all.
fn carried(route: &OwnedFd, message: &mut Message) -> Result<(), Errno> {
    const IF_OPER_UP: u8 = 6;
    for wait_ms in [1, 2, 5, 10, 20, 50, 500, 1000, 1000, 0] {
        let mut reply: Reply = [0; _];
        if find(attributes(ask(route, message, &mut reply)?), IFLA_OPERSTATE) == Some(&[IF_OPER_UP]) {
            return Ok(());
        }
        let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
        let _ = rustix::thread::nanosleep(&pause);
    }
    Err(Errno::TIMEDOUT)
}

/// route_localnet of the interface a route leads by. There may be no route: then nothing goes there anyway.
fn localnet(route: &OwnedFd, message: &mut Message) -> Result<(), Errno> {
    let mut reply: Reply = [0; _];
    let reply = ask(route, message, &mut reply)?;
    // Attributes follow the header and `struct rtmsg`.
    let attributes = (kind(reply) == Some(RTM_NEWROUTE)).then(|| reply.get(BODY + 12..)).flatten().unwrap_or_default();
    let index = find(attributes, RTA_OIF).and_then(|i| i.first_chunk()).map(|i| u32::from_ne_bytes(*i));
    let Some(name) = index.and_then(|i| index_to_name_inlined(route, i).ok()) else { return Ok(()) };
    // A name has 15 bytes at most, and the last one here stays 0.
    let mut path = [0; 64];
    let parts = [b"/proc/sys/net/ipv4/conf/", name.as_bytes(), b"/route_localnet"];
    for (to, from) in path.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    set(CStr::from_bytes_until_nul(&path).map_err(|_| Errno::INVAL)?, b'1')
}

fn is_bridge(route: &OwnedFd, message: &mut Message) -> Result<(), Errno> {
    let mut reply: Reply = [0; _];
    let info = find(attributes(ask(route, message, &mut reply)?), IFLA_LINKINFO);
    match info.and_then(|info| find(info, IFLA_INFO_KIND)) {
        Some(b"bridge\0" | b"bridge") => Ok(()),
        _ => Err(Errno::EXIST),
    }
}

/// Of a link: they follow the header and `struct ifinfomsg`.
fn attributes(reply: &[u8]) -> &[u8] {
    reply.get(BODY + 16..).unwrap_or_default()
}

/// The value of the first attribute of this kind.
pub(super) fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (len, rest) = attributes.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_ne_bytes(*len)), rest))?;
        let kind = rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind))?;
        match attributes.get(4..len)? {
            value if kind & !NLA_F_NESTED == wanted => return Some(value),
            _ => attributes = attributes.get(len.next_multiple_of(4)..)?,
        }
    }
}

fn kind(reply: &[u8]) -> Option<u16> {
    reply.get(4..).and_then(|r| r.first_chunk()).map(|c| u16::from_ne_bytes(*c))
}

/// NLMSG_ERROR's number, which is 0 when it went well.
fn answer(reply: &[u8]) -> Result<(), Errno> {
    const NLMSG_ERROR: u16 = 2;
    match (kind(reply), reply.get(BODY..).and_then(|r| r.first_chunk()).map(|c| i32::from_ne_bytes(*c))) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(Errno::from_raw_os_error(errno.saturating_neg())),
        _ => Err(Errno::PROTO),
    }
}

/// Unless the address is there: the hardware address said once more, which makes it the bridge's own, then the address. In this order,
/// so that who is killed in between is made good for by the next.
fn own(
    route: &OwnedFd,
    inet: &OwnedFd,
    bridge: &str,
    wanted: (Ipv4Addr, Ipv4Addr),
    add: &mut Message,
    keep_mac: &mut Message,
) -> Result<(), Errno> {
    if let Some(addr) = ipv4(inet, bridge, libc::SIOCGIFADDR)? {
        let is_ours = addr == wanted.0 && ipv4(inet, bridge, libc::SIOCGIFNETMASK)? == Some(wanted.1);
        return if is_ours { Ok(()) } else { Err(Errno::ADDRINUSE) };
    }
    let mac = hardware(inet, bridge)?;
    let end = keep_mac.bytes.len();
    // Six bytes and two of padding stand last.
    if let Some(slot) = keep_mac.bytes.get_mut(end.saturating_sub(8)..).and_then(|b| b.first_chunk_mut()) {
        *slot = mac;
    }
    tell(route, keep_mac)?;
    tell(route, add)
}

/// An interface's IPv4 address or mask, the first if it has many.
fn ipv4(inet: &OwnedFd, name: &str, request: libc::Ioctl) -> Result<Option<Ipv4Addr>, Errno> {
    match interface(inet, name, request) {
        // Of a `sockaddr_in`, behind the port.
        Ok([_, _, a, b, c, d, ..]) => Ok(Some(Ipv4Addr::new(a, b, c, d))),
        Err(Errno::ADDRNOTAVAIL) => Ok(None),
        Err(e) => Err(e),
    }
}

fn hardware(socket: &OwnedFd, name: &str) -> Result<Mac, Errno> {
    interface(socket, name, libc::SIOCGIFHWADDR).map(|[a, b, c, d, e, f, ..]| [a, b, c, d, e, f])
}

/// One of the requests that answer with a `sockaddr`: what stands in it behind the family.
fn interface(socket: &OwnedFd, name: &str, request: libc::Ioctl) -> Result<[u8; 14], Errno> {
    // SAFETY: an ifreq is plain data; all zero is a valid one.
    let mut asked: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    if name.len() >= asked.ifr_name.len() {
        return Err(Errno::NODEV);
    }
    for (to, from) in asked.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: each of these requests reads and writes one ifreq, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut asked) } {
        // SAFETY: these requests leave a `sockaddr` there.
        0 => Ok(unsafe { asked.ifr_ifru.ifru_addr }.sa_data.map(|b| u8::from_ne_bytes(b.to_ne_bytes()))),
        _ => Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())),
    }
}

/// The hardware address of an interface in our own namespace.
pub fn mac(name: &str) -> io::Result<Mac> {
    Ok(hardware(&socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?, name)?)
}

/// Opens a pinned namespace.
pub fn namespace(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(&*c_path(path)?, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
