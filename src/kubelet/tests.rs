//! The server on a real socket with real certificates, over the status socket's world of the test's own making.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::http::{Bounds, serve_within};
use super::tls::Tls;
use super::*;
use crate::dial::trust::Trust;
use crate::session::{End, Output};
use crate::socket::remote::{Told, told};
use crate::socket::tests::{Fake, Scratch};
use crate::spdy::{Decoder, Encoder, Frame};

const PATIENCE: Duration = Duration::from_secs(120);

/// Knows some tokens, and who may do what; counts what it is asked. It can be away.
#[derive(Default)]
struct Bench {
    tokens: BTreeMap<&'static str, &'static str>,
    allowed: Vec<(&'static str, &'static str, &'static str)>,
    asked: RefCell<Vec<String>>,
    away: Cell<bool>,
}

impl Judge for Bench {
    fn review(&self, token: String) -> LocalBoxFuture<'static, Result<Value, String>> {
        self.asked.borrow_mut().push(format!("token {token}"));
        let user = self.tokens.get(&*token).map(|name| json!({"authenticated": true, "user": {"username": name, "groups": ["g"]}}));
        let answer = if self.away.get() { Err("away".into()) } else { Ok(user.unwrap_or_default()) };
        Box::pin(async { answer })
    }

    fn allows(&self, spec: Value) -> LocalBoxFuture<'static, Result<bool, String>> {
        assert_eq!((&spec["resourceAttributes"]["name"], &spec["resourceAttributes"]["resource"]), (&json!("n1"), &json!("nodes")));
        let text = |at: &str| spec.pointer(at).unwrap().as_str().unwrap().to_owned();
        let (user, verb, sub) = (text("/user"), text("/resourceAttributes/verb"), text("/resourceAttributes/subresource"));
        self.asked.borrow_mut().push(format!("{user} {verb} {sub}"));
        let allowed = self.allowed.contains(&(user.as_str(), verb.as_str(), sub.as_str()));
        let answer = if self.away.get() { Err("away".into()) } else { Ok(allowed) };
        Box::pin(async move { answer })
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, PEM.
    fn sign(&self, name: &str, group: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

struct Place {
    at: SocketAddr,
    ca: Authority,
    dir: PathBuf,
    fake: Rc<Fake>,
    bench: Rc<Bench>,
}

impl Place {
    /// A connection of somebody, or of nobody; an error is TLS's.
    async fn dial(&self, who: Option<(rcgen::Certificate, KeyPair)>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match who {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                builder.with_client_auth_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(self.at).await.unwrap()).await
    }

    /// The answer's code and body.
    async fn ask(&self, who: Option<(rcgen::Certificate, KeyPair)>, request: &str, headers: &str) -> (u16, String) {
        let mut stream = self.dial(who).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn by_token(&self, token: &str, request: &str) -> (u16, String) {
        self.ask(None, request, &format!("authorization: Bearer {token}\r\n")).await
    }
}

fn serving<F: Future<Output = ()>>(bench: Bench, bounds: Bounds, test: impl FnOnce(Rc<Place>) -> F) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scratch = Scratch::new();
    rt.block_on(async {
        let (ca, dir) = (Authority::new(), scratch.0.clone());
        fs::write(dir.join("ca.crt"), ca.0.pem()).unwrap();
        let file = |name: &str| Some(dir.join(name));
        let api = Api {
            cert_file: file("tls.crt"),
            key_file: file("tls.key"),
            client_ca_file: file("ca.crt"),
            idle: bounds.idle,
            ..Api::default()
        };
        let settings = Settings { node_name: "n1".into(), api, ..Settings::default() };
        let (fake, bench) = (Fake::new(), Rc::new(bench));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Rc::new(Place { at: listener.local_addr().unwrap(), ca, dir: dir.clone(), fake: fake.clone(), bench: bench.clone() });
        put_certificate(&place);
        let door = Rc::new(Door::new(&settings, fake, bench));
        let tls = Tls::new(&settings.api, "n1", &[]).unwrap();
        tokio::select! {
            () = serve_within(bounds, listener, door, tls) => unreachable!(),
            done = tokio::time::timeout(PATIENCE, test(place)) => done.expect("in time"),
        }
    });
}

fn put_certificate(place: &Place) {
    let (cert, key) = place.ca.sign("n1", "system:nodes");
    fs::write(place.dir.join("tls.crt"), cert.pem()).unwrap();
    fs::write(place.dir.join("tls.key"), key.serialize_pem()).unwrap();
}

#[test]
fn nobody_comes_in_without_a_name_or_without_leave() {
    let tokens = BTreeMap::from([("good", "alice")]);
    let bench = Bench { tokens, allowed: vec![("alice", "get", "proxy"), ("alice", "get", "metrics")], ..Bench::default() };
    serving(bench, Bounds::default(), |place| async move {
        let unauthorized = (401, "Unauthorized".to_owned());
        assert_eq!(place.ask(None, "GET /pods", "").await, unauthorized);
        assert_eq!(place.ask(None, "GET /healthz", "authorization: Basic Z29vZA==\r\n").await, unauthorized);
        for _ in 0..3 {
            assert_eq!(place.by_token("bad", "GET /pods").await, unauthorized);
            assert_eq!(place.by_token("good", "GET /pods").await.0, 200);
        }
        assert_eq!(*place.bench.asked.borrow(), ["token bad", "token good", "alice get pods", "alice get proxy"], "each is asked once");
        let (code, why) = place.by_token("good", "POST /pods").await;
        assert_eq!((code, &*why), (403, "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[pods proxy])\n"));
        assert_eq!(place.by_token("good", "GET /stats/summary").await.0, 403);
        assert!(place.by_token("good", "GET /metrics/resource").await.1.contains("pod_memory_working_set_bytes"));
        assert_eq!(place.by_token("good", "GET /containerLogs/default/web-n1/main").await.0, 200);
        for path in ["/v1/status", "/v1/why/default/web-n1", "/readyz", "/run/a/b/c", "//pods", "/"] {
            assert_eq!(place.by_token("good", &format!("GET {path}")).await, (404, "404 page not found\n".into()), "{path}");
        }
    });
}

#[test]
fn without_an_api_server_certificates_of_masters_are_enough() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        place.bench.away.set(true);
        assert_eq!(place.by_token("good", "GET /pods").await.0, 401);
        let user = place.ca.sign("kube-apiserver", "ops");
        let (code, why) = place.ask(Some(user), "GET /healthz", "").await;
        assert_eq!((code, &*why), (500, "Authorization error (user=kube-apiserver, verb=get, resource=nodes, subresource=healthz)"));
        let (code, pods) = place.ask(Some(place.ca.sign("admin", "system:masters")), "GET /runningpods/", "").await;
        assert!(code == 200 && pods.contains("web-n1") && !pods.contains("crash-n1"), "{pods}");
        // Whoever the client CA did not sign is refused before he says a word.
        let mut stranger = match place.dial(Some(Authority::new().sign("admin", "system:masters"))).await {
            Ok(stream) => stream,
            Err(_) => return,
        };
        assert!(stranger.read(&mut [0]).await.is_err());
    });
}

