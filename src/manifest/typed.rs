//! A value tree as one of Kubernetes' types. Takes what Go's JSON decoder takes and notes what it does not, all of it at once.
//!
//! - A value of the wrong type is an error with its place; reading goes on with the type's zero value, so the next error is found too.
//! - A field the type does not have is a warning that names the nearest one it has (k8s-openapi hands its field names to serde).
//! - Zero values that Go's types leave out (`omit`) are left out, so that `hostNetwork: false` and silence are one content.

mod reader;
mod unknown;

pub use unknown::nearest;

use std::cell::RefCell;
use std::fmt;

use serde::de::DeserializeOwned;

use super::value::Node;
use crate::pod::Finding;

/// What reading came to.
pub struct Typed<T> {
    /// The object; `None` when even its shape is wrong.
    pub object: Option<T>,
    /// Mismatches.
    pub errors: Vec<Finding>,
    /// Unknown fields.
    pub warnings: Vec<Finding>,
}

/// Most findings kept of one object: enough for a person, bounded for a hostile file.
const MAX_FINDINGS: usize = 100;

/// Reads `node`, whose own field path is `at`.
pub fn read<T: DeserializeOwned>(node: &Node, at: &str) -> Typed<T> {
    let (mut object, Notes { errors, warnings, zeros, .. }) = pass(node, at, Notes::default());
    // Types are checked on all that is written; only then are zeros left out.
    if zeros && errors.is_empty() {
        object = pass(node, at, Notes { omit: true, ..Notes::default() }).0;
    }
    Typed { object, errors, warnings }
}

fn pass<T: DeserializeOwned>(node: &Node, at: &str, notes: Notes) -> (Option<T>, Notes) {
    let notes = RefCell::new(notes);
    let root = Path { parent: None, step: Step::Root(at) };
    let object = T::deserialize(reader::Reader { node, path: &root, notes: &notes });
    if let Err(Fail(Some(message))) = &object {
        notes.borrow_mut().error(node.place.finding(at, message.as_str()));
    }
    (object.ok(), notes.into_inner())
}

#[derive(Default)]
struct Notes {
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    /// Leave zeros out.
    omit: bool,
    /// There are zeros to leave out.
    zeros: bool,
}

impl Notes {
    fn error(&mut self, finding: Finding) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(finding);
        }
    }

    fn warning(&mut self, finding: Finding) {
        if self.warnings.len() < MAX_FINDINGS {
            self.warnings.push(finding);
        }
    }
}

/// A type's own complaint, until it is noted with its place.
#[derive(Debug)]
struct Fail(Option<String>);

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("noted"))
    }
}

impl std::error::Error for Fail {}

impl serde::de::Error for Fail {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fail(Some(message.to_string()))
    }
}

struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root(&'a str),
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root(at) => f.write_str(at),
            Step::Field(name) if self.parent.is_some_and(Path::is_empty) => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(key) => write!(f, "[{key}]"),
            Step::Index(i) => write!(f, "[{i}]"),
        }
    }
}

impl Path<'_> {
    fn is_empty(&self) -> bool {
        matches!(self.step, Step::Root(""))
    }
}
