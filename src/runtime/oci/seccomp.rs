//! Seccomp profiles: Unconfined, Localhost (text handed in), and RuntimeDefault, which is containerd's default profile as data.
//!
//! It is containerd 2.3's, whatever containerd runs here: against 2.1's it knows the calls of kernels up to 6.13 and refuses
//! AF_ALG sockets besides AF_VSOCK ones.

use std::borrow::Cow;

use super::types::{Seccomp, Syscall, SyscallArg};
use super::{Input, OciError};

/// The container's profile; `None`: unconfined. `bounding` is its capability set, which opens further groups of calls.
pub fn of(input: &Input<'_>, bounding: &[String]) -> Result<Option<Seccomp>, OciError> {
    if input.privileged() {
        return Ok(None);
    }
    let own = input.security().and_then(|s| s.seccomp_profile.as_ref());
    let pods = input.pod_spec()?.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let wish = own.or(pods);
    let default = if input.node.seccomp_default { "RuntimeDefault" } else { "Unconfined" };
    let kind = wish.map_or(default, |w| w.type_.as_str());
    let container = || input.container.to_owned();
    match kind {
        "RuntimeDefault" | "Localhost" if !input.node.seccomp => Err(OciError::NoSeccomp { container: container() }),
        "RuntimeDefault" => Ok(Some(runtime_default(bounding, ARCH))),
        "Localhost" => {
            let profile = wish.and_then(|w| w.localhost_profile.clone()).unwrap_or_default();
            let refused = |what: String| OciError::SeccompProfile { container: container(), profile: profile.clone(), what };
            let text = input.seccomp_profile.ok_or_else(|| refused("the file was not read".into()))?;
            serde_json::from_str(text).map(Some).map_err(|e| refused(e.to_string()))
        }
        _ => Ok(None),
    }
}

/// Machine architectures the profile differs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names")]
pub enum Arch {
    X86_64,
    Aarch64,
    Riscv64,
    Other,
}

/// Ours.
pub const ARCH: Arch = if cfg!(target_arch = "x86_64") {
    Arch::X86_64
} else if cfg!(target_arch = "aarch64") {
    Arch::Aarch64
} else if cfg!(target_arch = "riscv64") {
    Arch::Riscv64
} else {
    Arch::Other
};

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: none of them without CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// `personality(2)`: PER_LINUX, PER_LINUX32, each with UNAME26 too, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls a capability opens.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// containerd's default profile for a container with these capabilities.
pub fn runtime_default(bounding: &[String], arch: Arch) -> Seccomp {
    let mut syscalls = vec![allow(ALWAYS)];
    for (op, value) in [("SCMP_CMP_LT", AF_ALG), ("SCMP_CMP_EQ", AF_ALG + 1), ("SCMP_CMP_GT", AF_VSOCK)] {
        // Three ranges, because two "not equal" on one argument would each let the other's family through.
        syscalls.push(allow_if("socket", value, 0, op));
    }
    syscalls.extend(PERSONALITIES.map(|p| allow_if("personality", p, 0, "SCMP_CMP_EQ")));
    syscalls.push(allow("process_vm_readv process_vm_writev ptrace"));
    syscalls.extend(of_arch(arch).map(allow));
    let has = |cap: &str| bounding.iter().any(|b| b == cap);
    syscalls.extend(BY_CAPABILITY.iter().filter(|(cap, _)| has(cap)).map(|(_, names)| allow(names)));
    if !has("CAP_SYS_ADMIN") {
        syscalls.push(allow_if("clone", CLONE_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ"));
        // ENOSYS makes C libraries fall back to clone, whose flags a filter can see.
        syscalls.push(Syscall { names: words("clone3"), action: ERRNO.into(), errno_ret: Some(ENOSYS), args: Vec::new() });
    }
    Seccomp { default_action: ERRNO.into(), architectures: architectures(arch), syscalls, ..Seccomp::default() }
}

fn architectures(arch: Arch) -> Vec<Cow<'static, str>> {
    words(match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64 SCMP_ARCH_X86 SCMP_ARCH_X32",
        Arch::Aarch64 => "SCMP_ARCH_ARM SCMP_ARCH_AARCH64",
        Arch::Riscv64 => "SCMP_ARCH_RISCV64",
        Arch::Other => "",
    })
}

