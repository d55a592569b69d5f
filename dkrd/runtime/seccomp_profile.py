"""The default seccomp profile as data: what a container may call, what it may not, and why.

Every system call is in exactly one list (a test asks libseccomp which there are):

ALLOWED    it runs
CHECKED    it runs if one argument says what it may say
REFUSED    EPERM: the call exists and is dangerous; a program learns that it is not permitted
UNKNOWN    ENOSYS: a program is to believe that this kernel does not have it, and falls back

and so does ENOSYS everything that is in none of them, newer calls than this table first of all. A name that
an architecture lacks is no error. The profile lets nothing through that Docker's default profile refuses with
the default capabilities; where it is stricter the reason is given. It does not depend on capabilities: who
may have more, may have no filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOSYS, EPERM

from dkrd.runtime.seccomp_bpf import SECCOMP_RET_ALLOW, Check, Comparison, Verdict, refuse

# What a call gets that is in no list.
DEFAULT = refuse(ENOSYS)


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that share a reason."""

    title: str
    why: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A call that is judged by one argument."""

    name: str
    check: Check
    why: str


def _group(title: str, why: str, names: str) -> Group:
    return Group(title, why, tuple(names.split()))


ALLOWED = (
    _group(
        "files and directories",
        "ordinary work with files; the mount namespace and file permissions decide which",
        """access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
        faccessat2 fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
        fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
        ftruncate ftruncate64 futimesat getcwd getdents getdents64 lchown lchown32 link linkat _llseek lseek
        lstat lstat64 mkdir mkdirat mknod mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv
        preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2
        rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink symlinkat sync
        sync_file_range sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask unlink
        unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev""",
    ),
    _group(
        "extended attributes",
        "security and trusted names are guarded by capabilities of their own",
        """fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr
        lsetxattr removexattr setxattr getxattrat setxattrat listxattrat removexattrat""",
    ),
    _group(
        "watching files",
        "inotify, and marks on a fanotify group that somebody handed over; making a group is refused",
        "fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    ),
    _group(
        "handles of files",
        "systemd and find make handles to tell mounts apart; opening one is refused",
        "name_to_handle_at",
    ),
    _group(
        "a root of one's own",
        "CAP_SYS_CHROOT is a default capability; package tools use it; no way out of a mount namespace",
        "chroot",
    ),
    _group(
        "memory",
        "a process and its own address space; locking is bounded by RLIMIT_MEMLOCK and the cgroup",
        """brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
        mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
        pkey_mprotect process_mrelease remap_file_pages""",
    ),
    _group(
        "waiting for many",
        "poll and its kin, events, and the older asynchronous I/O; the newer, io_uring, is refused",
        """epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
        epoll_wait_old eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64
        io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select""",
    ),
    _group(
        "processes and threads",
        "fork, exec, wait, and what a thread library needs; clone is checked, clone3 is unknown",
        """execve execveat exit exit_group fork vfork wait4 waitid waitpid futex futex_requeue futex_time64
        futex_wait futex_waitv futex_wake get_robust_list set_robust_list get_thread_area set_thread_area
        set_tid_address set_tls rseq restart_syscall pidfd_open pidfd_send_signal prctl arch_prctl modify_ldt
        breakpoint cacheflush uretprobe""",
    ),
    _group(
        "who am I",
        "ids, groups, sessions and capabilities; they rise within the user namespace alone",
        """capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid
        getpgrp getpid getppid getresgid getresgid32 getresuid getresuid32 getsid gettid getuid getuid32
        setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setregid
        setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setsid setuid setuid32""",
    ),
    _group(
        "signals",
        "sending is judged by the pid namespace and the receiver's uid",
        """kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask
        sigreturn tgkill tkill""",
    ),
    _group(
        "time",
        "reading clocks, sleeping, timers; setting a clock is refused",
        """alarm clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
        clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
        timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
        timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times""",
    ),
    _group(
        "scheduling and limits",
        "one's own priority, processors and limits; raising them takes capabilities that a container has not",
        """getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpriority setrlimit ugetrlimit""",
    ),
    _group(
        "sockets",
        "the network namespace decides what they reach; socket and socketcall are checked",
        """accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair""",
    ),
    _group(
        "System V and POSIX queues, semaphores, shared memory",
        "all in the IPC namespace; ipc is the multiplexer of 32-bit x86 and arm for these same calls",
        """ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget""",
    ),
    _group("what machine is this", "read only", "getrandom sysinfo uname"),
    _group(
        "confining oneself further",
        "more filters, Landlock: a process can only lose by them",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    ),
    _group(
        "debuggers",
        "strace, gdb: since Linux 4.8 a traced call is filtered after the tracer changed it, so this is no "
        "way around the filter; whom one may trace is judged by uid, capabilities and namespace",
        "process_vm_readv process_vm_writev ptrace",
    ),
)

CHECKED = (
    Checked(
        "clone",
        # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; NEWTIME does not exist in clone(2).
        Check(0, Comparison.NO_BIT_OF, (0x7E020000,), EPERM),
        "no new namespaces: a new user namespace gives every capability over kernel code that was seldom "
        "tested against its caller (CVE-2022-0185 and kin)",
    ),
    Checked(
        "personality",
        # PER_LINUX, PER_LINUX32, UNAME26, both, and the question what it is.
        Check(0, Comparison.ONE_OF, (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF), EPERM),
        "32-bit programs ask for theirs; most other flags weaken a program, ADDR_NO_RANDOMIZE first",
    ),
    Checked(
        "socket",
        # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET
        Check(0, Comparison.ONE_OF, (1, 2, 10, 16, 17), EAFNOSUPPORT),
        "what a network namespace is for; every other family is kernel code that a mere socket call loads. "
        "AF_VSOCK reaches the hypervisor past all namespaces; AF_ALG (CVE-2026-31431) let a container write "
        "to the page cache, and so to files shared with the host. A kernel without them gives this errno",
    ),
    Checked(
        "socketcall",
        Check(0, Comparison.NONE_OF, (1,), ENOSYS),  # SYS_SOCKET
        "the multiplexer of 32-bit programs: its domain lies in memory, where a filter cannot look, so a "
        "socket made by it would pass the check of socket, which exists there since Linux 4.3",
    ),
    Checked(
        "ioctl",
        Check(1, Comparison.NONE_OF, (0x5412, 0x541C), EPERM),  # TIOCSTI, TIOCLINUX
        "both push input into a terminal, which may be the caller's (CVE-2017-5226, CVE-2023-28100)",
    ),
)

REFUSED = (
    _group(
        "mounts and roots",
        "masks, read-only paths and flags are mounts: the wall itself (CVE-2022-0185 was in fsconfig)",
        """fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr pivot_root
        umount umount2""",
    ),
    _group("namespaces", "as clone's flags", "setns unshare"),
    _group(
        "names of the machine",
        "want CAP_SYS_ADMIN; the daemon sets the host name",
        "setdomainname sethostname",
    ),
    _group(
        "kernel code from user space",
        "loading code into the kernel, or another kernel in its place",
        "bpf create_module delete_module finit_module init_module kexec_file_load kexec_load",
    ),
    _group(
        "questions about modules", "addresses and names of the running kernel", "get_kernel_syms query_module"
    ),
    _group(
        "keys",
        "keyrings know no namespaces; key permissions are a history of errors (CVE-2016-0728)",
        "add_key keyctl request_key",
    ),
    _group(
        "io_uring",
        "a second system call table that no filter sees, and the most frequent source of escapes since 2020",
        "io_uring_enter io_uring_register io_uring_setup",
    ),
    _group("page faults in user space", "stops the kernel where an attacker likes", "userfaultfd"),
    _group(
        "observing the machine",
        "counters, traces and log of the whole kernel",
        "fanotify_init lookup_dcookie perf_event_open syslog",
    ),
    _group(
        "files by handle",
        "opens any file of the filesystem, past the container's root (the shocker exploit of 2014)",
        "open_by_handle_at",
    ),
    _group(
        "other processes' insides",
        "want CAP_SYS_PTRACE; not needed by debuggers",
        "kcmp pidfd_getfd process_madvise",
    ),
    _group(
        "placing memory",
        "NUMA policy slows others down and asks about their pages; wants CAP_SYS_NICE",
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    _group(
        "the machine's clock",
        "not in a namespace; the two adjtimex calls too, which Docker leaves to the capability",
        """adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime""",
    ),
    _group("power and swap", "the machine's, not the container's", "reboot swapoff swapon"),
    _group(
        "accounting and quotas",
        "write to files of the host, or set other users' limits",
        "acct nfsservctl quotactl quotactl_fd",
    ),
    _group("terminals of others", "hangs up a terminal, wants CAP_SYS_TTY_CONFIG", "vhangup"),
    _group(
        "the processor's ports and modes",
        "raw input and output, virtual 8086 mode, PCI configuration",
        "ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write vm86 vm86old",
    ),
    _group(
        "left from old kernels",
        "removed or long out of use, with a history of errors while they were there",
        "_sysctl sysfs uselib ustat",
    ),
)

UNKNOWN = (
    _group(
        "clone3",
        "its flags lie in memory, where a filter cannot look; libraries fall back to clone",
        "clone3",
    ),
    _group(
        "questions about mounts and security modules",
        "new; whoever asks can do without, and reads /proc/self/mountinfo",
        "listmount statmount lsm_get_self_attr lsm_list_modules lsm_set_self_attr",
    ),
    _group(
        "flags of inodes by path",
        "new; programs fall back to ioctl",
        "file_getattr file_setattr",
    ),
    _group(
        "replaced in the nineties",
        "no C library of this century calls them",
        """bdflush nice oldfstat oldlstat oldolduname oldstat olduname readdir sgetmask sigaction signal
        sigpending sigsuspend ssetmask""",
    ),
    _group(
        "never there",
        "numbers without a call behind them: the kernel says ENOSYS as well",
        """afs_syscall break ftime get_tls getpmsg gtty idle lock mpx prof profil putpmsg security stty
        tuxcall ulimit usr26 usr32 vserver""",
    ),
)


def verdicts() -> dict[str, Verdict]:
    """System call name to verdict. Raises ValueError for a name that is in two lists."""
    result: dict[str, Verdict] = {}
    for groups, verdict in ((ALLOWED, SECCOMP_RET_ALLOW), (REFUSED, refuse(EPERM)), (UNKNOWN, DEFAULT)):
        for group in groups:
            for name in group.names:
                _add(result, name, verdict)
    for checked in CHECKED:
        _add(result, checked.name, checked.check)
    return result


def _add(result: dict[str, Verdict], name: str, verdict: Verdict) -> None:
    if name in result:
        raise ValueError(f"{name} is in two lists of the seccomp profile")
    result[name] = verdict
