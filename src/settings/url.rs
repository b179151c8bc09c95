//! `staticPodURL`: the server of manifests, and how it is asked.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::input::{Input, Wrong};

/// A server of manifests.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestUrl {
    /// `staticPodURL`; `None`: there is none.
    pub address: Option<Address>,
    /// `staticPodURLHeader`, each value in a line of its own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `httpCheckFrequency`: how often it is asked.
    pub period: Duration,
    /// Authorities its certificate may be signed by, PEM; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The minisign public key its answers must be signed with, as base64; `None`: they need no signature.
    pub public_key: Option<String>,
    /// The layer it stands right above; `None`: below all.
    pub above: Option<PathBuf>,
}

impl Default for ManifestUrl {
    fn default() -> Self {
        ManifestUrl {
            address: None,
            headers: Vec::new(),
            period: Duration::from_secs(20),
            ca_file: None,
            cert_file: None,
            key_file: None,
            public_key: None,
            above: None,
        }
    }
}

/// An http or https URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// By https.
    pub tls: bool,
    /// Host, an IPv6 address in brackets.
    pub host: String,
    /// Its port, where one is named.
    pub port: Option<u16>,
    /// Path and query.
    pub path: String,
    /// `user:password` before the host. Nothing shows it.
    pub user: Option<String>,
}

impl Address {
    /// Takes a URL apart.
    pub fn parse(text: &str) -> Result<Address, Wrong> {
        let wrong = |what: &str| format!("expected a URL like `https://manifests.example/node.yaml`, found `{text}`: {what}");
        let uri: Uri = text.parse().map_err(|e: hyper::http::uri::InvalidUri| wrong(&e.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| wrong("it has no host"))?.to_owned();
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let (user, server) = authority.rsplit_once('@').map_or((None, authority), |(user, server)| (Some(user.to_owned()), server));
        if server != host && uri.port_u16().is_none() {
            return Err(wrong("its port is no number from 1 to 65535"));
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Address { tls, host, port: uri.port_u16(), path: if path.starts_with('?') { format!("/{path}") } else { path }, user })
    }

    /// Where a `Location` that was answered here leads (RFC 3986, 5.2), a blank in it escaped as Go's client does.
    pub fn join(&self, location: &str) -> Result<Address, Wrong> {
        let location = location.replace(' ', "%20");
        let location = location.split('#').next().unwrap_or_default();
        if scheme(location).is_some() {
            return Address::parse(location);
        }
        if location.starts_with("//") {
            return Address::parse(&format!("{}:{location}", if self.tls { "https" } else { "http" }));
        }
        let (base, to) = (self.path.split('?').next().unwrap_or_default(), location.split('?').next().unwrap_or_default());
        let path = match to {
            "" => base.to_owned(),
            to if to.starts_with('/') => without_dots(to),
            to => without_dots(&format!("{}/{to}", base.rsplit_once('/').map_or("", |(directory, _)| directory))),
        };
        let query = location.get(to.len()..).unwrap_or_default();
        let uri: Uri = format!("{path}{query}").parse().map_err(|e: hyper::http::uri::InvalidUri| format!("`{location}`: {e}"))?;
        Ok(Address { path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(), ..self.clone() })
    }

    /// `host` or `host:port`, as the Host header has it.
    pub fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    /// The port that is dialled.
    pub fn dialled_port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// The URL as it may be shown: without what is secret.
    pub fn shown(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Where the signature of what stands at `path` is: `.minisig` after the path, before the query.
    pub fn signature_path(path: &str) -> String {
        match path.split_once('?') {
            Some((path, query)) => format!("{path}.minisig?{query}"),
            None => format!("{path}.minisig"),
        }
    }
}

/// The scheme of a URL that has one: what stands before its first colon, if that can be one.
pub fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once(':')?;
    let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (fits && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))).then_some(scheme)
}

/// An absolute path without its `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
        if matches!(part, "." | "..") && parts.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// A map of names to values or lists of values, or `name:value` parts separated by commas, as the kubelet's flag has them.
pub(super) fn headers(input: &Input<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Wrong> {
    input.pairs(':')?.into_iter().map(|(name, value)| header(&name, &value)).collect()
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Wrong> {
    let parsed = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no name of a header"))?;
    // What a message is cut up by, and what names its server, is not to be set from outside; the kubelet's client ignores them.
    if matches!(parsed.as_str(), "host" | "connection" | "content-length" | "transfer-encoding" | "accept-encoding" | "te" | "upgrade") {
        return Err(format!("header `{name}` is not to be set here"));
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| format!("header `{name}` has a value that no header can have"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_its_password_is_never_shown() {
        let a = Address::parse("https://me:secret@[fd00::1]:8443/a/b.yaml?x=1#f").unwrap();
        assert_eq!((a.tls, &*a.host, a.port, &*a.path), (true, "[fd00::1]", Some(8443), "/a/b.yaml?x=1"));
        assert_eq!(a.user.as_deref(), Some("me:secret"));
        assert_eq!(a.shown(), "https://[fd00::1]:8443/a/b.yaml?x=1");
        assert_eq!(Address::signature_path(&a.path), "/a/b.yaml.minisig?x=1");
        let b = Address::parse("http://h").unwrap();
        assert_eq!((b.shown(), b.dialled_port(), b.user), ("http://h/".into(), 80, None));
    }

    #[test]
    fn a_location_leads_where_a_browser_would_go() {
        let at = Address::parse("http://h:81/a/b/c?q=1").unwrap();
        for (location, leads) in [
            ("login", "http://h:81/a/b/login"),
            ("ui/", "http://h:81/a/b/ui/"),
            ("ui/?to=http://x/y", "http://h:81/a/b/ui/?to=http://x/y"),
            ("?x=1", "http://h:81/a/b/c?x=1"),
            ("#top", "http://h:81/a/b/c"),
            ("/c?d=//e:f", "http://h:81/c?d=//e:f"),
            ("../d/./e", "http://h:81/a/d/e"),
            ("../../../..", "http://h:81/"),
            (".", "http://h:81/a/b/"),
            ("a b", "http://h:81/a/b/a%20b"),
            ("//h/x", "http://h/x"),
            ("//h:82", "http://h:82/"),
            ("HTTPS://other/x#y", "https://other/x"),
        ] {
            assert_eq!(at.join(location).map(|a| a.shown()).as_deref(), Ok(leads), "{location}");
        }
        for location in ["ftp://h/x", "mailto:a@h", "//", "a\nb", "http://h:99999/"] {
            assert!(at.join(location).is_err(), "{location}");
        }
        assert_eq!(["a/b:c", "1a:b", ":b", "svn+ssh://h"].map(scheme), [None, None, None, Some("svn+ssh")]);
    }

    #[test]
    fn what_is_no_http_url_is_refused() {
        for text in ["", "/etc/x", "ftp://h/x", "http://", "h/x", "http://h:99999/"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
