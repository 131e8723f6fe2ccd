"""Ioctls that end as a rule of a fault says (`softsgx.faults`).

The first pages of a range are done by the driver's own code: for that time the caller's
structure says so many. What the design refuses by itself is refused before any rule is asked.
"""

from __future__ import annotations

import errno
import signal
import time
from typing import Any

from softsgx.designs.linux import Linux60
from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import place as place_of
from softsgx.device.ioctls import secinfo_request
from softsgx.device.memory import Fault as MemoryFault
from softsgx.faults.kinds import ioctl_place
from softsgx.faults.rules import Rule
from softsgx.host.status import mask_of, status_of
from softsgx.law.rule import Request, Stop
from softsgx.sdm.leaves import PAGE_SIZE, SGX_EPC_PAGE_CONFLICT
from softsgx.supervisor.inside.injected import suspend
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee
from softsgx.supervisor.stopped.freeze import still
from softsgx.supervisor.stopped.remote import Remote, calls, cancel
from softsgx.uapi import sgx as uapi
from softsgx.uapi import syscalls as nr

__all__ = ["ioctl"]

_RANGES = {
    uapi.SGX_IOC_ENCLAVE_ADD_PAGES: uapi.ENCLAVE_ADD_PAGES,
    uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS: uapi.ENCLAVE_RESTRICT_PERMISSIONS,
    uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES: uapi.ENCLAVE_MODIFY_TYPES,
    uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES: uapi.ENCLAVE_REMOVE_PAGES,
}
_BUILDING = (uapi.SGX_IOC_ENCLAVE_ADD_PAGES, uapi.SGX_IOC_ENCLAVE_INIT)
_MERGED: Any = Linux60()
_ERRNO = {name: number for number, name in errno.errorcode.items()}
_SA_RESTART = 0x10000000
_SIGACTION = 32  # bytes of the kernel's struct sigaction


class _Call:
    """One ioctl: what it is about. pages: of its range, 0 where it has none."""

    def __init__(self, run: Run, process: Any, file: EnclaveFile, cmd: int, arg: int) -> None:
        self.run, self.process, self.file, self.cmd, self.arg = run, process, file, cmd, arg
        self.layout = _RANGES.get(cmd)
        self.params: Any = None
        self.pages = 0

    def reaches(self) -> bool:
        """Whether the design lets it come to where it may fail; reads the arguments."""
        device = self.run.device
        law: Any = device.design
        k, at = device.run, place_of(self.process, self.file)
        try:
            law.ioctl(k, at, Request(cmd=self.cmd))
            if self.cmd == uapi.SGX_IOC_ENCLAVE_CREATE and hasattr(law, "may_create"):
                law.may_create(k, at, None)
            elif self.cmd in _BUILDING:
                law.may_build(k, at, None)
            if self.layout is None:
                return True
            if device.carry_out is not None and law.abi != "linux":
                law = _MERGED  # the loader's, whose calls are carried out as the design's own
            if self.cmd != uapi.SGX_IOC_ENCLAVE_ADD_PAGES:
                law.sgx2_ready(k, at, Request(sgx2=int(law.sgx2)))
            memory = self.process.memory
            self.params = self.layout.unpack(memory.read(self.arg, self.layout.size))
            law.validate_range(k, at, self.params)
            if self.cmd == uapi.SGX_IOC_ENCLAVE_ADD_PAGES:
                if self.params.src % PAGE_SIZE:
                    return False
                law.validate_secinfo(k, at, secinfo_request(self.process, self.params.secinfo))
        except (Stop, MemoryFault):
            return False
        self.pages = self.params.length // PAGE_SIZE
        return True

    def whole(self) -> tuple[int, str]:
        """The call as it is."""
        with still(self.run, self.process, self.file):
            return self.run.device.ioctl(self.process, self.file, self.cmd, self.arg)

    def first(self, pages: int, code: int = 0) -> tuple[int, str]:
        """The call for its first pages alone; ``count`` and ``result`` (code) as after them."""
        memory, layout, params = self.process.memory, self.layout, self.params
        if layout is None or params is None:
            return 0, ""
        length = params.length
        try:
            if pages:
                params.length = pages * PAGE_SIZE
                memory.write(self.arg, layout.pack_record(params))
                answer, why = self.whole()
                params = layout.unpack(memory.read(self.arg, layout.size))
                params.length = length
            else:
                answer, why = 0, ""
                params.count = 0
            if code and not answer:
                params.result = code
            memory.write(self.arg, layout.pack_record(params))
        except MemoryFault as fault:
            return -errno.EFAULT, str(fault)
        return answer, why

    def done_before(self) -> int:
        """How many pages the enclave has."""
        get, pages = self.file.enclave.page_schema.get, self.file.enclave.pages
        runs = pages.runs(0, pages.n_pages) if pages.n_pages else ()
        return sum(b - a for a, b, word in runs if get(word, "present"))


