"""What the mail claims, tried on real processes under a real policy; docs/findings.md tells.

Each test is named after its claim. Where a claim does not hold, the test holds that, and
says in its name which sentence of docs/findings.md it is the proof of.
"""

from __future__ import annotations

import ctypes.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import Softsgx
from tests.orders import load, mapped

pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or ctypes.util.find_library("selinux") is None
    or shutil.which("apparmor_parser", path="/usr/bin:/bin:/usr/sbin:/sbin") is None,
    reason="no engine here; to run it: apt-get install libsepol2 libselinux1 apparmor",
)

SEED = "ioc-mprotect:source=prot,open=rdonly"
LOADER = ("--selinux", "minimal", "--context", "loader_t")
RUNS = "0x1000"
PROFILE = """abi <abi/3.0>,
profile loader {
  /dev/sgx/enclave ACCESS,
  /tmp/orders-source-* rwm,
}
"""


def booleans(**values: bool) -> tuple[str, ...]:
    """Options for minimal.cil's loader: ``write=False`` is sgx_loader_write=off."""
    return tuple(
        arg
        for name, value in values.items()
        for arg in ("--boolean", f"sgx_loader_{name}={'on' if value else 'off'}")
    )


class Enclaves:
    """Runs scripts of the guest `orders`, a recording of each in ``record``."""

    def __init__(self, softsgx: Softsgx, program: Path, directory: Path) -> None:
        self.softsgx, self.program = softsgx, program
        self.record = directory / "recording"

    def __call__(self, design: str, options: tuple[str, ...], *lines: str) -> list[str]:
        """The answers, after their orders; ``lines``: orders, with or without ``-> ANSWER``."""
        orders = [line.partition(" -> ")[0] for line in lines]
        self.record.unlink(missing_ok=True)
        done = self.softsgx(
            "--design", design, *options, "--record", self.record, "--", self.program,
            stdin="\n".join(orders) + "\n", env={"SGX_DEVICE": "/dev/sgx/enclave"},
        )  # fmt: skip
        answers = done.stdout.splitlines()
        assert len(answers) == len(orders), done.stdout + done.stderr
        return answers

    def runs(self, design: str, options: tuple[str, ...], source: str, mode: str = "rw") -> bool:
        """Whether an enclave with a code page from ``source`` runs that page."""
        answers = self(design, options, *code_page(design, source, mode))
        return answers[-1] == RUNS

    def questions(self) -> list[dict[str, Any]]:
        """The LSM's verdicts of the last run."""
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [verdict for line in lines for verdict in line.get("verdicts", ())]

    def denied(self) -> list[tuple[str, list[str]]]:
        """(class or path, permissions) of each denial of the last run."""
        return [
            (q["tclass"] if q["lsm"] == "selinux" else q["target"], q["denied"])
            for q in self.questions()
            if q["denied"]
        ]

    def explained(self) -> str:
        """What ``softsgx explain --denied`` says of the last run."""
        return self.softsgx.command("explain", "--denied", self.record).stdout


def code_page(design: str, source: str, mode: str = "rw", extend: str = "x") -> list[str]:
    """Orders: an enclave with one more page, RX, whose memory is of the kind ``source``.

    Where the design keeps the source's permissions, X is added to what lacks it.
    """
    name = design.partition(":")[0]
    add = f"p0 src={source} perm=rx" + " segment=rx" * (name == "segments")
    lines = load(design, add, mode=mode)
    if name == "ioc-mprotect":
        if "source=prot" in design and "x" not in source.partition("_")[2]:
            lines.append(f"0 extend e p0 {extend}")
        lines.append("0 iocmprotect e p0 rx")
    elif name == "segments":
        lines.append("0 mapsegment e p0 rx rx")
    elif name != "v20":  # whose loader maps all at once
        lines.append("0 mmap e p0 rx")
    return [*lines, "0 call p0"]


@pytest.fixture
def enclaves(softsgx: Softsgx, guest: Callable[[str], Path], tmp_path: Path) -> Enclaves:
    return Enclaves(softsgx, guest("orders"), tmp_path)


# -- an unmodified file, and code that is generated on the fly -----------------------------

