//! One pod as a decision sees it: what is wanted, seen and remembered of it, side by side. Reads; decides nothing.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerRestartRule;

use crate::clock::{Moment, Wall};
use crate::plan::admit::{self, Refusal};
use crate::plan::step::{Fate, fate};
use crate::plan::world::{ContainerMemory, Doom, Exit, PodMemory, PostStart, Sandbox, SeenContainer, SeenPod, State, Stop, Watch, World};
use crate::pod::{Kind, PodKey, RestartPolicy, Uid, WantedContainer, WantedPod};

/// What holds for all pods of one plan: built once, so that no pod looks through all others.
pub struct Scene<'a> {
    /// The world.
    pub world: &'a World,
    /// This instant.
    pub now: Moment,
    /// Wanted pods by uid.
    pub wanted: BTreeMap<&'a Uid, &'a WantedPod>,
    /// Pods seen under a full name whose manifest now asks for another uid, or for none.
    outgoing: BTreeMap<&'a PodKey, &'a Uid>,
    /// Shutdown: anything non-critical is still there.
    pub common_left: bool,
    refused: OnceCell<BTreeMap<Uid, Refusal>>,
    nothing: SeenPod,
    blank: PodMemory,
    unknown: ContainerMemory,
}

impl<'a> Scene<'a> {
    /// Reads the world once.
    pub fn new(world: &'a World, now: Moment) -> Scene<'a> {
        let wanted: BTreeMap<_, _> = world.wanted.pods.values().map(|p| (&p.uid, &**p)).collect();
        let mut outgoing = BTreeMap::new();
        let mut common_left = false;
        for (uid, seen) in &world.seen.pods {
            let pod = seen.made_from.as_deref().or(wanted.get(uid).copied());
            common_left |= !pod.is_some_and(|p| p.critical) && !is_at_rest(seen);
            if let Some(key) = seen.key.as_ref().filter(|_| !wanted.contains_key(uid) && !seen.is_logs_alone()) {
                outgoing.insert(key, uid);
            }
        }
        Scene {
            world,
            now,
            wanted,
            outgoing,
            common_left,
            refused: OnceCell::new(),
            nothing: SeenPod::default(),
            blank: PodMemory::default(),
            unknown: ContainerMemory::default(),
        }
    }

    /// One pod of it.
    pub fn pod(&'a self, uid: &'a Uid) -> View<'a> {
        let seen = self.world.seen.pods.get(uid);
        let wanted = self.wanted.get(uid).copied();
        let made_from = seen.and_then(|s| s.made_from.as_deref()).or(wanted);
        let memory = self.world.memory.pods.get(uid).unwrap_or(&self.blank);
        View {
            scene: self,
            uid,
            wanted,
            known: seen.is_some(),
            made_from,
            seen: seen.unwrap_or(&self.nothing),
            memory,
            round: seen.zip(made_from).and_then(|(seen, pod)| round(pod, seen, memory)),
        }
    }

    /// Why the node does not take a pod that is not there. Found out when first asked: a settled world never asks.
    pub fn refusal(&self, uid: &Uid) -> Option<&Refusal> {
        self.refused.get_or_init(|| admit::refusals(self)).get(uid)
    }

    /// The pod that still holds this pod's name.
    pub fn predecessor(&self, pod: &WantedPod) -> Option<&'a Uid> {
        self.outgoing.get(&pod.key).copied().filter(|uid| **uid != pod.uid)
    }
}

/// Nothing of the pod runs or is held: at most records of the dead are left.
pub fn is_at_rest(seen: &SeenPod) -> bool {
    seen.sandbox == Sandbox::Absent && seen.containers.values().all(|c| matches!(c.state, State::Dead(_)))
}

/// One pod.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// All of them.
    pub scene: &'a Scene<'a>,
    /// Its uid.
    pub uid: &'a Uid,
    /// As it should be; `None`: not at all.
    pub wanted: Option<&'a WantedPod>,
    /// Anything of it was seen.
    pub known: bool,
    /// As it was made, else as it should be.
    pub made_from: Option<&'a WantedPod>,
    /// What is there.
    pub seen: &'a SeenPod,
    /// What is remembered.
    pub memory: &'a PodMemory,
    /// When the end of a container last began a new round of all of them (`RestartAllContainers`).
    pub round: Option<Wall>,
}

impl<'a> View<'a> {
    /// This instant.
    pub fn now(&self) -> Moment {
        self.scene.now
    }

