"""A real kernel's recorded answers, given again by the device's own code.

Every row of tests/data/truth goes through `MmStruct`, the rules of mm, the hooks of
softsgx.lsm and a real policy: the same objects that answer a program under softsgx. The
device of the rows is a stand-in whose driver refuses MAP_PRIVATE and nothing else.
"""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Callable
from errno import EACCES, EFAULT, EINVAL
from typing import Any

import pytest

from softsgx.law.rule import At, Context, Request, Run, Stop
from softsgx.law.state import Cell
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.verdict import Verdict
from softsgx.mm.mm_struct import MmStruct
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.mm.mremap import mremap
from softsgx.mm.rules import MmRules
from softsgx.mm.vma import AnonVma, Vma
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.apparmor_lsm import UNCONFINED, AppArmorLsm
from softsgx.policy.labels import PathLabels
from softsgx.policy.lsm import PolicyLsm
from softsgx.policy.selinux import SELinuxPolicy
from softsgx.policy.selinux_lsm import SELinuxLsm
from softsgx.uapi.mman import (
    MAP_ANONYMOUS,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    VM_GROWSDOWN,
)
from tests.truthrows import TRUTH, AuditLine, Probe, Row, Truth, read

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 apparmor",
)

DOMAINS = {
    "selinux": [f"system_u:system_r:{name}:s0" for name in ("kernel_t", "loader_t", "weak_t")],
    "apparmor": [UNCONFINED, "loader", "weak"],
}
CASES = [(lsm, domain) for lsm, domains in DOMAINS.items() for domain in domains]
LETTERS = {0: ".", EACCES: "A", EINVAL: "I", EFAULT: "F"}
PAGE, BASE = 4096, 0x10000000
PATHS = {"file": "/tmp/f", "zero": "/dev/zero", "sgx": "/dev/sgx_enclave"}


class Misc(MmRules):
    """The truth's stand-in driver."""

    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        k.need(EINVAL, int(r.map_type != 2), "not MAP_PRIVATE")

    def open(self, k: Context, at: Any, r: Any) -> None:
        k.ask("file_open", at, fmode=r.fmode)


class File:
    """An open file of the row: what mm and the security modules need of one."""

    noexec = 0
    enclave = None

    def __init__(self, kind: str, fmode: int) -> None:
        self.kind, self.fmode = kind, fmode
        self.special = kind in {"sgx", "anonpriv", "anonsec"}
        self.path = PATHS.get(kind, "")
        self.security: FileSecurity | None = None

    def pages(self, *place: Any) -> Cell | None:
        return None


class Process:
    """The asking process; root, as in the truth."""

    fsuid = 0
    heap: tuple[int, int] | None = None
    stack: tuple[int, int] | None = None

    def __init__(self, label: str) -> None:
        self.label = label


class _SELinux(SELinuxLsm):
    """/tmp/f and the like are no devices: the device's own files always are."""

    def opened(self, file: Any, process: Any, fmode: int) -> FileSecurity:
        if file.kind == "file":
            return self.file(file.path, 0o100000, self.label_of(process), fmode)
        return super().opened(file, process, fmode)


@pytest.fixture(scope="module")
def world() -> Any:
    """``world(lsm)``: the module on the truth's policy, and the verdicts that it notes."""
    policy = SELinuxPolicy.load(str(TRUTH / "selinux-tiny.cil"))
    labels = PathLabels(
        policy, labels={"/tmp/f": "system_u:object_r:data_t:s0"}, xattrs=False
    )  # fmt: skip
    noted: list[Verdict] = []
    made: dict[str, PolicyLsm] = {
        "selinux": _SELinux(policy, labels, DOMAINS["selinux"][0], noted.append),
        "apparmor": AppArmorLsm(
            AppArmorPolicy.load(str(TRUTH / "apparmor.profile")), sink=noted.append
        ),
    }
    return lambda lsm: (made[lsm], noted)


TRUTHS: dict[str, Truth] = {"selinux": read("selinux-tiny"), "apparmor": read("apparmor")}


