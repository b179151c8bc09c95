//! Gives memory back that is held and not used: what only the start and the last burst of work needed.
//!
//! ```text
//!  a mapping of a file, not writable, no page of it our own ──> MADV_DONTNEED: stays in the page cache, the next use maps it again
//!  free pages within the heap                               ──> malloc_trim
//! ```

use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// At once. The next use of what was given back costs a minor fault for every 64 KiB, about a microsecond each. After a
/// failure it is only held longer.
#[expect(unsafe_code, reason = "madvise takes an address; malloc_trim is C")]
pub fn give_back() -> io::Result<()> {
    for range in untouched(&std::fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: a private mapping of a file without a page of its own is the same file's pages after it; nothing but the loader maps here.
        unsafe { madvise(std::ptr::with_exposed_provenance_mut(range.start), range.len(), Advice::LinuxDontNeed) }?;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and no pointer; one thread, so nobody allocates meanwhile.
    unsafe {
        nix::libc::malloc_trim(0);
    }
    Ok(())
}

/// The mappings of /proc/self/smaps that are as the file is: of a file, not writable, and `Anonymous: 0`, so neither written to nor
/// relocated by the loader.
fn untouched(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match first.split_once('-') {
            // `7f1b161c2000-7f1b16724000 r-xp 001c1000 fe:00 10676495 /usr/bin/plinth`; an inode of 0 is no file.
            Some((from, to)) => {
                let is_file =
                    words.next().is_some_and(|rights| rights.starts_with("r-") && rights.ends_with('p')) && words.nth(2) != Some("0");
                let range = usize::from_str_radix(from, 16).ok().zip(usize::from_str_radix(to, 16).ok());
                candidate = range.filter(|_| is_file).map(|(from, to)| from..to);
            }
            None if first == "Anonymous:" && words.next() == Some("0") => found.extend(candidate.take()),
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_the_file_is() {
        let smaps = "\
55f0a000-55f0b000 rw-p 00000000 00:00 0                          [heap]\nAnonymous:             0 kB\n\
1000-3000 r--p 00000000 fe:00 106 /usr/bin/plinth\nRss: 8 kB\nAnonymous:             0 kB\nVmFlags: rd mr mw me sd\n\
3000-7000 r-xp 00002000 fe:00 106 /usr/bin/plinth\nAnonymous:             0 kB\n\
7000-8000 r--p 00006000 fe:00 106 /usr/bin/plinth\nAnonymous:             4 kB\n\
8000-9000 rw-p 00007000 fe:00 106 /usr/bin/plinth\nAnonymous:             0 kB\n\
a000-b000 r--s 00000000 fe:00 107 /etc/shared\nAnonymous:             0 kB\n\
b000-c000 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n";
        assert_eq!(untouched(smaps), [0x1000..0x3000, 0x3000..0x7000]);
    }

    #[test]
    fn what_was_given_back_is_there_when_it_is_used() {
        assert!(give_back().is_ok());
        let used: Box<dyn Fn(&str) -> usize> = Box::new(|s| untouched(s).len());
        assert_eq!(used(""), 0);
    }
}
