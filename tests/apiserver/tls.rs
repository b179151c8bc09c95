//! A certificate authority of its own, and what it signs.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, date_time_ymd,
};
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Later,
    Now,
    Earlier,
}

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        Authority::by(KeyPair::generate().unwrap())
    }

    /// The one whose key is in that file; it is made where there is none.
    pub fn kept(key: &Path) -> Authority {
        if !key.exists() {
            std::fs::write(key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        }
        Authority::by(KeyPair::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap())
    }

    fn by(key: KeyPair) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Serves under an address, under `localhost` and `api.test`; asks for client certificates, needs none.
    pub fn server(&self, ip: &str) -> Arc<ServerConfig> {
        self.server_at(ip, When::Now)
    }

    /// The same, with a certificate that is good then.
    pub fn server_at(&self, ip: &str, good: When) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![ip.to_owned(), "localhost".into(), "api.test".into()]).unwrap();
        match good {
            When::Later => params.not_before = date_time_ymd(2500, 1, 1),
            When::Now => {}
            When::Earlier => params.not_after = date_time_ymd(2000, 1, 1),
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = Arc::new(Patient(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build().unwrap(),
        ));
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A certificate that was asked for: PEM, and as it will be shown.
    pub fn sign(&self, request: &CertificateSigningRequestParams) -> (String, Vec<u8>) {
        let cert = request.signed_by(&self.issuer).unwrap();
        (cert.pem(), cert.der().to_vec())
    }

    /// A client's certificate and key, PEM, and the certificate as it will be shown.
    pub fn client(&self, user: &str) -> (String, String, Vec<u8>) {
        let (cert, key) = self.of(user, "system:nodes");
        let der: &CertificateDer<'_> = cert.der();
        (cert.pem(), key.serialize_pem(), der.to_vec())
    }

    fn of(&self, user: &str, group: &str) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Connects as somebody, to servers of this authority.
    pub fn dialer(&self, user: &str, group: &str) -> Arc<ClientConfig> {
        let (cert, key) = self.of(user, group);
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(vec![cert.der().clone()], key).unwrap())
    }

    /// A server's certificate and key, PEM.
    pub fn serving(&self, names: Vec<String>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Takes certificates that expired, as Go's TLS does where it is asked for them only: who shows one is answered with 401.
#[derive(Debug)]
struct Patient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Patient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(cert, chain, now) {
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                Ok(ClientCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

pub fn base64(text: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_ref().chunks(3) {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            out.push(if i <= three.len() { char::from(DIGITS[(n >> (18 - 6 * i) & 63) as usize]) } else { '=' });
        }
    }
    out
}
