"""``softsgx report``, looked at in a real headless Chromium."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softsgx.cli.report import report
from softsgx.errors import UsageError
from softsgx.record.reader import read
from softsgx.report.asked import asked_rows
from softsgx.report.intervals import Intervals
from softsgx.report.runs import runs_of
from softsgx.sdm.leaves import PT_TCS
from tests.orders import load
from tests.report.browser import Browser
from tests.report.conftest import Record

Guest = Callable[[str], Path]

_HEADER = {
    "softsgx": 1, "program": "0", "time": "2026-01-02T03:04:05Z", "argv": ["p"],
    "design": "linux-6.12", "options": {}, "epc_bytes": 1 << 20, "lsm": "none", "kernel": "6.1",
}  # fmt: skip


def _page(*recordings: Path) -> Path:
    out = recordings[0].with_suffix(".html")
    assert report([*map(str, recordings), "-o", str(out)]) == 0
    return out


def _events(path: Path) -> list[dict[str, Any]]:
    return [e for e in read(str(path)) if "event" in e]


@pytest.fixture(scope="module")
def sgx2(record: Record, guest: Guest) -> Path:
    return record("sgx2", "--", guest("sgx2"))


def _rows(page: Browser, table: str) -> list[list[str]]:
    found: list[list[str]] = page.js(
        f"[...document.querySelectorAll('{table} tbody tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent.trim()))"
    )
    return found


def _pages_at(events: list[dict[str, Any]], last: int) -> dict[int, dict[str, int]]:
    """The pages that are there after an event, by the recording's own fields."""
    there: dict[int, dict[str, int]] = {}
    for event in events[: last + 1]:
        for _, first, end, fields in event.get("pages", ()):
            for page in range(first, end):
                there[page] = fields
    return {page: fields for page, fields in there.items() if fields.get("present")}


def _of_table(rows: list[list[str]]) -> dict[int, str]:
    """EPCM text by page, of the rows of a table of pages."""
    found: dict[int, str] = {}
    for offset, pages, state, *_ in rows:
        first = int(offset, 16) >> 12
        found |= dict.fromkeys(range(first, first + int(pages)), state)
    return {page: state for page, state in found.items() if state != "absent"}


def _same(shown: dict[int, str], there: dict[int, dict[str, int]]) -> None:
    assert shown.keys() == there.keys()
    for page, fields in there.items():
        words = shown[page].split()
        assert (words[0] == "TCS") == (fields["pt"] == PT_TCS)
        bits = {"-": 0, "R": 1, "W": 2, "X": 4}
        assert sum(bits[c] for c in words[1]) == fields.get("perm", 0)
        for flag in ("pending", "modified", "pr"):
            assert (flag in words) == bool(fields.get(flag))


def test_tables_need_no_script_and_no_network(sgx2: Path, page: Browser) -> None:
    events = _events(sgx2)
    out = _page(sgx2)
    page.scripts(False)
    page.open(out)
    assert [url for url in page.requests if url != out.as_uri()] == []
    wrong = _rows(page, "table.wrong")
    # Errors first, each once: with as many as the recording has.
    refused = [e for e in events if e.get("answer", 0) < 0]
    refused += [e for e in events if e["event"] == "fault" and e["signal"]]
    by_first = {row[5]: row for row in wrong}
    assert len(by_first) == len({row[0] + row[1] + row[2] for row in wrong}) == len(wrong)
    for event in refused:
        name = event.get("name") or event.get("call") or "page fault"
        assert any(row[0].startswith(name) for row in wrong), event
    removed = next(row for row in wrong if row[0] == "SGX_IOC_ENCLAVE_REMOVE_PAGES")
    assert removed[1:4] == ["EPERM", "the enclave ran EACCEPT", "linux-6.0 remove_page"]
    _same(_of_table(_rows(page, "table.pages")), _pages_at(events, len(events)))
    assert page.js("document.querySelector('canvas').offsetHeight") == 0
    # Every line of `show` is in the page.
    text = page.js(
        "[...document.querySelectorAll('.chunk pre')].map((p) => p.textContent).join('')"
    )
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert [int(line.split()[0]) for line in lines] == [
        i for i, e in enumerate(events) if e["event"] != "cpuid" or e["leaf"] in (7, 0x12)
    ]


