#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::manifest::identity::SEEN;
use crate::pod::Origin;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::path::Path;

const LOW: &str = "/usr/m";
const HIGH: &str = "/etc/m";

fn pod(layer: &str, file: &str, name: &str, content: &str) -> Rc<WantedPod> {
    let mut object = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
    object.metadata.name = Some(name.into());
    object.metadata.uid = Some(format!("{name}-{content}"));
    if content == "sealed" {
        object.metadata.annotations = Some([(rivals::SEALED.to_owned(), "true".to_owned())].into());
    }
    let origin = Origin { layer: layer.into(), path: Path::new(layer).join(file), line: 1 };
    Rc::new(WantedPod::from_object(object, origin).unwrap())
}

fn oops() -> Finding {
    Finding { message: "bad".into(), line: 3, column: 1, ..Finding::default() }
}

/// `a=x:1,y:2 b=! c=mask d=x:1,! e=? f=unreadable`: file = pods name:content, `!` an error, `?` not a manifest.
fn entries(layer: &str, text: &str) -> Vec<Entry> {
    let entry = |word: &str| {
        let (file, says) = word.split_once('=').unwrap();
        let mut revision = Revision::default();
        for part in says.split(',') {
            match part.split_once(':') {
                Some((name, content)) => revision.pods.push(pod(layer, file, name, content)),
                None if part == "!" => revision.errors.push(oops()),
                None => {}
            }
        }
        let kind = match says {
            "mask" => Kind::Mask,
            "?" => Kind::NotManifest,
            "unreadable" => Kind::Unreadable("denied".into()),
            _ => Kind::Manifest(Rc::new(revision)),
        };
        Entry { name: file.into(), kind }
    };
    text.split_whitespace().map(entry).collect()
}

fn listing(layer: &str, state: State) -> Listing {
    Listing { layer: layer.into(), dir: layer.into(), state }
}

fn listed(layer: &str, text: &str) -> Listing {
    listing(layer, State::Listed(entries(layer, text)))
}

struct Node {
    memory: Memory,
    last: Decision,
}

impl Node {
    fn new() -> Node {
        Node { memory: Memory::default(), last: Decision::default() }
    }
    fn at(&mut self, s: u64, listings: &[Listing]) -> String {
        self.last = decide(listings, &mut self.memory, Moment(s * 1000));
        self.pods()
    }
    fn see(&mut self, low: &str, high: &str) -> String {
        self.at(0, &[listed(LOW, low), listed(HIGH, high)])
    }
    /// Uids wanted, by name.
    fn pods(&self) -> String {
        self.last.pods.values().map(|p| p.uid.to_string()).collect::<Vec<_>>().join(" ")
    }
    fn report(&self, path: &str) -> &FileReport {
        self.last.reports.iter().find(|r| r.path == Path::new(path)).unwrap()
    }
}

fn see(low: &str, high: &str) -> String {
    Node::new().see(low, high)
}

#[test]
fn higher_layer_wins_a_file_name() {
    let mut n = Node::new();
    assert_eq!(n.see("a=x:1 b=y:1", "a=x:2"), "x-2 y-1");
    let r = n.report("/usr/m/a");
    assert_eq!((r.verdict, r.by.as_deref(), r.pods.len()), (Verdict::Overridden, Some(Path::new("/etc/m/a")), 0));
    assert_eq!(n.report("/etc/m/a").verdict, Verdict::Accepted);
}

#[test]
fn override_with_another_pod_drops_the_lower_one() {
    assert_eq!(see("a=x:1", "a=z:1"), "z-1");
}

#[test]
fn mask_hides_lower_layers_only() {
    let mut n = Node::new();
    assert_eq!(n.see("a=x:1 b=mask", "a=mask b=y:1"), "y-1");
    assert_eq!(n.report("/usr/m/a").verdict, Verdict::Masked);
    assert_eq!(n.report("/usr/m/a").by.as_deref(), Some(Path::new("/etc/m/a")));
    assert_eq!(n.report("/etc/m/a").verdict, Verdict::Mask);
}

#[test]
fn broken_file_keeps_its_last_good_revision() {
    let mut n = Node::new();
    n.see("", "a=x:1");
    assert_eq!(n.see("", "a=!"), "x-1");
    let r = n.report("/etc/m/a");
    assert_eq!((r.verdict, r.stale, r.errors.len(), r.pods.len()), (Verdict::Rejected, true, 1, 1));
    assert_eq!(n.see("", "a=unreadable"), "x-1");
    assert_eq!(n.see("", "a=x:2"), "x-2");
    assert!(!n.report("/etc/m/a").stale);
    assert_eq!(n.see("", "a=!"), "x-2", "the last good one, not the first");
}

