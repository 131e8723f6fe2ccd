"""A security module over real processes: who has which label, what is logged.

Only the device is asked about: its nodes, the mappings and ioctls of its files and
segments, and, when pages are added from it, an executable source. Everything else that
the programs do is not looked at, so that they run at full speed. What a kernel with this
policy would have refused elsewhere (a stat, the opening of an enclave's file) is not
refused here.

Labels follow processes as in the kernel (`softsgx.supervisor.state.contexts`).
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from softsgx.complaints import complain
from softsgx.errors import UsageError
from softsgx.host import procmaps
from softsgx.law.rule import At, Stop
from softsgx.law.state import Cell
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.verdict import Verdict
from softsgx.mm.rules import VMA
from softsgx.mm.vma import AnonVma, Vma
from softsgx.policy.lsm import PolicyLsm
from softsgx.policy.selinux_lsm import SELinuxLsm
from softsgx.record.avc import apparmor_line, avc_line
from softsgx.supervisor.state import sources
from softsgx.supervisor.state.contexts import Contexts, mode_of
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["Confinement"]

_X = 4
_PRIVATE = 2
_DELETED = " (deleted)"


class _SourceFile:
    """A file that is no device's, mapped by a loader."""

    def __init__(self, security: FileSecurity) -> None:
        self.security = security


class _SourceProcess:
    """The loader, with what its memory was when it was asked about."""

    def __init__(self, process: HostProcess, note: sources.Note) -> None:
        self.label, self.tgid, self.tid = process.label, process.tgid, process.tid
        self.fsuid = process.fsuid
        vma = (note.vma_start, note.vma_end)
        self.heap = vma if note.heap else None
        self.stack = vma if note.stack else None


class Confinement:
    """The module of a run.

    lsm: the engine's side. start: the label of the first program, None to leave it to
    the rules and the policy. rules: labels by the path of the program that is executed.
    audit: a file that the kernel's audit lines are appended to. setup: what a recording
    tells of policy and options. Raises UsageError if ``audit`` cannot be written.
    """

    def __init__(
        self,
        lsm: PolicyLsm,
        *,
        start: str | None = None,
        rules: dict[str, str] | None = None,
        audit: str | None = None,
        setup: dict[str, Any] | None = None,
    ) -> None:
        self.lsm, self.setup = lsm, setup or {}
        self.contexts = Contexts(lsm, start, dict(rules or {}))
        self.run: Run | None = None
        self._serial = 0
        self._audit_path = audit or ""
        self._audit = -1
        if audit is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            try:
                self._audit = os.open(audit, flags, 0o600)
            except OSError as error:
                raise UsageError(f"--audit {audit}: {error.strerror}") from None
        lsm.sink = self._note

    def attach(self, run: Run) -> None:
        """The run begins."""
        self.run = run
        self.lsm.all_verdicts = run.record is not None

    def close(self) -> None:
        """The end of the run."""
        if self._audit >= 0:
            os.close(self._audit)
            self._audit = -1

    # -- processes ---------------------------------------------------------------------

    def label_of(self, tgid: int, tid: int = 0) -> str:
        """The label of a thread, or of a process's first."""
        return self.contexts.of(tgid, tid).label

    def born(self, parent: Tracee, child: int, *, thread: bool) -> None:
        """A child has its parent's label and descriptors."""
        self.contexts.born(parent, child, thread=thread)
        for security in () if thread else self._securities():
            if parent.tgid in security.holders:
                security.holders.add(child)

    def ended(self, tid: int) -> None:
        """A thread is gone."""
        self.contexts.ended(tid)
        for security in self._securities():
            security.holders.discard(tid)

    def executed(self, tracee: Tracee, former: int) -> None:
        """A program begins in a process: its label, and which descriptors it keeps.

        Under a new label no descriptor counts as its own: the first use asks about it,
        where SELinux at exec puts /dev/null in place of what is refused.
        """
        if self.contexts.executed(tracee, former):
            for security in self._securities():
                security.holders.discard(tracee.tgid)

    def _securities(self) -> list[FileSecurity]:
        if self.run is None:
            return []
        files = [f for file in self.run.files.values() for f in _with_segments(file)]
        found = [getattr(file, "security", None) for file in files]
        return [security for security in found if security is not None]

    # -- questions that only real processes raise ----------------------------------------

    def received(self, process: HostProcess, file: Any) -> tuple[int, str]:
        """Before a process uses a descriptor: (0 or errno, why).

        One that it neither opened nor inherited came from another process; the kernel asks
        when it arrives and would not have handed it over.
        """
        security = getattr(file, "security", None)
        if security is None or process.tgid in security.holders:
            return 0, ""
        try:
            process.device.run.ask("file_receive", At(file=file, process=process))
        except Stop as stop:
            return stop.errno, stop.why
        security.holders.add(process.tgid)
        return 0, ""

    def source(self, process: HostProcess, addr: int, prot: int) -> None:
        """Ask about an executable mapping that pages are added from. Raises Stop, EACCES.

        What the kernel was asked when it was made so is asked now, in that order. Of what was
        mapped without a system call, or by one that implied X, nothing is known but what
        it is: the mmap is asked about, and the mprotect that must have been, if it was written.
        """
        space = process.space
        found = next((m for m in procmaps.maps(space.seen) if m.start <= addr < m.end), None)
        if found is None or not prot & _X:
            return
        notes = sources.notes_at(space.executable, addr, found)
        if not notes:
            note = sources.Note(
                found.start, found.end, prot, 1 if found.shared else 2, found.inode, 0
            )
            notes = [note]
            if found.inode and not found.shared and not prot & 2 and sources.written(space, found):
                changed = note.within(found.start, found.end)
                changed.before, changed.modified = prot & ~_X, True
                notes.append(changed)
        elif notes[0].before is not None:
            # Mapped as it was then, which made no stop.
            first = notes[0].within(notes[0].start, notes[0].end)
            first.prot, first.before = notes[0].before, None
            notes.insert(0, first)
        file = None
        security = self.source_security(process, found)
        if security is not None:
            file = _SourceFile(security)
        for note in notes:
            if process.tgid not in note.asked:
                self._ask_again(process, file, note)
        for note in notes:
            note.asked.add(process.tgid)

    @staticmethod
    def _ask_again(process: HostProcess, file: _SourceFile | None, note: sources.Note) -> None:
        """Put the question that a note is of."""
        run, prot = process.device.run, note.prot
        was = prot & ~_X if note.before is None else note.before
        area = Vma(note.vma_start, note.vma_end, was, 7, shared=note.how != _PRIVATE)
        if note.modified:
            area.anon = AnonVma()
        at = At(process=_SourceProcess(process, note), file=file, area=area, vma=_cell(area))
        if note.before is None:
            run.ask("mmap_file", at, reqprot=prot, prot=prot, map_type=note.how)
        else:
            run.ask("file_mprotect", at, reqprot=prot, prot=prot)

    def source_security(self, process: HostProcess, found: Any) -> FileSecurity | None:
        """The file behind a mapping of a loader's, None for anonymous memory."""
        path = found.path.removesuffix(_DELETED)
        if not found.inode:
            return None
        if found.shared and (path == "/dev/zero" or path.startswith("/SYSV")):
            return FileSecurity(path, private=1, unmediated=1, opener=process.label)
        lsm = self.lsm
        memfd = path.startswith("/memfd:")
        if isinstance(lsm, SELinuxLsm):
            if memfd:
                return lsm.memfd(found.path, process.label)
            return lsm.file(path, mode_of(path), process.label, ino=found.inode)
        try:
            owner = os.stat(f"/proc/{process.tid}/root{path}").st_uid
        except OSError:
            owner = -1
        return FileSecurity(path, opener=process.label, unmediated=int(memfd), owner=owner)

    # -- what is logged ------------------------------------------------------------------

    def _note(self, verdict: Verdict) -> None:
        if self.run is not None and self.run.record is not None:
            self.run.record.verdict(_recorded(verdict))
        if verdict.kill:
            os.kill(verdict.process.tgid, signal.SIGKILL)
        if self._audit < 0 or not verdict.audited:
            return
        self._serial += 1
        line = (_apparmor if verdict.lsm == "apparmor" else _avc)(verdict, self._serial)
        try:
            os.write(self._audit, line.encode("utf-8", "surrogateescape") + b"\n")
        except OSError as error:
            self.close()
            complain(f"{self._audit_path}: {error.strerror}; no more audit")


