"""Pages and mappings in a recording, held against what was really done to the processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.record.reader import read
from softsgx.sdm.leaves import PT_REG, PT_TCS
from tests.command import Softsgx
from tests.orders import load

Guest = Callable[[str], Path]
PAGE = 4096


def _events(
    softsgx: Softsgx, tmp_path: Path, *args: str | Path, stdin: str = ""
) -> list[dict[str, Any]]:  # fmt: skip
    path = tmp_path / "recording"
    softsgx("--wait", "--record", path, *args, stdin=stdin)
    return [e for e in read(str(path)) if "event" in e]


class _Model:
    """What the fields of events say: of each page and each mapping, and the kernel's word."""

    def __init__(self) -> None:
        self.bases: dict[int, tuple[int, int]] = {}
        self.pages: dict[tuple[int, int], dict[str, int]] = {}
        self.vmas: dict[tuple[int, int, int], tuple[int, dict[str, int]]] = {}
        self.real: dict[tuple[int, int], int] = {}
        self.ready: set[int] = set()

    def take(self, event: dict[str, Any]) -> None:
        for number, base, size, _ in event.get("elranges", ()):
            self.bases[number] = base, size
        if event.get("name") == "SGX_IOC_ENCLAVE_INIT" and not event["answer"]:
            self.ready.add(event["enclave"])
        for number, first, last, fields in event.get("pages", ()):
            for page in range(first, last):
                self.pages[number, page] = fields
        for pid, start, end, number, fields in event.get("vmas", ()):
            if fields is None:
                del self.vmas[pid, start, end]
            else:
                self.vmas[pid, start, end] = number, fields
        for call, pid, start, end, value in event.get("effects", ()):
            for at in range(start, end, PAGE):
                if call == "munmap":
                    self.real.pop((pid, at), None)
                else:
                    self.real[pid, at] = value if call == "mprotect" else 0

    def differs(self, pid: int) -> list[tuple[int, int, int]]:
        """(address, what the fields allow, what is really allowed) where these are not the same."""
        found = []
        for (owner, start, end), (number, vma) in self.vmas.items():
            base, size = self.bases.get(number, (end, 0))  # mapped before ECREATE
            for at in range(max(start, base), min(end, base + size), PAGE):
                page = self.pages.get((number, at - base >> 12), {})
                settled = not page.get("pending") and not page.get("modified")
                usable = page.get("present") and page["pt"] == PT_REG and settled
                usable = usable and number in self.ready
                says = vma.get("prot", 0) & page.get("perm", 0) if usable else 0
                if owner == pid and self.real.get((pid, at), 0) != says:
                    found.append((at, says, self.real.get((pid, at), 0)))
        return found


@pytest.mark.parametrize("name", ["sgx2", "mm"])
def test_pages_and_mappings_say_what_the_kernel_was_told(
    name: str, softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    """At every event: the real protections are those of VMA and EPCM together (linux-6.12)."""
    model = _Model()
    changed = compared = 0
    for event in _events(softsgx, tmp_path, "--", guest(name)):
        model.take(event)
        changed += len(event.get("pages", ())) + len(event.get("vmas", ()))
        if model.vmas and ("pages" in event or "vmas" in event):
            assert model.differs(event["pid"]) == [], event
            compared += 1
    assert changed > 20
    assert compared > 5
    kinds = {fields.get("pt") for fields in model.pages.values()}
    assert {PT_TCS, PT_REG} <= kinds


def test_what_pages_came_from_is_told_with_the_place_in_its_file(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    orders = load("linux-6.12", "p0 src=file_rx perm=rx", "p1 src=anon_rw perm=rw")
    script = "\n".join(line.partition(" -> ")[0] for line in orders) + "\n"
    args = ("--", guest("orders"))
    adds: dict[int, dict[str, Any]] = {}
    for event in _events(softsgx, tmp_path, *args, stdin=script):
        if event.get("name") == "SGX_IOC_ENCLAVE_ADD_PAGES":
            args_of = event["args"]
            (source,) = event["sources"]
            start, end, *_ = source
            assert start <= args_of["src"] < args_of["src"] + args_of["length"] <= end
            adds[args_of["offset"] >> 12] = event
    last = max(adds)
    file, memory = (adds[n]["sources"][0] for n in (last - 1, last))
    assert memory[4:] == ["", 0]
    assert memory[2:4] == [3, 7]
    assert file[2] == 5
    assert Path(file[4].removesuffix(" (deleted)")).is_absolute()
    assert file[5] % PAGE == 0
    # The code is the loader's own file's, or a copy that it wrote: the page that it added.
    assert adds[last - 1]["pages"][0][3] == {"present": 1, "pt": PT_REG, "perm": 5, "max": 5}


def test_every_enclave_is_told_with_its_place(
    softsgx: Softsgx, tmp_path: Path, guest: Guest
) -> None:
    events = _events(softsgx, tmp_path, "--", guest("manyenclaves"), "5")
    created = [e for e in events if e.get("name") == "SGX_IOC_ENCLAVE_CREATE" and not e["answer"]]
    told = [row for e in events for row in e.get("elranges", ())]
    assert len(created) == len(told) > 1
    assert [e["enclave"] for e in created] == [row[0] for row in told]
    for _, base, size, _ in told:
        assert size & size - 1 == 0
        assert base % size == 0


def test_what_ends_is_mapped_no_more(softsgx: Softsgx, tmp_path: Path, guest: Guest) -> None:
    model = _Model()
    pids = set()
    gone: list[set[int]] = []
    for event in _events(softsgx, tmp_path, "--", guest("share")):
        model.take(event)
        pids |= {pid for pid, _, _ in model.vmas}
        if event["event"] == "exit":
            gone.append({pid for pid, _, _ in model.vmas})
    assert len(pids) > 1
    assert gone[-1] <= {event["pid"]}
