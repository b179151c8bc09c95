//! Bytes to documents: encoding, YAML (or JSON) structure, anchors and merge keys, each value with its place.
//!
//! Reads what sigs.k8s.io/yaml over go-yaml v2 reads, but all documents of a file. Pure, and bounded: size, depth, number of
//! values and expanded bytes have caps, so hostile text costs an error, not the machine. Never looks at what a value means.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Tag};

use super::value::{Entry, Node, Number, Place, Value};
use super::{json, scalar};
use crate::pod::Finding;

/// Largest file, bytes: the kubelet's `maxConfigLength`.
pub const MAX_BYTES: usize = 10 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 100;
/// Most values of a file, aliases expanded: 40 times the largest Pod the API would store, and 10 MB of tree.
const MAX_VALUES: usize = 100_000;
/// Most documents of a file: every one is a pod, and a node runs some hundred.
const MAX_DOCUMENTS: usize = 1000;
/// Most broken documents told of.
const MAX_ERRORS: usize = 20;
/// Most bytes of aliased text.
const MAX_ALIASED_BYTES: usize = 4 << 20;

/// Why a document cannot be read, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
}

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

/// What a file may still cost.
pub struct Budget {
    values: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { values: MAX_VALUES, bytes: MAX_ALIASED_BYTES }
    }
}

impl Budget {
    /// Takes so many values off, or says that there are too many.
    pub fn spend(&mut self, values: usize, place: Place) -> Result<(), Fault> {
        self.values = self.values.checked_sub(values).ok_or_else(|| Fault {
            message: format!("more than {MAX_VALUES} values in one file, aliases expanded: not a manifest"),
            place,
        })?;
        Ok(())
    }

    fn copy(&mut self, node: &Node, place: Place) -> Result<Node, Fault> {
        let (values, bytes) = size(node);
        self.spend(values, place)?;
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or_else(|| Fault { message: format!("aliases expand to more than {MAX_ALIASED_BYTES} bytes of text"), place })?;
        Ok(node.clone())
    }
}

fn size(node: &Node) -> (usize, usize) {
    let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
    match &node.value {
        Value::Null => (1, 0),
        Value::Bool(_, t) | Value::Number(_, t) | Value::Text(t) => (1, t.len()),
        Value::List(items) => items.iter().map(size).fold((1, 0), sum),
        Value::Map(entries) => entries.iter().map(|e| sum(size(&e.node), (0, e.key.len()))).fold((1, 0), sum),
    }
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
    Reader::new(&text).documents(&mut out);
    out
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
    match text.char_indices().find(|(_, c)| bad(*c)) {
        None => Ok(()),
        Some((at, c)) => {
            let message = format!("control character {c:?} is not allowed in YAML");
            Err(Fault { message, place: place_after(text.get(..at).unwrap_or_default()) })
        }
    }
}

/// A collection that is still open.
enum Open {
    List { items: Vec<Node> },
    Map { pairs: Vec<Pair>, key: Option<Key> },
}

struct Frame {
    place: Place,
    anchor: usize,
    open: Open,
}

enum Key {
    Merge(Place),
    Name(Box<str>, Place),
}

