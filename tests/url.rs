//! Manifests by URL against a web server that does what a test says: what is taken, what never is, and what is left when it is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, reason = "test names are sentences")]

#[path = "apiserver/tls.rs"]
#[allow(dead_code, reason = "the API server uses the rest")]
mod tls;
mod web;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plinth::clock;
use plinth::manifest::live::Manifests;
use plinth::manifest::url::Sight;
use plinth::plan::world::Wanted;
use plinth::pod::{FileReport, Verdict};
use plinth::settings::Settings;
use plinth::settings::url::Address;
use tokio::task::JoinHandle;
use web::{BlackHole, Request, Step, Web, code, ok, send};

const PERIOD: Duration = Duration::from_millis(200);
const KEY: &str = include_str!("signed/key");

/// A node whose manifests come from a web server.
struct Node {
    dir: PathBuf,
    settings: Rc<Settings>,
    manifests: Manifests,
    wanted: Wanted,
    reports: Vec<FileReport>,
    following: JoinHandle<()>,
}

impl Node {
    fn new(url: &str, change: impl FnOnce(&mut Settings)) -> Node {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("plinth-url-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("layer")).unwrap();
        let mut settings =
            Settings { layers: vec![dir.join("layer")], data_dir: dir.join("data"), node_name: "n1".into(), ..Settings::default() };
        settings.url.address = Some(Address::parse(url).unwrap());
        settings.url.period = PERIOD;
        change(&mut settings);
        Node::begin(dir, Rc::new(settings))
    }

    fn begin(dir: PathBuf, settings: Rc<Settings>) -> Node {
        let manifests = Manifests::new(&settings, "n1");
        let following = tokio::task::spawn_local(manifests.url().unwrap().follow());
        let mut node = Node { dir, settings, manifests, wanted: Wanted::default(), reports: Vec::new(), following };
        node.read();
        node
    }

    /// Another life on the same disk.
    fn again(mut self, change: impl FnOnce(&mut Settings)) -> Node {
        self.following.abort();
        let mut settings = (*self.settings).clone();
        change(&mut settings);
        Node::begin(std::mem::take(&mut self.dir), Rc::new(settings))
    }

    fn read(&mut self) {
        (self.wanted, self.reports) = self.manifests.read(clock::now());
    }

    /// `name=image`, or `name=V` where a pod sets a variable.
    fn pods(&self) -> String {
        let word = |p: &Rc<plinth::pod::WantedPod>| {
            let container = &p.object.spec.as_ref().unwrap().containers[0];
            let value = container.env.iter().flatten().next().and_then(|e| e.value.clone());
            format!("{}={}", p.key.name, value.or(container.image.clone()).unwrap()).replace("-n1", "")
        };
        self.wanted.pods.values().map(word).collect::<Vec<_>>().join(" ")
    }

    fn sight(&self) -> Sight {
        self.manifests.url().unwrap().sight()
    }

    fn report(&self) -> &FileReport {
        self.reports.iter().find(|r| r.layer == self.manifests.url().unwrap().name()).unwrap()
    }

    fn said(&self) -> String {
        let r = self.report();
        let words: Vec<_> = r.errors.iter().chain(&r.warnings).map(|f| format!("{}:{} {}", f.line, f.column, f.message)).collect();
        words.join(" | ")
    }

    /// Reads whenever told to, until it is so.
    async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Node) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < end, "waited for: {what}; pods: {}; said: {}; {:?}", self.pods(), self.said(), self.sight());
            let _ = tokio::time::timeout(Duration::from_millis(20), self.manifests.changed()).await;
            self.read();
        }
    }

    /// What is good is on disk, too, so that another life finds it.
    async fn until_kept(&mut self, text: &str) {
        let kept = self.dir.join("data/manifests-by-url");
        self.until("it is kept", |_| fs::read_to_string(&kept).is_ok_and(|t| t.contains(text))).await;
    }

    async fn until_pods(&mut self, pods: &str) {
        self.until(pods, |n| n.pods() == pods).await;
    }

    /// Waits for further requests that came to an end.
    async fn fetched(&mut self, more: u64) {
        let count = |n: &Node| {
            let t = n.sight().tally;
            t.changed + t.unchanged + t.refused + t.failed
        };
        let before = count(self);
        self.until("it was asked", |n| count(n) >= before + more).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
        if !self.dir.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn run(test: impl AsyncFnOnce()) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test());
}

