//! Whom a probe or hook dials: the pod's address, seen from the host; ports by number or by the container's name for them.
//!
//! A host by its name is looked up at each dial, as the node itself looks names up.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::dial::resolve;
use crate::pod::WantedPod;

/// A container that can be dialled.
pub struct Target<'a> {
    pub pod: &'a WantedPod,
    pub container: &'a Container,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
    /// Names the servers that know the address of a handler's `host`.
    pub resolv_conf: &'a Path,
}

/// Where to dial: what is shown of it, and the addresses to try, in turn.
#[derive(Clone)]
pub struct Address<'a> {
    /// As messages show it.
    pub host: String,
    pub port: u16,
    /// None: those of `host`, whatever they are then.
    tries: Vec<IpAddr>,
    resolv_conf: &'a Path,
}

impl<'a> Target<'a> {
    /// The address of a handler.
    pub fn address(&self, host: Option<&str>, port: &IntOrString) -> Result<Address<'a>, String> {
        let port = self.port(port)?;
        let host = host.filter(|h| !h.is_empty());
        let Some(host) = host else {
            // Without a host of its own a pod of the host's network is dialled at localhost, as by a standalone kubelet, which knows no
            // address of it; what listens at the node's address only is found there.
            let local = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
            let first = if self.pod.host_network { local.as_slice() } else { &[] };
            let tries: Vec<IpAddr> = first.iter().chain(self.ips.first()).copied().collect();
            let shown = tries.first().ok_or("the pod has no address")?.to_string();
            return Ok(Address { host: shown, port, tries, resolv_conf: self.resolv_conf });
        };
        Ok(Address { host: host.to_owned(), port, tries: Vec::new(), resolv_conf: self.resolv_conf })
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

impl Address<'_> {
    /// `host:port`, in brackets where it has to be.
    pub fn shown(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The same host, another port: where a redirect leads.
    pub fn with_port(&self, port: u16) -> Self {
        Address { port, ..self.clone() }
    }

    /// A connection; the next address where one refuses.
    pub async fn dial(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        let tries = match self.tries.as_slice() {
            [] => Cow::Owned(resolve::lookup(&self.host, self.resolv_conf).await?),
            known => Cow::Borrowed(known),
        };
        for ip in tries.iter() {
            match TcpStream::connect(SocketAddr::new(*ip, self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// A failed dial in Go's words.
    pub fn refused(&self, e: &io::Error) -> String {
        if e.kind() == io::ErrorKind::Other {
            return format!("dial tcp: {e}");
        }
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
