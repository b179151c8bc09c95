//! Reads a case: one fact a line, words and `key=value`, indented lines belong to the line above. Unknown words are errors.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use plinth::clock::{Moment, Now, Wall};
use plinth::plan::action::{Action, Answer, Check, Effect, Event, Outcome, Why};
use plinth::plan::apparmor::Apparmor;
use plinth::plan::apply;
use plinth::plan::world::{Exit, Link, Node, Retry, Sandbox, SeenContainer, SeenImage, SeenPod, State, Stop, Wanted, World};
use plinth::pod::{
    Care, Hook, ImageRef, Kind, Origin, PodKey, Probe, ProbeRule, PullPolicy, RestartPolicy, Uid, VolumeImage, WantedContainer, WantedPod,
};
use plinth::quantity::Amount;
use serde_json::json;

/// The sandbox of every seen pod was completed then; a container that is `old` belongs to another.
const SANDBOX: Wall = Wall(1_000_000_000);

/// One line: its words, and its `key=value`s, each to be used up.
struct Line<'a> {
    words: Vec<&'a str>,
    values: BTreeMap<&'a str, &'a str>,
    indented: bool,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Line<'a> {
        let (mut words, mut values) = (Vec::new(), BTreeMap::new());
        for word in text.split('#').next().unwrap_or("").split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => drop(values.insert(key, value)),
                None => words.push(word),
            }
        }
        Line { words, values, indented: text.starts_with(' ') }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        if self.words.is_empty() { Err("a word is missing".into()) } else { Ok(self.words.remove(0)) }
    }

    fn flag(&mut self, flag: &str) -> bool {
        let at = self.words.iter().position(|w| *w == flag);
        at.map(|at| self.words.remove(at)).is_some()
    }

    fn time(&mut self, key: &str) -> Result<Option<Moment>, String> {
        self.values.remove(key).map(|v| ms(v).map(Moment)).transpose()
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, String> {
        self.values.remove(key).map(|v| v.parse().map_err(|_| format!("`{v}` is not a number"))).transpose()
    }

    fn end(self) -> Result<(), String> {
        let left: Vec<&str> = self.words.into_iter().chain(self.values.into_keys()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("does not know `{}`", left.join(" "))) }
    }
}

fn ms(text: &str) -> Result<u64, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| format!("`{text}` is not a time like 20s"))?;
    Ok((seconds * 1000.0).round() as u64)
}

/// A moment as a case writes it.
pub fn seconds(moment: Moment) -> String {
    let (s, ms) = (moment.0 / 1000, moment.0 % 1000);
    if ms == 0 { format!("{s}s") } else { format!("{s}.{ms:03}s") }
}

fn wall(moment: Moment) -> Wall {
    Wall(i64::try_from(moment.0 + 1_000_000).unwrap() * 1_000_000)
}

struct Case {
    now: Now,
    complete: bool,
    whole: bool,
    link: Link,
    wanted: Vec<WantedPod>,
    seen: BTreeMap<Uid, SeenPod>,
    images: Vec<(ImageRef, SeenImage)>,
    shutdown: Option<(Moment, Duration, Duration)>,
    /// Lines that change memory, done last.
    memory: Vec<(Uid, String)>,
    preparing: Vec<(ImageRef, PullPolicy)>,
    node: Node,
}

/// The world of a case.
pub fn world(text: &str) -> Result<(World, Now), String> {
    let mut case = Case {
        now: at(Moment(100_000)),
        complete: true,
        whole: true,
        link: Link::Up { version: "v2.1.9".into() },
        wanted: Vec::new(),
        seen: BTreeMap::new(),
        images: Vec::new(),
        shutdown: None,
        memory: Vec::new(),
        preparing: Vec::new(),
        node: Node { name: "n1".into(), ..Node::default() },
    };
    let mut above = String::new();
    for (number, text) in text.lines().enumerate() {
        let line = Line::read(text);
        if line.words.is_empty() {
            continue;
        }
        let say = |e: String| format!("line {}: {e}", number + 1);
        if line.indented {
            case.inner(&above, line, text).map_err(say)?;
        } else {
            above = line.words[..line.words.len().min(3)].join(" ");
            case.outer(line).map_err(say)?;
        }
    }
    case.build()
}

