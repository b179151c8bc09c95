//! The query part of a request's address: `follow&tailLines=5` to names and values, percent-decoded. Bounded by the header size.

/// Names and values in order; a name without `=` has the empty value.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes; `None` when an escape is broken (Go's `ParseQuery` fails, too).
    pub fn parse(text: &str) -> Option<Query> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name, true)?, decode(value, true)?));
        }
        Some(Query(pairs))
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every value of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The kubelet's reading of booleans in queries (`Convert_Slice_string_To_bool`): absent, `false` and `0` are
    /// false; anything else is true, the bare name included.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }
}

/// Percent-decodes; `plus`: `+` is a space. `None` when an escape is broken or the result is not UTF-8.
pub fn decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let hex = |c: u8| char::from(c).to_digit(16);
                let value = hex(bytes.next()?)? * 16 + hex(bytes.next()?)?;
                out.push(u8::try_from(value).ok()?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

/// Percent-encodes everything that is not unreserved: for a path segment or a query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn queries_are_decoded_and_booleans_read_as_the_kubelet_does() {
        let q = Query::parse("follow&tailLines=5&a=b%2Fc+d&p=false&n=0&t=true").unwrap();
        assert_eq!(
            (q.is_set("follow"), q.is_set("p"), q.is_set("n"), q.is_set("t"), q.is_set("absent")),
            (true, false, false, true, false)
        );
        assert_eq!(q.get("a"), Some("b/c d"));
        assert!(Query::parse("a=%zz").is_none());
        assert!(Query::parse("a=%f").is_none());
        assert!(Query::parse("a=%ff").is_none());
        assert_eq!(decode(&encode("a b/ü?&%"), true).as_deref(), Some("a b/ü?&%"));
    }
}
