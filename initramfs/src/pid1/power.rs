//! The power button: KEY_POWER of any input device that has one (ACPI's, a keyboard's, a virtual machine's).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// KEY_POWER of linux/input-event-codes.h.
const KEY_POWER: u16 = 116;
/// Bytes of `struct input_event` on 64-bit: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;

/// Opens them all.
pub fn buttons() -> Vec<File> {
    let entries = fs::read_dir("/sys/class/input").into_iter().flatten().flatten();
    let events = entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with("event"));
    let powers = events.filter(|n| {
        let keys = fs::read_to_string(format!("/sys/class/input/{n}/device/capabilities/key"));
        keys.is_ok_and(|bits| has_bit(&bits, KEY_POWER.into()))
    });
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    powers.filter_map(|n| File::options().read(true).custom_flags(flags).open(format!("/dev/input/{n}")).ok()).collect()
}

/// A bitmap as sysfs writes it: 64-bit words in hexadecimal, the highest first.
fn has_bit(words: &str, bit: usize) -> bool {
    let word = words.split_whitespace().rev().nth(bit / 64).and_then(|w| u64::from_str_radix(w, 16).ok());
    word.is_some_and(|w| w >> (bit % 64) & 1 == 1)
}

/// Whether it was pressed, and whether the device is still there.
pub fn pressed(mut device: &File) -> (bool, bool) {
    let (mut pressed, mut events) = (false, [0u8; EVENT_BYTES * 16]);
    loop {
        match device.read(&mut events) {
            Ok(n) if n > 0 => pressed |= events.get(..n).unwrap_or_default().chunks_exact(EVENT_BYTES).any(is_press),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return (pressed, true),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return (pressed, false),
        }
    }
}

/// EV_KEY, KEY_POWER, down.
fn is_press(event: &[u8]) -> bool {
    let at = |i: usize| event.get(i..).and_then(|e| e.first_chunk()).map_or(0, |c| u16::from_ne_bytes(*c));
    (at(16), at(18), at(20), at(22)) == (1, KEY_POWER, 1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_key_is_told_from_other_keys() {
        assert!(has_bit("10000000000000 0", 116));
        assert!(!has_bit("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe", 0));
        assert!(!has_bit("0", 116) && !has_bit("", 116));
        let event = |kind: u16, code: u16, value: u32| {
            let mut e = vec![0u8; 16];
            e.extend(kind.to_ne_bytes());
            e.extend(code.to_ne_bytes());
            e.extend(value.to_ne_bytes());
            e
        };
        assert!(is_press(&event(1, KEY_POWER, 1)));
        for other in [event(1, KEY_POWER, 0), event(1, 30, 1), event(0, 0, 0), event(1, KEY_POWER, 2), Vec::new()] {
            assert!(!is_press(&other), "{other:?}");
        }
    }
}
