"""sgx2-v2 on real processes: the flows of its own selftests, and loaders of what was merged."""

from __future__ import annotations

import ctypes.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.orders import Script, load

DESIGN = "sgx2-v2"


@pytest.fixture
def script(softsgx: Softsgx, guest: Callable[[str], Path]) -> Script:
    return Script(softsgx, guest)


def test_17_epcm_permissions(script: Script) -> None:
    """[PATCH V2 17/32] (7 February 2022): its points 1 to 8, and one mapping more."""
    script(
        DESIGN,
        *load(DESIGN, "p0 src=anon_rw perm=rw"),
        """
        0 mmap e p0 rw -> 0
        0 poke p0 7 -> 0
        0 restrict e p0 r v2 -> 0
        0 accept p0 r restricted -> 0
        0 poke p0 8 -> fault 14 0x7
        0 emodpe p0 rw -> 0x6
        0 poke p0 8 -> fault 14 0x7
        0 mmap e p0 rw -> EACCES
        0 relax e p0 rw -> 0
        0 mmap e p0 rw -> 0
        0 poke p0 8 -> 0
        0 peek p0 -> 0xc3c3c300000008b8
        """,
    )


def test_18_a_tcs_cannot_be_changed(script: Script) -> None:
    """[PATCH V2 18/32] (7 February 2022)."""
    script(DESIGN, *load(DESIGN), "0 restrict e tcs r v2 -> EINVAL\n0 relax e tcs rw -> EINVAL")


def test_21_augment(script: Script) -> None:
    """[PATCH V2 21/32] (7 February 2022): by a write, and by EACCEPT that comes first."""
    script(
        DESIGN,
        *load(DESIGN),
        """
        0 mmap e p0 rwx -> 0
        0 poke p0 7 -> fault 14 0x8007
        0 accept p0 rw pending -> 0
        0 poke p0 7 -> 0
        0 mmap e p1 rwx -> 0
        0 accept p1 rw pending -> 0
        0 poke p1 7 -> 0
        0 emodpe p1 rwx -> 0x6
        0 relax e p1 rwx -> EPERM
        0 mprotect p1 rx -> EACCES
        """,
    )
    script(
        DESIGN + ":eaug=rwx",
        *load(DESIGN),
        """
        0 mmap e p1 rwx -> 0
        0 accept p1 rw pending -> 0
        0 poke p1 7 -> 0
        0 emodpe p1 rwx -> 0x6
        0 relax e p1 rwx -> 0
        0 call p1 -> 0x7
        """,
    )


def test_27_a_page_becomes_a_tcs_and_goes(script: Script) -> None:
    """[PATCH V2 27/32] (7 February 2022), as far as its calls go."""
    script(
        DESIGN,
        *load(DESIGN, "p0 src=anon_rw perm=rw content=tcs", "p1 src=anon_rw perm=rw"),
        """
        0 mmap e p0 rw -> 0
        0 mmap e p1 rw -> 0
        0 totcs e p0 v2 -> 0
        0 accept p0 - tcs -> 0
        0 totcs e p0 v2 -> EINVAL
        0 trim e p1 v2 -> 0
        0 remove e p1 v2 -> EPERM
        0 accept p1 - trim -> 0
        0 remove e p1 v2 -> 0
        0 remove e p1 v2 -> EFAULT
        """,
    )


def test_a_loader_of_linux_6_0_breaks_at_its_numbers(script: Script) -> None:
    """0x06 is RESTRICT: MODIFY_TYPES passes a page type where a SECINFO's address is expected."""
    script(
        DESIGN,
        *load(DESIGN, "p0 src=anon_rw perm=rw"),
        """
        0 mmap e p0 rw -> 0
        0 restrict e p0 r -> ENOTTY
        0 trim e p0 -> EFAULT
        0 remove e p0 -> ENOTTY
        """,
    )


def test_carried_out_it_does_not(softsgx: Softsgx, guest: Callable[[str], Path]) -> None:
    """The kernel is told of EMODPE when an access or a mapping takes it, and of nothing beyond."""
    Script(softsgx, guest, "--carry-out")(
        DESIGN,
        *load(DESIGN, "p0 src=anon_rw perm=rwx", "p1 src=anon_rw perm=rw"),
        """
        0 mmap e p0 rwx -> 0
        0 poke p0 7 -> 0
        0 restrict e p0 r -> 0
        0 accept p0 r restricted -> 0
        0 poke p0 8 -> fault 14 0x7
        0 emodpe p0 rw -> 0x6
        0 poke p0 8 -> 0
        0 emodpe p0 rx -> 0x6
        0 call p0 -> 0x8
        0 mprotect p0 r -> 0
        0 mprotect p0 rx -> 0
        0 call p0 -> 0x8
        0 mmap e p1 rw -> 0
        0 emodpe p1 rx -> 0x6
        0 mprotect p1 rx -> EACCES
        0 trim e p1 -> 0
        0 accept p1 - trim -> 0
        0 remove e p1 -> 0
        """,
    )


def test_what_one_process_tells_the_kernel_holds_for_all(script: Script) -> None:
    """vm_run_prot_bits are the page's, not a mapping's: whoever has the fd may change them."""
    script(
        DESIGN,
        *load(DESIGN, "p0 src=anon_rw perm=rw"),
        """
        0 mmap e p0 rw -> 0
        0 poke p0 7 -> 0
        0 fork 1 -> 0
        1 relax e p0 r -> 0
        0 poke p0 8 -> fault 14 0x7
        0 relax e p0 rw -> 0
        1 poke p0 8 -> 0
        """,
    )


@pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1",
)
def test_a_recording_has_the_series_names(
    softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    """0xC028A406 is MODIFY_TYPES in what was merged."""
    record = tmp_path / "record"
    args = ("--selinux", "minimal", "--context", "loader_t", "--record", record)
    lines = [*load(DESIGN, "p0 src=anon_rw perm=rw"), "0 restrict e p0 r v2 -> 0"]
    Script(softsgx, guest, *args)(DESIGN, *lines)
    for command in ("show", "explain"):
        said = softsgx.command(command, record).stdout
        assert "SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS" in said
        assert "MODIFY_TYPES" not in said
