"""``python -m softsgx``."""

from __future__ import annotations

import sys

from softsgx.cli.entry import main

sys.exit(main())
