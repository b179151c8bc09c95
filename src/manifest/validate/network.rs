//! What a pod says of its name and its resolver: hostname, subdomain, hostAliases, dnsPolicy, dnsConfig.

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::{Wrong, each, names};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// Checks names and resolver.
pub fn check(spec: &PodSpec, wrong: &mut Wrong) {
    for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            wrong.shape(field, name, names::label(name));
        }
    }
    hostname_override(spec, wrong);
    for (at, alias) in each("spec", "hostAliases", spec.host_aliases.as_ref()) {
        wrong.shape(&format!("{at}.ip"), &alias.ip, names::ip(&alias.ip));
        for (at, name) in each(&at, "hostnames", alias.hostnames.as_ref()) {
            wrong.shape(&at, name, names::subdomain(name));
        }
    }
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    wrong.one_of("spec.dnsPolicy", policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    if policy == "None" {
        let why = |what| format!("must provide {what} when `dnsPolicy` is None");
        match &spec.dns_config {
            None => wrong.required("spec.dnsConfig", &why("`dnsConfig`")),
            Some(c) if c.nameservers.as_ref().is_none_or(Vec::is_empty) => {
                wrong.required("spec.dnsConfig.nameservers", &why("at least one DNS nameserver"));
            }
            Some(_) => {}
        }
    }
    if let Some(config) = &spec.dns_config {
        resolver(config, wrong);
    }
}

fn hostname_override(spec: &PodSpec, wrong: &mut Wrong) {
    let Some(name) = spec.hostname_override.as_deref() else { return };
    let at = "spec.hostnameOverride";
    if spec.set_hostname_as_fqdn == Some(true) {
        wrong.forbidden(at, "may not be specified when `setHostnameAsFQDN` is true");
    }
    if spec.host_network == Some(true) {
        wrong.forbidden(at, "may not be specified when `hostNetwork` is true");
    }
    if name.len() > 64 {
        wrong.add(at, "Too long: may not be more than 64 bytes".to_owned());
    }
    wrong.shape(at, name, names::subdomain(name));
}

fn resolver(config: &PodDNSConfig, wrong: &mut Wrong) {
    let at = "spec.dnsConfig";
    if let Some(servers) = config.nameservers.as_ref().filter(|s| s.len() > MAX_NAMESERVERS) {
        wrong.invalid(format!("{at}.nameservers"), servers, format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for (at, server) in each(at, "nameservers", config.nameservers.as_ref()) {
        wrong.shape(&at, server, names::ip(server));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MAX_SEARCHES {
        wrong.invalid(format!("{at}.searches"), searches.len(), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    let chars = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if chars > MAX_SEARCH_CHARS {
        wrong.invalid(
            format!("{at}.searches"),
            chars,
            format!("must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"),
        );
    }
    for (at, search) in each(at, "searches", config.searches.as_ref()) {
        wrong.shape(&at, search, names::search(search));
    }
    for (at, option) in each(at, "options", config.options.as_ref()) {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            wrong.required(format!("{at}.name"), "");
        }
    }
}
