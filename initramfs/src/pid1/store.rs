//! Descriptors a service has parked: kept while it is down, handed back at its next start (sd_pid_notify_with_fds(3), LISTEN_FDS).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::notify::Words;

/// One service's.
#[derive(Debug, Default)]
pub struct Store {
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    fd: OwnedFd,
    keep_closed: bool,
}

impl Store {
    /// Does what a message says; how many descriptors there was no room for.
    pub fn heed(&mut self, words: &Words, fds: Vec<OwnedFd>, max: usize) -> usize {
        if words.remove
            && let Some(name) = &words.name
        {
            self.kept.retain(|k| k.name != *name);
        }
        if !words.store {
            // BARRIER=1 and the like: closing it is the answer.
            return 0;
        }
        let mut refused = 0;
        for fd in fds {
            let name = words.name.clone().unwrap_or_else(|| "stored".into());
            if self.kept.iter().any(|k| k.name == name && same(&k.fd, &fd)) {
                continue;
            }
            if self.kept.len() >= max {
                refused += 1;
                continue;
            }
            self.kept.push(Kept { name, fd, keep_closed: words.keep_closed });
        }
        refused
    }

    /// Numbers and names, in order, for a start.
    pub fn handed(&self) -> (Vec<RawFd>, String) {
        let names: Vec<_> = self.kept.iter().map(|k| k.name.as_str()).collect();
        (self.kept.iter().map(|k| k.fd.as_raw_fd()).collect(), names.join(":"))
    }

    /// All of them.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.kept.iter().map(|k| k.fd.as_fd())
    }

    /// Those whose other end is watched.
    pub fn watched(&self) -> impl Iterator<Item = &OwnedFd> {
        self.kept.iter().filter(|k| !k.keep_closed).map(|k| &k.fd)
    }

    /// Forgets one whose other end was closed.
    pub fn forget(&mut self, number: RawFd) {
        self.kept.retain(|k| k.fd.as_raw_fd() != number);
    }
}

fn same(a: &OwnedFd, b: &OwnedFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::notify::words;
    use super::*;

    fn fd() -> OwnedFd {
        rustix::pipe::pipe().unwrap().0
    }

    #[test]
    fn what_is_parked_is_handed_back_in_order_until_it_is_removed() {
        let mut store = Store::default();
        for name in ["b", "a", "c"] {
            assert_eq!(store.heed(&words(&format!("FDSTORE=1\nFDNAME={name}")), vec![fd()], 9), 0);
        }
        assert_eq!((store.handed().0.len(), store.handed().1.as_str()), (3, "b:a:c"));
        store.heed(&words("FDSTOREREMOVE=1\nFDNAME=a"), vec![], 9);
        assert_eq!(store.handed().1, "b:c");
        store.heed(&words("FDSTORE=1"), vec![fd()], 9);
        assert_eq!(store.handed().1, "b:c:stored");
    }

    #[test]
    fn a_store_is_bounded_and_holds_nothing_twice() {
        let mut store = Store::default();
        let one = fd();
        let again = one.try_clone().unwrap();
        assert_eq!(store.heed(&words("FDSTORE=1\nFDNAME=x"), vec![one, again, fd(), fd()], 2), 1);
        assert_eq!(store.handed().0.len(), 2);
        assert_eq!(store.heed(&words("BARRIER=1"), vec![fd()], 9), 0);
        assert_eq!(store.handed().0.len(), 2);
    }
}
