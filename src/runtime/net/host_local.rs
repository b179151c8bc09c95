//! The address book of CNI's `host-local`: one file an address, named after it, that says whose it is. The same directory, names, contents
//! and lock as the plugin's, so that either may give back what the other took.
//!
//! Knows one set of IPv4 ranges; whatever else is written there is the plugin's business (`None`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::{INTERFACE, lock};

/// Where the plugin keeps its books if nothing is said.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// The address that was given last, so that one just given back is not the next one given. The number is the range set's.
const LAST: &str = "last_reserved_ip.0";

/// `ipam`, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Conf {
    r#type: String,
    #[serde(default)]
    data_dir: String,
    #[serde(default)]
    ranges: Vec<Vec<RangeConf>>,
    /// With the rest of a range, the older way to write one.
    subnet: Option<String>,
    range_start: Option<Ipv4Addr>,
    range_end: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    /// Passed on.
    #[serde(default)]
    pub routes: Vec<RouteConf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RangeConf {
    subnet: String,
    range_start: Option<Ipv4Addr>,
    range_end: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
}

/// One route of the pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConf {
    /// Where to.
    pub dst: String,
    /// Through whom; `None`: the gateway of the pod's address.
    pub gw: Option<Ipv4Addr>,
}

/// Addresses to give away, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    end: u32,
    prefix: u8,
    gateway: Ipv4Addr,
}

/// The books of one network.
#[derive(Debug)]
pub struct HostLocal {
    dir: PathBuf,
    ranges: Vec<Range>,
}

/// An address that is a pod's now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Itself.
    pub addr: Ipv4Addr,
    /// Of its subnet.
    pub prefix: u8,
    /// Of its range.
    pub gateway: Ipv4Addr,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The disk.
    #[error("{verb} {path}: {source}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else keeps the books open.
    #[error("wait for {path}: another process has held it for {seconds} s; see who with `fuser {path}`")]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// All are given.
    #[error("find a free address: all {count} are taken, see the files in {dir}; those of containers that are gone may be removed")]
    Full {
        /// So many.
        count: usize,
        /// Where they are written down.
        dir: PathBuf,
    },
}

/// `10.0.0.0/8`, with no bit set behind the prefix.
pub fn subnet(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (addr, prefix) = text.split_once('/')?;
    let (addr, prefix): (Ipv4Addr, u8) = (addr.parse().ok()?, prefix.parse().ok().filter(|p| *p <= 32)?);
    (addr.to_bits() & host_bits(prefix) == 0).then_some((addr, prefix))
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

impl Range {
    fn read(conf: &RangeConf) -> Option<Range> {
        let (network, prefix) = subnet(&conf.subnet)?;
        // A smaller one has no address to give.
        let (first, last) = (prefix <= 30).then(|| (network.to_bits() + 1, network.to_bits() | host_bits(prefix)))?;
        let start = conf.range_start.map_or(first, Ipv4Addr::to_bits);
        // Without the broadcast address, unless it is asked for.
        let end = conf.range_end.map_or(last - 1, Ipv4Addr::to_bits);
        let gateway = conf.gateway.unwrap_or(Ipv4Addr::from_bits(first));
        (first - 1 <= start && start <= end && end <= last).then_some(Range { start, end, prefix, gateway })
    }

    fn len(&self) -> u64 {
        u64::from(self.end - self.start) + 1
    }

    fn holds(&self, addr: Ipv4Addr) -> bool {
        (self.start..=self.end).contains(&addr.to_bits())
    }
}

fn overlap(ranges: &[Range]) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|r| r.start);
    sorted.windows(2).any(|two| matches!(two, [a, b] if b.start <= a.end))
}

/// Every address once, the one behind `last` first, gateways left out.
fn candidates(ranges: &[Range], last: Option<Ipv4Addr>) -> impl Iterator<Item = Lease> {
    let count: u64 = ranges.iter().map(Range::len).sum();
    let before = |addr: Ipv4Addr| {
        let at = ranges.iter().position(|r| r.holds(addr))?;
        let offset: u64 = ranges.iter().take(at).map(Range::len).sum();
        Some(offset + u64::from(addr.to_bits() - ranges.get(at)?.start) + 1)
    };
    let first = last.and_then(before).unwrap_or(0);
    let lease = move |at: u64| {
        let mut at = (first + at) % count;
        let range = ranges.iter().find(|r| {
            at < r.len() || {
                at -= r.len();
                false
            }
        })?;
        let addr = Ipv4Addr::from_bits(range.start + u32::try_from(at).ok()?);
        (addr != range.gateway).then_some(Lease { addr, prefix: range.prefix, gateway: range.gateway })
    };
    (0..count).filter_map(lease)
}

