"""Events for people, in the manner of strace: ``-v`` and ``softsgx show`` print the same.

A line an event; under it, indented, what the LSM was asked and what was done to
the real processes. Whoever refused is named behind the answer:
``= -1 EACCES (prot within max: linux-6.0 may_map)``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from softsgx.law.rule import FAULT
from softsgx.law.values import mask_name
from softsgx.record import ioctls
from softsgx.record.crash import crash_lines
from softsgx.sdm import leaves as sdm
from softsgx.sdm.cpuid import SGX_LEAF
from softsgx.sgx.epcm import page_text
from softsgx.uapi.errno import errno_name

__all__ = ["Formatter", "enclu_name", "fault_word", "signal_name"]

_O_MODE = {1: "O_RDONLY", 2: "O_WRONLY", 3: "O_RDWR"}
_ACCESS = {0: "read", 1: "write", 2: "fetch"}
_MAP_TYPE = {1: "SHARED", 2: "PRIVATE", 3: "SHARED_VALIDATE"}
_MAP_FLAGS = {0x10: "FIXED", 0x20: "ANONYMOUS", 0x100000: "FIXED_NOREPLACE", 0x4000: "NORESERVE"}
_MREMAP_FLAGS = {1: "MAYMOVE", 2: "FIXED", 4: "DONTUNMAP"}
_MEASURE = 1


def _visible(text: str) -> str:
    """Text that a program chose, on one line."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    )


def _flags(value: int, names: dict[int, str]) -> str:
    """``A|B|0x…`` of the bits that are set; "0" if none."""
    parts = [name for bit, name in names.items() if value & bit == bit]
    for bit in names:
        value &= ~bit
    if value or not parts:
        parts.append(hex(value))
    return "|".join(parts)


def _prot(value: int) -> str:
    rest = value & ~7
    name = mask_name(value) if value & 7 or not rest else ""
    name = {"-": "NONE"}.get(name, name)
    return f"{name}|{rest:#x}".strip("|") if rest else name


def _map_flags(value: int) -> str:
    kind = _MAP_TYPE.get(value & 15, hex(value & 15))
    rest = value & ~15
    return f"{kind}|{_flags(rest, _MAP_FLAGS)}" if rest else kind


def _secinfo(value: int) -> str:
    kind = value >> 8 & 0xFF
    name = sdm.PAGE_TYPE_NAMES.get(kind, f"PT {kind}").removeprefix("PT_")
    rest = value & ~0xFF07
    perm = "" if not value & 7 and kind != sdm.PT_REG else mask_name(value & 7) + "|"
    return perm + name + (f"|{rest:#x}" if rest else "")


def _signed(value: int) -> str:
    return str(value - (1 << 32) if value >> 31 == 1 else value)


_MM_ARGS: dict[str, tuple[Callable[[int], str], ...]] = {
    "mmap": (hex, hex, _prot, _map_flags, _signed, hex),
    "mprotect": (hex, hex, _prot),
    "munmap": (hex, hex),
    "mremap": (hex, hex, hex, lambda v: _flags(v, _MREMAP_FLAGS), hex),
    "madvise": (hex, hex, str),
}


def _vector(vector: int, code: int, addr: int) -> str:
    name = sdm.VECTOR_NAMES.get(vector, f"vector {vector}")
    return f"{name} {code:#x} at {addr:#x}" if vector == sdm.VECTOR_PF else name


def enclu_name(leaf: int) -> str:
    """The SDM's name of an ENCLU leaf."""
    return sdm.ENCLU_NAMES.get(leaf, f"ENCLU {leaf:#x}")


def fault_word(access: int) -> str:
    """What a page fault's access is called."""
    return _ACCESS.get(access, str(access))


