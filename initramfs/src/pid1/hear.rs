//! What PID 1 hears of: messages, signals, ends, output, the power button. Each becomes an event for `machine`, which decides.

use std::fs::File;

use nix::sys::signal::Signal as Caught;
use rustix::process::{WaitOptions, wait};

use super::machine::{End, Event};
use super::process::how;
use super::service::Event as Told;
use super::{Pid1, WATCHDOG_SECONDS, notify, power, table};
use crate::console::{self, say};

impl Pid1 {
    /// What services say.
    pub(super) fn listen(&mut self) {
        while let Some(message) = notify::receive(&self.socket) {
            // As with NotifyAccess=main: only the service's own first process is heard.
            let Some(at) = message.from.and_then(|pid| self.pids.iter().position(|p| *p == Some(pid))) else { continue };
            let (Some(store), Some(entry)) = (self.stores.get_mut(at), self.table.get(at)) else { continue };
            let name = entry.spec.name;
            let refused = store.heed(&message.words, message.fds, entry.spec.fds_max);
            if refused > 0 {
                say(&format!("{name}: no room to park {refused} descriptors"));
            }
            if let (Some(status), Some(last)) = (message.words.status, self.status.get_mut(at))
                && status != *last
            {
                console::relay(name, &status);
                *last = status;
            }
            for (is, told) in [(message.words.ready, Told::Ready), (message.words.fed, Told::Fed), (message.words.broken, Told::Broken)] {
                if is {
                    self.happen(Event::Told(at, told));
                }
            }
        }
    }

    /// What somebody wants of the machine.
    pub(super) fn catch(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let end = match i32::try_from(info.ssi_signo).ok().and_then(|n| Caught::try_from(n).ok()) {
                Some(Caught::SIGHUP) => End::Reboot,
                Some(Caught::SIGUSR1) => End::Halt,
                Some(Caught::SIGTERM | Caught::SIGINT | Caught::SIGUSR2) => End::PowerOff,
                _ => continue,
            };
            self.happen(Event::End(end));
        }
    }

    /// Every child that has ended: a service, who asked for the pods' end, or an orphan that became ours.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(at) = self.pids.iter().position(|p| *p == Some(pid)) {
                if let Some(slot) = self.pids.get_mut(at) {
                    *slot = None;
                }
                self.read();
                if self.table.get(at).is_some_and(|e| e.spec.name == table::SETTLE) {
                    self.drivers();
                }
                self.happen(Event::Told(at, Told::Exited(how(status))));
            } else if self.asking == Some(pid) {
                self.asking = None;
                self.happen(Event::Asked(status.exit_status() == Some(0)));
            }
        }
    }

    /// What services wrote. A pipe outlives its service as long as a child of it holds it.
    pub(super) fn read(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.retain_mut(|output| {
            let (lines, goes_on) = output.read();
            let name = self.table.get(output.service).map_or("", |e| e.spec.name);
            for line in lines {
                console::relay(name, &line);
                if let Some(file) = self.files.get_mut(output.service) {
                    file.line(&line);
                }
            }
            goes_on
        });
        self.outputs = outputs;
    }

    /// What PID 1 itself has of drivers.
    fn drivers(&mut self) {
        self.buttons = power::buttons();
        match File::options().write(true).open("/dev/watchdog") {
            Ok(watchdog) => {
                if let Err(e) = crate::sys::watchdog_timeout(&watchdog, WATCHDOG_SECONDS) {
                    say(&format!("set the watchdog to {WATCHDOG_SECONDS} s: {e}"));
                }
                self.watchdog = Some(watchdog);
            }
            Err(e) => say(&format!("open /dev/watchdog: {e}; a hang of this process is not noticed")),
        }
    }

    /// The power button.
    pub(super) fn press(&mut self) {
        let mut wanted = false;
        self.buttons.retain(|b| {
            let (pressed, there) = power::pressed(b);
            wanted |= pressed;
            there
        });
        if wanted {
            say("the power button was pressed");
            self.happen(Event::End(End::PowerOff));
        }
    }
}