fn pod(name: &str, image: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n")
}

/// A node with pod `a` from a web server.
async fn with_a() -> (Node, Web) {
    let web = Web::start();
    web.answer(ok("", pod("a", "i:1")));
    let mut node = Node::new(&web.url("/m.yaml"), |_| {});
    node.until_pods("a=i:1").await;
    node.until_kept("i:1").await;
    (node, web)
}

#[test]
fn whatever_a_set_is_written_as_it_is_taken_and_its_pods_are_the_kubelets() {
    run(async || {
        let (mut node, web) = with_a().await;
        let pod_a = node.wanted.pods.values().next().unwrap().clone();
        let meta = &pod_a.object.metadata;
        assert_eq!(meta.annotations.as_ref().unwrap()["kubernetes.io/config.source"], "http");
        assert_eq!(meta.annotations.as_ref().unwrap()["kubernetes.io/config.hash"], pod_a.uid.to_string());
        assert_eq!((meta.name.as_deref(), pod_a.uid.0.len()), (Some("a-n1"), 32));
        assert_eq!(pod_a.object.spec.as_ref().unwrap().tolerations, None, "the kubelet gives it to pods of files only");
        assert_eq!((&*pod_a.origin.layer, pod_a.origin.path.display().to_string()), (&*web.url("/m.yaml"), web.url("/m.yaml")));
        let json = |name: &str| {
            format!(
                "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"containers\":[{{\"name\":\"c\",\"image\":\"j\"}}]}}}}"
            )
        };
        let list = |kind: &str, items: &str| format!("apiVersion: v1\nkind: {kind}\nitems: [{items}]\n");
        for (body, pods) in [
            (json("b"), "b=j"),
            (list("PodList", &[json("c"), json("d")].join(",")), "c=j d=j"),
            (list("List", &json("e")), "e=j"),
            (format!("# two\n{}---\n{}", pod("f", "i"), pod("g", "i")), "f=i g=i"),
            (list("PodList", ""), ""),
            (pod("a", "i:1"), "a=i:1"),
            ("{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"items\":null}".into(), ""),
        ] {
            web.answer(ok("Content-Type: text/x-whatever\r\n", &body));
            node.until_pods(pods).await;
            assert_eq!(node.sight().trouble, None);
        }
        // In chunks.
        let body = pod("h", "i");
        let (one, two) = body.split_at(30);
        let chunks: String = [one, two, ""].map(|c| format!("{:x}\r\n{c}\r\n", c.len())).concat();
        web.answer(send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")));
        node.until_pods("h=i").await;
    });
}

#[test]
fn what_did_not_change_is_not_sent_again() {
    run(async || {
        let web = Web::start();
        let date = "Sat, 21 Nov 2026 04:00:00 GMT";
        let marked = move |etag: &str, body: String| {
            let headers = format!("ETag: {etag}\r\nLast-Modified: {date}\r\n");
            let etag = etag.to_owned();
            move |r: &Request| match r.header("if-none-match") {
                Some(t) if t == etag => code("304 Not Modified", ""),
                _ => ok(&headers, &body),
            }
        };
        web.script(marked("\"1\"", pod("a", "i:1")));
        let mut node = Node::new(&web.url("/m.yaml"), |_| {});
        node.until_pods("a=i:1").await;
        node.fetched(3).await;
        assert_eq!((node.sight().tally.changed, node.sight().trouble), (1, None));
        let asked = web.asked();
        assert!(
            asked[1..].iter().all(|r| r.header("if-none-match") == Some("\"1\"") && r.header("if-modified-since") == Some(date)),
            "{asked:?}"
        );
        assert!(
            asked.iter().all(|r| r.header("accept-encoding").is_none() && r.header("host") == Some(&web.addr.to_string())),
            "{asked:?}"
        );
        web.script(marked("W/\"2\"", pod("a", "i:2")));
        node.until_pods("a=i:2").await;
        node.until_kept("i:2").await;
        // Over a restart too, and what was seen stays seen as the same pod.
        let uid = node.wanted.pods.values().next().unwrap().uid.clone();
        web.asked();
        let mut node = node.again(|_| {});
        assert_eq!((node.pods(), &node.wanted.pods.values().next().unwrap().uid), ("a=i:2".into(), &uid), "before anything was asked");
        node.fetched(1).await;
        assert_eq!(web.asked()[0].header("if-none-match"), Some("W/\"2\""));
        assert_eq!((node.sight().tally.changed, node.sight().trouble.clone()), (0, None));
    });
}

#[test]
fn no_answer_but_a_good_one_changes_anything() {
    run(async || {
        let (mut node, web) = with_a().await;
        let two = format!("{}---\n{}", pod("a", "i:2"), pod("b", "i:2"));
        let large = format!("{}#{}\n", pod("b", "i"), "x".repeat(11 << 20));
        let chunk = |text: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n", text.len());
        let passing = Verdict::Accepted;
        let refused = Verdict::Rejected;
        let faults: Vec<(Vec<Step>, Verdict, &str)> = vec![
            (vec![], passing, "the answer is broken"),
            (code("500 Internal Server Error", ""), passing, "fetch it: answers 500 Internal Server Error"),
            (code("404 Not Found", ""), passing, "answers 404 Not Found"),
            (code("204 No Content", ""), passing, "answers 204 No Content"),
            (code("304 Not Modified", ""), refused, "though it was not told what we have"),
            (ok("", ""), refused, "the answer is empty"),
            (
                send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", two.len(), &two[..two.len() / 2])),
                passing,
                "the answer is cut off",
            ),
            (send(chunk(&two)), passing, "the answer is cut off"),
            (send(format!("HTTP/1.0 200 OK\r\n\r\n{two}")), refused, "neither a Content-Length nor chunks"),
            (ok("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08"), refused, "compressed (gzip)"),
            (ok("", "kind: Pod\n"), refused, "1:1 Required value: apiVersion"),
            (ok("", "# nothing\n"), refused, "no document"),
            (ok("", "<html>busy</html>"), refused, "expected a Pod"),
            (ok("", "apiVersion: v1\nkind: PodList\n"), refused, "a list without pods says so"),
            (ok("", format!("{}---\n{}", pod("a", "i:2"), pod("B_", "i:2"))), refused, "8:18 Invalid value"),
            (ok("", format!("{}---\n{}", pod("b", "i:2"), pod("b", "i:3"))), refused, "Duplicate value"),
            (ok("", &large), refused, "the answer is larger than 10240 KiB"),
            (send(chunk(&large)), refused, "the answer is larger than 10240 KiB"),
            (send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40)), refused, "the answer is larger"),
            (code("302 Found", "Location: http://elsewhere.test/m.yaml\r\n"), refused, "redirects to http://elsewhere.test/m.yaml; only"),
            (code("302 Found", "Location: /m.yaml\r\n"), refused, "more than 5 redirects"),
            (code("302 Found", ""), refused, "without saying where to"),
            (send("SSH-2.0-OpenSSH_9.2\r\n"), passing, "the answer is broken"),
            (send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20))), passing, "the answer is broken"),
        ];
        for (steps, verdict, says) in faults {
            web.answer(steps);
            node.until(says, |n| n.said().contains(says)).await;
            assert_eq!(node.pods(), "a=i:1", "{says}");
            let report = node.report();
            assert!(report.stale && report.verdict == verdict, "{says}: {report:?}");
            assert!(node.wanted.complete && node.sight().trouble.is_some(), "{says}");
            web.answer(ok("", pod("a", "i:1")));
            node.until("it is good again", |n| n.said().is_empty() && n.sight().trouble.is_none()).await;
            assert!(!node.report().stale && node.pods() == "a=i:1");
        }
        let tally = node.sight().tally;
        assert_eq!(tally.changed, 1, "{tally:?}");
    });
}

