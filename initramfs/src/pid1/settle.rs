//! What takes drivers, in a process of its own beside the first services: PID 1 never waits for hardware.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{setup, table};
use crate::cmdline::{self, Ip, Words};
use crate::failure::{Doing, Done, Failure};
use crate::{modules, net};

/// Loads the root's list of modules, sets the kernel, gives the network its address. What fails is a line.
pub fn settle() -> Done {
    let (words, _) = cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let (loaded, mut wrong) = modules::load(Path::new("/usr/lib/plinth/modules"), Path::new("/usr/lib/modules"));
    wrong.extend(setup::sysctls());
    wrong.extend(net::link_up("lo").err().map(|e| e.to_string()));
    wrong.extend(address(&words).err().map(|e| e.to_string()));
    wrong.extend(rules().err().map(|e| e.to_string()));
    wrong.iter().for_each(|w| eprintln!("{w}"));
    if words.debug {
        eprintln!("{loaded} modules loaded");
    }
    Ok(())
}

fn address(words: &Words) -> Done {
    let Some(Ip::Fixed { addr, prefix, gateway, dns }) = &words.ip else { return Ok(()) };
    let dns: Vec<_> = dns.iter().copied().collect();
    net::configure(&net::port()?, *addr, *prefix, *gateway, &dns)
}

/// The machine's own packet rules, if it has some.
fn rules() -> Done {
    const FILE: &str = "/usr/lib/plinth/rules.nft";
    if !Path::new(FILE).exists() {
        return Ok(());
    }
    let program = "/usr/sbin/nft";
    let words = || format!("load {FILE}");
    let done = Command::new(program).args(["-f", FILE]).output().doing(words)?;
    let said = String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ");
    if done.status.success() { Ok(()) } else { Err(Failure::new(words(), format!("{program}: {said}"))) }
}

/// Becomes the DHCP client of the first port. Returns only for want of one.
pub fn dhcp() -> Done {
    let port = net::port()?;
    let [program, args @ ..] = table::dhcp(&port);
    Err(Command::new(program).args(args).exec()).doing(|| format!("start {program}"))
}
