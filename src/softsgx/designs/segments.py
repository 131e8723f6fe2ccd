"""Lutomirski's proposal of 23 May 2019, quoted in the seed: segment inodes.

Every page is promised to one segment, a group of pages with an upper bound on
permissions. A segment is an anonymous inode with a label of its own, so the LSM's
ordinary questions about an ordinary file do the work.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOENT, ENOMEM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS
from softsgx.designs.seed import LATER_ELRANGE, SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import RWX, Value, W, X, eq, has, implies, ite, no, subset
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE

__all__ = ["Segments"]


class Segments(SeedDesign):
    """``segments``. ``page.segment``: the mask that the page was promised to, 0 if none.

    ``vma.segment``: the mask of the segment that is mapped, 0 for the device itself.
    """

    name = "segments"
    declares = "segment"
    title = "Lutomirski's proposal: up to 7 segment inodes an enclave, each with a label"
    maps_whole = True
    page_schema = PAGE.extend(segment=3)
    vma_schema = VMA.extend(segment=3)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # The seed's reply: the size is known anyway.
        "mmap_before_ecreate": ("off", "on"),
        # S_PRIVATE, as plain anon inodes were in 2019.
        "inode": ("labelled", "private"),
        # Footnote [0] against the seed's answer to it.
        "readd": ("deny", "same-segment"),
        # Whether EADD looks at its source: the segment within the source's VM_MAY*; and X only
        # from memory that was executable.
        "source": ("any", "may", "vetted"),
        # Whether mapping pages of a segment with W and X always asks for WRITE and EXECUTE.
        "wx": ("by-prot", "write"),
        "elrange": ("open", "sealed"),
    }
    repairs: ClassVar[dict[str, str]] = {
        "source": "in the RFC of June 2019 enclave_load() asked the LSM about the source of EADD;"
        " of it the noexec check alone was merged",
        "wx": "the RFC of June 2019 had SGX_MAPWX for mappings that are W and X; it was not merged",
        "elrange": LATER_ELRANGE,
    }
    repaired: ClassVar[dict[str, str]] = {"source": "vetted", "wx": "write", "elrange": "sealed"}

    add_page = None  # type: ignore[assignment]

    # -- the fd of the device ----------------------------------------------------------

    def alignment(self, file: Any, length_bytes: int, fixed: int) -> int:
        """ELRANGE's, once ECREATE has told its size: "gives the correct alignment"."""
        power = length_bytes > 0 and length_bytes & length_bytes - 1 == 0
        by_length = length_bytes if power else 4096
        return 4096 if fixed or file.segment else max(4096, file.enclave.size or by_length)

    @rule('seed: "can\'t be mmapped at all until after ECREATE"')
    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """The device: after ECREATE, at a multiple of the enclave's size."""
        super().get_unmapped_area(k, at, r)
        if not at.file.segment:
            if self.chosen["mmap_before_ecreate"] == "off":
                k.need(EINVAL, at.enclave.created, "created")
            k.need(EINVAL, r.aligned, "aligned to the enclave's size")

    @rule('seed: "mmap() on the enclave_fd only works if you pass PROT_NONE"')
    def mmap_device(self, k: Context, at: Any, r: Any) -> None:
        """The big mapping that segments are put into: it can do nothing, for ever."""
        k.need(EACCES, eq(r.prot, 0), "PROT_NONE")
        at.vma.may = 0
        at.vma.segment = 0

    @rule('seed: "The resulting vma would only have VM_MAYWRITE if the segment is W …"')
    def mmap_segment(self, k: Context, at: Any, r: Any) -> None:
        """A mapping of a segment: all of its pages belong to it, VM_MAY* are its mask."""
        segment = at.file.segment
        k.need(EACCES, at.file.inside(r.start, r.end), "within ELRANGE")
        k.need(ENOMEM, at.page.present, "a page is everywhere in the range")
        k.need(EACCES, eq(at.page.segment, segment), "every page belongs to the segment")
        k.need(EACCES, subset(r.prot, segment), "prot within the segment")
        at.vma.may = segment
        at.vma.segment = segment

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Mmap of the device's fd, or of a segment's."""
        if at.file.segment:
            self.mmap_segment(k, at, r)
        else:
            self.mmap_device(k, at, r)

    @rule('seed: "The resulting VMA cannot be mprotected or mremapped"')
    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """Of a segment's mapping mprotect is the ordinary one, the LSM asked on its inode."""
        k.need(EACCES, no(eq(at.vma.segment, 0)), "not the device's own mapping")

    @rule('seed: "restrict mremap() to avoid mapping pages that aren\'t part of the segment"')
    def driver_mremap(self, k: Context, at: Any, r: Any) -> None:
        """The device's mapping stays; a segment's may only cover pages of the segment."""
        super().driver_mremap(k, at, r)
        k.need(EINVAL, no(eq(at.vma.segment, 0)), "not the device's own mapping")
        k.need(EINVAL, int(r.new_start is not None), "a place that is known")
        new = at.file.pages(r.new_start, r.new_end)
        k.need(EINVAL, eq(new.segment, at.vma.segment), "only pages of the same segment")

    @rule('seed: "MAP_FIXED-style, ranges from the big PROT_NONE mapping"')
    def map_segment(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_MAP_SEGMENT: the segment's mmap, in place of what of the enclave lies there."""
        k.need(ENOENT, r.segment_exists, "a page was added to the segment")
        k.need(ENOMEM, r.covered, "mappings of this enclave cover the range")
        self.ask_mmap(k, at, r)
        at.vma.prot = r.prot
        at.vma.shared = 1
        self.mmap_segment(k, at, r)
        k.unlocked(
            at,
            "the driver has looked at the pages, and nobody finds the VMA yet",
            held=("mmap_lock",),
            source="Linux mm/mmap.c mmap_region(): call_mmap(), then vma_link()",
        )

    @rule('seed: "a way to get an fd for an enclave segment"')
    def segment_fd(self, k: Context, at: Any, r: Any) -> None:
        """SGX_IOC_SEGMENT_FD: the mask is a segment that exists."""
        k.need(EINVAL, at.enclave.created, "created")
        k.need(ENOENT, r.segment_exists, "a page was added to the segment")

    def driver_access(self, at: Any) -> Value:
        """A VMA of a segment shows the pages of the segment, whatever was added meanwhile."""
        return at.page.present & eq(at.page.segment, at.vma.segment)

    @rule('seed: "an enclave segment is a group of pages"')
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault: SIGBUS where the page is not of the segment that is mapped."""
        k.need(SIGBUS, at.page.present, "a page is there")
        k.need(SIGBUS, eq(at.page.segment, at.vma.segment), "the page is of the segment")

    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """No EAUG by touching: the page would belong to no segment."""
        self.fault(k, at, r)

    # -- EADD --------------------------------------------------------------------------

    @rule('seed: "When you do EADD, you tell the driver what segment you\'re adding to"')
    def validate_segment(self, k: Context, at: Any, r: Any) -> None:
        """The segment is a non-empty mask that SECINFO stays within."""
        k.need(EINVAL, int(0 < r.segment <= RWX), "the segment is a mask of R, W, X")
        k.need(EINVAL, subset(r.perm, r.segment), "SECINFO within the segment")

    @rule('seed: "anon_inodes that are created automagically"')
    def make_segment(self, k: Context, at: Any, r: Any) -> None:
        """The first page of a segment: its inode is made, and labelled; ``at.file`` is it."""
        if self.chosen["inode"] == "labelled":
            k.ask("anon_inode_init", at, name=at.file.path)

    @rule('seed: "Each enclave page belongs to a segment"; footnote [0]', each=True)
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page into ``r.segment``; a second one as the option ``readd`` says."""
        super().add_region(k, at, r)

    def has_room(self, at: Any, r: Any) -> Value:
        """No page, or one of the same segment."""
        if self.chosen["readd"] == "same-segment":
            return implies(at.page.present, eq(at.page.segment, r.segment))
        return super().has_room(at, r)

    def make_room(self, at: Any, r: Any) -> None:
        """The other page of the same segment goes."""
        if self.chosen["readd"] == "same-segment":
            page = at.page
            page.present = ite(eq(page.segment, r.segment), 0, page.present)

    def vet_source(self, k: Context, at: Any, r: Any) -> None:
        """A repair: the segment promises no more than the source could do."""
        self.keep_to_source(k, at, r)

    @rule("a repair: a segment that asks the LSM about code has to know where it comes from")
    def keep_to_source(self, k: Context, at: Any, r: Any) -> None:
        """The segment within the source's VM_MAY*, and X from executable memory."""
        source, segment = at.source, r.segment
        if self.chose("source", "may", "vetted"):
            k.need(EACCES, subset(segment, source.may), "segment within the source's VM_MAY*")
        if self.chose("source", "vetted"):
            vetted = implies(has(segment, X), has(source.prot, X))
            k.need(EACCES, vetted, "code from executable memory")

    @rule('a repair, as the seed\'s point 6: "sets VM_WRITE iff …"')
    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """What is mapped; with ``wx=write`` all of a segment that has W and X, shared."""
        both: Value = 0
        if self.chose("wx", "write"):
            both = has(at.file.segment, W | X)
        k.ask(
            "mmap_file", at, when=no(both), reqprot=r.reqprot, prot=r.prot, map_type=r.map_type
        )  # fmt: skip
        self.ask_shared(k, at, RWX, when=both)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """The page is of the segment from now on."""
        at.page.segment = r.segment

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """A page made by EAUG is of the segment, too."""
        at.page.segment = r.segment

    @property
    def inode_private(self) -> int:
        """S_PRIVATE of the inodes that this design makes."""
        return int(self.chosen["inode"] == "private")