POLICIES = [
    {},
    {"write": False},
    {"execute": False},
    {"execmod": True},
    {"execmem": True},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_v20_cannot_tell_an_unmodified_file_from_code_that_is_generated(
    enclaves: Enclaves, policy: dict[str, bool]
) -> None:
    """ "the permissions don't add much value, e.g. they can't be used to distinguish"."""
    options = LOADER + booleans(**policy)
    from_file = enclaves.runs("v20", options, "file_r")
    generated = enclaves.runs("v20", options, "anon_rw")
    assert from_file == generated == (policy.get("write", True) and policy.get("execute", True))


@pytest.mark.parametrize(
    ("design", "policy", "denied"),
    [
        ("safe-to-execute", {}, ("chr_file", ["execmod"])),
        ("source-vma", {"execute": False}, ("chr_file", ["execute"])),
    ],
)
def test_safe_to_execute_and_source_vma_tell_them_apart(
    enclaves: Enclaves, design: str, policy: dict[str, bool], denied: tuple[str, list[str]]
) -> None:
    options = LOADER + booleans(**policy)
    assert enclaves.runs(design, options, "file_rx")
    assert enclaves.denied() == []
    assert not enclaves.runs(design, options, "anon_rw")
    assert enclaves.denied() == [denied]
    # Executable memory without a file is what EXECMEM is for: the source itself is refused.
    assert not enclaves.runs(design, options, "anon_rwx")
    assert enclaves.denied()[0] == ("process", ["execmem"])
    # A file that was written to is no unmodified one: EXECMOD, asked of the source.
    assert not enclaves.runs(design, options, "written_rx")
    assert enclaves.denied()[0] == ("file", ["execmod"])


def test_a_snapshot_of_vm_may_tells_nothing_apart(enclaves: Enclaves) -> None:
    """findings: private memory always has VM_MAYEXEC, so the bound is RWX for all."""
    options = LOADER + booleans(execute=False)
    assert enclaves.runs("source-vma:snapshot=may", options, "file_rx")
    assert enclaves.runs("source-vma:snapshot=may", options, "anon_rw")


def test_segments_do_not_look_at_the_source(enclaves: Enclaves) -> None:
    """findings: what is generated joins the segment RX as what is from a file does."""
    for source in ("file_r", "file_rx", "anon_rw"):
        assert enclaves.runs("segments", LOADER, source), source
        assert enclaves.denied() == []


def test_the_seeds_design_tells_a_plain_generator_from_an_unmodified_file(
    enclaves: Enclaves,
) -> None:
    """ "require READ and EXECUTE to run an enclave": the file's loader has no more."""
    options = LOADER + booleans(write=False)
    assert enclaves.runs(SEED, options, "file_rx", "r")
    assert enclaves.denied() == []
    of_device = [q["asked"] for q in enclaves.questions() if q["tclass"] == "chr_file"]
    assert {perm for asked in of_device for perm in asked} <= {
        "read", "execute", "open", "map", "ioctl",
    }  # fmt: skip
    assert not enclaves.runs(SEED, options, "anon_rw", "r")
    assert enclaves.denied() == [("process", ["execmem"])]
    assert "missing: allow loader_t self:process execmem;" in enclaves.explained()
    assert not enclaves.runs(SEED, options, "anon_rwx", "r")


def test_vm_may_of_a_real_source_makes_every_loader_need_write(enclaves: Enclaves) -> None:
    """findings: a private mapping of a file has VM_MAYWRITE, so an RX page counts as W and X."""
    options = LOADER + booleans(write=False)
    for source in ("file_r", "file_rx", "anon_rw"):
        assert not enclaves.runs("ioc-mprotect:open=rdonly", options, source, "r"), source
        # The loader's own code page is where it stops.
        assert enclaves.denied()[0] == ("process", ["execmem"])
    # A shared mapping of an fd without write access is the one source that lacks it.
    lines = load("ioc-mprotect:open=rdonly", mode="r")[:3]
    lines[2] = "0 add e code via=region src=shared_rx -> 0"
    answers = enclaves("ioc-mprotect:open=rdonly", options, *lines, "0 mmap e all -",
                       "0 iocmprotect e code rx")  # fmt: skip
    assert answers == ["0"] * 5


def test_memory_that_lost_w_before_it_was_added_gets_around_write(enclaves: Enclaves) -> None:
    """findings: source=prot believes mprotect(), and EXTEND_PERMISSIONS asks nobody."""
    options = LOADER + booleans(write=False)
    assert enclaves.runs(SEED, options, "anon_r", "r")
    assert enclaves.denied() == []


# -- adding pages later --------------------------------------------------------------------


def grown(perm: str, mode: str = "rw") -> list[str]:
    """Orders: an enclave, and one page more after INIT that is mapped with ``perm``."""
    lines = [*load(SEED, mode=mode), f"0 aug e p1 perm={perm} via=region"]
    return [*lines, f"0 iocmprotect e p1 {perm}"]


def asked_last(enclaves: Enclaves) -> set[str]:
    """What the last question about the device but its ioctls was."""
    found = [q for q in enclaves.questions() if q["tclass"] == "chr_file" and "cmd" not in q]
    return set(found[-1]["asked"])


def test_adding_an_rw_page_needs_no_write_and_adding_an_rwx_page_does(
    enclaves: Enclaves,
) -> None:
    """ "adding a RW page … doesn't require WRITE, whereas adding a RWX page … would"."""
    assert enclaves(SEED, LOADER, *grown("rw"))[-1] == "0"
    assert asked_last(enclaves) == {"read", "execute"}
    assert enclaves(SEED, LOADER, *grown("rwx"))[-1] == "0"
    assert asked_last(enclaves) == {"read", "write", "execute"}


def test_a_loader_without_write_grows_its_heap_and_loads_no_code(enclaves: Enclaves) -> None:
    options = LOADER + booleans(write=False)
    assert enclaves(SEED, options, *grown("rw", "r"))[-1] == "0"
    assert enclaves.denied() == []
    assert enclaves(SEED, options, *grown("rwx", "r"))[-1] == "EACCES"
    assert len(enclaves.denied()) == 1


def test_through_a_read_only_fd_write_is_asked_as_execmem(enclaves: Enclaves) -> None:
    """findings: such a mapping is not VM_SHARED, so FILE__WRITE is not what W and X ask for."""
    options = LOADER + booleans(write=False)
    assert enclaves(SEED, options, *grown("rwx", "r"))[-1] == "EACCES"
    assert enclaves.denied() == [("process", ["execmem"])]
    options += booleans(execmem=True)
    assert enclaves(SEED, options, *grown("rwx", "r"))[-1] == "0"
    assert not any("write" in q["asked"] for q in enclaves.questions())


def test_under_rdwr_the_open_asks_for_write_before_the_design_can(enclaves: Enclaves) -> None:
    """findings: a writable page needs an fd for writing, which needs WRITE, generated or not."""
    design = SEED.replace("rdonly", "rdwr")
    assert enclaves.runs(design, LOADER, "file_rx")
    assert enclaves.runs(design, LOADER, "anon_rw")
    options = LOADER + booleans(write=False)
    assert enclaves(design, options, "0 open e rw") == ["EACCES"]
    answers = enclaves(design, options, *load(design, mode="r"))
    assert "EACCES" in answers
    assert enclaves.denied() == []  # the design refused to map the data, not the policy


@pytest.mark.parametrize("clear", ["0 extend e p1 -", "0 extend e p1 r", "0 restrict e p1 rx"])
def test_clearing_vm_maywrite_gets_nobody_around_write(enclaves: Enclaves, clear: str) -> None:
    """ "This can only extend! E.g. userspace can't circumvent the WRITE requirement"."""
    lines = [
        *load(SEED),
        "0 aug e p1 perm=rwx via=region",
        "0 accept p1 rw pending",
        clear,
        "0 iocmprotect e p1 rx",
    ]
    # EACCEPT runs inside, which needs a mapping of the page to begin with.
    lines.insert(-3, "0 iocmprotect e p1 rw")
    answers = enclaves(SEED, LOADER, *lines)
    assert answers[-4:] == ["0"] * 4
    assert asked_last(enclaves) == {"read", "write", "execute"}


# -- segments ------------------------------------------------------------------------------


def segment_page(mask: str) -> list[str]:
    """Orders: a page in the segment of a mask, mapped with it."""
    lines = load("segments", f"p0 src=anon_rw perm={mask} segment={mask}")
    return [*lines, f"0 mapsegment e p0 {mask} {mask}"]


def test_segments_let_policy_grant_rx_and_deny_rwx(enclaves: Enclaves) -> None:
    """ "an LSM could have policies for each of the anon inodes, e.g. RWX vs. RW vs RX"."""
    assert enclaves("segments", LOADER, *segment_page("rx"))[-1] == "0"
    assert enclaves("segments", LOADER, *segment_page("rw"))[-1] == "0"
    answers = enclaves("segments", LOADER, *segment_page("rwx"))
    assert "EACCES" in answers
    (first, *_) = (q for q in enclaves.questions() if q["denied"])
    assert (first["tclass"], first["denied"]) == ("anon_inode", ["create"])
    assert "sgx_segment_rwx_t" in str(first["target"])
    allowed = LOADER + booleans(wx_segment=True)
    assert enclaves("segments", allowed, *segment_page("rwx"))[-1] == "0"


def test_private_segments_leave_only_execmem(enclaves: Enclaves) -> None:
    """findings: on S_PRIVATE inodes RX and RWX are the same question."""
    for mask in ("rx", "rwx"):
        answers = enclaves("segments:inode=private", LOADER, *segment_page(mask))
        assert "EACCES" in answers
        assert ("process", ["execmem"]) in enclaves.denied()


# -- AppArmor ------------------------------------------------------------------------------


def confined(tmp_path: Path, access: str) -> tuple[str, ...]:
    profile = tmp_path / "profile"
    profile.write_text(PROFILE.replace("ACCESS", access))
    return ("--apparmor", f"{profile}:loader")


def test_apparmor_has_nothing_like_execmod_and_execmem(enclaves: Enclaves, tmp_path: Path) -> None:
    """ "AppArmor doesn't have a concept of EXECMOD, EXECMEM, EXECHEAP"."""
    options = confined(tmp_path, "rwm")
    for source in ("file_rx", "anon_rw", "anon_rwx"):
        assert enclaves.runs("safe-to-execute", options, source), source
    assert not enclaves.runs("safe-to-execute", confined(tmp_path, "rw"), "file_rx")
    assert enclaves.denied()[0] == ("/dev/sgx/enclave", ["m"])


def test_apparmor_detects_w_and_x_at_most_by_m_and_w_of_the_device(
    enclaves: Enclaves, tmp_path: Path
) -> None:
    """ "I don't think we need to go beyond detecting W+X scenarios"."""
    # Both are asked of a page that can be both; who may only read and execute cannot open it.
    assert enclaves(SEED, confined(tmp_path, "rm"), "0 open e rw") == ["EACCES"]
    assert enclaves.denied() == [("/dev/sgx/enclave", ["w"])]
    assert enclaves(SEED, confined(tmp_path, "rw"), *grown("rwx"))[-1] == "EACCES"
    assert {tuple(denied) for _, denied in enclaves.denied()} == {("m",)}
    assert enclaves(SEED, confined(tmp_path, "rwm"), *grown("rwx"))[-1] == "0"


def test_apparmor_does_not_detect_w_and_x_through_a_read_only_fd(
    enclaves: Enclaves, tmp_path: Path
) -> None:
    """findings: w is asked of shared mappings alone, and this one is not."""
    assert enclaves(SEED, confined(tmp_path, "rm"), *grown("rwx", "r"))[-1] == "0"
    assert enclaves.denied() == []


def test_vm_may_makes_data_need_write_too(enclaves: Enclaves) -> None:
    """findings: private memory could be executed, so an RW page counts as W and X."""
    options = LOADER + booleans(write=False)
    design = "ioc-mprotect:open=rdonly"
    lines = load(design, "p0 src=anon_rw perm=rw", mode="r")
    lines = [*lines[: lines.index("0 mmap e all - -> 0") + 1], "0 iocmprotect e p0 rw"]
    assert enclaves(design, options, *lines)[-1] == "EACCES"
    assert enclaves.denied() == [("process", ["execmem"])]


# -- what the mails of June 2019 claim -------------------------------------------------------------


def declared(source: str, prot: str, perm: str = "rx", more: str = "") -> list[str]:
    """Orders: an enclave with one more page, which is to be mapped with ``prot`` at most."""
    add = f"p0 src={source} perm={perm} segment={prot}{more}"
    return load("allowed-prot", add)


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "v4"])
def test_an_enclave_of_a_file_and_one_that_is_generated_are_told_apart(
    enclaves: Enclaves, version: str
) -> None:
    """Cover letter: LSMs "implement policies for enclave pages that are functionally equivalent".

    v3 asks SGX_EXECANON of both: its check of IS_PRIVATE was inverted.
    """
    design = f"allowed-prot:version={version}"
    run = ["0 mmap e p0 rx", "0 call p0"]
    # v3's own code page is refused, as is any.
    options = LOADER if version != "v3" else LOADER + booleans(execanon=True)
    assert enclaves(design, options, *declared("file_rx", "rx"), *run)[-1] == RUNS
    generated = enclaves(design, options, *declared("anon_rw", "rx"), *run)[-1]
    assert (generated == RUNS) == (version == "v3")


