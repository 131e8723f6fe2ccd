"""What each repair changes for a real process: the call that went through before, and now does not.

Each test runs the same orders under the design without the repair and with it. That a repair
closes its hole for every order of calls is the checker's to say (test_checker_repair.py).
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.checker.witnesses.script import domain, policy_of
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import UsageError
from tests.command import Softsgx
from tests.orders import SEGMENTS, Script, load

needs_sepol = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None,
    reason="no engine here; to run it: apt-get install libsepol2",
)
REPAIRED = [name for name, cls in DESIGNS.items() if cls.repaired]
SEED = "ioc-mprotect:source=prot,open=rdonly"
BUILD = ["0 open e rw -> 0", "0 create e -> 0", "0 add e base via=region -> 0"]
Runs = Callable[..., None]


def _with(design: str, repair: str) -> str:
    return f"{design}{',' if ':' in design else ':'}{repair}"


@pytest.fixture
def compare(softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path) -> Runs:
    """Runs orders without and with a repair; an answer may be ``before | after``."""

    def run(
        design: str, repair: str, *lines: str, held: dict[str, int] | None = None,
        needs: str = "", env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        args: list[str | Path] = []
        if held is not None:
            cil = tmp_path / "held.cil"
            permissions = {f"may0.{name}": mask for name, mask in held.items()}
            trace = {"processes": 1, "steps": [], "permissions": permissions}
            cil.write_text(policy_of(trace))
            args = ["--selinux", "minimal", "--selinux", cil, f"--context={domain(0)}"]
        script = Script(softsgx, guest, *args)
        base = _with(design, needs) if needs else design
        for text, column in ((base, 0), (_with(base, repair), -1)):
            chosen = []
            for line in (line for text in lines for line in text.splitlines() if line.strip()):
                order, _, answer = line.strip().partition(" -> ")
                chosen.append(f"{order} -> {answer.split(' | ')[column]}")
            script(text, *chosen, env=env)

    return run


def _mapped(name: str) -> list[str]:
    """Page p0 mapped RX, as a loader for the design does it."""
    how = {"ioc-mprotect": "iocmprotect e p0 rx", "segments": "mapsegment e p0 rx rx"}
    return [f"0 {how.get(name, 'mmap e p0 rx')} -> 0"]


def _add(name: str, page: str = "p0", perm: str = "rx") -> str:
    return f"{page} src=file_rx perm={perm}" + f" segment={perm}" * (name == "segments")


# -- ELRANGE ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPAIRED)
@pytest.mark.parametrize(("order", "errno"), [("munmap p0", "EPERM"), ("foreign p0", "EPERM")])
def test_a_sealed_mapping_does_not_give_way(
    compare: Runs, name: str, order: str, errno: str
) -> None:
    compare(
        name, "elrange=sealed", *load(name, _add(name)), *_mapped(name),
        f"0 {order} -> 0 | {errno}",
    )  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_a_sealed_mapping_still_runs_and_is_mapped_anew(script: Script, name: str) -> None:
    """Nothing is lost by a refused call; the enclave's own mapping may take the place."""
    again = [] if name == "ioc-mprotect" else _mapped(name)
    script(
        f"{name}:elrange=sealed", *load(name, _add(name)), *_mapped(name),
        "0 munmap p0 -> EPERM", "0 foreign p0 -> EPERM", "0 munmap all -> EPERM",
        "0 call p0 -> 0x1000", *again, "0 call p0 -> 0x1000",
    )  # fmt: skip


@pytest.fixture
def script(softsgx: Softsgx, guest: Callable[[str], Path]) -> Script:
    return Script(softsgx, guest)


@pytest.mark.parametrize("name", ["safe-to-execute", "source-vma"])
@pytest.mark.parametrize("value", ["no-mremap", "sealed"])
def test_mremap_after_ecreate(compare: Runs, name: str, value: str) -> None:
    compare(
        name, f"elrange={value}", *load(name, _add(name)), *_mapped(name),
        "0 mremap p0 p15 -> 0 | EINVAL",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["safe-to-execute", "source-vma", "ioc-mprotect"])
def test_before_ecreate_nothing_is_sealed(script: Script, name: str) -> None:
    script(
        f"{name}:elrange=sealed", "0 open e rw -> 0", "0 mmap e all - -> 0", "0 munmap all -> 0",
        "0 mmap e all - -> 0", "0 foreign all -> 0",
    )  # fmt: skip


