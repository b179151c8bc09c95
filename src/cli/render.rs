//! `plinth render`: the OCI runtime specification of each container of a manifest, offline, by the same code as `run`.
//! Reads the manifest and image configurations and prints; asks no containerd and makes nothing.
//!
//! The machine is this one (its cgroup version, capabilities, memory), the directories are the default ones. What only a running
//! plinth learns stands as what it would most plainly be: pod IPs of a pod network are absent, container ids are the container's
//! name, no names are looked up in the image's /etc/passwd, recursiveReadOnly: IfPossible is not taken, and a pod with users of its own
//! has the first ids a pod can have.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use serde::Serialize;

use crate::manifest::identity::Source;
use crate::manifest::parse::{self, Context};
use crate::pod::{ImageRef, WantedPod};
use crate::runtime::image_config::ImageConfig;
use crate::runtime::oci::{self, Input, NodeFacts, SandboxFacts, Spec, VolumeSource};
use crate::runtime::paths::Paths;
use crate::runtime::{hosts, image_volume, node, qos, userns, volume};
use crate::settings::Settings;

const USAGE: &str = "usage: plinth render [--node-name N] [--node-ip IP] [--image-config REF=FILE]... FILE";
const OK: u8 = 0;
const FAILED: u8 = 1;
const FAILED_USAGE: u8 = 2;
const INVALID: u8 = 4;

#[derive(Default)]
struct Asked {
    node_name: Option<String>,
    node_ips: Vec<IpAddr>,
    images: Vec<(ImageRef, PathBuf)>,
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenderReport {
    api_version: &'static str,
    kind: &'static str,
    pods: Vec<RenderedPod>,
}

#[derive(Serialize)]
struct RenderedPod {
    name: String,
    namespace: String,
    containers: BTreeMap<String, Spec>,
}

/// Prints the report of the file named by the arguments; the exit status: 0 all rendered, 1 failed, 2 usage, 4 invalid manifest.
pub fn run(args: &[String]) -> u8 {
    let asked = match arguments(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("plinth render: {why}\n{USAGE}");
            return FAILED_USAGE;
        }
    };
    let (report, status) = match report(&asked) {
        Ok(done) => done,
        Err(why) => {
            eprintln!("plinth render: {why}");
            return FAILED;
        }
    };
    match write(&report) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("plinth render: write the report: {e}");
            FAILED
        }
        _ => status,
    }
}

fn write(report: &RenderReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn arguments(args: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut files: Vec<&String> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (flag, attached) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || attached.clone().or_else(|| args.next().cloned()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            "--node-name" => asked.node_name = Some(value()?),
            "--node-ip" => {
                for ip in value()?.split(',') {
                    asked.node_ips.push(ip.parse().map_err(|_| format!("--node-ip {ip:?} is no IP address"))?);
                }
            }
            "--image-config" => {
                let value = value()?;
                let (image, file) = value.split_once('=').ok_or("--image-config needs REF=FILE")?;
                asked.images.push((ImageRef::normalised(image), file.into()));
            }
            "--" => files.extend(args.by_ref()),
            _ if arg.starts_with("--") => return Err(format!("unknown option {arg}")),
            _ => files.push(arg),
        }
    }
    match files.as_slice() {
        [one] => asked.file = (*one).into(),
        [] => return Err("no FILE given".into()),
        _ => return Err("one FILE at a time".into()),
    }
    Ok(asked)
}

/// The report and the exit status. A pod that is refused costs the others nothing.
fn report(asked: &Asked) -> Result<(RenderReport, u8), String> {
    let bytes = fs::read(&asked.file).map_err(|e| format!("read {}: {e}", asked.file.display()))?;
    let mut images = BTreeMap::new();
    for (image, file) in &asked.images {
        let json = fs::read(file).map_err(|e| format!("read {}: {e}", file.display()))?;
        let config = ImageConfig::parse(&json).map_err(|e| format!("read {} as an image configuration: {e}", file.display()))?;
        images.insert(image.clone(), config);
    }
    let settings = Settings { node_ips: asked.node_ips.clone(), ..Settings::default() };
    let here = node::facts(&settings, true);
    let node_name = asked.node_name.clone().unwrap_or_else(|| here.hostname.trim().to_lowercase());
    let layer = asked.file.parent().unwrap_or(Path::new(".")).to_string_lossy().as_ref().into();
    let parsed = parse::file(&bytes, &Context { node_name: &node_name, source: Source::File, layer, path: &asked.file });
    for error in &parsed.errors {
        eprintln!("{}:{}:{}: {}: {}", asked.file.display(), error.line, error.column, error.field, error.message);
    }
    let mut pods = Vec::new();
    for pod in &parsed.pods {
        pods.push(render(pod, &images, &here, &settings).map_err(|why| format!("{}: {why}", pod.key))?);
    }
    let status = if parsed.errors.is_empty() { OK } else { INVALID };
    Ok((RenderReport { api_version: "plinth.dev/v1alpha1", kind: "RenderReport", pods }, status))
}

