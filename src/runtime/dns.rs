//! The text of a pod's /etc/resolv.conf. Pure: the node's file is handed in, and what had to be cut is handed back.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// Caps of the resolver, and the kubelet's for searches.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
/// Of a single search: longer ones make some resolvers abort.
const SEARCH_MAX: usize = 253;

/// A resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// `nameserver`, one line each.
    pub nameservers: Vec<String>,
    /// `search`.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// What the cluster and the node say.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Text of the node's resolv.conf; `None` when `resolvConf` is set to nothing.
    pub node: Option<&'a str>,
    /// `clusterDNS`.
    pub cluster_dns: &'a [IpAddr],
    /// `clusterDomain`.
    pub cluster_domain: &'a str,
}

/// What the pod gets, and what was odd about it: the kubelet's event reason and its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The configuration.
    pub resolv: Resolv,
    /// `MissingClusterDNS`, `DNSConfigForming`.
    pub warnings: Vec<(&'static str, String)>,
}

impl Resolv {
    /// Reads a file as the kubelet does: the last `search` line wins, comments are skipped.
    pub fn parse(text: &str) -> Resolv {
        let mut found = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => found.searches = words.map(|s| if s == "." { s } else { s.trim_end_matches('.') }.to_owned()).collect(),
                Some("options") => add_options(&mut found.options, words),
                _ => {}
            }
        }
        found
    }

    /// The file's text, in containerd's order.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The pod's configuration by dnsPolicy, then dnsConfig, then the caps (contract section 8).
pub fn resolv_conf(spec: &PodSpec, namespace: &str, from: Sources<'_>) -> Made {
    let mut made = Made::default();
    let host_network = spec.host_network.unwrap_or(false);
    made.resolv = match spec.dns_policy.as_deref() {
        Some("None") => Resolv::default(),
        Some("Default") => node(from),
        Some("ClusterFirstWithHostNet") => cluster(namespace, from, &mut made.warnings),
        _ if host_network => node(from),
        _ => cluster(namespace, from, &mut made.warnings),
    };
    merge(&mut made.resolv, spec);
    cap(&mut made);
    made
}

fn node(from: Sources<'_>) -> Resolv {
    match from.node {
        Some(text) => Resolv::parse(text),
        None => Resolv { nameservers: vec!["127.0.0.1".into()], searches: vec![".".into()], options: Vec::new() },
    }
}

fn cluster(namespace: &str, from: Sources<'_>, warnings: &mut Vec<(&'static str, String)>) -> Resolv {
    if from.cluster_dns.is_empty() {
        let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
        warnings.push(("MissingClusterDNS", text.into()));
        return node(from);
    }
    let host = from.node.map(Resolv::parse).unwrap_or_default();
    let domain = from.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    }
    for search in host.searches {
        push_new(&mut searches, search);
    }
    Resolv { nameservers: from.cluster_dns.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".into()] }
}

fn merge(resolv: &mut Resolv, spec: &PodSpec) {
    let Some(config) = &spec.dns_config else { return };
    for server in config.nameservers.iter().flatten() {
        push_new(&mut resolv.nameservers, server.clone());
    }
    for search in config.searches.iter().flatten() {
        push_new(&mut resolv.searches, search.clone());
    }
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref() else { continue };
        let word = match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        add_options(&mut resolv.options, std::iter::once(word.as_str()));
    }
}

fn push_new(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// A later option replaces an earlier one of the same name.
fn add_options<'a>(options: &mut Vec<String>, words: impl Iterator<Item = &'a str>) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    for word in words {
        match options.iter_mut().find(|o| name(o) == name(word)) {
            Some(old) => *old = word.to_owned(),
            None => options.push(word.to_owned()),
        }
    }
}