# -- sources ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["safe-to-execute", "ioc-mprotect"])
def test_a_noexec_source_is_refused_as_in_linux(
    compare: Runs, name: str, noexec: dict[str, str]
) -> None:
    for value in ("noexec", "kept"):
        refused = "EACCES" if value == "noexec" else "0"
        compare(
            name, f"source_may={value}", *BUILD, "0 noexec -> 0",
            f"0 add e p0 via=region src=file_r perm=rx -> 0 | {refused}", env=noexec,
        )  # fmt: skip


def test_what_the_source_could_not_do_is_not_mapped(compare: Runs) -> None:
    """The page's VM_MAY* are RX: a mapping of a read-only fd. A fault looks again."""
    compare(
        "safe-to-execute", "source_may=kept", *BUILD,
        """
        0 mmap e p1 rw -> 0
        0 add e p0 via=region src=shared_r perm=rwx -> 0
        0 add e p1 via=region src=shared_r perm=rwx -> 0
        0 mmap e p0 rw -> 0 | EACCES
        0 mmap e p0 r -> 0
        0 mprotect p0 rw -> 0 | EACCES
        0 init e -> 0
        """,
        *[f"0 mmap e {s} {p} -> 0" for s, p in SEGMENTS.items()],
        "0 poke p1 7 -> 0 | fault 14 0x6",
    )  # fmt: skip


def test_extend_keeps_to_the_source(compare: Runs) -> None:
    compare(
        "ioc-mprotect", "source_may=kept", *load("ioc-mprotect", "p0 src=shared_r perm=rx"),
        "0 extend e p0 x -> 0", "0 extend e p0 w -> 0 | EACCES",
    )  # fmt: skip


def test_a_segment_promises_what_the_source_can_do(compare: Runs) -> None:
    lines = [*BUILD[:2], "0 add e base via=region segment=auto -> 0"]
    for source, segment, may, vetted in (
        ("anon_rw", "rx", "0", "EACCES"), ("file_r", "rx", "0", "EACCES"),
        ("shared_r", "rw", "EACCES", "EACCES"), ("file_rx", "rx", "0", "0"),
        ("anon_rw", "rw", "0", "0"),
    ):  # fmt: skip
        order = f"0 add e p0 via=region src={source} perm=r segment={segment} -> 0 | "
        compare("segments", "source=may", *lines, order + may)
        compare("segments", "source=vetted", *lines, order + vetted)


# -- faults ----------------------------------------------------------------------------------


def test_a_page_that_came_under_a_living_mapping(compare: Runs) -> None:
    """VM_MAY* of the new page are R; the mapping is the old one's."""
    compare(
        "ioc-mprotect",
        "fault=bound",
        *load("ioc-mprotect", "p0 src=anon_rw perm=rw"),
        """
        0 iocmprotect e p0 rw -> 0
        0 poke p0 7 -> 0
        0 trim e p0 -> 0
        0 accept p0 - trim -> 0
        0 remove e p0 -> 0
        0 aug e p0 via=region perm=r -> 0
        0 accept p0 rw pending -> 0 | fault 14 0x4
        """,
    )


def test_a_page_that_became_writable_under_a_mapping_without_write(compare: Runs) -> None:
    compare(
        "ioc-mprotect",
        "fault=asked",
        *load("ioc-mprotect", "p0 src=file_rx perm=rx"),
        """
        0 iocmprotect e p0 rx -> 0
        0 call p0 -> 0x1000
        0 extend e p0 w -> 0
        0 call p0 -> 0x1000 | fault 14 0x14
        0 iocmprotect e p0 rx -> 0
        0 call p0 -> 0x1000
        """,
        needs="source=prot",
    )


def test_a_page_that_is_not_safe_any_more_under_a_mapping_without_execmod(compare: Runs) -> None:
    compare(
        "safe-to-execute",
        "fault=safe",
        *load("safe-to-execute", "p0 src=file_rx perm=rwx"),
        """
        0 mmap e p0 rx -> 0
        0 fork 1 -> 0
        1 call p0 -> 0x1000
        0 mmap e p0 rw -> 0
        1 call p0 -> 0x1000 | fault 14 0x14
        1 mmap e p0 rx -> 0
        1 call p0 -> 0x1000
        """,
    )


