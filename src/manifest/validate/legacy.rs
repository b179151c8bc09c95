//! Volumes on other hosts: what the kubelet still mounts (NFS, iSCSI, fibre channel, flex), and the kinds that only validation still knows.

use k8s_openapi::api::core::v1::{FCVolumeSource, FlockerVolumeSource, ISCSIVolumeSource, QuobyteVolumeSource, Volume};

use super::volume::required;
use super::{Wrong, blank, names};

/// Checks the sources of a volume that lie elsewhere.
pub fn check(at: &str, v: &Volume, wrong: &mut Wrong) {
    if let Some(nfs) = &v.nfs {
        required(&format!("{at}.nfs"), &[("server", Some(&nfs.server)), ("path", Some(&nfs.path))], wrong);
        if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
            wrong.invalid(format!("{at}.nfs.path"), &nfs.path, "must be an absolute path");
        }
    }
    if let Some(source) = &v.iscsi {
        iscsi(&format!("{at}.iscsi"), source, wrong);
        if source.initiator_name.is_some() && v.name.len() + 1 + source.target_portal.len() > 64 {
            let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            wrong.invalid(format!("{at}.name"), &v.name, why);
        }
    }
    if let Some(source) = &v.fc {
        fibre(&format!("{at}.fc"), source, wrong);
    }
    if let Some(flex) = &v.flex_volume {
        required(&format!("{at}.flexVolume"), &[("driver", Some(&flex.driver))], wrong);
        for key in flex.options.iter().flatten().map(|(key, _)| key) {
            let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
            if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                wrong.invalid(format!("{at}.flexVolume.options[{key}]"), key, "kubernetes.io and k8s.io namespaces are reserved");
            }
        }
    }
    if let Some(source) = &v.quobyte {
        quobyte(&format!("{at}.quobyte"), source, wrong);
    }
    if let Some(source) = &v.flocker {
        flocker(&format!("{at}.flocker"), source, wrong);
    }
    ceph(at, v, wrong);
    cloud(at, v, wrong);
    appliance(at, v, wrong);
}

/// `iqn.2020-01.com.example:disk`, `eui.` and 16, `naa.` and 32 letters or digits.
fn iscsi_name(at: &str, name: &str, wrong: &mut Wrong) {
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let qualified = |s: &str| {
        let (date, rest) = s.strip_prefix("iqn.")?.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        let (authority, disk) = rest.split_once(':')?;
        let domain = !authority.is_empty() && authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        let plain = !disk.is_empty() && !disk.contains(|c: char| matches!(c, ',' | ';' | '*' | '&' | '$' | '|') || c.is_ascii_whitespace());
        Some(digits(year, 4) && digits(month, 2) && domain && plain)
    };
    let fixed = |s: &str, n: usize| s.len() == n + 4 && s.get(4..).is_some_and(word);
    let fine = match name.get(..3) {
        Some("iqn") => qualified(name) == Some(true),
        Some("eui") => fixed(name, 16),
        Some("naa") => fixed(name, 32),
        _ => return wrong.invalid(at, name, "must be valid format starting with iqn, eui, or naa"),
    };
    if !fine {
        wrong.invalid(at, name, "must be valid format");
    }
}

fn iscsi(at: &str, s: &ISCSIVolumeSource, wrong: &mut Wrong) {
    required(at, &[("targetPortal", Some(&s.target_portal)), ("iqn", Some(&s.iqn))], wrong);
    if !s.iqn.is_empty() {
        iscsi_name(&format!("{at}.iqn"), &s.iqn, wrong);
    }
    if let Some(initiator) = &s.initiator_name {
        iscsi_name(&format!("{at}.initiatorname"), initiator, wrong);
    }
    wrong.within(format!("{at}.lun"), s.lun.into(), 0, 255);
    if (s.chap_auth_discovery == Some(true) || s.chap_auth_session == Some(true)) && s.secret_ref.is_none() {
        wrong.required(format!("{at}.secretRef"), "");
    }
}

fn fibre(at: &str, s: &FCVolumeSource, wrong: &mut Wrong) {
    let any = |names: &Option<Vec<String>>| names.as_ref().is_some_and(|n| !n.is_empty());
    let field = format!("{at}.targetWWNs");
    match (any(&s.target_wwns), any(&s.wwids)) {
        (false, false) => wrong.required(field, "must specify either targetWWNs or wwids, but not both"),
        (true, true) => wrong.invalid(
            field,
            s.target_wwns.iter().flatten().collect::<Vec<_>>(),
            "targetWWNs and wwids can not be specified simultaneously",
        ),
        (false, true) => return,
        (true, false) => {}
    }
    match s.lun {
        Some(lun) if any(&s.target_wwns) => wrong.within(format!("{at}.lun"), lun.into(), 0, 255),
        None if any(&s.target_wwns) => wrong.required(format!("{at}.lun"), "lun is required if targetWWNs is specified"),
        _ => {}
    }
}