fn of_arch(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::X86_64 => Some("arch_prctl modify_ldt"),
        Arch::Aarch64 => Some("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
        Arch::Riscv64 => Some("riscv_flush_icache riscv_hwprobe"),
        Arch::Other => None,
    }
}

fn words(text: &'static str) -> Vec<Cow<'static, str>> {
    text.split_ascii_whitespace().map(Cow::Borrowed).collect()
}

fn allow(names: &'static str) -> Syscall {
    Syscall { names: words(names), action: ALLOW.into(), errno_ret: None, args: Vec::new() }
}

fn allow_if(name: &'static str, value: u64, value_two: u64, op: &'static str) -> Syscall {
    Syscall { args: vec![SyscallArg { index: 0, value, value_two, op: op.into() }], ..allow(name) }
}

/// Calls every container may make.
const ALWAYS: &str = "\
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime \
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range \
connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark \
fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr \
fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 \
getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch \
inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit \
ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link \
linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules \
lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock \
mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep \
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 \
prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink \
readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 \
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer \
setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt \
setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall \
socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe \
utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile(caps: &[&str]) -> Seccomp {
        runtime_default(&caps.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>(), Arch::X86_64)
    }

    fn allowed(p: &Seccomp, call: &str) -> bool {
        p.syscalls.iter().any(|s| s.action == ALLOW && s.args.is_empty() && s.names.iter().any(|n| n == call))
    }

    #[test]
    fn ordinary_calls_are_allowed_and_dangerous_ones_are_not() {
        let p = profile(&[]);
        assert_eq!(p.default_action, ERRNO);
        for call in ["read", "openat", "clock_gettime", "wait4", "_llseek", "futex", "ptrace", "arch_prctl"] {
            assert!(allowed(&p, call), "{call}");
        }
        for call in [
            "mount",
            "reboot",
            "init_module",
            "kexec_load",
            "keyctl",
            "add_key",
            "unshare",
            "setns",
            "bpf",
            "clone",
            "socket",
            "io_uring_setup",
        ] {
            assert!(!allowed(&p, call), "{call}");
        }
        assert_eq!(p.syscalls.last().unwrap().errno_ret, Some(ENOSYS));
    }

    #[test]
    fn capabilities_open_their_groups() {
        assert!(allowed(&profile(&["CAP_SYS_CHROOT"]), "chroot"));
        let admin = profile(&["CAP_SYS_ADMIN"]);
        assert!(allowed(&admin, "mount") && allowed(&admin, "clone") && allowed(&admin, "clone3"));
        assert!(admin.syscalls.iter().all(|s| s.action == ALLOW));
    }

    #[test]
    fn no_namespace_can_be_cloned_without_sys_admin() {
        let p = profile(&[]);
        let clone = p.syscalls.iter().find(|s| s.names == ["clone"]).unwrap();
        let namespaces = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
        assert_eq!(clone.args.first().unwrap().value, namespaces.iter().sum::<u64>());
    }

    #[test]
    fn only_af_alg_and_af_vsock_sockets_are_refused() {
        let p = profile(&[]);
        let socket = |family: u64| {
            p.syscalls.iter().filter(|s| s.names == ["socket"]).flat_map(|s| &s.args).any(|a| match a.op.as_ref() {
                "SCMP_CMP_LT" => family < a.value,
                "SCMP_CMP_EQ" => family == a.value,
                _ => family > a.value,
            })
        };
        let refused: Vec<u64> = (0..60).filter(|f| !socket(*f)).collect();
        assert_eq!(refused, [AF_ALG, AF_VSOCK]);
    }

    #[test]
    fn the_list_names_every_call_once() {
        let mut names = words(ALWAYS);
        names.sort();
        let before = names.len();
        names.dedup();
        assert_eq!((before, names.len()), (363, 363));
    }
}