fn at(mono: Moment) -> Now {
    Now { mono, wall: wall(mono) }
}

fn key(name: &str) -> PodKey {
    PodKey { namespace: "default".into(), name: name.into() }
}

fn policy(word: &str) -> Result<RestartPolicy, String> {
    match word {
        "Always" => Ok(RestartPolicy::Always),
        "OnFailure" => Ok(RestartPolicy::OnFailure),
        "Never" => Ok(RestartPolicy::Never),
        _ => Err(format!("`{word}` is no restart policy")),
    }
}

fn pull(word: &str) -> Result<PullPolicy, String> {
    match word {
        "Always" => Ok(PullPolicy::Always),
        "IfNotPresent" => Ok(PullPolicy::IfNotPresent),
        "Never" => Ok(PullPolicy::Never),
        _ => Err(format!("`{word}` is no pull policy")),
    }
}

/// `startup=`, `liveness=`, `readiness=DELAY/PERIOD/SUCCESSES/FAILURES[/GRACE]` in seconds and counts, `post-start`, `pre-stop`.
fn care(line: &mut Line<'_>) -> Result<Care, String> {
    let mut rule = |key: &str| -> Result<Option<ProbeRule>, String> {
        let Some(text) = line.values.remove(key) else { return Ok(None) };
        let numbers: Vec<u64> =
            text.split('/').map(str::parse).collect::<Result<_, _>>().map_err(|_| format!("`{text}` is not like 0/10/1/3"))?;
        let [delay, period, successes, failures, grace @ ..] = numbers.as_slice() else {
            return Err(format!("`{text}` is not like 0/10/1/3"));
        };
        Ok(Some(ProbeRule {
            initial_delay_ms: delay * 1000,
            period_ms: period * 1000,
            timeout_ms: 1000,
            successes: u32::try_from(*successes).unwrap(),
            failures: u32::try_from(*failures).unwrap(),
            grace_ms: grace.first().map(|s| s * 1000),
        }))
    };
    let (startup, liveness, readiness) = (rule("startup")?, rule("liveness")?, rule("readiness")?);
    Ok(Care { startup, liveness, readiness, post_start: line.flag("post-start"), pre_stop: line.flag("pre-stop") })
}

fn probe(word: &str) -> Result<Probe, String> {
    match word {
        "startup" => Ok(Probe::Startup),
        "liveness" => Ok(Probe::Liveness),
        "readiness" => Ok(Probe::Readiness),
        _ => Err(format!("`{word}` is no probe")),
    }
}

const RESOURCES: [&str; 4] = ["cpu", "memory", "hugepages-2Mi", "ephemeral-storage"];

