//! The way in: one file's bytes to its pods, with everything that is wrong with it, each finding with its place.
//!
//! All documents of a file count, and a v1.List or PodList too (the kubelet drops the former silently and refuses the latter).
//! Pure: reads no file, no clock, no settings. The same code serves `run` and `check`.

use std::path::Path;
use std::rc::Rc;

use k8s_openapi::api::core::v1::Pod;

use super::identity::{self, Source};
use super::value::{Node, Value};
use super::{defaults, references, typed, validate, yaml};
use crate::pod::{Finding, Origin, WantedPod};

/// What a pod depends on beside its manifest.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The node's name: suffix of pod names (lower case) and part of every UID.
    pub node_name: &'a str,
    /// A file of a layer, or a URL.
    pub source: Source,
    /// The layer, for `Origin`.
    pub layer: Rc<str>,
    /// The file, for `Origin`.
    pub path: &'a Path,
}

/// What a file came to. `check` refuses a file with any error; `run` takes the pods, which are those that are fine alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Its valid pods in order, without `config.seen` (`identity::stamp_seen` puts it there on first sight).
    pub pods: Vec<WantedPod>,
    /// Why it is refused; empty: it is accepted.
    pub errors: Vec<Finding>,
    /// What was accepted all the same.
    pub warnings: Vec<Finding>,
}

/// Reads a file.
pub fn file(bytes: &[u8], context: &Context<'_>) -> Parsed {
    let documents = yaml::read(bytes);
    let mut out = Parsed { pods: Vec::new(), errors: documents.errors, warnings: documents.warnings };
    if documents.roots.is_empty() && out.errors.is_empty() {
        let message = "no document in the file: a manifest needs `apiVersion: v1`, `kind: Pod`, `metadata` and `spec`";
        out.errors.push(Finding { message: message.into(), line: 1, column: 1, ..Finding::default() });
    }
    for root in &documents.roots {
        document(root, context, &mut out);
    }
    refuse_twins(&mut out);
    let place = |f: &Finding| (f.line, f.column);
    out.errors.sort_by_key(place);
    out.warnings.sort_by_key(place);
    out
}

fn document(root: &Node, context: &Context<'_>, out: &mut Parsed) {
    if !matches!(root.value, Value::Map(_)) {
        out.errors.push(root.place.finding("", format!("expected a Pod, found {}", root.value.described())));
        return;
    }
    match kind(root, out) {
        Some("Pod") => pod(root, "", root, context, out),
        Some(list @ ("List" | "PodList")) => items(root, list, context, out),
        _ => {}
    }
}

/// The document's kind, if it is one of ours; says what is wrong otherwise.
fn kind<'a>(root: &'a Node, out: &mut Parsed) -> Option<&'a str> {
    let mut field = |name: &str, example: &str| {
        let node = root.get(name);
        let text = node.and_then(Node::text).filter(|t| !t.is_empty());
        if text.is_none() {
            let place = node.map_or(root.place, |n| n.place);
            out.errors.push(place.finding(name, format!("Required value: {name} must be set, like `{example}`")));
        }
        text
    };
    let (version, kind) = (field("apiVersion", "apiVersion: v1"), field("kind", "kind: Pod"));
    match (version?, kind?) {
        ("v1", kind @ ("Pod" | "List" | "PodList")) => Some(kind),
        (version, kind) => {
            let message = format!("Unsupported value: {kind:?} of {version:?}: must be Pod, List or PodList of v1");
            let place = root.get("kind").map_or(root.place, |n| n.place);
            out.errors.push(place.finding("kind", message));
            None
        }
    }
}

fn items(root: &Node, list: &str, context: &Context<'_>, out: &mut Parsed) {
    let items = match root.get("items").map(|n| &n.value) {
        // What a server left out by mistake removes no pod; nothing that writes lists leaves it out.
        None if context.source == Source::Http => {
            out.errors.push(root.place.finding("items", "Required value: a list without pods says so with `items: []`"));
            return;
        }
        None | Some(Value::Null) => [].as_slice(),
        Some(Value::List(items)) => items,
        Some(other) => {
            let place = root.locate("items");
            out.errors.push(place.finding("items", format!("expected a list, found {}", other.described())));
            return;
        }
    };
    if items.is_empty() {
        out.warnings.push(root.locate("items").finding("items", "the list is empty: no pod is wanted"));
    }
    for (i, item) in items.iter().enumerate() {
        let at = format!("items[{i}]");
        let word = |name| item.get(name).and_then(Node::text);
        match (word("apiVersion"), word("kind")) {
            (Some("v1"), Some("Pod")) => pod(item, &at, root, context, out),
            // The items of a PodList are pods without saying so.
            (None | Some("v1"), None | Some("Pod")) if list == "PodList" => pod(item, &at, root, context, out),
            (version, kind) => {
                let (version, kind) = (version.unwrap_or_default(), kind.unwrap_or_default());
                let message = format!("Unsupported value: {kind:?} of {version:?}: must be Pod of v1");
                out.errors.push(item.place.finding(format!("{at}.kind"), message));
            }
        }
    }
}

