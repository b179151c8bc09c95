//! `/metrics` and `/metrics/probes`: Prometheus text. The kubelet's names where it has the same thing, `process_*` as every exporter,
//! else `plinth_*`. `counters`: what is remembered; `text`: the format. Usage of pods and the node: `usage`.

mod counters;
pub mod text;

use std::time::Duration;

use super::usage::LogBytes;
use super::{View, rows};
use crate::clock::Wall;
use crate::plan::world::{Link, State};
use crate::pod::Verdict;
pub use counters::Counters;
use text::Page;

/// The whole page.
pub fn page(view: &View<'_>, logs: &[LogBytes]) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.pods(view);
    page.operations(view.counters);
    page.logs(logs);
    page.plinth(view);
    page.process();
    page.0
}

/// What probes found, under the kubelet's names.
pub fn probes(view: &View<'_>) -> String {
    let mut page = Page(String::new());
    let pods = || view.world.wanted.pods.values().chain(view.world.seen.pods.values().filter_map(|p| p.made_from.as_ref()));
    let named: Vec<_> = view.counters.probes.iter().filter_map(|(k, v)| Some((k, v, &pods().find(|p| p.uid == k.0)?.key))).collect();
    let help = "Cumulative number of a liveness, readiness or startup probe for a container by result.";
    page.head("prober_probe_total", "counter", help);
    for ((uid, container, probe), probed, key) in &named {
        let kind = probe.to_string();
        for (result, count) in ["successful", "failed", "unknown"].into_iter().zip(probed.results).filter(|(_, count)| *count > 0) {
            let labels = [
                ("container", &**container),
                ("namespace", &key.namespace),
                ("pod", &key.name),
                ("pod_uid", &uid.0),
                ("probe_type", &kind),
                ("result", result),
            ];
            page.sample("prober_probe_total", &labels, count);
        }
    }
    page.head("prober_probe_duration_seconds", "histogram", "Duration in seconds for a probe response.");
    for ((_, container, probe), probed, key) in &named {
        let kind = probe.to_string();
        let labels = [("container", &**container), ("namespace", &key.namespace), ("pod", &key.name), ("probe_type", &kind)];
        page.histogram("prober_probe_duration_seconds", &labels, &probed.took);
    }
    page.0
}

impl Page {
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
        let node = &view.settings.node_name;
        self.head("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
        self.sample("kubelet_node_name", &[("node", node)], 1);
        self.head("kubelet_desired_pods", "gauge", "The number of pods that manifests ask for.");
        self.sample("kubelet_desired_pods", &[("static", "true")], world.wanted.pods.len());
        self.head("kubelet_active_pods", "gauge", "The number of pods that have anything on this node.");
        self.sample("kubelet_active_pods", &[("static", "true")], world.seen.pods.len());
        self.one("kubelet_running_pods", "gauge", "Number of pods with a running container.", running_pods);
        self.head("kubelet_running_containers", "gauge", "Number of containers, by state.");
        for (state, count) in states {
            self.sample("kubelet_running_containers", &[("container_state", state)], count);
        }
        self.one("kubelet_started_pods_total", "counter", "Sandboxes made.", counters.started_pods);
        self.one("kubelet_started_pods_errors_total", "counter", "Sandboxes that could not be made.", counters.failed_pods);
        self.head("kubelet_started_containers_total", "counter", "Containers started.");
        for (kind, count) in ["container", "init_container"].into_iter().zip(counters.started_containers) {
            self.sample("kubelet_started_containers_total", &[("container_type", kind)], count);
        }
        self.head("kubelet_started_containers_errors_total", "counter", "Containers that could not be started, by the kubelet's reason.");
        for ((kind, reason), count) in &counters.failed_containers {
            self.sample("kubelet_started_containers_errors_total", &[("code", reason), ("container_type", kind)], count);
        }
        let name = "kubelet_pod_start_duration_seconds";
        self.head(name, "histogram", "From the first sight of a manifest to all its containers running.");
        self.histogram(name, &[], &counters.starts);
        self.head("kubelet_containers_per_pod_count", "histogram", "The number of containers of each pod that was begun.");
        self.histogram("kubelet_containers_per_pod_count", &[], &counters.sizes);
        self.head("kubelet_admission_rejections_total", "counter", "Pods the node did not take, by the kubelet's reason.");
        for (reason, count) in &counters.refused {
            self.sample("kubelet_admission_rejections_total", &[("reason", reason)], count);
        }
        let name = "kubelet_lifecycle_handler_http_fallbacks_total";
        self.one(name, "counter", "Hooks that were to speak TLS and were run without.", counters.hooks_in_clear);
        if view.cluster.is_some() {
            self.one("kubelet_mirror_pods", "gauge", "The number of mirror pods there are to be.", world.wanted.pods.len());
        }
    }