#[test]
fn broken_override_keeps_hiding_what_it_hid_while_good() {
    let mut n = Node::new();
    n.see("a=x:1", "a=x:2");
    assert_eq!(n.see("a=x:1", "a=!"), "x-2");
    assert_eq!(n.report("/usr/m/a").verdict, Verdict::Overridden);
}

#[test]
fn broken_override_that_never_was_good_hides_nothing() {
    let mut n = Node::new();
    assert_eq!(n.see("a=x:1", "a=!"), "x-1");
    assert_eq!(n.report("/usr/m/a").verdict, Verdict::Accepted);
    assert_eq!((n.report("/etc/m/a").verdict, n.report("/etc/m/a").stale), (Verdict::Rejected, false));
    assert_eq!(see("a=x:1,y:1", "a=x:2,!"), "x-2 y-1", "one good document replaces its pod, the other shows through");
    assert_eq!(see("a=x:1", "a=unreadable"), "x-1");
}

#[test]
fn broken_document_costs_only_itself() {
    let mut n = Node::new();
    n.see("", "a=x:1,y:1");
    assert_eq!(n.see("", "a=x:2,!"), "x-2 y-1");
    let r = n.report("/etc/m/a");
    assert_eq!((r.verdict, r.stale, r.errors.len()), (Verdict::Accepted, true, 1));
    assert_eq!(n.see("", "a=!"), "x-2 y-1");
    assert_eq!(n.see("", "a=x:3"), "x-3", "a good file without y means it");
}

#[test]
fn deleted_file_takes_its_pods_along() {
    let mut n = Node::new();
    n.see("a=x:1", "b=y:1");
    n.see("a=x:1", "b=!");
    assert_eq!(n.see("a=x:1", ""), "x-1");
    assert_eq!(n.see("a=x:1", "b=!"), "x-1", "and its last good revision is forgotten");
}

#[test]
fn first_of_two_in_one_layer_wins_and_both_are_named() {
    let mut n = Node::new();
    assert_eq!(n.see("", "b=x:2 a=x:1"), "x-1");
    let r = n.report("/etc/m/b");
    assert_eq!((r.verdict, r.errors[0].line), (Verdict::Rejected, 1));
    assert!(r.errors[0].message.contains("/etc/m/a:1") && r.errors[0].message.contains("/etc/m/b:1"), "{}", r.errors[0].message);
    assert_eq!(n.see("", "a=x:1,x:2,z:1"), "x-1 z-1", "in one file too");
    assert_eq!(n.report("/etc/m/a").errors.len(), 1);
}

#[test]
fn higher_layer_wins_a_pod_name_with_a_warning() {
    let mut n = Node::new();
    assert_eq!(n.see("a=x:1", "b=x:2"), "x-2");
    for path in ["/usr/m/a", "/etc/m/b"] {
        let text = &n.report(path).warnings[0].message;
        assert!(text.contains("/usr/m/a:1") && text.contains("/etc/m/b:1"), "{text}");
    }
    assert_eq!(n.report("/etc/m/b").verdict, Verdict::Accepted);
}

#[test]
fn sealed_lower_pod_does_not_yield() {
    let mut n = Node::new();
    assert_eq!(n.see("a=x:sealed", "b=x:2,y:1"), "x-sealed y-1");
    let r = n.report("/etc/m/b");
    assert_eq!((r.verdict, r.errors.len(), r.pods.len()), (Verdict::Accepted, 1, 1));
    assert!(r.errors[0].message.contains("sealed"));
    assert_eq!(see("a=x:1", "b=x:sealed"), "x-sealed");
}

#[test]
fn a_file_with_a_sealed_pod_is_neither_overridden_nor_masked() {
    for (above, verb) in
        [("a=mask", "mask"), ("a=x:2,z:1", "override"), ("a=!", "override"), ("a=unreadable", "override"), ("a=z:1", "override")]
    {
        let mut n = Node::new();
        assert_eq!(n.see("a=x:sealed,y:1", above), "x-sealed y-1", "{above}");
        assert_eq!(n.report("/usr/m/a").verdict, Verdict::Accepted, "{above}");
        let r = n.report("/etc/m/a");
        assert_eq!((r.verdict, r.errors.len(), r.pods.len(), r.stale), (Verdict::Rejected, 1, 0, false), "{above}");
        let text = &r.errors[0].message;
        assert!(text.contains("sealed by /usr/m/a:1") && text.contains("/etc/m/a") && text.contains(verb), "{text}");
        assert!(n.last.complete, "{above}");
    }
    assert_eq!(see("a=x:sealed", "a=?"), "x-sealed");
    assert_eq!(see("a=x:1", "a=x:sealed"), "x-sealed", "a seal holds downwards only");
}

