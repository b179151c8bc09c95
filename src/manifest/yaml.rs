//! Bytes to documents: encoding, YAML (or JSON) structure, anchors and merge keys, each value with its place.
//!
//! Reads what sigs.k8s.io/yaml over go-yaml v2 reads, but all documents of a file. Pure, and bounded (`caps`): hostile text costs
//! an error, not the machine. `tree` makes the values. Never looks at what a value means.

mod caps;
mod older;
mod tree;

use std::borrow::Cow;

use caps::MAX_LINES;
pub use caps::{Budget, Fault, MAX_BYTES, MAX_DEPTH, too_deep};
pub use tree::{Pair, last_wins};

use super::json;
use super::value::{Node, Place, short};
use crate::pod::Finding;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Documents {
    /// Its documents in order, empty ones left out.
    pub roots: Vec<Node>,
    /// Documents that cannot be read.
    pub errors: Vec<Finding>,
    /// Duplicate keys.
    pub warnings: Vec<Finding>,
}

/// Reads all documents of a file. A document that cannot be read does not hide the next one.
pub fn read(bytes: &[u8]) -> Documents {
    let mut out = Documents::default();
    if bytes.len() > MAX_BYTES {
        let size = bytes.len().div_ceil(1 << 20);
        out.errors.push(Finding { message: format!("larger than 10 MiB ({size} MiB): not read"), ..Finding::default() });
        return out;
    }
    let json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let text = match decode(bytes).and_then(|t| if json { Ok(t) } else { no_controls(&t).map(|()| t) }) {
        Ok(text) => text,
        Err(fault) => {
            out.errors.push(fault.place.finding("", fault.message));
            return out;
        }
    };
    if json {
        match json::read(&text, &mut out.warnings) {
            Ok(root) => out.roots.push(root),
            Err(fault) => out.errors.push(fault.place.finding("", fault.message)),
        }
        return out;
    }
    match not_too_long(&text).and_then(|()| known_directives(&text)) {
        Ok(()) => tree::read(&text, &mut out),
        Err(fault) => out.errors.push(fault.place.finding("", fault.message)),
    }
    out
}

fn not_too_long(text: &str) -> Result<(), Fault> {
    if memchr::memchr2_iter(b'\n', b'\r', text.as_bytes()).count() <= MAX_LINES {
        return Ok(());
    }
    let place = Place { line: u32::try_from(MAX_LINES).unwrap_or(u32::MAX), column: 1 };
    Err(Fault { message: format!("more than {MAX_LINES} lines in one file: not a manifest; split it"), place })
}

/// What may stand before the first document: Kubernetes reads YAML 1.1 and knows `%TAG`.
fn known_directives(text: &str) -> Result<(), Fault> {
    let before = text.lines().zip(1..).take_while(|(line, _)| line.trim().is_empty() || line.starts_with(['#', '%']));
    for (line, number) in before.filter(|(line, _)| line.starts_with('%')) {
        let mut words = line.split_whitespace();
        let message = match (words.next(), words.next()) {
            (Some("%TAG"), _) | (Some("%YAML"), Some("1.1")) => continue,
            (Some("%YAML"), _) => format!("`{}`: Kubernetes reads YAML 1.1: remove the directive", short(line)),
            _ => format!("`{}`: unknown directive: only %YAML and %TAG may stand before a document", short(line)),
        };
        return Err(Fault { message, place: Place { line: number, column: 1 } });
    }
    Ok(())
}

/// UTF-8, or UTF-16 with a byte order mark, as libyaml's readers take it.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let first = Place { line: 1, column: 1 };
    let utf16 = |unit: fn([u8; 2]) -> u16| {
        let units = bytes.get(2..).unwrap_or_default().as_chunks::<2>();
        if !units.1.is_empty() {
            return Err(Fault { message: "incomplete UTF-16: an odd number of bytes".into(), place: first });
        }
        let text: Result<String, _> = char::decode_utf16(units.0.iter().map(|u| unit(*u))).collect();
        text.map(Cow::Owned).map_err(|_| Fault { message: "invalid UTF-16".into(), place: first })
    };
    match bytes {
        [0xFF, 0xFE, ..] => utf16(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => utf16(u16::from_be_bytes),
        _ => {
            let body = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            std::str::from_utf8(body).map(Cow::Borrowed).map_err(|e| {
                let valid = body.get(..e.valid_up_to()).unwrap_or_default();
                Fault { message: "invalid UTF-8".into(), place: place_after(&String::from_utf8_lossy(valid)) }
            })
        }
    }
}

