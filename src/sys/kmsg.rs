//! What the kernel says from now on: the records of /dev/kmsg. Nothing is read while it is silent.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;

/// The kernel gives no longer one (CONSOLE_EXT_LOG_MAX).
const RECORD_BYTES: usize = 8192;

/// The kernel's records, one after the other.
#[derive(Debug)]
pub struct Kmsg(AsyncFd<OwnedFd>);

impl Kmsg {
    /// Those that are still to come. Needs CAP_SYSLOG where dmesg is restricted.
    pub fn open() -> io::Result<Kmsg> {
        let fd = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        seek(&fd, SeekFrom::End(0))?;
        Ok(Kmsg(super::readable(fd)?))
    }

    /// The next one: `level,number,microseconds,flags;text`. Those that were overwritten before they were read are passed over.
    pub async fn next(&self) -> io::Result<String> {
        let mut record = vec![0u8; RECORD_BYTES];
        loop {
            let mut ready = self.0.readable().await?;
            match read(self.0.get_ref(), record.as_mut_slice()) {
                Ok(n) => return Ok(String::from_utf8_lossy(record.get(..n).unwrap_or_default()).into_owned()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_said_from_now_on_is_heard() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let Ok(kernel) = Kmsg::open() else { return crate::skip::skip("/dev/kmsg: not to be read here") };
            let said = format!("plinth's test {} says this\n", std::process::id());
            let listen = async { while !kernel.next().await.unwrap().contains(said.trim()) {} };
            let say = async { std::fs::write("/dev/kmsg", &said) };
            let heard = tokio::time::timeout(std::time::Duration::from_secs(60), async { futures_util::join!(listen, say) });
            heard.await.unwrap().1.unwrap();
        });
    }
}
