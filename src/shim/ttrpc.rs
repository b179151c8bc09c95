//! ttrpc, which containerd and its shims speak over a Unix socket: requests and responses of protobuf behind a header of ten bytes.
//!
//! ```text
//!  length of what follows (4) · stream (4) · kind (1) · flags (1) · Request or Response
//! ```
//! Only calls of one request and one response: a runc shim has no streams. The `ttrpc` crate would bring a second protobuf library and its
//! generated messages into every shim's memory.

use std::io;
use std::time::Duration;

use containerd_client::google::rpc;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of a response: what went wrong, by the numbers of gRPC.
pub(super) type Status = rpc::Status;
/// What a call gives back: the bytes of its message.
pub(super) type Answer = Result<Vec<u8>, Status>;

const HEADER: usize = 10;
/// ttrpc's own limit.
const MESSAGE_BYTES: usize = 4 << 20;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    /// Of a stream, or not known.
    Other,
}

/// One message, still packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub stream: u32,
    pub kind: Kind,
    pub payload: Vec<u8>,
}

/// `ttrpc.Request`, without its metadata, of which the namespace is one shim's own anyway.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

impl Request {
    /// How long the caller waits, if it says so.
    pub fn timeout(&self) -> Option<Duration> {
        u64::try_from(self.timeout_nano).ok().filter(|n| *n > 0).map(Duration::from_nanos)
    }
}

/// `ttrpc.Response`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Response {
        match answer {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        }
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        match response.status.filter(|s| s.code != 0) {
            Some(status) => Err(status),
            None => Ok(response.payload),
        }
    }
}

/// The next message; `None`: the other side is gone.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut header = [0u8; HEADER];
    match from.read_exact(&mut header).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => drop(read?),
    }
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header;
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes; {MESSAGE_BYTES} is the most")));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Response,
        _ => Kind::Other,
    };
    Ok(Some(Frame { stream: u32::from_be_bytes([s0, s1, s2, s3]), kind, payload }))
}

/// Sends one request or response.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), stream: u32, kind: Kind, message: &impl Message) -> io::Result<()> {
    let length = message.encoded_len();
    let fits = u32::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES);
    let fits = fits.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")))?;
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&fits.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[if kind == Kind::Request { 1 } else { 2 }, 0]);
    bytes.extend_from_slice(&message.encode_to_vec());
    to.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn what_is_written_is_read_again() {
        run(async {
            let request = Request { service: "s".into(), method: "m".into(), payload: b"p".into(), timeout_nano: 5_000_000 };
            let mut wire = Vec::new();
            write(&mut wire, 7, Kind::Request, &request).await.unwrap();
            // As the Go library writes it: length, stream, kind, flags, in the network's order.
            assert_eq!(wire.get(..HEADER).unwrap(), [0, 0, 0, 14, 0, 0, 0, 7, 1, 0]);
            let mut from = wire.as_slice();
            let frame = read(&mut from).await.unwrap().unwrap();
            assert_eq!((frame.stream, frame.kind), (7, Kind::Request));
            let read_again = Request::decode(frame.payload.as_slice()).unwrap();
            assert_eq!((read_again.timeout(), &read_again), (Some(Duration::from_millis(5)), &request));
            assert_eq!(read(&mut from).await.unwrap(), None);
        });
    }

    #[test]
    fn what_is_too_long_or_cut_short_is_refused() {
        run(async {
            assert!(read(&mut [0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0].as_slice()).await.is_err());
            assert!(read(&mut [0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 7].as_slice()).await.is_err());
            assert_eq!(read(&mut [0, 0, 0].as_slice()).await.unwrap(), None, "the other side went between two messages");
        });
    }

    #[test]
    fn a_refusal_is_told_by_its_code() {
        let no = Status { code: 5, message: "container not created".into(), details: Vec::new() };
        assert_eq!(Answer::from(Response::from(Err(no.clone()))), Err(no));
        assert_eq!(Answer::from(Response::from(Ok(vec![1]))), Ok(vec![1]));
        assert_eq!(Answer::from(Response { status: Some(Status::default()), payload: vec![2] }), Ok(vec![2]));
    }
}
