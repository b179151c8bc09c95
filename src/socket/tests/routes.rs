//! Every address: code, shape and words.

use hyper::Request;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::super::logs::Output;
use super::super::remote::Peer;
use super::super::routes::answer;
use super::*;

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.code, 200, "{}", reply.body);
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    serde_json::from_str(&reply.body).unwrap()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn health_and_readiness_say_what_is_missing() {
    serving(Bounds::default(), |socket, fake| async move {
        assert_eq!(get(&socket, "/healthz").await.body, "ok");
        let unready = get(&socket, "/readyz?verbose").await;
        assert_eq!(unready.code, 503);
        assert!(
            unready
                .body
                .starts_with("[+]containerd ok\n[+]layers ok\n[+]shutdown ok\n[-]pod/default/crash-n1 failed: CrashLoopBackOff 0/1: ")
        );
        assert!(unready.body.contains("[+]pod/default/web-n1 ok\n") && unready.body.ends_with("readyz check failed\n"));
        fake.world.borrow_mut().wanted.pods.retain(|key, _| &*key.name == "web-n1");
        let ready = get(&socket, "/readyz").await;
        assert_eq!((ready.code, ready.body.as_str()), (200, "ok"));
        fake.degraded.borrow_mut().push("nothing is kept beyond this boot".into());
        let degraded = get(&socket, "/readyz?verbose").await;
        assert_eq!(degraded.code, 200, "its pods run");
        assert!(
            degraded.body.ends_with("[!]machine degraded: nothing is kept beyond this boot\nreadyz check passed\n"),
            "{}",
            degraded.body
        );
        let status = json_of(&get(&socket, "/v1/status").await);
        assert_eq!(text(&status, "/node/degraded/0"), "nothing is kept beyond this boot");
        assert!(get(&socket, "/metrics").await.body.contains("\nplinth_machine_degraded 1\n"));
        fake.world.borrow_mut().seen.link = Link::Down { why: "connection refused".into(), since: Moment(90_000) };
        assert!(get(&socket, "/readyz").await.body.contains("[-]containerd failed: connection refused\n"));
        assert_eq!(get(&socket, "/healthz").await.body, "ok");
    });
}

