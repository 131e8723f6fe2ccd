"""How fast the LSM engines load and decide.

Run: ``PYTHONPATH=src python bench/policy.py [compiled policy]``. Without an argument the
policies are the one that softsgx ships and, where the tests' cache has it
(``python -m tests.debian_policy``), Debian's. The best of five rounds counts.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from softsgx.errors import SoftsgxError
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy

ROUNDS, CACHED, UNCACHED = 5, 100_000, 2_000
PERMS = ("read", "execute")
PROFILE = """abi <abi/3.0>,
profile bench { /dev/sgx_enclave rwm, owner /home/*/*.so mr, /usr/lib/** mr, deny /usr/lib/x m, }
"""


def best_us(work: Callable[[], object], count: int) -> float:
    """The fastest of the rounds, in microseconds for each of `count`."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e6


def selinux(path: str) -> None:
    """Print one policy's times: loading, its text, a new question, an answered one."""
    start = time.perf_counter()
    policy = SELinuxPolicy.load(path)
    loaded = time.perf_counter()
    types = [item.line[len("(type ") : -1] for item in policy.text.statements("type")]
    read = time.perf_counter()
    contexts = [
        context for name in types if policy.valid(context := f"system_u:object_r:{name}:s0")
    ]
    domains = [context for name in types if policy.valid(context := f"system_u:system_r:{name}:s0")]
    rng = random.Random(1)
    questions = [(rng.choice(domains), rng.choice(contexts)) for _ in range(UNCACHED)]

    def new() -> None:
        policy.set_booleans({})  # forget every answer
        for scontext, tcontext in questions:
            policy.allowed(scontext, tcontext, "chr_file", PERMS)

    def again() -> None:
        scontext, tcontext = questions[0]
        for _ in range(CACHED):
            policy.allowed(scontext, tcontext, "chr_file", PERMS)

    print(f"{path}: {len(types)} types, {Path(path).stat().st_size} bytes")
    print(f"  load {(loaded - start) * 1e3:8.1f} ms, its text {(read - loaded) * 1e3:.1f} ms")
    print(f"  new question {best_us(new, UNCACHED):8.2f} us (with its share of loading again)")
    print(f"  asked before {best_us(again, CACHED):8.2f} us")
    policy.close()


def apparmor() -> None:
    """Print AppArmor's times: compiling, a walk of the DFA, an answered question."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "profile"
        path.write_text(PROFILE)
        start = time.perf_counter()
        profile = AppArmorPolicy.load(str(path)).profile("bench")
        loaded = time.perf_counter()
    paths = [f"/home/user{n}/enclave-{n}.so" for n in range(UNCACHED)]
    walked = best_us(lambda: [profile.lookup(path, True) for path in paths], UNCACHED)
    again = best_us(lambda: [profile.allowed(paths[0], "mr") for _ in range(CACHED)], CACHED)
    print("AppArmor")
    print(f"  load {(loaded - start) * 1e3:8.1f} ms (apparmor_parser included)")
    print(f"  new question {walked:8.2f} us (a path of {len(paths[0])} bytes)")
    print(f"  asked before {again:8.2f} us")


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
