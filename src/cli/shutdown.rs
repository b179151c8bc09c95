//! `plinth shutdown`: asks for the ordered stop and waits for its end.

use std::io::BufRead;
use std::time::{Duration, Instant};

use super::client::Client;
use super::text::duration;
use super::{Fail, note, print};
use crate::socket::wire::Status;

/// What a shutdown may take beyond its grace: KILLs, deletions, a slow disk.
const SLACK: Duration = Duration::from_secs(30);
/// The longest the server lets a grace be, for when it is the settings'.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("shutdown", args, |args| {
        let grace = match args.value("grace") {
            Some(text) => Some(duration(text).ok_or_else(|| Fail::usage(format!("--grace {text:?} is no duration: write 30s or 2m")))?),
            None => None,
        };
        let client = Client::new(args);
        // Opened first: once the last pod is gone the server is, too.
        let progress = client.get("/v1/status?follow=1")?;
        let query = grace.map_or_else(String::new, |g| format!("?graceSeconds={}", g.as_secs_f64()));
        let answer = client.ask("POST", &format!("/v1/shutdown{query}"))?;
        if !(200..300).contains(&answer.code) {
            return Err(Fail::failed(answer.text()));
        }
        if args.has("no-wait") {
            return Ok(0);
        }
        let until = Instant::now() + grace.unwrap_or(LONGEST) + SLACK;
        let mut lines = progress.lines();
        let mut left = usize::MAX;
        let mut obstacle = String::new();
        loop {
            lines.get_ref().set_patience(Some(until.saturating_duration_since(Instant::now())));
            let mut line = String::new();
            // The stream ends with the server, by a clean end or a reset.
            if !lines.read_line(&mut line).is_ok_and(|n| n > 0) {
                break;
            }
            let Ok(status) = serde_json::from_str::<Status>(&line) else { continue };
            obstacle = status.containerd.message.map_or_else(String::new, |m| format!(" (containerd does not answer: {m})"));
            if status.pods.len() < left {
                left = status.pods.len();
                note(&format!("{left} pods left"));
            }
        }
        match client.ask("GET", "/healthz") {
            Ok(_) if Instant::now() >= until => {
                Err(Fail::failed(format!("the supervisor still runs after its grace{obstacle}: `plinth status` shows what is left")))
            }
            Ok(_) => Err(Fail::failed("the connection was lost but the supervisor still runs: `plinth status` shows what is left")),
            Err(_) if !obstacle.is_empty() => Err(Fail::failed(format!(
                "plinth has ended, but could not stop every pod{obstacle}; what runs is adopted by its next start"
            ))),
            Err(_) => print("all pods are stopped, and plinth has ended\n").map(|()| 0),
        }
    })
}