#[test]
fn pods_are_listed_as_the_kubelet_lists_them() {
    serving(Bounds::default(), |socket, fake| async move {
        let list = json_of(&get(&socket, "/pods").await);
        assert_eq!((text(&list, "/kind"), text(&list, "/apiVersion")), ("PodList", "v1"));
        assert_eq!(list["metadata"], json!({}));
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        let web = &list["items"][1];
        assert!(web.get("kind").is_none() && web.get("apiVersion").is_none());
        assert_eq!(
            (text(web, "/metadata/name"), text(web, "/status/phase"), text(web, "/status/podIP")),
            ("web-n1", "Running", "10.0.0.2")
        );
        fake.world.borrow_mut().wanted.pods.clear();
        let empty = get(&socket, "/pods").await;
        assert_eq!(empty.body, r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":null}"#);
    });
}

#[test]
fn status_has_wanted_pods_leaving_pods_and_troubled_files() {
    serving(Bounds::default(), |socket, _| async move {
        let status = json_of(&get(&socket, "/v1/status").await);
        assert_eq!(
            (text(&status, "/apiVersion"), text(&status, "/kind"), text(&status, "/node/name")),
            ("plinth.dev/v1alpha1", "Status", "n1")
        );
        assert_eq!((&status["ready"], &status["layersRead"], &status["containerd"]["up"]), (&json!(false), &json!(true), &json!(true)));
        let pods: Vec<_> = (0..3).map(|i| (text(&status["pods"][i], "/name"), text(&status["pods"][i], "/status"))).collect();
        assert_eq!(pods, [("crash-n1", "CrashLoopBackOff"), ("web-n1", "Running"), ("old-n1", "Terminating")]);
        assert_eq!(text(&status, "/pods/0/lastRestart"), "2026-01-01T00:01:00Z");
        assert!(text(&status, "/pods/2/startTime").starts_with("2026-01-01T00:00:"), "one that leaves has an age, too");
        assert_eq!(status["pods"][0]["restarts"], json!(2));
        let files = status["manifests"].as_array().unwrap();
        assert_eq!((files.len(), text(&files[0], "/path"), text(&files[0], "/verdict")), (1, "/etc/m/bad.yaml", "rejected"));
    });
}

#[test]
fn manifests_show_every_file_and_what_it_overrides() {
    serving(Bounds::default(), |socket, _| async move {
        let list = json_of(&get(&socket, "/v1/manifests").await);
        assert_eq!((text(&list, "/kind"), list["items"].as_array().unwrap().len()), ("ManifestList", 4));
        assert_eq!((text(&list, "/items/0/verdict"), text(&list, "/items/0/by")), ("overridden", "/etc/m/web.yaml"));
        assert_eq!(list["items"][1]["over"], json!(["/usr/m/web.yaml"]));
        assert_eq!(list["items"][3]["errors"], json!([{"message": "must be a number", "field": "spec.x", "line": 7, "column": 9}]));
    });
}

#[test]
fn why_names_file_wait_and_retry() {
    serving(Bounds::default(), |socket, _| async move {
        let why = json_of(&get(&socket, "/v1/why/default/crash-n1").await);
        assert_eq!((text(&why, "/kind"), text(&why, "/manifest/path"), &why["line"]), ("Why", "/etc/m/crash.yaml", &json!(3)));
        let waits = why["waitsFor"].as_array().unwrap();
        let main = waits.iter().find(|w| w["on"] == "container main").unwrap();
        assert_eq!((text(main, "/reason"), &main["failures"], &main["retryInSeconds"]), ("CrashLoopBackOff", &json!(3), &json!(10.0)));
        assert_eq!((text(&why, "/containers/0/state"), &why["containers"][0]["exitCode"]), ("dead", &json!(1)));
        assert_eq!((text(&why, "/sandbox/state"), text(&why, "/sandbox/network")), ("ready", "pod"));
        assert_eq!(json_of(&get(&socket, "/v1/why/default/old-n1").await)["wanted"], json!(false));
        assert_eq!(get(&socket, "/v1/why/default/nobody").await.code, 404);
    });
}

#[test]
fn events_are_listed_filtered_and_followed() {
    serving(Bounds::default(), |socket, fake| async move {
        let list = json_of(&get(&socket, "/v1/events").await);
        assert_eq!((text(&list, "/kind"), list["items"].as_array().unwrap().len()), ("EventList", 2));
        let one = json_of(&get(&socket, "/v1/events?pod=default%2Fweb-n1").await);
        assert_eq!((one["items"].as_array().unwrap().len(), text(&one, "/items/0/reason")), (1, "Started"));
        assert_eq!(get(&socket, "/v1/events?pod=web").await.code, 400);
        let mut lines = follow(&socket, "/v1/events?follow=1").await;
        assert!(lines.until("\"BackOff\"").await.contains("\"kind\":\"Event\""));
        fake.ring.borrow_mut().push(note("web-n1", "Killing"), second(30));
        fake.changed();
        lines.until("\"Killing\"").await;
    });
}

#[test]
fn followed_status_speaks_only_of_changes() {
    serving(Bounds::default(), |socket, fake| async move {
        let mut lines = follow(&socket, "/v1/status?follow=1").await;
        lines.until("old-n1").await;
        // Nothing in it changes: the next line must be the one after the pod has gone.
        fake.changed();
        fake.world.borrow_mut().seen.pods.remove(&Uid("old-uid".into()));
        fake.changed();
        assert!(!lines.until("\"kind\":\"Status\"").await.contains("old-n1"));
    });
}

struct Lines(BufReader<UnixStream>);

impl Lines {
    /// The next line with that in it.
    async fn until(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the stream ended before {part}");
            if line.contains(part) {
                return line;
            }
        }
    }
}

async fn follow(socket: &Path, path: &str) -> Lines {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    Lines(BufReader::new(stream))
}

