//! The last partition made as large as its disk allows: an image written to a larger disk brings a table that ends where the image did.
//!
//! A table is written so that a power cut at any moment leaves one of its two copies whole: first the one at the end of the disk, where no
//! table was, then the one at its beginning. A first table that is broken is made anew from its copy on the way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::disk::{Block, Disks};
use crate::failure::{Doing, Done, Failure};
use crate::gpt::{Crc, Header, Partition, u32_at};

/// Partitions begin and end at multiples of that; less than that is not worth a write.
const ALIGN_BYTES: u64 = 1 << 20;

/// A disk's table as it is.
pub struct Table {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Where its header was read: 1, or the last block.
    pub at: u64,
    /// What that says.
    pub header: Header,
    /// The partitions in use.
    pub partitions: Vec<Partition>,
    /// The header's block.
    pub head: Vec<u8>,
    /// All entries.
    pub entries: Vec<u8>,
}

/// Blocks to write, in this order; each group is on the disk before the next.
type Writes = [Vec<(u64, Vec<u8>)>; 2];

impl Table {
    /// The table with this partition as large as it can be: what to write, and its new last block. `None`: it is not the last one, or there
    /// is nothing to gain and nothing to mend.
    fn wider(&self, number: u32) -> Option<(Writes, u64)> {
        let header = &self.header;
        let mine = self.partitions.iter().find(|p| p.number == number)?;
        if self.partitions.iter().any(|p| p.last_lba > mine.last_lba) {
            return None;
        }
        let (end, entry_blocks) = (self.blocks.checked_sub(1)?, header.bytes().div_ceil(self.block_bytes));
        let usable = end.checked_sub(entry_blocks + 1)?;
        let align = ALIGN_BYTES / self.block_bytes;
        let widest = ((usable + 1) / align * align).checked_sub(1)?;
        let gains = widest >= mine.last_lba + align;
        if !gains && self.at == 1 {
            return None;
        }
        let last = if gains { widest } else { mine.last_lba };
        let mut entries = self.entries.clone();
        let entry = usize::try_from(u64::from(number - 1) * u64::from(header.entry_bytes)).ok()?;
        put(&mut entries, entry + 40, &last.to_le_bytes())?;
        let first_entries = if self.at == 1 { header.entries_lba } else { 2 };
        let copy = self.header(end, 1, usable, end - entry_blocks, &entries)?;
        let first = self.header(1, end, usable, first_entries, &entries)?;
        Some(([vec![(end - entry_blocks, entries.clone()), (end, copy)], vec![(first_entries, entries), (1, first)]], last))
    }

    /// The header's block for one of the two places.
    fn header(&self, at: u64, other: u64, usable: u64, entries_at: u64, entries: &[u8]) -> Option<Vec<u8>> {
        let mut head = self.head.clone();
        for (to, value) in [(24, at), (32, other), (48, usable), (72, entries_at)] {
            put(&mut head, to, &value.to_le_bytes())?;
        }
        put(&mut head, 88, &Crc::new().add(entries).value().to_le_bytes())?;
        put(&mut head, 16, &[0; 4])?;
        let whole = head.get(..usize::try_from(u32_at(&head, 12)).ok()?)?;
        let crc = Crc::new().add(whole).value();
        put(&mut head, 16, &crc.to_le_bytes())?;
        Some(head)
    }
}

