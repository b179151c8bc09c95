//! JSON values as YAML, for `-o yaml`. Every plain scalar reads back as the same string under YAML 1.1 and 1.2 alike:
//! whatever could be anything else is quoted. Keys keep their order.

use std::fmt::Write;

use serde_json::Value;

/// The document, with a newline at its end.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write(&mut out, value, 0),
        Value::Array(list) if !list.is_empty() => write(&mut out, value, 0),
        other => leaf(&mut out, other, 0),
    }
    out
}

/// A non-empty map or list, at the start of a line whose indentation the caller has written for the first entry.
fn write(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (i, (key, value)) in map.iter().enumerate() {
                pad(out, if i == 0 { 0 } else { indent });
                scalar(out, key);
                out.push(':');
                child(out, value, indent);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                pad(out, if i == 0 { 0 } else { indent });
                out.push('-');
                if is_branch(value) {
                    out.push(' ');
                    write(out, value, indent + 2);
                } else {
                    out.push(' ');
                    leaf(out, value, indent + 2);
                }
            }
        }
        other => leaf(out, other, indent),
    }
}

fn child(out: &mut String, value: &Value, indent: usize) {
    if !is_branch(value) {
        out.push(' ');
        return leaf(out, value, indent + 2);
    }
    out.push('\n');
    // As kubectl writes it: the dashes of a list stand under its key.
    let inner = if value.is_array() { indent } else { indent + 2 };
    pad(out, inner);
    write(out, value, inner);
}

fn is_branch(value: &Value) -> bool {
    value.as_object().is_some_and(|m| !m.is_empty()) || value.as_array().is_some_and(|l| !l.is_empty())
}

fn pad(out: &mut String, indent: usize) {
    out.push_str(&" ".repeat(indent));
}

/// A value on the rest of this line, or a block of lines at `indent`.
fn leaf(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if is_block(text) => return block(out, text, indent),
        Value::String(text) => scalar(out, text),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{value}");
        }
    }
    out.push('\n');
}

/// Several lines of text that a literal block keeps as they are; anything delicate is double-quoted instead.
fn is_block(text: &str) -> bool {
    let plain = |c: char| c == '\n' || !(c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'));
    text.trim_end_matches('\n').contains('\n')
        && text.chars().all(plain)
        && !text.starts_with([' ', '\n'])
        && text.split('\n').all(|line| !line.ends_with(' '))
}

fn block(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    let lines = if text.len() - body.len() > 1 { text.strip_suffix('\n').unwrap_or(text) } else { body };
    for line in lines.split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn scalar(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        // A JSON string is a YAML double-quoted scalar, but for these: not printable in YAML, or line breaks to YAML 1.1.
        for c in Value::from(text).to_string().chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
    }
}

/// Whether the text is itself as a plain scalar, whoever reads it.
fn is_plain(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    let reserved = matches!(word.as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "~" | "" | "<<" | "=");
    let first = text.chars().next().unwrap_or(' ');
    // Numbers, dates, times, sexagesimals, .inf and .nan all begin with a digit, a sign or a dot.
    let like_number = matches!(first, '0'..='9' | '+' | '-' | '.') && !is_safe_dotted(text);
    let starts =
        !matches!(first, '!' | '&' | '*' | '?' | ':' | ',' | '[' | ']' | '{' | '}' | '#' | '|' | '>' | '@' | '`' | '"' | '\'' | '%' | ' ');
    let clean = text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || (c.is_alphanumeric() && !c.is_ascii()));
    starts && clean && !reserved && !like_number && !text.contains(": ") && !text.contains(" #") && !text.ends_with([':', ' '])
}

/// Begins like a number but cannot be read as one: an IP, a version, `10m`, a hash with letters beyond `e`.
fn is_safe_dotted(text: &str) -> bool {
    let letters =
        text.chars().any(|c| c.is_ascii_alphabetic() && !matches!(c.to_ascii_lowercase(), 'a'..='f' | 'x' | 'o' | 'i' | 'n' | 't' | 'z'));
    let dots = text.chars().filter(|c| *c == '.').count();
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    digit && (letters || (dots >= 2 && !text.contains(['e', 'E', ':', '_'])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_and_lists_are_laid_out_as_kubectl_does() {
        let value = json!({"kind": "Pod", "metadata": {"labels": {}, "name": "a"}, "spec": {"containers": [{"args": ["x", ["y"], []], "name": "c"}]}, "n": null});
        let text = "kind: Pod\nmetadata:\n  labels: {}\n  name: a\nspec:\n  containers:\n  - args:\n    - x\n    - - \"y\"\n    - []\n    name: c\n\"n\": null\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn what_could_be_something_else_is_quoted() {
        for text in [
            "yes",
            "No",
            "on",
            "~",
            "",
            "null",
            "1",
            "0644",
            "1e3",
            "1:30",
            "2024-01-01",
            ".5",
            "-",
            "- a",
            "a: b",
            "a #b",
            "a:",
            " a",
            "a ",
            "#",
            "@x",
            "0x1f",
            ".inf",
            "!t",
            "a\tb",
            "\u{feff}",
            "=",
            "<<",
            "1_000",
            "+1",
            "12e03",
            "007.5",
            "0b1",
            "0o17",
        ] {
            assert!(!is_plain(text), "{text:?}");
        }
        for text in ["web", "10.0.0.1", "nginx:1.2", "/a/b", "a b", "10m", "1Gi", "a,b", "v1.2.3", "ü"] {
            assert!(is_plain(text), "{text:?}");
        }
    }

    #[test]
    fn lines_of_text_stand_in_a_block() {
        assert_eq!(
            document(&json!({"a": "x\ny\n", "b": "x\n\ny", "c": "x\ny\n\n", "d": "x \ny"})),
            "a: |\n  x\n  y\nb: |-\n  x\n\n  y\nc: |+\n  x\n  y\n\nd: \"x \\ny\"\n"
        );
    }
}
