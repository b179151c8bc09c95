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
}

/// Stops the pods; ends when the supervisor has.
pub const SHUTDOWN: [&str; 2] = ["/usr/bin/plinth", "shutdown"];

/// What this machine runs. `port`: the Ethernet port, where there is one.
pub fn table(words: &Words, port: Option<&str>) -> Vec<Entry> {
    let containerd = Spec { name: "containerd", after: None, notifies: true, watchdog_ms: None, fds_max: 0, grace_ms: 10_000 };
    // As in the systemd unit: a watchdog of 30 s, and two log pipes a container for some 250 containers.
    let plinth =
        Spec { name: "plinth", after: Some("containerd"), notifies: true, watchdog_ms: Some(30_000), fds_max: 512, grace_ms: 5_000 };
    let dhcp = Spec { name: "dhcp", after: None, notifies: false, watchdog_ms: None, fds_max: 0, grace_ms: 2_000 };
    let args = |argv: &[&str]| argv.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let mut table = vec![
        Entry { spec: containerd, argv: args(&["/usr/bin/containerd"]), oom: -999, files: 1 << 20 },
        Entry { spec: plinth, argv: args(&["/usr/bin/plinth", "run"]), oom: -999, files: 65_536 },
    ];
    if let (Some(Ip::Dhcp), Some(port)) = (&words.ip, port) {
        // -f foreground, -R give the address back at the end, -t/-T/-A: three tries a second apart, again after 10 s.
        let argv = args(&["/bin/busybox", "udhcpc", "-f", "-R", "-t", "3", "-T", "1", "-A", "10", "-i", port, "-s", crate::stage1::NEXT]);
        table.push(Entry { spec: dhcp, argv, oom: -900, files: 1024 });
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dhcp_client_runs_only_where_it_is_wanted_and_can() {
        let names = |ip, port| table(&Words { ip, ..Words::default() }, port).iter().map(|e| e.spec.name).collect::<Vec<_>>();
        assert_eq!(names(None, Some("eth0")), ["containerd", "plinth"]);
        assert_eq!(names(Some(Ip::Dhcp), None), ["containerd", "plinth"]);
        assert_eq!(names(Some(Ip::Dhcp), Some("eth0")), ["containerd", "plinth", "dhcp"]);
    }
}
