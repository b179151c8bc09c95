//! Every key plinth has, in the words of `PlinthConfiguration`, and how it is set. A new setting is a field and a line here.

use super::input::{Input, Wrong};
use super::url::{self, Address};
use super::{LogTarget, RuntimeClass, Settings, reserve};

/// Sets one key.
pub type Set = fn(&mut Settings, &Input<'_>) -> Result<(), Wrong>;

/// The table.
pub const KEYS: &[(&str, Set)] = &[
    ("layers", |s, i| i.paths().map(|v| s.layers = v)),
    ("nodeName", |s, i| i.optional().map(|v| s.node_name = v.unwrap_or_default().to_lowercase())),
    ("nodeIPs", |s, i| i.ips().map(|v| s.node_ips = v)),
    ("dataDir", |s, i| i.path().map(|v| s.data_dir = v)),
    ("runDir", |s, i| i.path().map(|v| s.run_dir = v)),
    ("podLogsDir", |s, i| i.path().map(|v| s.pod_logs_dir = v)),
    ("containerLinksDir", |s, i| i.path_or_none().map(|v| s.container_links_dir = v)),
    ("socket", |s, i| i.path().map(|v| s.socket = v)),
    ("socketGroup", |s, i| i.optional().map(|v| s.socket_group = v)),
    ("containerRuntimeEndpoint", |s, i| i.unix_socket().map(|v| s.containerd = v)),
    ("namespace", |s, i| i.word().map(|v| s.namespace = v)),
    ("snapshotter", |s, i| i.word().map(|v| s.snapshotter = v)),
    ("shim", |s, i| i.word().map(|v| s.shim = v)),
    ("ociRuntime", |s, i| i.word().map(|v| s.oci_runtime = v)),
    ("runtimeClasses", |s, i| i.table(runtime_class).map(|v| s.runtime_classes = v)),
    ("nodeLabels", |s, i| i.table(|i| i.text()).map(|v| s.node_labels = v)),
    ("imageDirs", |s, i| i.paths().map(|v| s.image_dirs = v)),
    ("registryHostsDir", |s, i| i.path().map(|v| s.registry_hosts_dir = v)),
    ("pullStall", |s, i| i.duration().map(|v| s.pull_stall = v)),
    ("maxParallelImagePulls", |s, i| at_least_one(i).map(|v| s.max_parallel_pulls = v)),
    ("imageGCHighThresholdPercent", |s, i| i.count().map(|v| s.image_gc.high_percent = v)),
    ("imageGCLowThresholdPercent", |s, i| i.count().map(|v| s.image_gc.low_percent = v)),
    ("imageMinimumGCAge", |s, i| i.duration().map(|v| s.image_gc.min_age = v)),
    ("imageMaximumGCAge", |s, i| i.duration().map(|v| s.image_gc.max_age = v)),
    ("imageGCPeriod", |s, i| i.duration().map(|v| s.image_gc.period = v)),
    ("cniConfDir", |s, i| i.path().map(|v| s.cni_conf_dir = v)),
    ("cniBinDirs", |s, i| i.paths().map(|v| s.cni_bin_dirs = v)),
    ("cniCacheDir", |s, i| i.path().map(|v| s.cni_cache_dir = v)),
    ("cniBuiltIn", |s, i| i.flag().map(|v| s.cni_built_in = v)),
    ("cniTimeout", |s, i| i.duration().map(|v| s.cni_timeout = v)),
    ("cgroupRoot", |s, i| i.optional().map(|v| s.cgroup_root = v.unwrap_or_else(|| "/".into()))),
    ("clusterDNS", |s, i| i.ips().map(|v| s.cluster_dns = v)),
    ("clusterDomain", |s, i| i.optional().map(|v| s.cluster_domain = v.unwrap_or_default())),
    ("resolvConf", |s, i| i.path_or_none().map(|v| s.resolv_conf = v.unwrap_or_default())),
    ("rescan", |s, i| i.duration().map(|v| s.rescan = v)),
    ("containerLogMaxSize", |s, i| i.bytes().map(|v| s.log_max_bytes = v)),
    ("containerLogMaxFiles", |s, i| i.count().map(|v| s.log_max_files = v)),
    ("maxContainerRestartPeriod", |s, i| i.duration().map(|v| s.crash_cap = v)),
    ("volumeStatsAggPeriod", |s, i| i.duration().map(|v| s.volume_stats_period = v)),
    ("shutdownGracePeriod", |s, i| i.duration().map(|v| s.shutdown_grace = v)),
    ("shutdownGracePeriodCriticalPods", |s, i| i.duration().map(|v| s.shutdown_critical = v)),
    ("maxPods", |s, i| at_least_one(i).map(|v| s.max_pods = v)),
    ("podPidsLimit", |s, i| pids(i).map(|v| s.pod_pids = v)),
    ("allowedUnsafeSysctls", |s, i| i.words().map(|v| s.allowed_unsafe_sysctls = v)),
    ("seccompDefault", |s, i| i.flag().map(|v| s.seccomp_default = v)),
    ("staticPodURL", |s, i| i.optional()?.map(|t| Address::parse(&t)).transpose().map(|v| s.url.address = v)),
    ("staticPodURLHeader", |s, i| url::headers(i).map(|v| s.url.headers = v)),
    ("httpCheckFrequency", |s, i| i.duration().map(|v| s.url.period = v)),
    ("manifestURL.caFile", |s, i| i.path_or_none().map(|v| s.url.ca_file = v)),
    ("manifestURL.certFile", |s, i| i.path_or_none().map(|v| s.url.cert_file = v)),
    ("manifestURL.keyFile", |s, i| i.path_or_none().map(|v| s.url.key_file = v)),
    ("manifestURL.publicKey", |s, i| i.optional().map(|v| s.url.public_key = v)),
    ("manifestURL.above", |s, i| i.path_or_none().map(|v| s.url.above = v)),
    ("kubeconfig", |s, i| i.path_or_none().map(|v| s.kubeconfig = v)),
    ("bootstrapKubeconfig", |s, i| i.path_or_none().map(|v| s.bootstrap_kubeconfig = v)),
    ("certDir", |s, i| i.path().map(|v| s.cert_dir = v)),
    ("rotateCertificates", |s, i| i.flag().map(|v| s.rotate_certificates = v)),
    ("serverTLSBootstrap", |s, i| i.flag().map(|v| s.server_tls_bootstrap = v)),
    ("registerNode", |s, i| i.flag().map(|v| s.register_node = v)),
    ("registerWithTaints", |s, i| i.taints().map(|v| s.taints = v)),
    ("providerID", |s, i| i.optional().map(|v| s.provider_id = v)),
    ("nodeStatusUpdateFrequency", |s, i| i.duration().map(|v| s.node_status_update = v)),
    ("nodeStatusReportFrequency", |s, i| i.duration().map(|v| s.node_status_report = v)),
    ("nodeLeaseDurationSeconds", |s, i| at_least_one(i).map(|v| s.node_lease_s = u32::try_from(v).unwrap_or(u32::MAX))),
    ("evictionHard", |s, i| s.reserve.set_hard(i)),
    ("mergeDefaultEvictionSettings", |s, i| i.flag().map(|v| s.reserve.merge = v)),
    ("evictionPressureTransitionPeriod", |s, i| i.duration().map(|v| s.reserve.transition = v)),
    ("systemReserved", |s, i| reserve::amounts(i).map(|v| s.reserve.system = v)),
    ("kubeReserved", |s, i| reserve::amounts(i).map(|v| s.reserve.kube = v)),
    ("enableServer", |s, i| i.flag().map(|v| s.api.enabled = v)),
    ("address", |s, i| i.ip().map(|v| s.api.address = v)),
    ("port", |s, i| i.count().map(|v| s.api.port = v)),
    ("tlsCertFile", |s, i| i.path_or_none().map(|v| s.api.cert_file = v)),
    ("tlsPrivateKeyFile", |s, i| i.path_or_none().map(|v| s.api.key_file = v)),
    ("clientCAFile", |s, i| i.path_or_none().map(|v| s.api.client_ca_file = v)),
    ("anonymousAuth", |s, i| i.flag().map(|v| s.api.anonymous_asked = v)),
    ("authenticationTokenWebhook", |s, i| i.flag().map(|v| s.api.tokens = v)),
    ("authenticationTokenWebhookCacheTTL", |s, i| i.duration().map(|v| s.api.token_ttl = v)),
    ("authorizationMode", |s, i| mode(i).map(|v| s.api.always_allow = v)),
    ("authorizationWebhookCacheAuthorizedTTL", |s, i| i.duration().map(|v| s.api.allowed_ttl = v)),
    ("authorizationWebhookCacheUnauthorizedTTL", |s, i| i.duration().map(|v| s.api.denied_ttl = v)),
    ("streamingConnectionIdleTimeout", |s, i| i.duration().map(|v| s.api.idle = v)),
    ("logLevel", |s, i| level(i).map(|v| s.log_level = v)),
    ("logTarget", |s, i| target(i).map(|v| s.log_target = v)),
];

/// The key of that name.
pub fn find(key: &str) -> Option<Set> {
    KEYS.iter().find(|(k, _)| *k == key).map(|(_, set)| *set)
}

/// Nothing, or less, is no limit, as with the kubelet.
fn pids(i: &Input<'_>) -> Result<Option<u64>, Wrong> {
    match i.text().ok().and_then(|t| t.parse::<i64>().ok()) {
        Some(below) if below < 0 => Ok(None),
        _ => i.count().map(|n| Some(n).filter(|n| *n > 0)),
    }
}

/// `crun`, or `{shim: io.containerd.kata.v2}`, or both.
fn runtime_class(i: &Input<'_>) -> Result<RuntimeClass, Wrong> {
    if let Ok(binary) = i.word() {
        return Ok(RuntimeClass { shim: None, oci_runtime: Some(binary) });
    }
    i.has_only(&["shim", "ociRuntime"])?;
    let word = |key| i.at(key).map(|i| i.word()).transpose();
    Ok(RuntimeClass { shim: word("shim")?, oci_runtime: word("ociRuntime")? })
}

fn at_least_one(i: &Input<'_>) -> Result<usize, Wrong> {
    let n: usize = i.count()?;
    if n == 0 { Err("expected at least 1, found 0".into()) } else { Ok(n) }
}

/// Whether it is `AlwaysAllow`.
fn mode(i: &Input<'_>) -> Result<bool, Wrong> {
    match i.word()?.as_str() {
        "AlwaysAllow" => Ok(true),
        "Webhook" => Ok(false),
        other => Err(format!("expected Webhook or AlwaysAllow, found `{other}`")),
    }
}

fn level(i: &Input<'_>) -> Result<log::LevelFilter, Wrong> {
    match i.word()?.as_str() {
        "error" => Ok(log::LevelFilter::Error),
        "warn" => Ok(log::LevelFilter::Warn),
        "info" => Ok(log::LevelFilter::Info),
        "debug" => Ok(log::LevelFilter::Debug),
        other => Err(format!("expected error, warn, info or debug, found `{other}`")),
    }
}

fn target(i: &Input<'_>) -> Result<LogTarget, Wrong> {
    match i.word()?.as_str() {
        "stderr" => Ok(LogTarget::Stderr),
        "kmsg" => Ok(LogTarget::Kmsg),
        other => Err(format!("expected stderr or kmsg, found `{other}`")),
    }
}