#[test]
fn certificates_are_read_anew_and_broken_ones_change_nothing() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let shown = || async { place.dial(None).await.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec() };
        let first = shown().await;
        assert_eq!(shown().await, first);
        put_certificate(&place);
        let second = shown().await;
        assert_ne!(second, first);
        fs::write(place.dir.join("tls.crt"), "rubbish").unwrap();
        assert_eq!(shown().await, second);
        fs::remove_file(place.dir.join("tls.key")).unwrap();
        assert_eq!(shown().await, second);
        put_certificate(&place);
        assert_ne!(shown().await, second);
    });
}

/// Serves by these settings of certificates.
fn served_by<F: Future<Output = ()>>(api: Api, ips: &[std::net::IpAddr], test: impl FnOnce(SocketAddr) -> F) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let settings = Settings { node_name: "n1".into(), api, ..Settings::default() };
        let door = Rc::new(Door::new(&settings, Fake::new(), Rc::new(Bench::default())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::select! {
            () = serve_within(Bounds::default(), listener, door, Tls::new(&settings.api, "n1", ips).unwrap()) => unreachable!(),
            done = tokio::time::timeout(PATIENCE, test(at)) => done.expect("in time"),
        }
    });
}

/// What is answered to a stranger, and with whose certificate.
async fn strange(at: SocketAddr, trust: Trust<'_>, name: &str) -> std::io::Result<(Vec<u8>, String)> {
    let config = Arc::new(crate::dial::tls(trust, None).unwrap());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(config).connect(name, TcpStream::connect(at).await?).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Ok((shown, String::from_utf8(answer).unwrap()))
}

