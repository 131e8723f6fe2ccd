"""Scripts for the guest `orders`: what a real process is told to do, and what has to come of it.

A script is lines ``ORDER -> ANSWER``; the orders are those of tests/guests/orders.c.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.command import Softsgx

__all__ = ["SEGMENTS", "THREADS", "Script", "load", "mapped"]

THREADS = 2
SEGMENTS = {"code": "rx", "data": "rw"} | {
    f"{name}.{n}": "rw" for n in range(THREADS) for name in ("stack", "tcs", "ssa", "tls")
}
"""The parts of the loader's plan, each with what it is mapped with."""


def mapped(design: str, worker: int = 0, fd: str = "e") -> list[str]:
    """Orders that map the enclave's own parts, as a loader for the design would."""
    name = design.partition(":")[0]
    if name == "v20":
        return [f"{worker} mmap {fd} all rwx -> 0"]
    if name == "sigstruct-proxy" and "24-may" not in design:
        lines = [f"{worker} mmap {fd} all - -> 0"]
        return lines + [f"{worker} mprotect {s} {p} -> 0" for s, p in SEGMENTS.items()]
    if name == "ioc-mprotect":
        lines = [f"{worker} mmap {fd} all - -> 0"]
        return lines + [f"{worker} iocmprotect {fd} {s} {p} -> 0" for s, p in SEGMENTS.items()]
    if name == "segments":
        lines = [f"{worker} mmap {fd} all - -> 0"]
        return lines + [f"{worker} mapsegment {fd} {s} {p} {p} -> 0" for s, p in SEGMENTS.items()]
    return [f"{worker} mmap {fd} {s} {p} -> 0" for s, p in SEGMENTS.items()]


def load(
    design: str, *adds: str, mode: str = "rw", sigstruct: str = "file_r", source: str = ""
) -> list[str]:
    """Orders of worker 0 that build, initialize and map an enclave with some test pages.

    adds: what is added beside the enclave's own parts, without ``via=``. sigstruct: where SIGSTRUCT
    lies, for a design that takes it with CREATE. source: of the enclave's own code.
    """
    name = design.partition(":")[0]
    via = {"v20": "v20"}.get(name, "pages" if _is_linux(name) else "region")
    declares = name in ("segments", "maxperm", "allowed-prot") or "model=flags" in design
    more = " segment=auto" if declares else ""
    if name == "execute-intent":
        more = "" if "dynamic" in design else " segment=auto only=x"
    more += f" code={source}" if source else ""
    create = ["0 create e -> 0"]
    if name == "sigstruct-proxy" and "24-may" not in design:  # SIGSTRUCT comes with CREATE
        more += " segment=auto only=w"
        create = [f"0 add e {add} via=plan -> 0" for add in ("base", *adds)]
        create += [f"0 create e src={sigstruct} -> 0"]
    lines = [f"0 open e {mode} -> 0", *create, f"0 add e base via={via}{more} -> 0"]
    lines += [f"0 add e {add} via={via} -> 0" for add in adds]
    # ema launches what has its SIGSTRUCT from a file alone.
    signed = f" src={sigstruct}" if name == "ema" else ""
    return [*lines, f"0 init e{signed} -> 0", *mapped(design)]


def _is_linux(name: str) -> bool:
    """Whether pages are added, and the device is named, as in what was merged."""
    return name.startswith(("linux", "sgx2"))


class Script:
    """Runs scripts under a design, with arguments of ``softsgx run`` if need be."""

    def __init__(self, softsgx: Softsgx, guest: Callable[[str], Path], *args: str | Path) -> None:
        self._softsgx, self._program, self._args = softsgx, guest("orders"), args

    def __call__(self, design: str, *lines: str, env: dict[str, str] | None = None) -> None:
        """Hold each answer against what its line says."""
        script = [line.strip() for text in lines for line in text.splitlines() if line.strip()]
        orders = [line.partition(" -> ")[0] for line in script]
        device = {"SGX_DEVICE": "/dev/sgx_enclave"}
        if not _is_linux(design):
            device = {"SGX_DEVICE": "/dev/sgx/enclave"}
        done = self._softsgx(
            "--design", design, *self._args, "--", self._program,
            stdin="\n".join(orders) + "\n", env=device | (env or {}),
        )  # fmt: skip
        answers = done.stdout.splitlines()
        got = [f"{order} -> {answer}" for order, answer in zip(orders, answers, strict=False)]
        for want, have in zip(script, got, strict=False):
            assert have == want, f"{got}\n{done.stderr}"
        assert len(got) == len(script), done.stderr
        assert done.returncode == 0, done.stderr