#[test]
fn whoever_is_slow_is_given_up_and_nobody_waits_for_him() {
    run(async || {
        let begun = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
        let hole = BlackHole::dig();
        let ways: Vec<(Option<Vec<Step>>, &str)> = vec![
            (None, "connect: "),
            (Some(vec![Step::Hang]), "no answer within 10 s"),
            (Some(vec![Step::Send(begun.into()), Step::Hang]), "the answer stalled: nothing came for 10 s"),
            (Some(vec![Step::Send(begun.into()), Step::Drip(Duration::from_secs(1))]), "the answer took longer than 30 s"),
            (Some(vec![Step::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), Step::Drip(Duration::from_secs(1))]), "no answer within 10 s"),
        ];
        let addr = hole.addr;
        let ways = ways.into_iter().map(|(steps, says)| async move {
            let (mut node, web) = match steps {
                Some(steps) => {
                    let (node, web) = with_a().await;
                    web.answer(steps);
                    (node, web)
                }
                None => {
                    let (node, web) = with_a().await;
                    let to = Address::parse(&format!("http://{addr}/m.yaml")).unwrap();
                    (node.again(|s| s.url.address = Some(to)), web)
                }
            };
            // Life goes on while it is waited for.
            let began = Instant::now();
            fs::write(node.dir.join("layer/l.yaml"), pod("l", "i")).unwrap();
            node.until_pods("a=i:1 l=i").await;
            assert!(began.elapsed() < Duration::from_secs(5) && node.sight().trouble.is_none(), "{says}: nothing was said yet");
            node.until(says, |n| n.said().contains(says)).await;
            assert_eq!(node.pods(), "a=i:1 l=i");
            drop(web);
        });
        futures_util::future::join_all(ways).await;
    });
}

