//! Reads a GUID partition table, purely: header and entries with their checksums, names and GUIDs. Never trusts a length it has not checked.

/// One partition that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1: the kernel's.
    pub number: u32,
    /// Its own GUID, lower case.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// First block.
    pub first_lba: u64,
    /// Last block.
    pub last_lba: u64,
}

/// Where the entries are, from a header that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First block of the entries.
    pub entries_lba: u64,
    /// How many entries.
    pub count: u32,
    /// Bytes of each.
    pub entry_bytes: u32,
    /// Checksum of all of them.
    entries_crc: u32,
}

/// Why a table is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// No "EFI PART": another kind of disk, most likely.
    NoSignature,
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// A header that is whole and says impossible things.
    Header,
    /// The entries' checksum is wrong, or they are cut short.
    EntriesChecksum,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Broken::NoSignature => "no partition table (GPT)",
            Broken::HeaderChecksum => "the partition table's header has a wrong checksum",
            Broken::Header => "the partition table's header makes no sense",
            Broken::EntriesChecksum => "the partition table's entries have a wrong checksum",
        })
    }
}

/// The entries take no more than that: 128 of 128 bytes are the rule, four times as many have been seen.
const ENTRIES_CAP_BYTES: u64 = 64 << 10;

impl Header {
    /// Reads the block at `lba`, which must name itself.
    pub fn read(block: &[u8], lba: u64) -> Result<Header, Broken> {
        if block.get(..8) != Some(b"EFI PART") {
            return Err(Broken::NoSignature);
        }
        let bytes = usize::try_from(u32_at(block, 12)).ok().filter(|n| (92..=block.len()).contains(n)).ok_or(Broken::Header)?;
        let whole = block.get(..bytes).ok_or(Broken::Header)?;
        let crc = Crc::new().add(whole.get(..16).unwrap_or_default()).add(&[0; 4]).add(whole.get(20..).unwrap_or_default()).value();
        if crc != u32_at(block, 16) {
            return Err(Broken::HeaderChecksum);
        }
        let header = Header {
            entries_lba: u64_at(block, 72),
            count: u32_at(block, 80),
            entry_bytes: u32_at(block, 84),
            entries_crc: u32_at(block, 88),
        };
        let possible = header.entry_bytes >= 128 && header.entry_bytes.is_power_of_two() && header.bytes() <= ENTRIES_CAP_BYTES;
        if u64_at(block, 24) == lba && possible { Ok(header) } else { Err(Broken::Header) }
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        u64::from(self.count) * u64::from(self.entry_bytes)
    }

    /// The partitions in use, in the table's order.
    pub fn partitions(&self, entries: &[u8]) -> Result<Vec<Partition>, Broken> {
        let bytes = usize::try_from(self.bytes()).map_err(|_| Broken::Header)?;
        let entries = entries.get(..bytes).ok_or(Broken::EntriesChecksum)?;
        if Crc::new().add(entries).value() != self.entries_crc {
            return Err(Broken::EntriesChecksum);
        }
        let each = usize::try_from(self.entry_bytes).map_err(|_| Broken::Header)?;
        let used = (1..).zip(entries.chunks_exact(each)).filter(|(_, e)| e.iter().take(16).any(|b| *b != 0));
        Ok(used.map(|(number, e)| partition(number, e)).collect())
    }
}

fn partition(number: u32, entry: &[u8]) -> Partition {
    let units = entry.get(56..128).unwrap_or_default().chunks_exact(2).map(|c| u16::from(byte(c, 0)) | u16::from(byte(c, 1)) << 8);
    let name = char::decode_utf16(units.take_while(|u| *u != 0)).map(|c| c.unwrap_or('\u{fffd}')).collect();
    Partition { number, uuid: guid(entry.get(16..32).unwrap_or_default()), name, first_lba: u64_at(entry, 32), last_lba: u64_at(entry, 40) }
}

/// A GUID as people write it: its first three parts are little-endian.
pub fn guid(raw: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (i, at) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for half in [byte(raw, at) >> 4, byte(raw, at) & 15] {
            text.push(char::from_digit(half.into(), 16).unwrap_or('0'));
        }
    }
    text
}

fn byte(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

/// Little-endian; 0 beyond the end.
pub fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |c| u32::from_le_bytes(*c))
}

/// Little-endian; 0 beyond the end.
pub fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |c| u64::from_le_bytes(*c))
}

