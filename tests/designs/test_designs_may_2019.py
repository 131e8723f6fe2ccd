"""v20, safe-to-execute and source-vma on the model."""

from __future__ import annotations

from errno import EACCES, ECANCELED, EEXIST, EFAULT, EFBIG, EINVAL, ENOTTY

import pytest

from softsgx.designs.linux import DEFAULT
from softsgx.designs.registry import DESIGNS, make_design
from softsgx.device.debugger import debug_access
from softsgx.errors import UsageError
from softsgx.mm.mmap import mmap
from softsgx.sdm.leaves import ATTR_DEBUG, ATTR_INIT, PT_REG, PT_TCS, PT_TRIM, SECINFO_PT_SHIFT
from softsgx.sdm.structs import SECINFO, TCS
from softsgx.uapi import sgx
from softsgx.uapi.mman import MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from tests.designs.designs_model import BASE, PAGE, RWX, SIZE, R, W, World, X

# -- v20 ---------------------------------------------------------------------------------


def add_page(
    w: World, page: int, perm: int = R, pt: int = PT_REG, data: bytes = b"", mask: int = 0
) -> int:
    secinfo = w.put(SECINFO.pack(flags=perm | pt << SECINFO_PT_SHIFT))
    src = w.put(data.ljust(PAGE, b"\0"))
    arg = sgx.ADD_PAGE_V20.pack(addr=BASE + page * PAGE, src=src, secinfo=secinfo, mrmask=mask)
    return w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20, arg)


def test_v20_wrong_state_is_efault() -> None:
    w = World("v20")
    assert add_page(w, 0) == -EFAULT
    assert w.create() == 0
    assert w.create() == -EFAULT
    assert add_page(w, 0) == 0
    w.initialized()
    assert add_page(w, 1) == -EFAULT


def test_v20_a_duplicate_is_eexist() -> None:
    w = World("v20")
    w.create()
    assert add_page(w, 0) == 0
    assert add_page(w, 0) == -EEXIST


def test_v20_what_add_page_checks_itself() -> None:
    w = World("v20")
    w.create()
    good = TCS.pack(fslimit=0xFFF, gslimit=0xFFF)
    assert add_page(w, 0, W) == -EINVAL
    assert add_page(w, 0, pt=3) == -EINVAL
    assert add_page(w, 0, 8) == -EINVAL
    assert add_page(w, 18) == -EINVAL
    assert add_page(w, -1) == -EFBIG
    assert add_page(w, 1, 0, PT_TCS, TCS.pack()) == -EINVAL  # limits
    assert add_page(w, 1, 0, PT_TCS, good[:16] + b"\x08" + good[17:]) == -EINVAL  # OSSA
    assert add_page(w, 1, 0, PT_TCS, good[:8] + b"\x01" + good[9:]) == -EINVAL  # DBGOPTIN
    assert add_page(w, 1, 0, PT_TCS, good) == 0
    assert w.file.enclave.dead == 0


def test_v20_eadd_is_asynchronous_and_kills() -> None:
    w = World("v20")
    w.create()
    assert add_page(w, 0, R, PT_TRIM) == 0
    assert add_page(w, 1) == -EFAULT
    assert w.file.enclave.dead == 1


def test_v20_a_page_behind_elrange_has_a_place_in_the_backing_file_and_kills() -> None:
    """The file has a page more for SECS, and one in thirty-two for what eviction notes."""
    for page in (16, 17):
        w = World("v20")
        w.create()
        assert add_page(w, page) == 0
        assert w.file.enclave.dead == 1


def test_v20_the_low_bits_of_an_address_are_dropped() -> None:
    w = World("v20")
    w.create()
    secinfo, src = w.put(SECINFO.pack(flags=R | PT_REG << SECINFO_PT_SHIFT)), w.put(bytes(PAGE))
    arg = sgx.ADD_PAGE_V20.pack(addr=BASE + PAGE + 8, src=src, secinfo=secinfo)
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_ADD_PAGE_V20, arg) == 0
    assert w.file.enclave.dead == 0
    assert add_page(w, 1) == -EEXIST