#[test]
fn the_last_good_set_outlives_a_restart_and_a_change_of_url_but_no_damage() {
    run(async || {
        let (mut node, web) = with_a().await;
        // Nothing that is wrong is ever kept.
        for body in ["", "kind: Pod\n"] {
            web.answer(ok("", body));
            node.until("it is refused", |n| n.report().verdict == Verdict::Rejected).await;
            web.answer(ok("", pod("a", "i:1")));
            node.until("it is good again", |n| n.said().is_empty()).await;
        }
        web.answer(code("503 Service Unavailable", ""));
        let mut node = node.again(|_| {});
        assert_eq!(node.pods(), "a=i:1", "at once");
        node.until("the server is away", |n| n.said().contains("503")).await;
        assert_eq!((node.pods(), node.report().stale), ("a=i:1".into(), true));
        let elsewhere = Address::parse(&web.url("/other.yaml")).unwrap();
        let mut node = node.again(|s| s.url.address = Some(elsewhere));
        node.until("the other one is away", |n| n.said().contains("503")).await;
        assert_eq!(node.pods(), "a=i:1");
        let kept = node.dir.join("data/manifests-by-url");
        let bytes = fs::read(&kept).unwrap();
        fs::write(&kept, &bytes[..bytes.len() - 1]).unwrap();
        let mut node = node.again(|_| {});
        node.until("it is still away", |n| n.said().contains("503")).await;
        assert_eq!(node.pods(), "");
        // An empty set is kept like any other.
        web.answer(ok("", "apiVersion: v1\nkind: PodList\nitems: []\n"));
        node.until_kept("items: []").await;
        web.answer(code("503 Service Unavailable", ""));
        let mut node = node.again(|_| {});
        node.until("the server is away", |n| n.said().contains("503")).await;
        assert!(node.pods().is_empty() && node.report().errors.is_empty());
    });
}

#[test]
fn pods_that_run_stand_in_where_nothing_is_kept() {
    run(async || {
        let (node, web) = with_a().await;
        let running: Vec<_> = node.wanted.pods.values().cloned().collect();
        fs::remove_dir_all(node.dir.join("data")).unwrap();
        web.answer(code("503 Service Unavailable", ""));
        let mut node = node.again(|_| {});
        assert!(!node.wanted.complete, "nobody may be stopped for what is not known yet");
        node.manifests.adopt(&running);
        node.read();
        assert_eq!((node.pods(), node.wanted.complete), ("a=i:1".into(), true));
        web.answer(ok("", pod("b", "i")));
        node.until_pods("b=i").await;
    });
}

