//! The tag of an image reference, for the default of `imagePullPolicy`. Does not normalise: that is `pod::ImageRef`.

/// `Always` for `latest` or no tag and no digest, else `IfNotPresent`; a reference that does not parse gets `IfNotPresent`, as in the
/// kubelet, where the pull then fails with `InvalidImageName`.
pub fn default_pull_policy(image: &str) -> &'static str {
    match tag(image) {
        Some("latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// The tag, `latest` when there is neither tag nor digest; `None` for a digest alone or a text that is no reference.
fn tag(image: &str) -> Option<&str> {
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) {
        return None;
    }
    let last = named.rsplit('/').next()?;
    let (path, tag) = match last.split_once(':') {
        Some((_, tag)) => (named.get(..named.len() - tag.len() - 1)?, Some(tag)),
        None => (named, None),
    };
    let (first, rest) = path.split_once('/').unwrap_or(("", path));
    let is_host = first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase);
    let (host, repository) = if is_host { (first, rest) } else { ("", path) };
    // What could be an image's id is not read as a name.
    let id = path.len() == 64 && path.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !(host.is_empty() || is_host_port(host)) || id || !repository.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return None;
    }
    tag.or(if digest.is_none() { Some("latest") } else { None })
}

/// A DNS name or a bracketed IPv6 address, and a port.
fn is_host_port(s: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric();
    let label = |l: &str| l.starts_with(word) && l.ends_with(word) && l.chars().all(|c| word(c) || c == '-');
    let (name, port) = match s.rsplit_once(':').filter(|(name, _)| !name.starts_with('[') || name.ends_with(']')) {
        Some((name, port)) => (name, Some(port)),
        None => (s, None),
    };
    let name_ok = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.chars().all(|c| c.is_ascii_hexdigit() || c == ':'),
        None => name.split('.').all(label),
    };
    name_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(s: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let all = s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'));
    let runs = ["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().all(|bad| !s.contains(bad));
    edge(s.chars().next()) && edge(s.chars().next_back()) && all && runs
}

fn is_tag(s: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    s.len() <= 128 && s.starts_with(word) && s.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// Of the algorithms that are known, in lower case.
fn is_digest(s: &str) -> bool {
    let hex = |hex: &str, n| hex.len() == n && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match s.split_once(':') {
        Some(("sha256", sum)) => hex(sum, 64),
        Some(("sha384", sum)) => hex(sum, 96),
        Some(("sha512", sum)) => hex(sum, 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_always_pulled() {
        let digest = "0000000000000000000000000000000000000000000000000000000000000000";
        for always in [
            "nginx",
            "nginx:latest",
            "localhost:5000/x",
            "r.example/a/b",
            "[::1]:5000/a",
            "Host/a",
            "h_st/a",
            "a__b",
            "a--b",
            &format!("nginx:latest@sha256:{digest}"),
        ] {
            assert_eq!(default_pull_policy(always), "Always", "{always}");
        }
        let short = format!("nginx:latest@sha256:{}", "0".repeat(32));
        for other in [
            digest,
            short.as_str(),
            "host:port/a",
            "a.b-/c",
            "a..b",
            "a___b",
            "nginx:1",
            "r.example:5000/x:1",
            &format!("nginx@sha256:{digest}"),
            "UPPER/Case:bad tag",
            "a//b",
            "",
            "x:",
        ] {
            assert_eq!(default_pull_policy(other), "IfNotPresent", "{other}");
        }
    }
}