def test_v20_init_twice_is_efault() -> None:
    """Whatever EINIT has done to SECS.ATTRIBUTES."""
    w = World("v20")
    w.create()
    w.initialized()
    w.file.enclave.secs.attributes |= ATTR_INIT
    arg = sgx.ENCLAVE_INIT.pack(sigstruct=w.put(bytes(1808)))
    assert w.ioctl(sgx.SGX_IOC_ENCLAVE_INIT, arg) == -EFAULT


def test_v20_mrmask_measures_chunks() -> None:
    digests = set()
    for mask in (0, 1, 0x8000, 0xFFFF):
        w = World("v20")
        w.create()
        add_page(w, 0, data=b"\xcc" * PAGE, mask=mask)
        digests.add(w.file.enclave.measurement.digest())
    assert len(digests) == 4


def test_v20_the_length_is_a_power_of_two_and_the_place_aligned() -> None:
    w = World("v20")
    mm = w.process.mm
    for length, flags in (
        (3 * PAGE, MAP_SHARED),
        (PAGE, MAP_SHARED),
        (SIZE, MAP_PRIVATE),
        (SIZE, 3),
    ):
        assert mmap(mm, 0, length, R, flags, w.file).ret == -EINVAL
    assert mmap(mm, 0, SIZE, RWX, MAP_SHARED, w.file).value % SIZE == 0
    # MAP_FIXED is not looked at: the mapping goes to the next aligned place.
    at = BASE + 5 * PAGE
    assert mmap(mm, at, SIZE, RWX, MAP_SHARED | MAP_FIXED, w.file).value == BASE + SIZE
    assert mmap(mm, at, 3 * PAGE, R, MAP_SHARED | MAP_FIXED, w.file).ret == -EINVAL


def test_v20_no_page_limits_a_mapping_and_every_loader_needs_all() -> None:
    w = World("v20", held="read write execute")
    w.create()
    add_page(w, 0, R | X)
    w.initialized()
    w.lsm.asked.clear()
    assert w.mmap(0, RWX, 16) == 0
    assert w.lsm.take() == [("mmap_file", frozenset({"read", "write", "execute"}))]
    assert w.accessible(0) == R | X  # the EPCM
    for held in ("read write", "read execute"):
        w.lsm.held = set(held.split())
        assert w.mmap(0, RWX, 16) == -EACCES


def test_v20_faults_before_init_are_sigbus() -> None:
    w = World("v20")
    w.create()
    add_page(w, 0)
    w.mmap(0, R, 16)
    assert w.process.page_fault(BASE, 0).signal == 7
    w.initialized()
    assert w.process.page_fault(BASE, 0).signal == 0
    assert w.process.page_fault(BASE + PAGE, 0).signal == 7
    w.file.enclave.dead = 1
    assert w.process.page_fault(BASE, 0).signal == 7


def test_v20_a_debugger_sees_a_part_of_a_tcs() -> None:
    """Nothing behind GSLIMIT, and writes FLAGS alone (sgx_edbgrd(), sgx_edbgwr())."""
    w = World("v20")
    w.create()
    w.file.enclave.secs.attributes |= ATTR_DEBUG
    tcs = TCS.pack(fslimit=0xFFF, gslimit=0xFFF, nssa=3)
    assert add_page(w, 1, 0, PT_TCS, tcs) == 0
    assert add_page(w, 2, R) == 0
    w.mmap(0, R, 16)
    w.initialized()
    at = BASE + PAGE
    assert debug_access(w.process, at, 72) == tcs[:72]
    assert debug_access(w.process, at, 73) == -ECANCELED
    assert debug_access(w.process, at + 4095, 2) == -ECANCELED
    assert debug_access(w.process, at + 16, 8, bytes(8)) == -ECANCELED
    # A word that may be written was, before the one that may not.
    assert debug_access(w.process, at + 8, 16, b"\1" + bytes(15)) == -ECANCELED
    assert debug_access(w.process, at + 8, 1) == b"\1"
    assert debug_access(w.process, at + PAGE, PAGE) == bytes(PAGE)


