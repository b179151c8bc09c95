//! Manifests from outside: what a real kubelet made of them, hostile ones, and random damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use checks::{cost, parsed};
use plinth::manifest::live::Manifests;
use plinth::settings::Settings;

#[path = "fuzz/checks.rs"]
mod checks;

fn vectors() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    assert!(dir.is_dir(), "the recorded cases are not at {}", dir.display());
    dir
}

#[test]
fn check_agrees_with_the_kubelet() {
    // Its expectation was shortened when it was recorded (`sha256:<id>`), so no honest answer agrees; it is held to the rest below.
    const SHORTENED: &str = "pull-policy-digest";
    let compare = vectors().join("compare.py");
    let out = Command::new("python3").arg(compare).arg(env!("CARGO_BIN_EXE_plinth")).output().expect("python3 is needed");
    let text = String::from_utf8_lossy(&out.stdout);
    let differing: Vec<&str> = text.lines().filter(|l| l.ends_with(':') && !l.starts_with(' ')).collect();
    assert_eq!(differing, [format!("{SHORTENED}:")], "{text}{}", String::from_utf8_lossy(&out.stderr));
    let problems: Vec<&str> = text.lines().filter(|l| l.starts_with("  ")).collect();
    assert!(problems.len() == 1 && problems[0].contains("sha256:<id>"), "{text}");
    assert!(text.contains("vectors: 98 agree, 1 differ"), "{text}");
}

