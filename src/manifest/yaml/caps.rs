//! What reading a file may cost, and the fault of one that asks for more. The same caps hold for YAML and JSON.

use crate::manifest::value::{Node, Place, Value};

/// Largest file, bytes: the kubelet's `maxConfigLength`.
pub const MAX_BYTES: usize = 10 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 100;
/// Most values of a file, aliases expanded: 40 times the largest Pod the API would store, and 10 MB of tree.
const MAX_VALUES: usize = 100_000;
/// Most documents of a file: every one is a pod, and a node runs some hundred.
pub const MAX_DOCUMENTS: usize = 1000;
/// Most broken documents told of.
pub const MAX_ERRORS: usize = 20;
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

    /// A copy of a value, paid for.
    pub fn copy(&mut self, node: &Node, place: Place) -> Result<Node, Fault> {
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

/// What goes deeper than any manifest does.
pub fn too_deep(place: Place) -> Fault {
    Fault { message: format!("nested deeper than {MAX_DEPTH} levels"), place }
}
