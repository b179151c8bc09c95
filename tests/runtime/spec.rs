//! What a specification says is what the container is: it looks at itself, and its log is held against the machine.

use serde_json::{Value, json};

use crate::drive::{Drive, inside};
use crate::node::IMAGE;
use plinth::plan::world::State;
use plinth::pod::PullPolicy;

/// A container of that script, with `more` of its own.
fn container(script: &str, more: Value) -> Value {
    let mut c = json!({
        "name": "c", "image": IMAGE, "command": ["sh", "-c", script],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    });
    c.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    c
}

/// Runs the pod to its end and gives the lines it said.
async fn said(d: &mut Drive, name: &str, spec: Value) -> Vec<String> {
    d.image(PullPolicy::IfNotPresent).await;
    let pod = d.sandbox_with(name, spec).await;
    let c = d.create(&pod, 0).await;
    assert_eq!(c.state, State::Created, "{:?}", c.state);
    d.drain();
    d.start(&pod, &c.id).await;
    d.until_log(&pod, 0, " the end").await;
    d.until_exited(&pod, &c.id).await;
    d.end(&pod, &c.id).await;
    let log = d.log(&pod, 0);
    d.gone(&pod, &c.id).await;
    log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(|l| l.trim_end_matches('\r').to_owned()).collect()
}

#[test]
fn host_namespaces_are_the_hosts_and_others_are_the_pods() {
    inside("spec::host_namespaces_are_the_hosts_and_others_are_the_pods", "sid", async |mut d: Drive| {
        d.up().await;
        let of_host = d.shell("for n in net ipc uts; do readlink /proc/self/ns/$n; done; echo $$");
        let host: Vec<&str> = of_host.lines().collect();
        let script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; set -- /proc/[0-9]*; echo $#; echo the end";
        let spec = |more: Value| {
            let mut s = json!({ "containers": [container(script, json!({}))] });
            s.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            s
        };
        let all = said(&mut d, "hosts", spec(json!({ "hostNetwork": true, "hostIPC": true, "hostPID": true }))).await;
        assert_eq!(all[..3], host[..3]);
        assert!(all[3].parse::<u32>().unwrap() > 6, "the host's processes are in sight: {all:?}");
        let none = said(&mut d, "own", spec(json!({}))).await;
        assert!((0..3).all(|i| none[i] != host[i]), "{none:?}");
        assert!(none[3].parse::<u32>().unwrap() < 6, "{none:?}");
    });
}

