//! Plain tar: where files are in one, and how one is written. Pure but for the reads it is given.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

const BLOCK: u64 = 512;
/// An archive of more entries than this is no image archive.
const ENTRIES: usize = 100_000;
/// What a tar ends with.
pub const END: [u8; 1024] = [0; 1024];

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The file cannot.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is no tar.
    #[error("no tar header at byte {0}; is it compressed? only plain tar is read")]
    NoHeader(u64),
}

/// Name to offset and size of every regular file, from the headers alone.
pub fn entries(file: &mut (impl Read + Seek)) -> Result<BTreeMap<String, (u64, u64)>, TarError> {
    let mut found = BTreeMap::new();
    let mut at = 0u64;
    let mut block = [0u8; 512];
    loop {
        file.seek(SeekFrom::Start(at))?;
        // A cut archive has no end mark; what was there so far counts, and what is missing is named when it is needed.
        if file.read_exact(&mut block).is_err() || block.iter().all(|&b| b == 0) || found.len() > ENTRIES {
            return Ok(found);
        }
        let (Some(name), Some(size)) = (text(block.get(..100)), octal(block.get(124..136))) else {
            return Err(TarError::NoHeader(at));
        };
        if matches!(block.get(156), Some(0 | b'0')) {
            found.insert(name.trim_start_matches("./").to_owned(), (at + BLOCK, size));
        }
        at = at.saturating_add(BLOCK).saturating_add(size.next_multiple_of(BLOCK));
    }
}

fn text(field: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(field?.split(|&b| b == 0).next()?).ok()
}

/// Octal digits, or GNU's base 256 for what is larger than 8 GiB.
fn octal(field: Option<&[u8]>) -> Option<u64> {
    let field = field?;
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return field.get(4..)?.iter().try_fold(0u64, |n, &b| n.checked_mul(256)?.checked_add(u64::from(b)));
    }
    let digits = text(Some(field))?.trim();
    u64::from_str_radix(digits, 8).ok().filter(|n| *n < 1 << 50)
}

/// A ustar header of a regular file.
pub fn header(name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()).for_each(|(to, from)| *to = from);
    block
}

/// What follows so many bytes of a file, up to the next block.
pub fn padding(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0)]
}

/// A small file: header, bytes, padding.
pub fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() as u64;
    [header(name, size), bytes.to_vec(), padding(size)].concat()
}
