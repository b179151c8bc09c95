//! Help texts, from the table.

use super::table::{Count, ENVIRONMENT, EXITS, Flag, HELP, Operand, Takes, VERBS, Verb};

/// Where help is folded.
const COLUMNS: usize = 96;

/// `usage: plinth status [POD] [-o FORMAT] ...`
pub fn line(verb: &Verb) -> String {
    let mut out = format!("usage: plinth {}", verb.name);
    let indent = out.len();
    let mut column = indent;
    let flags = verb.flags.iter().map(|f| format!("[{}]{}", brief(f), if f.repeat { "..." } else { "" }));
    for part in flags.chain(verb.operands.iter().map(operand_form)) {
        if column + 1 + part.len() > COLUMNS {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        }
        out.push(' ');
        out.push_str(&part);
        column += 1 + part.len();
    }
    out.push('\n');
    out
}

/// An operand as the usage line shows it.
pub fn operand_form(operand: &Operand) -> String {
    match operand.count {
        Count::One => operand.name.to_owned(),
        Count::Maybe => format!("[{}]", operand.name),
        Count::Many => format!("{}...", operand.name),
    }
}

/// A flag's shortest form with its value: `-o FORMAT`, `--wait[=TIME]`.
fn brief(flag: &Flag) -> String {
    match (flag.short, flag.takes) {
        (Some(c), Takes::Nothing | Takes::Maybe(..)) => format!("-{c}"),
        (Some(c), Takes::Value(what)) => format!("-{c} {what}"),
        (None, _) => long_form(flag),
    }
}

/// A flag's long form with its value.
pub fn long_form(flag: &Flag) -> String {
    match flag.takes {
        Takes::Nothing => format!("--{}", flag.long),
        Takes::Value(what) => format!("--{} {what}", flag.long),
        Takes::Maybe(what, _) => format!("--{}[={what}]", flag.long),
    }
}

/// What a flag does, with what it means when it stands alone.
pub fn flag_help(flag: &Flag) -> String {
    match flag.takes {
        Takes::Maybe(_, usual) => format!("{} ({usual} when no value is given)", flag.help),
        Takes::Nothing | Takes::Value(_) => flag.help.to_owned(),
    }
}

/// `plinth help`.
pub fn overview() -> String {
    let mut out = String::from("plinth: static pods on containerd, without a control plane\n\nusage: plinth COMMAND [ARGUMENTS]\n\n");
    for verb in VERBS {
        out.push_str(&format!("  {:<13}{}\n", verb.name, verb.summary));
    }
    out.push_str("\nexit status:\n");
    for (code, what) in EXITS {
        out.push_str(&format!("  {code}  {what}\n"));
    }
    out.push_str("\nenvironment:\n");
    for (name, what) in ENVIRONMENT {
        out.push_str(&format!("  {name:<15}{what}\n"));
    }
    out.push_str("\n`plinth COMMAND --help` says more.\n");
    out
}

/// `plinth VERB --help`.
pub fn page(verb: &Verb) -> String {
    let mut out = format!("plinth {}: {}\n\n{}\n", verb.name, verb.summary, line(verb));
    for flag in verb.flags.iter().chain([&HELP]) {
        let short = flag.short.map_or_else(|| "    ".into(), |c| format!("-{c}, "));
        out.push_str(&format!("  {short}{:<21} {}\n", long_form(flag), flag_help(flag)));
    }
    for paragraph in verb.text {
        out.push('\n');
        out.push_str(&wrap(paragraph));
    }
    if !verb.examples.is_empty() {
        out.push_str("\nexamples:\n");
        for (command, what) in verb.examples {
            out.push_str(&format!("  {command}\n      {what}\n"));
        }
    }
    out
}

fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if column > 0 && column + 1 + long > COLUMNS {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += long;
    }
    out.push('\n');
    out
}