fn cap(made: &mut Made) {
    let resolv = &mut made.resolv;
    if resolv.nameservers.len() > NAMESERVERS_MAX {
        resolv.nameservers.truncate(NAMESERVERS_MAX);
        let text = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolv.nameservers.join(" ")
        );
        made.warnings.push(("DNSConfigForming", text));
    }
    let before = resolv.searches.len();
    resolv.searches.truncate(SEARCHES_MAX);
    resolv.searches.retain(|search| search.len() <= SEARCH_MAX);
    while resolv.searches.iter().map(|s| s.len() + 1).sum::<usize>() > SEARCH_CHARS_MAX + 1 {
        resolv.searches.pop();
    }
    if resolv.searches.len() < before {
        let text = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolv.searches.join(" ")
        );
        made.warnings.push(("DNSConfigForming", text));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::json;

    const NODE: &str = "# mine\nnameserver 192.0.2.53\nsearch old.example\nsearch example.com lan.\noptions timeout:1 rotate\n";

    fn made(spec: serde_json::Value, dns: &[&str]) -> Made {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let dns: Vec<IpAddr> = dns.iter().map(|d| d.parse().unwrap()).collect();
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        resolv_conf(&spec, "ns", Sources { node: Some(NODE), cluster_dns: &dns, cluster_domain: "cluster.local" })
    }

    #[test]
    fn default_is_the_nodes_file_with_its_last_search_line() {
        let m = made(json!({"dnsPolicy": "Default"}), &[]);
        assert_eq!(m.resolv.text(), "search example.com lan\nnameserver 192.0.2.53\noptions timeout:1 rotate\n");
        assert!(m.warnings.is_empty());
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_it_first() {
        let m = made(json!({"dnsPolicy": "ClusterFirst"}), &["10.96.0.10"]);
        let want = "search ns.svc.cluster.local svc.cluster.local cluster.local example.com lan\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(m.resolv.text(), want);
    }

    #[test]
    fn cluster_first_on_the_hosts_network_is_default() {
        assert_eq!(made(json!({"hostNetwork": true}), &["10.96.0.10"]).resolv.nameservers, ["192.0.2.53"]);
        let with = made(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), &["10.96.0.10"]);
        assert_eq!(with.resolv.nameservers, ["10.96.0.10"]);
    }

    #[test]
    fn a_missing_cluster_dns_falls_back_and_says_so() {
        let m = made(json!({}), &[]);
        assert_eq!(m.resolv.nameservers, ["192.0.2.53"]);
        assert_eq!(m.warnings.first().unwrap().0, "MissingClusterDNS");
    }

    #[test]
    fn dns_config_is_appended_once_and_its_options_win() {
        let config = json!({"nameservers": ["192.0.2.53", "192.0.2.54"], "searches": ["lan", "x"], "options": [{"name": "timeout", "value": "3"}, {"name": "edns0"}, {"name": "rotate", "value": ""}]});
        let m = made(json!({"dnsPolicy": "Default", "dnsConfig": config}), &[]);
        assert_eq!(
            m.resolv.text(),
            "search example.com lan x\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions timeout:3 rotate edns0\n"
        );
    }

    #[test]
    fn none_has_only_its_own_config() {
        let m = made(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}), &["10.96.0.10"]);
        assert_eq!(m.resolv.text(), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn what_exceeds_the_caps_is_cut_with_a_warning() {
        let searches: Vec<String> = (0..40).map(|i| format!("d{i}")).collect();
        let config = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], "searches": searches});
        let m = made(json!({"dnsPolicy": "None", "dnsConfig": config}), &[]);
        assert_eq!((m.resolv.nameservers.len(), m.resolv.searches.len(), m.warnings.len()), (3, 32, 2));
        let long: Vec<String> = (0..9).map(|i| i.to_string().repeat(250)).collect();
        let made_of = |searches: &[String]| made(json!({"dnsPolicy": "None", "dnsConfig": {"searches": searches}}), &[]).resolv.searches;
        assert_eq!(made_of(&long), long[..8], "2048 characters with the blanks between them");
        assert_eq!(made_of(&["b".repeat(254), "c".into()]), ["c"]);
    }

    #[test]
    fn without_a_node_file_it_asks_the_loopback() {
        let spec = PodSpec { dns_policy: Some("Default".into()), ..PodSpec::default() };
        let m = resolv_conf(&spec, "ns", Sources { node: None, cluster_dns: &[], cluster_domain: "" });
        assert_eq!(m.resolv.text(), "search .\nnameserver 127.0.0.1\n");
    }
}
