//! What `plan` looks at: `Wanted` (the manifests), `Seen` (containerd and this host), `Memory` (what may be forgotten).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

pub use super::admit::Node;
pub use super::memory::{ContainerMemory, Doom, ImageMemory, Memory, PodMemory, PostStart, Retry, Round, Stop, Watch};
use crate::clock::{Moment, Wall};
use crate::pod::{ImageRef, Kind, PodKey, Uid, WantedPod};

/// Everything a decision may depend on.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// From the manifests.
    pub wanted: Wanted,
    /// From containerd and the host.
    pub seen: Seen,
    /// Our own, gone at a crash without harm.
    pub memory: Memory,
    /// The caps and delays in force.
    pub limits: Limits,
    /// What the node takes.
    pub node: Node,
    /// The node's addresses, primary first: `status.hostIPs`, nothing else reads them.
    pub host_ips: Vec<IpAddr>,
}

/// Delays and caps, from the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// First crash-loop delay after the immediate restart, ms (kubelet: 10 s, or the cap if that is less).
    pub crash_backoff_first_ms: u64,
    /// Largest crash-loop delay, ms (kubelet: 300 s; `crashLoopBackOff.maxContainerRestartPeriod`).
    pub crash_backoff_cap_ms: u64,
    /// First and largest image pull delay, ms (kubelet: 10 s, 300 s).
    pub pull_backoff_ms: (u64, u64),
    /// First and largest delay before a failed sandbox or container creation is tried again, ms.
    pub create_backoff_ms: (u64, u64),
    /// Pulls at once (`maxParallelImagePulls`; the kubelet's default is 1).
    pub pulls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            crash_backoff_first_ms: 10_000,
            crash_backoff_cap_ms: 300_000,
            pull_backoff_ms: (10_000, 300_000),
            create_backoff_ms: (1_000, 60_000),
            pulls: 1,
        }
    }
}

/// What the layers ask for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Every layer was read at least once: only then is anything unwanted (nothing is removed before).
    pub complete: bool,
    /// And nothing that any file or server asks for is unknown, of pods that do not run either.
    pub whole: bool,
    /// One winner per full name.
    pub pods: BTreeMap<PodKey, Rc<WantedPod>>,
    /// A shutdown is under way: no pod is wanted any more.
    pub shutdown: Option<Shutdown>,
}

/// An ordered stop of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// When it began.
    pub since: Moment,
    /// All pods are gone by then, or killed.
    pub deadline: Moment,
    /// The tail of that time which belongs to critical pods (`shutdownGracePeriodCriticalPods`), ms.
    pub critical_ms: u64,
}

impl Shutdown {
    /// When the critical pods' turn begins at the latest.
    pub fn critical_from(&self) -> Moment {
        Moment(self.deadline.0.saturating_sub(self.critical_ms).max(self.since.0))
    }
}

/// Whether containerd answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It does not: nothing of `Seen` can be refreshed, nothing is done.
    Down {
        /// The error, with what to do about it.
        why: Rc<str>,
        /// Since when.
        since: Moment,
    },
    /// It does.
    Up {
        /// Its version, `v2.1.9`.
        version: Rc<str>,
    },
}

impl Default for Link {
    fn default() -> Self {
        Link::Down { why: "not connected yet".into(), since: Moment(0) }
    }
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Whether containerd answers.
    pub link: Link,
    /// When everything was last listed over the present link; `None` asks for a full look.
    pub listed: Option<Moment>,
    /// Every pod with anything left of it: pins, mounts, directories, addresses, records, tasks, logs.
    pub pods: BTreeMap<Uid, SeenPod>,
    /// Images asked for so far.
    pub images: BTreeMap<ImageRef, SeenImage>,
}

