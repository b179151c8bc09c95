//! What a container is told and what it may not do: variables, names, paths made of them, and calls that are refused.

use std::fs;

use crate::node::{FOREVER, IMAGE, Node, can_run, container, pod, script};

/// The fields of container `c`, four spaces deep.
fn with(text: &str, fields: &str) -> String {
    text.replace("    command: [sh, -c]", &format!("    {}\n    command: [sh, -c]", fields.trim().replace('\n', "\n    ")))
}

#[test]
fn variables_come_from_a_file_that_an_init_container_wrote() {
    let Some(mut n) = Node::started() else { return };
    let writes = |text: &str| {
        format!(
            "hostNetwork: true\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  initContainers:\n  - name: first\n    image: {IMAGE}\n    volumeMounts: [{{name: v, mountPath: /v}}]\n    command: [sh, -c, \"mkdir /v/d; printf '{text}' >/v/d/env\"]"
        )
    };
    let key = |name: &str, key: &str, more: &str| {
        format!("- {{name: {name}, valueFrom: {{fileKeyRef: {{volumeName: v, path: d/env, key: {key}{more}}}}}}}")
    };
    // The container need not mount the volume, and what it has from there it may use at once.
    let env = [
        "env:".into(),
        key("ONE", "FIRST", ""),
        key("NONE", "THIRD", ", optional: true"),
        "- {name: BOTH, value: '<$(ONE)|$(NONE)>'}".into(),
    ];
    let text = with(
        &pod(
            "f",
            &writes("# told\\\\nFIRST=\\\\047a b $(X)\\\\047\\\\nSECOND=\\\\047\\\\047\\\\n"),
            &format!("echo \"$BOTH${{NONE-unset}}\"; {FOREVER}"),
        ),
        &env.join("\n"),
    );
    n.put("f.yaml", &text);
    n.until_ready("f");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "f"]) == "<a b $(X)|$(NONE)>unset\n");
    // A key that is not there, and a file that is none.
    n.put("k.yaml", &with(&pod("k", &writes("FIRST=\\\\047x\\\\047\\\\n"), FOREVER), &format!("env:\n{}", key("ONE", "OTHER", ""))));
    n.put("b.yaml", &with(&pod("b", &writes("FIRST=x\\\\n"), FOREVER), &format!("env:\n{}", key("ONE", "FIRST", ""))));
    for (name, words) in
        [("k", "there is no key `OTHER` in file `d/env` of volume `v`"), ("b", "value at line 1 is not one text in single quotes")]
    {
        n.until(&format!("{name} waits"), 20, |n| {
            n.pod(name).is_some_and(|p| container(&p, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError")
        });
        let p = n.pod(name).unwrap();
        assert!(container(&p, "c")["state"]["waiting"]["message"].as_str().unwrap().contains(words), "{p}");
        assert!(n.said(&["why", name]).contains(words), "{}", n.said(&["why", name]));
    }
    n.shutdown();
}

#[test]
fn a_sub_path_is_made_of_variables_and_one_that_is_not_there_is_told() {
    let Some(mut n) = Node::started() else { return };
    let work = n.path("work");
    let volume = format!("hostNetwork: true\n  volumes: [{{name: w, hostPath: {{path: {work}}}}}]");
    let fields = |expression: &str| {
        format!(
            "env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}, {{name: DEEP, value: 'x/$(POD)'}}]\nvolumeMounts: [{{name: w, mountPath: /own, subPathExpr: '{expression}'}}]"
        )
    };
    n.put("s.yaml", &with(&pod("s", &volume, &format!("echo here >/own/f; {FOREVER}")), &fields("pods/$(DEEP)/$$(POD)")));
    n.until_ready("s");
    n.until("it wrote there", 5, |_| fs::read_to_string(format!("{work}/pods/x/s-it/$(POD)/f")).is_ok_and(|t| t == "here\n"));
    n.put("x.yaml", &with(&pod("x", &volume, FOREVER), &fields("pods/$(NOBODY)")));
    n.until("it waits", 20, |n| {
        n.pod("x").is_some_and(|p| container(&p, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError")
    });
    let why = n.said(&["why", "x"]);
    assert!(why.contains("NOBODY"), "{why}");
    assert!(!fs::exists(format!("{work}/pods/$(NOBODY)")).unwrap());
    // A value that leads out of the volume.
    let out = fields("$(OUT)").replace("env: [", "env: [{name: OUT, value: '../../etc'}, ");
    n.put("o.yaml", &with(&pod("o", &volume, FOREVER), &out));
    n.until("it waits too", 20, |n| {
        n.pod("o").is_some_and(|p| container(&p, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError")
    });
    n.shutdown();
}

#[test]
fn a_pod_has_the_names_and_the_resolver_it_asks_for() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["clusterDomain=edge.test", "clusterDNS=192.0.2.53"]);
    fs::write(n.path("work/resolv.conf"), "search host.test\nnameserver 192.0.2.1\n").unwrap();
    n.extra.push(format!("resolvConf={}", n.path("work/resolv.conf")));
    let names = "hostname: h\n  subdomain: sub";
    let dns = "dnsConfig: {searches: [more.test], options: [{name: ndots, value: '2'}]}";
    let told = format!(
        "hostname; cat /etc/hostname; echo $HOSTNAME; grep -E 'sub|alias' /etc/hosts | sed 's/^10[^\\t]*/IP/'; cat /etc/resolv.conf; {FOREVER}"
    );
    let aliases = "hostAliases: [{ip: 192.0.2.9, hostnames: [alias, alias.test]}]";
    n.put("q.yaml", &pod("q", &format!("{names}\n  setHostnameAsFQDN: true\n  {dns}\n  {aliases}"), &told));
    n.put("s.yaml", &pod("s", &format!("{names}\n  dnsPolicy: None\n  dnsConfig: {{nameservers: [192.0.2.1]}}"), &told));
    let long = "l".repeat(60);
    n.put("l.yaml", &pod("l", &format!("hostname: {long}\n  subdomain: sub\n  setHostnameAsFQDN: true"), FOREVER));
    n.start();
    n.until_ready("q");
    n.until_ready("s");
    n.until("both have told", 5, |n| ["q", "s"].iter().all(|p| n.said_or_nothing(&["logs", p]).contains("nameserver")));
    let full = "h.sub.default.svc.edge.test";
    let log = n.said(&["logs", "q"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..5], [full, full, full, &format!("IP\t{full}\th"), "192.0.2.9\talias\talias.test"], "{log}");
    let resolver = ["search default.svc.edge.test svc.edge.test edge.test host.test more.test", "nameserver 192.0.2.53", "options ndots:2"];
    assert_eq!(lines[5..], resolver, "{log}");
    let log = n.said(&["logs", "s"]);
    assert_eq!(log.lines().collect::<Vec<_>>(), ["h", "h", "h", &format!("IP\t{full}\th"), "nameserver 192.0.2.1"], "{log}");
    n.until("the long one says why not", 20, |n| n.said_or_nothing(&["why", "l"]).contains("characters long and the kernel takes 64"));
    let events = n.said(&["events", "l"]);
    assert!(events.contains("FailedCreatePodSandBox") && events.contains("Failed to create pod sandbox: "), "{events}");
    n.shutdown();
}

#[test]
fn a_localhost_seccomp_profile_refuses_what_it_says_and_one_that_is_not_there_holds_its_container_up() {
    let Some(mut n) = Node::started() else { return };
    fs::create_dir_all(n.dir.join("data/seccomp/profiles")).unwrap();
    // By a number nothing else gives: ENOTEMPTY, 39.
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":39}]}"#;
    fs::write(n.dir.join("data/seccomp/profiles/no-mkdir.json"), profile).unwrap();
    let confined = |name: &str, file: &str| {
        let field = format!("securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: {file}}}}}");
        with(&script(name, &format!("mkdir /tmp/x 2>&1; touch /tmp/y && echo touched; grep Seccomp: /proc/self/status; {FOREVER}")), &field)
    };
    n.put("c.yaml", &confined("c", "profiles/no-mkdir.json"));
    n.until_ready("c");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "c"]).contains("Seccomp:"));
    assert_eq!(n.said(&["logs", "c"]), "mkdir: can't create directory '/tmp/x': Directory not empty\ntouched\nSeccomp:\t2\n");
    // A command of `exec` is held by it too.
    let out = n.plinth(&["exec", "c", "--", "mkdir", "/tmp/x"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("Directory not empty"), "{out:?}");
    fs::write(n.path("data/seccomp/broken.json"), "{").unwrap();
    n.put("a.yaml", &confined("a", "absent.json"));
    n.put("b.yaml", &confined("b", "broken.json"));
    let path = n.path("data/seccomp/absent.json");
    n.until("what is missing is told", 20, |n| n.said_or_nothing(&["why", "a"]).contains(&format!("read seccomp profile {path}")));
    assert!(!n.ready("a"));
    n.until("what is broken is told", 20, |n| n.said_or_nothing(&["why", "b"]).contains("broken.json"));
    fs::write(&path, profile).unwrap();
    n.until_ready("a");
    assert!(!n.ready("b"));
    n.shutdown();
}

#[test]
fn where_a_score_may_not_be_lowered_the_lowest_there_is_is_given_and_that_is_said_once() {
    let Some(mut n) = Node::started() else { return };
    let guaranteed = "resources: {limits: {cpu: 100m, memory: 32Mi}}";
    let told = format!("cat /proc/self/oom_score_adj; {FOREVER}");
    for name in ["a", "b"] {
        n.put(&format!("{name}.yaml"), &with(&script(name, &told), guaranteed));
        n.until_ready(name);
    }
    n.put("c.yaml", &script("c", &told));
    n.until_ready("c");
    n.until("all have told", 5, |n| ["a", "b", "c"].iter().all(|p| n.said_or_nothing(&["logs", p]).ends_with('\n')));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
    // CAP_SYS_RESOURCE.
    let may = u64::from_str_radix(capabilities, 16).unwrap() & 1 << 24 != 0;
    let own: i32 = fs::read_to_string(format!("/proc/{}/oom_score_adj", n.pid())).unwrap().trim().parse().unwrap();
    let want = if may { "-997\n".to_owned() } else { format!("{own}\n") };
    assert_eq!(["a", "b", "c"].map(|p| n.said(&["logs", p])), [want.clone(), want, "1000\n".into()]);
    let log = fs::read_to_string(n.path("plinth.log")).unwrap();
    let warned: Vec<&str> = log.lines().filter(|l| l.contains("oom_score_adj")).collect();
    assert_eq!(warned.len(), usize::from(!may), "{warned:?}");
    assert!(warned.iter().all(|l| l.contains("set oom_score_adj of a container to -997: without CAP_SYS_RESOURCE")), "{warned:?}");
    n.shutdown();
}

#[test]
fn a_bad_settings_file_of_the_overlay_costs_no_pod() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let settings = "apiVersion: plinth.dev/v1alpha1\nkind: PlinthConfiguration\nnodeLabels: {of: ";
    // Over the machine's own, in the node's mounts alone; without a layer to write to, nothing is.
    for (place, text) in [("usr/lib", format!("{settings}vendor}}\n")), ("etc", format!("{settings}overlay}}\nrescan: soon\n"))] {
        let over = n.dir.join("over").join(place);
        fs::create_dir_all(over.join("plinth")).unwrap();
        fs::write(over.join("plinth/config.yaml"), text).unwrap();
        let layers = format!("lowerdir={}:/{place}", over.display());
        n.exec(&["mount", "-t", "overlay", "-o", &layers, "overlay", &format!("/{place}")]);
    }
    n.start();
    // It runs by what the vendor says, nothing of the bad file.
    n.put("v.yaml", &pod("v", "nodeSelector: {of: vendor}", FOREVER));
    n.until_ready("v");
    let why = "/etc/plinth/config.yaml:4:9: rescan: expected a duration like `1m30s`, found the string \"soon\": nothing of it counts";
    let status: serde_json::Value = serde_json::from_str(&n.get("/v1/status").unwrap()).unwrap();
    assert!(status["node"]["degraded"][0].as_str().is_some_and(|t| t.contains(why)), "{status}");
    assert!(n.get("/readyz?verbose").unwrap().contains(&format!("[!]machine degraded: read settings: {why}")));
    let out = n.plinth(&["status"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains(why), "{out:?}");
    let log = fs::read_to_string(n.path("plinth.log")).unwrap();
    assert!(log.lines().any(|l| l.contains("error") && l.contains(why)), "{log}");
    n.shutdown();
}
