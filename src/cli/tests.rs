//! What people and scripts read: golden text, and that shells, man and YAML readers agree with what is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::status::{manifests_table, pods_table};
use super::table::{HELP, VERBS};
use super::text::Paint;
use super::{completions, man, usage, why, yaml};
use crate::manifest;
use crate::pod::{Finding, Verdict};
use crate::socket::wire::{Attempt, Decision, Manifest, PodRow, SandboxState, Status, Wait, Why};

fn row(namespace: &str, name: &str, status: &str, ready: u32) -> PodRow {
    PodRow {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("{name}-uid"),
        status: status.into(),
        ready_containers: ready,
        total_containers: 2,
        ready: ready == 2,
        wanted: true,
        start_time: Some("2026-01-01T00:00:00Z".into()),
        ips: vec!["10.88.0.7".into()],
        path: Some(format!("/etc/m/{name}.yaml")),
        ..PodRow::default()
    }
}

fn file(name: &str, verdict: Verdict, findings: usize) -> Manifest {
    let finding = |line| Finding { message: "must be\na number".into(), field: "spec.x".into(), line, column: 9 };
    Manifest {
        path: format!("/etc/m/{name}"),
        layer: "/etc/m".into(),
        verdict,
        by: None,
        over: Vec::new(),
        pods: Vec::new(),
        stale: findings == 2,
        errors: (0..findings as u32).map(finding).collect(),
        warnings: Vec::new(),
    }
}

fn status() -> Status {
    let mut crash = row("default", "crash-n1", "CrashLoopBackOff", 1);
    crash.restarts = 4;
    crash.last_restart = Some("2026-01-01T00:03:30Z".into());
    let mut fresh = row("default", "fresh-n1", "ContainerCreating", 0);
    fresh.ips.clear();
    fresh.start_time = None;
    Status {
        time: "2026-01-01T00:05:00Z".into(),
        layers_read: true,
        pods: vec![row("default", "web-n1", "Running", 2), crash, fresh],
        manifests: vec![file("bad.yaml", Verdict::Rejected, 2), file("notes.txt", Verdict::Ignored, 0)],
        ..Status::default()
    }
}

#[test]
fn status_table_is_kubectls() {
    let status = status();
    let rows: Vec<&PodRow> = status.pods.iter().collect();
    let golden = "\
NAME       READY   STATUS              RESTARTS      AGE         IP
web-n1     2/2     Running             0             5m          10.88.0.7
crash-n1   1/2     CrashLoopBackOff    4 (90s ago)   5m          10.88.0.7
fresh-n1   0/2     ContainerCreating   0             <unknown>   <none>
";
    assert_eq!(pods_table(&status, &rows, false, Paint(false)), golden);
    let wide = "\
NAMESPACE   NAME     READY   STATUS    RESTARTS   AGE   IP          UID          MANIFEST
default     web-n1   2/2     Running   0          5m    10.88.0.7   web-n1-uid   /etc/m/web-n1.yaml
";
    assert_eq!(pods_table(&status, &rows[..1], true, Paint(false)), wide);
    let other = row("kube-system", "dns-n1", "Running", 2);
    assert!(pods_table(&status, &[&other], false, Paint(false)).starts_with("NAMESPACE     NAME "));
    assert!(pods_table(&status, &rows, false, Paint(true)).contains("\x1b[31mCrashLoopBackOff\x1b[0m    4 (90s ago)"));
}

#[test]
fn troubled_manifests_have_a_line_for_each_finding() {
    let golden = "\
MANIFEST              VERDICT                       PROBLEM
/etc/m/bad.yaml       refused, last good one runs   spec.x: must be a number
/etc/m/bad.yaml:1:9   refused, last good one runs   spec.x: must be a number
/etc/m/notes.txt      ignored
";
    assert_eq!(manifests_table(&status(), None, Paint(false)), golden);
    let partly = Manifest { stale: true, ..file("partly.yaml", Verdict::Accepted, 1) };
    let partly = manifests_table(&Status { manifests: vec![partly], ..Status::default() }, None, Paint(false));
    assert!(partly.contains("refused in part, last good one runs"), "{partly}");
    assert_eq!(manifests_table(&status(), Some(&row("default", "web-n1", "Running", 2)), Paint(false)), "");
}

