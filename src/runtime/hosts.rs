//! A pod's hostname and the texts of its /etc/hosts and /etc/hostname, and the node's own table of names. Pure but for reading that; who
//! writes the files is `sandbox`'s affair.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

/// A pod's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What the UTS namespace, /etc/hostname and $HOSTNAME say; the FQDN with setHostnameAsFQDN.
    pub hostname: String,
    /// The first label alone, for /etc/hosts.
    pub short: String,
    /// `<subdomain>.<ns>.svc.<clusterDomain>`, empty without a subdomain.
    pub domain: String,
}

/// Why a pod can have no hostname.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// The kernel's limit.
    #[error(
        "set hostname of pod to its FQDN `{0}`: it is {len} characters long and the kernel takes 64; shorten hostname or subdomain",
        len = .0.len()
    )]
    FqdnTooLong(String),
}

/// Longest label of a host name.
const LABEL_MAX: usize = 63;

/// `spec.hostnameOverride`, or `spec.hostname`, or the pod's name, cut to a label; with its domain (contract section 8).
/// Of a pod with host networking, nothing is set: its names are the machine's, and this answer is not used.
pub fn names(pod: &Pod, cluster_domain: &str) -> Result<Names, HostnameError> {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|n| !n.is_empty()) {
        return Ok(Names { hostname: name.to_owned(), short: name.to_owned(), domain: String::new() });
    }
    let own = spec.and_then(|s| s.hostname.as_deref()).filter(|n| !n.is_empty());
    let short = label(own.or(pod.metadata.name.as_deref()).unwrap_or_default());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = match spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()) {
        // With no cluster domain the name ends in a dot: that is what the kubelet makes of it.
        Some(sub) => format!("{sub}.{namespace}.svc.{cluster_domain}"),
        None => String::new(),
    };
    let as_fqdn = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false) && !domain.is_empty();
    let hostname = if as_fqdn { format!("{short}.{domain}") } else { short.clone() };
    if hostname.len() > 64 {
        return Err(HostnameError::FqdnTooLong(hostname));
    }
    Ok(Names { hostname, short, domain })
}

fn label(name: &str) -> String {
    let cut: String = name.chars().take(LABEL_MAX).collect();
    if name.len() > LABEL_MAX { cut.trim_end_matches(['-', '.']).to_owned() } else { cut }
}

/// /etc/hostname.
pub fn hostname_text(names: &Names) -> String {
    format!("{}\n", names.hostname)
}

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::0\tip6-localnet\n\
fe00::0\tip6-mcastprefix\n\
fe00::1\tip6-allnodes\n\
fe00::2\tip6-allrouters\n";

/// /etc/hosts of a pod with its own network.
pub fn hosts_text(names: &Names, ips: &[IpAddr], aliases: &[HostAlias]) -> String {
    let mut text = String::from(HEADER);
    text.push_str(LOCAL);
    for ip in ips {
        let _ = match names.domain.as_str() {
            "" => writeln!(text, "{ip}\t{}", names.short),
            domain => writeln!(text, "{ip}\t{}.{domain}\t{}", names.short, names.short),
        };
    }
    push_aliases(&mut text, aliases);
    text
}

/// /etc/hosts of a pod on the host's network: the node's own, with the pod's aliases.
pub fn hosts_text_host_network(node_hosts: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(HEADER_HOST_NETWORK);
    text.push_str(node_hosts);
    push_aliases(&mut text, aliases);
    text
}

fn push_aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
}

/// Addresses the node's own table has for a name.
pub fn listed(host: &str) -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse) else { continue };
        if words.any(|w| w.eq_ignore_ascii_case(host)) {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-node1", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_pod_name_is_the_hostname_when_nothing_else_is_said() {
        let n = names(&pod(json!({})), "cluster.local").unwrap();
        assert_eq!(n, Names { hostname: "web-node1".into(), short: "web-node1".into(), domain: String::new() });
        assert_eq!(hostname_text(&n), "web-node1\n");
    }

    #[test]
    fn a_long_name_is_cut_to_a_label_without_a_trailing_dash() {
        let long = format!("{}-.{}", "a".repeat(61), "b".repeat(30));
        assert_eq!(names(&pod(json!({"hostname": long})), "").unwrap().hostname, "a".repeat(61));
    }

    #[test]
    fn the_fqdn_is_the_hostname_only_when_asked_for() {
        let plain = names(&pod(json!({"hostname": "h", "subdomain": "s"})), "cluster.local").unwrap();
        assert_eq!((plain.hostname.as_str(), plain.domain.as_str()), ("h", "s.ns.svc.cluster.local"));
        let full = names(&pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})), "").unwrap();
        assert_eq!(full.hostname, "h.s.ns.svc.");
    }

    #[test]
    fn a_fqdn_over_64_characters_is_refused() {
        let e = names(&pod(json!({"hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true})), "d").unwrap_err();
        assert!(matches!(e, HostnameError::FqdnTooLong(_)));
    }

    #[test]
    fn an_override_has_no_domain() {
        let n = names(&pod(json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "o.example"})), "d").unwrap();
        assert_eq!((n.hostname.as_str(), n.domain.as_str()), ("o.example", ""));
    }

    fn alias() -> Vec<HostAlias> {
        vec![HostAlias { ip: "192.0.2.9".into(), hostnames: Some(vec!["foo".into(), "bar".into()]) }]
    }

    #[test]
    fn hosts_has_every_ip_and_the_aliases_last() {
        let names = Names { hostname: "h".into(), short: "h".into(), domain: "s.ns.svc.d".into() };
        let text = hosts_text(&names, &["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()], &alias());
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"));
        assert!(text.ends_with(
            "fe00::2\tip6-allrouters\n10.0.0.2\th.s.ns.svc.d\th\nfd00::2\th.s.ns.svc.d\th\n\n# Entries added by HostAliases.\n192.0.2.9\tfoo\tbar\n"
        ));
    }

    #[test]
    fn on_the_hosts_network_it_is_the_nodes_file() {
        let text = hosts_text_host_network("127.0.0.1 localhost\n", &alias());
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n192.0.2.9\tfoo\tbar\n"
        );
    }
}
