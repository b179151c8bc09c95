//! Slow, greedy and hostile clients, and the socket file itself.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;

use super::super::listen::ListenError;
use super::*;

const LATER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(250);
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

fn patient() -> Bounds {
    Bounds { header: LATER, stall: LATER, ..Bounds::default() }
}

async fn connect(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).await.unwrap()
}

/// Reads until the server closes; what came.
async fn rest(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn client_65_is_turned_away_and_a_freed_slot_is_used_again() {
    serving(patient(), |socket, _| async move {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut stream = connect(&socket).await;
            stream.write_all(REQUEST).await.unwrap();
            let mut first = [0; 15];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            held.push(stream);
        }
        let turned = rest(&mut connect(&socket).await).await;
        assert!(turned.starts_with("HTTP/1.1 503 ") && turned.ends_with("\r\n\r\ntoo many clients; close one or try later"), "{turned}");
        held.pop();
        // The server sees the end of the old connection when it gets to it.
        while !talk(&socket, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 200") {}
    });
}

#[test]
fn slow_headers_and_idle_connections_are_closed() {
    serving(Bounds { header: SOON, ..patient() }, |socket, _| async move {
        let mut silent = connect(&socket).await;
        assert_eq!(rest(&mut silent).await, "");
        let mut slow = connect(&socket).await;
        slow.write_all(b"GET /healthz HTTP/1.1\r\nho").await.unwrap();
        assert!(!rest(&mut slow).await.contains("200 OK"));
        let mut idle = connect(&socket).await;
        idle.write_all(REQUEST).await.unwrap();
        assert!(rest(&mut idle).await.ends_with("\r\n\r\nok"));
    });
}

#[test]
fn large_headers_are_refused() {
    serving(patient(), |socket, _| async move {
        let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(20_000));
        assert!(talk(&socket, &long).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
        assert!(talk(&socket, &many).await.starts_with("HTTP/1.1 431 "));
        let address = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(20_000));
        let answer = talk(&socket, &address).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
        assert_eq!(get(&socket, "/healthz").await.code, 200);
    });
}

#[test]
fn garbage_after_a_good_request_costs_only_its_connection() {
    serving(patient(), |socket, _| async move {
        let answer = talk(&socket, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\x01\x02 rubbish\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("HTTP/1.1 400 Bad Request"), "{answer}");
        assert!(talk(&socket, "\x16\x03\x01 hello\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let pipelined =
            "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50) + "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert_eq!(talk(&socket, &pipelined).await.matches("200 OK").count(), 51);
    });
}

#[test]
fn a_body_that_never_comes_does_not_hold_the_answer() {
    serving(patient(), |socket, fake| async move {
        let mut stream = connect(&socket).await;
        stream.write_all(b"POST /v1/shutdown HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nab").await.unwrap();
        let mut first = [0; 21];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!((&first, fake.stopped.get()), (b"HTTP/1.1 202 Accepted", Some(None)));
    });
}

#[test]
fn half_open_clients_give_their_slot_back() {
    serving(Bounds { clients: 1, ..patient() }, |socket, _| async move {
        for request in ["GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n", "GET /healthz HTTP/1.1\r\nho", ""] {
            let mut stream = connect(&socket).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            if request.ends_with("\r\n\r\n") {
                stream.read_exact(&mut [0; 15]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            rest(&mut stream).await;
            while get(&socket, "/healthz").await.code != 200 {}
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    serving(Bounds { stall: SOON, ..patient() }, |socket, _| async move {
        let mut greedy = connect(&socket).await;
        greedy.write_all(b"GET /containerLogs/default/web-n1/main?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        greedy.read_exact(&mut [0; 15]).await.unwrap();
        assert_eq!(get(&socket, "/healthz").await.code, 200);
        tokio::time::sleep(4 * SOON).await;
        // An endless log ends here: the server has closed, only what was buffered is left.
        rest(&mut greedy).await;
    });
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = rt.enter();
    let scratch = Scratch::new();
    let path = scratch.socket();
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists(), "what a crash leaves behind");
    let first = listen(&path, Some("0")).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(listen(&path, None), Err(ListenError::Taken(_))));
    drop(first);
    assert!(!path.exists());
    let _other = StdListener::bind(&path).unwrap();
    assert!(matches!(listen(&path, None), Err(ListenError::Taken(_))), "another program's socket is left alone");
    let file = scratch.0.join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(listen(&file, None), Err(ListenError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(matches!(listen(&scratch.0.join("g"), Some("no-such-group")), Err(ListenError::Group(_))));
}