@pytest.mark.parametrize("version", ["v2", "v4"])
def test_mremap_carries_permissions_past_the_declaration(enclaves: Enclaves, version: str) -> None:
    """findings: the hooks are mmap's and mprotect's; a mapping is moved without one."""
    design = f"allowed-prot:version={version}"
    pages = load("allowed-prot", "p0 src=anon_rw perm=rx segment=r",
                 "p1 src=file_rx perm=rx segment=rx")  # fmt: skip
    moved = ["0 mmap e p1 rx", "0 mremap p1 p0", "0 call p0"]
    assert enclaves(design, LOADER, *pages, "0 mmap e p0 rx")[-1] == "EACCES"
    assert enclaves(design, LOADER, *pages, *moved)[-1] == RUNS
    assert enclaves.denied() == []


def test_the_builders_vetting_goes_with_the_descriptor(enclaves: Enclaves, tmp_path: Path) -> None:
    """findings: 6e79e1e0f, of whatever is asked at EADD: "an enclave's fd over SCM_RIGHTS"."""
    other = tmp_path / "other"
    shutil.copy(enclaves.program, other)
    options = ("--selinux", "minimal", "--context", "generator_t", "--context", f"{other}=loader_t")
    lines = ["0 open e rw", "0 create e", "0 add e p0 via=region src=anon_rw perm=rx segment=rx",
             f"0 spawn 1 {other}", "0 send e 1", "1 recv e", "1 mmap e p0 rx"]  # fmt: skip
    assert enclaves("allowed-prot", options, *lines)[-1] == "0"
    # Built by itself it is refused.
    mine = ["0 open e rw", "0 create e", "0 add e p0 via=region src=anon_rw perm=rx segment=rx"]
    assert enclaves("allowed-prot", LOADER, *mine)[-1] == "EACCES"


