//! Delays of what failed: doubling, capped, and never two at the same beat.

use std::time::Duration;

use crate::clock::{Moment, jitter};

/// The first delay after a failure, ms.
const FIRST_MS: u64 = 400;
/// The longest, ms: an API server that is back is found within ten seconds.
const CAP_MS: u64 = 5_000;

/// How often something failed in a row, and when it may be tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Failures in a row.
    pub failures: u32,
    /// Not before this.
    pub due: Moment,
    /// The last error, in words.
    pub why: String,
}

impl Retry {
    /// Counts a failure; `floor` is what the server asked to be left alone for.
    pub fn fail(&mut self, why: String, floor: Duration, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        let doubled = FIRST_MS.saturating_mul(1 << (self.failures - 1).min(10)).min(CAP_MS);
        self.due = now + jitter(Duration::from_millis(doubled), now).max(floor);
        self.why = why;
    }

    /// The moment to wait for, if it is not here yet.
    pub fn wait(&self, now: Moment) -> Option<Moment> {
        Some(self.due).filter(|due| *due > now)
    }

    /// It works again.
    pub fn succeed(&mut self) {
        *self = Retry::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_a_success_forgets_them() {
        let (mut retry, mut delays) = (Retry::default(), Vec::new());
        for n in 0..8 {
            let now = Moment(n * 100_000);
            retry.fail("no".into(), Duration::ZERO, now);
            delays.push(retry.due.since_ms(now));
        }
        assert!(
            delays.iter().zip([400, 800, 1600, 3200, 5000, 5000, 5000, 5000]).all(|(d, most)| *d <= most && *d * 5 >= most * 4),
            "{delays:?}"
        );
        retry.succeed();
        assert_eq!(retry.wait(Moment(0)), None);
    }

    #[test]
    fn an_hour_without_an_answer_is_asked_little_and_its_end_found_within_five_seconds() {
        let (mut retry, mut now, mut asked) = (Retry::default(), Moment(0), 0);
        while now < Moment(3_600_000) {
            retry.fail("no answer".into(), Duration::ZERO, now);
            assert!(retry.due > now && retry.due - now <= Duration::from_secs(5));
            (now, asked) = (retry.due, asked + 1);
        }
        assert!((720..=910).contains(&asked), "{asked} requests in an hour");
        retry.succeed();
        retry.fail("no answer".into(), Duration::ZERO, now);
        assert!(retry.due - now < Duration::from_secs(1), "a new trouble begins anew");
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for() {
        let mut retry = Retry::default();
        retry.fail("429".into(), Duration::from_secs(20), Moment(0));
        assert_eq!(retry.due, Moment(20_000));
    }
}
