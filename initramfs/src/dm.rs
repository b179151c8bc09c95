//! A verified block device: one read-only device-mapper device with one verity target. Never udev, never libdevmapper.

use std::fs::File;
use std::io;

use crate::sys::{DM_BYTES, DM_DEV_CREATE, DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_HEADER_BYTES, DM_TABLE_LOAD, DmRequest, dm_call};

/// DM_READONLY_FLAG.
const READONLY: u32 = 1;
/// Bytes of `struct dm_target_spec`.
const TARGET_BYTES: usize = 40;

/// Makes `/dev/<returned>` of a verity table. What fails half-way is taken away again.
pub fn verity(name: &str, sectors: u64, table: &str) -> io::Result<String> {
    let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
    let mut request = empty(name, 0).ok_or(io::ErrorKind::InvalidInput)?;
    dm_call::<DM_DEV_CREATE>(&control, &mut request)?;
    let minor = minor(&request);
    let start = || {
        let mut request = load(name, sectors, table).ok_or(io::ErrorKind::InvalidInput)?;
        dm_call::<DM_TABLE_LOAD>(&control, &mut request)?;
        // Without DM_SUSPEND_FLAG it resumes.
        dm_call::<DM_DEV_SUSPEND>(&control, &mut empty(name, READONLY).ok_or(io::ErrorKind::InvalidInput)?)
    };
    match start() {
        Ok(()) => Ok(format!("dm-{minor}")),
        Err(why) => {
            remove(name);
            Err(why)
        }
    }
}

/// Takes a device away.
pub fn remove(name: &str) {
    if let (Ok(control), Some(mut request)) = (File::options().read(true).write(true).open("/dev/mapper/control"), empty(name, 0)) {
        let _ = dm_call::<DM_DEV_REMOVE>(&control, &mut request);
    }
}

/// `struct dm_ioctl` with a name in it.
fn empty(name: &str, flags: u32) -> Option<DmRequest> {
    let mut request = DmRequest([0; DM_BYTES]);
    put(&mut request, 0, &4u32.to_ne_bytes())?;
    put(&mut request, 16, &u32::try_from(DM_HEADER_BYTES).ok()?.to_ne_bytes())?;
    put(&mut request, 28, &flags.to_ne_bytes())?;
    // 128 bytes with the NUL.
    (name.len() < 128).then(|| put(&mut request, 48, name.as_bytes()))??;
    Some(request)
}

fn load(name: &str, sectors: u64, table: &str) -> Option<DmRequest> {
    let mut request = empty(name, READONLY)?;
    put(&mut request, 20, &1u32.to_ne_bytes())?;
    put(&mut request, DM_HEADER_BYTES + 8, &sectors.to_ne_bytes())?;
    let params = DM_HEADER_BYTES + TARGET_BYTES;
    let next = (TARGET_BYTES + table.len() + 1).next_multiple_of(8);
    put(&mut request, DM_HEADER_BYTES + 20, &u32::try_from(next).ok()?.to_ne_bytes())?;
    put(&mut request, DM_HEADER_BYTES + 24, b"verity")?;
    (params + table.len() < DM_BYTES).then(|| put(&mut request, params, table.as_bytes()))??;
    Some(request)
}

fn put(request: &mut DmRequest, at: usize, bytes: &[u8]) -> Option<()> {
    request.0.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

/// Of `dev`, as the kernel's new_encode_dev packs it.
fn minor(request: &DmRequest) -> u64 {
    let dev = crate::gpt::u64_at(&request.0, 40);
    (dev & 0xff) | (dev >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = load("plinth-root", 8000, "1 254:1").unwrap().0;
        assert_eq!(&request[48..60], b"plinth-root\0");
        assert_eq!((request[16], request[17], request[20], request[28]), (56, 1, 1, 1), "data_start 312, one target, read-only");
        assert_eq!(&request[312..328], [0u64.to_ne_bytes(), 8000u64.to_ne_bytes()].concat());
        assert_eq!(request[332], 48, "the next target would begin at a multiple of 8");
        assert_eq!((&request[336..343], &request[352..360]), (&b"verity\0"[..], &b"1 254:1\0"[..]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(empty(&"n".repeat(128), 0).is_none());
        assert!(load("n", 8, &"t".repeat(DM_BYTES)).is_none());
    }

    #[test]
    fn a_minor_number_above_255_is_read() {
        let mut request = empty("n", 0).unwrap();
        put(&mut request, 40, &((253u64 << 8) | 0x34 | (0x12 << 20)).to_ne_bytes()).unwrap();
        assert_eq!(minor(&request), 0x1234);
    }
}
