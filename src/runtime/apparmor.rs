//! The profile RuntimeDefault stands for: loaded by apparmor_parser where the kernel has AppArmor and nobody has loaded it yet. containerd's
//! CRI loads one of the same name that allows the same; whichever is there first is left alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Runtime;
use super::error::{Error, Result};
use super::specify::file;
use crate::plan::apparmor::{self, Apparmor, DEFAULT, Wish};
use crate::pod::WantedPod;
use crate::sys::spawn::{Ended, Exec, Output};

const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/local/sbin/apparmor_parser"];
/// The features a profile that names them is read by.
const ABI: &str = "/etc/apparmor.d/abi/3.0";
/// Compiling takes it a tenth of a second.
const LOAD: Duration = Duration::from_secs(30);
/// A complaint is a line or two.
const CAP_BYTES: usize = 4096;

/// Files, capabilities and the network are left to the other fences; what it denies are ways to the host: mounts, and the parts of /proc and
/// /sys that are not the container's own. The last matter where a container runs with paths unmasked, or mounts a /proc anew.
const PROFILE: &str = "profile cri-containerd.apparmor.d flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  network,
  umount,
  deny mount,

  # Signals and traces: among its own processes; signals also from the host and from what stops it.
  signal (send, receive) peer=cri-containerd.apparmor.d,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  ptrace (read, readby, trace, tracedby) peer=cri-containerd.apparmor.d,

  # Of /proc: directories of processes, and settings of shared memory.
  deny /proc/* w,
  deny /proc/{[^0-9s]*,s[^y]*,sy[^s]*,sys?*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{[^s]**,s[^h]**,sh[^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/{mem,kmem,kcore} rwklx,

  # Of /sys: the control groups alone are written.
  deny /sys/{[^f]*,f[^s]*}/** wklx,
  deny /sys/fs/{[^c]*,c[^g]*,cg[^r]*}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// What the kernel and this machine have.
pub fn here() -> Apparmor {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let on = read("/sys/module/apparmor/parameters/enabled").starts_with('Y') && Path::new("/sys/kernel/security/apparmor").is_dir();
    let names = |text: String| text.lines().map(|l| name(l).to_owned()).collect();
    Apparmor { loaded: on.then(|| names(read("/sys/kernel/security/apparmor/profiles"))), parser: on && parser().is_some() }
}

/// Of `name (mode)`.
fn name(line: &str) -> &str {
    line.rsplit_once(" (").map_or(line, |(name, _)| name)
}

fn parser() -> Option<PathBuf> {
    PARSERS.iter().map(PathBuf::from).find(|p| p.is_file())
}

/// What a container needs before it can be confined as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Load,
    /// It runs without: its manifest is silent, and nothing loads the default.
    Without,
}

fn need(here: &Apparmor, pod: &WantedPod, container: &str) -> Need {
    let privileged = pod.container(container).and_then(|c| c.security_context.as_ref()).and_then(|s| s.privileged).unwrap_or(false);
    let by_default = !privileged && matches!(apparmor::wish(pod, container), None | Some(Wish::RuntimeDefault));
    match &here.loaded {
        Some(loaded) if by_default && !loaded.contains(DEFAULT) => {
            if here.parser {
                Need::Load
            } else {
                Need::Without
            }
        }
        _ => Need::Nothing,
    }
}

impl Runtime {
    /// Sees to it that the default profile is there for a container that is to have it.
    pub(super) async fn confine(&self, pod: &WantedPod, container: &str) -> Result<()> {
        match need(&here(), pod, container) {
            Need::Nothing => Ok(()),
            Need::Load => self.load().await,
            Need::Without => {
                if !self.warned_of_apparmor.replace(true) {
                    log::warn!(
                        "load AppArmor profile {DEFAULT}: there is no apparmor_parser; containers run without a profile (said once)"
                    );
                }
                Ok(())
            }
        }
    }

    async fn load(&self) -> Result<()> {
        let Some(program) = parser() else { return Ok(()) };
        // Replaced, not added, should somebody have loaded it meanwhile; no cache is read or written.
        let args = ["--replace", "--skip-cache"];
        // A newer kernel mediates more than the profile names: what it is silent about must stay allowed.
        let abi = if Path::new(ABI).is_file() { "abi <abi/3.0>,\n" } else { "" };
        let text = format!("{abi}{PROFILE}");
        let exec =
            Exec { program: &program, args: &args, env: &[], stdin: text.as_bytes(), hold: None, cap_bytes: CAP_BYTES, timeout: LOAD };
        judged(&program, &exec.run().await.map_err(file("run", &program))?)?;
        log::info!("loaded AppArmor profile {DEFAULT}");
        Ok(())
    }
}

fn judged(program: &Path, output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let how = match output.ended {
        Some(Ended::Exited(0)) => return Ok(()),
        Some(Ended::Exited(code)) => format!("exit status {code}"),
        Some(Ended::Signalled(signal)) => format!("ended by signal {signal}"),
        None => format!("no answer within {} s, killed", LOAD.as_secs()),
    };
    Err(Error::Again(format!("load AppArmor profile {DEFAULT} by {}: {how}: {said}", program.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::{Value, json};

    fn needs(security: Value) -> [Need; 4] {
        let object = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c", "securityContext": security}]}});
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        let with =
            |loaded: Option<&[&str]>, parser| Apparmor { loaded: loaded.map(|l| l.iter().map(|s| (*s).to_owned()).collect()), parser };
        [with(None, true), with(Some(&[DEFAULT]), true), with(Some(&["other"]), true), with(Some(&[]), false)]
            .map(|here| need(&here, &pod, "c"))
    }

    #[test]
    fn the_default_is_loaded_where_it_is_wanted_and_not_there() {
        let by_default = [Need::Nothing, Need::Nothing, Need::Load, Need::Without];
        assert_eq!(needs(json!({})), by_default);
        assert_eq!(needs(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), by_default);
        let nothing = [Need::Nothing; 4];
        assert_eq!(needs(json!({"privileged": true})), nothing);
        assert_eq!(needs(json!({"appArmorProfile": {"type": "Unconfined"}})), nothing);
        assert_eq!(needs(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "other"}})), nothing);
    }

    #[test]
    fn names_are_read_without_their_mode() {
        assert_eq!(name("cri-containerd.apparmor.d (enforce)"), DEFAULT);
        assert_eq!(name("/usr/bin/a b (complain)"), "/usr/bin/a b");
        assert_eq!(PROFILE.split_whitespace().nth(1), Some(DEFAULT));
    }

    #[test]
    fn a_parser_that_fails_is_quoted() {
        let output = |ended| Output { ended, stdout: Vec::new(), stderr: b"syntax error\nline 3\n".to_vec() };
        let program = Path::new("/sbin/apparmor_parser");
        assert!(judged(program, &output(Some(Ended::Exited(0)))).is_ok());
        let failed = judged(program, &output(Some(Ended::Exited(1)))).unwrap_err().to_string();
        assert_eq!(failed, format!("load AppArmor profile {DEFAULT} by /sbin/apparmor_parser: exit status 1: syntax error; line 3"));
        assert!(judged(program, &output(None)).unwrap_err().to_string().contains("killed"));
    }
}
