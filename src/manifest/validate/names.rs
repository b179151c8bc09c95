//! The shapes of names: RFC 1123 labels and subdomains, qualified names, label values, ports' names.
//!
//! Each function gives the API server's complaints, none when the text is fine. The expressions it quotes are matched by hand.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn too_long(s: &str, most: usize, out: &mut Vec<String>) {
    if s.len() > most {
        out.push(format!("must be no more than {most} characters"));
    }
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    b.iter().all(|b| lower(*b) || *b == b'-') && b.first().is_some_and(|b| lower(*b)) && b.last().is_some_and(|b| lower(*b))
}

/// RFC 1123 label.
pub fn label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 63, &mut out);
    if !is_label(s) {
        out.push(LABEL.to_owned());
    }
    out
}

/// RFC 1123 subdomain.
pub fn subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(s, 253, &mut out);
    if !s.split('.').all(is_label) {
        out.push(SUBDOMAIN.to_owned());
    }
    out
}
