"""The hooks' own text, and what each design asks of a real policy."""

from __future__ import annotations

import ctypes.util
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from errno import EACCES
from typing import Any

import pytest

from softsgx.errors import InternalError
from softsgx.law.rule import At, Law, Request, rules_of
from softsgx.law.term import branching, replay, var
from softsgx.law.values import Vec
from softsgx.lsm.apparmor import AppArmorHooks
from softsgx.lsm.hooks import HOOKS
from softsgx.lsm.objects import FileSecurity
from softsgx.lsm.selinux import NAMES, SelinuxHooks
from softsgx.lsm.verdict import Verdict
from softsgx.mm.rules import VMA
from softsgx.mm.vma import Vma
from softsgx.policy.apparmor import AppArmorPolicy
from softsgx.policy.apparmor_lsm import UNCONFINED, AppArmorLsm
from softsgx.policy.labels import PathLabels
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.policy.selinux_lsm import SELinuxLsm, full_context
from tests.debian_policy import find_policy

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

R, W, X = 1, 2, 4


class Asked:
    """Evaluates a module's hooks and keeps the questions; facts are what they are given."""

    def __init__(self, **facts: Any) -> None:
        self.facts, self.questions = facts, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: self.facts[name]

    def mapped(self, _at: Any) -> Any:
        return self.facts["mapped"]

    def av(self, _at: Any, target: str, perms: Any, cmd: Any = None) -> None:
        self.questions.append((target, perms, cmd))

    def path(self, _at: Any, _obj: Any, op: str, mask: Any, others: Any = 0) -> None:
        self.questions.append((op, mask, others))

    def remember(self, _at: Any, _obj: Any, mask: Any) -> None:
        self.questions.append(("remember", mask, None))


_FACTS = ("from_other", "in_heap", "in_stack", "modified", "unconfined", "delegated", "checked")


@pytest.mark.parametrize("hooks", [SelinuxHooks(), AppArmorHooks()], ids=lambda hooks: hooks.name)
@pytest.mark.parametrize(
    ("hook", "private"),
    [
        *itertools.product(["mmap_file", "file_mprotect"], [None, 0, 1]),
        *itertools.product(["file_receive", "file_open"], [0, 1]),
    ],
)
def test_a_hook_on_terms_asks_what_it_asks_on_numbers(
    hooks: Law, hook: str, private: int | None
) -> None:
    """No branch on state: the text can be proved of as it stands."""
    rule = getattr(hooks, hook)
    widths = {"prot": 3, "vma_prot": 3, "shared": 1, "allow": 3, **dict.fromkeys(_FACTS, 1)}
    terms = {name: var(name, width) for name, width in widths.items()}

    def ask(values: dict[str, Any]) -> list[Any]:
        obj = None
        if private is not None:
            obj = At(private=private, unmediated=private, allow=values["allow"], fmode=3)
        k = Asked(mapped=obj, **{name: values[name] for name in _FACTS})
        at = At(vma=At(prot=values["vma_prot"], shared=values["shared"]))
        rule(k, at, Request(prot=values["prot"], reqprot=0, map_type=1, fmode=3))
        return k.questions

    def no_branch(term: Any) -> bool:
        raise AssertionError(f"{hook} branched on {term!r}")

    with branching(no_branch):
        symbolic = ask(terms)
    axes = (range(8), range(8), (0, 1), (0, 3, 7), *((0, 1),) * 2)
    for prot, vma_prot, shared, allow, fact, other in itertools.product(*axes):
        env: dict[str, Any] = {"prot": prot, "vma_prot": vma_prot, "shared": shared}
        env |= {"allow": allow} | dict.fromkeys(_FACTS, fact) | {"from_other": other}
        replayed = [tuple(replay(part, env) for part in question) for question in symbolic]
        assert replayed == [tuple(question) for question in ask(env)]


@pytest.mark.parametrize(
    ("with_file", "facts", "asked"),
    [
        (False, {"in_heap"}, "execheap execmem"),
        (False, {"in_stack"}, "execstack execmem"),
        (False, {"in_heap", "in_stack"}, "execheap execmem"),
        (True, {"modified"}, "execmod read execute"),
        # if … else if … else if: the heap comes first, and a file is never the stack.
        (True, {"in_heap", "modified"}, "execheap read execute"),
        (True, {"in_stack", "modified"}, "execmod read execute"),
        (True, {"from_other"}, "use read execute"),
        (True, {"from_other", "modified"}, "use execmod use read execute"),
    ],
)
def test_what_becomes_executable(with_file: bool, facts: set[str], asked: str) -> None:
    """Linux 6.1 selinux_file_mprotect(), branch by branch."""
    obj = At(private=0, fmode=3) if with_file else None
    k = Asked(mapped=obj, **{name: int(name in facts) for name in _FACTS})
    at = At(vma=At(prot=R, shared=0))
    SelinuxHooks().file_mprotect(k, at, Request(prot=R | X, reqprot=R | X))
    assert _names(k) == asked