    /// Why it is not begun with, if it would be but for that.
    pub fn refusal(&self) -> Option<&'a Refusal> {
        let pod = self.wanted?;
        let begins = self.seen.sandbox == Sandbox::Absent && self.memory.in_flight.is_none() && !self.is_over(pod);
        if begins && matches!(fate(self), Fate::Run(_)) { self.scene.refusal(self.uid) } else { None }
    }

    /// The attempts of one container, oldest first by id order (ids carry the attempt, but only numbers are trusted).
    pub fn attempts(&self, name: &str) -> impl Iterator<Item = &'a SeenContainer> {
        self.seen.containers.values().filter(move |c| &*c.name == name)
    }

    /// The newest attempt of one container.
    pub fn latest(&self, name: &str) -> Option<&'a SeenContainer> {
        self.attempts(name).max_by_key(|c| c.attempt)
    }

    /// Whether an attempt is its container's newest.
    pub fn is_latest(&self, attempt: &SeenContainer) -> bool {
        self.latest(&attempt.name).is_some_and(|l| l.attempt == attempt.attempt)
    }

    /// Whether an attempt was made in the sandbox that is there now, and in its present round.
    pub fn is_present(&self, attempt: &SeenContainer) -> bool {
        in_sandbox(attempt, &self.seen.sandbox) && !self.is_passed_over(attempt)
    }

    /// Whether an attempt is of an earlier round of this sandbox: ended, if it still runs, and followed by another whatever its
    /// policy says.
    pub fn is_passed_over(&self, attempt: &SeenContainer) -> bool {
        self.round.is_some_and(|began| attempt.created <= began) && in_sandbox(attempt, &self.seen.sandbox)
    }

    /// Not every container has come to the present round yet.
    pub fn is_restarting(&self) -> bool {
        self.round.is_some() && self.seen.containers.values().any(|c| self.is_latest(c) && self.is_passed_over(c))
    }

    /// The newest attempt, if it was made in the present sandbox.
    pub fn present(&self, name: &str) -> Option<&'a SeenContainer> {
        self.latest(name).filter(|c| self.is_present(c))
    }

    /// The attempt that ran when it was last seen, of a container of which there is no record any more.
    pub fn vanished(&self, name: &str) -> Option<u32> {
        let memory = self.container(name);
        memory.ran.filter(|ran| self.latest(name).is_none() && memory.exit.is_none_or(|(ended, _)| ended != *ran))
    }

    /// Memory of one container.
    pub fn container(&self, name: &str) -> &'a ContainerMemory {
        self.memory.containers.get(name).unwrap_or(&self.scene.unknown)
    }

    /// How far the stopping of one attempt is.
    pub fn stop(&self, attempt: &SeenContainer) -> Option<&'a Stop> {
        self.memory.stops.get(&attempt.id)
    }

    /// The probes of one attempt.
    pub fn watch(&self, attempt: &SeenContainer) -> Option<&'a Watch> {
        self.container(&attempt.name).watch.as_deref().filter(|w| w.id == attempt.id)
    }

    /// Why one attempt is to be ended although it is wanted.
    pub fn doom(&self, attempt: &SeenContainer) -> Option<&'a Doom> {
        self.container(&attempt.name).doom.as_deref().filter(|d| d.id == attempt.id)
    }

    /// The postStart hook of one attempt, while it is not over.
    pub fn post_start(&self, attempt: &SeenContainer) -> Option<&'a PostStart> {
        self.container(&attempt.name).post_start.as_ref().filter(|h| h.id == attempt.id && !h.done)
    }

    /// It runs, and its postStart hook is over.
    fn is_up(&self, attempt: &SeenContainer) -> bool {
        matches!(attempt.state, State::Running { .. }) && self.post_start(attempt).is_none()
    }

    /// It is up, and its startup probe, if any, has passed: what comes after a sidecar waits for that.
    pub fn has_started(&self, attempt: &SeenContainer) -> bool {
        self.is_up(attempt) && self.watch(attempt).is_none_or(Watch::has_started)
    }

    /// `started`, as status shows it.
    pub fn is_started(&self, attempt: &SeenContainer) -> bool {
        self.is_up(attempt) && self.watch(attempt).is_none_or(Watch::is_started)
    }

    /// It is started, and its readiness probe, if any, has passed.
    pub fn is_ready(&self, attempt: &SeenContainer) -> bool {
        self.is_started(attempt) && self.watch(attempt).is_none_or(Watch::is_ready)
    }

    /// Whether an attempt that ended so is followed by another. One that a probe ended follows its policy alone, and not by
    /// its exit code (kubelet: it is killed and restarted in one go).
    pub fn restarts(&self, pod: &WantedPod, container: &WantedContainer, attempt: &SeenContainer, exit: &Exit) -> bool {
        match self.doom(attempt) {
            _ if self.is_passed_over(attempt) => true,
            Some(Doom { probe: Some(_), .. }) => container.restart != RestartPolicy::Never,
            _ => restarts(pod, container, exit),
        }
    }

    /// When `activeDeadlineSeconds` are over.
    pub fn deadline(&self, pod: &WantedPod) -> Option<Moment> {
        let ms = u64::from(pod.active_deadline_s?) * 1000;
        Some(Moment(self.memory.began.unwrap_or(self.now()).0.saturating_add(ms)))
    }

    /// It ran longer than it may.
    pub fn is_overdue(&self, pod: &WantedPod) -> bool {
        self.deadline(pod).is_some_and(|at| at <= self.now())
    }

    /// When the newest attempt ended, as a moment of this boot.
    pub fn ended_at(&self, attempt: &SeenContainer) -> Moment {
        match self.container(&attempt.name).exit {
            Some((n, at)) if n == attempt.attempt => at,
            _ => self.now(),
        }
    }

    /// A shutdown has ended it, and nothing of it runs any more.
    pub fn is_shut_down(&self, pod: &WantedPod) -> bool {
        let Some(shutdown) = self.scene.world.wanted.shutdown.as_ref().filter(|_| self.wanted.is_some()) else { return false };
        let ended = |c: &SeenContainer| self.stop(c).and_then(|s| s.hook.or(s.asked)).is_some_and(|at| at >= shutdown.since);
        is_at_rest(self.seen) && (!self.is_over(pod) || self.seen.containers.values().any(ended))
    }

    /// The pod has run its course: it will not run again (`Succeeded` or `Failed`), as far as what is seen tells.
    pub fn is_over(&self, pod: &WantedPod) -> bool {
        if self.failed_init(pod).is_some() || self.is_overdue(pod) {
            return true;
        }
        let mut mains = pod.containers.iter().filter(|c| c.kind == Kind::Main);
        let ended =
            |c: &WantedContainer| self.latest(&c.name).is_some_and(|a| exit(&a.state).is_some_and(|e| !self.restarts(pod, c, a, e)));
        if mains.clone().all(ended) {
            return true;
        }
        // A pod that never restarts gets no second sandbox once a container of it has run (kubelet, computePodActions): what had
        // not started when the sandbox went never will.
        let gone = !matches!(self.seen.sandbox, Sandbox::Ready { .. });
        gone && mains.clone().all(|c| c.restart == RestartPolicy::Never) && mains.any(ended)
    }

    /// The init container whose failure is the end of the pod.
    pub fn failed_init(&self, pod: &'a WantedPod) -> Option<&'a WantedContainer> {
        let failed = |c: &WantedContainer| {
            let ended = self.latest(&c.name).filter(|a| !self.is_passed_over(a)).and_then(|a| exit(&a.state));
            ended.is_some_and(|e| is_failure(e) && !restarts(pod, c, e))
        };
        pod.containers.iter().filter(|c| c.kind == Kind::Init).find(|c| failed(c))
    }
}

