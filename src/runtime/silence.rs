//! Notices that containerd takes calls and answers none: it was stopped, hangs on its disk, or is starved.
//!
//! ```text
//!  a call unanswered for 5 s ──> Link(Down): the call, since when ── any answer ──> Link(Up): everything is looked at again
//! ```
//! A call that stands in line is not unanswered while those before it are answered: containerd writes to its database one after the other,
//! and a hundred pods that end at once on a slow disk take it longer than that. That it still reads says nothing of a disk that hangs.
//!
//! Only calls that containerd answers by itself count; what it passes on to a shim, a registry or a large copy may take long for
//! another's fault. While nobody asks anything, `watch` does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::http;
use tonic::transport::Channel;

use super::Runtime;
use crate::clock::{self, Moment};
use crate::plan::action::Event;
use crate::plan::world::Link;

/// A call without an answer for so long is news; a busy containerd on a slow disk takes 1 s at times.
const LIMIT: Duration = Duration::from_secs(5);
/// While there are no calls, one is made this often: it costs three wakes.
const BEAT: Duration = Duration::from_secs(5);

/// The calls that containerd owes an answer.
#[derive(Default)]
pub struct Calls {
    open: RefCell<BTreeMap<u64, (String, Moment)>>,
    made: Cell<u64>,
    /// When it last answered a call of its own, and one that had it write.
    answered: Cell<[Moment; 2]>,
    /// It was said that containerd does not answer.
    silent: Cell<bool>,
    changed: Notify,
}

impl Calls {
    /// It was said that containerd does not answer, and it has not answered since.
    pub fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// The link broke: that is another matter.
    pub fn broken(&self) {
        self.silent.set(false);
    }

    /// The call that waits longest, and since when it has nothing but its own number in the line to wait for.
    fn oldest(&self) -> Option<(String, Moment)> {
        let (call, began) = self.open.borrow().values().next().cloned()?;
        let [any, written] = self.answered.get();
        let before_it = if writes(&call) { written } else { any };
        Some((call, began.max(before_it)))
    }

    /// `/containerd.services.containers.v1.Containers/List`, from now on, as `Containers/List`.
    fn begin(self: &Rc<Calls>, path: &str) -> Open {
        let id = self.made.get();
        self.made.set(id.wrapping_add(1));
        if is_its_own(path) {
            let name = path.rsplit('.').next().unwrap_or(path).to_owned();
            self.open.borrow_mut().insert(id, (name, clock::now().mono));
            self.changed.notify_one();
        }
        Open { calls: self.clone(), id }
    }
}

/// A call on its way; over when dropped.
struct Open {
    calls: Rc<Calls>,
    id: u64,
}

impl Open {
    fn answered(self) {
        if let Some((call, _)) = self.calls.open.borrow().get(&self.id) {
            let (now, [_, written]) = (clock::now().mono, self.calls.answered.get());
            self.calls.answered.set([now, if writes(call) { now } else { written }]);
        }
        if self.calls.silent.replace(false) {
            self.calls.changed.notify_one();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.calls.open.borrow_mut().remove(&self.id).is_some() {
            self.calls.changed.notify_one();
        }
    }
}

/// containerd answers it without asking anybody else: at most a write to its database. With an image goes all that hangs on it.
fn is_its_own(path: &str) -> bool {
    if path.ends_with("Images/Delete") {
        return false;
    }
    let own = ["Containers/", "Images/", "Leases/", "Store/", "Version/", "Introspection/", "Events/Publish"];
    own.iter().any(|part| path.rsplit('.').next().is_some_and(|name| name.starts_with(part)))
}

/// It has its database written to, which is done for one call at a time.
fn writes(call: &str) -> bool {
    !["/List", "/Get", "/Version", "/Plugins", "/Server"].iter().any(|read| call.ends_with(read))
}

/// A channel whose calls are counted.
#[derive(Clone)]
pub struct Counted {
    /// To containerd.
    pub channel: Channel,
    /// The count.
    pub calls: Rc<Calls>,
}

impl GrpcService<Body> for Counted {
    type ResponseBody = Body;
    type Error = tonic::transport::Error;
    type Future = LocalBoxFuture<'static, Result<http::Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        GrpcService::<Body>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let open = self.calls.begin(request.uri().path());
        let answer = GrpcService::call(&mut self.channel, request);
        async move { answer.await.inspect(|_| open.answered()) }.boxed_local()
    }
}

