//! Connects to a port of a pod, as `kubectl port-forward` wants it: at the pod's own localhost, where probes from outside cannot look.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use rustix::net::AddressFamily;
use tokio::net::{TcpSocket, TcpStream};

use super::Runtime;
use crate::pod::WantedPod;
use crate::sys::enter;

/// Localhost answers at once, unless a firewall drops it.
const CONNECT: Duration = Duration::from_secs(10);

impl Runtime {
    /// A connection to that port of the pod: IPv4 first, as containerd does it. The error says what either answered.
    pub fn forward(&self, pod: &WantedPod, port: u16) -> LocalBoxFuture<'static, io::Result<TcpStream>> {
        let namespace = (!pod.host_network).then(|| self.paths.namespace(&pod.uid, "net"));
        Box::pin(async move {
            let mut said = Vec::new();
            for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let dialled = tokio::time::timeout(CONNECT, dial(namespace.clone(), SocketAddr::new(ip, port))).await;
                match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => return Ok(stream),
                    Err(e) => said.push(format!("{ip}: {e}")),
                }
            }
            Err(io::Error::other(said.join(", ")))
        })
    }
}

async fn dial(namespace: Option<PathBuf>, to: SocketAddr) -> io::Result<TcpStream> {
    let Some(namespace) = namespace else { return TcpStream::connect(to).await };
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = enter::tcp_socket(&namespace, family).await?;
    TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(to).await
}
