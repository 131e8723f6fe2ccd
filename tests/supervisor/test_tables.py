"""Which enclave is behind which number, in threads and processes that share them or do not."""

from __future__ import annotations

import subprocess

import pytest

from tests.command import PATIENCE, Softsgx
from tests.supervisor.test_guests import Guest


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_each_is_where_the_kernel_has_a_file(
    seed: int, exact: bool, softsgx: Softsgx, guest: Guest
) -> None:
    """The same steps with files in memory, without softsgx, tell what Linux does."""
    command = [str(guest("tables")), str(seed), "150"]
    files = subprocess.run(
        [*command, "files"], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert len(files.stdout.splitlines()) > 100
    done = softsgx(*(["--exact"] if exact else []), "--", *command, "enclaves")
    assert done.stdout.splitlines() == files.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