def test_maxperm_tells_nobody_of_code_that_is_generated(enclaves: Enclaves) -> None:
    """findings: VM_MAYEXEC is what every private mapping has, so any source is "appropriate"."""
    run = ["0 mmap e p0 -", "0 mprotect p0 rx", "0 call p0"]
    pages = load("maxperm", "p0 src=anon_rw perm=rx segment=rx")
    assert enclaves("maxperm", LOADER, *pages, *run)[-1] == RUNS
    assert enclaves.denied() == []
    # By source=prot it takes executable memory: EXECMEM. The loader's own code is mapped so.
    own = [line.replace("base via=region", "base via=region code=shared_rx") for line in pages]
    add = next(i for i, line in enumerate(own) if " p0 " in line)
    assert enclaves("maxperm:source=prot", LOADER, *own[: add + 1])[-1] == "EACCES"


PROXY = "sigstruct-proxy"
PROXY_24 = "sigstruct-proxy:mail=24-may"


def test_builders_map_nothing_executable_and_need_no_execmod(enclaves: Enclaves) -> None:
    """6e79e1e0f: sources may "unnecessarily require EXECMOD on the source file, or … EXECMEM"."""
    pages = load(PROXY, "p0 src=anon_rw perm=rx", source="anon_rw")
    assert enclaves(PROXY, LOADER, *pages, "0 mprotect p0 rx", "0 call p0")[-1] == RUNS
    assert enclaves.denied() == []
    assert {q["tclass"] for q in enclaves.questions() if "execmem" in q["asked"]} == set()


