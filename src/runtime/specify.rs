//! Gathers what `oci::spec` is to be given: the files, directories and pins of one container, made or found here.
//!
//! Makes the termination log and /etc/hosts (and has `volume` make what mounts need); decides nothing about the specification itself.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Once;

use containerd_client::types::Mount;

use super::error::{Error, Result, chain};
use super::image::Image;
use super::oci::{self, Input, OciError, Support, VolumeSource, user};
use super::users::{self, Users};
use super::{Runtime, cgroup, image_volume, node, qos, sandbox, userns, volume};
use crate::plan::action::{Class, Failure};
use crate::plan::world::RunsAs;
use crate::pod::WantedPod;
use crate::sys::mounts;

/// Why there is no specification, under the kubelet's words for it.
pub(super) struct Unspecified {
    pub(super) reason: &'static str,
    pub(super) error: Error,
}

impl Unspecified {
    /// As data.
    pub(super) fn into_failure(self) -> Failure {
        self.error.into_failure(self.reason)
    }
}

impl From<Error> for Unspecified {
    fn from(error: Error) -> Unspecified {
        Unspecified { reason: "CreateContainerError", error }
    }
}

impl From<OciError> for Unspecified {
    fn from(e: OciError) -> Unspecified {
        Unspecified { reason: e.reason(), error: Error::Refused(e.to_string()) }
    }
}

impl From<volume::VolumeError> for Unspecified {
    fn from(e: volume::VolumeError) -> Unspecified {
        let text = chain(&e).to_string();
        let error = if e.is_refusal() { Error::Refused(text) } else { Error::Again(text) };
        Unspecified { reason: "CreateContainerConfigError", error }
    }
}

/// A specification as JSON, where its cgroup is, and whose its process is.
pub(super) struct Specified {
    pub(super) json: Vec<u8>,
    pub(super) cgroup: String,
    pub(super) user: Rc<RunsAs>,
}

/// Which container of which pod.
pub(super) struct Whose<'a> {
    pub(super) pod: &'a Rc<WantedPod>,
    pub(super) name: &'a str,
    pub(super) attempt: u32,
    pub(super) id: &'a str,
    pub(super) ips: &'a [std::net::IpAddr],
}

impl Runtime {
    /// The specification of a container on this host, whose fresh snapshot these are the mounts of.
    pub(super) async fn specify(&self, whose: &Whose<'_>, image: &Image, mounts: &[Mount]) -> std::result::Result<Specified, Unspecified> {
        if let Some(container) = whose.pod.container(whose.name) {
            volume::answer(&self.paths, whose.pod, container).await?;
        }
        cgroup::restore(&self.settings, &self.paths, whose.pod);
        self.confine(whose.pod, whose.name).await?;
        let users = users::read(mounts)?;
        let image_volumes = self.image_volumes(whose, image, mounts).await?;
        self.specified(whose, image, &users, image_volumes)
    }

    /// A directory for each VOLUME of the image the pod mounts nothing at.
    async fn image_volumes(&self, whose: &Whose<'_>, image: &Image, mounts: &[Mount]) -> Result<BTreeMap<String, String>> {
        let Some(container) = whose.pod.container(whose.name) else { return Ok(BTreeMap::new()) };
        let wanted = oci::image_volumes(container, &image.config);
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let layers = users::layers(mounts).unwrap_or_default();
        let made = image_volume::make(&self.paths, &whose.pod.uid, whose.name, &wanted, &layers).await;
        made.map_err(file("fill the image's volumes in", &self.paths.image_volumes(&whose.pod.uid, whose.name)))
    }

