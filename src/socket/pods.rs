//! `GET /pods` and `/runningpods` as the kubelet serves them: a `v1.PodList` whose items lack kind and apiVersion, `null` when there is none.

use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use super::View;
use crate::plan::world::State;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Option<Vec<Item<'a>>>,
}

#[derive(Serialize)]
struct Empty {}

/// k8s-openapi writes kind and apiVersion into every Pod; the kubelet's items have none.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    status: PodStatus,
}

/// All wanted pods with their live status: the ones that wait or are done, too.
pub fn list(view: &View<'_>) -> serde_json::Result<Vec<u8>> {
    let items: Vec<_> = view
        .world
        .wanted
        .pods
        .values()
        .map(|pod| Item { metadata: &pod.object.metadata, spec: pod.object.spec.as_ref(), status: (view.status)(&pod.uid) })
        .collect();
    let items = (!items.is_empty()).then_some(items);
    serde_json::to_vec(&List { kind: "PodList", api_version: "v1", metadata: Empty {}, items })
}

/// What containerd runs, by the little it knows: names, and the images of the containers.
pub fn running(view: &View<'_>) -> Value {
    let mut items = Vec::new();
    for (uid, pod) in &view.world.seen.pods {
        let Some(key) = &pod.key else { continue };
        let running = pod.containers.values().filter(|c| matches!(c.state, State::Running { .. }));
        let containers: Vec<Value> = running.map(|c| json!({ "name": &*c.name, "image": c.image.to_string(), "resources": {} })).collect();
        if !containers.is_empty() {
            let metadata = json!({ "name": &*key.name, "namespace": &*key.namespace, "uid": &*uid.0, "creationTimestamp": null });
            items.push(json!({ "metadata": metadata, "spec": { "containers": containers }, "status": {} }));
        }
    }
    let items = (!items.is_empty()).then_some(items);
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}
