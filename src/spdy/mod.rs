//! SPDY/3.1 framing, as far as kubectl and API servers use it: streams inside one connection, for port forwarding (KEP-4006 carries it
//! inside a WebSocket) and for the sessions of older ones. Pure: bytes in, frames out, and back.
//! - `frame`: frames; `header`: the header blocks in them, deflated over the connection's life with a dictionary both sides know
//!
//! No crate does it. Of the protocol (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>) it leaves out what
//! Kubernetes' spdystream leaves out: flow control (nobody sends WINDOW_UPDATE, so nobody may wait for one; a stream that is not read
//! holds up its connection), priorities, pushed streams. Nothing a peer sends makes it hold more than a control frame and one window.

mod frame;
mod header;

pub use frame::{Decoder, Encoder, Frame};

/// What a peer did wrong; the connection is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another version, or no SPDY at all.
    #[error("read a SPDY frame: its version is {0}, not 3")]
    Version(u16),
    /// A control frame larger than any that is of use.
    #[error("read a SPDY frame: {0} bytes of a control frame, more than it may have")]
    Large(usize),
    /// A control frame too short for its kind.
    #[error("read a SPDY frame: a control frame of type {0} is cut short")]
    Short(u16),
    /// Header blocks are one deflated stream, and this is none.
    #[error("inflate a SPDY header block: {0}")]
    Deflate(&'static str),
    /// Not names and values.
    #[error("read a SPDY header block: {0}")]
    Header(&'static str),
}
