//! What went through network interfaces, by the kernel's count. Of another network namespace it is read through the eyes of a process that
//! is in it: this one, which has one thread, never leaves its own.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// Those of our own namespace.
pub fn here() -> Vec<Interface> {
    parse(&std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

/// Those of the namespace that is pinned there, if this process is in it: its number may be another's by now.
pub fn seen_by(pid: u32, namespace: &Path) -> Option<Vec<Interface>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let is_same = inode(namespace)? == inode(Path::new(&format!("/proc/{pid}/ns/net")))?;
    is_same.then(|| parse(&text))
}

/// `/proc/net/dev`: two lines of headings, then `name: ` and sixteen numbers.
fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let at = |n: usize| numbers.get(n).copied();
        Some(Interface { name: name.trim().to_owned(), rx_bytes: at(0)?, rx_errors: at(2)?, tx_bytes: at(8)?, tx_errors: at(10)? })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1200      12    0    0    0     0          0         0     1200      12    0    0    0     0       0          0
  eth0: 90071992547409920 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17
";

    #[test]
    fn bytes_and_errors_are_found_in_their_columns() {
        let lo = Interface { name: "lo".into(), rx_bytes: 1200, tx_bytes: 1200, ..Interface::default() };
        let eth0 = Interface { name: "eth0".into(), rx_bytes: 90_071_992_547_409_920, rx_errors: 4, tx_bytes: 10, tx_errors: 12 };
        assert_eq!(parse(DEV), [lo, eth0]);
    }

    #[test]
    fn a_process_shows_only_the_namespace_it_is_in() {
        let own = Path::new("/proc/self/ns/net");
        assert_eq!(seen_by(std::process::id(), own).unwrap().first().map(|i| &*i.name), here().first().map(|i| &*i.name));
        assert_eq!(seen_by(std::process::id(), Path::new("/proc/self/ns/uts")), None);
        assert_eq!(seen_by(u32::MAX, own), None);
    }
}