def test_who_received_the_enclave_needs_the_permissions_himself(
    enclaves: Enclaves, tmp_path: Path
) -> None:
    """6e79e1e0f: "even if the process acquired the enclave via SCM_RIGHTS"."""
    other = tmp_path / "other"
    shutil.copy(enclaves.program, other)
    options = ("--selinux", "minimal", "--context", "generator_t", "--context", f"{other}=loader_t")
    lines = [*load(PROXY, "p0 src=anon_rw perm=rx"), f"0 spawn 1 {other}", "0 send e 1",
             "1 recv e", "1 mmap e p0 -", "1 mprotect p0 rx"]  # fmt: skip
    assert enclaves(PROXY, options, *lines)[-1] == "0"
    assert enclaves(PROXY, options + booleans(enclave_execute=False), *lines)[-1] == "EACCES"
    assert enclaves.denied() == [("enclave", ["execute"])]


def test_allow_write_is_known_beforehand_where_tracking_sees_x_before_w(
    enclaves: Enclaves,
) -> None:
    """findings: 30 May's "a priori knowledge of writability"; by 24 May X, then W is free."""
    early = [*load(PROXY_24, "p0 src=anon_rw perm=rwx"), "0 mmap e p0 rx", "0 fork 1",
             "1 mmap e p0 rw", "1 poke p0 7", "0 call p0"]  # fmt: skip
    early = [line.replace("init e", "init e src=file_r") for line in early]
    assert enclaves(PROXY_24, LOADER, *early)[-1] == "0x7"
    assert enclaves.denied() == []
    late = [*load(PROXY, "p0 src=anon_rw perm=rwx segment=w"), "0 mprotect p0 rx"]
    assert enclaves(PROXY, LOADER, *late)[-1] == "EACCES"
    assert enclaves.denied() == [("enclave", ["execmod"])]


