//! What reading a file may cost, and the fault of one that asks for more. The same caps hold for YAML and JSON.

use crate::manifest::value::{Node, Place, Value};

/// Largest file, bytes: the kubelet's `maxConfigLength`.
pub const MAX_BYTES: usize = 10 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 100;
/// Most values of a file, aliases expanded: 40 times the largest Pod the API would store, and 10 MB of tree.
const MAX_VALUES: usize = 100_000;
/// Most lines of a YAML file: the reader takes its time for each, be it a comment or the rest of a quoted text, and ten MiB hold five million.
pub const MAX_LINES: usize = 400_000;
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

    /// A copy of a value to stand so deep, paid for. Aliases of aliases would otherwise nest deeper than any text.
    pub fn copy(&mut self, node: &Node, depth: usize, place: Place) -> Result<Node, Fault> {
        let size = size(node);
        if depth + size.depth > MAX_DEPTH + 1 {
            return Err(too_deep(place));
        }
        self.spend(size.values, place)?;
        self.bytes = self
            .bytes
            .checked_sub(size.bytes)
            .ok_or_else(|| Fault { message: format!("aliases expand to more than {MAX_ALIASED_BYTES} bytes of text"), place })?;
        Ok(node.clone())
    }
}

struct Size {
    values: usize,
    bytes: usize,
    /// Levels, itself included.
    depth: usize,
}

impl Size {
    fn with(self, part: Size, key_bytes: usize) -> Size {
        Size { values: self.values + part.values, bytes: self.bytes + part.bytes + key_bytes, depth: self.depth.max(part.depth + 1) }
    }
}

fn size(node: &Node) -> Size {
    let one = Size { values: 1, bytes: 0, depth: 1 };
    match &node.value {
        Value::Null => one,
        Value::Bool(_, t) | Value::Number(_, t) | Value::Text(t) => Size { bytes: t.len(), ..one },
        Value::List(items) => items.iter().fold(one, |sum, item| sum.with(size(item), 0)),
        Value::Map(entries) => entries.iter().fold(one, |sum, e| sum.with(size(&e.node), e.key.len())),
    }
}

/// What goes deeper than any manifest does.
pub fn too_deep(place: Place) -> Fault {
    Fault { message: format!("nested deeper than {MAX_DEPTH} levels"), place }
}
