#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::pod::Verdict;

struct Node {
    root: PathBuf,
    manifests: Manifests,
    wanted: Wanted,
    reports: Vec<FileReport>,
}

impl Node {
    fn new(rescan_ms: u64) -> Node {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("plinth-live-{}-{n}", std::process::id()));
        fs::create_dir_all(root.join("low")).unwrap();
        fs::create_dir_all(root.join("high")).unwrap();
        let layers = vec![root.join("low"), root.join("high")];
        let settings = Rc::new(Settings { layers, rescan: Duration::from_millis(rescan_ms), ..Settings::default() });
        let mut node = Node { manifests: Manifests::new(&settings, "n1"), root, wanted: Wanted::default(), reports: Vec::new() };
        node.read();
        node
    }
    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
    fn read(&mut self) -> String {
        (self.wanted, self.reports) = self.manifests.read(clock::now());
        let words = self.wanted.pods.values().map(|p| format!("{}={}", p.key.name, p.containers[0].image));
        words.collect::<Vec<_>>().join(" ").replace("docker.io/library/", "").replace("-n1", "")
    }
    /// Reads whenever told to, until it is as expected; answers how long that took.
    async fn until(&mut self, expected: &str) -> Duration {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_secs(60) {
            if tokio::time::timeout(Duration::from_secs(60), self.manifests.changed()).await.is_ok() {
                last = self.read();
                if last == expected {
                    return began.elapsed();
                }
            }
        }
        panic!("wanted `{expected}`, last saw `{last}`");
    }
    /// Nothing is due within so long.
    async fn quiet(&mut self, ms: u64) {
        while tokio::time::timeout(Duration::from_millis(ms), self.manifests.changed()).await.is_ok() {
            self.read();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn pod(name: &str, image: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n")
}

fn rename_in(node: &Node, path: &str, text: &str) {
    fs::write(node.at("new"), text).unwrap();
    fs::rename(node.at("new"), node.at(path)).unwrap();
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A busy machine makes one late, not each: what waits to see whether more comes takes 50 ms every time.
#[derive(Default)]
struct AtOnce(Option<Duration>);

impl AtOnce {
    /// True if this one did not wait.
    fn saw(&mut self, took: Duration) -> bool {
        let least = self.0.map_or(took, |least| least.min(took));
        self.0 = Some(least);
        least < Duration::from_millis(45)
    }
    fn check(&self) {
        assert!(self.0.is_some_and(|least| least < Duration::from_millis(45)), "the quickest took {:?}", self.0);
    }
}

#[test]
fn rename_is_acted_on_at_once() {
    run(async {
        let mut n = Node::new(60_000);
        rename_in(&n, "high/a.yaml", &pod("x", "i:1"));
        n.until("x=i:1").await;
        let mut at_once = AtOnce::default();
        for round in 2..200 {
            rename_in(&n, "high/a.yaml", &pod("x", &format!("i:{round}")));
            if at_once.saw(n.until(&format!("x=i:{round}")).await) {
                break;
            }
        }
        at_once.check();
        fs::remove_file(n.at("high/a.yaml")).unwrap();
        n.until("").await;
    });
}

#[test]
fn editor_that_moves_the_file_aside_first_costs_no_pod() {
    run(async {
        let mut n = Node::new(60_000);
        rename_in(&n, "high/a.yaml", &pod("x", "i:1"));
        n.until("x=i:1").await;
        for backup in ["high/a.yaml~", "high/.a.yaml.bak"] {
            fs::rename(n.at("high/a.yaml"), n.at(backup)).unwrap();
            let slow = tokio::time::sleep(Duration::from_millis(20));
            tokio::pin!(slow);
            loop {
                tokio::select! {
                    () = &mut slow => break,
                    () = n.manifests.changed() => assert_eq!(n.read(), "x=i:1", "while the editor has not written the new file"),
                }
            }
            fs::write(n.at("high/a.yaml"), pod("x", "i:1")).unwrap();
            n.quiet(120).await;
            assert_eq!(n.read(), "x=i:1");
        }
        fs::rename(n.at("high/a.yaml"), n.at("high/a.yaml.off")).unwrap();
        n.until("").await;
    });
}

#[test]
fn file_moved_out_of_the_layer_is_gone_at_once() {
    run(async {
        let mut n = Node::new(60_000);
        let mut at_once = AtOnce::default();
        for _ in 0..200 {
            rename_in(&n, "high/a.yaml", &pod("x", "i:1"));
            n.until("x=i:1").await;
            fs::rename(n.at("high/a.yaml"), n.at("elsewhere")).unwrap();
            if at_once.saw(n.until("").await) {
                break;
            }
        }
        at_once.check();
    });
}

#[test]
fn file_written_in_place_is_acted_on_when_it_is_closed() {
    use std::io::Write;
    run(async {
        let mut n = Node::new(60_000);
        fs::write(n.at("low/a.yaml"), pod("x", "i:1")).unwrap();
        n.until("x=i:1").await;
        let text = pod("x", "i:2") + "---\n" + &pod("z", "i:1");
        let (first, second) = text.split_at(pod("x", "i:2").len());
        let mut file = fs::File::create(n.at("low/a.yaml")).unwrap();
        n.quiet(120).await;
        file.write_all(first.as_bytes()).unwrap();
        n.quiet(120).await;
        assert_eq!(n.read(), "x=i:1", "half a file is never acted on, not even on a rescan");
        file.write_all(second.as_bytes()).unwrap();
        drop(file);
        n.until("x=i:2 z=i:1").await;
    });
}

#[test]
fn linked_files_are_seen() {
    run(async {
        let mut n = Node::new(60_000);
        fs::write(n.at("target"), pod("x", "i:1")).unwrap();
        symlink("../target", n.at("low/a.yaml")).unwrap();
        n.until("x=i:1").await;
        fs::hard_link(n.at("target"), n.at("low/b.yaml")).unwrap();
        fs::remove_file(n.at("low/a.yaml")).unwrap();
        n.quiet(120).await;
        assert_eq!(n.reports.len(), 1);
        assert_eq!(n.read(), "x=i:1");
        symlink("/dev/null", n.at("high/b.yaml")).unwrap();
        n.until("").await;
    });
}

#[test]
fn rescan_sees_what_inotify_cannot() {
    run(async {
        let mut n = Node::new(300);
        fs::write(n.at("target"), pod("x", "i:1")).unwrap();
        symlink("../target", n.at("low/a.yaml")).unwrap();
        n.until("x=i:1").await;
        fs::write(n.at("target"), pod("x", "i:22")).unwrap();
        n.until("x=i:22").await;
    });
}

#[test]
fn nothing_wakes_but_the_rescan() {
    run(async {
        let mut n = Node::new(1000);
        rename_in(&n, "high/a.yaml", &pod("x", "i:1"));
        n.until("x=i:1").await;
        n.quiet(50).await;
        let began = Instant::now();
        n.manifests.changed().await;
        assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    });
}

#[test]
fn layer_that_appears_or_is_replaced_is_seen() {
    run(async {
        let mut n = Node::new(60_000);
        let deep = n.at("not/yet/there");
        let settings = Settings { layers: vec![deep.clone()], rescan: Duration::from_secs(60), ..Settings::default() };
        n.manifests = Manifests::new(&Rc::new(settings), "n1");
        n.read();
        assert!(n.wanted.complete);
        fs::create_dir(n.at("not")).unwrap();
        n.manifests.changed().await;
        n.read();
        fs::create_dir(n.at("not/yet")).unwrap();
        n.manifests.changed().await;
        n.read();
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("a.yaml"), pod("x", "i:1")).unwrap();
        n.until("x=i:1").await;
        fs::create_dir(n.at("other")).unwrap();
        fs::write(n.at("other/a.yaml"), pod("x", "i:2")).unwrap();
        fs::rename(&deep, n.at("old")).unwrap();
        fs::rename(n.at("other"), &deep).unwrap();
        n.until("x=i:2").await;
        fs::write(deep.join("b.yaml"), pod("z", "i:1")).unwrap();
        n.until("x=i:2 z=i:1").await;
        fs::remove_dir_all(&deep).unwrap();
        n.quiet(150).await;
        assert_eq!(n.read(), "x=i:2 z=i:1", "a removed layer keeps its pods");
        assert!(n.reports.iter().all(|r| r.stale) && n.reports.len() == 3);
    });
}

#[test]
fn broken_edit_keeps_the_pod_and_its_first_sight() {
    run(async {
        let mut n = Node::new(60_000);
        rename_in(&n, "high/a.yaml", &pod("x", "i:1"));
        n.until("x=i:1").await;
        let first = n.wanted.pods.values().next().unwrap().object.metadata.annotations.clone().unwrap();
        assert!(first.contains_key(identity::SEEN));
        rename_in(&n, "high/a.yaml", "kind: [");
        n.quiet(150).await;
        assert_eq!(n.read(), "x=i:1");
        assert_eq!((n.reports[0].verdict, n.reports[0].stale), (Verdict::Rejected, true));
        assert!(n.reports[0].errors[0].line > 0);
        rename_in(&n, "high/a.yaml", &(pod("x", "i:1") + "# same\n"));
        n.quiet(150).await;
        assert_eq!(n.wanted.pods.values().next().unwrap().object.metadata.annotations.clone().unwrap(), first);
    });
}

#[test]
fn hostile_files_are_refused_and_cost_nobody_else_anything() {
    run(async {
        let mut n = Node::new(60_000);
        rename_in(&n, "low/good.yaml", &pod("x", "i:1"));
        for (name, bytes) in [
            ("binary", vec![0u8, 159, 146, 150, 0, 255]),
            ("large", vec![b'#'; 11 << 20]),
            ("deep", vec![b'['; 100_000]),
            ("bomb", bomb()),
            ("notpod", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n".to_vec()),
            ("long", pod(&"a".repeat(253), "i:1").into_bytes()),
        ] {
            fs::write(n.at("new"), bytes).unwrap();
            fs::rename(n.at("new"), n.at(&format!("low/{name}.yaml"))).unwrap();
        }
        n.quiet(200).await;
        assert_eq!(n.read(), "x=i:1");
        for r in n.reports.iter().filter(|r| !r.path.ends_with("good.yaml")) {
            assert_eq!((r.verdict, r.errors.is_empty()), (Verdict::Rejected, false), "{r:?}");
        }
        assert_eq!(n.reports.len(), 7);
    });
}

fn bomb() -> Vec<u8> {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        let uses = vec![format!("*a{}", i - 1); 10].join(",");
        text += &format!("a{i}: &a{i} [{uses}]\n");
    }
    text.into_bytes()
}