#[test]
fn a_sealed_file_that_breaks_stays_sealed_by_its_last_good_revision() {
    let mut n = Node::new();
    n.see("a=x:sealed", "");
    assert_eq!(n.see("a=!", "a=mask"), "x-sealed");
    assert_eq!(n.see("a=y:1", "a=mask"), "", "without a seal the mask counts");
}

#[test]
fn other_files_are_named_and_not_parsed() {
    let mut n = Node::new();
    assert_eq!(n.see("README=? a=x:1", "README=?"), "x-1");
    assert_eq!(n.report("/usr/m/README").verdict, Verdict::Ignored);
}

#[test]
fn missing_or_unreadable_layer_keeps_its_pods_and_masks_for_ever() {
    for state in [State::Missing, State::Emptied, State::Unreadable("denied".into())] {
        let mut n = Node::new();
        n.see("a=x:1 b=y:1", "a=mask c=z:1");
        for s in [1, 59, 61, 100_000] {
            assert_eq!(n.at(s, &[listed(LOW, "a=x:1 b=y:1"), listing(HIGH, state.clone())]), "y-1 z-1");
        }
        assert!(n.report("/etc/m/c").stale && n.report(HIGH).stale);
        assert_eq!(n.report(HIGH).errors.len() + n.report(HIGH).warnings.len(), 1);
    }
}

#[test]
fn removed_layer_keeps_its_pods_for_a_minute() {
    let mut n = Node::new();
    n.see("a=x:1", "a=mask c=z:1");
    let gone = || [listed(LOW, "a=x:1"), listing(HIGH, State::Removed)];
    assert_eq!(n.at(10, &gone()), "z-1");
    assert_eq!(n.report(HIGH).warnings.len(), 1);
    assert_eq!(n.memory.deadline(), Some(Moment(70_000)));
    assert_eq!(n.at(69, &gone()), "z-1");
    assert_eq!(n.at(70, &gone()), "x-1");
    assert_eq!(n.memory.deadline(), None);
}

#[test]
fn removed_layer_starts_its_minute_again_after_any_doubt() {
    let mut n = Node::new();
    n.see("", "c=z:1");
    n.at(10, &[listed(LOW, ""), listing(HIGH, State::Removed)]);
    n.at(50, &[listed(LOW, ""), listing(HIGH, State::Missing)]);
    assert_eq!(n.at(75, &[listed(LOW, ""), listing(HIGH, State::Removed)]), "z-1");
    assert_eq!(n.at(135, &[listed(LOW, ""), listing(HIGH, State::Removed)]), "");
}

#[test]
fn layer_that_never_was_there_is_no_news() {
    for state in [State::Removed, State::Missing] {
        let mut n = Node::new();
        assert_eq!(n.at(0, &[listed(LOW, "a=x:1"), listing(HIGH, state)]), "x-1");
        assert!(n.last.complete);
        assert_eq!(n.last.reports.len(), 1);
    }
}

#[test]
fn nothing_is_unwanted_while_something_is_unknown() {
    let mut n = Node::new();
    n.at(0, &[listed(LOW, "a=x:1"), listing(HIGH, State::Unreadable("denied".into()))]);
    assert!(!n.last.complete);
    n.see("a=x:1", "b=!");
    assert!(!n.last.complete, "b may be what runs from before");
    n.see("a=x:1", "b=y:1");
    assert!(n.last.complete);
    n.see("a=x:1", "b=!");
    assert!(n.last.complete);
}

#[test]
fn running_pods_are_the_last_good_revision_of_a_file_broken_before_start() {
    let mut n = Node::new();
    n.see("a=x:1", "b=! c=z:2,!");
    n.memory.adopt(&[pod(HIGH, "b", "y", "1"), pod(HIGH, "c", "z", "1"), pod(HIGH, "c", "q", "1"), pod(HIGH, "gone", "g", "1")]);
    n.memory.adopt(&[pod(LOW, "a", "x", "0")]);
    assert_eq!(n.see("a=x:1", "b=! c=z:2,!"), "q-1 x-1 y-1 z-2");
    assert!(n.last.complete && n.report("/etc/m/b").stale);
}

#[test]
fn what_a_file_asks_for_that_was_never_read_whole_stays_unknown_though_nothing_of_it_runs() {
    let mut n = Node::new();
    n.see("a=x:1", "b=!");
    n.memory.adopt(&[]);
    n.see("a=x:1", "b=!");
    assert!(n.last.complete && !n.last.whole);
    n.see("a=x:1", "b=y:1");
    assert!(n.last.whole);
}

#[test]
fn running_pods_of_a_layer_lost_before_start_stay() {
    let mut n = Node::new();
    let lost = [listed(LOW, ""), listing(HIGH, State::Unreadable("denied".into()))];
    n.at(0, &lost);
    n.memory.adopt(&[pod(HIGH, "b", "y", "1")]);
    assert_eq!(n.at(1, &lost), "y-1");
    assert!(n.last.complete);
    assert_eq!(n.see("", ""), "");
}

