//! What is said of Windows. No pod runs there, but the kubelet refuses nonsense in these fields on any system.

use k8s_openapi::api::core::v1::{Container, PodSpec, WindowsSecurityContextOptions as Options};

use super::{Wrong, each, names};

const MAX_SPEC_KIB: usize = 64;
const MAX_DOMAIN_CHARS: usize = 255;
const MAX_USER_CHARS: usize = 104;

/// Checks windowsOptions of the pod and its containers.
pub fn check(spec: &PodSpec, wrong: &mut Wrong) {
    let pod = spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref());
    options("spec.securityContext.windowsOptions", pod, wrong);
    let whole = pod.and_then(|o| o.host_process);
    let init = each("spec", "initContainers", spec.init_containers.as_ref());
    let (mut count, mut host) = (0, 0);
    for (at, c) in init.chain(each("spec", "containers", Some(&spec.containers))) {
        let at = format!("{at}.securityContext.windowsOptions");
        let own = of(&c);
        options(&at, own, wrong);
        let own = own.and_then(|o| o.host_process);
        if let (Some(whole), Some(own)) = (whole, own)
            && whole != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {whole}");
            wrong.invalid(format!("{at}.hostProcess"), own, why);
        }
        count += 1;
        host += u32::from(own.or(whole) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != count {
        wrong.invalid("spec", "", "If pod contains any hostProcess containers then all containers must be HostProcess containers");
    }
    if spec.host_network != Some(true) {
        wrong.invalid("spec.hostNetwork", false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
}

fn of<'a>(c: &&'a Container) -> Option<&'a Options> {
    c.security_context.as_ref().and_then(|s| s.windows_options.as_ref())
}

fn options(at: &str, options: Option<&Options>, wrong: &mut Wrong) {
    let Some(o) = options else { return };
    if let Some(name) = o.gmsa_credential_spec_name.as_deref() {
        wrong.shape(&format!("{at}.gmsaCredentialSpecName"), name, names::subdomain(name));
    }
    let field = format!("{at}.gmsaCredentialSpec");
    match o.gmsa_credential_spec.as_deref() {
        Some("") => wrong.invalid(field, "", "gmsaCredentialSpec cannot be an empty string"),
        Some(s) if s.len() > MAX_SPEC_KIB << 10 => {
            wrong.invalid(field, s.len(), format!("gmsaCredentialSpec size must be under {MAX_SPEC_KIB} KiB"));
        }
        _ => {}
    }
    if let Some(name) = o.run_as_user_name.as_deref() {
        for why in user(name) {
            wrong.invalid(format!("{at}.runAsUserName"), name, why);
        }
    }
}

/// `[DOMAIN\\]USER`, the domain by NetBIOS or DNS.
fn user(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => return vec!["runAsUserName cannot contain more than one backslash"],
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut out = Vec::new();
    if domain.is_some_and(|d| d.len() > MAX_DOMAIN_CHARS) {
        out.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !is_netbios(d) && !is_dns(d)) {
        out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty");
    } else if user.len() > MAX_USER_CHARS {
        out.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        out.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        out.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    out
}

fn is_netbios(s: &str) -> bool {
    (1..=15).contains(&s.chars().count()) && !s.starts_with('.') && !s.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(s: &str) -> bool {
    s.to_ascii_lowercase().split('.').all(|part| names::label(part).is_empty())
}
