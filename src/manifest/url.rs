//! Manifests by URL: a server asked again and again in the background, and the last good set of pods it gave, which is a layer.
//!
//! A set is taken whole or not at all, and only a better answer replaces it: whatever fails, is empty, cut off, invalid, badly signed or
//! older than what we have leaves it as it is, over restarts too. Nobody waits for the server: `listing` says what is known now.
//! - `fetch`: one request; `minisign`: signatures; `kept`: the last good answer on disk
//!
//! The kubelet (`config/http.go`) takes an empty answer for an empty set, follows redirects anywhere, and forgets all of it with a restart.

pub mod fetch;
mod kept;
pub mod minisign;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::disk::MAX_FILE_BYTES;
use super::identity::Source;
use super::layer::{Entry, Kind, Listing, Revision, State};
use super::live::revision;
use crate::clock::{self, Moment, Now, Wall, jitter};
use crate::pod::Uid;
use crate::settings::Settings;
use crate::settings::url::Address;
use fetch::{Answer, Failure, Marks, refused};
use kept::Head;
use minisign::Key;

/// The first pause after a failure; it doubles up to `httpCheckFrequency`.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A signature is some 300 bytes; its comments may be longer.
const SIGNATURE_BYTES: usize = 16 << 10;

/// What became of the requests so far, signatures not counted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// A new set.
    pub changed: u64,
    /// The set we have.
    pub unchanged: u64,
    /// An answer that cannot be used.
    pub refused: u64,
    /// No answer, or that the server is in trouble.
    pub failed: u64,
}

/// What is shown of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Why its last answer was not used, in words; `None`: it was.
    pub trouble: Option<String>,
    /// When it is asked again.
    pub due: Moment,
    /// Failures in a row.
    pub failures: u32,
    /// When it last gave an answer that was used.
    pub answered: Option<Wall>,
    /// Requests so far.
    pub tally: Tally,
}

/// A server of manifests.
#[derive(Debug)]
pub struct Url {
    settings: Rc<Settings>,
    address: Address,
    name: Rc<str>,
    key: Option<Key>,
    kept: PathBuf,
    now: RefCell<Known>,
    moved: Notify,
    asked: Notify,
}

/// What is known of it.
#[derive(Debug)]
struct Known {
    kind: Kind,
    good: Option<Good>,
    /// The last body that was looked into, by its digest, and what it came to.
    judged: Option<(String, Rc<Revision>)>,
    /// When each pod was first seen.
    seen: BTreeMap<Uid, Wall>,
    sight: Sight,
}

/// The last good set.
#[derive(Debug)]
struct Good {
    revision: Rc<Revision>,
    digest: String,
    marks: Marks,
    /// Seconds since the epoch.
    signed_at: Option<u64>,
    /// It is on disk.
    saved: bool,
}

impl Url {
    /// With what was kept of an earlier life; `None`: the settings name no server. Nothing is asked before `follow`.
    pub fn new(settings: &Rc<Settings>, now: Now) -> Option<Rc<Url>> {
        let address = settings.url.address.clone()?;
        // The settings were validated: a key that is none did not get here, and if it did, nothing is ever taken.
        let key = settings.url.public_key.as_deref().map(Key::parse).transpose().ok()?;
        let kind = Kind::Away("it was not fetched yet".into());
        let url = Url {
            name: address.shown().into(),
            address,
            key,
            kept: kept::path(&settings.data_dir),
            settings: settings.clone(),
            now: RefCell::new(Known { kind, good: None, judged: None, seen: BTreeMap::new(), sight: Sight::default() }),
            moved: Notify::new(),
            asked: Notify::new(),
        };
        url.recall(now.wall);
        Some(Rc::new(url))
    }

    /// What is known of it now, as a layer of one file whose name no file can have.
    pub fn listing(&self) -> Listing {
        let entry = Entry { name: (&*self.name).into(), kind: self.now.borrow().kind.clone() };
        Listing { layer: self.name.clone(), dir: PathBuf::new(), state: State::Listed(vec![entry]) }
    }

    /// Resolves when `listing` says something else. Cancel-safe.
    pub async fn changed(&self) {
        self.moved.notified().await;
    }

    /// Asks the server now.
    pub fn ask_now(&self) {
        self.asked.notify_one();
    }

    /// What is shown of it.
    pub fn sight(&self) -> Sight {
        self.now.borrow().sight.clone()
    }

    /// The layer's name.
    pub fn name(&self) -> Rc<str> {
        self.name.clone()
    }

