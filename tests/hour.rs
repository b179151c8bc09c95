//! An hour without the API server, in simulated time: what is decided about mirrors and pauses, against a server made of values.
//!
//! The rules of `link` and `publish` that matter here are few, and stand in `Sim::step`: in trouble nobody asks before the pause is over, and
//! then one request; after a 401 that is over another connection; what is refused is tried again one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, reason = "test names are sentences")]

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use plinth::clock::Moment;
use plinth::cluster::mirror::{Action, Memory, Observed, Plan, Published, Quarrel, Sent, Sight, lacks, plan};
use plinth::cluster::retry::Retry;
use plinth::pod::{PodKey, Uid};
use serde_json::{Value, json};

const NODE: &str = "node-uid";
/// Of this node.
const PODS: u64 = 40;
const HOUR_MS: u64 = 3_600_000;
/// Each request of a server that is well.
const ANSWER_MS: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Well,
    /// Refuses connections.
    Away,
    /// Takes requests and never answers.
    Silent,
    /// 500, or 429 that asks for so many seconds.
    Busy(u64),
    /// Well and away by turns, a second each.
    Flaps,
    /// 401: it does not know us any more. The connection is given up, for who we are may have been renewed on disk.
    Unknown,
    /// A quota: new pods are refused, one by one.
    Full,
}

struct Sim {
    now: Moment,
    server: Server,
    /// What the server has, which is what its watch tells as long as it is there.
    there: BTreeMap<PodKey, Observed>,
    published: BTreeMap<PodKey, Published>,
    memory: BTreeMap<PodKey, Memory>,
    paced: Option<Moment>,
    quarrel: Quarrel,
    trouble: Retry,
    /// There is a connection.
    connected: bool,
    /// Requests, and connections that were made for them.
    asked: Vec<Moment>,
    versions: u64,
}

fn key(i: u64) -> PodKey {
    PodKey { namespace: "default".into(), name: format!("p{i:03}-n").into() }
}

fn status(text: &str) -> Rc<Value> {
    Rc::new(json!({"phase": "Running", "message": text}))
}

impl Sim {
    fn new(pods: u64) -> Sim {
        let shown = |i| (key(i), Published { uid: Uid("h0".into()), status: Some(status("begun")), wanted: true });
        Sim {
            now: Moment(0),
            server: Server::Well,
            there: BTreeMap::new(),
            published: (0..pods).map(shown).collect(),
            memory: BTreeMap::new(),
            paced: None,
            quarrel: Quarrel::default(),
            trouble: Retry::default(),
            connected: true,
            asked: Vec::new(),
            versions: 0,
        }
    }

