//! Header blocks: names and values, deflated as one zlib stream over the connection's life, with a dictionary preset (SPDY/3.1, 2.6.10).

use std::sync::OnceLock;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::Error;

/// The most that one block may inflate to, bytes; Kubernetes' have some hundred.
const BLOCK_BYTES: usize = 16 << 10;
/// Deflate looks back no further.
const WINDOW_BYTES: usize = 32 << 10;
/// zlib's checksum of the dictionary names it.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

/// Its first part: each word behind its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200~OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// Its second part, as it is.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
    Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 \
    Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age\
    =gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut all = Vec::with_capacity(1423);
        for word in WORDS.split(' ') {
            let word = word.replace('~', " ");
            all.extend([0, 0, 0, u8::try_from(word.len()).unwrap_or_default()]);
            all.extend(word.as_bytes());
        }
        all.extend(TEXT.as_bytes());
        all
    })
}

/// Reads the blocks of one direction, in order.
pub struct Inflater {
    state: Option<Box<(DecompressorOxide, [u8; WINDOW_BYTES])>>,
    at: usize,
    done: bool,
}

impl Inflater {
    /// Before the first block.
    pub fn new() -> Inflater {
        Inflater { state: None, at: 0, done: false }
    }

    /// One block's names and values.
    pub fn block(&mut self, mut bytes: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut out = Vec::new();
        if self.state.is_none() {
            bytes = self.begin(bytes)?;
        }
        if let Some(state) = &mut self.state {
            let (inflate, window) = &mut **state;
            loop {
                if self.done && !bytes.is_empty() {
                    return Err(Error::Deflate("it goes on behind its end"));
                }
                let (status, read, written) = decompress(inflate, bytes, window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
                bytes = bytes.get(read..).unwrap_or_default();
                out.extend_from_slice(window.get(self.at..self.at + written).unwrap_or_default());
                self.at = (self.at + written) % WINDOW_BYTES;
                if out.len() > BLOCK_BYTES {
                    return Err(Error::Deflate("it is larger than any that is of use"));
                }
                match status {
                    TINFLStatus::NeedsMoreInput if bytes.is_empty() => break,
                    TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => {}
                    TINFLStatus::Done => {
                        self.done = true;
                        if bytes.is_empty() {
                            break;
                        }
                    }
                    _ => return Err(Error::Deflate("it is no deflated data")),
                }
            }
        }
        names_and_values(&out)
    }

    /// The zlib header (RFC 1950); answers what follows it.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        const DEFLATE: u8 = 8;
        const PRESET: u8 = 0x20;
        let [method, flags, rest @ ..] = bytes else { return Err(Error::Deflate("it has no header")) };
        if method & 0x0f != DEFLATE || !(u16::from(*method) << 8 | u16::from(*flags)).is_multiple_of(31) {
            return Err(Error::Deflate("its header is none of zlib's"));
        }
        let mut state = Box::new((DecompressorOxide::new(), [0; WINDOW_BYTES]));
        let preset = flags & PRESET != 0;
        let rest = if preset { rest.strip_prefix(&DICTIONARY_ID).ok_or(Error::Deflate("it names another dictionary"))? } else { rest };
        if preset {
            let known = dictionary();
            state.1.iter_mut().zip(known).for_each(|(to, from)| *to = *from);
            self.at = known.len();
        }
        self.state = Some(state);
        Ok(rest)
    }
}

fn names_and_values(block: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let (count, mut rest) = number(block)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let (name, after) = string(rest)?;
        let (value, after) = string(after)?;
        rest = after;
        out.push((name.to_ascii_lowercase(), value));
    }
    if rest.is_empty() { Ok(out) } else { Err(Error::Header("it goes on behind its last value")) }
}

fn number(bytes: &[u8]) -> Result<(usize, &[u8]), Error> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Error::Header("it is cut short"))?;
    Ok((u32::from_be_bytes(*number) as usize, rest))
}

fn string(bytes: &[u8]) -> Result<(String, &[u8]), Error> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(Error::Header("it is cut short"))?;
    let text = std::str::from_utf8(text).map_err(|_| Error::Header("it is not UTF-8"))?;
    Ok((text.to_owned(), rest))
}

/// Writes the blocks of one direction, in order: not compressed, since ours have next to nothing in them.
#[derive(Debug, Default)]
pub struct Deflater {
    begun: bool,
}

impl Deflater {
    /// One block.
    pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        plain.extend(number(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend(number(text.len()));
                plain.extend(text.as_bytes());
            }
        }
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.extend([0x78, 0xbb]);
            out.extend(DICTIONARY_ID);
        }
        // Stored blocks (RFC 1951, 3.2.4): whole bytes, so that the next begins on one. An empty one ends it, as zlib's Z_SYNC_FLUSH does:
        // at that sign Go's reader hands out what it has, without it it waits for more than there is.
        for part in plain.chunks(usize::from(u16::MAX)).chain([[].as_slice()]) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend(length.to_le_bytes());
            out.extend((!length).to_le_bytes());
            out.extend(part);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// Adler-32 (RFC 1950, 8.2).
    fn adler(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_that_its_id_names() {
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(adler(dictionary()).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn each_block_ends_with_the_sign_of_a_flush() {
        let mut write = Deflater::default();
        for headers in [vec![], vec![("a", "b")]] {
            assert!(write.block(&headers).ends_with(&[0, 0, 0, 0xff, 0xff]));
        }
    }

    #[test]
    fn what_is_written_is_read_block_by_block() {
        let (mut write, mut read) = (Deflater::default(), Inflater::new());
        for headers in [vec![("port", "80"), ("streamtype", "data")], vec![], vec![("a", "")]] {
            let owned: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(read.block(&write.block(&headers)), Ok(owned));
        }
        assert_eq!(read.block(b"\x07"), Err(Error::Deflate("it is no deflated data")));
    }

    /// What zlib 1.3 writes for the two streams of one forwarded connection, flushed after each (`deflateSetDictionary`, level 9).
    #[test]
    fn what_is_compressed_with_the_dictionary_is_read() {
        let mut read = Inflater::new();
        for (block, kind) in PAIR.iter().zip(["error", "data"]) {
            let headers = read.block(block).unwrap();
            let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            assert_eq!((get("streamtype"), get("port"), get("requestid")), (Some(kind), Some("8080"), Some("0")));
        }
    }

    const PAIR: [&[u8]; 2] = [
        &[
            0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0x25, 0x3a, 0x48, 0xf9, 0x5b, 0x04, 0x4e, 0xea, 0x16, 0x06, 0x16, 0x06, 0x40, 0x9a,
            0xb3, 0x08, 0x12, 0x5f, 0x99, 0xa0, 0x74, 0xcc, 0x68, 0x00, 0x4e, 0x89, 0x25, 0x45, 0xa9, 0x89, 0xb9, 0xd0, 0xc2, 0x86, 0x35,
            0x15, 0x14, 0x15, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
        ],
        &[0x22, 0x53, 0x33, 0xa8, 0xa4, 0x4a, 0x04, 0x00, 0x00, 0x00, 0xff, 0xff],
    ];

    #[test]
    fn a_bomb_is_cut_off() {
        // One megabyte of zeros, by the fixed codes: a literal, then matches of 258 bytes at distance 1.
        let mut bomb = vec![0x78, 0x01];
        bomb.extend(miniz_oxide::deflate::compress_to_vec(&vec![0; 1 << 20], 9));
        assert!(bomb.len() < 2048);
        assert_eq!(Inflater::new().block(&bomb), Err(Error::Deflate("it is larger than any that is of use")));
    }
}
