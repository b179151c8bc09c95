//! `/metrics`: Prometheus text. The kubelet's names where it has the same thing, `process_*` as every exporter, else `plinth_*`.
//!
//! `Counters` is all that is remembered between answers; `run` tells it of every action that ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::{View, rows};
use crate::clock::{Now, Wall};
use crate::plan::action::{Action, Effect, Outcome};
use crate::plan::world::{Link, State, World};
use crate::pod::{Kind, Verdict};

/// Upper bounds of the kubelet's pod start buckets, seconds.
const START_BUCKETS_S: [f64; 19] =
    [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0];

/// What the loop has done since it began.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    began: Wall,
    started_pods: u64,
    started_containers: [u64; 2],
    actions: BTreeMap<&'static str, Tally>,
    starts: [u64; START_BUCKETS_S.len()],
    starts_count: u64,
    starts_seconds: f64,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
    seconds: f64,
}

impl Counters {
    /// Counting begins.
    pub fn new(now: Now) -> Counters {
        Counters { began: now.wall, ..Counters::default() }
    }

    /// An action ended: call it after the outcome was applied, so that `world` is what came of it.
    pub fn ended(&mut self, action: &Action, outcome: &Outcome, took: Duration, world: &World, now: Now) {
        let tally = self.actions.entry(word(action)).or_default();
        tally.seconds += took.as_secs_f64();
        let Outcome::Done(effect) = outcome else {
            tally.failed += 1;
            return;
        };
        tally.done += 1;
        match (action, effect) {
            (Action::CreateSandbox { .. }, _) => self.started_pods += 1,
            (Action::StartTask { uid, .. }, Effect::Container(c)) => {
                let [main, init] = &mut self.started_containers;
                *(if c.kind == Kind::Main { main } else { init }) += 1;
                if let Some(seconds) = first_start_seconds(world, uid, now) {
                    self.pod_started(seconds);
                }
            }
            _ => {}
        }
    }

    fn pod_started(&mut self, seconds: f64) {
        self.starts_count += 1;
        self.starts_seconds += seconds;
        for (count, bound) in self.starts.iter_mut().zip(START_BUCKETS_S) {
            *count += u64::from(seconds <= bound);
        }
    }
}

/// From the manifest's sight to the first run of the last main container, when that is now; `None` otherwise.
fn first_start_seconds(world: &World, uid: &crate::pod::Uid, now: Now) -> Option<f64> {
    let wanted = world.wanted.pods.values().find(|p| p.uid == *uid)?;
    let seen = world.seen.pods.get(uid)?;
    let first =
        |name: &str| seen.containers.values().any(|c| &*c.name == name && c.attempt == 0 && matches!(c.state, State::Running { .. }));
    let all = wanted.containers.iter().filter(|c| c.kind == Kind::Main).all(|c| first(&c.name));
    let known = world.memory.pods.get(uid)?.known_since?;
    all.then(|| Duration::from_nanos(u64::try_from(now.wall.0.saturating_sub(known.0)).unwrap_or(0)).as_secs_f64())
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::LookAll => "look_all",
        Action::Look { .. } => "look",
        Action::PrepareImage { .. } => "prepare_image",
        Action::CreateSandbox { .. } => "create_sandbox",
        Action::CreateContainer { .. } => "create_container",
        Action::StartTask { .. } => "start_task",
        Action::RunHook { .. } => "run_hook",
        Action::Term { .. } => "term",
        Action::Kill { .. } => "kill",
        Action::DeleteTask { .. } => "delete_task",
        Action::DeleteContainer { .. } => "delete_container",
        Action::DeleteSandbox { .. } => "delete_sandbox",
    }
}

