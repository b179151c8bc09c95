//! Which mirror pods to make, to delete, to patch. Pure: what is published and what the API server has in, actions out.
//!
//! ```text
//!  published   at the API server                     action
//!  yes         nothing                               Create, once the Node object is known
//!  yes         a mirror of it                        Status, if that differs
//!  yes         a mirror: other hash, other Node uid  Delete, then as "nothing"
//!  yes         a mirror that is being deleted        Delete, then as "nothing"
//!  yes         a pod that is no mirror               wait: it is somebody's, and never touched
//!  no          a mirror                              Delete, once all layers were read
//!  no          a pod that is no mirror               nothing
//! ```
//!
//! Nothing here can reach a local pod: there is no action that names one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::object::{Object, status_patch};
use super::retry::Retry;
use crate::clock::Moment;
use crate::pod::{PodKey, Uid};

/// A status that was not taken as sent is sent again so much later, ms: the kubelet's reconcile.
const SENT_AGAIN_MS: u64 = 10_000;
/// A mirror that was replaced a second time within this is replaced with growing delays, ms: somebody else wants it otherwise.
const CHURN_MS: u64 = 60_000;
/// Requests at once.
const AT_ONCE: usize = 8;

/// A pod of this node, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its hash.
    pub uid: Uid,
    /// Its status.
    pub status: Rc<Value>,
    /// It may be made: a pod on its way out keeps its mirror but gets none.
    pub wanted: bool,
}

/// A pod of this node, as the API server has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its uid there.
    pub uid: String,
    /// Its version.
    pub version: u64,
    /// The hash of the static pod it shows; `None`: no mirror.
    pub mirror: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// The uid of the Node that owns it.
    pub owner: Option<String>,
    /// Its status.
    pub status: Value,
}

impl From<Object> for Observed {
    fn from(o: Object) -> Observed {
        let owner = o.metadata.owner_references.iter().flatten().find(|r| r.kind == "Node").map(|r| r.uid.clone());
        Observed {
            version: o.metadata.version(),
            mirror: o.metadata.mirror().map(str::to_owned),
            deleting: o.metadata.deletion_timestamp.is_some(),
            owner,
            uid: o.metadata.uid,
            status: o.status,
        }
    }
}

/// What is remembered of one name; gone at a crash without harm.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// A request about it is under way.
    pub in_flight: bool,
    /// Requests about it that failed.
    pub retry: Retry,
    /// The last of them came too early: the next one is expected to go well.
    pub early: bool,
    /// The status last sent.
    pub sent: Option<Sent>,
    /// For which hash (`None`: as an orphan) its mirror was last deleted, and when.
    pub replaced: Option<(Option<Uid>, Moment)>,
}

/// A status that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// To the pod of this uid.
    pub uid: String,
    /// This one.
    pub status: Rc<Value>,
    /// When.
    pub at: Moment,
    /// The pod's version that came of it, once it was answered.
    pub version: Option<u64>,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Pods of this node.
    pub published: &'a BTreeMap<PodKey, Published>,
    /// Every layer was read and containerd was listed: who is not published is nobody's.
    pub complete: bool,
    /// Pods the API server has on this node.
    pub observed: &'a BTreeMap<PodKey, Observed>,
    /// Uid of our Node object, if there is one that stays.
    pub node: Option<&'a str>,
    /// What is remembered.
    pub memory: &'a BTreeMap<PodKey, Memory>,
    /// What failed before is tried again one by one, not before this: many refusals make no storm. `None`: the last such try went
    /// well, and all who are due may follow.
    pub paced: Option<Moment>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the mirror.
    Create,
    /// Delete the pod with that uid, at once.
    Delete {
        /// Its uid at the API server.
        uid: String,
        /// It was as it should be, but for its content or owner: somebody else may want it so.
        replaces: bool,
    },
    /// Patch the status of the pod with that uid.
    Status {
        /// Its uid at the API server.
        uid: String,
        /// The patch.
        patch: Value,
        /// The status it comes from.
        status: Rc<Value>,
    },
}

/// Requests to begin, and when to look again.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// At most one for a name.
    pub actions: Vec<(PodKey, Action)>,
    /// The soonest time at which this changes by itself.
    pub wake: Option<Moment>,
}

