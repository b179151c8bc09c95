//! Command lines read by the table. GNU habits: `--long value`, `--long=value`, `-n5`, `-fp`, `--` ends the flags.

use super::table::{Count, Flag, HELP, Takes, Verb};

/// A command line as the table understands it.
#[derive(Debug, Default)]
pub struct Args {
    flags: Vec<(&'static str, String)>,
    /// What was not a flag, in order.
    pub operands: Vec<String>,
}

impl Args {
    /// Whether the flag was given.
    pub fn has(&self, long: &str) -> bool {
        self.value(long).is_some()
    }

    /// The last value given; empty for a flag that takes none.
    pub fn value(&self, long: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(l, _)| *l == long).map(|(_, v)| v.as_str())
    }

    /// The first operand.
    pub fn operand(&self) -> Option<&str> {
        self.operands.first().map(String::as_str)
    }
}

/// Reads a verb's arguments; the error is one clause.
pub fn parse(verb: &'static Verb, args: &[String]) -> Result<Args, String> {
    let mut read = Args::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            read.operands.extend(rest.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            let (name, attached) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            let flag = find(verb, |f| f.long == name).ok_or_else(|| unknown(verb, name))?;
            let value = match (flag.takes, attached) {
                (Takes::Nothing, Some(_)) => return Err(format!("--{name} takes no value")),
                (Takes::Nothing, None) => String::new(),
                (Takes::Value(what), None) => rest.next().cloned().ok_or_else(|| format!("--{name} needs {what}"))?,
                (Takes::Maybe(_, usual), None) => usual.to_owned(),
                (_, Some(value)) => value,
            };
            read.flags.push((flag.long, value));
        } else if arg.len() > 1 && arg.starts_with('-') {
            cluster(verb, arg, &mut rest, &mut read)?;
        } else {
            read.operands.push(arg.clone());
        }
    }
    count(verb, &read)?;
    Ok(read)
}

fn cluster<'a>(verb: &'static Verb, arg: &str, rest: &mut impl Iterator<Item = &'a String>, read: &mut Args) -> Result<(), String> {
    let mut letters = arg.chars();
    letters.next();
    while let Some(letter) = letters.next() {
        let flag = find(verb, |f| f.short == Some(letter)).ok_or_else(|| format!("unknown flag -{letter}"))?;
        let Takes::Value(what) = flag.takes else {
            let usual = if let Takes::Maybe(_, usual) = flag.takes { usual } else { "" };
            read.flags.push((flag.long, usual.to_owned()));
            continue;
        };
        let attached = letters.as_str();
        let attached = attached.strip_prefix('=').unwrap_or(attached);
        let value = if attached.is_empty() { rest.next().cloned() } else { Some(attached.to_owned()) };
        read.flags.push((flag.long, value.ok_or_else(|| format!("-{letter} needs {what}"))?));
        return Ok(());
    }
    Ok(())
}

fn find(verb: &'static Verb, is_it: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    verb.flags.iter().find(|f| is_it(f)).or_else(|| is_it(&HELP).then_some(&HELP))
}

fn unknown(verb: &Verb, name: &str) -> String {
    match nearest(name, verb.flags.iter().map(|f| f.long)) {
        Some(near) => format!("unknown flag --{name}: did you mean --{near}?"),
        None => format!("unknown flag --{name}"),
    }
}

fn count(verb: &Verb, read: &Args) -> Result<(), String> {
    if read.has("help") {
        return Ok(());
    }
    let least = verb.operands.iter().filter(|o| o.count != Count::Maybe).count();
    if let Some(missing) = verb.operands.get(read.operands.len()).filter(|_| read.operands.len() < least) {
        return Err(format!("{} is missing", missing.name));
    }
    let endless = verb.operands.iter().any(|o| o.count == Count::Many);
    match read.operands.get(verb.operands.len()) {
        Some(extra) if !endless => Err(format!("{extra:?} is one operand too many")),
        _ => Ok(()),
    }
}

/// The candidate that is at most two typing mistakes away.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.map(|c| (distance(word, c), c)).filter(|(d, c)| *d <= 2 && *d < c.len()).min().map(|(_, c)| c)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::super::table::verb;
    use super::*;

    fn read(name: &str, args: &[&str]) -> Result<Args, String> {
        parse(verb(name).unwrap(), &args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_as_gnu_reads_them() {
        let a = read("logs", &["-fp", "-cweb", "--tail=5", "--since", "5m", "pod"]).unwrap();
        assert!(a.has("follow") && a.has("previous") && !a.has("timestamps"));
        assert_eq!(
            (a.value("container"), a.value("tail"), a.value("since"), a.operand()),
            (Some("web"), Some("5"), Some("5m"), Some("pod"))
        );
        assert_eq!(read("status", &["--wait", "web"]).unwrap().value("wait"), Some("30s"));
        assert_eq!(read("status", &["--wait=2m"]).unwrap().value("wait"), Some("2m"));
        assert_eq!(read("status", &["--", "-odd"]).unwrap().operand(), Some("-odd"));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(read("logs", &[]).unwrap_err(), "POD is missing");
        assert_eq!(read("status", &["a", "b"]).unwrap_err(), "\"b\" is one operand too many");
        assert_eq!(read("logs", &["--folow", "p"]).unwrap_err(), "unknown flag --folow: did you mean --follow?");
        assert_eq!(read("logs", &["p", "--tail"]).unwrap_err(), "--tail needs N");
        assert_eq!(read("logs", &["p", "-x"]).unwrap_err(), "unknown flag -x");
        assert_eq!(read("logs", &["p", "--follow=1"]).unwrap_err(), "--follow takes no value");
    }
}
