"""Rules of faults on purpose: what is read, what is refused, when they are due."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softsgx.designs.registry import DESIGNS, make_design
from softsgx.device import Device
from softsgx.errors import UsageError
from softsgx.faults.kinds import FORBIDDEN, places
from softsgx.faults.plan import Faults
from softsgx.faults.rules import read_rules
from softsgx.sdm.leaves import SGX_INVALID_CPUSVN
from softsgx.sdm.structs import KEYREQUEST, SECS, SIGSTRUCT
from softsgx.sgx.keys import Identity, egetkey
from tests.cache import ROOT


def _rules(*texts: str, design: str = "linux-6.12") -> Faults:
    return Faults(read_rules(texts, make_design(design)))


@pytest.mark.parametrize(
    "text",
    [
        "ADD_PAGES:after=3:short",
        "ADD_PAGES:nth=2:total=7:ENOMEM",
        "INSIDE:random=0.25:aex=2",
        "INSIDE:at=0x1000:suspend",
        "EENTER:always:slow=5",
        "INIT:signal=SIGALRM:EINTR",
        "START:cpusvn=-1",
        "EAUG:every=3:race",
    ],
)
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    (rule,) = read_rules([text], make_design("linux-6.12"))
    assert rule.text() == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("short", "PLACE:FAULT"),
        ("NOWHERE:short", "no place 'NOWHERE'"),
        ("ADD_PAGES:ENOENT", "gives no 'ENOENT'; it can give"),
        ("ADD_PAGES:EAGAIN", "sgx_alloc_epc_page"),
        ("ADD_PAGES:nth=0:short", "from 1 on"),
        ("ADD_PAGES:after=0:short", "EINTR"),
        ("ADD_PAGES:after=1:total=2:EIO", "exclude"),
        ("ADD_PAGES:after=2:EBUSY", "before any page"),
        ("ADD_PAGES:nth=1:every=2:short", "one of"),
        ("INIT:after=1:EIO", "no condition 'after'"),
        ("INSIDE:random=0:aex", "probability"),
        ("INSIDE:random=nan:aex", "probability"),
        ("INSIDE:aex=0", "from 1"),
        ("INSIDE:at=-1:aex", "offset"),
        ("INSIDE:at=/nowhere!f:aex", "No such file"),
        ("INIT:signal=SIGNONE:EINTR", "no signal"),
        ("INIT:signal=SIGKILL:EINTR", "no handler"),
        ("EENTER:slow", "number of ms"),
        ("EENTER:suspend=x", "suspend=cpusvn"),
        ("START:cpusvn=-2", "lowered by 1"),
        ("ADD_PAGES:always=1:short", "takes no value"),
        ("ADD_PAGES:short=1", "takes no value"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as e:
        _rules(text)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(f"--inject {text}: ")


def test_a_design_without_the_place_is_named(tmp_path: Path) -> None:
    for text, why in (
        ("RESTRICT_PERMISSIONS:EAGAIN", "linux-5.11 has no RESTRICT_PERMISSIONS, which linux-6.12"),
        ("EACCEPT:race", "SGX2"),
        ("EAUG:race", "fault_absent"),
    ):
        with pytest.raises(UsageError, match=why):
            _rules(text, design="linux-5.11")
    with pytest.raises(UsageError, match="v20 has no ADD_PAGES"):
        _rules("ADD_PAGES:short", design="v20")
    read_rules(["ADD_PAGES:short"], make_design("v20"), carry_out=True)


def test_what_never_fires_for_another_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        _rules("INIT:EIO", "INIT:nth=1:EIO")
    with pytest.raises(UsageError, match="comes before it"):
        _rules("INIT:always:EIO", "INIT:nth=2:EPERM")


def test_nothing_that_is_forbidden_is_offered() -> None:
    for name in DESIGNS:
        for place in places(make_design(name)).values():
            assert not [f for f in place.faults if (place.name, f) in FORBIDDEN]
            assert all(fault.source for fault in place.faults.values())


def test_rules_of_a_file_and_of_a_recording(tmp_path: Path) -> None:
    design, path = make_design("linux-6.12"), tmp_path / "rules"
    path.write_text("# two\n\nINIT:EIO\n  ADD_PAGES:after=3:short  \n")
    assert [r.text() for r in read_rules([str(path)], design)] == [
        "INIT:EIO",
        "ADD_PAGES:after=3:short",
    ]
    path.write_text("# none\n")
    with pytest.raises(UsageError, match="no rule in it"):
        read_rules([str(path)], design)
    head = '{"softsgx":1}\n'
    event = '{"event":"inject","us":1,"pid":2,"rule":"INIT:always:EIO","exact":"INIT:nth=%d:EIO"}\n'
    path.write_text(head + event % 1 + head + event % 2 + event % 5 + '{"event":"inj')
    assert [r.text() for r in read_rules([str(path)], design)] == [
        "INIT:nth=2:EIO",
        "INIT:nth=5:EIO",
    ]
    for odd in (
        "",
        "[1]\n",
        '{"event":"inject"}\n',
        '{"event":"inject","exact":[]}\n',
        "[" * 100_000,
    ):
        path.write_text(head + odd)
        with pytest.raises(UsageError, match="no fault was injected"):
            read_rules([str(path)], design)


def _hits(faults: Faults, place: str, times: int, **facts: int) -> list[int]:
    return [n for n in range(1, times + 1) if faults.due(place, **facts)]  # type: ignore[arg-type]


def test_when_a_rule_is_due() -> None:
    assert _hits(_rules("INIT:EIO"), "INIT", 5) == [1]
    assert _hits(_rules("INIT:nth=3:EIO"), "INIT", 5) == [3]
    assert _hits(_rules("INIT:every=2:EIO"), "INIT", 5) == [2, 4]
    assert _hits(_rules("INIT:always:EIO"), "INIT", 3) == [1, 2, 3]


def test_chance_is_seeded_and_each_rule_has_its_own() -> None:
    def hits(seed: int, *texts: str) -> list[int]:
        return _hits(Faults(read_rules(texts, make_design("linux-6.12")), seed), "INIT", 200)

    assert hits(1, "INIT:random=0.5:EIO") == hits(1, "INIT:random=0.5:EIO", "CREATE:random=0.5:EIO")
    assert hits(1, "INIT:random=0.5:EIO") != hits(2, "INIT:random=0.5:EIO")


def test_pages_of_a_call_and_of_an_enclave() -> None:
    faults = _rules("ADD_PAGES:after=3:short", "ADD_PAGES:total=10:ENOMEM")
    assert faults.due("ADD_PAGES", pages=3, done=0) is None
    due = faults.due("ADD_PAGES", pages=4, done=3)
    assert due is not None
    assert (due[0].fault.name, due[1]) == ("short", 3)
    assert faults.due("ADD_PAGES", pages=4, done=6) is None
    due = faults.due("ADD_PAGES", pages=4, done=9)
    assert due is not None
    assert (due[0].fault.name, due[1]) == ("ENOMEM", 1)


def test_the_page_tells_of_every_fault() -> None:
    text = (ROOT / "docs" / "injection.md").read_text()
    for place in places(make_design("linux-6.12")).values():
        for fault in place.faults:
            assert re.search(rf"`{fault}[`=]", text), fault


def test_the_start_may_be_on_another_processor() -> None:
    """SDM, EGETKEY: REPORT_KEY is of CR_CPUSVN; what a sealing key asks for must not be newer."""
    device = Device()
    own = device.cpusvn
    _rules("START:cpusvn=3").started(device)
    assert device.cpusvn == bytes((own[0] + 3,)) + own[1:]
    secs = Identity(SECS.unpack(bytes(4096)), SIGSTRUCT.unpack(bytes(1808)), bytes(32))
    report, seal = (KEYREQUEST.pack(keyname=name, cpusvn=own) for name in (3, 4))
    keys = [egetkey(secs, r, bytes(32), v) for r in (report, seal) for v in (own, device.cpusvn)]
    assert keys[0] != keys[1]
    assert keys[2] == keys[3]
    older = Device()
    _rules("START:cpusvn=-1").started(older)
    assert egetkey(secs, seal, bytes(32), older.cpusvn) == (SGX_INVALID_CPUSVN, b"")