#[test]
fn without_a_certificate_one_of_its_own_making_is_served() {
    served_by(Api::default(), &["127.0.0.1".parse().unwrap()], |at| async move {
        let (shown, answer) = strange(at, Trust::Anybody, "whatever").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert_eq!(strange(at, Trust::Anybody, "n1").await.unwrap().0, shown, "the same for as long as it lives");
        let cert = CertificateDer::from(shown);
        let cert = webpki::EndEntityCert::try_from(&cert).unwrap();
        for name in ["n1", "127.0.0.1"] {
            cert.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
        }
    });
}

#[test]
fn a_certificate_that_was_asked_for_is_served_once_it_is_there_and_so_is_the_next_one() {
    let scratch = Scratch::new();
    let current = scratch.0.join("kubelet-server-current.pem");
    let api = Api { cert_file: Some(current.clone()), key_file: Some(current.clone()), ..Api::default() };
    served_by(api, &[], |at| async move {
        let ca = Authority::new();
        let authority = ca.0.pem();
        let ask = async || strange(at, Trust::These(authority.as_bytes()), "localhost").await;
        // Not signed yet: nobody is served.
        assert!(ask().await.is_err());
        let mut shown = Vec::new();
        for date in ["2026-01-01", "2027-01-01"] {
            let (cert, key) = ca.sign("system:node:n1", "system:nodes");
            let (file, link) = (scratch.0.join(date), scratch.0.join("updated"));
            fs::write(&file, cert.pem() + &key.serialize_pem()).unwrap();
            std::os::unix::fs::symlink(&file, &link).unwrap();
            fs::rename(&link, &current).unwrap();
            let (certificate, answer) = ask().await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
            assert_eq!(certificate, cert.der().to_vec());
            shown.push(certificate);
        }
        assert_ne!(shown[0], shown[1]);
    });
}

#[test]
fn who_says_nothing_or_is_one_too_many_is_shut_out() {
    let bounds = Bounds { clients: 2, introduced: Duration::from_secs(1), ..Bounds::default() };
    serving(Bench::default(), bounds, |place| async move {
        // Without TLS, without a word, and without a name.
        let mut mute = TcpStream::connect(place.at).await.unwrap();
        let mut silent = place.dial(None).await.unwrap();
        let mut third = TcpStream::connect(place.at).await.unwrap();
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "there is no third place");
        assert!(matches!(mute.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)));
        let mut stranger = place.dial(None).await.unwrap();
        for _ in 0..3 {
            stranger.write_all(b"GET /pods HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        }
        let mut all = Vec::new();
        let _ = stranger.read_to_end(&mut all).await;
        assert_eq!(String::from_utf8(all).unwrap().matches("401 Unauthorized").count(), 3);
    });
}

