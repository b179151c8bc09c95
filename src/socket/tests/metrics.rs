//! What Prometheus and the metrics server read: the text parses as they parse it, and the kubelet's names are there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

/// Samples by name and labels; panics at what Prometheus would refuse.
fn parsed(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut kinds, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name == family && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            continue;
        }
        let end = line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1)).unwrap();
        let (series, rest) = (&line[..end], line[end..].strip_prefix(' ').unwrap());
        let (value, time) = rest.split_once(' ').unwrap_or((rest, "0"));
        let (value, _): (f64, i64) = (value.parse().unwrap(), time.parse().unwrap());
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
        let suffixes: &[&str] = if kinds[&family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.iter().any(|s| name.strip_suffix(s) == Some(&family)), "{line} stands below {family}");
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(!label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            let mut end = 0;
            while after.as_bytes()[end] != b'"' {
                end += if after.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
    }
    samples
}

async fn page(socket: &Path, path: &str) -> BTreeMap<String, f64> {
    let reply = get(socket, path).await;
    assert_eq!(reply.code, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
    parsed(&unchunked(&reply.body))
}

/// A body in chunks, put together.
fn unchunked(body: &str) -> String {
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { return body.to_owned() };
        whole.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
    if whole.is_empty() { body.to_owned() } else { whole }
}

#[test]
fn every_page_parses_and_has_the_kubelets_names() {
    serving(Bounds::default(), |socket, _| async move {
        let own = page(&socket, "/metrics").await;
        for (series, value) in [
            ("kubelet_running_pods", 2.0),
            ("kubelet_running_containers{container_state=\"running\"}", 2.0),
            ("kubelet_running_containers{container_state=\"exited\"}", 1.0),
            ("kubelet_node_name{node=\"n1\"}", 1.0),
            ("plinth_container_restarts_total{namespace=\"default\",pod=\"crash-n1\"}", 2.0),
            ("plinth_refused_manifests", 1.0),
            ("process_threads", own["process_threads"]),
            ("kubelet_started_pods_errors_total", 1.0),
            ("kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}", 1.0),
            ("kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"}", 1.0),
            ("kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.1953125\"}", 0.0),
            ("kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.48828125\"}", 1.0),
            ("kubelet_pod_start_duration_seconds_count", 0.0),
            ("kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"\"}", 1.0),
            ("kubelet_run_podsandbox_errors_total{runtime_handler=\"\"}", 1.0),
            ("kubelet_containers_per_pod_count_count", 0.0),
            ("kubelet_admission_rejections_total{reason=\"NodePorts\"}", 1.0),
            ("kubelet_lifecycle_handler_http_fallbacks_total", 1.0),
            ("kubelet_container_log_filesystem_used_bytes{container=\"main\",namespace=\"default\",pod=\"web-n1\",uid=\"web-uid\"}", 77.0),
            ("plinth_actions_total{action=\"create_sandbox\",result=\"failed\"}", 1.0),
        ] {
            assert_eq!(own.get(series), Some(&value), "{series} in {own:#?}");
        }
        let probes = page(&socket, "/metrics/probes").await;
        let of = |result: &str| {
            let labels = "container=\"main\",namespace=\"default\",pod=\"web-n1\",pod_uid=\"web-uid\",probe_type=\"Liveness\"";
            probes.get(&format!("prober_probe_total{{{labels},result=\"{result}\"}}")).copied()
        };
        assert_eq!((of("successful"), of("failed"), of("unknown")), (Some(2.0), Some(1.0), None));
        let took = "prober_probe_duration_seconds_count{container=\"main\",namespace=\"default\",pod=\"web-n1\",probe_type=\"Liveness\"}";
        assert_eq!(probes.get(took), Some(&2.0), "only what succeeded is timed");
    });
}

#[test]
fn usage_is_shown_as_the_metrics_server_reads_it() {
    serving(Bounds::default(), |socket, _| async move {
        let resource = page(&socket, "/metrics/resource").await;
        for (series, value) in [
            ("container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"web-n1\"}", 1.5),
            ("container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"web-n1\"}", 2000.0),
            ("pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"web-n1\"}", 1.5),
            ("pod_memory_working_set_bytes{namespace=\"default\",pod=\"old-n1\"}", 2000.0),
            ("node_memory_working_set_bytes", 2000.0),
            ("node_cpu_usage_seconds_total", 1.5),
            ("container_start_time_seconds{container=\"main\",namespace=\"default\",pod=\"web-n1\"}", 1_767_225_610.0),
            ("resource_scrape_error", 0.0),
            ("scrape_error", 0.0),
            ("container_swap_usage_bytes{container=\"main\",namespace=\"default\",pod=\"web-n1\"}", 100.0),
            ("container_swap_limit_bytes{container=\"main\",namespace=\"default\",pod=\"web-n1\"}", 500.0),
            ("pod_swap_usage_bytes{namespace=\"default\",pod=\"web-n1\"}", 100.0),
            ("node_swap_usage_bytes", 100.0),
        ] {
            assert_eq!(resource.get(series), Some(&value), "{series} in {resource:#?}");
        }
        assert!(!resource.keys().any(|k| k.contains("crash")), "what does not run uses nothing");

        let whole: Value = serde_json::from_str(&unchunked(&get(&socket, "/stats/summary").await.body)).unwrap();
        assert_eq!(whole["node"]["nodeName"], "n1");
        assert_eq!(whole["node"]["memory"]["availableBytes"], 8000);
        let pod = whole["pods"].as_array().unwrap().iter().find(|p| p["podRef"]["name"] == "web-n1").unwrap();
        assert_eq!(pod["podRef"], json!({ "name": "web-n1", "namespace": "default", "uid": "web-uid" }));
        assert_eq!(pod["containers"][0]["memory"]["workingSetBytes"], 2000);
        assert_eq!(pod["containers"][0]["logs"]["usedBytes"], 77);
        assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 1_500_000_000);
        assert_eq!(pod["process_stats"]["process_count"], 2);
        assert_eq!(pod["swap"]["swapUsageBytes"], 100);
        assert_eq!(pod["swap"]["swapAvailableBytes"], 400);
        assert_eq!(pod["containers"][0]["rootfs"]["usedBytes"], 4096);
        assert_eq!(pod["containers"][0]["rootfs"]["inodesUsed"], 3);
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 4096 + 77 + 65_536 + 8192, "the layer, its logs, the volumes on the disk");
        assert_eq!(pod["ephemeral-storage"]["inodesUsed"], 3 + 2 + 5 + 2);
        let names: Vec<_> = pod["volume"].as_array().unwrap().iter().map(|v| (&v["name"], &v["usedBytes"])).collect();
        assert_eq!(names, [(&json!("disk"), &json!(65_536)), (&json!("memory"), &json!(512)), (&json!("late"), &json!(8192))]);
        assert_eq!(pod["volume"][0]["time"], super::second(90).to_string());
        assert!(pod["volume"][0]["capacityBytes"].as_u64() > Some(0));
        assert!(pod["containers"][0]["rootfs"]["capacityBytes"].as_u64() > Some(0));
        assert!(whole["node"]["runtime"]["imageFs"]["capacityBytes"].as_u64() > Some(0));
        assert!(whole["node"]["rlimit"]["curproc"].as_u64() > Some(0));
        let eth0 = json!({ "name": "eth0", "rxBytes": 10, "rxErrors": 1, "txBytes": 20, "txErrors": 2 });
        assert_eq!(pod["network"]["interfaces"], json!([eth0]));
        assert_eq!((&pod["network"]["name"], &pod["network"]["txBytes"]), (&json!("eth0"), &json!(20)));
        let node = &whole["node"]["network"];
        assert_eq!(
            (&node["name"], node["interfaces"].as_array().unwrap().len(), &node["interfaces"][0]["name"]),
            (&json!(""), 1, &json!("ens3"))
        );
        let old = whole["pods"].as_array().unwrap().iter().find(|p| p["podRef"]["name"] == "old-n1").unwrap();
        assert!(old["network"].is_null(), "a pod on the host's network has none of its own: {old}");
        assert_eq!((old["volume"].as_array().unwrap().len(), &old["ephemeral-storage"]["usedBytes"]), (2, &Value::Null), "{old}");
        let less = get(&socket, "/stats/summary?only_cpu_and_memory=true").await;
        let less: Value = serde_json::from_str(&unchunked(&less.body)).unwrap();
        assert!(less["node"]["network"].is_null() && less["pods"][0]["network"].is_null());
        assert!(less["node"]["fs"].is_null() && less["pods"][0]["containers"][0]["logs"].is_null());
        assert!(less["pods"][0]["volume"].is_null());
        assert!(!less["pods"][0]["containers"][0]["memory"].is_null());
    });
}

