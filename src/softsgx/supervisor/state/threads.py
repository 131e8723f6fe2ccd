"""Real threads as `softsgx.sgx.enclu` wants them."""

from __future__ import annotations

from errno import EINVAL

from softsgx.errors import UnsupportedError
from softsgx.host import ptrace
from softsgx.sgx.enclu import Thread
from softsgx.supervisor.state.host_process import process_of
from softsgx.supervisor.state.run import Run
from softsgx.supervisor.state.tracee import Tracee

__all__ = ["TraceeXState", "thread_of"]


class TraceeXState:
    """The XSAVE image of a stopped tracee, in standard format."""

    __slots__ = ("tid",)

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def read(self) -> bytes:
        """The image."""
        return ptrace.get_xstate(self.tid)

    def write(self, image: bytes | bytearray) -> None:
        """Raises UnsupportedError for a component that the kernel keeps no room for yet.

        That is AMX's, until the thread itself has used it (Linux validate_user_xstate_header()).
        """
        try:
            ptrace.set_xstate(self.tid, image)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            raise UnsupportedError(
                f"thread {self.tid} resumes an enclave's AMX state, and has not used AMX itself:"
                " call arch_prctl(ARCH_REQ_XCOMP_PERM, 18) and use a tile in it before"
            ) from None


def thread_of(run: Run, tracee: Tracee) -> Thread:
    """The logical processor that a traced thread is, made when it first matters."""
    thread: Thread | None = tracee.thread
    if thread is None:
        thread = tracee.thread = Thread(process_of(run, tracee.space), TraceeXState(tracee.tid))
    return thread