#[test]
fn why_is_told_in_lines() {
    let why = Why {
        namespace: "default".into(),
        name: "web-n1".into(),
        uid: "0af".into(),
        status: "CrashLoopBackOff".into(),
        wanted: true,
        line: Some(3),
        manifest: Some(Manifest { over: vec!["/usr/m/web.yaml".into()], ..file("web.yaml", Verdict::Accepted, 0) }),
        last_decision: Some(Decision { action: "DeleteTask c".into(), why: "web exited 1".into(), time: "2026-01-01T00:04:50Z".into() }),
        waits_for: vec![Wait {
            on: "container web".into(),
            reason: Some("CrashLoopBackOff".into()),
            message: Some("back-off 40s".into()),
            retry_in_seconds: Some(8.25),
            failures: Some(3),
        }],
        next_retry_seconds: Some(8.25),
        sandbox: SandboxState {
            state: "ready".into(),
            network: "pod".into(),
            ips: vec!["10.88.0.7".into()],
            since: Some("2026-01-01T00:00:00Z".into()),
        },
        containers: vec![Attempt {
            name: "web".into(),
            id: "0af-web-2".into(),
            attempt: 2,
            state: "dead".into(),
            since: Some("2026-01-01T00:04:50Z".into()),
            exit_code: Some(1),
            reason: Some("Error".into()),
            message: Some("\ncannot bind: \u{1b}in use\nmore of it\n".into()),
        }],
        ..Why::default()
    };
    let golden = "\
Pod        default/web-n1 (CrashLoopBackOff)
UID        0af
Manifest   /etc/m/web.yaml:3 (layer /etc/m)
Overrides  /usr/m/web.yaml
Decided    DeleteTask c: web exited 1 (10s ago)
Waits for  container web: CrashLoopBackOff: back-off 40s (due in 8.2 s, after 3 in a row)
Next try   in 8.2 s
Sandbox    ready for 5m, pod network, 10.88.0.7
Container  web #2: dead for 10s, exit 1, Error: cannot bind: \u{fffd}in use [0af-web-2]
";
    assert_eq!(why::explanation(&why, "2026-01-01T00:05:00Z"), golden);
}

#[test]
fn table_is_sound_and_every_text_comes_from_it() {
    let names: BTreeSet<_> = VERBS.iter().map(|v| v.name).collect();
    assert_eq!(names.len(), VERBS.len());
    for verb in VERBS {
        let longs: BTreeSet<_> = verb.flags.iter().map(|f| f.long).chain([HELP.long]).collect();
        let shorts: BTreeSet<_> = verb.flags.iter().chain([&HELP]).filter_map(|f| f.short).collect();
        assert_eq!(longs.len(), verb.flags.len() + 1, "{}: a flag twice", verb.name);
        assert_eq!(shorts.len(), verb.flags.iter().filter(|f| f.short.is_some()).count() + 1, "{}: a letter twice", verb.name);
        for flag in verb.flags {
            assert!(usage::page(verb).contains(&format!("--{}", flag.long)));
            assert!(man::page(verb).contains(&format!("\\-\\-{}", flag.long.replace('-', "\\-"))));
            assert!(completions::bash().contains(&format!("--{}", flag.long)));
            assert!(completions::zsh().contains(&format!("--{}", flag.long)));
            assert!(completions::fish().contains(&format!("-l {}", flag.long)));
        }
        let long = usage::page(verb).lines().map(|l| l.chars().count()).max().unwrap();
        assert!(long <= 120, "{}: a line of {long}", verb.name);
    }
}