    fn operations(&mut self, counters: &Counters) {
        let known = || counters.actions.values().filter_map(|t| Some((t.operation?, t)));
        self.head("kubelet_runtime_operations_total", "counter", "Operations on containerd, by CRI's name for them.");
        for (operation, tally) in known() {
            self.sample("kubelet_runtime_operations_total", &[("operation_type", operation)], tally.done + tally.failed);
        }
        self.head("kubelet_runtime_operations_errors_total", "counter", "Of these, those that failed.");
        for (operation, tally) in known().filter(|(_, t)| t.failed > 0) {
            self.sample("kubelet_runtime_operations_errors_total", &[("operation_type", operation)], tally.failed);
        }
        self.head("kubelet_runtime_operations_duration_seconds", "histogram", "How long they took.");
        for (operation, tally) in known() {
            self.histogram("kubelet_runtime_operations_duration_seconds", &[("operation_type", operation)], &tally.took);
        }
        self.head("kubelet_run_podsandbox_duration_seconds", "histogram", "How long sandboxes took, by runtime class.");
        for (class, (took, _)) in &counters.sandboxes {
            self.histogram("kubelet_run_podsandbox_duration_seconds", &[("runtime_handler", class)], took);
        }
        self.head("kubelet_run_podsandbox_errors_total", "counter", "Of these, those that could not be made.");
        for (class, (_, failed)) in counters.sandboxes.iter().filter(|(_, (_, failed))| *failed > 0) {
            self.sample("kubelet_run_podsandbox_errors_total", &[("runtime_handler", class)], failed);
        }
        self.head("plinth_actions_total", "counter", "Actions ended, by action and result.");
        for (action, tally) in &counters.actions {
            self.sample("plinth_actions_total", &[("action", action), ("result", "done")], tally.done);
            self.sample("plinth_actions_total", &[("action", action), ("result", "failed")], tally.failed);
        }
        self.head("plinth_action_seconds_total", "counter", "Time actions took, by action.");
        for (action, tally) in &counters.actions {
            self.sample("plinth_action_seconds_total", &[("action", action)], tally.took.sum());
        }
    }

    fn logs(&mut self, logs: &[LogBytes]) {
        let name = "kubelet_container_log_filesystem_used_bytes";
        self.head(name, "gauge", "Bytes of a container's log files.");
        for l in logs {
            let labels = [("container", &*l.container), ("namespace", &l.key.namespace), ("pod", &l.key.name), ("uid", &l.uid.0)];
            self.sample(name, &labels, l.bytes);
        }
    }

    fn plinth(&mut self, view: &View<'_>) {
        self.head("plinth_build_info", "gauge", "The version. The count is always 1.");
        self.sample("plinth_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let up = u8::from(matches!(view.world.seen.link, Link::Up { .. }));
        self.one("plinth_containerd_up", "gauge", "1 while containerd answers.", up);
        if let Some(cluster) = &view.cluster {
            self.one("plinth_cluster_up", "gauge", "1 while the API server answers.", u8::from(cluster.trouble.is_none()));
            self.one("plinth_mirror_pods", "gauge", "Pods the API server shows as they are.", cluster.shown.0);
            self.one("plinth_unshown_pods", "gauge", "Pods the API server does not show, or not as they are.", cluster.shown.1);
            self.head("plinth_cluster_requests_total", "counter", "Requests to the API server, by what became of them.");
            for (result, count) in cluster.asked {
                self.sample("plinth_cluster_requests_total", &[("result", result)], count);
            }
        }
        if let Some(url) = &view.url {
            let up = u8::from(url.trouble.is_none());
            self.one("plinth_manifest_url_up", "gauge", "1 while the last answer of the server of manifests was used.", up);
            self.head("plinth_manifest_url_fetches_total", "counter", "Requests to the server of manifests, by what became of them.");
            for (result, count) in url.fetches {
                self.sample("plinth_manifest_url_fetches_total", &[("result", result)], count);
            }
            if let Some(Wall(nanos)) = url.answered {
                let seconds = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)).as_secs_f64();
                let help = "When it last gave an answer that was used, since the Unix epoch, seconds.";
                self.one("plinth_manifest_url_answered_timestamp_seconds", "gauge", help, seconds);
            }
        }
        self.one("plinth_layers_read", "gauge", "1 once every manifest layer was read.", u8::from(view.world.wanted.complete));
        let status = rows::status(view);
        self.one("plinth_ready", "gauge", "1 while /readyz says ok.", u8::from(status.ready));
        self.one(
            "plinth_machine_degraded",
            "gauge",
            "1 if the machine's boot found something wrong with it, or a settings file was left out.",
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
            self.sample("plinth_container_restarts_total", &[("namespace", &pod.namespace), ("pod", &pod.name)], pod.restarts);
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
