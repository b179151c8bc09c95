//! `/containerLogs/{ns}/{pod}/{container}`: which file, which part of it, and the kubelet's refusals word for word
//! (`server.go` getContainerLogs, `kubelet_pods.go` validateContainerLogStatus). The reading itself is `Backend::logs`.

use std::rc::Rc;

use hyper::StatusCode;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::View;
use super::query::Query;
use crate::clock::Wall;
use crate::pod::{PodKey, Uid};

/// Which output is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum Output {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Which part of a log, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the attempt has ended.
    pub follow: bool,
    /// Of the attempt before.
    pub previous: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this.
    pub since: Option<Wall>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Which output.
    pub output: Output,
}

/// One attempt's log, found and allowed.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// The pod.
    pub key: PodKey,
    /// Its UID.
    pub uid: Uid,
    /// The container.
    pub container: Rc<str>,
    /// containerd's id of the attempt.
    pub id: Rc<str>,
    /// The attempt.
    pub attempt: u32,
    /// Which part.
    pub options: LogOptions,
}

/// A refusal: the kubelet's status code and text.
pub type Refusal = (StatusCode, String);

/// Reads the options as the kubelet's `PodLogOptions` conversion and validation do: 400 for what is no number, 422 for what may not be.
pub fn options(query: &Query, now: Wall) -> Result<LogOptions, Refusal> {
    let undecodable = || (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#.to_owned());
    let invalid = || (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#.to_owned());
    let number = |name: &str, least: i64| match query.get(name).map(str::parse::<i64>) {
        None => Ok(None),
        Some(Err(_)) => Err(undecodable()),
        Some(Ok(n)) if n < least => Err(invalid()),
        Some(Ok(n)) => Ok(Some(n)),
    };
    // `tail` is the kubelet's older name; its value `all` lifts a tailLines.
    let tail = match query.get("tail") {
        Some("all") => None,
        Some(_) => number("tail", 0)?,
        None => number("tailLines", 0)?,
    };
    let since_seconds = number("sinceSeconds", 1)?;
    let since_time = query.get("sinceTime").map(|t| Wall::parse(t).ok_or_else(undecodable)).transpose()?;
    let since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => return Err(invalid()),
        (Some(s), None) => Some(Wall(now.0.saturating_sub(s.saturating_mul(1_000_000_000)))),
        (None, time) => time,
    };
    let output = match query.get("stream") {
        None | Some("" | "All") => Output::All,
        Some("Stdout") => Output::Stdout,
        Some("Stderr") => Output::Stderr,
        Some(_) => return Err(invalid()),
    };
    // The kubelet forbids a tail of one output (its readers count lines of both).
    if output != Output::All && tail.is_some() {
        return Err(invalid());
    }
    Ok(LogOptions {
        follow: query.is_set("follow"),
        previous: query.is_set("previous"),
        tail_lines: tail.and_then(|n| u64::try_from(n).ok()),
        since,
        timestamps: query.is_set("timestamps"),
        limit_bytes: number("limitBytes", 1)?.and_then(|n| u64::try_from(n).ok()),
        output,
    })
}

/// Finds the attempt whose log is asked for.
pub fn find(view: &View<'_>, ns: &str, pod: &str, container: &str, options: LogOptions) -> Result<LogRequest, Refusal> {
    let not_found = |text: String| (StatusCode::NOT_FOUND, text);
    let world = view.world;
    let wanted = world.wanted.pods.values().find(|p| &*p.key.namespace == ns && &*p.key.name == pod);
    let wanted = wanted.ok_or_else(|| not_found(format!("pod {pod:?} does not exist\n")))?;
    let unknown = || not_found(format!("container {container:?} not found in pod {pod:?}\n"));
    let name = wanted.containers.iter().map(|c| &c.name).find(|n| &***n == container).ok_or_else(unknown)?;
    let status = (view.status)(&wanted.uid);
    let id = container_id(&status, pod, container, options.previous).map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let id: Rc<str> = id.rsplit("://").next().unwrap_or_default().into();
    let gone = || (StatusCode::BAD_REQUEST, format!("container {container:?} in pod {pod:?} is not available"));
    let seen = world.seen.pods.get(&wanted.uid).and_then(|p| p.containers.get(&id)).ok_or_else(gone)?;
    Ok(LogRequest { key: wanted.key.clone(), uid: wanted.uid.clone(), container: name.clone(), id, attempt: seen.attempt, options })
}

/// The kubelet's choice of instance, in its order and its words.
fn container_id(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<String, String> {
    let all = || status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let on = |text: &str| format!("container {container:?} in pod {pod:?} {text}");
    let found = all().find(|c| c.name == container).ok_or_else(|| on("is not available"))?;
    let last = last_id(found);
    if previous {
        return last.ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"));
    }
    let state = found.state.as_ref();
    if state.is_some_and(|s| s.running.is_some()) {
        return found.container_id.clone().ok_or_else(|| on("is not available"));
    }
    if let Some(ended) = state.and_then(|s| s.terminated.as_ref()) {
        let id = ended.container_id.clone().filter(|id| !id.is_empty());
        return id.or(last).ok_or_else(|| on("is terminated"));
    }
    if let Some(id) = last {
        return Ok(id);
    }
    match state.and_then(|s| s.waiting.as_ref()).map(|w| w.reason.as_deref().unwrap_or_default()) {
        Some("ErrImagePull") => Err(on("is waiting to start: image can't be pulled")),
        Some("ImagePullBackOff") => Err(on("is waiting to start: trying and failing to pull image")),
        Some(reason) if !reason.is_empty() => Err(on(&format!("is waiting to start: {reason}"))),
        _ => Err(on("is waiting to start - no logs yet")),
    }
}

fn last_id(status: &ContainerStatus) -> Option<String> {
    status.last_state.as_ref()?.terminated.as_ref()?.container_id.clone().filter(|id| !id.is_empty())
}
