//! Frames (SPDY/3.1, 2.2): eight bytes, then a body. Of data frames the body is handed on as it comes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;
use super::header::{Deflater, Inflater};

/// The largest control frame, bytes.
const CONTROL_BYTES: usize = 16 << 10;
/// More than this of data is handed on in pieces.
const DATA_BYTES: usize = 32 << 10;
const HEAD: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    Open {
        /// Its number, odd for a client's.
        stream: u32,
        /// Names in lower case, and values.
        headers: Vec<(String, String)>,
        /// It says no more on it.
        last: bool,
    },
    /// Data, or a part of it.
    Data {
        /// Of this stream.
        stream: u32,
        /// Some bytes, perhaps none.
        bytes: Bytes,
        /// It says no more on it.
        last: bool,
    },
    /// A stream is broken off.
    Reset {
        /// This one.
        stream: u32,
    },
    /// To be sent back as it is.
    Ping(u32),
    /// There will be no more streams.
    GoAway,
    /// A stream's answer, more headers, settings, windows: nothing that matters here.
    Other,
}

/// Bytes to frames.
pub struct Decoder {
    held: BytesMut,
    inflater: Inflater,
    /// A data frame that is not over: its stream, what is still to come, whether it is the last.
    data: Option<(u32, usize, bool)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { held: BytesMut::new(), inflater: Inflater::new(), data: None }
    }
}

impl Decoder {
    /// Takes in bytes; all frames should be taken out before there are more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next frame, if it is there.
    pub fn frame(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((stream, left, last)) = self.data {
            return Ok(self.piece(stream, left, last));
        }
        let Some((head, body)) = self.held.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, flags, x, y, z] = *head;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            self.held.advance(HEAD);
            return Ok(self.piece(stream, length, flags & FIN != 0));
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if length > CONTROL_BYTES {
            return Err(Error::Large(length));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let frame = control(&mut self.inflater, kind, flags, body)?;
        self.held.advance(HEAD + length);
        Ok(Some(frame))
    }

    /// What is there of a data frame of which so much is still to come.
    fn piece(&mut self, stream: u32, left: usize, last: bool) -> Option<Frame> {
        let ready = left.min(self.held.len()).min(DATA_BYTES);
        if ready == 0 && left > 0 {
            self.data = Some((stream, left, last));
            return None;
        }
        let bytes = self.held.split_to(ready).freeze();
        let left = left - ready;
        self.data = (left > 0).then_some((stream, left, last));
        Some(Frame::Data { stream, bytes, last: last && left == 0 })
    }
}

fn control(inflater: &mut Inflater, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, Error> {
    let short = || Error::Short(kind);
    let number = |at: usize| {
        let bytes = body.get(at..).and_then(|b| b.first_chunk::<4>()).ok_or_else(short)?;
        Ok::<u32, Error>(u32::from_be_bytes(*bytes))
    };
    let stream = || number(0).map(|n| n & 0x7fff_ffff);
    Ok(match kind {
        SYN_STREAM => {
            // Behind the number: an associated stream, priority and slot.
            let headers = inflater.block(body.get(10..).ok_or_else(short)?)?;
            Frame::Open { stream: stream()?, headers, last: flags & FIN != 0 }
        }
        // Their blocks are a part of the one deflated stream.
        SYN_REPLY | HEADERS => {
            let (stream, _) = (stream()?, inflater.block(body.get(4..).ok_or_else(short)?)?);
            if flags & FIN != 0 { Frame::Data { stream, bytes: Bytes::new(), last: true } } else { Frame::Other }
        }
        RST_STREAM => Frame::Reset { stream: stream()? },
        PING => Frame::Ping(number(0)?),
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    })
}

/// Frames to bytes: those a server says.
#[derive(Debug, Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// A stream is taken.
    pub fn reply(&mut self, stream: u32) -> Bytes {
        let block = self.deflater.block(&[]);
        let mut body = stream.to_be_bytes().to_vec();
        body.extend(block);
        frame_of(SYN_REPLY, &body)
    }

    /// A stream begins: what a client says.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut body = stream.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(self.deflater.block(headers));
        frame_of(SYN_STREAM, &body)
    }

    /// A stream is broken off, or not taken.
    pub fn reset(&self, stream: u32, refused: bool) -> Bytes {
        const REFUSED: u32 = 3;
        const CANCELLED: u32 = 5;
        let why = if refused { REFUSED } else { CANCELLED };
        frame_of(RST_STREAM, &[stream.to_be_bytes(), why.to_be_bytes()].concat())
    }

    /// A ping, or the answer to one.
    pub fn ping(&self, id: u32) -> Bytes {
        frame_of(PING, &id.to_be_bytes())
    }

    /// Data; `last`: we say no more on it. At most 16 MiB.
    pub fn data(&self, stream: u32, bytes: &[u8], last: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
        frame.put_u32(stream & 0x7fff_ffff);
        frame.put_u8(if last { FIN } else { 0 });
        frame.put_uint(bytes.len() as u64, 3);
        frame.put_slice(bytes);
        frame.freeze()
    }
}

fn frame_of(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(0);
    frame.put_uint(body.len() as u64, 3);
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// All frames of these bytes, given in pieces of this size; pieces of data are put together.
    fn read(bytes: &[u8], size: usize) -> Result<Vec<Frame>, Error> {
        let (mut decoder, mut all) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(size) {
            decoder.push(piece);
            while let Some(frame) = decoder.frame()? {
                match (all.last_mut(), frame) {
                    (Some(Frame::Data { stream: a, bytes, last: last @ false }), Frame::Data { stream: b, bytes: more, last: now })
                        if *a == b =>
                    {
                        *bytes = [bytes.as_ref(), more.as_ref()].concat().into();
                        *last = now;
                    }
                    (_, frame) => all.push(frame),
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let mut write = Encoder::default();
        let large = vec![7; 100_000];
        let bytes = [
            write.open(1, &[("streamType", "error"), ("port", "80")]),
            write.open(3, &[]),
            write.data(1, b"", true),
            write.data(3, &large, false),
            write.ping(9),
            write.data(3, b"x", true),
            write.reset(3, false),
            frame_of(4, &[0; 12]),
            frame_of(GOAWAY, &[0; 8]),
            write.reply(5),
        ]
        .concat();
        let header = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let expected = [
            Frame::Open { stream: 1, headers: vec![header("streamtype", "error"), header("port", "80")], last: false },
            Frame::Open { stream: 3, headers: vec![], last: false },
            Frame::Data { stream: 1, bytes: Bytes::new(), last: true },
            Frame::Data { stream: 3, bytes: large.into(), last: false },
            Frame::Ping(9),
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"x"), last: true },
            Frame::Reset { stream: 3 },
            Frame::Other,
            Frame::GoAway,
            Frame::Other,
        ];
        for size in [1, 3, 8, 1000, bytes.len()] {
            assert_eq!(read(&bytes, size).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_spdy_is_refused_and_what_is_large_is_not_waited_for() {
        assert_eq!(read(b"\x80\x02\0\x01\0\0\0\0", 8), Err(Error::Version(2)));
        assert_eq!(read(b"\x80\x03\0\x01\0\xff\xff\xff", 8), Err(Error::Large(0xff_ffff)));
        assert_eq!(read(&frame_of(SYN_STREAM, &[0; 9]), 9), Err(Error::Short(SYN_STREAM)));
        assert_eq!(read(&frame_of(PING, &[0; 3]), 9), Err(Error::Short(PING)));
        assert!(matches!(read(&frame_of(SYN_STREAM, &[1; 40]), 99), Err(Error::Deflate(_))));
    }
}