#[test]
fn a_confined_container_is_confined_and_a_privileged_one_is_not() {
    inside("spec::a_confined_container_is_confined_and_a_privileged_one_is_not", "sid", async |mut d: Drive| {
        d.up().await;
        let script = "id -u; id -g; id -G; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '; \
                      touch /x 2>/dev/null && echo wrote; [ -e /dev/kmsg ] && echo kmsg; touch /proc/sys/kernel/domainname 2>/dev/null; echo the end";
        let confined = json!({
            "securityContext": { "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000] },
            "containers": [container(script, json!({ "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
            } }))],
        });
        let lines = said(&mut d, "confined", confined).await;
        let want = ["1000", "3000", "3000 2000 4000", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2", "the end"];
        assert_eq!(lines, want);
        let privileged = json!({ "containers": [container(script, json!({ "securityContext": { "privileged": true } }))] });
        let lines = said(&mut d, "privileged", privileged).await;
        let all = d.shell("grep CapBnd /proc/1/status | cut -f2");
        assert!(lines.contains(&format!("CapEff: {}", all.trim())), "{lines:?}");
        for line in ["wrote", "kmsg", "Seccomp: 0"] {
            assert!(lines.iter().any(|l| l == line), "{line}: {lines:?}");
        }
    });
}

#[test]
fn limits_are_the_cgroups_and_mounts_are_as_asked() {
    inside("spec::limits_are_the_cgroups_and_mounts_are_as_asked", "sid", async |mut d: Drive| {
        d.up().await;
        let host = d.dir.join("work/host");
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("f"), "from the host\n").unwrap();
        let script = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes; \
                      cut -d' ' -f1 cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us; \
                      cat /h/f; touch /h/f 2>/dev/null || echo read-only; echo x >/e/y && echo written; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; \
                      cat /etc/hostname; echo $HOSTNAME $WHO; echo the end";
        let spec = json!({
            "volumes": [{ "name": "h", "hostPath": { "path": host } }, { "name": "e", "emptyDir": {} }],
            "containers": [container(script, json!({
                "resources": { "limits": { "memory": "32Mi", "cpu": "500m" } },
                "env": [{ "name": "WHO", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                "volumeMounts": [
                    { "name": "h", "mountPath": "/h", "readOnly": true, "recursiveReadOnly": "Enabled" },
                    { "name": "e", "mountPath": "/e" },
                ],
            }))],
        });
        let lines = said(&mut d, "limits", spec).await;
        let want = ["33554432", "50000", "from the host", "read-only", "written", "65536", "limits-it", "limits-it limits-it", "the end"];
        assert_eq!(lines, want);
    });
}

#[test]
fn input_that_nobody_gives_is_waited_for_only_when_asked_for() {
    inside("spec::input_that_nobody_gives_is_waited_for_only_when_asked_for", "sid", async |mut d: Drive| {
        d.up().await;
        let script = "echo the end; read line; echo no more";
        let without = json!({ "hostNetwork": true, "containers": [container(script, json!({}))] });
        assert_eq!(said(&mut d, "without", without).await, ["the end", "no more"]);
        for tty in [false, true] {
            let spec = json!({ "hostNetwork": true, "containers": [container(script, json!({ "stdin": true, "tty": tty }))] });
            let pod = d.sandbox_with(&format!("stdin{tty}"), spec).await;
            let c = d.create(&pod, 0).await;
            d.start(&pod, &c.id).await;
            d.until_log(&pod, 0, " the end").await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let seen = d.look(&pod).await.unwrap();
            assert!(matches!(seen.containers[&c.id].state, State::Running { .. }), "{:?}", seen.containers);
            d.drain();
            d.done(plinth::plan::action::Action::Kill { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
            d.until_exited(&pod, &c.id).await;
            d.end(&pod, &c.id).await;
            assert!(!d.log(&pod, 0).contains("no more"));
            d.gone(&pod, &c.id).await;
        }
    });
}

#[test]
fn a_terminal_is_a_terminal() {
    inside("spec::a_terminal_is_a_terminal", "sid", async |mut d: Drive| {
        d.up().await;
        let script = "[ -t 1 ] && [ -t 2 ] && echo terminal $TERM; echo the end";
        let spec = json!({ "hostNetwork": true, "containers": [container(script, json!({ "tty": true }))] });
        assert_eq!(said(&mut d, "tty", spec).await, ["terminal xterm", "the end"]);
    });
}

#[test]
fn the_hosts_file_is_as_it_should_be_for_each_container_whatever_one_wrote_to_it() {
    inside("spec::the_hosts_file_is_as_it_should_be_for_each_container_whatever_one_wrote_to_it", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let script = "grep -c Kubernetes-managed /etc/hosts; grep -c 'here.test' /etc/hosts; grep -c evil /etc/hosts; echo 192.0.2.6 evil >/etc/hosts; echo the end";
        let spec = json!({ "hostNetwork": true, "hostAliases": [{ "ip": "192.0.2.1", "hostnames": ["here.test"] }],
            "containers": [container(script, json!({}))] });
        let pod = d.sandbox_with("hosts", spec).await;
        let file = d.dir.join(format!("data/pods/{}/etc-hosts", pod.uid));
        let inode = |d: &Drive| d.shell(&format!("stat -c %i {}", file.display()));
        let mut at = None;
        for attempt in 0..2 {
            let c = d.create(&pod, attempt).await;
            // In place: a container of the pod that runs sees it too.
            assert_eq!(*at.get_or_insert_with(|| inode(&d)), inode(&d));
            d.drain();
            d.start(&pod, &c.id).await;
            d.until_log(&pod, attempt, " the end").await;
            d.until_exited(&pod, &c.id).await;
            d.end(&pod, &c.id).await;
            assert!(std::fs::read_to_string(&file).unwrap().ends_with("evil\n"));
            let log = d.log(&pod, attempt);
            let lines: Vec<_> = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect();
            assert_eq!(lines, ["1", "1", "0", "the end"], "attempt {attempt}");
            d.done(plinth::plan::action::Action::DeleteContainer { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
        }
        d.done(plinth::plan::action::Action::DeleteSandbox { uid: pod.uid.clone(), keep: false }, Some(&pod)).await;
    });
}

#[test]
fn a_sub_path_that_was_replaced_is_opened_anew_at_a_restart() {
    inside("spec::a_sub_path_that_was_replaced_is_opened_anew_at_a_restart", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let shared = d.dir.join("work/shared");
        std::fs::create_dir_all(&shared).unwrap();
        std::fs::write(shared.join("conf"), "first\n").unwrap();
        let mount = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/conf", "subPath": "conf" }] });
        let script = "[ -d /conf ] && echo a directory || cat /conf; echo the end";
        let spec = json!({ "hostNetwork": true, "volumes": [{ "name": "v", "hostPath": { "path": shared } }],
            "containers": [container(script, mount)] });
        let pod = d.sandbox_with("replaced", spec).await;
        let pin = d.dir.join(format!("data/pods/{}/volume-subpaths/v/c/0", pod.uid));
        let mounted = |d: &Drive| d.shell(&format!("grep -c ' {} ' /proc/self/mountinfo", pin.display()));
        for (attempt, want) in ["first", "first", "second", "a directory"].into_iter().enumerate() {
            match want {
                // As an editor or a configuration tool saves.
                "second" => d.shell(&format!("cd {}; echo second >.conf; mv .conf conf", shared.display())),
                "a directory" => d.shell(&format!("cd {}; rm conf; mkdir conf", shared.display())),
                _ => String::new(),
            };
            let attempt = attempt as u32;
            let c = d.create(&pod, attempt).await;
            d.drain();
            d.start(&pod, &c.id).await;
            d.until_log(&pod, attempt, " the end").await;
            d.until_exited(&pod, &c.id).await;
            d.end(&pod, &c.id).await;
            assert!(d.log(&pod, attempt).contains(&format!(" {want}\n")), "attempt {attempt}, {want}: {}", d.log(&pod, attempt));
            assert_eq!(mounted(&d), "1\n", "one pin, whatever was there before");
            d.done(plinth::plan::action::Action::DeleteContainer { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
        }
        d.done(plinth::plan::action::Action::DeleteSandbox { uid: pod.uid.clone(), keep: false }, Some(&pod)).await;
        assert!(shared.join("conf").exists());
    });
}

/// What a container mounts by subPath is what lay in the volume, whatever another container makes of the path meanwhile.
#[test]
fn a_sub_path_swapped_for_a_link_in_a_loop_never_leads_out() {
    inside("spec::a_sub_path_swapped_for_a_link_in_a_loop_never_leads_out", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let (shared, secret) = (d.dir.join("work/shared"), d.dir.join("work/secret"));
        std::fs::create_dir_all(shared.join("d")).unwrap();
        std::fs::create_dir_all(&secret).unwrap();
        std::fs::write(secret.join("canary"), "out of bounds").unwrap();
        let volumes = json!([{ "name": "v", "hostPath": { "path": shared } }]);
        let swap = format!("cd /v; while :; do mv d e; ln -s {} d; rm d; mkdir -p e; mv e d; done 2>/dev/null", secret.display());
        let swapper = json!({ "hostNetwork": true, "volumes": volumes,
            "containers": [container(&swap, json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }))] });
        let swapper = d.sandbox_with("swapper", swapper).await;
        let swapping = d.create(&swapper, 0).await;
        d.start(&swapper, &swapping.id).await;
        let mount = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/s", "subPath": "d" }] });
        let victim = json!({ "hostNetwork": true, "volumes": volumes, "containers": [container("exit 0", mount)] });
        let victim = d.sandbox_with("victim", victim).await;
        let pin = d.dir.join(format!("data/pods/{}/volume-subpaths/v/c/0", victim.uid));
        let (mut made, mut refused) = (0, 0);
        for attempt in 0..60 {
            match d.try_create(&victim, attempt).await {
                Ok(c) => {
                    made += 1;
                    assert!(!pin.join("canary").exists(), "attempt {attempt} is led out of its volume");
                    d.end(&victim, &c.id).await;
                    let action = plinth::plan::action::Action::DeleteContainer { uid: victim.uid.clone(), id: c.id.clone() };
                    d.done(action, Some(&victim)).await;
                }
                Err(failure) => {
                    refused += 1;
                    assert!(failure.message.contains("subPath") || failure.message.contains("shared/d"), "{}", failure.message);
                }
            }
        }
        println!("{made} made, {refused} refused");
        assert!(made > 0, "none of {refused} attempts was made: the swapper leaves no time for one, and nothing was attacked");
        d.done(plinth::plan::action::Action::DeleteSandbox { uid: victim.uid.clone(), keep: false }, Some(&victim)).await;
        d.drain();
        d.done(plinth::plan::action::Action::Kill { uid: swapper.uid.clone(), id: swapping.id.clone() }, Some(&swapper)).await;
        d.until_exited(&swapper, &swapping.id).await;
        d.end(&swapper, &swapping.id).await;
        d.gone(&swapper, &swapping.id).await;
        assert!(secret.join("canary").exists());
    });
}