def _with_segments(file: Any) -> list[Any]:
    return [file, *getattr(file, "segments", {}).values()]


def _cell(area: Vma) -> Cell:
    return area.cell(VMA)


def _comm(process: Any) -> bytes:
    try:
        with open(f"/proc/{process.tid}/comm", "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:
        return b"?"


def _recorded(verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pid": getattr(verdict.process, "tgid", 0),
        "lsm": verdict.lsm,
        "hook": verdict.hook,
        "subject": verdict.subject,
        "target": verdict.target,
        "tclass": verdict.tclass,
        "asked": list(verdict.asked),
        "denied": list(verdict.denied),
        "permissive": verdict.permissive,
    }
    if verdict.file is not None:
        found["path"] = verdict.file.path
    if verdict.cmd is not None:
        found["cmd"] = verdict.cmd
    return found


def _avc(verdict: Verdict, serial: int) -> str:
    file = verdict.file
    anonclass = None
    if file is not None and verdict.hook == "anon_inode_init":
        anonclass, file = file.anonclass, None
    path = None if file is None else file.path
    return avc_line(
        milliseconds=time.time_ns() // 1_000_000,
        serial=serial,
        perms=verdict.audited,
        pid=getattr(verdict.process, "tgid", 0),
        comm=_comm(verdict.process),
        scontext=verdict.subject,
        tcontext=verdict.target,
        tclass=verdict.tclass,
        denied=verdict.logs == "denied",
        permissive=verdict.permissive,
        path=None if verdict.by_name else path,
        name=os.path.basename(path) if verdict.by_name and path else None,
        dev=None if file is None else file.dev,
        ino=None if file is None else file.ino,
        ioctlcmd=verdict.cmd,
        anonclass=anonclass,
    )


def _apparmor(verdict: Verdict, serial: int) -> str:
    file = verdict.file
    said = "KILLED" if verdict.kill else "DENIED"
    if not verdict.denied or verdict.permissive:
        said = "ALLOWED" if verdict.denied else "AUDIT"
    return apparmor_line(
        milliseconds=time.time_ns() // 1_000_000,
        serial=serial,
        operation=verdict.hook,
        profile=verdict.subject,
        name=verdict.target if file is None else file.path,
        pid=getattr(verdict.process, "tgid", 0),
        comm=_comm(verdict.process),
        requested="".join(verdict.audited),
        denied="".join(verdict.audited) if verdict.denied else "",
        fsuid=getattr(verdict.process, "fsuid", 0),
        ouid=0 if file is None else file.owner,
        verdict=said,
        target=verdict.target if file is None else "",
    )