#[test]
fn check_reads_directories_and_says_what_is_wrong_where() {
    let dir = std::env::temp_dir().join(format!("plinth-check-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n";
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write("a.yaml", good);
    write("b.yaml~", "not a manifest");
    write(".c.yaml", "not one either");
    let check = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_plinth")).arg("check").args(["--node-name", "n"]).args(args).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    let path = dir.to_str().unwrap();
    assert_eq!(check(&[path]), (0, format!("{path}/a.yaml: ok: default/a-n\n")));
    let good = good.replace("name: a", "name: d");
    write("d.yml", &good.replace("image: i", "imag: i"));
    let (code, text) = check(&[path]);
    assert_eq!(code, 4);
    assert!(text.contains(&format!("{path}/d.yml:4:21: spec.containers[0].image: Required value\n")), "{text}");
    assert!(text.contains(&format!("{path}/d.yml:4:31: warning: spec.containers[0].imag: unknown field")), "{text}");
    assert!(text.ends_with("1 of 2 files refused\n"), "{text}");
    write("d.yml", &good.replace("image: i", "image: i, x: y"));
    assert_eq!(check(&[path]).0, 0, "a warning refuses nothing");
    assert_eq!(check(&["--strict", path]).0, 4, "unless asked for");
    assert_eq!(check(&[&format!("{path}/b.yaml~")]).0, 4, "a named file is read whatever it is called");
    let (code, text) = check(&[&format!("{path}/none.yaml"), &format!("{path}/a.yaml")]);
    assert_eq!(code, 1, "what cannot be read is no invalid manifest");
    assert!(text.contains("none.yaml: cannot be read: No such file"), "{text}");
    assert_eq!(check(&[&format!("{path}/none.yaml"), &format!("{path}/b.yaml~")]).0, 4, "but one beside it is");
    assert_eq!(check(&[]).0, 2);
    assert_eq!(check(&["-o", "xml", path]).0, 2);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn check_makes_of_a_directory_what_run_makes_of_a_layer() {
    let dir = std::env::temp_dir().join(format!("plinth-check-layer-{}", std::process::id()));
    fs::create_dir_all(dir.join("d.yaml")).unwrap();
    let pod =
        |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n");
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write("a.yaml", &format!("{}---\n{}", pod("b"), pod("a")));
    write("b.yaml", &pod("a"));
    write("c.yaml", &format!("{}---\nkind: Pod\n", pod("c")));
    write("x.yaml", "");
    std::os::unix::fs::symlink("/dev/null", dir.join("y.yml")).unwrap();
    std::os::unix::fs::symlink("/does/not/exist", dir.join("z.json")).unwrap();
    let check = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_plinth")).arg("check").args(["--node-name", "n"]).args(args).arg(&dir).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    let path = dir.display();
    let (code, text) = check(&[]);
    assert_eq!(code, 4);
    for line in [
        format!("{path}/a.yaml: ok: default/b-n, default/a-n"),
        format!("{path}/b.yaml:1:1: metadata.name: pod `default/a-n` is already in {path}/a.yaml:6 of the same layer: "),
        format!("{path}/d.yaml: read file: it is a directory, not a regular file"),
        format!("{path}/x.yaml: ok: masks this name in lower layers"),
        format!("{path}/y.yml: ok: masks this name in lower layers"),
        format!("{path}/z.json: read file: link to /does/not/exist, which is not there"),
        "4 of 7 files refused".into(),
    ] {
        assert!(text.lines().any(|l| l.starts_with(&line)), "{line} in {text}");
    }
    // All that is said, against what a supervisor says.
    let report: serde_json::Value = serde_json::from_str(&check(&["-o", "json"]).1).unwrap();
    let settings = Settings { layers: vec![dir.clone()], ..Settings::default() };
    let (wanted, rows) = Manifests::new(&settings.into(), "n").read(plinth::clock::now());
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), rows.len(), "{report}");
    for (file, row) in files.iter().zip(&rows) {
        assert_eq!(file["path"], row.path.to_str().unwrap());
        assert_eq!(file["verdict"] == "rejected", !row.errors.is_empty(), "{file}");
        for (key, findings) in [("errors", &row.errors), ("warnings", &row.warnings)] {
            assert_eq!(file[key], serde_json::to_value(findings).unwrap(), "{file}");
        }
        let names: BTreeSet<&str> = file["pods"].as_array().unwrap().iter().map(|p| p["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, row.pods.iter().map(|k| &*k.name).collect(), "{file}");
    }
    assert_eq!(wanted.pods.len(), 3);
    for bad in ["b.yaml", "c.yaml"] {
        fs::remove_file(dir.join(bad)).unwrap();
    }
    assert_eq!(check(&[]).0, 1, "what is left cannot be read");
    fs::remove_file(dir.join("z.json")).unwrap();
    fs::remove_dir(dir.join("d.yaml")).unwrap();
    assert_eq!(check(&["--strict"]).0, 0, "a mask is no fault");
    fs::remove_dir_all(&dir).unwrap();
}

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    const FULL: usize = (10 << 20) - 16;
    let filled = |unit: &[u8]| unit.repeat(FULL / unit.len());
    let after = |head: &[u8], unit: &[u8]| [head, &unit.repeat((FULL - head.len()) / unit.len())].concat();
    let mut laughs = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_vec();
    for (old, new) in (b'a'..b'p').zip(b'b'..b'q') {
        let (old, new) = (char::from(old), char::from(new));
        laughs.extend(format!("{new}: &{new} [{}]\n", vec![format!("*{old}"); 10].join(",")).bytes());
    }
    let staircase: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    vec![
        ("11 MiB", b"a".repeat(11 << 20)),
        ("10,000 brackets", b"[".repeat(10_000)),
        ("10 MiB of brackets", filled(b"[")),
        ("10 MiB of dashes", filled(b"- ")),
        ("10 MiB of braces", filled(b"{\"a\":")),
        ("10 MiB of open mappings", filled(b"[{")),
        ("a staircase", staircase.into_bytes()),
        ("billion laughs", laughs),
        ("aliases of a long text", after(&[b"a: &a ".as_slice(), &b"x".repeat(100_000), b"\nb: ["].concat(), b"*a, ")),
        ("merges without end", after(b"a: &a {k: v}\n", b"<<: *a\n")),
        ("two million items", filled(b"- a\n")),
        ("a million documents", filled(b"---\na\n")),
        ("empty documents", filled(b"---\n")),
        ("an endless JSON list", after(b"{\"a\":[", b"1,")),
        ("an endless JSON string", after(b"{\"a\":\"", b"x")),
        ("an open quote", after(b"a: \"", b"x\n ")),
        ("question marks", filled(b"? ")),
        ("colons", filled(b": ")),
        ("comments", filled(b"#\n")),
        ("NUL", filled(b"\0")),
        ("binary", (0..FULL).map(|i| u8::try_from(i * 7919 % 251).unwrap()).collect()),
        ("half UTF-16", [b"\xff\xfe".as_slice(), &b"[\0".repeat(FULL / 2), b"x"].concat()),
        ("directives", filled(b"%YAML 1.1\n")),
        ("containers without end", after(b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n", b"  - {name: c}\n")),
    ]
}

#[test]
fn hostile_text_costs_an_error_and_little_else() {
    // Without optimisation the same work takes some ten times as long.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 3000 } else { 100 });
    for (what, bytes) in hostile() {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let (parsed, took, grown) = cost(|| parsed(&bytes));
        assert!(!parsed.errors.is_empty() && parsed.pods.is_empty(), "{what}: accepted");
        assert!(parsed.errors.len() <= 1100, "{what}: {} errors", parsed.errors.len());
        assert!(took < most, "{what}: took {took:?}");
        assert!(grown < 64 << 20, "{what}: took {} MiB", grown >> 20);
    }
}

/// xorshift64*: the same damage for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % n.max(1)
    }

    fn damage(&mut self, text: &mut Vec<u8>, others: &[Vec<u8>]) {
        const WORDS: [&[u8]; 24] = [
            b"- ",
            b": ",
            b"{",
            b"}",
            b"[",
            b"]",
            b"&a ",
            b"*a",
            b"<<: *a\n",
            b"\n",
            b"  ",
            b"\t",
            b"---\n",
            b"'",
            b"\"",
            b"|\n",
            b"!!int ",
            b"null",
            b"1e999",
            b"-1",
            b"18446744073709551616",
            b"\xff",
            b"\0",
            b"\xf0\x9f\x98\x80",
        ];
        let at = self.below(text.len() + 1);
        let end = (at + self.below(20)).min(text.len());
        match self.below(6) {
            0 => drop(text.drain(at..end)),
            1 => drop(text.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            2 => drop(text.splice(at..end, WORDS[self.below(WORDS.len())].iter().copied())),
            3 => {
                let copy = text[at..end].to_vec();
                drop(text.splice(at..at, copy));
            }
            4 if at < text.len() => text[at] = u8::try_from(self.below(256)).unwrap(),
            _ => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len());
                let to = (from + self.below(80)).min(other.len());
                drop(text.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
}

fn damage_for(time: Duration, seed: u64) -> u64 {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for case in fs::read_dir(vectors().join("cases")).unwrap().flatten() {
        let manifest = fs::read_dir(case.path()).unwrap().flatten().find(|f| f.file_name().to_string_lossy().starts_with("manifest"));
        texts.extend(manifest.map(|m| fs::read(m.path()).unwrap()));
    }
    texts.sort();
    let (mut dice, start, mut rounds) = (Dice(seed), Instant::now(), 0);
    // A busy machine is given longer, not less to do.
    while start.elapsed() < time || rounds < 100 {
        let mut text = texts[dice.below(texts.len())].clone();
        for _ in 0..=dice.below(6) {
            dice.damage(&mut text, &texts);
        }
        let parsed = parsed(&text);
        let again = checks::parsed(&text);
        assert_eq!(parsed, again, "reading twice differs: {:?}", String::from_utf8_lossy(&text));
        assert!(
            !parsed.errors.is_empty() || !parsed.pods.is_empty() || !parsed.warnings.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&text)
        );
        rounds += 1;
    }
    rounds
}

#[test]
fn damaged_manifests_never_panic() {
    damage_for(Duration::from_secs(2), 0x5EED);
}

#[test]
#[ignore = "two minutes; PLINTH_SEED picks the damage"]
fn damaged_manifests_never_panic_for_long() {
    let seed = std::env::var("PLINTH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let rounds = damage_for(Duration::from_secs(120), seed);
    println!("{rounds} damaged manifests, seed {seed}");
}