def test_pages_can_be_moved_through_time_by_keys(sgx2: Path, page: Browser) -> None:
    events = _events(sgx2)
    page.open(_page(sgx2))
    assert page.errors == []
    moments = [
        i for i, e in enumerate(events) if {"pages", "vmas", "elranges"} & e.keys()
        and ("pages" in e or "vmas" in e)
    ]  # fmt: skip
    page.js("document.querySelector('.when').focus()")
    page.key("Home")
    assert _rows(page, "table.pages") == []
    shown = set()
    for n, i in enumerate(moments[:40], 1):
        page.key("ArrowRight")
        assert page.js("document.querySelector('.when').value") == str(n)
        told = page.js("document.querySelector('.when-told').textContent")
        assert told.startswith(f"{n} of {len(moments)}: {i} ")
        _same(_of_table(_rows(page, "table.pages")), _pages_at(events, i))
        # The picture says what the table does.
        drawn = page.js(
            "[...document.querySelectorAll('svg.map rect[data-p]')]"
            ".filter((r) => r.getAttribute('height') > 10)"
            ".map((r) => r.dataset.q - r.dataset.p).reduce((a, b) => a + b, 0)"
        )
        assert drawn == len(_pages_at(events, i))
        shown.add(drawn)
    assert len(shown) > 8
    page.key("End")
    _same(_of_table(_rows(page, "table.pages")), _pages_at(events, len(events)))


def test_lanes_go_by_keys_and_tell_each_event(sgx2: Path, page: Browser) -> None:
    from softsgx.report.runs import runs_of

    (run,) = runs_of(str(sgx2))
    page.open(_page(sgx2))
    canvas = "document.querySelector('canvas.lanes')"
    page.js(f"{canvas}.focus()")
    page.key("Home")
    told = "document.querySelector('.event-told').textContent"
    for i in range(1, 60):
        page.key("ArrowRight")
        assert page.js(f"{canvas}.getAttribute('aria-valuenow')") == str(i)
        if run.lines[i]:
            want = f"{i} {run.events[i]['us'] / 1e6:.6f} {run.lines[i]}".rstrip("\n")
            assert page.js(told) == want
    page.key("e", "e")
    failed = page.js(f"+{canvas}.getAttribute('aria-valuenow')")
    assert failed == page.js("runs[0].lanes.d.bad[0]")
    event = run.events[failed]
    assert event.get("signal") or event.get("error")
    # Something is drawn, and zooming draws something else.
    picture = f"{canvas}.toDataURL()"
    before = page.js(picture)
    page.key("+", "+")
    assert page.js(picture) != before
    # A link of a table goes to its event.
    page.js("document.querySelector('table.wrong a').click()")
    first = page.js("document.querySelector('table.wrong a').dataset.event")
    assert page.js("getSelection().toString()").startswith(f"{first} ")


def test_events_are_found(sgx2: Path, page: Browser) -> None:
    page.open(_page(sgx2))

    def find(text: str, bad: bool = False) -> list[str]:
        done: list[str] = page.js(
            f"(runs[0].find({json.dumps(text)}, {json.dumps(bad)}),"
            " document.querySelector('.found').textContent.split('\\n'))"
        )
        return done

    events = _events(sgx2)
    accepts = [e for e in events if e["event"] == "enclu" and e["leaf"] == 5]
    assert find("EACCEPT ")[0] == f"{len(accepts)} found"
    assert find("/] eaccept /")[0] == f"{len(accepts)} found"
    refused = [e for e in events if e.get("answer", 0) == -1]
    assert find("EPERM", True)[0] == f"{len(refused)} found"
    assert "regular expression" in find("/(/")[0]


def test_every_control_is_reached_by_tab(sgx2: Path, page: Browser) -> None:
    page.open(_page(sgx2))
    wanted = page.js(
        "[...document.querySelectorAll('a, button, input, canvas, summary, [tabindex]')]"
        ".filter((e) => e.checkVisibility()).length"
    )
    reached = 0
    for _ in range(wanted):
        page.key("Tab")
        reached += page.js("document.activeElement !== document.body && (document.activeElement"
                           ".reached ? 0 : (document.activeElement.reached = 1))")  # fmt: skip
    assert reached == wanted > 20
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"


