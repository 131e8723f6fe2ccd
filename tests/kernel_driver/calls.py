"""Sequences of calls as bytes: eight bytes are a call, whatever they are.

So any source of bytes walks: hypothesis, which shrinks towards few calls with zeros, and a
generator of random numbers. What a byte means depends on the state, so that most sequences get
far: before ECREATE mostly ECREATE is tried, before EINIT pages are added, and after it everything
else; wrong arguments are the rarer bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from softsgx.device import eadd
from softsgx.sdm.structs import SECINFO, SECS, SIGSTRUCT
from softsgx.uapi import sgx as uapi
from tests.kernel_driver.memory import PAGE
from tests.kernel_driver.sides import Judge
from tests.kernel_driver.userland import ARGUMENT, EDGE, READ_ONLY, RECORD, SOURCES, USER

__all__ = ["CALL_BYTES", "Walker"]

CALL_BYTES = 8
_BASES = (0x7000_0000_0000, 0x7000_0010_0000, 0x7000_0000_0000)
_U64 = 1 << 64
_SHARED, _PRIVATE, _FIXED, _ANONYMOUS, _NOREPLACE = 1, 2, 0x10, 0x20, 0x100000


# ADD_PAGES: most SECINFOs are right.
_FLAGS = (0x203, 0x201, 0x205, 0x207, 0x203, 0x100, 0x200, 0x204)
_ODD_FLAGS = (0x202, 0x206, 0x101, 0x300, 0x400, 0x000, 0x208, 0x10203, 1 << 63 | 0x201, 0x503)
_ODD_OFFSETS = (1, 0x800, _U64 - PAGE, _U64 - 2 * PAGE, 1 << 63, 1 << 46)
_ODD_LENGTHS = (0, 1, 0xFFF, PAGE + 1, _U64 - PAGE, 1 << 63, _U64 - 3 * PAGE)
_ODD_SOURCES = (
    USER + 12 * PAGE, USER + 13 * PAGE, USER + 14 * PAGE, USER + 15 * PAGE, USER + 16 * PAGE,
    USER + 17 * PAGE, 0, 0x7000_0000_0000, 0x7FFF_FFFF_F000, _U64 - PAGE, SOURCES + 8,
)  # fmt: skip
_ODD_ADDRESSES = (
    READ_ONLY, USER + 13 * PAGE, USER + 17 * PAGE - 8, EDGE - 12, USER + 17 * PAGE, 0,
    _U64 - 64, 1 << 63,
)  # fmt: skip
_EINIT = (1, 2, 4, 8, 16, 32, 64, 512)
_EMPTY_SECS = SECS.pack()
_SECS_HEAD, _SECS_ATTRIBUTES = struct.Struct("<QQII"), struct.Struct("<QQ")
_SECINFOS = {flags: SECINFO.pack(flags=flags) for flags in (*_FLAGS, *_ODD_FLAGS)}
_signed: dict[tuple[tuple[str, int], ...], bytes] = {}
_ADD, _RESTRICT = uapi.ENCLAVE_ADD_PAGES, uapi.ENCLAVE_RESTRICT_PERMISSIONS
_MODIFY, _REMOVE = uapi.ENCLAVE_MODIFY_TYPES, uapi.ENCLAVE_REMOVE_PAGES


class Walker:
    """Makes the calls that bytes stand for, on both sides of a `Judge`."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.user = judge.user
        self.trace: list[str] | None = None
        """If it is a list: the calls that were made, for people."""

    def walk(self, data: bytes) -> None:
        """A machine from its boot to its end, with these calls. Raises Difference."""
        judge = self.judge
        judge.begin()
        self._open(0, 0, 0, 0, 0, 0)
        with judge.answering():
            for i in range(0, len(data) - CALL_BYTES + 1, CALL_BYTES):
                self.call(data[i : i + CALL_BYTES])
            judge.failing(0)
        judge.end()

    def call(self, data: bytes) -> None:
        """One call."""
        judge = self.judge
        kind, who, a, b, c, d, e, f = data
        if not judge.processes:
            return
        self.who = who
        self.process = judge.processes[who % len(judge.processes)]
        files = judge.files
        if not files:
            self._open(a, b, c, d, e, f)
            return
        # The newest file mostly, so that an enclave gets far.
        self.file = file = files[-1 if who < 200 else who % len(files)]
        enclave = file.enclave
        table = _INIT if enclave.initialized else _BUILD if enclave.created else _CREATE
        todo = table[kind]
        self.n = enclave.pages.n_pages or 4
        self.base = enclave.base or _BASES[file.number % 3]
        # A record that cannot be written back would hide why the call ended.
        judge.failing(f - 231 if f >= 232 and who < 236 else 0)
        todo(self, a, b, c, d, e, f)
        judge.failing(0)

    def _told(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(text)

    def _put(self, raw: bytes | bytearray, odd: int) -> int:
        """A record in user memory; where ``odd`` is high, somewhere that it cannot be read."""
        if odd >= 248:
            return _ODD_ADDRESSES[odd & 7]
        start = RECORD - USER
        self.user.view[start : start + len(raw)] = raw
        return RECORD

    def _ioctl(self, cmd: int, raw: bytes, kind: str, **facts: Any) -> int:
        who, arg = self.who, ARGUMENT
        if who >= 236:  # an argument that cannot be read, or not be written back
            arg = _ODD_ADDRESSES[who & 7] if who >= 248 else READ_ONLY
        if self.trace is not None:
            self._told(f"{kind} arg={arg:#x} {raw.hex()} {facts}")
        return self.judge.ioctl(self.process, self.file, cmd, arg, raw, kind, **facts)

    # -- the calls: six bytes each ------------------------------------------------------------

    def _open(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        if len(self.judge.files) < 3:
            self._told("open")
            self.judge.open()

    def _close(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        if a < 64:
            self._told("close")
            self.judge.close(self.file)

    def _create(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        size = PAGE << 1 + (a & 3)
        base = _BASES[self.file.number % 3]
        attributes, xfrm, misc, frames = 4 | (b & 1) << 1, 3, 0, 1
        extra: dict[str, bytes] = {}
        if c >= 192:
            odd = c & 7
            if odd == 0:
                size = (0, PAGE, 3 * PAGE, 1 << 46, 1 << 47, 1 << 62, 1 << 63, _U64 - PAGE)[d & 7]
                size = size if size <= 16 * PAGE or size > 1 << 46 else 3 * PAGE
            elif odd == 1:
                base += (PAGE, 1, 0x7FFF_FFFF_F000, 1 << 63, _U64 - base, 0, 1 << 40, 8)[d & 7]
                base %= _U64
            elif odd == 2:
                attributes ^= 1 << d % 64
            elif odd == 3:
                xfrm ^= 1 << d % 64
            elif odd == 4:
                misc = 1 << d % 32
            elif odd == 5:
                frames = d % 3
            elif odd == 6:
                extra = {"configid": bytes([d]) * 64} if d & 1 else {"configsvn": bytes([d])}
            else:
                attributes |= 0x80 | (d & 1) << 4
        # Packed anew the record would cost as much as the call.
        raw = bytearray(_EMPTY_SECS)
        _SECS_HEAD.pack_into(raw, 0, size, base, frames, misc)
        _SECS_ATTRIBUTES.pack_into(raw, SECS.offset("attributes"), attributes, xfrm)
        for name, value in extra.items():
            at = SECS.offset(name)
            raw[at : at + len(value)] = value
        if 180 <= c < 184:
            at = 262 + d * 15
            raw[at] = 1
        src = self._put(raw, e)
        self._ioctl(
            uapi.SGX_IOC_ENCLAVE_CREATE, uapi.ENCLAVE_CREATE.pack(src=src), "CREATE",
            size=size if src == RECORD else 0,
        )  # fmt: skip

    def _add(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        n = self.n
        offset, length = a % (n + 1) * PAGE, (1 + (b & 3) % 3) * PAGE
        flags = _FLAGS[c & 7]
        src = SOURCES + (d & 7) * PAGE
        if flags == 0x100:
            src, length = SOURCES + (2 + (d & 7) % 6) * PAGE, PAGE
        if a < 32:
            offset = self._free()
        odd = e & 7 if e >= 208 else 8
        if odd == 0:
            offset = _ODD_OFFSETS[d % 6]
        elif odd == 1:
            length = _ODD_LENGTHS[d % 7]
        elif odd == 2:
            src = _ODD_SOURCES[d % 11]
        elif odd == 3:
            flags = _ODD_FLAGS[d % 10]
        elif odd == 4:
            offset, length = _U64 - (d & 3) * PAGE, (1 + (d >> 2 & 3)) * PAGE
            offset %= _U64
        secinfo = _SECINFOS.get(flags) or SECINFO.pack(flags=flags)
        if odd == 5:
            secinfo = secinfo[: 8 + d % 56] + b"\1" + secinfo[9 + d % 56 :]
        r = {
            "src": src, "offset": offset, "length": length,
            "secinfo": self._put(secinfo, 248 | d & 7 if odd == 6 else 0),
            "flags": b >> 6 | (b >> 2 & 1) << 40,
        }  # fmt: skip
        raw = _ADD.struct.pack(src, offset, length, r["secinfo"], r["flags"], 0)

        def again(after: bytes) -> bytes | None:
            count = _ADD.unpack(after).count
            return _ADD.pack(**(r | {"length": count})) if count else None

        process = self.process
        if b & 0x38 == 0x38:
            # A signal comes while the pages are added.
            self.who = 0
            state = self.judge.kernel.state
            state.signal_at, state.signal_asked = 1 + (d & 3), 0
            pages = iter(range(d & 3))  # softsgx does not ask before the first
            process.signal_pending = lambda: next(pages, 0) == (d & 3) - 1
            was, eadd.PIECE_BYTES = eadd.PIECE_BYTES, PAGE
            try:
                self._ioctl(
                    uapi.SGX_IOC_ENCLAVE_ADD_PAGES, raw, "ADD_PAGES", again=again,
                    offset=offset, length=length,
                )  # fmt: skip
            finally:
                eadd.PIECE_BYTES = was
                state.signal_at = 0
                del process.signal_pending
            return
        self._ioctl(
            uapi.SGX_IOC_ENCLAVE_ADD_PAGES, raw, "ADD_PAGES", again=again,
            offset=offset, length=length,
        )  # fmt: skip

    def _free(self) -> int:
        """The first page that is not there yet."""
        e = self.file.enclave
        for i in range(e.pages.n_pages):
            if not e.pages[i] & 1:
                return i * PAGE
        return 0

    def _init(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        attributes = self.file.enclave.secs.attributes if self.file.enclave.secs else 4
        fields: dict[str, int] = {"attributes": attributes, "attributemask": _U64 - 1, "xfrm": 3}
        einit, cpu = 0, self.judge.library.cpu
        cpu.einit_times = cpu.einit_then = 0
        if a >= 128:
            odd = a & 7
            if odd == 0:
                fields["vendor"] = (0x8086, 1, 0x18086, 1 << 31)[b & 3]
            elif odd == 1:
                fields["attributes"] ^= 1 << b % 64
            elif odd == 2:
                fields["miscselect"], fields["miscmask"] = 1 << b % 32, (1 << 32) - 1
            elif odd == 3:
                fields["xfrm"], fields["xfrmmask"] = (
                    3 | 1 << b % 64,
                    _U64 - 1 - (c & 1) * (1 << b % 64),
                )
            elif odd == 4:
                fields["attributes"], fields["attributemask"] = _U64 - 1, 1 << b % 64
            elif odd == 5:
                einit = cpu.einit_then = _EINIT[b & 7]
            elif odd == 6:
                # An interrupt while EINIT runs: it is tried again, a thousand times at most.
                cpu.einit_code, cpu.einit_times = 128, (1, 20, 21, 999)[b & 3]
        key = tuple(sorted(fields.items()))
        signed = _signed.get(key)
        if signed is None:
            signed = SIGSTRUCT.pack(**fields)
            if len(_signed) < 256:
                _signed[key] = signed
        src = self._put(signed, c)
        raw = uapi.ENCLAVE_INIT.pack(sigstruct=src)
        self._ioctl(uapi.SGX_IOC_ENCLAVE_INIT, raw, "INIT", einit=einit)
        cpu.einit_times = cpu.einit_then = 0

    def _provision(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        from softsgx.device.files import ProvisionFile

        fd = (7, 8, 1 << 32 | 7, _U64 - 1)[a & 3]
        self.process.files = {7: ProvisionFile("/dev/sgx_provision")} if b & 1 else {8: None}
        self.judge.kernel.state.provision_fd = 7 if b & 1 else 1 << 40
        raw = uapi.ENCLAVE_PROVISION.pack(fd=fd)
        self._ioctl(uapi.SGX_IOC_ENCLAVE_PROVISION, raw, "PROVISION")
        self.process.files = {}

    def _range(self, a: int, b: int, e: int) -> dict[str, int]:
        offset, length = a % self.n * PAGE, (1 + (b & 7) % 3) * PAGE
        if e >= 224:
            offset = _ODD_OFFSETS[a % 6] if e & 1 else offset
            length = _ODD_LENGTHS[b % 7] if e & 2 else length
        return {"offset": offset, "length": length}

    def _restrict(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        r = self._range(a, b, e)
        permissions = (1, 3, 5, 7, 0, 4, 2, 6)[c & 7] | (1 << d % 64 if c >= 240 else 0)
        odd = {"result": c & 1, "count": c & 2} if e >= 216 and d & 1 else {}
        raw = _RESTRICT.pack(permissions=permissions, **r, **odd)
        self._ioctl(uapi.SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, raw, "RESTRICT_PERMISSIONS", **r)

    def _modify(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        r = self._range(a, b, e)
        page_type = (4, 4, 4, 1, 1, 1, 2, 0)[c & 7] if c < 240 else 1 << d % 64
        odd = {"result": c & 1, "count": c & 2} if e >= 216 and d & 1 else {}
        raw = _MODIFY.pack(page_type=page_type, **r, **odd)
        self._ioctl(uapi.SGX_IOC_ENCLAVE_MODIFY_TYPES, raw, "MODIFY_TYPES", **r)

    def _remove(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        r = self._range(a, b, e)
        raw = _REMOVE.pack(count=int(c >= 250), **r)
        self._ioctl(uapi.SGX_IOC_ENCLAVE_REMOVE_PAGES, raw, "REMOVE_PAGES", **r)

    def _unknown(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        cmd = (0xA404, 0xA408, uapi.SGX_IOC_ENCLAVE_CREATE ^ 1 << a % 32, 0x5401)[b & 3]
        if cmd in self.judge.device.ioctls:
            return
        self._ioctl(cmd, b"\0" * 8, "unknown ioctl")

    def _busy(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        self.judge.failing(0)
        cmds = sorted(self.judge.device.ioctls)
        self._told("ioctl under another")
        self.judge.busy(self.process, self.file, cmds[a % len(cmds)], ARGUMENT)

    def _place(self, a: int, b: int) -> tuple[int, int]:
        """A range around ELRANGE: most in it, some a page beyond."""
        n = self.n
        first = a % n if a < 240 else a % (n + 2) - 1
        pages = 1 + b % (n if b >= 240 else max(n - first, 1))
        return self.base + first * PAGE, pages * PAGE

    def _mmap(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, length = self._place(a, b)
        prot = (3, 1, 5, 7, 0, 3, 4, 2)[c & 7]
        flags, file, offset = _SHARED | _FIXED, self.file, 0
        if d >= 224:
            odd = d & 7
            if odd == 0:
                flags = _PRIVATE | _FIXED
            elif odd == 1:
                flags = _SHARED  # a hint
            elif odd == 2:
                flags = _SHARED | _NOREPLACE
            elif odd == 3:
                flags, file = _PRIVATE | _FIXED | _ANONYMOUS, None
            elif odd == 4:
                offset = PAGE * e
            elif odd == 5:
                flags = 3 | _FIXED
            else:
                length = (0, 1, PAGE + 1, 1 << 47)[e & 3]
        self._told(f"mmap {addr:#x} {length:#x} {prot} {flags:#x}")
        self.judge.mmap(self.process, addr, length, prot, flags, file, offset)

    def _mprotect(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, length = self._place(a, b)
        self._told(f"mprotect {addr:#x} {length:#x} {c & 7}")
        self.judge.mprotect(self.process, addr, length, c & 7)

    def _munmap(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, length = self._place(a, b)
        self._told(f"munmap {addr:#x} {length:#x}")
        self.judge.munmap(self.process, addr, length)

    def _mremap(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, old = self._place(a, b)
        to, new = self._place(d, e)
        flags = (3, 1, 3, 0, 5, 7, 3, 1)[c & 7]
        new = old if c < 128 else new
        old = 0 if c >= 250 else old
        self._told(f"mremap {addr:#x} {old:#x} {new:#x} {flags} {to:#x}")
        self.judge.mremap(self.process, addr, old, new, flags, to)

    def _fork(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        if len(self.judge.processes) < 3:
            self._told("fork")
            self.judge.fork(self.process)

    def _exit(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        if len(self.judge.processes) > 1:
            self._told("exit")
            self.judge.exit(self.process)

    def _personality(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        self.process.read_implies_exec = int(a >= 192)
        self._told(f"READ_IMPLIES_EXEC {a >= 192}")

    def _access(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, _ = self._place(a, 0)
        self._told(f"access {addr + c:#x} {b % 3}")
        self.judge.access(self.process, addr + c, b % 3)

    def _debug(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        addr, _ = self._place(a, 0)
        addr += (0, 8, 16, 4088, 4090, c, 9, 4095)[b & 7]
        length = 1 + d % 24
        data = bytes([e]) * length if b & 8 else None
        self._told(f"ptrace {addr:#x} {length} {data!r}")
        self.judge.debug(self.process, addr, length, data)

    def _enclu(self, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        page, source = a % self.n, d % self.n
        enclave = self.file.enclave
        get, word = enclave.page_schema.get, enclave.pages[page]
        if b < 176:
            # What the page waits for.
            flags = (
                get(word, "perm") | get(word, "pending") << 3 | get(word, "modified") << 4
                | get(word, "pr") << 5 | get(word, "pt") << 8
            )  # fmt: skip
        else:
            flags = c & 0x3F | (1, 2, 4, d & 7)[d >> 3 & 3] << 8
        leaf = (5, 5, 6, 7)[e & 3]
        if leaf == 6:
            flags = flags & ~7 | c & 7
        self._told(f"enclu {leaf} page {page} {flags:#x} from {source}")
        self.judge.enclu(self.file, leaf, page, source, flags)


_Todo = Callable[[Walker, int, int, int, int, int, int], None]


def _table(*rows: tuple[int, _Todo]) -> list[_Todo]:
    """A table of 256 entries: each call as often as its number says, the first one the rest."""
    table = [todo for n, todo in rows[1:] for _ in range(n)]
    return [rows[0][1]] * (256 - len(table)) + table


_MEMORY: tuple[tuple[int, _Todo], ...] = (
    (20, Walker._mmap), (6, Walker._mprotect), (2, Walker._munmap), (4, Walker._mremap),
    (5, Walker._fork), (3, Walker._exit), (3, Walker._personality), (8, Walker._access),
    (3, Walker._debug), (2, Walker._unknown), (2, Walker._busy), (2, Walker._close),
)  # fmt: skip
_SGX2: tuple[tuple[int, _Todo], ...] = (
    (16, Walker._restrict), (28, Walker._modify), (16, Walker._remove),
)  # fmt: skip
_CREATE = _table((0, Walker._create), (6, Walker._add), (4, Walker._init), (4, Walker._provision),
                 (4, Walker._restrict), *_MEMORY)  # fmt: skip
_BUILD = _table((0, Walker._add), (40, Walker._init), (6, Walker._provision), (3, Walker._create),
                (4, Walker._modify), *_MEMORY)  # fmt: skip
_INIT = _table((0, Walker._access), (44, Walker._enclu), *_SGX2, (3, Walker._add),
               (3, Walker._init), (3, Walker._create), (3, Walker._provision), (6, Walker._open),
               (14, Walker._mprotect), (16, Walker._mmap), *_MEMORY)  # fmt: skip
