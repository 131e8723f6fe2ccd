"""The block and the frame of accepts.c."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
from pathlib import Path

import pytest

from softsgx.foreign import address_of
from softsgx.host import accepts, ptrace, short
from softsgx.sdm.leaves import EACCEPT
from softsgx.uapi.regs import EFLAGS, NAMES, NREGS, ORIG_RAX, RAX, RBX, RCX, RIP
from tests.host.test_pathcode import Stepper

_SOURCE = Path(accepts.__file__).with_name("accepts.c").read_text()
_CODE = Path(accepts.__file__).with_name("short.S").read_text()

if not accepts.available():
    pytest.skip("accepts.c is not built: python hatch_build.py", allow_module_level=True)


def _struct(name: str) -> tuple[dict[str, int], int]:
    """Where its members are, in words, and how long it is."""
    (body,) = re.findall(rf"^struct {name} {{\n(.*?)^}};", _SOURCE, re.M | re.S)
    at, size = {}, 0
    for registers, member, count in re.findall(
        r"(user_regs_struct )?(\w+)(?:\[(\d+)\])?(?=[,;])", body
    ):
        at[member] = size
        size += NREGS if registers else int(count or 1)
    return at, size


def test_the_frame_is_where_it_is_thought_to_be() -> None:
    at, size = _struct("frame")
    assert at["underway"] * 8 == accepts.UNDERWAY
    assert size * 8 <= short.FRAME


def test_a_thread_is_as_it_is_thought_to_be() -> None:
    at, size = _struct("thread")
    members = ("BATCH", "CARRIED", "END", "FRAME", "INSIDE", "PAGE", "REGS", "RULE", "STOP", "WAY")
    assert [at[name.lower()] for name in members] == [getattr(accepts, name) for name in members]
    assert at["tid"] == accepts.TID
    block = accepts.Block()
    assert len(block.thread(1)) == size
    (threads,) = re.findall(r"^#define THREADS (\d+)", _SOURCE, re.M)
    assert int(threads) == accepts.THREADS


def test_tables_lie_behind_each_other() -> None:
    block = accepts.Block()
    sizes = {"enclaves": accepts.ENCLAVES, "threads": accepts.THREADS, "rules": accepts.RULES}
    at = block["enclaves"]
    for name, count in sizes.items():
        assert block[name] == at
        at += 8 * _struct(name.removesuffix("s"))[1] * count
    assert block["runs"] == at
    secinfo = bytes(range(64))
    block.rule(5, secinfo, range(7))
    assert ctypes.string_at(block["rules"], 16 * 8) == b"".join(
        [(5).to_bytes(8, "little"), secinfo, *(n.to_bytes(8, "little") for n in range(7))]
    )
    assert block["n_rules"] == 1


def test_registers_are_popped_in_the_order_in_which_they_lie() -> None:
    (popped,) = re.findall(r"^tracer_label carried\n(.*?)\tiretq", _CODE, re.M | re.S)
    assert tuple(re.findall(r"pop\t%(\w+)", popped)) == NAMES[:15]
    # What IRET takes (SDM, "IRET": RIP, CS, RFLAGS, RSP, SS), behind one that is passed over.
    assert NAMES[15:21] == ("orig_rax", "rip", "cs", "eflags", "rsp", "ss")


def test_where_a_buffer_lies() -> None:
    buffer = bytearray(b"here")
    assert ctypes.string_at(address_of(buffer), 4) == b"here"


@pytest.mark.parametrize("sent", [False, True])
def test_a_signal_that_is_sent_to_a_thread_at_an_enclu_is_no_enclus(*, sent: bool) -> None:
    memory = mmap.mmap(-1, 3 * mmap.PAGESIZE, prot=7)
    memory[:6] = b"\x0f\x01\xd7\x0f\x01\xd7"
    base, kinds = address_of(memory), bytearray((0, 1, 2))
    child, block = Stepper(), accepts.Block()
    block.enclave(0, base, len(memory), address_of(kinds), base)
    block.thread(child.pid)[accepts.TID] = child.pid
    block.rule(EACCEPT << 32 | 1 << 8 | 2, bytes(64), (3, 0, 0, 0, (1 << 64) - 1, 0, 0))
    block["most"] = 1
    view = child.regs.view
    view[:] = child.start.view
    view[RAX], view[RBX], view[RCX] = EACCEPT, base + mmap.PAGESIZE, base + 2 * mmap.PAGESIZE
    view[RIP], view[EFLAGS], view[ORIG_RAX] = base, 0x202, (1 << 64) - 1
    child.regs.store(child.pid)
    try:
        if sent:
            os.kill(child.pid, signal.SIGILL)
        ptrace.cont(child.pid)
        block.run()
        assert (block["done"], kinds[2]) == ((0, 2) if sent else (1, 3))
        assert block["got"] == (child.pid if sent else 0)
    finally:
        child.close()


@pytest.mark.parametrize("ended", [False, True])
def test_where_threads_may_run_is_as_it_was(*, ended: bool) -> None:
    memory = mmap.mmap(-1, 3 * mmap.PAGESIZE, prot=7)
    memory[: mmap.PAGESIZE - 4] = b"\x0f\x01\xd7" * ((mmap.PAGESIZE - 4) // 3)
    base, kinds, most = address_of(memory), bytearray((0, 1, 2)), 40
    child, block, places = Stepper(), accepts.Block(), os.sched_getaffinity(0)
    block.enclave(0, base, len(memory), address_of(kinds), base)
    words = block.thread(child.pid)
    words[accepts.TID], words[accepts.BOUND] = child.pid, 1
    block.rule(EACCEPT << 32 | 1 << 8 | 2, bytes(64), (2, 0, 0, 0, (1 << 64) - 1, 1, 0))
    block["most"], block["together"] = most, 1
    view = child.regs.view
    view[:] = child.start.view
    view[RAX], view[RBX], view[RCX] = EACCEPT, base + mmap.PAGESIZE, base + 2 * mmap.PAGESIZE
    view[RIP], view[EFLAGS], view[ORIG_RAX] = base, 0x202, (1 << 64) - 1
    if ended:  # by something else, behind some leaves
        at = 3 * (most // 2)
        memory[at : at + 2] = b"\x0f\x0b"  # UD2
    child.regs.store(child.pid)
    try:
        ptrace.cont(child.pid)
        block.run()
        assert block["done"] == (most // 2 if ended else most)
        assert block["got"] == (child.pid if ended else 0)
        assert os.sched_getaffinity(0) == places
        assert os.sched_getaffinity(child.pid) == places
    finally:
        child.close()
