//! Our own kinds on the wire, `plinth.dev/v1alpha1`: what `/v1/*` answers and `plinth ... -o json` prints. Stable: a field
//! is added, never renamed or given another meaning; a reader ignores what it does not know. Times are RFC 3339 in UTC.
//!
//! | path | kind |
//! |---|---|
//! | `/v1/status` | [`Status`]; with `?follow=1` one a line, at each change |
//! | `/v1/manifests` | [`ManifestList`] |
//! | `/v1/why/{ns}/{pod}` | [`Why`] |
//! | `/v1/events` | `v1` EventList; with `?follow=1` one `v1` Event a line |
//! | `POST /v1/shutdown` | [`Accepted`] |
//!
//! Types only: nothing here computes or does I/O.

use serde::{Deserialize, Serialize};

use crate::pod::{Finding, Verdict};

/// `apiVersion` of every kind here.
pub const API_VERSION: &str = "plinth.dev/v1alpha1";

/// `kind: Status`: the node, containerd, every pod in one line each, and the files that need attention.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `plinth.dev/v1alpha1`.
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// plinth's version.
    pub version: String,
    /// When this was made.
    pub time: String,
    /// The node.
    pub node: Node,
    /// containerd.
    pub containerd: Containerd,
    /// The API server, where there is one to be joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Every layer was read at least once.
    pub layers_read: bool,
    /// What `/readyz` says: containerd answers, layers read, every wanted pod Ready or Succeeded, no shutdown.
    pub ready: bool,
    /// A shutdown is under way.
    pub shutting_down: bool,
    /// Wanted pods, then those still being removed.
    pub pods: Vec<PodRow>,
    /// Files with errors, warnings, or a revision that is not what runs. All files: `/v1/manifests`.
    pub manifests: Vec<Manifest>,
}

/// The node plinth runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Its name, the suffix of pod names.
    pub name: String,
    /// Its addresses as set, primary first.
    pub ips: Vec<String>,
    /// What its boot found wrong with it, and which of its settings do not count, one sentence each; the pods run all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// Whether the API server answers. No pod depends on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// It does.
    pub up: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Pods it shows as they are.
    pub mirrors: usize,
    /// Pods it does not; `/v1/why` has the reason of each.
    pub unshown: usize,
}

/// Whether containerd answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Containerd {
    /// It does.
    pub up: bool,
    /// Its socket.
    pub address: String,
    /// Its version, when up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For how long it has not, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
}

/// A pod in one line, as `kubectl get pods` words it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRow {
    /// Its namespace.
    pub namespace: String,
    /// Its full name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// kubectl's STATUS word: `Running`, `CrashLoopBackOff`, `Init:0/1`, ...
    pub status: String,
    /// Its phase.
    pub phase: String,
    /// Containers that are ready.
    pub ready_containers: u32,
    /// Containers that can be: sidecars count, init containers do not.
    pub total_containers: u32,
    /// Ready, or Succeeded: nobody has to wait for it any more.
    pub ready: bool,
    /// A manifest asks for it; false: it is being removed.
    pub wanted: bool,
    /// Sum of restart counts, as kubectl sums them.
    pub restarts: i32,
    /// When a container last ended before a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<String>,
    /// `status.startTime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// Its IPs, primary first.
    pub ips: Vec<String>,
    /// Its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The first message that explains a pod that is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `kind: ManifestList`: every file of every layer, in the order they were read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestList {
    /// `plinth.dev/v1alpha1`.
    pub api_version: String,
    /// `ManifestList`.
    pub kind: String,
    /// The layers, lowest first.
    pub layers: Vec<String>,
    /// The files.
    pub items: Vec<Manifest>,
}

/// One file of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The file.
    pub path: String,
    /// Its layer.
    pub layer: String,
    /// `accepted`, `rejected`, `overridden`, `masked`, `mask` or `ignored`.
    pub verdict: Verdict,
    /// The file that overrides or masks this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// The files this one overrides or masks.
    #[serde(default)]
    pub over: Vec<String>,
    /// The pods it asks for, `namespace/name`.
    #[serde(default)]
    pub pods: Vec<String>,
    /// Its last good revision is what runs.
    #[serde(default)]
    pub stale: bool,
    /// Why it, or a pod of it, is refused.
    #[serde(default)]
    pub errors: Vec<Finding>,
    /// What was accepted all the same.
    #[serde(default)]
    pub warnings: Vec<Finding>,
}

/// `kind: Why`: one pod explained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Why {
    /// `plinth.dev/v1alpha1`.
    pub api_version: String,
    /// `Why`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its full name.
    pub name: String,
    /// The UID that is wanted; else the one that is there.
    pub uid: String,
    /// kubectl's STATUS word.
    pub status: String,
    /// A manifest asks for it.
    pub wanted: bool,
    /// Line of the winning document in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The file that won, with what it overrides or masks and what was found about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// The last decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<Decision>,
    /// The action that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    /// What it waits for; empty: nothing.
    pub waits_for: Vec<Wait>,
    /// Seconds to the next try, the soonest of `waitsFor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_retry_seconds: Option<f64>,
    /// Its sandbox and network.
    pub sandbox: SandboxState,
    /// Its containers, every attempt on record.
    pub containers: Vec<Attempt>,
    /// Other revisions of it that are still there, by UID: they go first.
    pub older: Vec<String>,
}

/// A decision of `plan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Decision {
    /// What.
    pub action: String,
    /// Its reason.
    pub why: String,
    /// When.
    pub time: String,
}

/// One thing a pod waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wait {
    /// In words for the pod as a whole; `container NAME` for a container, `container NAME: its readiness probe` for one that runs.
    pub on: String,
    /// The kubelet's reason, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Seconds to the next try or to the end of the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<f64>,
    /// Failures in a row so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
}

/// A sandbox as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SandboxState {
    /// `absent`, `partial` or `ready`.
    pub state: String,
    /// `host` or `pod`.
    pub network: String,
    /// Its IPs.
    pub ips: Vec<String>,
    /// When it was completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// One attempt of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// Container name.
    pub name: String,
    /// containerd's id.
    pub id: String,
    /// From 0.
    pub attempt: u32,
    /// `record`, `created`, `running`, `exited`, `lost` or `dead`.
    pub state: String,
    /// When it started or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Its exit status, once it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u32>,
    /// How it ended, in the kubelet's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was ended or could not start, or its last words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `kind: Accepted`: a request was taken on; watch `/v1/status` for what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Accepted {
    /// `plinth.dev/v1alpha1`.
    pub api_version: String,
    /// `Accepted`.
    pub kind: String,
    /// What was taken on.
    pub message: String,
}