/// What is there of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenPod {
    /// Its full name, from its records (`None`: only remains without a name are left).
    pub key: Option<PodKey>,
    /// The object it was made from, as saved when its sandbox was made: how it is stopped when no manifest has it any more.
    pub made_from: Option<Rc<WantedPod>>,
    /// Its namespaces, network, mounts and directories.
    pub sandbox: Sandbox,
    /// Its containers by id, every attempt that still has a record.
    pub containers: BTreeMap<Rc<str>, SeenContainer>,
    /// The highest number on a log file of each container, but for those of attempts that have a record: what is left of attempts
    /// containerd has lost.
    pub logged: BTreeMap<Rc<str>, u32>,
    /// Something happened since: look before acting.
    pub stale: bool,
}

impl SeenPod {
    /// Nothing but its logs tells of it.
    pub fn is_logs_alone(&self) -> bool {
        self.key.is_some() && self.made_from.is_none() && self.containers.is_empty() && self.sandbox == Sandbox::Absent
    }

    /// The attempt a container without any record begins with: restarts go on counting where its logs end (kubelet:
    /// `calcRestartCountByLogDir`).
    pub fn begins_at(&self, name: &str) -> u32 {
        self.logged.get(name).map_or(0, |last| last.saturating_add(1))
    }
}

/// Namespaces, network, mounts, directories and cgroup of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Nothing of it.
    #[default]
    Absent,
    /// Something of it: made half-way, undone half-way, or of an earlier boot. Must be deleted before it can be made.
    Partial,
    /// Complete.
    Ready {
        /// Pod IPs, primary first; the host's with host networking.
        ips: Vec<IpAddr>,
        /// When it was completed.
        since: Wall,
    },
}

/// One attempt of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenContainer {
    /// containerd's id of record, task and snapshot.
    pub id: Rc<str>,
    /// The container's name in the pod.
    pub name: Rc<str>,
    /// Its part.
    pub kind: Kind,
    /// 0 for the first, then one more each time: the restart count, and the number of its log.
    pub attempt: u32,
    /// The image asked for.
    pub image: ImageRef,
    /// Digest of the image used (`sha256:…`), empty if unknown.
    pub image_id: Rc<str>,
    /// When the record was made.
    pub created: Wall,
    /// `since` of the sandbox it was made in, from its label (`plinth.dev/sandbox`, nanoseconds): a container of another sandbox
    /// is history (a new sandbox runs init again). Compared for equality only, clocks step. `None`: unknown, taken as the present one.
    pub sandbox: Option<Wall>,
    /// As whom its first process was started, if that is known.
    pub user: Option<Rc<RunsAs>>,
    /// Where it is.
    pub state: State,
}

/// The ids of a container's first process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub struct RunsAs {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Where one attempt is. The order is the order of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Record without task, and it never ran: delete, then make it again with the same attempt.
    Record,
    /// Task created, not started.
    Created,
    /// Task running.
    Running {
        /// Since when.
        since: Wall,
    },
    /// Task ended and still held by its shim: its log is drained and its exit written down by `DeleteTask`.
    Exited(Exit),
    /// It ran and its task is gone, with or without an exit on record: like `Exited`, `DeleteTask` writes it down.
    Lost(Exit),
    /// Task deleted, exit written down on the record: kept for `lastState`, `logs --previous` and the restart count.
    Dead(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit status; 128 + signal; 137 with `ContainerStatusUnknown` when nobody knows.
    pub code: u32,
    /// When it had started, if it had.
    pub started: Option<Wall>,
    /// When it ended.
    pub finished: Wall,
    /// The kubelet's word: `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerCannotRun`, `ContainerStatusUnknown`.
    pub reason: Rc<str>,
    /// Termination message, or why it could not start.
    pub message: Option<Rc<str>>,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenImage {
    /// Looked for, not there.
    Absent,
    /// There, unpacked, leased.
    Ready {
        /// The manifest's digest.
        id: Rc<str>,
        /// An archive on this host holds it too: no registry is asked for it, and it waits for no pull.
        local: bool,
    },
}
