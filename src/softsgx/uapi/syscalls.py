"""Every system call of x86-64: one row each, and no second table.

A row gives the number, the kernel's name, the arguments with what they are, and what an
enclave answers to the call: its open file, where an argument is a descriptor (``file``); its
VMA, where the call takes addresses (``vma``); the name of its node, where an argument is a path
(``path``). The seccomp filters, the dispatch, docs/syscalls.md and the tests are made of the
rows. A row's value is the number, so that code says ``NR_mmap``; every ``NR_*`` name is public.

The file is Linux's character device with ``sgx_encl_fops`` (open, release, ioctl, mmap,
get_unmapped_area; no more), so a file operation that the driver lacks is answered by the VFS.
The VMA is one with VM_PFNMAP, VM_IO, VM_DONTEXPAND and VM_DONTDUMP (Linux commit 3fe0778edac8,
"x86/sgx: Add an SGX misc driver interface", in v5.11).
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EPERM, ESPIPE

__all__ = [
    "FIRST_UNKNOWN", "READ", "SYSCALLS", "WRITE", "X32_BIT", "Answer", "Argument", "Syscall",
    "syscall_name",
]  # fmt: skip

READ, WRITE = 1, 2
"""FMODE_READ and FMODE_WRITE: without it an operation answers EBADF before all else."""

X32_BIT = 0x40000000
"""__X32_SYSCALL_BIT: a second numbering of the same calls, whose rows do not count."""


class Answer:
    """What an enclave's file, VMA or name answers to a call.

    how: ``native`` (what stands in its place answers alike, so the call never stops),
    ``follows`` (native, and its success is noted), ``refuses`` (always ``errno``; EBADF where
    the file is not open for ``mode``), ``stands`` (the kernel answers for /dev/null, a node
    alike in the same file system) or ``handled`` (by a handler of that call). source: the
    kernel's function or structure that says so. late: the call stops in processes alone that
    have asked about a node's name by another; elsewhere it finds nothing there, and does no harm.
    changes: the call may change which memory is mapped, or how: it is followed to its end.
    """

    __slots__ = ("changes", "errno", "how", "late", "mode", "source")

    def __init__(
        self, how: str, source: str, errno: int = 0, mode: int = 0, *,
        late: bool = False, changes: bool = False,
    ) -> None:  # fmt: skip
        self.how, self.source, self.errno, self.mode = how, source, errno, mode
        self.late, self.changes = late, changes

    @property
    def stops(self) -> bool:
        """Whether the call has to stop for it."""
        return self.how != "native"


class Argument:
    """One argument: its name and its kind.

    kind: ``fd``; ``pidfd``; ``dir`` (a descriptor that the path behind it starts at); ``path``;
    ``sockaddr`` (a structure that may hold one); ``addr`` and ``len`` (of a range); ``word`` (an
    address alone); ``pid``; or "" for anything else.
    """

    __slots__ = ("kind", "name")

    def __init__(self, text: str) -> None:
        self.name, _, self.kind = text.partition(":")


class Syscall:
    """One row: ``file``, ``vma`` and ``path`` None where they do not matter."""

    __slots__ = ("_args", "file", "name", "nr", "path", "vma")

    def __init__(
        self, nr: int, name: str, args: str,
        file: Answer | None, vma: Answer | None, path: Answer | None,
    ) -> None:  # fmt: skip
        self.nr, self.name = nr, name
        self._args = args
        self.file, self.vma, self.path = file, vma, path

    @property
    def args(self) -> tuple[Argument, ...]:
        """The arguments in order; taken apart when asked for, since a start needs few rows."""
        return tuple([Argument(text) for text in self._args.split()])

    def of_kind(self, *kinds: str) -> tuple[int, ...]:
        """The indices of the arguments of these kinds."""
        if ":" not in self._args:
            return ()
        texts = enumerate(self._args.split())
        return tuple([i for i, text in texts if text.partition(":")[2] in kinds])

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(arg.name for arg in self.args)})"


SYSCALLS: dict[int, Syscall] = {}
_NAMED = Answer("handled", "the node of devtmpfs, by name")


def _native(source: str) -> Answer:
    return Answer("native", source)


def _follows(source: str) -> Answer:
    return Answer("follows", source)


def _refuses(errno: int, source: str, mode: int = 0) -> Answer:
    return Answer("refuses", source, errno, mode)


def _stands(source: str, late: bool = False) -> Answer:
    return Answer("stands", source, late=late)


def _handled(source: str, late: bool = False) -> Answer:
    return Answer("handled", source, late=late)


def _changes(source: str, how: str = "handled") -> Answer:
    return Answer(how, source, changes=True)


def _row(
    nr: int, name: str, args: str = "", *,
    file: Answer | None = None, vma: Answer | None = None, path: Answer | None = None,
) -> int:  # fmt: skip
    if path is None and ":path" in args:
        path = _NAMED
    SYSCALLS[nr] = Syscall(nr, name, args, file, vma, path)
    return nr


def syscall_name(nr: int) -> str:
    """The kernel's name of a call, or "syscall_NNN" for one without a row."""
    row = SYSCALLS.get(nr)
    return row.name if row is not None else f"syscall_{nr}"


_WORD = _handled("get_futex_key(): VM_IO, VM_PFNMAP: EFAULT, unless FUTEX_PRIVATE_FLAG")

# Linux, arch/x86/entry/syscalls/syscall_64.tbl, as of v6.18; names of arguments as in
# include/linux/syscalls.h.
# fmt: off
NR_read = _row(0, "read", "fd:fd buf count",
    file=_refuses(EINVAL, "vfs_read(), vfs_readv(): no FMODE_CAN_READ", READ))
NR_write = _row(1, "write", "fd:fd buf count",
    file=_refuses(EINVAL, "vfs_write(), vfs_writev(): no FMODE_CAN_WRITE", WRITE))