def _names(k: Asked) -> str:
    """The permissions that were asked, in order."""
    return " ".join(
        name
        for target, perms, _ in k.questions
        for bit, name in enumerate(NAMES[target])
        if perms >> bit & 1
    )


@pytest.mark.parametrize(
    ("hooks", "hook", "request_", "asked"),
    [
        (SelinuxHooks(), "file_open", {"fmode": R}, "read read open"),
        (SelinuxHooks(), "file_open", {"fmode": R | W}, "read write read write open"),
        (SelinuxHooks(open_perms=False), "file_open", {"fmode": W}, "write write"),
        # open(path, 3): no mode at all, for ioctls.
        (SelinuxHooks(), "file_open", {"fmode": 0}, "read write open ioctl"),
        (SelinuxHooks(), "file_receive", {}, "use read write"),
        (SelinuxHooks(), "file_execmod", {}, "use execmod"),
        # map is of the inode alone; the descriptor comes with the rest.
        (SelinuxHooks(), "mmap_file", {"prot": 0, "map_type": 1}, "map use read"),
        (SelinuxHooks(), "mmap_file", {"prot": 7, "map_type": 1}, "map use read write execute"),
        (SelinuxHooks(), "mmap_file", {"prot": 7, "map_type": 3}, "map execmem use read execute"),
        (SelinuxHooks(), "file_ioctl", {"cmd": 0xA400}, "use ioctl"),
        (SelinuxHooks(), "file_ioctl", {"cmd": 0x541B}, "use getattr"),
        (SelinuxHooks(), "file_ioctl", {"cmd": 0x40086602}, "use setattr"),
        (SelinuxHooks(), "file_ioctl", {"cmd": 0x5421}, "use"),
        (SelinuxHooks(), "file_ioctl", {"cmd": 0x5451}, "use ioctl"),
        (SelinuxHooks(ioctl_skip_cloexec=True), "file_ioctl", {"cmd": 0x5451}, ""),
    ],
)
def test_what_a_file_of_another_opener_is_asked(
    hooks: SelinuxHooks, hook: str, request_: dict[str, int], asked: str
) -> None:
    """Linux 6.1 security/selinux/hooks.c, hook by hook."""
    facts = dict.fromkeys(_FACTS, 0) | {"from_other": 1}
    k = Asked(mapped=At(private=0, fmode=R | W), **facts)
    getattr(hooks, hook)(k, At(), Request(**request_))
    assert _names(k) == asked


@pytest.mark.parametrize(
    ("hook", "prot", "how", "mask"),
    [
        ("mmap_file", R | W | X, 1, R | W | X),
        ("mmap_file", R | W | X, 2, R | X),
        # MAP_SHARED_VALIDATE, 3, has MAP_PRIVATE's bit: w is not asked.
        ("mmap_file", R | W, 3, R),
        ("mmap_file", 0, 1, 0),
        ("file_mprotect", R | W | X, 1, R | W | X),
        ("file_mprotect", R | W | X, 0, R | X),
    ],
)
def test_what_apparmor_asks_of_a_mapping(hook: str, prot: int, how: int, mask: int) -> None:
    """Linux 6.1 common_mmap()."""
    obj = At(unmediated=0, allow=0, fmode=R | W)
    k = Asked(mapped=obj, **dict.fromkeys(_FACTS, 0))
    at = At(vma=At(shared=how))
    getattr(AppArmorHooks(), hook)(k, at, Request(prot=prot, map_type=how))
    assert k.questions[0] == (
        f"file_{hook.removeprefix('file_').split('_')[0]}",
        mask,
        int(mask > 0),
    )


def test_every_hook_has_its_text_and_its_source() -> None:
    stated = rules_of(SelinuxHooks)
    assert set(HOOKS) <= set(stated)
    for name, (info, _) in {**stated, **rules_of(AppArmorHooks)}.items():
        known = ("Linux ", "[RFC PATCH ", "Christopherson, ", "Lutomirski, ")
        assert info.source.startswith(known), name
    assert {len(names) for names in NAMES.values()} == {3, 7, 1, 11, 2}


# -- the real policy --------------------------------------------------------------------


class File:
    """A file of the device, as the modules see it."""

    special, noexec, path, fmode = True, 0, "/dev/sgx_enclave", 3

    def __init__(self) -> None:
        self.security: FileSecurity | None = None


class Someone:
    """A process."""

    def __init__(self, label: str, fsuid: int = 0) -> None:
        self.label, self.fsuid = label, fsuid