/// The whole page.
pub fn page(view: &View<'_>) -> String {
    let mut page = Page(String::with_capacity(8192));
    page.pods(view);
    page.actions(view.counters);
    page.plinth(view);
    page.process();
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample; `labels` is `{a="b"}` or empty.
    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }

    fn pods(&mut self, view: &View<'_>) {
        let (world, counters) = (view.world, view.counters);
        let mut states = [("created", 0u32), ("exited", 0), ("running", 0), ("unknown", 0)];
        let mut running_pods = 0;
        for pod in world.seen.pods.values() {
            let mut runs = false;
            for c in pod.containers.values() {
                runs |= matches!(c.state, State::Running { .. });
                let [created, exited, running, unknown] = &mut states;
                match c.state {
                    State::Record | State::Created => created.1 += 1,
                    State::Exited(_) | State::Dead(_) => exited.1 += 1,
                    State::Running { .. } => running.1 += 1,
                    State::Lost(_) => unknown.1 += 1,
                }
            }
            running_pods += u32::from(runs);
        }
        let node = escape(&view.settings.node_name);
        self.head("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
        self.sample("kubelet_node_name", &format!("{{node=\"{node}\"}}"), 1);
        self.head("kubelet_desired_pods", "gauge", "The number of pods that manifests ask for.");
        self.sample("kubelet_desired_pods", "{static=\"true\"}", world.wanted.pods.len());
        self.head("kubelet_active_pods", "gauge", "The number of pods that have anything on this node.");
        self.sample("kubelet_active_pods", "{static=\"true\"}", world.seen.pods.len());
        self.one("kubelet_running_pods", "gauge", "Number of pods with a running container.", running_pods);
        self.head("kubelet_running_containers", "gauge", "Number of containers, by state.");
        for (state, count) in states {
            self.sample("kubelet_running_containers", &format!("{{container_state=\"{state}\"}}"), count);
        }
        self.one("kubelet_started_pods_total", "counter", "Sandboxes made.", counters.started_pods);
        self.head("kubelet_started_containers_total", "counter", "Containers started.");
        let [main, init] = counters.started_containers;
        self.sample("kubelet_started_containers_total", "{container_type=\"container\"}", main);
        self.sample("kubelet_started_containers_total", "{container_type=\"init_container\"}", init);
        let name = "kubelet_pod_start_duration_seconds";
        self.head(name, "histogram", "From the first sight of a manifest to all its containers running.");
        for (bound, count) in START_BUCKETS_S.iter().zip(counters.starts) {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count);
        }
        self.sample(&format!("{name}_bucket"), "{le=\"+Inf\"}", counters.starts_count);
        self.sample(&format!("{name}_sum"), "", counters.starts_seconds);
        self.sample(&format!("{name}_count"), "", counters.starts_count);
    }

    fn actions(&mut self, counters: &Counters) {
        self.head("plinth_actions_total", "counter", "Actions ended, by action and result.");
        for (action, tally) in &counters.actions {
            self.sample("plinth_actions_total", &format!("{{action=\"{action}\",result=\"done\"}}"), tally.done);
            self.sample("plinth_actions_total", &format!("{{action=\"{action}\",result=\"failed\"}}"), tally.failed);
        }
        self.head("plinth_action_seconds_total", "counter", "Time actions took, by action.");
        for (action, tally) in &counters.actions {
            self.sample("plinth_action_seconds_total", &format!("{{action=\"{action}\"}}"), tally.seconds);
        }
    }

    fn plinth(&mut self, view: &View<'_>) {
        self.head("plinth_build_info", "gauge", "The version. The count is always 1.");
        self.sample("plinth_build_info", &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1);
        let up = u8::from(matches!(view.world.seen.link, Link::Up { .. }));
        self.one("plinth_containerd_up", "gauge", "1 while containerd answers.", up);
        self.one("plinth_layers_read", "gauge", "1 once every manifest layer was read.", u8::from(view.world.wanted.complete));
        let status = rows::status(view);
        self.one("plinth_ready", "gauge", "1 while /readyz says ok.", u8::from(status.ready));
        self.one(
            "plinth_machine_degraded",
            "gauge",
            "1 if the machine's boot found something wrong with it.",
            u8::from(!view.degraded.is_empty()),
        );
        let ready = status.pods.iter().filter(|p| p.ready && p.wanted).count();
        self.one("plinth_ready_pods", "gauge", "Wanted pods that are Ready or Succeeded.", ready);
        let refused = view.files.iter().filter(|f| f.verdict == Verdict::Rejected).count();
        self.one("plinth_refused_manifests", "gauge", "Manifest files that are refused.", refused);
        let stale = view.files.iter().filter(|f| f.stale).count();
        self.one("plinth_stale_manifests", "gauge", "Manifest files whose last good revision runs instead.", stale);
        self.head("plinth_container_restarts_total", "counter", "Restarts of a pod's containers, by pod, as kubectl sums them.");
        for pod in status.pods.iter().filter(|p| p.wanted) {
            let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", escape(&pod.namespace), escape(&pod.name));
            self.sample("plinth_container_restarts_total", &labels, pod.restarts);
        }
        let began = Duration::from_nanos(u64::try_from(view.counters.began.0).unwrap_or(0)).as_secs_f64();
        self.one("process_start_time_seconds", "gauge", "Start time since the Unix epoch, seconds.", began);
    }

    /// From procfs, which never blocks; what cannot be read is left out.
    fn process(&mut self) {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), u32::try_from(cpu.tv_nsec).unwrap_or(0)).as_secs_f64();
        self.one("process_cpu_seconds_total", "counter", "User and system CPU time, seconds.", cpu);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next()?.parse().ok()
        };
        if let (Some(threads), Some(size), Some(resident)) = (field("Threads"), field("VmSize"), field("VmRSS")) {
            self.one("process_threads", "gauge", "Threads.", threads);
            self.one("process_virtual_memory_bytes", "gauge", "Virtual memory, bytes.", size * 1024);
            self.one("process_resident_memory_bytes", "gauge", "Resident memory, bytes.", resident * 1024);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            self.one("process_open_fds", "gauge", "Open file descriptors.", open.count().saturating_sub(1));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if let Some(limit) = limit {
            self.one("process_max_fds", "gauge", "Most file descriptors that may be open.", limit);
        }
    }
}

/// A label value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
