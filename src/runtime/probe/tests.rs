//! The handlers against servers of this test's own, on localhost: each says what the kubelet would say.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction, HTTPHeader, Pod, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::target::Target;
use super::{grpc, http, tcp};
use crate::plan::action::Answer;
use crate::pod::{Origin, WantedPod};

const SECOND: Duration = Duration::from_secs(1);

fn pod(port: u16) -> WantedPod {
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
    }))
    .unwrap();
    WantedPod::from_object(object, Origin::default()).unwrap()
}

fn on(test: impl Future<Output = ()>) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test);
}

/// A server that gives each request's head to `serve`, which answers as it likes.
async fn server<F: Future<Output = ()> + 'static>(serve: impl Fn(String, TcpStream) -> F + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            tokio::task::spawn_local(serve(String::from_utf8(head).unwrap(), stream));
        }
    });
    port
}

async fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Answer {
    let pod = pod(port);
    let target = Target { pod: &pod, container: pod.container("c").unwrap(), ips: &[], resolv_conf: Path::new("") };
    let header = |(name, value): &(&str, &str)| HTTPHeader { name: (*name).into(), value: (*value).into() };
    let action = HTTPGetAction {
        path: Some(path.into()),
        port: IntOrString::String("web".into()),
        http_headers: Some(headers.iter().map(header).collect()),
        ..HTTPGetAction::default()
    };
    http::probe(&target, &action, SECOND).await
}