/// What a pod asks of the node: `port=8080[/UDP] cpu=1 memory=1Gi os=windows sysctl=NAME select=KEY:VALUE affinity=KEY:[OPERATOR:]VALUE class=NAME
/// apparmor=RuntimeDefault|Localhost:NAME`.
fn asks(line: &mut Line<'_>) -> Result<Pod, String> {
    let mut take = |key: &str| line.values.remove(key);
    let port = take("port").map(|p| p.split_once('/').unwrap_or((p, "TCP")));
    let port = port.map(|(n, protocol)| json!({ "containerPort": 1, "hostPort": n.parse::<i32>().unwrap(), "protocol": protocol }));
    let requests: BTreeMap<&str, &str> = RESOURCES.into_iter().filter_map(|name| Some((name, take(name)?))).collect();
    let pair = |s: &str| s.split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
    let select: BTreeMap<String, String> = take("select").and_then(pair).into_iter().collect();
    let affinity = take("affinity").map(|wish| {
        let parts: Vec<&str> = wish.split(':').collect();
        let (key, operator, values) = match parts[..] {
            [key, value] => (key, "In", value),
            [key, operator, values] => (key, operator, values),
            _ => panic!("`{wish}` is not like KEY:VALUE or KEY:OPERATOR:VALUE,VALUE"),
        };
        let values: Vec<&str> = values.split(',').filter(|v| !v.is_empty()).collect();
        let of = if key == "metadata.name" { "matchFields" } else { "matchExpressions" };
        let term = json!({ of: [{ "key": key, "operator": operator, "values": values }] });
        json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } })
    });
    let sysctls: Vec<_> = take("sysctl").into_iter().map(|name| json!({ "name": name, "value": "1" })).collect();
    let rules: Vec<_> = take("restart-all")
        .and_then(|n| n.parse::<i32>().ok())
        .into_iter()
        .map(|code| json!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [code] } }))
        .collect();
    let class = take("class");
    let users = take("users").map(|word| word == "host");
    let apparmor = take("apparmor").map(|asked| {
        let (kind, name) = asked.split_once(':').map_or((asked, None), |(kind, name)| (kind, Some(name)));
        json!({ "type": kind, "localhostProfile": name })
    });
    let os = take("os").map(|name| json!({ "name": name }));
    let container = json!({ "name": "c", "restartPolicyRules": rules, "ports": port.into_iter().collect::<Vec<_>>(), "resources": { "requests": requests } });
    let spec = json!({ "containers": [container], "nodeSelector": select, "affinity": affinity, "os": os, "runtimeClassName": class, "hostUsers": users,
        "securityContext": { "sysctls": sysctls, "appArmorProfile": apparmor } });
    serde_json::from_value(json!({ "spec": spec })).map_err(|e| e.to_string())
}

impl Case {
    fn outer(&mut self, mut line: Line<'_>) -> Result<(), String> {
        match line.word()? {
            "now" => self.now = at(Moment(ms(line.word()?)?)),
            "layers" => {
                let word = line.word()?;
                (self.complete, self.whole) = (word != "incomplete", false);
            }
            "link" => {
                if line.flag("down") {
                    self.link = Link::default();
                }
            }
            "shutdown" => {
                let time = |line: &mut Line<'_>, k: &str| Ok::<_, String>(Duration::from_millis(line.time(k)?.unwrap_or_default().0));
                self.shutdown =
                    Some((line.time("since")?.unwrap_or(self.now.mono), time(&mut line, "grace")?, time(&mut line, "critical")?));
            }
            "pod" => self.pod(&mut line)?,
            "image" => {
                let image = ImageRef(line.word()?.into());
                let ready = |local| SeenImage::Ready { id: "sha256:1".into(), local };
                self.images.push((
                    image,
                    match line.word()? {
                        "ready" => ready(false),
                        "local" => ready(true),
                        _ => SeenImage::Absent,
                    },
                ));
            }
            "node" => self.node(&mut line),
            "preparing" => self.preparing.push((ImageRef(line.word()?.into()), pull(line.word()?)?)),
            "seen" => self.seen(&mut line)?,
            "memory" => {
                let uid = Uid(line.word()?.into());
                let rest = line
                    .words
                    .drain(..)
                    .map(str::to_owned)
                    .chain(std::mem::take(&mut line.values).into_iter().map(|(k, v)| format!("{k}={v}")));
                self.memory.push((uid, rest.collect::<Vec<_>>().join(" ")));
            }
            other => return Err(format!("does not know `{other}`")),
        }
        line.end()
    }

