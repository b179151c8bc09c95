//! JSON text to a value tree with places. Exactly one value per file, as the kubelet reads a file whose first byte is `{`.
//!
//! Never recurses deeper than the caller's depth cap and never keeps more values than its budget.

use super::value::{Entry, Node, Number, Place, Value};
use super::yaml::{self, Budget, Fault};
use crate::pod::Finding;

/// Reads one JSON value; whatever follows it is an error.
pub fn read(text: &str, warnings: &mut Vec<Finding>) -> Result<Node, Fault> {
    let mut reader = Reader { rest: text, place: Place { line: 1, column: 1 }, budget: Budget::default(), warnings };
    reader.space();
    let node = reader.value(0)?;
    reader.space();
    match reader.rest.chars().next() {
        None => Ok(node),
        Some(c) => Err(reader.fault(format!("invalid character {c:?} after the end of the JSON value"))),
    }
}

struct Reader<'a> {
    rest: &'a str,
    place: Place,
    budget: Budget,
    warnings: &'a mut Vec<Finding>,
}

impl<'a> Reader<'a> {
    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), place: self.place }
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place.column += 1;
        }
        Some(c)
    }

    fn space(&mut self) {
        while self.rest.starts_with([' ', '\t', '\n', '\r']) {
            self.take();
        }
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.rest.starts_with(c);
        if there {
            self.take();
        }
        there
    }

    fn expected(&self, what: &str) -> Fault {
        match self.rest.chars().next() {
            Some(c) => self.fault(format!("invalid character {c:?} in JSON: expected {what}")),
            None => self.fault(format!("unexpected end of JSON: expected {what}")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        let place = self.place;
        self.budget.spend(1, place)?;
        if depth > yaml::MAX_DEPTH {
            return Err(yaml::too_deep(place));
        }
        let value = match self.rest.chars().next() {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?.into()),
            Some('-' | '0'..='9') => self.number()?,
            _ if self.word("true") => Value::Bool(true, "true".into()),
            _ if self.word("false") => Value::Bool(false, "false".into()),
            _ if self.word("null") => Value::Null,
            _ => return Err(self.expected("a value")),
        };
        Ok(Node { place, value })
    }

    fn word(&mut self, word: &str) -> bool {
        let there = self.rest.starts_with(word);
        if there {
            for _ in word.chars() {
                self.take();
            }
        }
        there
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        self.take();
        let mut entries = Vec::new();
        self.space();
        if self.eat('}') {
            return Ok(Value::Map(Vec::new()));
        }
        loop {
            self.space();
            let place = self.place;
            if !self.rest.starts_with('"') {
                return Err(self.expected("a key in double quotes"));
            }
            let key = self.string()?.into();
            self.space();
            if !self.eat(':') {
                return Err(self.expected("`:` after a key"));
            }
            self.space();
            let node = self.value(depth + 1)?;
            entries.push(yaml::Pair { entry: Entry { key, place, node }, merged: false });
            self.space();
            if self.eat('}') {
                return Ok(Value::Map(yaml::last_wins(entries, self.warnings)));
            }
            if !self.eat(',') {
                return Err(self.expected("`,` or `}` in an object"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        self.take();
        let mut items = Vec::new();
        self.space();
        if self.eat(']') {
            return Ok(Value::List(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.eat(']') {
                return Ok(Value::List(items));
            }
            if !self.eat(',') {
                return Err(self.expected("`,` or `]` in a list"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.take();
        let mut out = String::new();
        loop {
            let start = self.place;
            match self.take() {
                None => return Err(self.expected("the closing quote of a string")),
                Some('"') => return Ok(out),
                Some('\\') => out.push(self.escape(start)?),
                Some(c) if (c as u32) < 0x20 => {
                    return Err(Fault {
                        message: format!("invalid character {c:?} in a JSON string: write it as an escape"),
                        place: start,
                    });
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, place: Place) -> Result<char, Fault> {
        Ok(match self.take() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => self.unicode(place)?,
            _ => return Err(Fault { message: "invalid escape in a JSON string".into(), place }),
        })
    }

    /// `\uXXXX`, two of them for what lies beyond the BMP; a lone half becomes U+FFFD, as in Go.
    fn unicode(&mut self, place: Place) -> Result<char, Fault> {
        let high = self.hex4(place)?;
        if (0xD800..0xDC00).contains(&high) && self.rest.starts_with("\\u") {
            let (rest, at) = (self.rest, self.place);
            self.take();
            self.take();
            let low = self.hex4(place)?;
            if (0xDC00..0xE000).contains(&low) {
                return Ok(char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).unwrap_or('\u{FFFD}'));
            }
            (self.rest, self.place) = (rest, at);
        }
        Ok(char::from_u32(high).unwrap_or('\u{FFFD}'))
    }

    fn hex4(&mut self, place: Place) -> Result<u32, Fault> {
        let mut n = 0;
        for _ in 0..4 {
            let digit = self.take().and_then(|c| c.to_digit(16));
            n = n * 16 + digit.ok_or_else(|| Fault { message: "`\\u` must be followed by four hexadecimal digits".into(), place })?;
        }
        Ok(n)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let place = self.place;
        let end = self.rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')).unwrap_or(self.rest.len());
        let (raw, after) = self.rest.split_at(end);
        self.rest = after;
        self.place.column += u32::try_from(raw.len()).unwrap_or(u32::MAX);
        let number =
            json_number(raw).ok_or_else(|| Fault { message: format!("`{}` is not a JSON number", super::value::short(raw)), place })?;
        Ok(Value::Number(number, raw.into()))
    }
}

fn json_number(raw: &str) -> Option<Number> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    let mut bytes = digits.bytes();
    let starts_well = match (bytes.next()?, bytes.next()) {
        (b'0', Some(b'0'..=b'9')) => false,
        (b'0'..=b'9', _) => true,
        _ => false,
    };
    let point_ok = digits.split_once('.').is_none_or(|(_, after)| after.starts_with(|c: char| c.is_ascii_digit()));
    if !starts_well || !point_ok {
        return None;
    }
    if let Ok(i) = raw.parse::<i64>() {
        return Some(Number::Int(i));
    }
    if let Ok(u) = raw.parse::<u64>() {
        return Some(Number::Uint(u));
    }
    raw.parse::<f64>().ok().filter(|f| f.is_finite()).map(Number::Float)
}
