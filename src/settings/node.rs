//! What the machine says of itself when no setting does: its name and its addresses. Sends nothing, resolves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The host's name, lower case, as the kubelet takes it.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// The address packets to the world would leave from, per family: what the default route gives. Loopback where there is none.
/// Asked of the kernel by connecting a datagram socket to an address of documentation, which sends no packet.
pub fn ips() -> Vec<IpAddr> {
    let outside = [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    ];
    let mut found: Vec<IpAddr> = outside.into_iter().filter_map(|(from, to)| leaving(from, to)).collect();
    if found.is_empty() {
        found.push(Ipv4Addr::LOCALHOST.into());
    }
    found
}

fn leaving(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}
