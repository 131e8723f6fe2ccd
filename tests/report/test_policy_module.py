"""``softsgx policy --te`` and ``--compile``, by the tools of others: what they build and read.

The module is built by Debian's refpolicy headers where they are, and by checkmodule with the two
macros alone in any case; its rules are those of the CIL module, as setools has them.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from softsgx.cli.main import main
from softsgx.policy.native import compile_cil
from softsgx.policy.selinux import MINIMAL, SELinuxPolicy
from softsgx.report.policymodule import module_name
from tests.command import PATIENCE, Softsgx

_SBIN = "/usr/bin:/bin:/usr/sbin:/sbin"
_DEVEL = Path("/usr/share/selinux/devel/Makefile")
_PP = next(
    (
        p
        for p in map(Path, ("/usr/libexec/selinux/hll/pp", "/usr/lib/selinux/hll/pp"))
        if p.exists()
    ),
    None,
)
_TOOLS = ("checkmodule", "semodule_package", "m4", "audit2allow")
pytestmark = pytest.mark.skipif(
    ctypes.util.find_library("sepol") is None
    or _PP is None
    or not all(shutil.which(name, path=_SBIN) for name in _TOOLS),
    reason="no libsepol or no tools here; to run it: apt-get install libsepol2 checkpolicy"
    " semodule-utils m4 policycoreutils policycoreutils-python-utils python3-setools",
)

# What refpolicy's macros come to (policy/support/loadable_module.spt), for checkmodule alone.
_MACROS = """\
define(`policy_module', `module $1 $2; require { role system_r; }')
define(`gen_require', `require { $1 }')
"""
_RULES = """
import sys, setools
policy = setools.SELinuxPolicy(sys.argv[1])
kinds = ("allow", "allowxperm", "auditallow", "dontaudit", "type_transition")
print("\\n".join(sorted(str(r) for r in policy.terules() if r.ruletype.name in kinds)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, guest: Callable[[str], Path]) -> Path:
    """A run of a loader that nothing is granted, under a policy that lists ioctls as well."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "loader").symlink_to(guest("intel_like"))
    (folder / "lists.cil").write_text(
        "(allowx bystander_t sgx_enclave_device_t (ioctl chr_file (0xa400)))\n"
    )
    done = Softsgx(folder)(
        "--selinux", "minimal", "--selinux", "lists.cil", "--context", "bystander_t",
        "--permissive", "--boolean", "sgx_loader_execmod=on", "--record", "run.jsonl",
        "--audit", "log", "--", "./loader",
    )  # fmt: skip
    assert "ok ecall" in done.stdout, done.stderr
    return folder


def _printed(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert main([*map(str, args)]) == 0
    return capsys.readouterr().out


def _run(folder: Path, *command: str | Path, stdin: str = "") -> str:
    """Run a tool that must succeed: its standard output."""
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=PATIENCE,
        env=os.environ | {"PATH": _SBIN}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def _rules(folder: Path, image: bytes) -> list[str]:
    """Every rule of a compiled policy, as setools prints it."""
    (folder / "image").write_bytes(image)
    return _run(folder, "/usr/bin/python3", "-c", _RULES, "image").splitlines()


def _with(folder: Path, cil: str) -> bytes:
    """The run's policy with a module compiled in.

    What modules require are members of two attributes, which a base module declares.
    """
    cil = "(typeattribute cil_gen_require) (roleattribute cil_gen_require)\n" + cil
    sources = [Path(MINIMAL), folder / "lists.cil"]
    texts = [(path.name, path.read_bytes()) for path in sources] + [("module", cil.encode())]
    return compile_cil(texts, "test")[0]


def test_its_rules_are_those_of_the_cil_module(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cil = _printed(capsys, "policy", folder / "run.jsonl")
    te = _printed(capsys, "policy", "--te", "--name", "mine", folder / "run.jsonl")
    assert "policy_module(mine, 1.0.0)" in te
    assert "allowxperm bystander_t sgx_enclave_device_t:chr_file ioctl { 0xa4" in te
    want = _rules(folder, _with(folder, cil))
    before = _rules(folder, _with(folder, ""))
    assert len(set(want) - set(before)) >= 3

    (folder / "mine.te").write_text(te)
    plain = _run(folder, "m4", "-", "mine.te", stdin=_MACROS)
    (folder / "mine.plain").write_text(plain)
    _run(folder, "checkmodule", "-M", "-m", "-o", "mine.mod", "mine.plain")
    _run(folder, "semodule_package", "-o", "mine.pp", "-m", "mine.mod")
    assert _PP is not None
    assert _rules(folder, _with(folder, _run(folder, _PP, "mine.pp"))) == want


@pytest.mark.skipif(not _DEVEL.exists(), reason="to run it: apt-get install selinux-policy-dev")
def test_refpolicys_makefile_builds_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    te = _printed(capsys, "policy", "--te", folder / "run.jsonl")
    built = folder / "built"
    built.mkdir()
    (built / "sgx_loader.te").write_text(te)  # the name that the module has by default
    assert f"make -f {_DEVEL} sgx_loader.pp" in te
    _run(built, "make", "-f", _DEVEL, "sgx_loader.pp")
    assert _PP is not None
    made = _rules(folder, _with(folder, _run(built, _PP, "sgx_loader.pp")))
    assert made == _rules(folder, _with(folder, _printed(capsys, "policy", folder / "run.jsonl")))


def test_audit2allow_reads_the_compiled_policy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = folder / "run.policy"
    assert _printed(capsys, "policy", "--compile", compiled, folder / "run.jsonl") == ""
    said = _run(folder, "audit2allow", "-p", compiled, "-i", "log")
    rules = {line for line in said.splitlines() if line and not line.startswith("#")}
    lacks = json.loads(_printed(capsys, "policy", "--json", folder / "run.jsonl"))
    for row in lacks["allow"]:
        perms = row["perms"][0] if len(row["perms"]) == 1 else f"{{ {' '.join(row['perms'])} }}"
        assert f"allow {row['source']} {row['target']}:{row['tclass']} {perms};" in rules
    # It is the policy of the run, its booleans as they were.
    again = SELinuxPolicy.load(str(compiled))
    values = again.booleans()
    again.close()
    assert values["sgx_loader_execmod"] is True
    assert values["sgx_loader_execmem"] is False


def test_a_run_that_was_denied_nothing(
    softsgx: Softsgx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    softsgx("--selinux", "minimal", "--record", tmp_path / "r", "--", "/bin/true")
    te = _printed(capsys, "policy", "--te", tmp_path / "r")
    assert "Nothing was denied" in te
    assert "gen_require" not in te
    (tmp_path / "sgx_true.te").write_text(_run(tmp_path, "m4", "-", stdin=_MACROS + te))
    _run(tmp_path, "checkmodule", "-M", "-m", "-o", "sgx_true.mod", "sgx_true.te")


def test_mistakes(softsgx: Softsgx, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("abi <abi/3.0>,\nprofile a { /x r, }\n")
    softsgx("--apparmor", tmp_path / "p", "--record", tmp_path / "a", "--", "/bin/true")
    for args, said in (
        (("--te", "--name", "a-b", folder / "run.jsonl"), "--name a-b: letters, digits and _"),
        (("--compile", "/no/where", folder / "run.jsonl"), "--compile /no/where: No such file"),
        (("--te", tmp_path / "a"), "--te is of SELinux's policies"),
        (("--compile", "x", tmp_path / "a"), "--compile is of SELinux's policies"),
    ):
        done = softsgx.command("policy", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr


def test_names_of_modules() -> None:
    assert module_name("/usr/bin/app-1.2") == "sgx_app_1_2"
    assert module_name("./loader") == "sgx_loader"
    assert module_name("Größe") == "sgx_gr_e"