#[test]
fn who_came_in_and_says_nothing_more_is_let_go() {
    let bounds = Bounds { idle: Duration::from_secs(1), ..Bounds::default() };
    serving(Bench::default(), bounds, |place| async move {
        let dial = || place.dial(Some(place.ca.sign("admin", "system:masters")));
        let mut known = dial().await.unwrap();
        known.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        let _ = known.read_to_end(&mut all).await;
        assert!(all.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&all));
        // A session that nobody uses.
        let mut request = "ws://n1/exec/default/web-n1/main?command=cat&input=1&output=1".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        let (mut client, _) = client_async(request, dial().await.unwrap()).await.unwrap();
        while client.next().await.is_some_and(|message| message.is_ok()) {}
        let (_, served) = place.fake.sessions.borrow_mut().remove(0);
        assert_eq!(served.stdin.unwrap().recv().await, None);
    });
}

#[test]
fn a_session_whose_client_does_not_read_is_held_up_and_ends_when_it_was_idle_for_too_long() {
    let bounds = Bounds { idle: Duration::from_secs(1), ..Bounds::default() };
    serving(Bench::default(), bounds, |place| async move {
        // A terminal may be stopped for a while (ctrl-s): nothing is lost of what it did not read, and its place is not held for ever.
        let mut request = "ws://n1/exec/default/web-n1/main?command=cat&output=1".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        let tls = place.dial(Some(place.ca.sign("admin", "system:masters"))).await.unwrap();
        let (client, _) = client_async(request, tls).await.unwrap();
        let (_, served) = served(&place).await;
        let mut sent = 0;
        while let Ok(Ok(())) =
            tokio::time::timeout(Duration::from_millis(300), served.output.send(Output::Stdout(vec![b'x'; 32 << 10].into()))).await
        {
            sent += 1;
        }
        let began = tokio::time::Instant::now();
        served.output.closed().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert!(sent > 2);
        drop(client);
    });
}

#[test]
fn a_session_or_a_forwarded_port_that_nobody_uses_is_let_go_by_spdy_too() {
    let bounds = Bounds { idle: Duration::from_secs(1), ..Bounds::default() };
    serving(Bench::default(), bounds, |place| async move {
        let mut client = Entered::begin(&place, "input=1&output=1", &[(1, "error"), (3, "stdin"), (5, "stdout")]).await;
        let (_, served) = served(&place).await;
        while client.hear().await.is_some() {}
        assert_eq!(served.stdin.unwrap().recv().await, None);
        // Its pings are answered and keep nothing: a client that is there and silent is let go, and so is its connection to the pod.
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Tunnel::open(&place).await;
        let (_, stream) = client.connect(pod.local_addr().unwrap().port(), "0").await;
        let (mut held, _) = pod.accept().await.unwrap();
        held.write_all(b"hello").await.unwrap();
        assert_eq!(client.hear().await, data(stream, "hello", false));
        let began = tokio::time::Instant::now();
        while let Some(Ok(_)) = client.socket.next().await {}
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?} after the last word", began.elapsed());
        assert!(matches!(held.read(&mut [0]).await, Ok(0) | Err(_)));
    });
}

#[test]
fn a_session_is_carried_over_tls() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let path = "/exec/default/web-n1/main?command=cat&input=1&output=1";
        for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
            let mut request = format!("ws://n1{path}").into_client_request().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
            let tls = place.dial(Some(place.ca.sign("admin", "system:masters"))).await.unwrap();
            let (mut client, _) = client_async(request, tls).await.unwrap();
            while place.fake.sessions.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            let (request, served) = place.fake.sessions.borrow_mut().remove(0);
            assert_eq!((request.command, request.stdin, request.stderr), (Some(vec!["cat".to_owned()]), true, false));
            client.send(Message::Binary(b"\0hello".as_slice().into())).await.unwrap();
            assert_eq!(served.stdin.unwrap().recv().await.unwrap(), "hello");
            served.output.send(Output::Stdout("hello".into())).await.unwrap();
            drop(served.output);
            served.end.send(End::Exited(3)).unwrap();
            let mut heard = Vec::new();
            let close = loop {
                match client.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => heard.push(told(bytes).unwrap()),
                    Message::Close(close) => break close,
                    _ => {}
                }
            };
            assert_eq!(u16::from(close.unwrap().code), 1000, "kubectl takes any other end for a failure");
            assert_eq!(heard, [Told::Output(Output::Stdout("hello".into())), Told::End(End::Exited(3))]);
        }
    });
}

