"""A trace as orders for real processes, and the SELinux policy that gives them its permissions.

The orders are those of the program `orders` (tests/guests/orders.c in the sources), a
loader that does what it is told. What the world leaves out (the enclave's own code and
stack) is added as that program's plan has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softsgx.checker.permissions import KINDS
from softsgx.errors import UsageError
from softsgx.law.values import RW, RWX, R, X, mask_name
from softsgx.sdm.leaves import PT_TRIM

__all__ = ["Order", "domain", "orders_of", "policy_of"]

POKED = 0x4242
_PLAN = tuple(
    f"{name}.{n}" for n in range(2) for name in ("stack", "tcs", "ssa", "tls")
)  # of the program's own enclave: two threads
_RW_PARTS = ("data", *_PLAN)
# By the order of softsgx.checker.sources.SOURCES, the last of whose noexec ones is shared.
_SOURCES = (
    "anon_rw", "anon_r", "file_r", "file_rw", "written_r", "shared_r", "file_rx", "shared_rx",
    "file_r", "file_rw", "written_rw", "shared_r", "anon_rx", "anon_rwx", "written_rx",
)  # fmt: skip
_NOEXEC = range(8, 12)


_TYPES = {"MAP_SHARED": "mmap", "MAP_SHARED_VALIDATE": "mmap-validate"}


class Order:
    """One line for the program: ``text``, the ``answer`` that the model predicts (None: any).

    step: the number of the trace's step that it is of, from 1 on; 0: beside them.
    """

    __slots__ = ("answer", "step", "text")

    def __init__(self, text: str, answer: str | None = "0", step: int = 0) -> None:
        self.text, self.answer, self.step = text, answer, step


def _mask(mask: int) -> str:
    return mask_name(mask).lower()


def _cannot(what: str) -> UsageError:
    return UsageError(f"this trace cannot be replayed: {what}")


class _Writer:
    def __init__(self, trace: dict[str, Any], program: str, noexec: str) -> None:
        self.trace, self.program, self.noexec = trace, program, noexec
        self.design = str(trace["design"])
        self.via = {"v20": "v20", "linux-6.0": "pages", "linux-5.11": "pages"}.get(
            self.design, "region"
        )
        self.reserved: set[int] = set()
        self.entered: set[int] = set()
        self.holders: set[int] = set()
        self.created = False

    def all(self) -> Iterator[Order]:
        steps = self.trace["steps"]
        loaders = {s["p"] for s in steps if s["step"] in ("create", "add")}
        if len(loaders | {s["p"] for s in steps if s["step"] == "init"}) > 1:
            raise _cannot("the program signs what one process added, and here two build")
        forked = {s["q"] for s in steps if s["step"] == "fork"}
        used = {s[k] for s in steps for k in ("p", "q") if k in s}
        for q in sorted(used - forked - {0}):
            yield Order(f"0 spawn {q} {self.program}-{q}")
        for number, step in enumerate(steps, 1):
            for order in self.step(step):
                order.step = number
                yield order
        for run in self.trace.get("runs", ()):
            if run["p"] not in self.entered:
                continue
            value = POKED if run["written"] else 0x1000 + run["i"]
            yield Order(f"{run['p']} call p{run['i']}", f"{value:#x}", len(steps))

    def step(self, s: dict[str, Any]) -> Iterator[Order]:
        name, p = s["step"], s["p"]
        page = f"p{s['i']}" if "i" in s else ""
        maker = getattr(self, "_" + name.replace("-", "_"), None)
        simple = {
            "init": f"{p} init e",
            "mprotect": f"{p} mprotect {page} {_mask(s.get('prot', 0))}",
            "ioc-mprotect": f"{p} iocmprotect e {page} {_mask(s.get('prot', 0))}",
            "munmap": f"{p} munmap {page}",
            "write": f"{p} poke {page} {POKED}",
            "restrict": f"{p} restrict e {page} {_mask(s.get('perm', 0))}",
            "trim": f"{p} trim e {page}",
            "remove": f"{p} remove e {page}",
            "foreign": f"{p} foreign {page}",
            "extend": f"{p} extend e {page} {_mask(s.get('perm', 0))}",
        }
        if maker is not None:
            yield from maker(s, p, page)
        elif name in simple:
            yield Order(simple[name])
        else:
            raise _cannot(f"there is no order for “{s['words']}”")

    def _open(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.holders.add(p)
        yield Order(f"{p} open e {'rw' if s['fmode'] == RW else 'r'}")

    def _create(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} create e")
        auto = " segment=auto" if self.design == "segments" else ""
        yield Order(f"{p} add e base via={self.via}{auto}")
        self.created = True
        if self.design == "segments":  # before anything else is mapped there
            for q in sorted(self.holders):
                yield from self._reserve(q)

    def _segment(self, s: dict[str, Any]) -> str:
        return f" segment={_mask(s['segment'])}" if "segment" in s else ""

    def _add(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        more = f"src={_SOURCES[s['source']]} perm={_mask(s['perm'])}{self._segment(s)}"
        if s["source"] in _NOEXEC:
            if not self.noexec:
                raise _cannot("it takes a directory of a noexec mount")
            more += f" dir={self.noexec}"
        yield Order(f"{p} add e {page} via={self.via} {more}")

    def _augment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} aug e {page} via=region perm={_mask(s['perm'])}{self._segment(s)}")

    def _touch(self, _s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} touch {page}", None)

    def _mmap(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield from self._map(_TYPES[s["type"]], p, page, s["prot"])

    def _mmap_segment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        way = "segment-fd" if s["type"] == "MAP_SHARED" else "segment-fd-validate"
        yield from self._map(way, p, page, s["prot"], s["segment"])

    def _map_segment(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} mapsegment e {page} {_mask(s['segment'])} {_mask(s['prot'])}")

    def _mremap(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        yield Order(f"{p} mremap {page} p{min(int(s['j']), 15)}")

    def _fork(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.reserved |= {s["q"]} if p in self.reserved else set()
        self.entered |= {s["q"]} if p in self.entered else set()
        yield Order(f"{p} fork {s['q']}")

    def _pass(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} send e {s['q']}")
        yield Order(f"{s['q']} recv e")
        self.holders.add(s["q"])
        if self.created and self.design == "segments":
            yield from self._reserve(s["q"])

    def _pass_segment(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} segmentfd e s {_mask(s['segment'])}")
        yield Order(f"{p} send s {s['q']}")
        yield Order(f"{s['q']} recv s")

    def _eaccept(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        how = "trim" if s["pt"] == PT_TRIM else "pending" if s["pending"] else ""
        if not how:
            raise _cannot("there is no order to accept a restricted page or a TCS")
        yield Order(f"{p} accept {page} {_mask(s['perm'])} {how}")

    def _entry(self, s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        self.entered.add(p)
        for part in _RW_PARTS:
            yield from self._map(str(s["way"]), p, part, RW, RW)
        # Code of the enclave's own, whatever else the trace runs.
        yield from self._map(str(s["way"]), p, "code", R | X, R | X)

    def _code(self, _s: dict[str, Any], p: int, _page: str) -> Iterator[Order]:
        yield Order(f"{p} touch code", None)

    def _emodpe(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        # EMODPE leaves RAX alone: the leaf's number.
        yield Order(f"{p} emodpe {page} {_mask(s['perm'])}", "0x6")

    def _eacceptcopy(self, s: dict[str, Any], p: int, page: str) -> Iterator[Order]:
        # The other thread's TLS page holds nothing that is needed.
        yield Order(f"{p} poke tls.1 {POKED}")
        yield Order(f"{p} acceptcopy {page} tls.1 {_mask(s['perm'])}")

    def _reserve(self, p: int) -> Iterator[Order]:
        """A mapping of all of ELRANGE that can do nothing, once in each process."""
        if p not in self.reserved:
            self.reserved.add(p)
            yield Order(f"{p} mmap e all -")

    def _map(
        self, way: str, p: int, place: str, prot: int, segment: int = 0
    ) -> Iterator[Order]:  # fmt: skip
        mask = _mask(prot)
        how = " validate" if way.endswith("-validate") else ""
        if self.design == "v20":  # maps whole enclaves only
            yield from self._reserve(p)
            yield Order(f"{p} mprotect {place} {mask}")
        elif way.startswith("mmap"):
            if self.design != "segments":
                yield Order(f"{p} mmap e {place} {mask}{how}")
            else:
                yield from self._reserve(p)
        elif way.startswith("segment-fd"):
            yield Order(f"{p} segmentfd e s {_mask(segment)}")
            yield Order(f"{p} mmap s {place} {mask}{how}")
        else:
            if self.design != "segments":
                yield Order(f"{p} mmap e {place} -")
            call = {
                "mprotect": f"mprotect {place} {mask}",
                "ioc-mprotect": f"iocmprotect e {place} {mask}",
                "map-segment": f"mapsegment e {place} {_mask(segment)} {mask}",
            }[way]
            yield Order(f"{p} {call}")


def _check_lsm(trace: dict[str, Any]) -> None:
    if trace.get("lsm", "selinux") != "selinux":
        raise _cannot("it is not of SELinux's questions")


def orders_of(trace: dict[str, Any], program: str, noexec: str = "") -> list[Order]:
    """The orders of a trace; ``program``: the path whose copies ``-1``, ``-2``… the other
    processes execute; ``noexec``: a directory of a noexec mount, or "". Raises UsageError
    where a step has no order.
    """
    _check_lsm(trace)
    return list(_Writer(trace, program, noexec).all())


def domain(p: int) -> str:
    """The type of process ``p``."""
    return f"trace_process_{p}_t"


def policy_of(trace: dict[str, Any]) -> str:
    """A CIL module beside softsgx's minimal policy: a domain for each process of a trace,
    with what the trace says that it holds, and nothing else of the enclave.
    """
    lines = []
    for p in range(trace["processes"]):
        t = domain(p)
        lines += [
            f"(type {t})",
            f"(typeattributeset domain ({t}))",
            f"(roletype system_r {t})",
            f"(allow {t} sgx_enclave_device_t (chr_file (open getattr map ioctl)))",
            f"(allowx {t} sgx_enclave_device_t (ioctl chr_file ((range 0xa400 0xa4ff))))",
            f"(allow {t} domain (process (transition sigchld)))",
        ]
        for mask in range(1, RWX + 1):
            word = _mask(mask)
            segment = f"sgx_segment_{word}_t"
            lines += [
                f'(typetransition {t} {t} anon_inode "[sgx_segment_{word}]" {segment})',
                f"(allow {t} {segment} (anon_inode (create getattr map ioctl)))",
            ]
        if "entry" in {s["step"] for s in trace["steps"] if s["p"] == p}:
            # The program's own code, where the world's enclave is one page that is entered.
            lines.append(f"(allow {t} sgx_segment_rx_t (anon_inode (read execute)))")
        held = {n.partition(".")[2]: v for n, v in trace["permissions"].items()
                if v and n.startswith(f"may{p}.")}  # fmt: skip
        for kind, bits in held.items():
            names = " ".join(n for i, n in enumerate(KINDS[kind]) if bits >> i & 1)
            target = {
                "device": f"sgx_enclave_device_t (chr_file ({names}))",
                "process": f"self (process ({names}))",
                "file": f"ordinary (file ({names}))",
            }.get(kind)
            if target is None:
                word = _mask(int(kind[7:]))
                target = f"sgx_segment_{word}_t (anon_inode ({names}))"
            lines.append(f"(allow {t} {target})")
    return "\n".join(lines) + "\n"
