//! One value of a fragment, read as what its key needs. Pure but for the current directory, against which relative paths stand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Taint;
use crate::manifest::value::{Node, Value};
use crate::quantity::Amount;

/// A value and the directory its relative paths stand in.
pub struct Input<'a> {
    /// The value.
    pub node: &'a Node,
    /// The directory of its file; empty: the current one.
    pub base: &'a Path,
}

/// What is wrong with a value.
pub type Wrong = String;

impl Input<'_> {
    fn expected(&self, what: &str) -> Wrong {
        format!("expected {what}, found {}", self.node.value.described())
    }

    /// Text; any scalar counts as what was written.
    pub fn text(&self) -> Result<String, Wrong> {
        match &self.node.value {
            Value::Text(t) | Value::Bool(_, t) | Value::Number(_, t) => Ok(t.to_string()),
            _ => Err(self.expected("text")),
        }
    }

    /// Text that is not empty.
    pub fn word(&self) -> Result<String, Wrong> {
        Some(self.text()?).filter(|t| !t.is_empty()).ok_or_else(|| self.expected("a word"))
    }

    /// Text, or nothing if it is empty or null.
    pub fn optional(&self) -> Result<Option<String>, Wrong> {
        if self.node.value == Value::Null { Ok(None) } else { Ok(Some(self.text()?).filter(|t| !t.is_empty())) }
    }

    /// A path, made absolute.
    pub fn path(&self) -> Result<PathBuf, Wrong> {
        self.absolute(&self.word()?)
    }

    /// A path, or an empty one for "none".
    pub fn path_or_none(&self) -> Result<Option<PathBuf>, Wrong> {
        self.optional()?.map(|t| self.absolute(&t)).transpose()
    }

    fn absolute(&self, text: &str) -> Result<PathBuf, Wrong> {
        std::path::absolute(self.base.join(text)).map_err(|e| format!("make `{text}` an absolute path: {e}"))
    }

    /// A list; a single scalar is a list of its comma-separated parts, as the kubelet's flags have it.
    fn items(&self) -> Result<Vec<Node>, Wrong> {
        match &self.node.value {
            Value::List(items) => Ok(items.clone()),
            Value::Null => Ok(Vec::new()),
            _ => {
                let text = self.text()?;
                let part = |t: &str| Node { place: self.node.place, value: Value::Text(t.trim().into()) };
                Ok(text.split(',').filter(|t| !t.trim().is_empty()).map(part).collect())
            }
        }
    }

    fn each<T>(&self, read: impl Fn(&Input<'_>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
        self.items()?.iter().map(|node| read(&Input { node, base: self.base })).collect()
    }

    /// A map, each value read alike; a single scalar is `key=value` parts separated by commas, as the kubelet's flags have it.
    pub fn table<T>(&self, read: impl Fn(&Input<'_>) -> Result<T, Wrong>) -> Result<BTreeMap<String, T>, Wrong> {
        let named = |key: &str, node: &Node| {
            let value = read(&Input { node, base: self.base }).map_err(|wrong| format!("{key}: {wrong}"))?;
            Ok((key.to_owned(), value))
        };
        if let Value::Map(entries) = &self.node.value {
            return entries.iter().map(|e| named(&e.key, &e.node)).collect();
        }
        let pair = |node: &Node| {
            let text = Input { node, base: self.base }.text()?;
            let (key, value) = text.split_once('=').ok_or_else(|| format!("expected key=value, found `{text}`"))?;
            named(key, &Node { place: node.place, value: Value::Text(value.into()) })
        };
        self.items()?.iter().map(pair).collect()
    }

    /// Names with one value or more each: a map of values or lists of them, or `name:value` parts, whatever stands for the colon.
    pub fn pairs(&self, between: char) -> Result<Vec<(String, String)>, Wrong> {
        let mut pairs = Vec::new();
        if let Value::Map(entries) = &self.node.value {
            for e in entries {
                let values = Input { node: &e.node, base: self.base };
                let values = if let Value::List(_) = e.node.value { values.each(|i| i.text())? } else { vec![values.text()?] };
                pairs.extend(values.into_iter().map(|value| (e.key.to_string(), value)));
            }
            return Ok(pairs);
        }
        for text in self.words()? {
            let (name, value) = text.split_once(between).ok_or_else(|| format!("expected name{between}value, found `{text}`"))?;
            pairs.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(pairs)
    }

    /// The value of a key of a map, if it is there.
    pub fn at(&self, key: &str) -> Option<Input<'_>> {
        self.node.get(key).map(|node| Input { node, base: self.base })
    }

    /// It is a map, of no other keys than these.
    pub fn has_only(&self, known: &[&str]) -> Result<(), Wrong> {
        let Value::Map(entries) = &self.node.value else { return Err(self.expected("a map")) };
        match entries.iter().find(|e| !known.contains(&&*e.key)) {
            Some(e) => Err(format!("there is no `{}` here, only {}", e.key, known.join(", "))),
            None => Ok(()),
        }
    }

    /// Words.
    pub fn words(&self) -> Result<Vec<String>, Wrong> {
        self.each(|i| i.word())
    }

    /// Paths, made absolute.
    pub fn paths(&self) -> Result<Vec<PathBuf>, Wrong> {
        self.each(|i| i.path())
    }

    /// An IP address.
    pub fn ip(&self) -> Result<IpAddr, Wrong> {
        self.word()?.parse().map_err(|_| self.expected("an IP address"))
    }

    /// IP addresses.
    pub fn ips(&self) -> Result<Vec<IpAddr>, Wrong> {
        self.each(|i| i.ip())
    }

    /// Taints: mappings, or `key=value:Effect` as the kubelet's flag has them.
    pub fn taints(&self) -> Result<Vec<Taint>, Wrong> {
        self.each(|i| {
            let wrong = || i.expected("a taint of key, value and effect, like `a=b:NoSchedule`");
            let part = |key: &str| i.node.get(key).and_then(Node::text).unwrap_or_default().to_owned();
            let taint = if let Value::Map(_) = i.node.value {
                Taint { key: part("key"), value: part("value"), effect: part("effect") }
            } else {
                let text = i.word()?;
                let (named, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
                let (key, value) = named.split_once('=').unwrap_or((named, ""));
                Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() }
            };
            let known = matches!(&*taint.effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
            if known && !taint.key.is_empty() { Ok(taint) } else { Err(wrong()) }
        })
    }

    /// Yes or no.
    pub fn flag(&self) -> Result<bool, Wrong> {
        match (&self.node.value, self.text().as_deref()) {
            (Value::Bool(b, _), _) => Ok(*b),
            (_, Ok("true")) => Ok(true),
            (_, Ok("false")) => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A whole number, not negative.
    pub fn count<T: TryFrom<i64>>(&self) -> Result<T, Wrong> {
        let number = match &self.node.value {
            Value::Number(n, _) => n.whole(),
            Value::Text(t) => t.parse().ok(),
            _ => None,
        };
        number.filter(|n| *n >= 0).and_then(|n| n.try_into().ok()).ok_or_else(|| self.expected("a whole number, not negative"))
    }

    /// A quantity of bytes: `10Mi`.
    pub fn bytes(&self) -> Result<u64, Wrong> {
        let amount = self.text().ok().and_then(|t| Amount::parse(&t)).filter(|a| a.is_positive());
        amount.and_then(|a| u64::try_from(a.units()).ok()).ok_or_else(|| self.expected("a size like `10Mi`"))
    }

    /// A duration as Go writes them: `1m30s`, `250ms`.
    pub fn duration(&self) -> Result<Duration, Wrong> {
        self.text().ok().and_then(|t| duration(&t)).ok_or_else(|| self.expected("a duration like `1m30s`"))
    }

    /// A socket's path, given as a path or as `unix:///path`.
    pub fn unix_socket(&self) -> Result<PathBuf, Wrong> {
        let text = self.word()?;
        let path = text.strip_prefix("unix://").unwrap_or(&text);
        if path.contains("://") || !path.starts_with('/') {
            return Err(self.expected("a socket like `unix:///run/containerd/containerd.sock`"));
        }
        Ok(path.into())
    }
}

/// Go's `time.ParseDuration`, of what is not negative.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(unit_end)?;
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(times(number, unit)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(())?;
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

/// A decimal number of units.
fn times(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.bytes() {
        scale /= 10;
        total = total.checked_add(u128::from(digit - b'0') * scale)?;
    }
    Some(total)
}
