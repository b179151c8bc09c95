//! Whom a probe or hook dials: the pod's address, seen from the host; ports by number or by the container's name for them.
//!
//! Never asks a name service: that would need a thread, and a name that is not there would hold the probe up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::pod::WantedPod;
use crate::runtime::hosts;

/// A container that can be dialled.
pub struct Target<'a> {
    pub pod: &'a WantedPod,
    pub container: &'a Container,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
}

/// Where to dial: what is shown of it, and the addresses to try, in turn.
pub struct Address {
    /// As messages show it.
    pub host: String,
    pub port: u16,
    tries: Vec<IpAddr>,
}

impl Target<'_> {
    /// The address of a handler.
    pub fn address(&self, host: Option<&str>, port: &IntOrString) -> Result<Address, String> {
        let port = self.port(port)?;
        let host = host.filter(|h| !h.is_empty());
        let Some(host) = host else {
            // Without a host of its own a pod of the host's network is dialled at localhost, as by a standalone kubelet, which knows no
            // address of it; what listens at the node's address only is found there.
            let local = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
            let first = if self.pod.host_network { local.as_slice() } else { &[] };
            let tries: Vec<IpAddr> = first.iter().chain(self.ips.first()).copied().collect();
            let shown = tries.first().ok_or("the pod has no address")?.to_string();
            return Ok(Address { host: shown, port, tries });
        };
        let tries = match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => vec![ip],
            Err(_) if host.eq_ignore_ascii_case("localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => hosts_file(host)?,
        };
        Ok(Address { host: host.to_owned(), port, tries })
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(n) => Some(*n),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports.clone().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
                Some(
                    named
                        .or_else(|| name.parse().ok())
                        .ok_or_else(|| format!("couldn't find port: {name} in container `{}`", self.container.name))?,
                )
            }
        };
        number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {port:?}"))
    }
}

/// A name the host's own table has.
fn hosts_file(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = hosts::listed(host);
    if found.is_empty() {
        return Err(format!(
            "lookup {host}: it is no address and not in the node's /etc/hosts; write the address, or put the name into a Host header"
        ));
    }
    Ok(found)
}

impl Address {
    /// `host:port`, in brackets where it has to be.
    pub fn shown(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same host, another port: where a redirect leads.
    pub fn with_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port, tries: self.tries.clone() }
    }

    /// A connection; the next address where one refuses.
    pub async fn dial(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for ip in &self.tries {
            match TcpStream::connect(SocketAddr::new(*ip, self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// A failed dial in Go's words.
    pub fn refused(&self, e: &io::Error) -> String {
        format!("dial tcp {}: connect: {}", self.shown(), said(e))
    }
}

/// An error of the kernel's as Go prints it.
pub fn said(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => e.to_string().to_lowercase(),
    }
}
