//! The pod's network by CNI plugins, as containerd's CRI and libcni use them: ADD in order, DEL in reverse with what ADD was given.
//!
//! - `conf`: which configuration, and what of it each plugin is given (pure but for reading the directory)
//! - `plugin`: one call of one of them
//! - `bridge`, `host_local`, `portmap`: what the plugins of these names would do, done here where every word of the configuration is known
//! - `lock`: a plugin that outlives us is waited for, not raced
//! - `cache`: what was added, on disk, so that it can be given back by any later process, also after a reboot
//!
//! The cache entry is written before the first plugin runs and removed after the last DEL: an address may be given back twice
//! (DEL is idempotent), never lost and never added twice.

mod bridge;
pub mod cache;
mod conf;
mod host_local;
pub mod lock;
mod plugin;
mod portmap;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::paths::Paths;
use crate::pod::{Uid, WantedPod};
use crate::settings::Settings;
use cache::Attachment;
use plugin::call;

/// The interface in the pod, as with every Kubernetes runtime.
pub const INTERFACE: &str = "eth0";

/// What can go wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No configuration at all.
    #[error("find a CNI configuration in {dir}: there is none; put a *.conflist there, or use hostNetwork")]
    NoConfig {
        /// Where one should be.
        dir: PathBuf,
    },
    /// The one that counts is no good.
    #[error("read CNI configuration {path}: {why}")]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A plugin is not installed.
    #[error("find CNI plugin `{plugin}` in {dirs}: it is not there; install it (containernetworking-plugins) or correct cniBinDirs")]
    NoPlugin {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        dirs: String,
    },
    /// A plugin said no.
    #[error("{verb} network `{network}` by CNI plugin `{plugin}`: {said}")]
    Plugin {
        /// ADD, DEL or GC.
        verb: &'static str,
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// Its message.
        said: String,
    },
    /// A child started before our last end still runs.
    #[error("wait for a CNI plugin of pod {uid} that an earlier plinth started: it still runs after {seconds} s; end it, or wait")]
    Busy {
        /// Whose.
        uid: Uid,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Something of ours failed.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// The node has no network for any pod, whatever the pod.
    pub fn is_node(&self) -> bool {
        matches!(self, NetError::NoConfig { .. } | NetError::BadConfig { .. } | NetError::NoPlugin { .. })
    }
}

/// Adds the pod to the network and answers its addresses, primary first. What a failure left behind is given back before it returns.
pub async fn attach(settings: &Settings, paths: &Paths, pod: &WantedPod, group: &Path, lock: &OwnedFd) -> Result<Vec<IpAddr>, NetError> {
    let dir = paths.cni_results();
    if let Some(known) = cache::of(&dir, &pod.uid).into_iter().find(|a| a.result.is_some()) {
        return Ok(addresses(known.result.as_ref()));
    }
    let capabilities = conf::capabilities(pod, group);
    let list = conf::without_idle(conf::first(&settings.cni_conf_dir)?, &capabilities);
    let netns = paths.namespace(&pod.uid, "net");
    let mut made = Attachment::new(&list, pod, &netns, capabilities);
    made.save(&dir)?;
    match add(settings, &made, lock).await {
        Ok(result) => {
            let ips = addresses(Some(&result));
            made.result = Some(result);
            made.save(&dir)?;
            Ok(ips)
        }
        Err(e) => {
            if let Err(undo) = release(settings, &dir, &made, lock).await {
                log::warn!("pod={} give back what a failed ADD took: {undo}; it is tried again when the pod is removed", pod.key);
            }
            Err(e)
        }
    }
}

async fn add(settings: &Settings, made: &Attachment, lock: &OwnedFd) -> Result<Value, NetError> {
    let mut result = None;
    for plugin in made.plugins()? {
        let said = call(settings, "ADD", made, &plugin, result.as_ref(), Some(lock)).await?;
        // A plugin may say nothing: then what was before it still holds.
        result = if said.trim_ascii().is_empty() { result } else { Some(parse(made, &plugin, &said)?) };
    }
    Ok(result.unwrap_or_else(|| json!({})))
}

fn parse(made: &Attachment, plugin: &Value, said: &[u8]) -> Result<Value, NetError> {
    serde_json::from_slice(said).map_err(|e| {
        let said = format!("its result is not JSON: {e}");
        NetError::Plugin { verb: "ADD", network: made.network.clone(), plugin: conf::kind(plugin).to_owned(), said }
    })
}