class Replay:
    """One domain's process on the device's model of its memory."""

    def __init__(self, lsm: PolicyLsm, domain: str) -> None:
        self.lsm, self.run = lsm, Run(lsm)
        self.process = Process(domain)
        self.law = Misc()
        self.reset()

    def reset(self) -> None:
        self.mm = MmStruct(self.law, self.run, process=self.process, version=(6, 1))

    def open(self, row: Row) -> tuple[str, File | None]:
        """The answer letter, and the file (None without one: anonymous, or refused)."""
        if row.kind == "anon":
            return ".", None
        file = File(row.kind, 3 if row.mode == "rw" else 1)
        at = At(file=file, process=self.process)
        try:
            if row.kind == "anonsec":
                self.run.ask("anon_inode_init", at, name="[sgx_segment]")
            elif row.kind == "memfd":
                if isinstance(self.lsm, SELinuxLsm):
                    file.security = self.lsm.memfd("/memfd:m (deleted)", self.process.label)
            elif row.kind != "anonpriv":
                self.law.open(self.run, at, Request(fmode=file.fmode))
        except Stop as stop:
            return LETTERS[stop.errno], None
        return ".", file

    def mmap(self, row: Row, file: File | None, prot: int, pages: int = 2) -> str:
        flags = {"priv": 2, "shar": 1, "shva": 3}[row.sharing]
        flags |= MAP_ANONYMOUS if file is None else 0
        self.reset()
        out = mmap(self.mm, 0, pages * PAGE, prot, flags, file, placed_at=BASE)
        if out.errno:
            return LETTERS[out.errno]
        vma = self.mm.find(BASE)
        assert vma is not None
        if row.kind == "zero" and vma.shared:
            vma.shmem = object()  # mmap_zero() calls shmem_zero_setup()
        if row.touch and prot & PROT_WRITE and not vma.shared:
            vma.anon = AnonVma()
        return "."

    def row(self, row: Row, mprotect: Callable[[Replay, int, int], int]) -> tuple[str, str, Any]:
        opened, file = self.open(row)
        if opened != ".":
            return opened, "-" * 8, ["-" * 8] * 8
        mapped, changed = "", []
        for prot in range(8):
            mapped += self.mmap(row, file, prot)
            letters = ""
            for wanted in range(8):
                if mapped[-1] != ".":
                    letters += "-"
                    continue
                assert self.mmap(row, file, prot) == "."
                letters += LETTERS[mprotect(self, prot, wanted)]
            changed.append(letters)
        return opened, mapped, changed


def _whole(replay: Replay, _prot: int, wanted: int) -> int:
    return mprotect(replay.mm, BASE, 2 * PAGE, wanted).errno


def _one_page(replay: Replay, prot: int, wanted: int) -> int:
    """Mprotect of the second page alone: the VMA is split if it succeeds."""
    outcome = mprotect(replay.mm, BASE + PAGE, PAGE, wanted)
    first, second = replay.mm.find(BASE), replay.mm.find(BASE + PAGE)
    assert first is not None
    assert second is not None
    assert (first.prot, second.prot) == (prot, wanted if not outcome.errno else prot)
    return outcome.errno


def _over_two_vmas(replay: Replay, prot: int, wanted: int) -> int:
    """Behind an anonymous VMA that allows all: it stays changed where the second is refused."""
    before = Vma(BASE - PAGE, BASE, wanted)
    replay.mm.adopt(before)
    outcome = mprotect(replay.mm, BASE - PAGE, 3 * PAGE, wanted)
    after = replay.mm.find(BASE)
    assert after is not None
    assert after.prot == (prot if outcome.errno else wanted)
    return outcome.errno


@pytest.mark.parametrize("mprotect", [_whole, _one_page], ids=["whole", "one_page"])
@pytest.mark.parametrize(("lsm", "domain"), CASES)
def test_every_row_is_answered_as_the_kernel_did(
    lsm: str, domain: str, mprotect: Callable[[Replay, int, int], int], world: Any
) -> None:
    replay = Replay(world(lsm)[0], domain)
    rows = list(TRUTHS[lsm].of_domain(domain))
    wrong = [
        (row, answer)
        for row in rows
        if (answer := replay.row(row, mprotect)) != (row.open_answer, row.mmap, row.mprotect)
    ]
    assert not wrong
    assert len(rows) == 58


def test_a_refusal_in_the_second_vma_leaves_the_first_changed(world: Any) -> None:
    # Only domains that may map anonymous memory as they like have a sure first VMA.
    replay = Replay(world("selinux")[0], DOMAINS["selinux"][1])
    rows = [r for r in TRUTHS["selinux"].of_domain(replay.process.label) if r.kind != "anon"]
    wrong = [
        (row, answer)
        for row in rows
        if (answer := replay.row(row, _over_two_vmas)) != (row.open_answer, row.mmap, row.mprotect)
    ]
    assert not wrong


