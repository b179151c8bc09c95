//! Settings: fragments (files, drop-ins, flags, kernel command line) merged into one validated `Settings`.
//!
//! Later fragments win, key by key: vendor files (`/usr/lib/plinth/config.yaml`, then `config.d/*.yaml` by name), the machine's
//! (`/etc/plinth/…` likewise), flags, and last the `plinth.*` words of the kernel command line: on an image the flags are baked in
//! beside the files, and the boot loader is all an operator has. `--config FILE|DIR` stands in for all four places of files.
//! What was named explicitly must be right; of the files in those places a bad one is left out where a vendor's stands (`usual`).
//!
//! - `keys`: every key, how it is set; `kubelet`: the kubelet's names for them, and its fields that mean nothing here
//! - `input`: one value with its place to durations, paths, sizes; `fragments`: files to values; `arguments`: flags and words to values
//! - `usual`: the files of the four places, and what a bad one costs
//! - `kubeconfig`: the API server's address and our identity there, read by who connects
//! - `url`: the server of manifests; `reserve`: what pods may not have of the machine
//! - `node`: what is found out when nothing says it

mod arguments;
mod fragments;
mod input;
mod keys;
pub mod kubeconfig;
mod kubelet;
mod node;
pub mod reserve;
pub mod url;
mod usual;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::manifest::url::minisign;
use crate::plan::garbage::Rule;
use reserve::Reserve;
use url::ManifestUrl;

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, for the service manager or a terminal.
    #[default]
    Stderr,
    /// The kernel's log: where there is no service manager to keep it.
    Kmsg,
}

/// What runs the pods of one `runtimeClassName`; what it leaves out is as for other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeClass {
    /// Shim: a runtime name (`io.containerd.kata.v2`) or an absolute path.
    pub shim: Option<String>,
    /// OCI runtime binary given to a shim of runc's kind.
    pub oci_runtime: Option<String>,
}

/// A taint of the Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, mostly empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// What a new Node gets unless it is set otherwise: a pod that a scheduler put here would wait for ever.
    pub fn static_pods_only() -> Taint {
        Taint { key: format!("{}static-pods-only", crate::pod::PREFIX), value: String::new(), effect: "NoSchedule".into() }
    }
}

/// The kubelet API: where it listens, and whom it lets in.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// `enableServer`: else it is off, whatever the rest says.
    pub enabled: bool,
    /// `address`.
    pub address: IpAddr,
    /// `port`; 0: not set.
    pub port: u16,
    /// `tlsCertFile`, with `tlsPrivateKeyFile`; `None`: a certificate that nobody signed, made at each start.
    pub cert_file: Option<PathBuf>,
    /// `tlsPrivateKeyFile`.
    pub key_file: Option<PathBuf>,
    /// `authentication.x509.clientCAFile`: whose certificates are believed.
    pub client_ca_file: Option<PathBuf>,
    /// `authentication.anonymous.enabled` was set: which it never is here.
    pub anonymous_asked: bool,
    /// `authentication.webhook.enabled`: bearer tokens are shown to the API server.
    pub tokens: bool,
    /// `authentication.webhook.cacheTTL`.
    pub token_ttl: Duration,
    /// `authorization.mode` is `AlwaysAllow`: who is known may do anything.
    pub always_allow: bool,
    /// `authorization.webhook.cacheAuthorizedTTL`.
    pub allowed_ttl: Duration,
    /// `authorization.webhook.cacheUnauthorizedTTL`.
    pub denied_ttl: Duration,
    /// `streamingConnectionIdleTimeout`.
    pub idle: Duration,
}

impl Default for Api {
    fn default() -> Api {
        let s = Duration::from_secs;
        Api {
            enabled: true,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            anonymous_asked: false,
            tokens: true,
            token_ttl: s(120),
            always_allow: false,
            allowed_ttl: s(300),
            denied_ttl: s(30),
            idle: s(4 * 3600),
        }
    }
}

impl Api {
    /// The kubelet's.
    const PORT: u16 = 10250;

    /// Where it listens; `None`: it is off. To name those who may come in is to want it, as in a kubeadm's configuration, which
    /// leaves the port out.
    pub fn listens(&self) -> Option<SocketAddr> {
        let port = if self.port == 0 { self.client_ca_file.as_ref().map(|_| Api::PORT) } else { Some(self.port) };
        port.filter(|_| self.enabled).map(|port| SocketAddr::new(self.address, port))
    }

