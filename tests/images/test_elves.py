"""Enclaves of Intel's SDK and of Open Enclave: what their loaders add; segments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from softsgx.errors import UsageError
from softsgx.images.elf import Elf, segments
from softsgx.images.facts import facts
from softsgx.report.enclaves import enclave_text
from tests.images import elves


@pytest.mark.parametrize("version", [1 << 32 | 5, 3 << 32 | 3, 13 << 32 | 3])
def test_intels(tmp_path: Path, version: int) -> None:
    path, mrenclave = elves.intel_elf(tmp_path, version)
    found = facts(str(path))
    assert found["mrenclave"] == mrenclave == found["sigstruct"]["mrenclave"]
    assert found["sigstruct"]["isvprodid"] == 7  # of the newest
    assert found["metadata"]["version"] == f"{version >> 32}.{version & 0xFF}"
    (older,) = found["older"]
    assert older["sigstruct"]["isvprodid"] == 6
    kinds = [run["what"] for run in found["layout"]]
    assert kinds.count("TCS") == 3
    assert {"segment", "heap", "stack", "SSA", "thread data"} <= set(kinds)
    if version >> 32 < 10:
        assert found["problems"] == []
    else:  # the older one is for another ELRANGE here
        assert all(
            problem.startswith("metadata 1.4: what is added") for problem in found["problems"]
        )


def test_intels_whose_pages_are_not_known(tmp_path: Path) -> None:
    path, _ = elves.intel_elf(tmp_path, 4 << 32 | 1)
    assert "metadata 4.1" in facts(str(path))["not_computed"]
    second = (0x1002).to_bytes(4, "little").ljust(16, b"\0")
    path, _ = elves.intel_elf(tmp_path, extend=second)
    found = facts(str(path))
    assert "a second object" in found["not_computed"]
    assert found["mrenclave"] is None
    assert found["sigstruct"]["signature_valid"]
    assert "not computed: a second" in "\n".join(enclave_text(found))


def test_an_enclave_that_was_changed_after_it_was_signed(tmp_path: Path) -> None:
    for path, _ in (elves.intel_elf(tmp_path), elves.openenclave_elf(tmp_path)):
        data = bytearray(path.read_bytes())
        at = data.find(b"constants")
        data[at] ^= 1
        path.write_bytes(data)
        found = facts(str(path))
        assert found["sigstruct"]["signature_valid"]
        assert "SIGSTRUCT is of" in found["problems"][0]


@pytest.mark.parametrize("zero_base", [False, True])
def test_open_enclaves(tmp_path: Path, zero_base: bool) -> None:
    path, mrenclave = elves.openenclave_elf(tmp_path, zero_base=zero_base)
    found = facts(str(path))
    assert found["mrenclave"] == mrenclave == found["sigstruct"]["mrenclave"]
    assert found["problems"] == []
    assert found["properties"]["product_id"] == 5
    assert found["properties"]["create_zero_base_enclave"] is zero_base


def test_an_open_enclave_whose_pages_are_not_known(tmp_path: Path) -> None:
    library = elves.build_elf("library", elves.CODE)
    elf = elves.build_elf("linked", elves.CODE + elves.OE, "-Wl,--no-as-needed", str(library))
    data = bytearray(elf.read_bytes())
    _, offset, _ = elves.section(elf, ".oeinfo")
    data[offset : offset + 8] = (1960).to_bytes(4, "little") + (2).to_bytes(4, "little")
    path = tmp_path / "linked.signed"
    path.write_bytes(data)
    found = facts(str(path))
    assert "DT_NEEDED" in found["not_computed"]
    assert found["problems"] == ["it is not signed"]


def test_segments_are_what_objcopy_makes_of_the_file(tmp_path: Path) -> None:
    elf = elves.build_elf("intel", elves.CODE + elves.INTEL)
    subprocess.run(["objcopy", "-O", "binary", elf, tmp_path / "flat"], check=True)
    flat = (tmp_path / "flat").read_bytes()
    found = segments(str(elf), 0x10000)
    memory = bytearray(found[-1].offset + len(found[-1].data) - 0x10000)
    for segment in found:
        at = segment.offset - 0x10000
        memory[at : at + len(segment.data)] = segment.data
    first = elves.section(elf, ".note.gnu.build-id")[0]  # objcopy leaves the headers out
    assert memory[first:] == flat.ljust(len(memory) - first, b"\0")
    assert [(s.offset - 0x10000, s.perm | 0x200) for s in found] == [
        (vaddr & -4096, flags) for _, vaddr, _, _, flags in elves.loads(elf)
    ]
    elf_file = Elf(elf.read_bytes())
    assert elf_file.symbol("patched") == elves.symbol(elf, "patched")
    assert elf_file.symbol("enclave_entry") == elf_file.entry
    assert elf_file.symbol("no_such") is None


def test_segments_that_share_a_page_are_refused(tmp_path: Path) -> None:
    elf = elves.build_elf(
        "shared", elves.CODE, "-Wl,-z,noseparate-code", "-Wl,-z,max-page-size=1024"
    )
    with pytest.raises(UsageError, match="separate-code"):
        segments(str(elf))
