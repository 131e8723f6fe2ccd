"""Measuring an .sgxs stream and an image of segments, beside SHA-256 of the same bytes alone.

A measured page is 5,184 bytes of SHA-256, and a stream is those bytes: so the bare figure is one
call of SHA-256 over the same mapped file. In CPU time, since each is one thread that waits for
nothing: a machine that does other work changes it little.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.common import ROOT, Row, in_turn

sys.path.insert(0, str(ROOT / "src"))
from softsgx.images.image import Image, Part, read_file
from softsgx.images.sgxs import Stream, write

__all__ = ["rows"]

_PAGES = 1 << 15  # 128 MiB, a stream of 162 MiB
_TARGET = 0.95


def rows(rounds: int) -> list[Row]:
    """``softsgx measure`` of a stream, of which every record is looked at, and of an image."""
    image = Image(
        2 * _PAGES * 4096, 1, [Part(0, 0x203, _PAGES, os.urandom(1 << 20) * (_PAGES // 256))]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "big.sgxs")
        with path.open("wb") as file:
            expected = write(image, file)

        def raw_us_a_page() -> dict[str, float]:
            start = time.process_time()
            hashlib.sha256(read_file(str(path)))
            return {"us": (time.process_time() - start) / _PAGES * 1e6}

        def stream_us_a_page() -> dict[str, float]:
            start = time.process_time()
            digest = Stream(read_file(str(path))).mrenclave()
            us = (time.process_time() - start) / _PAGES * 1e6
            if digest != expected:
                raise SystemExit("the stream measures otherwise than the image")
            return {"us": us}

        def image_us_a_page() -> dict[str, float]:
            start = time.process_time()
            image.mrenclave()
            return {"us": (time.process_time() - start) / _PAGES * 1e6}

        raw, stream, segments = in_turn(rounds, raw_us_a_page, stream_us_a_page, image_us_a_page)
    us = raw["us"]
    return [
        Row(f"measure an .sgxs of {_PAGES >> 8} MiB: a page", "us", stream["us"], us, "raw SHA-256",
            target=f"{_TARGET} of raw's speed", met=us >= _TARGET * stream["us"]),
        Row("measure as many pages of segments: a page", "us", segments["us"], us, "raw SHA-256"),
    ]  # fmt: skip
