"""The design in docs/how-to-add-a-design.md is one: it can be told, and it does what it says."""

from __future__ import annotations

import re
import sys
from errno import EACCES, EBUSY, EINVAL, ENOTTY
from pathlib import Path
from typing import Any

import pytest

from softsgx.device import Device
from softsgx.device.build import Segment, add_segment, create
from softsgx.report.rules import rule_lines
from softsgx.sdm.leaves import PT_REG
from softsgx.sdm.structs import SECINFO
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_SHARED
from tests.cache import ROOT
from tests.command import Softsgx

BASE, SIZE = 0x7000_0000_0000, 0x4000
R, W, X = 1, 2, 4


PAGE = (ROOT / "docs" / "how-to-add-a-design.md").read_text()
VETTED, LABELLED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _names(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "how-to-add-a-design.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def vetted() -> Any:
    return _names(VETTED)["Vetted"]


@pytest.fixture(scope="module")
def labelled() -> dict[str, Any]:
    return _names(LABELLED)


class Asked:
    """An LSM that denies EXECMOD."""

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        return EACCES if hook == "file_execmod" else 0


def _mapped(design: Any, source_prot: int, lsm: Any = None) -> int:
    """The answer to an executable mapping of a page that was added from such memory."""
    process = Device(design, lsm=lsm).process()
    fd = process.open("/dev/sgx_enclave")
    create(process, fd, BASE, SIZE)
    add_segment(process, fd, Segment(0, b"\xc3", R | X, source_prot=source_prot))
    answer = process.mmap(BASE, 0x1000, R | X, MAP_SHARED | MAP_FIXED, fd)
    return answer if answer < 0 else 0


def test_it_can_be_told_in_words(vetted: Any) -> None:
    asked = rule_lines(vetted(), "may_map")[-1]
    want = "if some page has (X ∈ prot and not (page.present and page.vetted)): "
    assert asked == want + "ask LSM file_execmod()"
    assert rule_lines(vetted(), "add_page")[-1] == "page.vetted := X ∈ source.prot"


def test_it_does_what_it_says(vetted: Any) -> None:
    assert _mapped(vetted(), R | X, Asked()) == 0
    assert _mapped(vetted(), R | W, Asked()) == -EACCES
    assert _mapped(vetted(), R | W) == 0
    assert _mapped(vetted(unvetted="refuse"), R | X) == 0
    assert _mapped(vetted(unvetted="refuse"), R | W) == -EACCES


def test_an_eadd_of_its_own_with_an_argument_more(labelled: dict[str, Any]) -> None:
    layout, cmd = labelled["ADD_LABELLED"], labelled["SGX_IOC_ADD_LABELLED"]
    process = Device(labelled["Labelled"]()).process()
    fd = process.open("/dev/sgx_enclave")
    create(process, fd, BASE, SIZE)
    memory = process.memory

    def add(page: int, perm: int, code: int, length: int = 0x1000) -> tuple[int, int]:
        argument = memory.put(
            layout.pack(
                src=memory.put(bytes(length), prot=R | W), offset=page << 12, length=length,
                secinfo=memory.put(SECINFO.pack(flags=perm | PT_REG << 8)), code=code,
            )
        )  # fmt: skip
        answer = process.ioctl(fd, cmd, argument)
        return answer, int(layout.unpack(memory.read(argument, layout.size)).count)

    assert add(0, R | X, 1) == (0, 0x1000)
    assert add(1, R | W, 0, 0x2000) == (0, 0x2000)
    assert add(3, R | W, 1)[0] == add(3, R | X, 0)[0] == add(3, R, 2)[0] == -EINVAL
    assert add(2, R, 0)[0] == -EBUSY
    assert process.ioctl(fd, uapi.SGX_IOC_ENCLAVE_ADD_PAGES, BASE) == -ENOTTY
    flags = MAP_SHARED | MAP_FIXED
    assert process.mmap(BASE, 0x1000, R | X, flags, fd) == BASE
    assert process.mmap(BASE + 0x1000, 0x1000, R | W, flags, fd) == BASE + 0x1000
    assert process.mmap(BASE + 0x1000, 0x1000, R | X, flags, fd) == -EACCES


# A loader that knows the ioctl, in a process of its own.
_LOADER = """
import ctypes, fcntl, mmap, os
from softsgx.sdm.leaves import ATTR_MODE64BIT
from softsgx.sdm.structs import SECINFO, SECS
from softsgx.uapi import sgx as uapi
names = {}
exec(compile(open("labelled.py").read(), "labelled.py", "exec"), names)
buffer = mmap.mmap(-1, 0x3000)
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
fd = os.open("/dev/sgx_enclave", os.O_RDWR)
secs = {"size": 0x4000, "baseaddr": 0x200000000, "ssaframesize": 1, "xfrm": 3}
buffer[:SECS.size] = SECS.pack(attributes=ATTR_MODE64BIT, **secs)
fcntl.ioctl(fd, uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE.pack(src=address))
for perm, code in ((5, 1), (7, 1)):
    buffer[0x1000:0x1040] = SECINFO.pack(flags=perm | 2 << 8)
    where = {"src": address + 0x2000, "offset": 0x1000, "length": 0x1000}
    pack = names["ADD_LABELLED"].pack
    argument = bytearray(pack(secinfo=address + 0x1000, code=code, **where))
    try:
        fcntl.ioctl(fd, names["SGX_IOC_ADD_LABELLED"], argument)
        print("added", names["ADD_LABELLED"].unpack(bytes(argument)).count)
    except OSError as e:
        print(e.strerror)
"""


def test_on_a_real_process_and_in_a_recording(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "labelled.py").write_text(LABELLED)
    options = ("--load", "labelled.py", "--record", "run.jsonl")
    done = softsgx(*options, "--", sys.executable, "-c", _LOADER, cwd=tmp_path)
    assert done.stdout.splitlines() == ["added 4096", "Invalid argument"], done.stderr
    shown = softsgx.command("show", "run.jsonl", cwd=tmp_path).stdout
    lines = re.findall(r"^\[pid \d+\] ioctl\(\d+, SGX_IOC_ADD_LABELLED, .*", shown, re.MULTILINE)
    first, second = lines
    assert "offset=0x1000" in first
    assert "code=0x1" in first
    assert "no W of code, no X of data" in second


def _of_the_page() -> list[str]:
    (line,) = re.findall(r"^\$ softsgx (check .*labelled.*)$", PAGE, re.MULTILINE)
    return [*line.split(), "--jobs", "2"]


def test_the_checker_finds_its_eadd(softsgx: Softsgx, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "checking.md").read_text()
    (own,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(own)
    (tmp_path / "labelled.py").write_text(LABELLED)
    done = softsgx.command(*_of_the_page(), cwd=tmp_path)
    rows = [text.split()[:3] for text in done.stdout.splitlines()[1:3]]
    assert rows == [["labelled", "code-stays", "proved"], ["linux-5.11", "code-stays", "refuted"]]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            r"    add_rules = .*\n",
            "",
            "the checker finds no EADD in it; name its rules in add_rules",
        ),
        (r"    add_args = .*\n", "", "(add_labelled): AttributeError: this event has no 'code'"),
        (r'info", "add_labelled"', 'info", "x"', "add_rules names 'x', and it has no such rule"),
    ],
)
def test_an_eadd_that_the_checker_cannot_find_is_one_line(
    before: str, after: str, said: str, softsgx: Softsgx, tmp_path: Path
) -> None:
    text, times = re.subn(before, after, LABELLED)
    assert times == 1
    (tmp_path / "labelled.py").write_text(text)
    where = ("--load", "labelled.py", "--property", "no-wx", "labelled")
    done = softsgx.command("check", *where, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (told,) = done.stderr.splitlines()
    assert said in told


def test_its_traces_have_no_loader(softsgx: Softsgx, tmp_path: Path) -> None:
    (tmp_path / "labelled.py").write_text(LABELLED)
    where = ("--load", "labelled.py")
    options = ("--property", "elrange-fixed", "--trace-dir", "t", "labelled")
    assert softsgx.command("check", *where, *options, cwd=tmp_path).returncode == 1
    trace = "t/labelled.elrange-fixed.json"
    done = softsgx.command("replay", *where, "--orders", "/bin/true", trace, cwd=tmp_path)
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert "this trace cannot be replayed: design labelled adds pages in a way of its own" in told


def test_what_the_checker_does_not_call_is_told(softsgx: Softsgx, tmp_path: Path) -> None:
    text = re.sub(r"^    add_(rules|args|page) = .*\n", "", LABELLED, flags=re.MULTILINE)
    (tmp_path / "labelled.py").write_text(text)
    where = ("--load", "labelled.py", "--property", "noexec", "labelled")
    done = softsgx.command("check", *where, cwd=tmp_path)
    told = "softsgx: design labelled: nothing explored makes a call of SGX_IOC_ADD_LABELLED\n"
    assert (done.returncode, done.stderr) == (0, told)
