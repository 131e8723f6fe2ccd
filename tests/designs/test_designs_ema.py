"""ema on the model: what Xing's LSM keeps of pages, in v3 and v1 of his RFC (summer of 2019)."""

from __future__ import annotations

from errno import EACCES, EEXIST, EFAULT, EPERM
from typing import Any

import pytest

from softsgx.device.memory import Source
from softsgx.law.rule import At, Request, Stop
from tests.designs.designs_model import BASE, PAGE, RWX, R, W, World, X

FILE, RUN, LAUNCH, EXECMOD, EXECANON, EXECMEM = (
    "enclave_load_file", "enclave_run_file", "enclave_launch", "enclave_execmod",
    "enclave_execanon", "enclave_execmem",
)  # fmt: skip
LOADED: dict[str, Any] = {"path": "/lib/enclave.so", "anonymous": 0, "prot": R}


class Answers:
    """An LSM that denies the hooks that it is told to, and notes what the others hear."""

    def __init__(self, *denied: str) -> None:
        self.denied, self.heard = set(denied), list[tuple[str, dict[str, Any]]]()

    def ask(self, hook: str, at: Any, what: dict[str, Any]) -> int:
        if hook.startswith("enclave_"):
            self.heard.append((hook, what))
        return EACCES if hook in self.denied else 0

    def take(self) -> list[str]:
        heard, self.heard = self.heard, []
        return [hook for hook, _ in heard]


def world(version: str = "v3", *denied: str) -> tuple[World, Answers]:
    w, lsm = World(f"ema:version={version}"), Answers(*denied)
    w.device.run.lsm = lsm
    assert w.create() == 0
    return w, lsm


def add(w: World, page: int, perm: int, **source: Any) -> int:
    return w.region(page, perm, **({"prot": R | W} | source))


def einit(w: World, **source: Any) -> None:
    """EINIT with a signature that fits, SIGSTRUCT in such memory."""
    names = (
        "vendor_known", "attributes_allowed", "attributes_supported", "miscselect_supported",
        "xfrm_supported", "sigstruct_inside",
    )  # fmt: skip
    facts = Request(**dict.fromkeys(names, 1), einit=lambda: 0)
    kind: dict[str, Any] = {"path": "/lib/enclave.sig", "anonymous": 0, "prot": R} | source
    where = Source(0, PAGE, **kind)
    at = At(enclave=w.file.enclave, process=w.process, file=w.file, source=where)
    w.device.design.init(w.device.run, at, facts)  # type: ignore[attr-defined]


def test_x_of_what_came_from_a_file_takes_execute_of_that_file() -> None:
    w, lsm = world()
    assert add(w, 0, R | X, **LOADED) == 0
    assert add(w, 1, R | X, **(LOADED | {"path": "/lib/other.so"})) == 0
    assert lsm.take() == []  # nothing is mapped X there yet
    assert w.mmap(0, R | X, n=2) == 0
    ((hook, what),) = lsm.heard
    assert (hook, sorted(what["origin"].items)) == (RUN, [1, 2])
    assert [s.path for s in w.file.enclave.origins] == ["/lib/enclave.so", "/lib/other.so"]
    lsm.denied.add(RUN)
    assert w.mmap(0, R | X) == -EACCES


def test_w_is_remembered_across_munmap() -> None:
    """ "pages flagged modified have to stay modified across munmap()/mmap()"."""
    w, lsm = world()
    assert add(w, 0, RWX, **LOADED) == 0
    assert w.mmap(0, R | W) == w.mmap(0, 0) == 0
    lsm.take()
    assert w.mmap(0, R | X) == 0
    assert lsm.heard[-1][1]["changed"] == 1
    assert w.page(0)["changed"] == 1


def test_w_and_x_at_once_takes_execmem() -> None:
    w, _ = world("v3", EXECMEM)
    assert add(w, 0, RWX, **LOADED) == 0
    assert w.mmap(0, RWX) == -EACCES
    assert w.mmap(0, R | X) == w.mmap(0, R | W) == 0


@pytest.mark.parametrize(("denied", "answer"), [((EXECANON,), 0), ((EXECANON, EXECMEM), -EACCES)])
def test_what_came_from_no_file_takes_execanon_or_execmem(
    denied: tuple[str, ...], answer: int
) -> None:
    w, lsm = world("v3", *denied)
    assert add(w, 0, R | X) == 0
    assert w.mmap(0, R | X) == answer
    assert lsm.take() == [EXECANON, EXECMEM]


