//! Moments and wall time, and the one place that reads a clock.
//!
//! `plan` takes both as arguments and never calls anything here but arithmetic.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on CLOCK_BOOTTIME, in milliseconds: never steps back, counts suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Milliseconds from `earlier` to `self`; zero if `earlier` is later.
    pub fn since_ms(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.since_ms(earlier))
    }
}

/// Wall-clock time in nanoseconds since the Unix epoch: for people and for the API only, never for decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// Both clocks, read at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: every decision uses this one.
    pub mono: Moment,
    /// Wall: every timestamp that is shown uses this one.
    pub wall: Wall,
}

/// Reads both clocks.
pub fn now() -> Now {
    use rustix::time::{ClockId, clock_gettime};
    let mono = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    Now {
        mono: Moment(u64::try_from(mono.tv_sec * 1000 + mono.tv_nsec / 1_000_000).unwrap_or(0)),
        wall: Wall(wall.tv_sec.saturating_mul(1_000_000_000).saturating_add(wall.tv_nsec)),
    }
}

/// Up to a fifth less, so that a fleet that lost its server does not come back as one.
pub fn jitter(delay: Duration, now: Moment) -> Duration {
    let mut x = now.0 ^ u64::from(std::process::id()) << 32;
    // splitmix64: neighbouring moments give unlike numbers.
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let part = u32::try_from((x >> 33) % 200).unwrap_or(0);
    delay - delay * part / 1000
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = u32::try_from(doy - (153 * mp + 2) / 5 + 1).unwrap_or(1);
    let m = u32::try_from(if mp < 10 { mp + 3 } else { mp - 9 }).unwrap_or(1);
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

/// (year, month, day) to days since 1970-01-01.
fn days(y: i64, m: u32, d: u32) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from((m + 9) % 12);
    let doy = (153 * mp + 2) / 5 + i64::from(d) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

impl Wall {
    /// Whole seconds since the epoch, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// RFC 3339 in UTC with nine fractional digits, written without allocating: CRI log lines and `config.seen`.
    pub fn write_nanos(self, out: &mut impl fmt::Write) -> fmt::Result {
        self.write_secs_part(out)?;
        write!(out, ".{:09}Z", self.0.rem_euclid(1_000_000_000))
    }

    fn write_secs_part(self, out: &mut impl fmt::Write) -> fmt::Result {
        let s = self.secs();
        let (y, m, d) = civil(s.div_euclid(86_400));
        let t = s.rem_euclid(86_400);
        write!(out, "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}", t / 3600, t / 60 % 60, t % 60)
    }

    /// Reads RFC 3339 (`2026-01-02T03:04:05[.frac](Z|+hh:mm)`); `None` if it is not that.
    pub fn parse(text: &str) -> Option<Wall> {
        let b = text.as_bytes();
        let num = |from: usize, to: usize| -> Option<i64> {
            let s = text.get(from..to)?;
            if s.bytes().all(|c| c.is_ascii_digit()) { s.parse().ok() } else { None }
        };
        let (y, mo, d) = (num(0, 4)?, num(5, 7)?, num(8, 10)?);
        let (h, mi, s) = (num(11, 13)?, num(14, 16)?, num(17, 19)?);
        if *b.get(4)? != b'-' || *b.get(7)? != b'-' || !matches!(b.get(10)?, b'T' | b't' | b' ') {
            return None;
        }
        if *b.get(13)? != b':' || *b.get(16)? != b':' || mo == 0 || mo > 12 || d == 0 || d > 31 || h > 23 || mi > 59 || s > 60 {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0i64;
        if b.get(at) == Some(&b'.') {
            at += 1;
            let mut scale = 100_000_000;
            while let Some(c) = b.get(at).filter(|c| c.is_ascii_digit()) {
                nanos += i64::from(c - b'0') * scale;
                scale /= 10;
                at += 1;
            }
        }
        let offset = match b.get(at)? {
            b'Z' | b'z' if b.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if b.len() == at + 6 => {
                let m = num(at + 1, at + 3)? * 60 + num(at + 4, at + 6)?;
                if *sign == b'+' { m * 60 } else { -m * 60 }
            }
            _ => return None,
        };
        let secs = days(y, u32::try_from(mo).ok()?, u32::try_from(d).ok()?) * 86_400 + h * 3600 + mi * 60 + s - offset;
        Some(Wall(secs.checked_mul(1_000_000_000)?.checked_add(nanos)?))
    }
}

/// RFC 3339 in UTC at second precision, as the Kubernetes API writes `metav1.Time`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_secs_part(f)?;
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_is_written_and_read_as_rfc3339() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_210_919_123_456_789, "2026-11-20T21:41:59.123456789Z"),
        ] {
            let mut s = String::new();
            assert!(Wall(ns).write_nanos(&mut s).is_ok());
            assert_eq!(s, text);
            assert_eq!(Wall::parse(text), Some(Wall(ns)));
        }
        assert_eq!(Wall::parse("2026-11-20T23:41:59+02:00"), Wall::parse("2026-11-20T21:41:59Z"));
        assert_eq!(Wall::parse("2026-11-20"), None);
        assert_eq!(Wall::parse("2026-13-20T21:41:59Z"), None);
    }
}