fn quobyte(at: &str, s: &QuobyteVolumeSource, wrong: &mut Wrong) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    // As Go splits an address: brackets around what has colons of its own.
    let pair = |p: &str| match p.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') => host.ends_with(']'),
        Some((host, _)) => !host.contains(':'),
        None => false,
    };
    if s.registry.is_empty() {
        wrong.required(format!("{at}.registry"), why);
    } else if s.tenant.as_ref().is_some_and(|t| t.len() > 64) {
        wrong.required(format!("{at}.tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else if !s.registry.split(',').all(pair) {
        wrong.invalid(format!("{at}.registry"), &s.registry, why);
    }
    required(at, &[("volume", Some(&s.volume))], wrong);
}

fn flocker(at: &str, s: &FlockerVolumeSource, wrong: &mut Wrong) {
    let (name, uuid) = (s.dataset_name.as_deref().unwrap_or_default(), s.dataset_uuid.as_deref().unwrap_or_default());
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => wrong.required(at, "one of datasetName and datasetUUID is required"),
        (false, false) => wrong.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"),
        _ => {}
    }
    if name.contains('/') {
        wrong.invalid(format!("{at}.datasetName"), name, "must not contain '/'");
    }
}

fn ceph(at: &str, v: &Volume, wrong: &mut Wrong) {
    if let Some(rbd) = &v.rbd {
        required(&format!("{at}.rbd"), &[("image", Some(&rbd.image))], wrong);
        if rbd.monitors.is_empty() {
            wrong.required(format!("{at}.rbd.monitors"), "");
        }
    }
    if v.cephfs.as_ref().is_some_and(|c| c.monitors.is_empty()) {
        wrong.required(format!("{at}.cephfs.monitors"), "");
    }
}

fn cloud(at: &str, v: &Volume, wrong: &mut Wrong) {
    let mut partition = |kind: &str, n: Option<i32>| {
        if let Some(n) = n.filter(|n| !(0..=255).contains(n)) {
            wrong.invalid(format!("{at}.{kind}.partition"), n, "must be between 1 and 255, inclusive");
        }
    };
    partition("gcePersistentDisk", v.gce_persistent_disk.as_ref().and_then(|d| d.partition));
    partition("awsElasticBlockStore", v.aws_elastic_block_store.as_ref().and_then(|d| d.partition));
    if let Some(disk) = &v.gce_persistent_disk {
        required(&format!("{at}.gcePersistentDisk"), &[("pdName", Some(&disk.pd_name))], wrong);
    }
    if let Some(disk) = &v.aws_elastic_block_store {
        required(&format!("{at}.awsElasticBlockStore"), &[("volumeID", Some(&disk.volume_id))], wrong);
    }
    if let Some(cinder) = &v.cinder {
        required(&format!("{at}.cinder"), &[("volumeID", Some(&cinder.volume_id))], wrong);
        if cinder.secret_ref.as_ref().is_some_and(|r| r.name.is_empty()) {
            wrong.required(format!("{at}.cinder.secretRef.name"), "");
        }
    }
    let Some(disk) = &v.azure_disk else { return };
    let at = format!("{at}.azureDisk");
    required(&at, &[("diskName", Some(&disk.disk_name)), ("diskURI", Some(&disk.disk_uri))], wrong);
    wrong.maybe_one_of(format!("{at}.cachingMode"), disk.caching_mode.as_deref(), &["None", "ReadOnly", "ReadWrite"]);
    wrong.maybe_one_of(format!("{at}.kind"), disk.kind.as_deref(), &["Dedicated", "Managed", "Shared"]);
    let forms = match disk.kind.as_deref() {
        Some("Managed") => "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        _ => "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
    };
    let start = if disk.kind.as_deref() == Some("Managed") { "/subscriptions/" } else { "https://" };
    if !disk.disk_uri.starts_with(start) {
        wrong.one_of(format!("{at}.diskURI"), &disk.disk_uri, &[forms]);
    }
}

fn appliance(at: &str, v: &Volume, wrong: &mut Wrong) {
    if let Some(s) = &v.vsphere_volume {
        required(&format!("{at}.vsphereVolume"), &[("volumePath", Some(&s.volume_path))], wrong);
    }
    if let Some(s) = &v.photon_persistent_disk {
        required(&format!("{at}.photonPersistentDisk"), &[("pdID", Some(&s.pd_id))], wrong);
    }
    if let Some(s) = &v.portworx_volume {
        required(&format!("{at}.portworxVolume"), &[("volumeID", Some(&s.volume_id))], wrong);
    }
    if let Some(s) = &v.scale_io {
        let fields = [("gateway", Some(s.gateway.as_str())), ("system", Some(&s.system)), ("volumeName", s.volume_name.as_deref())];
        required(&format!("{at}.scaleIO"), &fields, wrong);
    }
    if let Some(s) = &v.storageos {
        let at = format!("{at}.storageos");
        required(&at, &[("volumeName", s.volume_name.as_deref())], wrong);
        for (field, name) in [("volumeName", &s.volume_name), ("volumeNamespace", &s.volume_namespace)] {
            if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
                wrong.shape(&format!("{at}.{field}"), name, names::label(name));
            }
        }
        if s.secret_ref.as_ref().is_some_and(|r| blank(Some(&r.name))) {
            wrong.required(format!("{at}.secretRef.name"), "");
        }
    }
}
