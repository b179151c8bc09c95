//! The whole machine, decided purely: its services in order while it is up, and the order in which everything ends.
//!
//! ```text
//!  Up ── End ──> Pods ──────────> Services ──────> Rest ─────────> Killed ──> Finish
//!               `plinth shutdown`  TERM, KILL       TERM to all     KILL
//! ```

use super::service::{self, Do as Serve, Event as Told, Ms, Phase, Service, Spec};

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Off.
    PowerOff,
    /// Again.
    Reboot,
    /// Stands still.
    Halt,
}

/// The pods' own grace is `plinth shutdown`'s to keep; a machine that still does not end after that long is ended.
pub const PODS_MS: Ms = 15 * 60_000;
/// What nobody answers for gets that long from TERM to KILL.
pub const REST_MS: Ms = 5_000;
/// And so long where its pods are among it, because nobody could be asked to end them: the grace of a pod that says nothing of it.
pub const ORPHANED_MS: Ms = 30_000;
/// What does not die of KILL (a task in an uninterruptible wait) is left behind.
pub const KILLED_MS: Ms = 2_000;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Clock,
    /// To a service.
    Told(usize, Told),
    /// The machine is to end.
    End(End),
    /// `plinth shutdown` has ended: well, or not.
    Asked(bool),
    /// No process is left but this.
    Alone,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// For a service.
    Serve(usize, Serve),
    /// Run `plinth shutdown`.
    AskPods,
    /// SIGTERM to everybody.
    TermAll,
    /// SIGKILL to everybody.
    KillAll,
    /// Save, unmount, and that.
    Finish(End),
    /// A line.
    Say(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Up,
    Pods { until: Ms },
    Services,
    Rest { until: Ms },
    Killed { until: Ms },
    Finished,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    specs: Vec<Spec>,
    services: Vec<Service>,
    stage: Stage,
    end: End,
    /// Who stops the pods.
    supervisor: Option<usize>,
    /// It ends, or has ended, because it was asked to.
    pods_end: bool,
}

impl Machine {
    /// As it comes up. The service called `plinth` is the one that is asked to stop the pods.
    pub fn new(specs: Vec<Spec>, now: Ms) -> Machine {
        let services = specs.iter().map(|s| Service::new(s, now)).collect();
        let supervisor = specs.iter().position(|s| s.name == "plinth");
        Machine { specs, services, stage: Stage::Up, end: End::PowerOff, supervisor, pods_end: false }
    }

    /// When to come back with the clock.
    pub fn wake(&self) -> Option<Ms> {
        let own = match self.stage {
            Stage::Pods { until } | Stage::Rest { until } | Stage::Killed { until } => Some(until),
            Stage::Up | Stage::Services | Stage::Finished => None,
        };
        self.services.iter().zip(&self.specs).filter_map(|(s, spec)| s.wake(spec)).chain(own).min()
    }

    /// Whether it is time to look if anybody is left.
    pub fn counts_processes(&self) -> bool {
        matches!(self.stage, Stage::Rest { .. } | Stage::Killed { .. })
    }

    /// One step.
    pub fn next(&mut self, event: Event, now: Ms) -> Vec<Do> {
        let (mut done, alone) = (Vec::new(), event == Event::Alone);
        match event {
            Event::Told(at, told) => self.tell(at, told, now, &mut done),
            Event::Clock => (0..self.services.len()).for_each(|at| self.tell(at, Told::Clock, now, &mut done)),
            Event::End(end) if self.stage == Stage::Up => self.begin(end, now, &mut done),
            Event::End(_) => done.push(Do::Say("the machine is ending already".into())),
            Event::Asked(well) => self.asked(well, now, &mut done),
            Event::Alone => {}
        }
        self.advance(alone, now, &mut done);
        done
    }

    fn tell(&mut self, at: usize, told: Told, now: Ms, done: &mut Vec<Do>) {
        let (Some(service), Some(spec)) = (self.services.get_mut(at), self.specs.get(at).copied()) else { return };
        let satisfied = service.satisfies(&spec);
        let (next, todo) = service::next(&spec, service, told, now);
        *service = next;
        done.extend(todo.into_iter().map(|d| Do::Serve(at, d)));
        if !satisfied && next.satisfies(&spec) && self.stage == Stage::Up {
            self.release(now, done);
        }
    }

