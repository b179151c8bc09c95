//! `GET /pods` as the kubelet serves it: a `v1.PodList` whose items lack kind and apiVersion, `null` when there is none.

use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::View;

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
