//! Unknown fields, and the known one that was probably meant.

use super::{Path, Step};
use crate::manifest::value::{Entry, short};
use crate::pod::Finding;

/// The warning about a field that its type does not have.
pub(super) fn unknown(parent: &Path<'_>, entry: &Entry, fields: &[&str]) -> Finding {
    let path = Path { parent: Some(parent), step: Step::Field(&entry.key) };
    let key = short(&entry.key);
    let message = match nearest(&entry.key, fields) {
        Some(field) => format!("unknown field {key:?} is ignored: did you mean {field:?}?"),
        None => format!("unknown field {key:?} is ignored"),
    };
    entry.place.finding(path.to_string(), message)
}

/// The known field a typing mistake away: the same letters in another case, or a few edits.
pub fn nearest<'f>(key: &str, fields: &[&'f str]) -> Option<&'f str> {
    if key.len() > 64 {
        return None;
    }
    let lower = key.to_ascii_lowercase();
    let near = fields.iter().map(|f| (edits(&lower, &f.to_ascii_lowercase()), *f)).min()?;
    (near.0 <= key.len().max(3) / 3).then_some(near.1)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