    /// `cpu=2 memory=1Gi pods=3 sysctl=net.*,kernel.msgmax label=zone:a`
    fn node(&mut self, line: &mut Line<'_>) {
        for name in RESOURCES {
            let amount = line.values.remove(name).and_then(Amount::parse);
            self.node.allocatable.extend(amount.map(|a| (name.to_owned(), a)));
        }
        self.node.max_pods = line.values.remove("pods").and_then(|n| n.parse().ok());
        self.node.runtime_classes = line.values.remove("runtimes").into_iter().flat_map(|s| s.split(',')).map(str::to_owned).collect();
        self.node.no_own_users = line.values.remove("users").map(|why| format!("this kernel has {why}"));
        self.node.apparmor = line.values.remove("apparmor").map(|profiles| match profiles {
            "off" => Apparmor::default(),
            _ => Apparmor { loaded: Some(profiles.split(',').map(str::to_owned).collect()), parser: false },
        });
        self.node.unsafe_sysctls = line.values.remove("sysctl").into_iter().flat_map(|s| s.split(',')).map(str::to_owned).collect();
        let labels = line.values.remove("label").into_iter().flat_map(|s| s.split(',')).filter_map(|l| l.split_once(':'));
        self.node.labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    }

    fn pod(&mut self, line: &mut Line<'_>) -> Result<(), String> {
        let pod = WantedPod {
            key: key(line.word()?),
            uid: Uid(line.word()?.into()),
            object: Rc::new(asks(line)?),
            origin: Origin::default(),
            containers: Vec::new(),
            volume_images: Vec::new(),
            host_network: false,
            active_deadline_s: line.number("deadline")?,
            grace_s: line.number("grace")?.unwrap_or(30),
            critical: line.flag("critical"),
        };
        self.wanted.push(pod);
        Ok(())
    }

    fn seen(&mut self, line: &mut Line<'_>) -> Result<(), String> {
        let uid = Uid(line.word()?.into());
        let sandbox = match line.values.remove("sandbox").unwrap_or("absent") {
            "absent" => Sandbox::Absent,
            "partial" => Sandbox::Partial,
            "ready" => Sandbox::Ready { ips: vec!["10.0.0.2".parse().unwrap()], since: SANDBOX },
            other => return Err(format!("does not know sandbox `{other}`")),
        };
        let mut made_from = self.wanted.iter().find(|p| p.uid == uid).cloned();
        if let Some(name) = line.values.remove("name") {
            let template = made_from.take().or_else(|| self.wanted.first().cloned()).ok_or("a pod line comes first")?;
            let grace_s = line.number("grace")?.unwrap_or(30);
            made_from = Some(WantedPod { key: key(name), uid: uid.clone(), grace_s, critical: line.flag("critical"), ..template });
        }
        let stale = line.flag("stale");
        let logs = line.values.remove("logs").map(key);
        let pod = SeenPod {
            key: made_from.as_ref().map(|p| p.key.clone()).or(logs),
            made_from: made_from.map(Rc::new),
            sandbox,
            stale,
            ..SeenPod::default()
        };
        self.seen.insert(uid, pod);
        Ok(())
    }

    fn inner(&mut self, above: &str, line: Line<'_>, text: &str) -> Result<(), String> {
        let mut above = above.split(' ');
        match (above.next(), above.next()) {
            (Some("pod"), _) => self.wanted_container(line),
            (Some("seen"), Some(uid)) => self.seen_container(&Uid(uid.into()), line),
            (Some("memory"), Some(uid)) => {
                self.memory.push((Uid(uid.into()), text.to_owned()));
                Ok(())
            }
            _ => Err("is indented under nothing".into()),
        }
    }

    fn wanted_container(&mut self, mut line: Line<'_>) -> Result<(), String> {
        let kind = match line.word()? {
            "volume" => return self.volume_image(line),
            "init" => Kind::Init,
            "sidecar" => Kind::Sidecar,
            "main" => Kind::Main,
            other => return Err(format!("does not know `{other}`")),
        };
        let (name, image) = (line.word()?, line.values.remove("image").unwrap_or("a"));
        let default = if kind == Kind::Init { "OnFailure" } else { "Always" };
        let restart = policy(line.values.remove("restart").unwrap_or(default))?;
        let pull = pull(line.values.remove("pull").unwrap_or("IfNotPresent"))?;
        let container = WantedContainer { name: name.into(), kind, image: ImageRef(image.into()), pull, restart, care: care(&mut line)? };
        self.wanted.last_mut().ok_or("a pod line comes first")?.containers.push(container);
        line.end()
    }

