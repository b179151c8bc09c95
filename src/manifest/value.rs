//! The tree a manifest is read into: JSON's shapes, with the place of every value and key and the text of every scalar as written.
//!
//! Pure data. Knows nothing of YAML, JSON text or Kubernetes.

use crate::pod::Finding;

/// A place in a file, both from 1; 0 when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

impl Place {
    /// A finding at this place.
    pub fn finding(self, field: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { message: message.into(), field: field.into(), line: self.line, column: self.column }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// A value as JSON has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// A truth value and the word it was written as (`yes`, `on`, `true`).
    Bool(bool, Box<str>),
    /// A number and how it was written (`0644`, `0x50`, `1e3`).
    Number(Number, Box<str>),
    /// Text.
    Text(Box<str>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; keys are unique, in the order of the file.
    Map(Vec<Entry>),
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

/// A number, as wide as it must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64`.
    Uint(u64),
    /// Any other; always finite.
    Float(f64),
}

impl Number {
    /// As a whole number, if it is one that fits.
    pub fn whole(self) -> Option<i64> {
        match self {
            Number::Int(i) => Some(i),
            Number::Uint(_) | Number::Float(_) => None,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(i) => i.fmt(f),
            Number::Uint(u) => u.fmt(f),
            Number::Float(x) => x.fmt(f),
        }
    }
}

impl Value {
    /// What it is, in words, with what was written: ``the boolean `yes` ``.
    pub fn described(&self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(_, raw) => format!("the boolean `{}`", short(raw)),
            Value::Number(_, raw) => format!("the number `{}`", short(raw)),
            Value::Text(t) => format!("the string {:?}", short(t)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }
}

/// At most 64 characters of a text, for messages.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl Node {
    /// The value under a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.node)
    }

    /// The entry of a mapping.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| &*e.key == key),
            _ => None,
        }
    }

    /// Its text, if it is text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The place of the deepest part of a field path (`spec.containers[0].ports[1].name`, `metadata.labels[a.b/c]`) that exists.
    pub fn locate(&self, path: &str) -> Place {
        let (mut node, mut rest) = (self, path);
        while !rest.is_empty() {
            let next = if let Some(tail) = rest.strip_prefix('[') {
                let Some((index, after)) = tail.split_once(']') else { break };
                rest = after.strip_prefix('.').unwrap_or(after);
                match (&node.value, index.parse::<usize>()) {
                    (Value::List(items), Ok(i)) => items.get(i),
                    _ => node.get(index),
                }
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                rest = after.strip_prefix('.').unwrap_or(after);
                node.get(key)
            };
            match next {
                Some(child) => node = child,
                None => break,
            }
        }
        node.place
    }
}
