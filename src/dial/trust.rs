//! Whose certificates are believed: those of named authorities, the system's, or everybody's where that was asked for.

use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Where distributions keep the certificates of public authorities.
const SYSTEM: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whom to believe.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The system's authorities.
    System,
    /// These, PEM.
    These(&'a [u8]),
    /// Whoever answers: he may be anybody, and reads and writes what is said.
    Anybody,
}

impl<'a> From<Option<&'a [u8]>> for Trust<'a> {
    fn from(named: Option<&'a [u8]>) -> Trust<'a> {
        named.map_or(Trust::System, Trust::These)
    }
}

impl Trust<'_> {
    pub(super) fn verifier(self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let system;
        let pem = match self {
            Trust::Anybody => return Ok(Arc::new(Anybody)),
            Trust::These(pem) => pem,
            Trust::System => {
                system = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).ok_or("no authority is named, and the system has none")?;
                &system
            }
        };
        let (certs, mut roots) = (super::certificates(pem)?, RootCertStore::empty());
        // Of a bundle, what cannot be used is passed over.
        let own = if let Trust::These(_) = self { certs.clone() } else { Vec::new() };
        roots.add_parsable_certificates(certs);
        if roots.is_empty() {
            return Err("there is no certificate of an authority in what is named as such".into());
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        Ok(Arc::new(Known { signed: signed.build().map_err(|e| e.to_string())?, own }))
    }
}

/// Believes what the authorities signed. As Go does, also a server that shows the very certificate that is named, though it is one of an
/// authority: `openssl req -x509` makes such.
#[derive(Debug)]
struct Known {
    signed: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.signed.verify_server_cert(shown, chain, name, ocsp, now);
        // Its dates were looked at before that.
        let is_authority = |e: &Error| match e {
            Error::InvalidCertificate(CertificateError::Other(why)) => {
                why.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
            }
            _ => false,
        };
        if !self.own.contains(shown) || !verdict.as_ref().is_err_and(is_authority) {
            return verdict;
        }
        let named = webpki::EndEntityCert::try_from(shown).and_then(|cert| cert.verify_is_valid_for_subject_name(name));
        named.map(|()| ServerCertVerified::assertion()).map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Believes everybody.
#[derive(Debug)]
pub struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair};

    fn authority(name: &str, until: i32) -> Certificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn believed(named: &Certificate, shown: &Certificate, name: &str) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verifier = Trust::These(named.pem().as_bytes()).verifier().unwrap();
        verifier.verify_server_cert(shown.der(), &[], &name, &[], UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000)))
    }

    #[test]
    fn a_server_that_shows_the_named_certificate_itself_is_believed_as_far_as_that_goes() {
        let (own, other) = (authority("a.example", 2040), authority("a.example", 2040));
        assert!(believed(&own, &own, "a.example").is_ok());
        assert!(believed(&own, &own, "b.example").is_err());
        assert!(believed(&other, &own, "a.example").is_err());
        let old = authority("a.example", 2020);
        assert!(believed(&old, &old, "a.example").unwrap_err().to_string().contains("xpired"));
    }
}
