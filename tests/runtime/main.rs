//! The runtime room alone against real containerd: each test runs itself again inside a private node and drives actions by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, dead_code, reason = "test names are sentences; the node serves other tests too")]

#[path = "../it/node.rs"]
mod node;

mod drive;
mod spec;

use std::time::Duration;

use drive::{Drive, inside};
use node::IMAGE;
use plinth::plan::action::{Action, Class, Event};
use plinth::plan::world::{Link, State};
use plinth::pod::PullPolicy;

const SLEEP: &str = "trap 'exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";

#[test]
fn a_container_lives_from_archive_to_exit_code() {
    inside("a_container_lives_from_archive_to_exit_code", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("life", SLEEP).await;
        let c = d.create(&pod, 0).await;
        assert_eq!(c.state, State::Created);
        let c = d.start(&pod, &c.id).await;
        assert!(matches!(c.state, State::Running { .. }));
        d.until_log(&pod, 0, " stderr F err\n").await;
        assert!(d.log(&pod, 0).contains(" stdout F out\n"));
        d.drain();
        d.done(Action::Term { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
        d.until(|e| matches!(e, Event::Hint(uid) if *uid == pod.uid)).await;
        let seen = d.look(&pod).await.unwrap();
        let State::Exited(exit) = &seen.containers[&c.id].state else { panic!("{:?}", seen.containers) };
        assert_eq!((exit.code, &*exit.reason), (7, "Error"));
        let dead = d.end(&pod, &c.id).await;
        assert!(matches!(&dead.state, State::Dead(e) if e.code == 7), "{:?}", dead.state);
        assert_eq!(d.look(&pod).await.unwrap().containers[&c.id].state, dead.state, "the exit is on the record");
        assert_eq!(
            d.ctr(&["tasks", "list", "-q"]) + &d.ctr(&["snapshots", "list"]).lines().filter(|l| l.contains("Active")).collect::<String>(),
            ""
        );
        d.gone(&pod, &c.id).await;
        assert!(d.look_all().await.is_empty());
    });
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    inside("a_command_that_is_not_there_is_a_start_error", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox_of("noent", serde_json::json!(["/no/such/command"])).await;
        let c = d.create(&pod, 0).await;
        let State::Dead(exit) = &c.state else { panic!("{:?}", c.state) };
        assert_eq!((exit.code, &*exit.reason), (128, "StartError"));
        assert!(exit.message.as_ref().unwrap().contains("/no/such/command"), "{exit:?}");
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn what_runs_is_adopted_and_keeps_its_exit_code_over_a_containerd_crash() {
    inside("what_runs_is_adopted_and_keeps_its_exit_code_over_a_containerd_crash", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("adopt", SLEEP).await;
        let c = d.create(&pod, 0).await;
        d.start(&pod, &c.id).await;
        let mut d = d.reborn().await;
        assert!(matches!(d.look_all().await[&pod.uid].containers[&c.id].state, State::Running { .. }), "adopted by another plinth");
        let pid = d.pid(&c.id);
        d.node("kill");
        d.until(|e| matches!(e, Event::Link(Link::Down { .. }))).await;
        d.shell(&format!("kill -TERM {pid}; while [ -d /proc/{pid} ]; do sleep 0.02; done"));
        d.node("start");
        d.until(|e| matches!(e, Event::Link(Link::Up { .. }))).await;
        let all = d.look_all().await;
        let (State::Exited(exit) | State::Lost(exit)) = &all[&pod.uid].containers[&c.id].state else { panic!("{all:?}") };
        assert_eq!(exit.code, 7);
        let dead = d.end(&pod, &c.id).await;
        assert!(matches!(&dead.state, State::Dead(e) if e.code == 7), "{:?}", dead.state);
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn what_containerd_forgot_when_its_state_was_wiped_is_ended() {
    inside("what_containerd_forgot_when_its_state_was_wiped_is_ended", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("wiped", SLEEP).await;
        let c = d.create(&pod, 3).await;
        d.start(&pod, &c.id).await;
        let pid = d.pid(&c.id);
        d.wipe();
        d.until(|e| matches!(e, Event::Link(Link::Down { .. }))).await;
        d.node("start");
        d.until(|e| matches!(e, Event::Link(Link::Up { .. }))).await;
        assert!(d.look_all().await[&pod.uid].containers.is_empty());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "its process is gone");
        d.image(PullPolicy::IfNotPresent).await;
        let c = d.create(&pod, 3).await;
        d.start(&pod, &c.id).await;
        d.done(Action::Kill { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
        d.until_exited(&pod, &c.id).await;
        d.end(&pod, &c.id).await;
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn a_create_cut_short_at_any_moment_is_made_again_and_costs_no_attempt() {
    inside("a_create_cut_short_at_any_moment_is_made_again_and_costs_no_attempt", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        for n in 0..16u64 {
            let pod = d.sandbox(&format!("cut{n}"), SLEEP).await;
            d.cut_create(&pod, 0, Duration::from_millis(n * 6)).await;
            d = d.reborn().await;
            let id = plinth::runtime::labels::id(&pod.uid, "c", 0);
            let found = d.look_all().await[&pod.uid].containers.get(&id).map(|c| c.state.clone());
            if found == Some(State::Record) {
                d.done(Action::DeleteContainer { uid: pod.uid.clone(), id: id.clone() }, Some(&pod)).await;
            }
            let c = d.create_in_the_end(&pod, 0).await;
            assert_eq!(c.state, State::Created, "cut after {} ms", n * 6);
            d.start(&pod, &c.id).await;
            d.done(Action::Kill { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
            d.until_exited(&pod, &c.id).await;
            d.end(&pod, &c.id).await;
            d.gone(&pod, &c.id).await;
        }
        d.look_all().await;
    });
}

#[test]
fn a_create_repeated_after_a_crash_finds_what_is_there() {
    inside("a_create_repeated_after_a_crash_finds_what_is_there", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("again", SLEEP).await;
        let c = d.create(&pod, 0).await;
        let mut d = d.reborn().await;
        assert_eq!(d.look_all().await[&pod.uid].containers[&c.id].state, State::Created);
        assert_eq!(d.create(&pod, 0).await.state, State::Created);
        // A record whose task is gone, as a crash between the two leaves it.
        d.ctr(&["tasks", "delete", "-f", &c.id]);
        assert_eq!(d.look(&pod).await.unwrap().containers[&c.id].state, State::Record);
        let c = d.create(&pod, 0).await;
        let c = d.start(&pod, &c.id).await;
        // A task whose record is gone gets it back.
        d.ctr(&["containers", "delete", "--keep-snapshot", &c.id]);
        let _ = d.look(&pod).await;
        d.done(Action::Kill { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
        d.until_exited(&pod, &c.id).await;
        d.end(&pod, &c.id).await;
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn a_damaged_archive_is_named() {
    inside("a_damaged_archive_is_named", "sid", async |mut d: Drive| {
        d.up().await;
        let archive = d.dir.join("work/archives/busybox.tar");
        let whole = std::fs::read(&archive).unwrap();
        std::fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
        let failure = d.failed(Action::PrepareImage { image: d.image.clone(), pull: PullPolicy::IfNotPresent }).await;
        assert_eq!((&*failure.reason, failure.class), ("ErrImagePull", Class::Retry));
        assert!(failure.message.contains("busybox.tar: the archive is cut short"), "{}", failure.message);
        let mut bad = whole.clone();
        let at = bad.len() / 2;
        bad[at] ^= 0xff;
        std::fs::write(&archive, &bad).unwrap();
        let failure = d.failed(Action::PrepareImage { image: d.image.clone(), pull: PullPolicy::IfNotPresent }).await;
        assert!(failure.message.contains("busybox.tar") && failure.message.contains("damaged"), "{}", failure.message);
        std::fs::write(&archive, &whole).unwrap();
        d.image(PullPolicy::IfNotPresent).await;
        assert_eq!(d.ctr(&["leases", "list", "-q"]), "");
        let absent = plinth::pod::ImageRef::normalised("nothere:1");
        let done = d.done(Action::PrepareImage { image: absent, pull: PullPolicy::Never }, None).await;
        assert!(matches!(done, plinth::plan::action::Effect::Image(plinth::plan::world::SeenImage::Absent)));
        let bad = plinth::pod::ImageRef::normalised("Not/Valid:1");
        assert_eq!(&*d.failed(Action::PrepareImage { image: bad, pull: PullPolicy::Always }).await.reason, "InvalidImageName");
    });
}

#[test]
fn a_dead_registry_is_named() {
    inside("a_dead_registry_is_named", "sid", async |mut d: Drive| {
        d.up().await;
        let image = plinth::pod::ImageRef::normalised("127.0.0.1:1/a:1");
        let failure = d.failed(Action::PrepareImage { image, pull: PullPolicy::Always }).await;
        assert_eq!((&*failure.reason, failure.class), ("ErrImagePull", Class::Retry), "{}", failure.message);
        assert!(failure.message.contains("127.0.0.1:1/a:1") && failure.message.contains("connection refused"), "{}", failure.message);
    });
}

#[test]
fn crun_runs_it_too() {
    inside("crun_runs_it_too", "sid", async |mut d: Drive| {
        d.set(|s| s.oci_runtime = "crun".into());
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("crun", "exit 3").await;
        let c = d.create(&pod, 0).await;
        d.start(&pod, &c.id).await;
        d.until_exited(&pod, &c.id).await;
        assert!(matches!(d.end(&pod, &c.id).await.state, State::Dead(e) if e.code == 3));
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn containerd_1_7_runs_it_too() {
    inside("containerd_1_7_runs_it_too", "trixie", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let pod = d.sandbox("old", "echo hi; exit 0").await;
        let c = d.create(&pod, 0).await;
        d.start(&pod, &c.id).await;
        d.until_exited(&pod, &c.id).await;
        d.node("kill");
        d.until(|e| matches!(e, Event::Link(Link::Down { .. }))).await;
        d.node("start");
        d.until(|e| matches!(e, Event::Link(Link::Up { .. }))).await;
        d.look_all().await;
        assert!(matches!(d.end(&pod, &c.id).await.state, State::Dead(e) if e.code == 0 && &*e.reason == "Completed"));
        assert!(d.log(&pod, 0).contains(" stdout F hi\n"));
        d.gone(&pod, &c.id).await;
    });
}

#[test]
fn starting_takes_no_longer_than_the_calls_alone() {
    inside("starting_takes_no_longer_than_the_calls_alone", "sid", async |mut d: Drive| {
        d.up().await;
        d.image(PullPolicy::IfNotPresent).await;
        let mut took: Vec<[Duration; 5]> = Vec::new();
        for n in 0..8 {
            let alone = d.ctr_run(&format!("floor{n}"));
            let pod = d.sandbox(&format!("fast{n}"), "exec sleep 1000").await;
            let t = std::time::Instant::now();
            let c = d.create(&pod, 0).await;
            let created = t.elapsed();
            d.start(&pod, &c.id).await;
            let started = t.elapsed();
            let t = std::time::Instant::now();
            d.look(&pod).await;
            let look = t.elapsed();
            d.done(Action::Kill { uid: pod.uid.clone(), id: c.id.clone() }, Some(&pod)).await;
            d.until_exited(&pod, &c.id).await;
            let t = std::time::Instant::now();
            d.end(&pod, &c.id).await;
            took.push([created, started, look, t.elapsed(), alone]);
            d.gone(&pod, &c.id).await;
        }
        let medians: Vec<Duration> = (0..5)
            .map(|n| {
                let mut of: Vec<_> = took.iter().map(|t| t[n]).collect();
                of.sort();
                of[of.len() / 2]
            })
            .collect();
        println!("create, create + start, look, end, `ctr run`: {medians:?}");
        // In turns with `ctr run`: what the machine does beside it slows both. Ours is not optimised here.
        assert!(medians[1] < 2 * medians[4], "{took:?}");
    });
}

const _: &str = IMAGE;