    fn sight(&self) -> Sight<'_> {
        Sight {
            published: &self.published,
            complete: true,
            observed: &self.there,
            node: Some(NODE),
            memory: &self.memory,
            paced: self.paced,
            quarrel: &self.quarrel,
        }
    }

    /// Looks once and does what is due; the time goes on to the next thing that can happen.
    fn step(&mut self, until: Moment) {
        if let Some(due) = self.trouble.wait(self.now) {
            return self.now = due.min(until);
        }
        if !self.connected {
            self.asked.push(self.now);
            self.now = self.now + Duration::from_millis(ANSWER_MS);
            self.connected = true;
        }
        let plan = plan(self.sight(), self.now);
        self.quarrel.note(&plan, self.now);
        let Plan { actions, wake, .. } = plan;
        let troubled = self.trouble.failures > 0;
        let mut idle = true;
        for (key, action) in actions.into_iter().take(if troubled { 1 } else { 8 }) {
            idle = false;
            if self.trouble.wait(self.now).is_some() {
                break;
            }
            self.asked.push(self.now);
            self.ask(key, action);
        }
        if idle {
            // Nothing to ask about mirrors: the Lease is asked for, which tells whether the server is there.
            if troubled {
                self.asked.push(self.now);
                self.lease();
            } else {
                self.now = wake.unwrap_or(until).max(self.now + Duration::from_millis(1)).min(until);
            }
        }
    }

    fn lease(&mut self) {
        match self.answers(false) {
            Ok(()) | Err(None) => self.trouble.succeed(),
            Err(Some(floor)) => self.trouble.fail("no answer".into(), floor, self.now),
        }
    }

    /// An answer, its time over; `Err(Some)`: trouble of the server as a whole, which asks to be left alone so long; `Err(None)`: a refusal.
    fn answers(&mut self, makes: bool) -> Result<(), Option<Duration>> {
        let flapped = (self.now.0 / 1000).is_multiple_of(2);
        self.now = self.now + Duration::from_millis(if self.server == Server::Silent { 4_000 } else { ANSWER_MS });
        match self.server {
            Server::Well => Ok(()),
            Server::Flaps if flapped => Ok(()),
            Server::Away | Server::Flaps | Server::Silent => Err(Some(Duration::ZERO)),
            Server::Busy(seconds) => Err(Some(Duration::from_secs(seconds))),
            Server::Unknown => {
                self.connected = false;
                Err(Some(Duration::ZERO))
            }
            Server::Full if makes => Err(None),
            Server::Full => Ok(()),
        }
    }

    fn ask(&mut self, key: PodKey, action: Action) {
        let sent = self.now;
        let answer = self.answers(action == Action::Create);
        let memory = self.memory.entry(key.clone()).or_default();
        match answer {
            Ok(()) => {
                self.trouble.succeed();
                if memory.retry.failures > 0 {
                    self.paced = None;
                }
                memory.retry.succeed();
                self.versions += 1;
                let pod = self.published.get(&key);
                match action {
                    Action::Create => {
                        let made = Observed {
                            uid: format!("u{}", self.versions),
                            version: self.versions,
                            mirror: pod.map(|p| p.uid.to_string()),
                            deleting: false,
                            held: None,
                            owner: Some(NODE.into()),
                            status: json!({"phase": "Pending"}),
                        };
                        assert!(self.there.insert(key, made).is_none());
                    }
                    Action::Delete { uid, replaces } => {
                        assert_eq!(self.there.remove(&key).unwrap().uid, uid);
                        if replaces {
                            memory.replaced = Some((pod.map(|p| p.uid.clone()), sent));
                        }
                    }
                    Action::Status { uid, status, .. } => {
                        let found = self.there.get_mut(&key).unwrap();
                        (found.status, found.version) = ((*status).clone(), self.versions);
                        memory.sent = Some(Sent { uid, status, at: sent, version: Some(self.versions) });
                    }
                }
            }
            Err(Some(floor)) => self.trouble.fail("no answer".into(), floor, self.now),
            Err(None) => {
                self.trouble.succeed();
                memory.retry.fail("exceeded quota".into(), Duration::ZERO, self.now);
                self.paced = Some(self.now + Duration::from_millis(500));
            }
        }
    }

    fn run(&mut self, until: Moment) {
        while self.now < until {
            self.step(until);
        }
    }

    fn is_right(&self) -> bool {
        let shown = |(key, pod): (&PodKey, &Published)| {
            let there = self.there.get(key);
            there.is_some_and(|o| o.mirror.as_deref() == Some(&*pod.uid.0) && Some(&o.status) == pod.status.as_deref())
                && lacks(&self.sight(), key).is_none()
        };
        self.published.iter().all(shown) && self.there.keys().all(|key| self.published.contains_key(key))
    }

    /// Life goes on: a minute of it.
    fn live(&mut self, minute: u64) {
        let changed = key(minute * 7 % PODS);
        if let Some(pod) = self.published.get_mut(&changed) {
            pod.status = Some(status(&format!("minute {minute}")));
        }
        if let Some(pod) = self.published.get_mut(&key(minute * 11 % PODS)) {
            pod.uid = Uid(format!("h{minute}").as_str().into());
        }
        self.published.remove(&key(minute % PODS));
        let come = Published { uid: Uid("h1".into()), status: Some(status("come")), wanted: true };
        self.published.insert(key(200 + minute % 40), come);
    }

    /// The most requests in five seconds, a second.
    fn rate(&self) -> f64 {
        let mut most = 0;
        let mut first = 0;
        for (i, at) in self.asked.iter().enumerate() {
            while *at - self.asked[first] >= Duration::from_secs(5) {
                first += 1;
            }
            most = most.max(i - first + 1);
        }
        most as f64 / 5.0
    }
}

