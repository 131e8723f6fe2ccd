"""connect(2) to AESM's socket, which is not there: the same call to a socket of ours.

The name in the address is looked at, as any path; the kernel connects, to a listening socket in
the abstract namespace (`softsgx.services.aesm`). So what the descriptor is, what it may and how
long the call waits is answered as for any socket.

Rejected: one end of a socket pair in the descriptor's place, which loses its options, copies and
registrations with epoll(7).
"""

from __future__ import annotations

import errno
import os
import struct

from softsgx.complaints import complain
from softsgx.errors import SoftsgxError
from softsgx.supervisor.calls.paths import hurry_descriptor, is_below, resolve
from softsgx.supervisor.state.node import Creds
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.answer import instead
from softsgx.supervisor.stopped.remote import scratch
from softsgx.uapi import syscalls as nr
from softsgx.uapi.regs import RDX, RSI
from softsgx.uapi.sockets import AF_UNIX, SUN_PATH

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["connect"]

_AT_FDCWD = (1 << 32) - 100
_W = 2


def connect(run: Run, tracee: Tracee) -> Any:
    """A connect at its seccomp stop: as a handler answers."""
    view = run.view
    size = view[RDX] & 0xFFFFFFFF
    address = tracee.read(view[RSI], size)
    if len(address) < size or struct.unpack_from("<H", address) != (AF_UNIX,):
        return hurry_descriptor(run, tracee)
    name = address[SUN_PATH:].split(b"\0", 1)[0]
    if not tracee.space.image:
        return None
    if name[name.rfind(b"/") + 1 :] not in run.nodes.names:
        below = is_below(run, tracee, _AT_FDCWD, name)
        return -errno.ENOTDIR if below else hurry_descriptor(run, tracee)
    found = resolve(run, tracee, _AT_FDCWD, name)
    if found is None or run.nodes[found].gone:
        return None
    node = run.nodes[found]
    answer = 0
    if node.major:
        answer = -errno.ECONNREFUSED  # unix_find_bsd(): no socket
    if not node.permits(Creds(tracee.tid), _W):
        answer = -errno.EACCES
    if not answer and run.aesm is None:
        answer = _begin(run)
    if answer:
        if run.record is not None:
            run.record.path(tracee.tid, "connect", found, answer)
        return answer
    assert run.aesm is not None
    ours = struct.pack("<H", AF_UNIX) + run.aesm.address
    at = scratch(tracee.space)
    tracee.space.poke(at, ours)
    meant = {}
    if _in_our_network(tracee):
        # unix_find_abstract() looks for the socket's type, too; unix_find_bsd() tells of it.
        meant[-errno.ECONNREFUSED] = -errno.EPROTOTYPE
    return instead(run, tracee, nr.NR_connect, {RSI: at, RDX: len(ours)}, found, meant)


def _in_our_network(tracee: Tracee) -> bool:
    """Whether names in the abstract namespace mean the same to it as to us."""
    try:
        return os.path.samefile(f"/proc/{tracee.tid}/ns/net", "/proc/self/ns/net")
    except OSError:
        return False


def _begin(run: Run) -> int:
    """Start the service: 0, or -errno with a line that says what it lacks."""
    try:
        from softsgx.attest.quoting import Quoting
        from softsgx.host.platform import load_platform
        from softsgx.services.aesm import AesmService

        quoting = Quoting(load_platform())
        run.aesm = AesmService(
            quoting, lambda pid: any(t.tgid == pid for t in list(run.tracees.values()))
        )
    except SoftsgxError as error:
        complain(str(error))
        return -errno.ECONNREFUSED
    return 0