/// One pod, whose field path is `at` in its document `root`.
fn pod(node: &Node, at: &str, root: &Node, context: &Context<'_>, out: &mut Parsed) {
    let typed::Typed { object, errors, mut warnings } = typed::read::<Pod>(node, at);
    out.warnings.append(&mut warnings);
    let mistyped = !errors.is_empty();
    out.errors.extend(errors);
    let Some(mut object) = object.filter(|_| !mistyped) else { return };
    let full = |field: &str| if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
    warn_of_ignored(&object, |field, message| {
        let field = full(field);
        out.warnings.push(root.locate(&field).finding(field, message));
    });
    if object.metadata.name.as_deref().unwrap_or_default().is_empty() {
        let field = full("metadata.name");
        let hint = "name is needed for the pod (a static pod gets none from generateName)";
        out.errors.push(root.locate(&field).finding(field, format!("Required value: {hint}")));
        return;
    }
    defaults::apply(&mut object);
    identity::name(&mut object, context.node_name);
    let mut wrong = validate::pod(&object);
    wrong.extend(references::forbidden(&object));
    if !wrong.is_empty() {
        for (field, message) in wrong {
            let field = full(&field);
            out.errors.push(root.locate(&field).finding(field, message));
        }
        return;
    }
    identity::stamp(&mut object, context.source);
    let origin = Origin { layer: context.layer.clone(), path: context.path.to_owned(), line: node.place.line };
    out.pods.extend(WantedPod::from_object(object, origin));
}

/// What a manifest may say and plinth decides.
fn warn_of_ignored(pod: &Pod, mut warn: impl FnMut(&str, &str)) {
    if pod.metadata.uid.is_some() {
        warn("metadata.uid", "ignored: the UID is a hash of the pod's content");
    }
    for own in [identity::HASH, identity::SOURCE, identity::SEEN] {
        if pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(own)) {
            warn(&format!("metadata.annotations[{own}]"), "ignored: this annotation is set by the node");
        }
    }
}

