//! Layers on file systems of their own: overlayfs, a read-only mount, a mount put over a layer and taken away. In a mount namespace
//! of the test's own; needs CAP_SYS_ADMIN, and says so where that is missing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use plinth::clock;
use plinth::manifest::live::Manifests;
use plinth::pod::FileReport;
use plinth::settings::Settings;

struct Node {
    root: PathBuf,
    manifests: Manifests,
    reports: Vec<FileReport>,
}

impl Node {
    /// A tmpfs in a mount namespace of this thread, and one layer in it; `None` where that is not allowed.
    fn new(name: &str, rescan_ms: u64) -> Option<Node> {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNS) {
            skip::skip(&format!("tests/layers.rs {name}: make a mount namespace: {e}"));
            return None;
        }
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let root = std::env::temp_dir().join(format!("plinth-layers-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        tmpfs(&root);
        fs::create_dir(root.join("layer")).unwrap();
        let settings = Settings { layers: vec![root.join("layer")], rescan: Duration::from_millis(rescan_ms), ..Settings::default() };
        let manifests = Manifests::new(&settings.into(), "n");
        Some(Node { root, manifests, reports: Vec::new() })
    }
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    fn read(&mut self) -> String {
        let (wanted, reports) = self.manifests.read(clock::now());
        self.reports = reports;
        wanted.pods.keys().map(|k| k.name.to_string()).collect::<Vec<_>>().join(" ")
    }
    async fn until(&mut self, expected: &str) {
        let began = Instant::now();
        let mut last = self.read();
        while last != expected && began.elapsed() < Duration::from_secs(60) {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.manifests.changed()).await;
            last = self.read();
        }
        assert_eq!(last, expected);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.root, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.root);
    }
}

fn tmpfs(at: &Path) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n")
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn overlayfs_layer_shows_changes_above_and_below() {
    run(async {
        let Some(mut n) = Node::new("overlay", 200) else { return };
        for dir in ["low", "high", "work"] {
            fs::create_dir(n.at(dir)).unwrap();
        }
        fs::write(n.at("low/a.yaml"), pod("a")).unwrap();
        let dirs = format!("lowerdir={0}/low,upperdir={0}/high,workdir={0}/work", n.root.display());
        mount(Some("overlay"), &n.at("layer"), Some("overlay"), MsFlags::empty(), Some(dirs.as_str())).unwrap();
        n.until("a-n").await;
        fs::write(n.at("layer/b.yaml"), pod("b")).unwrap();
        n.until("a-n b-n").await;
        // inotify on the overlay hears nothing of a write to the lower file; the rescan sees its times change.
        fs::write(n.at("low/a.yaml"), pod("changed")).unwrap();
        n.until("b-n changed-n").await;
        fs::remove_file(n.at("layer/a.yaml")).unwrap();
        n.until("b-n").await;
    });
}

#[test]
fn read_only_layer_is_read() {
    run(async {
        let Some(mut n) = Node::new("readonly", 200) else { return };
        fs::write(n.at("layer/a.yaml"), pod("a")).unwrap();
        mount(Some(&n.at("layer")), &n.at("layer"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &n.at("layer"), None::<&str>, flags, None::<&str>).unwrap();
        assert!(fs::write(n.at("layer/b.yaml"), "x").is_err());
        n.until("a-n").await;
        assert!(n.reports.iter().all(|r| r.errors.is_empty() && r.warnings.is_empty()));
    });
}

#[test]
fn mount_over_a_layer_is_seen_and_one_taken_away_costs_no_pod() {
    run(async {
        let Some(mut n) = Node::new("over", 200) else { return };
        tmpfs(&n.at("layer"));
        fs::write(n.at("layer/a.yaml"), pod("a")).unwrap();
        n.until("a-n").await;
        fs::create_dir(n.at("other")).unwrap();
        fs::write(n.at("other/b.yaml"), pod("b")).unwrap();
        mount(Some(&n.at("other")), &n.at("layer"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        n.until("b-n").await;
        fs::write(n.at("other/c.yaml"), pod("c")).unwrap();
        n.until("b-n c-n").await;
        umount(&n.at("layer")).unwrap();
        n.until("a-n").await;
        umount(&n.at("layer")).unwrap();
        for _ in 0..3 {
            n.manifests.changed().await;
            assert_eq!(n.read(), "a-n", "the file system went away, nobody deleted the file");
        }
        assert!(n.reports.iter().any(|r| r.path == n.at("layer") && r.stale && r.warnings.len() == 1), "{:?}", n.reports);
        tmpfs(&n.at("layer"));
        fs::write(n.at("layer/d.yaml"), pod("d")).unwrap();
        n.until("d-n").await;
    });
}
