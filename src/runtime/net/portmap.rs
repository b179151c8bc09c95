//! What CNI's `portmap` does with its backend `nftables`, done here: one run of `nft` for all rules of a pod, where the plugin first finds out
//! what nft and the kernel can, in runs of their own. The table, chains, rules and comments are the plugin's, so that either undoes what the
//! other did.
//!
//! Only where every word of the configuration is known here, as with `bridge`. What nft refuses is the plugin's too: the rules are made all at
//! once or not at all, so it begins where this began, and succeeds or says why not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::addresses;
use super::plugin::complaint;
use crate::sys::netlink::{Refused, Script};
use crate::sys::spawn::{Ended, Exec, Output};

/// All rules of all pods are listed at a pod's end: some 600 bytes each.
const CAP_BYTES: usize = 32 << 20;
/// Where rules of pods are; nothing is written to the second any more.
const CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

/// What the plugin reads, as far as it is known here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Conf {
    r#type: String,
    cni_version: String,
    /// Silence means what the plugin finds.
    backend: String,
    #[serde(default = "yes")]
    snat: bool,
    #[serde(default)]
    runtime_config: Given,
    prev_result: Option<Value>,
    // Known, and of no concern to it.
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(default, rename = "capabilities")]
    _capabilities: IgnoredAny,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    _valid_attachments: IgnoredAny,
    #[serde(default, rename = "cni.dev/attachments")]
    _attachments: IgnoredAny,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    port_mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mapping {
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
    #[serde(rename = "hostIP")]
    host_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// The ports of one pod.
#[derive(Debug)]
pub struct Portmap {
    snat: bool,
    ports: Vec<Mapping>,
    /// What came before; none at the end of what never had a result.
    result: Option<Value>,
}

/// How nft is run.
pub struct Nft<'a> {
    /// Where it is.
    pub program: PathBuf,
    /// Open in it.
    pub hold: Option<&'a OwnedFd>,
    /// Killed after that.
    pub patience: Duration,
}

/// Why ports are not mapped, or mapped still.
#[derive(Debug, thiserror::Error)]
pub enum PortmapError {
    /// nft could not be run, or said no, or something that is not understood. Nothing was changed.
    #[error("{0}")]
    Nft(String),
    /// With the rules made.
    #[error("{}: {}", .0.doing, .0.source)]
    Refused(#[from] Refused),
}

/// nft's words for a table: one a family.
fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}

impl Portmap {
    /// Understands what the plugin would read, or leaves it to the plugin.
    pub fn read(conf: &Value) -> Option<Portmap> {
        let conf = Conf::deserialize(conf).ok().filter(|c| c.r#type == "portmap" && c.backend == "nftables")?;
        let speaks = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&&*conf.cni_version);
        let ports = conf.runtime_config.port_mappings;
        let is_known = |m: &Mapping| {
            let is_of_two_families = matches!(m.host_ip, Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some());
            m.host_port > 0 && m.container_port > 0 && !is_of_two_families
        };
        (speaks && ports.iter().all(is_known)).then_some(Portmap { snat: conf.snat, ports, result: conf.prev_result })
    }

    /// ADD: the rules, and what was there before for a result. `None`: nothing was there, which the plugin refuses.
    pub async fn add(self, id: &str, nft: &Nft<'_>) -> Result<Option<Value>, PortmapError> {
        let Some(result) = &self.result else { return Ok(None) };
        let ips = if self.ports.is_empty() { Vec::new() } else { one_of_each(&addresses(Some(result))) };
        if !ips.is_empty() {
            let rules: String = ips.iter().map(|ip| self.rules(id, *ip)).collect();
            nft.change("add the rules", &rules).await?;
        }
        let udp: Vec<u16> = self.ports.iter().filter(|m| m.protocol == Protocol::Udp).map(|m| m.host_port).collect();
        let mut script = Script::default();
        for ip in ips {
            if !udp.is_empty() {
                script = script.forget_udp(ip, udp.clone());
            }
            if let (IpAddr::V4(ip), true) = (ip, self.snat) {
                script = script.localnet(ip);
            }
        }
        if !script.is_empty() {
            script.run(nft.patience).await?;
        }
        Ok(self.result)
    }

