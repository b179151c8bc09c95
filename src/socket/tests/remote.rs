//! Sessions over the socket: who may, what is refused, and what a connection carries.

use futures_util::{SinkExt, StreamExt};
use hyper::Request;
use hyper::header::HeaderValue;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::remote::{self, Peer, Told, told};
use super::super::routes::answer;
use super::*;
use crate::session::{Control, End, Output, Served};

const CAT: &str = "/exec/default/web-n1/mirror-uid/main?command=cat&command=-&input=1&output=1&error=1";

async fn knock(socket: &Path, path: &str, protocols: &'static str) -> Result<WebSocketStream<UnixStream>, Error> {
    let mut request = format!("ws://plinth{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocols));
    client_async(request, UnixStream::connect(socket).await.unwrap()).await.map(|(client, _)| client)
}

async fn dial(socket: &Path, path: &str) -> WebSocketStream<UnixStream> {
    knock(socket, path, "v9.channel.k8s.io, v5.channel.k8s.io").await.unwrap()
}

async fn session(fake: &Fake) -> Served {
    while fake.sessions.borrow().is_empty() {
        tokio::task::yield_now().await;
    }
    fake.sessions.borrow_mut().remove(0).1
}

async fn hear(client: &mut WebSocketStream<UnixStream>) -> Told {
    loop {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => return told(bytes).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_root_may_enter_a_container() {
    serving(Bounds::default(), |_, fake| async move {
        let backend: Rc<dyn Backend> = fake.clone();
        for path in [CAT, "/attach/default/web-n1/main?output=1"] {
            let mut request = Request::get(path).body(()).unwrap();
            assert_eq!(answer(&mut request, &Peer::new(false), &backend).status(), 403, "{path}");
        }
        assert!(fake.sessions.borrow().is_empty());
    });
}

#[test]
fn what_cannot_be_entered_is_named() {
    serving(Bounds::default(), |socket, fake| async move {
        for (path, code, says) in [
            ("/exec/default/none/main?command=a&output=1", 404, "pod \"none\" does not exist in namespace \"default\""),
            ("/exec/default/web-n1/other?command=a&output=1", 404, "container \"other\" not found in pod \"web-n1\""),
            ("/exec/default/web-n1/wrong-uid/main?command=a&output=1", 404, "does not exist"),
            ("/exec/default/crash-n1/mirror-uid/main?command=a&output=1", 404, "does not exist"),
            ("/exec/default/crash-n1/main?command=a&output=1", 404, "does not run now: `plinth why default/crash-n1` says why"),
            ("/exec/default/web-n1/main?output=1", 400, "at least 1 command"),
            ("/exec/default/web-n1/main?command=a", 400, "at least 1 of stdin, stdout, stderr"),
            ("/attach/default/web-n1/main?input=1", 400, "its manifest does not set `stdin: true`"),
            ("/exec/default", 404, "/exec/{namespace}/{pod}/{container}"),
            (CAT, 400, "upgrade the connection to a WebSocket"),
        ] {
            let reply = get(&socket, path).await;
            assert_eq!(reply.code, code, "{path}: {}", reply.body);
            assert!(reply.body.contains(says), "{path}: {}", reply.body);
        }
        let refused = knock(&socket, CAT, "channel.k8s.io").await.unwrap_err();
        assert!(matches!(refused, Error::Http(answer) if answer.status() == 400));
        assert!(fake.sessions.borrow().is_empty());
    });
}

#[test]
fn a_session_carries_input_output_signals_and_the_end() {
    serving(
        Bounds { stall: Duration::from_millis(50), life: Duration::from_millis(300), ..Bounds::default() },
        |socket, fake| async move {
            let mut client = dial(&socket, CAT).await;
            client.send(remote::input(b"some")).await.unwrap();
            client.send(remote::said(Control::Resize { columns: 80, rows: 24 })).await.unwrap();
            client.send(remote::said(Control::Signal(15))).await.unwrap();
            client.send(remote::input_ends()).await.unwrap();
            let request = loop {
                if let Some((request, _)) = fake.sessions.borrow().first() {
                    break request.clone();
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(request.command, Some(vec!["cat".to_owned(), "-".to_owned()]));
            assert_eq!((&*request.id, request.stdin, request.stdout, request.stderr, request.tty), ("web-id", true, true, true, false));
            let mut served = session(&fake).await;
            let mut stdin = served.stdin.take().unwrap();
            assert_eq!(stdin.recv().await.unwrap(), "some");
            assert_eq!(stdin.recv().await, None);
            assert_eq!(served.control.recv().await, Some(Control::Resize { columns: 80, rows: 24 }));
            assert_eq!(served.control.recv().await, Some(Control::Signal(15)));
            served.output.send(Output::Stdout("out".into())).await.unwrap();
            assert_eq!(hear(&mut client).await, Told::Output(Output::Stdout("out".into())));
            // Neither the age of a connection nor a pause ends a session.
            tokio::time::sleep(Duration::from_millis(500)).await;
            served.output.send(Output::Stderr("err".into())).await.unwrap();
            assert_eq!(hear(&mut client).await, Told::Output(Output::Stderr("err".into())));
            drop(served.output);
            served.end.send(End::Exited(3)).unwrap();
            assert_eq!(hear(&mut client).await, Told::End(End::Exited(3)));
            assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
        },
    );
}

#[test]
fn a_client_that_goes_ends_its_session() {
    serving(Bounds::default(), |socket, fake| async move {
        let client = dial(&socket, CAT).await;
        let served = session(&fake).await;
        drop(client);
        served.output.closed().await;
    });
}

#[test]
fn a_client_that_goes_while_its_input_is_stuck_ends_its_session() {
    serving(Bounds::default(), |socket, fake| async move {
        let mut client = dial(&socket, CAT).await;
        let served = session(&fake).await;
        let mut sent = 0;
        // Nobody takes the input: the queue fills, then the socket.
        while let Ok(done) = tokio::time::timeout(Duration::from_millis(300), client.send(remote::input(&[0; 32 << 10]))).await {
            done.unwrap();
            sent += 1;
        }
        assert!(sent < 64, "{sent} messages went nowhere");
        drop(client);
        served.output.closed().await;
    });
}

#[test]
fn a_client_that_does_not_read_costs_itself_only() {
    serving(Bounds { stall: Duration::from_millis(50), ..Bounds::default() }, |socket, fake| async move {
        let mut client = dial(&socket, CAT).await;
        let served = session(&fake).await;
        let chunk = || Output::Stdout(Bytes::from_static(&[7; 32 << 10]));
        let mut sent = 0;
        while let Ok(done) = tokio::time::timeout(Duration::from_millis(300), served.output.send(chunk())).await {
            done.unwrap();
            sent += 1;
        }
        assert!(sent < 64, "{sent} chunks are kept");
        assert_eq!(get(&socket, "/healthz").await.code, 200);
        // Then it does, and nothing was lost.
        for _ in 0..sent {
            assert_eq!(hear(&mut client).await, Told::Output(chunk()));
        }
    });
}

#[test]
fn rubbish_in_a_session_does_no_harm() {
    serving(Bounds::default(), |socket, fake| async move {
        let mut client = dial(&socket, CAT).await;
        let mut served = session(&fake).await;
        for rubbish in [Message::Binary(Bytes::new()), Message::text("0hello"), remote::on(77, b"x"), remote::on(4, b"{\"Width\":-1}")] {
            client.send(rubbish).await.unwrap();
        }
        client.send(remote::input(b"after")).await.unwrap();
        assert_eq!(served.stdin.as_mut().unwrap().recv().await.unwrap(), "after");
        // Larger than a message may be.
        let _ = client.send(remote::input(&vec![0; 3 << 20])).await;
        served.output.closed().await;
    });
}
