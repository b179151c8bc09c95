//! Our certificate, and whose certificates we believe. Files are read anew when they change; a change that cannot be used changes nothing.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::settings::Api;

/// Why nobody can be served.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct TlsError {
    doing: String,
    why: String,
}

fn failed(doing: &str, path: &Path) -> impl Fn(&dyn std::fmt::Display) -> TlsError {
    let doing = format!("{doing} {}", path.display());
    move |why| TlsError { doing: doing.clone(), why: why.to_string() }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate that nobody signed, for these names and addresses: what a kubelet serves with when it is given none. The API server
/// believes it unless it was told whom to believe.
pub fn self_signed(node: &str, ips: &[IpAddr]) -> Result<Identity, TlsError> {
    let failed = |e: rcgen::Error| TlsError { doing: "make a certificate".into(), why: e.to_string() };
    let names = std::iter::once(node.to_owned()).chain(ips.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>()).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((vec![made.cert.der().clone()], key))
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, i64, i64, u64)>;

fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).ok().map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
}

/// What connections are made with, as the files say.
pub struct Tls {
    files: Option<(PathBuf, PathBuf)>,
    client_ca: Option<PathBuf>,
    own: Option<Identity>,
    made: Option<Arc<ServerConfig>>,
    read: Vec<Stamp>,
}

impl Tls {
    /// Nothing read yet.
    pub fn new(api: &Api, node: &str, ips: &[IpAddr]) -> Result<Tls, TlsError> {
        let (files, own) = match (&api.cert_file, &api.key_file) {
            (Some(cert), Some(key)) => (Some((cert.clone(), key.clone())), None),
            (None, None) => (None, Some(self_signed(node, ips)?)),
            (one, other) => {
                let path = one.as_ref().or(other.as_ref()).cloned().unwrap_or_default();
                return Err(failed("use", &path)(&"tlsCertFile and tlsPrivateKeyFile go together"));
            }
        };
        Ok(Tls { files, client_ca: api.client_ca_file.clone(), own, made: None, read: Vec::new() })
    }

    /// What the next connection is made with. An error is told once for each change of a file; what was good before stays in use.
    pub fn current(&mut self) -> Option<Arc<ServerConfig>> {
        let named = self.files.iter().flat_map(|(cert, key)| [cert, key]).chain(&self.client_ca);
        let stamps: Vec<Stamp> = named.map(|path| stamp(path)).collect();
        if self.made.is_none() && self.read.is_empty() || self.read != stamps {
            match self.make() {
                Ok(made) => {
                    if self.made.replace(made).is_some() {
                        log::info!("kubelet API: certificates were read anew");
                    }
                }
                Err(e) => {
                    log::error!("kubelet API: {e}; {}", if self.made.is_some() { "the last good ones stay" } else { "nobody is served" })
                }
            }
            self.read = stamps;
        }
        self.made.clone()
    }

    fn make(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(default_provider());
        let unusable = |what: &'static str| move |e: &dyn std::fmt::Display| TlsError { doing: what.into(), why: e.to_string() };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("set up TLS")(&e))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let (added, _) = roots.add_parsable_certificates(certificates(path)?);
                if added == 0 {
                    return Err(failed("read clientCAFile", path)(&"there is no certificate in it"));
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|e| failed("use clientCAFile", path)(&e))?)
            }
        };
        let (chain, key) = match (&self.files, &self.own) {
            (Some((cert, key)), _) => {
                let read = PrivateKeyDer::from_pem_file(key).map_err(|e| failed("read tlsPrivateKeyFile", key)(&e))?;
                (certificates(cert)?, read)
            }
            (None, Some((chain, key))) => (chain.clone(), key.clone_key()),
            (None, None) => return Err(unusable("find a certificate")(&"there is none")),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| unusable("use tlsCertFile and tlsPrivateKeyFile")(&e))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Nothing is kept between connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = failed("read certificates", path);
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))?.collect();
    read.map_err(|e| failed(&e))
}
