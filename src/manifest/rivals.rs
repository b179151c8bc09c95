//! Several manifests, one full name: who wins, and what the others are told. Pure, like `layer`, whose second half it is.
//!
//! In one layer the first by file name wins and the others are refused (the kubelet: the last, silently). Between layers the
//! higher wins, unless a lower one is sealed. Against a seal neither another file of that pod's name counts, nor a file that would override or
//! mask the very file it is in: such a file is refused as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::layer::{Kind, Row};
use crate::pod::{Finding, PodKey, WantedPod};

/// Annotation of a pod that does not yield to a higher layer.
pub const SEALED: &str = "plinth.dev/sealed";

/// A pod that would run if nobody else had its name.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) pod: Rc<WantedPod>,
    /// Rank of its layer, 0 the lowest.
    pub(super) layer: usize,
    /// Its file's row.
    pub(super) row: usize,
}

/// Picks one winner per name; writes who won what, and why others did not, into the rows.
pub(super) fn settle(mut candidates: Vec<Candidate>, rows: &mut [Row]) -> BTreeMap<PodKey, Rc<WantedPod>> {
    let place = |c: &Candidate| (c.pod.key.clone(), c.layer, c.pod.origin.path.file_name().map(ToOwned::to_owned));
    candidates.sort_by_cached_key(place);
    let mut pods = BTreeMap::new();
    for group in candidates.chunk_by(|a, b| a.pod.key == b.pod.key) {
        let champions: Vec<&Candidate> = group.chunk_by(|a, b| a.layer == b.layer).filter_map(|same| first_of_layer(same, rows)).collect();
        let Some(winner) = champions.iter().find(|c| sealed(&c.pod)).or(champions.last()) else { continue };
        for loser in champions.iter().filter(|c| c.layer != winner.layer) {
            between_layers(winner, loser, rows);
        }
        if let Some(row) = rows.get_mut(winner.row) {
            row.report.pods.push(winner.pod.key.clone());
        }
        pods.insert(winner.pod.key.clone(), winner.pod.clone());
    }
    pods
}

fn first_of_layer<'a>(same: &'a [Candidate], rows: &mut [Row]) -> Option<&'a Candidate> {
    let (first, others) = same.split_first()?;
    for other in others {
        let text = format!(
            "pod `{}` is already in {} of the same layer: the one at {} is refused; remove or rename it",
            other.pod.key,
            at(&first.pod),
            at(&other.pod)
        );
        refuse(other, text, rows);
    }
    Some(first)
}

fn between_layers(winner: &Candidate, loser: &Candidate, rows: &mut [Row]) {
    let key = &winner.pod.key;
    if loser.layer > winner.layer {
        let (sealed, other) = (at(&winner.pod), at(&loser.pod));
        return refuse(loser, format!("pod `{key}` is sealed by {sealed} in a lower layer: the one at {other} is refused"), rows);
    }
    let text = format!("pod `{key}` of {} replaces the one of {} in a lower layer", at(&winner.pod), at(&loser.pod));
    for c in [winner, loser] {
        if let Some(row) = rows.get_mut(c.row) {
            row.report.warnings.push(finding(c, text.clone()));
        }
    }
}

fn refuse(c: &Candidate, text: String, rows: &mut [Row]) {
    if let Some(row) = rows.get_mut(c.row) {
        row.report.errors.push(finding(c, text));
    }
}

fn finding(c: &Candidate, message: String) -> Finding {
    Finding { message, field: "metadata.name".into(), line: c.pod.origin.line, column: u32::from(c.pod.origin.line > 0) }
}

fn at(pod: &WantedPod) -> String {
    format!("{}:{}", pod.origin.path.display(), pod.origin.line)
}

/// What is wrong with a file that has the name of one with a sealed pod in a lower layer; `None`: it is no manifest.
pub(super) fn against_seal(kind: &Kind, path: &Path, pod: &WantedPod) -> Option<Finding> {
    let does = match kind {
        Kind::NotManifest => return None,
        Kind::Mask => "mask",
        Kind::Manifest(_) | Kind::Unreadable(_) | Kind::Away(_) => "override",
    };
    let (key, sealed) = (&pod.key, at(pod));
    let message = format!("pod `{key}` is sealed by {sealed} in a lower layer, {} may not {does} it: remove this file", path.display());
    Some(Finding { message, ..Finding::default() })
}

/// Whether it says that it does not yield.
pub(super) fn sealed(pod: &WantedPod) -> bool {
    pod.object.metadata.annotations.as_ref().and_then(|a| a.get(SEALED)).is_some_and(|v| v == "true")
}
