"""What tests of the checker need of the machine, and how to get it."""

from __future__ import annotations

import ctypes.util
import shutil

import pytest

from softsgx.checker.engines.abc import find_abc

__all__ = ["needs_abc", "needs_apparmor", "needs_sepol"]

needs_abc = pytest.mark.skipif(
    find_abc() is None, reason="berkeley-abc is missing: apt-get install berkeley-abc"
)
needs_apparmor = pytest.mark.skipif(
    shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="apparmor_parser is missing: apt-get install apparmor",
)
needs_sepol = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None,
    reason="libsepol is missing: apt-get install libsepol2",
)
