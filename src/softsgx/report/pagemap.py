"""The pages of a recorded run's enclaves through time: EPCM, VMAs, and what each came from.

All is read off the recording's own fields (`softsgx.record.schema.OPTIONAL`), so no rule of a
design is known here. For a page's script the changes are rows of small numbers, with the texts
that they stand for beside them; for readers without scripts the state at the end is a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from softsgx.law.values import mask_name
from softsgx.report.intervals import Intervals
from softsgx.report.runs import Run
from softsgx.sdm.leaves import ATTR_DEBUG, PT_TCS
from softsgx.sgx.epcm import page_text

__all__ = ["PageMap"]

_PAGE = 4096


class _Texts:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def __call__(self, text: Any) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def all(self) -> list[Any]:
        return list(self.numbers)


class PageMap:
    """What a run tells of its enclaves' pages.

    enclaves: {number, base, pages, debug} of each. states: [text, kind] of each state of pages or
    mappings, the kind being what it is drawn as. origins: texts. changes: [event, enclave, first,
    last, state, origin] of pages, the origin -1 where it stays; the state -1 where there is no
    page. mapped: [event, pid, enclave, first, last, state] of mappings, in pages of ELRANGE,
    with the state -1 where there is none any more. last: the index of the last event that changed
    anything but what goes with the processes that end: the end that is shown.
    """

    def __init__(self, run: Run) -> None:
        self.enclaves: list[dict[str, Any]] = []
        self.changes: list[list[int]] = []
        self.mapped: list[list[int]] = []
        self._states, self._origins = _Texts(), _Texts()
        self._pages: dict[int, Intervals[tuple[int, int, int]]] = {}
        self._vmas: dict[tuple[int, int], Intervals[int]] = {}
        self._bases: dict[int, tuple[int, int]] = {}
        self._early: list[list[Any]] = []
        self.last = _last(run)
        for i, event in enumerate(run.events):
            if "elranges" in event or "pages" in event or "vmas" in event:
                self._take(i, event)

    @property
    def states(self) -> list[list[str]]:
        """[text, kind] by number."""
        return [list(state) for state in self._states.all()]

    @property
    def origins(self) -> list[str]:
        """Texts by number."""
        return self._origins.all()

    def _take(self, i: int, event: dict[str, Any]) -> None:
        for number, base, size, attributes in event.get("elranges", ()):
            self._bases[number] = base, size
            self._pages[number] = Intervals()
            debug = bool(attributes & ATTR_DEBUG)
            pages = size // _PAGE
            self.enclaves.append({"number": number, "base": base, "pages": pages, "debug": debug})
            early = [row for row in self._early if row[3] == number]
            self._early = [row for row in self._early if row[3] != number]
            for row in early:  # was mapped before ECREATE
                self._map(i, row)
        for number, first, last, fields in event.get("pages", ()):
            if number in self._pages:
                self._page(i, event, number, first, last, fields)
        for row in event.get("vmas", ()):
            if row[3] in self._bases:
                self._map(i, row)
            elif row[4] is None:
                self._early = [old for old in self._early if old[:4] != row[:4]]
            else:
                self._early.append(row)

    def _page(
        self, i: int, event: dict[str, Any], number: int, first: int, last: int,
        fields: dict[str, int],
    ) -> None:  # fmt: skip
        table = self._pages[number]
        if not fields.get("present"):
            table.put(first, last, None)
            self.changes.append([i, number, first, last, -1, -1])
            return
        state = self._states((page_text(fields), _kind_of_page(fields)))
        for a, b, had in list(table.runs(first, last)):
            if had is not None:
                table.put(a, b, (state, had[1], had[2]))
                self.changes.append([i, number, a, b, state, -1])
                continue
            for c, d, text in _origin(event, self._bases[number][0], a, b):
                origin = self._origins(text)
                table.put(c, d, (state, origin, i))
                self.changes.append([i, number, c, d, state, origin])

    def _map(self, i: int, row: list[Any]) -> None:
        pid, start, end, number, fields = row
        base, size = self._bases[number]
        first, last = max(start, base) - base >> 12, min(end, base + size) - base >> 12
        if first >= last:
            return
        state = -1
        if fields is not None:
            prot = fields.get("prot", 0)
            name = {"-": "NONE"}.get(mask_name(prot), mask_name(prot))
            more = [f"may {mask_name(fields.get('may', 0))}"]
            more += ["shared"] if fields.get("shared") else []
            more += [f"{k}={v}" for k, v in fields.items() if k not in ("prot", "may", "shared")]
            state = self._states((f"{name} ({', '.join(more)})", f"vma{prot}"))
        if i <= self.last:
            self._vmas.setdefault((number, pid), Intervals()).put(first, last, _none(state))
        self.mapped.append([i, pid, number, first, last, state])

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        """The table of an enclave at the end: runs of pages that are alike in everything.

        first, last, page, vmas ([pid, text]), origin, event (that added it, -1: none).
        """
        table = self._pages[number]
        states, origins = self._states.all(), self._origins.all()
        maps = {pid: of for (n, pid), of in self._vmas.items() if n == number}
        edges = {edge for a, b, _ in table for edge in (a, b)}
        edges |= {edge for of in maps.values() for a, b, _ in of for edge in (a, b)}
        before: dict[str, Any] | None = None
        for first, last in pairwise(sorted(edges)):
            ((_, _, page),) = table.runs(first, last)
            here = [(pid, next(of.runs(first, last))[2]) for pid, of in maps.items()]
            vmas = [[pid, states[state][0]] for pid, state in here if state is not None]
            row = {
                "first": first, "last": last, "vmas": vmas,
                "page": states[page[0]][0] if page else "absent",
                "origin": origins[page[1]] if page else "", "event": page[2] if page else -1,
            }  # fmt: skip
            if not page and not vmas:
                continue
            if before and before["last"] == first and _alike(before, row):
                before["last"] = last
                continue
            if before:
                yield before
            before = row
        if before:
            yield before

    def data(self) -> dict[str, Any]:
        """What a page's script gets."""
        return {
            "enclaves": self.enclaves, "states": self.states, "origins": self.origins,
            "changes": self.changes, "mapped": self.mapped, "last": self.last,
        }  # fmt: skip