/// Gives back everything the pod has on any network. Nothing on record is success.
pub async fn detach(settings: &Settings, paths: &Paths, uid: &Uid, lock: &OwnedFd) -> Result<(), NetError> {
    let dir = paths.cni_results();
    for attachment in cache::of(&dir, uid) {
        release(settings, &dir, &attachment, lock).await?;
    }
    for record in cache::broken(&dir, uid) {
        // As libcni does without a record: the present configuration is the best guess.
        let made = Attachment::of_uid(&conf::first(&settings.cni_conf_dir)?, uid);
        release(settings, &dir, &made, lock).await?;
        std::fs::remove_file(&record).or_else(ignore_absent).map_err(|source| NetError::File { verb: "remove", path: record, source })?;
    }
    Ok(())
}

fn ignore_absent(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

async fn release_pod(settings: &Settings, paths: &Paths, uid: &Uid) -> Result<(), NetError> {
    let lock = lock::take(settings, paths, uid).await?;
    detach(settings, paths, uid, &lock).await?;
    // If there was nothing but the lock, there is nothing now; else the rest is for the sandbox to undo.
    let run = paths.run_pod(uid);
    let _ = std::fs::remove_file(run.join(lock::NAME));
    let _ = std::fs::remove_dir(run);
    Ok(())
}

async fn release(settings: &Settings, dir: &Path, made: &Attachment, lock: &OwnedFd) -> Result<(), NetError> {
    for plugin in made.plugins()?.iter().rev() {
        match call(settings, "DEL", made, plugin, made.result.as_ref(), Some(lock)).await {
            // Why ADD failed: it was never there to add anything.
            Err(NetError::NoPlugin { .. }) if made.result.is_none() => {}
            done => drop(done?),
        }
    }
    made.forget(dir)
}

/// At start: gives back what pods nobody keeps still hold, and lets plugins that can (CNI 1.1) collect what no record knows.
/// The first failure is told, the rest is done all the same.
pub async fn release_stale(settings: &Settings, paths: &Paths, keep: &BTreeSet<Uid>) -> Result<(), NetError> {
    let dir = paths.cni_results();
    let mut outcome = Ok(());
    for uid in cache::scan(&dir).into_iter().filter(|uid| !keep.contains(uid)) {
        outcome = outcome.and(release_pod(settings, paths, &uid).await);
    }
    if let Ok(list) = conf::first(&settings.cni_conf_dir)
        && conf::can_collect(&list)
    {
        let nobody = Attachment::of_list(&list);
        for plugin in conf::for_collection(&list, cache::scan(&dir).iter()) {
            outcome = outcome.and(call(settings, "GC", &nobody, &plugin, None, None).await.map(drop));
        }
    }
    outcome
}

/// The pod's addresses of a result: those of its interface, an IPv4 one first (containerd's default preference), then in order.
fn addresses(result: Option<&Value>) -> Vec<IpAddr> {
    let Some(result) = result else { return Vec::new() };
    let name = |at: u64| result.get("interfaces")?.get(usize::try_from(at).ok()?)?.get("name")?.as_str();
    let ours = |ip: &&Value| ip.get("interface").and_then(Value::as_u64).is_none_or(|at| name(at) == Some(INTERFACE));
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten().filter(ours).filter_map(|ip| ip.get("address"));
    // Versions before 0.3.0 have one of each family instead of a list.
    let old = ["ip4", "ip6"].into_iter().filter_map(|k| result.get(k)?.get("ip"));
    let texts = listed.chain(old).filter_map(Value::as_str);
    let mut all: Vec<IpAddr> = texts.filter_map(|t| t.split('/').next()?.parse().ok()).collect();
    if let Some(at) = all.iter().position(IpAddr::is_ipv4) {
        let first = all.remove(at);
        all.insert(0, first);
    }
    all
}

/// The address the node would leave from: what a pod on the host's network has when no node IP is set.
pub fn default_address() -> Option<IpAddr> {
    // Connecting a datagram socket only looks up the route; nothing is sent. The targets are documentation addresses.
    let towards = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    towards("0.0.0.0:0", "192.0.2.1:9").or_else(|| towards("[::]:0", "[2001:db8::1]:9"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn addresses_are_those_of_the_pods_interface_ipv4_first() {
        let result = json!({
            "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/x" }],
            "ips": [{ "address": "fd00::2/64", "interface": 1 }, { "address": "10.9.0.1/24", "interface": 0 }, { "address": "10.9.0.2/24", "interface": 1 }],
        });
        let ips: Vec<String> = addresses(Some(&result)).iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.9.0.2", "fd00::2"]);
        assert_eq!(addresses(Some(&json!({ "ip4": { "ip": "10.1.1.1/24" } }))).len(), 1);
        assert_eq!(addresses(Some(&json!({}))).len(), 0);
    }
}
