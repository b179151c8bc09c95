//! What the recorded specifications do not show.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::types::{Device, User};
use super::*;
use crate::pod::Origin;
use crate::runtime::image_config::ImageConfig;
use serde_json::{Value, json};

/// A pod of one container `c` on a machine where everything works; tests change what they are about.
struct Bench {
    pod: WantedPod,
    image: ImageConfig,
    node: NodeFacts,
    sandbox: SandboxFacts,
    volumes: BTreeMap<String, VolumeSource>,
    sub_paths: BTreeMap<String, String>,
    image_volumes: BTreeMap<String, String>,
    env_files: BTreeMap<(String, String), String>,
    seccomp_profile: Option<String>,
}

fn bench(container: Value, pod: Value) -> Bench {
    let mut spec = pod;
    let mut c = json!({"name": "c", "image": "i", "command": ["x"], "terminationMessagePath": "/dev/termination-log"});
    c.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    spec["containers"] = json!([c]);
    let object = json!({"metadata": {"name": "p-n", "namespace": "ns", "uid": "u"}, "spec": spec});
    let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
    let volume = |path: &str, read_only| VolumeSource { path: path.into(), read_only, options: Vec::new() };
    Bench {
        image: ImageConfig::default(),
        node: NodeFacts {
            hostname: "machine".into(),
            memory_bytes: 1 << 30,
            seccomp: true,
            swap_accounting: true,
            recursive_read_only: Support::Yes,
            capabilities: vec!["CAP_CHOWN".into(), "CAP_SYS_ADMIN".into()],
            devices: vec![Device { path: "/dev/kmsg".into(), kind: "c".into(), ..Device::default() }],
            oom_score_adj_floor: -1000,
            ..NodeFacts::default()
        },
        sandbox: SandboxFacts {
            shm: "/pin/shm".into(),
            etc_hosts: "/pin/hosts".into(),
            hostname_file: "/pin/hostname".into(),
            resolv_conf: "/pin/resolv".into(),
            net: "/pin/net".into(),
            ipc: "/pin/ipc".into(),
            uts: "/pin/uts".into(),
            pid: "/pin/pid".into(),
            hostname: "p-n".into(),
            ..SandboxFacts::default()
        },
        volumes: BTreeMap::from([("v".into(), volume("/src/v", false)), ("d".into(), volume("/src/d", true))]),
        sub_paths: BTreeMap::new(),
        image_volumes: BTreeMap::new(),
        env_files: BTreeMap::new(),
        seccomp_profile: None,
        pod,
    }
}

impl Bench {
    fn with<T>(&self, ask: impl FnOnce(&Input<'_>) -> T) -> T {
        ask(&Input {
            pod: &self.pod,
            container: "c",
            image: &self.image,
            node: &self.node,
            sandbox: &self.sandbox,
            volumes: &self.volumes,
            sub_paths: &self.sub_paths,
            image_volumes: &self.image_volumes,
            env_files: &self.env_files,
            termination_log: Some("/pin/log"),
            user: &User::default(),
            cgroups_path: "/kubepods/x",
            seccomp_profile: self.seccomp_profile.as_deref(),
        })
    }

    fn spec(&self) -> Result<Spec, OciError> {
        self.with(spec)
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.spec().unwrap()).unwrap()
    }

    fn reason(&self) -> &'static str {
        self.spec().unwrap_err().reason()
    }
}

fn at<'a>(spec: &'a Value, destination: &str) -> &'a Value {
    spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == destination).unwrap_or(&Value::Null)
}

fn destinations(spec: &Value) -> Vec<&str> {
    spec["mounts"].as_array().unwrap().iter().filter_map(|m| m["destination"].as_str()).collect()
}

fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a Value> {
    spec["linux"]["namespaces"].as_array().unwrap().iter().find(|n| n["type"] == kind)
}

#[test]
fn the_shim_is_grouped_by_pod_and_the_version_is_one_every_runtime_takes() {
    let s = bench(json!({}), json!({})).json();
    assert_eq!((&s["annotations"][GROUP_ANNOTATION], &s["ociVersion"]), (&json!("u"), &json!("1.1.0")));
    assert_eq!(s["linux"]["cgroupsPath"], "/kubepods/x");
    assert!(s["process"].get("rlimits").is_none());
}