@pytest.fixture(scope="module")
def policy() -> Iterator[SELinuxPolicy]:
    loaded = SELinuxPolicy.load(MINIMAL)
    yield loaded
    loaded.close()


@pytest.fixture
def selinux(policy: SELinuxPolicy) -> Iterator[tuple[SELinuxLsm, list[Verdict]]]:
    noted: list[Verdict] = []
    labels = PathLabels(policy, xattrs=False)
    lsm = SELinuxLsm(policy, labels, full_context(policy, "loader_t"), noted.append)
    yield lsm, noted
    labels.close()


def _ask(lsm: Any, hook: str, file: Any, who: Any, area: Any = None, **what: Any) -> int:
    vma = None if area is None else area.cell(VMA)
    answer: int = lsm.ask(hook, At(file=file, process=who, area=area, vma=vma), what)
    return answer


def test_a_remembered_answer_is_the_same_and_a_denial_is_never_remembered(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    file, who = File(), Someone(full_context(lsm.policy, "loader_t"))
    assert _ask(lsm, "file_open", file, who, fmode=3) == 0
    for _ in range(3):
        assert _ask(lsm, "mmap_file", file, who, reqprot=5, prot=5, map_type=1) == 0
    assert not noted
    bystander = Someone(full_context(lsm.policy, "bystander_t"))
    for _ in range(3):  # the same file and the same question, another process
        answer = _ask(lsm, "mmap_file", file, bystander, reqprot=5, prot=5, map_type=1)
        assert answer == EACCES
    assert [v.denied for v in noted] == [("map",)] * 3
    area = Vma(0x1000, 0x2000, R, shared=True, special=True, file=file)
    for _ in range(2):
        assert _ask(lsm, "file_mprotect", file, who, area, reqprot=5, prot=5) == 0
    lsm.all_verdicts = True
    lsm.forget()
    del noted[:]
    for _ in range(2):  # a recording is told of each
        _ask(lsm, "file_mprotect", file, who, area, reqprot=5, prot=5)
    assert [v.asked for v in noted] == [("read", "execute")] * 2
    with pytest.raises(InternalError, match="no hook no_such"):
        _ask(lsm, "no_such", file, who)


def test_permissive_logs_once_and_a_new_mode_asks_again(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    file, who = File(), Someone(full_context(lsm.policy, "bystander_t"))
    lsm.policy.enforcing = False
    try:
        for _ in range(3):
            assert _ask(lsm, "file_open", file, who, fmode=1) == 0
            assert _ask(lsm, "mmap_file", file, who, reqprot=5, prot=5, map_type=1) == 0
        # What open() was granted, read, is not logged of the mapping.
        assert [(v.hook, v.audited) for v in noted] == [
            ("file_open", ("read",)), ("file_open", ("open",)),
            ("mmap_file", ("map",)), ("mmap_file", ("execute",)),
        ]  # fmt: skip
        assert all(v.permissive for v in noted)
        # A recording is told of each, with what the policy says of it.
        lsm.all_verdicts = True
        lsm.forget()
        del noted[:]
        _ask(lsm, "mmap_file", file, who, reqprot=5, prot=5, map_type=1)
        assert [(v.denied, v.audited) for v in noted] == [
            (("map",), ()), (("execute", "read"), ())
        ]  # fmt: skip
        lsm.all_verdicts = False
        _ask(lsm, "mmap_file", file, who, reqprot=5, prot=5, map_type=1)
    finally:
        lsm.policy.enforcing = True
    del noted[:]
    for _ in range(2):
        assert _ask(lsm, "mmap_file", file, who, reqprot=5, prot=5, map_type=1) == EACCES
    assert [v.audited for v in noted] == [("map",)] * 2


def test_values_of_several_pages_are_each_asked(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    lsm.all_verdicts = True
    file, who = File(), Someone("")
    _ask(lsm, "file_open", file, who, fmode=3)
    del noted[:]
    area = Vma(0x1000, 0x3000, 0, shared=True, special=True, file=file)
    _ask(lsm, "file_mprotect", file, who, area, reqprot=5, prot=Vec([R, R | X]))
    assert {v.asked for v in noted} == {("read",), ("read", "execute")}


def test_memory_that_is_not_the_devices_is_not_asked_about(
    selinux: tuple[SELinuxLsm, list[Verdict]],
) -> None:
    lsm, noted = selinux
    foreign = At(foreign=True, special=False)
    area = Vma(0x1000, 0x2000, W, file=foreign)
    assert _ask(lsm, "file_mprotect", foreign, Someone(""), area, reqprot=7, prot=7) == 0
    assert not noted


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> AppArmorPolicy:
    path = tmp_path_factory.mktemp("profiles") / "profiles"
    path.write_text(
        "abi <abi/3.0>,\n"
        "profile a { /dev/sgx_enclave rw, }\n"
        "profile b { /dev/sgx_enclave rm, }\n"
        "profile mine { owner /dev/sgx_enclave rw, }\n"
        "profile quiet { /dev/sgx_enclave rw, deny /dev/sgx_enclave m, }\n"
        "profile soft flags=(complain) { /dev/sgx_enclave r, deny /dev/sgx_enclave m, }\n"
        "profile loud { audit /dev/sgx_enclave rwm, }\n"
    )
    return AppArmorPolicy.load(str(path))


def test_apparmor_remembers_on_the_file(profiles: AppArmorPolicy) -> None:
    """Linux 6.1 aa_file_perm(), case by case."""
    noted: list[Verdict] = []
    lsm = AppArmorLsm(profiles, sink=noted.append)
    lsm.all_verdicts = True

    def answers(opener: str, user: str, prot: int, fmode: int = 3) -> tuple[int, list[str]]:
        file = File()
        assert _ask(lsm, "file_open", file, Someone(opener), fmode=fmode) == 0
        del noted[:]
        error = _ask(
            lsm, "mmap_file", file, Someone(user), reqprot=prot, prot=prot, map_type=1
        )  # fmt: skip
        return error, [v.subject for v in noted]

    # Granted at open, so not looked up again; more than that is.
    assert answers("a", "a", R | W) == (0, [])
    assert answers("a", "a", R | X) == (EACCES, ["a"])
    # Delegated by who is unconfined; who is unconfined may do all.
    assert answers(UNCONFINED, "b", R | W | X) == (0, [])
    assert answers("a", UNCONFINED, R | W | X) == (0, [])
    # Another profile is checked itself, and the opener's too for what it was not granted.
    assert answers("a", "b", R | W) == (EACCES, ["b"])
    assert answers("a", "b", R | X) == (EACCES, ["b", "a"])
    assert answers("b", "a", R, fmode=1) == (0, ["a"])
    # m and w in two mappings: all that AppArmor can tell of writing and executing.
    assert answers("loud", "loud", R | W | X) == (0, ["loud"])


def test_apparmor_owner_quiet_and_audit(profiles: AppArmorPolicy) -> None:
    noted: list[Verdict] = []
    lsm = AppArmorLsm(profiles, sink=noted.append)
    assert _ask(lsm, "file_open", File(), Someone("mine", fsuid=0), fmode=3) == 0
    assert _ask(lsm, "file_open", File(), Someone("mine", fsuid=1000), fmode=3) == EACCES
    file = File()
    assert _ask(lsm, "file_open", file, Someone("quiet"), fmode=3) == 0
    del noted[:]
    assert _ask(lsm, "mmap_file", file, Someone("quiet"), reqprot=5, prot=5, map_type=1) == EACCES
    assert [(v.denied, v.audited) for v in noted] == [(("m",), ())]
    # Complain mode lets a missing rule pass, but not a deny rule.
    soft = File()
    assert _ask(lsm, "file_open", soft, Someone("soft"), fmode=3) == 0
    assert _ask(lsm, "mmap_file", soft, Someone("soft"), reqprot=5, prot=5, map_type=1) == EACCES
    assert _ask(lsm, "file_open", File(), Someone("loud"), fmode=1) == 0
    assert noted[-1].audited == ("r",)
    for hook, what in (("file_ioctl", {"cmd": 0xA400}), ("file_execmod", {})):
        assert _ask(lsm, hook, file, Someone("quiet"), **what) == 0


@pytest.mark.skipif(
    find_policy() is None,
    reason="Debian's policy is not in the cache; to build it: python -m tests.debian_policy",
)
def test_debians_policy_decides_in_the_time_of_fifteen_million_additions() -> None:
    """A second, where both were measured; it takes a third of that."""
    found = find_policy()
    assert found is not None
    start, total = time.process_time(), 0
    for i in range(5_000_000):
        total += i
    additions = time.process_time() - start
    start = time.process_time()
    policy = SELinuxPolicy.load(str(found[0]))
    labels = PathLabels(policy, file_contexts=str(found[1]), xattrs=False)
    lsm = SELinuxLsm(policy, labels, full_context(policy, "unconfined_t"))
    file = File()
    assert _ask(lsm, "file_open", file, Someone(""), fmode=3) == 0
    assert time.process_time() - start < 3 * additions
    assert lsm.label == "system_u:system_r:unconfined_t:s0"
    assert file.security is not None
    # Debian knows nothing of SGX.
    assert file.security.label == "system_u:object_r:device_t:s0"
    labels.close()
    policy.close()
