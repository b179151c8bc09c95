//! Minisign signatures: whether a body is what the owner of a key signed, and when that was. Pure.
//!
//! Both of minisign's forms count, the legacy one (`Ed`, over the body) and the prehashed one (`ED`, over its BLAKE2b). What tells an old
//! body from a new one is `timestamp:` of the trusted comment, which minisign writes unless it is told another one.

use minisign_verify::{PublicKey, Signature};

/// A public key.
#[derive(Clone, Debug)]
pub struct Key(PublicKey);

impl Key {
    /// From its base64 text, as `minisign -P` takes it.
    pub fn parse(text: &str) -> Result<Key, String> {
        let why = "expected the second line of a minisign.pub, like `RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3`";
        PublicKey::from_base64(text.trim()).map(Key).map_err(|_| why.into())
    }

    /// When the body was signed, seconds since the epoch, if it was signed with this key.
    pub fn signed_at(&self, body: &[u8], signature: &str) -> Result<u64, String> {
        let signature = Signature::decode(signature).map_err(|e| format!("read it: {}", lower(&e)))?;
        self.0.verify(body, &signature, true).map_err(|e| lower(&e))?;
        let mut parts = signature.trusted_comment().split(['\t', ' ']);
        let timestamp = parts.find_map(|part| part.strip_prefix("timestamp:")?.parse().ok());
        timestamp.ok_or_else(|| "its trusted comment has no `timestamp:SECONDS`, so an older one could not be told: sign without -t".into())
    }
}

fn lower(e: &minisign_verify::Error) -> String {
    match e {
        minisign_verify::Error::InvalidSignature => "it is not of this body".into(),
        minisign_verify::Error::UnexpectedKeyId => "it was made with another key".into(),
        other => other.to_string().to_lowercase(),
    }
}
