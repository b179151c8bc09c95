//! The parser's events to trees, one a document: anchors, aliases and merge keys resolved, duplicate keys told of.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Tag};

use super::Documents;
use super::caps::{Budget, Fault, MAX_DEPTH, MAX_DOCUMENTS, MAX_ERRORS, too_deep};
use super::older::Older;
use crate::manifest::scalar;
use crate::manifest::value::{Entry, Node, Number, Place, Value, short};
use crate::pod::Finding;

/// Reads all documents of a text.
pub fn read(text: &str, out: &mut Documents) {
    Reader::new(text).documents(out);
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
    older: Older<'a>,
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
        Reader {
            older: Older::new(text),
            parser,
            frames: Vec::new(),
            anchors: HashMap::new(),
            budget: Budget::default(),
            warnings: Vec::new(),
            recoverable: false,
        }
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
                    self.older.reset();
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
            Ok((event, span)) => {
                let place = place_of(&span.start);
                self.recoverable = true;
                self.older.check(&event, &span)?;
                self.recoverable = false;
                Ok(Some((event, place)))
            }
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
                    let infinite = tag.is_none() && matches!(style, ScalarStyle::Plain) && self.wants_key();
                    let value = match scalar::infinite(&text).filter(|_| infinite) {
                        Some(name) => Value::Text(name.into()),
                        None => resolve(text, style, tag.as_deref(), place)?,
                    };
                    let node = Node { place, value };
                    self.keep(anchor, &node, place)?;
                    node
                }
                Event::Alias(id) => match self.anchors.get(&id) {
                    Some(node) => self.budget.copy(node, self.frames.len(), place)?,
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
            let copy = self.budget.copy(node, self.frames.len(), place)?;
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

/// A place as the parser has it.
pub fn place_of(mark: &Marker) -> Place {
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(mark.line()), column: number(mark.col() + 1) }
}

fn resolve(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Result<Value, Fault> {
    let fault = |message| Fault { message, place };
    match tag {
        Some(tag) => match tag.suffix_in_namespace("tag:yaml.org,2002:") {
            Some(known) => scalar::tagged(&known, &text).map_err(fault),
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
            let key = short(&second.entry.key);
            warnings.push(
                second.entry.place.finding("", format!("duplicate key {key:?}: the value on line {} is ignored", first.entry.place.line)),
            );
        }
    }
    let mut gone = dropped.into_iter();
    pairs.into_iter().filter(|_| !gone.next().unwrap_or(false)).map(|p| p.entry).collect()
}
