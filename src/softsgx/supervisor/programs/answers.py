"""What CPUID answers, asked once: of the processor, and between two boots of the kernel.

The processor is asked in our own process, which costs no stop. Its answers are kept with the time
that the kernel started, and with its model and features as it tells of them now: a virtual machine
may wake up on another.
"""

from __future__ import annotations

import os
import struct

from softsgx.errors import UnsupportedError
from softsgx.host import cpuidcode, kept, ptrace
from softsgx.sdm import cpuid
from softsgx.supervisor.state.run import Run

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from softsgx.sdm.cpuid import Answer

__all__ = ["answered", "page", "remember"]

_BOOT = "/proc/sys/kernel/random/boot_id"
_MAGIC = b"softsgx answers 2\0"
_ROW = struct.Struct("<6I")
_MAX_ANSWERS = 4096
_MAX_KEPT = 256
_MAX_SUBLEAF = 1 << 16  # above is what some register happened to hold
_EXTENDED = 0x80000000
_HYPERVISOR = range(0x40000000, 0x50000000)  # which may change its mind


def answered(run: Run, leaf: int, subleaf: int, execute: Callable[[int, int], Answer]) -> Answer:
    """What CPUID answers. execute: has the core in question do it."""
    natives = _natives(run)
    if not run.cpuid.highest:
        run.cpuid.highest = _native(run, natives, 0, 0, execute)[0]
    if leaf in cpuid.PER_CORE:
        return _emulate(run, leaf, subleaf, execute(leaf, subleaf))
    if _is_plain(run, leaf):
        subleaf = 0
    found = run.cpuid.answers.get((leaf, subleaf))
    if found is not None:
        return found
    found = _emulate(run, leaf, subleaf, _native(run, natives, leaf, subleaf, execute))
    if len(run.cpuid.answers) < _MAX_ANSWERS and subleaf < _MAX_SUBLEAF:
        run.cpuid.answers[leaf, subleaf] = found
    return found


def _is_plain(run: Run, leaf: int) -> bool:
    """Whether ECX is no input to a leaf; one that the processor lacks may show another's answer."""
    if leaf not in cpuid.PLAIN:
        return False
    if leaf <= _EXTENDED:
        return leaf <= run.cpuid.highest or leaf == _EXTENDED
    return leaf <= run.cpuid.answers.get((_EXTENDED, 0), (0,))[0]


def page(run: Run) -> bytes:
    """What the lookup in processes finds (`softsgx.host.cpuidcode`); nothing if it cannot be."""
    natives = _natives(run)
    if not run.cpuid.highest:
        if run.cpuid.ask is None:
            return b""
        run.cpuid.highest = _native(run, natives, 0, 0, run.cpuid.ask)[0]
    count, made = run.cpuid.page
    if count != len(run.cpuid.answers):
        highest = run.cpuid.highest
        leaves = [leaf for leaf in cpuid.PER_CORE if leaf <= highest or leaf > cpuid.SGX_LEAF]
        try:
            plain: dict[int, Answer] = {}
            others: dict[tuple[int, int], Answer] = {}
            for (leaf, subleaf), answer in run.cpuid.answers.items():
                if _is_plain(run, leaf):
                    plain[leaf] = answer
                else:
                    others[leaf, subleaf] = answer
            made = cpuidcode.load().page(leaves, plain, others)
        except UnsupportedError:
            made = b""
        run.cpuid.page = len(run.cpuid.answers), made
    return made


def remember(run: Run) -> None:
    """Keep what was learned for the next run."""
    if not run.cpuid.learned or run.cpuid.ask is None or not (head := _head(run.cpuid.ask)):
        return
    rows = [
        _ROW.pack(*asked, *native)
        for asked, native in (run.cpuid.natives or {}).items()
        if asked[0] not in _HYPERVISOR
    ]
    kept.write(_path(run), head, b"".join(rows[:_MAX_KEPT]))


def _natives(run: Run) -> dict[tuple[int, int], Answer]:
    """What the processor answers, as far as it is known."""
    natives = run.cpuid.natives
    if natives is None:
        natives = run.cpuid.natives = {}
        run.cpuid.ask = ask = ptrace.cpuid_function()
        head = _head(ask) if ask is not None else b""
        body = kept.read(_path(run), head, _ROW.size) if head else None
        for leaf, subleaf, *native in _ROW.iter_unpack(body or b""):
            natives[leaf, subleaf] = (native[0], native[1], native[2], native[3])
        if (0, 0) in natives:
            run.cpuid.highest = natives[0, 0][0]
            for (leaf, subleaf), known in natives.items():
                run.cpuid.answers[leaf, subleaf] = _emulate(run, leaf, subleaf, known)
    return natives


def _native(
    run: Run,
    natives: dict[tuple[int, int], Answer],
    leaf: int,
    subleaf: int,
    execute: Callable[[int, int], Answer],
) -> Answer:
    native = natives.get((leaf, subleaf))
    if native is None:
        native = (run.cpuid.ask or execute)(leaf, subleaf)
        if subleaf < _MAX_SUBLEAF and len(natives) < _MAX_ANSWERS and leaf != cpuid.SGX_LEAF:
            natives[leaf, subleaf] = native
            run.cpuid.learned = True
    return native


def _emulate(run: Run, leaf: int, subleaf: int, native: Answer) -> Answer:
    sgx2, aexnotify, xfrm = True, True, 3
    if leaf == cpuid.SGX_LEAF:
        from softsgx.supervisor.state.device import open_device

        device = open_device(run)
        sgx2, aexnotify = device.design.sgx2, device.design.aexnotify
        xfrm = device.xfrm_supported
    highest, epc = run.cpuid.highest, run.options.epc_bytes
    return cpuid.emulate(
        leaf, subleaf, native, epc, sgx2, native_max=highest, xfrm=xfrm, aexnotify=aexnotify
    )


def _path(run: Run) -> str:
    return os.path.join(run.cache_dir, "answers")


def _head(ask: Callable[[int, int], Answer]) -> bytes:
    """What answers are kept by: nothing where the kernel does not say when it started."""
    try:
        fd = os.open(_BOOT, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        boot = os.read(fd, 64)
    except OSError:
        return b""
    finally:
        os.close(fd)
    model, _, *features = ask(1, 0)  # the second has the core's own number
    return _MAGIC + boot + struct.pack("<7I", model, *features, *ask(7, 0))
