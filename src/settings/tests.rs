#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::url::Address;
use super::*;
use std::path::Path;

/// Files of these texts, in a directory of their own, in order of name.
fn load(files: &[&str], args: &[&str], cmdline: &str) -> Result<(Settings, Vec<String>), SettingsError> {
    static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("plinth-settings-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (i, text) in files.iter().enumerate() {
        std::fs::write(dir.join(format!("{i}.yaml")), text).unwrap();
    }
    let mut all = vec!["--config".to_owned(), dir.display().to_string()];
    all.extend(args.iter().map(|a| (*a).to_owned()));
    let loaded = Settings::load(&all, cmdline);
    std::fs::remove_dir_all(&dir).unwrap();
    loaded
}

/// What comes of files of the usual places, the vendor's and the machine's, each by its name there; and the directory they were in.
fn usual(vendor: &[(&str, &str)], machine: &[(&str, &str)], args: &[&str]) -> (Result<Settings, SettingsError>, String) {
    static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("plinth-usual-{}-{n}", std::process::id()));
    let places = ["usr", "etc"].map(|place| dir.join(place));
    for (place, files) in places.iter().zip([vendor, machine]) {
        std::fs::create_dir_all(place.join("config.d")).unwrap();
        for (name, text) in files {
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, place.join(name)).unwrap(),
                None => std::fs::write(place.join(name), text).unwrap(),
            }
        }
    }
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let loaded = Settings::load_from([&places[0], &places[1]], &args, "");
    std::fs::remove_dir_all(&dir).unwrap();
    (loaded.map(|(settings, _)| settings), dir.display().to_string())
}

fn ok(files: &[&str], args: &[&str]) -> Settings {
    load(files, args, "").unwrap().0
}

fn error(files: &[&str], args: &[&str]) -> String {
    load(files, args, "").unwrap_err().to_string()
}

const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
const OURS: &str = "apiVersion: plinth.dev/v1alpha1\nkind: PlinthConfiguration\n";

#[test]
fn defaults_come_from_the_machine() {
    let s = ok(&[], &[]);
    assert!(!s.node_name.is_empty() && s.node_name == s.node_name.to_lowercase());
    assert!(!s.node_ips.is_empty());
    assert_eq!(s.layers, Settings::default().layers);
    assert_eq!(s.warnings, Vec::<String>::new());
}

#[test]
fn a_limit_of_pids_below_one_is_none() {
    for (text, want) in [("-1", None), ("0", None), ("7", Some(7)), ("'7'", Some(7))] {
        assert_eq!(ok(&[&format!("{KUBELET}podPidsLimit: {text}\n")], &[]).pod_pids, want, "{text}");
    }
}

#[test]
fn kubelet_configuration_is_taken_as_it_is() {
    let text = KUBELET.to_owned()
        + "staticPodPath: /etc/kubernetes/manifests\nfileCheckFrequency: 1m30s\ncontainerLogMaxSize: 20Mi\ncontainerLogMaxFiles: 3\n\
           clusterDNS: [10.96.0.10, 'fd00::a']\nclusterDomain: cluster.local\nresolvConf: /run/resolv.conf\nmaxPods: 42\n\
           shutdownGracePeriod: 40s\nshutdownGracePeriodCriticalPods: 15s\nallowedUnsafeSysctls: ['net.*']\npodPidsLimit: 4096\nseccompDefault: true\n\
           maxParallelImagePulls: 4\nimageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\nimageMinimumGCAge: 1m\nimageMaximumGCAge: 24h\nserializeImagePulls: false\ncrashLoopBackOff: {maxContainerRestartPeriod: 20s}\n\
           containerRuntimeEndpoint: unix:///run/c.sock\npodLogsDir: /var/log/p\n";
    let s = ok(&[&text], &[]);
    assert_eq!(s.layers, [Path::new("/etc/kubernetes/manifests")]);
    assert_eq!(s.pod_pids, Some(4096));
    assert_eq!((s.rescan, s.log_max_bytes, s.log_max_files, s.max_pods), (Duration::from_secs(90), 20 << 20, 3, 42));
    assert_eq!((s.cluster_dns.len(), &*s.cluster_domain, &*s.resolv_conf), (2, "cluster.local", Path::new("/run/resolv.conf")));
    assert_eq!((s.shutdown_grace, s.shutdown_critical), (Duration::from_secs(40), Duration::from_secs(15)));
    assert_eq!((s.crash_cap, s.max_parallel_pulls, s.seccomp_default), (Duration::from_secs(20), 4, true));
    let gc = s.image_gc;
    assert_eq!((gc.high_percent, gc.low_percent, gc.min_age, gc.max_age), (70, 60, Duration::from_secs(60), Duration::from_secs(86_400)));
    assert_eq!((&*s.containerd, &*s.pod_logs_dir), (Path::new("/run/c.sock"), Path::new("/var/log/p")));
    assert_eq!(s.warnings, Vec::<String>::new());
}