/// An entry, and whether a merge key brought it.
pub struct Pair {
    /// The entry.
    pub entry: Entry,
    /// It came by `<<`, so writing it again is no mistake.
    pub merged: bool,
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    budget: Budget,
    warnings: Vec<Finding>,
    /// The last fault is a mistake in one document, not a cap: the next document is worth reading.
    recoverable: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        // Nesting is refused a little above our own cap, so that our message names the place.
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH + 10,
            block_nesting_limit: MAX_DEPTH + 10,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Reader { parser, frames: Vec::new(), anchors: HashMap::new(), budget: Budget::default(), warnings: Vec::new(), recoverable: false }
    }

    fn documents(mut self, out: &mut Documents) {
        loop {
            match self.document() {
                Ok(Some(Node { value: Value::Null, .. })) => {}
                Ok(Some(root)) => out.roots.push(root),
                Ok(None) => break,
                Err(fault) => {
                    out.errors.push(fault.place.finding("", fault.message));
                    self.frames.clear();
                    let more = self.recoverable && out.errors.len() < MAX_ERRORS && self.parser.proceed_next_document().unwrap_or(false);
                    if !more {
                        break;
                    }
                }
            }
            if out.roots.len() > MAX_DOCUMENTS {
                let place = out.roots.pop().map_or(Place::default(), |root| root.place);
                out.errors.push(place.finding("", format!("more than {MAX_DOCUMENTS} documents in one file")));
                break;
            }
            self.anchors.clear();
        }
        out.warnings.append(&mut self.warnings);
    }

    /// The parser's next event; its own complaints are mistakes in one document, except for nesting.
    fn event(&mut self) -> Result<Option<(Event<'a>, Place)>, Fault> {
        let Some(next) = self.parser.next_event() else { return Ok(None) };
        self.recoverable = false;
        match next {
            Ok((event, span)) => Ok(Some((event, place_of(&span.start)))),
            Err(e) => {
                let place = place_of(e.marker());
                if *e.kind() == ErrorKind::RecursionLimitExceeded {
                    return Err(too_deep(place));
                }
                self.recoverable = true;
                Err(Fault { message: format!("YAML: {}", e.info()), place })
            }
        }
    }

    /// The next document's root; `None` at the end of the stream.
    fn document(&mut self) -> Result<Option<Node>, Fault> {
        while let Some((event, place)) = self.event()? {
            let done = match event {
                Event::StreamEnd => return Ok(None),
                Event::Scalar(text, style, anchor, tag) => {
                    let merge = matches!(style, ScalarStyle::Plain) && tag.is_none() && text == "<<" && self.wants_key();
                    if merge {
                        self.set_key(Key::Merge(place));
                        continue;
                    }
                    self.budget.spend(1, place)?;
                    let node = Node { place, value: resolve(text, style, tag.as_deref(), place)? };
                    self.keep(anchor, &node, place)?;
                    node
                }
                Event::Alias(id) => match self.anchors.get(&id) {
                    Some(node) => self.budget.copy(node, place)?,
                    None => return Err(Fault { message: "an anchor contains itself".into(), place }),
                },
                Event::SequenceStart(_, anchor, _) => {
                    self.open(place, anchor, Open::List { items: Vec::new() })?;
                    continue;
                }
                Event::MappingStart(_, anchor, _) => {
                    self.open(place, anchor, Open::Map { pairs: Vec::new(), key: None })?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match self.close(place)? {
                    Some(node) => node,
                    None => continue,
                },
                _ => continue,
            };
            if let Some(root) = self.place_in_parent(done)? {
                return Ok(Some(root));
            }
        }
        Ok(None)
    }

    fn open(&mut self, place: Place, anchor: usize, open: Open) -> Result<(), Fault> {
        self.budget.spend(1, place)?;
        if self.frames.len() >= MAX_DEPTH {
            return Err(too_deep(place));
        }
        self.frames.push(Frame { place, anchor, open });
        Ok(())
    }

    fn close(&mut self, end: Place) -> Result<Option<Node>, Fault> {
        let Some(frame) = self.frames.pop() else { return Ok(None) };
        let value = match frame.open {
            Open::List { items } => Value::List(items),
            Open::Map { pairs, .. } => Value::Map(last_wins(pairs, &mut self.warnings)),
        };
        let node = Node { place: frame.place, value };
        self.keep(frame.anchor, &node, end)?;
        Ok(Some(node))
    }

    fn keep(&mut self, anchor: usize, node: &Node, place: Place) -> Result<(), Fault> {
        if anchor != 0 {
            let copy = self.budget.copy(node, place)?;
            self.anchors.insert(anchor, copy);
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { open: Open::Map { key: None, .. }, .. }))
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Frame { open: Open::Map { key, .. }, .. }) = self.frames.last_mut() {
            *key = Some(new);
        }
    }

    /// Puts a finished value where it belongs; gives it back when it is the document's root.
    fn place_in_parent(&mut self, node: Node) -> Result<Option<Node>, Fault> {
        let Some(frame) = self.frames.last_mut() else { return Ok(Some(node)) };
        match &mut frame.open {
            Open::List { items } => items.push(node),
            Open::Map { pairs, key } => match key.take() {
                None => {
                    self.warnings.extend(surprising_key(&node).filter(|_| self.warnings.len() < 100));
                    *key = Some(Key::Name(key_text(&node)?, node.place));
                }
                Some(Key::Name(name, place)) => pairs.push(Pair { entry: Entry { key: name, place, node }, merged: false }),
                Some(Key::Merge(place)) => merge(pairs, node, place)?,
            },
        }
        Ok(None)
    }
}

fn place_of(mark: &Marker) -> Place {
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(mark.line()), column: number(mark.col() + 1) }
}

/// What goes deeper than any manifest does.
pub fn too_deep(place: Place) -> Fault {
    Fault { message: format!("nested deeper than {MAX_DEPTH} levels"), place }
}

