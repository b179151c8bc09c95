//! A CertificateSigningRequest as a kubelet makes it, and what is read from it. Pure.

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::credentials::public_key;
use crate::hex::hex;

/// Where they are.
pub const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What is to be signed.
pub struct Wish {
    /// The node it is for.
    node: String,
    /// Names and addresses the node serves under; for a client there are none.
    pub names: Vec<String>,
    signer: &'static str,
    usages: [&'static str; 2],
}

impl Wish {
    /// A node's identity at the API server.
    pub fn client(node: &str) -> Wish {
        let usages = ["digital signature", "client auth"];
        Wish { node: node.to_owned(), names: Vec::new(), signer: "kubernetes.io/kube-apiserver-client-kubelet", usages }
    }

    /// What the node's own API is served with.
    pub fn serving(node: &str, names: Vec<String>) -> Wish {
        Wish { node: node.to_owned(), names, signer: "kubernetes.io/kubelet-serving", usages: ["digital signature", "server auth"] }
    }

    /// The request's name, the same for the same key and wish: whoever asks again after a restart finds what he asked for.
    pub fn name(&self, key: &KeyPair) -> String {
        let mut hash = Sha256::new();
        hash.update(public_key(key));
        for word in [&*self.node, self.signer].into_iter().chain(self.names.iter().map(String::as_str)) {
            hash.update(word);
            hash.update([0]);
        }
        format!("node-csr-{}", hex(hash.finalize().iter().take(16)))
    }

    /// The object to be made.
    pub fn object(&self, key: &KeyPair) -> Result<Value, rcgen::Error> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let request = ByteString(params.serialize_request(key)?.pem()?.into_bytes());
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": self.name(key)},
            "spec": {"request": request, "signerName": self.signer, "usages": self.usages},
        }))
    }
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody decided yet, or its signer is not done.
    Waits {
        /// Somebody decided.
        approved: bool,
    },
    /// Somebody said no, or it cannot be signed.
    Refused(String),
    /// The certificates, PEM.
    Signed(Vec<u8>),
}

/// Reads its status.
pub fn verdict(status: &Value) -> Verdict {
    let conditions = status.get("conditions").and_then(Value::as_array);
    let named = |kind: &str| conditions.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
    if let Some((kind, c)) = ["Denied", "Failed"].iter().find_map(|kind| Some((kind, named(kind)?))) {
        let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default();
        return Verdict::Refused(format!("{} ({} {})", kind.to_lowercase(), text("reason"), text("message")));
    }
    let certificate = status.get("certificate").and_then(|c| serde_json::from_value::<ByteString>(c.clone()).ok());
    match certificate.filter(|c| !c.0.is_empty()) {
        Some(certificate) => Verdict::Signed(certificate.0),
        None => Verdict::Waits { approved: named("Approved").is_some() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_request_has_the_same_name_for_the_same_key_and_wish_only() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let name = Wish::client("n").name(&key);
        assert_eq!(Wish::client("n").name(&key), name);
        let others = [Wish::client("m").name(&key), Wish::client("n").name(&other), Wish::serving("n", vec![]).name(&key)];
        assert!(!others.contains(&name));
        assert_ne!(Wish::serving("n", vec!["10.0.0.1".into()]).name(&key), Wish::serving("n", vec!["10.0.0.2".into()]).name(&key));
    }

    #[test]
    fn a_request_says_what_a_kubelets_says() {
        let object = Wish::serving("n", vec!["n".into(), "10.0.0.1".into()]).object(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(object["spec"]["signerName"], "kubernetes.io/kubelet-serving");
        assert_eq!(object["spec"]["usages"], json!(["digital signature", "server auth"]));
        let request: ByteString = serde_json::from_value(object["spec"]["request"].clone()).unwrap();
        assert!(request.0.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----"));
    }

    #[test]
    fn a_status_is_read_as_what_it_means() {
        assert_eq!(verdict(&Value::Null), Verdict::Waits { approved: false });
        assert_eq!(verdict(&json!({"conditions": [{"type": "Approved"}]})), Verdict::Waits { approved: true });
        assert_eq!(verdict(&json!({"conditions": [{"type": "Approved"}], "certificate": "UEVN"})), Verdict::Signed(b"PEM".to_vec()));
        let denied = json!({"conditions": [{"type": "Denied", "reason": "No", "message": "not mine"}]});
        assert_eq!(verdict(&denied), Verdict::Refused("denied (No not mine)".into()));
    }
}
