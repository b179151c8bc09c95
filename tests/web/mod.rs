//! A web server that does what a test says, byte by byte: on loopback, plain or with TLS, a thread for each connection.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits before the next step.
    Wait(Duration),
    /// Sends a byte of a comment each time so much has passed, for ever.
    Drip(Duration),
    /// Keeps the connection open and says no more.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What its client showed a certificate.
    pub known: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Answers a request; no steps: the connection is closed at once.
pub type Script = Box<dyn FnMut(&Request) -> Vec<Step> + Send>;

struct Shared {
    script: Mutex<Script>,
    asked: Mutex<Vec<Request>>,
}

/// The server; it serves until the test ends.
#[derive(Clone)]
pub struct Web {
    pub addr: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
}

impl Web {
    /// Plain.
    pub fn start() -> Web {
        Web::on(TcpListener::bind("127.0.0.1:0").unwrap(), None)
    }

    /// On a listener, perhaps of another network namespace.
    pub fn on(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Web {
        let shared = Arc::new(Shared { script: Mutex::new(Box::new(|_| Vec::new())), asked: Mutex::default() });
        let web = Web { addr: listener.local_addr().unwrap(), tls: tls.is_some(), shared: shared.clone() };
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (shared, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || {
                    // A client that goes is the rule in these tests.
                    let _ = match tls {
                        None => serve(tcp, &shared, |_| false),
                        Some(config) => {
                            let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
                            serve(stream, &shared, |s| s.conn.peer_certificates().is_some())
                        }
                    };
                });
            }
        });
        web
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// From now on it answers so.
    pub fn script(&self, script: impl FnMut(&Request) -> Vec<Step> + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// From now on each request gets this.
    pub fn answer(&self, steps: Vec<Step>) {
        self.script(move |_| steps.clone());
    }

    /// The requests since this was last called.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }
}

fn serve<S: Read + Write>(mut stream: S, shared: &Shared, known: impl Fn(&S) -> bool) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 16 {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    let request = Request { at: Instant::now(), path, headers, known: known(&stream) };
    shared.asked.lock().unwrap().push(request.clone());
    let steps = (shared.script.lock().unwrap())(&request);
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes)?,
            Step::Wait(time) => std::thread::sleep(time),
            Step::Drip(time) => loop {
                stream.write_all(b"#")?;
                stream.flush()?;
                std::thread::sleep(time);
            },
            Step::Hang => {
                while stream.read(&mut byte)? != 0 {}
                return Ok(());
            }
        }
        stream.flush()?;
    }
    Ok(())
}

/// A whole answer: 200, its length, these further headers (each with its line's end), and the body.
pub fn ok(headers: &str, body: impl AsRef<[u8]>) -> Vec<Step> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    vec![Step::Send(bytes)]
}

/// An answer without a body.
pub fn code(line: &str, headers: &str) -> Vec<Step> {
    send(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n{headers}\r\n"))
}

/// These bytes and no more.
pub fn send(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Send(bytes.as_ref().to_vec())]
}

/// A TCP port on loopback where connections are never made: its queue is full, so that whoever knocks gets no answer.
pub struct BlackHole {
    pub addr: SocketAddr,
    _held: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    pub fn dig() -> BlackHole {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        // A second listen(2) makes the queue as short as it goes.
        rustix::net::listen(&listener, 0).unwrap();
        let knock = || TcpStream::connect_timeout(&addr, Duration::from_millis(300));
        let held: Vec<_> = std::iter::from_fn(|| knock().ok()).take(64).collect();
        assert!(held.len() < 64, "the queue takes all");
        BlackHole { addr, _held: (listener, held) }
    }
}
