"""A sweep's runs on a Ray cluster: its own on this machine, or one that is there.

Each case is a task of one CPU. Recordings come back with the results. A worker that dies loses its
run, which Ray makes again twice; after that it counts as lost.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from softsgx.errors import UsageError
from softsgx.sweeps.spec import Case
from softsgx.sweeps.sweep import Do, Lost, Pool, Result

__all__ = ["ray_pool"]

_RETRIES = 2
_PATIENCE_S = 10
_AHEAD = 4  # tasks for each CPU that wait


def ray_pool(address: str, jobs: int) -> Pool:
    """The pool. address: "" for a cluster of one's own, with so many CPUs. Raises UsageError."""
    try:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
    except ImportError:
        raise UsageError("--ray takes the package ray: pip install 'softsgx[sweep]'") from None

    def pool(
        do: Do, cases: Iterable[Case], folder: str
    ) -> Iterator[tuple[Case, tuple[Result, bytes] | None]]:
        _look_for(address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError) as e:
            raise UsageError(f"--ray {address}: {' '.join(str(e).split())[:200]}") from None
        try:
            task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_task)
            yield from _run(ray, task, do, cases, folder)
        finally:
            ray.shutdown()

    return pool


def _look_for(address: str) -> None:
    """Whether somebody listens at HOST:PORT: Ray itself asks for two minutes, and hears no signal.

    Raises UsageError.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        return  # "auto", or none, which Ray says
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except OSError as e:
        raise UsageError(f"--ray {address}: {e.strerror or e}") from None


def _task(do: Do, case: Case, folder: str) -> tuple[Result, bytes] | None:
    try:
        return do(case, folder)
    except Lost:
        return None


def _run(
    ray: Any, task: Any, do: Do, cases: Iterable[Case], folder: str
) -> Iterator[tuple[Case, tuple[Result, bytes] | None]]:
    most = max(1, int(ray.cluster_resources().get("CPU", 1))) * _AHEAD
    source = iter(cases)
    running: dict[Any, Case] = {}
    while True:
        for case in source:
            running[task.remote(do, case, folder)] = case
            if len(running) >= most:
                break
        if not running:
            return
        (ready,), _ = ray.wait(list(running), num_returns=1)
        case = running.pop(ready)
        try:
            found = ray.get(ready)
        except ray.exceptions.RayError:
            found = None
        yield case, found
