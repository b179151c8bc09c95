//! Files of variables for `fileKeyRef`: `NAME='value'` lines, as the kubelet's EnvFiles feature reads them. Parsing only.

/// What is wrong with a file of variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// A line without `=`, or without a name.
    #[error("line {0} is not NAME='value'")]
    NoName(usize),
    /// A value without quotes, an open quote, or text after the closing one.
    #[error("value at line {0} is not one text in single quotes")]
    Quotes(usize),
}

/// All variables in the order written. Blank lines and `#` lines count for nothing; a value may span lines; nothing is escaped.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (this, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let start = this.trim_start();
        if start.is_empty() || start.starts_with('#') {
            rest = after;
            line += 1;
            continue;
        }
        let from = rest.trim_start();
        let (name, value) = from.split_once('=').ok_or(EnvFileError::NoName(line))?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(EnvFileError::NoName(line));
        }
        let (value, tail) = value.strip_prefix('\'').and_then(|v| v.split_once('\'')).ok_or(EnvFileError::Quotes(line))?;
        let (end, after) = tail.split_once('\n').unwrap_or((tail, ""));
        let end = end.trim();
        if !(end.is_empty() || end.starts_with('#')) {
            return Err(EnvFileError::Quotes(line));
        }
        line += 1 + value.matches('\n').count();
        found.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_literal_and_may_span_lines() {
        let found = parse("# c\n\nA='1 $(B)'\nB='two\nlines'  # note\n C=''\n").unwrap();
        let want = [("A", "1 $(B)"), ("B", "two\nlines"), ("C", "")];
        assert_eq!(found, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        assert_eq!(parse("A='1'\nB=2\n"), Err(EnvFileError::Quotes(2)));
        assert_eq!(parse("A='1"), Err(EnvFileError::Quotes(1)));
        assert_eq!(parse("A='1'x\n"), Err(EnvFileError::Quotes(1)));
        assert_eq!(parse("B='a\nb'\nnothing\n"), Err(EnvFileError::NoName(3)));
        assert_eq!(parse("='1'"), Err(EnvFileError::NoName(1)));
    }
}