    /// Asks for ever.
    pub async fn follow(self: Rc<Url>) {
        loop {
            let asked = self.ask().await;
            let pause = self.fold(&asked);
            if let Ok(Said::New(head, body)) = asked {
                self.save(&head, &body).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// What was kept, if it may be used: what is signed is held against the key again, because that may be another one by now.
    fn recall(&self, now: Wall) {
        let unusable = |why: &str| log::warn!("{}: the set kept in {} is not used: {why}", self.name, self.kept.display());
        let (head, body) = match kept::read(&self.kept) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(e) => return unusable(&e.to_string()),
        };
        let signed_at = match &self.key {
            None => None,
            Some(key) => match key.signed_at(&body, head.signature.as_deref().unwrap_or_default()) {
                Ok(at) => Some(at),
                Err(why) => return unusable(&format!("its signature: {why}")),
            },
        };
        let revision = self.parse(&body, now);
        log::info!("{}: {} pods of the set kept from before, until it is fetched", self.name, revision.pods.len());
        // Of another URL: its pods stay until this one answers, but its marks mean nothing here.
        let marks = Marks { etag: head.etag, last_modified: head.last_modified };
        let marks = if head.url == *self.name { marks } else { Marks::default() };
        let mut known = self.now.borrow_mut();
        known.kind = Kind::Manifest(revision.clone());
        known.judged = Some((head.sha256.clone(), revision.clone()));
        if revision.errors.is_empty() {
            known.good = Some(Good { revision, digest: head.sha256, marks, signed_at, saved: true });
        }
    }

    fn parse(&self, body: &[u8], now: Wall) -> Rc<Revision> {
        let seen = &mut self.now.borrow_mut().seen;
        let mut revision = revision(body, Source::Http, Path::new(&*self.name), &self.name, &self.settings.node_name, now, seen);
        if !revision.errors.is_empty() {
            revision.pods.clear();
        }
        Rc::new(revision)
    }

    /// Asks once, and takes what comes if it is good. Answers what may be said of it.
    async fn ask(&self) -> Result<Said, Failure> {
        let marks = self.now.borrow().good.as_ref().filter(|g| g.saved).map(|g| g.marks.clone()).unwrap_or_default();
        let answer = fetch::get(&self.settings, &self.address, &self.address.path, &marks, MAX_FILE_BYTES).await?;
        let (bytes, whole, new_marks) = match answer {
            Answer::Body { bytes, whole, marks } => (bytes, whole, marks),
            Answer::Unchanged if marks != Marks::default() => return Ok(Said::Same),
            Answer::Unchanged => return Err(refused("answers 304 Not Modified, though it was not told what we have")),
        };
        if bytes.is_empty() {
            return Err(refused("the answer is empty; a set without pods is a PodList with `items: []`"));
        }
        let digest = kept::digest(&bytes);
        if let Some(said) = self.known(&digest, &new_marks) {
            return Ok(said);
        }
        if self.key.is_none() && !whole {
            return Err(refused("the answer has neither a Content-Length nor chunks, so nobody can tell whether it is whole"));
        }
        let (signature, signed_at) = self.signature(&bytes).await?.unzip();
        let revision = self.parse(&bytes, clock::now().wall);
        self.now.borrow_mut().judged = Some((digest.clone(), revision.clone()));
        if !revision.errors.is_empty() {
            return Ok(Said::Wrong(revision));
        }
        let head = Head {
            url: self.name.to_string(),
            etag: new_marks.etag.clone(),
            last_modified: new_marks.last_modified.clone(),
            signature,
            sha256: digest.clone(),
        };
        log::info!("{}: fetched a set of {} pods", self.name, revision.pods.len());
        let good = Good { revision, digest, marks: new_marks, signed_at, saved: false };
        self.now.borrow_mut().good = Some(good);
        Ok(Said::New(head, bytes))
    }

    /// A body that was looked into before needs no second look, but the good one that is not on disk yet does.
    fn known(&self, digest: &str, marks: &Marks) -> Option<Said> {
        let known = &mut *self.now.borrow_mut();
        if let Some(good) = known.good.as_mut().filter(|g| g.digest == digest) {
            good.marks.clone_from(marks);
            return good.saved.then_some(Said::Same);
        }
        let (_, revision) = known.judged.as_ref().filter(|(judged, _)| judged == digest)?;
        Some(Said::Wrong(revision.clone()))
    }

    /// The signature of a body and when it was made, where one is asked for: by that key, and not before the one we have.
    async fn signature(&self, body: &[u8]) -> Result<Option<(String, u64)>, Failure> {
        let Some(key) = &self.key else { return Ok(None) };
        let path = Address::signature_path(&self.address.path);
        let about = |f: Failure| Failure { why: format!("signature: {}", f.why), ..f };
        let answer = fetch::get(&self.settings, &self.address, &path, &Marks::default(), SIGNATURE_BYTES).await.map_err(about)?;
        let Answer::Body { bytes, .. } = answer else { return Err(about(refused("answers 304 Not Modified"))) };
        let text = String::from_utf8(bytes).map_err(|_| about(refused("it is no text")))?;
        let signed_at = key.signed_at(body, &text).map_err(|why| about(refused(why)))?;
        let floor = self.now.borrow().good.as_ref().and_then(|g| g.signed_at).unwrap_or(0);
        if signed_at < floor {
            let [old, ours] = [signed_at, floor].map(|s| Wall(i64::try_from(s).unwrap_or(0).saturating_mul(1_000_000_000)));
            return Err(about(refused(format!("it was made at {old}, but what we have at {ours}: nobody goes back to an older set"))));
        }
        Ok(Some((text, signed_at)))
    }

    async fn save(&self, head: &Head, body: &[u8]) {
        match kept::write(&self.kept, head, body).await {
            Ok(()) => {
                if let Some(good) = self.now.borrow_mut().good.as_mut().filter(|g| g.digest == head.sha256) {
                    good.saved = true;
                }
            }
            Err(e) => log::warn!("{}: keep the set in {}: {e}; a restart would lose it, it is tried again", self.name, self.kept.display()),
        }
    }

    /// Learns from what was said, and answers when to ask again.
    fn fold(&self, asked: &Result<Said, Failure>) -> Duration {
        let good = self.now.borrow().good.as_ref().map(|g| g.revision.clone());
        let (kind, floor) = match asked {
            Ok(Said::Wrong(revision)) => (Some(Kind::Manifest(revision.clone())), Duration::ZERO),
            Ok(Said::New(..) | Said::Same) => (good.map(Kind::Manifest), Duration::ZERO),
            Err(f) if f.passing => (Some(Kind::Away(format!("fetch it: {}", f.why))), f.after),
            Err(f) => (Some(Kind::Unreadable(format!("fetch it: {}", f.why))), f.after),
        };
        kind.into_iter().for_each(|kind| self.show(kind));
        let known = &mut *self.now.borrow_mut();
        known.seen.retain(|uid, _| known.good.iter().any(|g| g.revision.pods.iter().any(|p| p.uid == *uid)));
        let (now, sight) = (clock::now(), &mut known.sight);
        let count = match asked {
            Ok(Said::New(..)) => &mut sight.tally.changed,
            Ok(Said::Same) => &mut sight.tally.unchanged,
            Ok(Said::Wrong(_)) => &mut sight.tally.refused,
            Err(f) if f.passing => &mut sight.tally.failed,
            Err(_) => &mut sight.tally.refused,
        };
        *count += 1;
        let period = self.settings.url.period;
        let pause = if let Ok(Said::New(..) | Said::Same) = asked {
            if sight.failures > 0 {
                log::info!("{}: answers again", self.name);
            }
            (sight.failures, sight.answered) = (0, Some(now.wall));
            period
        } else {
            sight.failures = sight.failures.saturating_add(1);
            FIRST_RETRY.saturating_mul(1 << (sight.failures - 1).min(16)).min(period)
        };
        sight.trouble = trouble(&known.kind);
        let pause = jitter(pause, now.mono).max(floor);
        sight.due = now.mono + pause;
        pause
    }

    /// Says it, if it is new.
    fn show(&self, kind: Kind) {
        let same = match (&self.now.borrow().kind, &kind) {
            (Kind::Manifest(a), Kind::Manifest(b)) => Rc::ptr_eq(a, b),
            (Kind::Away(a), Kind::Away(b)) | (Kind::Unreadable(a), Kind::Unreadable(b)) => a == b,
            _ => false,
        };
        if !same {
            self.now.borrow_mut().kind = kind;
            self.moved.notify_one();
        }
    }
}

/// What a server said.
enum Said {
    /// A set that is good, and another one than before, or one that is not on disk yet.
    New(Head, Vec<u8>),
    /// The set we have.
    Same,
    /// What is no set of valid pods.
    Wrong(Rc<Revision>),
}

fn trouble(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Away(why) | Kind::Unreadable(why) => Some(why.clone()),
        Kind::Manifest(revision) => revision.errors.first().map(|e| format!("it is invalid, line {}: {}", e.line, e.message)),
        Kind::Mask | Kind::NotManifest => None,
    }
}
