//! A connection to a server that is named by a setting: name, TCP, TLS. One thread, no pool, no proxy; keeps nothing.
//!
//! Not hyper-util's connector: it looks names up in a blocking pool, which is a second thread.

pub mod resolve;
pub mod trust;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use trust::Trust;

/// Name, TCP and TLS together take no longer.
const CONNECT: Duration = Duration::from_secs(5);

/// What TLS and plain TCP have in common.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A connection.
pub struct Stream {
    /// Its bytes.
    pub io: Box<dyn Io>,
    /// The server speaks HTTP/2 on it.
    pub h2: bool,
}

/// How TLS is spoken, and the name the server's certificate is checked against.
pub type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// Connects, or says why not; without `tls` the connection is plain. Addresses are tried in the order they are found in.
pub async fn dial(host: &str, port: u16, tls: Option<Tls>, resolv_conf: &Path) -> Result<Stream, String> {
    let dialled = tokio::time::timeout(CONNECT, dial_all(host, port, tls, resolv_conf)).await;
    dialled.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT.as_secs())))
}

async fn dial_all(host: &str, port: u16, tls: Option<Tls>, resolv_conf: &Path) -> Result<Stream, String> {
    let ips = resolve::lookup(host, resolv_conf).await.map_err(|e| e.to_string())?;
    let mut last = String::new();
    // One address that drops packets must not use up the time of the next.
    let share = CONNECT / u32::try_from(ips.len().max(1)).unwrap_or(1);
    for ip in ips {
        let tcp = match tokio::time::timeout(share, TcpStream::connect((ip, port))).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(e)) => {
                last = format!("{ip}: {e}");
                continue;
            }
            Err(_) => {
                last = format!("{ip}: no answer");
                continue;
            }
        };
        let _ = tcp.set_nodelay(true);
        // A connection that cannot be asked is as good as any until then.
        let _ = ask_whether_it_lives(&tcp);
        let Some((config, name)) = tls else { return Ok(Stream { io: Box::new(tcp), h2: false }) };
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| e.to_string())?;
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        return Ok(Stream { io: Box::new(tls), h2 });
    }
    Err(last)
}

/// A peer that vanished without a word is found out where nothing is sent either: a watch over HTTP/1.1 waits only. Half a minute, as an
/// HTTP/2 connection of the kubelet's is given up after.
fn ask_whether_it_lives(tcp: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    sockopt::set_socket_keepalive(tcp, true)
}

/// TLS that believes whom it is told to, and shows this certificate with its key (PEM) where it is asked to.
pub fn tls(trust: Trust<'_>, certificate: Option<(&[u8], &[u8])>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(trust.verifier()?);
    match certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("client key: {e}"))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|e| format!("client certificate: {e}"))
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| format!("read a certificate: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_kernel_asks_a_silent_peer_whether_it_is_there() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let held = dial("127.0.0.1", port, None, Path::new("/dev/null")).await.unwrap();
            let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            let ours = table.lines().find(|l| l.split_whitespace().nth(2).is_some_and(|to| to.ends_with(&format!(":{port:04X}")))).unwrap();
            // Its timer is that of keepalive, 2, and due within 15 s, in hundredths.
            let (timer, due) = ours.split_whitespace().nth(5).and_then(|t| t.split_once(':')).unwrap();
            assert!(timer == "02" && i64::from_str_radix(due, 16).unwrap() <= 1500, "{ours}");
            drop(held);
        });
    }
}