    /// Lets those go that wait for nobody any more.
    fn release(&mut self, now: Ms, done: &mut Vec<Do>) {
        let satisfied = |name: &str| self.services.iter().zip(&self.specs).any(|(s, spec)| spec.name == name && s.satisfies(spec));
        let held = |s: &Service| matches!(s.phase, Phase::Held { .. });
        let go = |(s, spec): (&Service, &Spec)| held(s) && spec.after.iter().all(|name| satisfied(name));
        let go: Vec<_> = (0..).zip(self.services.iter().zip(&self.specs)).filter(|(_, pair)| go(*pair)).map(|(at, _)| at).collect();
        go.into_iter().for_each(|at| self.tell(at, Told::Go, now, done));
    }

    fn begin(&mut self, end: End, now: Ms, done: &mut Vec<Do>) {
        self.end = end;
        self.stage = Stage::Pods { until: now + PODS_MS };
        let supervisor = self.supervisor.filter(|at| self.services.get(*at).is_some_and(Service::runs));
        match supervisor {
            Some(at) => {
                // It ends by itself when its pods have.
                self.pods_end = true;
                self.tell(at, Told::LetEnd, now, done);
                done.push(Do::AskPods);
            }
            None => self.stop_supervisor(now, done),
        }
    }

    /// Its pods are left behind.
    fn stop_supervisor(&mut self, now: Ms, done: &mut Vec<Do>) {
        self.pods_end = false;
        if let Some(at) = self.supervisor {
            self.tell(at, Told::Stop, now, done);
        }
    }

    fn asked(&mut self, well: bool, now: Ms, done: &mut Vec<Do>) {
        self.pods_end &= well;
        if !well && matches!(self.stage, Stage::Pods { .. }) {
            done.push(Do::Say("plinth shutdown failed: the pods are ended with the rest".into()));
            self.stop_supervisor(now, done);
        }
    }