#[test]
fn processors_are_shown_by_the_second_also_to_the_first_who_asks() {
    serving(Bounds::default(), |socket, fake| async move {
        fake.busy.set(true);
        for path in ["/stats/summary", "/stats/summary?only_cpu_and_memory=true"] {
            let whole: Value = serde_json::from_str(&unchunked(&get(&socket, path).await.body)).unwrap();
            let pod = &whole["pods"][0];
            for of in [&whole["node"], pod, &pod["containers"][0]] {
                let rate = of["cpu"]["usageNanoCores"].as_u64();
                assert!(rate.is_some_and(|r| (500_000_000..2_000_000_000).contains(&r)), "{rate:?} in {of}");
            }
        }
    });
}

#[test]
fn a_sample_of_use_has_the_time_it_was_taken() {
    serving(Bounds::default(), |socket, _| async move {
        let before = crate::clock::now().wall.0 / 1_000_000;
        let text = unchunked(&get(&socket, "/metrics/resource").await.body);
        let after = crate::clock::now().wall.0 / 1_000_000;
        let timed = text.lines().filter(|l| !l.starts_with('#') && !l.contains("start_time") && !l.contains("scrape_error"));
        for line in timed {
            let time: i64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!((before..=after).contains(&time), "{line}");
        }
    });
}
