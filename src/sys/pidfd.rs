//! A process by file descriptor: the witness of its end that needs no containerd, and a way to signal it that no reuse of its number
//! can lead astray.
//!
//! Never waits for a child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

/// A process that was there when this was opened.
#[derive(Debug)]
pub struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens a live process; must be called inside the event loop.
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Pidfd(super::readable(fd)?))
    }

    /// Ends when the process has.
    pub async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Sends it a signal by number, real-time ones too. Nobody left to take it is success.
    pub fn signal(&self, number: u32) -> io::Result<()> {
        let signal = i32::try_from(number).ok().and_then(by_number).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_send_signal(self.0.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// How it ended, as a shell counts (128 + signal). `None` before its parent has reaped it, and on kernels before 6.15.
    pub fn exit_code(&self) -> Option<u32> {
        let info = info(self.0.get_ref())?;
        if info.mask & INFO_EXIT == 0 {
            return None;
        }
        let status = u32::from_ne_bytes(info.exit_code.to_ne_bytes());
        let signal = status & 0x7f;
        Some(if signal == 0 { (status >> 8) & 0xff } else { 128 + signal })
    }
}

/// A signal by the kernel's number, which for real-time ones has no name.
#[expect(unsafe_code, reason = "rustix wants it vouched for that a number is no signal of libc's own")]
fn by_number(number: i32) -> Option<Signal> {
    // SAFETY: libc keeps 32 and 33 for itself; these are what it leaves to programs, and the kernel's last is 64.
    Signal::from_named_raw(number).or_else(|| (34..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) }))
}

/// `PIDFD_INFO_EXIT` of linux/pidfd.h.
const INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` of linux/pidfd.h, its first published size (64 bytes), which later kernels still take.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

#[expect(unsafe_code, reason = "an ioctl rustix has no name for")]
fn info(fd: &OwnedFd) -> Option<Info> {
    use rustix::ioctl::{Updater, ioctl, opcode};
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<Info>(0xff, 11);
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: PIDFD_GET_INFO reads and writes at most the size its opcode carries, which is that of `Info`: plain
    // integers, any bits valid, alive across the call. Other kernels answer ENOTTY and write nothing.
    let done = unsafe { ioctl(fd.as_fd(), Updater::<GET_INFO, Info>::new(&mut info)) };
    done.ok().map(|()| info)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_tells_the_end_and_the_code() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let mut child =
                std::process::Command::new("sh").args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let fd = Pidfd::open(child.id()).unwrap();
            assert_eq!(fd.exit_code(), None);
            drop(child.stdin.take());
            fd.ended().await.unwrap();
            assert_eq!(fd.exit_code(), None, "not reaped yet");
            child.wait().unwrap();
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut parts = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
            let tells = (parts.next(), parts.next()) >= (Some(6), Some(15));
            assert_eq!(fd.exit_code(), tells.then_some(7));
        });
    }

    #[test]
    fn a_real_time_signal_is_one_like_any_other() {
        use std::os::unix::process::ExitStatusExt;
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let fd = Pidfd::open(child.id()).unwrap();
            assert!(fd.signal(65).is_err() && fd.signal(33).is_err(), "the kernel has 64, and two are libc's");
            // SIGRTMIN+3 as programs count, by which systemd ends.
            fd.signal(37).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(37));
        });
    }
}
