//! Events to containerd, in order, until it takes them: it may be away, and an exit that it does not hear of is one nobody hears of.
//!
//! The runc shim's own program drops an event after five tries, some fifteen seconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime};

use containerd_client::types::Envelope;
use prost::{Message, Name};
use prost_types::Any;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::api::ForwardRequest;
use super::ttrpc::{self, Answer, Kind, Request, Response};

/// Of containerd's own ttrpc socket.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// More are not kept; the oldest go first.
const QUEUE: usize = 2048;
/// One is taken within milliseconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// First and longest pause before the next try.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is still to be told.
#[derive(Default)]
pub(super) struct Events {
    queue: RefCell<VecDeque<Envelope>>,
    more: Notify,
    all_told: Notify,
}

impl Events {
    /// Puts one at the end.
    pub fn publish<E: Message + Name>(&self, namespace: &str, topic: &str, event: &E) {
        let event = Any { type_url: E::full_name(), value: event.encode_to_vec() };
        let timestamp = Some(SystemTime::now().into());
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= QUEUE {
            queue.pop_front();
        }
        queue.push_back(Envelope { timestamp, namespace: namespace.into(), topic: topic.into(), event: Some(event) });
        self.more.notify_one();
    }

    /// Tells containerd; never ends.
    pub async fn tell(&self, address: &str) {
        let mut link = None;
        let mut pause = BACKOFF.0;
        loop {
            let Some(envelope) = self.queue.borrow().front().cloned() else {
                self.all_told.notify_waiters();
                self.more.notified().await;
                continue;
            };
            if forward(&mut link, address, envelope.clone()).await.is_ok() {
                pause = BACKOFF.0;
                // It may have been pushed out meanwhile.
                let mut queue = self.queue.borrow_mut();
                if queue.front() == Some(&envelope) {
                    queue.pop_front();
                }
                continue;
            }
            link = None;
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Until nothing is left to tell.
    pub async fn told(&self) {
        while !self.queue.borrow().is_empty() {
            self.all_told.notified().await;
        }
    }
}

/// One connection to containerd, and the number of its next request: odd, as a client's are.
type Link = (UnixStream, u32);

async fn forward(link: &mut Option<Link>, address: &str, envelope: Envelope) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(TAKEN_WITHIN, async {
        let (stream, next) = match link {
            Some(link) => link,
            None => link.insert((UnixStream::connect(address).await?, 1)),
        };
        let payload = ForwardRequest { envelope: Some(envelope) }.encode_to_vec();
        let timeout_nano = i64::try_from(TAKEN_WITHIN.as_nanos()).unwrap_or(i64::MAX);
        let request = Request { service: SERVICE.into(), method: "Forward".into(), payload, timeout_nano };
        ttrpc::write(stream, *next, Kind::Request, &request).await?;
        let frame = ttrpc::read(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if (frame.stream, frame.kind) != (*next, Kind::Response) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        *next += 2;
        // One it does not want it will not want the next time either.
        let _ = Answer::from(Response::decode(frame.payload.as_slice())?);
        Ok(())
    })
    .await
    .map_err(late)?
}
