//! Whether the kernel's out-of-memory killer was in a container's cgroup. containerd's oom event may come late or never.
//!
//! Reads one file, while the cgroup is still there: before the task is deleted. That it was anywhere because the whole machine ran out is
//! told as the kubelet tells it, an event of the node; the kernel says it in its log.

use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::Container;
use serde::Deserialize;

use super::Runtime;
use crate::plan::action::Event;
use crate::sys::kmsg::Kmsg;

/// A kernel that talks without end is listened to so many records a pause.
const RECORDS: u32 = 1000;
const PAUSE: Duration = Duration::from_secs(1);

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

/// Tells of each time the machine itself was out of memory; never ends. Where the kernel's log cannot be read nothing is told.
pub(super) async fn watch(rt: Rc<Runtime>) {
    let Err(e) = listen(&rt).await;
    log::debug!("read /dev/kmsg: {e}; that the machine is out of memory will not be told");
    std::future::pending().await
}

async fn listen(rt: &Runtime) -> std::io::Result<std::convert::Infallible> {
    let kernel = Kmsg::open()?;
    loop {
        for _ in 0..RECORDS {
            if let Some(message) = of_machine(&kernel.next().await?) {
                rt.tell(Event::Told { of: None, reason: "SystemOOM", message: message.into() });
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The kubelet's words, if the record says that somebody was killed because the whole machine had no memory left.
fn of_machine(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    // What others write there has a facility of theirs beside the level.
    head.split(',').next()?.parse::<u32>().ok().filter(|priority| *priority < 8)?;
    let text = text.strip_prefix("oom-kill:").filter(|t| t.split(',').any(|word| word == "global_oom"))?;
    let word = |key: &str| text.trim_end().split(',').find_map(|word| word.strip_prefix(key));
    let victim = word("task=").zip(word("pid=")).map(|(task, pid)| format!(", victim process: {task}, pid: {pid}"));
    Some(format!("System OOM encountered{}", victim.unwrap_or_default()))
}

fn kills(text: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_machine_without_memory_is_told_of() {
        let global = "6,1178,318442174,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/besteffort/podu/c,task=stress,pid=812,uid=0\n";
        assert_eq!(super::of_machine(global).as_deref(), Some("System OOM encountered, victim process: stress, pid: 812"));
        let own = "6,1178,318442174,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg=/kubepods/podu/c,task_memcg=/kubepods/podu/c,task=sh,pid=9,uid=0\n";
        assert_eq!(super::of_machine(own), None, "a container's own limit is its own affair");
        assert_eq!(super::of_machine(&global.replacen('6', "14", 1)), None, "not the kernel's own word");
        assert_eq!(super::of_machine("4,1,2,-;oom_reaper: reaped process 812 (stress), now anon-rss:0kB\n"), None);
    }

    #[test]
    fn kills_are_counted_in_both_formats() {
        assert_eq!(super::kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(super::kills("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(super::kills("oom_kill_disable 1\n"), 0);
    }
}