/// A client of a session by SPDY alone.
struct Entered {
    stream: TlsStream<TcpStream>,
    encoder: Encoder,
    decoder: Decoder,
}

impl Entered {
    /// Asks for a session; the answer's code and the protocol agreed on.
    async fn ask(place: &Place, path: &str, protocols: &str) -> (Entered, String) {
        let mut stream = place.dial(Some(place.ca.sign("admin", "system:masters"))).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: n1\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\ncontent-length: 0\r\nx-stream-protocol-version: {protocols}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        (Entered { stream, encoder: Encoder::default(), decoder: Decoder::default() }, String::from_utf8(answer).unwrap().to_lowercase())
    }

    async fn begin(place: &Place, query: &str, streams: &[(u32, &str)]) -> Entered {
        let path = format!("/exec/default/web-n1/main?command=cat&{query}");
        let (mut client, answer) = Entered::ask(place, &path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
        assert!(answer.starts_with("http/1.1 101") && answer.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n"), "{answer}");
        for (stream, kind) in streams {
            let bytes = client.encoder.open(*stream, &[("streamType", kind)]);
            client.say(&bytes).await;
            assert_eq!(client.hear().await, Some(Frame::Other), "each is answered");
        }
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame but pings; `None`: it is over.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.frame().unwrap() {
                Some(Frame::Ping(_)) => continue,
                Some(frame) => return Some(frame),
                None => {}
            }
            let mut chunk = [0; 4096];
            let n = self.stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
            self.decoder.push(&chunk[..n]);
        }
    }
}

async fn served(place: &Place) -> (crate::session::Request, crate::session::Served) {
    while place.fake.sessions.borrow().is_empty() {
        tokio::task::yield_now().await;
    }
    place.fake.sessions.borrow_mut().remove(0)
}

#[test]
fn a_session_by_spdy_alone_has_input_output_and_an_end() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let mut client =
            Entered::begin(&place, "input=1&output=1&error=1", &[(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")]).await;
        let (request, served) = served(&place).await;
        assert_eq!((request.command, request.tty), (Some(vec!["cat".to_owned()]), false));
        let mut stdin = served.stdin.unwrap();
        let bytes =
            [client.encoder.data(3, b"he", false), client.encoder.data(3, b"llo", false), client.encoder.data(3, b"", true)].concat();
        client.say(&bytes).await;
        assert_eq!((stdin.recv().await.unwrap(), stdin.recv().await.unwrap(), stdin.recv().await), ("he".into(), "llo".into(), None));
        let ping = client.encoder.ping(7);
        client.say(&ping).await;
        served.output.send(Output::Stdout("out".into())).await.unwrap();
        assert_eq!(client.hear().await, Some(data(5, "out", false)));
        served.output.send(Output::Stderr("oops".into())).await.unwrap();
        assert_eq!(client.hear().await, Some(data(7, "oops", false)));
        drop(served.output);
        served.end.send(End::Exited(3)).unwrap();
        let Some(Frame::Data { stream: 1, bytes, .. }) = client.hear().await else { panic!("no status") };
        let status: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&status["reason"], &status["details"]["causes"][0]["message"]), (&json!("NonZeroExitCode"), &json!("3")));
        for stream in [5, 7, 1] {
            assert_eq!(client.hear().await, Some(data(stream, "", true)));
        }
        // It is the client who closes.
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.hear().await, None);
    });
}

#[test]
fn a_terminal_by_spdy_alone_is_told_its_size_and_its_clients_end() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let mut client =
            Entered::begin(&place, "input=1&output=1&error=1&tty=1", &[(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")]).await;
        let (_, mut served) = served(&place).await;
        for part in ["{\"Width\":101,\"Hei", "ght\":41}\n{\"Width\":80,\"Height\":24}\n"] {
            let bytes = client.encoder.data(7, part.as_bytes(), false);
            client.say(&bytes).await;
        }
        for (columns, rows) in [(101, 41), (80, 24)] {
            assert_eq!(served.control.recv().await, Some(crate::session::Control::Resize { columns, rows }));
        }
        drop(client);
        served.output.closed().await;
    });
}

