"""What the checker says of one property of one design."""

from __future__ import annotations

from typing import Any

__all__ = ["Options", "Result", "counted", "pair_name", "trace_name"]


class Options:
    """How to check. permissions: given ones, variable → mask; all others are left open.

    pages, processes: of the world. timeout_s: for one question to an engine. memory_bytes:
    the most that an engine may take for one, None for no bound. engine: "auto" (ABC, or Z3
    where it is missing), "abc", "z3" (bounded) or "explicit". lsm: "selinux", "apparmor" or
    "none". actors: names of `softsgx.checker.world.actors.ACTORS`. interleave: what never happens
    is asked again with calls in halves.
    export: the directory that questions and answers are written to, or "". why: look for
    the rules that a proof rests on, and the one that a repair has to change.
    """

    __slots__ = (
        "actors", "engine", "export", "interleave", "lsm", "max_depth", "memory_bytes", "pages",
        "permissions", "processes", "timeout_s", "why",
    )  # fmt: skip

    def __init__(
        self, pages: int = 2, processes: int = 2, permissions: dict[str, int] | None = None,
        *, timeout_s: int = 60, engine: str = "auto", max_depth: int = 12, lsm: str = "selinux",
        memory_bytes: int | None = None, export: str = "", why: bool = False,
        interleave: bool = False, actors: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.export, self.why, self.interleave = export, why, interleave
        self.pages, self.processes = pages, processes
        self.permissions = dict(permissions or {})
        self.timeout_s, self.engine, self.max_depth = timeout_s, engine, max_depth
        self.lsm, self.memory_bytes = lsm, memory_bytes
        self.actors = actors


class Result:
    """A verdict: "refuted", "bounded" or "proved".

    steps: of a trace, in words; for a property that asks for something to be possible,
    of the run that shows it. permissions: who holds what in it. bound: the number of
    steps within which nothing was found, None where the verdict needs no bound. why: an
    invariant in words (what never is), or the reason. idle: why a proof says nothing (nothing of
    the kind can run at all; the design's terms leave no state that could break it), or "".
    benign: what `benign-runs` says.
    pages, processes: for how many a proof holds; None for any number, and pages where a
    trace tells, which stays one with more. coupled: why a proof is for so many only.
    interleaved: the verdict is of a world where calls come in halves.
    breaks: of a bounded verdict, the steps that lead to the bad state from states that proved
    lemmas allow, each with the rule that it runs: there a proof by induction ends. scope: for
    which worlds a verdict holds that no trace shows: a phrase.
    weaker: (permissions, number of steps) of another trace with fewer permissions.
    because: with `Options.why`, what the proof rests on; change: the rule that a repair has to
    change (`softsgx.checker.pool.why`).
    trace: the steps as data, for `softsgx replay`; its ``runs`` are the pages that run at the
    end, of those that the property speaks of.
    """

    __slots__ = (
        "actors", "because", "benign", "bound", "breaks", "change", "coupled", "design", "idle",
        "interleaved", "lsm", "method", "options", "pages", "permissions", "processes",
        "property", "scope", "seconds", "steps", "trace", "verdict", "weaker", "why",
    )  # fmt: skip

    def __init__(self, design: str, options: dict[str, str], property_name: str) -> None:
        self.design, self.options, self.property = design, options, property_name
        self.lsm = "selinux"
        self.actors: tuple[str, ...] = ()
        self.verdict = "bounded"
        self.bound: int | None = None
        self.steps: list[str] = []
        self.permissions: list[str] = []
        self.why: list[str] = []
        self.method = ""
        self.seconds = 0.0
        self.idle = ""
        self.interleaved = False
        self.pages: int | None = None
        self.processes: int | None = 0
        self.coupled = self.scope = ""
        self.breaks: list[str] = []
        self.because: Any = None
        self.change: Any = None
        self.benign = ""
        self.weaker: dict[str, Any] | None = None
        self.trace: dict[str, Any] | None = None

    @property
    def vacuous(self) -> bool:
        """Whether a proof says nothing."""
        return bool(self.idle)

    def cover(self, pages: int | None, processes: int | None, coupled: str = "") -> None:
        """Say for which worlds the verdict holds. pages, processes: None for any number."""
        self.pages, self.processes, self.coupled = pages, processes, coupled
        if processes is None:
            self.scope = "for any number of pages and processes"
        else:
            many = "any number of pages" if pages is None else counted(pages, "page")
            self.scope = f"for {many} and {counted(processes, 'process')}"
        self.scope += ", whatever other threads do in between" if self.interleaved else ""
        self.scope += f": {coupled}" if coupled else ""

    def as_json(self) -> dict[str, Any]:
        """The result as an object of JSON; the trace goes into files of its own."""
        said = {
            name: getattr(self, name) for name in (
                "design", "options", "lsm", "actors", "property", "verdict", "bound", "pages",
                "processes", "scope", "interleaved", "vacuous", "idle", "benign", "steps",
                "permissions", "weaker", "why", "breaks", "method", "seconds",
            )
        }  # fmt: skip
        return said | {
            name: value.as_json()
            for name, value in (("because", self.because), ("change", self.change))
            if value is not None
        }


def counted(number: int, what: str) -> str:
    """``2 pages``, ``1 process``."""
    many = what + ("es" if what.endswith("s") else "s")
    return f"{number} {what if number == 1 else many}"


def pair_name(design: str, options: dict[str, str], property_name: str) -> str:
    """The name of a pair's folder of ``softsgx check --export``."""
    chosen = "".join(f"+{k}={v}" for k, v in options.items())
    return f"{design}{chosen}.{property_name}"


def trace_name(design: str, options: dict[str, str], property_name: str) -> str:
    """The name of the file that ``softsgx check --trace-dir`` writes a trace to."""
    return pair_name(design, options, property_name) + ".json"