    /// What nft is told. All of it can be said again but a pod's own rules.
    fn rules(&self, id: &str, pod: IpAddr) -> String {
        let ip = family(pod);
        let mut all = format!("add table {ip} cni_hostport {{ comment \"CNI portmap plugin\" ; }}\n");
        let mut say = |line: String| {
            all += &line;
            all.push('\n');
        };
        for chain in ["hostports", "hostip_hostports", "hostports_all"] {
            say(format!("add chain {ip} cni_hostport {chain}"));
        }
        say(format!("flush chain {ip} cni_hostport hostports_all"));
        for chain in ["hostip_hostports", "hostports"] {
            say(format!("add rule {ip} cni_hostport hostports_all jump {chain}"));
        }
        for hook in ["prerouting", "output"] {
            say(format!("add chain {ip} cni_hostport {hook} {{ type nat hook {hook} priority -100 ; }}"));
            say(format!("flush chain {ip} cni_hostport {hook}"));
            say(format!("add rule {ip} cni_hostport {hook} fib daddr type local jump hostports_all"));
        }
        if self.snat {
            say(format!("add chain {ip} cni_hostport masquerading {{ type nat hook postrouting priority 100 ; }}"));
        }
        for port in self.ports.iter().filter(|m| m.host_ip.is_none_or(|host| host.is_ipv4() == pod.is_ipv4())) {
            // To no address in particular is to any.
            let on = port.host_ip.filter(|host| !host.is_unspecified()).map(|host| format!("{ip} daddr {host} ")).unwrap_or_default();
            let (proto, from, to) = (port.protocol.word(), port.host_port, SocketAddr::new(pod, port.container_port));
            say(format!("add rule {ip} cni_hostport hostports {on}{proto} dport {from} dnat to {to} comment \"{id}\""));
        }
        if self.snat {
            // The pod that asks itself, and the host by its loopback address: the answer has to come back by here.
            let own = [Some(pod.to_string()), pod.is_ipv4().then(|| "127.0.0.1".to_owned())];
            for from in own.into_iter().flatten() {
                say(format!("add rule {ip} cni_hostport masquerading {ip} saddr {from} {ip} daddr {pod} masquerade comment \"{id}\""));
            }
        }
        all
    }

    /// DEL: the rules with this name on them, which may be none.
    pub async fn delete(&self, id: &str, nft: &Nft<'_>) -> Result<(), PortmapError> {
        if self.ports.is_empty() {
            return Ok(());
        }
        let mut script = String::new();
        let has_ipv6 = self.result.as_ref().is_none_or(|r| addresses(Some(r)).iter().any(IpAddr::is_ipv6));
        for family in ["ip", "ip6"].into_iter().take(if has_ipv6 { 2 } else { 1 }) {
            let listed = nft.list(family).await?;
            script += &own_rules(family, &listed, id).map_err(|e| PortmapError::Nft(format!("read what nft lists: {e}")))?;
        }
        if script.is_empty() { Ok(()) } else { nft.change("delete the rules", &script).await }
    }
}

/// A pod is reached by one address of each family.
fn one_of_each(ips: &[IpAddr]) -> Vec<IpAddr> {
    let [v4, v6] = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|is| ips.iter().copied().find(is));
    v4.into_iter().chain(v6).collect()
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    chain: String,
    handle: u64,
    comment: Option<String>,
}

/// Commands that delete them. No list is one of no rules.
fn own_rules(family: &str, listed: &[u8], id: &str) -> serde_json::Result<String> {
    if listed.is_empty() {
        return Ok(String::new());
    }
    let listing: Listing = serde_json::from_slice(listed)?;
    let own = |r: &Rule| CHAINS.contains(&&*r.chain) && r.comment.as_deref() == Some(id);
    let rules = listing.nftables.into_iter().filter_map(|l| l.rule).filter(own);
    Ok(rules.map(|r| format!("delete rule {family} cni_hostport {} handle {}\n", r.chain, r.handle)).collect())
}