impl HostLocal {
    /// Understands it, or leaves it to the plugin.
    pub fn read(conf: &Conf, network: &str) -> Option<HostLocal> {
        let old = conf.subnet.as_ref().map(|subnet| RangeConf {
            subnet: subnet.clone(),
            range_start: conf.range_start,
            range_end: conf.range_end,
            gateway: conf.gateway,
        });
        let has_half_of_one = [conf.range_start, conf.range_end, conf.gateway].iter().any(Option::is_some) && old.is_none();
        let set: &[RangeConf] = match (&old, conf.ranges.as_slice()) {
            (Some(old), []) => std::slice::from_ref(old),
            (None, [set]) => set,
            _ => return None,
        };
        let ranges: Option<Vec<Range>> = set.iter().map(Range::read).collect();
        let ranges = ranges.filter(|r| !r.is_empty() && !overlap(r) && conf.r#type == "host-local" && !has_half_of_one)?;
        let data_dir = if conf.data_dir.is_empty() { DATA_DIR } else { &conf.data_dir };
        Some(HostLocal { dir: Path::new(data_dir).join(network), ranges })
    }

    /// An address that nobody has, `id`'s from now on. What it had is given back: who asks has no network on record.
    pub async fn take(&self, id: &str, patience: Duration) -> Result<Lease, AddressError> {
        let _lock = self.lock(patience).await?;
        self.release(id)?;
        let last = std::fs::read_to_string(self.dir.join(LAST)).ok().and_then(|t| t.trim().parse().ok());
        for lease in candidates(&self.ranges, last) {
            if self.reserve(id, lease.addr)? {
                let path = self.dir.join(LAST);
                let how = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
                how.and_then(|mut f| f.write_all(lease.addr.to_string().as_bytes())).map_err(file("write", &path))?;
                return Ok(lease);
            }
        }
        Err(AddressError::Full { count: candidates(&self.ranges, None).count(), dir: self.dir.clone() })
    }

    /// False: somebody has it. A file with nothing in it is nobody's: whoever made it holds the lock until it is written, and lost power.
    fn reserve(&self, id: &str, addr: Ipv4Addr) -> Result<bool, AddressError> {
        let path = self.dir.join(addr.to_string());
        let mut made = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let found = OpenOptions::new().write(true).open(&path).map_err(file("open", &path))?;
                if found.metadata().map_err(file("look at", &path))?.len() > 0 {
                    return Ok(false);
                }
                found
            }
            opened => opened.map_err(file("make", &path))?,
        };
        let written = made.write_all(format!("{id}\r\n{INTERFACE}").as_bytes());
        written.inspect_err(|_| drop(std::fs::remove_file(&path))).map_err(file("write", &path))?;
        Ok(true)
    }

    /// Gives back what `id` has, which may be nothing.
    pub async fn give_back(&self, id: &str, patience: Duration) -> Result<(), AddressError> {
        if !self.dir.try_exists().map_err(file("look for", &self.dir))? {
            return Ok(());
        }
        let _lock = self.lock(patience).await?;
        self.release(id)
    }

    /// With the lock held. What cannot be read might be its own: that is an error, and tried again.
    fn release(&self, id: &str) -> Result<(), AddressError> {
        // The second is how an old plugin wrote it.
        let own = [format!("{id}\r\n{INTERFACE}"), id.to_owned()];
        for entry in std::fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let path = entry.map_err(file("read", &self.dir))?.path();
            if is_address(&path) {
                let text = std::fs::read(&path).map_err(file("read", &path))?;
                if own.iter().any(|own| own.as_bytes() == text.trim_ascii()) {
                    std::fs::remove_file(&path).map_err(file("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    async fn lock(&self, patience: Duration) -> Result<Held, AddressError> {
        let path = self.dir.join("lock");
        let opened = DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
        let opened =
            opened.and_then(|()| OpenOptions::new().create(true).append(true).mode(0o600).open(&path)).map_err(file("open", &path))?;
        match lock::wait(&opened, patience).await.map_err(file("lock", &path))? {
            true => Ok(Held(opened)),
            false => Err(AddressError::Busy { path, seconds: patience.as_secs() }),
        }
    }
}

fn is_address(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<Ipv4Addr>().is_ok())
}

/// The lock, given back on drop and not when the last process that inherited the file ends.
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AddressError {
    let path = path.to_path_buf();
    move |source| AddressError::File { verb, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn ranges(conf: Value) -> Option<Vec<Range>> {
        HostLocal::read(&serde_json::from_value(conf).ok()?, "n").map(|b| b.ranges)
    }

    fn given(conf: Value, last: &str) -> Vec<String> {
        candidates(&ranges(conf).unwrap(), last.parse().ok()).map(|l| l.addr.to_string()).collect()
    }

    #[test]
    fn each_address_is_tried_once_from_the_last_given_on() {
        let two =
            json!({ "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/29", "rangeEnd": "10.0.0.3" }, { "subnet": "10.0.1.0/30" }]] });
        assert_eq!(given(two.clone(), ""), ["10.0.0.2", "10.0.0.3", "10.0.1.2"]);
        assert_eq!(given(two.clone(), "10.0.0.2"), ["10.0.0.3", "10.0.1.2", "10.0.0.2"]);
        assert_eq!(given(two.clone(), "10.0.1.2"), ["10.0.0.2", "10.0.0.3", "10.0.1.2"]);
        assert_eq!(given(two, "192.0.2.1"), ["10.0.0.2", "10.0.0.3", "10.0.1.2"]);
        let all = json!({ "type": "host-local", "subnet": "0.0.0.0/0", "rangeStart": "255.255.255.253", "rangeEnd": "255.255.255.255" });
        assert_eq!(given(all, "255.255.255.254"), ["255.255.255.255", "255.255.255.253", "255.255.255.254"]);
    }

    #[test]
    fn what_the_plugin_would_refuse_or_alone_understands_is_left_to_it() {
        let fine = json!({ "type": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "gateway": "10.0.0.7" });
        let range = Range { start: 0x0a00_0009, end: 0x0a00_00fe, prefix: 24, gateway: [10, 0, 0, 7].into() };
        assert_eq!(ranges(fine.clone()), Some(vec![range]));
        let changes = [
            ("type", json!("dhcp")),
            ("resolvConf", json!("/etc/resolv.conf")),
            ("subnet", json!("10.0.0.1/24")),
            ("subnet", json!("10.0.0.0/31")),
            ("subnet", json!("fd00::/64")),
            ("subnet", Value::Null),
            ("rangeStart", json!("10.0.1.1")),
            ("rangeEnd", json!("10.0.0.8")),
            ("ranges", json!([[{ "subnet": "10.1.0.0/24" }]])),
            ("routes", json!([{ "dst": "0.0.0.0/0", "mtu": 1400 }])),
        ];
        for (key, value) in changes {
            let mut conf = fine.clone();
            conf.as_object_mut().unwrap().insert(key.into(), value.clone());
            assert_eq!(ranges(conf), None, "{key}: {value}");
        }
        assert_eq!(ranges(json!({ "type": "host-local", "ranges": [[]] })), None);
        let twice = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/24" }, { "subnet": "10.0.0.0/28" }]] });
        assert_eq!(ranges(twice), None);
        let dual = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "10.0.1.0/24" }]] });
        assert_eq!(ranges(dual), None);
    }

    #[test]
    fn nobody_has_two_addresses_and_a_file_cut_short_by_a_power_loss_costs_none() {
        let dir = std::env::temp_dir().join(format!("pltest-book-{}", std::process::id()));
        let conf = json!({ "type": "host-local", "dataDir": dir, "subnet": "10.0.0.0/29" });
        let book = HostLocal::read(&serde_json::from_value(conf).unwrap(), "n").unwrap();
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let take = |id: &str| rt.block_on(book.take(id, Duration::from_secs(5))).map(|l| l.addr.to_string()).map_err(|e| e.to_string());
        let give_back = |id: &str| rt.block_on(book.give_back(id, Duration::from_secs(5))).unwrap();
        give_back("nobody");
        assert_eq!(take("a").as_deref(), Ok("10.0.0.2"));
        std::fs::write(dir.join("n/10.0.0.3"), "").unwrap();
        assert_eq!(take("b").as_deref(), Ok("10.0.0.3"));
        // Its record is lost.
        assert_eq!(take("a").as_deref(), Ok("10.0.0.4"));
        assert!(!dir.join("n/10.0.0.2").exists());
        std::fs::write(dir.join("n/10.0.0.5"), "another").unwrap();
        assert_eq!((take("c").as_deref(), take("d").as_deref()), (Ok("10.0.0.6"), Ok("10.0.0.2")));
        assert!(take("e").unwrap_err().starts_with("find a free address: all 5 are taken"));
        ["a", "b", "c", "d"].iter().for_each(|id| give_back(id));
        let mut left: Vec<_> = std::fs::read_dir(dir.join("n")).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["10.0.0.5", "last_reserved_ip.0", "lock"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
