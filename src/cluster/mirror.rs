//! Which mirror pods to make, to delete, to patch. Pure: what is published and what the API server has in, actions out.
//!
//! ```text
//!  published   at the API server                     action
//!  yes         nothing                               Create, once the Node object is known
//!  yes         a mirror of it                        Status, if that is known and differs
//!  yes         a mirror: other hash, other Node uid  Delete, then as "nothing"
//!  yes         a mirror that cannot say it any more  Delete, then as "nothing"
//!  yes         a mirror that is being deleted        Delete, then as "nothing"
//!  yes         the same, held by a finalizer         wait: it is somebody's to let go
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

/// A mirror that somebody else deleted is made again after this, ms: `kubectl delete` waits for its end, and may take one that is there again
/// at once for the one that is to go.
const ABSENT_MS: u64 = 500;
/// What was put right before and is otherwise again waits for so long, ms: somebody else wants it so.
const AGAIN_MS: u64 = 6_000;
/// A mirror that is to be replaced a second time within this is one of these, ms. Longer than a turn of all mirrors takes.
const CHURN_MS: u64 = 600_000;
/// Between two of these, whosever.
const ARGUE_MS: u64 = 2_500;
/// Nothing was found otherwise again for so long, which is longer than who wants it so would wait: all of these may be put right.
const PEACE_MS: u64 = 8_000;
/// Requests at once.
const AT_ONCE: usize = 8;

/// A pod of this node, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its hash.
    pub uid: Uid,
    /// Its status; `None`: nobody has looked yet what it is like, and what the API server shows of it stands.
    pub status: Option<Rc<Value>>,
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
    /// It is deleted but for its finalizers: these.
    pub held: Option<String>,
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
            held: o.metadata.held(),
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
    /// When somebody else's deletion of its mirror was last brought to its end.
    pub ended: Option<Moment>,
    /// The uid of a mirror whose status the server calls invalid: it cannot follow on the one that is there.
    pub unfit: Option<String>,
}

impl Memory {
    /// It may matter though nobody has a pod of that name now.
    pub fn lasts(&self, now: Moment) -> bool {
        self.in_flight || self.replaced.as_ref().is_some_and(|(_, at)| now.since_ms(*at) < CHURN_MS)
    }
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
    /// What somebody else wants otherwise.
    pub quarrel: &'a Quarrel,
}

/// Somebody else wants mirrors otherwise: another node of this name, a webhook, a controller. However many, it is argued about slowly,
/// until nobody does.
#[derive(Clone, Debug, Default)]
pub struct Quarrel {
    /// When one of them was last put right again.
    argued: Option<Moment>,
    /// When one of them was last found otherwise again.
    contested: Option<Moment>,
    /// Those that are otherwise, and at which version they were found so.
    found: BTreeMap<PodKey, u64>,
}

impl Quarrel {
    /// Learns from a plan that is carried out.
    pub fn note(&mut self, plan: &Plan, now: Moment) {
        if self.hears(&plan.contested) {
            self.contested = Some(now);
        }
        if plan.argues {
            self.argued = Some(now);
        }
        self.found.clone_from(&plan.contested);
    }

    fn hears(&self, contested: &BTreeMap<PodKey, u64>) -> bool {
        contested.iter().any(|(key, version)| self.found.get(key) != Some(version))
    }

