//! The services of the image: this table is all there is. What is not in it is not started.

use super::service::Spec;
use crate::cmdline::{Ip, Words};

/// One service and how it is started.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How it lives.
    pub spec: Spec,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `oom_score_adj`: the kubelet's own for itself and its runtime.
    pub oom: i32,
    /// RLIMIT_NOFILE.
    pub files: u64,
    /// The directory of its log: one that is always asking would keep the disk from its rest.
    pub logs: &'static str,
}

/// Drivers, kernel settings and the network's address, once.
pub const SETTLE: &str = "settle";
/// The DHCP client.
pub const DHCP: &str = "dhcp";
/// Stops the pods; ends when the supervisor has.
pub const SHUTDOWN: [&str; 2] = ["/usr/bin/plinth", "shutdown"];

/// What this machine runs. What needs no driver but the disk's starts at once: the others' are loaded beside it.
pub fn table(words: &Words) -> Vec<Entry> {
    let plain = Spec { name: "", after: &[], once: false, notifies: false, watchdog_ms: None, fds_max: 0, grace_ms: 2_000 };
    let containerd = Spec { name: "containerd", notifies: true, grace_ms: 10_000, ..plain };
    let settle = Spec { name: SETTLE, once: true, ..plain };
    // As in the systemd unit: a watchdog of 30 s, and two log pipes a container for some 250 containers.
    let plinth = Spec {
        name: "plinth",
        after: &["containerd", SETTLE],
        notifies: true,
        watchdog_ms: Some(30_000),
        fds_max: 512,
        grace_ms: 5_000,
        ..plain
    };
    let entry = |spec, argv: &[&str], oom, files| Entry {
        spec,
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        oom,
        files,
        logs: "/var/log",
    };
    let mut table = vec![
        entry(containerd, &["/usr/bin/containerd"], -999, 1 << 20),
        entry(settle, &["/proc/self/exe", SETTLE], 0, 1024),
        entry(plinth, &["/usr/bin/plinth", "run"], -999, 65_536),
    ];
    if words.ip == Some(Ip::Dhcp) {
        let dhcp = Spec { name: DHCP, after: &[SETTLE], ..plain };
        table.push(Entry { logs: "/run", ..entry(dhcp, &["/proc/self/exe", DHCP], -900, 1024) });
    }
    table
}

/// The DHCP client on a port, which takes our place: -f foreground, -R give the address back at the end, -t/-T/-A: three tries a
/// second apart, again after 10 s.
pub fn dhcp(port: &str) -> [&str; 14] {
    ["/bin/busybox", "udhcpc", "-f", "-R", "-t", "3", "-T", "1", "-A", "10", "-i", port, "-s", crate::stage1::NEXT]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dhcp_client_runs_only_where_it_is_wanted() {
        let names = |ip| table(&Words { ip, ..Words::default() }).iter().map(|e| e.spec.name).collect::<Vec<_>>();
        assert_eq!(names(None), ["containerd", "settle", "plinth"]);
        assert_eq!(names(Some(Ip::Dhcp)), ["containerd", "settle", "plinth", "dhcp"]);
    }

    #[test]
    fn everybody_waits_for_somebody_there_is() {
        let table = table(&Words { ip: Some(Ip::Dhcp), ..Words::default() });
        let names: Vec<_> = table.iter().map(|e| e.spec.name).collect();
        assert!(table.iter().flat_map(|e| e.spec.after).all(|a| names.contains(a)));
    }
}
