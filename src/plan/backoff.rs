//! Delays: how long a failure waits before it is tried again. Pure arithmetic on `Retry`; decides nothing.
//!
//! Crash-loop numbers are the kubelet's (client-go `flowcontrol.Backoff` as `doBackOff` uses it): the first restart is immediate
//! and books 10 s for the next, then 20, 40 … up to the cap, counted from the exit; an exit more than 600 s after the last
//! restart finds the book closed and starts over.

use crate::clock::{Moment, Now, Wall};
use crate::plan::action::{Class, Failure};
use crate::plan::world::{Limits, Retry};

/// A container that ran longer than this since its last restart is healthy again, ms (kubelet: 10 min, whatever the cap).
pub const CRASH_RESET_MS: u64 = 600_000;

/// What a call that containerd did not answer waits, ms: no fault of the pod, so it does not grow.
const UNREACHABLE_MS: u64 = 1_000;

/// The kubelet's pace for a network that is not ready yet, ms: constant, because the cure comes from outside.
const NETWORK_MS: u64 = 1_000;

impl Retry {
    /// Counts a failure: the delay doubles from `first` to `cap`, both ms.
    pub fn fail(&mut self, failure: &Failure, (first, cap): (u64, u64), now: Moment) {
        let grown = self.delay_ms.saturating_mul(2).clamp(first.min(cap), cap);
        let (delay, counts) = match failure.class {
            Class::Unreachable => (self.delay_ms.max(UNREACHABLE_MS), false),
            Class::Refused => (cap, true),
            // Somebody else did it first: look and go on at once, but not twice.
            Class::Gone if self.failures == 0 => (0, true),
            Class::Retry if &*failure.reason == "NetworkNotReady" => (self.delay_ms.max(NETWORK_MS.min(cap)), true),
            Class::Retry | Class::Gone => (grown, true),
        };
        if counts {
            self.failures += 1;
            self.delay_ms = delay;
        }
        self.at = Some(now);
        self.not_before = Some(Moment(now.0.saturating_add(delay)));
        self.reason = Some(failure.reason.clone());
        self.message = Some(failure.message.clone());
    }

    /// Forgets all failures.
    pub fn succeed(&mut self) {
        if *self != Retry::default() {
            *self = Retry::default();
        }
    }

    /// The moment to wait for, if it is not here yet.
    pub fn wait(&self, now: Moment) -> Option<Moment> {
        self.not_before.filter(|due| *due > now)
    }

    /// When a container that ended at `exit` may be restarted; `self` is its crash book.
    pub fn crash_due(&self, exit: Moment) -> Moment {
        match self.at {
            Some(at) if exit.since_ms(at) <= CRASH_RESET_MS => Moment(exit.0.saturating_add(self.delay_ms)),
            _ => exit,
        }
    }

    /// Books a restart that happened now, after an end at `exit`: sets the delay of the next one.
    pub fn count_restart(&mut self, exit: Option<Moment>, limits: &Limits, now: Moment) {
        let (first, cap) = (limits.crash_backoff_first_ms.min(limits.crash_backoff_cap_ms), limits.crash_backoff_cap_ms);
        let healthy = match (self.at, exit) {
            (Some(at), Some(exit)) => exit.since_ms(at) > CRASH_RESET_MS,
            _ => self.at.is_none(),
        };
        if healthy {
            *self = Retry::default();
        }
        self.delay_ms = self.delay_ms.saturating_mul(2).clamp(first, cap);
        self.failures += 1;
        self.at = Some(now);
    }

    /// The crash book of a container found at attempt `attempt` ≥ 1 after everything was forgotten: as if this were its first restart.
    pub fn recalled(made: Moment, limits: &Limits) -> Retry {
        Retry { failures: 1, delay_ms: limits.crash_backoff_first_ms.min(limits.crash_backoff_cap_ms), at: Some(made), ..Retry::default() }
    }
}

/// A wall time of the past as a moment. Only for what was first seen just now: a clock that stepped in between shifts it, so it is
/// clamped to this boot and never lies in the future.
pub fn moment_of(wall: Wall, now: Now) -> Moment {
    let ago_ms = if wall.0 <= 0 { 0 } else { now.wall.0.saturating_sub(wall.0) / 1_000_000 };
    Moment(now.mono.0.saturating_sub(u64::try_from(ago_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: Class) -> Failure {
        Failure { class, reason: "CreateContainerError".into(), message: "m".into() }
    }

    #[test]
    fn crash_delays_are_the_kubelets() {
        let limits = Limits::default();
        let mut crash = Retry::default();
        let mut now = Moment(1_000_000);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let due = crash.crash_due(now);
            waits.push(due.since_ms(now) / 1000);
            crash.count_restart(Some(now), &limits, due);
            now = Moment(due.0 + 1_000);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_healthy_minutes_close_the_book() {
        let limits = Limits::default();
        let mut crash = Retry::default();
        crash.count_restart(Some(Moment(0)), &limits, Moment(0));
        crash.count_restart(Some(Moment(1_000)), &limits, Moment(11_000));
        assert_eq!(crash.crash_due(Moment(611_000)), Moment(631_000), "600 s is not more than 600 s");
        assert_eq!(crash.crash_due(Moment(611_001)), Moment(611_001));
        crash.count_restart(Some(Moment(611_001)), &limits, Moment(611_001));
        assert_eq!(crash.delay_ms, 10_000);
    }

    #[test]
    fn a_cap_below_ten_seconds_is_the_first_delay_too() {
        let limits = Limits { crash_backoff_cap_ms: 1_000, ..Limits::default() };
        let mut crash = Retry::default();
        crash.count_restart(None, &limits, Moment(5));
        assert_eq!(crash.delay_ms, 1_000);
    }

    #[test]
    fn failures_double_up_to_the_cap_and_a_success_forgets_them() {
        let mut r = Retry::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            r.fail(&failure(Class::Retry), (1_000, 5_000), Moment(7));
            seen.push(r.delay_ms);
        }
        assert_eq!(seen, [1_000, 2_000, 4_000, 5_000, 5_000]);
        r.succeed();
        assert_eq!(r, Retry::default());
    }

    #[test]
    fn what_is_refused_waits_longest_and_what_is_unreachable_earns_nothing() {
        let mut r = Retry::default();
        r.fail(&failure(Class::Unreachable), (1_000, 5_000), Moment(0));
        assert_eq!((r.failures, r.not_before), (0, Some(Moment(1_000))));
        r.fail(&failure(Class::Refused), (1_000, 5_000), Moment(0));
        assert_eq!((r.failures, r.delay_ms), (1, 5_000));
    }

    #[test]
    fn what_is_gone_is_done_again_at_once_but_only_once() {
        let mut r = Retry::default();
        r.fail(&failure(Class::Gone), (1_000, 5_000), Moment(9));
        assert_eq!(r.wait(Moment(9)), None);
        r.fail(&failure(Class::Gone), (1_000, 5_000), Moment(9));
        assert_eq!(r.wait(Moment(9)), Some(Moment(1_009)));
    }

    #[test]
    fn a_moment_of_the_past_stays_within_this_boot() {
        let now = Now { mono: Moment(5_000), wall: Wall(100_000_000_000) };
        assert_eq!(moment_of(Wall(98_000_000_000), now), Moment(3_000));
        assert_eq!(moment_of(Wall(1), now), Moment(0));
        assert_eq!(moment_of(Wall(200_000_000_000), now), Moment(5_000));
        assert_eq!(moment_of(Wall(0), now), Moment(5_000), "an unknown time is now");
    }
}
