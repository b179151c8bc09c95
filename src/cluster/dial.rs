//! One connection: kubeconfig, name, TCP, TLS. Everything is read anew each time, so that rotated certificates are used.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use hyper::Uri;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::error::{Error, Result};
use crate::dial::trust::Trust;
use crate::dial::{self, Stream};
use crate::settings::kubeconfig::{self, Kubeconfig, Token};

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
                let own = config.certificate.as_ref().map(|(cert, key)| (&**cert, &**key));
                let trust = if config.unverified { Trust::Anybody } else { config.authority.as_deref().into() };
                let alone = dial::tls(trust, own).map_err(|e| unusable(&e))?;
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

    /// Nobody looks at whose certificate it shows.
    pub fn is_unverified(&self) -> bool {
        self.config.unverified
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
        let tls = self.tls.as_ref().map(|(h2, h1, name)| (if shared { h2 } else { h1 }.clone(), name.clone()));
        let dialled = dial::dial(&self.host, self.port, tls, &self.resolv_conf).await;
        dialled.map_err(|why| Error::Connect { server: self.server(), why })
    }
}
