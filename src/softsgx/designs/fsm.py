"""Lutomirski's two models of 12 June 2019: the driver keeps what enclave_load and _init say.

The LSM is asked twice, when a page is added and when the enclave is initialized, and by no hook of
SGX's when pages are mapped: there a state of each page decides (#2 of the mail, the default) or
what the loader declared of it (#1), with what the LSM said. The mail calls what is asked (a) to
(d), and says which of SELinux's permissions they could be (`softsgx.lsm.selinux`).
"""

from __future__ import annotations

from errno import EACCES, EFAULT, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Ways
from softsgx.designs.seed import LATER_ELRANGE, LATER_OPEN, LATER_SOURCE_MAY, SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, RWX, Value, W, X, any_, eq, has, implies, ite, minus, no, subset
from softsgx.mm.rules import VMA
from softsgx.sgx.epcm import PAGE

__all__ = ["Fsm"]

_MAIL = "Lutomirski, 12 June 2019, "
_1, _2 = _MAIL + "#1: ", _MAIL + "#2: "
NOEXEC, MAYEXEC, EXEC, DIRTY = range(4)


class Fsm(SeedDesign):
    """``fsm``. ``page.state``: of model #2; ``page.max``: the ALLOW_ flags of model #1.

    ``enclave.dirty_x`` and ``enclave.wx``: what enclave_init did not deny, by DENY_X_DIRTY (#1:
    DENY_X_IF_ALLOW_WRITE) and by DENY_WX; ``enclave.unmeasured``: HAS_UNMEASURED_CLEAN_EXEC_PAGE.
    For repairs: ``page.source_may``, the source's VM_MAY*; ``vma.dirty_x``: (c) was asked for it.
    """

    name = "fsm"
    title = "Lutomirski's models of June 2019: the LSM speaks at EADD and EINIT, the driver tracks"
    vets_sigstruct = True
    authority: ClassVar[Ways] = ((("sigstruct", "execmod"),), (("process", "execmem"),))
    field_words: ClassVar[dict[str, tuple[str, ...]]] = {
        "state": ("CLEAN_NOEXEC", "CLEAN_MAYEXEC", "CLEAN_EXEC", "DIRTY")
    }
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # The mail's #2, or its #1.
        "model": ("states", "flags"),
        # Where no page is yet: PROT_NONE alone ("you can't mmap() the page until you have
        # explicitly EAUG-ed it", 16 June), or anything, of which the mail says nothing.
        "absent": ("none", "any"),
        # "Optionally, we can enforce noexec here."
        "noexec": ("ignored", "enforced"),
        # "we could have a flag like HAS_UNMEASURED_CLEAN_EXEC_PAGE that the LSM could consider"
        "unmeasured": ("ignored", "told"),
        # Whom (c) is asked of: who initializes the enclave; who maps dirty pages executable, too;
        # and of that one WRITE with it.
        "dirty": ("einit", "mapping", "with-write"),
        # What a fault checks again: nothing, or what mmap() looks at.
        "fault": ("present", "state"),
        "source_may": ("ignored", "kept"),
        # Whether the driver's VMAs have VM_MAYWRITE and VM_SHARED whatever the mode of the fd, and
        # W is no question: the state tells what was written.
        "open": ("rdwr", "rdonly"),
        "elrange": ("open", "sealed"),
    }
    models = ("model", "unmeasured")
    repairs: ClassVar[dict[str, str]] = {
        "dirty": "not done; the RFC of 19 June 2019 asked SGX_EXECDIRTY of who adds the page",
        "fault": "the fault looks again since 5.11, at the page's maximum",
        "source_may": LATER_SOURCE_MAY,
        "open": LATER_OPEN,
        "elrange": LATER_ELRANGE,
    }
    repaired: ClassVar[dict[str, str]] = {
        "dirty": "with-write", "fault": "state", "source_may": "kept", "open": "rdonly",
        "elrange": "sealed",
    }  # fmt: skip

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.states = self.chose("model", "states")
        self.absent_none = self.chose("absent", "none")
        self.sgx_permissions = self.chose("unmeasured", "told")
        self.enclave_fields = {"dirty_x": 1, "wx": 1}  # type: ignore[misc]
        if self.sgx_permissions:
            self.enclave_fields["unmeasured"] = 1
        fields = {"state": 2} if self.states else {}
        if self.chose("source_may", "kept"):
            fields["source_may"] = 3
        self.page_schema = PAGE.extend(**fields)
        self.vma_schema = VMA if self.chose("dirty", "einit") else VMA.extend(dirty_x=1)
        # "EADD takes flags" in #1: the ioctl that does is ADD_REGION.
        self.declares = "" if self.states else "prot"
        other = ("vet_flags", "by_flags") if self.states else ("add_page", "vet_state", "by_state")
        self.__dict__.update(dict.fromkeys(other))

    def page_bound(self, page: Any) -> Value:
        """The page's own maximum, for the checker."""
        return ite(eq(page.state, NOEXEC), RW, RWX) if self.states else page.max

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return eq(page.state, DIRTY) if self.states else has(page.max, W | X)

    # -- EADD ----------------------------------------------------------------------------

    @rule(_2 + '"EADD does not take any special flags"; Linux SGX_IOC_ENCLAVE_ADD_PAGES', each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    @rule(
        _MAIL + '"It calls a new hook: int security_enclave_load(struct vm_area_struct *source"',
        each=True,
    )
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page, of whose source the LSM is asked first."""
        k.need(EFAULT, at.source.found, "a VMA at src or above it")
        code = self.vet_state(k, at, r) if self.states else self.vet_flags(k, at, r)
        self.load_from(k, at, r, code=code)
        code = at.source.code
        if self.states:
            at.page.state = ite(code, MAYEXEC, NOEXEC)
        else:
            at.page.max = r.prot
        if self.sgx_permissions:
            at.enclave.unmeasured = at.enclave.unmeasured | (code & no(r.measure))

    @rule(
        _2 + '"CLEAN_MAYEXEC if the hook said ALLOW_EXEC_IF_UNMODIFIED and CLEAN_NOEXEC otherwise"',
        each=True,
    )
    def vet_state(self, k: Context, at: Any, r: Any) -> Value:
        """What the LSM does not allow to be code is added all the same, as data."""
        code = k.granted("enclave_load_fsm", at)
        return code & has(at.source.may, X) if self.chose("noexec", "enforced") else code

    @rule(
        _1 + "\"This hook will fail if ALLOW_EXEC is requested and the LSM doesn't consider the "
        'source VMA to be executable"',
        each=True,
    )
    def vet_flags(self, k: Context, at: Any, r: Any) -> Value:
        """ALLOW_EXEC takes the LSM's leave."""
        code = has(r.prot, X)
        if self.chose("noexec", "enforced"):
            k.need(EACCES, implies(code, has(at.source.may, X)), "the source VMA has VM_MAYEXEC")
        k.ask("enclave_load_fsm", at, when=code)
        return code

    @rule(
        _2 + '"does not call a hook at all and puts pages into the state CLEAN_NOEXEC"; '
        + _1 + '"takes the same flags, but it doesn\'t call security_enclave_load()"',
        each=True,
    )  # fmt: skip
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG of one page by ADD_REGION."""
        super().augment(k, at, r)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """The flags; the state CLEAN_NOEXEC is what a page has that nobody spoke of."""
        if not self.states:
            at.page.max = r.prot

    @rule(
        "Lutomirski, 16 June 2019: \"Either you can't mmap() the page until you have explicitly "
        'EAUG-ed it"'
    )
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS, or EAUG as in Linux if anything may be mapped."""
        if self.absent_none:
            k.need(SIGBUS, at.page.present, "a page is there")
        else:
            super().fault_absent(k, at, r)

    # -- EINIT ---------------------------------------------------------------------------

    @rule(_MAIL + '"returns 0 or a combination of flags … The driver saves this value"')
    def init(self, k: Context, at: Any, r: Any) -> None:
        """EINIT: what the LSM does not deny of (c) and (d) is kept with the enclave.

        Until then "the driver acts as though DENY_X_DIRTY and DENY_WX are both set"; of #1's
        flags, of which the mail does not say it, too.
        """
        dirty_x = k.granted("enclave_init_dirty", at)
        wx = k.granted("enclave_init_wx", at)
        if self.sgx_permissions:
            k.ask("enclave_init_unmeasured", at, when=at.enclave.unmeasured)
        super().init(k, at, r)
        at.enclave.dirty_x = dirty_x
        at.enclave.wx = wx

    # -- mapping -------------------------------------------------------------------------

    def _asked(self, prot: Value) -> Value:
        return minus(prot, W) if self.chose("open", "rdonly") else prot

    def ask_mmap(self, k: Context, at: Any, r: Any) -> None:
        """Linux's own question; W is none with ``open=rdonly``."""
        prot, reqprot = self._asked(r.prot), self._asked(r.reqprot)
        k.ask("mmap_file", at, map_type=r.map_type, reqprot=reqprot, prot=prot)

    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """As for mmap."""
        k.ask("file_mprotect", at, reqprot=self._asked(r.reqprot), prot=self._asked(r.prot))

    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        self.may_map_now(k, at, r)
        self.mmap_whatever_mode(at)

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        self.may_map_now(k, at, r)

    @rule(_MAIL + '"mmap() and mprotect() enforce the following rules"; "the -EPERM cases"')
    def may_map_now(self, k: Context, at: Any, r: Any) -> None:
        """What is mapped is allowed of each page, and is noted in its state."""
        k.need(EACCES, self.within_source(at, r.prot), "within the sources' VM_MAY*")
        if self.absent_none:
            k.need(EPERM, eq(r.prot, 0) | at.page.present, "a page is there")
        if self.states:
            self.by_state(k, at, r)
        else:
            self.by_flags(k, at, r)

    @rule(_2 + "the four rules, in their order")
    def by_state(self, k: Context, at: Any, r: Any) -> None:
        """X of what is or becomes DIRTY, W and X at once, W of CLEAN_EXEC, X of CLEAN_NOEXEC."""
        page, x, w = at.page, has(r.prot, X), has(r.prot, W)
        there, state = page.present, page.state
        dirty = x & (w | (there & eq(state, DIRTY)))
        k.need(EPERM, implies(dirty, at.enclave.dirty_x), "no DENY_X_DIRTY")
        k.need(EPERM, implies(x & w, at.enclave.wx), "no DENY_WX")
        running = w & there & eq(state, EXEC)
        k.need(EPERM, implies(running, at.enclave.dirty_x), "not CLEAN_EXEC, or no DENY_X_DIRTY")
        data = x & no(w) & there & eq(state, NOEXEC)  # with W it is DIRTY by now
        k.need(EPERM, no(data), "not CLEAN_NOEXEC")
        self.ask_dirty(k, at, dirty)
        page.state = ite(there & w, DIRTY, ite(there & x & eq(state, MAYEXEC), EXEC, state))

    @rule(_1 + "the three rules, in their order")
    def by_flags(self, k: Context, at: Any, r: Any) -> None:
        """More than the ALLOW_ flags of each page, W and X at once, X of ALLOW_WRITE."""
        page, x, w = at.page, has(r.prot, X), has(r.prot, W)
        allowed = ite(page.present, page.max, RWX)
        k.need(EPERM, subset(r.prot, allowed), "prot within the ALLOW_ flags")
        k.need(EPERM, implies(x & w, at.enclave.wx), "no DENY_WX")
        dirty = x & has(allowed, W)
        k.need(EPERM, implies(dirty, at.enclave.dirty_x), "no DENY_X_IF_ALLOW_WRITE")
        self.ask_dirty(k, at, dirty)

    @rule("a repair: (c) of who maps, as SELinux has it of ordinary files")
    def ask_dirty(self, k: Context, at: Any, dirty: Value) -> None:
        """With ``dirty=mapping`` who maps what may be written and executed is asked, too."""
        if self.chose("dirty", "einit"):
            return
        some = any_(dirty)
        k.ask("enclave_init_dirty", at, when=some)
        if self.chose("dirty", "with-write"):
            self.ask_shared(k, at, RW, when=some)
        at.vma.dirty_x = at.vma.dirty_x | some

    def still_allowed(self, at: Any) -> Value:
        """The repairs of the fault: what mmap() looks at, of the page as it is now."""
        holds = self.within_source(at, at.vma.prot)
        if self.chose("fault", "present"):
            return holds
        page, x, w = at.page, has(at.vma.prot, X), has(at.vma.prot, W)
        dirty_x = at.enclave.dirty_x
        if not self.chose("dirty", "einit"):
            dirty_x = dirty_x & at.vma.dirty_x
        if self.states:
            dirty, clean = eq(page.state, DIRTY), eq(page.state, NOEXEC)
            return holds & implies(x, no(clean) & implies(dirty, dirty_x)) & implies(w, dirty)
        written = x & has(page.max, W)
        return holds & subset(at.vma.prot, page.max) & implies(written, dirty_x)
