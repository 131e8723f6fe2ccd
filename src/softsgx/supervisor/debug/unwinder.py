"""Read by GDB, not by softsgx: who called an enclave's entry is who made the ENCLU outside.

No CFI can say so, since what was there at EENTER is in the SSA (URSP, URBP) and the TCS. So in GDB:

    python exec(gdb.execute("monitor python", to_string=True))
"""

from typing import Any

__all__ = ["install"]


def install() -> None:
    """Register it with the GDB that runs this."""
    import gdb
    from gdb.unwinder import Unwinder, register_unwinder

    def symbol(pc: int) -> str:
        return str(gdb.execute(f"info symbol {pc:#x}", to_string=True)).split()[0]

    class FrameId:
        def __init__(self, sp: Any, pc: Any) -> None:
            self.sp, self.pc = sp, pc

    class Entry(Unwinder):  # type: ignore[misc]
        """Of the function that EENTER goes to: ``monitor outside`` tells of who is inside."""

        def __init__(self) -> None:
            super().__init__("softsgx")
            self.busy = False

        def __call__(self, pending: Any) -> Any:
            if self.busy:  # symbols are looked up in frames, too
                return None
            self.busy = True
            try:
                return self.unwind(pending)
            finally:
                self.busy = False

        def unwind(self, pending: Any) -> Any:
            """The frame's caller, or None if it is none of an entry."""
            pc = pending.read_register("rip")
            try:
                told = gdb.execute("monitor outside", to_string=True).split()
            except gdb.error:
                return None  # not connected, or not to softsgx
            if not told:
                return None
            start, end, entry, *registers = [int(word, 16) for word in told]
            if not start <= int(pc) < end or symbol(int(pc)) != symbol(entry):
                return None
            info = pending.create_unwind_info(FrameId(pending.read_register("rsp"), pc))
            for name, value in zip(("rip", "rsp", "rbp"), registers, strict=True):
                kind = pending.read_register(name).type
                info.add_saved_register(name, gdb.Value(value).cast(kind))
            return info

    register_unwinder(None, Entry(), replace=True)