    fn volume_image(&mut self, mut line: Line<'_>) -> Result<(), String> {
        let volume = line.word()?.into();
        let image = ImageRef(line.values.remove("image").unwrap_or("a").into());
        let pull = pull(line.values.remove("pull").unwrap_or("IfNotPresent"))?;
        let users = line.values.remove("users").unwrap_or_default().split(',').map(Into::into).collect();
        self.wanted.last_mut().ok_or("a pod line comes first")?.volume_images.push(VolumeImage { volume, image, pull, users });
        line.end()
    }

    fn seen_container(&mut self, uid: &Uid, mut line: Line<'_>) -> Result<(), String> {
        let (name, attempt) = (line.word()?, line.word()?.parse().map_err(|_| "an attempt is a number")?);
        let word = line.word()?;
        if word == "log" {
            let pod = self.seen.get_mut(uid).ok_or("a seen line comes first")?;
            pod.logged.insert(name.into(), attempt);
            return line.end();
        }
        let code = line.number("code")?.unwrap_or(0);
        let finished = wall(line.time("ended")?.unwrap_or(self.now.mono));
        let exit =
            Exit { code, started: Some(SANDBOX), finished, reason: if code == 0 { "Completed" } else { "Error" }.into(), message: None };
        let state = match word {
            "record" => State::Record,
            "created" => State::Created,
            "running" => State::Running { since: line.time("since")?.map_or(SANDBOX, wall) },
            "exited" => State::Exited(exit),
            "lost" => State::Lost(exit),
            "dead" => State::Dead(exit),
            other => return Err(format!("does not know `{other}`")),
        };
        let sandbox = if line.flag("old") { Wall(1) } else { SANDBOX };
        let pod = self.seen.get_mut(uid).ok_or("a seen line comes first")?;
        let spec = pod.made_from.as_ref().and_then(|p| p.containers.iter().find(|c| &*c.name == name));
        let kind = spec.map_or(Kind::Main, |c| c.kind);
        let image = spec.map_or(ImageRef("a".into()), |c| c.image.clone());
        let id: Rc<str> = format!("{uid}-{name}-{attempt}").into();
        let created = line.time("made")?.map_or(wall(self.now.mono), wall);
        let seen = SeenContainer {
            id: id.clone(),
            name: name.into(),
            kind,
            attempt,
            image,
            image_id: "sha256:1".into(),
            created,
            sandbox: Some(sandbox),
            user: None,
            state,
        };
        pod.containers.insert(id, seen);
        line.end()
    }

    fn build(self) -> Result<(World, Now), String> {
        let mut world = World { node: self.node, ..World::default() };
        let pods = self.wanted.into_iter().map(|p| (p.key.clone(), Rc::new(p))).collect();
        let up = matches!(self.link, Link::Up { .. });
        apply(&mut world, Event::Wanted(Wanted { complete: self.complete, whole: self.whole, pods, shutdown: None }), self.now);
        apply(&mut world, Event::Link(self.link), self.now);
        if up {
            let stale: Vec<Uid> = self.seen.iter().filter(|(_, p)| p.stale).map(|(uid, _)| uid.clone()).collect();
            apply(&mut world, Event::Started(Action::LookAll, Why("".into())), self.now);
            apply(&mut world, Event::Ended(Action::LookAll, Outcome::Done(Effect::All(self.seen))), self.now);
            stale.into_iter().for_each(|uid| apply(&mut world, Event::Hint(uid), self.now));
        }
        world.seen.images.extend(self.images);
        for (image, pull) in self.preparing {
            world.memory.images.entry(image).or_default().in_flight = Some(pull);
        }
        for (uid, text) in &self.memory {
            remember(&mut world, uid, Line::read(text), self.now).map_err(|e| format!("memory {uid}: {e}"))?;
        }
        if let Some((since, grace, critical)) = self.shutdown {
            apply(&mut world, Event::Shutdown { grace, critical }, at(since));
        }
        Ok((world, self.now))
    }
}

