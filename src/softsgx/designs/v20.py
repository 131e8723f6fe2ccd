"""The driver that was posted as v20 in April 2019: the status quo of the seed.

No check of its own stands between a process and its enclave's pages: mmap and
mprotect are Linux's ordinary ones on a character device, so an LSM sees every
loader ask for READ, WRITE and EXECUTE of one inode and cannot tell an enclave of
an unmodified file from one that is generated on the fly.

Orders follow the patch set's driver/ioctl.c and driver/main.c.
"""

from __future__ import annotations

from errno import EEXIST, EFAULT, EFBIG, EINVAL
from typing import Any

from softsgx.designs.base import SIGBUS, Design
from softsgx.law.rule import Context, rule
from softsgx.law.values import Value, eq, has, implies, no
from softsgx.sdm.leaves import PT_REG, PT_TCS, PT_TRIM

__all__ = ["V20"]

MAP_PRIVATE = 2
_POSTED = '"Intel SGX1 support", v20 (17 April 2019), '


class V20(Design):
    """Linux's SGX driver as posted in v20."""

    name = "v20"
    title = "the driver as posted in April 2019: no per-page check (SGX1); the seed's status quo"
    paths = ("/dev/sgx/enclave", "/dev/sgx/provision")
    abi = "v20"
    maps_whole = True
    tcs_words = True

    # -- mapping -----------------------------------------------------------------------

    def alignment(self, file: Any, length_bytes: int, fixed: int) -> int:
        """sgx_get_unmapped_area() aligns to the length, and does not look at MAP_FIXED."""
        power = length_bytes > 0 and length_bytes & length_bytes - 1 == 0
        return max(4096, length_bytes) if power else 4096

    @rule(_POSTED + "driver/main.c sgx_get_unmapped_area()")
    def get_unmapped_area(self, k: Context, at: Any, r: Any) -> None:
        """The length is an enclave's size: a power of two, of two pages at least.

        MAP_SHARED_VALIDATE has MAP_PRIVATE's bit, and is refused with it.
        """
        n = r.length_bytes
        k.need(EINVAL, int(n >= 2 * 4096 and n & n - 1 == 0), "length is a power of two")
        k.need(EINVAL, int(not r.map_type & MAP_PRIVATE), "no flag of MAP_PRIVATE's")

    def driver_access(self, at: Any) -> Value:
        """sgx_vma_fault(): any page of an enclave that is initialized and not dead."""
        return at.page.present & at.enclave.initialized & no(at.enclave.dead)

    @rule(_POSTED + "driver: sgx_vma_fault(), sgx_encl_load_page()")
    def fault(self, k: Context, at: Any, r: Any) -> None:
        """A page fault: SIGBUS before EINIT and once the enclave is dead."""
        k.need(SIGBUS, at.enclave.initialized, "initialized")
        k.need(SIGBUS, no(at.enclave.dead), "not dead")

    @rule(_POSTED + "driver: sgx_vma_fault(), sgx_encl_load_page()")
    def fault_absent(self, k: Context, at: Any, r: Any) -> None:
        """A page fault where no page is: SIGBUS."""
        k.need(SIGBUS, at.page.present, "a page was added there")

    # -- building ----------------------------------------------------------------------

    @rule(_POSTED + "driver/ioctl.c sgx_encl_create(), sgx_validate_secs()")
    def create(self, k: Context, at: Any, r: Any) -> None:
        """CREATE, after SECS was read: the driver itself checks all that ECREATE would."""
        k.need(EFAULT, no(at.enclave.created), "not yet created")
        k.need(EINVAL, r.size_is_power_of_two, "SECS.SIZE is a power of two")
        k.need(EINVAL, eq(r.ecreate, 0), "the SECS is valid")

    @rule(_POSTED + "driver/ioctl.c sgx_validate_secinfo()")
    def validate_secinfo(self, k: Context, at: Any, r: Any) -> None:
        """SECINFO of EADD: W needs R; a TCS may have permissions, PT_TRIM is no mistake yet."""
        k.need(EINVAL, r.reserved_zero, "reserved bits are 0")
        k.need(EINVAL, implies(has(r.perm, 2), has(r.perm, 1)), "W needs R")
        known = eq(r.pt, PT_REG) | eq(r.pt, PT_TCS) | eq(r.pt, PT_TRIM)
        k.need(EINVAL, known, "PT_REG, PT_TCS or PT_TRIM")

    @rule(_POSTED + "driver/ioctl.c sgx_validate_tcs()")
    def validate_tcs(self, k: Context, at: Any, r: Any) -> None:
        """A TCS is checked before it is queued; DBGOPTIN has to be 0."""
        k.need(EINVAL, r.tcs_valid, "TCS fields")

    @rule(_POSTED + "driver/ioctl.c sgx_encl_add_page(), sgx_encl_init()")
    def may_build(self, k: Context, at: Any, r: Any) -> None:
        """Between ECREATE and EINIT, of an enclave that is not dead."""
        k.need(EFAULT, at.enclave.created, "created")
        k.need(EFAULT, no(at.enclave.initialized), "not yet initialized")
        k.need(EFAULT, no(at.enclave.dead), "not dead")

    @rule(_POSTED + "driver/ioctl.c sgx_encl_page_alloc()", each=True)
    def add_page(self, k: Context, at: Any, r: Any) -> None:
        """ADD_PAGE as far as the caller hears of it: the page is queued for the worker."""
        k.need(EEXIST, no(at.page.present), "no page there yet")
        k.need(EFBIG, r.in_a_file, "the page's place is one of a file (mm/shmem.c)")
        k.need(EINVAL, r.backed, "the backing file has such a page")

    @rule(_POSTED + "driver/ioctl.c sgx_add_page_worker()", each=True)
    def add_page_worker(self, k: Context, at: Any, r: Any) -> None:
        """The worker's EADD: whatever stops here kills the enclave (sgx_encl_destroy())."""
        k.need(EFAULT, r.inside, "EADD: the page is in ELRANGE")
        k.need(EFAULT, no(eq(r.pt, PT_TRIM)), "EADD: PT_REG or PT_TCS")
        k.leaf(self.eadd, at, r, failed=EFAULT, faulted=EFAULT)

    @rule(_POSTED + "driver/ioctl.c sgx_encl_init(): secs_attributes")
    def may_init(self, k: Context, at: Any, r: Any) -> None:
        """INIT: attributes that were not authorized, before anything else is looked at."""
        k.need(EINVAL, r.attributes_allowed, "attributes that this enclave was allowed")

    @rule(_POSTED + "driver/ioctl.c sgx_encl_init()")
    def init(self, k: Context, at: Any, r: Any) -> None:
        """INIT, with the queue flushed: ``r.einit`` is EINIT's answer, and the ioctl's."""
        at.enclave.initialized = eq(r.einit, 0)

    @rule(_POSTED + "driver/ioctl.c sgx_ioc_enclave_set_attribute()")
    def provision(self, k: Context, at: Any, r: Any) -> None:
        """SET_ATTRIBUTE: the fd has to be an open /dev/sgx/provision."""
        k.need(EINVAL, r.fd_open, "an open fd")
        k.need(EINVAL, r.fd_is_provision, "an fd of /dev/sgx/provision")
