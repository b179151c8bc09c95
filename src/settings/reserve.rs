//! What pods may not have of the machine: `systemReserved`, `kubeReserved`, and what hard eviction keeps free (`evictionHard`).
//!
//! Nobody is evicted here, as the kubelet evicts no static pod: thresholds are what the Node's conditions tell by, and not allocatable.

use std::collections::BTreeMap;
use std::time::Duration;

use super::input::{Input, Wrong};
use crate::quantity::Amount;

/// How little may be left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// So many bytes, inodes or ids.
    Units(u64),
    /// A part of the whole: thousandths of a percent.
    Part(u64),
}

impl Least {
    /// Of a whole.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Least::Units(units) => units,
            Least::Part(part) => u64::try_from(u128::from(whole) * u128::from(part) / 100_000).unwrap_or(u64::MAX),
        }
    }

    /// `100Mi` or `7.5%`; `None`: there is no threshold (kubelet: `parseThresholdStatement`).
    fn parse(text: &str) -> Result<Option<Least>, Wrong> {
        let wrong = || format!("expected a quantity like `100Mi` or a part like `10%`, found `{text}`");
        if matches!(text, "0%" | "100%") {
            return Ok(None);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let part = Amount::parse(percent).and_then(|a| u64::try_from(a.milli()).ok()).filter(|part| *part <= 100_000);
            return part.map(|part| Some(Least::Part(part))).ok_or_else(wrong);
        }
        let amount = Amount::parse(text).filter(|a| a.is_positive()).and_then(|a| u64::try_from(a.units()).ok());
        amount.map(|units| Some(Least::Units(units))).ok_or_else(wrong)
    }
}

/// Signals of the kubelet that are looked at here, and their defaults; that of pids is ours.
const DEFAULTS: [(&str, Least); 6] = [
    ("memory.available", Least::Units(100 << 20)),
    ("nodefs.available", Least::Part(10_000)),
    ("nodefs.inodesFree", Least::Part(5_000)),
    ("imagefs.available", Least::Part(15_000)),
    ("imagefs.inodesFree", Least::Part(5_000)),
    ("pid.available", Least::Part(5_000)),
];

/// Its other signals: what they look at is the images' file system here, or nothing of its own.
const OTHERS: [&str; 3] = ["containerfs.available", "containerfs.inodesFree", "allocatableMemory.available"];

/// See the file's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserve {
    hard: BTreeMap<String, Option<Least>>,
    /// `mergeDefaultEvictionSettings`: signals that are not set keep their defaults.
    pub merge: bool,
    /// `evictionPressureTransitionPeriod`: pressure is shown for so long after it was last seen.
    pub transition: Duration,
    /// `systemReserved`.
    pub system: BTreeMap<String, Amount>,
    /// `kubeReserved`.
    pub kube: BTreeMap<String, Amount>,
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve {
            hard: DEFAULTS.iter().map(|(signal, least)| ((*signal).to_owned(), Some(*least))).collect(),
            merge: false,
            transition: Duration::from_secs(300),
            system: BTreeMap::new(),
            kube: BTreeMap::new(),
        }
    }
}

impl Reserve {
    /// The threshold of a signal, if it has one.
    pub fn least(&self, signal: &str) -> Option<Least> {
        match self.hard.get(signal) {
            Some(set) => *set,
            None => DEFAULTS.iter().find(|(known, _)| self.merge && *known == signal).map(|(_, least)| *least),
        }
    }

    /// What is kept of a resource for the machine and for us.
    pub fn kept(&self, resource: &str) -> Amount {
        let of = |map: &BTreeMap<String, Amount>| map.get(resource).copied().unwrap_or_default();
        of(&self.system).plus(of(&self.kube))
    }

    /// Thresholds: a map, or `signal<value` parts as the kubelet's flag has them. Any of them replace all.
    pub(super) fn set_hard(&mut self, i: &Input<'_>) -> Result<(), Wrong> {
        let mut hard = BTreeMap::new();
        for (signal, value) in i.pairs('<')? {
            let known = || DEFAULTS.iter().map(|(signal, _)| *signal).chain(OTHERS);
            if !known().any(|k| k == signal) {
                return Err(format!("there is no signal `{signal}`, only {}", known().collect::<Vec<_>>().join(", ")));
            }
            hard.insert(signal.clone(), Least::parse(&value).map_err(|wrong| format!("{signal}: {wrong}"))?);
        }
        self.hard = hard;
        Ok(())
    }
}

/// Amounts of what can be kept; of pids it is not counted here.
pub(super) fn amounts(i: &Input<'_>) -> Result<BTreeMap<String, Amount>, Wrong> {
    const KNOWN: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];
    let amounts = i.table(|i| {
        let text = i.text()?;
        Amount::parse(&text).filter(|a| *a >= Amount::default()).ok_or_else(|| format!("expected a quantity, not negative, found `{text}`"))
    })?;
    match amounts.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(name) => Err(format!("`{name}` cannot be reserved, only {}", KNOWN.join(", "))),
        None => Ok(amounts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_amounts_or_parts_and_none_where_they_say_nothing_or_all() {
        assert_eq!(Least::parse("200Mi"), Ok(Some(Least::Units(200 << 20))));
        assert_eq!(Least::parse("7.5%").map(|l| l.map(|l| l.of(1000))), Ok(Some(75)));
        assert_eq!((Least::parse("0%"), Least::parse("100%")), (Ok(None), Ok(None)));
        for wrong in ["", "0", "-1", "101%", "-1%", "x%", "much"] {
            assert!(Least::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Least::Part(10_000).of(u64::MAX), u64::MAX / 10);
    }
}