def ioctl(
    run: Run, tracee: Tracee, process: Any, file: Any, cmd: int, arg: int
) -> tuple[int, str, bool]:
    """An ioctl: (answer, why, whether the tracee stands at the call's exit by now)."""
    device = run.device
    row = device.ioctls.get(cmd)
    if row is None or not isinstance(file, EnclaveFile) or file.base_file is not file:
        with still(run, process, file):
            return *device.ioctl(process, file, cmd, arg), False
    call = _Call(run, process, file, cmd, arg)
    if not call.reaches():
        return *call.whole(), False
    if file.enclave.lost:
        return *_lost(call), False
    done = call.done_before() if cmd == uapi.SGX_IOC_ENCLAVE_ADD_PAGES else 0
    due = run.faults.due(ioctl_place(row.name), pages=call.pages, done=done)
    if due is None:
        return *call.whole(), False
    rule, after = due
    if rule.fault.name == "EINTR":
        return _interrupted(run, tracee, call, rule, after)
    return *_fail(run, tracee, call, rule, after), False


def _fail(run: Run, tracee: Tracee, call: _Call, rule: Rule, after: int) -> tuple[int, str]:
    name, why = rule.fault.name, f"injected: {rule.text()}"
    if name == "slow":
        run.faults.fired(tracee.tid, rule)
        time.sleep(int(rule.value) / 1000)
        return call.whole()
    code = SGX_EPC_PAGE_CONFLICT if name == "SGX_EPC_PAGE_CONFLICT" else 0
    busy = name == "EBUSY" and not after  # before the structure is looked at
    answer, refused = (0, "") if busy else call.first(after, code)
    if answer:
        return answer, refused  # the design stops it before
    run.faults.fired(tracee.tid, rule)
    if name == "suspend":
        suspend(run, rule.value)
        return _lost(call, after)
    if name == "short":
        return 0, why
    return -(errno.EFAULT if code else _ERRNO[name]), why


def _lost(call: _Call, after: int = 0) -> tuple[int, str]:
    """An ioctl of a lost enclave: its leaves fault.

    Linux: EIO of EADD and EINIT, EFAULT of EMODPR and EMODT; REMOVE_PAGES takes the #PF of
    EMODPR for a page that the enclave accepted, and PROVISION runs no leaf.
    """
    cmd, why = call.cmd, "the enclave was lost over a suspend"
    if cmd == uapi.SGX_IOC_ENCLAVE_ADD_PAGES:
        answer, refused = call.first(0) if not after else (0, "")
        return answer or -errno.EIO, refused or why
    if cmd == uapi.SGX_IOC_ENCLAVE_INIT:
        return -errno.EIO, why
    modifies = (uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES)
    if cmd in modifies:
        answer, refused = call.first(0) if not after else (0, "")
        return answer or -errno.EFAULT, refused or why
    return call.whole()


def _interrupted(
    run: Run, tracee: Tracee, call: _Call, rule: Rule, after: int
) -> tuple[int, str, bool]:
    """EINTR, with a signal whose handler does not restart calls; without one it goes on.

    The kernel answers ERESTARTSYS: where no handler runs, or one with SA_RESTART, the call
    is made again and the program never sees it (Linux, handle_signal()).
    """
    cancel(run, tracee)
    with calls(run, tracee) as remote:
        number = _interrupting(tracee, remote, rule)
        if not number:
            return *call.whole(), True
        answer, refused = call.first(after)
        if answer:
            return answer, refused, True
        ids = remote(nr.NR_getpid), remote(nr.NR_gettid)  # in its own pid namespace
        remote(nr.NR_tgkill, *ids, number)
    run.faults.fired(tracee.tid, rule)
    return -errno.EINTR, f"injected: {rule.text()}, by {signal.Signals(number).name}", True


def _interrupting(tracee: Tracee, remote: Remote, rule: Rule) -> int:
    """A signal that the thread handles now, without SA_RESTART, or 0."""
    # The thread's own mask: all are blocked while we make calls in it.
    usable = mask_of(status_of(tracee.tid), b"SigCgt") & ~remote.mask
    wanted = [signal.Signals[rule.signal]] if rule.signal else [*range(1, 32), *range(34, 65)]
    page = remote.room(PAGE_SIZE)
    if page < 0:
        return 0
    found = 0
    for number in wanted:
        if usable >> number - 1 & 1 and not remote(nr.NR_rt_sigaction, number, 0, page, 8):
            action = tracee.space.peek(page, _SIGACTION)
            if not int.from_bytes(action[8:16], "little") & _SA_RESTART:
                found = int(number)
                break
    remote(nr.NR_munmap, page, PAGE_SIZE)
    return found
