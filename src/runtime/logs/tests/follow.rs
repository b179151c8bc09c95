//! Reading back: tail, since, limits, and following across rotation.

use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::super::read::{self, Options};
use super::*;
use crate::clock::Wall;

fn read_all(path: &Path, options: Options) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = read::stream(path.into(), options, || false, Rc::new(Notify::new()));
    let chunks: Vec<Bytes> = runtime.block_on(stream.try_collect()).unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

fn log_of(lines: &[&str]) -> String {
    lines.iter().enumerate().map(|(n, l)| format!("2026-11-20T21:41:{:02}.000000000Z {l}\n", n)).collect()
}

#[test]
fn options_are_those_of_the_kubelet() {
    let root = Root::new();
    let log = root.0.join("0.log");
    fs::write(&log, log_of(&["stdout F one", "stderr F two", "stdout P thr", "stdout F ee", "nonsense", "stdout F four", "stdout P fi"]))
        .unwrap();
    let o = Options::default;
    let at = |s: &str| Wall::parse(s);
    for (options, want) in [
        (o(), "one\ntwo\nthree\nfour\nfi"),
        (Options { tail_lines: Some(0), ..o() }, ""),
        (Options { tail_lines: Some(1), ..o() }, "fi"),
        (Options { tail_lines: Some(3), ..o() }, "three\nfour\nfi"),
        (Options { tail_lines: Some(9), ..o() }, "one\ntwo\nthree\nfour\nfi"),
        (Options { tail_lines: Some(1), which: Some(Which::Stderr), ..o() }, "two\n"),
        (Options { which: Some(Which::Stdout), ..o() }, "one\nthree\nfour\nfi"),
        (Options { limit_bytes: Some(6), ..o() }, "one\ntw"),
        (Options { since: at("2026-11-20T21:41:05Z"), ..o() }, "four\nfi"),
        (
            Options { since: at("2026-11-20T21:41:02Z"), timestamps: true, limit_bytes: Some(70), ..o() },
            "2026-11-20T21:41:02.000000000Z three\n2026-11-20T21:41:05.000000000Z fo",
        ),
    ] {
        assert_eq!(read_all(&log, options.clone()), want, "{options:?}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let none = read::stream(root.0.join("1.log"), o(), || false, Rc::new(Notify::new()));
    assert_eq!(runtime.block_on(none.try_collect::<Vec<_>>()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_tail_is_the_end_of_the_whole(
        lines in prop::collection::vec((prop_oneof![0usize..90, 16_000usize..16_384], any::<bool>()), 0..300),
        cuts in prop::collection::vec(0usize..300, 0..3),
        tail in 0u64..320,
    ) {
        let root = Root::new();
        let log = root.0.join("0.log");
        let mut files = vec![String::new()];
        for (n, (len, full)) in lines.iter().enumerate() {
            if cuts.contains(&n) {
                files.push(String::new());
            }
            let text = "x".repeat(*len);
            files.last_mut().unwrap().push_str(&format!("2026-11-20T21:41:59.000000000Z stdout {} {n}{text}\n", if *full { "F" } else { "P" }));
        }
        let current = files.pop().unwrap();
        fs::write(&log, current).unwrap();
        for (n, text) in files.iter().enumerate() {
            fs::write(root.0.join(format!("0.log.20261120-21415{n}")), text).unwrap();
        }
        let whole = read_all(&log, Options::default());
        let want: Vec<_> = whole.split_inclusive('\n').collect();
        let from = want.len().saturating_sub(usize::try_from(tail).unwrap());
        let got = read_all(&log, Options { tail_lines: Some(tail), ..Options::default() });
        prop_assert!(got == want[from..].concat(), "tail {} of {} lines", tail, want.len());
    }
}

#[test]
fn a_follower_gets_every_line_across_rotations_and_ends_with_the_container() {
    let root = Root::new();
    let logs = Logs::new(&Settings { log_max_bytes: 100 << 10, log_max_files: 50, ..root.settings() }).unwrap();
    let target = target("a");
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let text = numbered(20_000);
        let sent = text.clone();
        let follower = logs.read(&target, Options { follow: true, ..Options::default() });
        let write = async {
            let flood = thread::spawn(move || {
                let mut fds = writer(&paths.stdout);
                for part in sent.chunks(10_000) {
                    fds.0.write_all(part).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            while !flood.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            logs.finish(&target, LONG).await;
        };
        let (got, ()) = tokio::join!(follower.try_collect::<Vec<_>>(), write);
        assert!(got.unwrap().concat() == text);
        assert!(rotate::rotated(&logs.log_path(&target)).unwrap().len() > 10);
    });
}

#[test]
fn a_follower_of_a_silent_container_sleeps() {
    let (_root, logs, target) = one();
    in_loop(&logs, async {
        logs.open(&target).unwrap();
        let mut follower = std::pin::pin!(logs.read(&target, Options { follow: true, ..Options::default() }));
        let cpu = thread_cpu();
        let silent = tokio::time::timeout(Duration::from_millis(200), follower.try_next()).await;
        assert!(silent.is_err() && thread_cpu() - cpu < Duration::from_millis(50));
        logs.finish(&target, LONG).await;
        assert!(tokio::time::timeout(LONG, follower.try_next()).await.unwrap().unwrap().is_none());
    });
}
