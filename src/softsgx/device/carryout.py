"""Today's loaders under the designs that never shipped: their calls, carried out as the design's.

A loader of Linux 6.0 adds pages with ADD_PAGES, maps them MAP_SHARED | MAP_FIXED with real
permissions and changes those with mprotect. Here ADD_PAGES becomes the design's EADD,
its extra argument taken from SECINFO; an mmap or mprotect with permissions becomes the
mapping that the design has for the device, and then whatever gives permissions there.
Where the kernel has to be told of EMODPE, it is, once a mapping or an access takes it.
Each decision stays the design's rule: what it refuses is refused. Where SIGSTRUCT's file stands
for the enclave, such a loader gives it with INIT: permissions that are asked for before wait until
then, and if they are refused, INIT is.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import Any

from softsgx.device.files import EnclaveFile
from softsgx.device.ioctls import (
    IOCTLS,
    Ioctl,
    add_range,
    each_page,
    ecreate,
    einit,
    place,
    secinfo_request,
    take_sigstruct,
)
from softsgx.device.ioctls_designs import (
    declare,
    ioc_mprotect,
    map_segment,
    rows_of,
    segment_of_add,
)
from softsgx.device.ioctls_v20 import add_one
from softsgx.law.rule import At, Request, Stop
from softsgx.law.values import RW
from softsgx.mm.mmap import mmap
from softsgx.mm.mprotect import mprotect
from softsgx.model.effect import Effect
from softsgx.model.outcome import Outcome
from softsgx.sdm.leaves import PAGE_SIZE, PT_TCS
from softsgx.uapi import sgx as uapi
from softsgx.uapi.mman import MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MAP_TYPE

__all__ = ["CarryOut"]

_LINUX_PATHS = ("/dev/sgx_enclave", "/dev/sgx_provision")


def _renumbered(design: Any) -> dict[int, Ioctl]:
    """The ioctls of Linux that the design has by other numbers: the numbers are the loader's."""
    own = {row.rule: cmd for cmd, row in rows_of(design).items()}
    return {
        row.cmd: row
        for row in IOCTLS
        if getattr(design, row.rule, None) is not None
        and design.abi not in row.abis
        and own.get(row.rule, row.cmd) != row.cmd
    }


def _none_first(design: Any) -> bool:
    rules = ("map_segment", "ioc_mprotect")
    return design.proxy or any(getattr(design, name, None) is not None for name in rules)


