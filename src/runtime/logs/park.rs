//! Read ends parked with the service manager (FDSTORE), so that output survives while plinth is down.
//!
//! A FIFO's bytes live as long as any descriptor of it: the shim's while the container runs, the parked one after that. A
//! read end is enough, and unlike a write end it lets the end of the last writer show. Without a service manager all of this does nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use super::line::Which;
use crate::sys::fifo;
use crate::sys::notify::ServiceManager;

const PREFIX: &str = "plinth-log.";

/// What came back from the service manager and is not claimed yet.
#[derive(Debug)]
pub struct Park {
    back: RefCell<BTreeMap<String, OwnedFd>>,
    manager: Rc<ServiceManager>,
}

impl Park {
    /// Nothing is back yet.
    pub fn new(manager: Rc<ServiceManager>) -> Park {
        Park { back: RefCell::default(), manager }
    }

    /// Takes back what an earlier plinth parked (LISTEN_FDS); how many there are.
    pub fn take_back(&self) -> io::Result<usize> {
        let mut back = self.back.borrow_mut();
        back.extend(fifo::handed_over(PREFIX)?);
        Ok(back.len())
    }

    /// The parked read end of the FIFO at `path`, if it is that one.
    pub fn claim(&self, id: &str, which: Which, path: &Path) -> Option<OwnedFd> {
        let name = name(id, which);
        let fd = self.back.borrow_mut().remove(&name)?;
        if fifo::is_at(&fd, path) {
            return Some(fd);
        }
        self.forget(&name);
        None
    }

    /// Parks a read end. Not polled there: a container that ends while we are down hangs it up, and systemd would drop it with its bytes.
    pub fn park(&self, id: &str, which: Which, fd: &OwnedFd) {
        self.manager.give(format!("FDSTORE=1\nFDNAME={}\nFDPOLL=0\n", name(id, which)), fd);
    }

    /// Gives a parked read end up.
    pub fn unpark(&self, id: &str, which: Which) {
        let name = name(id, which);
        self.back.borrow_mut().remove(&name);
        self.forget(&name);
    }

    /// Gives up what nobody claimed; how many those were.
    pub fn release_rest(&self) -> usize {
        let rest = self.back.take();
        rest.keys().for_each(|name| self.forget(name));
        rest.len()
    }

    fn forget(&self, name: &str) {
        self.manager.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
    }
}

fn name(id: &str, which: Which) -> String {
    format!("{PREFIX}{}.{id}", which.name())
}
