//! Settings: fragments (files, drop-ins, flags, kernel command line) merged into one validated `Settings`.

use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be set, merged and validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Manifest layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Node name: suffix of pod names, lower case.
    pub node_name: String,
    /// Node IPs, primary first; found from the default route when empty.
    pub node_ips: Vec<std::net::IpAddr>,
    /// What must survive a reboot: pod directories, volumes, CNI results. `/var/lib/plinth`.
    pub data_dir: PathBuf,
    /// What must not: pins, FIFOs, socket. `/run/plinth`.
    pub run_dir: PathBuf,
    /// `podLogsDir`: `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// `/var/log/containers`; `None`: no links.
    pub container_links_dir: Option<PathBuf>,
    /// Status socket: `/run/plinth/plinth.sock`.
    pub socket: PathBuf,
    /// Group that may read the status socket, by name or number; `None`: root's.
    pub socket_group: Option<String>,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's snapshotter.
    pub snapshotter: String,
    /// Shim: a runtime name (`io.containerd.runc.v2`) or an absolute path.
    pub shim: String,
    /// OCI runtime binary given to the shim (`runc`, `crun`, or a path).
    pub oci_runtime: String,
    /// OCI archives to import images from, in order of search.
    pub image_dirs: Vec<PathBuf>,
    /// Registry hosts directory (`<host>/hosts.toml`), as containerd's `config_path`.
    pub registry_hosts_dir: PathBuf,
    /// A pull that makes no progress for so long is given up.
    pub pull_stall: Duration,
    /// Pulls at once.
    pub max_parallel_pulls: usize,
    /// CNI configuration lists.
    pub cni_conf_dir: PathBuf,
    /// CNI plugins, in order of search.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// CNI results kept for DEL.
    pub cni_cache_dir: PathBuf,
    /// A CNI plugin is killed after this.
    pub cni_timeout: Duration,
    /// Parent cgroup of `kubepods`, `/` for the root.
    pub cgroup_root: String,
    /// `clusterDNS`.
    pub cluster_dns: Vec<std::net::IpAddr>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// `resolvConf`: the node's resolv.conf; empty: none.
    pub resolv_conf: PathBuf,
    /// `fileCheckFrequency`: rescan of the layers.
    pub rescan: Duration,
    /// `containerLogMaxSize`, bytes.
    pub log_max_bytes: u64,
    /// `containerLogMaxFiles`, at least 2.
    pub log_max_files: u32,
    /// Crash-loop cap (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub crash_cap: Duration,
    /// `shutdownGracePeriod`.
    pub shutdown_grace: Duration,
    /// `shutdownGracePeriodCriticalPods`: the tail of it for critical pods.
    pub shutdown_critical: Duration,
    /// `maxPods`.
    pub max_pods: usize,
    /// `allowedUnsafeSysctls`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `seccompDefault`: RuntimeDefault where a manifest is silent.
    pub seccomp_default: bool,
    /// Log level: error, warn, info, debug.
    pub log_level: log::LevelFilter,
    /// What was odd about the fragments (unknown keys, fields plinth does not have), for one warning each.
    pub warnings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            layers: ["/usr/lib/plinth/manifests", "/run/plinth/manifests", "/etc/plinth/manifests"].map(PathBuf::from).to_vec(),
            node_name: String::new(),
            node_ips: Vec::new(),
            data_dir: "/var/lib/plinth".into(),
            run_dir: "/run/plinth".into(),
            pod_logs_dir: "/var/log/pods".into(),
            container_links_dir: Some("/var/log/containers".into()),
            socket: "/run/plinth/plinth.sock".into(),
            socket_group: None,
            containerd: "/run/containerd/containerd.sock".into(),
            namespace: "plinth".into(),
            snapshotter: "overlayfs".into(),
            shim: "io.containerd.runc.v2".into(),
            oci_runtime: "runc".into(),
            image_dirs: vec!["/usr/lib/plinth/images".into()],
            registry_hosts_dir: "/etc/containerd/certs.d".into(),
            pull_stall: Duration::from_secs(60),
            max_parallel_pulls: 1,
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).to_vec(),
            cni_cache_dir: "/var/lib/plinth/cni".into(),
            cni_timeout: Duration::from_secs(60),
            cgroup_root: "/".into(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            rescan: Duration::from_secs(20),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            crash_cap: Duration::from_secs(300),
            shutdown_grace: Duration::from_secs(30),
            shutdown_critical: Duration::from_secs(10),
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            log_level: log::LevelFilter::Info,
            warnings: Vec::new(),
        }
    }
}
