//! Many lines, long lines, rotation under load, and what it costs.

use std::io::Read;

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
        let mut waited = Vec::new();
        let path = logs.log_path(&quiet);
        while !flood.is_finished() {
            let size = fs::metadata(&path).unwrap().len();
            calm.0.write_all(b"tick\n").unwrap();
            let asked = Instant::now();
            while fs::metadata(&path).unwrap().len() == size {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(asked.elapsed() < LONG, "the quiet one waits for ever");
            }
            waited.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(calm);
        logs.finish(&loud, LONG).await;
        logs.finish(&quiet, LONG).await;
        assert!(text_of(&logs.log_path(&loud), Which::Stdout) == text, "lines are missing");
        // One in ten is the machine's, which may be busy with other tests.
        waited.sort();
        let most = waited[waited.len() * 9 / 10];
        assert!(most < Duration::from_millis(500), "a quiet line waited {most:?}");
    });
}

#[test]
fn a_gigabyte_without_a_newline_goes_through_in_parts() {
    let (_root, logs, target) = one();
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
        assert!(kept.iter().all(|c| *c == b'z') && kept.len().is_multiple_of(line::TEXT_BYTES) && kept.len() > 40 << 20);
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

/// Blocks of 4 KiB as a shim writes them, `total` bytes in all, in lines of `len` bytes.
fn flood(path: PathBuf, len: usize, total: usize) -> thread::JoinHandle<()> {
    let block: Vec<u8> = (0..LOOK_BYTES * 25).map(|at| if at % len == len - 1 { b'\n' } else { b'x' }).collect();
    let block = block[..block.len() / len.min(block.len()) * len.min(block.len())].to_vec();
    thread::spawn(move || {
        let mut fds = writer(&path);
        let mut sent = 0;
        while sent < total {
            block.chunks(4096).for_each(|c| fds.0.write_all(c).unwrap());
            sent += block.len();
        }
    })
}

/// CPU of a copy from one pipe to another in blocks of 4 KiB: what the Go shim does for every byte (310 ms where the facts were found).
fn shim_copy(total: usize) -> Duration {
    let [(from, mut source), (mut sink, to)] = [std::io::pipe().unwrap(), std::io::pipe().unwrap()];
    let [feed, drain] = [
        thread::spawn(move || (0..total / 4096).for_each(|_| source.write_all(&[b'x'; 4096]).unwrap())),
        thread::spawn(move || while sink.read(&mut [0; 65536]).unwrap() > 0 {}),
    ];
    let (mut from, mut to) = (from, to);
    let (cpu, mut block) = (thread_cpu(), [0; 4096]);
    loop {
        match from.read(&mut block).unwrap() {
            0 => break,
            n => to.write_all(&block[..n]).unwrap(),
        }
    }
    drop(to);
    let spent = thread_cpu() - cpu;
    for thread in [feed, drain] {
        thread.join().unwrap();
    }
    spent
}

/// CPU of what a logger cannot do without: 64 KiB from a FIFO, as much into a file, five files of 10 MiB in turn.
fn bare_write(root: &Root, total: usize) -> Duration {
    let path = root.0.join("bare");
    fifo::make(&path).unwrap();
    let from = fifo::open(&path).unwrap();
    let feed = flood(path, usize::MAX, total);
    let (mut block, mut moved) = (vec![0; LOOK_BYTES], 0);
    let mut file = File::create(root.0.join("0")).unwrap();
    let cpu = thread_cpu();
    while !feed.is_finished() {
        match rustix::io::read(&from, &mut block) {
            Ok(n) => {
                file.write_all(&block[..n]).unwrap();
                moved += n;
            }
            Err(_) => thread::sleep(Duration::from_micros(50)),
        }
        if moved > 10 << 20 {
            moved = 0;
            file = File::create(root.0.join("0")).unwrap();
        }
    }
    thread_cpu() - cpu
}

/// Run it optimised: `cargo nextest run --release --run-ignored only what_524_mb --no-capture`.
#[test]
#[ignore = "a measurement"]
fn what_524_mb_cost_of_cpu() {
    let total = 524 << 20;
    let root = Root::new();
    println!("yardstick, the shim's copy: {:?}", shim_copy(total));
    println!("floor, FIFO to file without looking: {:?}", bare_write(&root, total));
    for (name, len) in [("lines of 100 bytes", 100), ("lines of 1000 bytes", 1000), ("no newline", usize::MAX)] {
        let root = Root::new();
        let logs = root.logs();
        let target = target("a");
        in_loop(&logs, async {
            let paths = logs.open(&target).unwrap();
            let flood = flood(paths.stdout, len, total);
            let (cpu, started) = (thread_cpu(), Instant::now());
            while !flood.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            logs.finish(&target, LONG).await;
            println!("{name}: {:?} of CPU, {:?} in all", thread_cpu() - cpu, started.elapsed());
        });
    }
}
