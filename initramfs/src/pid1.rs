//! PID 1 of the image: sets the machine up, then one loop: what happened -> `machine` decides -> it is done. Never blocks on a service.
//!
//! Files below this are its parts: `service` and `machine` decide, the others do.

mod hear;
mod machine;
mod notify;
mod output;
mod power;
mod process;
mod seed;
mod service;
mod settle;
mod setup;
mod spawn;
mod store;
mod table;
mod wall;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal as Caught};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::RebootCommand;

use crate::cmdline::{self, Words};
use crate::console::{self, say, since_boot_ms};
use crate::{failure, mounts};
pub use settle::{dhcp, settle};
pub use spawn::exec;

use machine::{Do, End, Event, Machine};
use output::{Bounded, Output};
use process::{alone, everybody, where_it_is};
use service::{Do as Serve, Event as Told};
use store::Store;
use table::Entry;

/// The hardware reboots a machine whose PID 1 does not feed it that long.
const WATCHDOG_SECONDS: i32 = 30;
/// Fed that often: one of the two reasons why an idle PID 1 wakes at all, and seldom enough to cost nothing.
const WATCHDOG_FEED_MS: u64 = 10_000;
/// What is to be saved at the end may take so long, ms.
const SAVE_MS: u64 = 5 * 60_000;
/// While the last processes die they are counted that often: nobody tells when the last one of somebody else's is gone.
const COUNT_MS: u64 = 50;

/// Does all of it. Returns never.
pub fn run() -> ! {
    let signals = caught();
    let (words, _) = cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let wrong = setup::all(&words);
    // The kernel then tells PID 1 of ctrl-alt-del instead of rebooting on the spot.
    let _ = rustix::system::reboot(RebootCommand::CadOff);
    wrong.iter().for_each(|w| say(w));
    wall::set().iter().for_each(|w| say(w));
    seed::load().err().iter().for_each(|w| say(w));
    say("up");
    console::never_wait();
    let _ = fs::create_dir_all("/run/init");
    let parts =
        signals.and_then(|s| Ok((s, notify::listen(Path::new(notify::SOCKET)).map_err(|e| format!("listen on {}: {e}", notify::SOCKET))?)));
    match parts {
        Ok((signals, socket)) => Pid1::new(&words, signals, socket).run(),
        Err(why) => failure::fall_back(&failure::Failure::new("start services", why), words.fallback),
    }
}

/// `poweroff`, `halt` or `reboot` from another process.
pub fn tell(word: &str) -> failure::Done {
    let signal = match word {
        "reboot" => Signal::HUP,
        "halt" => Signal::USR1,
        _ => Signal::USR2,
    };
    kill_process(Pid::INIT, signal).map_err(|e| failure::Failure::new(format!("tell PID 1 to {word}"), e))
}

fn caught() -> Result<SignalFd, String> {
    let mut set = SigSet::empty();
    for s in [Caught::SIGCHLD, Caught::SIGTERM, Caught::SIGINT, Caught::SIGHUP, Caught::SIGUSR1, Caught::SIGUSR2] {
        set.add(s);
    }
    let fd = set.thread_block().and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
    fd.map_err(|e| format!("await signals: {e}"))
}

/// The machine and everything that is held for it.
struct Pid1 {
    machine: Machine,
    table: Vec<Entry>,
    pids: Vec<Option<Pid>>,
    stores: Vec<Store>,
    files: Vec<Bounded>,
    status: Vec<String>,
    outputs: Vec<Output>,
    asking: Option<Pid>,
    signals: SignalFd,
    socket: UnixDatagram,
    buttons: Vec<File>,
    watchdog: Option<File>,
    fed: u64,
}

impl Pid1 {
    fn new(words: &Words, signals: SignalFd, socket: UnixDatagram) -> Pid1 {
        let table = table::table(words);
        Pid1 {
            machine: Machine::new(table.iter().map(|e| e.spec).collect(), since_boot_ms()),
            pids: vec![None; table.len()],
            stores: table.iter().map(|_| Store::default()).collect(),
            files: table.iter().map(|e| Bounded::new(&Path::new(e.logs).join(format!("{}.log", e.spec.name)))).collect(),
            status: vec![String::new(); table.len()],
            outputs: Vec::new(),
            asking: None,
            buttons: Vec::new(),
            watchdog: None,
            fed: 0,
            table,
            signals,
            socket,
        }
    }

