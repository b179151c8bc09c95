//! One file per verb, and what they share: `table` (every verb and flag), `args`, `usage`, `client`, `remote` (exec and attach),
//! `terminal`, `resolve`, `text`, `yaml`.
//!
//! The verbs here only ask the status socket or read files and print; the supervisor is `run`'s.

pub mod args;
pub mod attach;
pub mod check;
pub mod client;
pub mod completions;
pub mod events;
pub mod exec;
pub mod logs;
pub mod man;
pub mod remote;
pub mod render;
pub mod resolve;
pub mod run;
pub mod shutdown;
pub mod status;
pub mod table;
pub mod terminal;
pub mod text;
pub mod usage;
pub mod version;
pub mod why;
pub mod yaml;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use args::Args;
use serde::Serialize;

/// Exit status: it failed.
pub const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
pub const USAGE: u8 = 2;
/// Exit status: not ready, or not there.
pub const NOT_THERE: u8 = 3;
/// Exit status: a manifest is invalid.
pub const INVALID: u8 = 4;

/// Why a verb ends without having done its work.
#[derive(Debug)]
pub struct Fail {
    /// The exit status.
    pub code: u8,
    /// What failed, on what, why, and what to do next; empty when that was said already.
    pub text: String,
}

impl Fail {
    /// Exit status 1.
    pub fn failed(text: impl Into<String>) -> Fail {
        Fail { code: FAILED, text: text.into() }
    }

    /// Exit status 2.
    pub fn usage(text: impl Into<String>) -> Fail {
        Fail { code: USAGE, text: text.into() }
    }

    /// Exit status 3.
    pub fn not_there(text: impl Into<String>) -> Fail {
        Fail { code: NOT_THERE, text: text.into() }
    }
}

/// The whole command line, without the program's name, to the exit status.
pub fn dispatch(args: &[String]) -> u8 {
    let Some((name, rest)) = args.split_first() else {
        eprint!("{}", usage::overview());
        return USAGE;
    };
    match name.as_str() {
        "help" | "--help" | "-h" => return help(rest.first().map(String::as_str)),
        "--version" | "-V" => return version::run(&[]),
        _ => {}
    }
    let Some(verb) = table::verb(name) else {
        let near = args::nearest(name, table::VERBS.iter().map(|v| v.name));
        let hint = near.map_or_else(|| "see `plinth help`".into(), |near| format!("did you mean `plinth {near}`?"));
        eprintln!("plinth: unknown command {name:?}: {hint}");
        return USAGE;
    };
    let before_dashes = rest.iter().take_while(|a| *a != "--");
    if before_dashes.into_iter().any(|a| a == "--help" || a == "-h") {
        return help(Some(name));
    }
    (verb.run)(rest)
}

fn help(name: Option<&str>) -> u8 {
    let text = match name.map(|n| (n, table::verb(n))) {
        None => usage::overview(),
        Some((_, Some(verb))) => usage::page(verb),
        Some((name, None)) => {
            eprintln!("plinth: unknown command {name:?}: see `plinth help`");
            return USAGE;
        }
    };
    finish("help", print(&text).map(|()| 0))
}

/// Runs a verb on its arguments, read by the table, and reports how it went.
pub fn verb(name: &str, args: &[String], act: impl FnOnce(&Args) -> Result<u8, Fail>) -> u8 {
    let Some(verb) = table::verb(name) else { return USAGE };
    match args::parse(verb, args) {
        Ok(args) => finish(name, act(&args)),
        Err(why) => {
            eprintln!("plinth {name}: {why}\n{}see `plinth {name} --help`", usage::line(verb));
            USAGE
        }
    }
}

fn finish(name: &str, result: Result<u8, Fail>) -> u8 {
    match result {
        Ok(code) => code,
        Err(fail) => {
            if !fail.text.is_empty() {
                let _ = writeln!(io::stderr(), "plinth {name}: {}", fail.text);
            }
            fail.code
        }
    }
}

/// To standard output, at once. A reader that went away (`| head`) is no failure of ours: a silent exit, as if killed by SIGPIPE.
pub fn print(text: &str) -> Result<(), Fail> {
    print_bytes(text.as_bytes())
}

/// As [`print`].
pub fn print_bytes(bytes: &[u8]) -> Result<(), Fail> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Fail { code: 128 + 13, text: String::new() },
        _ => Fail::failed(format!("write to standard output: {}", client::plain(&e))),
    })
}

/// A note for the person, not part of the output.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
}

/// Prints a value in one of the machine formats.
pub fn print_as(format: &str, value: &impl Serialize) -> Result<(), Fail> {
    let value = serde_json::to_value(value).map_err(|e| Fail::failed(format!("write JSON: {e}")))?;
    match format {
        "yaml" => print(&yaml::document(&value)),
        _ => print(&format!("{value:#}\n")),
    }
}

/// The `-o` value, if it is one of the table's.
pub fn output<'a>(verb: &str, args: &'a Args) -> Result<Option<&'a str>, Fail> {
    let Some(asked) = args.value("output") else { return Ok(None) };
    let flag = table::verb(verb).and_then(|v| v.flags.iter().find(|f| f.long == "output"));
    match flag.map(|f| f.offer) {
        Some(table::Offer::Words(words)) if !words.contains(&asked) => {
            Err(Fail::usage(format!("unknown output format {asked:?}: choose from {}", words.join(", "))))
        }
        _ => Ok(Some(asked)),
    }
}