/// What probes and hooks said: `ID liveness passed|failed|errored TIMES`, `ID startup asked`, `ID post-start due|running|done|failed`.
fn said(world: &mut World, uid: &Uid, line: &mut Line<'_>, now: Now) -> Result<(), String> {
    let (id, what, how): (Rc<str>, _, _) = (line.word()?.into(), line.word()?, line.word()?);
    let name: Rc<str> = id.rsplit('-').nth(1).ok_or("an id is like u1-c-0")?.into();
    if what == "post-start" {
        let hook = plinth::plan::world::PostStart { id: id.clone(), begun: how != "due", done: false };
        world.memory.pods.entry(uid.clone()).or_default().containers.entry(name).or_default().post_start = Some(hook);
        if matches!(how, "done" | "failed") {
            let failure = (how == "failed").then(|| "it said no".into());
            apply(world, Event::Hooked { uid: uid.clone(), id, hook: Hook::PostStart, failure }, now);
        }
        return Ok(());
    }
    if how == "doomed" {
        let doom = plinth::plan::world::Doom { id, probe: Some(probe(what)?), grace_ms: None, message: "no".into() };
        world.memory.pods.entry(uid.clone()).or_default().containers.entry(name).or_default().doom = Some(Box::new(doom));
        return Ok(());
    }
    let check = Check { uid: uid.clone(), name, id, probe: probe(what)? };
    let answer = match how {
        "asked" => None,
        "passed" => Some(Answer::Passed),
        "failed" => Some(Answer::Failed("no".into())),
        "errored" => Some(Answer::Errored("cannot".into())),
        other => return Err(format!("does not know answer `{other}`")),
    };
    let times = if line.words.is_empty() { 1 } else { line.word()?.parse().map_err(|_| "a count is a number")? };
    for _ in 0..times {
        apply(world, Event::Asked(check.clone()), now);
        answer.iter().for_each(|a| apply(world, Event::Answered(check.clone(), a.clone()), now));
    }
    Ok(())
}

/// `said ...` as above, `terminating`, `busy`, `stop ID asked= kill= killed=`, `crash NAME delay= booked=`, `failed sandbox|NAME times= until=`, `pulled NAME N`.
fn remember(world: &mut World, uid: &Uid, mut line: Line<'_>, now: Now) -> Result<(), String> {
    if line.flag("said") {
        said(world, uid, &mut line, now)?;
        return line.end();
    }
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    memory.terminating |= line.flag("terminating");
    if line.flag("busy") {
        memory.in_flight = Some(Action::Look { uid: uid.clone() });
    }
    match line.word().unwrap_or("") {
        "stop" => {
            let id = line.word()?;
            let stop = Stop {
                hook: line.time("hook")?,
                hook_done: line.flag("hook-done"),
                asked: line.time("asked")?,
                kill_at: line.time("kill")?,
                killed: line.time("killed")?,
                retry: Retry::default(),
            };
            memory.stops.insert(id.into(), stop);
        }
        "crash" => {
            let crash = &mut memory.containers.entry(line.word()?.into()).or_default().crash;
            crash.delay_ms = line.time("delay")?.unwrap_or_default().0;
            crash.at = line.time("booked")?;
        }
        "failed" => {
            let what = line.word()?;
            let retry = if what == "sandbox" { &mut memory.sandbox } else { &mut memory.containers.entry(what.into()).or_default().create };
            retry.failures = line.number("times")?.unwrap_or(1);
            retry.not_before = line.time("until")?;
            retry.message = Some("no luck".into());
        }
        "pulled" => {
            let container = memory.containers.entry(line.word()?.into()).or_default();
            container.pulled_for = Some(line.word()?.parse().map_err(|_| "an attempt is a number")?);
        }
        "" => {}
        other => return Err(format!("does not know `{other}`")),
    }
    line.end()
}
