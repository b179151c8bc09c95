//! `plinth man`: pages in man(7) macros, made from the table.

use std::fs;
use std::path::Path;

use super::table::{ENVIRONMENT, EXITS, Flag, HELP, Takes, VERBS, Verb};
use super::usage::{flag_help, operand_form};
use super::{Fail, client, print};

/// The default configuration as it is installed: a comment over each setting, which is what the page of settings is made from.
const CONFIG: &str = include_str!("../../images/install/config.yaml");

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("man", args, |args| {
        let Some(dir) = args.operand() else { return print(&overview()).map(|()| 0) };
        let write = |name: &str, text: &str| {
            let path = Path::new(dir).join(name);
            fs::write(&path, text).map_err(|e| Fail::failed(format!("write `{}`: {}", path.display(), client::plain(&e))))
        };
        write("plinth.1", &overview())?;
        for verb in VERBS {
            write(&format!("plinth-{}.1", verb.name), &page(verb))?;
        }
        write("plinth-config.5", &config())?;
        Ok(0)
    })
}

/// plinth(1).
pub fn overview() -> String {
    let mut out = head("PLINTH", 1);
    out.push_str(".SH NAME\nplinth \\- static pods on containerd, without a control plane\n.SH SYNOPSIS\n.B plinth\n.I COMMAND\n[\\fIARGUMENTS\\fR]\n");
    out.push_str(".SH DESCRIPTION\n");
    out.push_str(&roff(
        "Plinth reads Pod manifests from layered directories, runs them on containerd as the kubelet runs static pods, keeps them running, \
         and shows them on a status socket. It needs no API server, no pause image and no registry.",
    ));
    out.push_str("\n.SH COMMANDS\n");
    for verb in VERBS {
        out.push_str(&format!(
            ".TP\n\\fBplinth {}\\fR{}\n{}; see\n.BR plinth\\-{} (1).\n",
            roff(verb.name),
            operands(verb),
            capital(&roff(verb.summary)),
            roff(verb.name)
        ));
    }
    out.push_str(&tail());
    out.push_str(".SH FILES\n");
    for (file, what) in [
        ("/usr/lib/plinth/manifests, /run/plinth/manifests, /etc/plinth/manifests", "Manifest layers, lowest first."),
        ("/usr/lib/plinth/images", "OCI archives to import images from."),
        ("/etc/plinth/config.yaml", "Settings."),
        ("/run/plinth/plinth.sock", "The status socket."),
        ("/var/log/pods", "Container logs."),
    ] {
        out.push_str(&format!(".TP\n.I {}\n{}\n", roff(file), roff(what)));
    }
    out.push_str(".SH SEE ALSO\n");
    let mut pages: Vec<String> = VERBS.iter().map(|v| format!(".BR plinth\\-{} (1)", roff(v.name))).collect();
    pages.push(".BR plinth\\-config (5)".into());
    out.push_str(&pages.join(",\n"));
    out.push('\n');
    out
}

/// plinth-VERB(1).
pub fn page(verb: &Verb) -> String {
    let mut out = head(&format!("PLINTH\\-{}", verb.name.to_uppercase()), 1);
    out.push_str(&format!(
        ".SH NAME\nplinth\\-{} \\- {}\n.SH SYNOPSIS\n.nh\n\\fBplinth {}\\fR",
        roff(verb.name),
        roff(verb.summary),
        roff(verb.name)
    ));
    for flag in verb.flags {
        out.push_str(&format!("\n[{}]{}", forms(flag).join("|"), if flag.repeat { "..." } else { "" }));
    }
    out.push_str(&format!("\n{}\n.hy\n.SH DESCRIPTION\n", operands(verb).trim_start()));
    let summary = format!("{}.", capital(verb.summary));
    for (i, paragraph) in std::iter::once(summary.as_str()).chain(verb.text.iter().copied()).enumerate() {
        out.push_str(if i == 0 { "" } else { ".PP\n" });
        out.push_str(&roff(paragraph));
        out.push('\n');
    }
    out.push_str(".SH OPTIONS\n");
    for flag in verb.flags.iter().chain([&HELP]) {
        out.push_str(&format!(".TP\n{}\n{}.\n", forms(flag).join(", "), capital(&roff(&flag_help(flag)))));
    }
    if !verb.examples.is_empty() {
        out.push_str(".SH EXAMPLES\n");
        for (command, what) in verb.examples {
            out.push_str(&format!(".TP\n\\fB{}\\fR\n{}.\n", roff(command), capital(&roff(what))));
        }
    }
    out.push_str(&tail());
    out.push_str(".SH SEE ALSO\n.BR plinth (1)\n");
    out
}

