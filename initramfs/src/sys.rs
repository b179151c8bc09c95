//! The only room with unsafe: ioctls without a safe name, and descriptors that arrive as numbers.

#![expect(unsafe_code, reason = "this room is where it is allowed")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Direction, Opcode, Setter, Updater, ioctl, opcode};

/// Bytes of `struct dm_ioctl` (linux/dm-ioctl.h), which the opcodes carry.
pub const DM_HEADER_BYTES: usize = 312;
/// A request with its targets behind it.
pub const DM_BYTES: usize = 4096;

/// A device-mapper request, as bytes.
#[repr(C, align(8))]
pub struct DmRequest(pub [u8; DM_BYTES]);

const fn dm(number: u8) -> Opcode {
    opcode::from_components(Direction::ReadWrite, 0xfd, number, DM_HEADER_BYTES)
}

/// DM_DEV_CREATE of linux/dm-ioctl.h.
pub const DM_DEV_CREATE: Opcode = dm(3);
/// DM_DEV_REMOVE.
pub const DM_DEV_REMOVE: Opcode = dm(4);
/// DM_DEV_SUSPEND, which also resumes.
pub const DM_DEV_SUSPEND: Opcode = dm(6);
/// DM_TABLE_LOAD.
pub const DM_TABLE_LOAD: Opcode = dm(9);

/// One device-mapper call.
pub fn dm_call<const OP: Opcode>(control: impl AsFd, request: &mut DmRequest) -> io::Result<()> {
    // The kernel takes the length from the request: never more than there is.
    request.0.get_mut(12..16).map(|b| b.copy_from_slice(&4096u32.to_ne_bytes())).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads and writes at most data_size bytes, which was just set to the buffer's; any bytes are valid in it.
    unsafe { ioctl(control, Updater::<OP, DmRequest>::new(request)) }.map_err(Into::into)
}

/// Bytes of a saved seed: as many as the kernel's own generator keys with.
pub const SEED_BYTES: usize = 32;

#[repr(C)]
struct RandPoolInfo {
    entropy_bits: i32,
    bytes: i32,
    seed: [u8; SEED_BYTES],
}

/// Feeds the kernel's generator and credits every bit.
pub fn add_entropy(random: impl AsFd, seed: [u8; SEED_BYTES]) -> io::Result<()> {
    // The opcode carries the size of the two integers alone.
    const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 3);
    let info = RandPoolInfo { entropy_bits: 8 * SEED_BYTES as i32, bytes: SEED_BYTES as i32, seed };
    // SAFETY: the kernel reads two integers and as many bytes as the second says: the struct's own.
    unsafe { ioctl(random, Setter::<RNDADDENTROPY, RandPoolInfo>::new(info)) }.map_err(Into::into)
}

/// Grows the mounted ext4 that `directory` is on.
pub fn grow_ext4(directory: impl AsFd, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: reads one 64-bit integer.
    unsafe { ioctl(directory, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }.map_err(Into::into)
}

/// The hardware clock as `struct rtc_time`: second, minute, hour, day, month from 0, years since 1900, and three of no use.
pub fn rtc_time(rtc: impl AsFd) -> io::Result<[i32; 9]> {
    const RTC_RD_TIME: Opcode = opcode::read::<[i32; 9]>(b'p', 9);
    let mut time = [0; 9];
    // SAFETY: writes nine integers.
    unsafe { ioctl(rtc, Updater::<RTC_RD_TIME, [i32; 9]>::new(&mut time)) }?;
    Ok(time)
}

#[repr(C)]
struct BlkpgPartition {
    start_bytes: i64,
    length_bytes: i64,
    number: i32,
    names: [u8; 128],
}

#[repr(C)]
struct BlkpgArg<'a> {
    operation: i32,
    flags: i32,
    bytes: i32,
    data: &'a BlkpgPartition,
}

/// Tells the kernel of a partition it has not found itself.
pub fn add_partition(disk: impl AsFd, number: i32, start_bytes: i64, length_bytes: i64) -> io::Result<()> {
    tell_of_partition(disk, 1, number, start_bytes, length_bytes)
}

/// Tells the kernel that a partition is larger than it was; it may be in use.
pub fn resize_partition(disk: impl AsFd, number: i32, start_bytes: i64, length_bytes: i64) -> io::Result<()> {
    tell_of_partition(disk, 3, number, start_bytes, length_bytes)
}

/// BLKPG of linux/blkpg.h: 1 is BLKPG_ADD_PARTITION, 3 BLKPG_RESIZE_PARTITION; the opcode carries no size.
fn tell_of_partition(disk: impl AsFd, operation: i32, number: i32, start_bytes: i64, length_bytes: i64) -> io::Result<()> {
    const BLKPG: Opcode = opcode::none(0x12, 105);
    let data = BlkpgPartition { start_bytes, length_bytes, number, names: [0; 128] };
    let bytes = i32::try_from(size_of::<BlkpgPartition>()).unwrap_or(0);
    // SAFETY: the kernel reads the argument and the partition it points to, both alive across the call.
    unsafe { ioctl(disk, Setter::<BLKPG, BlkpgArg<'_>>::new(BlkpgArg { operation, flags: 0, bytes, data: &data })) }.map_err(Into::into)
}

/// How long the hardware waits for its food; it answers what it took.
pub fn watchdog_timeout(watchdog: impl AsFd, mut seconds: i32) -> io::Result<i32> {
    const WDIOC_SETTIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
    // SAFETY: reads and writes one integer.
    unsafe { ioctl(watchdog, Updater::<WDIOC_SETTIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(seconds)
}

/// Puts the descriptors with these numbers at 3, 4, … in this order and leaves them open over exec.
pub fn place_from_3(numbers: &[i32]) -> io::Result<()> {
    let above = 3 + i32::try_from(numbers.len()).unwrap_or(i32::MAX - 3);
    let mut copies = Vec::with_capacity(numbers.len());
    for number in numbers {
        // SAFETY: borrowed for one call; a number that is not open is EBADF.
        let given = unsafe { BorrowedFd::borrow_raw(*number) };
        // Out of the way first: a source may lie where another goes.
        copies.push(rustix::io::fcntl_dupfd_cloexec(given, above)?);
    }
    for (at, copy) in (3..).zip(copies) {
        // SAFETY: owned only until it is forgotten: this process is about to become another program.
        let mut slot = unsafe { OwnedFd::from_raw_fd(at) };
        let placed = rustix::io::dup2(&copy, &mut slot);
        std::mem::forget(slot);
        placed?;
    }
    Ok(())
}