@pytest.mark.parametrize("hole", ["unmeasured", "written over"])
def test_the_proxy_vouches_for_what_it_does_not_measure(enclaves: Enclaves, hole: str) -> None:
    """findings: a page without EEXTEND, and a private mapping of the file that was written to."""
    sigstruct = {"unmeasured": "file_r", "written over": "written_rw"}[hole]
    page = "p0 src=anon_rw perm=rx" + " measure=0" * (hole == "unmeasured")
    run = [*load(PROXY, page, sigstruct=sigstruct), "0 mprotect p0 rx", "0 call p0"]
    assert enclaves(PROXY, LOADER, *run)[-1] == RUNS
    assert enclaves.denied() == []
    asked = [q for q in enclaves.questions() if q["tclass"] == "enclave"]
    assert {tuple(q["asked"]) for q in asked} == {("execute",)}


@pytest.mark.parametrize(
    ("design", "runs"),
    [("sgx2-v2", False), ("sgx2-v2:eaug=rwx", True), ("linux-6.0", True)],
)
def test_code_that_came_after_einit_runs_where_eaug_may_become_code(
    enclaves: Enclaves, design: str, runs: bool
) -> None:
    """history: no LSM hears of such code; Chatre's V2 had none, and an ioctl after EMODPE."""
    told = ["0 relax e p0 rx"] if design.startswith("sgx2") else []
    first = [f"{load(design)[0].partition(' -> ')[0]} /dev/sgx_enclave", *load(design)[1:]]
    late = ["0 mmap e p0 rwx", "0 accept p0 rw pending", "0 poke p0 7", "0 emodpe p0 rx"]
    answers = enclaves(design, LOADER, *first, *late, *told, "0 mprotect p0 rx", "0 call p0")
    assert answers[-2] == ("0" if runs else "EACCES")
    if runs:
        assert answers[-1] == "0x7"
    else:
        assert answers[-3] == "EPERM"
    assert enclaves.denied() == []
    # What was asked is of the device alone: its ioctls, and mappings as of any file.
    late_questions = [q for q in enclaves.questions() if q["hook"] == "file_mprotect"]
    assert {q["tclass"] for q in late_questions} <= {"chr_file", "process"}


# -- the models of 12 June 2019 --------------------------------------------------------------------


