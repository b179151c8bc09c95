//! The fd store, with this test as service manager: a container that ends while plinth is down loses nothing.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::crash::{child, root_of_child, wait_for};
use super::*;

#[test]
#[ignore = "plinth's second life in the test here"]
fn second_life() {
    let Some(root) = root_of_child() else { return };
    let logs = root.logs();
    in_loop(&logs, async {
        logs.adopt_listen_fds();
        logs.finish(&target("a"), LONG).await;
        logs.release_unclaimed();
    });
    fs::write(root.0.join("done"), "").unwrap();
    std::mem::forget(root);
}

fn message(socket: &UnixDatagram) -> (String, Option<OwnedFd>) {
    let mut text = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (String::from_utf8(text[..got.bytes].to_vec()).unwrap(), fd)
}

#[test]
fn output_of_a_container_that_ends_while_plinth_is_down_is_kept() {
    let root = Root::new();
    let socket = UnixDatagram::bind(root.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut first = child("runtime::logs::tests::crash::reader", &root).env("NOTIFY_SOCKET", root.0.join("notify")).spawn().unwrap();
    let parked = ["stdout", "stderr"].map(|which| {
        let (text, fd) = message(&socket);
        assert_eq!(text, format!("FDSTORE=1\nFDNAME=plinth-log.{which}.a\nFDPOLL=0\n"));
        fd.unwrap()
    });
    wait_for(|| root.0.join("ready").exists());
    first.kill().unwrap();
    first.wait().unwrap();

    let logs = root.logs();
    let paths = logs.fifo_paths(&target("a"));
    let text = numbered(300);
    let mut shim = [writer(&paths.stdout), writer(&paths.stderr)];
    shim[0].0.write_all(&text).unwrap();
    shim[1].0.write_all(b"and the last words").unwrap();
    drop(shim);

    let again = child("runtime::logs::tests::parked::second_life", &root);
    let [out, err] = parked;
    let mut second = Command::new("/bin/sh")
        .args([
            "-c",
            "exec 3<&0 4<&1 1>&2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=plinth-log.stdout.a:plinth-log.stderr.a exec \"$0\" \"$@\"",
        ])
        .arg(again.get_program())
        .args(again.get_args())
        .envs(again.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env("NOTIFY_SOCKET", root.0.join("notify"))
        .stdin(Stdio::from(out))
        .stdout(Stdio::from(err))
        .spawn()
        .unwrap();
    assert!(second.wait().unwrap().success() && root.0.join("done").exists());
    assert!(text_of(&logs.log_path(&target("a")), Which::Stdout) == text);
    assert_eq!(text_of(&logs.log_path(&target("a")), Which::Stderr), b"and the last words");
    for which in ["stdout", "stderr"] {
        assert_eq!(message(&socket).0, format!("FDSTOREREMOVE=1\nFDNAME=plinth-log.{which}.a\n"));
    }
}