_CONTRAST = """((pairs) => {
  const luminance = (c) => {
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const of = (name) => {
    const e = document.body.appendChild(document.createElement("i"));
    e.style.color = `var(${name})`;
    const c = getComputedStyle(e).color;
    e.remove();
    return luminance(c);
  };
  return pairs.map(([a, b]) => {
    const [x, y] = [of(a), of(b)].sort((p, q) => q - p);
    return [a, b, (x + 0.05) / (y + 0.05)];
  });
})(%s)"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_in_light_and_dark(sgx2: Path, page: Browser, dark: bool) -> None:
    """Contrasts of WCAG 2.1, level AA: 4.5 for text."""
    page.dark(dark)
    page.open(_page(sgx2))
    text = ["--fg", "--dim", "--accent", "--bad", "--good", "--warn"]
    pairs = [[name, back] for name in text for back in ("--bg", "--card")]
    pairs += [["--fg", "--badbg"]]
    pairs += [["--on", f"--{name}"] for name in ("r", "rw", "rx", "rwx", "w", "x", "tcs")]
    weak = [row for row in page.js(_CONTRAST % json.dumps(pairs)) if row[2] < 4.5]
    assert weak == []
    background = page.js("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_in_its_width(sgx2: Path, page: Browser, width: int) -> None:
    page.size(width, 700, phone=True)
    page.open(_page(sgx2))
    assert page.js("document.documentElement.scrollWidth") <= width
    # What is wider scrolls in a box of its own, not cut off.
    assert page.js("[...document.querySelectorAll('table')].every((t) => t.closest('.scroll'))")
    assert page.js("document.querySelector('svg.map').clientWidth") <= width


def test_recordings_stand_side_by_side_with_where_they_part(
    record: Record, guest: Guest, page: Browser
) -> None:
    """The same loader under two policies: what one is denied."""
    design = "ioc-mprotect:source=prot,open=rdonly"
    script = "\n".join(
        line.partition(" -> ")[0] for line in load(design, "p0 src=file_rx perm=rx", mode="r")
    )
    common = ("--design", design, "--selinux", "minimal", "--context", "loader_t")
    paths = [
        record(f"parted{n}", *common, "--boolean", f"sgx_loader_execute={value}", "--",
               guest("orders"), stdin=script + "\n")
        for n, value in enumerate(("on", "off"))
    ]  # fmt: skip
    first = next(
        i for i, e in enumerate(_events(paths[1]))
        if e["event"] == "ioctl" and e["answer"] == -13
    )  # fmt: skip
    page.scripts(False)
    page.open(_page(*paths))
    one = page.js(
        "[...document.querySelectorAll('.parted li.one')].map((e) => e.textContent.trim())"
    )
    assert len(one) == 2
    assert re.search(r"SGX_IOC_MPROTECT.*= 0$", one[0])
    assert one[1].startswith(f"{first} ")
    assert "= -1 EACCES (LSM file_mprotect: ioc-mprotect ioc_mprotect)" in one[1]
    labels = page.js("[...document.querySelectorAll('section.run h2')].map((e) => e.textContent)")
    assert labels == [f"{design}, selinux minimal sgx_loader_execute={n}" for n in (1, 0)]
    # Every question has its verdict, the design's rule and the policy's.
    asked = _rows(page, "section:nth-of-type(3) table.asked")
    recorded = [v for e in _events(paths[1]) for v in e.get("verdicts", ())]
    assert sum(int(row[5]) for row in asked) == len(recorded)
    denied = [row for row in asked if row[0] == "denied"]
    assert asked[: len(denied)] == denied != []
    assert all(row[3] == "ioc-mprotect ioc_mprotect" for row in denied)
    assert all("missing: allow loader_t" in row[4] for row in denied)
    assert any("granted by (allow loader_t" in row[4] for row in asked)


def test_recordings_that_go_alike_do_not_part(record: Record, guest: Guest) -> None:
    from softsgx.report.parting import parting
    from softsgx.report.runs import runs_of

    paths = [record(f"alike{n}", "--", guest("orders"), stdin="0 open e rw\n0 create e\n")
             for n in range(2)]  # fmt: skip
    runs = [run for path in paths for run in runs_of(str(path))]
    assert parting(runs) is None
    runs[1].events = runs[1].events[:-1]  # without its exit
    found = parting(runs)
    assert found is not None
    assert [calls[-1][1] for calls in found.calls] == ["+++ exited with 0 +++", ""]


def _write(path: Path, *events: dict[str, Any], **header: Any) -> Path:
    lines = [_HEADER | header, *events]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_names_that_a_program_chose_are_text(tmp_path: Path, page: Browser) -> None:
    evil = '</script><script>document.title="owned"</script><img src=x onerror="document.title=1">'
    path = _write(
        tmp_path / "r",
        {"event": "exec", "us": 1, "pid": 5, "path": evil, "argv": [evil, "\udcff"]},
        {"event": "open", "us": 2, "pid": 5, "path": evil, "fmode": 1, "answer": -13, "why": evil},
        argv=[evil],
    )
    page.open(_page(path))
    assert page.errors == []
    assert page.js("document.querySelectorAll('img').length") == 0
    assert page.js("document.title").startswith("</script>") or page.js("document.title") != "owned"
    assert page.js("document.querySelector('dl.facts dd').textContent") == evil


def test_what_a_recording_does_not_tell_is_said(tmp_path: Path, page: Browser) -> None:
    create = {
        "event": "ioctl", "us": 2, "pid": 5, "fd": 3, "enclave": 1, "cmd": 0x4008A400, "arg": 0,
        "name": "SGX_IOC_ENCLAVE_CREATE", "args": {"src": 1}, "answer": 0, "why": "",
    }  # fmt: skip
    path = _write(tmp_path / "r", create)
    path.write_text(path.read_text() + '{"event":"exi')
    page.open(_page(path))
    said = page.js("[...document.querySelectorAll('p.note')].map((e) => e.textContent)")
    assert len(said) == 3
    assert "cut short" in said[0]
    assert "ends before the program does" in said[1]
    assert "older softsgx" in said[2]


def test_a_question_of_an_older_softsgx_has_no_rule(tmp_path: Path) -> None:
    asked = [["file_open", {"fmode": 3}, None, *by] for by in ([], ["open"], ["open", "linux-mm"])]
    path = _write(tmp_path / "r", {"event": "effects", "us": 1, "pid": 5, "asked": asked})
    (run,) = runs_of(str(path))
    rows, _ = asked_rows(run, lambda _: None)
    assert [(row["rule"], row["law"], row["times"]) for row in rows] == [
        ("", "", 2),
        ("open", "linux-mm", 1),
    ]


def test_a_hundred_thousand_events_are_few_elements(tmp_path: Path, page: Browser) -> None:
    """Text of closed pieces costs no layout: that is what makes the page open at once."""
    regs = {"rax": 0, "rcx": 0, "rip": 4096}
    events = [
        {"event": "enclu", "us": n * 7, "pid": 5, "leaf": 2 + n % 2 * 2, "error": 0, "rbx": 4096}
        | regs
        for n in range(100_000)
    ]
    page.open(_page(_write(tmp_path / "r", *events)))
    assert page.errors == []
    assert page.js("document.querySelectorAll('*').length") < 2000
    assert page.js("runs[0].lanes.n") == 100_000
    assert page.js("runs[0].events.text(99999)").startswith("99999 0.699993 [pid 5] EEXIT")
    assert page.js("runs[0].events.find((l) => l.includes('EENTER'), 5)[1]") == 50_000
    assert page.js("runs[0].lanes.d.spans.length") == 50_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "write: softsgx report RECORDING"),
        (["r"], "write: softsgx report RECORDING"),
        (["-o"], "-o needs a value"),
        (["--output="], "-o needs a value"),
        (["--no", "r"], "no option --no"),
        (["missing", "-o", "out"], "missing: No such file"),
        (["r", "-o", "none/out"], "none/out: No such file"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(Path("r"))
    with pytest.raises(UsageError, match=re.escape(message)):
        report(args)


def test_without_the_package_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"pip install 'softsgx\[report\]'"):
        report([str(_write(tmp_path / "r")), "-o", str(tmp_path / "out")])


def test_intervals_are_what_was_put_last() -> None:
    import random

    chance = random.Random(5)
    of: Intervals[int] = Intervals()
    plain: list[int | None] = [None] * 60
    for n in range(400):
        a = chance.randrange(60)
        b = chance.randrange(a + 1, 61)
        value = None if n % 5 == 0 else n
        of.put(a, b, value)
        plain[a:b] = [value] * (b - a)
        assert [v for a, b, v in of.runs(0, 60) for _ in range(a, b)] == plain
        edges = [edge for a, b, _ in of for edge in (a, b)]
        assert edges == sorted(edges)