#[test]
fn privileged_means_all_of_the_machine_and_no_masks() {
    let mut b = bench(json!({"securityContext": {"privileged": true, "seccompProfile": {"type": "RuntimeDefault"}}}), json!({}));
    (b.node.apparmor, b.node.apparmor_default, b.node.cgroup_v2) = (true, Some("a".into()), true);
    let s = b.json();
    assert_eq!(s["process"]["capabilities"]["bounding"], json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]));
    assert_eq!(at(&s, "/sys")["options"], json!(["nosuid", "noexec", "nodev", "rw"]));
    assert_eq!(at(&s, "/sys/fs/cgroup")["options"], json!(["nosuid", "noexec", "nodev", "relatime", "rw"]));
    assert_eq!(s["linux"]["devices"][0]["path"], "/dev/kmsg");
    assert_eq!(s["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    for absent in ["maskedPaths", "readonlyPaths", "seccomp"] {
        assert!(s["linux"].get(absent).is_none(), "{absent}");
    }
    assert!(s["process"].get("apparmorProfile").is_none());
    assert_eq!(namespace(&s, "cgroup"), None);
}

#[test]
fn all_capabilities_come_before_single_ones() {
    let caps = |wish: Value| {
        let b = bench(json!({"securityContext": {"capabilities": wish}}), json!({}));
        b.spec().unwrap().process.capabilities.effective
    };
    assert_eq!(caps(json!({"add": ["ALL"], "drop": ["CHOWN"]})), ["CAP_SYS_ADMIN"]);
    assert_eq!(caps(json!({"drop": ["ALL"], "add": ["net_admin"]})), ["CAP_NET_ADMIN"]);
    assert_eq!(caps(json!({"drop": ["all"]})), Vec::<String>::new());
    assert_eq!(caps(json!({"add": ["CHOWN"]})).len(), 14);
}

#[test]
fn a_cgroup_v2_machine_gives_each_container_its_own_tree() {
    let mut b = bench(json!({"resources": {"limits": {"memory": "1Mi"}}}), json!({}));
    b.node.cgroup_v2 = true;
    b.node.cgroup_options = vec!["nsdelegate".into()];
    let s = b.json();
    assert_eq!(namespace(&s, "cgroup"), Some(&json!({"type": "cgroup"})));
    assert_eq!(s["linux"]["resources"]["unified"], json!({"memory.oom.group": "1", "memory.swap.max": "0"}));
    assert_eq!(s["linux"]["resources"]["memory"], json!({"limit": 1 << 20, "swap": 1 << 20}));
    assert!(!at(&s, "/sys/fs/cgroup")["options"].as_array().unwrap().contains(&json!("nsdelegate")));
    b.node.swap_accounting = false;
    let s = b.json();
    assert_eq!(s["linux"]["resources"]["unified"], json!({"memory.oom.group": "1"}));
    assert_eq!(s["linux"]["resources"]["memory"], json!({"limit": 1 << 20}));
}

#[test]
fn a_privileged_container_does_not_strip_the_machines_cgroup_options() {
    let mut b = bench(json!({"securityContext": {"privileged": true}}), json!({}));
    (b.node.cgroup_v2, b.node.cgroup_options) = (true, vec!["nsdelegate".into()]);
    assert_eq!(at(&b.json(), "/sys/fs/cgroup")["options"], json!(["nosuid", "noexec", "nodev", "relatime", "rw", "nsdelegate"]));
}

#[test]
fn cpu_is_shared_by_request_and_capped_by_limit() {
    let cpu = |resources: Value, pod: Value| bench(json!({"resources": resources}), pod).json()["linux"]["resources"]["cpu"].clone();
    assert_eq!(
        cpu(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}), json!({})),
        json!({"shares": 512, "quota": 200_000, "period": 100_000})
    );
    assert_eq!(cpu(json!({"limits": {"cpu": "1m"}}), json!({})), json!({"shares": 2, "quota": 1000, "period": 100_000}));
    assert_eq!(cpu(json!({"requests": {"cpu": "9999"}}), json!({}))["shares"], 262_144);
    assert_eq!(cpu(json!({}), json!({"resources": {"limits": {"cpu": "1"}}}))["quota"], 100_000);
}

