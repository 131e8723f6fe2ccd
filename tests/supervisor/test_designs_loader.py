"""The sample loader of the designs: each variant under each, and whom a policy tells apart."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest

from tests.cache import ROOT, build, cache_directory, locked
from tests.command import Softsgx

DESIGNS = [
    "v20",
    "linux-6.0",
    "safe-to-execute",
    "source-vma",
    "segments",
    "ioc-mprotect",
    "maxperm",
    "sigstruct-proxy",
    "execute-intent",
    "allowed-prot",
    "ema",
    "fsm",
    "sgx2-v2",
]
SAYS = {
    "file": "the enclave says: hello, you\n",
    "generated": "the enclave says: hello, you\n",
    "heap": "read back from the heap: you\n",
    "dynamic": "the code written inside returns 42\n",
}


@pytest.fixture(scope="session")
def loader() -> Path:
    output = cache_directory("designs")
    with locked(output):
        build(["make", "-s", "-C", ROOT / "examples" / "designs", f"OUT={output}"])
    return output / "loader"


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("variant", SAYS)
def test_each_variant(softsgx: Softsgx, loader: Path, design: str, variant: str) -> None:
    done = softsgx("--design", design, "--", loader, design, variant)
    if design == "v20" and variant in ("heap", "dynamic"):
        assert (done.returncode, done.stderr) == (3, "loader: v20 has no SGX2\n")
    elif design == "sgx2-v2" and variant == "dynamic":
        assert (done.returncode, done.stderr) == (
            3,
            "loader: sgx2-v2 has no code in pages of EAUG\n",
        )
    else:
        assert (done.stdout, done.returncode) == (SAYS[variant], 0), done.stderr


@pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None or ctypes.util.find_library("selinux") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1",
)
@pytest.mark.parametrize(
    ("design", "off", "stopped"),
    [
        # Which variants loader_t cannot run without one of its permissions.
        ("v20", "execute", {"file": "mmap of the device", "generated": "mmap of the device"}),
        ("linux-6.0", "execute", {"file": "mmap of the device", "heap": "mmap of the device"}),
        (
            "safe-to-execute",
            "execmod",
            {"generated": "mmap of the device", "dynamic": "mmap of the device"},
        ),
        (
            "source-vma",
            "execute",
            {"generated": "mmap of the device", "dynamic": "mmap of the device"},
        ),
        # A page that is written and executed may not even be added.
        ("maxperm", "execmod", {"dynamic": "ADD_REGION"}),
        # X of a page that may be written takes EXECMOD of SIGSTRUCT's file, nothing else.
        ("sigstruct-proxy", "enclave_execmod", {"dynamic": "mprotect"}),
        ("sigstruct-proxy", "enclave_execute", dict.fromkeys(SAYS, "mprotect")),
        # A page that was written is DIRTY; nobody asks when it is mapped.
        ("fsm", "execmod", {"generated": "mmap of the device", "dynamic": "mmap of the device"}),
        # One of EXECUTE, EXECMOD and EXECMEM for code, EXECMEM for what is W and X at once.
        ("execute-intent", "execmem", {"generated": "ADD_REGION", "dynamic": "mmap of the device"}),
        # Its segment may not even be made.
        ("segments", "wx_segment", {"dynamic": "ADD_REGION"}),
        # The source bounds the first; the second would need WRITE (here: EXECMEM, see LSMs).
        (
            "ioc-mprotect:source=prot,open=rdonly",
            "write",
            {"generated": "MPROTECT", "dynamic": "MPROTECT"},
        ),
    ],
)
def test_told_apart(
    softsgx: Softsgx, loader: Path, design: str, off: str, stopped: dict[str, str]
) -> None:
    policy = ("--selinux", "minimal", "--context", "loader_t", "--boolean", f"sgx_loader_{off}=off")
    for variant, said in SAYS.items():
        if variant not in stopped and design in ("v20", "linux-6.0"):
            continue
        name, _, options = design.partition(":")
        mode = ["rdonly"] if "rdonly" in options else []
        done = softsgx("--design", design, *policy, "--", loader, name, variant, *mode)
        if variant in stopped:
            errno = "EPERM" if design == "fsm" else "EACCES"
            assert done.stderr == f"loader: {stopped[variant]}: {errno}\n"
        else:
            assert (done.stdout, done.stderr) == (said, "")