def test_fsm_tells_a_generated_enclave_from_one_of_a_file(enclaves: Enclaves) -> None:
    """Lutomirski, 12 June 2019: "execute code from a particular source", and from memory."""
    run = ["0 mmap e p0 rx", "0 call p0"]
    assert enclaves("fsm", LOADER, *load("fsm", "p0 src=file_r perm=rx"), *run)[-1] == RUNS
    # findings: the hook is asked of data, too; what it denies is logged, and nothing failed.
    assert ("process", ["execmem"]) in enclaves.denied()
    answers = enclaves("fsm", LOADER, *load("fsm", "p0 src=anon_rw perm=rx"), *run)
    assert answers[-2] == "EPERM"
    # #1's loader says what is code. What is left is EINIT's: (c), SIGSTRUCT is in memory, and (d).
    flags = "fsm:model=flags"
    pages = load(flags, "p0 src=file_r perm=rx segment=rx")
    assert enclaves(flags, LOADER, *pages, *run)[-1] == RUNS
    assert enclaves.denied() == [("process", ["execmem"])] * 2


def test_who_maps_first_decides_under_fsm(enclaves: Enclaves) -> None:
    """findings: ae49b7287, "which process needs W^X depends on the order"."""
    pages = [*load("fsm", "p0 src=file_r perm=rwx"), "0 fork 1"]
    refused = [
        enclaves("fsm", LOADER, *pages, f"0 mmap e p0 {first}", f"1 mmap e p0 {second}")[-2:]
        for first, second in (("rw", "rx"), ("rx", "rw"))
    ]
    assert refused == [["0", "EPERM"]] * 2


def test_what_einit_was_granted_goes_with_the_descriptor(
    enclaves: Enclaves, tmp_path: Path
) -> None:
    """findings: (c) is the builder's; who has its fd runs what was modified, and is not asked."""
    other = tmp_path / "other"
    shutil.copy(enclaves.program, other)
    options = ("--selinux", "minimal", "--context", "generator_t", "--context", f"{other}=loader_t")
    lines = [line.partition(" -> ")[0] for line in load("fsm", "p0 src=file_r perm=rwx")]
    more = [f"0 spawn 1 {other}", "0 send e 1", "1 recv e", "1 ioctl e 0xa4ff 0"]
    mapped = [line.replace("0 ", "1 ", 1) for line in lines if " mmap " in line]
    run = ["1 mmap e p0 rw", "1 poke p0 4242", "1 mprotect p0 rx", "1 call p0"]
    assert enclaves("fsm", options, *lines, *more, *mapped, *run)[-1] == hex(4242)
    assert not [q for q in enclaves.questions() if "loader_t" in q["subject"] and q["denied"]]
    # A repair: who maps it is asked.
    run[-2:] = ["1 mprotect p0 rx"]
    answers = enclaves("fsm:dirty=mapping", options, *lines, *more, *mapped, *run)
    assert answers[-1] == "EACCES"


INTENT = "execute-intent"


@pytest.mark.parametrize("proposal", ["static", "dynamic"])
def test_a_page_that_has_ever_been_w_runs_without_execmod(
    enclaves: Enclaves, proposal: str
) -> None:
    """findings: required by 8119f794e, and in neither of its proposals."""
    design = f"{INTENT}:proposal={proposal}"
    page = "p0 src=file_rx perm=rwx" + " segment=x" * (proposal == "static")
    run = ["0 mmap e p0 rw", "0 poke p0 7", "0 mprotect p0 rx", "0 call p0"]
    assert enclaves(design, LOADER, *load(design, page), *run)[-1] == "0x7"
    assert enclaves.denied() == []


def test_the_dynamic_model_audits_at_the_mapping_alone(enclaves: Enclaves, tmp_path: Path) -> None:
    """8119f794e: "With the dynamic model, we can only really audit the lack of EXECMOD"."""
    audit = tmp_path / "audit"
    denied = {}
    for proposal in ("static", "dynamic"):
        design = f"{INTENT}:proposal={proposal}"
        lines = ["0 open e rw", "0 create e", "0 add e p0 via=region src=file_r perm=rx"
                  f" dir={tmp_path}" + " segment=x" * (proposal == "static"),
                 "0 mmap e p0 rx"]  # fmt: skip
        module = tmp_path / "data.cil"
        module.write_text(
            f'(filecon "{tmp_path}/orders-source-.*" any (system_u object_r data_t ((s0) (s0))))\n'
        )
        options = ("--selinux", "minimal", "--selinux", str(module), "--context", "loader_t")
        audit.unlink(missing_ok=True)
        answers = enclaves(design, (*options, "--audit", str(audit)), *lines)
        denied[proposal] = [
            line.partition("denied  { ")[2].partition(" }")[0]
            for line in audit.read_text().splitlines()
        ]
        assert answers[2:] == (["EACCES", "EACCES"] if proposal == "static" else ["0", "EACCES"])
    # Static: the denial of EXECUTE, and of all that would have done in its place.
    assert denied["static"] == ["execute", "execmod", "execmem", "execmod"]
    assert denied["dynamic"] == ["execmod"]


