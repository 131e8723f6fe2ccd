"""What every design is: Linux's mm, SGX's instructions, and a driver between them.

A design inherits both and fills in the driver's rules. `Design.page_schema`
holds what its driver remembers of each page; a design that remembers more
extends it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from softsgx.errors import UsageError
from softsgx.law.rule import Context, rule
from softsgx.law.values import RWX, Value, ite, subset
from softsgx.mm.rules import MmRules
from softsgx.sdm.leaves import ATTR_DEBUG, ATTR_KSS, ATTR_MODE64BIT
from softsgx.sgx.epcm import PAGE
from softsgx.sgx.pagerules import PageRules

__all__ = ["SIGBUS", "Design", "Ways"]

Ways = tuple[tuple[tuple[str, str], ...], ...]
SIGBUS = 7
"""The answer of a `fault` rule that has no page to give: the signal, not an errno."""


class Design(MmRules, PageRules):
    """Base of the designs.

    name: what the user selects it by. title: one line. paths: the device nodes.
    aliases: further names of them. abi: whose numbers and structures the ioctls have.
    maps_whole: mmap of the device is of ELRANGE as a whole. tcs_words: the driver itself looks at
    which words of a TCS a debugger touches.
    one_ioctl: a second ioctl of an enclave at the same time is refused.
    sgx2: whether the driver offers SGX2. aexnotify: whether the CPU that the driver finds has
    AEX-Notify (and EDECCSSA, which came with it). total_bytes: whether /sys tells the EPC's size
    (commit 50468e431335, "x86/sgx: Add an attribute for the amount of SGX memory in a NUMA node",
    in v5.17). options: name → (values, default first).
    declares: what the caller of ADD_REGION says beside SECINFO, by the name that rules have for
    it ("": nothing, the field has to be 0). absent_none: where no page is, a mapping has to be
    PROT_NONE; a page of EAUG is made by ADD_REGION first. maps_anew: mprotect gives nothing that
    the mapping did not have when it was made. sgx_permissions: SELinux is asked for
    permissions of class process2 that no policy ships. vets_sigstruct: INIT's rules look at the
    memory that SIGSTRUCT lies in, as ``at.source``, and the LSM's hooks at its file from then on
    (``k.sigstruct``). keeps_origins: pages know the file that they came from (``at.source.origin``,
    its number in the enclave, 0 for none; ``k.origins``), and EADD and EAUG what the caller has
    mapped where the page goes (``r.target``). enclave_fields: what is remembered of an enclave,
    with its bits, 0 when the device is opened; ``sigstruct_kept``: another INIT does not change
    SIGSTRUCT's file.
    authority: what a process has to hold to run modified code, by SELinux: ways, each of which is
    (object, permission) pairs of `softsgx.checker.world.permissions.KINDS`; the device stands
    for whatever object is mapped. field_words: what values of a page's field are called.
    repairs: those of the options that no mail has (changes that close a hole which the
    checker found), each with what later kernels and patches did about it. repaired: the
    values of options with which every property holds, by SELinux's questions.
    models: options that are another design rather than a change of this one: no repair.
    declarable: which of R, W, X can be declared. lacks: numbers of ioctls that the design has in
    another form. proxy: a file stands for the enclave, that of its SIGSTRUCT: what is measured
    and signed is what it says.
    ioctls: rows (`softsgx.device.ioctls.Ioctl`) of ioctls that no other design has; each is offered
    where the design has its rule. add_rules: the rules of an EADD from SECINFO on, in their order,
    where those are not the ones that other designs have; add_args: what its ioctl says beside
    SECINFO, as fields of the request, with their bits. The checker finds EADD by these two.
    """

    title = ""
    paths = ("/dev/sgx_enclave", "/dev/sgx_provision")
    aliases: ClassVar[dict[str, str]] = {}
    abi = "linux"
    sgx2 = False
    aexnotify = False
    total_bytes = False
    maps_whole = False
    tcs_words = False
    one_ioctl = False
    declares = ""
    declarable = RWX
    lacks: tuple[int, ...] = ()
    proxy = False
    absent_none = False
    maps_anew = False
    sgx_permissions = False
    vets_sigstruct = False
    keeps_origins = False
    enclave_fields: ClassVar[dict[str, int]] = {}
    field_words: ClassVar[dict[str, tuple[str, ...]]] = {}
    authority: ClassVar[Ways] = (
        (("device", "write"), ("device", "execute")),
        (("device", "execmod"),),
    )
    page_schema = PAGE
    options: ClassVar[dict[str, tuple[str, ...]]] = {}
    repairs: ClassVar[dict[str, str]] = {}
    repaired: ClassVar[dict[str, str]] = {}
    models: ClassVar[tuple[str, ...]] = ()
    ioctls: ClassVar[tuple[Any, ...]] = ()
    add_rules: ClassVar[tuple[str, ...]] = ()
    add_args: ClassVar[dict[str, int]] = {}

    def __init__(self, **chosen: str) -> None:
        self.chosen = {name: values[0] for name, values in self.options.items()}
        for name, value in chosen.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise UsageError(f"design {self.name} has no option {name!r} (it has: {known})")
            if value not in self.options[name]:
                raise UsageError(
                    f"design {self.name}: {name} is one of {', '.join(self.options[name])},"
                    f" not {value!r}"
                )
            self.chosen[name] = value

    @rule("Linux fs/open.c; the driver's own open")
    def open(self, k: Context, at: Any, r: Any) -> None:
        """Open of the enclave device: the LSM alone."""
        k.ask("file_open", at, fmode=r.fmode)

    @rule("Linux security_file_ioctl()")
    def ioctl(self, k: Context, at: Any, r: Any) -> None:
        """Any ioctl: the LSM is asked before the driver sees it."""
        k.ask("file_ioctl", at, cmd=r.cmd)

    def driver_access(self, at: Any) -> Value:
        """Whether the driver puts the page behind ``at.vma`` into the page tables."""
        return at.page.present

    def driver_grants(self, at: Any) -> Value:
        """With what the driver puts it there: a mask, within the VMA's."""
        return at.vma.prot

    def page_tables(self, at: Any) -> Value:
        """What the page tables allow once the driver was asked: a mask."""
        return ite(self.driver_access(at), self.driver_grants(at), 0)

    @rule("SDM, access control: page tables and EPCM both have to allow an access")
    def accessible(self, at: Any) -> Value:
        """What code inside can do with a page through a VMA: the mask of R, W, X."""
        return ite(self.driver_access(at), self.driver_grants(at) & self.epcm_access(at), 0)

    def unprivileged(self, at: Any) -> Value:
        """The attributes that an enclave may have without asking: a mask of ATTR_*."""
        return ATTR_DEBUG | ATTR_MODE64BIT | ATTR_KSS

    def within_max(self, at: Any) -> Value:
        """The condition that the VMA asks no more than the page's maximum."""
        return subset(at.vma.prot, at.page.max)