def signal_name(number: int) -> str:
    """The name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRT{number}" if number >= 32 else f"signal {number}"


class Formatter:
    """Makes text of headers and events, in their order: a header's design goes into later lines.

    registers: of every AEX and fault, not only of exceptions and faults with a signal.
    """

    def __init__(self, *, registers: bool = False) -> None:
        self.design = ""
        self._all_registers = registers

    def __call__(self, event: dict[str, Any]) -> str:
        """The lines of a header or an event, each with its newline; "" for what tells nothing."""
        if "softsgx" in event:
            return self._header(event)
        kind, name = event["event"], str(event.get("name", ""))
        make = getattr(self, f"_{kind}", None)
        text = make(event) if make else f"{kind} {event}"
        if text is None:
            return ""
        lines = [f"[pid {event['pid']}] {text}"]
        if "registers" in event and (self._all_registers or _told(event)):
            lines += _registers(event["registers"])
        for hook, what, answer, *_ in event.get("asked", ()):
            if answer is not None:
                facts = ", ".join(f"{k}={self.fact(k, v, name)}" for k, v in what.items())
                verdict = "allowed" if answer == 0 else f"denied, {errno_name(answer)}"
                lines.append(f"      LSM {hook}({facts}): {verdict}")
        lines += [f"      {self._verdict(v)}" for v in event.get("verdicts", ())]
        lines += [
            f"      {self._effect(event['pid'], effect)}" for effect in event.get("effects", ())
        ]
        return "\n".join(lines) + "\n"

    def _header(self, h: dict[str, Any]) -> str:
        self.design = h["design"]
        options = ",".join(f"{k}={v}" for k, v in h["options"].items())
        design = f"{self.design}:{options}" if options else self.design
        argv = " ".join(map(_visible, h["argv"]))
        return (
            f"# {h['time']}  {argv}\n# design {design}, LSM {h['lsm']}, "
            f"EPC {h['epc_bytes'] >> 10} KiB, softsgx {h['program']}, Linux {h['kernel']}\n"
        )

    @staticmethod
    def fact(name: str, value: Any, call: str = "") -> str:
        """A fact of a question, for people; ``call``: the ioctl's name, if it was one."""
        if name in ("prot", "reqprot", "fmode") and isinstance(value, int):
            return _prot(value)
        if name == "map_type":
            return _MAP_TYPE.get(value, str(value))
        if name == "cmd":
            return call if call.startswith("SGX_IOC_") else ioctls.name(value)
        return f"{value:#x}" if isinstance(value, int) and value > 9 else str(value)

    @staticmethod
    def _effect(pid: int, effect: list[Any]) -> str:
        call, where, start, end, value = effect
        place = f"pid {where}: " if where != pid else ""
        tail = {"mprotect": ", " + _prot(value), "mmap": f", offset {value:#x}"}.get(call, "")
        return f"{place}really {call}({start:#x}, {end - start:#x}{tail})"

    @staticmethod
    def _verdict(v: dict[str, Any]) -> str:
        denied, asked = v["denied"], " ".join(v["asked"])
        word = "granted" if not denied else "would deny" if v["permissive"] else "denied"
        perms = f"{{ {' '.join(denied) or asked} }}"
        return f"{v['lsm']}: {word} {perms} of {v['subject']} on {v['target']} ({v['tclass']})"

    def _answer(self, event: dict[str, Any], ok: str | None = None) -> str:
        answer = event["answer"]
        if -4096 < answer < 0:
            text = f"= -1 {errno_name(answer)}"
        else:
            text = f"= {ok if ok is not None else answer}"
        why = event.get("why", "")
        if why:
            decided = event.get("decided")
            by = f": {self.design} {decided['rule']}" if decided else ""
            text += f" ({why}{by})"
        return text

    # One method an event of `softsgx.record.schema`.

    def _exec(self, e: dict[str, Any]) -> str:
        return f"exec {_visible(e['path'])} [{', '.join(map(_visible, e['argv']))}]"

    def _child(self, e: dict[str, Any]) -> str:
        return f"new {e['what']} {e['child']}"

    def _exit(self, e: dict[str, Any]) -> str:
        status = e["status"]
        if status & 0x7F:
            return f"+++ killed by {signal_name(status & 0x7F)} +++"
        return f"+++ exited with {status >> 8 & 0xFF} +++"

    def _signal(self, e: dict[str, Any]) -> str:
        return f"--- {signal_name(e['signal'])} ---"

    def _open(self, e: dict[str, Any]) -> str:
        return f'open("{e["path"]}", {_O_MODE.get(e["fmode"], e["fmode"])}) {self._answer(e)}'

    def _path(self, e: dict[str, Any]) -> str:
        return f'{e["call"]}("{e["path"]}") {self._answer(e)}'

    def _refused(self, e: dict[str, Any]) -> str:
        args = ", ".join(hex(value) for value in e["args"])
        return f"syscall_{e['call']}({args}) {self._answer(e)}"

    def _ioctl(self, e: dict[str, Any]) -> str:
        args = e["args"]
        if args is None:
            shown = hex(e["arg"])
        else:
            shown = "{" + ", ".join(
                self._field(k, v, args) for k, v in args.items() if k != "secinfo_flags"
            )
            shown += "}"
        answer = self._answer(e)
        if e["answer"] > 0 and e["name"] == "SGX_IOC_ENCLAVE_INIT":
            answer += f" ({sdm.sgx_error_name(e['answer'])})"  # v20 returns EINIT's codes
        return f"ioctl({e['fd']}, {e['name']}, {shown}) {answer}"

    @staticmethod
    def _field(name: str, value: int, args: dict[str, int]) -> str:
        if name == "secinfo" and "secinfo_flags" in args:
            return f"secinfo={_secinfo(args['secinfo_flags'])}"
        if name in ("permissions", "prot", "segment"):
            return f"{name}={_prot(value)}"
        if name == "page_type":
            return f"page_type={sdm.PAGE_TYPE_NAMES.get(value, value)}"
        if name == "flags":
            return f"flags={_flags(value, {_MEASURE: 'MEASURE'}) if value else 0}"
        if name == "result":
            return f"result={sdm.sgx_error_name(value) if value else 0}"
        return f"{name}={value}" if name == "fd" else f"{name}={value:#x}"

    def _mm(self, e: dict[str, Any]) -> str:
        call, args = e["call"], e["args"]
        if call == "replace":
            refused = f" {self._answer(e)}" if e["answer"] < 0 else ""
            return f"foreign memory over {args[0]:#x}-{args[1]:#x}{refused}"
        how = _MM_ARGS.get(call, ())
        shown = [(how[i] if i < len(how) else hex)(v) for i, v in enumerate(args)]
        big = call in ("mmap", "mremap")
        return f"{call}({', '.join(shown)}) {self._answer(e, hex(e['answer']) if big else None)}"

    def _entered(self, e: dict[str, Any]) -> str:
        counts = ", ".join(f"tcs={tcs:#x} {n} times" for tcs, n in e["counts"])
        return f"EENTER {counts}"

    def _enclu(self, e: dict[str, Any]) -> str:
        leaf, error = e["leaf"], e["error"]
        name = enclu_name(leaf)
        if leaf in (sdm.EENTER, sdm.ERESUME):
            where = f" tcs={e['rbx']:#x}"
            then = f"{e['rip']:#x}" + (f", CSSA {e['rax']}" if leaf == sdm.EENTER else "")
        elif leaf == sdm.EEXIT:
            where, then = "", f"{e['rip']:#x}"
        elif leaf in (sdm.EACCEPT, sdm.EMODPE, sdm.EACCEPTCOPY):
            where, then = f" {e['rcx']:#x}", "0"
            if leaf != sdm.EMODPE and e["rax"]:
                then = sdm.sgx_error_name(e["rax"])
        else:
            where, then = "", "0"
        if error:
            vector = error & 0xFF
            return (
                f"{name}{where} -> {sdm.VECTOR_NAMES.get(vector, vector)}"
                if (error & FAULT)
                else f"{name}{where} -> {sdm.sgx_error_name(error)}"
            )
        return f"{name}{where} -> {then}"

    def _aex(self, e: dict[str, Any]) -> str:
        what = "interrupt" if e["vector"] < 0 else _vector(e["vector"], e["code"], e["addr"])
        return f"AEX {what}, rip {e['rip']:#x}"

    def _fault(self, e: dict[str, Any]) -> str:
        text = f"page fault: {fault_word(e['access'])} at {e['addr']:#x}"
        page = e["page"]
        if page is not None:
            text += f", page {page_text(page)}"
        if e["signal"]:
            by = e.get("decided")
            why = f" ({e['why']}{f': {self.design} ' + by['rule'] if by else ''})"
            return f"{text} -> {signal_name(e['signal'])} {e['code']:#x}{why}"
        return f"{text} -> tried again"

    def _notify(self, e: dict[str, Any]) -> str:
        return f"AEX notification to tcs={e['tcs']:#x}, CSSA {e['cssa']}"

    def _augment(self, e: dict[str, Any]) -> str:
        return f"EAUG at {e['addr']:#x}, page {page_text(e['page'] or {})}"

    def _exception(self, e: dict[str, Any]) -> str:
        what = _vector(e["vector"], e["code"], e["addr"])
        leaf = sdm.ENCLU_NAMES.get(e["leaf"], e["leaf"])
        to = f"vDSO, {leaf}" if e["to"] == "vdso" else signal_name(e["signal"])
        return f"{what} -> {to}"

    def _crash(self, e: dict[str, Any]) -> str:
        head, *rest = crash_lines(e)
        return "\n      ".join([head, *map(_visible, rest)])

    def _cpuid(self, e: dict[str, Any]) -> str | None:
        if e["leaf"] not in (7, SGX_LEAF):
            return None  # answered as the CPU would: the C library asks dozens of these
        regs = " ".join(f"{r}={e[r]:#010x}" for r in ("eax", "ebx", "ecx", "edx"))
        return f"CPUID {e['leaf']:#x}.{e['subleaf']:#x} -> {regs}"

    def _lsm(self, e: dict[str, Any]) -> str:
        setup = e["setup"]
        shown = [f"{k}={_visible(str(v))}" for k, v in setup.items() if v not in ("", {}, [])]
        return f"LSM {e['kind']} {', '.join(shown)}".rstrip()

    def _faults(self, e: dict[str, Any]) -> str:
        return f"faults on purpose, seed {e['seed']}: {', '.join(map(_visible, e['rules']))}"

    def _inject(self, e: dict[str, Any]) -> str:
        exact = f" ({_visible(e['exact'])})" if e["exact"] != e["rule"] else ""
        return f"*** injected: {_visible(e['rule'])}{exact} ***"

    def _effects(self, _e: dict[str, Any]) -> str:
        return "mappings follow"


def _told(event: dict[str, Any]) -> bool:
    """Whether registers are shown without being asked for: of what the enclave did itself."""
    return bool(event["vector"] >= 0 if event["event"] == "aex" else False)


def _registers(registers: dict[str, int]) -> list[str]:
    shown = [f"{name}={value:#x}" for name, value in registers.items()]
    return ["      " + " ".join(shown[n : n + 6]) for n in range(0, len(shown), 6)]
