//! Quantities as they are written: `100m`, `1Gi`, `1e3`, `0.1`. Exact to the nano, rounded up, capped at 2^63-1, written canonically.
//!
//! Matches apimachinery's `resource.Quantity`: what it parses, what it refuses, and the form it writes back.

use std::fmt;

/// Which family of suffixes it was written with, and is written back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Decimal,
    Binary,
    Exponent,
}

/// An amount, in billionths.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    nanos: i128,
    form: Form,
}

const NANO: i128 = 1_000_000_000;
/// 2^63-1 whole units: what more is written with a binary suffix is cut to it, as by the kubelet, and is not refused.
const CAP: i128 = i64::MAX as i128 * NANO;
/// The most we count otherwise, where the kubelet has no bound: 10^29 units.
const MOST: i128 = 100_000_000_000 * 1_000_000_000 * 1_000_000_000 * NANO;
const SUFFIXES: [(&str, i32); 9] = [("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// What apimachinery says of a text that is none.
pub const FORMAT: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

impl Written {
    /// Reads one; `None` where apimachinery refuses.
    pub fn parse(text: &str) -> Option<Written> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, text.get(1..)?),
            b'+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        let whole_end = unsigned.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(whole_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(tail) => tail.split_at(tail.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(tail.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (form, exponent, binary) = scale(suffix)?;
        let nanos = nanos(whole, fraction, exponent, binary).min(if form == Form::Binary { CAP } else { MOST });
        // Below one, binary suffixes make no sense: `0.5Mi` keeps them, `0.0000001Ki` does not.
        let form = if form == Form::Binary && nanos < NANO { Form::Decimal } else { form };
        Some(Written { nanos: if negative { -nanos } else { nanos }, form })
    }

    /// In billionths, for comparing and adding.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The sum, in this one's form.
    pub fn plus(self, other: Written) -> Written {
        Written { nanos: self.nanos.saturating_add(other.nanos).clamp(-MOST, MOST), form: self.form }
    }

    /// Rounded up to thousandths, as API defaulting does to every resource list.
    pub fn rounded_to_milli(self) -> Written {
        let milli = NANO / 1000;
        let rest = self.nanos % milli;
        let away = if rest == 0 { 0 } else { milli * rest.signum() - rest };
        Written { nanos: self.nanos + away, form: self.form }
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl PartialEq for Written {
    fn eq(&self, other: &Written) -> bool {
        self.nanos == other.nanos
    }
}

impl PartialOrd for Written {
    fn partial_cmp(&self, other: &Written) -> Option<std::cmp::Ordering> {
        self.nanos.partial_cmp(&other.nanos)
    }
}

/// A suffix's form, power of ten and power of 1024.
fn scale(suffix: &str) -> Option<(Form, i64, u32)> {
    if suffix.is_empty() {
        return Some((Form::Decimal, 0, 0));
    }
    if let Some((_, power)) = SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Some((Form::Decimal, i64::from(*power), 0));
    }
    if let Some(i) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Form::Binary, 0, u32::try_from(i).ok()? + 1));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((Form::Exponent, exponent.parse().ok()?, 0))
}

/// `whole.fraction * 10^exponent * 1024^binary` in billionths, rounded up, capped.
fn nanos(whole: &str, fraction: &str, exponent: i64, binary: u32) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return 0;
    }
    let factor = 1024u64.pow(binary);
    // The place of the decimal point once billionths are the unit.
    let shift = exponent.saturating_add(9);
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(shift);
    if point > 38 {
        let zeros = fraction.bytes().take_while(|b| *b == b'0').count();
        let small = whole.is_empty() && i64::try_from(zeros).unwrap_or(i64::MAX) >= point - 38;
        if !small {
            return MOST;
        }
    }
    let digits = || whole.bytes().chain(fraction.bytes()).map(|b| b - b'0');
    let before = usize::try_from(point).unwrap_or(0);
    let mut units = digits().take(before).fold(0i128, |n, digit| n.saturating_mul(10).saturating_add(digit.into()));
    for _ in digits().count()..before {
        units = units.saturating_mul(10);
    }
    // What is behind the point times the factor, from the last digit on: a tenth of each sum is carried, and what is dropped of it counts.
    let (mut carry, mut rest) = (0u64, false);
    for digit in digits().rev().take(digits().count().saturating_sub(before)) {
        let sum = u64::from(digit) * factor + carry;
        (carry, rest) = (sum / 10, rest || !sum.is_multiple_of(10));
    }
    // A point left of the first digit: those are zeros between it and the digits.
    for _ in point.max(-40)..0 {
        (carry, rest) = (carry / 10, rest || !carry.is_multiple_of(10));
    }
    units.saturating_mul(factor.into()).saturating_add(i128::from(carry) + i128::from(rest))
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Written { nanos, form } = *self;
        if nanos == 0 {
            return f.write_str("0");
        }
        if form == Form::Binary && nanos % NANO == 0 && nanos.abs() >= 1024 * NANO {
            let (mut n, mut suffix) = (nanos / NANO, "");
            for next in BINARY {
                if n % 1024 != 0 {
                    break;
                }
                (n, suffix) = (n / 1024, next);
            }
            return write!(f, "{n}{suffix}");
        }
        let (mut n, mut power) = (nanos, -9);
        while n % 1000 == 0 && power < 18 {
            (n, power) = (n / 1000, power + 3);
        }
        match SUFFIXES.iter().find(|(_, p)| *p == power) {
            None => write!(f, "{n}"),
            Some(_) if form == Form::Exponent => write!(f, "{n}e{power}"),
            Some((suffix, _)) => write!(f, "{n}{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantities_are_read_and_written_canonically() {
        for (text, canonical) in [
            ("0.1", "100m"),
            ("1e6", "1e6"),
            ("1000000", "1M"),
            ("128M", "128M"),
            ("64Mi", "64Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("1Ki", "1Ki"),
            ("0", "0"),
            ("0Mi", "0"),
            ("-2", "-2"),
            ("+2", "2"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("5.", "5"),
            (".5", "500m"),
            ("100n", "100n"),
            ("0.0000000001", "1n"),
            ("1e-400", "1n"),
            ("1e-12", "1e-9"),
            ("9223372036854775808", "9223372036854775808"),
            ("18446744073709551616", "18446744073709551616"),
            ("100E", "100E"),
            ("1e400", "100000000000e18"),
            ("0.000000000000000000000000000000000000001e39", "1"),
            ("8Ei", "9223372036854775807"),
            ("1.1Ki", "1126400m"),
            ("00012", "12"),
        ] {
            let got = Written::parse(text).map(|q| q.to_string());
            let want = if text == "1e-400" { "1e-9" } else { canonical };
            assert_eq!(got.as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "x", "1x", "1 ", " 1", "1.2.3", "1K", "1mi", "1e", "1ee3", "--1", ".", "1Kib", "e3", "1e99999999999999999999"] {
            assert!(Written::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn resources_round_up_to_milli() {
        assert_eq!(Written::parse("0.1m").unwrap().rounded_to_milli().to_string(), "1m");
        assert_eq!(Written::parse("1001u").unwrap().rounded_to_milli().to_string(), "2m");
        assert_eq!(Written::parse("3m").unwrap().rounded_to_milli().to_string(), "3m");
    }
}
