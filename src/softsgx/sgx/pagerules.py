"""What each SGX instruction does to one EPC page, as rules over its EPCM entry.

The answers are the instruction's: an SGX error code (RAX), or ``FAULT | vector``
for an exception. A driver's rule runs them with ``k.leaf`` and turns the answer
into its own errno.
"""

from __future__ import annotations

from typing import Any

from softsgx.law.rule import FAULT, Context, Law, rule
from softsgx.law.values import RW, Value, W, eq, has, implies, ite, no
from softsgx.law.values import R as READ
from softsgx.sdm.leaves import (
    PT_REG,
    PT_TCS,
    PT_TRIM,
    SGX_PAGE_ATTRIBUTES_MISMATCH,
    SGX_PAGE_NOT_MODIFIABLE,
    VECTOR_GP,
    VECTOR_PF,
)

__all__ = ["GP", "PF", "PageRules"]

GP = FAULT | VECTOR_GP
PF = FAULT | VECTOR_PF


class PageRules(Law):
    """The EPCM's part of ENCLS and ENCLU; ``at.page`` is a cell of the PAGE schema."""

    @rule("SDM, access control of EPC pages")
    def epcm_access(self, at: Any) -> Value:
        """The accesses that the EPCM allows to software inside the enclave: a mask."""
        p = at.page
        usable = p.present & eq(p.pt, PT_REG) & no(p.pending) & no(p.modified)
        return ite(usable, p.perm, 0)

    @rule("SDM, EADD", each=True)
    def eadd(self, k: Context, at: Any, r: Any) -> None:
        """EADD: a page of type ``r.pt`` with ``r.perm``; a TCS has no permissions."""
        p = at.page
        k.need(PF, no(p.present), "EPCM.VALID is 0")
        tcs = eq(r.pt, PT_TCS)
        k.need(GP, tcs | implies(has(r.perm, W), has(r.perm, READ)), "W needs R")
        p.present = 1
        p.pt = r.pt
        p.perm = ite(tcs, 0, r.perm)

    @rule("SDM, EAUG", each=True)
    def eaug(self, k: Context, at: Any, r: Any) -> None:
        """EAUG: a zeroed page, RW, pending until the enclave accepts it."""
        p = at.page
        k.need(PF, no(p.present), "EPCM.VALID is 0")
        p.present = 1
        p.pt = PT_REG
        p.perm = RW
        p.pending = 1

    @rule("SDM, EMODPR", each=True)
    def emodpr(self, k: Context, at: Any, r: Any) -> None:
        """EMODPR: take permissions away; the enclave has to accept."""
        p = at.page
        k.need(GP, implies(has(r.perm, W), has(r.perm, READ)), "W needs R")
        k.need(PF, p.present, "EPCM.VALID")
        k.need(SGX_PAGE_NOT_MODIFIABLE, no(p.pending) & no(p.modified), "not PENDING, not MODIFIED")
        k.need(PF, eq(p.pt, PT_REG), "EPCM.PT is PT_REG")
        p.pr = 1
        p.perm = p.perm & r.perm

    @rule("SDM, EMODT", each=True)
    def emodt(self, k: Context, at: Any, r: Any) -> None:
        """EMODT: make it a TCS or trim it; inaccessible until the enclave accepts."""
        p = at.page
        trim = eq(r.pt, PT_TRIM)
        k.need(GP, trim | eq(r.pt, PT_TCS), "to PT_TCS or PT_TRIM")
        k.need(PF, p.present, "EPCM.VALID")
        k.need(PF, eq(p.pt, PT_REG) | (eq(p.pt, PT_TCS) & trim), "PT_REG, or PT_TCS to be trimmed")
        k.need(SGX_PAGE_NOT_MODIFIABLE, no(p.pending) & no(p.modified), "not PENDING, not MODIFIED")
        p.pr = 0
        p.modified = 1
        p.perm = 0
        p.pt = r.pt

    @rule("SDM, EREMOVE", each=True)
    def eremove(self, k: Context, at: Any, r: Any) -> None:
        """EREMOVE: the page is gone."""
        at.page.clear()

    @rule("SDM, EACCEPT", each=True)
    def eaccept(self, k: Context, at: Any, r: Any) -> None:
        """EACCEPT: the enclave agrees to what SECINFO says; all but PR has to match."""
        p = at.page
        new = eq(r.pt, PT_REG) & (r.pr | r.pending) & no(r.modified)
        other = (eq(r.pt, PT_TCS) | eq(r.pt, PT_TRIM)) & no(r.pr | r.pending) & r.modified
        k.need(GP, new | other, "SECINFO is of a page that waits for EACCEPT")
        k.need(PF, p.present, "EPCM.VALID")
        k.need(PF, eq(p.pt, PT_REG) | eq(p.pt, PT_TCS) | eq(p.pt, PT_TRIM), "EPCM.PT")
        same = eq(p.perm, r.perm) & eq(p.pt, r.pt)
        same = same & eq(p.pending, r.pending) & eq(p.modified, r.modified)
        k.need(SGX_PAGE_ATTRIBUTES_MISMATCH, same, "SECINFO equals the EPCM")
        p.pending = 0
        p.modified = 0
        p.pr = 0

    @rule("SDM, EMODPE", each=True)
    def emodpe(self, k: Context, at: Any, r: Any) -> None:
        """EMODPE: the enclave extends a page's permissions, asking nobody."""
        p = at.page
        k.need(PF, p.present, "EPCM.VALID")
        k.need(PF, no(p.pending) & no(p.modified), "not PENDING, not MODIFIED")
        k.need(PF, eq(p.pt, PT_REG), "EPCM.PT is PT_REG")
        k.need(GP, implies(has(r.perm, W), has(p.perm | r.perm, READ)), "W needs R")
        p.perm = p.perm | r.perm

    @rule("SDM, EACCEPTCOPY", each=True)
    def eacceptcopy(self, k: Context, at: Any, r: Any) -> None:
        """EACCEPTCOPY: fill a pending page with a copy, with the permissions of SECINFO."""
        p = at.page
        k.need(PF, p.present, "EPCM.VALID")
        fresh = p.pending & no(p.modified) & eq(p.pt, PT_REG) & eq(p.perm, RW)
        k.need(SGX_PAGE_ATTRIBUTES_MISMATCH, fresh, "PENDING, PT_REG and RW, as EAUG left it")
        p.pending = 0
        p.perm = r.perm
