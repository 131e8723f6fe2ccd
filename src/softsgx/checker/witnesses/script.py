"""A trace as orders for real processes.

The orders are those of the program `orders` (tests/guests/orders.c in the sources), a
loader that does what it is told. What the world leaves out (the enclave's own code and
stack) is added as that program's plan has it. What the processes may do is
`softsgx.checker.witnesses.confine`'s; what the end of a trace is shown by, `evidence`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from softsgx.checker.witnesses import order as orders
from softsgx.checker.witnesses.actors import ActorOrders, first_use
from softsgx.checker.witnesses.confine import domain, policy_of
from softsgx.checker.witnesses.order import POKED, POKED_AGAIN, Order, cannot, mask_word, value_of
from softsgx.checker.world.sources import SOURCES
from softsgx.designs.registry import DESIGNS
from softsgx.law.rule import rules_of
from softsgx.law.values import RW, R, W, X
from softsgx.sdm.leaves import PT_TCS, PT_TRIM

__all__ = ["domain", "orders_of", "policy_of"]

_PLAN = tuple(
    f"{name}.{n}" for n in range(2) for name in ("stack", "tcs", "ssa", "tls")
)  # of the program's own enclave: two threads
_RW_PARTS = ("data", *_PLAN)
# By the order of softsgx.checker.world.sources.SOURCES, the last of whose noexec ones is shared.
_SOURCES = (
    "anon_rw", "anon_r", "file_r", "file_rw", "written_r", "shared_r", "file_rx", "shared_rx",
    "file_r", "file_rw", "written_rw", "shared_r", "anon_rx", "anon_rwx", "written_rx",
)  # fmt: skip
_TYPES = {
    "MAP_SHARED": "mmap", "MAP_PRIVATE": "mmap-private", "MAP_SHARED_VALIDATE": "mmap-validate",
}  # fmt: skip


class _Writer(ActorOrders):
    def __init__(
        self, trace: dict[str, Any], program: str, noexec: str, mount: bool, own: str, sources: str,
        sigstruct: str,
    ) -> None:  # fmt: skip
        self.trace, self.program, self.noexec, self.mount = trace, program, noexec, mount
        self.own = f" dir={own}" if own else ""
        self.sources = f" dir={sources}" if sources else ""
        self.sigstruct = f" dir={sigstruct}" if sigstruct else ""
        self.design = str(trace["design"])
        self.via = orders.via_of(self.design)
        cls = DESIGNS.get(self.design)
        law = cls(**trace["options"]) if cls is not None else None
        # mprotect asks nobody, mmap does.
        self.mprotect_is_free = law is not None and "ask_mprotect" in rules_of(law)
        self.declares = law.declares if law is not None else ""
        # Which numbers the SGX2 ioctls have.
        self.numbers = " v2" if law is not None and law.abi == "sgx2-v2" else ""
        self.auto = (
            f" segment=auto only={mask_word(law.declarable)}" if law and self.declares else ""
        )
        # CREATE takes SIGSTRUCT: all that will be added has to be known.
        self.plans = law is not None and "create_sigstruct" in rules_of(law)
        # An LSM that hears of an enclave with its first page: W and X before it stay before it.
        early = itertools.takewhile(lambda s: s["step"] in orders.OUTSIDE, trace["steps"])
        both = any(s.get("prot", 0) & (W | X) == W | X for s in early)
        self.late = both and law is not None and "areas" in law.enclave_fields
        self.owed: Order | None = None  # the enclave's own parts, which are not yet added
        self.reserved: set[int] = set()
        self.entered: dict[int, str] = {}  # how TCS and stack were mapped
        self.coded: set[int] = set()
        self.holders: set[int] = set()
        self.segment_holders: set[int] = set()
        self.changed: set[int] = set()
        self.mounted: set[int] = set()
        self.created = self.aliased = False
        self.raced: set[int] = set()  # pages that were copied from what nobody had looked at
        # What each page was added from; no entry: zeroed (EAUG), or absent.
        self.added: dict[int, int] = {}
        # Pages that are to be a TCS: EACCEPT looks at their content.
        accepts = [s for s in trace["steps"] if s["step"] == "eaccept" and s["pt"] == PT_TCS]
        self.tcs = {s["i"] for s in accepts}

    def all(self) -> Iterator[Order]:
        steps = self.trace["steps"]
        forked = {s["q"] for s in steps if s["step"] == "fork"}
        used = {s[k] for s in steps for k in ("p", "q") if k in s}
        for q in sorted(used - forked - {0}):
            yield Order(f"0 spawn {q} {self.program}-{q}")
        yield from self.before()
        for number, step in enumerate(steps, 1):
            for order in self.step(step):
                order.step = order.step or number
                yield order
        for order in self.end():
            order.step = len(steps)
            yield order

    def step(self, s: dict[str, Any]) -> Iterator[Order]:
        """The orders of a step. The first half of a call is held in a second thread; what lies
        where a page is copied from by then is mapped there before it goes on.
        """
        part, p = s.get("part"), s["p"]
        if part is None:
            yield from self.whole(s)
        elif part == 1:
            *before, call = self.whole(s)
            yield from before
            later = self.trace["steps"][self.trace["steps"].index(s) :]
            copied = next((t["copied"] for t in later if "copied" in t and t["i"] == s["i"]), 0)
            if SOURCES[copied].noexec:  # while the process has one thread
                yield from self._mount(p)
            worker, _, order = call.text.partition(" ")
            yield Order(f"{worker} hold {s['mark']} e {order}", "held")
        else:
            if "copied" in s and s["copied"] != s["source"]:
                source = s["copied"]
                self.added[s["i"]] = source
                self.raced.add(s["i"])
                where = f"{self._directory(source)} value={value_of(s['i'], copied=True)}"
                yield Order(f"{p} another {_SOURCES[source]}{where}")
            yield Order(f"{p} go e", "0" if part == 2 else None)

    def whole(self, s: dict[str, Any]) -> Iterator[Order]:
        name, p = s["step"], s["p"]
        page = f"p{s['i']}" if "i" in s else ""
        maker = getattr(self, "_" + name.replace("-", "_"), None)
        if self.owed is not None and name not in orders.OUTSIDE:
            yield self.owed
            self.owed = None
        simple = {
            "mprotect": f"{p} mprotect {page} {mask_word(s.get('prot', 0))}",
            "ioc-mprotect": f"{p} iocmprotect e {page} {mask_word(s.get('prot', 0))}",
            "munmap": f"{p} munmap {page}",
            "restrict": f"{p} restrict e {page} {mask_word(s.get('perm', 0))}{self.numbers}",
            "relax": f"{p} relax e {page} {mask_word(s.get('perm', 0))}",
            "to-tcs": f"{p} totcs e {page}{self.numbers}",
            "trim": f"{p} trim e {page}{self.numbers}",
            "remove": f"{p} remove e {page}{self.numbers}",
            "foreign": f"{p} foreign {page}",
            "extend": f"{p} extend e {page} {mask_word(s.get('perm', 0))}",
        }
        if maker is not None:
            yield from maker(s, p, page)
        elif name in simple:
            yield Order(simple[name])
        else:
            raise cannot(f"there is no order for “{s['words']}”")

    def _open(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.holders.add(p)
        yield Order(f"{p} open e {'rw' if s['fmode'] == RW else 'r'}")

    def _create(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        if self.plans:
            yield from self._base(p, "plan")
            for step in self.trace["steps"]:
                if step["step"] == "add":
                    yield from self._plan(step, p)
        debug = " debug=1" if s.get("debug") else ""
        yield Order(f"{p} create e{debug}{self._signed(s)}")
        for order in self._base(p, self.via):
            if self.late and " add e base " in order.text:
                self.owed, order.step = order, 1 + self.trace["steps"].index(s)
            else:
                yield order
        self.created = True
        if self.design == "segments":  # before anything else is mapped there
            for q in sorted(self.holders):
                yield from self._reserve(q)

    def _init(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} init e{self._signed(s)}")

    def _signed(self, s: dict[str, Any]) -> str:
        return f" src={_SOURCES[s['sigstruct']]}{self.sigstruct}" if "sigstruct" in s else ""

    def _plan(self, s: dict[str, Any], p: int) -> Iterator[Order]:
        more = " measure=0" if s.get("unmeasured") else ""
        more += " content=tcs" if s["i"] in self.tcs else ""
        yield Order(f"{p} add e p{s['i']} via=plan perm={mask_word(s['perm'])}{more}")

    def _base(self, p: int, via: str) -> Iterator[Order]:
        """The enclave's own parts: data from where the trace has TCS and stack from, if it says.

        Code is mapped shared from an fd for reading: it can be RX and never W.
        """
        entry = next((s for s in self.trace["steps"] if s["step"] == "entry"), None)
        code = next((s for s in self.trace["steps"] if s["step"] == "code"), None)
        sources = f" code={_SOURCES[code['source']] if code else 'shared_rx'}"
        if entry is not None:
            sources += f" src={_SOURCES[entry['source']]}"
            if SOURCES[entry["source"]].noexec:
                yield from self._mount(p)
                sources += f" datadir={self.noexec}"
        yield Order(f"{p} add e base via={via}{self.auto}{self.own}{sources}")

    def _segment(self, s: dict[str, Any]) -> str:
        more = f" segment={mask_word(s[self.declares])}" if s.get(self.declares) else ""
        return more + (" measure=0" if s.get("unmeasured") else "")

    def _add(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        more = f"src={_SOURCES[s['source']]} perm={mask_word(s['perm'])}{self._segment(s)}"
        self.added[s["i"]] = s["source"]
        if SOURCES[s["source"]].noexec:
            yield from self._mount(p)
        where = self._directory(s["source"])
        content = " content=tcs" if s["i"] in self.tcs else ""
        yield Order(f"{p} add e {page} via={self.via} {more}{where}{content}")

    def _directory(self, source: int) -> str:
        return f" dir={self.noexec}" if SOURCES[source].noexec else self.sources

    def _mount(self, p: int) -> Iterator[Order]:
        if not self.noexec:
            raise cannot("it takes a directory of a noexec mount")
        if self.mount and p not in self.mounted:
            self.mounted.add(p)
            yield Order(f"{p} noexec {self.noexec}")

    def _augment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        self.added.pop(s["i"], None)
        yield Order(f"{p} aug e {page} via=region perm={mask_word(s['perm'])}{self._segment(s)}")

    def _touch(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        self.added.pop(s["i"], None)
        yield Order(f"{p} touch {page}", None)

    def _mmap(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield from self._map(_TYPES[s["type"]], p, page, s["prot"])

    def _mmap_segment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        way = _TYPES[s["type"]].replace("mmap", "segment-fd")
        yield from self._map(way, p, page, s["prot"], s["segment"])

    def _map_segment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} mapsegment e {page} {mask_word(s['segment'])} {mask_word(s['prot'])}")

    def _mremap(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} mremap {page} p{min(int(s['j']), 15)}")

    def _fork(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        sets = (self.reserved, self.coded, self.holders, self.segment_holders, self.mounted)
        for those in sets:
            if p in those:
                those.add(s["q"])
        if p in self.entered:
            self.entered[s["q"]] = self.entered[p]
        yield Order(f"{p} fork {s['q']}")

    def _pass(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} send e {s['q']}")
        yield Order(f"{s['q']} recv e")
        yield first_use(s["q"], "e")
        self.holders.add(s["q"])
        if self.created and self.design == "segments":
            yield from self._reserve(s["q"])

    def _pass_segment(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} segmentfd e s {mask_word(s['segment'])}")
        yield Order(f"{p} send s {s['q']}")
        yield Order(f"{s['q']} recv s")
        yield first_use(s["q"], "s")
        self.segment_holders.add(s["q"])

    def _eaccept(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        new = "pending" if s["pending"] else "restricted" if s["pr"] else ""
        how = {PT_TRIM: "trim", PT_TCS: "tcs"}.get(s["pt"], new)
        if how == "tcs" and s["i"] not in self.added:
            raise cannot("EACCEPT takes a zeroed page for no TCS")
        yield from self._enter(p)
        yield Order(f"{p} accept {page} {mask_word(s['perm'])} {how}")

    def _entry(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.entered[p] = str(s["way"])
        for part in _RW_PARTS:
            yield from self._map(str(s["way"]), p, part, RW, RW)

    def _enter(self, p: int) -> Iterator[Order]:
        """Code of the enclave's own, whatever else the trace runs: once it runs something."""
        if p in self.entered and p not in self.coded:
            self.coded.add(p)
            for order in self._map(self._way(p), p, "code", R | X, R | X):
                order.shows = "own"
                yield order

    def _way(self, p: int) -> str:
        """How a process maps its own code: as its TCS, or by the mprotect that asks nobody."""
        held = self._held(p, "device", p in self.changed)
        barred = self.trace.get("lsm") != "none" and not held & X
        return "mprotect" if barred and self.mprotect_is_free else self.entered[p]

    def _code(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        if p not in self.coded:
            self.coded.add(p)
            yield from self._map(str(s["way"]), p, "code", R | X, R | X)
        yield Order(f"{p} touch code", None)

    def _write(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield from self._enter(p)
        yield Order(f"{p} poke {page} {POKED}")

    def _emodpe(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield from self._enter(p)
        # EMODPE leaves RAX alone: the leaf's number.
        yield Order(f"{p} emodpe {page} {mask_word(s['perm'])}", "0x6")

    def _eacceptcopy(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield from self._enter(p)
        # The other thread's TLS page holds nothing that is needed.
        yield Order(f"{p} poke tls.1 {POKED}")
        yield Order(f"{p} acceptcopy {page} tls.1 {mask_word(s['perm'])}")

    def _reserve(self, p: int) -> Iterator[Order]:
        """A mapping of all of ELRANGE that can do nothing, once in each process."""
        if p not in self.reserved:
            self.reserved.add(p)
            yield Order(f"{p} mmap e all -")

    def _map(
        self, way: str, p: int, place: str, prot: int, segment: int = 0
    ) -> Iterator[Order]:  # fmt: skip
        mask = mask_word(prot)
        how = "".join(f" {h}" for h in ("validate", "private") if way.endswith("-" + h))
        if self.design == "v20":  # maps whole enclaves only
            yield from self._reserve(p)
            yield Order(f"{p} mprotect {place} {mask}")
        elif way.startswith("mmap"):
            if self.design != "segments":
                yield Order(f"{p} mmap e {place} {mask}{how}")
            else:
                yield from self._reserve(p)
        elif way.startswith("segment-fd"):
            yield Order(f"{p} segmentfd e s {mask_word(segment)}")
            yield Order(f"{p} mmap s {place} {mask}{how}")
        else:
            if self.design != "segments":
                yield Order(f"{p} mmap e {place} -")
            call = {
                "mprotect": f"mprotect {place} {mask}",
                "ioc-mprotect": f"iocmprotect e {place} {mask}",
                "map-segment": f"mapsegment e {place} {mask_word(segment)} {mask}",
            }[way]
            yield Order(f"{p} {call}")

    # -- what shows the state at the end ---------------------------------------------------

    def end(self) -> Iterator[Order]:
        """What the processes can do now, as far as the property speaks of it."""
        for run in self.trace.get("runs", ()):
            p, i = run["p"], run["i"]
            if p in self.entered:
                yield from self._run(p, i, POKED if run["written"] else None)
        name = self.trace.get("property", "")
        maker = getattr(self, "_end_" + name.replace("-", "_"), None)
        for place in self.trace.get("end", ()):
            if maker is not None:
                yield from maker(place, place["p"], place["i"])
        last = self.trace["steps"][-1:]
        if name == "elrange-fixed" and last and last[0]["step"] in ("mremap", "foreign"):
            # Where the enclave was: memory of its own, zeroed, or nothing.
            there = {"foreign": "0", "mremap": "signal 11"}[last[0]["step"]]
            yield Order(f"{last[0]['p']} touch p{last[0]['i']}", there, shows="left")

    def _run(self, p: int, i: int, value: int | None) -> Iterator[Order]:
        if value is None and i not in self.added:
            writer = self._writer(i)
            if writer is None:
                return  # zeroes are no code that could tell anything
            value = POKED
            yield from self._enter(writer)
            yield Order(f"{writer} poke p{i} {value}", shows="write")
        value = value_of(i, i in self.raced) if value is None else value
        yield from self._enter(p)
        yield Order(f"{p} call p{i}", f"{value:#x}", shows="run")

    def _writer(self, i: int) -> int | None:
        return next(
            (
                place["p"]
                for place in self.trace.get("end", ())
                if place["i"] == i and place["access"] & W and place["p"] in self.entered
            ),
            None,
        )

    def _end_writable_alias(self, place: dict[str, Any], p: int, i: int) -> Iterator[Order]:
        writer = self._writer(i)
        if place["access"] & X and not place["authority"] and writer is not None:
            yield from self._enter(writer)
            yield Order(f"{writer} poke p{i} {POKED_AGAIN}", shows="write")
            yield Order(f"{p} call p{i}", f"{POKED_AGAIN:#x}", shows="run again")

    def _end_writer_authorised(self, place: dict[str, Any], p: int, i: int) -> Iterator[Order]:
        if not place["access"] & X or place["authority"] or self.aliased:
            return
        for other in self.trace["end"]:
            q, writes = other["p"], other["i"] == i and other["access"] & W
            if writes and q != p and not other["authority"] and {p, q} <= self.entered.keys():
                self.aliased = True
                yield from self._enter(q)
                yield Order(f"{q} poke p{i} {POKED_AGAIN}", shows="write")
                yield Order(f"{p} call p{i}", f"{POKED_AGAIN:#x}", shows="run again")
                return

    def _end_source_bound(self, place: dict[str, Any], p: int, i: int) -> Iterator[Order]:
        if place["tables"] & ~place["source_may"]:
            yield from self._could(p, i, place["tables"])

    def _end_noexec(self, place: dict[str, Any], p: int, i: int) -> Iterator[Order]:
        if place["access"] & X and i in self.added and SOURCES[self.added[i]].noexec:
            yield from self._could(p, i, X)

    def _could(self, p: int, i: int, mask: int) -> Iterator[Order]:
        """The kernel's own word on the source: nobody may make it so."""
        source = self.added[i]
        if SOURCES[source].noexec:
            yield from self._mount(p)
        where = self._directory(source)
        yield Order(
            f"{p} could {_SOURCES[source]} {mask_word(mask)}{where}", "EACCES", shows="could"
        )

    def _end_page_bound(self, place: dict[str, Any], p: int, i: int) -> Iterator[Order]:
        beyond = place["access"] & ~place["bound"]
        if beyond & (R | W):
            yield from self._enter(p)
        if p in self.entered and beyond & W:
            yield Order(f"{p} poke p{i} {POKED}", shows="write")
        if p in self.entered and beyond & R:
            yield Order(f"{p} peek p{i}", None, shows="read")


def orders_of(
    trace: dict[str, Any], program: str, noexec: str = "", *, mount: bool = False, own: str = "",
    sources: str = "", sigstruct: str = "",
) -> list[Order]:  # fmt: skip
    """The orders of a trace; ``program``: the path whose copies ``-1``, ``-2``… the other
    processes execute.

    noexec: a directory of a noexec mount, or "". mount: the program makes it one, for each
    process that needs it. own, sources, sigstruct: directories for the files of the enclave's own
    parts, of the trace's pages and of SIGSTRUCT. Raises UsageError where a step has no order.
    """
    return list(_Writer(trace, program, noexec, mount, own, sources, sigstruct).all())