def _last(run: Run) -> int:
    ended: set[int] = set()
    last = -1
    for i, event in enumerate(run.events):
        if event["event"] == "exit":
            ended.add(event["pid"])
        lives = any(row[4] is not None or row[0] not in ended for row in event.get("vmas", ()))
        if lives or "pages" in event or "elranges" in event:
            last = i
    return last


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("vmas", "page", "origin", "event"))


def _none(state: int) -> int | None:
    return None if state < 0 else state


def _kind_of_page(fields: dict[str, int]) -> str:
    """What a page is drawn as: by its type, permissions, and whether it is settled."""
    if fields["pt"] == PT_TCS:
        kind = "tcs"
    else:
        kind = f"p{fields.get('perm', 0)}"
    unsettled = any(fields.get(name) for name in ("pending", "modified", "pr"))
    return kind + (" open" if unsettled else "")


def _origin(
    event: dict[str, Any], base: int, first: int, last: int
) -> Iterator[tuple[int, int, str]]:
    """Where pages [first, last) that an event added came from: (first, last, text)."""
    args = event.get("args")
    sources = event.get("sources", ())
    if event["event"] != "ioctl" or not isinstance(args, dict) or not args.get("src"):
        yield first, last, "EAUG: zeros"
        return
    offset = args["offset"] if "offset" in args else args.get("addr", base) - base
    here = first
    while here < last:
        at = args["src"] + here * _PAGE - offset
        found = next((row for row in sources if row[0] <= at < row[1]), None)
        end = last if found is None else min(last, here + -(-(found[1] - at) // _PAGE))
        yield here, end, _source_text(found, at)
        here = end


def _source_text(source: list[Any] | None, at: int) -> str:
    if source is None:
        return "memory that was not told"
    start, _, prot, may, path, offset = source
    if path:
        said = f"{path} at {offset + at - start:#x}"
    else:
        said = "anonymous memory"
    lost = 7 & ~may
    return f"{said}, mapped {mask_name(prot)}" + (f", never {mask_name(lost)}" if lost else "")