def test_changed_pages_without_a_file_take_execmod_of_sigstructs() -> None:
    w, lsm = world("v3", EXECMOD)
    assert add(w, 0, RWX) == 0
    assert w.mmap(0, R | W) == 0
    assert w.mprotect(0, R | X) == -EPERM  # no SIGSTRUCT yet
    einit(w)
    assert w.mprotect(0, R | X) == -EACCES
    lsm.denied.clear()
    assert w.mprotect(0, R | X) == 0


def test_eadd_looks_at_what_is_mapped_where_the_page_goes() -> None:
    w, lsm = world("v3", FILE)
    assert w.mmap(0, R | X) == 0
    assert add(w, 0, R | X, **LOADED) == -EACCES
    assert add(w, 1, R | X, **LOADED) == 0
    lsm.denied.clear()
    assert w.mmap(2, R | W) == 0
    assert add(w, 2, RWX, **LOADED) == 0
    assert w.page(2)["changed"] == 1
    # The flaw of it: a source that was written is none where nothing is mapped yet.
    assert add(w, 3, R | X, **(LOADED | {"modified": 1})) == 0
    assert w.page(3)["changed"] == 0


def test_eaug_takes_execmod_of_sigstructs_file_for_x_alone() -> None:
    w, lsm = world("v3", EXECMOD)
    einit(w)
    assert w.mmap(0, R | W) == w.mmap(1, R | X) == 0
    lsm.take()
    assert w.region(0, R | W) == 0
    assert w.region(1, R | W) == -EPERM
    assert lsm.take() == [EXECMOD]
    assert w.process.page_fault(BASE + PAGE, 0).signal
    assert w.mprotect(0, R | X) == -EACCES
    assert w.page(0)["sourced"] == 0


def test_launching_takes_execute_of_sigstructs_file_as_it_is_on_disk() -> None:
    for source in ({"anonymous": 1, "path": ""}, {"modified": 1}):
        w, lsm = world()
        with pytest.raises(Stop) as stopped:
            einit(w, **source)
        assert (stopped.value.errno, lsm.take()) == (EACCES, [])
    w, lsm = world("v3", LAUNCH)
    with pytest.raises(Stop):
        einit(w)
    assert (w.file.enclave.initialized, w.file.enclave.sigstruct_kept) == (0, 0)
    lsm.denied.clear()
    einit(w)
    with pytest.raises(Stop) as stopped:
        einit(w)
    assert stopped.value.errno == EEXIST


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_eadd_wants_a_source_with_vm_mayexec(version: str) -> None:
    w, _ = world(version)
    assert add(w, 0, R, may=R | W) == -EACCES
    assert add(w, 0, R, mapped=0, prot=0) == -EFAULT
    assert add(w, 0, R) == 0
    assert add(w, 0, R) == -EEXIST


# -- v1 ------------------------------------------------------------------------------------


def test_v1_decides_at_eadd_what_may_be_executed() -> None:
    w, lsm = world("v1")
    assert add(w, 0, RWX, **LOADED) == 0
    lsm.denied.add("enclave_load_source_execmod")
    assert add(w, 1, RWX, **LOADED) == 0
    lsm.denied.add("enclave_load_source")
    assert add(w, 2, RWX, **LOADED) == -EACCES  # what is mapped there, nothing, is refused, too
    bits = [(w.page(i)["execute"], w.page(i)["execmod"]) for i in range(2)]
    assert bits == [(1, 1), (1, 0)]
    assert w.mmap(0, R | W) == w.mprotect(0, R | X) == 0
    assert w.mmap(1, R | W) == 0
    assert w.mprotect(1, R | X) == -EACCES


@pytest.mark.parametrize("denied", [False, True])
def test_v1_lets_pages_of_eaug_be_executed_by_execmod(denied: bool) -> None:
    w, _ = world("v1", *[EXECMOD] * denied)
    einit(w)
    assert w.region(0, R | W) == 0
    assert w.mmap(0, R | X) == (-EACCES if denied else 0)


def test_a_files_pages_have_one_origin_however_often_they_are_added() -> None:
    w, _ = world()
    for page in range(8):
        assert add(w, page, R | X, **LOADED) == 0
    assert len(w.file.enclave.origins) == 1
    assert {w.page(page)["origin"] for page in range(8)} == {1}
