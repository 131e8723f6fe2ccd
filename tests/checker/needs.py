"""What tests of the checker need of the machine, and how to get it."""

from __future__ import annotations

import pytest

from softsgx.checker.engines.abc import find_abc

__all__ = ["needs_abc"]

needs_abc = pytest.mark.skipif(
    find_abc() is None, reason="berkeley-abc is missing: apt-get install berkeley-abc"
)