/// plinth-config(5): the words of the default configuration are about the settings below them, those before the first about all.
pub fn config() -> String {
    let mut out = head("PLINTH\\-CONFIG", 5);
    out.push_str(".SH NAME\nplinth\\-config \\- settings of plinth\n.SH SYNOPSIS\n.I /etc/plinth/config.yaml\n.SH DESCRIPTION\n");
    let mut settings = false;
    let is_words = |line: &str| line == "#" || line.starts_with("# ");
    let lines: Vec<&str> = CONFIG.lines().filter(|line| !line.is_empty()).collect();
    for group in lines.chunk_by(|above, below| is_words(above) || !is_words(below)) {
        let (words, keys): (Vec<&str>, Vec<&str>) = group.iter().partition(|line| is_words(line));
        for (n, key) in keys.iter().filter_map(|line| line.strip_prefix('#')).enumerate() {
            out.push_str(if settings { "" } else { ".SH SETTINGS\n" });
            out.push_str(&format!("{}\n.B {}\n", if n == 0 { ".TP" } else { ".TQ" }, roff(key)));
            settings = true;
        }
        for line in words.iter().map(|line| line.trim_start_matches('#').trim_start()) {
            let line = if line.starts_with("kubelet: ") { format!("({line})") } else { line.to_owned() };
            out.push_str(&if line.is_empty() { ".PP\n".to_owned() } else { format!("{}\n", roff(&line)) });
        }
        for line in keys.iter().filter(|line| !line.starts_with('#')) {
            out.push_str(&format!(".br\n\\fB{}\\fR\n", roff(line)));
        }
    }
    out.push_str(".SH SEE ALSO\n.BR plinth (1),\n.BR plinth\\-run (1)\n");
    out
}

fn head(title: &str, section: u8) -> String {
    format!(".TH {title} {section} \"\" \"plinth {}\" \"plinth\"\n", roff(env!("CARGO_PKG_VERSION")))
}

fn tail() -> String {
    let mut out = String::from(".SH EXIT STATUS\n");
    for (code, what) in EXITS {
        out.push_str(&format!(".TP\n.B {code}\n{}\n", roff(what)));
    }
    out.push_str(".SH ENVIRONMENT\n");
    for (name, what) in ENVIRONMENT {
        out.push_str(&format!(".TP\n.B {name}\n{}\n", roff(what)));
    }
    out
}

fn operands(verb: &Verb) -> String {
    verb.operands.iter().map(|o| format!(" \\fI{}\\fR", roff(&operand_form(o)))).collect()
}

/// Short and long form, with the value's name.
fn forms(flag: &Flag) -> Vec<String> {
    let long = roff(flag.long);
    let (short_value, long_value) = match flag.takes {
        Takes::Nothing => (String::new(), String::new()),
        Takes::Value(what) => (format!(" \\fI{}\\fR", roff(what)), format!(" \\fI{}\\fR", roff(what))),
        Takes::Maybe(what, _) => (String::new(), format!("[=\\fI{}\\fR]", roff(what))),
    };
    let short = flag.short.map(|c| format!("\\fB\\-{c}\\fR{short_value}"));
    short.into_iter().chain([format!("\\fB\\-\\-{long}\\fR{long_value}")]).collect()
}

/// Escaped for roff: backslashes, hyphens a reader may copy, and a first character that would be a request.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
