"""Mappings of enclaves that no ring of io_uring empties, where a ring comes after them.

What may never be written to is not taken away by MADV_REMOVE (`mappings.protect`); what was mapped
before there was a ring is mapped so, too, before the first one is made. Which mappings these are
says the kernel: a child may have been born with those of a moment before.
"""

from __future__ import annotations

from softsgx.host import procmaps
from softsgx.supervisor.effects.mappings import map_as_it_is
from softsgx.supervisor.state.host_process import HostProcess
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.stopped.others import in_process
from softsgx.supervisor.stopped.remote import Remote
from softsgx.uapi.mman import PROT_WRITE

__all__ = ["shield"]


def shield(run: Run, *processes: HostProcess) -> int:
    """Before a ring can reach them: 0, or -errno where the kernel refuses a new mapping."""
    error = 0
    for process in processes:

        def do(call: Remote, process: HostProcess = process) -> None:
            nonlocal error
            may = procmaps.starts_with_flag(process.space.seen, "mw")
            for m in procmaps.maps(process.space.seen):
                known = run.memories.get((m.dev, m.inode))
                if known is not None and not m.prot & PROT_WRITE and m.start in may and not error:
                    error = map_as_it_is(run, process, call, known[0], m)

        if not error and len(process.mm):
            in_process(run, process, None, None, do)
    return error
