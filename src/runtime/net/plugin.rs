//! One CNI plugin, called once: what it is told in environment and standard input, and what its answer means.
//!
//! No shell; killed with its process group at the timeout.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::bridge::{Bridge, BridgeError};
use super::cache::Attachment;
use super::portmap::{Nft, Portmap, PortmapError};
use super::{INTERFACE, NetError, conf};
use crate::settings::Settings;
use crate::sys::mounts;
use crate::sys::spawn::{Ended, Exec, Output};

/// A result is some hundred bytes; more is a plugin gone wild.
const CAP_BYTES: usize = 1 << 20;

/// One plugin, one verb: its standard output, or what it complained.
pub async fn call(
    settings: &Settings,
    verb: &'static str,
    made: &Attachment,
    plugin: &Value,
    prev: Option<&Value>,
    hold: Option<&OwnedFd>,
) -> Result<Vec<u8>, NetError> {
    let kind = conf::kind(plugin);
    let stdin = conf::for_plugin(made, plugin, prev);
    let refused = |said| NetError::Plugin { verb, network: made.network.clone(), plugin: kind.to_owned(), said };
    if let Some(bridge) = settings.cni_built_in.then(|| Bridge::read(&stdin)).flatten() {
        return bridge_built_in(settings, verb, made, &bridge).await.map_err(|e| refused(e.to_string()));
    }
    if let Some(ports) = settings.cni_built_in.then(|| Portmap::read(&stdin)).flatten() {
        match portmap_built_in(settings, verb, made, ports, hold).await {
            Ok(Some(said)) => return Ok(said),
            Err(PortmapError::Nft(said)) if find(settings, kind).is_err() => return Err(refused(said)),
            Err(PortmapError::Nft(said)) => log::debug!("{said}; CNI plugin `{kind}` is asked instead"),
            Err(e) => return Err(refused(e.to_string())),
            Ok(None) => {}
        }
    }
    let program = find(settings, kind)?;
    let stdin = stdin.to_string();
    let env = environment(settings, verb, made);
    let exec = Exec {
        program: &program,
        args: &[],
        env: &env,
        stdin: stdin.as_bytes(),
        hold,
        cap_bytes: CAP_BYTES,
        timeout: settings.cni_timeout,
    };
    let output = exec.run().await.map_err(|source| NetError::File { verb: "run", path: program.clone(), source })?;
    if output.ended == Some(Ended::Exited(0)) {
        return Ok(output.stdout);
    }
    Err(refused(complaint(&output, settings.cni_timeout)))
}

/// The same answers without a program; the plugins have nothing to collect in a GC.
async fn bridge_built_in(settings: &Settings, verb: &str, made: &Attachment, bridge: &Bridge) -> Result<Vec<u8>, BridgeError> {
    match verb {
        "ADD" => bridge.add(made, settings.cni_timeout).await.map(|result| result.to_string().into_bytes()),
        "DEL" => bridge.delete(made, settings.cni_timeout).await.map(|()| Vec::new()),
        _ => Ok(Vec::new()),
    }
}

/// `None`: it is the plugin's after all.
async fn portmap_built_in(
    settings: &Settings,
    verb: &str,
    made: &Attachment,
    ports: Portmap,
    hold: Option<&OwnedFd>,
) -> Result<Option<Vec<u8>>, PortmapError> {
    let Some(program) = Nft::find() else { return Ok(None) };
    let nft = Nft { program, hold, patience: settings.cni_timeout };
    match verb {
        "ADD" => Ok(ports.add(&made.id, &nft).await?.map(|result| result.to_string().into_bytes())),
        "DEL" => ports.delete(&made.id, &nft).await.map(|()| Some(Vec::new())),
        _ => Ok(Some(Vec::new())),
    }
}

fn find(settings: &Settings, kind: &str) -> Result<PathBuf, NetError> {
    let named = !kind.is_empty() && !kind.contains('/') && kind != "." && kind != "..";
    let found = settings.cni_bin_dirs.iter().map(|d| d.join(kind)).find(|p| named && p.is_file());
    found.ok_or_else(|| NetError::NoPlugin { plugin: kind.to_owned(), dirs: joined(&settings.cni_bin_dirs, ", ") })
}

fn joined(dirs: &[PathBuf], with: &str) -> String {
    dirs.iter().map(|d| d.to_string_lossy()).collect::<Vec<_>>().join(with)
}

/// Ours (plugins look for iptables on PATH) without what is between us and the service manager, and the protocol's.
fn environment(settings: &Settings, verb: &str, made: &Attachment) -> Vec<(String, String)> {
    let inherited = std::env::vars().filter(|(k, _)| !["CNI_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"].iter().any(|p| k.starts_with(p)));
    // After a reboot, or once unpinned, the path names nothing: the protocol's word for that is an empty one.
    let netns = if mounts::is_pin(Path::new(&made.netns)) { made.netns.clone() } else { String::new() };
    let mut env: Vec<(String, String)> = inherited.collect();
    let mut set = |k: &str, v: String| env.push((k.to_owned(), v));
    set("CNI_COMMAND", verb.to_owned());
    set("CNI_PATH", joined(&settings.cni_bin_dirs, ":"));
    if verb != "GC" {
        set("CNI_CONTAINERID", made.id.clone());
        set("CNI_NETNS", netns);
        set("CNI_IFNAME", INTERFACE.to_owned());
        set("CNI_ARGS", made.args());
    }
    env
}

/// Errors come as JSON on standard output; what is not that is shown as it came, standard error first.
pub(super) fn complaint(output: &Output, timeout: Duration) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(1000).collect::<String>();
    if let Ok(error) = serde_json::from_slice::<Value>(&output.stdout) {
        let part = |key| error.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        if let Some(msg) = part("msg") {
            return part("details").map_or_else(|| msg.to_owned(), |d| format!("{msg}: {d}"));
        }
    }
    let how = match output.ended {
        None => format!("no answer within {} s, killed", timeout.as_secs()),
        Some(Ended::Exited(code)) => format!("exit status {code}"),
        Some(Ended::Signalled(signal)) => format!("ended by signal {signal}"),
    };
    let words = [text(&output.stderr), text(&output.stdout)].into_iter().find(|t| !t.is_empty());
    words.map_or(how.clone(), |w| format!("{how}: {w}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_own_words_are_shown() {
        let timeout = Duration::from_secs(60);
        let said = |ended, out: &str, err: &str| complaint(&Output { ended, stdout: out.into(), stderr: err.into() }, timeout);
        assert_eq!(said(Some(Ended::Exited(1)), r#"{"code":11,"msg":"no addresses","details":"full"}"#, ""), "no addresses: full");
        assert_eq!(said(Some(Ended::Exited(2)), "", "panic\n"), "exit status 2: panic");
        assert_eq!(said(None, "", ""), "no answer within 60 s, killed");
    }
}
