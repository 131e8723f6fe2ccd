"""The x86-64 system calls that softsgx looks at or makes: one row each, and no second table.

A row gives the number, the kernel's name and the arguments' names; its value is the number, so
that code says ``NR_mmap``. Every ``NR_*`` name is public.
"""

from __future__ import annotations

__all__ = ["SYSCALLS", "Syscall", "syscall_name"]


class Syscall:
    """One row: ``nr``, ``name`` and the names of the arguments in order."""

    __slots__ = ("args", "name", "nr")

    def __init__(self, nr: int, name: str, args: tuple[str, ...]) -> None:
        self.nr = nr
        self.name = name
        self.args = args

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(self.args)})"


SYSCALLS: dict[int, Syscall] = {}


def _row(nr: int, name: str, *args: str) -> int:
    SYSCALLS[nr] = Syscall(nr, name, args)
    return nr


def syscall_name(nr: int) -> str:
    """The kernel's name of a call, or "syscall_NNN" for one without a row."""
    row = SYSCALLS.get(nr)
    return row.name if row is not None else f"syscall_{nr}"


# Linux, arch/x86/entry/syscalls/syscall_64.tbl.
NR_read = _row(0, "read", "fd", "buf", "count")
NR_write = _row(1, "write", "fd", "buf", "count")
NR_open = _row(2, "open", "filename", "flags", "mode")
NR_close = _row(3, "close", "fd")
NR_stat = _row(4, "stat", "filename", "statbuf")
NR_fstat = _row(5, "fstat", "fd", "statbuf")
NR_lstat = _row(6, "lstat", "filename", "statbuf")
NR_poll = _row(7, "poll", "ufds", "nfds", "timeout")
NR_lseek = _row(8, "lseek", "fd", "offset", "whence")
NR_mmap = _row(9, "mmap", "addr", "len", "prot", "flags", "fd", "off")
NR_mprotect = _row(10, "mprotect", "start", "len", "prot")
NR_munmap = _row(11, "munmap", "addr", "len")
NR_brk = _row(12, "brk", "brk")
NR_rt_sigaction = _row(13, "rt_sigaction", "sig", "act", "oact", "sigsetsize")
NR_rt_sigprocmask = _row(14, "rt_sigprocmask", "how", "nset", "oset", "sigsetsize")
NR_rt_sigreturn = _row(15, "rt_sigreturn")
NR_ioctl = _row(16, "ioctl", "fd", "cmd", "arg")
NR_pread64 = _row(17, "pread64", "fd", "buf", "count", "pos")
NR_pwrite64 = _row(18, "pwrite64", "fd", "buf", "count", "pos")
NR_readv = _row(19, "readv", "fd", "vec", "vlen")
NR_writev = _row(20, "writev", "fd", "vec", "vlen")
NR_access = _row(21, "access", "filename", "mode")
NR_sched_yield = _row(24, "sched_yield")
NR_mremap = _row(25, "mremap", "addr", "old_len", "new_len", "flags", "new_addr")
NR_mincore = _row(27, "mincore", "start", "len", "vec")
NR_madvise = _row(28, "madvise", "start", "len_in", "behavior")
NR_shmget = _row(29, "shmget", "key", "size", "flag")
NR_shmat = _row(30, "shmat", "shmid", "shmaddr", "shmflg")
NR_shmctl = _row(31, "shmctl", "shmid", "cmd", "buf")
NR_dup = _row(32, "dup", "fildes")
NR_dup2 = _row(33, "dup2", "oldfd", "newfd")
NR_nanosleep = _row(35, "nanosleep", "rqtp", "rmtp")
NR_getpid = _row(39, "getpid")
NR_socket = _row(41, "socket", "family", "type", "protocol")
NR_connect = _row(42, "connect", "fd", "uservaddr", "addrlen")
NR_sendmsg = _row(46, "sendmsg", "fd", "msg", "flags")
NR_recvmsg = _row(47, "recvmsg", "fd", "msg", "flags")
NR_clone = _row(56, "clone", "clone_flags", "newsp", "parent_tidptr", "child_tidptr", "tls")
NR_fork = _row(57, "fork")
NR_vfork = _row(58, "vfork")
NR_execve = _row(59, "execve", "filename", "argv", "envp")
NR_exit = _row(60, "exit", "error_code")
NR_wait4 = _row(61, "wait4", "pid", "stat_addr", "options", "ru")
NR_kill = _row(62, "kill", "pid", "sig")
NR_shmdt = _row(67, "shmdt", "shmaddr")
NR_fcntl = _row(72, "fcntl", "fd", "cmd", "arg")
NR_ftruncate = _row(77, "ftruncate", "fd", "length")
NR_getcwd = _row(79, "getcwd", "buf", "size")
NR_chdir = _row(80, "chdir", "filename")
NR_readlink = _row(89, "readlink", "path", "buf", "bufsiz")
NR_ptrace = _row(101, "ptrace", "request", "pid", "addr", "data")
NR_getuid = _row(102, "getuid")
NR_sigaltstack = _row(131, "sigaltstack", "uss", "uoss")
NR_personality = _row(135, "personality", "personality")
NR_mlock = _row(149, "mlock", "start", "len")
NR_munlock = _row(150, "munlock", "start", "len")
NR_prctl = _row(157, "prctl", "option", "arg2", "arg3", "arg4", "arg5")
NR_arch_prctl = _row(158, "arch_prctl", "option", "arg2")
NR_gettid = _row(186, "gettid")
NR_tkill = _row(200, "tkill", "pid", "sig")
NR_futex = _row(202, "futex", "uaddr", "op", "val", "utime", "uaddr2", "val3")
NR_sched_setaffinity = _row(203, "sched_setaffinity", "pid", "len", "user_mask_ptr")
NR_sched_getaffinity = _row(204, "sched_getaffinity", "pid", "len", "user_mask_ptr")
NR_remap_file_pages = _row(216, "remap_file_pages", "start", "size", "prot", "pgoff", "flags")
NR_set_tid_address = _row(218, "set_tid_address", "tidptr")
NR_exit_group = _row(231, "exit_group", "error_code")
NR_tgkill = _row(234, "tgkill", "tgid", "pid", "sig")
NR_openat = _row(257, "openat", "dfd", "filename", "flags", "mode")
NR_newfstatat = _row(262, "newfstatat", "dfd", "filename", "statbuf", "flag")
NR_readlinkat = _row(267, "readlinkat", "dfd", "pathname", "buf", "bufsiz")
NR_faccessat = _row(269, "faccessat", "dfd", "filename", "mode")
NR_fallocate = _row(285, "fallocate", "fd", "mode", "offset", "len")
NR_dup3 = _row(292, "dup3", "oldfd", "newfd", "flags")
NR_process_vm_readv = _row(
    310, "process_vm_readv", "pid", "lvec", "liovcnt", "rvec", "riovcnt", "flags"
)
NR_process_vm_writev = _row(
    311, "process_vm_writev", "pid", "lvec", "liovcnt", "rvec", "riovcnt", "flags"
)
NR_seccomp = _row(317, "seccomp", "op", "flags", "uargs")
NR_memfd_create = _row(319, "memfd_create", "uname", "flags")
NR_execveat = _row(322, "execveat", "dfd", "filename", "argv", "envp", "flags")
NR_rt_tgsigqueueinfo = _row(297, "rt_tgsigqueueinfo", "tgid", "pid", "sig", "uinfo")
NR_statx = _row(332, "statx", "dfd", "filename", "flags", "mask", "buffer")
NR_rseq = _row(334, "rseq", "rseq", "rseq_len", "flags", "sig")
NR_pkey_mprotect = _row(329, "pkey_mprotect", "start", "len", "prot", "pkey")
NR_pkey_alloc = _row(330, "pkey_alloc", "flags", "init_val")
NR_pkey_free = _row(331, "pkey_free", "pkey")
NR_pidfd_open = _row(434, "pidfd_open", "pid", "flags")
NR_clone3 = _row(435, "clone3", "uargs", "size")
NR_close_range = _row(436, "close_range", "fd", "max_fd", "flags")
NR_openat2 = _row(437, "openat2", "dfd", "filename", "how", "usize")
NR_pidfd_getfd = _row(438, "pidfd_getfd", "pidfd", "fd", "flags")
NR_faccessat2 = _row(439, "faccessat2", "dfd", "filename", "mode", "flags")
NR_process_madvise = _row(440, "process_madvise", "pidfd", "vec", "vlen", "behavior", "flags")
