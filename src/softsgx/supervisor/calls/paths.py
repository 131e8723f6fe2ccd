"""The nodes that do not exist: open, stat and access of their paths.

Only a path whose last component is a device's name is looked at closely.
"""

from __future__ import annotations

import errno
import os

from softsgx.supervisor.calls import folders, links, magic, openat2, pathcalls
from softsgx.supervisor.calls.concern import OF_MAPPINGS, VIEWS, concern
from softsgx.supervisor.calls.nodes import (
    access,
    change_xattr,
    created,
    open_attribute,
    put_stat,
    removed,
    stand_in,
    utimes,
)
from softsgx.supervisor.calls.roots import as_ours, as_seen
from softsgx.supervisor.state.node import Attribute, Creds, Node, Shown
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped import filters
from softsgx.supervisor.stopped.answer import answered, instead
from softsgx.supervisor.stopped.remote import calls, cancel
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import ORIG_RAX, R8, R9, R10, RDI, RDX, RSI
from softsgx.uapi.syscalls import SYSCALLS

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "fstat", "handle", "hurry_data", "hurry_descriptor", "hurry_masks", "is_below", "resolve",
]  # fmt: skip

_AT_FDCWD = (1 << 32) - 100
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000
_O_CLOEXEC, _O_DIRECTORY, _O_CREAT, _O_EXCL = 0o2000000, 0o200000, 0o100, 0o200
_O_NOFOLLOW, _O_TRUNC, _O_WRONLY = 0o400000, 0o1000, 1
_O_PATH, _FLAGS_KEPT, _F_SETFL = 0o10000000, 0o6000, 4  # O_APPEND, O_NONBLOCK
_STATS = (nr.NR_stat, nr.NR_lstat, nr.NR_newfstatat, nr.NR_statx)
_OPENS = (nr.NR_open, nr.NR_openat, nr.NR_openat2, nr.NR_creat)
_TAKES = (*_OPENS, nr.NR_open_tree, nr.NR_open_tree_attr, nr.NR_mount, nr.NR_fanotify_mark)
_ARGS = (RDI, RSI, RDX, R10, R8, R9)
_STAT = _AT_SYMLINK_NOFOLLOW | 0x800 | _AT_EMPTY_PATH | 0x6000  # NO_AUTOMOUNT, STATX_SYNC_TYPE
_PLAIN = _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH
# Where a call has its AT_ flags, and which it knows: EINVAL for others (fs/stat.c, fs/open.c …).
_AT_FLAGS = {
    nr.NR_newfstatat: (R10, _STAT),
    nr.NR_statx: (RDX, _STAT),
    nr.NR_faccessat2: (R10, _PLAIN | 0x200),
    nr.NR_fchownat: (R8, _PLAIN),
    nr.NR_fchmodat2: (R10, _PLAIN),
    nr.NR_utimensat: (R10, _PLAIN),
    nr.NR_unlinkat: (RDX, 0x200),
    nr.NR_linkat: (R8, 0x400 | _AT_EMPTY_PATH),
    nr.NR_name_to_handle_at: (R8, 0x400 | _AT_EMPTY_PATH | 0x203),
}
_TMPFILE, _O_TMPFILE, _O_DIRECT = 0o20000000, 0o20200000, 0o40000
_NOT_READING = 3 | _O_DIRECTORY | _O_PATH | _O_CREAT
_NO_LINKS = (b".", b"..")  # by their names
_NO_NAME = (b"", b".", b"..")
_MAGIC = (nr.NR_readlink, nr.NR_readlinkat)
_DECOYS = (b"/secretmem", b"/memfd:softsgx", b"/memfd:/dev/sgx")  # as /proc shows them
_CREATES = frozenset(
    (
        *(nr.NR_mkdir, nr.NR_mkdirat, nr.NR_symlink, nr.NR_symlinkat, nr.NR_creat),
        *(nr.NR_link, nr.NR_linkat, nr.NR_rename, nr.NR_renameat, nr.NR_renameat2),
        *(nr.NR_mknod, nr.NR_mknodat, *_OPENS),
    )
)
_MAX_LINKS = 40
_taken: dict[int, tuple[tuple[int | None, int], ...]] = {}


