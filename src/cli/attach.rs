//! `plinth attach`: a container's own input and output.

use serde_json::Value;

use super::client::Client;
use super::remote::{Wish, hold};
use super::{logs, note, terminal};
use crate::socket::query::encode;

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("attach", args, |args| {
        let client = Client::new(args);
        let (ns, name, container) = logs::target(&client, args)?;
        let stdin = args.has("stdin");
        let tty = has_tty(&client.json("/pods")?, [&ns, &name, &container]) && (!stdin || terminal::is_stdin());
        if stdin && tty {
            note("if you do not see a prompt, try pressing enter; Ctrl-p Ctrl-q leaves");
        }
        let input = if stdin { "&input=1" } else { "" };
        let path = format!("/attach/{}/{}/{}?output=1&error=1{input}", encode(&ns), encode(&name), encode(&container));
        hold(&client, &Wish { path, stdin, tty, attach: true })
    })
}

fn has_tty(list: &Value, [ns, name, container]: [&str; 3]) -> bool {
    let is = |v: &Value, path: &str, text: &str| v.pointer(path).and_then(Value::as_str) == Some(text);
    let all = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let pods = all(list, "/items");
    let pod = pods.iter().find(|p| is(p, "/metadata/namespace", ns) && is(p, "/metadata/name", name));
    let containers = pod.map(|p| [all(p, "/spec/containers"), all(p, "/spec/initContainers")].concat()).unwrap_or_default();
    containers.iter().any(|c| is(c, "/name", container) && c.get("tty") == Some(&Value::Bool(true)))
}
