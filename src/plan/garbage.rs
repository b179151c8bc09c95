//! Which image goes next, when nobody needs it: the kubelet's rules (`images/image_gc_manager.go`). Pure; `runtime` counts and removes.
//!
//! Never one that a manifest names, a container stands on, or somebody pinned.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Moment;
use crate::pod::ImageRef;

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// From so much of their file system used on, those longest unused go (`imageGCHighThresholdPercent`, 85); 100: never.
    pub high_percent: u8,
    /// Until it is so much (`imageGCLowThresholdPercent`, 80).
    pub low_percent: u8,
    /// But none that is there for less (`imageMinimumGCAge`, 2 min).
    pub min_age: Duration,
    /// One unused for longer goes in any case (`imageMaximumGCAge`); zero: not.
    pub max_age: Duration,
    /// How often that is looked at; the kubelet's is 5 min.
    pub period: Duration,
}

impl Default for Rule {
    fn default() -> Self {
        let min = |n: u64| Duration::from_secs(n * 60);
        Rule { high_percent: 85, low_percent: 80, min_age: min(2), max_age: Duration::ZERO, period: min(5) }
    }
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its manifest's digest.
    pub id: Rc<str>,
    /// Every name it goes by.
    pub names: Vec<ImageRef>,
    /// Somebody needs it.
    pub used: bool,
    /// Since when it is known to be there.
    pub first_seen: Moment,
    /// When somebody was last known to need it.
    pub last_used: Moment,
}

/// The next to remove, and why. `full`: how much of the file system is used, if it is known; `freeing`: since it was too much, and
/// is to come down.
pub fn next<'a>(images: &'a [Image], full: Option<u8>, freeing: bool, rule: &Rule, now: Moment) -> Option<(&'a Image, String)> {
    let unused = || images.iter().filter(|i| !i.used);
    let longest = |i: &&Image| (i.last_used, i.first_seen);
    if rule.max_age > Duration::ZERO
        && let Some(old) = unused().filter(|i| now - i.last_used > rule.max_age).min_by_key(longest)
    {
        return Some((old, format!("nobody needed it for {} s", (now - old.last_used).as_secs())));
    }
    let full = full.filter(|full| is_too_full(*full, freeing, rule))?;
    let oldest = unused().filter(|i| now - i.first_seen >= rule.min_age).min_by_key(longest)?;
    Some((oldest, format!("nobody needs it, and {full} % of the images' file system is used")))
}

/// Whether the disk asks for room.
pub fn is_too_full(full: u8, freeing: bool, rule: &Rule) -> bool {
    rule.high_percent < 100 && if freeing { full > rule.low_percent } else { full >= rule.high_percent }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn image(id: &str, used: bool, first_s_ago: u64, last_s_ago: u64) -> Image {
        let ago = |s: u64| Moment(NOW.0 - s * 1000);
        Image { id: id.into(), names: Vec::new(), used, first_seen: ago(first_s_ago), last_used: ago(last_s_ago) }
    }

    fn id(images: &[Image], full: Option<u8>, freeing: bool, rule: &Rule) -> Option<String> {
        next(images, full, freeing, rule, NOW).map(|(i, _)| i.id.to_string())
    }

    #[test]
    fn with_room_on_the_disk_nothing_goes() {
        let images = [image("a", false, 900, 900)];
        let rule = Rule::default();
        for full in [None, Some(0), Some(84)] {
            assert_eq!(id(&images, full, false, &rule), None);
        }
        assert_eq!(id(&images, Some(99), false, &Rule { high_percent: 100, ..rule }), None, "100 is never");
    }

    #[test]
    fn a_full_disk_takes_the_longest_unused_first_down_to_the_lower_mark() {
        let images =
            [image("young", false, 60, 60), image("b", false, 900, 300), image("a", false, 900, 600), image("used", true, 900, 900)];
        let rule = Rule::default();
        assert_eq!(id(&images, Some(85), false, &rule).unwrap(), "a");
        assert_eq!(id(&images, Some(81), true, &rule).unwrap(), "a");
        assert_eq!(id(&images, Some(80), true, &rule), None);
        assert_eq!(id(&images, Some(84), false, &rule), None);
        assert_eq!(id(&[image("young", false, 60, 60), image("used", true, 900, 900)], Some(99), false, &rule), None);
    }

    #[test]
    fn past_the_maximum_age_an_unused_image_goes_whatever_the_disk() {
        let rule = Rule { max_age: Duration::from_secs(500), ..Rule::default() };
        let images = [image("used", true, 900, 900), image("old", false, 900, 501), image("fresh", false, 900, 500)];
        assert_eq!(id(&images, None, false, &rule).unwrap(), "old");
        assert_eq!(id(&images, None, false, &Rule::default()), None);
    }
}