#[test]
fn of_two_running_pods_of_one_name_the_one_seen_later_counts() {
    let seen = |content: &str, when: &str| {
        let mut p = Rc::unwrap_or_clone(pod(HIGH, "b", "y", content));
        Rc::make_mut(&mut p.object).metadata.annotations = Some([(SEEN.to_owned(), when.to_owned())].into());
        Rc::new(p)
    };
    let (old, new) = (seen("1", "2026-01-01T00:00:00.000000000Z"), seen("2", "2026-01-02T00:00:00.000000000Z"));
    for running in [[old.clone(), new.clone()], [new, old]] {
        let mut n = Node::new();
        n.see("", "b=!");
        n.memory.adopt(&running);
        assert_eq!(n.see("", "b=!"), "y-2");
        assert_eq!(n.report("/etc/m/b").errors.len(), 1);
    }
}

mod any {
    use super::*;
    use proptest::prelude::*;

    fn layer_text() -> impl Strategy<Value = Vec<(usize, usize)>> {
        proptest::collection::vec((0..4usize, 0..9usize), 0..5)
    }

    fn text(words: &[(usize, usize)]) -> String {
        let says = ["x:1", "x:2", "y:1", "x:1,y:2", "!", "y:1,!", "mask", "unreadable", "x:sealed"];
        let mut seen = std::collections::BTreeMap::new();
        for (file, say) in words {
            seen.insert(["a", "b", "c", "d"][*file], says[*say]);
        }
        seen.iter().map(|(f, s)| format!("{f}={s}")).collect::<Vec<_>>().join(" ")
    }

    proptest! {
        #[test]
        fn breaking_a_file_costs_no_pod_and_deciding_twice_changes_nothing(low in layer_text(), high in layer_text(), which in 0..4usize) {
            let mut n = Node::new();
            let (low, high) = (text(&low), text(&high));
            n.see(&low, &high);
            let before: Vec<PodKey> = n.last.pods.keys().cloned().collect();
            let uids = n.pods();
            prop_assert_eq!(n.see(&low, &high), uids.clone());
            let file = ["a", "b", "c", "d"][which];
            let broken: Vec<String> = high
                .split_whitespace()
                .map(|w| if w.starts_with(file) && !w.ends_with("mask") { format!("{file}=!") } else { w.to_owned() })
                .collect();
            n.see(&low, &broken.join(" "));
            let after: Vec<PodKey> = n.last.pods.keys().cloned().collect();
            prop_assert_eq!(before, after);
            prop_assert_eq!(n.pods(), uids);
        }
    }
}

#[test]
fn an_image_is_named_by_every_file_that_is_there_hidden_or_not() {
    let of = |layer: &str, file: &str, name: &str, image: &str| {
        let volumes = serde_json::json!([{"name": "v", "image": {"reference": format!("{image}-volume")}}]);
        let spec = serde_json::json!({"containers": [{"name": "c", "image": image}], "volumes": volumes});
        let mut object = Pod { spec: Some(serde_json::from_value(spec).unwrap()), ..Pod::default() };
        (object.metadata.name, object.metadata.uid) = (Some(name.into()), Some(name.into()));
        let origin = Origin { layer: layer.into(), path: Path::new(layer).join(file), line: 1 };
        let pods = vec![Rc::new(WantedPod::from_object(object, origin).unwrap())];
        Entry { name: file.into(), kind: Kind::Manifest(Rc::new(Revision { pods, ..Revision::default() })) }
    };
    let entry = |file: &str, kind| Entry { name: file.into(), kind };
    let low =
        vec![of(LOW, "a", "a", "docker.io/h/low-a:1"), of(LOW, "b", "b", "docker.io/h/low-b:1"), of(LOW, "c", "c", "docker.io/h/low-c:1")];
    let high = vec![of(HIGH, "a", "a", "docker.io/h/high-a:1"), entry("b", Kind::Mask), of(HIGH, "d", "c", "docker.io/h/high-c:1")];
    let mut n = Node::new();
    n.at(0, &[listing(LOW, State::Listed(low)), listing(HIGH, State::Listed(high))]);
    let named = |n: &Node| n.memory.images().map(|i| i.to_string()).collect::<BTreeSet<_>>();
    let files = ["high-a", "high-c", "low-a", "low-b", "low-c"];
    let want: BTreeSet<String> = files.iter().flat_map(|f| [format!("docker.io/h/{f}:1"), format!("docker.io/h/{f}:1-volume")]).collect();
    assert_eq!(named(&n), want);
    n.at(1, &[listing(LOW, State::Listed(Vec::new())), listing(HIGH, State::Listed(Vec::new()))]);
    assert_eq!(named(&n), BTreeSet::new());
}
