//! What services say (sd_notify(3)): the words, read purely, and the socket they come by with who sent them and what was parked.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::Pid;

/// Where services find it.
pub const SOCKET: &str = "/run/init/notify";
/// Longer messages are cut.
const MESSAGE_BYTES: usize = 4096;
/// SCM_MAX_FD of linux/net/scm.h.
const FDS_MAX: usize = 253;

/// The words of one message that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// READY=1.
    pub ready: bool,
    /// WATCHDOG=1.
    pub fed: bool,
    /// WATCHDOG=trigger.
    pub broken: bool,
    /// STATUS=.
    pub status: Option<String>,
    /// FDSTORE=1.
    pub store: bool,
    /// FDSTOREREMOVE=1.
    pub remove: bool,
    /// FDNAME=, if it is one.
    pub name: Option<String>,
    /// FDPOLL=0: keep it though its other end is closed.
    pub keep_closed: bool,
}

/// Reads a message; what is not known is left alone, as systemd does.
pub fn words(text: &str) -> Words {
    let mut words = Words::default();
    for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
        match (key, value) {
            ("READY", "1") => words.ready = true,
            ("WATCHDOG", "1") => words.fed = true,
            ("WATCHDOG", "trigger") => words.broken = true,
            ("STATUS", text) => words.status = Some(text.chars().filter(|c| !c.is_control()).take(200).collect()),
            ("FDSTORE", "1") => words.store = true,
            ("FDSTOREREMOVE", "1") => words.remove = true,
            ("FDNAME", name) if is_name(name) => words.name = Some(name.to_owned()),
            ("FDPOLL", "0") => words.keep_closed = true,
            _ => {}
        }
    }
    words
}

/// sd_notify(3): up to 255 characters, no control characters and no colon, which separates them in LISTEN_FDNAMES.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':')
}

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Who sent it, as the kernel says. A service that has ended keeps its number until it is reaped, and messages are read first.
    pub from: Option<Pid>,
    /// What it says.
    pub words: Words,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

/// The socket, made anew.
pub fn listen(path: &Path) -> io::Result<UnixDatagram> {
    let _ = std::fs::remove_file(path);
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

/// The next message; `None`: no more for now.
pub fn receive(socket: &UnixDatagram) -> Option<Message> {
    let mut bytes = [0u8; MESSAGE_BYTES];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => break got,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    };
    let (mut from, mut fds) = (None, Vec::new());
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(given) => fds.extend(given),
            RecvAncillaryMessage::ScmCredentials(who) => from = Some(who.pid),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(bytes.get(..got.bytes).unwrap_or_default()).into_owned();
    Some(Message { from, words: words(&text), fds })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_read_as_systemd_reads_them() {
        let parked = words("FDSTORE=1\nFDNAME=plinth-log.stdout.a\nFDPOLL=0\n");
        assert_eq!(parked, Words { store: true, name: Some("plinth-log.stdout.a".into()), keep_closed: true, ..Words::default() });
        let ready = words("READY=1\nSTATUS=3 of 3\u{1b}[31m pods\nMAINPID=7\nX");
        assert_eq!(ready, Words { ready: true, status: Some("3 of 3[31m pods".into()), ..Words::default() });
        assert!(words("WATCHDOG=trigger").broken && words("WATCHDOG=1").fed && !words("WATCHDOG=0").fed);
        for name in ["", "a:b", "a\tb", &"n".repeat(256)] {
            assert_eq!(words(&format!("FDNAME={name}")).name, None, "{name:?}");
        }
    }

    #[test]
    fn a_message_comes_with_its_sender_and_what_it_parks() {
        let dir = std::env::temp_dir().join(format!("plinth-init-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = listen(&dir.join("s")).unwrap();
        assert!(receive(&socket).is_none());
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(dir.join("s")).unwrap();
        sender.send(b"READY=1").unwrap();
        let message = receive(&socket).unwrap();
        assert_eq!((message.from, message.words.ready, message.fds.len()), (Some(rustix::process::getpid()), true, 0));
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut room);
        let fds = [std::os::fd::AsFd::as_fd(&null)];
        control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        let text = [io::IoSlice::new(b"FDSTORE=1\nFDNAME=n")];
        rustix::net::sendmsg(&sender, &text, &mut control, rustix::net::SendFlags::empty()).unwrap();
        let message = receive(&socket).unwrap();
        assert_eq!((message.words.store, message.words.name.as_deref(), message.fds.len()), (true, Some("n"), 1));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