# -- Xing's RFC ------------------------------------------------------------------------------------


def test_ema_asks_of_the_file_that_pages_came_from(enclaves: Enclaves) -> None:
    """Cover letter: "pages flagged modified have to stay modified across munmap()/mmap()"."""
    pages = load("ema", "p0 src=file_r perm=rwx")
    assert enclaves("ema", LOADER, *pages, "0 mmap e p0 rx", "0 call p0")[-1] == RUNS
    assert enclaves.denied() == []
    written = ["0 mmap e p0 rw", "0 munmap p0", "0 mmap e p0 rx"]
    assert enclaves("ema", LOADER, *pages, *written)[-1] == "EACCES"
    assert enclaves.denied() == [("file", ["execmod"])]
    generated = load("ema", "p0 src=anon_rw perm=rx")
    assert enclaves("ema", LOADER, *generated, "0 mmap e p0 rx")[-1] == "EACCES"
    assert enclaves.denied() == [("process2", ["enclave_execanon"]), ("process", ["execmem"])]
    options = LOADER + booleans(enclave_execanon=True)
    assert enclaves("ema", options, *generated, "0 mmap e p0 rx", "0 call p0")[-1] == RUNS


def test_a_mapping_that_is_moved_is_asked_about_by_nobody_under_ema(enclaves: Enclaves) -> None:
    """findings: the LSM hears of mmap and mprotect."""
    pages = load("ema", "p0 src=anon_rw perm=rx", "p1 src=file_r perm=rx")
    moved = ["0 mmap e p1 rx", "0 mremap p1 p0", "0 call p0"]
    assert enclaves("ema", LOADER, *pages, *moved)[-1] == RUNS
    assert enclaves.denied() == []


def test_a_mapping_before_the_page_is_asked_about_by_nobody_under_ema(enclaves: Enclaves) -> None:
    """findings: the LSM looks at what the loader has mapped where a page goes, and at no other's.

    [RFC PATCH v3 4/4] enclave_load_prot_check(): EADD of a page under a mapping with X is a
    question about its source; the mappings of a process that shares the enclave are not looked at.
    """
    made, *rest = load("ema", "p0 src=anon_rw perm=rx")[1:]
    first = ["0 open e rw", made, "0 fork 1"]
    for mapping in ("0 mmap e p0 rx", "1 mmap e p0 rx"):
        enters = mapped("ema", 1) if mapping.startswith("1") else []
        answers = enclaves("ema", LOADER, *first, mapping, *rest, *enters, f"{mapping[0]} call p0")
        added = answers[4 + [r.partition(" p0 ")[0] for r in rest].index("0 add e")]
        if mapping.startswith("0"):
            assert added == "EACCES"
            assert enclaves.denied()[0] == ("process2", ["enclave_execanon"])
        else:
            assert (added, answers[-1]) == ("0", RUNS)
            assert enclaves.denied() == []
            anonymous = ("execmem", "enclave_execanon", "execmod")
            assert not [q for q in enclaves.questions() if set(q["asked"]) & set(anonymous)]


def test_before_the_first_page_w_and_x_take_no_execmem_under_ema(enclaves: Enclaves) -> None:
    """[RFC PATCH v3 4/4] enclave_mprotect(): no ema_map, no question; 3/4: _init_map() at the
    first enclave_load. Of a page that is there the same mapping is refused.
    """
    made, base, *rest = load("ema", "p0 src=anon_rw perm=rwx")[1:]
    writes = [*mapped("ema", 1), "1 poke p0 7", "1 call p0"]
    both, first = "1 mmap e p0 rwx", ["0 open e rw", made, "0 fork 1"]
    answers = enclaves("ema", LOADER, *first, both, base, *rest, *writes)
    assert (answers[3], answers[-1]) == ("0", "0x7")
    assert enclaves.denied() == []
    late = enclaves("ema", LOADER, *first, base, both)
    assert late[-1] == "EACCES"
    assert enclaves.denied() == [("process", ["execmem"])]
