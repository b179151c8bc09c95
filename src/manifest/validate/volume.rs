//! Volumes: a name, exactly one source, and what each source needs. Kinds no static pod may use are left to `references`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, PodSpec, ProjectedVolumeSource, Volume};

use super::{Wrong, blank, each, env, legacy, names};
use crate::quantity::written::{FORMAT, Written};

/// A pod's volumes by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

/// Checks all volumes of a pod. One that is wrong is still there: a mount of it is not wrong as well.
pub fn check<'a>(spec: &'a PodSpec, wrong: &mut Wrong) -> Volumes<'a> {
    let mut volumes = Volumes::new();
    for (at, v) in each("spec", "volumes", spec.volumes.as_ref()) {
        if v.name.is_empty() {
            wrong.required(format!("{at}.name"), "");
        } else {
            wrong.shape(&format!("{at}.name"), &v.name, names::label(&v.name));
            if volumes.insert(&v.name, v).is_some() {
                wrong.duplicate(format!("{at}.name"), &v.name);
            }
        }
        for extra in sources(v).iter().skip(1) {
            wrong.forbidden(format!("{at}.{extra}"), "may not specify more than 1 volume type");
        }
        local(&at, v, wrong);
        api(&at, v, wrong);
        legacy::check(&at, v, wrong);
    }
    volumes
}

/// The sources a volume names.
fn sources(v: &Volume) -> Vec<&'static str> {
    let all = [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("secret", v.secret.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("downwardAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageos", v.storageos.is_some()),
        ("projected", v.projected.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("image", v.image.is_some()),
    ];
    all.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect()
}

/// Texts that may not be empty.
pub fn required(at: &str, fields: &[(&str, Option<&str>)], wrong: &mut Wrong) {
    for (field, _) in fields.iter().filter(|(_, value)| blank(*value)) {
        wrong.required(format!("{at}.{field}"), "");
    }
}

/// What needs nothing but this host.
fn local(at: &str, v: &Volume, wrong: &mut Wrong) {
    if let Some(limit) = v.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) {
        let field = format!("{at}.emptyDir.sizeLimit");
        match Written::parse(&limit.0) {
            None => wrong.invalid(field, &limit.0, FORMAT),
            Some(q) if q.nanos() < 0 => wrong.forbidden(field, "SizeLimit field must be a valid resource quantity"),
            Some(_) => {}
        }
    }
    if let Some(host) = &v.host_path {
        let field = format!("{at}.hostPath.path");
        if host.path.is_empty() {
            wrong.required(field, "");
        } else if names::climbs(&host.path) {
            wrong.invalid(field, &host.path, "must not contain '..'");
        }
        let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
        wrong.maybe_one_of(format!("{at}.hostPath.type"), host.type_.as_deref(), &kinds);
    }
    if let Some(image) = &v.image {
        // The kubelet takes one without and then fails to pull it for ever.
        required(&format!("{at}.image"), &[("reference", image.reference.as_deref())], wrong);
        let policies = ["Always", "IfNotPresent", "Never"];
        wrong.maybe_one_of(format!("{at}.image.pullPolicy"), image.pull_policy.as_deref(), &policies);
    }
    if let Some(repo) = &v.git_repo {
        required(&format!("{at}.gitRepo"), &[("repository", Some(&repo.repository))], wrong);
        let directory = repo.directory.as_deref().unwrap_or_default();
        wrong.shape(&format!("{at}.gitRepo.directory"), directory, names::descending_unreserved(directory));
    }
}

/// What shows the pod to itself.
fn api(at: &str, v: &Volume, wrong: &mut Wrong) {
    if let Some(down) = &v.downward_api {
        let at = format!("{at}.downwardAPI");
        mode(&format!("{at}.defaultMode"), down.default_mode, wrong);
        for (at, file) in each(&at, "items", down.items.as_ref()) {
            downward_file(&at, file, wrong);
        }
    }
    if let Some(p) = &v.projected {
        projected(&format!("{at}.projected"), p, wrong);
    }
}

fn mode(at: &str, mode: Option<i32>, wrong: &mut Wrong) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        wrong.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn downward_file(at: &str, file: &DownwardAPIVolumeFile, wrong: &mut Wrong) {
    let path = format!("{at}.path");
    if file.path.is_empty() {
        wrong.required(path.as_str(), "");
    }
    wrong.shape(&path, &file.path, names::descending_unreserved(&file.path));
    mode(&format!("{at}.mode"), file.mode, wrong);
    match (&file.field_ref, &file.resource_field_ref) {
        (None, None) => wrong.required(at, "one of fieldRef and resourceFieldRef is required"),
        (Some(f), other) => {
            env::field(&format!("{at}.fieldRef"), f, &env::FILE_FIELDS, wrong);
            if other.is_some() {
                wrong.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(r)) => env::resource(&format!("{at}.resourceFieldRef"), r, true, wrong),
    }
}

fn projected(at: &str, p: &ProjectedVolumeSource, wrong: &mut Wrong) {
    mode(&format!("{at}.defaultMode"), p.default_mode, wrong);
    let mut paths = BTreeSet::new();
    for (at, source) in each(at, "sources", p.sources.as_ref()) {
        let kinds = [
            ("secret", source.secret.is_some()),
            ("downwardAPI", source.downward_api.is_some()),
            ("configMap", source.config_map.is_some()),
            ("serviceAccountToken", source.service_account_token.is_some()),
            ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
            ("podCertificate", source.pod_certificate.is_some()),
        ];
        let mut named = kinds.iter().filter(|(_, there)| *there);
        if named.next().is_none() {
            wrong.required(at.as_str(), "must specify a projected volume source");
        }
        for (extra, _) in named {
            wrong.forbidden(format!("{at}.{extra}"), "may not specify more than 1 volume type per source");
        }
        let Some(down) = &source.downward_api else { continue };
        for (at, file) in each(&format!("{at}.downwardAPI"), "items", down.items.as_ref()) {
            downward_file(&at, file, wrong);
            if !file.path.is_empty() && !paths.insert(file.path.as_str()) {
                wrong.invalid(format!("{at}.path"), &file.path, "conflicting duplicate paths");
            }
        }
    }
}