/// CRC-32 as IEEE 802.3 has it.
pub struct Crc(u32);

/// What each byte adds: bit by bit, a table of 16 KiB shows in the time of a boot where the processor is emulated.
const BYTES: [u32; 256] = bytes();

#[expect(clippy::indexing_slicing, reason = "while the program is built")]
const fn bytes() -> [u32; 256] {
    let (mut all, mut n) = ([0; 256], 0);
    while n < 256 {
        let (mut crc, mut bit) = (n as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        all[n] = crc;
        n += 1;
    }
    all
}

impl Crc {
    /// Of nothing.
    pub fn new() -> Crc {
        Crc(!0)
    }

    /// With these behind.
    pub fn add(mut self, bytes: &[u8]) -> Crc {
        for b in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = self.0 >> 8 ^ BYTES.get(usize::from(low ^ b)).copied().unwrap_or_default();
        }
        self
    }

    /// As it is written.
    pub fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// A header block and entries as sgdisk writes them.
    pub fn disk(names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let mut entries = vec![0u8; 128 * 128];
        for (i, name) in names.iter().enumerate() {
            let entry = &mut entries[i * 128..(i + 1) * 128];
            entry[..16].fill(if name.is_empty() { 0 } else { 0xaf });
            entry[16..32].copy_from_slice(&std::array::from_fn::<u8, 16, _>(|n| u8::try_from(n + i).unwrap()));
            entry[32..40].copy_from_slice(&(2048 * (i as u64 + 1)).to_le_bytes());
            entry[40..48].copy_from_slice(&(2048 * (i as u64 + 2) - 1).to_le_bytes());
            for (at, unit) in name.encode_utf16().enumerate() {
                entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let mut block = vec![0u8; 512];
        block[..8].copy_from_slice(b"EFI PART");
        for (at, v) in [(8, 0x10000u32), (12, 92), (80, 128), (84, 128), (88, Crc::new().add(&entries).value())] {
            block[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        for (at, v) in [(24, 1u64), (32, 99), (72, 2)] {
            block[at..at + 8].copy_from_slice(&v.to_le_bytes());
        }
        seal(&mut block);
        (block, entries)
    }

    fn seal(block: &mut [u8]) {
        block[16..20].fill(0);
        let crc = Crc::new().add(&block[..92]).value();
        block[16..20].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(Crc::new().add(b"123456789").value(), 0xcbf4_3926);
    }

    #[test]
    fn partitions_are_found_by_name_and_guid_with_the_kernels_numbers() {
        let (block, entries) = disk(&["plinth-root", "", "plinth-stäte"]);
        let found = Header::read(&block, 1).unwrap().partitions(&entries).unwrap();
        let names: Vec<_> = found.iter().map(|p| (p.number, p.name.as_str(), p.first_lba, p.last_lba)).collect();
        assert_eq!(names, [(1, "plinth-root", 2048, 4095), (3, "plinth-stäte", 6144, 8191)]);
        assert_eq!(found[0].uuid, "03020100-0504-0706-0809-0a0b0c0d0e0f");
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let (block, entries) = disk(&["a"]);
        for at in 0..92 {
            let mut bad = block.clone();
            bad[at] ^= 4;
            assert!(Header::read(&bad, 1).is_err(), "header byte {at}");
        }
        for at in [0, 17, 130, entries.len() - 1] {
            let mut bad = entries.clone();
            bad[at] ^= 1;
            assert_eq!(Header::read(&block, 1).unwrap().partitions(&bad), Err(Broken::EntriesChecksum), "entries byte {at}");
        }
        assert_eq!(Header::read(&block, 1).unwrap().partitions(&entries[..100]), Err(Broken::EntriesChecksum));
    }

    #[test]
    fn a_header_of_another_place_or_of_impossible_size_is_refused() {
        let (block, _) = disk(&["a"]);
        assert_eq!(Header::read(&block, 99), Err(Broken::Header));
        assert_eq!(Header::read(&[], 1), Err(Broken::NoSignature));
        for (at, value) in [(12, 4096u32), (12, 20), (80, u32::MAX), (84, 100), (84, u32::MAX)] {
            let mut bad = block.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            if at != 12 {
                seal(&mut bad);
            }
            assert_eq!(Header::read(&bad, 1), Err(Broken::Header), "{value} at {at}");
        }
    }
}
