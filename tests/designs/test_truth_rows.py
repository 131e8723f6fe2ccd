"""The recorded answers are read whole: nothing of them is skipped over."""

from __future__ import annotations

import pytest

from tests.truthrows import ANSWERS, KINDS, SHARINGS, TRUTH, read


@pytest.mark.parametrize(
    ("name", "domains"),
    [
        ("selinux-tiny", ["kernel_t", "loader_t", "weak_t"]),
        ("apparmor", ["unconfined", "loader", "weak"]),
    ],
)
def test_every_line_is_read(name: str, domains: list[str]) -> None:
    truth = read(name)
    lines = (TRUTH / f"{name}.txt").read_text().splitlines()
    for letter, found in (("R", truth.rows), ("X", truth.probes), ("AVC", truth.audit)):
        assert len(found) == sum(line.startswith(letter + " ") for line in lines)
    assert [
        domain.removeprefix("system_u:system_r:").removesuffix(":s0") for domain in truth.domains
    ] == domains
    # Each domain was asked the same questions.
    shapes = [
        [(r.kind, r.mode, r.sharing, r.touch) for r in truth.of_domain(domain)]
        for domain in truth.domains
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(set(shapes[0])) == len(shapes[0]) == 58


@pytest.mark.parametrize("name", ["selinux-tiny", "apparmor"])
def test_rows_have_the_shape_of_their_description(name: str) -> None:
    truth = read(name)
    for row in truth.rows:
        assert row.kind in KINDS
        assert row.sharing in SHARINGS
        assert row.mode in {"ro", "rw"}
        assert len(row.mmap) == 8
        assert [len(letters) for letters in row.mprotect] == [8] * 8
        assert set(row.open_answer + row.mmap + "".join(row.mprotect)) <= ANSWERS
        for answer, letters in zip(row.mmap, row.mprotect, strict=True):
            # mprotect was tried exactly where there was a mapping.
            assert ("-" not in letters) if answer == "." else letters == "-" * 8
    # A reader that lost some of the answers would show here.
    assert sum(row.questions() for row in truth.rows) > 7500
    assert {probe.domain for probe in truth.probes} == set(truth.domains)


def test_audit_lines_have_their_fields() -> None:
    for line in read("selinux-tiny").audit:
        assert line.perms
        assert {"pid", "comm", "scontext", "tcontext", "tclass", "permissive"} <= line.fields.keys()
        assert line.serial > 0
        assert line.milliseconds > 10**12
    for line in read("apparmor").audit:
        assert line.fields["apparmor"] == "DENIED"
        assert {
            "operation",
            "profile",
            "name",
            "requested_mask",
            "denied_mask",
        } <= line.fields.keys()
