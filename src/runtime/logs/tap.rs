//! Somebody who listens to a container's output beside its log: from now on, as it comes, cut into no lines.
//!
//! The log waits for nobody. What a listener does not take waits here up to a bound; beyond it he has lost the thread and is told so.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::Notify;

use super::line::Which;

/// So much waits for a listener: several times what a FIFO and a pipe hold.
const WAITING_BYTES: usize = 512 << 10;

/// A listener.
#[derive(Debug, Default)]
pub struct Tap {
    queue: RefCell<VecDeque<(Which, Bytes)>>,
    waiting: Cell<usize>,
    lost: Cell<bool>,
    closed: Cell<bool>,
    more: Notify,
}

/// What a listener hears.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Output.
    Output(Which, Bytes),
    /// The container has ended, or is followed no more.
    Closed,
    /// He did not listen fast enough.
    Lost,
}

impl Tap {
    pub(super) fn push(&self, which: Which, bytes: &[u8]) {
        if bytes.is_empty() || self.lost.get() {
            return;
        }
        let waiting = self.waiting.get() + bytes.len();
        if waiting > WAITING_BYTES {
            self.lost.set(true);
        } else {
            self.waiting.set(waiting);
            self.queue.borrow_mut().push_back((which, Bytes::copy_from_slice(bytes)));
        }
        self.more.notify_one();
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.more.notify_one();
    }

    /// The next of it.
    pub async fn next(&self) -> Heard {
        loop {
            if let Some((which, bytes)) = self.queue.borrow_mut().pop_front() {
                self.waiting.set(self.waiting.get().saturating_sub(bytes.len()));
                return Heard::Output(which, bytes);
            }
            if self.lost.get() {
                return Heard::Lost;
            }
            if self.closed.get() {
                return Heard::Closed;
            }
            self.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_listener_hears_all_in_order_and_then_the_end() {
        let tap = Tap::default();
        tap.push(Which::Stdout, b"a");
        tap.push(Which::Stderr, b"b");
        tap.close();
        let heard = || tap.next().now_or_never();
        assert_eq!(heard(), Some(Heard::Output(Which::Stdout, "a".into())));
        assert_eq!(heard(), Some(Heard::Output(Which::Stderr, "b".into())));
        assert_eq!(heard(), Some(Heard::Closed));
    }

    #[test]
    fn who_does_not_listen_is_told_so_and_costs_a_bounded_amount() {
        let tap = Tap::default();
        (0..100).for_each(|_| tap.push(Which::Stdout, &[0; 64 << 10]));
        let mut kept = 0;
        while let Some(Heard::Output(_, bytes)) = tap.next().now_or_never() {
            kept += bytes.len();
        }
        assert!(kept <= WAITING_BYTES && kept > 0, "{kept}");
        assert_eq!(tap.next().now_or_never(), Some(Heard::Lost));
    }
}