    fn specified(
        &self,
        whose: &Whose<'_>,
        image: &Image,
        users: &Users,
        image_volumes: BTreeMap<String, String>,
    ) -> std::result::Result<Specified, Unspecified> {
        let (pod, name) = (&**whose.pod, whose.name);
        let container = pod.container(name).ok_or_else(|| OciError::NoContainer(name.to_owned()))?;
        let privileged = container.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false);
        let mut facts = node::facts(&self.settings, privileged);
        let class = pod.object.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
        facts.recursive_read_only = if node::seals_recursively(&self.settings, class) { Support::Yes } else { Support::No };
        say_clamped(qos::oom_score_adj(pod, container, facts.memory_bytes, -1000), facts.oom_score_adj_floor);
        let sandbox = sandbox::facts(&self.settings, &self.paths, pod, whose.ips).map_err(|e| Error::Refused(chain(&e).to_string()))?;
        if !sandbox.etc_hosts.is_empty() {
            sandbox::write_hosts(&self.settings, &self.paths, pod, whose.ips).map_err(|e| Error::Again(chain(&e).to_string()))?;
        }
        let volumes = volume::ready(&self.paths, pod, container, &facts.allocatable)?;
        let termination = self.termination_log(whose, container.termination_message_path.as_deref())?;
        let found = user::resolve(pod, container, &image.config, users.passwd.as_deref(), users.group.as_deref());
        let user = found.map_err(|e| Error::Refused(e.to_string()))?;
        let cgroup = cgroup::pod_group(&self.paths, pod).join(whose.id).display().to_string();
        let files = env_files(container, &volumes)?;
        let profile = self.seccomp_profile(pod, name)?;
        let none = BTreeMap::new();
        let mut input = Input {
            pod,
            container: name,
            image: &image.config,
            node: &facts,
            sandbox: &sandbox,
            volumes: &volumes,
            sub_paths: &none,
            image_volumes: &image_volumes,
            env_files: &files,
            termination_log: termination.as_deref(),
            user: &user,
            cgroups_path: &cgroup,
            seccomp_profile: profile.as_deref(),
        };
        let pinned = volume::open_sub_paths(&self.paths, pod, container, &oci::sub_paths(&input)?, &volumes)?;
        input.sub_paths = &pinned;
        let mut spec = oci::spec(&input)?;
        propagated(&spec)?;
        if userns::own(pod) {
            let mapped = userns::map(&self.paths, &pod.uid, &mut spec, &sandbox, termination.as_deref());
            mapped.map_err(|e| Error::Refused(chain(&e).to_string()))?;
        }
        let json = serde_json::to_vec(&spec).map_err(|e| Error::Refused(format!("write the specification of container `{name}`: {e}")))?;
        Ok(Specified { json, cgroup, user: Rc::new(RunsAs { uid: user.uid, gid: user.gid, groups: user.additional_gids }) })
    }

    fn termination_log(&self, whose: &Whose<'_>, at: Option<&str>) -> Result<Option<String>> {
        if at.is_none_or(str::is_empty) {
            return Ok(None);
        }
        let path = self.paths.termination_log(&whose.pod.uid, whose.name, whose.attempt);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(file("make", dir))?;
        }
        std::fs::write(&path, b"").map_err(file("make", &path))?;
        // Any user of the container may write it, as with the kubelet.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).map_err(file("open up", &path))?;
        Ok(Some(path.display().to_string()))
    }

    fn seccomp_profile(&self, pod: &WantedPod, name: &str) -> Result<Option<String>> {
        let Some(profile) = oci::localhost_seccomp(pod, name) else { return Ok(None) };
        let path = self.settings.data_dir.join("seccomp").join(profile);
        std::fs::read_to_string(&path).map(Some).map_err(file("read seccomp profile", &path))
    }
}

/// That containers die for want of memory sooner than they should: once, since it is so for all of them.
fn say_clamped(score: i32, floor: i32) {
    static SAID: Once = Once::new();
    if score < floor {
        SAID.call_once(|| {
            log::warn!(
                "set oom_score_adj of a container to {score}: without CAP_SYS_RESOURCE none can be below plinth's own, {floor}; containers that should be lower have that (said once)"
            );
        });
    }
}

/// That what is to be seen on the other side of a mount can be: an OCI runtime is silent about a source that passes nothing on, and
/// containerd's CRI refuses it.
fn propagated(spec: &oci::Spec) -> Result<()> {
    for mount in &spec.mounts {
        let asks = |option: &str| mount.options.iter().any(|o| o == option);
        let (wish, enough, needs): (_, &[&str], _) = match (asks("rshared"), asks("rslave")) {
            (true, _) => ("Bidirectional", &["shared:"], "shared"),
            (_, true) => ("HostToContainer", &["shared:", "master:"], "shared or slave"),
            _ => continue,
        };
        let (on, passes) = mounts::holding(Path::new(&*mount.source)).map_err(file("find the mount of", Path::new(&*mount.source)))?;
        if !passes.split(' ').any(|field| enough.iter().any(|e| field.starts_with(e))) {
            let (to, source, on) = (&mount.destination, &mount.source, on.display());
            return Err(Error::Again(format!(
                "mount {to} with mountPropagation {wish}: {source} is mounted on {on}, which is not a {needs} mount: `mount --make-rshared {on}`"
            )));
        }
    }
    Ok(())
}

/// The files environment variables are read from. A volume belongs to the pod: no link may lead out of it.
fn env_files(
    container: &k8s_openapi::api::core::v1::Container,
    volumes: &BTreeMap<String, VolumeSource>,
) -> Result<BTreeMap<(String, String), String>> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    /// The kubelet reads no more of an env file.
    const BYTES: u64 = 64 << 10;
    let mut texts = BTreeMap::new();
    for (name, path) in oci::files_wanted(container) {
        let Some(volume) = volumes.get(&name) else { continue };
        let root = openat(CWD, &volume.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = root.and_then(|root| openat2(root, &path, flags, Mode::empty(), ResolveFlags::BENEATH));
        // What is not there is for the specification to judge: a key may be optional.
        let Ok(fd) = opened else { continue };
        let mut text = String::new();
        let read = std::io::Read::read_to_string(&mut std::io::Read::take(std::fs::File::from(fd), BYTES), &mut text);
        read.map_err(file("read", &Path::new(&volume.path).join(&path)))?;
        texts.insert((name, path), text);
    }
    Ok(texts)
}

/// Names a file operation that failed.
pub(super) fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::File { verb, path, source }
}

/// A container that cannot be specified gets no task; what follows is a failure of this class.
pub(super) fn refused(reason: &str, message: String) -> Failure {
    Failure { class: Class::Refused, reason: reason.into(), message: message.into() }
}
