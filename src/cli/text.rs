//! Text for people: columns, ages, durations, colour. Pure, but for asking once whether a terminal looks on.

use std::io::IsTerminal;
use std::time::Duration;

use crate::clock::Wall;

/// Columns padded to their widest cell, three spaces apart, as kubectl's; nothing after the last.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, widest) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(widest - width(cell) + 3));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Characters shown: colour takes no room.
fn width(cell: &str) -> usize {
    let mut inside = false;
    let shown = |c: &char| {
        inside |= *c == '\x1b';
        let counts = !inside;
        inside &= *c != 'm';
        counts
    };
    cell.chars().filter(shown).count()
}

/// kubectl's short duration (`duration.HumanDuration`): two units where the first alone would be coarse.
pub fn age(d: Duration) -> String {
    let s = d.as_secs();
    let (m, h, days) = (s / 60, s / 3600, s / 86_400);
    let pair = |a: u64, unit: char, b: u64, small: char| if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{small}") };
    match () {
        () if s < 120 => format!("{s}s"),
        () if m < 10 => pair(m, 'm', s % 60, 's'),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => pair(h, 'h', m % 60, 'm'),
        () if h < 48 => format!("{h}h"),
        () if days < 8 => pair(days, 'd', h % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => pair(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// From `then` to `now`, both RFC 3339; `<unknown>` if either is not.
pub fn age_between(then: Option<&str>, now: &str) -> String {
    let ages = then.and_then(Wall::parse).zip(Wall::parse(now));
    ages.map_or_else(|| "<unknown>".into(), |(then, now)| age(Duration::from_nanos(u64::try_from(now.0 - then.0).unwrap_or(0))))
}

/// A duration as Go writes it (`1h30m`, `500ms`, `1.5s`), or plain seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let seconds = |s: f64| if s.is_finite() && s >= 0.0 { Duration::try_from_secs_f64(s).ok() } else { None };
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return seconds(text.parse().ok()?);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(letters);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    seconds(sum)
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Needs a person.
    Bad,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// Standard output is a terminal, and NO_COLOR (no-color.org) is not set.
    pub fn stdout() -> Paint {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Paint(!unwanted && std::io::stdout().is_terminal())
    }

    /// The text in its colour.
    pub fn tone(self, tone: Tone, text: &str) -> String {
        let colour = match tone {
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
        };
        if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Terminal control characters made visible: pod messages come from images and registries, and must not drive the terminal.
pub fn tame(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        for (s, text) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (30_000, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (70_000_000, "2y80d"),
            (400_000_000, "12y"),
        ] {
            assert_eq!(age(Duration::from_secs(s)), text);
        }
    }

    #[test]
    fn durations_are_gos_or_seconds() {
        for (text, ms) in [("30", 30_000), ("1h30m", 5_400_000), ("500ms", 500), ("1.5s", 1500), ("2m", 120_000), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["5x", "-1s", "m", "1..2", "5m3"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn colour_takes_no_room_in_a_table() {
        let rows = [vec!["A".into(), "B".into()], vec![Paint(true).tone(Tone::Bad, "xx"), "y".into()]];
        assert_eq!(table(&rows), "A    B\n\x1b[31mxx\x1b[0m   y\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(tame("a\n  b\x1b[2Jc\x07"), "a b\u{fffd}[2Jc\u{fffd}");
    }
}
