//! CertificateSigningRequests: approved on command, and signed as kube-controller-manager's two signers of nodes do it, with their checks.

use std::time::Duration;

use k8s_openapi::ByteString;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue};
use serde_json::{Value, json};

use super::{Shared, State, store};

pub const RESOURCE: &str = "certificatesigningrequests";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the server fills into a new one.
pub fn complete(user: &str, request: &mut Value) {
    let groups = if user.starts_with("system:bootstrap:") { "system:bootstrappers" } else { "system:nodes" };
    request["spec"]["username"] = json!(user);
    request["spec"]["groups"] = json!([groups, "system:authenticated"]);
    request["status"] = json!({});
}

/// Somebody said yes or no.
pub fn decide(shared: &Shared, state: &mut State, name: &str, answer: Result<Duration, &str>) {
    let mut request = state.store.get(RESOURCE, "", name).cloned().unwrap();
    let (kind, message) = match answer {
        Ok(_) => ("Approved", "on command"),
        Err(message) => ("Denied", message),
    };
    let at = store::now();
    request["status"]["conditions"] =
        json!([{"type": kind, "status": "True", "reason": "Test", "message": message, "lastUpdateTime": at, "lastTransitionTime": at}]);
    let signed = answer.ok().map(|life| sign(shared, &request["spec"], life));
    match signed {
        None => {}
        Some(Ok((pem, der, user))) => {
            request["status"]["certificate"] = json!(ByteString(pem.into_bytes()));
            state.certificates.insert(der, user);
        }
        Some(Err(why)) => request["status"]["conditions"].as_array_mut().unwrap().push(
            json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why, "lastUpdateTime": at, "lastTransitionTime": at}),
        ),
    }
    state.store.update(RESOURCE, "", request);
}

/// What `kubectl certificate approve` or `deny` wrote.
pub fn decided(shared: &Shared, state: &mut State, name: &str, conditions: &Value) {
    let has = |kind: &str| conditions.as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind));
    if has("Approved") {
        decide(shared, state, name, Ok(YEAR));
    } else if has("Denied") {
        decide(shared, state, name, Err("by kubectl"));
    }
}

/// `ValidateKubeletClientCSR`, `ValidateKubeletServingCSR` and the signer.
fn sign(shared: &Shared, spec: &Value, life: Duration) -> Result<(String, Vec<u8>, String), String> {
    let pem: ByteString = serde_json::from_value(spec["request"].clone()).unwrap();
    let mut request = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&pem.0).unwrap()).map_err(|e| e.to_string())?;
    let subject = &request.params.distinguished_name;
    let word = |kind: DnType| match subject.get(&kind) {
        Some(DnValue::Utf8String(text)) => text.clone(),
        Some(DnValue::PrintableString(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    let (name, group) = (word(DnType::CommonName), word(DnType::OrganizationName));
    let names = &request.params.subject_alt_names;
    let usages: Vec<&str> = spec["usages"].as_array().unwrap().iter().map(|u| u.as_str().unwrap()).collect();
    if group != "system:nodes" {
        return Err("subject organization is not system:nodes".into());
    }
    if !name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    let needed = match spec["signerName"].as_str().unwrap() {
        "kubernetes.io/kube-apiserver-client-kubelet" if names.is_empty() => "client auth",
        "kubernetes.io/kube-apiserver-client-kubelet" => return Err("DNSNames and IPAddresses must be empty".into()),
        "kubernetes.io/kubelet-serving" if names.is_empty() => return Err("DNS names or IP addresses are missing".into()),
        "kubernetes.io/kubelet-serving" if spec["username"] != name.as_str() => return Err("common name is not the requester's".into()),
        "kubernetes.io/kubelet-serving" => "server auth",
        other => return Err(format!("nobody signs {other}")),
    };
    let known = |usage: &&str| ["digital signature", "key encipherment", needed].contains(usage);
    if !usages.iter().all(known) || !usages.contains(&needed) || !usages.contains(&"digital signature") {
        return Err(format!("usages did not match {usages:?}"));
    }
    let key = if needed == "client auth" { rcgen::ExtendedKeyUsagePurpose::ClientAuth } else { rcgen::ExtendedKeyUsagePurpose::ServerAuth };
    request.params.extended_key_usages = vec![key];
    let now = Duration::from_secs(u64::try_from(plinth::clock::now().wall.secs()).unwrap());
    request.params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
    request.params.not_after = request.params.not_before + life;
    let (pem, der) = shared.ca.sign(&request);
    Ok((pem, der, name))
}
