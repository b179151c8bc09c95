//! The life of a service, one sentence a test.
#![allow(clippy::panic)]

use super::*;

const SPEC: Spec =
    Spec { name: "plinth", after: &["containerd"], once: false, notifies: true, watchdog_ms: Some(30_000), fds_max: 9, grace_ms: 5_000 };

struct Life(Service, Ms);

impl Life {
    fn new() -> Life {
        Life(Service::new(&SPEC, 0), 0)
    }

    fn at(mut self, now: Ms) -> Life {
        self.1 = now;
        self
    }

    /// What is done, without the lines.
    fn on(&mut self, event: Event) -> Vec<Do> {
        let (next, done) = next(&SPEC, &self.0, event, self.1);
        self.0 = next;
        done.into_iter().filter(|d| !matches!(d, Do::Say(_))).collect()
    }

    fn running(mut self) -> Life {
        assert_eq!(self.on(Event::Go), [Do::Start]);
        assert_eq!((self.on(Event::Started), self.on(Event::Ready)), (vec![], vec![]));
        self
    }
}

#[test]
fn it_waits_for_the_one_before_it_but_not_for_ever() {
    let mut life = Life::new();
    assert_eq!(life.on(Event::Clock), []);
    assert_eq!(Life::new().on(Event::Go), [Do::Start]);
    assert_eq!(life.at(HELD_MS).on(Event::Clock), [Do::Start]);
}

#[test]
fn a_watchdog_that_is_not_fed_aborts_and_then_kills() {
    let mut life = Life::new().at(1_000).running();
    assert_eq!(life.0.wake(&SPEC), Some(31_000));
    life = life.at(20_000);
    assert_eq!(life.on(Event::Fed), []);
    life = life.at(49_999);
    assert_eq!(life.on(Event::Clock), []);
    life = life.at(50_000);
    assert_eq!(life.on(Event::Clock), [Do::Abort]);
    assert_eq!(life.on(Event::Clock), [], "once");
    life = life.at(50_000 + ABORT_MS);
    assert_eq!(life.on(Event::Clock), [Do::Kill]);
    assert_eq!(life.0.wake(&SPEC), None);
    assert_eq!(life.on(Event::Exited("signal 9".into())), []);
    assert!(matches!(life.0.phase, Phase::Waiting { .. }), "and comes back");
}

#[test]
fn the_back_off_doubles_is_capped_and_forgets_a_healthy_run() {
    let mut life = Life::new().at(1_000).running();
    let mut delays = Vec::new();
    for _ in 0..10 {
        life.on(Event::Exited("exit status 1".into()));
        let Phase::Waiting { until } = life.0.phase else { panic!("{:?}", life.0) };
        delays.push(until - life.1);
        life = life.at(until);
        assert_eq!(life.on(Event::Clock), [Do::Start]);
        life.on(Event::Started);
    }
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    life.on(Event::Ready);
    let later = life.1 + HEALTHY_MS;
    life = life.at(later);
    life.on(Event::Exited("signal 9".into()));
    assert_eq!(life.0.phase, Phase::Waiting { until: later + BACKOFF_FIRST_MS });
}

#[test]
fn stop_is_term_then_kill_then_over() {
    let mut life = Life::new().at(1_000).running();
    assert_eq!(life.on(Event::Stop), [Do::Term]);
    assert_eq!(life.on(Event::Stop), [], "once");
    life = life.at(6_000);
    assert_eq!(life.on(Event::Clock), [Do::Kill]);
    assert_eq!(life.on(Event::Exited("signal 9".into())), []);
    assert_eq!((life.0.phase, life.0.runs()), (Phase::Over, false));
    assert_eq!((life.on(Event::Go), life.on(Event::Clock)), (vec![], vec![]), "over is over");
}

#[test]
fn let_end_signals_nobody_and_restarts_nobody() {
    let mut life = Life::new().at(1_000).running();
    assert_eq!(life.on(Event::LetEnd), []);
    assert!(life.0.runs());
    life.on(Event::Exited("exit status 0".into()));
    assert_eq!(life.0.phase, Phase::Over);
}

#[test]
fn a_stop_while_it_waits_starts_nothing() {
    let mut life = Life::new().at(1_000).running();
    life.on(Event::Exited("exit status 1".into()));
    assert_eq!(life.on(Event::Stop), []);
    assert_eq!(life.at(100_000).on(Event::Clock), []);
}

#[test]
fn a_start_that_fails_or_never_gets_ready_is_tried_again() {
    let mut life = Life::new().at(1_000);
    life.on(Event::Go);
    life.on(Event::NotStarted("no such file".into()));
    assert_eq!(life.0.phase, Phase::Waiting { until: 1_200 });
    life = life.at(1_200);
    assert_eq!(life.on(Event::Clock), [Do::Start]);
    life.on(Event::Started);
    life = life.at(1_200 + START_MS);
    assert_eq!(life.on(Event::Clock), [Do::Term]);
    assert!(!life.0.stopping);
}

#[test]
fn who_says_it_is_broken_is_aborted() {
    assert_eq!(Life::new().at(5).running().on(Event::Broken), [Do::Abort]);
}

#[test]
fn who_does_not_notify_is_ready_when_it_runs() {
    let spec = Spec { notifies: false, after: &[], watchdog_ms: None, ..SPEC };
    let (s, done) = next(&spec, &Service::new(&spec, 7), Event::Clock, 7);
    assert_eq!(done, [Do::Start]);
    let (s, _) = next(&spec, &s, Event::Started, 8);
    assert!(matches!(s.phase, Phase::Running { .. }));
    assert_eq!(s.wake(&spec), None, "nothing to wake for");
}

#[test]
fn what_runs_once_is_over_when_it_ends_and_only_then_lets_others_go() {
    let spec = Spec { notifies: false, after: &[], watchdog_ms: None, once: true, ..SPEC };
    let (s, _) = next(&spec, &Service::new(&spec, 7), Event::Clock, 7);
    let (s, _) = next(&spec, &s, Event::Started, 8);
    assert!(!s.satisfies(&spec));
    let (s, done) = next(&spec, &s, Event::Exited("exit status 1".into()), 9);
    assert_eq!(s.phase, Phase::Over);
    assert!(s.satisfies(&spec) && !done.contains(&Do::Start));
}