async fn reply(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

fn failed(answer: Answer) -> String {
    match answer {
        Answer::Failed(why) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn http_redirects_are_followed_on_the_same_host_for_ten_requests() {
    on(async {
        let port = server(|head, mut stream| async move {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let text = match path.as_str() {
                "/away" => "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 4\r\n\r\nbye!".to_owned(),
                "/end?q=1" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                "/0" => "HTTP/1.1 301 Moved\r\nLocation: /end?q=1\r\nContent-Length: 0\r\n\r\n".to_owned(),
                n => {
                    let n: u32 = n[1..].parse().unwrap();
                    format!("HTTP/1.1 307 Moved\r\nLocation: /{}\r\nContent-Length: 0\r\n\r\n", n - 1)
                }
            };
            reply(&mut stream, &text).await;
        })
        .await;
        assert_eq!(get(port, "/8", &[]).await, Answer::Passed);
        assert!(failed(get(port, "/9", &[]).await).ends_with("stopped after 10 redirects"));
        assert_eq!(get(port, "/away", &[]).await, Answer::Warned("Probe terminated redirects, Response body: bye!".into()));
    });
}

#[test]
fn a_redirect_is_read_as_go_reads_it() {
    on(async {
        // `/at/N` answers with the Nth location; every other path says what it is and for which host, and fails.
        const LOCATIONS: [&str; 9] = [
            "login",
            "ui/",
            "?x=1",
            "//127.0.0.1:PORT/x",
            "http://127.0.0.1:PORT/y?u=http://z/",
            "../up",
            "//other.test/x",
            "mailto:a@b.test",
            "",
        ];
        let port = server(|head, mut stream| async move {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let port = stream.local_addr().unwrap().port().to_string();
            let to = path.strip_prefix("/at/").and_then(|n| LOCATIONS.get(n.parse::<usize>().ok()?)).map(|l| l.replace("PORT", &port));
            let host = head.lines().find_map(|l| l.strip_prefix("host: ")).unwrap().replace(&port, "PORT");
            let text = match to {
                Some(to) => format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
                None => format!("HTTP/1.1 302 Found\r\nLocation: http://other.test/\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{path} {host}{:99}", ""),
            };
            reply(&mut stream, &text).await;
        })
        .await;
        // Where it ended is in the body of a redirect to somewhere else.
        let ended = async |n: usize, headers: &[(&str, &str)]| match get(port, &format!("/at/{n}"), headers).await {
            Answer::Warned(why) => why.rsplit("body: ").next().unwrap().trim().to_owned(),
            other => format!("{other:?}"),
        };
        let own = [("Host", "own.test")];
        for (n, plain, with_host) in [
            (0, "/at/login 127.0.0.1:PORT", "/at/login own.test"),
            (1, "/at/ui/ 127.0.0.1:PORT", "/at/ui/ own.test"),
            (3, "/x 127.0.0.1:PORT", "/x own.test"),
            (4, "/y?u=http://z/ 127.0.0.1:PORT", "/y?u=http://z/ 127.0.0.1:PORT"),
            (5, "/up 127.0.0.1:PORT", "/up own.test"),
            // Elsewhere: a success with a warning.
            (6, "", ""),
            (7, "", ""),
            // No location at all is an answer like any other.
            (8, "Passed", "Passed"),
        ] {
            assert_eq!((ended(n, &[]).await.as_str(), ended(n, &own).await.as_str()), (plain, with_host), "{}", LOCATIONS[n]);
        }
        assert_eq!(ended(2, &[]).await, "/at/2?x=1 127.0.0.1:PORT");
        // What is no URL at all fails, as with Go.
        let port = server(|_, mut stream| async move {
            reply(&mut stream, "HTTP/1.1 302 Found\r\nLocation: //127.0.0.1:99999/\r\nContent-Length: 0\r\n\r\n").await
        });
        assert!(failed(get(port.await, "/", &[]).await).contains("failed to parse Location header"));
    });
}

#[test]
fn http_headers_are_the_manifests_and_the_kubelets() {
    on(async {
        let port = server(|head, mut stream| async move {
            let head = head.to_lowercase();
            let fine = head.contains("host: inside.example\r\n")
                && head.contains("x-a: 1\r\n")
                && head.contains("user-agent: kube-probe/1.36\r\n")
                && !head.contains("accept:");
            reply(&mut stream, if fine { "HTTP/1.0 200 OK\r\n\r\nfine" } else { "HTTP/1.0 500 No\r\n\r\n" }).await;
        })
        .await;
        assert_eq!(get(port, "/", &[("Host", "inside.example"), ("X-A", "1"), ("Accept", "")]).await, Answer::Passed);
        assert_eq!(failed(get(port, "/", &[]).await), "HTTP probe failed with statuscode: 500");
    });
}

#[test]
fn a_server_that_sends_one_byte_at_a_time_is_late() {
    on(async {
        let port = server(|_, mut stream| async move {
            for byte in "HTTP/1.1 200 OK\r\n".repeat(9).into_bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let begun = std::time::Instant::now();
        let why = failed(get(port, "/", &[]).await);
        assert!(why.contains("Client.Timeout exceeded") && begun.elapsed() < 10 * SECOND, "{why}");
    });
}

#[test]
fn http_without_an_answer_is_a_failure_in_gos_words() {
    on(async {
        let port = server(|_, stream| async move { drop(stream) }).await;
        assert_eq!(failed(get(port, "/x", &[]).await), format!("Get \"http://127.0.0.1:{port}/x\": EOF"));
        let port = server(|_, mut stream| async move { reply(&mut stream, "SSH-2.0-x\r\n\r\n").await }).await;
        assert!(failed(get(port, "/", &[]).await).contains("malformed HTTP response"));
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert!(failed(get(free, "/", &[]).await).ends_with(&format!("dial tcp 127.0.0.1:{free}: connect: connection refused")));
    });
}

#[test]
fn a_port_the_container_does_not_name_is_an_error_and_no_failure() {
    on(async {
        let pod = pod(1);
        let target = Target { pod: &pod, container: pod.container("c").unwrap(), ips: &[], resolv_conf: Path::new("") };
        let action = TCPSocketAction { port: IntOrString::String("nope".into()), host: None };
        assert!(matches!(tcp::probe(&target, &action, SECOND).await, Answer::Errored(why) if why.contains("couldn't find port: nope")));
        let action = TCPSocketAction { port: IntOrString::Int(1), host: Some("name.invalid".into()) };
        // A name nobody knows is one that nothing answers at.
        let why = failed(tcp::probe(&target, &action, SECOND).await);
        assert_eq!(why, "dial tcp: look up name.invalid: no name server is configured; put the name into /etc/hosts");
    });
}

/// A health server: SERVING for the service "good", NOT_SERVING for "bad", UNIMPLEMENTED for all others.
async fn health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            tokio::task::spawn_local(async move {
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    tokio::task::spawn_local(async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let body = request.body_mut().data().await.map_or(Bytes::new(), |b| b.unwrap());
                        let says = |name: &str| body.windows(name.len()).any(|w| w == name.as_bytes());
                        let status = if says("good") {
                            Some(1)
                        } else if says("bad") {
                            Some(2)
                        } else {
                            None
                        };
                        let head = ::http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        if let Some(status) = status {
                            stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                        }
                        let mut trailers = ::http::HeaderMap::new();
                        trailers.insert("grpc-status", if status.is_some() { "0" } else { "12" }.parse().unwrap());
                        stream.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    port
}

async fn ask_health(port: u16, service: &str) -> Answer {
    let pod = pod(port);
    let target = Target { pod: &pod, container: pod.container("c").unwrap(), ips: &[], resolv_conf: Path::new("") };
    let action = GRPCAction { port: port.into(), service: Some(service.into()) };
    grpc::probe(&target, &action, SECOND).await
}

#[test]
fn grpc_health_is_serving_or_a_failure_that_says_what() {
    on(async {
        let port = health().await;
        assert_eq!(ask_health(port, "good").await, Answer::Passed);
        assert_eq!(failed(ask_health(port, "bad").await), "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(failed(ask_health(port, "").await).starts_with("error: this server does not implement the grpc health protocol"));
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert!(failed(ask_health(free, "good").await).contains("failed to connect service"));
    });
}

#[test]
fn grpc_that_never_answers_is_late() {
    on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let why = failed(ask_health(listener.local_addr().unwrap().port(), "good").await);
        assert_eq!(why, "timeout: health rpc did not complete within 1s");
    });
}

/// An HTTPS server with a certificate nobody would trust: self-signed, for another name, out of date.
async fn https(answer: &'static str) -> u16 {
    let cert = CertificateDer::from_slice(include_bytes!("../../../tests/tls/expired-cert.der"));
    let key = PrivateKeyDer::Pkcs8(include_bytes!("../../../tests/tls/expired-key.der").as_slice().into());
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(vec![cert], key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn get_https(port: u16) -> Answer {
    let pod = pod(port);
    let target = Target { pod: &pod, container: pod.container("c").unwrap(), ips: &[], resolv_conf: Path::new("") };
    let action = HTTPGetAction { port: IntOrString::Int(port.into()), scheme: Some("HTTPS".into()), ..HTTPGetAction::default() };
    http::probe(&target, &action, SECOND).await
}

#[test]
fn https_takes_any_certificate_and_judges_the_answer() {
    on(async {
        assert_eq!(get_https(https("HTTP/1.1 204 No Content\r\n\r\n").await).await, Answer::Passed);
        let port = https("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(failed(get_https(port).await), "HTTP probe failed with statuscode: 500");
        // A redirect between the two schemes stays on the host, and is followed.
        let port = https("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let moved = server(move |_, mut stream| async move {
            reply(&mut stream, &format!("HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:{port}/ok\r\ncontent-length: 0\r\n\r\n")).await;
        });
        assert_eq!(get(moved.await, "/", &[]).await, Answer::Passed);
        // To another host it is not.
        let port = https("HTTP/1.1 302 Found\r\nlocation: //other.test/\r\ncontent-length: 4\r\n\r\nbye!").await;
        assert_eq!(get_https(port).await, Answer::Warned("Probe terminated redirects, Response body: bye!".into()));
    });
}

#[test]
fn https_to_a_server_without_tls_says_so() {
    on(async {
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = plain.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = plain.accept().await {
                reply(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
                let _ = stream.read(&mut [0; 1024]).await;
            }
        });
        let why = failed(get_https(port).await);
        assert_eq!(why, format!("Get \"https://127.0.0.1:{port}/\": http: server gave HTTP response to HTTPS client"));
        // One that takes the connection and never answers a greeting.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(failed(get_https(mute.local_addr().unwrap().port()).await).contains("context deadline exceeded"));
    });
}