/// Says when containerd falls silent, and when that is over; never ends.
pub(super) async fn watch(rt: Rc<Runtime>) {
    let calls = rt.calls.clone();
    let mut beats = FuturesUnordered::new();
    let mut said = false;
    loop {
        let now = clock::now().mono;
        let oldest = calls.oldest();
        if said && !calls.is_silent() {
            said = false;
            rt.tell_linked();
        }
        if let Some((call, since)) = oldest.as_ref().filter(|(_, since)| *since + LIMIT <= now && !said) {
            said = true;
            calls.silent.set(true);
            rt.tell(Event::Link(Link::Down { why: in_words(call).into(), since: *since }));
        }
        let pause = match &oldest {
            Some((_, since)) if !said => *since + LIMIT - now,
            _ => BEAT,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                if oldest.is_none() && beats.is_empty() && let Ok(client) = rt.client() {
                    beats.push(async move { drop(client.version().version(client.ask_for_ever(())).await) });
                }
            }
            () = calls.changed.notified() => {}
            Some(()) = beats.next(), if !beats.is_empty() => {}
        }
    }
}

fn in_words(call: &str) -> String {
    format!(
        "it takes calls and answers none, {call} was the first: it is stopped, hangs on its disk, or is starved; containers, their output and \
         their network probes go on; see containerd's log, or restart it: that costs no pod"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_containerd_answers_by_itself_counts() {
        let calls = Rc::new(Calls::default());
        let open = [
            "/containerd.services.tasks.v1.Tasks/Create",
            "/containerd.services.containers.v1.Containers/List",
            "/containerd.services.transfer.v1.Transfer/Transfer",
            "/containerd.services.events.v1.Events/Subscribe",
            "/containerd.services.sandbox.v1.Store/Create",
        ]
        .map(|path| calls.begin(path));
        let names: Vec<String> = calls.open.borrow().values().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["Containers/List", "Store/Create"]);
        drop(open);
        assert_eq!(calls.oldest(), None);
    }

    #[test]
    fn a_call_in_a_line_that_moves_is_not_unanswered() {
        let calls = Rc::new(Calls::default());
        // The clock moves on between two looks.
        let began = |calls: &Calls| {
            let now = clock::now().mono;
            while clock::now().mono <= now {}
            calls.oldest().unwrap()
        };
        let write = "/containerd.services.sandbox.v1.Store/Delete";
        let read = "/containerd.services.containers.v1.Containers/List";
        let waits = calls.begin(write);
        let (name, first) = began(&calls);
        assert_eq!(name, "Store/Delete");
        calls.begin(read).answered();
        assert_eq!(began(&calls).1, first, "that it reads is no sign that it writes");
        calls.begin(write).answered();
        let second = began(&calls).1;
        assert!(second > first, "it wrote for another");
        drop(calls.begin(write));
        assert_eq!(began(&calls).1, second, "a call given up is none");
        drop(waits);
        let waits = calls.begin(read);
        let third = began(&calls).1;
        calls.begin("/containerd.services.version.v1.Version/Version").answered();
        assert!(began(&calls).1 > third);
        drop(waits);
    }

    #[test]
    fn an_answer_ends_the_silence_and_a_call_given_up_does_not() {
        let calls = Rc::new(Calls::default());
        calls.silent.set(true);
        drop(calls.begin("/containerd.services.version.v1.Version/Version"));
        assert!(calls.is_silent());
        calls.begin("/containerd.services.tasks.v1.Tasks/Get").answered();
        assert!(!calls.is_silent());
    }
}