/// Answers `/m.yaml` and its signature.
fn signed(web: &Web, body: &'static str, signature: Option<&'static str>) {
    web.script(move |r| match (&*r.path, signature) {
        ("/m.yaml", _) => ok("", body),
        ("/m.yaml.minisig", Some(text)) => ok("", text),
        _ => code("404 Not Found", ""),
    });
}

#[test]
fn only_what_is_signed_and_no_older_set_is_taken_where_a_key_is_set() {
    run(async || {
        // Made by minisign 0.11: one.yaml prehashed, two.yaml in the legacy form and two seconds later.
        let one = (include_str!("signed/one.yaml"), include_str!("signed/one.yaml.minisig"));
        let two = (include_str!("signed/two.yaml"), include_str!("signed/two.yaml.minisig"));
        let web = Web::start();
        signed(&web, one.0, None);
        let key = |s: &mut Settings| s.url.public_key = Some(KEY.trim().into());
        let mut node = Node::new(&web.url("/m.yaml"), key);
        node.until("it is refused", |n| n.said().contains("signature: answers 404 Not Found")).await;
        assert_eq!(node.pods(), "");
        signed(&web, one.0, Some(one.1));
        node.until_pods("signed=1").await;
        for (body, signature, says) in [
            (two.0, Some(one.1), "signature: it is not of this body"),
            (two.0, Some(include_str!("signed/two.yaml.other.minisig")), "signature: it was made with another key"),
            (two.0, Some(include_str!("signed/two.yaml.timeless.minisig")), "signature: its trusted comment has no `timestamp:SECONDS`"),
            (two.0, Some("untrusted comment: x\n"), "signature: read it"),
            (two.0, Some(""), "signature: read it"),
            (two.0, None, "signature: answers 404"),
        ] {
            signed(&web, body, signature);
            node.until(says, |n| n.said().contains(says)).await;
            assert_eq!(node.pods(), "signed=1");
        }
        signed(&web, two.0, Some(two.1));
        node.until_pods("signed=2").await;
        node.until_kept(two.0).await;
        let older = "it was made at 2026-11-21T04:";
        signed(&web, one.0, Some(one.1));
        node.until(older, |n| n.said().contains(older)).await;
        assert_eq!(node.pods(), "signed=2");
        // Nor after a restart.
        let mut node = node.again(|_| {});
        assert_eq!(node.pods(), "signed=2");
        node.until(older, |n| n.said().contains(older)).await;
        assert_eq!((node.pods(), node.sight().tally.changed), ("signed=2".into(), 0));
        // What is kept is believed by its signature alone: not under another key, and not what was kept without one.
        let other = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".to_owned();
        let mut node = node.again(|s| s.url.public_key = Some(other));
        assert_eq!(node.pods(), "");
        node.until("the other key", |n| n.said().contains("another key")).await;
        let mut node = node.again(|s| s.url.public_key = None);
        node.until_pods("signed=1").await;
        node.until_kept(one.0).await;
        signed(&web, one.0, None);
        let node = node.again(key);
        assert_eq!(node.pods(), "");
    });
}