#[test]
fn who_asks_for_another_protocol_or_a_stream_of_no_kind_is_refused() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let path = "/exec/default/web-n1/main?command=cat&output=1";
        let (_, answer) = Entered::ask(&place, path, "channel.k8s.io").await;
        assert!(answer.starts_with("http/1.1 403"), "{answer}");
        let (_, answer) = Entered::ask(&place, "/attach/default/nope/main?output=1", "v4.channel.k8s.io").await;
        assert!(answer.starts_with("http/1.1 404"), "{answer}");
        let mut client = Entered::begin(&place, "output=1", &[(1, "error")]).await;
        for (stream, kind) in [(3, "error"), (5, "data"), (6, "stdout")] {
            let bytes = client.encoder.open(stream, &[("streamType", kind)]);
            client.say(&bytes).await;
            assert_eq!(client.hear().await, Some(Frame::Reset { stream }), "{kind}");
        }
        assert!(place.fake.sessions.borrow().is_empty());
        client.say(b"\x80\x02 no version of ours").await;
        assert_eq!(client.hear().await, None);
    });
}

/// A client of a tunnel: frames inside a WebSocket.
struct Tunnel {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    encoder: Encoder,
    decoder: Decoder,
    newest: u32,
}

impl Tunnel {
    async fn open(place: &Place) -> Tunnel {
        // As somebody names it who has looked at the API server.
        let mut request = "ws://n1/portForward/default/web-n1/mirror-uid".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
        let tls = place.dial(Some(place.ca.sign("admin", "system:masters"))).await.unwrap();
        let (socket, answer) = client_async(request, tls).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
        Tunnel { socket, encoder: Encoder::default(), decoder: Decoder::default(), newest: 0 }
    }

    async fn say(&mut self, bytes: bytes::Bytes) {
        self.socket.send(Message::Binary(bytes)).await.unwrap();
    }

    /// The streams of a new connection: error and data.
    async fn connect(&mut self, port: u16, id: &str) -> (u32, u32) {
        let first = self.newest + 1;
        self.newest += 4;
        for (stream, kind) in [(first, "error"), (first + 2, "data")] {
            let headers = [("streamType", kind), ("port", &port.to_string()), ("requestID", id)];
            let bytes = self.encoder.open(stream, &headers);
            self.say(bytes).await;
        }
        (first, first + 2)
    }