def _pairs(call: int) -> tuple[tuple[int | None, int], ...]:
    """The registers of the paths that a call takes, each with that of its descriptor."""
    args = SYSCALLS[call].args
    return tuple(
        [
            (_ARGS[i - 1] if i and args[i - 1].kind == "dir" else None, _ARGS[i])
            for i, arg in enumerate(args)
            if arg.kind == "path"
        ]
    )


def hurry_data(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of a mapping of a file that is not executable: None, or DONE."""
    return pathcalls.hurry(run, tracee, nr.NR_mmap, concern(run))


def hurry_descriptor(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of a call on a descriptor that is another file's: the same."""
    return pathcalls.hurry(run, tracee, run.view[ORIG_RAX], concern(run))


def hurry_masks(run: Run, tracee: Tracee) -> Any:
    """From the seccomp stop of a call that blocks no signal of exceptions: the same."""
    return pathcalls.hurry(run, tracee, nr.NR_rt_sigprocmask, concern(run))


def handle(run: Run, tracee: Tracee) -> Any:
    """Answer a path call: the value for RAX, None to let it be, or DONE."""
    call = run.view[ORIG_RAX]
    pairs = _taken.get(call)
    if pairs is None:
        pairs = _taken[call] = _pairs(call)
    if call in links.LINKING and not run.nodes.linked:
        target = tracee.read_string(run.view[RDI]) or b""
        if target[target.rfind(b"/") + 1 :] in run.nodes.names:
            pathcalls.look_for_links(run)
    for i, (dir_arg, path_arg) in enumerate(pairs):
        found = _named(run, tracee, call, dir_arg, path_arg)
        if found is None:
            continue
        if not isinstance(found, str):
            return found
        node = run.nodes[found]
        if node.gone and call not in _CREATES:
            return -errno.ENOENT
        across = _across(run, tracee, call, found, pairs, i) if call in links.MOVES else None
        if across is not None:
            return _asked(run, tracee, across)
        answer = _answer(run, tracee, call, node, i, path_arg)
        if isinstance(answer, int):
            if run.record is not None and call not in _OPENS:
                run.record.path(tracee.tid, nr.syscall_name(call), found, answer)
            return _asked(run, tracee, answer)
        return answer
    return pathcalls.hurry(run, tracee, call, concern(run))


def _named(run: Run, tracee: Tracee, call: int, dir_arg: int | None, path_arg: int) -> Any:
    """The device that one path of a call names, an answer, or None."""
    view = run.view
    raw = tracee.read_string(view[path_arg]) if view[path_arg] else b""
    if raw is None:
        return None
    dirfd = view[dir_arg] if dir_arg is not None else _AT_FDCWD
    if call == nr.NR_openat2 and openat2.resolve(tracee, view) & openat2.IN_ROOT:
        raw = raw.lstrip(b"/")
    if not raw:
        # AT_EMPTY_PATH: the fd itself; without it the kernel says ENOENT.
        at = _AT_FLAGS.get(call)
        asked = run.opened or tracee.space.views
        if not asked or dir_arg is None or at is None or not view[at[0]] & _AT_EMPTY_PATH:
            return None
        file = run.file_of(tracee, dirfd & 0xFFFFFFFF)
        if file is None:
            shown = tracee.shown(dirfd & 0xFFFFFFFF)
            if shown is not None:
                return put_stat(tracee, view, call, shown) if call in _STATS else None
            filters.let_go(run, tracee, dirfd & 0xFFFFFFFF)
        return None if file is None else str(file.path)
    if raw[raw.rfind(b"/") + 1 :] not in run.nodes.names:
        return _unusual(run, tracee, call, dirfd, raw)
    return resolve(run, tracee, dirfd, raw)


def _asked(run: Run, tracee: Tracee, answer: int) -> Any:
    """A process has asked about a name: from now on its late calls stop, too."""
    space = tracee.space
    if space.asked_names or not space.image:
        return answer
    cancel(run, tracee)
    with calls(run, tracee) as remote:
        filters.watch_names(remote)
    return answered(run, tracee, answer)


def _answer(run: Run, tracee: Tracee, call: int, node: Node, which: int, path_arg: int) -> Any:
    view, row = run.view, SYSCALLS[call]
    if node.gone:
        return created(tracee, view, call, node)
    assert row.path is not None
    known = _AT_FLAGS.get(call)
    if known is not None and view[known[0]] & 0xFFFFFFFF & ~known[1]:
        return -errno.EINVAL
    if call == nr.NR_statx and (view[RDX] & 0x6000 == 0x6000 or view[R10] & 1 << 31):
        return -errno.EINVAL  # do_statx(): AT_STATX_SYNC_TYPE, STATX__RESERVED
    if row.path.how == "refuses":
        return -row.path.errno
    if row.path.how == "stands":
        at = stand_in(tracee.space)
        return None if not at else instead(run, tracee, call, {path_arg: at})
    name = row.name
    if call in _OPENS:
        return _open(run, tracee, call, node)
    if "stat" in name:
        return put_stat(tracee, view, call, node)
    if "access" in name:
        return access(tracee, view, call, node)
    if call in _MAGIC:
        return -errno.EINVAL  # no symbolic link
    if "xattr" in name:
        return change_xattr(run, tracee, call, path_arg, view[_ARGS[1]])
    who = Creds(tracee.tid)
    last = [view[r] for r in _ARGS]
    at = row.of_kind("path")[0] + 1
    if "chmod" in name:
        return -node.chmod(who, last[at])
    if "chown" in name:
        return -node.chown(who, last[at], last[at + 1])
    if "utime" in name:
        return utimes(tracee, call, node, who, last[at])
    if which and "link" in name:
        return -errno.EEXIST
    return removed(call, node, who, last)


def resolve(run: Run, tracee: Tracee, dirfd: int, raw: bytes) -> str | None:
    """The node that a path names, from a descriptor or AT_FDCWD on, or None."""
    directory, name = os.path.split(os.fsdecode(as_seen(tracee, dirfd, raw)))
    folders = run.nodes.folders
    try:
        there = os.stat(directory or "/")
    except (OSError, ValueError):
        there = None  # the kernel says what is wrong with it, unless it is a folder of ours
    for known, node in run.nodes.paths.items():
        parent, base = os.path.split(known)
        if base != name:
            continue
        if there is None:
            if folders.named(os.fsencode(directory)) == parent:
                return node
        elif folders.stands_for(there, parent):
            return node
    return None


def is_below(run: Run, tracee: Tracee, dirfd: int, raw: bytes) -> bool:
    """Whether a path goes on behind a node, as if that were a folder."""
    for name in run.nodes.names:
        at = raw.find(name + b"/")
        if at >= 0 and resolve(run, tracee, dirfd, raw[: at + len(name)]) is not None:
            return True
    return False


def _unusual(run: Run, tracee: Tracee, call: int, dirfd: int, raw: bytes) -> Any:
    """A path that does not end in a device's name: its device, an answer, or None."""
    view = run.view
    if b"fd" in raw or b"map_files" in raw:
        pathcalls.note_folder(tracee, call, _of_tracee(tracee, dirfd, raw))
    if run.opened and call in _MAGIC:
        file = _magic_link(run, tracee, dirfd, raw)
        if file is not None:
            return magic.link_text(tracee, view, call, file)
    last = raw[raw.rfind(b"/") + 1 :]
    if (value := _had(run, tracee, call, dirfd, raw)) is not None:
        return value
    if call in _OPENS:
        if last in magic.ATTRIBUTES and run.lsm is not None:
            flags = _flags(run, tracee, call)
            return magic.attribute(run, tracee, _of_tracee(tracee, dirfd, raw), flags)
        if tracee.space.image and _lists(run, tracee, dirfd, raw, last):
            return folders.opened(run, tracee)
        reading = not _flags(run, tracee, call) & _NOT_READING
        told = run.opened or last not in OF_MAPPINGS
        if last in VIEWS and told and reading and tracee.space.image:
            from softsgx.supervisor.calls import views

            path = os.path.realpath(_of_tracee(tracee, dirfd, raw))
            try:
                node = Shown(os.fsdecode(path), os.stat(path))
            except OSError:
                return None  # the kernel says what is wrong with it
            text = views.contents(run, path, as_seen(tracee, dirfd, raw))
            if text is None:
                return None
            return views.show(run, tracee, text, _flags(run, tracee, call), node)
    elif last in VIEWS and call in _STATS and tracee.space.views is None:
        tracee.space.views = {}
    missing = run.nodes.folders
    if missing.last and raw.rstrip(b"/").endswith(tuple(missing.last)):
        folder = missing.named(as_seen(tracee, dirfd, raw))
        if folder is not None:
            where = next(r for _, r in _taken[call] if tracee.read_string(view[r]) == raw)
            return folders.answer(run, tracee, call, folder, where)
    if is_below(run, tracee, dirfd, raw):
        return -errno.ENOTDIR
    follows = raw.rpartition(b"/")[2] not in _NO_LINKS and links.follows(call, view)
    return _through_links(run, tracee, call, dirfd, raw) if follows else None


def _had(run: Run, tracee: Tracee, call: int, dirfd: int, raw: bytes) -> Any:
    return magic.had(run, tracee, dirfd, raw, opens=call in _OPENS) if call in _TAKES else None


def _through_links(run: Run, tracee: Tracee, call: int, dirfd: int, raw: bytes) -> Any:
    """The device that links lead to, an answer, or None."""
    allowed = True
    if call == nr.NR_openat2:
        how = openat2.resolve(tracee, run.view)
        if how & openat2.OF_LINKS or _flags(run, tracee, call) & _O_NOFOLLOW:
            return None  # the kernel finds the links, and what they may not do
        allowed = not how & openat2.NO_MAGICLINKS
    for _ in range(_MAX_LINKS):
        try:
            link = os.readlink(_of_tracee(tracee, dirfd, raw))
        except (OSError, ValueError):
            return None
        if run.opened and link.startswith(_DECOYS):
            file = _magic_link(run, tracee, dirfd, raw) if allowed else None
            return None if file is None else str(file.path)
        last, raw = link[link.rfind(b"/") + 1 :], os.path.join(os.path.dirname(raw), link)
        if (value := _had(run, tracee, call, dirfd, raw)) is not None:
            return value
        if call in _OPENS and run.lsm is not None and last in magic.ATTRIBUTES:
            flags = _flags(run, tracee, call)
            return magic.attribute(run, tracee, _of_tracee(tracee, dirfd, raw), flags)
        if last in run.nodes.names:
            pathcalls.look_for_links(run)
            return resolve(run, tracee, dirfd, raw)
    return None


def _across(
    run: Run, tracee: Tracee, call: int, found: str,
    pairs: tuple[tuple[int | None, int], ...], which: int,
) -> int | None:  # fmt: skip
    """A rename or link of the node: what comes before permissions, -errno, 0, or None."""
    view = run.view
    dir_arg, path_arg = pairs[1 - which]
    other: bytes | None = None
    if _named(run, tracee, call, dir_arg, path_arg) != found:
        raw = tracee.read_string(view[path_arg])
        if not raw:
            return -errno.ENOENT if raw == b"" else -errno.EFAULT
        other = as_ours(tracee, view[dir_arg] if dir_arg is not None else _AT_FDCWD, raw)
    return links.across(view, call, run.nodes[found], which, other)


def _lists(run: Run, tracee: Tracee, dirfd: int, raw: bytes, last: bytes) -> bool:
    """Whether a path is that of a folder with something of ours in it. last: its last component."""
    parents = run.nodes.folders.parents
    if last not in _NO_NAME and all(os.path.basename(parent) != last for parent in parents):
        return False
    where = as_ours(tracee, dirfd, raw)
    try:  # most are another folder, and to follow all links takes ten times as long
        there = os.stat(where)
        if not any(os.path.samestat(there, os.stat(parent)) for parent in parents):
            return False
    except (OSError, ValueError):
        pass
    return os.path.realpath(where) in parents


def _of_tracee(tracee: Tracee, dirfd: int, raw: bytes) -> bytes:
    """A path of ours to what a path in /proc means to the tracee."""
    return magic.of_tracee(tracee, as_ours(tracee, dirfd, raw))


def _magic_link(run: Run, tracee: Tracee, dirfd: int, raw: bytes) -> Any:
    """The device file that a link of /proc/PID/fd leads to, as the tracee sees it, or None."""
    try:
        s = os.stat(_of_tracee(tracee, dirfd, raw))
    except (OSError, ValueError):
        return None
    key = (s.st_dev, s.st_ino)
    memory = run.memories.get(key)  # by /proc/PID/map_files
    return run.files.get(key) or (memory and memory[0])


# -- open --------------------------------------------------------------------------


def _flags(run: Run, tracee: Tracee, call: int) -> int:
    if call == nr.NR_openat2:
        return int.from_bytes(tracee.read(run.view[RDX], 8), "little")
    return run.view[RSI if call == nr.NR_open else RDX]


def _open(run: Run, tracee: Tracee, call: int, node: Node) -> Any:
    if call == nr.NR_creat:
        flags = _O_CREAT | _O_WRONLY | _O_TRUNC
    else:
        flags = _flags(run, tracee, call)
    wrong = openat2.wrong(tracee, run.view) if call == nr.NR_openat2 else 0
    if wrong:
        return -wrong
    if flags & _O_PATH:
        flags &= _O_PATH | _O_DIRECTORY | _O_NOFOLLOW | _O_CLOEXEC  # build_open_flags()
    if flags & _TMPFILE and (flags & _O_TMPFILE != _O_TMPFILE or not flags & 3):
        return -errno.EINVAL
    if flags & (_O_CREAT | _O_DIRECTORY) == _O_CREAT | _O_DIRECTORY:
        return -errno.EINVAL
    if flags & _O_DIRECTORY:
        return -errno.ENOTDIR
    if flags & _O_DIRECT:
        return -errno.EINVAL  # do_dentry_open(): no ->direct_IO
    if flags & _O_CREAT and flags & _O_EXCL:
        return -errno.EEXIST
    if isinstance(node, Attribute):
        return open_attribute(run, tracee, node, flags)
    if not node.major:
        return -errno.ENXIO  # sock_no_open(); with O_PATH, which Linux grants, too
    if not tracee.space.image:
        return -errno.ENXIO  # a program without our vDSO: a 32-bit one
    fmode = {0: 1, 1: 2, 2: 3}.get(flags & 3, 0)
    path_only = bool(flags & _O_PATH)
    if not path_only:
        mask = (fmode & 1) << 2 | fmode & 2 if flags & 3 != 3 else 6
        if not node.permits(Creds(tracee.tid), mask):
            return -errno.EACCES
    from softsgx.supervisor.calls.rings import in_the_way
    from softsgx.supervisor.effects.descriptors import install_fd
    from softsgx.supervisor.state.device import open_device
    from softsgx.supervisor.state.enclaves import open_node

    if in_the_way(run, tracee):
        return -errno.EPERM
    open_device(run)
    file, error = open_node(run, tracee, node.path, fmode, path_only=path_only)
    if error:
        return -error
    how = run.view[RDI], tracee.read_string(run.view[RSI]) or b""
    cancel(run, tracee)
    with calls(run, tracee) as remote:
        fd = openat2.scoped(run, tracee, remote, node, *how) if call == nr.NR_openat2 else 0
        fd = fd or install_fd(run, remote, file, flags)
        filters.watch_names(remote)
    if run.record is not None:
        run.record.open(tracee.tid, file.path, getattr(file, "fmode", 0), fd, "")
    return answered(run, tracee, fd)


# -- stat --------------------------------------------------------------------------


def fstat(run: Run, tracee: Tracee, file: Any) -> int:
    """The fstat of a device's descriptor."""
    return put_stat(tracee, run.view, nr.NR_fstat, run.nodes[file.path])
