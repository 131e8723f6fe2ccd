"""The wheel: what it holds, and that it works away from its source tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cache import ROOT, build, cache_directory, locked

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
    foreign = {name for name in names if not name.startswith("softsgx")}
    assert foreign == set(), "nothing but the package and its metadata"


def test_its_metadata_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert b"MIT License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"softsgx = softsgx.cli.main:main" in wheel.read(f"{info}/entry_points.txt")
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