#[test]
fn of_a_controller_the_machine_does_not_have_nothing_is_asked() {
    let mut b = bench(json!({"resources": {"limits": {"cpu": "1", "memory": "1Mi"}}}), json!({}));
    (b.node.cgroup_v2, b.node.lacking) = (true, vec!["cpu"]);
    let resources = b.json()["linux"]["resources"].clone();
    assert_eq!((resources.get("cpu"), &resources["memory"]["limit"]), (None, &json!(1 << 20)));
    b.node.lacking = vec!["memory"];
    let resources = b.json()["linux"]["resources"].clone();
    assert_eq!((&resources["memory"], resources.get("unified"), &resources["cpu"]["quota"]), (&json!({}), None, &json!(100_000)));
}

#[test]
fn huge_pages_not_asked_for_are_forbidden() {
    let mut b = bench(json!({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}), json!({}));
    b.node.hugepage_sizes = vec!["2MB".into(), "1GB".into()];
    assert_eq!(
        b.json()["linux"]["resources"]["hugepageLimits"],
        json!([{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}])
    );
}

#[test]
fn the_hosts_namespaces_are_joined_and_the_pods_pins_otherwise() {
    let s = bench(json!({}), json!({})).json();
    assert_eq!(namespace(&s, "network").unwrap()["path"], "/pin/net");
    assert_eq!(namespace(&s, "pid"), Some(&json!({"type": "pid"})));
    let s = bench(json!({}), json!({"hostNetwork": true, "hostPID": true, "hostIPC": true})).json();
    for (kind, file) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc"), ("pid", "pid")] {
        assert_eq!(namespace(&s, kind).unwrap()["path"], format!("/proc/self/ns/{file}"));
    }
    assert_eq!(at(&s, "/dev/shm")["source"], "/dev/shm");
    assert!(s["process"]["env"].as_array().unwrap().contains(&json!("HOSTNAME=machine")));
}

#[test]
fn a_shared_pid_namespace_is_the_pods_pin() {
    let s = bench(json!({}), json!({"shareProcessNamespace": true})).json();
    assert_eq!(namespace(&s, "pid").unwrap()["path"], "/pin/pid");
}

#[test]
fn pod_mounts_are_sorted_by_depth_and_replace_what_is_at_their_path() {
    let mounts = json!([{"name": "v", "mountPath": "/a/b/c"}, {"name": "v", "mountPath": "/a//"}, {"name": "v", "mountPath": "/etc/hosts"},
        {"name": "v", "mountPath": "/sys"}, {"name": "v", "mountPath": "/dev/shm"}]);
    let s = bench(json!({"volumeMounts": mounts}), json!({})).json();
    let want = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys/fs/cgroup",
        "/a//",
        "/sys",
        "/etc/hosts",
        "/dev/shm",
        "/dev/termination-log",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/a/b/c",
    ];
    assert_eq!(destinations(&s), want);
    assert_eq!(at(&s, "/etc/hosts")["source"], "/src/v");
}

#[test]
fn a_mount_at_dev_takes_the_defaults_below_it_away() {
    let s = bench(json!({"volumeMounts": [{"name": "v", "mountPath": "/dev"}]}), json!({})).json();
    assert_eq!(
        destinations(&s).iter().filter(|d| d.starts_with("/dev")).collect::<Vec<_>>(),
        [&"/dev", &"/dev/termination-log", &"/dev/shm"]
    );
}

#[test]
fn modes_and_propagation_follow_the_mount_and_the_volume() {
    let options = |mount: Value| {
        let mut m = mount;
        m["mountPath"] = json!("/m");
        let b = bench(json!({"volumeMounts": [m]}), json!({}));
        (at(&b.json(), "/m")["options"].clone(), b.json()["linux"]["rootfsPropagation"].clone())
    };
    assert_eq!(options(json!({"name": "v"})).0, json!(["rbind", "rprivate", "rw"]));
    assert_eq!(options(json!({"name": "d"})).0, json!(["rbind", "rprivate", "ro"]));
    assert_eq!(options(json!({"name": "v", "readOnly": true, "recursiveReadOnly": "IfPossible"})).0, json!(["rbind", "rprivate", "rro"]));
    assert_eq!(options(json!({"name": "v", "mountPropagation": "HostToContainer"})), (json!(["rbind", "rslave", "rw"]), json!("rslave")));
    assert_eq!(options(json!({"name": "v", "mountPropagation": "Bidirectional"})), (json!(["rbind", "rshared", "rw"]), json!("rshared")));
}