NR_open = _row(2, "open", "filename:path flags mode")
NR_close = _row(3, "close", "fd:fd", file=_native("fs/file.c: the table of descriptors"))
NR_stat = _row(4, "stat", "filename:path statbuf")
NR_fstat = _row(5, "fstat", "fd:fd statbuf", file=_handled("vfs_fstat(): the node of devtmpfs"))
NR_lstat = _row(6, "lstat", "filename:path statbuf")
NR_poll = _row(7, "poll", "ufds nfds timeout")
NR_lseek = _row(8, "lseek", "fd:fd offset whence",
    file=_refuses(ESPIPE, "vfs_llseek(): no FMODE_LSEEK"))
NR_mmap = _row(9, "mmap", "addr:addr len:len prot flags fd:fd off",
    file=_handled("do_mmap(), then sgx_mmap()"),
    vma=_changes("__mmap_region(): MAP_FIXED replaces; no VMA of a driver is merged"))
NR_mprotect = _row(10, "mprotect", "start:addr len:len prot",
    vma=_changes("do_mprotect_pkey(): sgx_vma_mprotect()"))
NR_munmap = _row(11, "munmap", "addr:addr len:len", vma=_changes("do_vmi_munmap()"))
NR_brk = _row(12, "brk", "brk", vma=_changes(
    "a heap that shrinks takes what is mapped over it", "native"))
NR_rt_sigaction = _row(13, "rt_sigaction", "sig act oact sigsetsize")
NR_rt_sigprocmask = _row(14, "rt_sigprocmask", "how nset oset sigsetsize")
NR_rt_sigreturn = _row(15, "rt_sigreturn")
NR_ioctl = _row(16, "ioctl", "fd:fd cmd arg", file=_handled("do_vfs_ioctl(), then sgx_ioctl()"),
    vma=_handled("UFFDIO_REGISTER, vma_can_userfault(): EINVAL"))
NR_pread64 = _row(17, "pread64", "fd:fd buf count pos",
    file=_refuses(EINVAL, "vfs_read(), vfs_readv(): no FMODE_CAN_READ", READ))
NR_pwrite64 = _row(18, "pwrite64", "fd:fd buf count pos",
    file=_refuses(EINVAL, "vfs_write(), vfs_writev(): no FMODE_CAN_WRITE", WRITE))
NR_readv = _row(19, "readv", "fd:fd vec vlen",
    file=_refuses(EINVAL, "vfs_read(), vfs_readv(): no FMODE_CAN_READ", READ))
NR_writev = _row(20, "writev", "fd:fd vec vlen",
    file=_refuses(EINVAL, "vfs_write(), vfs_writev(): no FMODE_CAN_WRITE", WRITE))
NR_access = _row(21, "access", "filename:path mode")
NR_pipe = _row(22, "pipe", "fildes")
NR_select = _row(23, "select", "n inp outp exp tvp")
NR_sched_yield = _row(24, "sched_yield")
NR_mremap = _row(25, "mremap", "addr:addr old_len:len new_len flags new_addr",
    vma=_changes("vma_to_resize(), move_vma(): DONTEXPAND and PFNMAP"))
NR_msync = _row(26, "msync", "start:addr len:len flags",
    vma=_handled("vfs_fsync_range(): EINVAL for MS_SYNC, no ->fsync"))
NR_mincore = _row(27, "mincore", "start:addr len:len vec",
    vma=_handled("walk_page_test(): VM_PFNMAP, no page is in core"))
NR_madvise = _row(28, "madvise", "start:addr len_in:len behavior",
    vma=_changes("madvise_vma_behavior(): VM_IO, VM_PFNMAP"))
NR_shmget = _row(29, "shmget", "key size flag")
NR_shmat = _row(30, "shmat", "shmid shmaddr shmflg",
    vma=_changes("do_shmat(): SHM_REMAP replaces"))
NR_shmctl = _row(31, "shmctl", "shmid cmd buf")
NR_dup = _row(32, "dup", "fildes:fd", file=_follows("ksys_dup3(), the same open file"))
NR_dup2 = _row(33, "dup2", "oldfd:fd newfd", file=_follows("ksys_dup3(), the same open file"))
NR_pause = _row(34, "pause")
NR_nanosleep = _row(35, "nanosleep", "rqtp rmtp")
NR_getitimer = _row(36, "getitimer", "which value")
NR_alarm = _row(37, "alarm", "seconds")
NR_setitimer = _row(38, "setitimer", "which value ovalue")
NR_getpid = _row(39, "getpid")
NR_sendfile = _row(40, "sendfile", "out_fd:fd in_fd:fd offset count",
    file=_handled("do_sendfile(): EINVAL, neither ->splice_read nor ->splice_write"))
NR_socket = _row(41, "socket", "family type protocol")
NR_connect = _row(42, "connect", "fd:fd uservaddr:sockaddr addrlen",
    file=_native("sockfd_lookup(): ENOTSOCK"),
    path=_handled("unix_find_bsd(): AESM's socket, by the name in a sockaddr_un"))