    fn run(mut self) -> ! {
        loop {
            self.feed();
            self.happen(Event::Clock);
            self.wait();
            self.read();
            // Messages before ends: what a service said last counts, and its number is its own until it is reaped.
            self.listen();
            self.catch();
            self.reap();
            self.press();
            if self.machine.counts_processes() && alone() {
                self.happen(Event::Alone);
            }
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self) {
        let now = since_boot_ms();
        let count = self.machine.counts_processes().then_some(now + COUNT_MS);
        let feed = self.watchdog.is_some().then_some(self.fed + WATCHDOG_FEED_MS);
        let wake = [self.machine.wake(), count, feed].into_iter().flatten().min();
        let timeout = wake.map(|t| t.saturating_sub(now).min(1 << 30)).map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(0),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        let waiting = console::flush();
        let err = std::io::stderr();
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        if waiting {
            fds.push(PollFd::new(&err, PollFlags::OUT));
        }
        fds.extend(self.outputs.iter().map(|o| PollFd::new(&o.fd, PollFlags::IN)));
        fds.extend(self.buttons.iter().map(|b| PollFd::new(b, PollFlags::IN)));
        fds.extend(self.stores.iter().flat_map(Store::watched).map(|fd| PollFd::new(fd, PollFlags::empty())));
        let _ = poll(&mut fds, timeout.as_ref());
        let closed: Vec<RawFd> = fds.iter().filter(|f| f.revents().intersects(PollFlags::HUP | PollFlags::ERR)).map(raw).collect();
        drop(fds);
        let parked: Vec<RawFd> =
            self.stores.iter().flat_map(Store::watched).map(AsRawFd::as_raw_fd).filter(|n| closed.contains(n)).collect();
        parked.iter().for_each(|n| self.stores.iter_mut().for_each(|s| s.forget(*n)));
    }

    /// Decides, and does it; what comes of that at once is decided next.
    fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for d in self.machine.next(event, since_boot_ms()) {
                events.extend(self.act(d));
            }
        }
    }

    fn act(&mut self, d: Do) -> Option<Event> {
        match d {
            Do::Serve(at, Serve::Start) => return Some(Event::Told(at, self.start(at))),
            Do::Serve(at, Serve::Term) => self.signal(at, Signal::TERM),
            Do::Serve(at, Serve::Abort) => {
                self.pids.get(at).copied().flatten().iter().for_each(|pid| say(&where_it_is(*pid)));
                self.signal(at, Signal::ABORT);
            }
            Do::Serve(at, Serve::Kill) => self.signal(at, Signal::KILL),
            Do::Serve(_, Serve::Say(text)) | Do::Say(text) => say(&text),
            Do::AskPods => {
                say("ending: the pods first");
                match spawn::aside("shutdown", &table::SHUTDOWN) {
                    Ok(pid) => self.asking = Some(pid),
                    Err(e) => {
                        say(&format!("run plinth shutdown: {e}"));
                        return Some(Event::Asked(false));
                    }
                }
            }
            // As PID 1 that is everybody else in this machine, and nobody outside.
            Do::TermAll => everybody(Signal::TERM),
            Do::KillAll => everybody(Signal::KILL),
            Do::Finish(end) => self.finish(end),
        }
        None
    }

    fn start(&mut self, at: usize) -> Told {
        let (Some(entry), Some(store)) = (self.table.get(at), self.stores.get(at)) else {
            return Told::NotStarted("no such service".into());
        };
        match spawn::start(entry, store) {
            Ok((pid, output)) => {
                self.outputs.push(Output::new(output, at));
                if let Some(slot) = self.pids.get_mut(at) {
                    *slot = Some(pid);
                }
                Told::Started
            }
            Err(e) => Told::NotStarted(e.to_string()),
        }
    }

    fn signal(&self, at: usize, signal: Signal) {
        // Its number is its own: only we reap, and a reaped one is `None`.
        if let Some(pid) = self.pids.get(at).copied().flatten() {
            let _ = kill_process(pid, signal);
        }
    }

    fn feed(&mut self) {
        let now = since_boot_ms();
        if let Some(watchdog) = self.watchdog.as_mut().filter(|_| now >= self.fed + WATCHDOG_FEED_MS || self.fed == 0) {
            let _ = watchdog.write_all(b"\0");
            self.fed = now;
        }
    }

    /// Everything onto the disks, and those let go. On a thread of its own: a slow disk takes longer than the watchdog waits, and one that
    /// never answers must not keep the machine from its end.
    fn save(&mut self) {
        let save = || {
            let mut wrong = Vec::from_iter(seed::save().err());
            rustix::fs::sync();
            wrong.extend(mounts::release());
            wrong
        };
        let Ok(saving) = std::thread::Builder::new().spawn(save) else { return save().iter().for_each(|w| say(w)) };
        let until = since_boot_ms() + SAVE_MS;
        while !saving.is_finished() && since_boot_ms() < until {
            self.feed();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if saving.is_finished() {
            saving.join().unwrap_or_default().iter().for_each(|w| say(w));
        } else {
            say(&format!("the disks did not take within {} s what was to be saved: they are left as they are", SAVE_MS / 1000));
        }
    }

    /// Nobody else is left: saves, lets go of the disks, and ends the machine.
    fn finish(&mut self, end: End) -> ! {
        self.files.iter_mut().for_each(Bounded::close);
        self.outputs.clear();
        self.stores.clear();
        self.save();
        let (words, command) = match end {
            End::PowerOff => ("off", RebootCommand::PowerOff),
            End::Reboot => ("rebooting", RebootCommand::Restart),
            End::Halt => ("halted", RebootCommand::Halt),
        };
        say(words);
        // What the console has not taken in a second it will not take.
        let until = since_boot_ms() + 1000;
        while console::flush() && since_boot_ms() < until {
            let err = std::io::stderr();
            let _ = poll(&mut [PollFd::new(&err, PollFlags::OUT)], Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        }
        failure::stop(command)
    }
}

fn raw(fd: &PollFd<'_>) -> RawFd {
    let fd: BorrowedFd<'_> = fd.as_fd();
    fd.as_raw_fd()
}
