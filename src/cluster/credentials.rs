//! A certificate with its key on disk, as a kubelet keeps them (`certificate_store.go`): a dated file of both, and a link to the one in
//! use. What is asked for has its key beside them until it is signed, so that no restart asks twice.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::clock::Wall;
use crate::sys::asked;

/// A disk that takes longer is not waited for any more; it is tried again.
const SYNC: Duration = Duration::from_secs(60);

/// Where one certificate and its key are.
pub struct Store {
    dir: PathBuf,
    name: &'static str,
}

/// A certificate, as far as anything here looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// The first one of a PEM text.
    pub fn read(pem: &[u8]) -> Option<Certificate> {
        let der = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
        let (not_before, not_after, public_key) = fields(&der).ok()?;
        Some(Certificate { not_before, not_after, public_key, der })
    }

    /// It is good for a name or an address.
    pub fn covers(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        webpki::EndEntityCert::try_from(&self.der).is_ok_and(|c| c.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// When it is to be renewed, seconds since the epoch: at 70 to 90 % of its life, as a kubelet does it. The same each time it is
    /// asked, and another for each key.
    pub fn renew_at(&self) -> i64 {
        let drawn = self.public_key.iter().fold(0i64, |n, b| (n * 31 + i64::from(*b)) % 2000);
        self.not_before + (self.not_after - self.not_before).max(0).saturating_mul(7000 + drawn) / 10_000
    }
}

/// RFC 5280, 4.1: the validity and the public key. rcgen writes certificates; what it reads them with is three times its size.
fn fields(der: &[u8]) -> yasna::ASN1Result<(i64, i64, Vec<u8>)> {
    let time = |r: yasna::BERReader<'_, '_>| match r.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => r.read_utctime().map(|t| t.datetime().unix_timestamp()),
        _ => r.read_generalized_time().map(|t| t.datetime().unix_timestamp()),
    };
    yasna::parse_der(der, |r| {
        r.read_sequence(|r| {
            let found = r.next().read_sequence(|r| {
                r.read_optional(|r| r.read_tagged(yasna::Tag::context(0), |r| r.read_der()))?;
                for _serial_algorithm_issuer in 0..3 {
                    r.next().read_der()?;
                }
                let (from, to) = r.next().read_sequence(|r| Ok((time(r.next())?, time(r.next())?)))?;
                let _subject = r.next().read_der()?;
                let key = r.next().read_der()?;
                while r.read_optional(|r| r.read_der())?.is_some() {}
                Ok((from, to, key))
            })?;
            r.next().read_der()?;
            r.next().read_der()?;
            Ok(found)
        })
    })
}

impl Store {
    /// `name` is the kubelet's: `kubelet-client` or `kubelet-server`.
    pub fn new(dir: &Path, name: &'static str) -> Store {
        Store { dir: dir.to_owned(), name }
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.dir.join(format!("{}{rest}", self.name))
    }

    /// The link to the one in use.
    pub fn current_path(&self) -> PathBuf {
        self.path("-current.pem")
    }

    /// The one in use.
    pub fn current(&self) -> Option<Certificate> {
        Certificate::read(&fs::read(self.current_path()).ok()?)
    }

    /// The key to have signed: the one that waits already, else a new one.
    pub async fn pending(&self) -> io::Result<KeyPair> {
        let path = self.path(".key.tmp");
        let kept = fs::read_to_string(&path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        // One whose certificate was stored, but which outlived that by a crash, is not used again.
        let used = |key: &KeyPair| self.current().is_some_and(|c| c.public_key == public_key(key));
        if let Some(key) = kept.filter(|key| !used(key)) {
            return Ok(key);
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        write(&path, key.serialize_pem().as_bytes()).await?;
        Ok(key)
    }

    /// A certificate is in use from now on. Whoever follows the link sees the old pair or the new one, and nothing between.
    pub async fn keep(&self, certificates: &[u8], key: &KeyPair, now: Wall) -> io::Result<()> {
        let date: String = now.to_string().chars().map(|c| if matches!(c, 'T' | ':') { '-' } else { c }).collect();
        let file = self.path(&format!("-{}.pem", date.trim_end_matches('Z')));
        let old = fs::canonicalize(self.current_path()).ok();
        let mut both = certificates.trim_ascii_end().to_vec();
        both.push(b'\n');
        both.extend(key.serialize_pem().into_bytes());
        write(&file, &both).await?;
        let link = self.path("-updated.pem");
        let _ = fs::remove_file(&link);
        symlink(&file, &link)?;
        fs::rename(&link, self.current_path())?;
        asked::fsync(&self.dir, SYNC).await?;
        let _ = fs::remove_file(self.path(".key.tmp"));
        if let Some(old) = old.filter(|old| *old != file && old.parent() == file.parent()) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }
}

/// SubjectPublicKeyInfo, DER.
pub fn public_key(key: &KeyPair) -> Vec<u8> {
    rcgen::PublicKeyData::subject_public_key_info(key)
}

/// A file that is there whole or not at all, for its owner alone.
pub async fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    drop(file);
    asked::fsync(&beside, SYNC).await?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn dir() -> PathBuf {
        static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::env::temp_dir().join(format!("plinth-pki-{}-{n}", std::process::id()))
    }

    fn signed(key: &KeyPair) -> String {
        rcgen::CertificateParams::new(vec!["n".into(), "10.0.0.1".into()]).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn the_key_that_waits_is_the_same_until_it_is_signed_and_another_one_after() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&rt, the_key_that_waits());
    }

    async fn the_key_that_waits() {
        let dir = dir();
        let store = Store::new(&dir, "kubelet-client");
        let key = store.pending().await.unwrap();
        assert_eq!(store.pending().await.unwrap().serialize_pem(), key.serialize_pem());
        let left_over = fs::read(store.path(".key.tmp")).unwrap();
        store.keep(signed(&key).as_bytes(), &key, Wall(0)).await.unwrap();
        assert_eq!(store.current().unwrap().public_key, public_key(&key));
        // Killed after the link was set: its key is still there.
        fs::write(store.path(".key.tmp"), left_over).unwrap();
        assert_ne!(store.pending().await.unwrap().serialize_pem(), key.serialize_pem());
        let other = store.pending().await.unwrap();
        store.keep(signed(&other).as_bytes(), &other, Wall(86_400_000_000_000)).await.unwrap();
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["kubelet-client-1970-01-02-00-00-00.pem", "kubelet-client-current.pem"]);
        let mode = fs::metadata(store.current_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_certificate_is_renewed_at_seventy_to_ninety_percent_of_its_life() {
        for _ in 0..50 {
            let key = KeyPair::generate().unwrap();
            let mut c = Certificate::read(signed(&key).as_bytes()).unwrap();
            (c.not_before, c.not_after) = (1_000_000, 2_000_000);
            assert!((1_700_000..1_900_000).contains(&c.renew_at()), "{}", c.renew_at());
            assert_eq!(c.renew_at(), c.renew_at());
        }
    }

    #[test]
    fn a_certificate_covers_its_names_and_nonsense_is_none() {
        let c = Certificate::read(signed(&KeyPair::generate().unwrap()).as_bytes()).unwrap();
        assert!(c.covers("n") && c.covers("10.0.0.1") && !c.covers("10.0.0.2") && !c.covers("m"));
        // 1975-01-01 and 4096-01-01, as rcgen has them: both forms of a time.
        assert_eq!((c.not_before, c.not_after), (157_766_400, 67_090_118_400));
        assert_eq!(Certificate::read(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
        assert_eq!(Certificate::read(b""), None);
    }
}
