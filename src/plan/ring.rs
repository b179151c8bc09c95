//! The last events, bounded, as `v1.Event`. Keeps what `record` tells; `run` owns it.

use std::collections::VecDeque;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use crate::clock::Wall;
use crate::plan::record::EventNote;

/// With a longer name an event is not named after its pod: 32 hexadecimal digits and a dot follow.
const POD_NAME_BYTES: usize = 220;

/// The last events, newest last; a repeated one is counted, not kept twice.
#[derive(Debug)]
pub struct EventRing {
    node: String,
    kept: VecDeque<(u64, Event)>,
    next: u64,
    cap: usize,
}

impl EventRing {
    /// At most `cap` events, reported by this node.
    pub fn new(node: &str, cap: usize) -> EventRing {
        EventRing { node: node.to_owned(), kept: VecDeque::new(), next: 1, cap: cap.max(1) }
    }

    /// Keeps one more. One with the same object, reason and message is counted and becomes the newest.
    pub fn push(&mut self, note: EventNote, now: Wall) {
        let seq = self.next;
        self.next += 1;
        let mut event = match self.kept.iter().rposition(|(_, e)| is_same(e, &note)).and_then(|at| self.kept.remove(at)) {
            Some((_, event)) => event,
            None => self.first(note, seq, now),
        };
        event.count = Some(event.count.unwrap_or(0).saturating_add(1));
        event.last_timestamp = Some(time(now));
        if self.kept.len() >= self.cap {
            self.kept.pop_front();
        }
        self.kept.push_back((seq, event));
    }

    /// Visits events with a sequence number greater than `after`, oldest first.
    pub fn visit(&self, after: u64, visit: &mut dyn FnMut(u64, &Event)) {
        let from = self.kept.partition_point(|(seq, _)| *seq <= after);
        for (seq, event) in self.kept.range(from..) {
            visit(*seq, event);
        }
    }

    fn first(&self, note: EventNote, seq: u64, now: Wall) -> Event {
        // A name has 253 characters at most, and a pod's may have as many.
        let of = Some(&*note.key.name).filter(|name| name.len() <= POD_NAME_BYTES).unwrap_or("plinth");
        let source = EventSource { component: Some("plinth".into()), host: Some(self.node.clone()) };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{of}.{seq:x}{:x}", now.0)),
                namespace: Some(note.key.namespace.to_string()),
                creation_timestamp: Some(time(now)),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some(note.kind.into()),
                name: Some(note.key.name.to_string()),
                namespace: Some(note.key.namespace.to_string()).filter(|_| note.kind == "Pod"),
                uid: Some(note.uid.to_string()),
                field_path: note.container.map(|c| c.to_string()),
                ..ObjectReference::default()
            },
            reason: Some(note.reason.to_owned()),
            message: Some(note.message),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            first_timestamp: Some(time(now)),
            reporting_component: Some("plinth".into()),
            reporting_instance: Some(self.node.clone()),
            source: Some(source),
            ..Event::default()
        }
    }
}

fn is_same(event: &Event, note: &EventNote) -> bool {
    event.involved_object.uid.as_deref() == Some(&*note.uid.0)
        && event.involved_object.field_path.as_deref() == note.container.as_deref()
        && event.reason.as_deref() == Some(note.reason)
        && event.message.as_deref() == Some(&note.message)
}

fn time(wall: Wall) -> Time {
    Time(Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::pod::{PodKey, Uid};

    fn note(reason: &'static str) -> EventNote {
        EventNote {
            kind: "Pod",
            key: PodKey { namespace: "default".into(), name: "web".into() },
            uid: Uid("u".into()),
            container: None,
            reason,
            warning: false,
            message: "m".into(),
        }
    }

    fn read(ring: &EventRing, after: u64) -> Vec<(u64, String, i32)> {
        let mut out = Vec::new();
        ring.visit(after, &mut |seq, e| out.push((seq, e.reason.clone().unwrap(), e.count.unwrap())));
        out
    }

    #[test]
    fn a_repeated_event_is_counted_and_becomes_the_newest() {
        let mut ring = EventRing::new("n", 8);
        for (at, reason) in [(1, "Pulled"), (2, "BackOff"), (3, "Pulled")] {
            ring.push(note(reason), Wall(at));
        }
        assert_eq!(read(&ring, 0), [(2, "BackOff".into(), 1), (3, "Pulled".into(), 2)]);
        assert_eq!(read(&ring, 2), [(3, "Pulled".into(), 2)]);
    }

    #[test]
    fn an_event_of_the_node_names_the_node() {
        let mut ring = EventRing::new("n", 2);
        let key = PodKey { namespace: "default".into(), name: "n".into() };
        ring.push(EventNote { kind: "Node", key, uid: Uid("n".into()), ..note("SystemOOM") }, Wall(1));
        ring.visit(0, &mut |_, event| {
            let of = &event.involved_object;
            assert_eq!((of.kind.as_deref(), of.name.as_deref(), of.namespace.as_deref()), (Some("Node"), Some("n"), None));
            assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        });
    }

    #[test]
    fn the_name_of_an_event_is_never_too_long_for_an_api_server() {
        let mut ring = EventRing::new("n", 2);
        for name in ["a".repeat(220), "a".repeat(253)] {
            ring.next = u64::MAX / 2;
            ring.push(
                EventNote { key: PodKey { namespace: "default".into(), name: name.as_str().into() }, ..note("Pulled") },
                Wall(i64::MAX),
            );
        }
        ring.visit(0, &mut |_, event| assert!(event.metadata.name.as_ref().unwrap().len() <= 253, "{event:?}"));
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut ring = EventRing::new("n", 2);
        for reason in ["a", "b", "c"] {
            ring.push(note(reason), Wall(1));
        }
        assert_eq!(read(&ring, 0).iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3]);
    }
}
