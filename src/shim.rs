//! This program in the place of containerd's runc shim.
//!
//! ```text
//!  containerd ── start ──> here ── starts ──> `serve`: this program again, which stays and has the containers of a pod
//!             ── delete ─> here               (nothing is started)
//! ```
//! containerd runs `PROGRAM … start` before the first word to a container's shim, and `PROGRAM … delete` after its last. What is not exactly
//! as containerd 2.0 to 2.2 asks it (another version, other options, a container that was not ended in order) is handed to the shim's own
//! program, unanswered.
//!
//! `runtime::stand_in` decides whether containerd is told of this program; it knows it by a link of the shim's own name.

mod api;
mod container;
mod delete;
mod oci;
mod publish;
mod reap;
mod rootfs;
mod serve;
mod start;
mod stdio;
mod ttrpc;

use std::ffi::{CStr, OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::spawn;

/// The program that is stood in for.
pub const PROGRAM: &str = "containerd-shim-runc-v2";
/// What the kernel calls it: 15 bytes of that, as of containerd's own.
const NAME: &CStr = c"containerd-shim";
/// Where a runc shim has its socket, whatever containerd's state directory is.
const SOCKETS: &str = "/run/containerd/s";
/// What containerd says on standard input is some hundred bytes.
const INPUT_BYTES: u64 = 1 << 20;

/// One call, as containerd writes it on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    namespace: String,
    /// containerd's socket.
    address: String,
    id: String,
    bundle: String,
    /// Empty: to stay.
    action: String,
}

/// This program looks first of all whether it is called as the shim's.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// Whether another process of this program would answer such calls: one that stands on this library without asking `is_asked` would not.
pub fn would_answer() -> bool {
    LOOKS.load(Ordering::Relaxed)
}

/// Whether this process was started to answer one. Asked before anything else is done.
pub fn is_asked() -> bool {
    LOOKS.store(true, Ordering::Relaxed);
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(PROGRAM)))
}

/// Answers one call.
pub fn run() -> ExitCode {
    // Started by a descriptor the kernel calls it by its number, and since 6.14 as the program: neither is what `ps` or `pidof` should find.
    let _ = rustix::thread::set_name(NAME);
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let call = call(&args);
    if let Some(call) = call.as_ref().filter(|c| c.action.is_empty()) {
        return serve::serve(call);
    }
    let containerd = value(&args, "-publish-binary").map(PathBuf::from).or_else(caller);
    let Some(program) = containerd.as_deref().and_then(beside) else {
        eprintln!("plinth: find {PROGRAM}: it is not beside containerd");
        return ExitCode::FAILURE;
    };
    let mut input = Vec::new();
    let answer = match &call {
        Some(call) if call.action == "start" => {
            let read = std::io::stdin().take(INPUT_BYTES).read_to_end(&mut input);
            // By the link containerd called, which is of the shim's name.
            let own = std::env::args_os().next().map(PathBuf::from);
            read.ok().zip(own).and_then(|(_, own)| start::start(call, &input, &own))
        }
        Some(call) if call.action == "delete" => delete::delete(call),
        _ => None,
    };
    match answer {
        Some(answer) => std::io::stdout().write_all(&answer).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        None => hand_over(&program, &args, &input),
    }
}

/// The shim's program of the same installation as this containerd.
pub fn beside(containerd: &Path) -> Option<PathBuf> {
    containerd.is_absolute().then(|| containerd.with_file_name(PROGRAM))
}

/// Becomes the shim's own program, which has yet to hear what was heard here.
fn hand_over(program: &Path, args: &[OsString], input: &[u8]) -> ExitCode {
    let mut command = Command::new(program);
    command.args(args);
    if !input.is_empty() {
        match spawn::memory(input) {
            Ok(input) => drop(command.stdin(input)),
            // Without its options it would run the container by another OCI runtime.
            Err(e) => {
                eprintln!("plinth: hand over to {}: {e}", program.display());
                return ExitCode::FAILURE;
            }
        }
    }
    eprintln!("plinth: start {}: {}", program.display(), command.exec());
    ExitCode::FAILURE
}

/// Who called.
fn caller() -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{}/exe", std::os::unix::process::parent_id())).ok()
}

fn value(args: &[OsString], flag: &str) -> Option<OsString> {
    args.iter().skip_while(|a| *a != flag).nth(1).cloned()
}

/// A call of nothing but what is known here.
fn call(args: &[OsString]) -> Option<Call> {
    let mut call = Call::default();
    let mut words = args.iter().map(|a| a.to_str());
    while let Some(word) = words.next() {
        let into = match word? {
            "-namespace" => &mut call.namespace,
            "-address" => &mut call.address,
            "-id" => &mut call.id,
            "-bundle" => &mut call.bundle,
            "-publish-binary" => {
                words.next()?;
                continue;
            }
            action if action.starts_with('-') => return None,
            action => {
                call.action = action.to_owned();
                // Whatever follows is not known here.
                return words.next().is_none().then_some(call);
            }
        };
        *into = words.next()??.to_owned();
    }
    let is_whole = [&call.namespace, &call.address, &call.id].iter().all(|w| !w.is_empty());
    is_whole.then_some(call)
}

/// A name that is one part of a path.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Call> {
        call(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn containerds_calls_are_read_and_others_are_not() {
        let line = "-namespace plinth -address /run/c.sock -publish-binary /usr/bin/containerd -id web-1 -bundle /b/web-1 delete";
        let expected = Call {
            namespace: "plinth".into(),
            address: "/run/c.sock".into(),
            id: "web-1".into(),
            bundle: "/b/web-1".into(),
            action: "delete".into(),
        };
        assert_eq!(read(line), Some(expected));
        for other in ["-v", "-info", "-namespace plinth -debug -id a start", "-namespace", "-id a start now", "-id=a start", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn the_shims_program_is_the_one_beside_containerd() {
        assert_eq!(beside(Path::new("/usr/bin/containerd")), Some(PathBuf::from("/usr/bin/containerd-shim-runc-v2")));
        assert_eq!(beside(Path::new("containerd")), None);
    }
}