    fn advance(&mut self, alone: bool, now: Ms, done: &mut Vec<Do>) {
        let over = |s: &Service| s.phase == Phase::Over;
        match self.stage {
            Stage::Pods { until } => {
                if self.supervisor.and_then(|at| self.services.get(at)).is_none_or(over) {
                    self.stage = Stage::Services;
                    (0..self.services.len()).for_each(|at| self.tell(at, Told::Stop, now, done));
                    self.advance(false, now, done);
                } else if until <= now {
                    self.stage = Stage::Pods { until: Ms::MAX };
                    done.push(Do::Say("the pods did not end: they are ended with the rest".into()));
                    self.stop_supervisor(now, done);
                }
            }
            Stage::Services if self.services.iter().all(over) => {
                self.stage = Stage::Rest { until: now + if self.pods_end { REST_MS } else { ORPHANED_MS } };
                done.push(Do::TermAll);
            }
            Stage::Rest { until } if alone || until <= now => {
                self.stage = Stage::Killed { until: now + KILLED_MS };
                done.push(Do::KillAll);
            }
            Stage::Killed { until } if alone || until <= now => {
                self.stage = Stage::Finished;
                done.push(Do::Finish(self.end));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec =
        Spec { name: "containerd", after: &[], once: false, notifies: true, watchdog_ms: None, fds_max: 0, grace_ms: 10_000 };
    const SPECS: [Spec; 2] = [SPEC, Spec { name: "plinth", after: &["containerd"], ..SPEC }];

    fn acts(machine: &mut Machine, event: Event, now: Ms) -> Vec<Do> {
        machine.next(event, now).into_iter().filter(|d| !matches!(d, Do::Say(_) | Do::Serve(_, Serve::Say(_)))).collect()
    }

    fn exited(at: usize) -> Event {
        Event::Told(at, Told::Exited("exit status 0".into()))
    }

    fn up() -> Machine {
        let mut m = Machine::new(SPECS.to_vec(), 5);
        assert_eq!(acts(&mut m, Event::Clock, 5), [Do::Serve(0, Serve::Start)]);
        assert_eq!(acts(&mut m, Event::Told(0, Told::Started), 6), []);
        assert_eq!(acts(&mut m, Event::Told(0, Told::Ready), 7), [Do::Serve(1, Serve::Start)], "the next goes when the first is ready");
        m.next(Event::Told(1, Told::Started), 8);
        m.next(Event::Told(1, Told::Ready), 9);
        m
    }

    #[test]
    fn a_machine_ends_in_order() {
        let mut m = up();
        assert_eq!(acts(&mut m, Event::End(End::Reboot), 100), [Do::AskPods]);
        // The one who asked may be reaped after the one who was asked.
        assert_eq!(acts(&mut m, exited(1), 200), [Do::Serve(0, Serve::Term)]);
        assert_eq!(acts(&mut m, Event::Asked(true), 210), []);
        assert_eq!(acts(&mut m, exited(0), 220), [Do::TermAll]);
        assert_eq!(m.wake(), Some(220 + REST_MS), "no pod is left");
        assert_eq!(acts(&mut m, Event::Alone, 221), [Do::KillAll]);
        assert_eq!(acts(&mut m, Event::Alone, 222), [Do::Finish(End::Reboot)]);
        assert_eq!(acts(&mut m, Event::Clock, 999_999), []);
        assert_eq!(m.wake(), None);
    }

    #[test]
    fn who_waits_for_two_goes_after_both() {
        let once = Spec { name: "settle", notifies: false, once: true, ..SPEC };
        let mut m = Machine::new(vec![SPEC, once, Spec { name: "plinth", after: &["containerd", "settle"], ..SPEC }], 0);
        assert_eq!(acts(&mut m, Event::Clock, 0), [Do::Serve(0, Serve::Start), Do::Serve(1, Serve::Start)]);
        m.next(Event::Told(0, Told::Started), 1);
        m.next(Event::Told(1, Told::Started), 1);
        assert_eq!(acts(&mut m, Event::Told(0, Told::Ready), 2), []);
        assert_eq!(acts(&mut m, exited(1), 3), [Do::Serve(2, Serve::Start)]);
    }

    #[test]
    fn nobody_can_hold_up_the_end() {
        let mut m = up();
        acts(&mut m, Event::End(End::PowerOff), 0);
        let (mut seen, mut now, mut steps) = (Vec::new(), 0, 0);
        while let Some(wake) = m.wake().filter(|_| steps < 20) {
            (now, steps) = (wake, steps + 1);
            for d in acts(&mut m, Event::Clock, now) {
                // A kill works, in the end.
                if let Do::Serve(at, Serve::Kill) = d {
                    seen.extend(acts(&mut m, exited(at), now));
                }
                seen.push(d);
            }
        }
        assert_eq!(seen.last(), Some(&Do::Finish(End::PowerOff)), "{seen:?}");
        assert!(now <= PODS_MS + 20_000 + ORPHANED_MS + KILLED_MS, "{now}");
    }

    #[test]
    fn a_shutdown_that_fails_falls_back_to_signals() {
        let mut m = up();
        acts(&mut m, Event::End(End::Halt), 0);
        assert_eq!(acts(&mut m, Event::Asked(false), 10), [Do::Serve(1, Serve::Term)]);
        assert_eq!(acts(&mut m, Event::Clock, 10_010), [Do::Serve(1, Serve::Kill)]);
    }

    #[test]
    fn without_a_supervisor_nobody_is_asked() {
        let mut m = Machine::new(SPECS.to_vec(), 0);
        m.next(Event::Clock, 0);
        m.next(Event::Told(0, Told::Started), 1);
        assert_eq!(acts(&mut m, Event::End(End::PowerOff), 2), [Do::Serve(0, Serve::Term)]);
        assert_eq!(acts(&mut m, exited(0), 3), [Do::TermAll]);
        assert_eq!(acts(&mut m, Event::Clock, 29_000), [], "its pods may need their grace");
        assert_eq!(acts(&mut m, Event::Clock, 30_003), [Do::KillAll]);
    }

    #[test]
    fn a_second_wish_changes_nothing() {
        let mut m = up();
        acts(&mut m, Event::End(End::Reboot), 0);
        let before = m.clone();
        assert_eq!(acts(&mut m, Event::End(End::PowerOff), 1), []);
        assert_eq!(m, before);
    }
}
