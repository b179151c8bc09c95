//! plinth in place of its runc shim's program: for what containerd asks of every container, and for no more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::node::{FOREVER, IMAGE, Node, can_run_on, container, script};

/// Beside containerd, a program that writes down what it is called for before it becomes the shim's own.
fn counting(extra: &[&str]) -> Option<Node> {
    if !can_run_on("sid") {
        return None;
    }
    let n = Node::with("sid", extra);
    n.containerd("kill");
    let (own, bin) = (n.dir.join("own"), n.dir.join("own/usr/bin"));
    let suite = fs::canonicalize(n.dir.join("containerd")).unwrap().join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    for program in ["containerd", "ctr"] {
        fs::copy(suite.join(program), bin.join(program)).unwrap();
    }
    let (shim, real) = (bin.join(PROGRAM), suite.join(PROGRAM));
    fs::write(&shim, format!("#!/bin/sh\necho \"$*\" >>{}\nexec {} \"$@\"\n", calls(&n).display(), real.display())).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(calls(&n), "").unwrap();
    fs::remove_file(n.dir.join("containerd")).unwrap();
    std::os::unix::fs::symlink(own, n.dir.join("containerd")).unwrap();
    n.containerd("start");
    Some(n)
}

const PROGRAM: &str = "containerd-shim-runc-v2";

fn calls(n: &Node) -> std::path::PathBuf {
    n.dir.join("work/calls")
}

/// How often it was called to `start`, to `delete`, and to stay.
fn called(n: &Node) -> (usize, usize, usize) {
    let text = fs::read_to_string(calls(n)).unwrap();
    let of = |verb: &str| text.lines().filter(|l| l.ends_with(verb)).count();
    let (start, delete) = (of(" start"), of(" delete"));
    (start, delete, text.lines().count() - start - delete)
}

#[test]
fn the_shims_program_is_not_started_at_all() {
    let Some(mut n) = counting(&[]) else { return };
    n.start();
    n.put(
        "two.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: two}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  initContainers:\n  - {{name: i, image: \"{IMAGE}\", command: [\"true\"]}}\n  containers:\n  - {{name: c, image: \"{IMAGE}\", command: [sh, -c, \"{FOREVER}\"]}}\n  - {{name: d, image: \"{IMAGE}\", command: [sh, -c, \"sleep 1; exit 3\"]}}\n"
        ),
    );
    n.until("one container of the pod was restarted", 30, |n| n.restarts("two") > 0 && n.ready("two"));
    assert_eq!(called(&n), (0, 0, 0), "{}", fs::read_to_string(calls(&n)).unwrap());
    assert_eq!(container(&n.pod("two").unwrap(), "d")["lastState"]["terminated"]["exitCode"], 3);
    let records = n.ctr(&["containers", "list"]);
    assert!(records.contains(&n.path(&format!("run/{PROGRAM}"))), "{records}");

    n.containerd("kill");
    n.containerd("start");
    n.put("one.yaml", &script("one", FOREVER));
    n.until_ready("one");
    n.remove("two.yaml");
    n.remove("one.yaml");
    n.until("both are gone", 30, |n| n.gone("two") && n.gone("one"));
    assert_eq!(called(&n), (0, 0, 0), "{}", fs::read_to_string(calls(&n)).unwrap());
    n.assert_clean();
    n.shutdown();
}

#[test]
fn what_a_killed_shim_leaves_is_the_shims_own_to_remove() {
    let Some(mut n) = counting(&[]) else { return };
    n.start();
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    assert!(Command::new("kill").args(["-s", "KILL", &shim(&n)]).status().unwrap().success());
    n.until("it runs again", 30, |n| n.restarts("a") == 1 && n.ready("a"));
    assert_eq!(called(&n), (0, 1, 0), "{}", fs::read_to_string(calls(&n)).unwrap());
    assert_eq!(container(&n.pod("a").unwrap(), "c")["lastState"]["terminated"]["exitCode"], 137);
    n.shutdown();
}

/// The pid of the shim of the one pod that runs.
fn shim(n: &Node) -> String {
    let pid = n.exec(&["pgrep", "-f", &format!("^[^ ]*{PROGRAM} .*-address {}", n.path("containerd.sock"))]);
    assert_eq!(pid.lines().count(), 1, "{pid}");
    pid.trim().to_owned()
}

