//! `plinth status --wait`: until all is ready, the socket itself included, or time is up.

use std::io::BufRead;
use std::time::{Duration, Instant};

use super::find;
use crate::cli::client::Client;
use crate::cli::text::{age, tame};
use crate::cli::{Fail, NOT_THERE, note};
use crate::socket::wire::Status;

/// While the socket is not there yet: a try costs one failed connect.
const RETRY: Duration = Duration::from_millis(100);

/// The first status with everything (or the pod) ready, or the last one before time is up.
pub fn wait(client: &Client, pod: Option<&str>, patience: Duration) -> Result<Status, Fail> {
    let until = Instant::now() + patience;
    let mut last: Option<Status> = None;
    loop {
        let failure = match follow_until(client, pod, until, &mut last) {
            Ok(true) => None,
            Ok(false) => Some(Fail::not_there(format!("`{}` closed the connection: has `plinth run` ended?", client.socket().display()))),
            Err(fail) => Some(fail),
        };
        match (failure, last.take()) {
            (None, Some(status)) => return Ok(status),
            (Some(fail), None) if fail.code != NOT_THERE || Instant::now() + RETRY >= until => return Err(fail),
            (_, Some(status)) if Instant::now() + RETRY >= until => {
                explain(&status, pod, patience);
                return Ok(status);
            }
            // Not there yet, or gone: it may come (back) within the time.
            _ => pause(RETRY),
        }
    }
}

/// True once ready; false when the server ended the stream or time was up.
fn follow_until(client: &Client, pod: Option<&str>, until: Instant, last: &mut Option<Status>) -> Result<bool, Fail> {
    let answer = client.get("/v1/status?follow=1")?;
    let mut lines = answer.lines();
    let mut line = String::new();
    loop {
        lines.get_ref().set_patience(Some(until.saturating_duration_since(Instant::now())));
        line.clear();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return Ok(false);
        }
        let status: Status = serde_json::from_str(&line).map_err(|e| Fail::failed(format!("understand the status: {e}")))?;
        let ready = match pod {
            Some(pod) => find(&status, pod).is_ok_and(|row| row.ready && row.wanted),
            None => status.ready,
        };
        *last = Some(status);
        if ready {
            return Ok(true);
        }
    }
}

fn explain(status: &Status, pod: Option<&str>, patience: Duration) {
    let who: Vec<String> = status
        .pods
        .iter()
        .filter(|p| p.wanted && !p.ready && pod.is_none_or(|asked| find(status, asked).is_ok_and(|f| f.uid == p.uid)))
        .map(|p| format!("{}/{} ({})", p.namespace, p.name, tame(&p.status)))
        .collect();
    let what = match who.as_slice() {
        [] if !status.containerd.up => "containerd does not answer".to_owned(),
        [] if !status.layers_read => "the manifest layers were not all read".to_owned(),
        [] if status.shutting_down => "all pods are being stopped".to_owned(),
        [] => format!("{} is not there", pod.unwrap_or("a pod")),
        who => who.join(", "),
    };
    note(&format!("not ready after {}: {what}; `plinth why POD` says more", age(patience)));
}

fn pause(d: Duration) {
    let span = rustix::time::Timespec { tv_sec: 0, tv_nsec: d.subsec_nanos().into() };
    let _ = rustix::thread::nanosleep(&span);
}
