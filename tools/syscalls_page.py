#!/usr/bin/env python3
"""Print docs/syscalls.md: .venv/bin/python tools/syscalls_page.py > docs/syscalls.md"""

from __future__ import annotations

import sys

from softsgx.report.calls import page

if __name__ == "__main__":
    sys.stdout.write(page())