fn render(pod: &WantedPod, images: &BTreeMap<ImageRef, ImageConfig>, here: &NodeFacts, settings: &Settings) -> Result<RenderedPod, String> {
    let paths = Paths::new(settings);
    let names = hosts::names(&pod.object, &settings.cluster_domain).map_err(|e| e.to_string())?;
    let ips = if pod.host_network { here.ips.clone() } else { Vec::new() };
    let mut sandbox = SandboxFacts::at(&paths, pod, names.hostname, ips);
    sandbox.users = userns::own(pod).then(|| userns::mapping(userns::FIRST));
    let mut containers = BTreeMap::new();
    for wanted in &pod.containers {
        let image = images.get(&wanted.image).ok_or_else(|| {
            format!("container `{}`: no configuration of image `{}`; give --image-config {}=FILE", wanted.name, wanted.image, wanted.image)
        })?;
        let spec = container(pod, &wanted.name, image, here, &sandbox, settings)?;
        containers.insert(wanted.name.to_string(), spec);
    }
    Ok(RenderedPod { name: pod.key.name.to_string(), namespace: pod.key.namespace.to_string(), containers })
}

fn container(
    pod: &WantedPod,
    name: &str,
    image: &ImageConfig,
    here: &NodeFacts,
    sandbox: &SandboxFacts,
    settings: &Settings,
) -> Result<Spec, String> {
    let paths = Paths::new(settings);
    let of = pod.container(name).ok_or_else(|| format!("container `{name}` is not in the pod"))?;
    let volumes = volume::places(&paths, pod);
    let user = oci::user::resolve(pod, of, image, None, None).map_err(|e| e.to_string())?;
    let log = paths.termination_log(&pod.uid, name, 0).to_string_lossy().into_owned();
    let root = settings.cgroup_root.trim_end_matches('/');
    let cgroup = format!("{root}/{}/{name}", qos::cgroup_parent(qos::class(&pod.object), &pod.uid));
    let profile = oci::localhost_seccomp(pod, name).map(|p| read_profile(&settings.data_dir, p)).transpose()?;
    let mut input = Input {
        pod,
        container: name,
        image,
        node: here,
        sandbox,
        volumes: &volumes,
        sub_paths: &BTreeMap::new(),
        image_volumes: &BTreeMap::new(),
        env_files: &BTreeMap::new(),
        termination_log: Some(&log),
        user: &user,
        cgroups_path: &cgroup,
        seccomp_profile: profile.as_deref(),
    };
    let relative = oci::sub_paths(&input).map_err(|e| e.to_string())?;
    let sub_paths = sub_paths(of, &volumes, &relative);
    let places = image_volume::places(&paths, &pod.uid, name, &oci::image_volumes(of, image));
    let image_volumes = places.into_iter().map(|(path, place)| (path, text(&place))).collect();
    (input.sub_paths, input.image_volumes) = (&sub_paths, &image_volumes);
    oci::spec(&input).map_err(|e| e.to_string())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn read_profile(data: &Path, profile: &str) -> Result<String, String> {
    let path = data.join("seccomp").join(profile);
    fs::read_to_string(&path).map_err(|e| format!("read seccomp profile {}: {e}", path.display()))
}

fn sub_paths(of: &Container, volumes: &BTreeMap<String, VolumeSource>, relative: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mounts = of.volume_mounts.iter().flatten();
    let joined = mounts.filter_map(|m| {
        let (source, below) = (volumes.get(&m.name)?, relative.get(&m.mount_path)?);
        Some((m.mount_path.clone(), text(&Path::new(&source.path).join(below))))
    });
    joined.collect()
}