    /// All of them may be put right, or one from that moment on.
    fn pace(&self, contested: &BTreeMap<PodKey, u64>, now: Moment) -> (bool, Moment) {
        let peace = !self.hears(contested) && self.contested.is_none_or(|at| now.since_ms(at) >= PEACE_MS);
        (peace, self.argued.map_or(now, |at| if peace { now } else { at + Duration::from_millis(ARGUE_MS) }))
    }
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
    /// What was put right before and is otherwise again, and its version.
    pub contested: BTreeMap<PodKey, u64>,
    /// One of the actions is about these.
    pub argues: bool,
    /// What failed about these is to be done no more.
    pub settled: Vec<PodKey>,
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
    let mut argued: Option<(Moment, &PodKey, Action)> = None;
    let memory = |key: &PodKey| sight.memory.get(key).unwrap_or(&fresh);
    let mut decided = Vec::new();
    for key in keys {
        match decide(&sight, key, memory(key), now) {
            Some(what) => decided.push((key, what)),
            None if memory(key).retry.failures > 0 && !memory(key).in_flight => plan.settled.push(key.clone()),
            None => {}
        }
    }
    let again_otherwise = decided.iter().filter(|(_, d)| d.before.is_some());
    plan.contested = again_otherwise.filter_map(|(key, _)| Some(((*key).clone(), sight.observed.get(*key)?.version))).collect();
    let (peace, calm) = sight.quarrel.pace(&plan.contested, now);
    for (key, Decided { action, from, before }) in decided {
        let memory = memory(key);
        if memory.in_flight {
            continue;
        }
        let pace = sight.paced.filter(|_| memory.retry.failures > 0);
        let due = memory.retry.due.max(from);
        let may = due.max(pace.unwrap_or_default()).max(before.map_or(now, |_| calm));
        if may > now {
            plan.wake = Some(plan.wake.map_or(may, |w| w.min(may)));
        } else if let Some(at) = before.filter(|_| !peace) {
            if argued.as_ref().is_none_or(|(oldest, ..)| at < *oldest) {
                argued = Some((at, key, action));
            }
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
    let argued = argued.filter(|_| room > 0).map(|(_, key, action)| (key.clone(), action));
    plan.argues = argued.is_some();
    plan.actions.extend(argued);
    plan
}

/// What to do about one name.
struct Decided {
    action: Action,
    /// From when on.
    from: Moment,
    /// It was done before, then, and is to be done again.
    before: Option<Moment>,
}

impl Decided {
    fn at(from: Moment, action: Action) -> Decided {
        Decided { action, from, before: None }
    }

    fn again(before: Moment, action: Action) -> Decided {
        Decided { action, from: before + Duration::from_millis(AGAIN_MS), before: Some(before) }
    }

    /// The first replacement by the same content is immediate; the next one waits.
    fn replacement(found: &Observed, memory: &Memory, hash: Option<&Uid>, now: Moment) -> Decided {
        let before = memory.replaced.as_ref().filter(|(last, at)| last.as_ref() == hash && now.since_ms(*at) < CHURN_MS);
        let action = Action::Delete { uid: found.uid.clone(), replaces: true };
        match before {
            Some((_, at)) => Decided::again(*at, action),
            None => Decided::at(now, action),
        }
    }
}

fn decide(sight: &Sight<'_>, key: &PodKey, memory: &Memory, now: Moment) -> Option<Decided> {
    let observed = sight.observed.get(key);
    let Some(pod) = sight.published.get(key) else {
        let orphan = observed.filter(|o| sight.complete && o.mirror.is_some() && o.held.is_none())?;
        return Some(Decided::replacement(orphan, memory, None, now));
    };
    let Some(found) = observed else {
        let from = memory.ended.map_or(now, |at| at + Duration::from_millis(ABSENT_MS));
        return (pod.wanted && sight.node.is_some()).then(|| Decided::at(from, Action::Create));
    };
    let mirror = found.mirror.as_deref()?;
    if found.deleting {
        let action = Action::Delete { uid: found.uid.clone(), replaces: false };
        return found.held.is_none().then(|| Decided::at(now, action));
    }
    let disowned = sight.node.is_some() && found.owner.as_deref() != sight.node;
    let unfit = memory.unfit.as_ref() == Some(&found.uid) && has_run(&found.status);
    if mirror != &*pod.uid.0 || disowned || unfit {
        return pod.wanted.then(|| Decided::replacement(found, memory, Some(&pod.uid), now));
    }
    let status = pod.status.as_ref()?;
    let patch = status_patch(status, &found.status, &found.uid)?;
    let action = Action::Status { uid: found.uid.clone(), patch, status: status.clone() };
    match memory.sent.as_ref().filter(|s| s.uid == found.uid && s.status == *status) {
        // It is what the server made of it: it writes something otherwise, or leaves a field out, and would do so again.
        Some(sent) if sent.version == Some(found.version) => None,
        // What was sent and is not there was changed by somebody else: no argument without pause.
        Some(sent) => Some(Decided::again(sent.at, action)),
        None => Some(Decided::at(now, action)),
    }
}

/// Containers are told of in it: where there are none, no status can be in the way of another.
fn has_run(status: &Value) -> bool {
    let told = |of: &str| status.get(of).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    told("containerStatuses") || told("initContainerStatuses")
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
        Some(Observed { held: Some(by), .. }) => Some(format!("the old one is deleted but for its finalizers: {by}")),
        Some(o) if o.mirror.as_deref() != Some(&*pod.uid.0) => Some(failed.unwrap_or_else(|| "an older one is being replaced".into())),
        Some(_) => failed,
    }
}

/// Folds in a list. What answers have told since it was asked for is newer; one that is older than what was told before is another
/// history, a backup that was restored.
pub fn listed(observed: &mut BTreeMap<PodKey, Observed>, objects: Vec<Object>, version: u64, told: u64) {
    if version < told {
        observed.clear();
    }
    let there: BTreeSet<&str> = objects.iter().map(|o| o.metadata.uid.as_str()).collect();
    observed.retain(|_, o| o.version > version || there.contains(o.uid.as_str()));
    objects.into_iter().for_each(|o| observe(observed, o, false));
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
