//! Answers of the API server that are good for a while, not more than so many of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Moment;

/// More than one node's clients ask for; a flood of made-up tokens pushes out but itself and costs no memory.
const MOST: usize = 512;

/// See the file's head.
#[derive(Debug)]
pub struct Cache<T>(BTreeMap<[u8; 32], (T, Moment)>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache(BTreeMap::new())
    }
}

impl<T: Clone> Cache<T> {
    /// What is known, if it is still good.
    pub fn get(&self, key: &[u8; 32], now: Moment) -> Option<T> {
        self.0.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Keeps it for so long.
    pub fn put(&mut self, key: [u8; 32], value: T, good: Duration, now: Moment) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, until)| *until > now);
        }
        // Whoever would be forgotten first goes.
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key)
        {
            self.0.remove(&first);
        }
        self.0.insert(key, (value, now + good));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_not_known_and_no_flood_makes_it_grow() {
        let mut cache = Cache::default();
        let s = Duration::from_secs;
        cache.put([1; 32], "a", s(600), Moment(0));
        assert_eq!(cache.get(&[1; 32], Moment(599_999)), Some("a"));
        assert_eq!(cache.get(&[1; 32], Moment(600_000)), None);
        for i in 0..10_000u32 {
            let mut key = [0; 32];
            key.iter_mut().zip(i.to_be_bytes()).for_each(|(k, b)| *k = b);
            cache.put(key, "b", s(30), Moment(u64::from(i)));
        }
        assert!(cache.0.len() <= MOST);
        assert_eq!(cache.get(&[1; 32], Moment(10_000)), Some("a"), "what is good for longer stays");
    }
}
