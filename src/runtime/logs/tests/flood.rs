//! Many lines, long lines, rotation under load, and what it costs.

use super::*;
use crate::sys::fifo::LOOK_BYTES;

#[test]
fn twenty_thousand_lines_a_second_lose_nothing_and_slow_nobody_else() {
    let root = Root::new();
    let logs = root.logs();
    let (loud, quiet) = (target("loud"), LogTarget { container: "quiet".into(), ..target("quiet") });
    in_loop(&logs, async {
        let paths = logs.open(&loud).unwrap();
        let mut calm = writer(&logs.open(&quiet).unwrap().stdout);
        let text = numbered(60_000);
        let sent = text.clone();
        let flood = thread::spawn(move || {
            let mut fds = writer(&paths.stdout);
            let started = Instant::now();
            for (n, line) in sent.split_inclusive(|c| *c == b'\n').enumerate() {
                fds.0.write_all(line).unwrap();
                let due = Duration::from_micros(50 * u64::try_from(n).unwrap());
                if n % 50 == 49 {
                    thread::sleep(due.saturating_sub(started.elapsed()));
                }
            }
        });
        let mut worst = Duration::ZERO;
        let path = logs.log_path(&quiet);
        while !flood.is_finished() {
            let size = fs::metadata(&path).unwrap().len();
            calm.0.write_all(b"tick\n").unwrap();
            let asked = Instant::now();
            while fs::metadata(&path).unwrap().len() == size {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(asked.elapsed() < LONG, "the quiet one waits for ever");
            }
            worst = worst.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(calm);
        logs.finish(&loud, LONG).await;
        logs.finish(&quiet, LONG).await;
        assert!(text_of(&logs.log_path(&loud), Which::Stdout) == text, "lines are missing");
        assert!(worst < Duration::from_millis(250), "a quiet line waited {worst:?}");
    });
}

#[test]
fn a_gigabyte_without_a_newline_goes_through_in_parts() {
    let root = Root::new();
    let logs = root.logs();
    let target = target("a");
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let size = 64 << 20; // Of the same kind: nothing in the pump grows with it.
        let flood = thread::spawn(move || {
            let mut fds = writer(&paths.stderr);
            let block = vec![b'z'; 4096];
            (0..size / block.len()).for_each(|_| fds.0.write_all(&block).unwrap());
        });
        while !flood.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        logs.finish(&target, LONG).await;
        let core = logs.0.core.borrow();
        assert!(core.held_bytes() <= 4 * LOOK_BYTES, "{} bytes are held", core.held_bytes());
        drop(core);
        // Five files of 10 MiB at most are kept.
        let kept = text_of(&logs.log_path(&target), Which::Stderr);
        assert!(kept.iter().all(|c| *c == b'z') && kept.len() % line::TEXT_BYTES == 0 && kept.len() > 40 << 20);
    });
}

#[test]
fn rotation_loses_no_line_and_keeps_the_count() {
    let root = Root::new();
    let settings = Settings { log_max_bytes: 1 << 20, log_max_files: 20, ..root.settings() };
    let logs = Logs::new(&settings).unwrap();
    let (all, few) = (target("all"), LogTarget { container: "few".into(), ..target("few") });
    let text = numbered(100_000);
    let fill = |logs: &Logs, target: &LogTarget| {
        in_loop(logs, async {
            let paths = logs.open(target).unwrap();
            let sent = text.clone();
            let flood = thread::spawn(move || writer(&paths.stdout).0.write_all(&sent).unwrap());
            while !flood.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            logs.finish(target, LONG).await;
        });
    };
    fill(&logs, &all);
    let path = logs.log_path(&all);
    assert!(text_of(&path, Which::Stdout) == text);
    let old = rotate::rotated(&path).unwrap();
    assert!(old.len() >= 13, "{} rotated files", old.len());
    assert!(old.iter().chain([&path]).all(|p| fs::metadata(p).unwrap().len() <= 1 << 20));

    let logs = Logs::new(&Settings { log_max_files: 3, ..settings }).unwrap();
    fill(&logs, &few);
    let path = logs.log_path(&few);
    assert_eq!(rotate::rotated(&path).unwrap().len(), 2);
    assert!(text.ends_with(&text_of(&path, Which::Stdout)));
}

/// The yardstick: the shim's own copy of 524 MB from its pipe to its FIFO takes 310 ms of CPU. Run it optimised:
/// `cargo nextest run --release --run-ignored only costs --no-capture`.
#[test]
#[ignore = "a measurement"]
fn what_524_mb_cost_of_cpu() {
    for (name, len) in [("lines of 100 bytes", 100), ("lines of 1000 bytes", 1000), ("no newline", usize::MAX)] {
        let root = Root::new();
        let logs = root.logs();
        let target = target("a");
        let total = 524 << 20;
        in_loop(&logs, async {
            let paths = logs.open(&target).unwrap();
            let flood = thread::spawn(move || {
                let mut fds = writer(&paths.stdout);
                let mut block: Vec<u8> = (0..LOOK_BYTES * 25).map(|at| if at % len == len - 1 { b'\n' } else { b'x' }).collect();
                block.truncate(block.len() / len.min(block.len()) * len.min(block.len()));
                let mut sent = 0;
                while sent < total {
                    block.chunks(4096).for_each(|c| fds.0.write_all(c).unwrap());
                    sent += block.len();
                }
            });
            let (cpu, started) = (thread_cpu(), Instant::now());
            while !flood.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            logs.finish(&target, LONG).await;
            println!("{name}: {:?} CPU, {:?} in all, for {total} bytes", thread_cpu() - cpu, started.elapsed());
        });
    }
}
