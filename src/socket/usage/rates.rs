//! `usageNanoCores`: a rate is the difference of two readings, and the first of them is that of an earlier question. So nothing is read while
//! nobody asks. Pure; what is kept is one reading of each group that was there when somebody last asked.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::clock::Moment;

/// Readings closer together than this say nothing.
pub const LEAST_MS: u64 = 200;
/// A rate is kept for so long when others ask: each is over the time since the last one, not since whoever asked just before.
const STEADY_MS: u64 = 5_000;
/// An older reading tells of times that are gone.
const STALE_MS: u64 = 120_000;

/// Readings of processor time by whose they are: a pod's UID, a container's id, nothing for the node.
#[derive(Clone, Debug, Default)]
pub struct Rates(BTreeMap<Rc<str>, Reading>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    at: Moment,
    cpu_ns: u64,
    nano_cores: Option<u64>,
}

impl Rates {
    /// One more reading, and the rate since an earlier one; `None`: there is none to go by.
    pub fn next(&mut self, whose: &Rc<str>, at: Moment, cpu_ns: u64) -> Option<u64> {
        let reading = Reading { at, cpu_ns, nano_cores: None }.after(self.0.get(whose));
        self.0.insert(whose.clone(), reading);
        reading.nano_cores
    }

    /// Forgets those that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&Rc<str>) -> bool) {
        self.0.retain(|whose, _| is_there(whose));
    }
}

impl Reading {
    fn after(self, earlier: Option<&Reading>) -> Reading {
        let Some(earlier) = earlier.filter(|e| e.cpu_ns <= self.cpu_ns && self.at.since_ms(e.at) <= STALE_MS) else { return self };
        let ms = self.at.since_ms(earlier.at);
        if ms < if earlier.nano_cores.is_some() { STEADY_MS } else { LEAST_MS } {
            return *earlier;
        }
        let used = u128::from(self.cpu_ns - earlier.cpu_ns);
        Reading { nano_cores: u64::try_from(used * 1000 / u128::from(ms)).ok(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a row of questions is answered: (when, ms; processor time, ms).
    fn asked(questions: &[(u64, u64)]) -> Vec<Option<u64>> {
        let (mut rates, whose) = (Rates::default(), Rc::from("a"));
        questions.iter().map(|(at, cpu)| rates.next(&whose, Moment(*at), cpu * 1_000_000)).collect()
    }

    #[test]
    fn a_rate_is_over_the_time_since_the_last_question() {
        assert_eq!(asked(&[(0, 100), (10_000, 5_100), (30_000, 5_100)]), [None, Some(500_000_000), Some(0)]);
    }

    #[test]
    fn a_second_asker_shortly_after_sees_the_same_rate() {
        let seen = asked(&[(0, 0), (15_000, 15_000), (15_300, 15_000), (30_000, 15_000)]);
        assert_eq!(seen, [None, Some(1_000_000_000), Some(1_000_000_000), Some(0)]);
    }

    #[test]
    fn readings_too_near_too_old_or_of_another_life_give_none() {
        assert_eq!(asked(&[(0, 0), (199, 100), (200, 100)]), [None, None, Some(500_000_000)]);
        assert_eq!(asked(&[(0, 0), (STALE_MS + 1, 100)]), [None, None]);
        assert_eq!(asked(&[(0, 500), (10_000, 100)]), [None, None]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut rates = Rates::default();
        for whose in ["a", "b"] {
            rates.next(&whose.into(), Moment(0), 0);
        }
        rates.retain(|whose| &**whose == "a");
        assert_eq!(rates.0.keys().map(|k| &**k).collect::<Vec<_>>(), ["a"]);
    }
}