/// The protective MBR for a disk of so many blocks, if it is one and says otherwise.
fn protective(mbr: &[u8], blocks: u64) -> Option<Vec<u8>> {
    let size = u32::try_from(blocks.checked_sub(1)?).unwrap_or(u32::MAX);
    if mbr.get(510..512)? != [0x55, 0xaa] || *mbr.get(450)? != 0xee || u32_at(mbr, 458) == size {
        return None;
    }
    let mut mbr = mbr.to_vec();
    put(&mut mbr, 458, &size.to_le_bytes())?;
    Some(mbr)
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    block.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

/// Makes a partition as large as its disk allows, on the disk and for the kernel. Anything but a last partition is left alone.
pub fn widen(disks: &mut Disks, block: &Block, say: &dyn Fn(&str)) -> Done {
    let Some((table, partition)) = disks.partition_of(block) else { return Ok(()) };
    let Some((writes, last)) = table.wider(partition.number) else { return Ok(()) };
    let path = format!("/dev/{}", block.disk);
    let words = || format!("write the partition table of {path}");
    let disk = File::options().read(true).write(true).open(&path).doing(words)?;
    let mut mbr = vec![0; usize::try_from(table.block_bytes).unwrap_or(512)];
    disk.read_exact_at(&mut mbr, 0).doing(words)?;
    for group in &writes {
        for (lba, bytes) in group {
            disk.write_all_at(bytes, lba * table.block_bytes).doing(words)?;
        }
        disk.sync_data().doing(words)?;
    }
    if let Some(mbr) = protective(&mbr, table.blocks) {
        disk.write_all_at(&mbr, 0).and_then(|()| disk.sync_data()).doing(words)?;
    }
    resize(&disk, &table, &partition, last).doing(|| format!("tell the kernel how large {} is", block.path()))?;
    let mib = |last: u64| ((last + 1 - partition.first_lba) * table.block_bytes) >> 20;
    if last > partition.last_lba {
        say(&format!("{}: partition grown from {} to {} MiB", block.path(), mib(partition.last_lba), mib(last)));
    } else {
        say(&format!("{path}: partition table mended from its copy"));
    }
    Ok(())
}

fn resize(disk: &File, table: &Table, partition: &Partition, last: u64) -> Result<(), Failure> {
    let bytes = |lba: u64| lba.checked_mul(table.block_bytes).and_then(|n| i64::try_from(n).ok());
    let sizes = bytes(partition.first_lba).zip(last.checked_add(1).and_then(bytes)).zip(i32::try_from(partition.number).ok());
    let ((start, end), number) = sizes.ok_or_else(|| Failure::new("read the partition table", "numbers beyond any disk"))?;
    crate::sys::resize_partition(disk, number, start, end - start).doing(|| "BLKPG_RESIZE_PARTITION")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::gpt::tests::disk;
    use crate::gpt::{Broken, u64_at};

    /// Two partitions: 2048-4095 and 4096-6143 of 512-byte blocks.
    fn table(blocks: u64) -> Table {
        let (head, entries) = disk(&["root", "state"]);
        whole(blocks, 1, head, entries)
    }

    fn whole(blocks: u64, at: u64, head: Vec<u8>, entries: Vec<u8>) -> Table {
        let header = Header::read(&head, at).unwrap();
        let partitions = header.partitions(&entries).unwrap();
        Table { block_bytes: 512, blocks, at, header, partitions, head, entries }
    }

    /// A disk as it is after the first so many groups of writes.
    fn written(table: &Table, writes: &Writes, groups: usize) -> Vec<u8> {
        let mut disk = vec![0; usize::try_from(table.blocks * 512).unwrap()];
        disk[512..1024].copy_from_slice(&table.head);
        disk[1024..1024 + table.entries.len()].copy_from_slice(&table.entries);
        for (lba, bytes) in writes.iter().take(groups).flatten() {
            let at = usize::try_from(lba * 512).unwrap();
            disk[at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk
    }

    fn read(disk: &[u8], lba: u64) -> Result<Vec<Partition>, Broken> {
        let at = |lba: u64| usize::try_from(lba * 512).unwrap();
        let header = Header::read(&disk[at(lba)..at(lba + 1)], lba)?;
        header.partitions(&disk[at(header.entries_lba)..])
    }

    #[test]
    fn the_last_partition_grows_to_the_end_of_the_disk_and_both_tables_say_so() {
        let table = table(20_000);
        let (writes, last) = table.wider(2).unwrap();
        assert_eq!(last, 18_431, "whole MiB, before the copy's entries");
        let disk = written(&table, &writes, 2);
        let (first, copy) = (read(&disk, 1).unwrap(), read(&disk, 19_999).unwrap());
        assert_eq!(first, copy);
        assert_eq!(first.iter().map(|p| (p.first_lba, p.last_lba)).collect::<Vec<_>>(), [(2048, 4095), (4096, 18_431)]);
        let (head, tail) = (&disk[512..1024], &disk[19_999 * 512..]);
        assert_eq!((u64_at(head, 24), u64_at(head, 32), u64_at(head, 48)), (1, 19_999, 19_966));
        assert_eq!((u64_at(tail, 24), u64_at(tail, 32), u64_at(tail, 72)), (19_999, 1, 19_967));
    }

    #[test]
    fn after_a_power_cut_between_the_two_one_is_whole() {
        let table = table(20_000);
        let (writes, _) = table.wider(2).unwrap();
        let disk = written(&table, &writes, 1);
        assert_eq!(read(&disk, 1).unwrap()[1].last_lba, 6143);
        assert_eq!(read(&disk, 19_999).unwrap()[1].last_lba, 18_431);
        // The entries of the first are new and its header is not: the copy is what counts, and mends it without growing again.
        let mut half = written(&table, &writes, 2);
        half[512..1024].copy_from_slice(&table.head);
        assert_eq!(read(&half, 1), Err(Broken::EntriesChecksum));
        let copy = whole(table.blocks, 19_999, half[19_999 * 512..].to_vec(), writes[0][0].1.clone());
        let (writes, last) = copy.wider(2).unwrap();
        assert_eq!(last, 18_431);
        assert_eq!(read(&written(&copy, &writes, 2), 1).unwrap()[1].last_lba, 18_431);
    }

    #[test]
    fn nothing_to_gain_or_another_behind_it_is_left_alone() {
        assert!(table(20_000).wider(1).is_none(), "not the last");
        assert!(table(20_000).wider(3).is_none(), "not there");
        assert!(table(6144 + 34).wider(2).is_none(), "the disk ends there");
        assert!(table(6144 + 2047).wider(2).is_none(), "less than a MiB");
        assert!(table(100).wider(2).is_none(), "a table of another disk");
    }

    #[test]
    fn a_protective_mbr_says_how_large_the_disk_is() {
        let mut mbr = vec![0u8; 512];
        assert!(protective(&mbr, 20_000).is_none());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr[450] = 0xee;
        assert_eq!(u32_at(&protective(&mbr, 20_000).unwrap(), 458), 19_999);
        assert_eq!(u32_at(&protective(&mbr, 1 << 40).unwrap(), 458), u32::MAX);
        let done = protective(&mbr, 20_000).unwrap();
        assert!(protective(&done, 20_000).is_none());
    }
}
