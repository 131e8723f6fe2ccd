"""``softsgx measure``: MRENCLAVE of a file, and the .sgxs stream of it."""

from __future__ import annotations

from typing import Any

from softsgx.cli.options import given, print_json
from softsgx.errors import UsageError

__all__ = ["measure", "mrenclave_of"]

HELP = """\
usage: softsgx measure [--json] [-o FILE.sgxs] FILE

Print the MRENCLAVE of what is added by an .sgxs stream, by an ELF file that Intel's SDK or Open
Enclave made, or by a TOML file like this, whose names of files count from its own folder:

    size = "64K"             # of ELRANGE; left out: the smallest that holds all
    ssa_frame_pages = 1
    [[add]]                  # each begins where the last one ended, or at its offset
    elf = "enclave.elf"      # the segments, at their addresses
    [[add]]
    tcs = {entry = "start"}  # a symbol, or a number; the SSA is in the page after it
    [[add]]
    pages = 2                # zeros, or fill = 0xcc
    perm = "rw"
    [[add]]
    file = "data.bin"
    offset = 0x8000
    perm = "r"
    measured = false

  -o, --output FILE.sgxs  write what is added as an .sgxs stream, as Fortanix's tools do
  --json                  an object with mrenclave, size and ssa_frame_pages
"""


def _image_of(name: str, data: memoryview) -> Any:
    """The image of a file of any format that has one, by what it begins with. Raises UsageError."""
    from softsgx.images import intel, openenclave
    from softsgx.images.elf import MAGIC, Elf
    from softsgx.images.spec import load_spec

    if bytes(data[:4]) == MAGIC:
        elf = Elf(data)
        if elf.section(intel.SECTION) is not None:
            return intel.metadata_of(elf)[0].image()
        if elf.section(openenclave.SECTION) is not None:
            return openenclave.properties_of(elf).image()
        raise UsageError(
            "an ELF file alone says not where threads enter; name it in a TOML file "
            "(see 'softsgx measure --help')"
        )
    return load_spec(name, data)


def mrenclave_of(name: str, output: str | None = None) -> dict[str, Any]:
    """MRENCLAVE of a file and what --json prints of it; ``output`` gets a stream.

    Raises UsageError.
    """
    from softsgx.images.image import read_file, told
    from softsgx.images.sgxs import MAGICS, Stream

    data = read_file(name)
    if bytes(data[:8]) in MAGICS:
        stream = told(name, lambda: Stream(data))
        if output is None:
            digest = told(name, stream.mrenclave)
            return _measured(digest, stream.size, stream.ssa_frame_pages)
        image = told(name, stream.image)
    else:
        image = told(name, lambda: _image_of(name, data))
    if output is None:
        return _measured(told(name, image.mrenclave), image.size, image.ssa_frame_pages)
    return _measured(told(name, lambda: _write(image, output)), image.size, image.ssa_frame_pages)


def _measured(digest: bytes, size: int, frames: int) -> dict[str, Any]:
    return {"mrenclave": digest.hex(), "size": size, "ssa_frame_pages": frames}


def _write(image: Any, output: str) -> bytes:
    from softsgx.images.image import replacing
    from softsgx.images.sgxs import write

    with replacing(output) as file:
        return write(image, file)


def measure(args: list[str]) -> int:
    """Measure a file. Raises UsageError."""
    short = {"--output": "-o"}
    options = given("measure", HELP, args, ("--json",), ("-o",), (1, 1), "one file", short)
    if options is None:
        return 0
    found = mrenclave_of(options.words[0], options.last("-o") or None)
    print_json(found) if "--json" in options.flags else print(found["mrenclave"])
    return 0