#[test]
fn flags_of_run_are_settings() {
    let empty = std::env::temp_dir().join(format!("plinth-no-config-{}", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let base = ["--config".to_owned(), empty.display().to_string()];
    let run = VERBS.iter().find(|v| v.name == "run").unwrap();
    for flag in run.flags {
        let value = match flag.long {
            "config" => base[1].as_str(),
            "set" => "dataDir=/x",
            "node-ip" => "10.0.0.1",
            "node-name" | "hostname-override" | "socket-group" => "x",
            "log-level" => "debug",
            "log-target" => "kmsg",
            _ => "/x",
        };
        let args: Vec<String> = base.iter().cloned().chain([format!("--{}", flag.long), value.to_owned()]).collect();
        let (_, rest) = crate::settings::Settings::load(&args, "").unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
    std::fs::remove_dir(&empty).unwrap();
}

/// Runs a program over a text; standard output and error.
fn through(program: &str, args: &[&str], input: &str) -> Option<(bool, String, String)> {
    let spawned = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        crate::skip::skip(&format!("src/cli/tests.rs: {program} is not installed"));
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some((out.status.success(), text(out.stdout), text(out.stderr)))
}

#[test]
fn shells_accept_their_completions() {
    for (shell, script) in [("bash", completions::bash()), ("zsh", completions::zsh()), ("fish", completions::fish())] {
        if let Some((ok, _, err)) = through(shell, &["-n"], &script) {
            assert!(ok && err.is_empty(), "{shell}: {err}");
        }
    }
}

#[test]
fn bash_completes_verbs_flags_values_and_pods() {
    let ask = |words: &[&str]| {
        let line: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        let script = format!(
            "plinth() {{ echo default/web-n1; }}\n{}\nCOMP_WORDS=({}) COMP_CWORD={}\n_plinth\necho \"${{COMPREPLY[*]}}\"\n",
            completions::bash(),
            line.join(" "),
            words.len() - 1
        );
        through("bash", &["-s"], &script).expect("bash is there").1
    };
    assert_eq!(ask(&["plinth", "st"]), "status\n");
    assert_eq!(ask(&["plinth", "logs", "--ti"]), "--timestamps\n");
    assert_eq!(ask(&["plinth", "status", "-o", "w"]), "wide\n");
    assert_eq!(ask(&["plinth", "why", "def"]), "default/web-n1\n");
    assert_eq!(ask(&["plinth", "completions", ""]), "bash zsh fish\n");
}

#[test]
fn man_pages_render_without_a_warning() {
    for page in std::iter::once(man::overview()).chain(VERBS.iter().map(man::page)) {
        let Some((ok, out, err)) = through("groff", &["-man", "-ww", "-Tutf8", "-rLL=100n"], &page) else { return };
        assert!(ok && err.is_empty(), "{err}\n{page}");
        assert!(out.contains("plinth"), "{out}");
    }
}

fn as_json(node: &manifest::value::Node) -> Value {
    use manifest::value::{Number, Value as V};
    match &node.value {
        V::Null => Value::Null,
        V::Bool(b, _) => json!(b),
        V::Number(Number::Int(n), _) => json!(n),
        V::Number(Number::Uint(n), _) => json!(n),
        V::Number(Number::Float(n), _) => json!(n),
        V::Text(text) => json!(text),
        V::List(items) => items.iter().map(as_json).collect(),
        V::Map(entries) => Value::Object(entries.iter().map(|e| (e.key.to_string(), as_json(&e.node))).collect()),
    }
}

#[test]
fn yaml_is_read_back_as_what_was_written() {
    let words = [
        "yes",
        "No",
        "on",
        "OFF",
        "~",
        "null",
        "",
        " ",
        "1",
        "0644",
        "0o17",
        "0x1f",
        "1e3",
        "1.5",
        ".5",
        "-1",
        "+1",
        "1_000",
        "1:30",
        "1:30:00",
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        ".inf",
        "-.INF",
        ".nan",
        "=",
        "<<",
        "---",
        "...",
        "- a",
        "-",
        "-a",
        "? a",
        ": a",
        "a: b",
        "a:b",
        "a:",
        "a #b",
        "a#b",
        "#a",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'a'",
        "\"a\"",
        "{a}",
        "[a]",
        "a, b",
        ",a",
        "a\\b",
        "a\tb",
        "\ta",
        "a\n",
        "a\nb",
        "a\nb\n",
        "a\n\n\nb\n\n",
        "\na",
        " a\nb",
        "a \nb",
        "a\n b\n",
        "#\na\nb",
        "- x\n- y",
        "a\r\nb",
        "\u{85}",
        "\u{2028}x",
        "\u{feff}",
        "\u{7f}",
        "\u{9f}",
        "😀",
        "ü: ö",
        "10.0.0.1",
        "1.2.3.4:80",
        "12e03",
        "1e",
        "0b1",
        "190:20:30",
        "a\n\tb",
        "key\n",
        "\u{1}",
        "true ",
        " true",
        "10m",
        "1Gi",
        "1.2.3",
        "1.2e3.4",
        "0.5e",
        "y",
        "n",
        "Y",
        "e3",
        "1a",
        "1f",
        "0z",
        "123abc",
        "5e5x",
        "..",
        "1..2",
        "1-2",
        "12-30",
    ];
    let keyed: serde_json::Map<String, Value> = words.iter().map(|w| ((*w).to_owned(), json!(w))).collect();
    let nested =
        json!({"a": [[], {}, [[1, "x"], {"b": []}], null, true, -1, 1.5, 18_446_744_073_709_551_615_u64], "": {"x": {"y": "a\nb"}}});
    for value in [json!(words.as_slice()), Value::Object(keyed), nested, json!(["a\n\n"]), json!({"k": ["x\ny\n", {"z": "p\nq"}]})] {
        let text = yaml::document(&value);
        let read = manifest::yaml::read(text.as_bytes());
        assert!(read.errors.is_empty(), "{:?}\n{text}", read.errors);
        assert_eq!(as_json(&read.roots[0]), value, "{text}");
        let python = "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin.buffer.read().decode()), sys.stdout)";
        if let Some((true, out, _)) = through("python3", &["-c", python], &text) {
            assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), value, "PyYAML, of\n{text}");
        }
    }
}
