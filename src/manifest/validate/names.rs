//! The shapes of names: RFC 1123 labels and subdomains, qualified names, label values, port names, paths.
//!
//! Each function gives the API server's complaints, none when the text is fine. The expressions it quotes are matched by hand.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(s: &str, most: usize, prefix: &str, out: &mut Vec<String>) {
    if s.len() > most {
        out.push(format!("{prefix}must be no more than {most} characters"));
    }
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Inner characters satisfy `inner`, the first and the last `edge`; not empty.
fn shaped(s: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    b.iter().all(|b| inner(*b)) && b.first().is_some_and(|b| edge(*b)) && b.last().is_some_and(|b| edge(*b))
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(s: &str) -> bool {
    shaped(s, lower, |b| lower(b) || b == b'-')
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_word(s: &str) -> bool {
    shaped(s, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 label.
pub fn label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 63, "", &mut out);
    if !is_label(s) {
        out.push(LABEL.to_owned());
    }
    out
}

/// RFC 1123 subdomain.
pub fn subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 253, "", &mut out);
    if !s.split('.').all(is_label) {
        out.push(SUBDOMAIN.to_owned());
    }
    out
}

/// A search domain by the relaxed rule of 1.34: underscores within, and one before. One trailing dot is fine, a lone one is the root.
pub fn search(s: &str) -> Vec<String> {
    let bare = s.strip_suffix('.').unwrap_or(s);
    let label = |l: &str| shaped(l.strip_prefix('_').unwrap_or(l), lower, |b| lower(b) || matches!(b, b'-' | b'_'));
    let mut out = Vec::new();
    too_long(bare, 253, "", &mut out);
    if s != "." && !bare.split('.').all(label) {
        out.push(SUBDOMAIN.to_owned());
    }
    out
}

/// What a generated name begins with; it goes on, so it may end in a dash.
pub fn prefix(s: &str) -> Vec<String> {
    match s.strip_suffix('-').and_then(|begun| begun.char_indices().next_back()) {
        Some((last, _)) => subdomain(&format!("{}a", s.get(..last).unwrap_or_default())),
        None => subdomain(s),
    }
}

/// `[prefix/]name`: keys of labels and annotations, resources, conditions.
pub fn qualified(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    let name = match s.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            out.push(format!("a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return out;
        }
        Some(("", name)) => {
            out.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            out.extend(subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            name
        }
        None => s,
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    }
    too_long(name, 63, "name part ", &mut out);
    if !is_word(name) {
        out.push(format!("name part {QUALIFIED}"));
    }
    out
}

/// The value of a label.
pub fn label_value(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 63, "", &mut out);
    if !s.is_empty() && !is_word(s) {
        out.push(LABEL_VALUE.to_owned());
    }
    out
}

/// The name of a port (RFC 6335).
pub fn port(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 15, "", &mut out);
    if !s.bytes().all(|b| lower(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// The name of an environment variable, by the relaxed rule of 1.34.
pub fn variable(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.is_empty() {
        out.push("environment variable name must be non-empty".to_owned());
    } else if !s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        out.push("a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned());
    }
    out
}

/// A path that stays below where it starts.
pub fn descending(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.starts_with('/') {
        out.push("must be a relative path".to_owned());
    }
    if climbs(s) {
        out.push("must not contain '..'".to_owned());
    }
    out
}

/// A descending path that cannot be taken for the marks of an atomic writer.
pub fn descending_unreserved(s: &str) -> Vec<String> {
    let mut out = descending(s);
    if s.starts_with("..") && !climbs(s) {
        out.push("must not start with '..'".to_owned());
    }
    out
}

/// Whether a part of the path is `..`.
pub fn climbs(s: &str) -> bool {
    s.split('/').any(|part| part == "..")
}

/// An IP address (gate StrictIPCIDRValidation, on in 1.36: no leading zeros, and IPv4 is not written as IPv6).
pub fn ip(s: &str) -> Vec<String> {
    match s.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_shapes_of_the_api() {
        for good in ["a", "a-b", "0", "a.b-c.d"] {
            assert!(subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", ".a", "a_b", "ä"] {
            assert!(!subdomain(bad).is_empty(), "{bad}");
        }
        assert!(!label("a.b").is_empty());
        for good in ["a", "example.com/My_Name.x", "A1"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Ex.com/a"] {
            assert!(!qualified(bad).is_empty(), "{bad}");
        }
        assert!(label_value("").is_empty() && label_value("a_B.c").is_empty() && !label_value("a b").is_empty());
        assert!(port("http-1").is_empty() && !port("80").is_empty() && !port("a--b").is_empty() && port("abcdefghijklmnop").len() == 1);
        assert!(search("_a._tcp.b.").is_empty() && search("a_b").is_empty() && !search("a_").is_empty() && !search("__a").is_empty());
        assert!(prefix("a-").is_empty() && prefix(&"a".repeat(253)).is_empty() && !prefix("a.").is_empty() && !prefix("-").is_empty());
        assert!(ip("10.0.0.1").is_empty() && ip("::1").is_empty() && !ip("010.0.0.1").is_empty() && !ip("::ffff:1.2.3.4").is_empty());
        assert!(variable("my.var-x").is_empty() && !variable("a=b").is_empty());
        assert!(descending("a/..b").is_empty() && !descending("a/../b").is_empty() && !descending_unreserved("..data").is_empty());
    }
}