fn resolve(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Result<Value, Fault> {
    let fault = |message| Fault { message, place };
    match tag {
        Some(tag) => match tag.core_suffix() {
            Some(core) => scalar::tagged(core, &text).map_err(fault),
            None => Ok(Value::Text(text.into())),
        },
        None if matches!(style, ScalarStyle::Plain) => {
            scalar::plain(&text).ok_or_else(|| fault(format!("`{text}` is a number JSON does not have: write a finite one, or quote it")))
        }
        None => Ok(Value::Text(text.into())),
    }
}

/// A key as sigs.k8s.io/yaml turns it into JSON: `true`, `1` and `yes` become text.
fn key_text(node: &Node) -> Result<Box<str>, Fault> {
    match &node.value {
        Value::Text(t) => Ok(t.clone()),
        Value::Bool(b, _) => Ok(if *b { "true".into() } else { "false".into() }),
        Value::Number(n @ (Number::Int(_) | Number::Float(_)), _) => Ok(n.to_string().into()),
        other => Err(Fault { message: format!("{} cannot be a key", other.described()), place: node.place }),
    }
}

/// `on: ...` is the key "true" to Kubernetes, which nobody means.
fn surprising_key(node: &Node) -> Option<Finding> {
    match &node.value {
        Value::Bool(b, raw) if *b != (&**raw == "true") || !*b && &**raw != "false" => Some(
            node.place
                .finding("", format!("the key `{raw}` is the boolean {b} in YAML 1.1 and becomes \"{b}\": write \"{raw}\" in quotes")),
        ),
        _ => None,
    }
}

/// `<<`: the entries of a mapping, or of a list of them, the first of which wins.
fn merge(pairs: &mut Vec<Pair>, node: Node, place: Place) -> Result<(), Fault> {
    let wrong = || Fault { message: "`<<` needs a mapping or a list of mappings".into(), place };
    let mut add = |entries: Vec<Entry>| pairs.extend(entries.into_iter().map(|entry| Pair { entry, merged: true }));
    match node.value {
        Value::Map(entries) => add(entries),
        Value::List(items) => {
            for item in items.into_iter().rev() {
                match item.value {
                    Value::Map(entries) => add(entries),
                    _ => return Err(wrong()),
                }
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// Of entries with one key the last stays, as in the kubelet; one that was written twice by hand is warned of.
pub fn last_wins(pairs: Vec<Pair>, warnings: &mut Vec<Finding>) -> Vec<Entry> {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    let key = |i: &usize| pairs.get(*i).map(|p| &*p.entry.key);
    order.sort_by(|a, b| key(a).cmp(&key(b)).then(a.cmp(b)));
    let mut dropped = vec![false; pairs.len()];
    for (a, b) in order.iter().zip(order.iter().skip(1)) {
        let (Some(first), Some(second)) = (pairs.get(*a), pairs.get(*b)) else { continue };
        if first.entry.key != second.entry.key {
            continue;
        }
        if let Some(gone) = dropped.get_mut(*a) {
            *gone = true;
        }
        if !first.merged && !second.merged && warnings.len() < 100 {
            let key = super::value::short(&second.entry.key);
            warnings.push(
                second.entry.place.finding("", format!("duplicate key {key:?}: the value on line {} is ignored", first.entry.place.line)),
            );
        }
    }
    let mut gone = dropped.into_iter();
    pairs.into_iter().filter(|_| !gone.next().unwrap_or(false)).map(|p| p.entry).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
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
    fn keys_become_text() {
        let node = root("{1: a, yes: b, 0x10: c, 1.5: d, n: e}\n".trim_start_matches(' ').replace('{', " - {").as_str());
        let Value::List(items) = &node.value else { unreachable!() };
        for key in ["1", "true", "16", "1.5", "false"] {
            assert!(items[0].get(key).is_some(), "{key}");
        }
        assert!(error("? [a]\n: b\n").2.contains("cannot be a key"));
    }

    #[test]
    fn what_is_no_yaml_is_named_with_its_place() {
        assert_eq!(error("a:\n\tb: 2\n").0, 2);
        assert_eq!(error("a: \u{1}").1, 4);
        assert_eq!(error("a: *x").0, 1);
        assert_eq!(error("a: &x [*x]").2, "an anchor contains itself");
        assert_eq!(error("a: .nan").1, 4);
        assert!(read(b"a: \xff").errors[0].message.contains("UTF-8"));
        assert!(read(b"\xff\xfea\0:").errors[0].message.contains("UTF-16"));
        assert!(read(b"\xfe\xff\0a\0:\0 \x004").roots[0].get("a").is_some());
        assert!(read(b"\xef\xbb\xbfa: 1").roots[0].get("a").is_some());
    }
}
