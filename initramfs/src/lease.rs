//! The DHCP client's script, without a shell: `udhcpc -s` starts us with the event as argument and the lease in the environment.

use std::fs;
use std::net::IpAddr;

use crate::failure::Done;
use crate::net;

/// The lease in force, so that it can be taken back.
const LEASE: &str = "/run/init/lease";

/// What a lease gives.
#[derive(Debug, PartialEq, Eq)]
struct Lease {
    addr: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    dns: Vec<IpAddr>,
}

/// Reads busybox' variables: `ip`, `mask` (bits) or `subnet`, `router` and `dns` as lists.
fn read(get: impl Fn(&str) -> Option<String>) -> Option<Lease> {
    let list = |name: &str| get(name).unwrap_or_default().split_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<IpAddr>>();
    let bits = || get("subnet")?.parse::<std::net::Ipv4Addr>().ok().map(|m| m.to_bits().leading_ones() as u8);
    let prefix = get("mask").and_then(|m| m.parse().ok()).or_else(bits).filter(|p| *p <= 32)?;
    Some(Lease { addr: get("ip")?.parse().ok()?, prefix, gateway: list("router").first().copied(), dns: list("dns") })
}

/// One event. Anything but a lease is answered by taking the last one back.
pub fn run(event: &str, port: &str) -> Done {
    match event {
        "bound" | "renew" => {
            let Some(lease) = read(|name| std::env::var(name).ok()) else { return Ok(()) };
            let now = format!("{} {}", lease.addr, lease.prefix);
            if fs::read_to_string(LEASE).is_ok_and(|old| old != now) {
                give_back(port)?;
            }
            net::configure(port, lease.addr, lease.prefix, lease.gateway, &lease.dns)?;
            if event == "bound" {
                eprintln!("{port} has {}/{}", lease.addr, lease.prefix);
            }
            let _ = fs::write(LEASE, now);
            Ok(())
        }
        "deconfig" => {
            give_back(port)?;
            net::link_up(port)
        }
        _ => Ok(()),
    }
}

fn give_back(port: &str) -> Done {
    let Ok(old) = fs::read_to_string(LEASE) else { return Ok(()) };
    let _ = fs::remove_file(LEASE);
    match old.split_once(' ').and_then(|(a, p)| Some((a.parse().ok()?, p.parse().ok()?))) {
        Some((addr, prefix)) => net::take_back(port, addr, prefix),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lease_is_read_from_busybox_variables() {
        let with = |vars: &'static [(&str, &str)]| read(move |name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()));
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let full = with(&[("ip", "10.0.2.15"), ("mask", "24"), ("router", "10.0.2.2 10.0.2.9"), ("dns", "10.0.2.3 x 10.0.2.4")]);
        let expected =
            Lease { addr: ip("10.0.2.15"), prefix: 24, gateway: Some(ip("10.0.2.2")), dns: vec![ip("10.0.2.3"), ip("10.0.2.4")] };
        assert_eq!(full, Some(expected));
        assert_eq!(with(&[("ip", "10.0.0.5"), ("subnet", "255.255.254.0")]).unwrap().prefix, 23);
        assert_eq!(with(&[("ip", "10.0.0.5")]), None);
        assert_eq!(with(&[("ip", "10.0.0.5"), ("mask", "64")]), None);
    }
}