/// Whether an attempt was made in this sandbox.
pub fn in_sandbox(attempt: &SeenContainer, sandbox: &Sandbox) -> bool {
    match (sandbox, attempt.sandbox) {
        (Sandbox::Ready { since, .. }, Some(made)) => made == *since,
        (Sandbox::Ready { .. }, None) => true,
        (Sandbox::Absent | Sandbox::Partial, _) => false,
    }
}

/// The rule for an end: the first that matches (KEP-5307, KEP-5532).
fn matching_rule<'a>(pod: &'a WantedPod, name: &str, exit: &Exit) -> Option<&'a ContainerRestartRule> {
    let listed = |codes: &Option<Vec<i32>>| codes.iter().flatten().any(|c| u32::try_from(*c) == Ok(exit.code));
    let matches = |rule: &&ContainerRestartRule| rule.exit_codes.as_ref().is_some_and(|on| (on.operator == "In") == listed(&on.values));
    pod.container(name)?.restart_policy_rules.iter().flatten().find(matches)
}

/// See `View::round`. The ends of those that a round ended begin no other, whatever their rules say: nor do ends by a probe.
fn round(pod: &WantedPod, seen: &SeenPod, memory: &PodMemory) -> Option<Wall> {
    const ALL: &str = "RestartAllContainers";
    let spec = pod.object.spec.as_ref()?;
    let rules = spec.init_containers.iter().flatten().chain(&spec.containers).flat_map(|c| c.restart_policy_rules.iter().flatten());
    if !rules.into_iter().any(|r| r.action == ALL) {
        return None;
    }
    let is_doomed = |c: &SeenContainer| memory.containers.get(&c.name).and_then(|m| m.doom.as_ref()).is_some_and(|d| d.id == c.id);
    let own = seen.containers.values().filter(|c| in_sandbox(c, &seen.sandbox) && !is_doomed(c));
    let asks = |c: &SeenContainer, exit: &Exit| matching_rule(pod, &c.name, exit).is_some_and(|r| r.action == ALL);
    let ends = own.filter_map(|c| exit(&c.state).filter(|e| asks(c, e)).map(|e| (e.finished, c.created)));
    let mut ends: Vec<(Wall, Wall)> = ends.collect();
    ends.sort_unstable();
    ends.into_iter().fold(None, |began, (finished, created)| match began {
        Some(began) if created <= began => Some(began),
        _ => Some(finished),
    })
}

