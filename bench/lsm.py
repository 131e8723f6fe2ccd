"""What a question of a hook costs, from a design's rule to the errno.

Run: ``PYTHONPATH=src python bench/lsm.py [policy]``: the policy that softsgx ships, and
where the tests' cache has it (``python -m tests.debian_policy``) Debian's. The best of
five rounds counts. Asked before: the same question again, through `Run`, the engine's side
and its memory. New: the hook's whole text, each access vector looked up in the cache of
the policy. First: the access vectors computed by libsepol, too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softsgx.errors import SoftsgxError
from softsgx.law.rule import At, Run
from softsgx.mm.rules import VMA
from softsgx.mm.vma import Vma
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.apparmor_lsm import AppArmorLsm
from softsgx.policy.labels import PathLabels
from softsgx.policy.lsm import PolicyLsm
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context

ROUNDS, COUNT = 5, 50_000
PROFILE = "abi <abi/3.0>,\nprofile bench { /dev/sgx_enclave rwm, }\n"


class File:
    """An open device."""

    special, noexec, enclave = True, 0, None
    path, fmode = "/dev/sgx_enclave", 3

    def __init__(self) -> None:
        self.security: Any = None


class Process:
    """Who asks."""

    def __init__(self, label: str) -> None:
        self.label = label


def best_us(work: Callable[[], object], count: int = 1) -> float:
    """The fastest of the rounds, in microseconds for each of `count`."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e6


def measure(lsm: PolicyLsm, label: str) -> None:
    """Print the times of one engine."""
    run, file = Run(lsm), File()
    process = Process(label)
    at = At(file=file, process=process, area=None, vma=None)
    run.ask("file_open", at, fmode=3)
    area = Vma(0x10000, 0x20000, 1, shared=True, special=True, file=file)
    of_vma = At(file=file, process=process, area=area, vma=area.cell(VMA))
    questions: dict[str, Callable[[], None]] = {
        "mmap_file": lambda: run.ask("mmap_file", at, reqprot=5, prot=5, map_type=1),
        "file_mprotect": lambda: run.ask("file_mprotect", of_vma, reqprot=5, prot=5),
        "file_ioctl": lambda: run.ask("file_ioctl", at, cmd=0xC030A401),
    }
    for name, ask in questions.items():

        def again(ask: Callable[[], None] = ask) -> None:
            for _ in range(COUNT):
                ask()

        def new(ask: Callable[[], None] = ask) -> None:
            lsm.forget()
            ask()

        times = f"asked before {best_us(again, COUNT):6.2f} us, new {best_us(new):7.1f} us"
        if isinstance(lsm, SELinuxLsm):
            policy = lsm.policy

            def first(ask: Callable[[], None] = ask, policy: SELinuxPolicy = policy) -> None:
                policy.forget()
                lsm.forget()
                ask()

            times += f", first {best_us(first):8.1f} us"
        print(f"  {name:14} {times}")


def selinux(path: str) -> None:
    """Load a policy; measure a domain that may do all of it."""
    start = time.perf_counter()
    policy = SELinuxPolicy.load(path)
    print(f"{path}: loaded in {(time.perf_counter() - start) * 1e3:.0f} ms")
    context = full_context(policy, "unconfined_t")
    labels = PathLabels(policy, xattrs=False)
    measure(SELinuxLsm(policy, labels, context), context)
    labels.close()
    policy.close()


def apparmor() -> None:
    """Compile a profile and measure it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "profile"
        path.write_text(PROFILE)
        policy = AppArmorPolicy.load(str(path))
    print("AppArmor")
    measure(AppArmorLsm(policy, "bench"), "bench")


def main() -> None:
    """Measure what can be measured here; say what cannot."""
    policies = sys.argv[1:]
    if not policies:
        cache = Path(__file__).resolve().parent.parent / ".cache" / "debian-selinux-policy"
        policies = [MINIMAL, *map(str, cache.glob("etc/selinux/default/policy/policy.*"))]
    for path in policies:
        try:
            selinux(path)
        except SoftsgxError as error:
            print(error)
    try:
        apparmor()
    except SoftsgxError as error:
        print(error)


if __name__ == "__main__":
    main()