#[test]
fn recursive_read_only_is_refused_only_where_it_is_demanded_and_impossible() {
    let with = |wish: &str, support: Support| {
        let mount = json!([{"name": "v", "mountPath": "/m", "readOnly": true, "recursiveReadOnly": wish}]);
        let mut b = bench(json!({"volumeMounts": mount}), json!({}));
        b.node.recursive_read_only = support;
        b.spec().map(|s| s.mounts.iter().find(|m| m.destination == "/m").unwrap().options[2].to_string()).map_err(|e| e.reason())
    };
    assert_eq!(with("Enabled", Support::No), Err("CreateContainerConfigError"));
    assert_eq!(with("Enabled", Support::Unknown).unwrap(), "rro");
    assert_eq!(with("IfPossible", Support::Unknown).unwrap(), "ro");
    assert_eq!(with("Disabled", Support::Yes).unwrap(), "ro");
}

#[test]
fn a_read_only_root_takes_containerds_files_along_and_not_the_kubelets() {
    let s = bench(json!({"securityContext": {"readOnlyRootFilesystem": true}}), json!({})).json();
    assert_eq!(s["root"], json!({"path": "rootfs", "readonly": true}));
    let mode = |d: &str| at(&s, d)["options"][2].as_str().unwrap().to_owned();
    let modes = ["/etc/hosts", "/dev/termination-log", "/etc/hostname", "/etc/resolv.conf", "/dev/shm"].map(mode);
    assert_eq!(modes, ["rw", "rw", "ro", "ro", "rw"]);
}

#[test]
fn sub_paths_are_expanded_then_taken_as_opened() {
    let mounts = json!([{"name": "v", "mountPath": "/m", "subPathExpr": "a/$(N)"}, {"name": "v", "mountPath": "/n", "subPath": "$(N)"}]);
    let mut b = bench(json!({"env": [{"name": "N", "value": "x"}], "volumeMounts": mounts}), json!({}));
    let want = BTreeMap::from([("/m".to_owned(), "a/x".to_owned()), ("/n".to_owned(), "$(N)".to_owned())]);
    assert_eq!(b.with(sub_paths).unwrap(), want);
    assert_eq!(b.reason(), "CreateContainerConfigError");
    b.sub_paths = BTreeMap::from([("/m".into(), "/opened/1".into()), ("/n".into(), "/opened/2".into())]);
    assert_eq!(at(&b.json(), "/m")["source"], "/opened/1");
}

#[test]
fn an_unknown_variable_in_a_sub_path_is_an_error() {
    let b = bench(json!({"volumeMounts": [{"name": "v", "mountPath": "/m", "subPathExpr": "$(NOPE)"}]}), json!({}));
    let e = b.with(sub_paths).unwrap_err();
    assert_eq!((e.reason(), e.to_string().contains("NOPE")), ("CreateContainerConfigError", true));
}

