//! The decision table, row by row, and what surprises it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::json;

use super::*;

const NODE: &str = "node-uid";

struct Case {
    published: BTreeMap<PodKey, Published>,
    observed: BTreeMap<PodKey, Observed>,
    memory: BTreeMap<PodKey, Memory>,
    complete: bool,
    node: Option<&'static str>,
    paced: Option<Moment>,
    quarrel: Quarrel,
}

fn key() -> PodKey {
    PodKey { namespace: "default".into(), name: "web-n".into() }
}

fn status(phase: &str) -> Rc<Value> {
    Rc::new(json!({"phase": phase}))
}

fn mirror() -> Observed {
    Observed {
        uid: "api-1".into(),
        version: 7,
        mirror: Some("h1".into()),
        deleting: false,
        held: None,
        owner: Some(NODE.into()),
        status: json!({"phase": "Running"}),
    }
}

impl Case {
    fn new(observed: Option<Observed>) -> Case {
        let pod = Published { uid: Uid("h1".into()), status: Some(status("Running")), wanted: true };
        Case {
            published: BTreeMap::from([(key(), pod)]),
            observed: observed.map(|o| (key(), o)).into_iter().collect(),
            memory: BTreeMap::new(),
            complete: true,
            node: Some(NODE),
            paced: Some(Moment(0)),
            quarrel: Quarrel::default(),
        }
    }

    fn unpublished(observed: Observed) -> Case {
        Case { published: BTreeMap::new(), ..Case::new(Some(observed)) }
    }

    fn sight(&self) -> Sight<'_> {
        let Case { published, observed, memory, complete, node, paced, quarrel } = self;
        Sight { published, complete: *complete, observed, node: *node, memory, paced: *paced, quarrel }
    }

    fn plan(&self, now: u64) -> Plan {
        plan(self.sight(), Moment(now))
    }

    fn action(&self, now: u64) -> Option<Action> {
        self.plan(now).actions.pop().map(|(_, action)| action)
    }
}

fn deletes(action: Option<Action>) -> bool {
    matches!(action, Some(Action::Delete { uid, .. }) if uid == "api-1")
}

fn waits(until: u64) -> Plan {
    Plan { wake: Some(Moment(until)), ..Plan::default() }
}

#[test]
fn a_pod_without_a_mirror_gets_one_once_its_node_is_known() {
    let mut case = Case::new(None);
    assert_eq!(case.action(0), Some(Action::Create));
    case.node = None;
    assert_eq!(case.plan(0), Plan::default());
    assert!(lacks(&case.sight(), &key()).unwrap().contains("Node object"));
}

#[test]
fn a_mirror_that_shows_its_pod_is_left_in_peace() {
    assert_eq!(Case::new(Some(mirror())).plan(0), Plan::default());
}

#[test]
fn a_mirror_of_other_content_or_of_an_older_node_is_replaced() {
    assert!(deletes(Case::new(Some(Observed { mirror: Some("h0".into()), ..mirror() })).action(0)));
    assert!(deletes(Case::new(Some(Observed { owner: Some("older".into()), ..mirror() })).action(0)));
    assert!(deletes(Case::new(Some(Observed { deleting: true, ..mirror() })).action(0)));
}

#[test]
fn while_the_node_object_is_gone_its_mirrors_are_not_disowned() {
    assert_eq!(Case { node: None, ..Case::new(Some(mirror())) }.plan(0), Plan::default());
}

#[test]
fn a_foreign_pod_of_that_name_is_never_touched() {
    let case = Case::new(Some(Observed { mirror: None, deleting: true, ..mirror() }));
    assert_eq!(case.plan(0), Plan::default());
    assert!(lacks(&case.sight(), &key()).unwrap().contains("no mirror pod"));
    assert_eq!(Case::unpublished(Observed { mirror: None, ..mirror() }).plan(0), Plan::default());
}

#[test]
fn an_orphan_goes_but_not_before_all_layers_were_read() {
    let mut case = Case::unpublished(mirror());
    assert!(deletes(case.action(0)));
    case.complete = false;
    assert_eq!(case.plan(0), Plan::default());
}

#[test]
fn a_pod_on_its_way_out_keeps_its_mirror_and_gets_no_other() {
    let mut case = Case::new(Some(mirror()));
    case.published.get_mut(&key()).unwrap().wanted = false;
    assert_eq!(case.plan(0), Plan::default());
    case.observed.clear();
    assert_eq!(case.plan(0), Plan::default());
}

