//! The service manager, told without ever waiting for it (sd_notify(3) does wait, and with it the loop would stand).
//!
//! What it does not take at once stands in a queue, in order; of what only the latest is of interest (STATUS, WATCHDOG), the latest.
//! Without a service manager all of this does nothing. Never reads what the manager might say.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, sendmsg,
    socket_with,
};
use tokio::sync::Notify;

/// Who started us and keeps things for us.
#[derive(Debug, Default)]
pub struct ServiceManager {
    address: Option<OsString>,
    queue: RefCell<VecDeque<Message>>,
    more: Notify,
    warned: Cell<bool>,
}

#[derive(Debug)]
struct Message {
    text: String,
    fd: Option<OwnedFd>,
}

impl ServiceManager {
    /// The one NOTIFY_SOCKET names, if it does.
    pub fn from_env() -> ServiceManager {
        ServiceManager { address: std::env::var_os("NOTIFY_SOCKET").filter(|a| !a.is_empty()), ..ServiceManager::default() }
    }

    /// Tells it: one `KEY=value` or several, a line each.
    pub fn tell(&self, text: impl Into<String>) {
        self.push(Message { text: text.into(), fd: None });
    }

    /// Tells it and gives it a copy of a descriptor.
    pub fn give(&self, text: impl Into<String>, fd: &OwnedFd) {
        match fd.try_clone() {
            Ok(fd) => self.push(Message { text: text.into(), fd: Some(fd) }),
            Err(e) => self.warn(&e),
        }
    }

    /// Sends what stands in the queue once the manager takes it. Polled by the loop for ever; wakes for nothing else.
    pub async fn run(&self) {
        loop {
            if self.queue.borrow().is_empty() {
                self.more.notified().await;
            } else if let Err(e) = self.send_when_writable().await {
                self.queue.borrow_mut().clear();
                self.warn(&e);
            }
        }
    }

    fn push(&self, message: Message) {
        if self.address.is_none() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        let key = message.text.split('=').next().unwrap_or_default();
        if matches!(key, "STATUS" | "WATCHDOG") {
            queue.retain(|m| m.text.split('=').next() != Some(key));
        }
        queue.push_back(message);
        if queue.len() > 1 {
            return;
        }
        drop(queue);
        match self.connected().and_then(|socket| self.send(&socket)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.more.notify_one(),
            Err(e) => {
                self.queue.borrow_mut().clear();
                self.warn(&e);
            }
            Ok(()) => {}
        }
    }

    /// Sends all there is, or says `WouldBlock`.
    fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while let Some(message) = queue.front() {
            let fds: Vec<_> = message.fd.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            sendmsg(socket, &[IoSlice::new(message.text.as_bytes())], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
            queue.pop_front();
        }
        Ok(())
    }

    async fn send_when_writable(&self) -> io::Result<()> {
        let socket = super::writable(self.connected()?)?;
        loop {
            let mut ready = socket.writable().await?;
            match self.send(socket.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// Anew each time: a manager that was exchanged listens at the same address.
    fn connected(&self) -> io::Result<OwnedFd> {
        let address = self.address.as_deref().unwrap_or_default().as_bytes();
        // An `@` stands for the abstract namespace's leading zero byte.
        let address = match address.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(address)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        connect(&socket, &address)?;
        Ok(socket)
    }

    fn warn(&self, e: &io::Error) {
        if !self.warned.replace(true) {
            log::warn!("tell the service manager: {e}: it may end this process, and output written while plinth is down may be lost");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deaf_manager_is_not_waited_for_and_misses_nothing() {
        let path = std::env::temp_dir().join(format!("plinth-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = ServiceManager { address: Some(path.clone().into()), ..ServiceManager::default() };
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (kept, fd) = (2000, socket.try_clone().unwrap().into());
        for i in 0..kept {
            manager.give(format!("FDSTORE=1\nFDNAME={i}\n"), &fd);
            manager.tell(format!("STATUS={i}\n"));
        }
        let mut heard = Vec::new();
        let mut hear = || {
            let mut bytes = [0; 100];
            while let Ok(n) = socket.recv(&mut bytes) {
                heard.push(String::from_utf8(bytes.iter().take(n).copied().collect()).unwrap());
            }
            heard.last().is_some_and(|last| *last == format!("STATUS={}\n", kept - 1))
        };
        rt.block_on(async {
            let listen = async {
                while !hear() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let both = async {
                tokio::select! { () = manager.run() => {}, () = listen => {} }
            };
            tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
        });
        let names: Vec<&str> = heard.iter().filter_map(|m| m.strip_prefix("FDSTORE=1\nFDNAME=")).map(str::trim).collect();
        assert_eq!(names, (0..kept).map(|i| i.to_string()).collect::<Vec<_>>(), "each, once, in order");
        assert!(heard.len() < 2 * kept, "only the latest status is worth a message");
        std::fs::remove_file(path).unwrap();
    }
}