#[test]
fn a_create_that_hangs_is_in_nobody_elses_way_and_ends_with_its_shim() {
    let Some(mut n) = counting(&[]) else { return };
    let (runtime, hung) = (n.dir.join("own/usr/bin/hangs-once"), n.dir.join("work/hung"));
    let hangs = format!("case \" $* \" in *\" create \"*-b-0*) [ -e {0} ] || {{ touch {0}; exec sleep 612.5; }};; esac\n", hung.display());
    fs::write(&runtime, format!("#!/bin/sh\n{hangs}exec runc \"$@\"\n")).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    n.extra.push(format!("ociRuntime={}", runtime.display()));
    n.start();
    n.put(
        "two.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: two}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: a, image: \"{IMAGE}\", command: [sh, -c, \"{FOREVER}\"]}}\n  - {{name: b, image: \"{IMAGE}\", command: [sh, -c, \"{FOREVER}\"]}}\n"
        ),
    );
    n.until("the second container's create hangs", 30, |_| hung.exists());
    let hanging = n.exec(&["pgrep", "-f", "^sleep 612.5$"]).trim().to_owned();
    assert_eq!(n.said(&["exec", "two", "-c", "a", "--", "echo", "it answers"]), "it answers\n");
    let shim = shim(&n);
    assert_eq!(fs::read_dir(format!("/proc/{shim}/task")).unwrap().count(), 1, "one thread");
    // `pidof plinth` is one process.
    assert!(!fs::read_link(format!("/proc/{shim}/exe")).unwrap().ends_with("plinth"));
    assert_eq!(fs::read_to_string(format!("/proc/{shim}/comm")).unwrap(), "containerd-shim\n");
    assert!(Command::new("kill").args(["-s", "KILL", &shim]).status().unwrap().success());
    n.until("the runtime went with the shim it was called by", 10, |_| !fs::exists(format!("/proc/{hanging}")).unwrap());
    n.until("both run", 60, |n| n.ready("two"));
    n.remove("two.yaml");
    n.until("it is gone", 30, |n| n.gone("two"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_shim_that_somebody_chose_is_called_as_ever() {
    let Some(mut n) = counting(&[]) else { return };
    n.extra.push(format!("shim={}", n.path(&format!("own/usr/bin/{PROGRAM}"))));
    n.start();
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    n.remove("a.yaml");
    n.until("it is gone", 30, |n| n.gone("a"));
    // What stays it starts by where it is itself.
    assert_eq!(called(&n), (1, 1, 0), "{}", fs::read_to_string(calls(&n)).unwrap());
    n.shutdown();
}

#[test]
fn a_shim_that_comes_first_in_containerds_path_is_called_as_ever() {
    let Some(mut n) = counting(&[]) else { return };
    // The containerd of the suite finds the counting program by its PATH, and has another one beside itself.
    n.containerd("kill");
    let suite = crate::node::cache().join("sid/usr/bin");
    fs::remove_file(n.dir.join("own/usr/bin/containerd")).unwrap();
    std::os::unix::fs::symlink(suite.join("containerd"), n.dir.join("own/usr/bin/containerd")).unwrap();
    n.containerd("start");
    n.start();
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    assert_eq!(called(&n), (1, 0, 0), "{}", fs::read_to_string(calls(&n)).unwrap());
    n.shutdown();
}

/// What an administrator does to a running container by hand, and what is answered, without ids and numbers.
fn by_hand(n: &Node) -> String {
    let ctr = format!("{} -a {} -n plinth", n.path("containerd/usr/bin/ctr"), n.path("containerd.sock"));
    let script = format!(
        "exec 2>&1; ctr() {{ echo \"+ $*\"; timeout 20 {ctr} \"$@\"; echo \"= $?\"; }}; id=$({ctr} tasks ls -q); echo $id
        ctr tasks ls
        ctr tasks pause $id
        ctr tasks ls
        ctr tasks pause $id
        ctr tasks exec --exec-id paused $id true
        ctr tasks resume $id
        ctr tasks resume $id
        ctr tasks exec --exec-id says $id sh -c 'echo out; sleep 0.3; echo err >&2; exit 3'
        echo typed | ctr tasks exec --exec-id reads $id cat
        ctr tasks exec --exec-id nothing $id /no/such
        ctr tasks exec --exec-id where --cwd /no/such $id true
        ctr tasks start $id
        ctr tasks delete $id
        ctr tasks kill -s 0 --exec-id none $id
        ctr tasks kill -s RTMIN+3 $id
        ctr tasks exec --exec-id config $id true
        ctr tasks ps $id | wc -l
        ctr tasks kill -s KILL $id
        sleep 1
        ctr tasks kill -s KILL $id
        ctr tasks kill -a -s KILL $id
        ctr tasks exec --exec-id late $id true
        ctr tasks ls
        ctr tasks delete $id
        ctr tasks ls"
    );
    let said = n.tried(&["sh".into(), "-c".into(), script]);
    let (id, said) = said.split_once('\n').unwrap();
    let said = said.replace(id, "ID");
    let word = |w: &str| match w {
        w if w.starts_with("time=") => String::new(),
        w if w.parse::<u32>().is_ok_and(|n| n > 300) => "PID".into(),
        w => w.into(),
    };
    // runc repeats on its standard error what went wrong, which is the command's with plinth's shim and nobody's with containerd's.
    let said = said.lines().filter(|l| !l.starts_with("exec failed: "));
    said.map(|l| l.split_whitespace().map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn who_looks_by_hand_finds_containerds_own_words() {
    let mut said = Vec::new();
    for own in [false, true] {
        let Some(mut n) = counting(&[]) else { return };
        if own {
            n.extra.push(format!("shim={}", n.path(&format!("own/usr/bin/{PROGRAM}"))));
        }
        n.start();
        n.put("a.yaml", &script("a", FOREVER));
        n.until_ready("a");
        n.kill();
        said.push(by_hand(&n));
        n.start();
        n.until("it runs again", 30, |n| n.ready("a"));
        n.shutdown();
    }
    assert_eq!(said[0], said[1]);
    assert!(said[0].contains("PAUSED") && said[0].contains("out") && said[0].contains("typed"), "{}", said[0]);
}