#[test]
fn image_volumes_yield_to_the_pods_mounts() {
    let mut b = bench(json!({"volumeMounts": [{"name": "v", "mountPath": "/data"}]}), json!({}));
    b.image = ImageConfig::parse(br#"{"config":{"Volumes":{"/data/":{},"/cache":{}}}}"#).unwrap();
    assert_eq!(image_volumes(b.pod.container("c").unwrap(), &b.image), ["/cache"]);
    b.image_volumes = BTreeMap::from([("/cache".into(), "/made/cache".into())]);
    let s = b.json();
    assert_eq!((&at(&s, "/data")["source"], &at(&s, "/cache")["source"]), (&json!("/src/v"), &json!("/made/cache")));
}

#[test]
fn command_replaces_the_entrypoint_and_drops_cmd_and_args_replaces_cmd() {
    let args = |own: Value| {
        let mut b = bench(json!({}), json!({}));
        b = Bench { pod: bench(own, json!({})).pod, ..b };
        b.image = ImageConfig::parse(br#"{"config":{"Entrypoint":["/e"],"Cmd":["1"],"WorkingDir":"/w"}}"#).unwrap();
        b.spec().unwrap().process.args
    };
    assert_eq!(args(json!({"command": []})), ["/e", "1"]);
    assert_eq!(args(json!({"command": [], "args": ["2"]})), ["/e", "2"]);
    assert_eq!(args(json!({"command": ["/c"]})), ["/c"]);
    assert_eq!(bench(json!({"command": []}), json!({})).reason(), "CreateContainerError");
}

#[test]
fn the_working_directory_is_the_containers_then_the_images() {
    let mut b = bench(json!({}), json!({}));
    assert_eq!(b.spec().unwrap().process.cwd, "/");
    b.image.config.working_dir = "/w".into();
    assert_eq!(b.spec().unwrap().process.cwd, "/w");
    assert_eq!(Bench { pod: bench(json!({"workingDir": "/own"}), json!({})).pod, ..b }.spec().unwrap().process.cwd, "/own");
}

#[test]
fn what_needs_an_api_server_is_refused_unless_optional() {
    let of =
        |key: &str, optional: bool| json!({"env": [{"name": "A", "valueFrom": {key: {"name": "", "key": "k", "optional": optional}}}]});
    assert_eq!(bench(of("secretKeyRef", false), json!({})).reason(), "CreateContainerConfigError");
    let env = bench(of("configMapKeyRef", true), json!({})).spec().unwrap().process.env;
    assert!(!env.iter().any(|e| e.starts_with("A=")), "{env:?}");
    assert_eq!(bench(json!({"envFrom": [{"secretRef": {"name": ""}}]}), json!({})).reason(), "CreateContainerConfigError");
    assert!(bench(json!({"envFrom": [{"secretRef": {"name": "", "optional": true}}]}), json!({})).spec().is_ok());
}

#[test]
fn variables_come_from_files_of_volumes() {
    let of = |optional: bool| {
        let key = json!({"volumeName": "v", "path": "f.env", "key": "K", "optional": optional});
        bench(json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": key}}]}), json!({}))
    };
    let mut b = of(false);
    assert_eq!(files_wanted(b.pod.container("c").unwrap()), [("v".to_owned(), "f.env".to_owned())]);
    assert_eq!(b.reason(), "CreateContainerConfigError");
    b.env_files.insert(("v".into(), "f.env".into()), "K='1'\nK='2'\n".into());
    assert!(b.spec().unwrap().process.env.contains(&"A=2".to_owned()));
    assert!(of(true).spec().is_ok());
}

#[test]
fn run_as_non_root_is_judged_by_number_only() {
    let judge = |own: Value, image_user: &str| {
        let mut b = bench(json!({"securityContext": own}), json!({"securityContext": {"runAsNonRoot": true}}));
        b.image.config.user = image_user.into();
        b.spec().map(|_| ()).map_err(|e| (e.reason(), e.to_string()))
    };
    for (own, user, word) in [
        (json!({}), "", "image will run as root"),
        (json!({}), "0", "image will run as root"),
        (json!({}), "app", "non-numeric user (app)"),
        (json!({"runAsUser": 0}), "5", "breaks non-root policy"),
    ] {
        let (reason, said) = judge(own, user).unwrap_err();
        assert_eq!(reason, "CreateContainerConfigError");
        assert!(said.contains(word), "{said}");
    }
    assert!(judge(json!({}), "1000:0").is_ok());
    assert!(judge(json!({"runAsUser": 7}), "").is_ok());
    assert!(judge(json!({"runAsNonRoot": false}), "").is_ok());
}

#[test]
fn seccomp_is_unconfined_unless_asked_for_or_defaulted() {
    let mut b = bench(json!({}), json!({}));
    assert_eq!(b.spec().unwrap().linux.seccomp, None);
    b.node.seccomp_default = true;
    assert_eq!(b.spec().unwrap().linux.seccomp.unwrap().default_action, "SCMP_ACT_ERRNO");
    b.node.seccomp = false;
    assert_eq!(b.reason(), "CreateContainerError");
    let pods = json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}});
    assert!(bench(json!({}), pods.clone()).spec().unwrap().linux.seccomp.is_some());
    let own = json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}});
    assert_eq!(bench(own, pods).spec().unwrap().linux.seccomp, None);
}

#[test]
fn a_localhost_profile_is_taken_as_it_is() {
    let own = json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}}});
    let mut b = bench(own, json!({}));
    assert_eq!(localhost_seccomp(&b.pod, "c"), Some("p.json"));
    assert_eq!(b.reason(), "CreateContainerError");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
    b.seccomp_profile = Some(profile.to_string());
    assert_eq!(b.json()["linux"]["seccomp"], profile);
    b.seccomp_profile = Some("{".into());
    assert!(b.spec().unwrap_err().to_string().contains("p.json"));
}

