//! The OCI runtime's command line (runc's, which crun has too), and what it says when it says no.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde::Deserialize;

use super::api::{Code, Options};
use super::reap::Children;
use super::ttrpc::Status;
use crate::sys::spawn;

/// Where runc keeps its containers where nobody says another place.
const ROOT: &str = "/run/containerd/runc";
/// More than that of what it prints is not read.
const OUTPUT_BYTES: u64 = 1 << 20;

/// How one container's runtime is called.
pub(super) struct Oci {
    binary: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    pub bundle: PathBuf,
}

/// One call.
pub(super) struct Call<'a> {
    /// The verb and what follows it.
    pub args: &'a [&'a str],
    /// What a container or command it starts has as its input and outputs; `None`: what it prints itself is looked at.
    pub stdio: Option<[&'a OwnedFd; 3]>,
    /// Names its log: calls for one container may be under way at one time.
    pub log: &'a str,
    /// Killed after that.
    pub within: Option<Duration>,
}

/// A call that did not succeed.
pub(super) struct Failed {
    how: String,
    /// The last thing it called an error, if it came to that.
    said: io::Result<String>,
    late: bool,
}

impl Failed {
    /// In containerd's words: `OCI runtime create failed: …`.
    pub fn status(&self, what: &str) -> Status {
        if self.late {
            return Code::DeadlineExceeded.says(format!("{what}: context deadline exceeded"));
        }
        Code::Unknown.says(match &self.said {
            Ok(said) if !said.is_empty() => format!("{what}: {said}"),
            Ok(_) => format!("{what}: {}", self.how),
            Err(e) => format!("{what}: unable to retrieve OCI runtime error ({e}): {}", self.how),
        })
    }

    /// Whether there is nothing left to signal.
    pub fn is_over(&self) -> bool {
        let said = self.said.as_deref().unwrap_or_default().to_lowercase();
        ["not running", "no such process", "already finished", "does not exist"].iter().any(|w| said.contains(w) || self.how.contains(w))
    }

    /// Whether it has no such container.
    pub fn is_gone(&self) -> bool {
        self.how.contains("does not exist") || self.said.as_ref().is_ok_and(|s| s.contains("does not exist"))
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl Oci {
    pub fn new(options: &Options, namespace: &str, bundle: &Path) -> io::Result<Oci> {
        let name = if options.binary_name.is_empty() { "runc" } else { &options.binary_name };
        let root = if options.root.is_empty() { ROOT } else { &options.root };
        Ok(Oci {
            binary: spawn::find(name)?,
            root: Path::new(root).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            bundle: bundle.to_owned(),
        })
    }

    /// What it printed, once it ended well.
    pub async fn call(&self, children: &Children, call: &Call<'_>) -> Result<Vec<u8>, Failed> {
        let log = self.bundle.join(format!("{}.log", call.log));
        let _ = fs::remove_file(&log);
        // A bundle that somebody removed is no reason for what it was of to stay.
        let at = if self.bundle.is_dir() { &*log } else { Path::new("/dev/null") };
        let result = self.run(children, call, at).await.map_err(|(how, late)| Failed { how, said: last_error(&log), late });
        let _ = fs::remove_file(&log);
        result
    }

    async fn run(&self, children: &Children, call: &Call<'_>, log: &Path) -> Result<Vec<u8>, (String, bool)> {
        let failed = |e: io::Error| (format!("run {}: {e}", self.binary.display()), false);
        let mut args: Vec<OsString> = ["--root".into(), self.root.clone().into()].into();
        args.extend(["--log".into(), log.into(), "--log-format".into(), "json".into()]);
        args.extend(self.systemd_cgroup.then(|| "--systemd-cgroup".into()));
        args.extend(call.args.iter().map(Into::into));
        let own = [spawn::memory(&[]).map_err(failed)?, spawn::memory(&[]).map_err(failed)?];
        let null: OwnedFd = File::open("/dev/null").map_err(failed)?.into();
        let [out, err] = &own;
        let pid = spawn::dependent(&self.binary, &args, call.stdio.unwrap_or([&null, out, err])).map_err(failed)?;
        let ended = children.end_of(pid);
        let code = match call.within {
            None => ended.await,
            Some(within) => match tokio::time::timeout(within, ended).await {
                Ok(code) => code,
                Err(_) => {
                    // Not reaped yet: that takes its turn in this very thread.
                    let _ = kill_process(pid, Signal::KILL);
                    return Err((format!("no end within {within:?}"), true));
                }
            },
        };
        let [out, err] = own.map(printed);
        match code {
            0 => Ok(out),
            code => {
                let said = [out, err].concat();
                Err((format!("exit status {code}: {}", String::from_utf8_lossy(&said).trim()), false))
            }
        }
    }
}

fn printed(fd: OwnedFd) -> Vec<u8> {
    let (mut file, mut bytes) = (File::from(fd), Vec::new());
    let _ = file.rewind().and_then(|()| file.take(OUTPUT_BYTES).read_to_end(&mut bytes));
    bytes
}

/// The last line of a log that is an error.
fn last_error(log: &Path) -> io::Result<String> {
    let text = fs::read(log)?;
    let mut lines = text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice::<Line>(l).ok());
    Ok(lines.rfind(|l| l.level == "error").map(|l| l.msg.trim().to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_runtimes_last_error_is_what_went_wrong() {
        let log = std::env::temp_dir().join(format!("plinth-oci-log-{}", std::process::id()));
        let missing = Failed { how: "exit status 1: ".into(), said: last_error(&log), late: false };
        assert!(missing.status("OCI runtime create failed").message.starts_with(
            "OCI runtime create failed: unable to retrieve OCI runtime error (No such file or directory (os error 2)): exit status 1"
        ));
        fs::write(&log, "{\"level\":\"warning\",\"msg\":\"hm\"}\nno json\n{\"msg\":\"first\",\"level\":\"error\"}\n{\"msg\":\" container `a` does not exist \",\"level\":\"error\"}\n").unwrap();
        let failed = Failed { how: "exit status 1: ".into(), said: last_error(&log), late: false };
        let status = failed.status("OCI runtime start failed");
        assert_eq!((status.code, &*status.message), (2, "OCI runtime start failed: container `a` does not exist"));
        assert!(failed.is_gone());
        fs::write(&log, "").unwrap();
        let silent = Failed { how: "exit status 3: oh".into(), said: last_error(&log), late: false };
        assert_eq!(silent.status("OCI runtime start failed").message, "OCI runtime start failed: exit status 3: oh");
        fs::remove_file(&log).unwrap();
    }
}