    /// The next frame but answers and pings.
    async fn hear(&mut self) -> Frame {
        loop {
            match self.decoder.frame().unwrap() {
                Some(Frame::Other | Frame::Ping(_)) => {}
                Some(frame) => return frame,
                None => match self.socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => self.decoder.push(&bytes),
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    /// What comes on a stream, up to its end.
    async fn rest(&mut self, stream: u32) -> String {
        let mut all = Vec::new();
        loop {
            match self.hear().await {
                Frame::Data { stream: s, bytes, last } if s == stream => {
                    all.extend(bytes);
                    if last {
                        return String::from_utf8(all).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
}

fn data(stream: u32, text: &'static str, last: bool) -> Frame {
    Frame::Data { stream, bytes: bytes::Bytes::from_static(text.as_bytes()), last }
}

#[test]
fn ports_are_forwarded_side_by_side_and_each_ends_alone() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = pod.local_addr().unwrap().port();
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut client = Tunnel::open(&place).await;
        let (error, stream) = client.connect(port, "0").await;
        let (mut a, _) = pod.accept().await.unwrap();
        let (_, other) = client.connect(port, "1").await;
        let (mut b, _) = pod.accept().await.unwrap();
        // Both ways, then the client has said all, then the pod.
        let question = client.encoder.data(stream, b"question", true);
        client.say(question).await;
        let mut heard = String::new();
        a.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        a.write_all(b"answer").await.unwrap();
        drop(a);
        assert_eq!(client.hear().await, data(stream, "answer", false));
        assert_eq!([client.hear().await, client.hear().await], [data(stream, "", true), data(error, "", true)]);
        // One that nobody listens for is told on its error stream; the others go on.
        let (error, refused) = client.connect(nobody, "2").await;
        let why = client.rest(error).await;
        assert!(why.starts_with(&format!("error forwarding port {nobody} to pod web-n1, uid web-uid: ")), "{why}");
        assert_eq!(client.hear().await, Frame::Reset { stream: refused });
        b.write_all(b"still there").await.unwrap();
        assert_eq!(client.hear().await, data(other, "still there", false));
        // A client that breaks off: the pod's side ends.
        let broken = client.encoder.reset(other, false);
        client.say(broken).await;
        assert!(matches!(b.read(&mut [0]).await, Ok(0) | Err(_)));
        // A ping comes back.
        let ping = client.encoder.ping(7);
        client.say(ping).await;
        let mut ping = None;
        while ping != Some(Frame::Ping(7)) {
            let Some(Ok(Message::Binary(bytes))) = client.socket.next().await else { panic!("it ended") };
            client.decoder.push(&bytes);
            while let Some(frame) = client.decoder.frame().unwrap() {
                ping = Some(frame);
            }
        }
    });
}

#[test]
fn streams_that_make_no_sense_are_refused_and_a_client_that_goes_takes_all_with_him() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = pod.local_addr().unwrap().port().to_string();
        let mut client = Tunnel::open(&place).await;
        let stranger = [("streamType", "stdin"), ("port", &*port)];
        for (stream, headers) in
            [(1, &stranger[..]), (3, &[("port", "0"), ("streamType", "data")]), (4, &[("streamType", "error"), ("port", "1")])]
        {
            let bytes = client.encoder.open(stream, headers);
            client.say(bytes).await;
            assert_eq!(client.hear().await, Frame::Reset { stream });
        }
        client.newest = 8;
        client.connect(port.parse().unwrap(), "0").await;
        let (mut held, _) = pod.accept().await.unwrap();
        // The same numbers again.
        for stream in [9, 11] {
            let bytes = client.encoder.open(stream, &[("streamType", "data"), ("port", &port), ("requestID", "9")]);
            client.say(bytes).await;
            assert_eq!(client.hear().await, Frame::Reset { stream });
        }
        drop(client);
        assert!(matches!(held.read(&mut [0]).await, Ok(0) | Err(_)));
        let mut client = Tunnel::open(&place).await;
        client.say(b"\x80\x02 no version of ours".as_slice().into()).await;
        while let Some(Ok(_)) = client.socket.next().await {}
    });
}

#[test]
fn a_pod_that_does_not_read_holds_up_its_client_and_no_other() {
    serving(Bench::default(), Bounds::default(), |place| async move {
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = pod.local_addr().unwrap().port();
        let (mut greedy, mut calm) = (Tunnel::open(&place).await, Tunnel::open(&place).await);
        let (_, stream) = greedy.connect(port, "0").await;
        let _deaf = pod.accept().await.unwrap();
        let bytes = greedy.encoder.data(stream, &[7; 32 << 10], false);
        let said = Cell::new(0);
        let mut flood = Box::pin(async {
            loop {
                greedy.say(bytes.clone()).await;
                said.set(said.get() + 1);
            }
        });
        // Until all buffers on the way are full.
        let mut before = None;
        while before.replace(said.get()) != Some(said.get()) {
            assert!(tokio::time::timeout(Duration::from_millis(500), &mut flood).await.is_err());
        }
        let (_, stream) = calm.connect(port, "0").await;
        let (mut pod, _) = pod.accept().await.unwrap();
        pod.write_all(b"hello").await.unwrap();
        assert_eq!(calm.hear().await, data(stream, "hello", false));
    });
}
