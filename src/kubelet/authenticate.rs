//! Who asks: by the certificate shown, or by what the API server says of a token. Pure; nobody is anonymous.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

use crate::hex::hex;

/// Every group of this name may do anything, at each API server (`user.SystemPrivilegedGroup`).
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
/// By which certificate somebody is known, told to authorizers since 1.32.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// Somebody, as authorizers are told of him: the fields are those of a SubjectAccessReview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name.
    #[serde(rename(serialize = "user", deserialize = "username"))]
    pub name: String,
    /// Uid, mostly none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The rest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// No authorizer refuses him anything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }

    fn authenticated(mut self) -> User {
        if !self.groups.iter().any(|g| g == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }
}

/// Whose certificate this is, by its subject: common name and organisations. It was verified by TLS; without a name it is nobody's.
pub fn by_certificate(der: &[u8]) -> Option<User> {
    let shown = der.into();
    let cert = EndEntityCert::try_from(&shown).ok()?;
    let (name, groups) = subject(cert.subject())?;
    let extra = BTreeMap::from([(CREDENTIAL.to_owned(), vec![format!("X509SHA256={}", hex(&Sha256::digest(der)))])]);
    (!name.is_empty()).then(|| User { name, groups, extra, ..User::default() }.authenticated())
}

/// Whose token this is, by the status of its TokenReview; `None`: it is good for nothing.
pub fn by_review(status: &Value) -> Option<User> {
    let good = status.get("authenticated").and_then(Value::as_bool) == Some(true);
    let user = good.then(|| User::deserialize(status.get("user")?).ok())??;
    Some(user.authenticated())
}

/// The common name (the last one, as Go reads them) and the organisations of an X.501 name (RFC 5280, 4.1.2.4).
fn subject(mut name: &[u8]) -> Option<(String, Vec<String>)> {
    const SET: u8 = 0x31;
    const SEQUENCE: u8 = 0x30;
    const OID: u8 = 0x06;
    let (mut common, mut organisations) = (String::new(), Vec::new());
    while !name.is_empty() {
        let (mut set, rest) = expect(name, SET)?;
        name = rest;
        while !set.is_empty() {
            let (attribute, rest) = expect(set, SEQUENCE)?;
            set = rest;
            let (kind, value) = expect(attribute, OID)?;
            match kind {
                [0x55, 4, 3] => common = text(value)?,
                [0x55, 4, 10] => organisations.push(text(value)?),
                _ => {}
            }
        }
    }
    Some((common, organisations))
}

/// A string of a kind that is a part of UTF-8: UTF8String, PrintableString, IA5String.
fn text(der: &[u8]) -> Option<String> {
    let (tag, value, rest) = element(der)?;
    let whole = rest.is_empty() && matches!(tag, 0x0c | 0x13 | 0x16);
    String::from_utf8(value.to_vec()).ok().filter(|_| whole)
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, value, rest) = element(der)?;
    (tag == wanted).then_some((value, rest))
}

/// The first element: its tag, its value, and what follows. Lengths of up to 64 KiB.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = match *rest {
        [short @ 0..=0x7f, ..] => (usize::from(short), rest.get(1..)?),
        [0x81, l, ..] => (usize::from(l), rest.get(2..)?),
        [0x82, h, l, ..] => (usize::from(u16::from_be_bytes([h, l])), rest.get(3..)?),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
    use serde_json::json;

    fn certificate(name: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        name.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).into())));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_its_owner_and_his_groups() {
        let long = "g".repeat(300);
        let der = certificate(&[(DnType::CountryName, "de"), (DnType::CommonName, "kube-apiserver"), (DnType::OrganizationName, &long)]);
        let user = by_certificate(&der).unwrap();
        assert_eq!((&*user.name, &user.groups), ("kube-apiserver", &vec![long, AUTHENTICATED.into()]));
        assert!(user.extra[CREDENTIAL][0].starts_with("X509SHA256="));
        assert!(!user.is_master());
        let master = certificate(&[(DnType::CommonName, "a"), (DnType::OrganizationName, MASTERS)]);
        assert!(by_certificate(&master).unwrap().is_master());
    }

    #[test]
    fn a_certificate_without_a_name_is_nobodys() {
        assert_eq!(by_certificate(&certificate(&[(DnType::OrganizationName, MASTERS)])), None);
        assert_eq!(by_certificate(b"rubbish"), None);
    }

    #[test]
    fn a_name_that_is_cut_or_of_a_strange_kind_is_not_read() {
        let whole = [0x31, 0x0d, 0x30, 0x0b, 6, 3, 0x55, 4, 3, 0x0c, 4, b'n', b'a', b'm', b'e'];
        assert_eq!(subject(&whole).unwrap().0, "name");
        (1..whole.len()).for_each(|end| assert_eq!(subject(&whole[..end]), None, "{end}"));
        let mut bmp = whole;
        bmp[9] = 0x1e;
        assert_eq!(subject(&bmp), None);
    }

    #[test]
    fn a_review_tells_whose_a_token_is() {
        let status =
            json!({"authenticated": true, "user": {"username": "system:serviceaccount:a:b", "groups": ["x"], "extra": {"k": ["v"]}}});
        let user = by_review(&status).unwrap();
        let told = serde_json::to_value(&user).unwrap();
        assert_eq!(told, json!({"user": "system:serviceaccount:a:b", "groups": ["x", AUTHENTICATED], "extra": {"k": ["v"]}}));
        for status in [json!({}), json!({"authenticated": false, "user": {"username": "a"}}), json!({"authenticated": true})] {
            assert_eq!(by_review(&status), None, "{status}");
        }
    }
}