fn place_after(text: &str) -> Place {
    let line = text.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
}

/// go-yaml's "control characters are not allowed".
fn no_controls(text: &str) -> Result<(), Fault> {
    let bad = |c: char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{80}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    // Only what begins with one of these bytes can be one: a large text is looked at by the byte.
    let suspect = |b: u8| matches!(b, 0..=8 | 0xb | 0xc | 0xe..=0x1f | 0x7f | 0xc2 | 0xef);
    let suspects = text.as_bytes().iter().enumerate().filter(|(_, b)| suspect(**b));
    match suspects.filter_map(|(at, _)| Some((at, older::char_at(text, at)?))).find(|(_, c)| bad(*c)) {
        None => Ok(()),
        Some((at, c)) => {
            let message = format!("control character {c:?} is not allowed in YAML");
            Err(Fault { message, place: place_after(text.get(..at).unwrap_or_default()) })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::value::Value;
    use super::*;

    fn root(text: &str) -> Node {
        let mut d = read(text.as_bytes());
        assert_eq!(d.errors, []);
        d.roots.remove(0)
    }

    fn error(text: &str) -> (u32, u32, String) {
        let d = read(text.as_bytes());
        let e = d.errors.first().unwrap_or_else(|| unreachable!("{text:?} is read"));
        (e.line, e.column, e.message.clone())
    }

    #[test]
    fn a_file_of_too_many_lines_is_no_manifest_and_characters_of_other_line_ends_do_not_count() {
        let read = |text: &str| super::read(text.as_bytes()).errors.first().map(|e| (e.message.clone(), e.line));
        let (message, line) = read(&"#\n".repeat(MAX_LINES + 1)).unwrap();
        assert_eq!(message, "more than 400000 lines in one file: not a manifest; split it");
        assert_eq!(line as usize, MAX_LINES);
        assert_eq!(read(&("#\n".repeat(MAX_LINES - 1) + "a: \"x\u{2028}\"\n")), None);
    }

    #[test]
    fn every_value_has_its_place() {
        let node = root("a:\n  - b: 1\n    ä: [x, {k: z}]\n");
        let at = |path| (node.locate(path).line, node.locate(path).column);
        assert_eq!(at("a[0].b"), (2, 8));
        assert_eq!(at("a[0].ä[1].k"), (3, 16));
        assert_eq!(at("a[0].ä[7]"), (3, 8), "what is not there is located by what is");
        assert_eq!(node.get("a").and_then(|a| a.entry("x")), None);
    }

    #[test]
    fn json_has_places_too() {
        let d = read(b" {\"a\": [1,\n  {\"b\": \"\\u00e4\\ud834\\udd1e\"}], \"a\": null, \"c\": -1.5e3}");
        assert_eq!(d.errors, []);
        assert_eq!((d.warnings[0].line, d.warnings[0].column), (2, 33));
        assert_eq!(d.roots[0].get("a").map(|n| &n.value), Some(&Value::Null));
        assert_eq!(d.roots[0].locate("c"), Place { line: 2, column: 49 });
        for bad in ["{\"a\":01}", "{\"a\":1.}", "{a: b}", "{\"a\":1} x", "{\"a\" 1}", "{\"a\":\"\n\"}", "{\"a\":tru}", "{\"a\":[1,]}", "{"]
        {
            assert_eq!(read(bad.as_bytes()).errors.len(), 1, "{bad}");
        }
    }

    #[test]
    fn all_documents_are_read_and_a_broken_one_hides_none() {
        let d = read(b"a: 1\n---\n# nothing\n---\nb: [\n---\nc: 2\n...\n");
        assert_eq!(d.roots.len(), 2);
        assert_eq!(d.errors.len(), 1);
        assert!(d.roots[1].get("c").is_some());
    }

    #[test]
    fn the_last_of_duplicate_keys_wins_with_a_warning() {
        let d = read(b"a: 1\nb: 2\na: 3\n");
        assert_eq!(d.roots[0].get("a").map(|n| n.place.line), Some(3));
        assert_eq!((d.warnings.len(), d.warnings[0].line), (1, 3));
    }

    #[test]
    fn merge_keys_merge_in_order() {
        let node = root("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {a: 0, <<: [*x, *y], c: 3}\nq: {\"<<\": 1}\n");
        let z = node.get("z").unwrap();
        // go-yaml v2 merges where the key stands: what is written before it is overridden, what comes after is not.
        let number = |key| z.get(key).map(|n| n.value.described());
        assert_eq!(number("a").as_deref(), Some("the number `1`"));
        assert_eq!(number("b").as_deref(), Some("the number `1`"));
        assert_eq!(number("c").as_deref(), Some("the number `3`"));
        assert!(node.get("q").unwrap().get("<<").is_some(), "quoted, it is a key like any other");
        assert_eq!(error("<<: 1").2, "`<<` needs a mapping or a list of mappings");
    }

    #[test]
    fn aliases_of_aliases_nest_no_deeper_than_text() {
        let rung = |i: usize, inside: &str| format!("a{i}: &a{i} {}{inside}{}\n", "[".repeat(90), "]".repeat(90));
        let ladder: String = (0..40).map(|i| rung(i, &if i == 0 { String::new() } else { format!("*a{}", i - 1) })).collect();
        assert_eq!(error(&ladder).2, "nested deeper than 100 levels");
        assert_eq!(read(format!("{}b: [[*a0]]\n", rung(0, "")).as_bytes()).errors, []);
    }

    #[test]
    fn keys_become_text() {
        let node = root("- {1: a, yes: b, 0x10: c, 1.5: d, n: e, .Inf: f, -.inf: g, .NaN: h}\n");
        let Value::List(items) = &node.value else { unreachable!() };
        for key in ["1", "true", "16", "1.5", "false", ".inf", "-.inf", ".nan"] {
            assert!(items[0].get(key).is_some(), "{key}");
        }
        assert!(error("? [a]\n: b\n").2.contains("cannot be a key"));
    }

    #[test]
    fn what_is_no_yaml_is_named_with_its_place() {
        assert_eq!(error("a:\n\tb: 2\n").0, 2);
        assert_eq!(error("a:\n  \tb: 2\n").2, "YAML: a tab before what begins a line: indent with spaces");
        assert!(read(b"a:\tb\nc: [\n  d,\n\te,\n\t{e: f}]\ng: |\n  x\n  \ty\n").errors.is_empty());
        for bad in ["a: b\n\t\nc: d\n", "a: 'b'\n  \t\nc: d\n", "a: b\n\t# c\nd: e\n", "-\ta\n", "a:\n\t\n  b\n"] {
            assert!(error(bad).2.contains("a tab before"), "{bad:?}");
        }
        for good in ["a: b\n  \t\nc: d\n", "a: [b]\t# c\nd: \"e\n \t\n f\"\n", "--- \ta\n", "a: |\n  b\n\n  \t\nc: d\n", "a: [\n\t\nb]\n"] {
            assert_eq!(read(good.as_bytes()).errors, [], "{good:?}");
        }
        for (bad, what) in [("a: \"b\\/\"\n", "no such escape"), ("a: [b?c]\n", "within brackets"), ("a: b\u{2028}\n", "`\\u2028`")] {
            assert!(error(bad).2.contains(what), "{bad:?}: {}", error(bad).2);
        }
        assert!(error("a: b # \u{85}\nc: d\n").2.contains("`\\u0085` before this"));
        assert!(error("a: b\n# \u{2029}").2.contains("before this"));
        assert!(read("a: \"b\u{2028}\\\\/?\"\nc: '?\u{85}'\nd?: ?e\n".as_bytes()).errors.is_empty());
        assert_eq!(error("a: \u{1}").1, 4);
        assert_eq!(error("a: *x").0, 1);
        assert_eq!(error("a: &x [*x]").2, "an anchor contains itself");
        assert_eq!(error("a: .nan").1, 4);
        assert_eq!(error("# x\n%YAML 1.2\n---\na: 1\n").0, 2);
        assert_eq!(error("%FOO bar\n---\na: 1\n").2, "`%FOO bar`: unknown directive: only %YAML and %TAG may stand before a document");
        assert!(read(b"%YAML 1.1\n%TAG ! tag:x,2000:\n---\na: 1\n").errors.is_empty());
        assert!(read(b"a: \xff").errors[0].message.contains("UTF-8"));
        assert!(read(b"\xff\xfea\0:").errors[0].message.contains("UTF-16"));
        assert!(read(b"\xfe\xff\0a\0:\0 \x004").roots[0].get("a").is_some());
        assert!(read(b"\xef\xbb\xbfa: 1").roots[0].get("a").is_some());
    }
}
