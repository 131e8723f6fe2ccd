"""Files that lie: whatever their bytes are, there is an answer, or one line for the user."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softsgx.errors import UsageError
from softsgx.images import elf, image, openenclave
from softsgx.images.facts import facts
from softsgx.images.spec import load_spec
from softsgx.report.enclaves import enclave_text
from tests.images import elves
from tests.images.plain import RW, RX, TCS, Plain

# Where a lie has a consequence: small numbers, sizes of things, the ends of what fits.
LIES = st.sampled_from(
    [0, 1, 2, 3, 7, 8, 0x100, 0x1000, 0x1001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 36, 1 << 47,
     (1 << 63) - 1, 1 << 63, (1 << 64) - 0x1000, (1 << 64) - 1]
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, list[int]]]:
    """By kind: a file's bytes, and where in it numbers are."""
    folder = tmp_path_factory.mktemp("good")
    stream = Plain(1 << 16)
    stream.page(0, TCS, b"x")
    stream.pages(0x1000, RX, b"y" * 0x3000)
    stream.page(0x5000, RW, b"z", measured=0xF)
    signed = elves.signed(stream.mrenclave)
    intel = elves.intel_elf(folder)[0].read_bytes()
    oe = elves.openenclave_elf(folder)[0].read_bytes()
    note = elves.section(folder / "intel.signed.so", ".note.sgxmeta")[1]
    info = elves.section(folder / "openenclave.signed", ".oeinfo")[1]
    metadata = note + 25 + elves.META_SIZE // 2
    return {
        "sigstruct": (signed, list(range(0, 1808, 4))),
        "sgxs": (stream.stream, list(range(0, 64, 4)) + list(range(64, len(stream.stream), 64))),
        "intel": (
            intel,
            [*range(note, note + 25), *range(metadata, metadata + 64, 4),
             *range(metadata + 1872, metadata + 2216, 4), *headers(intel)],
        ),
        "open enclave": (oe, [*range(info, info + 144, 4), *headers(oe)]),
    }  # fmt: skip


def answer(path: Path, work: Callable[[], Any]) -> Any:
    """What ``work`` gives; None if it raised UsageError, in one line that names the file."""
    complaint = ""
    try:
        return work()
    except UsageError as error:
        complaint = str(error)
    assert complaint.startswith(f"{path}: ")
    assert "\n" not in complaint
    return None


def headers(data: bytes) -> list[int]:
    """Where an ELF file's headers have numbers."""
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", data, 56)
    found = [*range(16, 64, 2), *range(phoff, phoff + 56 * phnum, 4)]
    return found + list(range(shoff, shoff + 64 * shnum, 4))


@pytest.mark.parametrize("kind", ["sigstruct", "sgxs", "intel", "open enclave"])
@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_a_file_says(
    good: dict[str, tuple[bytes, list[int]]],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    for module in (image, elf, openenclave):  # what would take seconds is refused sooner
        monkeypatch.setattr(module, "MAX_PAGES", 1 << 12)
        monkeypatch.setattr(module, "MAX_BYTES", 1 << 24, raising=False)
    original, places = good[kind]
    lying = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places))
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(LIES) & (1 << 8 * size) - 1
        lying[at : at + size] = value.to_bytes(size, "little")
    if data.draw(st.booleans()):
        del lying[data.draw(st.integers(0, len(lying))) :]
    path = tmp_path / "lying"
    path.write_bytes(lying)
    found = answer(path, lambda: facts(str(path)))
    if found is not None:
        lines = enclave_text(found)
        assert any("WRONG" in line for line in lines) == bool(found["problems"])
        assert bytes(lying) != original or not found["problems"]


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = st.recursive(
    st.one_of(st.integers(-1, 1 << 66), st.booleans(), TEXT, st.sampled_from(["64K", "0x1000"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["entry", "ssa", "nssa", "flags", "x"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["elf", "file", "pages", "tcs", "offset", "perm", "fill", "measured",
                         "skip", "length", "colour"]),
        VALUES, max_size=4,
    ),
    max_size=3,
)  # fmt: skip


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        plain = "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in value)
        return f'"{plain}"'
    return str(value)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(top=st.dictionaries(st.sampled_from(["size", "ssa_frame_pages", "add"]), VALUES), rows=ROWS)
def test_whatever_a_toml_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: dict[str, object], rows: list[object]
) -> None:
    from softsgx.images import spec

    monkeypatch.setattr(spec, "MAX_BYTES", 1 << 24)
    path = tmp_path / "enclave.toml"
    document = {"add": rows} | top
    path.write_text("\n".join(f"{name} = {toml(value)}" for name, value in document.items()))
    answer(path, lambda: load_spec(str(path)))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"ECREATE\0", b"\x7fELF\2\1\1", b"\6\0\0\0\xe1", b"[sgx]\n"]),
    data=st.binary(max_size=300),
)
def test_whatever_bytes(tmp_path: Path, head: bytes, data: bytes) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(head + data)
    for look in (lambda: facts(str(path)), lambda: load_spec(str(path))):
        answer(path, look)