#[test]
fn a_status_is_sent_at_once_and_not_argued_about() {
    let mut case = Case::new(Some(Observed { status: json!({"phase": "Pending"}), ..mirror() }));
    assert!(matches!(case.action(5), Some(Action::Status { .. })));
    // It was sent, and somebody changed it back.
    let sent = |version| Some(Sent { uid: "api-1".into(), status: status("Running"), at: Moment(5), version });
    case.memory.insert(key(), Memory { sent: sent(Some(6)), ..Memory::default() });
    assert_eq!(case.plan(100).wake, Some(Moment(6_005)));
    assert!(matches!(case.action(6_005), Some(Action::Status { .. })));
    // That is what the server makes of it: it is not sent for ever.
    case.memory.insert(key(), Memory { sent: sent(Some(7)), ..Memory::default() });
    assert_eq!(case.plan(6_005), Plan::default());
    // Another status does not wait for that.
    case.published.get_mut(&key()).unwrap().status = Some(status("Failed"));
    assert!(matches!(case.action(100), Some(Action::Status { .. })));
}

#[test]
fn a_status_nobody_has_looked_at_yet_is_not_sent_and_its_mirror_is_kept() {
    let mut case = Case::new(Some(Observed { status: json!({"phase": "Pending"}), ..mirror() }));
    case.published.get_mut(&key()).unwrap().status = None;
    assert_eq!(case.plan(0), Plan::default());
    assert_eq!(lacks(&case.sight(), &key()), None);
    case.observed.clear();
    assert_eq!(case.action(0), Some(Action::Create));
}

#[test]
fn a_mirror_that_somebody_deleted_is_gone_for_a_moment() {
    let mut case = Case::new(None);
    case.memory.insert(key(), Memory { ended: Some(Moment(1000)), ..Memory::default() });
    assert_eq!((case.plan(1100).actions.len(), case.plan(1100).wake), (0, Some(Moment(1500))));
    assert_eq!(case.action(1500), Some(Action::Create));
}

#[test]
fn a_mirror_that_somebody_keeps_replacing_is_replaced_with_pauses() {
    let mut case = Case::new(Some(Observed { mirror: Some("theirs".into()), ..mirror() }));
    case.memory.insert(key(), Memory { replaced: Some((Some(Uid("h1".into())), Moment(1000))), ..Memory::default() });
    assert_eq!((case.plan(1500).wake, case.plan(1500).actions.len()), (Some(Moment(7_000)), 0));
    assert!(deletes(case.action(7_000)));
    // An edit of our own is no quarrel.
    case.published.get_mut(&key()).unwrap().uid = Uid("h2".into());
    assert!(deletes(case.action(1500)));
}

#[test]
fn many_that_somebody_keeps_replacing_are_replaced_one_by_one_until_nobody_does() {
    let mut case = Case::new(None);
    case.published.clear();
    let named = |i: u64| PodKey { namespace: "default".into(), name: format!("p{i:02}").into() };
    for i in 0..30 {
        case.observed.insert(named(i), mirror());
        case.memory.insert(named(i), Memory { replaced: Some((None, Moment(1000 - i))), ..Memory::default() });
    }
    let turn = |case: &mut Case, now| {
        let plan = case.plan(now);
        case.quarrel.note(&plan, Moment(now));
        plan.actions.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    // It is known from the first look on; the oldest goes first, and no next one soon after.
    assert_eq!(turn(&mut case, 2_000), []);
    assert_eq!(turn(&mut case, 7_000), [named(29)]);
    case.observed.remove(&named(29));
    case.memory.insert(named(29), Memory { replaced: Some((None, Moment(7_000))), ..Memory::default() });
    assert_eq!((turn(&mut case, 7_500), case.plan(7_500).wake), (vec![], Some(Moment(9_500))));
    assert_eq!(turn(&mut case, 9_500), [named(28)]);
    case.observed.remove(&named(28));
    // There it is again: somebody else goes on.
    case.observed.insert(named(29), Observed { version: 8, ..mirror() });
    assert_eq!(turn(&mut case, 9_900), []);
    assert_eq!(turn(&mut case, 17_000).len(), 1);
    // Nobody did for a while: nobody wants them otherwise any more.
    assert_eq!(turn(&mut case, 17_900).len(), AT_ONCE);
}

#[test]
fn a_mirror_whose_status_cannot_follow_on_what_it_says_is_replaced() {
    let exited = json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]});
    let mut case = Case::new(Some(Observed { status: exited, ..mirror() }));
    assert!(matches!(case.action(0), Some(Action::Status { .. })));
    case.memory.insert(key(), Memory { unfit: Some("api-1".into()), ..Memory::default() });
    assert!(deletes(case.action(0)));
    // One that says nothing yet is in no status's way.
    case.observed.get_mut(&key()).unwrap().status = json!({"phase": "Pending"});
    assert!(matches!(case.action(0), Some(Action::Status { .. })));
    case.memory.insert(key(), Memory { unfit: Some("older".into()), ..Memory::default() });
    assert!(matches!(case.action(0), Some(Action::Status { .. })));
}

#[test]
fn a_mirror_that_a_finalizer_holds_is_waited_for() {
    let mut case = Case::new(Some(Observed { deleting: true, held: Some("example.com/own".into()), ..mirror() }));
    assert_eq!(case.plan(0), Plan::default());
    assert!(lacks(&case.sight(), &key()).unwrap().contains("example.com/own"));
    case.published.clear();
    assert_eq!(case.plan(0), Plan::default());
}