    /// What of it cannot be meant so. None of it keeps a pod from running.
    fn warnings(&self, joined: bool) -> Vec<String> {
        let mut out = Vec::new();
        if self.listens().is_some() {
            if self.anonymous_asked {
                out.push("kubelet API: nobody is let in without a name here; anonymous authentication stays off".to_owned());
            }
            if self.client_ca_file.is_none() && !(self.tokens && joined) {
                out.push(
                    "kubelet API: it listens, but can let nobody in: set clientCAFile, or a kubeconfig to have tokens reviewed".into(),
                );
            }
            if self.cert_file.is_some() != self.key_file.is_some() {
                out.push("kubelet API: tlsCertFile and tlsPrivateKeyFile go together; it serves nobody with one of them".into());
            }
        }
        out
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file of settings.
    #[error("read settings file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in them.
    #[error("read settings: {place}: {message}")]
    Wrong {
        /// `file:line:column`, a flag, or a word of the kernel command line.
        place: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// All in all.
    #[error("check settings: {0}")]
    Invalid(String),
}

/// Everything that can be set, merged and validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Manifest layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Node name: suffix of pod names, lower case.
    pub node_name: String,
    /// Node IPs, primary first; found from the default route when empty.
    pub node_ips: Vec<IpAddr>,
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
    /// What stands behind a pod's `runtimeClassName`, by its name.
    pub runtime_classes: BTreeMap<String, RuntimeClass>,
    /// Labels of the node besides its own, for `nodeSelector` and node affinity.
    pub node_labels: BTreeMap<String, String>,
    /// OCI archives to import images from, in order of search.
    pub image_dirs: Vec<PathBuf>,
    /// Registry hosts directory (`<host>/hosts.toml`), as containerd's `config_path`.
    pub registry_hosts_dir: PathBuf,
    /// A pull that makes no progress for so long is given up.
    pub pull_stall: Duration,
    /// Pulls at once.
    pub max_parallel_pulls: usize,
    /// When unused images are removed.
    pub image_gc: Rule,
    /// CNI configuration lists.
    pub cni_conf_dir: PathBuf,
    /// CNI plugins, in order of search.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// CNI results kept for DEL.
    pub cni_cache_dir: PathBuf,
    /// `bridge` with `host-local`, and `portmap` by nftables, are done by plinth itself.
    pub cni_built_in: bool,
    /// A CNI plugin is killed after this.
    pub cni_timeout: Duration,
    /// Parent cgroup of `kubepods`, `/` for the root.
    pub cgroup_root: String,
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
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
    /// `volumeStatsAggPeriod`: how often emptyDirs on disk are held against their sizeLimit, and volumes counted at most; zero: never.
    pub volume_stats_period: Duration,
    /// `shutdownGracePeriod`.
    pub shutdown_grace: Duration,
    /// `shutdownGracePeriodCriticalPods`: the tail of it for critical pods.
    pub shutdown_critical: Duration,
    /// `maxPods`.
    pub max_pods: usize,
    /// `podPidsLimit`: most processes and threads of a pod; `None`: as many as the machine takes.
    pub pod_pids: Option<u64>,
    /// `allowedUnsafeSysctls`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `seccompDefault`: RuntimeDefault where a manifest is silent.
    pub seccomp_default: bool,
    /// `staticPodURL` and what belongs to it.
    pub url: ManifestUrl,
    /// The kubeconfig of the cluster to join; `None`: none.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig that may ask for an identity, where there is none yet or it expired; what comes of it is written to `kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where certificates that were asked for are, with their keys: `pki` in the data directory.
    pub cert_dir: PathBuf,
    /// `rotateCertificates`: an identity that was asked for is renewed before it expires.
    pub rotate_certificates: bool,
    /// `serverTLSBootstrap`: the kubelet API's certificate is asked for at the API server.
    pub server_tls_bootstrap: bool,
    /// `registerNode`: the Node object is made if there is none; else it is waited for.
    pub register_node: bool,
    /// `registerWithTaints`: taints a new Node object gets.
    pub taints: Vec<Taint>,
    /// `providerID`.
    pub provider_id: Option<String>,
    /// `nodeStatusUpdateFrequency`: how often the Node's status is looked at.
    pub node_status_update: Duration,
    /// `nodeStatusReportFrequency`: how often it is sent though nothing changed.
    pub node_status_report: Duration,
    /// `nodeLeaseDurationSeconds`; the Lease is renewed four times in it.
    pub node_lease_s: u32,
    /// What pods may not have of the machine.
    pub reserve: Reserve,
    /// The kubelet API.
    pub api: Api,
    /// Log level: error, warn, info, debug.
    pub log_level: log::LevelFilter,
    /// Where the log goes.
    pub log_target: LogTarget,
    /// What was odd about the fragments (unknown keys, fields plinth does not have), for one warning each.
    pub warnings: Vec<String>,
    /// Which files of the usual places were left out, each with what is wrong with it and what to do.
    pub left_out: Vec<String>,
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
            runtime_classes: BTreeMap::new(),
            node_labels: BTreeMap::new(),
            image_dirs: vec!["/usr/lib/plinth/images".into()],
            registry_hosts_dir: "/etc/containerd/certs.d".into(),
            pull_stall: Duration::from_secs(60),
            max_parallel_pulls: 1,
            image_gc: Rule::default(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).to_vec(),
            cni_cache_dir: "/var/lib/plinth/cni".into(),
            cni_built_in: true,
            cni_timeout: Duration::from_secs(60),
            cgroup_root: "/".into(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            rescan: Duration::from_secs(20),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            crash_cap: Duration::from_secs(300),
            volume_stats_period: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
            shutdown_critical: Duration::from_secs(10),
            max_pods: 110,
            pod_pids: None,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            url: ManifestUrl::default(),
            kubeconfig: None,
            bootstrap_kubeconfig: None,
            cert_dir: "/var/lib/plinth/pki".into(),
            rotate_certificates: true,
            server_tls_bootstrap: false,
            register_node: true,
            taints: vec![Taint::static_pods_only()],
            provider_id: None,
            node_status_update: Duration::from_secs(10),
            node_status_report: Duration::from_secs(300),
            node_lease_s: 40,
            reserve: Reserve::default(),
            api: Api::default(),
            log_level: log::LevelFilter::Info,
            log_target: LogTarget::Stderr,
            warnings: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

/// The name of every setting.
pub fn names() -> impl Iterator<Item = &'static str> {
    keys::KEYS.iter().map(|(key, _)| *key)
}

impl Settings {
    /// Loads the files and folds in flags and kernel command line. Answers the arguments that are no flags of its own, in order:
    /// whoever asked knows whether they mean something.
    pub fn load(args: &[String], cmdline: &str) -> Result<(Settings, Vec<String>), SettingsError> {
        Settings::load_from(usual::PLACES.map(Path::new), args, cmdline)
    }

    fn load_from([vendor, machine]: [&Path; 2], args: &[String], cmdline: &str) -> Result<(Settings, Vec<String>), SettingsError> {
        let given = arguments::flags(args)?;
        let words = arguments::words(cmdline)?;
        let finish = |mut settings: Settings| {
            for set in given.sets.iter().chain(&words.sets) {
                set.apply(&mut settings)?;
            }
            settings.warnings.extend(given.warnings.iter().chain(&words.warnings).cloned());
            settings.warnings.extend(settings.api.warnings(settings.kubeconfig.is_some() || settings.bootstrap_kubeconfig.is_some()));
            let mut seen = std::collections::BTreeSet::new();
            settings.warnings.retain(|w| seen.insert(w.clone()));
            settings.complete();
            settings.validate()?;
            Ok(settings)
        };
        let named: Vec<&PathBuf> = given.config.iter().chain(&words.config).collect();
        let settings = if named.is_empty() {
            usual::load(vendor, machine, finish)?
        } else {
            let mut settings = Settings::default();
            for file in fragments::named_files(&named)? {
                fragments::file(&file, &mut settings)?;
            }
            finish(settings)?
        };
        Ok((settings, given.rest))
    }

    /// How many layers stand below what comes by URL; `None`: nothing comes that way.
    pub fn url_rank(&self) -> Option<usize> {
        self.url.address.as_ref()?;
        let above = |above| self.layers.iter().position(|l| l == above).map_or(0, |i| i + 1);
        Some(self.url.above.as_ref().map_or(0, above))
    }

    /// The layers as they are shown, lowest first, the URL at its place.
    pub fn shown_layers(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.layers.iter().map(|l| l.display().to_string()).collect();
        if let (Some(rank), Some(address)) = (self.url_rank(), &self.url.address) {
            shown.insert(rank.min(shown.len()), address.shown());
        }
        shown
    }

    /// Fills in what follows from other settings or from the machine.
    fn complete(&mut self) {
        let plain = Settings::default();
        if self.socket == plain.socket {
            self.socket = self.run_dir.join("plinth.sock");
        }
        if self.cni_cache_dir == plain.cni_cache_dir {
            self.cni_cache_dir = self.data_dir.join("cni");
        }
        if self.cert_dir == plain.cert_dir {
            self.cert_dir = self.data_dir.join("pki");
        }
        if self.server_tls_bootstrap && self.api.cert_file.is_none() {
            let both = self.cert_dir.join("kubelet-server-current.pem");
            (self.api.cert_file, self.api.key_file) = (Some(both.clone()), Some(both));
        }
        if self.bootstrap_kubeconfig.is_some() && self.kubeconfig.is_none() {
            self.kubeconfig = Some(self.data_dir.join("kubeconfig"));
        }
        if self.shutdown_critical == plain.shutdown_critical && self.shutdown_critical > self.shutdown_grace {
            self.shutdown_critical = self.shutdown_grace / 3;
        }
        if self.node_name.is_empty() {
            self.node_name = node::name();
        }
        if self.node_ips.is_empty() {
            self.node_ips = node::ips();
        }
    }

    fn validate(&self) -> Result<(), SettingsError> {
        let name = &self.node_name;
        let label = |l: &str| {
            !l.is_empty()
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b"-0123456789abcdefghijklmnopqrstuvwxyz".contains(&b))
        };
        let wrong = if name.len() > 253 || !name.split('.').all(label) {
            format!("node name `{name}` is not a DNS name of lower case letters, digits, `-` and `.`: set it with --node-name")
        } else if self.layers.is_empty() {
            "no manifest layer is left: name one with --manifests".into()
        } else if self.shutdown_critical > self.shutdown_grace {
            "shutdownGracePeriodCriticalPods is a part of shutdownGracePeriod and cannot be more".into()
        } else if self.image_gc.high_percent > 100 || self.image_gc.low_percent >= self.image_gc.high_percent {
            "imageGCLowThresholdPercent must be less than imageGCHighThresholdPercent, and that at most 100".into()
        } else if self.image_gc.period < Duration::from_secs(1) {
            "imageGCPeriod must be at least 1s".into()
        } else if self.rescan < Duration::from_millis(100) {
            "rescan (fileCheckFrequency) must be at least 100ms".into()
        } else if self.url.period < Duration::from_millis(100) {
            "httpCheckFrequency must be at least 100ms".into()
        } else if self.node_status_update < Duration::from_secs(1) {
            "nodeStatusUpdateFrequency must be at least 1s".into()
        } else if self.node_status_report < Duration::from_secs(1) {
            "nodeStatusReportFrequency must be at least 1s".into()
        } else if !self.volume_stats_period.is_zero() && self.volume_stats_period < Duration::from_millis(100) {
            "volumeStatsAggPeriod must be at least 100ms, or 0 for never".into()
        } else if self.url.cert_file.is_some() != self.url.key_file.is_some() {
            "manifestURL.certFile and manifestURL.keyFile go together".into()
        } else if let Some(above) = self.url.above.as_ref().filter(|above| !self.layers.contains(above)) {
            format!("manifestURL.above is {}, which is none of the layers", above.display())
        } else if let Some(Err(why)) = self.url.public_key.as_deref().map(minisign::Key::parse) {
            format!("manifestURL.publicKey: {why}")
        } else if self.log_max_files < 2 {
            "containerLogMaxFiles must be at least 2".into()
        } else if self.crash_cap < Duration::from_secs(1) || self.crash_cap > Duration::from_secs(300) {
            "crashLoopBackOff.maxContainerRestartPeriod must be from 1s to 300s".into()
        } else {
            return Ok(());
        };
        Err(SettingsError::Invalid(wrong))
    }
}

#[cfg(test)]
mod tests;
