"""The faults that can be asked for: each one allowed by the SDM or by Linux, with its source.

A place is where a run can be hit: an ioctl, an ENCLU leaf, an instruction inside, a page that
is added by a fault, the start. What a design lacks is told by the rule of it that is missing:
places of ioctls are its own rows.

Line numbers are left out on purpose; functions are those of Linux 6.12, arch/x86/kernel/cpu/sgx/,
and in all releases from 5.11 (SGX1) or 6.0 (SGX2) on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softsgx.device.ioctls_designs import rows_of
from softsgx.sdm.leaves import ENCLU_NAMES

__all__ = ["FORBIDDEN", "Fault", "Place", "ioctl_place", "places"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault. takes: conditions that it has beside those of its place; ``value`` is ``=VALUE``.

    lived: whether the same call succeeds when it is made again, so that a program has to live
    with it. Where it is False a program may give up.
    """

    name: str
    title: str
    source: str
    takes: frozenset[str] = frozenset()
    lived: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where faults can be: ``kind`` is ioctl, leaf, inside, eaug or start."""

    name: str
    kind: str
    faults: Mapping[str, Fault]
    takes: frozenset[str] = frozenset()
    why: str = ""


def _fault(name: str, title: str, source: str, *takes: str, lived: bool = True) -> Fault:
    return Fault(name, title, source, frozenset(takes), lived)


_SLOW = _fault("slow", "takes VALUE ms longer", "no bound is given by Linux or the SDM", "value")
_SUSPEND = _fault(
    "suspend",
    "the machine was suspended: all enclaves are lost. With =cpusvn its firmware is newer then",
    "SDM, EENTER, ERESUME: #PF where EPCM.VALID is 0; Linux x86/sgx.rst, a power cycle destroys"
    " the enclaves; sgx_ioc_enclave_add_pages(), sgx_encl_init(): EIO by a power cycle",
    "value?",
    lived=False,
)
_BUSY = _fault(
    "EBUSY",
    "another thread or process is in an ioctl of the same enclave",
    "Linux sgx_ioctl(): test_and_set_bit(SGX_ENCL_IOCTL)",
)
_RECLAIM = "Linux sgx_alloc_epc_page(): reclaiming is left at a signal (ERESTARTSYS)"
_OUT = "Linux __sgx_alloc_epc_page(): no page is free, and none can be reclaimed"
_EVENT = "Linux sgx_encl_init(): SGX_UNMASKED_EVENT, "
_LOADED = "Linux __sgx_encl_load_page(), sgx_encl_eldu(): the page is being reclaimed, or none free"
_CONFLICT = _fault(
    "SGX_EPC_PAGE_CONFLICT",
    "the enclave runs EACCEPT on the page at that moment: EFAULT, with the code in result",
    "SDM, EMODPR, EMODT: concurrency restrictions of the target; Linux encls_failed()",
    "after",
)
_AGAIN = _fault("EAGAIN", "the page is being reclaimed", _LOADED, "after")
_GONE = _fault("EFAULT", "the page cannot be loaded back: no EPC page", _LOADED, "after")

_IOCTLS: dict[str, tuple[Fault, ...]] = {
    "CREATE": (
        _fault("EINTR", "a signal comes while pages are reclaimed", _RECLAIM, "signal"),
        _fault("ENOMEM", "no EPC page for SECS or VA", _OUT, lived=False),
        _fault("EIO", "ECREATE fails", "Linux sgx_encl_create(): __ecreate()", lived=False),
    ),
    "ADD_PAGES": (
        _fault(
            "short",
            "stops after so many pages, with count: success",
            "Linux sgx_ioc_enclave_add_pages(): signal_pending() after the first page; a signal"
            " that another thread takes, and the freezer's wake-up, leave nothing to handle",
            "after",
            "total",
        ),
        _fault(
            "EINTR",
            "a signal with a handler comes, with count",
            "Linux sgx_ioc_enclave_add_pages(): signal_pending() before the first page; "
            + _RECLAIM,
            "after",
            "total",
            "signal",
        ),
        _fault("ENOMEM", "no EPC page", _OUT, "after", "total", lived=False),
        _fault(
            "EIO",
            "EADD or EEXTEND fails",
            "Linux __sgx_encl_add_page(), __sgx_encl_extend()",
            "after",
            "total",
            lived=False,
        ),
    ),
    "INIT": (
        _fault(
            "EINTR",
            "a signal comes while EINIT is tried again",
            _EVENT + "msleep_interruptible(), signal_pending()",
            "signal",
        ),
        _fault(
            "EPERM", "an interrupt comes at each of 1000 tries", _EVENT + "all tries", lived=False
        ),
        _fault(
            "ENOMEM",
            "no memory for SIGSTRUCT",
            "Linux sgx_ioc_enclave_init(): kmalloc()",
            lived=False,
        ),
        _fault("EIO", "EINIT faults", "Linux sgx_encl_init(): encls_faulted()", lived=False),
    ),
    "RESTRICT_PERMISSIONS": (_AGAIN, _GONE, _CONFLICT),
    "MODIFY_TYPES": (_AGAIN, _GONE, _CONFLICT),
    "REMOVE_PAGES": (
        _AGAIN,
        _GONE,
        _fault(
            "EBUSY",
            "the page is being reclaimed; or, with no page done, a concurrent ioctl",
            "Linux sgx_encl_remove_pages(): sgx_unmark_page_reclaimable(); sgx_ioctl()",
            "after",
        ),
    ),
}

_RACE = _fault(
    "race",
    "another thread accepts the page a moment before: SGX_PAGE_ATTRIBUTES_MISMATCH",
    "SDM, EACCEPT, EACCEPTCOPY: the EPCM is no more as SECINFO says",
)
_LEAVES: dict[str, tuple[Fault, ...]] = {
    "EACCEPT": (_RACE,),
    "EACCEPTCOPY": (_RACE,),
    "EGETKEY": (
        _fault(
            "SGX_INVALID_CPUSVN",
            "the request names a CPUSVN that the processor has not: no key",
            "SDM, EGETKEY: Return Value in RAX",
        ),
    ),
}

_AEX = _fault(
    "aex",
    "an interrupt before the instruction; =N: N in a row, with nothing run between them",
    "SDM, Asynchronous Enclave Exits",
    "value?",
)
_AWAY = _fault(
    "reclaim",
    "the page was away: an exit, and VALUE ms until it is back",
    "Linux sgx_vma_fault(), sgx_encl_eldu(); SDM, EWB, ELDU",
    "value",
)
_EAUG = (
    _fault(
        "race",
        "another thread's fault adds the page first: the loser gets SIGBUS, the page is there",
        "Linux sgx_encl_eaug_page(): xa_insert() says EBUSY, vmret is VM_FAULT_SIGBUS",
    ),
    _fault("ENOMEM", "no EPC page: SIGBUS", _OUT + "; sgx_encl_eaug_page()", lived=False),
)
_CPUSVN = _fault(
    "cpusvn",
    "the processor's CPUSVN is raised by VALUE (1), or lowered: keys are others",
    "SDM, CPUSVN; EGETKEY, Table Key Derivation: newer microcode or firmware since the last run",
    "value?",
    lived=False,
)

FORBIDDEN: dict[tuple[str, str], str] = {
    ("ADD_PAGES", "EAGAIN"): "sgx_alloc_epc_page(reclaim=true) waits where others say EAGAIN",
    ("INIT", "short"): "EINIT is one instruction",
    ("CREATE", "short"): "ECREATE is one instruction",
    ("CREATE", "EAGAIN"): "sgx_alloc_epc_page(reclaim=true) waits where others say EAGAIN",
    ("INIT", "EAGAIN"): "SGX_UNMASKED_EVENT is tried again by the driver, and then EPERM",
    ("EGETKEY", "SGX_INVALID_ISVSVN"): "ISVSVN of SECS does not change: SDM, EGETKEY",
    ("EGETKEY", "SGX_INVALID_ATTRIBUTE"): "ATTRIBUTES of SECS do not change: SDM, EGETKEY",
    ("EGETKEY", "SGX_INVALID_KEYNAME"): "what KEYNAMEs there are does not change: SDM, EGETKEY",
    ("EENTER", "EINTR"): "an instruction answers no errno",
    ("EAUG", "EBUSY"): "sgx_encl_eaug_page(): EBUSY is VM_FAULT_NOPAGE, the access is tried again",
    ("CREATE", "cpusvn"): "EUPDATESVN takes an empty EPC, and Linux runs it from 6.19 on",
}
"""Why not, for what somebody might ask for."""

_RANGES = frozenset(("ADD_PAGES", "RESTRICT_PERMISSIONS", "MODIFY_TYPES", "REMOVE_PAGES"))
_SGX2_LEAVES = ("EACCEPT", "EMODPE", "EACCEPTCOPY")


def ioctl_place(name: str) -> str:
    """The place of an ioctl: SGX_IOC_ENCLAVE_ADD_PAGES is ADD_PAGES."""
    return name.removeprefix("SGX_IOC_").removeprefix("ENCLAVE_")


def _by_name(*faults: Fault) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


def places(design: Any, *, carry_out: bool = False) -> dict[str, Place]:
    """The places of a design by name. carry_out: loaders for Linux make Linux's ioctls under it."""
    found: dict[str, Place] = {}
    rows = list(rows_of(design).values())
    merged = {row.name for row in rows if "linux" in row.abis} if design.abi != "v20" else set()
    if carry_out:
        from softsgx.designs.linux import Linux60

        names = [row.name for row in rows_of(Linux60()).values()]
        merged.update(names)
    else:
        names = []
    for name in dict.fromkeys([row.name for row in rows] + names):
        place = ioctl_place(name)
        own = _IOCTLS.get(place, ()) if name in merged else ()
        usual = (_BUSY,) if name in merged else ()
        takes = frozenset(("after", "total")) if place == "ADD_PAGES" else frozenset(("after",))
        faults = _by_name(*usual, *own, _SLOW, _SUSPEND)
        found[place] = Place(place, "ioctl", faults, takes if place in _RANGES else frozenset())
    for name in ENCLU_NAMES.values():
        missing = ""
        if name in _SGX2_LEAVES and not design.sgx2:
            missing = f"is SGX2, and the design has SGX1 (sgx2 of {design.name})"
        if name == "EDECCSSA" and not design.aexnotify:
            missing = f"is AEX-Notify's, which the design lacks (aexnotify of {design.name})"
        faults = _by_name(*_LEAVES.get(name, ()), _SLOW, _SUSPEND)
        found[name] = Place(name, "leaf", faults, frozenset(("at",)), missing)
    inside = _by_name(_AEX, _AWAY, _SUSPEND)
    found["INSIDE"] = Place("INSIDE", "inside", inside, frozenset(("at",)))
    missing = "" if design.sgx2 else "is SGX2: a fault where no page is gives SIGBUS (fault_absent)"
    found["EAUG"] = Place("EAUG", "eaug", _by_name(*_EAUG), frozenset(("at",)), missing)
    found["START"] = Place("START", "start", _by_name(_CPUSVN))
    return found