def test_a_page_beyond_its_bound(compare: Runs) -> None:
    compare(
        "source-vma", "bound=strict", *BUILD,
        """
        0 mmap e p1 rw -> 0
        0 add e p0 via=region src=anon_r perm=rw -> 0
        0 add e p1 via=region src=anon_r perm=rw -> 0
        0 mmap e p0 rw -> 0 | EACCES
        0 mmap e p0 r -> 0
        0 mprotect p0 rw -> 0 | EACCES
        0 init e -> 0
        """,
        *[f"0 mmap e {s} {p} -> 0" for s, p in SEGMENTS.items()],
        """
        0 poke p1 7 -> 0 | fault 14 0x6
        0 aug e p2 via=region perm=rw -> 0
        0 mmap e p2 rw -> 0
        0 accept p2 rw pending -> 0
        0 poke p2 7 -> 0
        0 mmap e p2 rx -> 0 | EACCES
        """,
    )  # fmt: skip


# -- what the LSM is asked -------------------------------------------------------------------

READ, WRITE, EXECUTE, EXECMOD = 1, 2, 4, 8


@needs_sepol
def test_write_is_what_is_asked_for_modified_code(compare: Runs) -> None:
    """Who has EXECMEM and no WRITE gets no RWX page, whatever the mode of the fd."""
    compare(
        SEED, "vm_shared=always", "0 open e r -> 0", "0 create e -> 0",
        """
        0 add e code via=region src=file_rx -> 0
        0 init e -> 0
        0 mmap e all - -> 0
        0 iocmprotect e code rx -> 0
        0 aug e p1 via=region perm=rwx -> 0
        0 iocmprotect e p1 rwx -> 0 | EACCES
        """,
        held={"device": READ | EXECUTE, "process": 1},
    )  # fmt: skip


@needs_sepol
def test_extending_by_x_counts_as_writing(compare: Runs) -> None:
    """Memory that lost W before it was added does not get around WRITE."""
    compare(
        SEED, "extend=counts-as-write", "0 open e r -> 0", "0 create e -> 0",
        """
        0 add e p0 via=region src=anon_r perm=rx -> 0
        0 add e p1 via=region src=file_rx perm=rx -> 0
        0 init e -> 0
        0 mmap e all - -> 0
        0 extend e p0 x -> 0
        0 iocmprotect e p0 rx -> 0 | EACCES
        0 extend e p1 x -> 0
        0 iocmprotect e p1 rx -> 0
        """,
        held={"device": READ | EXECUTE},
    )  # fmt: skip


@needs_sepol
def test_eadd_under_a_writable_mapping_is_not_safe(compare: Runs) -> None:
    compare(
        "safe-to-execute", "eadd=unmapped", *BUILD,
        """
        0 mmap e p0 rw -> 0
        0 add e p0 via=region src=file_rx perm=rwx -> 0
        0 mmap e p0 rx -> 0 | EACCES
        0 add e p1 via=region src=file_rx perm=rwx -> 0
        0 mmap e p1 rx -> 0
        """,
        held={"device": READ | WRITE | EXECUTE},
        needs="clear=always",
    )  # fmt: skip


@needs_sepol
def test_execmod_with_write(compare: Runs) -> None:
    compare(
        "safe-to-execute", "execmod=with-write", "0 open e r -> 0", *BUILD[1:],
        "0 add e p0 via=region src=anon_rw perm=rx -> 0", "0 mmap e p0 rx -> 0 | EACCES",
        held={"device": READ | EXECUTE | EXECMOD},
    )  # fmt: skip


@needs_sepol
def test_within_the_bound_execute_is_asked_all_the_same(compare: Runs) -> None:
    compare(
        "source-vma", "execute=ask", *BUILD, "0 add e p0 via=region src=file_rx perm=rx -> 0",
        "0 mmap e p0 rx -> 0 | EACCES",
        held={"device": READ | WRITE},
    )  # fmt: skip


@needs_sepol
def test_writable_code_of_the_source_costs_write(compare: Runs) -> None:
    compare(
        "source-vma", "wx=write", "0 open e r -> 0", *BUILD[1:],
        """
        0 add e p0 via=region src=anon_rwx perm=rwx -> 0
        0 mmap e p0 rx -> 0 | EACCES
        0 add e p1 via=region src=file_rx perm=rx -> 0
        0 mmap e p1 rx -> 0
        """,
        held={"device": READ | EXECUTE, "process": 1},
    )  # fmt: skip


