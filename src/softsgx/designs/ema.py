"""Xing's RFC of June and July 2019, "security/x86/sgx: SGX specific LSM hooks".

The LSM keeps for each range of pages where it came from and whether it was mapped writable, since
pages outlive their mappings: an enclave memory area. What may be executed is decided when it is
mapped, by the file that the pages came from; SIGSTRUCT's file stands for those that came from none.
v3 is followed as its message has it where the posted code, which "has only been compile-tested",
does otherwise: W and X at once takes EXECMEM (its condition meant X alone), and a source that was
written privately is taken (its answer was an error).
"""

from __future__ import annotations

from errno import EACCES, EEXIST, EFAULT, EIO, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Ways
from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import RW, Value, W, X, any_, eq, has, implies, ite, no
from softsgx.sdm.leaves import PT_TCS
from softsgx.sgx.epcm import PAGE

__all__ = ["Ema"]

_V1 = "[RFC PATCH v1 {}/3] (10 June 2019) "
_V3 = "[RFC PATCH v3 {}/4] (7 July 2019) "


class Ema(SeedDesign):
    """``ema``. Of v3: ``page.origin``, the file that the page came from by its number in
    the enclave, 0 for none; ``page.sourced``: by EADD; ``page.changed``: it was mapped writable.
    Of v1: ``page.execute`` and ``page.execmod``, SGX__EXECUTE and SGX__EXECMOD.

    ``enclave.areas`` (v3): the LSM has areas of it, from its first page or SIGSTRUCT on; before
    that it takes the file for no enclave, and asks nothing of mappings. ``enclave.eaug_x`` (v1):
    pages of EAUG may be executed.
    """

    name = "ema"
    title = "Xing's RFC of June and July 2019: the LSM keeps where each enclave page came from"
    vets_sigstruct = keeps_origins = True
    authority: ClassVar[Ways] = (
        (("sigstruct", "execmod"),), (("file", "execmod"),), (("process", "execmem"),),
    )  # fmt: skip
    options: ClassVar[dict[str, tuple[str, ...]]] = {"version": ("v3", "v1")}
    models = ("version",)

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.v3 = self.sgx_permissions = self.chose("version", "v3")
        if self.v3:
            self.page_schema = PAGE.extend(origin=8, sourced=1, changed=1)
            self.enclave_fields = {"sigstruct_kept": 1, "areas": 1}  # type: ignore[misc]
        else:
            self.page_schema = PAGE.extend(execute=1, execmod=1)
            self.enclave_fields = {"eaug_x": 1}  # type: ignore[misc]
        other = ("init_v1", "track_v1") if self.v3 else ("load",)
        self.__dict__.update(dict.fromkeys(other))

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return page.changed | no(page.sourced) if self.v3 else no(page.execute)

    # -- EADD ----------------------------------------------------------------------------

    @rule("Linux SGX_IOC_ENCLAVE_ADD_PAGES, for today's loaders", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """The same as ADD_REGION."""
        self.add_region(k, at, r)

    @rule(
        _V3.format(2) + "sgx_encl_prepare_page(), then sgx_encl_add_page(); "
        + _V1.format(2) + "selinux_enclave_load()",
        each=True,
    )  # fmt: skip
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page; ``r.target`` is what the caller has mapped there: a mask."""
        k.need(EFAULT, at.source.mapped, "the source is mapped")
        k.need(EACCES, has(at.source.may, X), "the source VMA has VM_MAYEXEC")
        if self.v3:
            k.need(EFAULT, at.source.readable, "the source can be read")
            k.need(EEXIST, no(at.page.present), "no page there yet")
            self.load(k, at, r)
        else:
            execute, execmod = self.load_v1(k, at, r)
            k.need(EFAULT, at.source.readable, "the source can be read")
            k.need(EEXIST, no(at.page.present), "no page there yet")
        k.need(EIO, r.inside, "EADD: the page is in ELRANGE")
        k.need(EIO, r.tcs_valid, "EADD accepts the TCS")
        k.leaf(self.eadd, at, r, failed=EIO, faulted=EIO)
        page, source = at.page, at.source
        page.max = ite(eq(r.pt, PT_TCS), RW, r.perm)
        if self.v3:
            page.origin, page.sourced = source.origin, 1
            page.changed = has(r.target, W) | (has(r.target, X) & source.modified)
            at.enclave.areas = 1
        else:
            page.execute, page.execmod = execute, execmod

    @rule(_V3.format(4) + "enclave_load_prot_check()", each=True)
    def load(self, k: Context, at: Any, r: Any) -> None:
        """What is mapped X where the page goes takes EXECUTE of the source's file, with EXECMOD if
        it was written privately, or ENCLAVE_EXECANON; EXECMEM in its place, and for W with X.
        """
        x, w, none = has(r.target, X), has(r.target, W), at.source.anonymous
        free = k.granted("enclave_execanon", at, when=x & none & no(w))
        k.ask("enclave_load_file", at, when=x & no(none))
        k.ask("enclave_execmem", at, when=x & (w | (none & no(free))))

    def load_v1(self, k: Context, at: Any, r: Any) -> tuple[Value, Value]:
        """What is mapped where the page goes has to be granted to the source VMA; whether the page
        may be executed is whether that VMA might be, and for ever so with EXECMOD of its file.
        """
        k.ask("enclave_load_source", at, prot=r.target)
        x = has(r.target, X)
        could = k.granted("enclave_load_source", at, when=no(x), prot=X)
        execute = x | could
        execmod = k.granted(
            "enclave_load_source_execmod", at, when=execute & no(at.source.anonymous)
        )
        return execute, execute & no(at.source.anonymous) & execmod

    # -- EAUG ----------------------------------------------------------------------------

    @rule(_V3.format(4) + '"For EAUG, X is considered self-modifying code"', each=True)
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG of one page by ADD_REGION."""
        k.need(EPERM, self.may_augment(k, at, r.target), "the LSM: X of a page of EAUG")
        super().augment(k, at, r)

    @rule(_V3.format(1) + '"SGX module/subsystem could respond to #PFs by EAUG\'ing"')
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: EAUG, if the LSM allows what the VMA has."""
        k.need(SIGBUS, self.may_augment(k, at, at.vma.prot), "the LSM: X of a page of EAUG")
        super().fault_absent(k, at, r)

    def may_augment(self, k: Context, at: Any, prot: Value) -> Value:
        """Whether a page may be made by EAUG under a mapping."""
        x = has(prot, X)
        if self.v3:
            return k.granted("enclave_execmod", at, when=x)
        return implies(x, at.enclave.eaug_x)

    def made(self, k: Context, at: Any, r: Any) -> None:
        """What the LSM remembers of a page that came from nowhere."""
        page = at.page
        if self.v3:
            page.origin, page.sourced, page.changed = 0, 0, 1
        else:
            page.execute = page.execmod = at.enclave.eaug_x

    # -- EINIT ---------------------------------------------------------------------------

    @rule(_V3.format(4) + "selinux_enclave_init(); v1: " + _V1.format(2) + "the same function")
    def init(self, k: Context, at: Any, r: Any) -> None:
        """EINIT: EXECUTE of SIGSTRUCT's file, as it is on disk, is the leave to launch."""
        k.need(EFAULT, at.source.mapped & r.sigstruct_inside, "SIGSTRUCT is in one VMA")
        if self.v3:
            k.need(EACCES, no(at.source.anonymous) & no(at.source.modified), "a file's SIGSTRUCT")
            k.ask("enclave_launch", at)
            k.need(EEXIST, no(at.enclave.sigstruct_kept), "no SIGSTRUCT was approved before")
            at.enclave.sigstruct_kept = at.enclave.areas = 1
        else:
            self.init_v1(k, at, r)
        super().init(k, at, r)

    @rule(_V1.format(2) + "selinux_enclave_init(): selinux_file_mprotect() of SIGSTRUCT's VMA")
    def init_v1(self, k: Context, at: Any, r: Any) -> None:
        """v1: SIGSTRUCT's VMA may be made executable; EXECMOD of its file lets EAUG's pages be."""
        k.ask("enclave_launch_v1", at, when=no(has(at.source.prot, X)))
        modified = k.granted("enclave_execmod", at, when=no(at.source.anonymous))
        at.enclave.eaug_x = modified

    # -- mapping -------------------------------------------------------------------------

    @rule(_V1.format(2) + "sgxsec_mprotect(): its answer is the hook's")
    def ask_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """v3: Linux's own question, and then the enclave's. v1: the enclave's in its place."""
        if self.v3:
            k.ask("file_mprotect", at, reqprot=r.reqprot, prot=r.prot)

    @rule(_V3.format(2) + 'sgx_mmap(): "treated as mprotect() from PROT_NONE"')
    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """The hook of mprotect, of a mapping that had nothing."""
        self.track(k, at, r, 0)

    @rule(
        _V3.format(4) + "enclave_mprotect(): nothing without an ema_map; ema__chk_X_cb() of all"
        " pages of a kind at once; " + _V3.format(3) + "_init_map() at enclave_load or enclave_init"
    )
    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """What becomes X is asked about, what becomes W is remembered."""
        self.track(k, at, r, at.vma.prot)

    def track(self, k: Context, at: Any, r: Any, was: Value) -> None:
        """One mapping whose permissions were ``was``."""
        if not self.v3:
            self.track_v1(k, at, r)
            return
        page = at.page
        k.ask("enclave_execmem", at, when=has(r.prot, W | X) & at.enclave.areas)
        self.may_run(k, at, has(r.prot, X) & no(has(was, X)))
        becomes_w = page.present & has(r.prot, W) & no(has(was, W))
        page.changed = page.changed | becomes_w

    def may_run(self, k: Context, at: Any, becomes_x: Value) -> None:
        """EXECMOD of SIGSTRUCT's file for pages of EAUG; ENCLAVE_EXECANON or EXECMEM for those from
        no file, with EXECMOD as before if they were changed; else EXECUTE of their own
        file, with its EXECMOD if they were changed.
        """
        page = at.page
        here = becomes_x & page.present
        none = here & page.sourced & eq(page.origin, 0)
        own = any_((here & no(page.sourced)) | (none & page.changed))
        k.need(EPERM, implies(own, at.enclave.sigstruct_kept), "a SIGSTRUCT was approved")
        anonymous = any_(none)
        free = k.granted("enclave_execanon", at, when=anonymous)
        k.ask("enclave_execmem", at, when=anonymous & no(free))
        k.ask("enclave_execmod", at, when=own)
        file = here & page.sourced & no(eq(page.origin, 0))
        k.ask(
            "enclave_run_file", at, when=any_(file),
            origin=ite(file, page.origin, 0), changed=page.changed,
        )  # fmt: skip

    @rule(_V1.format(2) + "enclave_mprotect(): the check of the whole range, then the change")
    def track_v1(self, k: Context, at: Any, r: Any) -> None:
        """v1: X of pages that have SGX__EXECUTE, which W takes from those without SGX__EXECMOD."""
        page, x, w = at.page, has(r.prot, X), has(r.prot, W)
        k.need(EACCES, implies(x & page.present, page.execute), "SGX__EXECUTE")
        loses = page.present & w & no(page.execmod)
        page.execute = ite(loses, 0, page.execute)
