//! What a plain YAML scalar means: YAML 1.1 as go-yaml v2 resolves it, which is what Kubernetes reads (`yes`, `0644`, `1_000`, `~`).
//!
//! Pure; knows no place and no file.

use super::value::{Number, Value};

/// Resolves a plain scalar without a tag. `None`: a number JSON cannot hold (`.nan`, `.inf`).
pub fn plain(text: &str) -> Option<Value> {
    let known = match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(Value::Bool(true, text.into())),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(Value::Bool(false, text.into())),
        _ if infinite(text).is_some() => return None,
        _ => None,
    };
    Some(known.unwrap_or_else(|| match number(text) {
        Some(n) => Value::Number(n, text.into()),
        None => Value::Text(text.into()),
    }))
}

/// What is no finite number, in the words it has as a key.
pub fn infinite(text: &str) -> Option<&'static str> {
    match text {
        ".nan" | ".NaN" | ".NAN" => Some(".nan"),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(".inf"),
        "-.inf" | "-.Inf" | "-.INF" => Some("-.inf"),
        _ => None,
    }
}

/// A number by go-yaml's rules. Timestamps and base-60 numbers are none, so they stay text; `08` is no octal and becomes the float 8.
fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if first == b'.' {
        return text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')).then(|| float(text)).flatten();
    }
    if !matches!(first, b'0'..=b'9' | b'+' | b'-') {
        return None;
    }
    let owned;
    let bare = if text.contains('_') {
        owned = text.replace('_', "");
        &owned
    } else {
        text
    };
    integer(bare).or_else(|| if float_shaped(bare) { float(bare) } else { None })
}

/// Go's `strconv.ParseInt(s, 0, 64)`, then `ParseUint`: 0x, 0o, 0b, and a leading 0 for octal.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, digits.get(2..)?),
        Some("0o") => (8, digits.get(2..)?),
        Some("0b") => (2, digits.get(2..)?),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return 0i64.checked_sub_unsigned(magnitude).map(Number::Int);
    }
    Some(i64::try_from(magnitude).map_or(Number::Uint(magnitude), Number::Int))
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn float_shaped(text: &str) -> bool {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    mantissa_ok && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

/// A whole one is an integer from here on: on its way through JSON Go writes 80.0 as 80.
fn float(text: &str) -> Option<Number> {
    const EXACT: f64 = 1e18;
    let f = text.parse::<f64>().ok().filter(|f| f.is_finite())?;
    #[expect(clippy::cast_possible_truncation, reason = "whole and within i64, checked")]
    let whole = (f.fract() == 0.0 && f.abs() <= EXACT).then_some(f as i64);
    Some(whole.map_or(Number::Float(f), Number::Int))
}

/// Resolves a scalar that carries a tag of YAML's own (`!!int "3"`); other tags mean text. `Err` says what does not fit.
pub fn tagged(tag: &str, text: &str) -> Result<Value, String> {
    let mismatch = || format!("`{}` is not what its tag !!{tag} says", super::value::short(text));
    match tag {
        "str" => Ok(Value::Text(text.into())),
        // Bytes that are no UTF-8 are replaced, as Go's JSON encoder does.
        "binary" => base64(text).map(|b| Value::Text(String::from_utf8_lossy(&b).into())).ok_or_else(mismatch),
        "null" | "bool" | "int" | "float" => match (tag, plain(text).ok_or_else(mismatch)?) {
            ("null", v @ Value::Null) | ("bool", v @ Value::Bool(..)) => Ok(v),
            ("int", v @ Value::Number(Number::Int(_) | Number::Uint(_), _)) if !float_written(text) => Ok(v),
            ("float", v @ Value::Number(..)) => Ok(v),
            _ => Err(mismatch()),
        },
        "timestamp" if !is_timestamp(text) => Err(mismatch()),
        _ => Ok(Value::Text(text.into())),
    }
}

/// Whether a number has what makes it a float to go-yaml, whole or not.
fn float_written(text: &str) -> bool {
    !text.to_ascii_lowercase().trim_start_matches(['+', '-']).starts_with("0x") && text.contains(['.', 'e', 'E'])
}

/// `2001-12-14`, or with a time after `T`, `t` or a blank, as go-yaml's `!!timestamp` takes it.
fn is_timestamp(text: &str) -> bool {
    let digits = |s: &str, range: std::ops::RangeInclusive<usize>| range.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let mut part = |range| parts.next().is_some_and(|p| digits(p, range));
    let date_fits = part(4..=4) && part(1..=2) && part(1..=2) && parts.next().is_none();
    date_fits && time.is_none_or(|t| t.get(..2).is_some_and(|h| h.contains(|c: char| c.is_ascii_digit())) && t.contains(':'))
}

/// Standard base64; `None` if it is none.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let written: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let padding = written.iter().rev().take_while(|b| **b == b'=').count();
    if !written.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for b in written.iter().take(written.len() - padding) {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xFF_FFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xFF).unwrap_or_default());
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn int(text: &str, n: i64) {
        assert_eq!(plain(text), Some(Value::Number(Number::Int(n), text.into())), "{text}");
    }

    #[test]
    fn scalars_are_read_as_yaml_1_1() {
        int("0644", 420);
        int("0o644", 420);
        int("0x50", 80);
        int("0b11", 3);
        int("-0x10", -16);
        int("+7", 7);
        int("1_000", 1000);
        int("-9223372036854775808", i64::MIN);
        for text in ["yes", "On", "y", "TRUE"] {
            assert_eq!(plain(text), Some(Value::Bool(true, text.into())));
        }
        for text in ["12:30:45", "2001-01-01", "yEs", "1.2.3", "+", "-", ".", "1e", "0x", "0xzz", "1e400", "e3"] {
            assert_eq!(plain(text), Some(Value::Text(text.into())), "{text}");
        }
        assert_eq!(plain("18446744073709551615"), Some(Value::Number(Number::Uint(u64::MAX), "18446744073709551615".into())));
        int("08", 8);
        int("80.0", 80);
        int(".5e1", 5);
        assert_eq!(plain("80.5"), Some(Value::Number(Number::Float(80.5), "80.5".into())));
        assert_eq!(plain("-.inf"), None);
        assert_eq!(plain("~"), Some(Value::Null));
    }

    #[test]
    fn tags_decide() {
        assert_eq!(tagged("str", "1"), Ok(Value::Text("1".into())));
        assert_eq!(tagged("int", "1"), Ok(Value::Number(Number::Int(1), "1".into())));
        assert!(tagged("int", "x").is_err());
        assert_eq!(tagged("binary", "aGk="), Ok(Value::Text("hi".into())));
        assert_eq!(tagged("float", "1.0"), Ok(Value::Number(Number::Int(1), "1.0".into())));
        for (tag, bad) in [("int", "1.0"), ("binary", "x y"), ("timestamp", "x"), ("bool", "1")] {
            assert!(tagged(tag, bad).is_err(), "!!{tag} {bad}");
        }
        for good in ["2001-12-14", "2001-12-14t21:59:43.10-05:00", "2001-1-2 3:04:05"] {
            assert_eq!(tagged("timestamp", good), Ok(Value::Text(good.into())));
        }
    }
}
