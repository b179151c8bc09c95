//! `plinth exec`: a command in a container.

use super::client::Client;
use super::remote::{Wish, hold};
use super::{Fail, logs, note, terminal};
use crate::socket::query::encode;

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("exec", args, |args| {
        let command = args.operands.get(1..).unwrap_or_default();
        if command.is_empty() {
            return Err(Fail::usage("CMD is missing: write `plinth exec POD -- CMD...`"));
        }
        let client = Client::new(args);
        let (ns, name, container) = logs::target(&client, args)?;
        let stdin = args.has("stdin");
        let mut tty = args.has("tty");
        if tty && stdin && !terminal::is_stdin() {
            // kubectl's words.
            note("unable to use a TTY - input is not a terminal or the right kind of file");
            tty = false;
        }
        let mut path = format!("/exec/{}/{}/{}?output=1", encode(&ns), encode(&name), encode(&container));
        for (wanted, word) in [(stdin, "input"), (!tty, "error"), (tty, "tty")] {
            path.push_str(&if wanted { format!("&{word}=1") } else { String::new() });
        }
        command.iter().for_each(|word| path.push_str(&format!("&command={}", encode(word))));
        hold(&client, &Wish { path, stdin, tty, attach: false })
    })
}
