//! dm-verity, the pure part: where an erofs ends, what a hash tree's superblock says, the table the kernel is given.

use crate::gpt::{u32_at, u64_at};

/// Bytes of a verity superblock, and of what is read of an erofs.
pub const SUPERBLOCK_BYTES: usize = 512;
/// Where an erofs' superblock is.
pub const EROFS_AT: u64 = 1024;

/// How many bytes of its device an erofs takes, from its superblock (linux/fs/erofs/erofs_fs.h).
pub fn erofs_bytes(superblock: &[u8]) -> Option<u64> {
    let bits = u32::from(*superblock.get(12)?);
    if u32_at(superblock, 0) != 0xe0f5_e1e2 || !(9..=16).contains(&bits) {
        return None;
    }
    Some(u64::from(u32_at(superblock, 36)) << bits)
}

/// A hash tree, as `veritysetup format` describes it in its superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    hash_type: u32,
    algorithm: String,
    data_block_bytes: u32,
    hash_block_bytes: u32,
    data_blocks: u64,
    salt: String,
}

impl Tree {
    /// Reads a superblock; the complaint says what is wrong with it.
    pub fn read(sb: &[u8]) -> Result<Tree, String> {
        if sb.len() < SUPERBLOCK_BYTES || sb.get(..8) != Some(b"verity\0\0") {
            return Err("no verity superblock there".into());
        }
        let (version, hash_type) = (u32_at(sb, 8), u32_at(sb, 12));
        if version != 1 || hash_type > 1 {
            return Err(format!("verity superblock version {version} with hash type {hash_type} is not known"));
        }
        let name: Vec<u8> = sb.get(32..64).unwrap_or_default().iter().copied().take_while(|b| *b != 0).collect();
        // It becomes a word of a table: only what a hash can be called.
        let algorithm =
            String::from_utf8(name).ok().filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        let algorithm = algorithm.ok_or("verity superblock names no hash algorithm")?;
        let (data_block_bytes, hash_block_bytes, data_blocks) = (u32_at(sb, 64), u32_at(sb, 68), u64_at(sb, 72));
        for size in [data_block_bytes, hash_block_bytes] {
            if !size.is_power_of_two() || !(512..=65536).contains(&size) {
                return Err(format!("verity superblock has blocks of {size} bytes"));
            }
        }
        let salt_len = sb.get(80).map_or(0, |low| usize::from(*low)) + (sb.get(81).map_or(0, |high| usize::from(*high)) << 8);
        let salt = sb.get(88..88 + 256).and_then(|s| s.get(..salt_len)).ok_or("verity superblock has too long a salt")?;
        let fits = data_blocks > 0 && data_blocks.checked_mul(data_block_bytes.into()).is_some_and(|n| n < 1 << 50);
        if !fits {
            return Err(format!("verity superblock covers {data_blocks} blocks"));
        }
        Ok(Tree { hash_type, algorithm, data_block_bytes, hash_block_bytes, data_blocks, salt: hex(salt) })
    }

    /// 512-byte sectors the verified device has.
    pub fn sectors(&self) -> u64 {
        self.data_blocks * u64::from(self.data_block_bytes) / 512
    }

    /// The verity target's parameters (Documentation/admin-guide/device-mapper/verity.rst). Devices as `major:minor`; the superblock is
    /// at `at_bytes` of the hash device and the tree in the next hash block. The caller's root hash is what makes all of this true or not.
    pub fn table(&self, data: &str, hashes: &str, at_bytes: u64, root_hash: &str) -> String {
        let start = (at_bytes + SUPERBLOCK_BYTES as u64).div_ceil(self.hash_block_bytes.into());
        let salt = if self.salt.is_empty() { "-" } else { &self.salt };
        let Tree { hash_type, algorithm, data_block_bytes, hash_block_bytes, data_blocks, .. } = self;
        format!("{hash_type} {data} {hashes} {data_block_bytes} {hash_block_bytes} {data_blocks} {start} {algorithm} {root_hash} {salt}")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn superblock() -> Vec<u8> {
        let mut sb = vec![0u8; 512];
        sb[..8].copy_from_slice(b"verity\0\0");
        for (at, v) in [(8, 1u32), (12, 1), (64, 4096), (68, 4096), (72, 1000)] {
            sb[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        sb[32..38].copy_from_slice(b"sha256");
        sb[80] = 2;
        sb[88..90].copy_from_slice(&[0xab, 0x01]);
        sb
    }

    #[test]
    fn a_table_is_made_of_the_superblock_and_the_callers_hash() {
        let tree = Tree::read(&superblock()).unwrap();
        assert_eq!(tree.sectors(), 8000);
        let own = tree.table("254:1", "254:2", 0, "beef");
        assert_eq!(own, "1 254:1 254:2 4096 4096 1000 1 sha256 beef ab01", "own partition: the tree is in the second block");
        let appended = tree.table("254:1", "254:1", 1000 * 4096, "beef");
        assert_eq!(appended, "1 254:1 254:1 4096 4096 1000 1001 sha256 beef ab01");
    }

    #[test]
    fn no_salt_is_a_dash() {
        let mut sb = superblock();
        sb[80] = 0;
        assert!(Tree::read(&sb).unwrap().table("a", "b", 0, "c").ends_with(" c -"));
    }

    #[test]
    fn a_superblock_that_makes_no_sense_is_refused() {
        for (at, value) in [(0, 0), (8, 2), (12, 2), (32, 0), (33, b' '), (65, 0), (65, 3), (69, 0x50), (81, 2), (79, 0xff)] {
            let mut sb = superblock();
            sb[at] = value;
            assert!(Tree::read(&sb).is_err(), "{value} at {at}");
        }
        assert!(Tree::read(&superblock()[..500]).is_err());
    }

    #[test]
    fn an_erofs_tells_where_it_ends() {
        let mut sb = vec![0u8; 128];
        sb[..4].copy_from_slice(&0xe0f5_e1e2u32.to_le_bytes());
        sb[12] = 12;
        sb[36..40].copy_from_slice(&0x0010_0000u32.to_le_bytes());
        assert_eq!(erofs_bytes(&sb), Some(4 << 30));
        sb[12] = 40;
        assert_eq!(erofs_bytes(&sb), None);
        assert_eq!(erofs_bytes(&[0; 128]), None);
    }
}