/// Decides.
pub fn plan(sight: Sight<'_>, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let mut room = AT_ONCE.saturating_sub(sight.memory.values().filter(|m| m.in_flight).count());
    let keys: BTreeSet<&PodKey> = sight.published.keys().chain(sight.observed.keys()).collect();
    let fresh = Memory::default();
    // Of what failed before one is tried at a time, and no next one soon after it failed again.
    let trying = sight.memory.values().any(|m| m.in_flight && m.retry.failures > 0);
    let mut again: Option<(Moment, &PodKey, Action)> = None;
    for key in keys {
        let memory = sight.memory.get(key).unwrap_or(&fresh);
        let (action, from) = match decide(&sight, key, memory, now) {
            Some(decided) if !memory.in_flight => decided,
            _ => continue,
        };
        let pace = sight.paced.filter(|_| memory.retry.failures > 0);
        let due = memory.retry.due.max(from);
        let may = due.max(pace.unwrap_or_default());
        if may > now {
            plan.wake = Some(plan.wake.map_or(may, |w| w.min(may)));
        } else if pace.is_some() {
            // Who has waited longest is first, or the last in the alphabet would never be tried.
            if again.as_ref().is_none_or(|(oldest, ..)| memory.retry.due < *oldest) {
                again = Some((memory.retry.due, key, action));
            }
        } else if room > 0 {
            room -= 1;
            plan.actions.push((key.clone(), action));
        }
    }
    plan.actions.extend(again.filter(|_| room > 0 && !trying).map(|(_, key, action)| (key.clone(), action)));
    plan
}

/// What to do about one name, and from when on.
fn decide(sight: &Sight<'_>, key: &PodKey, memory: &Memory, now: Moment) -> Option<(Action, Moment)> {
    let observed = sight.observed.get(key);
    let Some(pod) = sight.published.get(key) else {
        let orphan = observed.filter(|o| sight.complete && o.mirror.is_some())?;
        return Some((Action::Delete { uid: orphan.uid.clone(), replaces: true }, churn(memory, None, now)));
    };
    let Some(found) = observed else {
        return (pod.wanted && sight.node.is_some()).then_some((Action::Create, now));
    };
    let mirror = found.mirror.as_deref()?;
    if found.deleting {
        return Some((Action::Delete { uid: found.uid.clone(), replaces: false }, now));
    }
    let disowned = sight.node.is_some() && found.owner.as_deref() != sight.node;
    if mirror != &*pod.uid.0 || disowned {
        return pod.wanted.then(|| (Action::Delete { uid: found.uid.clone(), replaces: true }, churn(memory, Some(&pod.uid), now)));
    }
    let patch = status_patch(&pod.status, &found.status, &found.uid)?;
    let from = match memory.sent.as_ref().filter(|s| s.uid == found.uid && s.status == pod.status) {
        // It is what the server made of it: it writes something otherwise, or leaves a field out, and would do so again.
        Some(sent) if sent.version == Some(found.version) => return None,
        // What was sent and is not there was changed by somebody else: no argument without pause.
        Some(sent) => sent.at + Duration::from_millis(SENT_AGAIN_MS),
        None => now,
    };
    Some((Action::Status { uid: found.uid.clone(), patch, status: pod.status.clone() }, from))
}

/// The first replacement by the same content is immediate; the next one waits.
fn churn(memory: &Memory, hash: Option<&Uid>, now: Moment) -> Moment {
    match &memory.replaced {
        Some((last, at)) if last.as_ref() == hash && now.since_ms(*at) < CHURN_MS => *at + Duration::from_millis(SENT_AGAIN_MS),
        _ => now,
    }
}

/// Why a pod has no mirror that shows it; `None`: it has.
pub fn lacks(sight: &Sight<'_>, key: &PodKey) -> Option<String> {
    let (pod, memory) = (sight.published.get(key)?, sight.memory.get(key));
    let failed = memory.filter(|m| m.retry.failures > 0).map(|m| m.retry.why.clone());
    match sight.observed.get(key) {
        None if sight.node.is_none() => Some("there is no Node object of this node yet".into()),
        None => Some(failed.unwrap_or_else(|| "it is about to be made".into())),
        Some(o) if o.mirror.is_none() => Some(format!(
            "the API server has a pod of that name which is no mirror pod (uid {}); it is left alone: rename one of the two",
            o.uid
        )),
        Some(o) if o.mirror.as_deref() != Some(&*pod.uid.0) => Some(failed.unwrap_or_else(|| "an older one is being replaced".into())),
        Some(_) => failed,
    }
}

/// Folds in an answer. A pod the watch does not know though it has told newer things than this is gone again.
pub fn answered(observed: &mut BTreeMap<PodKey, Observed>, object: Object, told: u64) {
    let meta = &object.metadata;
    let key = PodKey { namespace: meta.namespace.as_str().into(), name: meta.name.as_str().into() };
    if meta.version() > told || observed.contains_key(&key) {
        observe(observed, object, false);
    }
}

/// Folds in what a watch tells. Old news of another uid is none.
pub fn observe(observed: &mut BTreeMap<PodKey, Observed>, object: Object, gone: bool) {
    let key = PodKey { namespace: object.metadata.namespace.as_str().into(), name: object.metadata.name.as_str().into() };
    let news = Observed::from(object);
    let known = observed.get(&key);
    if known.is_some_and(|k| k.version > news.version) {
        return;
    }
    if !gone {
        observed.insert(key, news);
    } else if known.is_some_and(|k| k.uid == news.uid) {
        observed.remove(&key);
    }
}

#[cfg(test)]
#[path = "mirror/tests.rs"]
mod tests;