#[test]
fn apparmor_defaults_where_it_is_and_is_refused_by_name_where_it_is_not() {
    let with = |wish: Value, enabled: bool| {
        let own = if wish.is_null() { json!({}) } else { json!({"securityContext": {"appArmorProfile": wish}}) };
        let mut b = bench(own, json!({}));
        (b.node.apparmor, b.node.apparmor_default) = (enabled, enabled.then(|| "default".to_owned()));
        b.spec().map(|s| s.process.apparmor_profile).map_err(|e| e.reason())
    };
    let named = json!({"type": "Localhost", "localhostProfile": "mine"});
    assert_eq!(with(Value::Null, true), Ok(Some("default".into())));
    assert_eq!(with(Value::Null, false), Ok(None));
    assert_eq!(with(json!({"type": "RuntimeDefault"}), false), Ok(None));
    assert_eq!(with(json!({"type": "Unconfined"}), true), Ok(Some("unconfined".into())));
    assert_eq!(with(named.clone(), true), Ok(Some("mine".into())));
    assert_eq!(with(named, false), Err("CreateContainerError"));
    let mut b = bench(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}), json!({}));
    b.node.apparmor = true;
    assert!(b.spec().unwrap_err().to_string().contains("none is loaded"));
}

#[test]
fn an_apparmor_annotation_stands_between_the_containers_field_and_the_pods() {
    let with = |annotation: &str, container: Value| {
        let mut b = bench(container, json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "pods"}}}));
        b.node.apparmor = true;
        let mut object = (*b.pod.object).clone();
        let key = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
        object.metadata.annotations = Some(BTreeMap::from([(key, annotation.to_owned())]));
        b.pod.object = std::rc::Rc::new(object);
        b.spec().unwrap().process.apparmor_profile.unwrap()
    };
    let own = json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "own"}}});
    assert_eq!(with("localhost/old", own), "own");
    assert_eq!(with("localhost/old", json!({})), "old");
    assert_eq!(with("unconfined", json!({})), "unconfined");
    assert_eq!(with("", json!({"securityContext": {"privileged": true}})), "pods", "a name counts for privileged ones too");
}

#[test]
fn users_of_its_own_are_a_namespace_and_its_ids() {
    let mut b = bench(json!({}), json!({"hostUsers": false}));
    b.sandbox.user = "/pin/ns/user".into();
    b.sandbox.users = Some(IdMapping { container_id: 0, host_id: 131_072, size: 65536 });
    let linux = b.json()["linux"].clone();
    let ids = json!([{"containerID": 0, "hostID": 131_072, "size": 65536}]);
    assert_eq!((&linux["uidMappings"], &linux["gidMappings"]), (&ids, &ids));
    let user = |linux: &Value| linux["namespaces"].as_array().unwrap().iter().find(|n| n["type"] == "user").cloned();
    assert!(user(&linux).unwrap()["path"].as_str().unwrap().ends_with("/ns/user"));
    let linux = bench(json!({}), json!({"hostUsers": true})).json()["linux"].clone();
    assert_eq!((user(&linux), &linux["uidMappings"]), (None, &Value::Null));
}

#[test]
fn an_unmasked_proc_mount_shows_everything() {
    let mut b = bench(json!({}), json!({}));
    b.node.masked_paths = vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()];
    assert_eq!(b.spec().unwrap().linux.masked_paths.len(), 13);
    let l = bench(json!({"securityContext": {"procMount": "Unmasked"}}), json!({})).spec().unwrap().linux;
    assert!(l.masked_paths.is_empty() && l.readonly_paths.is_empty());
}

#[test]
fn a_container_that_is_not_there_is_an_error() {
    let b = bench(json!({}), json!({}));
    let e = b.with(|i| spec(&Input { container: "other", ..*i })).unwrap_err();
    assert_eq!(e, OciError::NoContainer("other".into()));
    let lost = bench(json!({"volumeMounts": [{"name": "nope", "mountPath": "/m"}]}), json!({}));
    assert_eq!(lost.reason(), "CreateContainerConfigError");
}