@needs_sepol
@pytest.mark.parametrize("prot", ["rx", "rw", "r", "x"])
def test_a_segment_of_writable_code_costs_write_and_execute(compare: Runs, prot: str) -> None:
    """MAP_SHARED_VALIDATE, which SELinux takes for private, gets around nothing."""
    before = "EACCES" if "w" in prot else "0"
    compare(
        "segments", "wx=write", "0 open e r -> 0", "0 create e -> 0",
        f"""
        0 add e p0 via=region src=anon_rw perm=rwx segment=rwx -> 0
        0 add e p1 via=region src=file_rx perm=rx segment=rx -> 0
        0 mmap e all - -> 0
        0 mapsegment e p0 rwx {prot} -> {before} | EACCES
        0 mapsegment e p1 rx rx -> 0
        0 segmentfd e s rwx -> 0
        0 mmap s p0 {prot} -> {before} | EACCES
        0 mmap s p0 {prot} validate -> 0 | EACCES
        """,
        held={"device": READ, "segment7": READ | EXECUTE, "segment5": READ | EXECUTE},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["safe-to-execute", "source-vma"])
def test_data_need_no_fd_that_is_open_for_writing(compare: Runs, name: str) -> None:
    """mmap's own check of the mode stays: W comes by mprotect."""
    compare(
        name, "open=rdonly", "0 open e r -> 0", *BUILD[1:],
        """
        0 add e p0 via=region src=anon_rw perm=rw -> 0
        0 mmap e p0 rw -> EACCES
        0 mmap e p0 r -> 0
        0 mprotect p0 rw -> EACCES | 0
        """,
    )  # fmt: skip


# -- all of them -----------------------------------------------------------------------------


@needs_sepol
@pytest.mark.parametrize("name", REPAIRED)
def test_an_unmodified_file_runs_with_read_and_execute(
    name: str, softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """The enclave of the thread: RX code from a file, RW data, no WRITE of code's object."""
    held = {"may0.device": READ | EXECUTE, "may0.file": 1}
    if name == "segments":
        held = {"may0.device": READ, "may0.segment5": READ | EXECUTE, "may0.file": 1}
        held["may0.segment3"] = READ | WRITE
    cil = tmp_path / "held.cil"
    cil.write_text(policy_of({"processes": 1, "steps": [], "permissions": held}))
    auto = " segment=auto" if name == "segments" else ""
    lines = ["0 open e r -> 0", "0 create e -> 0", f"0 add e base via=region{auto} -> 0"]
    lines += [f"0 add e {_add(name)} via=region -> 0", "0 init e -> 0"]
    parts = {"p0": "rx", **SEGMENTS}
    if name in ("ioc-mprotect", "segments"):
        lines.append("0 mmap e all - -> 0")
    for place, prot in parts.items():
        if name == "ioc-mprotect":
            lines.append(f"0 iocmprotect e {place} {prot} -> 0")
        elif name == "segments":
            lines.append(f"0 mapsegment e {place} {prot} {prot} -> 0")
        else:
            lines += [f"0 mmap e {place} r -> 0", f"0 mprotect {place} {prot} -> 0"]
    confined = ("--selinux", "minimal", "--selinux", cil, f"--context={domain(0)}")
    Script(softsgx, guest, *confined)(f"{name}:repaired", *lines, "0 call p0 -> 0x1000")


def test_repaired_is_a_word_for_all_of_them() -> None:
    for name in REPAIRED:
        cls = DESIGNS[name]
        assert set(cls.repairs) <= set(cls.options)
        design = make_design(f"{name}:repaired")
        assert design.chosen == {n: v[0] for n, v in cls.options.items()} | cls.repaired
        assert set(cls.repairs) <= set(cls.repaired)
        option = next(iter(cls.repairs))
        other = cls.options[option][0]
        assert make_design(f"{name}:{option}={other},repaired").chosen[option] == other
        assert make_design(f"{name}:repaired,{option}={other}").chosen[option] == other
    for wrong in ("linux-6.0:repaired", "v20:repaired", "segments:repaired=on"):
        with pytest.raises(UsageError):
            make_design(wrong)