impl Nft<'_> {
    /// The first along PATH, as the plugin finds it.
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("nft")).find(|p| p.is_absolute() && p.is_file())
    }

    async fn run(&self, args: &[&str], stdin: &[u8]) -> io::Result<Output> {
        let env = [("LC_ALL".to_owned(), "C".to_owned())];
        let (program, hold, timeout): (&Path, _, _) = (&self.program, self.hold, self.patience);
        Exec { program, args, env: &env, stdin, hold, cap_bytes: CAP_BYTES, timeout }.run().await
    }

    async fn change(&self, doing: &str, script: &str) -> Result<(), PortmapError> {
        let output = self.run(&["-f", "-"], script.as_bytes()).await.map_err(|e| self.failed(doing, &e.to_string()))?;
        if output.ended == Some(Ended::Exited(0)) { Ok(()) } else { Err(self.complaint(doing, &output)) }
    }

    /// The family's table as JSON; nothing if there is none.
    async fn list(&self, family: &str) -> Result<Vec<u8>, PortmapError> {
        let doing = "list the rules";
        let args = ["-j", "list", "table", family, "cni_hostport"];
        let output = self.run(&args, &[]).await.map_err(|e| self.failed(doing, &e.to_string()))?;
        match output.ended {
            Some(Ended::Exited(0)) => Ok(output.stdout),
            Some(Ended::Exited(1)) if is_about_nothing(&output.stderr) => Ok(Vec::new()),
            _ => Err(self.complaint(doing, &output)),
        }
    }

    fn failed(&self, doing: &str, why: &str) -> PortmapError {
        PortmapError::Nft(format!("{doing} by {}: {why}", self.program.display()))
    }

    fn complaint(&self, doing: &str, output: &Output) -> PortmapError {
        self.failed(doing, &complaint(output, self.patience))
    }
}

/// ENOENT in nft's words, and not in those of the loader that misses a library of it.
fn is_about_nothing(stderr: &[u8]) -> bool {
    stderr.starts_with(b"Error: No such file or directory")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn fine() -> Value {
        json!({ "type": "portmap", "name": "n", "cniVersion": "1.0.0", "backend": "nftables", "snat": true,
            "capabilities": { "portMappings": true }, "prevResult": { "ips": [{ "address": "10.0.0.2/24" }] },
            "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" }] } })
    }

    #[test]
    fn only_ports_that_are_understood_word_for_word_are_mapped_here() {
        assert!(Portmap::read(&fine()).is_some());
        let with = |key: &str, value: Value| {
            let port = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", key: value });
            json!({ "portMappings": [port] })
        };
        let changes = [
            ("type", json!("bandwidth")),
            ("cniVersion", json!("0.2.0")),
            ("backend", json!("iptables")),
            ("backend", Value::Null),
            ("snat", Value::Null),
            ("masqAll", json!(true)),
            ("conditionsV4", json!(["ip saddr 10.0.0.0/8"])),
            ("markMasqBit", json!(3)),
            ("runtimeConfig", json!({ "portMappings": [], "bandwidth": {} })),
            ("runtimeConfig", with("hostPort", json!(0))),
            ("runtimeConfig", with("containerPort", json!(65536))),
            ("runtimeConfig", with("protocol", json!("TCP"))),
            ("runtimeConfig", with("hostIP", json!("::ffff:10.0.0.1"))),
            ("runtimeConfig", with("hostIP", json!("node"))),
            ("runtimeConfig", with("hostPorts", json!("1-2"))),
        ];
        for (key, value) in changes {
            let mut conf = fine();
            conf.as_object_mut().unwrap().insert(key.into(), value.clone());
            assert!(Portmap::read(&conf).is_none(), "{key}: {value}");
        }
    }

    #[test]
    fn the_rules_of_a_pod_are_those_with_its_name_on_them() {
        let rule = |chain: &str, handle: u64, comment: Value| json!({ "rule": { "family": "ip", "chain": chain, "handle": handle, "comment": comment, "expr": [] } });
        let listed = json!({ "nftables": [{ "metainfo": { "json_schema_version": 1 } }, { "chain": { "name": "hostports", "handle": 2 } },
            rule("hostports", 7, json!("a")), rule("hostports", 8, json!("b")), rule("hostip_hostports", 9, json!("a")),
            rule("output", 10, json!("a")), rule("masquerading", 11, Value::Null), rule("masquerading", 12, json!("a"))] })
        .to_string();
        let deleted = own_rules("ip", listed.as_bytes(), "a").unwrap();
        let one = |at: &str| format!("delete rule ip cni_hostport {at}\n");
        assert_eq!(deleted, [one("hostports handle 7"), one("hostip_hostports handle 9"), one("masquerading handle 12")].concat());
        assert_eq!(own_rules("ip", b"", "a").unwrap(), "");
        assert!(own_rules("ip", listed.trim_end_matches('}').as_bytes(), "a").is_err());
    }

    #[test]
    fn a_program_that_cannot_start_has_not_said_that_there_are_no_rules() {
        assert!(is_about_nothing(b"Error: No such file or directory\nlist table ip cni_hostport\n"));
        assert!(!is_about_nothing(b"nft: error while loading shared libraries: libnftables.so.1: No such file or directory"));
    }
}