/// Two pods of one namespace and name in one file: the second is refused, and both are named.
fn refuse_twins(out: &mut Parsed) {
    let mut kept: Vec<WantedPod> = Vec::with_capacity(out.pods.len());
    for pod in std::mem::take(&mut out.pods) {
        match kept.iter().find(|k| k.key == pod.key) {
            None => kept.push(pod),
            Some(first) => out.errors.push(Finding {
                message: format!("Duplicate value: pod {} is already on line {} of this file", pod.key, first.origin.line),
                field: "metadata.name".into(),
                line: pod.origin.line,
                column: 1,
            }),
        }
    }
    out.pods = kept;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn read(text: &str) -> Parsed {
        read_as(text, Source::File, "node1")
    }

    fn read_as(text: &str, source: Source, node_name: &str) -> Parsed {
        file(text.as_bytes(), &Context { node_name, source, layer: "/layer".into(), path: Path::new("a.yaml") })
    }

    fn pod(name: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: 'b:1'}}]\n")
    }

    fn uid(text: &str) -> String {
        let parsed = read(text);
        assert_eq!(parsed.errors, [], "{text}");
        parsed.pods[0].uid.to_string()
    }

    fn places(findings: &[Finding]) -> Vec<(u32, u32, &str)> {
        findings.iter().map(|f| (f.line, f.column, f.field.as_str())).collect()
    }

    #[test]
    fn every_document_is_a_pod_with_its_line() {
        let parsed = read(&format!("# two\n{}---\n---\n{}", pod("a"), pod("b")));
        assert_eq!(parsed.errors, []);
        let names: Vec<_> = parsed.pods.iter().map(|p| (p.key.to_string(), p.origin.line)).collect();
        assert_eq!(names, [("default/a-node1".to_owned(), 2), ("default/b-node1".to_owned(), 9)]);
    }

    #[test]
    fn lists_are_pods_too() {
        let list =
            "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: c, image: b}]}\n- spec: {}\n";
        let parsed = read(list);
        assert_eq!(parsed.pods.len(), 1);
        assert_eq!(places(&parsed.errors), [(6, 3, "items[1].metadata.name")]);
        let silent = "apiVersion: v1\nkind: PodList\n";
        assert_eq!((read(silent).errors.len(), read_as(silent, Source::Http, "n").errors.len()), (0, 1));
        assert_eq!(read_as(&format!("{silent}items: null\n"), Source::Http, "n").errors, []);
        let parsed = read("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}, 3]\n");
        assert_eq!(places(&parsed.errors), [(3, 9, "items[0].kind"), (3, 42, "items[1].kind")]);
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  hostNetwork: 'true'\n  containers:\n  - name: c\n    args: [yes, 1]\n    ports: [{containerPort: 80.5}, {containerPort: 4294967296}]\n    resources: {limits: {cpu: [1]}}\n    nme: x\n";
        let parsed = read(text);
        let at = [
            (5, 16, "spec.hostNetwork"),
            (8, 12, "spec.containers[0].args[0]"),
            (8, 17, "spec.containers[0].args[1]"),
            (9, 29, "spec.containers[0].ports[0].containerPort"),
            (9, 52, "spec.containers[0].ports[1].containerPort"),
            (10, 31, "spec.containers[0].resources.limits[cpu]"),
        ];
        assert_eq!(places(&parsed.errors), at);
        assert_eq!(
            parsed.errors[1].message,
            "expected a string, found the boolean `yes`: YAML 1.1 reads `yes` as true; write \"yes\" in quotes"
        );
        assert_eq!(places(&parsed.warnings), [(11, 5, "spec.containers[0].nme")]);
        assert!(parsed.warnings[0].message.contains("did you mean \"name\"?"));
    }

    #[test]
    fn null_and_go_zeros_are_silence() {
        let plain = uid(&pod("a"));
        let text = pod("a").replace(
            "spec:\n",
            "spec:\n  hostNetwork: false\n  hostname: ''\n  nodeSelector: {}\n  tolerations: []\n  volumes: null\n  priority:\n",
        );
        assert_eq!(uid(&text), plain);
        assert_ne!(uid(&pod("a").replace("spec:\n", "spec:\n  hostUsers: false\n")), plain, "a pointer's false is no silence");
    }

    #[test]
    fn the_uid_is_of_content_and_identity_alone() {
        let plain = uid(&pod("a"));
        assert_eq!(plain.len(), 32);
        let reordered = "kind: Pod # a\napiVersion: v1\nspec: {restartPolicy: Always, containers: [{image: 'b:1', name: c}]}\nmetadata:\n  namespace: default\n  name: a\n  uid: x\n";
        assert_eq!(uid(reordered), plain, "defaults, order, comments and a given uid change nothing");
        assert_eq!(places(&read(reordered).warnings), [(7, 8, "metadata.uid")]);
        let moved =
            file(pod("a").as_bytes(), &Context { node_name: "NODE1", source: Source::File, layer: "".into(), path: Path::new("/b") });
        assert_eq!(moved.pods[0].uid.to_string(), plain);
        let others = [pod("b"), pod("a").replace("b:1", "b:2"), pod("a").replace("{name: a}", "{name: a, namespace: x}")];
        for other in others {
            assert_ne!(uid(&other), plain);
        }
        assert_ne!(read_as(&pod("a"), Source::File, "node2").pods[0].uid.to_string(), plain);
    }

    #[test]
    fn pods_are_stamped_as_the_kubelet_does() {
        let parsed = read(&pod("a").replace("{name: a}", "{name: a, annotations: {kubernetes.io/config.source: api, x.y/z: w}}"));
        let object = &parsed.pods[0].object;
        let annotations = object.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["kubernetes.io/config.source"], "file");
        assert_eq!(annotations["kubernetes.io/config.hash"], parsed.pods[0].uid.to_string());
        assert_eq!(annotations["x.y/z"], "w");
        assert_eq!(parsed.warnings.len(), 1);
        assert_eq!(object.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
        assert_eq!(object.spec.as_ref().unwrap().tolerations.as_ref().unwrap().len(), 1);
        let url = read_as(&pod("a"), Source::Http, "node1");
        assert_eq!(url.pods[0].object.spec.as_ref().unwrap().tolerations, None);
        let mut seen = parsed.pods[0].clone();
        identity::stamp_seen(&mut seen, crate::clock::Wall(0));
        assert_eq!(seen.object.metadata.annotations.as_ref().unwrap()[identity::SEEN], "1970-01-01T00:00:00.000000000Z");
        assert_eq!(parsed, read(&pod("a").replace("{name: a}", "{name: a, annotations: {kubernetes.io/config.source: api, x.y/z: w}}")));
    }

    #[test]
    fn of_two_pods_with_one_name_the_second_is_refused() {
        let parsed = read(&format!("{}---\n{}", pod("a"), pod("a")));
        assert_eq!(parsed.pods.len(), 1);
        assert_eq!(places(&parsed.errors), [(7, 1, "metadata.name")]);
        assert!(parsed.errors[0].message.contains("default/a-node1 is already on line 1"));
    }

    #[test]
    fn what_is_no_pod_is_refused_with_a_reason() {
        for (text, field, message) in [
            ("", "", "no document"),
            ("# only this\n", "", "no document"),
            ("- a\n", "", "expected a Pod, found a list"),
            ("kind: Pod\n", "apiVersion", "Required value"),
            ("apiVersion: v1\nkind: pod\n", "kind", "Unsupported value: \"pod\""),
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n", "metadata.name", "name is needed for the pod"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "spec.containers", "Required value"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {kubernetes.io/config.mirror: x}}\nspec: {containers: [{name: c, image: i}]}\n",
                "metadata.annotations[kubernetes.io/config.mirror]",
                "mirror pod",
            ),
        ] {
            let parsed = read(text);
            assert!(parsed.pods.is_empty());
            assert!(parsed.errors.iter().any(|e| e.field == field && e.message.contains(message)), "{text}: {:?}", parsed.errors);
        }
    }
}