def _probe(replay: Replay, name: str) -> str:
    """One of the truth's single probes."""
    mm, process = replay.mm, replay.process
    if name in {"heap_mprotect_rx", "stack_mprotect_rwx"}:
        stack = name.startswith("stack")
        vma = Vma(BASE, BASE + 4 * PAGE, 3, flags=VM_GROWSDOWN if stack else 0)
        mm.adopt(vma)
        process.heap, process.stack = None, None
        if stack:
            process.stack = (BASE + 2 * PAGE, BASE + 2 * PAGE)
        else:
            process.heap = (BASE, BASE + 4 * PAGE)
        prot = PROT_READ | PROT_EXEC | (PROT_WRITE if stack else 0)
        return LETTERS[mprotect(mm, BASE + PAGE, PAGE, prot).errno]
    row = next(r for r in TRUTHS["selinux"].rows if r.kind == "sgx" and r.mode == "rw")
    opened, file = replay.open(row)
    if opened != ".":
        # The program opened it read-only then.
        row = next(r for r in TRUTHS["selinux"].rows if r.kind == "sgx" and r.mode == "ro")
        opened, file = replay.open(row)
    assert opened == "."
    at = At(file=file, process=process)
    if name.startswith("ioctl") or name == "FIOCLEX":
        cmd = 0x5451 if name == "FIOCLEX" else int(name[6:], 16)
        return LETTERS[replay.lsm.ask("file_ioctl", at, {"cmd": cmd})]
    assert not mmap(mm, 0, 2 * PAGE, PROT_READ, 1, file, placed_at=BASE).errno
    where = BASE + 64 * PAGE
    if name == "sgx_mremap_grow":
        out = mremap(mm, BASE, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE)
    elif name == "sgx_mremap_move":
        out = mremap(mm, BASE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, where)
    else:
        assert name == "sgx_mremap_dup"
        out = mremap(mm, BASE, 0, 2 * PAGE, MREMAP_MAYMOVE)
    return LETTERS[out.errno]


@pytest.mark.parametrize(
    ("lsm", "probe"),
    [(lsm, probe) for lsm, truth in TRUTHS.items() for probe in truth.probes],
    ids=lambda value: value.domain if isinstance(value, Probe) else value,
)
def test_every_probe_is_answered_as_the_kernel_did(lsm: str, probe: Probe, world: Any) -> None:
    answers = {}
    for name in probe.answers:
        replay = Replay(world(lsm)[0], probe.domain)
        answers[name] = _probe(replay, name)
    assert answers == probe.answers
    assert len(answers) == 9


def _logged(line: AuditLine) -> tuple[Any, ...]:
    fields = line.fields
    if "scontext" not in fields:
        masks = fields["requested_mask"], fields["denied_mask"]
        return (fields["profile"], fields["operation"], fields["name"], *masks)
    return (fields["scontext"], tuple(sorted(line.perms)), fields["tcontext"], fields["tclass"])


def _noted(verdict: Verdict) -> tuple[Any, ...]:
    if verdict.lsm == "apparmor":
        masks = "".join(verdict.audited), "".join(verdict.denied)
        return (verdict.subject, verdict.hook, verdict.target, *masks)
    return (verdict.subject, verdict.audited, verdict.target, verdict.tclass)


@pytest.mark.parametrize("lsm", DOMAINS)
def test_what_the_kernel_logged_is_noted_and_nothing_where_it_was_silent(
    lsm: str, world: Any
) -> None:
    module, noted = world(lsm)
    del noted[:]
    for domain in DOMAINS[lsm]:
        replay = Replay(module, domain)
        for row in TRUTHS[lsm].of_domain(domain):
            replay.row(row, _whole)
    for probe in TRUTHS[lsm].probes:
        for name in probe.answers:
            _probe(Replay(module, probe.domain), name)
    found = {_noted(verdict) for verdict in noted if verdict.audited}
    logged = {_logged(line) for line in TRUTHS[lsm].audit}
    assert logged == found
    # dontaudit: a denial of which the kernel said nothing.
    silent = {_noted(verdict) for verdict in noted if verdict.denied and not verdict.audited}
    assert all("data_t" in target for _, _, target, _ in silent)
    assert bool(silent) == (lsm == "selinux")
