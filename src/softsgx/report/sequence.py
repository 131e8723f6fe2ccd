"""A trace of the checker as a picture: processes, device, LSM and pages, step by step, in SVG.

Text of its own is all that a picture needs, so it stands in a page, in a file by itself and on
a repository's page alike; its colours follow the reader's light or dark. Rejected: Mermaid, which
takes a script of some megabytes, and cannot put a step's sentence over its arrows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from textwrap import wrap
from typing import Any

from softsgx.checker.witnesses.asking import FOR_SOURCE
from softsgx.law.values import mask_name

__all__ = ["STYLE", "picture"]

_LANE, _MARGIN, _STEP, _ARROW, _CHAR = 140, 80, 18, 27, 7.1
_MONO = 7.4  # the width of a letter of an arrow's

STYLE = """
.seq text{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;fill:#1b1f24}
.seq .say{font:13px system-ui,"DejaVu Sans",sans-serif}
.seq .who{font-weight:600;text-anchor:middle}.seq .mid{text-anchor:middle}
.seq .box{fill:#f6f8fa;stroke:#d0d7de}.seq .life{stroke:#d0d7de;stroke-dasharray:4 4}
.seq .call{stroke:#0550ae;fill:none}.seq .ask{stroke:#8a5d00;fill:none}
.seq .back{stroke:#1a7f37;fill:none;stroke-dasharray:5 3}.seq .page{stroke:#57606a;fill:none}
.seq .bad{stroke:#b42318;fill:none;stroke-width:2}.seq .end{fill:#fdecea;stroke:#b42318}
.seq .good{fill:#e6f4ea;stroke:#1a7f37}
@media(prefers-color-scheme:dark){.seq text{fill:#e6edf3}
.seq .box{fill:#161b22;stroke:#30363d}.seq .life{stroke:#3a424c}.seq .call{stroke:#79c0ff}
.seq .ask{stroke:#e3b341}.seq .back{stroke:#56d364}.seq .page{stroke:#9da7b3}
.seq .bad{stroke:#ff7b72}.seq .end{fill:#3a1d1f;stroke:#ff7b72}
.seq .good{fill:#12291a;stroke:#56d364}}
"""
"""What a page that holds pictures has to have in a style element."""

Arrow = tuple[str, str, str, str]
"""(from, to, text, class)."""

# What each step of `softsgx.checker.witnesses.words` calls, and what becomes of the page.
# No entry: by name.
_CALLS = {
    "open": "open", "create": "ECREATE", "init": "EINIT", "add": "EADD", "augment": "EAUG",
    "mmap": "mmap", "mmap-segment": "mmap segment", "map-segment": "MAP_SEGMENT",
    "mprotect": "mprotect", "ioc-mprotect": "IOC_MPROTECT", "munmap": "munmap",
    "foreign": "mmap MAP_FIXED", "mremap": "mremap", "restrict": "EMODPR", "to-tcs": "EMODT TCS",
    "trim": "EMODT TRIM", "remove": "EREMOVE", "extend": "EXTEND", "entry": "map TCS, stack",
    "code": "map entry code", "relax": "RELAX",
}  # fmt: skip
_BECOMES = {
    "add": "added", "augment": "added", "mmap": "mapped", "mmap-segment": "mapped",
    "map-segment": "mapped", "munmap": "unmapped", "foreign": "replaced", "mremap": "moved",
    "trim": "trimmed", "to-tcs": "to be a TCS", "remove": "removed", "restrict": "restricted",
    "relax": "told", "extend": "may more", "mprotect": "protected", "ioc-mprotect": "protected",
}  # fmt: skip
_INSIDE = {
    "write": "writes", "eaccept": "EACCEPT", "emodpe": "EMODPE", "eacceptcopy": "EACCEPTCOPY",
    "touch": "touches: EAUG",
}  # fmt: skip
_BETWEEN = {"fork": "fork", "pass": "passes the fd", "pass-segment": "passes a segment's fd"}
_LSM = {"selinux": "SELinux", "apparmor": "AppArmor", "none": "no LSM"}


def _lanes(trace: dict[str, Any]) -> list[str]:
    steps = trace["steps"]
    processes = {s[k] for s in steps for k in ("p", "q") if k in s} | {0}
    pages = {s["i"] for s in steps if "i" in s}
    pages |= {s["j"] for s in steps if s.get("j", 1 << 20) < 1 << 20}
    return [
        *(f"process {p}" for p in sorted(processes)), "device", "LSM",
        *(f"page {i}" for i in sorted(pages)),
    ]  # fmt: skip


def _arrows(step: dict[str, Any]) -> Iterator[Arrow]:
    name, who = step["step"], f"process {step['p']}"
    page = f"page {step['i']}" if "i" in step else ""
    if name in _INSIDE:
        yield who, page, _INSIDE[name], "call"
        return
    if name in _BETWEEN:
        yield who, f"process {step['q']}", _BETWEEN[name], "call"
    else:
        mask = step.get("prot", step.get("perm"))
        text = _CALLS.get(name, name)
        if mask is not None:
            text += " " + ({"-": "NONE"}.get(mask_name(mask), mask_name(mask)))
        if name == "open":
            text = "open " + ("O_RDONLY" if step["fmode"] == 1 else "O_RDWR")
        yield who, "device", text, "call"
    for object_, perms in step.get("asked", ()):
        words = " ".join(perm.upper() if len(perm) > 1 else perm for perm in perms)
        what = object_.removeprefix("the ").replace("enclave's ", "")
        # Of the memory that pages come from the kernel asked before the device came into it.
        asks = who if what.endswith(FOR_SOURCE) else "device"
        yield asks, "LSM", f"{words}: {what}", "ask"
        yield "LSM", asks, "granted", "back"
    if page and name not in _BETWEEN:
        yield "device", page, _BECOMES.get(name, ""), "page"


def _ends(trace: dict[str, Any]) -> Iterator[Arrow]:
    """What is wrong at the end: what runs, by whom."""
    for run in trace.get("runs", ()):
        text = "runs, as written" if run["written"] else "runs"
        yield f"process {run['p']}", f"page {run['i']}", text, "bad"


class _Picture:
    def __init__(self, trace: dict[str, Any]) -> None:
        self.trace = trace
        self.names = _lanes(trace)
        arrows = [arrow for step in trace["steps"] for arrow in _arrows(step)]
        spans = [(abs(self.names.index(a) - self.names.index(b)), text) for a, b, text, _ in arrows]
        room = max((len(text) * _MONO / n for n, text in spans if n), default=0)
        self.lane = max(_LANE, int(room) + 16)
        self.wide = max(_MARGIN * 2 + self.lane * (len(self.names) - 1), 420)
        self.out: list[str] = []
        self.y = 0

    def x(self, name: str) -> int:
        return _MARGIN + self.lane * self.names.index(name)

    def say(self, text: str, indent: int = 8, classes: str = "say") -> None:
        """Sentences over the whole width."""
        room = max(int((self.wide - indent - 8) / _CHAR), 30)
        for line in wrap(text, room, break_on_hyphens=False):
            self.y += _STEP
            self.out.append(
                f'<text class="{classes}" x="{indent}" y="{self.y}">{_text(line)}</text>'
            )

    def arrow(self, start: str, end: str, text: str, kind: str) -> None:
        a, b = self.x(start), self.x(end)
        self.y += _ARROW
        tip = 7 if a < b else -7
        if text:
            where = f'x="{(a + b) / 2:g}" y="{self.y - 5}"'
            self.out.append(f'<text class="mid" {where}>{_text(text)}</text>')
        self.out.append(
            f'<path class="{kind}" d="M{a} {self.y}H{b}M{b - tip} {self.y - 4}L{b} {self.y}'
            f'L{b - tip} {self.y + 4}"/>'
        )

    def box(self, lines: list[str], kind: str) -> None:
        top, room = self.y + 14, int((self.wide - 40) / _CHAR)
        wrapped = [
            part
            for line in lines
            for part in wrap(line, room, subsequent_indent="  ", break_on_hyphens=False)
        ]
        height = _STEP * len(wrapped) + 14
        size = f'width="{self.wide - 16}" height="{height}"'
        self.out.append(f'<rect class="{kind}" x="8" y="{top}" {size} rx="6"/>')
        self.y = top + 2
        for line in wrapped:
            self.y += _STEP
            indent = 18 + 12 * (len(line) - len(line.lstrip()))
            self.out.append(
                f'<text class="say" x="{indent}" y="{self.y}">{_text(line.strip())}</text>'
            )
        self.y = top + height

    def svg(self, title: str, told: list[str], bad: bool, style: str) -> str:
        for n, step in enumerate(self.trace["steps"], 1):
            self.y += 12
            self.say(f"{n}. {step['words']}")
            for arrow in _arrows(step):
                self.arrow(*arrow)
        ends = list(_ends(self.trace))
        if ends:
            self.y += 12
            for start, end, text, kind in ends:
                self.arrow(start, end, text, kind if bad else "back")
        bottom = self.y + 14
        self.box(told, "end" if bad else "good")
        head = 40
        lanes = []
        for name in self.names:
            shown = _LSM[self.trace["lsm"]] if name == "LSM" else name
            x = self.x(name)
            lanes.append(
                f'<path class="life" d="M{x} {head}V{bottom + head}"/>'
                f'<rect class="box" x="{x - 62}" y="8" width="124" height="26" rx="6"/>'
                f'<text class="who" x="{x}" y="26">{_text(shown)}</text>'
            )
        high = self.y + head + 10
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="seq" role="img" width="{self.wide}"'
            f' height="{high}" viewBox="0 0 {self.wide} {high}"><title>{_text(title)}</title>'
            f"{style}"
            f'{"".join(lanes)}<g transform="translate(0 {head})">{"".join(self.out)}</g></svg>'
        )


def _text(text: str) -> str:
    return escape(text, quote=False)


def picture(
    trace: dict[str, Any], told: Iterable[str], *, bad: bool = True, alone: bool = False
) -> str:  # fmt: skip
    """The picture of a trace (what ``softsgx check --trace-dir`` writes).

    told: what stands at its end: the property, and what a replay has shown. bad: the trace breaks
    its property, rather than to show that something can be. alone: it is a file by itself, and
    brings its style.
    """
    title = f"{trace['design']}: {trace['property']}"
    style = f"<style>{STYLE.strip()}</style>" if alone else ""
    return _Picture(trace).svg(title, list(told), bad, style)
