//! TLS under an HTTPS probe or hook: any certificate will do, as with the kubelet (`InsecureSkipVerify`), which asks whether a server
//! answers, not whose it is.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, Error, InvalidMessage};

use super::target::said;
use crate::dial::trust::Anybody;

/// Go's words when the answer to a TLS greeting is plain HTTP; a hook is then tried again in clear.
pub const PLAIN: &str = "http: server gave HTTP response to HTTPS client";

/// A TLS session over a connection that stands. `host`: an address or a name, as dialled.
pub async fn over(stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, String> {
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| format!("tls: `{host}` is neither an address nor a host name"))?;
    let connector = TlsConnector::from(config().map_err(|e| format!("tls: {e}"))?);
    connector.connect(name, stream).await.map_err(|e| why(&e))
}

/// One for all: it holds no state of any connection.
fn config() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    // Each probe is a connection of its own; nothing is kept between two.
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

fn why(e: &io::Error) -> String {
    match e.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => PLAIN.into(),
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(e) => format!("tls: {e}"),
        None if e.kind() == io::ErrorKind::UnexpectedEof => "EOF".into(),
        None => format!("read: {}", said(e)),
    }
}
