"""The block and the frame of accepts.c."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from softsgx.host import accepts, short
from softsgx.host.foreign import address_of
from softsgx.uapi.regs import NAMES, NREGS

_SOURCE = Path(accepts.__file__).with_name("accepts.c").read_text()
_CODE = Path(accepts.__file__).with_name("short.S").read_text()

if not accepts.available():
    pytest.skip("accepts.c is not built: python hatch_build.py", allow_module_level=True)


def test_the_frame_is_where_it_is_thought_to_be() -> None:
    (body,) = re.findall(r"^struct frame {\n(.*?)^};", _SOURCE, re.M | re.S)
    at = {}
    size = 0
    for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?(?=[,;])", body):
        at[name] = size
        size += 8 * int(count or 1)
    assert at["underway"] == accepts.UNDERWAY
    assert size <= short.FRAME


def test_registers_are_popped_in_the_order_in_which_they_lie() -> None:
    (popped,) = re.findall(r"^tracer_label carried\n(.*?)\tiretq", _CODE, re.M | re.S)
    assert tuple(re.findall(r"pop\t%(\w+)", popped)) == NAMES[:15]
    # What IRET takes (SDM, "IRET": RIP, CS, RFLAGS, RSP, SS), behind one that is passed over.
    assert NAMES[15:21] == ("orig_rax", "rip", "cs", "eflags", "rsp", "ss")


def test_secinfo_and_registers_lie_apart() -> None:
    block = accepts.Block()
    block.expect(bytes(range(64)))
    assert ctypes.string_at(block["info_at"], 64) == bytes(range(64))
    assert list(block.regs) == [0] * NREGS
    assert block["info_at"] - block["regs_at"] == 8 * NREGS


def test_where_a_buffer_lies() -> None:
    buffer = bytearray(b"here")
    assert ctypes.string_at(address_of(buffer), 4) == b"here"