# -- safe-to-execute ---------------------------------------------------------------------

EXECMOD = ("file_execmod", frozenset({"execmod"}))
EXECUTE = ("mmap_file", frozenset({"read", "execute"}))
READ = ("mmap_file", frozenset({"read"}))


def safe(option: str = "", init: bool = True) -> World:
    """Page 0 from an executable source, 1 from another; both RWX in the EPCM."""
    w = World("safe-to-execute" + option)
    w.create()
    w.region(0, RWX, prot=R | X)
    w.region(1, RWX, prot=R | W)
    if init:
        w.initialized()
    w.lsm.asked.clear()
    return w


def test_safe_is_set_by_an_executable_source() -> None:
    w = safe()
    assert [w.page(i)["safe"] for i in (0, 1)] == [1, 0]


def test_safe_pages_need_execute_others_execmod() -> None:
    w = safe()
    assert w.mmap(0, R | X) == 0
    assert w.lsm.take() == [EXECUTE]
    assert w.mmap(1, R | X) == 0
    assert w.lsm.take() == [EXECUTE, EXECMOD]
    assert w.mmap(8, R | X) == 0  # no page is there yet
    assert w.lsm.take() == [EXECUTE, EXECMOD]


def test_safe_a_writable_mapping_is_free_and_clears_the_bit() -> None:
    w = safe()
    assert w.mmap(0, R | W) == 0
    assert w.lsm.take() == [READ]
    assert w.page(0)["safe"] == 0
    assert w.mprotect(0, R | X) == 0
    assert w.lsm.take()[-1] == EXECMOD
    w.lsm.held.discard("execmod")
    assert w.mprotect(0, R) == 0
    assert w.mprotect(0, R | X) == -EACCES


def test_safe_w_while_it_is_executable_elsewhere() -> None:
    w = safe()
    other = w.process.fork()
    assert w.mmap(0, R | X, process=other) == 0
    w.lsm.take()
    assert w.mmap(0, R | W) == 0
    assert w.lsm.take() == [READ, EXECMOD]
    w = safe()
    w.mmap(0, R | X)
    w.lsm.take()
    # Its own mapping becomes another one: that is not at once.
    assert w.mprotect(0, R | W) == 0
    assert EXECMOD not in w.lsm.take()


def test_safe_a_mapping_that_ended_does_not_count() -> None:
    w = safe()
    other = w.process.fork()
    w.mmap(0, R | X, process=other)
    other.exit()
    w.lsm.take()
    assert w.mmap(0, R | W) == 0
    assert w.lsm.take() == [READ]


def test_safe_w_and_x_at_once() -> None:
    w = safe()
    assert w.mmap(0, RWX) == 0
    assert w.lsm.take() == [EXECUTE, EXECMOD]


def test_safe_a_refusal_leaves_the_bit() -> None:
    w = safe()
    w.lsm.held.discard("execmod")
    assert w.mmap(0, RWX) == -EACCES
    assert w.page(0)["safe"] == 1


@pytest.mark.parametrize(("option", "bit"), [(":clear=initialized", 1), (":clear=always", 0)])
def test_safe_option_clear(option: str, bit: int) -> None:
    w = safe(option, init=False)
    w.mmap(0, R | W)
    assert w.page(0)["safe"] == bit
    # W and X at once in two mappings needs EXECMOD either way.
    other = w.process.fork()
    w.lsm.take()
    w.mmap(0, R | X, process=other)
    assert EXECMOD in w.lsm.take()


def test_safe_only_the_pages_of_the_mapping_lose_the_bit() -> None:
    w = World("safe-to-execute")
    w.create()
    w.region(0, R, 8, prot=R | X)
    w.initialized()
    w.mmap(0, 0, 16)
    w.mmap(2, R | X)
    w.mprotect(3, R | W, 2)
    assert [w.page(i)["safe"] for i in range(8)] == [1, 1, 1, 0, 0, 1, 1, 1]
    assert {w.page(i)["mapped"] for i in range(8)} == {0}


