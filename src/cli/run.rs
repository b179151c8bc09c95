//! `plinth run`: the supervisor.

use crate::settings::Settings;

/// Runs until told to end; the exit status.
pub fn run(args: &[String]) -> u8 {
    let mut s = Settings::default();
    let mut layers = Vec::new();
    let mut it = args.iter();
    while let (Some(k), Some(v)) = (it.next(), it.next()) {
        match k.as_str() {
            "--manifests" => layers.push(v.into()),
            "--node-name" => s.node_name = v.clone(),
            "--set" => {
                let (k, v) = v.split_once('=').unwrap_or((v, ""));
                match k {
                    "containerd" => s.containerd = v.into(),
                    "dataDir" => s.data_dir = v.into(),
                    "runDir" => s.run_dir = v.into(),
                    "socket" => s.socket = v.into(),
                    "podLogsDir" => s.pod_logs_dir = v.into(),
                    "containerLinksDir" => s.container_links_dir = Some(v.into()),
                    "cniConfDir" => s.cni_conf_dir = v.into(),
                    "cniBinDirs" => s.cni_bin_dirs = vec![v.into()],
                    "cniCacheDir" => s.cni_cache_dir = v.into(),
                    "imageDirs" => s.image_dirs = vec![v.into()],
                    "registryHostsDir" => s.registry_hosts_dir = v.into(),
                    "cgroupRoot" => s.cgroup_root = v.into(),
                    "ociRuntime" => s.oci_runtime = v.into(),
                    "pullStall" => s.pull_stall = std::time::Duration::from_secs(3),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    s.layers = layers;
    s.node_ips = vec![std::net::IpAddr::from([127, 0, 0, 1])];
    struct L;
    impl log::Log for L {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, r: &log::Record<'_>) {
            if r.target().starts_with("plinth") {
                eprintln!("{} {}", r.level(), r.args());
            }
        }
        fn flush(&self) {}
    }
    let _ = log::set_logger(&L);
    log::set_max_level(log::LevelFilter::Debug);
    match crate::run::run(s) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("plinth: {}", crate::runtime::error::chain(&e));
            1
        }
    }
}
