//! `plinth why`: one pod explained.

use super::client::Client;
use super::resolve::{FullName, resolve};
use super::text::{age_between, tame};
use super::{Fail, output, print, print_as};
use crate::clock;
use crate::pod::{Finding, Verdict};
use crate::socket::query::encode;
use crate::socket::wire::{Attempt, Manifest, Status, Wait, Why};

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("why", args, |args| {
        let format = output("why", args)?;
        let client = Client::new(args);
        let status: Status = client.json("/v1/status")?;
        let names: Vec<FullName> = status.pods.iter().map(|p| (p.namespace.clone(), p.name.clone())).collect();
        let found = resolve(args.operand().unwrap_or_default(), &status.node.name, &names);
        let (ns, name) = found.map_err(|fail| with_refused(fail, &status))?;
        let why: Why = client.json(&format!("/v1/why/{}/{}", encode(&ns), encode(&name)))?;
        match format {
            Some(format) => print_as(format, &why)?,
            None => print(&explanation(&why, &clock::now().wall.to_string()))?,
        }
        Ok(0)
    })
}

/// A pod that is not there may be in a file that was refused: that is the answer to why.
fn with_refused(fail: Fail, status: &Status) -> Fail {
    let refused: Vec<&str> = status.manifests.iter().filter(|m| m.verdict == Verdict::Rejected).map(|m| m.path.as_str()).collect();
    if refused.is_empty() {
        return fail;
    }
    Fail { text: format!("{}; refused manifests: {} (see `plinth status`)", fail.text, refused.join(", ")), ..fail }
}

/// The text; `now` gives the ages.
pub fn explanation(why: &Why, now: &str) -> String {
    let mut out = Lines(String::new());
    out.line("Pod", &format!("{}/{} ({})", why.namespace, why.name, tame(&why.status)));
    out.line("UID", &why.uid);
    match &why.manifest {
        Some(m) => out.manifest(m, why.line),
        None if why.wanted => out.line("Manifest", "unknown"),
        None => out.line("Manifest", "none asks for it any more: it is being removed"),
    }
    let ago = |t: &str| format!("{} ago", age_between(Some(t), now));
    if let Some(d) = &why.last_decision {
        out.line("Decided", &format!("{}: {} ({})", d.action, tame(&d.why), ago(&d.time)));
    }
    if let Some(action) = &why.in_flight {
        out.line("Doing", action);
    }
    for wait in &why.waits_for {
        out.line("Waits for", &wait_text(wait));
    }
    if why.waits_for.is_empty() {
        out.line("Waits for", "nothing");
    }
    if let Some(seconds) = why.next_retry_seconds {
        out.line("Next try", &format!("in {seconds:.1} s"));
    }
    let since = why.sandbox.since.as_deref().map_or_else(String::new, |t| format!(" for {}", age_between(Some(t), now)));
    let ips = if why.sandbox.ips.is_empty() { String::new() } else { format!(", {}", why.sandbox.ips.join(", ")) };
    out.line("Sandbox", &format!("{}{since}, {} network{ips}", why.sandbox.state, why.sandbox.network));
    for c in &why.containers {
        out.line("Container", &attempt_text(c, now));
    }
    for uid in &why.older {
        out.line("Older", &format!("{uid}: another revision of it, which goes first"));
    }
    out.0
}

fn wait_text(wait: &Wait) -> String {
    let mut text = tame(&wait.on);
    for part in [&wait.reason, &wait.message].into_iter().flatten().filter(|p| !p.is_empty()) {
        text.push_str(": ");
        text.push_str(&tame(part));
    }
    match (wait.retry_in_seconds, wait.failures.filter(|n| *n > 0)) {
        (Some(s), Some(n)) => text.push_str(&format!(" (due in {s:.1} s, after {n} in a row)")),
        (Some(s), None) => text.push_str(&format!(" (due in {s:.1} s)")),
        (None, Some(n)) => text.push_str(&format!(" (after {n} in a row)")),
        (None, None) => {}
    }
    text
}

fn attempt_text(c: &Attempt, now: &str) -> String {
    let since = c.since.as_deref().map_or_else(String::new, |t| format!(" for {}", age_between(Some(t), now)));
    let exit = c.exit_code.map_or_else(String::new, |code| {
        let reason = c.reason.as_deref().filter(|r| !r.is_empty()).map_or_else(String::new, |r| format!(", {}", tame(r)));
        // One line of it: a termination message may be a page.
        let message = c.message.as_deref().and_then(|m| m.lines().find(|l| !l.trim().is_empty())).map(|l| format!(": {}", tame(l)));
        format!(", exit {code}{reason}{}", message.unwrap_or_default())
    });
    format!("{} #{}: {}{since}{exit} [{}]", c.name, c.attempt, c.state, c.id)
}

struct Lines(String);

impl Lines {
    fn line(&mut self, label: &str, text: &str) {
        self.0.push_str(&format!("{label:<11}{text}\n"));
    }

    fn manifest(&mut self, m: &Manifest, line: Option<u32>) {
        let line = line.map_or_else(String::new, |l| format!(":{l}"));
        self.line("Manifest", &format!("{}{line} (layer {})", m.path, m.layer));
        for over in &m.over {
            self.line("Overrides", over);
        }
        if m.stale {
            self.line("Stale", "the last good revision runs: the file is refused or missing since");
        }
        let place = |f: &Finding| if f.line > 0 { format!("{}:{}:{}: ", m.path, f.line, f.column) } else { format!("{}: ", m.path) };
        let field = |f: &Finding| if f.field.is_empty() { String::new() } else { format!("{}: ", f.field) };
        for (label, findings) in [("Error", &m.errors), ("Warning", &m.warnings)] {
            for f in findings {
                self.line(label, &format!("{}{}{}", place(f), field(f), tame(&f.message)));
            }
        }
    }
}
