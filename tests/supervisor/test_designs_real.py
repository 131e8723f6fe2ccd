"""The designs on real processes: what a program is answered, and what its enclave can really do.

Each test is named after the point of the design that it holds; the same points on the
model alone are in test_designs_*.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Softsgx
from tests.orders import Script, load, mapped

ALL = [
    "v20", "safe-to-execute", "source-vma", "segments", "ioc-mprotect", "maxperm",
    "sigstruct-proxy", "sigstruct-proxy:mail=24-may", "execute-intent", "allowed-prot", "fsm",
    "ema", "sgx2-v2", "linux-6.12",
]  # fmt: skip
SEED = [
    "safe-to-execute", "source-vma", "segments", "ioc-mprotect", "maxperm", "allowed-prot", "ema",
    "fsm",
]  # fmt: skip


@pytest.fixture
def script(softsgx: Softsgx, guest: Callable[[str], Path]) -> Script:
    return Script(softsgx, guest)


@pytest.mark.parametrize("design", ALL)
def test_one_enclave_under_each_design(script: Script, design: str) -> None:
    adds = ["p0 src=file_rx perm=rx", "p1 src=anon_rw perm=rw"]
    if design in ("segments", "maxperm", "allowed-prot"):
        adds = ["p0 src=file_rx perm=rx segment=rx", "p1 src=anon_rw perm=rw segment=rw"]
    if design == "execute-intent":
        adds[0] += " segment=x"
    if design == "sigstruct-proxy":
        adds[1] += " segment=w"
    how = {
        "ioc-mprotect": "0 iocmprotect e p0 rx -> 0\n0 iocmprotect e p1 rw -> 0",
        "segments": "0 mapsegment e p0 rx rx -> 0\n0 mapsegment e p1 rw rw -> 0",
        "v20": "",
        "sigstruct-proxy": "0 mprotect p0 rx -> 0\n0 mprotect p1 rw -> 0",
    }.get(design, "0 mmap e p0 rx -> 0\n0 mmap e p1 rw -> 0")
    script(
        design,
        *load(design, *adds),
        how,
        """
        0 enter -> 0
        0 call p0 -> 0x1000
        0 poke p1 7 -> 0
        0 peek p1 -> 0xc3c3c300000007b8
        0 poke p0 7 -> fault 14 %s
        0 fork 1 -> 0
        1 peek p1 -> 0xc3c3c300000007b8
        1 call p0 -> 0x1000
        """
        % ("0x8007" if design == "v20" else "0x7"),
    )


def test_v20_paths_and_numbers(script: Script) -> None:
    script(
        "v20",
        """
        0 open e rw /dev/sgx_enclave -> ENOENT
        0 open e rw /dev/sgx/enclave -> 0
        0 open p rw /dev/sgx/provision -> 0
        0 ioctl e 0xc030a401 0 -> ENOTTY
        0 ioctl e 0xc038a420 0 -> ENOTTY
        0 ioctl e 0xc028a405 0 -> ENOTTY
        0 ioctl e 0x401aa401 8 -> EFAULT
        """,
    )


def test_v20_mmap_aligns_to_the_size_even_if_fixed(script: Script) -> None:
    script(
        "v20",
        """
        0 open e rw -> 0
        0 create e -> 0
        0 mmap e p0+3 - -> EINVAL
        0 mmap e p0 - -> EINVAL
        0 mmap e all - any -> aligned 1
        0 mmap e all - -> 0
        """,
    )


def test_v20_a_failed_eadd_kills_the_enclave(script: Script) -> None:
    script(
        "v20",
        """
        0 open e rw -> 0
        0 create e -> 0
        0 add e p0 via=v20 perm=r type=4 -> 0
        0 add e p1 via=v20 perm=r -> EFAULT
        0 init e -> EFAULT
        0 mmap e all rwx -> 0
        """,
    )


def test_v20_faults_before_init_are_sigbus(script: Script) -> None:
    script(
        "v20",
        """
        0 open e rw -> 0
        0 create e -> 0
        0 mmap e all rw -> 0
        0 add e p0 via=v20 perm=rw -> 0
        0 touch p0 -> signal 7
        0 touch p1 -> signal 7
        0 mprotect p0 - -> 0
        0 touch p0 -> signal 11
        """,
    )


def test_v20_asks_for_nothing_between_the_pages_and_the_loader(script: Script) -> None:
    script(
        "v20",
        *load("v20", "p0 src=anon_rw perm=rwx"),
        "0 poke p0 7 -> 0",
        "0 call p0 -> 0x7",
    )


def test_ioc_mprotect_points_3_to_6(script: Script) -> None:
    design = "ioc-mprotect"
    script(
        design,
        *load(design, "p0 src=file_rx perm=rx", "p1 src=anon_rw perm=rw"),
        """
        0 mmap e p8 r -> EACCES
        0 mmap e p9 x -> EACCES
        0 mprotect p0 r -> EACCES
        0 iocmprotect e p0 rx -> 0
        0 mprotect p0 r -> EACCES
        0 call p0 -> 0x1000
        0 mremap p0 p4 -> EINVAL
        0 iocmprotect e p2 r -> ENOMEM
        0 iocmprotect e p0+3 - -> ENOMEM
        0 iocmprotect e p0 - -> 0
        0 call p0 -> fault 14 0x14
        0 munmap p0 -> 0
        0 iocmprotect e p0 r -> ENOMEM
        """,
    )


def test_ioc_mprotect_point_2_bounds_by_the_source(script: Script) -> None:
    # A shared mapping of a file opened for reading has no VM_MAYWRITE, all other sources have.
    adds = ["p0 src=shared_r perm=rwx", "p1 src=anon_r perm=rwx", "p2 src=shared_rw perm=rwx"]
    script(
        "ioc-mprotect",
        *load("ioc-mprotect", *adds),
        """
        0 iocmprotect e p0 rx -> 0
        0 call p0 -> 0x1000
        0 iocmprotect e p0 rw -> EACCES
        0 iocmprotect e p1 rwx -> 0
        0 iocmprotect e p2 rwx -> 0
        0 extend e p0 w -> 0
        0 iocmprotect e p0 rw -> 0
        0 poke p0 7 -> 0
        """,
    )
    script(
        "ioc-mprotect:source=prot",
        *load("ioc-mprotect", *adds),
        """
        0 iocmprotect e p0 rx -> EACCES
        0 iocmprotect e p0 r -> 0
        0 iocmprotect e p1 rw -> EACCES
        0 iocmprotect e p2 rw -> 0
        """,
    )


def test_a_noexec_source_has_no_vm_mayexec(script: Script, noexec: dict[str, str]) -> None:
    build, base = load("ioc-mprotect", "p0 src=file_r perm=rx"), 3
    script(
        "ioc-mprotect",
        *build[:base],
        "0 noexec -> 0",
        *build[base:],
        """
        0 iocmprotect e p0 rx -> EACCES
        0 iocmprotect e p0 rw -> 0
        """,
        env=noexec,
    )
    script(
        "linux-6.12",
        """
        0 open e rw -> 0
        0 create e -> 0
        0 noexec -> 0
        0 add e p0 src=file_r perm=rx via=pages -> EACCES
        0 add e p0 src=file_rx perm=rx via=pages -> EPERM
        """,
        env=noexec,
    )


@pytest.mark.parametrize(("option", "answer"), [("rdwr", "EACCES"), ("rdonly", "0")])
def test_ioc_mprotect_option_open(script: Script, option: str, answer: str) -> None:
    name = "ioc-mprotect"
    lines = [line for line in load(name, "p0 perm=rw", mode="r") if "iocmprotect" not in line]
    script(f"{name}:open={option}", *lines, f"0 iocmprotect e p0 rw -> {answer}")


def test_ioc_mprotect_point_7_a_heap_that_grows(script: Script) -> None:
    script(
        "ioc-mprotect",
        *load("ioc-mprotect"),
        """
        0 aug e p0 via=region perm=rw -> 0
        0 aug e p0 via=region perm=rw -> EBUSY
        0 iocmprotect e p0 rwx -> EACCES
        0 iocmprotect e p0 rw -> 0
        0 peek p0 -> fault 14 0x8005
        0 accept p0 rw pending -> 0
        0 poke p0 5 -> 0
        0 call p0 -> fault 14 0x15
        0 emodpe p0 x -> 0x6
        0 iocmprotect e p0 rx -> EACCES
        0 extend e p0 x -> 0
        0 iocmprotect e p0 rx -> 0
        0 call p0 -> 0x5
        """,
    )


def test_segments_points_1_to_5(script: Script) -> None:
    script(
        "segments",
        """
        0 open e rw -> 0
        0 mmap e all - -> EINVAL
        0 create e -> 0
        0 mmap e p0 - -> EINVAL
        0 mmap e all r -> EACCES
        0 mmap e all - any -> aligned 1
        0 add e base via=region segment=auto -> 0
        0 add e p0 via=region perm=rx -> EINVAL
        0 add e p0 via=region perm=rx segment=r -> EINVAL
        0 add e p0 via=region perm=rx segment=rx -> 0
        0 add e p1 via=region perm=rw segment=rw -> 0
        0 add e p2 via=region perm=r segment=rwx -> 0
        0 add e p0 via=region perm=rx segment=rx -> EBUSY
        0 init e -> 0
        """,
        *mapped("segments"),
        """
        0 mprotect p0 r -> EACCES
        0 mprotect p0 - -> EACCES
        0 mremap p0 p3 -> EINVAL
        0 mapsegment e p0 x x -> ENOENT
        0 mapsegment e p0 rw r -> EACCES
        0 mapsegment e p0+2 rx r -> EACCES
        0 mapsegment e p3 rx r -> ENOMEM
        0 mapsegment e p0 rx rw -> EACCES
        0 mapsegment e p0 rx r -> 0
        0 mprotect p0 rw -> EACCES
        0 call p0 -> fault 14 0x15
        0 mprotect p0 rx -> 0
        0 call p0 -> 0x1000
        0 mremap p0 p1 -> EINVAL
        0 mremap p0 p5 -> EINVAL
        0 mapsegment e p2 rwx rwx -> 0
        0 segmentfd e s r -> ENOENT
        0 segmentfd e s rw -> 0
        0 mmap s p1 rwx -> EACCES
        0 mmap s p0 rw -> EACCES
        0 mmap s p1 rw -> 0
        0 ioctl s 0x4008a400 0 -> ENOTTY
        0 poke p1 3 -> 0
        0 fork 1 -> 0
        1 munmap all -> 0
        0 send s 1 -> 0
        1 recv t -> 0
        1 mmap t p1 r -> 0
        """,
    )


def test_segments_an_fd_keeps_the_enclave(script: Script) -> None:
    script(
        "segments",
        *load("segments", "p0 src=anon_rw perm=rw segment=rw"),
        """
        0 segmentfd e s rw -> 0
        0 mapsegment e p0 rw rw -> 0
        0 poke p0 8 -> 0
        0 close e -> 0
        0 fork 1 -> 0
        1 munmap all -> 0
        0 munmap p0 -> 0
        0 open e rw -> 0
        0 mmap s p0 rw -> 0
        0 peek p0 -> 0xc3c3c300000008b8
        """,
    )


def test_safe_to_execute_sees_the_mappings_of_other_processes(script: Script) -> None:
    # Without an LSM nothing is refused: what is held is that the bit and the mappings are real.
    script(
        "safe-to-execute",
        *load("safe-to-execute", "p0 src=file_rx perm=rwx", "p1 src=anon_rw perm=rwx"),
        """
        0 mmap e p0 rx -> 0
        0 fork 1 -> 0
        1 mmap e p0 rw -> 0
        1 poke p0 3 -> 0
        1 call p0 -> fault 14 0x15
        0 call p0 -> 0x3
        1 mprotect p0 rx -> 0
        1 call p0 -> 0x3
        """,
    )


@pytest.mark.parametrize("design", ["safe-to-execute", "source-vma"])
def test_a_loader_for_linux_runs_as_it_is(
    softsgx: Softsgx, guest: Callable[[str], Path], design: str
) -> None:
    done = softsgx("--design", design, "--", guest("intel_like"))
    assert (done.returncode, "not ok" in done.stdout) == (0, False), done.stdout + done.stderr


def test_another_program_that_never_opened_the_device(
    script: Script, guest: Callable[[str], Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.symlink_to(guest("orders"))
    script(
        "ioc-mprotect",
        *load("ioc-mprotect", "p0 src=file_rx perm=rx"),
        f"""
        0 spawn 1 {other} -> 0
        0 send e 1 -> 0
        1 recv f -> 0
        """,
        *mapped("ioc-mprotect", 1, "f"),
        """
        1 iocmprotect f p0 rx -> 0
        1 call p0 -> 0x1000
        0 call p0 -> fault 14 0x14
        1 extend f p0 w -> 0
        0 iocmprotect e p0 rw -> 0
        """,
    )
    script(
        "segments",
        *load("segments", "p0 src=file_rx perm=rx segment=rx"),
        f"""
        0 spawn 1 {other} -> 0
        0 segmentfd e s rx -> 0
        0 send s 1 -> 0
        1 recv f -> 0
        1 mmap f p0 rx -> 0
        1 mprotect p0 rw -> EACCES
        1 mprotect p0 r -> 0
        """,
    )


@pytest.mark.parametrize(
    ("option", "other", "same"),
    [("deny", "EBUSY", "EBUSY"), ("same-segment", "EBUSY", "0")],
)
def test_segments_option_readd(script: Script, option: str, other: str, same: str) -> None:
    script(
        f"segments:readd={option}",
        f"""
        0 open e rw -> 0
        0 create e -> 0
        0 add e base via=region segment=auto -> 0
        0 add e p0 via=region perm=rx segment=rx -> 0
        0 add e p0 via=region perm=rx segment=rwx -> {other}
        0 add e p0 via=region perm=rx segment=rx value=7 -> {same}
        0 init e -> 0
        """,
        *mapped("segments"),
        "0 mapsegment e p0 rx rx -> 0",
        f"0 call p0 -> {'0x7' if same == '0' else '0x1000'}",
    )


def test_segments_option_mmap_before_ecreate(script: Script) -> None:
    script(
        "segments:mmap_before_ecreate=on",
        """
        0 open e rw -> 0
        0 mmap e all - -> 0
        0 create e -> 0
        0 mprotect all r -> EACCES
        0 mmap e all r -> EACCES
        """,
    )


def test_create_with_sigstruct_is_an_ioctl_of_sigstruct_proxys_mail_of_30_may(
    script: Script,
) -> None:
    for design in ("sigstruct-proxy", "sigstruct-proxy:mail=24-may", "maxperm"):
        own = design == "sigstruct-proxy"
        script(
            design,
            f"""
            0 open e rw -> 0
            0 ioctl e 0x4010a425 8 -> {"EFAULT" if own else "ENOTTY"}
            0 create e -> {"ENOTTY" if own else "0"}
            """,
        )


@pytest.mark.parametrize("design", SEED)
def test_numbers_of_another_design_are_enotty(script: Script, design: str) -> None:
    own = {
        "ioc-mprotect": {0x4018A421, 0x4018A422},
        "segments": {0x4020A423, 0x4010A424},
        "maxperm": set(),
        "allowed-prot": set(),
    }.get(design, {0xC030A401})
    every = (0x4018A421, 0x4018A422, 0x4020A423, 0x4010A424, 0xC030A401, 0x401AA401)
    lines = [f"0 ioctl e {n:#x} 8 -> {'EFAULT' if n in own else 'ENOTTY'}" for n in every]
    if design in ("safe-to-execute", "source-vma", "ema", "fsm"):
        lines = [line.replace("0xc030a401 8 -> EFAULT", "0xc030a401 8 -> EINVAL") for line in lines]
    script(
        design,
        "0 open e rw /dev/sgx_enclave -> 0",
        "0 open f r /dev/sgx/provision -> 0",
        *lines,
        "0 ioctl f 0x4008a400 0 -> ENOTTY",
        "0 ioctl e 0xc038a420 8 -> EINVAL",
        "0 create e -> 0",
        "0 ioctl e 0xc038a420 8 -> EFAULT",
    )