NR_accept = _row(43, "accept", "fd:fd upeer_sockaddr upeer_addrlen",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_sendto = _row(44, "sendto", "fd:fd buff len flags addr addr_len",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_recvfrom = _row(45, "recvfrom", "fd:fd ubuf size flags addr addr_len",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_sendmsg = _row(46, "sendmsg", "fd:fd msg flags", file=_native("sockfd_lookup(): ENOTSOCK"))
NR_recvmsg = _row(47, "recvmsg", "fd:fd msg flags", file=_native("sockfd_lookup(): ENOTSOCK"))
NR_shutdown = _row(48, "shutdown", "fd:fd how", file=_native("sockfd_lookup(): ENOTSOCK"))
NR_bind = _row(49, "bind", "fd:fd umyaddr addrlen", file=_native("sockfd_lookup(): ENOTSOCK"))
NR_listen = _row(50, "listen", "fd:fd backlog", file=_native("sockfd_lookup(): ENOTSOCK"))
NR_getsockname = _row(51, "getsockname", "fd:fd usockaddr usockaddr_len",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_getpeername = _row(52, "getpeername", "fd:fd usockaddr usockaddr_len",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_socketpair = _row(53, "socketpair", "family type protocol usockvec")
NR_setsockopt = _row(54, "setsockopt", "fd:fd level optname optval optlen",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_getsockopt = _row(55, "getsockopt", "fd:fd level optname optval optlen",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_clone = _row(56, "clone", "clone_flags newsp parent_tidptr child_tidptr tls")
NR_fork = _row(57, "fork")
NR_vfork = _row(58, "vfork")
NR_execve = _row(59, "execve", "filename:path argv envp",
    path=_native("do_open_execat(): ENOENT, Linux says EACCES"))
NR_exit = _row(60, "exit", "error_code")
NR_wait4 = _row(61, "wait4", "upid stat_addr options ru")
NR_kill = _row(62, "kill", "pid sig")
NR_uname = _row(63, "uname", "name")
NR_semget = _row(64, "semget", "key nsems semflg")
NR_semop = _row(65, "semop", "semid sops nsops")
NR_semctl = _row(66, "semctl", "semid semnum cmd arg")
NR_shmdt = _row(67, "shmdt", "shmaddr")
NR_msgget = _row(68, "msgget", "key msgflg")
NR_msgsnd = _row(69, "msgsnd", "msqid msgp msgsz msgflg")
NR_msgrcv = _row(70, "msgrcv", "msqid msgp msgsz msgtyp msgflg")
NR_msgctl = _row(71, "msgctl", "msqid cmd buf")
NR_fcntl = _row(72, "fcntl", "fd:fd cmd arg", file=_handled("do_fcntl() on a character device"))
NR_flock = _row(73, "flock", "fd:fd cmd",
    file=_native("flock_lock_inode(): a lock of the open file"))
NR_fsync = _row(74, "fsync", "fd:fd", file=_refuses(EINVAL, "vfs_fsync_range(): no ->fsync"))
NR_fdatasync = _row(75, "fdatasync", "fd:fd",
    file=_refuses(EINVAL, "vfs_fsync_range(): no ->fsync"))
NR_truncate = _row(76, "truncate", "path:path length", path=_stands("vfs_truncate(): EINVAL"))
NR_ftruncate = _row(77, "ftruncate", "fd:fd length",
    file=_refuses(EINVAL, "do_ftruncate(): no regular file"))
NR_getdents = _row(78, "getdents", "fd:fd dirent count", file=_native("iterate_dir(): ENOTDIR"))
NR_getcwd = _row(79, "getcwd", "buf size")
NR_chdir = _row(80, "chdir", "filename:path", path=_stands("lookup: ENOTDIR"))
NR_fchdir = _row(81, "fchdir", "fd:fd", file=_native("ksys_fchdir(): ENOTDIR"))
NR_rename = _row(82, "rename", "oldname:path newname:path")
NR_mkdir = _row(83, "mkdir", "pathname:path mode", path=_stands("filename_create(): EEXIST"))
NR_rmdir = _row(84, "rmdir", "pathname:path", path=_stands("vfs_rmdir(): ENOTDIR", late=True))
NR_creat = _row(85, "creat", "pathname:path mode")
NR_link = _row(86, "link", "oldname:path newname:path")
NR_unlink = _row(87, "unlink", "pathname:path",
    path=_handled("vfs_unlink() in /dev", late=True))
NR_symlink = _row(88, "symlink", "oldname newname:path", path=_stands("filename_create(): EEXIST"))
NR_readlink = _row(89, "readlink", "path:path buf bufsiz")
NR_chmod = _row(90, "chmod", "filename:path mode")
NR_fchmod = _row(91, "fchmod", "fd:fd mode", file=_handled("chmod_common() on the node"))
NR_chown = _row(92, "chown", "filename:path user group")
NR_fchown = _row(93, "fchown", "fd:fd user group", file=_handled("chown_common() on the node"))
NR_lchown = _row(94, "lchown", "filename:path user group")
NR_umask = _row(95, "umask", "mask")
NR_gettimeofday = _row(96, "gettimeofday", "tv tz")
NR_getrlimit = _row(97, "getrlimit", "resource rlim")
NR_getrusage = _row(98, "getrusage", "who ru")
NR_sysinfo = _row(99, "sysinfo", "info")
NR_times = _row(100, "times", "tbuf")
NR_ptrace = _row(101, "ptrace", "request pid addr data")
NR_getuid = _row(102, "getuid")
NR_syslog = _row(103, "syslog", "type buf len")
NR_getgid = _row(104, "getgid")
NR_setuid = _row(105, "setuid", "uid")
NR_setgid = _row(106, "setgid", "gid")
NR_geteuid = _row(107, "geteuid")
NR_getegid = _row(108, "getegid")
NR_setpgid = _row(109, "setpgid", "pid pgid")
NR_getppid = _row(110, "getppid")
NR_getpgrp = _row(111, "getpgrp")
NR_setsid = _row(112, "setsid")
NR_setreuid = _row(113, "setreuid", "ruid euid")
NR_setregid = _row(114, "setregid", "rgid egid")
NR_getgroups = _row(115, "getgroups", "gidsetsize grouplist")
NR_setgroups = _row(116, "setgroups", "gidsetsize grouplist")
NR_setresuid = _row(117, "setresuid", "ruid euid suid")
NR_getresuid = _row(118, "getresuid", "ruid euid suid")
NR_setresgid = _row(119, "setresgid", "rgid egid sgid")
NR_getresgid = _row(120, "getresgid", "rgid egid sgid")
NR_getpgid = _row(121, "getpgid", "pid")
NR_setfsuid = _row(122, "setfsuid", "uid")
NR_setfsgid = _row(123, "setfsgid", "gid")
NR_getsid = _row(124, "getsid", "pid")
NR_capget = _row(125, "capget", "header dataptr")
NR_capset = _row(126, "capset", "header data")
NR_rt_sigpending = _row(127, "rt_sigpending", "set sigsetsize")
NR_rt_sigtimedwait = _row(128, "rt_sigtimedwait", "uthese uinfo uts sigsetsize")
NR_rt_sigqueueinfo = _row(129, "rt_sigqueueinfo", "pid sig uinfo")
NR_rt_sigsuspend = _row(130, "rt_sigsuspend", "unewset sigsetsize")
NR_sigaltstack = _row(131, "sigaltstack", "uss uoss")
NR_utime = _row(132, "utime", "filename:path times")
NR_mknod = _row(133, "mknod", "filename:path mode dev", path=_stands("filename_create(): EEXIST"))
NR_uselib = _row(134, "uselib", "library:path", path=_native("not in x86-64 kernels of today"))
NR_personality = _row(135, "personality", "personality")
NR_ustat = _row(136, "ustat", "dev ubuf")
NR_statfs = _row(137, "statfs", "path:path buf", path=_stands("of a node of devtmpfs"))
NR_fstatfs = _row(138, "fstatfs", "fd:fd buf", file=_handled("vfs_statfs() of devtmpfs"))
NR_sysfs = _row(139, "sysfs", "option arg1 arg2")
NR_getpriority = _row(140, "getpriority", "which who")
NR_setpriority = _row(141, "setpriority", "which who niceval")
NR_sched_setparam = _row(142, "sched_setparam", "pid param")
NR_sched_getparam = _row(143, "sched_getparam", "pid param")
NR_sched_setscheduler = _row(144, "sched_setscheduler", "pid policy param")
NR_sched_getscheduler = _row(145, "sched_getscheduler", "pid")
NR_sched_get_priority_max = _row(146, "sched_get_priority_max", "policy")
NR_sched_get_priority_min = _row(147, "sched_get_priority_min", "policy")
NR_sched_rr_get_interval = _row(148, "sched_rr_get_interval", "pid interval")
NR_mlock = _row(149, "mlock", "start:addr len:len",
    vma=_handled("mlock_fixup(): nothing, VM_SPECIAL"))
NR_munlock = _row(150, "munlock", "start:addr len:len",
    vma=_native("mlock_fixup(): nothing, VM_SPECIAL"))
NR_mlockall = _row(151, "mlockall", "flags", vma=_handled("mlock_fixup(): nothing, VM_SPECIAL"))
NR_munlockall = _row(152, "munlockall")
NR_vhangup = _row(153, "vhangup")
NR_modify_ldt = _row(154, "modify_ldt", "func ptr bytecount")
NR_pivot_root = _row(155, "pivot_root", "new_root:path put_old:path",
    path=_stands("lookup: ENOTDIR"))
NR__sysctl = _row(156, "_sysctl")
NR_prctl = _row(157, "prctl", "option arg2 arg3 arg4 arg5",
    vma=_handled("PR_SET_VMA_ANON_NAME, madvise_vma_anon_name(): EBADF; PR_SET_MM: brk is watched"))
NR_arch_prctl = _row(158, "arch_prctl", "option arg2")
NR_adjtimex = _row(159, "adjtimex", "txc_p")
NR_setrlimit = _row(160, "setrlimit", "resource rlim")
NR_chroot = _row(161, "chroot", "filename:path", path=_stands("lookup: ENOTDIR"))
NR_sync = _row(162, "sync")
NR_acct = _row(163, "acct", "name:path", path=_stands("acct_on(): EACCES"))
NR_settimeofday = _row(164, "settimeofday", "tv tz")
NR_mount = _row(165, "mount", "dev_name:path dir_name:path type flags data",
    path=_refuses(EPERM, "softsgx: no mount of it or over it"))
NR_umount2 = _row(166, "umount2", "name:path flags", path=_stands("path_umount(): EINVAL"))
NR_swapon = _row(167, "swapon", "specialfile:path swap_flags",
    path=_stands("claim_swapfile(): EINVAL"))
NR_swapoff = _row(168, "swapoff", "specialfile:path", path=_stands("swapoff(): EINVAL"))
NR_reboot = _row(169, "reboot", "magic1 magic2 cmd arg")
NR_sethostname = _row(170, "sethostname", "name len")
NR_setdomainname = _row(171, "setdomainname", "name len")
NR_iopl = _row(172, "iopl", "level")
NR_ioperm = _row(173, "ioperm", "from num on")
NR_create_module = _row(174, "create_module")
NR_init_module = _row(175, "init_module", "umod len uargs")
NR_delete_module = _row(176, "delete_module", "name_user flags")
NR_get_kernel_syms = _row(177, "get_kernel_syms")
NR_query_module = _row(178, "query_module")
NR_quotactl = _row(179, "quotactl", "cmd special:path id addr",
    path=_stands("quotactl_block(): ENOTBLK"))
NR_nfsservctl = _row(180, "nfsservctl")
NR_getpmsg = _row(181, "getpmsg")
NR_putpmsg = _row(182, "putpmsg")
NR_afs_syscall = _row(183, "afs_syscall")
NR_tuxcall = _row(184, "tuxcall")
NR_security = _row(185, "security")
NR_gettid = _row(186, "gettid")
NR_readahead = _row(187, "readahead", "fd:fd offset count",
    file=_refuses(EINVAL, "ksys_readahead(): no regular file", READ))
NR_setxattr = _row(188, "setxattr", "path:path name value size flags",
    path=_handled("xattr_permission() of a special file"))
NR_lsetxattr = _row(189, "lsetxattr", "path:path name value size flags",
    path=_handled("xattr_permission() of a special file"))
NR_fsetxattr = _row(190, "fsetxattr", "fd:fd name value size flags",
    file=_handled("xattr_permission() of a special file"))
NR_getxattr = _row(191, "getxattr", "path:path name value size",
    path=_stands("of a node of devtmpfs", late=True))
NR_lgetxattr = _row(192, "lgetxattr", "path:path name value size",
    path=_stands("of a node of devtmpfs", late=True))
NR_fgetxattr = _row(193, "fgetxattr", "fd:fd name value size",
    file=_handled("xattr_permission() of a special file"))
NR_listxattr = _row(194, "listxattr", "path:path list size",
    path=_stands("of a node of devtmpfs", late=True))
NR_llistxattr = _row(195, "llistxattr", "path:path list size",
    path=_stands("of a node of devtmpfs", late=True))
NR_flistxattr = _row(196, "flistxattr", "fd:fd list size",
    file=_handled("xattr_permission() of a special file"))
NR_removexattr = _row(197, "removexattr", "path:path name",
    path=_handled("xattr_permission() of a special file"))
NR_lremovexattr = _row(198, "lremovexattr", "path:path name",
    path=_handled("xattr_permission() of a special file"))
NR_fremovexattr = _row(199, "fremovexattr", "fd:fd name",
    file=_handled("xattr_permission() of a special file"))
NR_tkill = _row(200, "tkill", "pid sig")
NR_time = _row(201, "time", "tloc")
NR_futex = _row(202, "futex", "uaddr:word op val utime uaddr2:word val3", vma=_WORD)
NR_sched_setaffinity = _row(203, "sched_setaffinity", "pid len user_mask_ptr")
NR_sched_getaffinity = _row(204, "sched_getaffinity", "pid len user_mask_ptr")
NR_set_thread_area = _row(205, "set_thread_area")
NR_io_setup = _row(206, "io_setup", "nr_reqs ctx")
NR_io_destroy = _row(207, "io_destroy", "ctx")
NR_io_getevents = _row(208, "io_getevents", "ctx_id min_nr nr events timeout")
NR_io_submit = _row(209, "io_submit", "ctx_id nr iocbpp")
NR_io_cancel = _row(210, "io_cancel", "ctx_id iocb result")
NR_get_thread_area = _row(211, "get_thread_area")
NR_lookup_dcookie = _row(212, "lookup_dcookie")
NR_epoll_create = _row(213, "epoll_create", "size")
NR_epoll_ctl_old = _row(214, "epoll_ctl_old")
NR_epoll_wait_old = _row(215, "epoll_wait_old")
NR_remap_file_pages = _row(216, "remap_file_pages", "start:addr size:len prot pgoff flags",
    vma=_changes("do_mmap() of the same file, MAP_FIXED"))
NR_getdents64 = _row(217, "getdents64", "fd:fd dirent count",
    file=_native("iterate_dir(): ENOTDIR"))
NR_set_tid_address = _row(218, "set_tid_address", "tidptr")
NR_restart_syscall = _row(219, "restart_syscall")
NR_semtimedop = _row(220, "semtimedop", "semid sops nsops timeout")
NR_fadvise64 = _row(221, "fadvise64", "fd:fd offset len advice",
    file=_native("generic_fadvise(): nothing to do without a backing device"))
NR_timer_create = _row(222, "timer_create", "which_clock timer_event_spec created_timer_id")
NR_timer_settime = _row(223, "timer_settime", "timer_id flags new_setting old_setting")
NR_timer_gettime = _row(224, "timer_gettime", "timer_id setting")
NR_timer_getoverrun = _row(225, "timer_getoverrun", "timer_id")
NR_timer_delete = _row(226, "timer_delete", "timer_id")
NR_clock_settime = _row(227, "clock_settime", "which_clock tp")
NR_clock_gettime = _row(228, "clock_gettime", "which_clock tp")
NR_clock_getres = _row(229, "clock_getres", "which_clock tp")
NR_clock_nanosleep = _row(230, "clock_nanosleep", "which_clock flags rqtp rmtp")
NR_exit_group = _row(231, "exit_group", "error_code")
NR_epoll_wait = _row(232, "epoll_wait", "epfd:fd events maxevents timeout",
    file=_native("ep_check_params(): EINVAL, no epoll"))
NR_epoll_ctl = _row(233, "epoll_ctl", "epfd:fd op fd:fd event",
    file=_native("do_epoll_ctl(): EPERM, no ->poll; EINVAL, no epoll"))
NR_tgkill = _row(234, "tgkill", "tgid pid sig")
NR_utimes = _row(235, "utimes", "filename:path utimes")
NR_vserver = _row(236, "vserver")
NR_mbind = _row(237, "mbind", "start:addr len:len mode nmask maxnode flags",
    vma=_handled("vma_migratable(): no page moves, and none is misplaced; mbind_range()"))
NR_set_mempolicy = _row(238, "set_mempolicy", "mode nmask maxnode")
NR_get_mempolicy = _row(239, "get_mempolicy", "policy nmask maxnode addr:word flags",
    vma=_handled("lookup_node(): EFAULT, VM_PFNMAP"))
NR_mq_open = _row(240, "mq_open", "name oflag mode attr")
NR_mq_unlink = _row(241, "mq_unlink", "name")
NR_mq_timedsend = _row(242, "mq_timedsend", "mqdes:fd msg_ptr msg_len msg_prio abs_timeout",
    file=_native("mqueue_file_operations: EBADF"))
NR_mq_timedreceive = _row(243, "mq_timedreceive", "mqdes:fd msg_ptr msg_len msg_prio abs_timeout",
    file=_native("mqueue_file_operations: EBADF"))
NR_mq_notify = _row(244, "mq_notify", "mqdes:fd notification",
    file=_native("mqueue_file_operations: EBADF"))
NR_mq_getsetattr = _row(245, "mq_getsetattr", "mqdes:fd mqstat omqstat",
    file=_native("mqueue_file_operations: EBADF"))
NR_kexec_load = _row(246, "kexec_load", "entry nr_segments segments flags")
NR_waitid = _row(247, "waitid", "which pid infop options ru")
NR_add_key = _row(248, "add_key", "_type _description _payload plen destringid")
NR_request_key = _row(249, "request_key", "_type _description _callout_info destringid")
NR_keyctl = _row(250, "keyctl", "cmd arg2 arg3 arg4 arg5")
NR_ioprio_set = _row(251, "ioprio_set", "which who ioprio")
NR_ioprio_get = _row(252, "ioprio_get", "which who")
NR_inotify_init = _row(253, "inotify_init")
NR_inotify_add_watch = _row(254, "inotify_add_watch", "fd:fd pathname:path mask",
    file=_native("inotify_fops: EINVAL"), path=_stands("of a node of devtmpfs"))
NR_inotify_rm_watch = _row(255, "inotify_rm_watch", "fd:fd wd",
    file=_native("inotify_fops: EINVAL"))
NR_migrate_pages = _row(256, "migrate_pages", "pid maxnode from to")
NR_openat = _row(257, "openat", "dfd:dir filename:path flags mode")
NR_mkdirat = _row(258, "mkdirat", "dfd:dir pathname:path mode",
    path=_stands("filename_create(): EEXIST"))
NR_mknodat = _row(259, "mknodat", "dfd:dir filename:path mode dev",
    path=_stands("filename_create(): EEXIST"))
NR_fchownat = _row(260, "fchownat", "dfd:dir filename:path user group flag")
NR_futimesat = _row(261, "futimesat", "dfd:dir filename:path utimes")
NR_newfstatat = _row(262, "newfstatat", "dfd:dir filename:path statbuf flag")
NR_unlinkat = _row(263, "unlinkat", "dfd:dir pathname:path flag",
    path=_handled("vfs_unlink() in /dev", late=True))
NR_renameat = _row(264, "renameat", "olddfd:dir oldname:path newdfd:dir newname:path")
NR_linkat = _row(265, "linkat", "olddfd:dir oldname:path newdfd:dir newname:path flags")
NR_symlinkat = _row(266, "symlinkat", "oldname newdfd:dir newname:path",
    path=_stands("filename_create(): EEXIST"))
NR_readlinkat = _row(267, "readlinkat", "dfd:dir pathname:path buf bufsiz")
NR_fchmodat = _row(268, "fchmodat", "dfd:dir filename:path mode")
NR_faccessat = _row(269, "faccessat", "dfd:dir filename:path mode")
NR_pselect6 = _row(270, "pselect6", "n inp outp exp tsp sig")
NR_ppoll = _row(271, "ppoll", "ufds nfds tsp sigmask sigsetsize")
NR_unshare = _row(272, "unshare", "unshare_flags")
NR_set_robust_list = _row(273, "set_robust_list", "head len")
NR_get_robust_list = _row(274, "get_robust_list", "pid head_ptr len_ptr")
NR_splice = _row(275, "splice", "fd_in:fd off_in fd_out:fd off_out len flags",
    file=_handled("do_splice(): EINVAL, no pipe with it and no ->splice_read"))
NR_tee = _row(276, "tee", "fdin:fd fdout:fd len flags", file=_handled("do_tee(): EINVAL, no pipe"))
NR_sync_file_range = _row(277, "sync_file_range", "fd:fd offset nbytes flags",
    file=_handled("sync_file_range(): ESPIPE, no regular file"))
NR_vmsplice = _row(278, "vmsplice", "fd:fd iov nr_segs flags",
    file=_native("vmsplice_type(): EBADF, no pipe"),
    vma=_handled("check_vma_flags(): VM_IO, VM_PFNMAP: EFAULT"))
NR_move_pages = _row(279, "move_pages", "pid:pid nr_pages pages nodes status flags",
    vma=_handled("add_folio_for_migration(): EFAULT for each page; do_pages_stat_array(): ENOENT"))
NR_utimensat = _row(280, "utimensat", "dfd:dir filename:path utimes flags")
NR_epoll_pwait = _row(281, "epoll_pwait", "epfd:fd events maxevents timeout sigmask sigsetsize",
    file=_native("ep_check_params(): EINVAL, no epoll"))
NR_signalfd = _row(282, "signalfd", "ufd:fd user_mask sizemask",
    file=_native("signalfd_fops: EINVAL"))
NR_timerfd_create = _row(283, "timerfd_create", "clockid flags")
NR_eventfd = _row(284, "eventfd", "count")
NR_fallocate = _row(285, "fallocate", "fd:fd mode offset len",
    file=_handled("vfs_fallocate(): ENODEV, no regular file"))
NR_timerfd_settime = _row(286, "timerfd_settime", "ufd:fd flags utmr otmr",
    file=_native("timerfd_fget(): EINVAL"))
NR_timerfd_gettime = _row(287, "timerfd_gettime", "ufd:fd otmr",
    file=_native("timerfd_fget(): EINVAL"))
NR_accept4 = _row(288, "accept4", "fd:fd upeer_sockaddr upeer_addrlen flags",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_signalfd4 = _row(289, "signalfd4", "ufd:fd user_mask sizemask flags",
    file=_native("signalfd_fops: EINVAL"))
NR_eventfd2 = _row(290, "eventfd2", "count flags")
NR_epoll_create1 = _row(291, "epoll_create1", "flags")
NR_dup3 = _row(292, "dup3", "oldfd:fd newfd flags",
    file=_follows("ksys_dup3(), the same open file"))
NR_pipe2 = _row(293, "pipe2", "fildes flags")
NR_inotify_init1 = _row(294, "inotify_init1", "flags")
NR_preadv = _row(295, "preadv", "fd:fd vec vlen pos_l pos_h",
    file=_refuses(EINVAL, "vfs_read(), vfs_readv(): no FMODE_CAN_READ", READ))
NR_pwritev = _row(296, "pwritev", "fd:fd vec vlen pos_l pos_h",
    file=_refuses(EINVAL, "vfs_write(), vfs_writev(): no FMODE_CAN_WRITE", WRITE))
NR_rt_tgsigqueueinfo = _row(297, "rt_tgsigqueueinfo", "tgid pid sig uinfo")
NR_perf_event_open = _row(298, "perf_event_open", "attr_uptr pid cpu group_fd:fd flags",
    file=_native("perf_fget_light(): EBADF"))
NR_recvmmsg = _row(299, "recvmmsg", "fd:fd msg vlen flags timeout",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_fanotify_init = _row(300, "fanotify_init", "flags event_f_flags")
NR_fanotify_mark = _row(301, "fanotify_mark", "fanotify_fd:fd flags mask dfd:dir pathname:path",
    file=_native("fanotify_fops: EINVAL"), path=_stands("of a node of devtmpfs"))
NR_prlimit64 = _row(302, "prlimit64", "pid resource new_rlim old_rlim")
NR_name_to_handle_at = _row(303, "name_to_handle_at", "dfd:dir name:path handle mnt_id flag",
    path=_stands("of a node of devtmpfs"))
NR_open_by_handle_at = _row(304, "open_by_handle_at", "mountdirfd:fd handle flags",
    file=_native("handle_to_path(): what lies on that file system"))
NR_clock_adjtime = _row(305, "clock_adjtime", "which_clock tx")
NR_syncfs = _row(306, "syncfs", "fd:fd",
    file=_native("sync_filesystem(): a file system in memory"))
NR_sendmmsg = _row(307, "sendmmsg", "fd:fd msg vlen flags",
    file=_native("sockfd_lookup(): ENOTSOCK"))
NR_setns = _row(308, "setns", "fd:fd flags", file=_native("proc_ns_file(), pidfd_pid(): EINVAL"))
NR_getcpu = _row(309, "getcpu", "cpu node cache")
NR_process_vm_readv = _row(310, "process_vm_readv", "pid:pid lvec liovcnt rvec riovcnt flags",
    vma=_handled("check_vma_flags(): VM_IO, VM_PFNMAP: EFAULT"))
NR_process_vm_writev = _row(311, "process_vm_writev", "pid:pid lvec liovcnt rvec riovcnt flags",
    vma=_handled("check_vma_flags(): VM_IO, VM_PFNMAP: EFAULT"))
NR_kcmp = _row(312, "kcmp", "pid1 pid2 type idx1 idx2")
NR_finit_module = _row(313, "finit_module", "fd:fd uargs flags",
    file=_native("kernel_read_file(): EINVAL or ENOEXEC; nothing is in the file"))
NR_sched_setattr = _row(314, "sched_setattr", "pid attr flags")
NR_sched_getattr = _row(315, "sched_getattr", "pid attr size flags")
NR_renameat2 = _row(316, "renameat2", "olddfd:dir oldname:path newdfd:dir newname:path flags")
NR_seccomp = _row(317, "seccomp", "op flags uargs")
NR_getrandom = _row(318, "getrandom", "buf count flags")
NR_memfd_create = _row(319, "memfd_create", "uname flags")
NR_kexec_file_load = _row(320, "kexec_file_load",
    "kernel_fd:fd initrd_fd:fd cmdline_len cmdline_ptr flags",
    file=_native("kernel_read_file(): EINVAL or ENOEXEC; nothing is in the file"))
NR_bpf = _row(321, "bpf", "cmd attr size")
NR_execveat = _row(322, "execveat", "dfd:dir filename:path argv envp flags",
    path=_native("do_open_execat(): ENOENT, Linux says EACCES"))
NR_userfaultfd = _row(323, "userfaultfd", "flags")
NR_membarrier = _row(324, "membarrier", "cmd flags cpu_id")
NR_mlock2 = _row(325, "mlock2", "start:addr len:len flags",
    vma=_handled("mlock_fixup(): nothing, VM_SPECIAL"))
NR_copy_file_range = _row(326, "copy_file_range", "fd_in:fd off_in fd_out:fd off_out len flags",
    file=_handled("generic_file_rw_checks(): EINVAL, no regular file"))
NR_preadv2 = _row(327, "preadv2", "fd:fd vec vlen pos_l pos_h flags",
    file=_refuses(EINVAL, "vfs_read(), vfs_readv(): no FMODE_CAN_READ", READ))
NR_pwritev2 = _row(328, "pwritev2", "fd:fd vec vlen pos_l pos_h flags",
    file=_refuses(EINVAL, "vfs_write(), vfs_writev(): no FMODE_CAN_WRITE", WRITE))
NR_pkey_mprotect = _row(329, "pkey_mprotect", "start:addr len:len prot pkey",
    vma=_changes("do_mprotect_pkey(): sgx_vma_mprotect()"))
NR_pkey_alloc = _row(330, "pkey_alloc", "flags init_val")
NR_pkey_free = _row(331, "pkey_free", "pkey")
NR_statx = _row(332, "statx", "dfd:dir filename:path flags mask buffer")
NR_io_pgetevents = _row(333, "io_pgetevents", "ctx_id min_nr nr events timeout sig")
NR_rseq = _row(334, "rseq", "rseq rseq_len flags sig")
NR_uretprobe = _row(335, "uretprobe")
NR_uprobe = _row(336, "uprobe")
NR_pidfd_send_signal = _row(424, "pidfd_send_signal", "pidfd:pidfd sig info flags",
    file=_native("pidfd_pid(): EBADF"))
NR_io_uring_setup = _row(425, "io_uring_setup", "entries p",
    vma=_handled("io_uring_allowed(): EPERM where an enclave is mapped"))
NR_io_uring_enter = _row(426, "io_uring_enter", "fd:fd to_submit min_complete flags argp argsz",
    file=_native("io_is_uring_fops(): EOPNOTSUPP"))
NR_io_uring_register = _row(427, "io_uring_register", "fd:fd opcode arg nr_args",
    file=_native("io_is_uring_fops(): EOPNOTSUPP"),
    vma=_handled("check_vma_flags(): VM_IO, VM_PFNMAP: buffers EFAULT"))
NR_open_tree = _row(428, "open_tree", "dfd:dir filename:path flags",
    path=_stands("of a node of devtmpfs"))
NR_move_mount = _row(429, "move_mount",
    "from_dfd:dir from_pathname:path to_dfd:dir to_pathname:path flags",
    path=_refuses(EINVAL, "no root of a mount"))
NR_fsopen = _row(430, "fsopen", "fs_name flags")
NR_fsconfig = _row(431, "fsconfig", "fd:fd cmd key value aux:fd",
    file=_native("fscontext_fops: EINVAL"))
NR_fsmount = _row(432, "fsmount", "fs_fd:fd flags attr_flags",
    file=_native("fscontext_fops: EINVAL"))
NR_fspick = _row(433, "fspick", "dfd:dir path:path flags",
    path=_refuses(EINVAL, "no root of a mount"))
NR_pidfd_open = _row(434, "pidfd_open", "pid flags")
NR_clone3 = _row(435, "clone3", "uargs size",
    vma=_handled("as before v5.3: ENOSYS where an enclave is or was mapped"))
NR_close_range = _row(436, "close_range", "fd max_fd flags")
NR_openat2 = _row(437, "openat2", "dfd:dir filename:path how usize")
NR_pidfd_getfd = _row(438, "pidfd_getfd", "pidfd:pidfd fd flags",
    file=_native("pidfd_pid(): EBADF"),
    vma=_handled("ptrace_may_access(): softsgx lets nobody have its own"))
NR_faccessat2 = _row(439, "faccessat2", "dfd:dir filename:path mode flags")
NR_process_madvise = _row(440, "process_madvise", "pidfd:pidfd vec vlen behavior flags",
    file=_native("pidfd_pid(): EBADF"),
    vma=_changes("madvise_vma_behavior(), of the process that the pidfd names"))
NR_epoll_pwait2 = _row(441, "epoll_pwait2", "epfd:fd events maxevents timeout sigmask sigsetsize",
    file=_native("ep_check_params(): EINVAL, no epoll"))
NR_mount_setattr = _row(442, "mount_setattr", "dfd:dir path:path flags uattr usize",
    path=_refuses(EINVAL, "no root of a mount"))
NR_quotactl_fd = _row(443, "quotactl_fd", "fd:fd cmd id addr",
    file=_native("quotactl_cmd_allowed(): a file system without quotas"))
NR_landlock_create_ruleset = _row(444, "landlock_create_ruleset", "attr size flags")
NR_landlock_add_rule = _row(445, "landlock_add_rule", "ruleset_fd:fd rule_type rule_attr flags",
    file=_native("get_ruleset_from_fd(): EBADFD"))
NR_landlock_restrict_self = _row(446, "landlock_restrict_self", "ruleset_fd:fd flags",
    file=_native("get_ruleset_from_fd(): EBADFD"))
NR_memfd_secret = _row(447, "memfd_secret", "flags")
NR_process_mrelease = _row(448, "process_mrelease", "pidfd:pidfd flags",
    file=_native("pidfd_pid(): EBADF"))
NR_futex_waitv = _row(449, "futex_waitv", "waiters nr_futexes flags timeout clockid", vma=_WORD)
NR_set_mempolicy_home_node = _row(450, "set_mempolicy_home_node",
    "start:addr len:len home_node flags",
    vma=_native("mbind_range(): no policy, ENOENT"))
NR_cachestat = _row(451, "cachestat", "fd:fd cstat_range cstat flags",
    file=_native("cachestat(): no page in the cache"))
NR_fchmodat2 = _row(452, "fchmodat2", "dfd:dir filename:path mode flags")
NR_map_shadow_stack = _row(453, "map_shadow_stack", "addr:addr size:len flags",
    vma=_changes("do_mmap(): MAP_FIXED_NOREPLACE"))
NR_futex_wake = _row(454, "futex_wake", "uaddr:word mask nr flags", vma=_WORD)
NR_futex_wait = _row(455, "futex_wait", "uaddr:word val mask flags timespec clockid", vma=_WORD)
NR_futex_requeue = _row(456, "futex_requeue", "waiters flags nr_wake nr_requeue", vma=_WORD)
NR_statmount = _row(457, "statmount", "req buf bufsize flags")
NR_listmount = _row(458, "listmount", "req mnt_ids nr_mnt_ids flags")
NR_lsm_get_self_attr = _row(459, "lsm_get_self_attr", "attr ctx size flags")
NR_lsm_set_self_attr = _row(460, "lsm_set_self_attr", "attr ctx size flags")
NR_lsm_list_modules = _row(461, "lsm_list_modules", "ids size flags")
NR_mseal = _row(462, "mseal", "start:addr len:len flags", vma=_changes("do_mseal()"))
NR_setxattrat = _row(463, "setxattrat", "dfd:dir path:path at_flags name uargs usize",
    path=_refuses(EPERM, "xattr_permission() of a special file"))
NR_getxattrat = _row(464, "getxattrat", "dfd:dir path:path at_flags name uargs usize",
    path=_stands("of a node of devtmpfs", late=True))
NR_listxattrat = _row(465, "listxattrat", "dfd:dir path:path at_flags list size",
    path=_stands("of a node of devtmpfs", late=True))
NR_removexattrat = _row(466, "removexattrat", "dfd:dir path:path at_flags name",
    path=_refuses(EPERM, "xattr_permission() of a special file"))
NR_open_tree_attr = _row(467, "open_tree_attr", "dfd:dir path:path flags uattr usize",
    path=_refuses(EINVAL, "no root of a mount"))
NR_file_getattr = _row(468, "file_getattr", "dfd:dir filename:path ufattr usize at_flags",
    path=_stands("of a node of devtmpfs"))
NR_file_setattr = _row(469, "file_setattr", "dfd:dir filename:path ufattr usize at_flags",
    path=_refuses(EOPNOTSUPP, "vfs_fileattr_set(): no ->fileattr_set"))
# fmt: on

FIRST_UNKNOWN = max(SYSCALLS) + 1
"""From this number on no row is known: such a call is refused where it names an enclave."""
