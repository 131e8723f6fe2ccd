"""The wheel: what it holds, and that it works away from its source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from softsgx.cli.manual import PLACES
from tests.cache import ROOT, build, build_environment, cache_directory, locked
from tests.command import PATIENCE, Softsgx

_SOURCE = ROOT / "src"
MODULES = {str(path.relative_to(_SOURCE)) for path in _SOURCE.rglob("*.py")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built with the tools of the environment that runs the tests."""
    out = tmp_path_factory.mktemp("wheel")
    # The build hook compiles into the tree, where another worker's build would meet it.
    with locked(cache_directory("wheel")):
        build([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, ROOT])
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_every_module_and_the_compiled_object(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert names >= MODULES | {"softsgx/py.typed"}
    templates = {path.name for path in (_SOURCE / "softsgx/report/templates").iterdir()}
    assert names >= {f"softsgx/report/templates/{name}" for name in templates}
    assert any(name.startswith("softsgx/host/") and name.endswith(".so") for name in names)
    assert "softsgx/dcap_ql/libsgx_dcap_ql.so.1" in names
    (data,) = {name.split("/")[0] for name in names if ".data/" in name}
    assert {name for name in names if name.startswith(data)} == {
        f"{data}/data/{place}" for place in PLACES.values()
    }
    page = wheel.read(f"{data}/data/{PLACES['man']}").decode()
    assert data.removesuffix(".data").replace("-", " ") in page, "softsgx(1) names its version"
    foreign = {name for name in names if not name.startswith("softsgx")}
    assert foreign == set(), "nothing but the package and its metadata"


def test_its_metadata_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert b"MIT License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"softsgx = softsgx.cli.entry:main" in wheel.read(f"{info}/entry_points.txt")
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nRequires-Python: >=3.11\n" in metadata
    tag = wheel.read(f"{info}/WHEEL").decode()
    assert "Tag: py3-none-" in tag
    assert "x86_64" in tag


def test_it_works_away_from_the_tree(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import softsgx.host.vdso as vdso; print(vdso.__file__); print(vdso.load_image().size > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "softsgx" / "host" / "vdso.py"), "True"]


def _needed(requirements: Iterable[str], found: dict[str, Distribution]) -> None:
    """Into ``found``: what requirements name where no extra was asked for, and what that needs."""
    for text in requirements:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found[name] = distribution(name)
            _needed(found[name].requires or (), found)


@pytest.fixture(scope="module")
def plain(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`softsgx` as ``pip install softsgx`` gives it: in an environment that has nothing else.

    What it requires is copied from here, so that no network is asked.
    """
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet"]
    build([*pip, "install", "--no-index", "--no-deps", "--no-compile", str(wheel.filename)])
    (site,) = folder.glob("lib/python3*/site-packages")
    needed: dict[str, Distribution] = {}
    (metadata,) = site.glob("softsgx-*.dist-info")
    _needed(Distribution.at(metadata).requires or (), needed)
    for dist in needed.values():
        for file in dist.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(dist.locate_file(file)), target)
    build([*pip, "check"])
    return folder / "bin" / "softsgx"


Plain = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def installed(plain: Path, tmp_path: Path, state_directory: Path) -> Plain:
    """``installed(*args)`` runs it, with nothing of this Python in its environment."""

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [plain, *args], capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=build_environment() | {"SOFTSGX_STATE_DIR": str(state_directory)}, cwd=tmp_path,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample loader, its enclave beside it."""
    out = tmp_path_factory.mktemp("hello")
    build(["make", "-s", "-C", ROOT / "examples" / "hello", f"OUT={out}"])
    return out / "hello"


def test_without_an_extra_it_runs_programs(installed: Plain, hello: Path) -> None:
    done = installed("run", "--record", "run.jsonl", "--", hello, "you")
    assert (done.returncode, done.stdout) == (0, "the enclave says: hello, you\n"), done.stderr
    done = installed("show", "run.jsonl")
    assert done.returncode == 0
    assert "ioctl(3, SGX_IOC_ENCLAVE_INIT" in done.stdout
    for command in (("designs",), ("designs", "segments"), ("include",), ("doctor", "--help")):
        assert installed(*command).returncode == 0, command
    root = installed("attest", "root")
    assert (root.returncode, root.stdout[:11]) == (0, "-----BEGIN "), root.stderr


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("prove", "check linux-6.12"),
        ("prove", "repair segments --property wx-needs-write"),
        ("report", "report run.jsonl -o run.html"),
        ("report", "show --perfetto run.pftrace run.jsonl"),
        ("report", "designs --html designs.html"),
        ("report", "check --html pages linux-6.12"),
        ("attest", "attest verify quote"),
        ("sweep", "sweep --ray auto spec.toml"),
    ],
)
def test_what_takes_an_extra_names_it(
    installed: Plain, softsgx: Softsgx, tmp_path: Path, extra: str, command: str
) -> None:
    softsgx("--record", tmp_path / "run.jsonl", "--", "true")
    (tmp_path / "quote").write_bytes(bytes(1000))
    (tmp_path / "spec.toml").write_text('[[program]]\nargv = ["true"]\n')
    done = installed(*command.split())
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    *hints, line = done.stderr.splitlines()
    assert line.endswith(f"pip install 'softsgx[{extra}]'")
    assert all("berkeley-abc is missing" in hint for hint in hints)
