//! Children of a shim: the OCI runtime it calls, and what that leaves behind, which becomes the shim's own: containers and commands.
//!
//! ```text
//!  SIGCHLD ──> reap ──> somebody awaits it: told
//!                  ├──> a container or command is known by that pid: its exit
//!                  ├──> something is being started: kept until its pid is known (`starting`)
//!                  └──> an orphan of a container: nobody's
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::SystemTime;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};
use tokio::sync::oneshot;

/// How a process ended: its status, or 128 and the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub code: u32,
    pub at: SystemTime,
}

/// Who has which pid.
#[derive(Default)]
pub(super) struct Children {
    awaited: RefCell<BTreeMap<u32, oneshot::Sender<u32>>>,
    starting: Cell<usize>,
    early: RefCell<BTreeMap<u32, Exit>>,
}

/// While one is held the ends of processes nobody knows are kept.
pub(super) struct Starting<'a>(&'a Children);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.set(self.0.starting.get().saturating_sub(1));
        if self.0.starting.get() == 0 {
            self.0.early.borrow_mut().clear();
        }
    }
}

impl Starting<'_> {
    /// How a process ended that became known only now.
    pub fn end_of(&self, pid: u32) -> Option<Exit> {
        let exit = self.0.early.borrow_mut().remove(&pid)?;
        // One that is there is another one, which has the number of one that went.
        let child = Pid::from_raw(i32::try_from(pid).ok()?)?;
        waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT).is_err().then_some(exit)
    }
}

impl Children {
    pub fn starting(&self) -> Starting<'_> {
        self.starting.set(self.starting.get() + 1);
        Starting(self)
    }

    /// The end of a child just started. To be called before anything is awaited.
    pub fn end_of(&self, pid: Pid) -> impl Future<Output = u32> + use<> {
        let (tell, told) = oneshot::channel();
        self.awaited.borrow_mut().insert(pid.as_raw_nonzero().get().unsigned_abs(), tell);
        // The other end is dropped only with the process.
        async { told.await.unwrap_or(255) }
    }

    /// Reaps all that ended; whose end nobody awaits is handed to `known`, which says whether it knew it.
    pub fn reap(&self, known: impl Fn(u32, Exit) -> bool) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(code) = code(status) else { continue };
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            if let Some(tell) = self.awaited.borrow_mut().remove(&pid) {
                let _ = tell.send(code);
                continue;
            }
            let exit = Exit { code, at: SystemTime::now() };
            if !known(pid, exit) && self.starting.get() > 0 {
                self.early.borrow_mut().insert(pid, exit);
            }
        }
    }
}

fn code(status: WaitStatus) -> Option<u32> {
    let signal = status.terminating_signal().and_then(|s| u32::try_from(s).ok());
    signal.map(|s| 128 + s).or_else(|| status.exit_status().and_then(|s| u32::try_from(s).ok()))
}