# -- source-vma --------------------------------------------------------------------------


def snapshot(option: str = "") -> World:
    """Page 0 from RX, 1 from RW (all of VM_MAY*)."""
    w = World("source-vma" + option)
    w.create()
    w.region(0, RWX, prot=R | X)
    w.region(1, RWX, prot=R | W)
    w.initialized()
    w.lsm.asked.clear()
    return w


def test_source_within_the_bound_only_read_is_asked() -> None:
    w = snapshot()
    assert w.mmap(0, R | X) == 0
    assert w.mmap(1, R | W) == 0
    assert w.lsm.take() == [READ, READ]
    assert w.mprotect(1, R) == 0
    assert w.lsm.take() == [("file_mprotect", frozenset({"read"}))]


def test_source_above_the_bound_the_ordinary_checks() -> None:
    w = snapshot()
    assert w.mmap(0, R | W) == 0
    assert w.mmap(1, R | X) == 0
    assert w.lsm.take() == [("mmap_file", frozenset({"read", "write"})), EXECUTE]
    w.lsm.held = {"read"}
    assert w.mmap(1, R | X) == -EACCES
    assert w.mmap(0, R | X) == 0


def test_source_of_every_page_of_the_range() -> None:
    w = snapshot()
    assert w.mmap(0, R, 2) == 0
    assert w.lsm.take() == [READ]
    assert w.mprotect(0, R | X, 2) == 0
    assert w.lsm.take() == [("file_mprotect", frozenset({"read", "execute"}))]
    # Where no page is, nothing has passed the LSM yet.
    w.lsm.held = {"read"}
    assert w.mmap(0, R | X, 4) == -EACCES


def test_source_option_snapshot_may() -> None:
    w = snapshot(":snapshot=may")
    assert w.page(1)["bound"] == RWX
    w.mmap(1, RWX)
    assert w.lsm.take() == [READ]


def test_source_pages_made_by_eaug_have_no_bound() -> None:
    w = snapshot()
    assert w.region(5, R | W) == 0
    assert w.page(5)["bound"] == 0
    w.lsm.take()
    w.mmap(5, R | W)
    assert w.lsm.take() == [("mmap_file", frozenset({"read", "write"}))]


# -- the registry ------------------------------------------------------------------------


def test_every_design_of_the_seed_can_be_selected() -> None:
    names = {"v20", "safe-to-execute", "source-vma", "segments", "ioc-mprotect"}
    assert names | {"linux-5.11", "linux-6.0"} <= set(DESIGNS)
    assert next(iter(DESIGNS)) == DEFAULT.name == "linux-6.12"
    assert [c for c in DESIGNS.values() if c.title.endswith("; the default")] == [DEFAULT]
    for cls in DESIGNS.values():
        for option, values in cls.options.items():
            for value in values:
                assert make_design(f"{cls.name}:{option}={value}").chosen[option] == value
        with pytest.raises(UsageError):
            make_design(f"{cls.name}:nonsense=1")


def test_the_rows_of_a_design_are_its_rules() -> None:
    def numbers(design: str) -> set[int]:
        return {cmd & 0xFF for cmd in World(design).device.ioctls}

    sgx2 = {0, 2, 3, 5, 6, 7}
    assert numbers("v20") == {0, 1, 2, 3}
    assert numbers("linux-6.12") == numbers("linux-6.0") == sgx2 | {1}
    assert numbers("safe-to-execute") == numbers("source-vma") == sgx2 | {1, 0x20}
    assert numbers("segments") == sgx2 | {0x20, 0x23, 0x24}
    assert numbers("ioc-mprotect") == sgx2 | {0x20, 0x21, 0x22}
    w = World("linux-6.0")
    assert w.ioc_mprotect(0, R) == w.segment_fd(R) == -ENOTTY