#[test]
fn tls_is_held_to_its_authority_and_we_say_who_we_are() {
    run(async || {
        let (ours, others) = (tls::Authority::new(), tls::Authority::new());
        let web = Web::on(TcpListener::bind("127.0.0.1:0").unwrap(), Some(ours.server("127.0.0.1")));
        web.script(|r| {
            let said: Vec<_> = r.headers.iter().filter(|(n, _)| n == "x-node").map(|(_, v)| v.as_str()).collect();
            let welcome = r.known && said == ["a", "b"] && r.header("authorization") == Some("Basic bWU6cEBzcw==");
            if welcome { ok("", pod("a", "i:1")) } else { code("403 Forbidden", "") }
        });
        let mut node = Node::new(&web.url("/m.yaml").replace("://", "://me:p%40ss@"), |s| {
            let dir = s.data_dir.parent().unwrap();
            let (cert, key, _) = ours.client("n1");
            for (name, text) in [("ca.pem", others.pem()), ("cert.pem", cert), ("key.pem", key)] {
                fs::write(dir.join(name), text).unwrap();
            }
            s.url.ca_file = Some(dir.join("ca.pem"));
            (s.url.cert_file, s.url.key_file) = (Some(dir.join("cert.pem")), Some(dir.join("key.pem")));
            s.url.headers = ["a", "b"].map(|v| ("x-node".parse().unwrap(), v.parse().unwrap())).to_vec();
        });
        node.until("its certificate is refused", |n| n.said().contains("invalid peer certificate")).await;
        assert!(!format!("{:?}{}", node.reports, node.said()).contains("p%40ss"));
        // What is put right on disk is used without a restart.
        fs::write(node.dir.join("ca.pem"), "nonsense").unwrap();
        node.until("no authority", |n| n.said().contains("there is no certificate of an authority")).await;
        fs::write(node.dir.join("ca.pem"), ours.pem()).unwrap();
        node.until_pods("a=i:1").await;
        node.until_kept("i:1").await;
        // Plain HTTP on the same port is no server of ours.
        let plain = Address::parse(&web.url("/m.yaml").replace("https", "http")).unwrap();
        let mut node = node.again(|s| s.url.address = Some(plain));
        node.until("it fails", |n| n.said().contains("fetch it: ")).await;
        assert_eq!(node.pods(), "a=i:1");
    });
}

#[test]
fn redirects_on_the_server_are_followed() {
    run(async || {
        let web = Web::start();
        let whole = web.url("/new/c.yaml");
        web.script(move |r| match &*r.path {
            "/m.yaml" => code("301 Moved Permanently", "Location: new/b.yaml?x=1\r\n"),
            "/new/b.yaml?x=1" => code("307 Temporary Redirect", &format!("Location: {whole}\r\n")),
            "/new/c.yaml" => ok("", pod("a", "i:1")),
            _ => code("404 Not Found", ""),
        });
        let mut node = Node::new(&web.url("/m.yaml"), |_| {});
        node.until_pods("a=i:1").await;
    });
}

#[test]
fn the_url_is_the_lowest_layer_unless_it_is_set_above_another() {
    run(async || {
        let (mut node, web) = with_a().await;
        // The file's name is no matter.
        fs::write(node.dir.join("layer/m.yaml"), pod("a", "i:file") + "---\n" + &pod("b", "i:file")).unwrap();
        node.until_pods("a=i:file b=i:file").await;
        assert!(node.said().contains("replaces the one of"), "{}", node.said());
        let mut node = node.again(|s| s.url.above = Some(s.layers[0].clone()));
        node.until_pods("a=i:1 b=i:file").await;
        assert_eq!(node.settings.shown_layers(), [node.dir.join("layer").display().to_string(), web.url("/m.yaml")]);
    });
}

#[test]
fn a_server_in_trouble_is_asked_little_and_left_alone_when_it_asks_for_that() {
    run(async || {
        let web = Web::start();
        web.answer(code("500 Internal Server Error", ""));
        let slow = |s: &mut Settings| s.url.period = Duration::from_secs(20);
        let mut node = Node::new(&web.url("/m.yaml"), slow);
        node.until("four failed", |n| n.sight().failures == 4).await;
        let pauses: Vec<_> = web.asked().windows(2).map(|w| (w[1].at - w[0].at).as_secs_f64()).collect();
        // One second, doubled; a fifth less at most. More only on a busy machine.
        assert!(pauses.iter().zip([0.8, 1.6, 3.2]).all(|(pause, least)| *pause > least - 0.01), "{pauses:?}");
        web.answer(code("503 Service Unavailable", "Retry-After: 3000\r\n"));
        node.until("it is left alone", |n| n.sight().due > clock::now().mono + Duration::from_secs(500)).await;
        // But an operator who asks is heard.
        web.answer(ok("", pod("a", "i:1")));
        node.manifests.rescan();
        node.until_pods("a=i:1").await;
        node.until("it answers again", |n| n.sight().failures == 0).await;
    });
}
