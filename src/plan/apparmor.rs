//! Which AppArmor profile a container asks for, and whether this node can enforce it. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::AppArmorProfile;

use crate::pod::WantedPod;

/// The profile RuntimeDefault stands for, as containerd names its own.
pub const DEFAULT: &str = "cri-containerd.apparmor.d";

/// What the kernel can enforce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apparmor {
    /// The profiles that are loaded; `None`: there is no AppArmor, or it is off.
    pub loaded: Option<BTreeSet<String>>,
    /// There is a program that loads one.
    pub parser: bool,
}

/// What a manifest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    /// No profile.
    Unconfined,
    /// The runtime's.
    RuntimeDefault,
    /// One the machine's owner has loaded.
    Localhost(&'a str),
}

/// A container's: by its field, the annotation there was before it (which the API server turns into the field, and nobody does for a static
/// pod), or the pod's field. `None`: the manifest is silent.
pub fn wish<'a>(pod: &'a WantedPod, container: &str) -> Option<Wish<'a>> {
    let own = pod.container(container).and_then(|c| c.security_context.as_ref()).and_then(|s| s.app_armor_profile.as_ref());
    own.and_then(read).or_else(|| annotated(pod, container)).or_else(|| of_pod(pod))
}

fn read(profile: &AppArmorProfile) -> Option<Wish<'_>> {
    match profile.type_.as_str() {
        "Unconfined" => Some(Wish::Unconfined),
        "RuntimeDefault" => Some(Wish::RuntimeDefault),
        "Localhost" => Some(Wish::Localhost(profile.localhost_profile.as_deref().unwrap_or_default())),
        _ => None,
    }
}

fn annotated<'a>(pod: &'a WantedPod, container: &str) -> Option<Wish<'a>> {
    let key = format!("container.apparmor.security.beta.kubernetes.io/{container}");
    match pod.object.metadata.annotations.as_ref()?.get(&key)?.as_str() {
        "unconfined" => Some(Wish::Unconfined),
        "runtime/default" => Some(Wish::RuntimeDefault),
        text => text.strip_prefix("localhost/").map(Wish::Localhost),
    }
}

fn of_pod(pod: &WantedPod) -> Option<Wish<'_>> {
    read(pod.object.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.as_ref()?)
}

/// Why what a pod asks for cannot be enforced. Who is silent is not refused: such a pod runs under the default where there is one, and else
/// without, as with the kubelet and containerd.
pub fn missing(here: &Apparmor, pod: &WantedPod) -> Option<String> {
    let spec = pod.object.spec.as_ref()?;
    let names = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.name.as_str());
    let why = names.filter_map(|name| wish(pod, name)).chain(of_pod(pod)).find_map(|wish| lacks(here, wish))?;
    Some(format!("Cannot enforce AppArmor: {why}"))
}

fn lacks(here: &Apparmor, wish: Wish<'_>) -> Option<String> {
    match (wish, &here.loaded) {
        (Wish::Unconfined, _) => None,
        (_, None) => Some("AppArmor is not enabled on the host; leave appArmorProfile out to run without".into()),
        (Wish::RuntimeDefault, Some(loaded)) if loaded.contains(DEFAULT) || here.parser => None,
        (Wish::RuntimeDefault, _) => {
            Some(format!("profile {DEFAULT:?} is not loaded, and there is no apparmor_parser to load it; install it, or load the profile"))
        }
        (Wish::Localhost(name), Some(loaded)) if loaded.contains(name) => None,
        (Wish::Localhost(name), _) => Some(format!("profile {name:?} is not loaded; load it on this machine with apparmor_parser")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::{Value, json};

    fn pod(pods: Value, own: Value) -> WantedPod {
        let object = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"securityContext": {"appArmorProfile": pods},
            "containers": [{"name": "c", "securityContext": {"appArmorProfile": own}}]}});
        WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap()
    }

    fn refusals(own: Value) -> [Option<String>; 4] {
        let with = |loaded: &[&str], parser| Apparmor { loaded: Some(loaded.iter().map(|s| (*s).to_owned()).collect()), parser };
        let off = Apparmor { loaded: None, parser: true };
        [off, with(&[], false), with(&[], true), with(&[DEFAULT, "mine"], false)].map(|here| missing(&here, &pod(Value::Null, own.clone())))
    }

    #[test]
    fn who_is_silent_or_asks_for_none_is_never_refused() {
        assert_eq!(refusals(Value::Null), [None, None, None, None]);
        assert_eq!(refusals(json!({"type": "Unconfined"})), [None, None, None, None]);
    }

    #[test]
    fn what_is_asked_for_by_name_must_be_there_or_be_loaded() {
        let [off, none, loadable, loaded] = refusals(json!({"type": "RuntimeDefault"}));
        assert!(off.unwrap().starts_with("Cannot enforce AppArmor: AppArmor is not enabled on the host"));
        assert!(none.unwrap().contains("there is no apparmor_parser"));
        assert_eq!((loadable, loaded), (None, None));
        let [off, none, loadable, loaded] = refusals(json!({"type": "Localhost", "localhostProfile": "mine"}));
        assert!(off.unwrap().contains("not enabled on the host"));
        assert!(none.unwrap().contains("profile \"mine\" is not loaded") && loadable.is_some());
        assert_eq!(loaded, None);
    }

    #[test]
    fn a_pods_own_wish_counts_where_no_container_has_it() {
        let none = Apparmor { loaded: None, parser: false };
        let both = pod(json!({"type": "RuntimeDefault"}), json!({"type": "Unconfined"}));
        assert_eq!(wish(&both, "c"), Some(Wish::Unconfined));
        assert!(missing(&none, &both).is_some(), "as the kubelet does");
    }
}
