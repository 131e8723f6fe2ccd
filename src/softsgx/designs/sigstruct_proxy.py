"""Christopherson's other answer, of 24 and 30 May 2019: SIGSTRUCT's file stands for the enclave.

The CPU holds an enclave against the measurement in its SIGSTRUCT, permissions of pages included.
So the LSM need not be asked about the memory that pages come from: whoever may execute the file
that SIGSTRUCT lies in may run that enclave, however it was built. The mail of 30 May ("the proposal
below is based on the sigstruct proxy concept") is the default, with permissions on the file; what
it says of other LSM implementations, and the mail of 24 May, are values of an option. Of pages that
are not measured, and of a private mapping of the file that was written to, no mail says anything.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, EPERM
from typing import Any, ClassVar

from softsgx.designs.base import SIGBUS, Ways
from softsgx.designs.seed import SeedDesign
from softsgx.law.rule import Context, rule
from softsgx.law.values import (
    RWX,
    R,
    Value,
    W,
    X,
    all_,
    any_,
    eq,
    has,
    implies,
    ite,
    no,
    subset,
)
from softsgx.sgx.epcm import PAGE
from softsgx.uapi.sgx import SGX_IOC_ENCLAVE_CREATE

__all__ = ["SigstructProxy"]

_MAY_24 = "Christopherson, 24 May 2019: "
_MAY_30 = "Christopherson, 30 May 2019: "
_HOOKS = {"30-may": "", "30-may-file": "_file", "30-may-process": "_process"}


class SigstructProxy(SeedDesign):
    """``sigstruct-proxy``. ``page.writable``: ALLOW_WRITE; with ``mail=24-may`` the page has been
    mapped W, or came by EAUG.
    """

    name = "sigstruct-proxy"
    title = "Christopherson's proxy: EXECUTE and EXECMOD on the file of SIGSTRUCT"
    page_schema = PAGE.extend(writable=1)
    vets_sigstruct = proxy = True
    declares = "allow"
    declarable = W
    absent_none = True
    authority: ClassVar[Ways] = ((("sigstruct", "execmod"),),)
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        # 30 May: ENCLAVE__* on the file, FILE__* on it, ENCLAVE__* on the process; and 24 May.
        "mail": ("30-may", "30-may-file", "30-may-process", "24-may"),
        # "Optional: SGX driver *requires* sigstruct to be backed by file".
        "backing": ("any", "required"),
        # "Optional/Future: add security_enclave_create()"; 24 May: "checked at EINIT".
        "launch": ("unasked", "asked"),
    }

    # The ioctl that takes ALLOW_WRITE is ADD_REGION.
    add_page = None  # type: ignore[assignment]

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.late = self.chose("mail", "24-may")
        self.hooks = _HOOKS.get(self.chosen["mail"], "_file")
        self.maps_anew = self.late
        if self.hooks == "_file":  # what SELinux asks of a file, it asks as EXECMEM where none is
            self.authority: Ways = (*self.authority, (("process", "execmem"),))  # type: ignore[misc]
        if self.late:
            self.declares, self.absent_none = "", False
            self.create_sigstruct = self.enclave_mprotect = None  # type: ignore[assignment]
        else:
            self.lacks = (SGX_IOC_ENCLAVE_CREATE,)
            self.within_secinfo = self.previously_writable = None  # type: ignore[assignment]

    def page_bound(self, page: Any) -> Value:
        """The page's own maximum, for the checker."""
        return page.max if self.late else R | X | ite(page.writable, W, 0)

    def demands_authority(self, page: Any) -> Value:
        """Which pages run only with authority, by the design."""
        return page.writable

    # -- SIGSTRUCT ---------------------------------------------------------------------

    @rule(
        _MAY_30 + '"Take sigstruct at ECREATE"; "SGX driver takes a reference to the backing '
        'sigstruct file if it exists"'
    )  # fmt: skip
    def create_sigstruct(self, k: Context, at: Any, r: Any) -> None:
        """SIGSTRUCT (``source``: where it lies) is taken before there is an enclave."""
        self.take(k, at)

    @rule(
        "Linux sgx_encl_init(); " + _MAY_24 + '"whitelisted by their sigstruct (checked at EINIT)"'
    )
    def init(self, k: Context, at: Any, r: Any) -> None:
        """EINIT; by the mail of 24 May it is here that SIGSTRUCT is taken."""
        if self.late:
            self.take(k, at)
        super().init(k, at, r)

    def take(self, k: Context, at: Any) -> None:
        """What the driver, and the LSM, may want of a SIGSTRUCT's file."""
        if self.chose("backing", "required"):
            k.need(EINVAL, no(at.source.anonymous), "SIGSTRUCT lies in a file")
        if self.chose("launch", "asked"):
            k.ask("enclave_create" + self.hooks, at)

    # -- pages -------------------------------------------------------------------------

    @rule(_MAY_30 + '"Take explicit ALLOW_WRITE at ADD_REGION, a.k.a. EADD"', each=True)
    def add_region(self, k: Context, at: Any, r: Any) -> None:
        """EADD of one page, from any source: nobody is asked about it."""
        super().add_region(k, at, r)

    def added(self, k: Context, at: Any, r: Any) -> None:
        """30 May: what is declared; 24 May: nothing has been written."""
        at.page.writable = 0 if self.late else has(r.allow, W)

    @rule(_MAY_30 + '"ADD_REGION also used to describe EAUG region"', each=True)
    def augment(self, k: Context, at: Any, r: Any) -> None:
        """EAUG of one page by ADD_REGION; nobody is asked."""
        super().augment(k, at, r)

    def augmented(self, k: Context, at: Any, r: Any) -> None:
        """30 May: as for EADD."""
        if not self.late:
            at.page.writable = has(r.allow, W)

    def made(self, k: Context, at: Any, r: Any) -> None:
        """24 May: a page that was "previously writable" "indirectly includes all EAUG'd pages"."""
        if self.late:
            at.page.writable = 1

    @rule(_MAY_30 + '"ADD_REGION also used to describe EAUG region"; 24 May: as Linux')
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS by the mail of 30 May, EAUG by that of 24 May."""
        if self.late:
            super().fault_absent(k, at, r)
        else:
            k.need(SIGBUS, at.page.present, "a page is there")

    # -- mapping -----------------------------------------------------------------------

    @rule(_MAY_30 + '"mmap() to /dev/sgx/enclave only allowed with PROT_NONE"; 24 May: "Require '
          'FILE__READ+FILE__EXECUTE on .sigstruct to mmap() the enclave"')  # fmt: skip
    def driver_mmap(self, k: Context, at: Any, r: Any) -> None:
        """sgx_mmap()."""
        if self.late:
            self.within_secinfo(k, at, r)
        else:
            k.need(EACCES, eq(r.prot, 0), "PROT_NONE")

    def driver_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """sgx_vma_mprotect()."""
        if self.late:
            self.previously_writable(k, at, r)
        else:
            self.enclave_mprotect(k, at, r)

    @rule(
        _MAY_30 + '"SGX.mprotect() returns -EPERM if PROT_WRITE && !ALLOW_WRITE"; '
        '"security_enclave_mprotect(struct file *sigstruct, unsigned long prot, bool allow_write)";'
        " "
        '[RFC PATCH 5/9] (31 May 2019) "Restrict mapping without an enclave page to PROT_NONE"'
    )  # fmt: skip
    def enclave_mprotect(self, k: Context, at: Any, r: Any) -> None:
        """30 May: W where it was declared; the LSM hears of SIGSTRUCT, and whether W was."""
        page = at.page
        k.need(EACCES, page.present | eq(r.prot, 0), "a page is there, or PROT_NONE")
        k.need(EPERM, implies(has(r.prot, W), page.writable), "ALLOW_WRITE, for PROT_WRITE")
        hook = "enclave_mprotect" + self.hooks
        k.ask(hook, at, prot=r.prot, allow_write=any_(page.present & page.writable))

    @rule(
        _MAY_24 + '"populating VM_MAY{READ,WRITE,EXEC} from the SECINFO … E.g. pre-EINIT, mmap() '
        'and mprotect() can only succeed with PROT_NONE"'
    )  # fmt: skip
    def within_secinfo(self, k: Context, at: Any, r: Any) -> None:
        """24 May: nothing before EINIT; then READ and EXECUTE on SIGSTRUCT, and SECINFO bounds."""
        runs = at.enclave.initialized
        allowed = ite(runs, ite(at.page.present, at.page.max, RWX), 0)
        k.need(EACCES, subset(r.prot, allowed), "prot within SECINFO, and nothing before EINIT")
        k.ask("sigstruct_mmap", at, when=runs)
        self.previously_writable(k, at, r)
        of_all: Value = 0
        for bit in (R, W, X):
            of_all = of_all | ite(all_(has(allowed, bit)), bit, 0)
        at.vma.may = at.vma.may & of_all

    @rule(_MAY_24 + '"Require FILE__EXECMOD on the .sigstruct to map previously writable page as '
          'executable (which indirectly includes all EAUG\'d pages)"')  # fmt: skip
    def previously_writable(self, k: Context, at: Any, r: Any) -> None:
        """24 May: what has been mapped W, is so now, or came or will come by EAUG."""
        page = at.page
        w = has(r.prot, W)
        modified = has(r.prot, X) & (w | no(page.present) | page.writable)
        k.ask("sigstruct_execmod", at, when=any_(modified))
        page.writable = page.writable | (w & page.present)
