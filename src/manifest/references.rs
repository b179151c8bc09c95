//! What a static pod may not refer to, because nothing would ever fetch it (gate PreventStaticPodAPIReferences).
//!
//! The kubelet names the first; here each is named, with its field.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

/// Field path and message of every forbidden reference.
pub fn forbidden(pod: &Pod) -> Vec<(String, String)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut out = Found(Vec::new());
    for (field, account) in [("serviceAccountName", &spec.service_account_name), ("serviceAccount", &spec.service_account)] {
        out.named(format!("spec.{field}"), account.as_deref(), "serviceaccounts");
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        out.named(format!("spec.imagePullSecrets[{i}].name"), Some(&secret.name), "secrets");
    }
    containers(spec, &mut out);
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        out.add("spec.resourceClaims".into(), "resourceclaims");
    }
    for (i, v) in spec.volumes.iter().flatten().enumerate() {
        volume(&format!("spec.volumes[{i}]"), v, &mut out);
    }
    out.0
}

struct Found(Vec<(String, String)>);

impl Found {
    fn add(&mut self, field: String, what: &str) {
        self.0.push((field, format!("static pods may not reference {what}")));
    }

    /// Empty names refer to nothing.
    fn named(&mut self, field: String, name: Option<&str>, what: &str) {
        if name.is_some_and(|n| !n.is_empty()) {
            self.add(field, what);
        }
    }

    fn present<T>(&mut self, at: &str, field: &str, source: &Option<T>, what: &str) {
        if source.is_some() {
            self.add(format!("{at}.{field}"), what);
        }
    }
}

fn containers(spec: &PodSpec, out: &mut Found) {
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let main = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    for (at, c) in init.chain(main) {
        container(&at, c, out);
    }
}

fn container(at: &str, c: &Container, out: &mut Found) {
    for (i, env) in c.env.iter().flatten().enumerate() {
        let Some(from) = &env.value_from else { continue };
        let at = format!("{at}.env[{i}].valueFrom");
        out.named(format!("{at}.secretKeyRef.name"), from.secret_key_ref.as_ref().map(|r| r.name.as_str()), "secrets");
        out.named(format!("{at}.configMapKeyRef.name"), from.config_map_key_ref.as_ref().map(|r| r.name.as_str()), "configmaps");
    }
    for (i, env) in c.env_from.iter().flatten().enumerate() {
        let at = format!("{at}.envFrom[{i}]");
        out.named(format!("{at}.secretRef.name"), env.secret_ref.as_ref().map(|r| r.name.as_str()), "secrets");
        out.named(format!("{at}.configMapRef.name"), env.config_map_ref.as_ref().map(|r| r.name.as_str()), "configmaps");
    }
}

fn volume(at: &str, v: &Volume, out: &mut Found) {
    out.present(at, "configMap", &v.config_map, "configmaps (via configmap volumes)");
    out.present(at, "secret", &v.secret, "secrets (via secret volumes)");
    out.present(at, "csi", &v.csi, "csidrivers (via CSI volumes)");
    out.present(at, "glusterfs", &v.glusterfs, "endpoints (via glusterFS volumes)");
    out.present(at, "persistentVolumeClaim", &v.persistent_volume_claim, "persistentvolumeclaims");
    out.present(at, "ephemeral", &v.ephemeral, "persistentvolumeclaims (via ephemeral volumes)");
    out.present(at, "azureFile", &v.azure_file, "secrets (via azureFile volumes)");
    for (i, source) in v.projected.iter().flat_map(|p| p.sources.iter().flatten()).enumerate() {
        let at = format!("{at}.projected.sources[{i}]");
        out.present(&at, "configMap", &source.config_map, "configmaps (via projected volumes)");
        out.present(&at, "secret", &source.secret, "secrets (via projected volumes)");
        out.present(&at, "serviceAccountToken", &source.service_account_token, "serviceaccounts (via projected volumes)");
        out.present(&at, "clusterTrustBundle", &source.cluster_trust_bundle, "clustertrustbundles");
        out.present(&at, "podCertificate", &source.pod_certificate, "podcertificates");
    }
    let secrets = [
        ("cephfs", v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ("cinder", v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ("flexVolume", v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ("rbd", v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ("scaleIO", v.scale_io.as_ref().map(|s| &s.secret_ref)),
        ("iscsi", v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ("storageos", v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref())),
    ];
    for (field, secret) in secrets {
        out.named(format!("{at}.{field}.secretRef.name"), secret.map(|s| s.name.as_str()), "secrets");
    }
}