/// How an attempt ended, once that is certain (`Lost` is not: `DeleteTask` finds out).
pub fn exit(state: &State) -> Option<&Exit> {
    match state {
        State::Exited(exit) | State::Dead(exit) => Some(exit),
        State::Record | State::Created | State::Running { .. } | State::Lost(_) => None,
    }
}

/// An init container's failure: OOM counts even with exit 0 (kubelet, `isInitContainerFailed`).
pub fn is_failure(exit: &Exit) -> bool {
    exit.code != 0 || &*exit.reason == "OOMKilled"
}

/// Whether a container that ended so is started again: the first matching rule, else the policy (KEP-5307).
pub fn restarts(pod: &WantedPod, container: &WantedContainer, exit: &Exit) -> bool {
    if container.kind == Kind::Init && !is_failure(exit) {
        return false;
    }
    if matching_rule(pod, &container.name, exit).is_some() {
        return true;
    }
    match container.restart {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit.code != 0 || container.kind == Kind::Init,
        RestartPolicy::Never => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::json;

    /// Whether a container with these fields, in a pod of that policy, runs again after an end of that code.
    fn again(part: &str, pod_policy: &str, fields: serde_json::Value, code: u32, reason: &str) -> bool {
        let mut container = json!({ "name": "c" });
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let object = json!({ "metadata": { "name": "p", "uid": "u" }, "spec": { "restartPolicy": pod_policy, part: [container] } });
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        let exit = Exit { code, started: None, finished: Wall(1), reason: reason.into(), message: None };
        restarts(&pod, pod.containers.iter().find(|c| &*c.name == "c").unwrap(), &exit)
    }

    #[test]
    fn the_first_matching_rule_goes_before_the_containers_policy_and_that_before_the_pods() {
        let rules = |operator: &str, codes: &[i32]| json!({ "restartPolicy": "Never", "restartPolicyRules": [{ "action": "Restart", "exitCodes": { "operator": operator, "values": codes } }] });
        for (fields, code, want) in [
            (json!({}), 0, true),
            (json!({ "restartPolicy": "OnFailure" }), 0, false),
            (json!({ "restartPolicy": "OnFailure" }), 1, true),
            (json!({ "restartPolicy": "Never" }), 1, false),
            (rules("In", &[42, 43]), 43, true),
            (rules("In", &[42, 43]), 1, false),
            (rules("NotIn", &[0, 1]), 1, false),
            (rules("NotIn", &[0, 1]), 137, true),
            (rules("NotIn", &[]), 0, true),
        ] {
            assert_eq!(again("containers", "Always", fields.clone(), code, "Error"), want, "{fields} {code}");
        }
        assert!(again("containers", "Never", json!({ "restartPolicy": "Always" }), 0, "Completed"));
        assert!(!again("containers", "OnFailure", json!({}), 0, "Completed"));
    }

    #[test]
    fn an_init_container_is_retried_until_it_succeeds_and_a_sidecar_for_ever() {
        for (policy, fields, code, reason, want) in [
            ("Always", json!({}), 0, "Completed", false),
            ("Always", json!({}), 1, "Error", true),
            ("OnFailure", json!({}), 0, "OOMKilled", true),
            ("Never", json!({}), 1, "Error", false),
            ("Never", json!({ "restartPolicy": "OnFailure" }), 1, "Error", true),
            ("Never", json!({ "restartPolicy": "Always" }), 0, "Completed", true),
        ] {
            assert_eq!(again("initContainers", policy, fields.clone(), code, reason), want, "{policy} {fields} {code} {reason}");
        }
    }
}