fn an_hour_of(server: Server) {
    let mut sim = Sim::new(PODS);
    sim.run(Moment(10_000));
    assert!(sim.is_right(), "all mirrors are made within ten seconds");
    sim.asked.clear();
    sim.server = server;
    let began = sim.now;
    for minute in 0..60 {
        sim.live(minute);
        sim.run(began + Duration::from_secs(60 * (minute + 1)));
    }
    assert!(sim.now - began >= Duration::from_millis(HOUR_MS));
    let asked = sim.asked.len();
    assert!(sim.rate() <= 5.0, "{server:?}: {} a second, {asked} in all", sim.rate());
    assert!(sim.memory.len() <= PODS as usize + 40, "nothing grows: {}", sim.memory.len());
    sim.server = Server::Well;
    sim.run(sim.now + Duration::from_secs(10));
    let wrong: Vec<_> = sim.published.keys().filter(|key| lacks(&sim.sight(), key).is_some()).collect();
    assert!(sim.is_right(), "{server:?}: ten seconds after it is back: {wrong:?}");
    let quiet = sim.asked.len();
    sim.run(sim.now + Duration::from_secs(600));
    assert_eq!(sim.asked.len(), quiet, "and then there is nothing to ask");
}

#[test]
fn away_for_an_hour() {
    an_hour_of(Server::Away);
}

#[test]
fn silent_for_an_hour() {
    an_hour_of(Server::Silent);
}

#[test]
fn answering_500_for_an_hour() {
    an_hour_of(Server::Busy(0));
}

#[test]
fn answering_429_that_asks_for_a_second_for_an_hour() {
    an_hour_of(Server::Busy(1));
}

#[test]
fn flapping_each_second_for_an_hour() {
    an_hour_of(Server::Flaps);
}

#[test]
fn answering_401_for_an_hour() {
    an_hour_of(Server::Unknown);
}

#[test]
fn full_for_an_hour() {
    an_hour_of(Server::Full);
}

#[test]
fn two_of_one_name_for_a_quarter_of_an_hour() {
    let (mut one, mut other) = (Sim::new(PODS), Sim::new(PODS));
    // A quarter is the same on both, which run it; a quarter has other content; half has names of its own.
    let theirs = |i: u64| {
        let uid = if i < PODS / 4 { "h0" } else { "theirs" };
        (key(if i < PODS / 2 { i } else { i + PODS }), Published { uid: Uid(uid.into()), status: Some(status("theirs")), wanted: true })
    };
    other.published = (0..PODS).map(theirs).collect();
    let (mut there, mut versions) = (BTreeMap::new(), 0);
    while one.now < Moment(HOUR_MS / 4) {
        let until = one.now.max(other.now) + Duration::from_millis(50);
        let sim = if one.now <= other.now { &mut one } else { &mut other };
        (sim.there, sim.versions) = (there, versions);
        sim.step(until);
        (there, versions) = (std::mem::take(&mut sim.there), sim.versions);
    }
    one.there = there;
    one.asked.extend(&other.asked);
    one.asked.sort();
    // Each wants all of it at first.
    one.asked.retain(|at| *at > Moment(60_000));
    assert!(one.rate() <= 5.0, "{} a second, {} in all", one.rate(), one.asked.len());
    one.versions = versions;
    one.run(one.now + Duration::from_secs(10));
    assert!(one.is_right(), "the other one is gone");
}
