"""Traces of the checker on real processes, under a policy that grants what they name, no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.checker.engines.answer import Answer
from softsgx.checker.pool.prove import Checker
from softsgx.checker.pool.result import Options
from softsgx.checker.properties import PROPERTIES
from softsgx.checker.properties.base import TOLD_APART
from softsgx.checker.witnesses.confine import policy_of, profiles_of
from softsgx.checker.witnesses.script import orders_of
from softsgx.checker.world.actors import ACTORS
from softsgx.checker.world.system import System
from softsgx.cli.main import main
from softsgx.cli.replay import replay_trace
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.errors import UsageError
from tests.cache import ROOT
from tests.checker.needs import needs_abc, needs_apparmor, needs_sepol

pytestmark = [needs_abc, needs_sepol, needs_apparmor]

Guest = Callable[[str], Path]
Capture = pytest.CaptureFixture[str]
SEED = "ioc-mprotect:open=rdonly,source=prot"
TABLES = [
    *[(text, "selinux") for text in DESIGNS],
    (SEED, "selinux"),
    ("segments:readd=same-segment", "selinux"),
    ("source-vma:snapshot=may", "selinux"),
    ("linux-6.0", "apparmor"),
    (SEED, "apparmor"),
    ("segments", "apparmor"),
    ("source-vma", "apparmor"),
    (SEED, "none"),
]


class Quick(Checker):
    """A checker that only looks for the shortest traces."""

    def __init__(self, text: str, options: Options) -> None:
        super().__init__(make_design(text), options)
        self._answers: dict[int, Answer] = {}

    def decide(self, bad: int, system: System | None = None) -> Answer:
        assert system is None
        if bad not in self._answers:
            self._answers[bad] = super().decide(bad)
        return self._answers[bad]

    def _weaker(self, bad: int, answer: Answer) -> None:
        return None

    def traces(self) -> dict[str, dict[str, Any]]:
        """The trace of each property that has one."""
        found = {}
        for name, prop in PROPERTIES.items():
            if prop.kind == TOLD_APART:
                continue  # the enclave that runs there is benign-runs'
            if self.decide(self.world.some(prop.conditions(self.world))).reached:
                trace = self.check(prop).trace
                assert trace is not None
                found[name] = trace
        return found


def _trace(text: str, name: str, processes: int) -> dict[str, Any]:
    trace = Checker(make_design(text), Options(1, processes)).check(PROPERTIES[name]).trace
    assert trace is not None
    return trace


def _replay(
    trace: dict[str, Any], guest: Guest, directory: Path, capsys: Capture, *options: str
) -> tuple[int, str]:  # fmt: skip
    path = directory / "trace.json"
    path.write_text(json.dumps(trace))
    status = main(["replay", "--orders", str(guest("orders")), *options, str(path)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


# -- every trace of the table ------------------------------------------------------------------


@pytest.mark.parametrize(("text", "lsm"), TABLES, ids=[f"{t}-{lsm}" for t, lsm in TABLES])
def test_every_trace_of_the_table_is_what_really_happens(
    text: str, lsm: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    traces = Quick(text, Options(2, 2, lsm=lsm)).traces()
    assert {"source-bound", "elrange-fixed"} <= set(traces)
    unable = ""
    for name, trace in traces.items():
        status, shown = _replay(trace, guest, tmp_path, capsys)
        if status == 2 and "takes a noexec mount" in shown:
            unable = shown.strip()  # which says how to force it
            continue
        assert status == 0, f"{name}\n{shown}"
        lines = shown.splitlines()
        for number, step in enumerate(trace["steps"], 1):
            assert f"{number:2}. {step['words']}" in lines
        at = lines.index("all as the checker says")
        possible = "possible" if name == "benign-runs" else "broken"
        assert lines[at + 1] == f"{name} is {possible}:"
        assert lines[at + 2 :], shown
    if unable:
        pytest.skip(unable)


@pytest.mark.parametrize(
    ("text", "name", "processes", "words"),
    [
        (SEED, "modified-code", 1, "process 0 ran page 0, which returned 0x4242: code that step"),
        (SEED, "benign-runs", 1, "process 0 ran page 0, which returned 0x1000 as it was added"),
        ("safe-to-execute", "writable-alias", 2, "wrote it, and it returned 0x4343"),
        ("source-vma", "execute-needed", 1, "READ WRITE on what it mapped, never EXECUTE"),
        ("source-vma", "asked", 1, "the LSM was asked for READ, not for EXECUTE, EXECMOD or"),
        ("segments", "no-wx", 1, "mmap gave process 0 page 0 WX at once"),
        ("linux-6.0", "source-bound", 1, "to which the kernel refuses mprotect RW (EACCES)"),
        ("ioc-mprotect", "page-bound", 1, "page 0, whose maximum is"),
        ("source-vma", "page-bound", 1, ", whose maximum is"),
        ("linux-6.0", "elrange-fixed", 1, "process 0 finds nothing (signal 11) where page 0"),
    ],
)
def test_what_broke_the_property_is_said(
    text: str, name: str, processes: int, words: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    status, shown = _replay(_trace(text, name, processes), guest, tmp_path, capsys)
    assert status == 0, shown
    assert words in shown.partition("all as the checker says")[2]


def _place(**values: int) -> dict[str, Any]:
    both = {"p": 0, "i": 0, "prot": 5, "tables": 5, "access": 5, "bound": 5, "source_may": 7}
    return {"end": [both | {"asked": 1, "authority": 0} | values]}


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("execute-needed", {}, "process 0 was granted EXECUTE"),
        ("asked", _place(asked=0), "EXECUTE was asked for in step"),
        ("no-wx", _place(prot=7), "no SGX_IOC_MPROTECT gave process 0 page 0 WX"),
        ("modified-code", {}, "page 0 runs as it was added"),
        ("writable-alias", {}, "page 0 was not written while process 0 could run it"),
        ("unvetted-code", {}, "EXECUTE was asked for in step"),
        ("source-bound", {}, "the trace does not say which mapping it is about"),
        ("elrange-fixed", {}, "no step is of that kind"),
        ("noexec", {}, "nobody tried what the source could become"),
    ],
)
def test_a_property_that_is_not_seen_to_be_broken_is_a_failure(
    name: str, more: dict[str, Any], why: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    """Each answer is as it should be, and the run shows that the property holds in it."""
    trace = _trace(SEED, "benign-runs", 1) | {"property": name, "end": []} | more
    status, shown = _replay(trace, guest, tmp_path, capsys)
    assert "all as the checker says" in shown
    assert f"{name} is not seen in this run: {why}" in shown
    assert status == 1


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("source-bound", {"source_may": 1}, r"0 could file_rx rx .* -> 0\n.*: EACCES was expected"),
        ("page-bound", {"access": 7}, r"0 poke p0 \d+ -> fault 14 0x7\n.*: 0 was expected"),
    ],
)
def test_what_is_said_of_the_end_is_tried(
    name: str, more: dict[str, int], why: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    trace = _trace(SEED, "benign-runs", 1) | _place(**more) | {"property": name}
    status, shown = _replay(trace, guest, tmp_path, capsys)
    assert status == 1
    assert re.search(why, shown)


@pytest.mark.parametrize("lsm", ["selinux", "apparmor"])
def test_each_permission_of_a_trace_is_really_needed(
    lsm: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    """What the policy's engine denies then is what the checker's permissions deny."""
    checker = Checker(make_design(SEED), Options(1, 1, lsm=lsm))
    for name in ("modified-code", "benign-runs"):
        trace = checker.check(PROPERTIES[name]).trace
        assert trace is not None
        held = trace["permissions"]
        tried = 0
        for what, mask in held.items():
            for bit in (1 << i for i in range(mask.bit_length())):
                if mask & bit:
                    less = trace | {"permissions": held | {what: mask & ~bit}}
                    status, shown = _replay(less, guest, tmp_path, capsys)
                    assert status == 1, (name, what, bit, shown)
                    assert re.search(r"-> EACCES\nnot as the checker says", shown)
                    tried += 1
        assert tried >= 2


# -- several processes -------------------------------------------------------------------------

ANON_RW, FILE_R, FILE_RX = 0, 2, 6
RW, RX, ALL = 3, 5, 7


def _steps(*steps: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"step": name, "words": f"{name} {more}"} | more for name, more in steps]


def _all_may(n_processes: int) -> dict[str, int]:
    each = {"device": ALL, "process": 1, "file": 3}
    return {f"may{p}.{kind}": mask for p in range(n_processes) for kind, mask in each.items()}


@pytest.mark.parametrize("lsm", ["selinux", "apparmor", "none"])
@pytest.mark.parametrize("way", ["fork", "pass"])
def test_three_processes_build_one_enclave(
    way: str, lsm: str, guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    add = {"source": FILE_RX, "perm": RX}
    steps = _steps(
        ("open", {"p": 0, "fmode": RW}),
        (way, {"p": 0, "q": 1}),
        ("create", {"p": 1}),
        ("add", {"p": 0, "i": 0, **add}),
        (way, {"p": 1, "q": 2}),
        ("add", {"p": 2, "i": 1, **add}),
        ("add", {"p": 1, "i": 2, **add}),
        ("init", {"p": 2}),
        ("mmap", {"p": 2, "i": 0, "prot": RX, "type": "MAP_SHARED"}),
        ("mmap", {"p": 2, "i": 2, "prot": RX, "type": "MAP_SHARED"}),
        ("entry", {"p": 2, "way": "mmap", "source": ANON_RW}),
    )
    trace = {
        "design": "linux-6.0", "options": {}, "property": "told-apart", "lsm": lsm, "pages": 3,
        "processes": 3, "permissions": _all_may(3), "steps": steps,
        "runs": [{"p": 2, "i": 0, "written": 0}, {"p": 2, "i": 2, "written": 0}],
    }  # fmt: skip
    status, shown = _replay(trace, guest, tmp_path, capsys)
    assert status == 0, shown
    assert "      2 call p0 -> 0x1000\n      2 call p2 -> 0x1002" in shown


def test_each_process_of_a_trace_has_its_own_profile(
    guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    steps = _steps(
        ("open", {"p": 0, "fmode": 1}), ("pass", {"p": 0, "q": 1}), ("create", {"p": 1})
    )  # fmt: skip
    trace = {
        "design": SEED.partition(":")[0], "options": {"open": "rdonly"}, "property": "mine",
        "lsm": "apparmor", "pages": 1, "processes": 2, "steps": steps,
    }  # fmt: skip
    for held, want in ({"may0.device": 1, "may1.device": 1}, 0), ({"may0.device": 1}, 1):
        status, shown = _replay(trace | {"permissions": held}, guest, tmp_path, capsys)
        assert status == want, shown
        # Not when it arrives, as in a kernel, but when it is used first.
        assert f"1 ioctl e 0xa4ff 0 -> {'EACCES' if want else 'ENOTTY'}" in shown


def test_a_descriptor_that_the_driver_gives_has_not_been_received(guest: Guest) -> None:
    """SGX_IOC_SEGMENT_FD by another process than made the segment: no file_receive, so no WRITE."""
    page = {"i": 0, "segment": RX}
    steps = _steps(
        ("open", {"p": 0, "fmode": RW}), ("create", {"p": 0}),
        ("add", {**page, "p": 0, "source": FILE_RX, "perm": RX}), ("pass", {"p": 0, "q": 1}),
        ("mmap-segment", {**page, "p": 1, "prot": RX, "type": "MAP_SHARED"}),
    )  # fmt: skip
    held = {"may0.device": ALL, "may0.file": 1, "may0.segment5": 1, "may1.device": RW}
    trace = {
        "design": "segments", "options": {}, "property": "mine", "lsm": "selinux", "pages": 1,
        "processes": 2, "steps": steps, "permissions": held | {"may1.segment5": RX},
    }  # fmt: skip
    done = replay_trace(trace, str(guest("orders")))
    assert done.holds, done.orders
    assert done.orders[-1].strip() == "1 mmap s p0 rx -> 0"


def test_who_comes_second_to_a_file_is_not_asked_about(
    guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    """AppArmor asks for m of the profile that is new to a file, or of all the others."""
    steps = _steps(
        ("open", {"p": 0, "fmode": 1}),
        ("create", {"p": 0}),
        ("add", {"p": 0, "i": 0, "source": FILE_R, "perm": RX}),
        ("pass", {"p": 0, "q": 1}),
        ("mmap", {"p": 1, "i": 0, "prot": RX, "type": "MAP_SHARED"}),
    )
    trace = {
        "design": "linux-6.0", "options": {}, "property": "mine", "lsm": "apparmor", "pages": 1,
        "processes": 2, "steps": steps,
    }  # fmt: skip
    for first, second, want in ((5, 1, "0"), (1, 5, "EACCES")):
        held = {"may0.device": first, "may1.device": second}
        _, shown = _replay(trace | {"permissions": held}, guest, tmp_path, capsys)
        assert f"1 mmap e p0 rx -> {want}" in shown


# -- every kind of step ------------------------------------------------------------------------


def test_pages_are_restricted_and_made_a_tcs_and_accepted(
    guest: Guest, tmp_path: Path, capsys: Capture
) -> None:
    page = {"p": 0, "i": 0}
    accepted = {"pt": 2, "pending": 0, "modified": 0, "pr": 1}
    steps = _steps(
        ("open", {"p": 0, "fmode": RW}),
        ("create", {"p": 0}),
        ("add", {**page, "source": ANON_RW, "perm": RW}),
        ("mmap", {**page, "prot": RW, "type": "MAP_SHARED"}),
        ("entry", {"p": 0, "way": "mmap", "source": ANON_RW}),
        ("init", {"p": 0}),
        ("restrict", {**page, "perm": 1}),
        ("eaccept", {**page, **accepted, "perm": 1}),
        ("emodpe", {**page, "perm": RW}),
        ("to-tcs", page),
        ("eaccept", {**page, **accepted, "perm": 0, "pt": 1, "modified": 1, "pr": 0}),
        ("trim", page),
        ("eaccept", {**page, **accepted, "perm": 0, "pt": 4, "modified": 1, "pr": 0}),
        ("remove", page),
    )
    trace = {
        "design": "linux-6.0", "options": {}, "property": "mine", "lsm": "none", "pages": 1,
        "processes": 1, "permissions": {}, "steps": steps,
    }  # fmt: skip
    status, shown = _replay(trace, guest, tmp_path, capsys)
    assert status == 0, shown
    assert "0 accept p0 r restricted -> 0" in shown
    assert "0 accept p0 - tcs -> 0" in shown


@pytest.mark.parametrize("text", [*DESIGNS, "ioc-mprotect:repaired"])
def test_every_step_that_the_checker_knows_has_orders(text: str) -> None:
    system = Quick(text, Options(2, 2, actors=tuple(ACTORS))).system
    state = {"pt": 2, "perm": 1, "pending": 0, "modified": 0, "pr": 1}
    seen = set()
    for move in system.moves:
        step = {"step": move.name, "words": move.name, **move.meta}
        step |= {name: 1 for name, _ in move.args}
        step |= state if move.name == "eaccept" else {}
        trace = {
            "design": text.partition(":")[0], "options": {}, "processes": 2, "lsm": "selinux",
            "steps": [step], "permissions": {}, "property": "mine",
        }  # fmt: skip
        made = [order for order in orders_of(trace, "orders", "/noexec") if order.step == 1]
        # The big mapping that segments are put into is there from the start.
        assert made or (text == "segments" and move.name == "mmap"), move.name
        seen.add(move.name)
    assert {"open", "create", "add", "init", "mremap", "fork", "pass", "write"} <= seen
    assert {"setcon", "exec", "inherit", "debug", "remap"} <= seen


def test_what_has_no_order_is_said(tmp_path: Path, capsys: Capture) -> None:
    step = {"step": "wink", "p": 0, "i": 0, "words": "process 0 winks at page 0"}
    trace = {
        "design": "linux-6.0", "options": {}, "steps": [step], "processes": 1, "permissions": {},
        "property": "mine",
    }  # fmt: skip
    with pytest.raises(UsageError, match="winks at page 0"):
        orders_of(trace, "orders")
    noexec = step | {"step": "add", "source": 8, "perm": 1}
    with pytest.raises(UsageError, match="noexec"):
        orders_of(trace | {"steps": [noexec]}, "orders")


# -- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing"], "nothing: No such file or directory"),
        (["other.json"], "other.json: not a trace"),
        (["words.json"], "words.json: not a trace"),
        (["step.json"], "step.json: its steps are none that the checker makes"),
        (["many.json"], "many.json: not a trace"),
        (["design.json"], "no design 'mine'"),
        (["lsm.json"], "an LSM that is unknown here: 'tomoyo'"),
        ([], "replay needs one trace"),
        (["a", "b"], "replay takes one trace"),
        (["--wrong", "good.json"], "no option --wrong"),
        (["good.json", "--noexec"], "--noexec needs a value"),
        (["--orders=", "good.json"], "--orders needs a value"),
        (["--noexec", "nowhere", "good.json"], "--noexec nowhere: not a directory"),
        (["--noexec", ".", "good.json"], "--noexec .: not on a noexec mount"),
        (["--orders", "good.json", "good.json"], "needs the program that takes orders"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    good = {
        "design": "linux-6.0", "options": {}, "property": "mine", "lsm": "none", "processes": 1,
        "permissions": {}, "steps": [{"step": "open", "p": 0, "fmode": 3, "words": "opens"}],
    }  # fmt: skip
    changes: dict[str, Any] = {
        "good": {}, "words": {"steps": [{"p": 0}]}, "design": {"design": "mine"},
        "lsm": {"lsm": "tomoyo"}, "many": {"processes": 1 << 40},
        "step": {"steps": [{"step": "add", "p": 0, "i": 0, "source": 0, "perm": [], "words": ""}]},
    }  # fmt: skip
    for name, change in changes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(good | change))
    (tmp_path / "other.json").write_text("[]")
    assert main(["replay", *args]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("softsgx: ")
    assert said in printed.err


def test_orders_and_policy_are_printed(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "trace.json"
    for lsm, words in (("apparmor", "profile trace_process_1 {"), ("selinux", "(type trace_"),
                       ("none", "")):  # fmt: skip
        steps = _steps(("open", {"p": 0, "fmode": 1}), ("pass", {"p": 0, "q": 1}))
        trace = {
            "design": "v20", "options": {}, "property": "mine", "lsm": lsm, "processes": 2,
            "permissions": {}, "steps": steps,
        }  # fmt: skip
        path.write_text(json.dumps(trace))
        assert main(["replay", "--print", str(path)]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("0 spawn 1 orders-1\n0 open e r\n0 send e 1\n1 recv e\n")
        assert words in shown
        assert ("trace_process" in shown) == (lsm != "none")


def test_the_policy_grants_what_the_trace_says_and_no_more() -> None:
    trace = {
        "processes": 2, "steps": [],
        "permissions": {"may0.device": 5, "may1.segment5": 2, "may1.process": 1, "may1.file": 1},
    }  # fmt: skip
    lines = policy_of(trace).splitlines()
    assert "(allow trace_process_0_t sgx_enclave_device_t (chr_file (read execute)))" in lines
    assert "(allow trace_process_1_t sgx_segment_rx_t (anon_inode (write)))" in lines
    assert "(allow trace_process_1_t self (process (execmem)))" in lines
    assert not [line for line in lines if "write" in line and "process_0" in line]
    lines = policy_of(trace, "/a.b").splitlines()
    assert "(allow trace_process_1_t trace_source_t (file (execute)))" in lines
    assert not [line for line in lines if "process_0" in line and "file (execute" in line]
    assert [line for line in lines if line.startswith('(filecon "/a\\.b/.*"')]


def test_the_profiles_allow_what_the_trace_says_and_no_more() -> None:
    held = {"may0.device": 5, "may1.device": 2, "may1.file": 1}
    trace = {"design": "source-vma", "processes": 3, "permissions": held, "steps": []}
    profiles = profiles_of(trace, "/own", "/sources").split("profile ")[1:]
    devices = [re.findall(r"/dev/\S+ \w+", text) for text in profiles]
    assert devices == [["/dev/sgx/enclave rm"], ["/dev/sgx/enclave w"], []]
    assert [re.findall('"/sources/[*]" (.*),', text) for text in profiles] == [
        ["rw"], ["rwm"], ["rw"]
    ]  # fmt: skip


def test_the_pages_commands_replay_a_trace(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Docs/checking.md, "On real processes", for the property whose trace it replays."""
    page = (ROOT / "docs" / "checking.md").read_text().partition("## On real processes")[2]
    check, make, replay = [line.split() for line in re.findall(r"^    (.*)$", page, re.M)[:3]]
    assert make == ["make", "guests"]
    guests = tmp_path / ".cache" / "guests"
    guests.mkdir(parents=True)
    (guests / "orders").symlink_to(guest("orders"))
    monkeypatch.chdir(tmp_path)
    assert main([*check[1:], "--property", "asked"]) == 1
    (trace,) = tmp_path.glob(replay.pop())
    assert main([*replay[1:], str(trace)]) == 0
    shown = re.search(r"```console\n(.*?)```", page, re.S)
    assert shown is not None
    ours, pages = capsys.readouterr().out, [f"page {i}" for i in range(2)]  # which one is all one
    assert any(ours.endswith(shown.group(1).replace(pages[0], page)) for page in pages)
