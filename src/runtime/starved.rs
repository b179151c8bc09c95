//! Whether the kernel's out-of-memory killer was in a container's cgroup. containerd's oom event may come late or never.
//!
//! Reads one file, while the cgroup is still there: before the task is deleted.

use containerd_client::services::v1::Container;
use serde::Deserialize;

/// Where the counter is: v1 `memory.oom_control`, v2 `memory.events`.
const PLACES: [(&str, &str); 2] = [("/sys/fs/cgroup/memory", "memory.oom_control"), ("/sys/fs/cgroup", "memory.events")];

#[derive(Deserialize)]
struct Spec {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(rename = "cgroupsPath")]
    cgroups_path: String,
}

/// True if a process of this container was killed for want of memory.
pub(super) fn by_cgroup(record: &Container) -> bool {
    let Some(spec) = &record.spec else { return false };
    let Ok(spec) = serde_json::from_slice::<Spec>(&spec.value) else { return false };
    let group = spec.linux.cgroups_path;
    if group.is_empty() || group.contains(':') {
        return false;
    }
    PLACES.iter().any(|(root, file)| {
        std::fs::read_to_string(format!("{root}/{}/{file}", group.trim_start_matches('/'))).is_ok_and(|t| kills(&t) > 0)
    })
}

fn kills(text: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn kills_are_counted_in_both_formats() {
        assert_eq!(super::kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(super::kills("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(super::kills("oom_kill_disable 1\n"), 0);
    }
}