#[test]
fn logs_are_refused_in_the_kubelets_words() {
    serving(Bounds::default(), |socket, fake| async move {
        let unready = wanted("unready");
        fake.world.borrow_mut().wanted.pods.insert(unready.key.clone(), unready);
        for (path, code, body) in [
            ("nobody/main", 404, "pod \"nobody\" does not exist\n"),
            ("web-n1/other", 404, "container \"other\" not found in pod \"web-n1\"\n"),
            ("web-n1/main?tailLines=-1", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?limitBytes=0", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?sinceSeconds=0", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?stream=both", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?stream=Stdout&tailLines=1", 422, "{\"message\": \"Invalid request.\"}"),
            ("web-n1/main?tailLines=x", 400, "{\"message\": \"Unable to decode query.\"}"),
            ("web-n1/main?sinceTime=x", 400, "{\"message\": \"Unable to decode query.\"}"),
            ("web-n1/main?previous=true", 400, "previous terminated container \"main\" in pod \"web-n1\" not found"),
            ("unready-n1/main", 400, "container \"main\" in pod \"unready-n1\" is waiting to start: ContainerCreating"),
        ] {
            let reply = get(&socket, &format!("/containerLogs/default/{path}")).await;
            assert_eq!((reply.code, reply.body.as_str()), (code, body), "{path}");
        }
        assert!(fake.asked.borrow().is_empty());
    });
}

#[test]
fn logs_are_asked_for_as_the_query_says() {
    serving(Bounds::default(), |socket, fake| async move {
        let query = "tailLines=5&sinceSeconds=30&timestamps=true&limitBytes=9&previous=false";
        let reply = get(&socket, &format!("/containerLogs/default/web-n1/main?{query}")).await;
        assert_eq!(reply.code, 200);
        assert!(reply.head.contains("transfer-encoding: chunked") && reply.head.contains("content-type: text/plain"), "{}", reply.head);
        assert_eq!(reply.body.matches("0123456789abcdef\n").count() + reply.body.matches("abcde\n").count(), 2);
        let request = fake.asked.borrow()[0].clone();
        let o = &request.options;
        assert_eq!((&*request.id, request.attempt, &*request.container), ("web-id", 2, "main"));
        assert_eq!((o.tail_lines, o.since, o.timestamps, o.limit_bytes), (Some(5), Some(second(70)), true, Some(9)));
        assert_eq!((o.previous, o.follow, o.output), (false, false, Output::All));
        // The pod between two starts shows the run that ended.
        assert_eq!(get(&socket, "/containerLogs/default/crash-n1/main").await.code, 200);
        assert_eq!(&*fake.asked.borrow()[1].id, "crash-id");
    });
}

#[test]
fn only_root_may_shut_down() {
    serving(Bounds::default(), |socket, fake| async move {
        let backend: Rc<dyn Backend> = fake.clone();
        let reader = Peer::new(false);
        let mut request = Request::post("/v1/shutdown").body(()).unwrap();
        assert_eq!(answer(&mut request, &reader, &backend).status(), 403);
        assert_eq!(fake.stopped.get(), None);
        assert_eq!(ask(&socket, "POST", "/v1/shutdown?graceSeconds=x").await.code, 400);
        assert_eq!(ask(&socket, "POST", "/v1/shutdown?graceSeconds=1e9").await.code, 400);
        assert_eq!(ask(&socket, "GET", "/v1/shutdown").await.code, 405);
        assert_eq!(fake.stopped.get(), None);
        let reply = ask(&socket, "POST", "/v1/shutdown?graceSeconds=1.5").await;
        assert_eq!((reply.code, fake.stopped.get()), (202, Some(Some(Duration::from_millis(1500)))));
        // Every other address is for reading.
        for path in ["/pods", "/v1/status", "/metrics", "/v1/why/default/web-n1"] {
            let mut request = Request::get(path).body(()).unwrap();
            assert_eq!(answer(&mut request, &reader, &backend).status(), 200, "{path}");
        }
    });
}

#[test]
fn wrong_methods_and_addresses_are_named() {
    serving(Bounds::default(), |socket, _| async move {
        let wrong = ask(&socket, "DELETE", "/pods").await;
        assert_eq!(wrong.code, 405);
        assert!(wrong.head.contains("allow: get, head"));
        assert_eq!(get(&socket, "/nothing").await.code, 404);
        assert_eq!(get(&socket, "/v1/why/default/%zz").await.code, 400);
        assert_eq!(get(&socket, "/v1/events?pod=%f").await.code, 400);
        let head = ask(&socket, "HEAD", "/pods").await;
        assert_eq!((head.code, head.body.as_str()), (200, ""));
    });
}