#[test]
fn what_kubeadm_writes_is_accepted() {
    let text = KUBELET.to_owned()
        + "authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}}\ncgroupDriver: systemd\nclusterDNS: [10.96.0.10]\n\
           containerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {}\nfileCheckFrequency: 0s\nhealthzPort: 10248\n\
           logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}\nshutdownGracePeriod: 0s\n\
           shutdownGracePeriodCriticalPods: 0s\nstaticPodPath: /etc/kubernetes/manifests\nsyncFrequency: 0s\n";
    let s = ok(&[&text], &[]);
    assert_eq!((s.rescan, s.shutdown_grace), (Duration::from_secs(20), Duration::from_secs(30)));
    assert_eq!(s.warnings.len(), 1, "{:?}", s.warnings);
    assert!(s.warnings[0].ends_with("without effect here: cgroupDriver, healthzPort"), "{:?}", s.warnings);
}

#[test]
fn what_is_kept_free_is_a_kubelets_and_any_threshold_replaces_all() {
    use super::reserve::Least;
    let of = |text: &str, args: &[&str]| ok(&[&(KUBELET.to_owned() + text)], args).reserve;
    let plain = of("", &[]);
    assert_eq!(
        (plain.least("memory.available"), plain.least("nodefs.available").map(|l| l.of(50))),
        (Some(Least::Units(100 << 20)), Some(5))
    );
    let set = of("evictionHard: {memory.available: 5%, imagefs.available: 0%}\nevictionPressureTransitionPeriod: 30s\n", &[]);
    assert_eq!(
        (set.least("memory.available").map(|l| l.of(200)), set.least("imagefs.available"), set.least("nodefs.available")),
        (Some(10), None, None)
    );
    assert_eq!(set.transition, Duration::from_secs(30));
    let merged = of("evictionHard: {memory.available: 5%, imagefs.available: 0%}\nmergeDefaultEvictionSettings: true\n", &[]);
    assert_eq!((merged.least("imagefs.available"), merged.least("nodefs.available")), (None, plain.least("nodefs.available")));
    let flags =
        ["--eviction-hard=memory.available<1Gi,pid.available<10%", "--system-reserved", "cpu=100m,memory=1Gi", "--kube-reserved=cpu=50m"];
    let flags = of("", &flags);
    assert_eq!(
        (flags.least("memory.available"), flags.kept("cpu").milli(), flags.kept("memory").units()),
        (Some(Least::Units(1 << 30)), 150, 1 << 30)
    );
    for (text, word) in [
        ("evictionHard: {memory.free: 5%}\n", "no signal `memory.free`"),
        ("evictionHard: {memory.available: lots}\n", "found `lots`"),
        ("systemReserved: {disk: 1Gi}\n", "`disk` cannot be reserved"),
        ("kubeReserved: {cpu: -1}\n", "not negative"),
    ] {
        let e = error(&[&(KUBELET.to_owned() + text)], &[]);
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn every_key_of_ours_is_in_the_table_and_can_be_set() {
    let text = OURS.to_owned()
        + "layers: [/a, b]\nnodeName: N1\nnodeIPs: 192.0.2.7\ndataDir: /d\nrunDir: /r\nsocketGroup: '27'\ncontainerLinksDir: ''\nnamespace: ns\n\
           snapshotter: native\nshim: /bin/shim\nociRuntime: crun\nimageDirs: [/i]\nregistryHostsDir: /h\npullStall: 250ms\n\
           cniConfDir: /c\ncniBinDirs: [/b]\ncniTimeout: 1.5s\ncniBuiltIn: false\ncgroupRoot: /plinth\nlogLevel: debug\nlogTarget: kmsg\nrescan: 2s\n";
    let s = ok(&[&text], &[]);
    assert_eq!(s.layers[0], Path::new("/a"));
    assert!(s.layers[1].is_absolute() && s.layers[1].ends_with("b"), "relative paths stand beside their file: {:?}", s.layers);
    assert_eq!((&*s.node_name, s.node_ips[0].to_string().as_str()), ("n1", "192.0.2.7"));
    assert_eq!((&*s.socket, &*s.cni_cache_dir), (Path::new("/r/plinth.sock"), Path::new("/d/cni")), "these follow");
    assert_eq!((s.socket_group.as_deref(), s.container_links_dir), (Some("27"), None));
    assert!(Settings::default().cni_built_in && !s.cni_built_in);
    assert_eq!((s.cni_timeout, s.pull_stall), (Duration::from_millis(1500), Duration::from_millis(250)));
    assert_eq!((s.log_level, s.log_target), (log::LevelFilter::Debug, LogTarget::Kmsg));
}

#[test]
fn later_files_beat_earlier_and_flags_beat_files_and_the_kernel_beats_all() {
    let files = [
        &*(OURS.to_owned() + "namespace: a\nshim: a\nociRuntime: a\nsnapshotter: a\n"),
        &*(OURS.to_owned() + "shim: b\nociRuntime: b\nsnapshotter: b\n"),
    ];
    let args = ["--set", "ociRuntime=c", "--snapshotter=c"];
    let (s, _) = load(
        &files,
        &args,
        "quiet plinth.snapshotter=d plinth.node-name=\"n9\" plinth.what=1 plinth.manifests=/dev/x plinth.ip=dhcp root=/dev/x",
    )
    .unwrap();
    assert_eq!((&*s.namespace, &*s.shim, &*s.oci_runtime, &*s.snapshotter, &*s.node_name), ("a", "b", "c", "d", "n9"));
    assert_eq!(s.warnings, ["kernel command line: unknown word `plinth.what` is ignored"]);
}

#[test]
fn flags_of_the_kubelet_and_ours_are_known_and_others_are_left() {
    let args = [
        "--pod-manifest-path=/m",
        "--hostname-override",
        "Node",
        "--container-runtime-endpoint",
        "unix:///x.sock",
        "--node-ip",
        "192.0.2.1,2001:db8::1",
        "--data-dir",
        "/d",
        "--seccomp-default",
        "-o",
        "wide",
        "--tail=5",
        "pod",
        "--",
        "--data-dir",
        "x",
    ];
    let (s, rest) = load(&[], &args, "").unwrap();
    assert_eq!((s.layers, &*s.node_name, &*s.containerd), (vec!["/m".into()], "node", Path::new("/x.sock")));
    assert_eq!((s.node_ips.len(), &*s.data_dir, s.seccomp_default), (2, Path::new("/d"), true));
    assert_eq!(rest, ["-o", "wide", "--tail=5", "pod", "--", "--data-dir", "x"]);
    let s = ok(
        &[&(OURS.to_owned() + "layers: [/f]")],
        &[
            "--manifests",
            "/a",
            "--manifests=/b,/c",
            "--manifest-url",
            "http://m",
            "--manifest-url-header=a:b,c:d",
            "--manifest-url-header",
            "a: e:f",
        ],
    );
    assert_eq!(s.layers, ["/a", "/b", "/c"].map(PathBuf::from));
    assert_eq!(s.warnings, Vec::<String>::new());
    assert_eq!(s.url.address.as_ref().map(Address::shown).as_deref(), Some("http://m/"));
    assert_eq!(words(&s.url.headers), ["a=b", "c=d", "a=e:f"]);
}

#[test]
fn unknown_fields_are_named_once_with_the_nearest_known_one() {
    let s = ok(&[&(OURS.to_owned() + "nodName: x\n"), &(KUBELET.to_owned() + "staticPodPth: /x\nqqq: 1\n")], &[]);
    assert!(s.warnings[0].ends_with("0.yaml:3:1: unknown field `nodName` is ignored: did you mean `nodeName`?"), "{:?}", s.warnings);
    assert!(
        s.warnings[1].ends_with("1.yaml:3:1: unknown field `staticPodPth` is ignored: did you mean `staticPodPath`?"),
        "{:?}",
        s.warnings
    );
    assert!(s.warnings[2].ends_with("1.yaml:4:1: unknown field `qqq` is ignored"), "{:?}", s.warnings);
}

#[test]
fn errors_name_their_place() {
    for (text, says) in [
        (OURS.to_owned() + "rescan: soon", "0.yaml:3:9: rescan: expected a duration like `1m30s`, found the string \"soon\""),
        (OURS.to_owned() + "nodeIPs: [1.2.3]", "0.yaml:3:10: nodeIPs: expected an IP address"),
        (OURS.to_owned() + "rescan: -1s", "expected a duration"),
        (OURS.to_owned() + "containerLogMaxSize: -1", "expected a size"),
        (OURS.to_owned() + "a: [", "0.yaml:"),
        ("kind: Pod".to_owned(), "0.yaml:1:1: expected kind PlinthConfiguration"),
        (KUBELET.to_owned() + "containerLogMaxFiles: 1", "containerLogMaxFiles must be at least 2"),
        (KUBELET.to_owned() + "containerRuntimeEndpoint: tcp://x", "0.yaml:3:27: containerRuntimeEndpoint: expected a socket"),
        (KUBELET.to_owned() + "shutdownGracePeriod: 5s\nshutdownGracePeriodCriticalPods: 6s", "cannot be more"),
        (OURS.to_owned() + "nodeStatusUpdateFrequency: 0s", "nodeStatusUpdateFrequency must be at least 1s"),
        (KUBELET.to_owned() + "nodeStatusReportFrequency: 999ms", "nodeStatusReportFrequency must be at least 1s"),
        (OURS.to_owned() + "volumeStatsAggPeriod: 1ms", "volumeStatsAggPeriod must be at least 100ms, or 0 for never"),
        (OURS.to_owned() + "nodeName: a_b", "node name `a_b` is not a DNS name"),
    ] {
        let e = error(&[&text], &[]);
        assert!(e.contains(says), "{e} should say {says}");
    }
    assert!(error(&[], &["--data-dir"]).contains("--data-dir: needs a value"));
    assert!(error(&[], &["--set", "datDir=/x"]).contains("did you mean `dataDir`?"));
    assert!(error(&[], &["--config", "/does/not/exist.yaml"]).contains("/does/not/exist.yaml"));
    assert!(error(&[], &["--max-pods", "many"]).contains("--max-pods: maxPods: expected a whole number"));
}

#[test]
fn a_bad_file_of_a_usual_place_costs_itself_alone_where_the_vendors_stand() {
    let vendor = OURS.to_owned() + "namespace: vendor\nshim: vendor\n";
    let more = OURS.to_owned() + "snapshotter: more\n";
    let bad = OURS.to_owned() + "namespace: bad\nnodName: x\nrescan: soon\nshim: bad\n";
    let machine =
        [("config.yaml", &*bad), ("config.d/a.yaml", &more), ("config.d/b.yaml", "-> /does/not/exist"), ("config.d/c.yaml", "a: [")];
    let (s, dir) = usual(&[("config.yaml", &vendor)], &machine, &["--oci-runtime=flag"]);
    let s = s.unwrap();
    assert_eq!((&*s.namespace, &*s.shim, &*s.snapshotter, &*s.oci_runtime), ("vendor", "vendor", "more", "flag"));
    assert_eq!((s.rescan, s.warnings), (Settings::default().rescan, Vec::new()), "nothing of it counts");
    let [first, second, third] = &*s.left_out else { panic!("{:?}", s.left_out) };
    assert_eq!(
        *first,
        format!(
            "read settings: {dir}/etc/config.yaml:5:9: rescan: expected a duration like `1m30s`, found the string \"soon\": \
             nothing of it counts; correct it, then restart plinth"
        )
    );
    assert!(second.starts_with(&format!("read settings file {dir}/etc/config.d/b.yaml: No such file")), "{second}");
    assert!(third.starts_with(&format!("read settings: {dir}/etc/config.d/c.yaml:1:")), "{third}");
    let (s, dir) = usual(&[("config.yaml", "?"), ("config.d/a.yaml", &vendor)], &[], &[]);
    let s = s.unwrap();
    assert_eq!((&*s.namespace, s.left_out.len()), ("vendor", 1), "a vendor's, too");
    assert!(s.left_out[0].contains(&format!("{dir}/usr/config.yaml:1:")), "{:?}", s.left_out);
}

#[test]
fn of_files_that_are_wrong_only_together_the_one_to_blame_is_left_out() {
    let vendor = OURS.to_owned() + "shutdownGracePeriod: 20s\n";
    let [good, bad] = ["namespace: good", "shutdownGracePeriodCriticalPods: 25s\nnamespace: bad"].map(|text| format!("{OURS}{text}\n"));
    let (s, dir) = usual(&[("config.yaml", &vendor)], &[("config.yaml", &bad), ("config.d/a.yaml", &good)], &[]);
    let s = s.unwrap();
    assert_eq!((&*s.namespace, s.shutdown_grace, s.shutdown_critical), ("good", Duration::from_secs(20), Duration::from_secs(10)));
    assert_eq!(s.left_out.len(), 1);
    assert!(s.left_out[0].contains(&format!("{dir}/etc/config.yaml: shutdownGracePeriodCriticalPods is a part of")), "{:?}", s.left_out);
    // It is right again with what stands above it.
    let mended = OURS.to_owned() + "shutdownGracePeriod: 30s\n";
    let (s, _) = usual(&[("config.yaml", &vendor)], &[("config.yaml", &bad), ("config.d/a.yaml", &mended)], &[]);
    assert_eq!(s.unwrap().left_out, Vec::<String>::new());
    // Two, neither of which is the only one.
    let [one, two] = ["containerLogMaxFiles: 1", "imageGCPeriod: 0s"].map(|text| format!("{OURS}{text}\n"));
    let (s, dir) = usual(&[("config.yaml", &vendor)], &[("config.yaml", &one), ("config.d/a.yaml", &two), ("config.d/b.yaml", &good)], &[]);
    let s = s.unwrap();
    assert_eq!((&*s.namespace, s.left_out.len()), ("good", 2), "{:?}", s.left_out);
    assert!(s.left_out[0].contains(&format!("{dir}/etc/config.yaml: containerLogMaxFiles must be")), "{:?}", s.left_out);
    assert!(s.left_out[1].contains(&format!("{dir}/etc/config.d/a.yaml: imageGCPeriod must be")), "{:?}", s.left_out);
}

#[test]
fn a_bad_file_without_a_vendors_and_a_bad_flag_end_the_start() {
    let (good, bad) = (OURS.to_owned() + "namespace: x\n", OURS.to_owned() + "rescan: soon\n");
    let machine = [("config.yaml", &*bad), ("config.d/a.yaml", &good)];
    let says = |vendor: &[(&str, &str)], machine: &[(&str, &str)], args: &[&str], what: &str| {
        let (s, dir) = usual(vendor, machine, args);
        let e = s.unwrap_err().to_string();
        assert!(e.contains(&what.replace("DIR", &dir)), "{e} should say {what}");
    };
    says(&[], &machine, &[], "DIR/etc/config.yaml:3:9: rescan: ");
    says(&[("config.yaml", &bad)], &[("config.yaml", &good)], &[], "DIR/usr/config.yaml:3:9: rescan: ");
    let vendor = [("config.yaml", &*good)];
    says(&vendor, &machine, &["--rescan=soon"], "--rescan: rescan: expected a duration");
    says(&vendor, &machine, &["--image-gc-period=0s"], "check settings: imageGCPeriod must be at least 1s");
    says(
        &[],
        &[("config.yaml", &(OURS.to_owned() + "containerLogMaxFiles: 1\n"))],
        &[],
        "DIR/etc/config.yaml: containerLogMaxFiles must be",
    );
}

#[test]
fn short_grace_shortens_the_tail_for_critical_pods() {
    let s = ok(&[&(OURS.to_owned() + "shutdownGracePeriod: 6s")], &[]);
    assert_eq!(s.shutdown_critical, Duration::from_secs(2));
}

#[test]
fn tables_are_maps_in_files_and_pairs_in_flags() {
    let classes = "runtimeClasses: {kata: {shim: io.containerd.kata.v2}, quick: crun}\nnodeLabels: {zone: a}";
    let s = ok(&[&(OURS.to_owned() + classes)], &["--node-labels", "zone=b,tier="]);
    assert_eq!(s.runtime_classes["kata"].shim.as_deref(), Some("io.containerd.kata.v2"));
    assert_eq!(s.runtime_classes["quick"], RuntimeClass { shim: None, oci_runtime: Some("crun".into()) });
    assert_eq!(s.node_labels, [("tier", ""), ("zone", "b")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let e = error(&[&(OURS.to_owned() + "runtimeClasses: {kata: {shin: x}}")], &[]);
    assert!(e.contains("kata: there is no `shin` here, only shim, ociRuntime"), "{e}");
    assert!(error(&[], &["--node-labels", "zone"]).contains("expected key=value, found `zone`"));
}

#[test]
fn the_kubelet_api_is_off_until_it_is_configured() {
    assert_eq!(ok(&[], &[]).api.listens(), None);
    let kubeadm = "authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /pki/ca.crt}}\n\
        authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 7s}}\nstreamingConnectionIdleTimeout: 0s\n";
    let s = ok(&[&(KUBELET.to_owned() + kubeadm)], &[]);
    assert_eq!(s.api.listens().unwrap().to_string(), "0.0.0.0:10250");
    assert_eq!((s.api.tokens, s.api.always_allow, s.api.idle), (true, false, Duration::from_secs(4 * 3600)));
    assert_eq!((s.api.allowed_ttl, s.api.denied_ttl), (Duration::from_secs(300), Duration::from_secs(7)));
    assert_eq!(s.warnings, Vec::<String>::new());
    let off = KUBELET.to_owned() + kubeadm + "enableServer: false\n";
    assert_eq!(ok(&[&off], &[]).api.listens(), None);
    let s = ok(&[], &["--port=1250", "--address", "::1", "--kubeconfig=/k", "--tls-cert-file=/c", "--tls-private-key-file=/k"]);
    assert_eq!((s.api.listens().unwrap().to_string(), s.warnings), ("[::1]:1250".into(), Vec::new()));
    let s = ok(&[], &["--port=1250", "--anonymous-auth", "--tls-cert-file=/c", "--authorization-mode", "AlwaysAllow"]);
    assert!(s.api.always_allow && s.warnings.len() == 3, "{:?}", s.warnings);
    assert!(error(&[], &["--authorization-mode=ABAC"]).contains("expected Webhook or AlwaysAllow"));
}

#[test]
fn a_bootstrap_kubeconfig_and_a_serving_certificate_have_their_places() {
    let s = ok(
        &["apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\nport: 10250\n"],
        &["--bootstrap-kubeconfig=/etc/b", "--data-dir=/data"],
    );
    assert_eq!(s.kubeconfig, Some("/data/kubeconfig".into()));
    assert_eq!(s.api.cert_file, Some("/data/pki/kubelet-server-current.pem".into()));
    assert_eq!(s.api.key_file, s.api.cert_file);
    assert!(s.rotate_certificates && s.warnings.is_empty(), "{:?}", s.warnings);
    let s = ok(&[], &["--bootstrap-kubeconfig=/etc/b", "--kubeconfig=/etc/k", "--rotate-certificates=false"]);
    assert_eq!(s.kubeconfig, Some("/etc/k".into()));
    assert!(!s.rotate_certificates);
}

fn words(headers: &[(hyper::header::HeaderName, hyper::header::HeaderValue)]) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect()
}

const PUBLIC: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

#[test]
fn a_url_is_taken_as_the_kubelet_has_it_and_what_is_ours_by_either_spelling() {
    let kubelet = KUBELET.to_owned()
        + "staticPodURL: https://u:p@h/m.yaml\nstaticPodURLHeader: {X-A: [one, two], X-B: three}\nhttpCheckFrequency: 5s\n";
    let nested = OURS.to_owned() + &format!("layers: [/a, /b]\nmanifestURL: {{publicKey: {PUBLIC}, caFile: ca.pem, above: /a}}\n");
    let s = ok(&[&kubelet, &nested], &[]);
    assert_eq!(s.warnings, Vec::<String>::new());
    assert_eq!(words(&s.url.headers), ["x-a=one", "x-a=two", "x-b=three"]);
    assert_eq!((s.url.period, s.url.ca_file.as_ref().unwrap().file_name().unwrap()), (Duration::from_secs(5), "ca.pem".as_ref()));
    assert_eq!(s.shown_layers(), ["/a", "https://h/m.yaml", "/b"]);
    let e = load(&[&nested], &[], &format!("plinth.manifestURL.publicKey={PUBLIC}x")).unwrap_err().to_string();
    assert!(e.contains("manifestURL.publicKey: "), "the kernel's word wins, and is none: {e}");
    let s = ok(
        &[&(OURS.to_owned() + "layers: [/a]\nmanifestURL.caFile: /ca\n")],
        &["--static-pod-url=http://h/x", "--manifest-url.key-file=/k", "--manifest-url.cert-file=/c"],
    );
    assert_eq!(
        (s.shown_layers(), s.url.ca_file, s.url.key_file),
        (vec!["http://h/x".into(), "/a".into()], Some("/ca".into()), Some("/k".into()))
    );
    for (text, says) in [
        ("staticPodURL: ftp://h", "it must begin with http:// or https://"),
        ("staticPodURLHeader: {Host: x}", "header `Host` is not to be set here"),
        ("staticPodURLHeader: {'a b': x}", "`a b` is no name of a header"),
        ("manifestURL: {certFile: /c}", "go together"),
        ("manifestURL: {above: /z}", "none of the layers"),
        ("manifestURL: {publicKey: abc}", "manifestURL.publicKey: "),
        ("httpCheckFrequency: 10ms", "at least 100ms"),
    ] {
        let e = error(&[&(OURS.to_owned() + text)], &[]);
        assert!(e.contains(says), "{e} should say {says}");
    }
    let s = ok(&[&(OURS.to_owned() + "manifestURL: {pubicKey: x}")], &[]);
    assert!(s.warnings[0].contains("did you mean `manifestURL.publicKey`?"), "{:?}", s.warnings);
}
