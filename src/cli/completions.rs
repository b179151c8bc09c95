//! `plinth completions`: shell scripts made from the table.

use super::table::{Flag, HELP, Offer, Takes, VERBS, Verb};
use super::{Fail, print};

/// Pod names come from the socket, quietly: no socket, no names.
const PODS: &str = "plinth status -o name 2>/dev/null";

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("completions", args, |args| {
        let text = match args.operand() {
            Some("bash") => bash(),
            Some("zsh") => zsh(),
            Some("fish") => fish(),
            other => return Err(Fail::usage(format!("unknown shell {:?}: choose from bash, zsh, fish", other.unwrap_or_default()))),
        };
        print(&text).map(|()| 0)
    })
}

fn flags(verb: &Verb) -> impl Iterator<Item = &Flag> {
    verb.flags.iter().chain([&HELP])
}

fn names() -> String {
    VERBS.iter().map(|v| v.name).chain(["help"]).collect::<Vec<_>>().join(" ")
}

/// bash, without the bash-completion package.
pub fn bash() -> String {
    let offer = |offer: Offer| match offer {
        Offer::Nothing => "return".to_owned(),
        Offer::Words(words) => format!("COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return", words.join(" ")),
        Offer::File => "COMPREPLY=($(compgen -f -- \"$cur\")); return".into(),
        Offer::Dir => "COMPREPLY=($(compgen -d -- \"$cur\")); return".into(),
        Offer::Pod => format!("COMPREPLY=($(compgen -W \"$({PODS})\" -- \"$cur\")); return"),
    };
    let mut out = String::from(
        "# bash completion for plinth\n_plinth() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}\n  COMPREPLY=()\n",
    );
    out.push_str(&format!(
        "  if ((COMP_CWORD == 1)); then\n    COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return\n  fi\n  case $verb in\n",
        names()
    ));
    out.push_str(&format!("  help) COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return;;\n", names()));
    for verb in VERBS {
        out.push_str(&format!("  {})\n    case $prev in\n", verb.name));
        for flag in flags(verb).filter(|f| matches!(f.takes, Takes::Value(_))) {
            let short = flag.short.map_or_else(String::new, |c| format!("-{c}|"));
            out.push_str(&format!("    {short}--{}) {};;\n", flag.long, offer(flag.offer)));
        }
        let all: Vec<String> = flags(verb).map(|f| format!("--{}", f.long)).collect();
        out.push_str(&format!(
            "    esac\n    if [[ $cur == -* ]]; then\n      COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return\n    fi\n",
            all.join(" ")
        ));
        if let Some(operand) = verb.operands.first() {
            out.push_str(&format!("    {}\n", offer(operand.offer)));
        }
        out.push_str("    ;;\n");
    }
    out.push_str("  esac\n}\ncomplete -F _plinth plinth\n");
    out
}

/// zsh.
pub fn zsh() -> String {
    let action = |offer: Offer| match offer {
        Offer::Nothing => " ".to_owned(),
        Offer::Words(words) => format!("({})", words.join(" ")),
        Offer::File => "_files".into(),
        Offer::Dir => "_files -/".into(),
        Offer::Pod => "_plinth_pods".into(),
    };
    let plain = |text: &str| text.replace('\'', "").replace('[', "(").replace(']', ")").replace(':', "\\:");
    let mut out =
        format!("#compdef plinth\n_plinth_pods() {{\n  local -a pods=(${{(f)\"$({PODS})\"}})\n  compadd -a pods\n}}\n_plinth() {{\n");
    out.push_str("  local -a verbs=(\n");
    for verb in VERBS {
        out.push_str(&format!("    '{}:{}'\n", verb.name, plain(verb.summary)));
    }
    out.push_str("  )\n  if ((CURRENT == 2)); then\n    _describe command verbs\n    return\n  fi\n  local verb=$words[2]\n  shift words; ((CURRENT--))\n  case $verb in\n");
    for verb in VERBS {
        out.push_str(&format!("  {})\n    _arguments -s \\\n", verb.name));
        for flag in flags(verb) {
            let value = match flag.takes {
                Takes::Nothing => String::new(),
                Takes::Value(what) => format!(":{}:{}", plain(what), action(flag.offer)),
                Takes::Maybe(what, _) => format!("::{}:{}", plain(what), action(flag.offer)),
            };
            let help = plain(flag.help);
            let star = if flag.repeat { "*" } else { "" };
            let equals = match flag.takes {
                Takes::Nothing => "",
                Takes::Value(_) => "=",
                Takes::Maybe(..) => "=-",
            };
            if let Some(c) = flag.short {
                out.push_str(&format!("      '{star}-{c}[{help}]{value}' \\\n"));
            }
            out.push_str(&format!("      '{star}--{}{equals}[{help}]{value}' \\\n", flag.long));
        }
        for operand in verb.operands {
            out.push_str(&format!("      '*:{}:{}' \\\n", plain(operand.name), action(operand.offer)));
        }
        out.push_str("      && return\n    ;;\n");
    }
    out.push_str("  esac\n}\n_plinth \"$@\"\n");
    out
}

/// fish.
pub fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let offer = |offer: Offer| match offer {
        Offer::Nothing => String::new(),
        Offer::Words(words) => format!(" -a '{}'", words.join(" ")),
        Offer::File => " -F".into(),
        Offer::Dir => " -a '(__fish_complete_directories)'".into(),
        Offer::Pod => format!(" -a '({PODS})'"),
    };
    let mut out = String::from("# fish completion for plinth\ncomplete -c plinth -f\n");
    for verb in VERBS {
        let (name, summary) = (verb.name, quoted(verb.summary));
        out.push_str(&format!("complete -c plinth -n __fish_use_subcommand -a {name} -d '{summary}'\n"));
        let here = format!("complete -c plinth -n '__fish_seen_subcommand_from {name}'");
        for flag in flags(verb) {
            let short = flag.short.map_or_else(String::new, |c| format!(" -s {c}"));
            let value = if matches!(flag.takes, Takes::Value(_)) { format!(" -r{}", offer(flag.offer)) } else { String::new() };
            out.push_str(&format!("{here}{short} -l {}{value} -d '{}'\n", flag.long, quoted(flag.help)));
        }
        for operand in verb.operands.iter().filter(|o| o.offer != Offer::Nothing) {
            out.push_str(&format!("{here}{}\n", offer(operand.offer)));
        }
    }
    out
}
