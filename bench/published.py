"""What others have measured on hardware, beside which our figures can be read.

Figures as published, each with its source; processors and microcode differ, and so does what was
counted. None of it was measured here.
"""

from __future__ import annotations

__all__ = ["PUBLISHED", "lines"]

PUBLISHED = (
    ("a call by the SDK, either way", "8,200 to 17,000 cycles",
     "Weisse, Bertacco, Austin: HotCalls, ISCA 2017"),
    ("EEXIT and EENTER", "some 3,300 and 3,800 cycles",
     "Orenbach, Lifshits, Minkin, Silberstein: Eleos, EuroSys 2017"),
    ("EENTER and EEXIT, as sold", "2.1 us, 5,850 cycles",
     "Weichbrodt, Aublin, Kapitza: sgx-perf, Middleware 2018"),
    ("the same, microcode against Spectre", "3.9 us, 10,170 cycles", "as above"),
    ("the same, and against L1TF", "4.9 us, 13,100 cycles", "as above"),
)  # fmt: skip
"""(what, the figure, the source)."""


def lines() -> list[str]:
    """The table, a line each."""
    return [f"  {what:44}{figure:>30}  {source}" for what, figure, source in PUBLISHED]