#[test]
fn a_list_older_than_what_was_told_is_all_there_is() {
    let mut observed = BTreeMap::new();
    observe(&mut observed, object("new", 90), false);
    listed(&mut observed, vec![], 80, 70);
    assert_eq!(observed.len(), 1, "an answer told of it after the list was asked for");
    listed(&mut observed, vec![object("old", 8)], 10, 80);
    assert_eq!((observed.len(), &*observed[&key()].uid), (1, "old"));
    listed(&mut observed, vec![], 11, 10);
    assert!(observed.is_empty());
}

#[test]
fn what_failed_waits_and_one_request_at_a_time_is_made() {
    let mut case = Case::new(None);
    let mut memory = Memory::default();
    memory.retry.fail("namespaces \"nope\" not found".into(), Duration::ZERO, Moment(0));
    case.memory.insert(key(), memory);
    let wake = case.plan(0).wake.unwrap();
    assert_eq!(case.action(0), None);
    assert_eq!(case.action(wake.0), Some(Action::Create));
    assert!(lacks(&case.sight(), &key()).unwrap().contains("nope"));
    case.memory.get_mut(&key()).unwrap().in_flight = true;
    assert_eq!(case.plan(wake.0), Plan::default());
}

#[test]
fn what_failed_and_is_there_after_all_has_failed_no_more() {
    let mut case = Case::new(Some(Observed { status: (*status("Running")).clone(), ..mirror() }));
    let mut memory = Memory::default();
    memory.retry.fail("already exists".into(), Duration::ZERO, Moment(0));
    case.memory.insert(key(), memory);
    assert_eq!(case.plan(100).settled, [key()]);
    case.observed.clear();
    assert_eq!(case.plan(100).settled, []);
}

#[test]
fn a_hundred_mirrors_are_not_made_all_at_once() {
    let mut case = Case::new(None);
    for i in 0..110 {
        let key = PodKey { namespace: "default".into(), name: format!("p{i}").into() };
        case.published.insert(key, case.published[&self::key()].clone());
    }
    assert_eq!(case.plan(0).actions.len(), AT_ONCE);
}

#[test]
fn refused_pods_are_tried_again_one_by_one_the_longest_waiting_first() {
    let mut case = Case::new(None);
    for i in 0..30 {
        let key = PodKey { namespace: "default".into(), name: format!("p{i:02}").into() };
        case.published.insert(key.clone(), case.published[&self::key()].clone());
        let retry = Retry { failures: 3, due: Moment(1000 - i), why: "exceeded quota".into() };
        case.memory.insert(key, Memory { retry, ..Memory::default() });
    }
    case.published.remove(&key());
    assert_eq!(case.plan(1000).actions, [(PodKey { namespace: "default".into(), name: "p29".into() }, Action::Create)]);
    case.paced = Some(Moment(1200));
    assert_eq!(case.plan(1000), waits(1200));
    case.paced = Some(Moment(0));
    let last = case.memory.keys().next_back().unwrap().clone();
    case.memory.get_mut(&last).unwrap().in_flight = true;
    assert_eq!(case.plan(1000).actions, []);
    case.paced = None;
    assert_eq!(case.plan(1000).actions.len(), AT_ONCE - 1);
    case.paced = Some(Moment(0));
    // A pod that was never refused does not stand in that queue.
    case.published.insert(key(), Published { uid: Uid("h1".into()), status: Some(status("Running")), wanted: true });
    assert_eq!(case.plan(1000).actions, [(key(), Action::Create)]);
}

fn object(uid: &str, version: u64) -> Object {
    let text = json!({"metadata": {"namespace": "default", "name": "web-n", "uid": uid, "resourceVersion": version.to_string(),
        "annotations": {"kubernetes.io/config.mirror": "h1"}}});
    serde_json::from_value(text).unwrap()
}

#[test]
fn an_answer_that_comes_after_the_news_of_its_end_brings_nothing_back() {
    let mut observed = BTreeMap::new();
    answered(&mut observed, object("new", 9), 11);
    assert!(observed.is_empty());
    answered(&mut observed, object("new", 12), 11);
    assert_eq!(observed[&key()].uid, "new");
    answered(&mut observed, object("new", 13), 20);
    assert_eq!(observed[&key()].version, 13);
}

#[test]
fn old_news_of_a_pod_that_was_replaced_changes_nothing() {
    let mut observed = BTreeMap::new();
    observe(&mut observed, object("new", 9), false);
    observe(&mut observed, object("old", 8), false);
    assert_eq!(observed[&key()].uid, "new");
    observe(&mut observed, object("old", 10), true);
    assert_eq!(observed[&key()].uid, "new");
    observe(&mut observed, object("new", 11), true);
    assert!(observed.is_empty());
}