class CarryOut:
    """How the calls of a loader for Linux are carried out under ``device.design``."""

    def __init__(self, device: Any) -> None:
        self.device, self.law = device, device.design
        # The device is mapped PROT_NONE, and permissions come later.
        self.none_first = _none_first(self.law)
        self.eager = self.none_first and not self.law.proxy  # nothing is added by touching
        # Linux's own mmap and mprotect suit the design.
        self.plain = not (self.law.maps_whole or self.none_first or self.law.absent_none)
        # The kernel is told what EMODPE has made of a page.
        self.relaxes = getattr(self.law, "relax_permissions", None) is not None

    @staticmethod
    def is_idle(design: Any) -> bool:
        """Whether a loader's calls for Linux are the design's own: nothing is to be carried out."""
        found = {*design.paths, *design.aliases} >= {*_LINUX_PATHS}
        adds = uapi.SGX_IOC_ENCLAVE_ADD_PAGES in rows_of(design)
        own = design.maps_whole or design.absent_none or _none_first(design) or _renumbered(design)
        return found and adds and not own

    @staticmethod
    def aliases(design: Any) -> dict[str, str]:
        """Linux's names of the device nodes, for a design that has others."""
        pairs = zip(_LINUX_PATHS, design.paths, strict=True)
        return dict(design.aliases) | {old: new for old, new in pairs if old != new}

    def rows(self) -> dict[int, Ioctl]:
        """The ioctls of Linux that the design itself does not have."""
        rows = [Ioctl(uapi.SGX_IOC_ENCLAVE_ADD_PAGES, "", self._add_pages)]
        if self.law.proxy:
            rows += [Ioctl(uapi.SGX_IOC_ENCLAVE_CREATE, "", self._create)]
        found = {row.cmd: row for row in rows if row.cmd not in self.device.ioctls}
        if self.law.proxy:
            found[uapi.SGX_IOC_ENCLAVE_INIT] = Ioctl(uapi.SGX_IOC_ENCLAVE_INIT, "", self._init)
        return _renumbered(self.law) | found

    # -- CREATE and INIT, where the design takes SIGSTRUCT ------------------------------

    def _create(self, device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
        self.law.may_create(device.run, place(process, file), None)
        layout = uapi.ENCLAVE_CREATE
        ecreate(device, process, file, layout.unpack(process.memory.read(arg, layout.size)).src)
        return 0

    def _init(self, device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
        """SIGSTRUCT is taken now, and permissions that waited for it are given."""
        law: Any = self.law
        law.may_build(device.run, place(process, file), None)
        layout = uapi.ENCLAVE_INIT
        params = layout.unpack(process.memory.read(arg, layout.size))
        addr = params.sigstruct
        if getattr(law, "create_sigstruct", None) is not None:
            take_sigstruct(device, process, file, addr)
            addr = 0
        einit(device, process, file, addr)
        mine = [w for w in file.waiting if w[0] is process.mm]
        file.waiting.clear()
        for mm, start, end, prot in mine:
            for vma in list(mm.overlapping(start, end)):
                if vma.file is file:
                    lo, hi = max(vma.start, start), min(vma.end, end)
                    done = self._give(process, file, lo, hi, prot)
                    device.on_mm(process, done.effects)
                    if done.errno:
                        raise Stop(done.errno, done.why)
        return 0

    # -- ADD_PAGES ---------------------------------------------------------------------

    def _add_pages(self, device: Any, process: Any, file: EnclaveFile, arg: int) -> int:
        law, at, memory = self.law, place(process, file), process.memory
        law.may_build(device.run, at, None)
        layout = uapi.ENCLAVE_ADD_PAGES
        params = layout.unpack(memory.read(arg, layout.size))
        if params.src % PAGE_SIZE:
            raise Stop(EINVAL, "src is page aligned")
        if law.abi == "v20":
            done, stop = self._add_one_by_one(process, file, params)
        else:
            law.validate_range(device.run, at, params)
            r = secinfo_request(process, params.secinfo)
            law.validate_secinfo(device.run, at, r)
            perm = RW if r.pt == PT_TCS else r.perm
            measure = bool(params.flags & uapi.SGX_PAGE_MEASURE)
            r.__dict__.update(measure=int(measure), source_given=1)
            declare(law, r, perm & law.declarable if law.declares else 0)
            segment = segment_of_add(device, process, file, r)
            done, stop = add_range(
                device, process, file, params, r, law.add_region, measure=measure
            )
            if segment is not None and done:
                file.segments.setdefault(r.segment, segment)
        params.count = done
        memory.write(arg, layout.pack_record(params))
        if stop is not None:
            raise stop
        return 0

    def _add_one_by_one(
        self, process: Any, file: EnclaveFile, params: Any
    ) -> tuple[int, Stop | None]:
        mask = 0xFFFF if params.flags & uapi.SGX_PAGE_MEASURE else 0
        addr = file.enclave.base + params.offset
        for done in range(0, params.length, PAGE_SIZE):
            try:
                add_one(
                    self.device, process, file, addr + done, params.src + done,
                    params.secinfo, mask,
                )  # fmt: skip
            except Stop as stop:
                return done, stop
        return params.length, None

    # -- mappings ----------------------------------------------------------------------

    def mmap(
        self,
        process: Any,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: Any,
        offset: int,
        placed_at: int | None,
    ) -> Outcome:
        """An mmap of the device: the design's own mapping of it, then the permissions."""
        e = file.enclave
        start, end = addr, addr + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
        self._relax(process, file.base_file, start, end, prot)
        ordinary = (
            self.plain
            or file.segment
            or not length
            or addr & PAGE_SIZE - 1
            or not flags & MAP_FIXED
            or flags & MAP_TYPE == MAP_PRIVATE
            or not e.created
            or not file.inside(start, end)
        )
        whole = self.law.maps_whole
        if self.law.absent_none and not ordinary and not self.none_first:
            return self._give(process, file, start, end, prot, anew=True)
        if ordinary or (not whole and not prot):
            # A loader that tries the device before CREATE gets a mapping all the same.
            early = self.law.absent_none and not e.created
            asked = 0 if (self.none_first or early) and not file.segment else prot
            if placed_at is not None and getattr(self.law, "ioc_mprotect", None) is not None:
                # "skips alignment stuff if MAP_FIXED": a loader that tries the device with one
                # page gets it where Linux would have put it.
                addr, flags, placed_at = placed_at, flags | MAP_FIXED, None
            return mmap(process.mm, addr, length, asked, flags, file, offset, placed_at)
        effects: list[Effect] = []
        if not whole:
            base = mmap(process.mm, addr, length, 0, flags, file, offset, placed_at)
        elif any(v.file.base_file is file for v in process.mm.overlapping(e.base, e.end)):
            base = Outcome(addr)
        else:
            fixed = MAP_SHARED | MAP_FIXED
            base = mmap(process.mm, e.base, e.size, 0, fixed, file, 0, None)
        effects += base.effects
        if base.errno:
            return Outcome(errno=base.errno, effects=effects, why=base.why)
        given = self._give(process, file, start, end, prot)
        effects += given.effects
        return Outcome(addr, given.errno, effects, given.why)

    def mprotect(self, process: Any, start: int, length: int, prot: int) -> Outcome:
        """An mprotect, VMA by VMA: of the device's mapping as the design gives permissions."""
        mm = process.mm
        end = start + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
        for vma in mm.overlapping(start, end) if self.relaxes else ():
            if isinstance(vma.file, EnclaveFile):
                self._relax(process, vma.file, max(start, vma.start), min(end, vma.end), prot)
        if self.plain:
            return mprotect(mm, start, length, prot)
        effects: list[Effect] = []
        here = start
        while here < end:
            vma = mm.find(here)
            if vma is None:
                return Outcome(errno=ENOMEM, effects=effects, why="no hole in the range")
            stop_at = min(vma.end, end)
            if isinstance(vma.file, EnclaveFile) and not vma.file.segment:
                done = self._give(process, vma.file, here, stop_at, prot)
            else:
                done = mprotect(mm, here, stop_at - here, prot)
            effects += done.effects
            if done.errno:
                return Outcome(errno=done.errno, effects=effects, why=done.why)
            here = stop_at
        return Outcome(effects=effects)

    def _give(
        self, process: Any, file: EnclaveFile, start: int, end: int, prot: int, *,
        anew: bool = False,
    ) -> Outcome:  # fmt: skip
        """Permissions for a range of the device's mapping, in the design's way.

        anew: by a mapping in place of what is there.
        """
        law = self.law
        if law.proxy and not file.enclave.initialized:
            file.waiting.append((process.mm, start, end, prot))
            return Outcome()
        segmented = getattr(law, "map_segment", None) is not None
        if segmented and not prot:
            return Outcome()  # the device's mapping has none
        if prot and (self.eager or (law.absent_none and law.sgx2)):
            try:
                self._augment(process, file, start, end, prot)
            except Stop as stop:
                return Outcome(errno=stop.errno, why=stop.why)
        if prot and getattr(law, "ioc_mprotect", None) is not None:
            return ioc_mprotect(self.device, process, file, start, end, prot)
        if law.maps_anew or anew:
            fixed = MAP_SHARED | MAP_FIXED
            return mmap(process.mm, start, end - start, prot, fixed, file, 0, None)
        if not segmented:
            return mprotect(process.mm, start, end - start, prot)
        e, schema = file.enclave, file.enclave.page_schema
        effects: list[Effect] = []
        for a, b, segment in _segments(e, schema, start - e.base >> 12, end - e.base >> 12):
            lo, hi = e.base + (a << 12), e.base + (b << 12)
            try:
                if not segment:
                    raise Stop(ENOMEM, "a page is everywhere in the range")
                effects += map_segment(self.device, process, file, lo, hi, segment, prot)
            except Stop as stop:
                return Outcome(errno=stop.errno, effects=effects, why=stop.why)
        return Outcome(effects=effects)

    def relax(self, process: Any, file: EnclaveFile, addr: int, need: int) -> bool:
        """Tell the kernel of one page, for an access that the EPCM allows; whether it is so now."""
        e = file.enclave
        word = e.pages[addr - e.base >> 12]
        page = e.page_schema.cell(word)
        if not self.relaxes or self.law.epcm_access(At(page=page)) & need != need:
            return False
        self._relax(process, file, addr & -PAGE_SIZE, (addr & -PAGE_SIZE) + PAGE_SIZE, need)
        return bool(e.pages[addr - e.base >> 12] != word)

    def _relax(self, process: Any, file: EnclaveFile, start: int, end: int, prot: int) -> None:
        """What a loader of Linux 6.0 takes for granted: pages are as EMODPE has made them.

        A page that the design does not let have ``prot`` keeps what it has.
        """
        e = file.enclave
        if not self.relaxes or not e.initialized:
            return
        schema = e.page_schema
        first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
        for a, b, word in list(e.pages.runs(first, last)) if first < last else ():
            run = schema.get(word, "run")
            if not schema.get(word, "present") or not prot & ~run:
                continue
            params = Request(offset=a << 12, length=b - a << 12)
            r = Request(perm=run | prot)
            each_page(self.device, process, file, params, self.law.relax_permissions, r)

    def _augment(self, process: Any, file: EnclaveFile, start: int, end: int, prot: int) -> None:
        """Pages that Linux would add when they are touched: now, as the design adds them."""
        e, schema = file.enclave, file.enclave.page_schema
        if not e.initialized:
            return
        r = Request(perm=prot, measure=0, source_given=0)
        declare(self.law, r, prot & self.law.declarable if self.law.declares else 0)
        first, last = max(start, e.base) - e.base >> 12, min(end, e.end) - e.base >> 12
        for a, b, word in list(e.pages.runs(first, last)):
            if not schema.get(word, "present"):
                segment = segment_of_add(self.device, process, file, r)
                params = Request(offset=a << 12, length=b - a << 12)
                each_page(self.device, process, file, params, self.law.augment, r)
                if segment is not None:
                    file.segments.setdefault(prot, segment)


def _segments(enclave: Any, schema: Any, first: int, last: int) -> list[tuple[int, int, int]]:
    """The runs of pages of one segment in [first, last): (first, last, mask)."""
    found: list[tuple[int, int, int]] = []
    for a, b, word in enclave.pages.runs(first, last):
        segment = schema.get(word, "segment")
        if found and found[-1][2] == segment:
            found[-1] = (found[-1][0], b, segment)
        else:
            found.append((a, b, segment))
    return found
