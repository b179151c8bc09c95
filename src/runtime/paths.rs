//! Where everything of a pod lies on this host. The one place that knows; no I/O.
//!
//! `data` survives a reboot, `run` (a tmpfs) does not: what must be gone after a reboot lies in `run`.

use std::path::{Path, PathBuf};

use crate::pod::{PodKey, Uid};
use crate::settings::Settings;

/// A file name's limit on the usual file systems.
const NAME_BYTES: usize = 255;

/// The directories of the settings.
#[derive(Clone, Debug)]
pub struct Paths {
    data: PathBuf,
    run: PathBuf,
    logs: PathBuf,
    cni_cache: PathBuf,
    cgroup_root: String,
}

impl Paths {
    /// From the settings.
    pub fn new(settings: &Settings) -> Paths {
        Paths {
            data: settings.data_dir.clone(),
            run: settings.run_dir.clone(),
            logs: settings.pod_logs_dir.clone(),
            cni_cache: settings.cni_cache_dir.clone(),
            cgroup_root: settings.cgroup_root.clone(),
        }
    }

    /// `<data>/pods`, one directory a pod.
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// `<data>/pods/<uid>`: `pod.json`, `etc-hosts`, `hostname`, `resolv.conf`, `volumes`, `containers`.
    pub fn pod(&self, uid: &Uid) -> PathBuf {
        self.pods().join(&*uid.0)
    }

    /// The object the pod was made from, as JSON, with its origin: written first, removed last.
    pub fn pod_json(&self, uid: &Uid) -> PathBuf {
        self.pod(uid).join("pod.json")
    }

    /// Which ids of the host a pod with users of its own has.
    pub fn userns(&self, uid: &Uid) -> PathBuf {
        self.pod(uid).join("userns")
    }

    /// Where such a pod's volumes are mounted as it sees them, while a container of it is made.
    pub fn mapped(&self, uid: &Uid) -> PathBuf {
        self.run_pod(uid).join("mapped")
    }

    /// Bind-mounted at /etc/hosts.
    pub fn etc_hosts(&self, uid: &Uid) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// Bind-mounted at /etc/hostname.
    pub fn hostname(&self, uid: &Uid) -> PathBuf {
        self.pod(uid).join("hostname")
    }

    /// Bind-mounted at /etc/resolv.conf.
    pub fn resolv_conf(&self, uid: &Uid) -> PathBuf {
        self.pod(uid).join("resolv.conf")
    }

    /// A volume's directory, as the kubelet lays them: `volumes/kubernetes.io~<plugin>/<name>`.
    pub fn volume(&self, uid: &Uid, plugin: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Bind-mounted at the container's `terminationMessagePath`.
    pub fn termination_log(&self, uid: &Uid, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(attempt.to_string())
    }

    /// Where a subPath of a volume is pinned for one mount of a container, as the kubelet lays them.
    pub fn sub_path(&self, uid: &Uid, volume: &str, container: &str, mount: usize) -> PathBuf {
        self.pod(uid).join("volume-subpaths").join(volume).join(container).join(mount.to_string())
    }

    /// `<cni cache>/results`: what CNI plugins answered, one file an attachment, as libcni lays them.
    pub fn cni_results(&self) -> PathBuf {
        self.cni_cache.join("results")
    }

    /// The parent of `kubepods`, from the root of a hierarchy.
    pub fn cgroup_root(&self) -> PathBuf {
        PathBuf::from("/").join(self.cgroup_root.trim_start_matches('/'))
    }

    /// Directories of the VOLUMEs of a container's image.
    pub fn image_volumes(&self, uid: &Uid, container: &str) -> PathBuf {
        self.pod(uid).join("image-volumes").join(container)
    }

    /// `<run>/pods`, one directory a pod.
    pub fn run_pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// `<run>/pods/<uid>`: `sandbox.json`, `ns`, `shm`, `io`.
    pub fn run_pod(&self, uid: &Uid) -> PathBuf {
        self.run_pods().join(&*uid.0)
    }

    /// The commit mark of a complete sandbox: IPs and time, written by rename as its last step, removed as the first of undoing.
    pub fn sandbox_json(&self, uid: &Uid) -> PathBuf {
        self.run_pod(uid).join("sandbox.json")
    }

    /// A pinned namespace: `net`, `ipc`, `uts`, `pid`, `user`.
    pub fn namespace(&self, uid: &Uid, kind: &str) -> PathBuf {
        self.run_pod(uid).join("ns").join(kind)
    }

    /// Which process is the first one of the pod's shared PID namespace.
    pub fn pause(&self, uid: &Uid) -> PathBuf {
        self.run_pod(uid).join("ns").join("pause")
    }

    /// The pod's /dev/shm, a tmpfs of 64 MiB.
    pub fn shm(&self, uid: &Uid) -> PathBuf {
        self.run_pod(uid).join("shm")
    }

    /// A container's FIFOs `stdout` and `stderr`, and `started`, a mark made just before its task is started.
    pub fn io(&self, uid: &Uid, id: &str) -> PathBuf {
        self.run_pod(uid).join("io").join(id)
    }

    /// The FIFO of a container's input, if it has one: beside those of its output.
    pub fn stdin(&self, uid: &Uid, id: &str) -> PathBuf {
        self.io(uid, id).join("stdin")
    }

    /// `<logs>/<ns>_<name>_<uid>`, 0750. The longest pod names are cut: no file system takes them whole (the kubelet never starts
    /// such a pod).
    pub fn pod_logs(&self, key: &PodKey, uid: &Uid) -> PathBuf {
        let left = NAME_BYTES.saturating_sub(key.namespace.len() + uid.0.len() + 2);
        let name = key.name.get(..left).unwrap_or(&key.name);
        self.logs.join(format!("{}_{name}_{uid}", key.namespace))
    }

    /// Where all of them are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Where this plinth keeps its pods: by it, it is told from another.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// `<logs>/<ns>_<name>_<uid>/<container>/<attempt>.log`.
    pub fn log(&self, key: &PodKey, uid: &Uid, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(key, uid).join(container).join(format!("{attempt}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_directory_of_the_longest_name_can_be_made() {
        let paths = Paths::new(&Settings::default());
        let uid = Uid("0123456789abcdef0123456789abcdef".into());
        let named = |name: &str| paths.pod_logs(&PodKey { namespace: "default".into(), name: name.into() }, &uid);
        let longest = named(&"n".repeat(253));
        assert_eq!(longest.file_name().unwrap_or_default().len(), 255);
        assert!(longest.to_string_lossy().ends_with("n_0123456789abcdef0123456789abcdef"));
        assert!(named("web").ends_with("default_web_0123456789abcdef0123456789abcdef"));
    }
}
