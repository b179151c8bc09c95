//! The wall clock: from the hardware's, and never before the image was built or the machine last ran.

use std::fs::{self, File};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Says when the image was built.
const RELEASE: &str = "/etc/plinth-release";

/// Sets it if it has to be; what it did.
pub fn set() -> Option<String> {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let built = fs::read_to_string(RELEASE).ok().and_then(|text| build_time(&text));
    // Renewed at each boot and shutdown.
    let ran = fs::metadata(super::seed::FILE).ok().and_then(|m| m.modified().ok()).map(seconds);
    let hardware =
        ["/dev/rtc0", "/dev/rtc"].iter().find_map(|p| File::open(p).ok()).and_then(|f| crate::sys::rtc_time(f).ok()).and_then(epoch);
    let (to, why) = choose(now, hardware, built.max(ran))?;
    match clock_settime(ClockId::Realtime, Timespec { tv_sec: to, tv_nsec: 0 }) {
        Ok(()) => Some(format!("clock set {} s ahead, {why}", to - now)),
        Err(e) => Some(format!("set the clock: {e}")),
    }
}

/// The kernel may have read the hardware itself: then the clock is well. A hardware clock behind the floor has lost its battery.
fn choose(now: i64, hardware: Option<i64>, floor: Option<i64>) -> Option<(i64, &'static str)> {
    let floor = floor.unwrap_or(0);
    match hardware.filter(|h| *h >= floor) {
        // A second apart is reading, not wrong.
        Some(h) if now < floor || now + 1 < h => Some((h, "to the hardware clock")),
        None if now < floor => Some((floor, "to when this image was built or last ran: the hardware clock is behind that")),
        _ => None,
    }
}

fn build_time(text: &str) -> Option<i64> {
    text.lines().find_map(|l| l.strip_prefix("BUILD_TIME=")?.trim_matches('"').parse().ok())
}

fn seconds(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0)
}

/// `struct rtc_time`, in UTC, to seconds (Howard Hinnant's `days_from_civil`).
fn epoch(rtc: [i32; 9]) -> Option<i64> {
    let [second, minute, hour, day, month0, years, ..] = rtc.map(i64::from);
    if !((0..12).contains(&month0)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second))
    {
        return None;
    }
    let month = month0 + 1;
    let y = 1900 + years - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_is_before_its_floor() {
        let told = |now, hardware, floor| choose(now, hardware, floor).map(|c| c.0);
        assert_eq!(told(5, None, Some(100)), Some(100), "no hardware clock");
        assert_eq!(told(5, Some(50), Some(100)), Some(100), "an empty battery");
        assert_eq!(told(5, Some(150), Some(100)), Some(150));
        assert_eq!(told(151, Some(150), Some(100)), None);
        assert_eq!(told(200, None, Some(100)), None);
        assert_eq!(told(149, Some(150), None), None, "a second is reading");
        assert_eq!(told(200, Some(50), Some(100)), None, "a clock somebody set is left alone");
    }

    #[test]
    fn the_hardware_clocks_date_is_read() {
        assert_eq!(epoch([59, 41, 21, 20, 10, 126, 0, 0, 0]), Some(1_795_210_919));
        assert_eq!(epoch([0, 0, 0, 29, 1, 100, 0, 0, 0]), Some(951_782_400));
        assert_eq!(epoch([0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(build_time("ID=plinth\nBUILD_TIME=\"1700000000\"\n"), Some(1_700_000_000));
    }
}
