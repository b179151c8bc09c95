//! One connection: kubeconfig, name, TCP, TLS. Everything is read anew each time, so that rotated certificates are used.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::{Error, Result};
use super::resolve;
use crate::settings::kubeconfig::{self, Kubeconfig, Token};

/// TCP and TLS together take no longer.
const CONNECT: Duration = Duration::from_secs(5);
/// Where distributions keep the certificates of public authorities.
const SYSTEM: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

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

/// How to connect, as the kubeconfig said when it was last read.
#[derive(Clone)]
pub struct Dialer {
    config: Rc<Kubeconfig>,
    tls: Option<(Arc<ClientConfig>, Arc<ClientConfig>, ServerName<'static>)>,
    host: String,
    port: u16,
    resolv_conf: Rc<Path>,
}

impl Dialer {
    /// Reads the kubeconfig and what it names.
    pub fn new(kubeconfig: &Path, resolv_conf: &Path) -> Result<Dialer> {
        let config = kubeconfig::read(kubeconfig)?;
        let unusable = |e: &dyn std::fmt::Display| Error::Unusable(format!("{}: {e}", kubeconfig.display()));
        let url: Uri = config.server.parse().map_err(|e| unusable(&e))?;
        let host = url.host().ok_or_else(|| unusable(&"its server has no host"))?.to_owned();
        let (tls, port) = match url.scheme_str() {
            Some("https") => {
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(config.server_name.clone().unwrap_or(bare)).map_err(|e| unusable(&e))?;
                let alone = client(&config).map_err(|e| unusable(&e))?;
                let mut shared = alone.clone();
                shared.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                (Some((Arc::new(shared), Arc::new(alone), name)), 443)
            }
            Some("http") => (None, 80),
            _ => return Err(unusable(&"its server is no http or https URL")),
        };
        Ok(Dialer { port: url.port_u16().unwrap_or(port), host, tls, resolv_conf: resolv_conf.into(), config: Rc::new(config) })
    }

    /// The server's URL.
    pub fn server(&self) -> String {
        self.config.server.clone()
    }

    /// The URL of a path there.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.server)
    }

    /// The same, as HTTP/1.1 has it.
    pub fn path(&self, path: &str) -> String {
        let prefix = self.config.server.parse::<Uri>().map(|u| u.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        format!("{prefix}{path}")
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Our token, read where it is a file's.
    pub fn token(&self) -> Result<Option<String>> {
        match &self.config.token {
            Token::None => Ok(None),
            Token::Inline(token) => Ok(Some(token.clone())),
            Token::File(path) => match std::fs::read_to_string(path) {
                Ok(token) => Ok(Some(token.trim().to_owned())),
                Err(e) => Err(Error::Unusable(format!("read token {}: {e}", path.display()))),
            },
        }
    }

    /// Connects; `shared`: HTTP/2 is welcome.
    pub async fn dial(&self, shared: bool) -> Result<Stream> {
        let failed = |why: String| Error::Connect { server: self.server(), why };
        let dialled = tokio::time::timeout(CONNECT, self.dial_all(shared)).await;
        dialled.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT.as_secs()))).map_err(failed)
    }

    async fn dial_all(&self, shared: bool) -> std::result::Result<Stream, String> {
        let ips = resolve::lookup(&self.host, &self.resolv_conf).await.map_err(|e| e.to_string())?;
        let mut last = String::new();
        // One address that drops packets must not use up the time of the next.
        let share = CONNECT / u32::try_from(ips.len().max(1)).unwrap_or(1);
        for ip in ips {
            let tcp = match tokio::time::timeout(share, TcpStream::connect((ip, self.port))).await {
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
            let Some((h2, h1, name)) = &self.tls else { return Ok(Stream { io: Box::new(tcp), h2: false }) };
            let connector = TlsConnector::from(if shared { h2.clone() } else { h1.clone() });
            let tls = connector.connect(name.clone(), tcp).await.map_err(|e| e.to_string())?;
            let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            return Ok(Stream { io: Box::new(tls), h2 });
        }
        Err(last)
    }
}

fn client(config: &Kubeconfig) -> std::result::Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let pem = match &config.authority {
        Some(pem) => pem.clone(),
        None => {
            SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).ok_or("it names no certificate-authority, and the system has none")?
        }
    };
    for cert in certificates(&pem)? {
        // Of a bundle, what cannot be used is passed over.
        let _ = roots.add(cert);
    }
    if roots.is_empty() {
        return Err("there is no certificate in its certificate-authority".into());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    match &config.certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("client-key: {e}"))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|e| format!("client-certificate: {e}"))
        }
    }
}

fn certificates(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<_, _>>().map_err(|e| format!("read a certificate: {e}"))
}
