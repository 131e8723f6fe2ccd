"""docs/recipes.md: build systems really run their tests so, and CI's files are what CI takes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cache import ROOT
from tests.command import PATIENCE
from tests.docs.pages import clone, held
from tools.console import sessions

_TEXT = (ROOT / "docs" / "recipes.md").read_text()
_PROGRAMS = {"automake": "automake", "cmake": "cmake", "ctest": "cmake", "meson": "meson"}
_SUITE = """
def test_hello(softsgx):
    assert softsgx("build/hello", "you").stdout == "the enclave says: hello, you\\n"
"""


def _file(name: str) -> str:
    (text,) = re.findall(
        rf"^<!-- file: {re.escape(name)} -->\n+```\w+\n(.*?)^```$", _TEXT, re.DOTALL | re.MULTILINE
    )
    return str(text)


def test_wrappers_of_build_systems_do_what_the_page_says(tmp_path: Path) -> None:
    missing = {package for name, package in _PROGRAMS.items() if shutil.which(name) is None}
    if missing:
        pytest.skip(f"to run it: apt-get install {' '.join(sorted(missing))}")
    shown = sessions(_TEXT)
    assert len(shown) > 20
    held(shown, clone(tmp_path))


_SCHEMAS = [("github.yml", "vendor.github-workflows"), ("gitlab.yml", "vendor.gitlab-ci")]


@pytest.mark.parametrize(("name", "schema"), _SCHEMAS)
def test_files_of_ci_are_as_its_schema_wants_them(tmp_path: Path, name: str, schema: str) -> None:
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text(_file(name))
    bad.write_text(_file(name).replace("matrix:", "matrices:"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if name == "gitlab.yml":
        check += ["--data-transform", "gitlab-ci"]
    for path, status in ((good, 0), (bad, 1)):
        done = subprocess.run([*check, path], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the recipes are for."""
    shutil.copytree(
        ROOT / "examples" / "hello", tmp_path / "p", ignore=shutil.ignore_patterns("build")
    )
    (tmp_path / "p" / "test_hello.py").write_text(_SUITE)
    return tmp_path / "p"


def _run(command: str, project: Path, **env: str) -> None:
    """A line of CI, as its shell runs it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command], cwd=project, capture_output=True, text=True,
        env=kept | {"PATH": path} | env, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def _is_of_the_machine(command: str) -> bool:
    return "pip install" in command or "apt-get" in command


def test_githubs_steps_run(project: Path) -> None:
    job: Any = YAML(typ="safe").load(_file("github.yml"))["jobs"]["sgx"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    ours = [command for command in commands if not _is_of_the_machine(command)]
    assert len(ours) == len(commands) - 1 == 4
    for command in ours:
        designs = job["strategy"]["matrix"]["design"]
        for each in {command.replace("${{ matrix.design }}", design) for design in designs}:
            _run(each, project)
    assert (project / "run.html").stat().st_size > 10_000


def test_gitlabs_script_runs(project: Path) -> None:
    job: Any = YAML(typ="safe").load(_file("gitlab.yml"))["sgx"]
    (matrix,) = job["parallel"]["matrix"]
    for command in job["script"]:
        _run(command, project, DESIGN=matrix["DESIGN"][0], PYTEST_ADDOPTS="-p no:cacheprovider")
    report = (project / job["artifacts"]["reports"]["junit"]).read_text()
    assert 'tests="1"' in report
    assert 'failures="0"' in report


def test_packages_are_those_that_the_project_names() -> None:
    lines = (ROOT / "debian-packages.txt").read_text().splitlines()
    known = {line.rstrip("?") for line in lines if line and not line.startswith("#")}
    texts = [_file("gitlab.yml"), _file("Dockerfile")]
    for text in texts:
        (names,) = re.findall(
            r"apt-get install -y --no-install-recommends (.*?)(?: \\)?$", text, re.M
        )
        assert set(names.split()) <= known


def test_the_dockerfile_is_one(project: Path) -> None:
    """No daemon here builds it: its instructions, its shell, and what it runs at the end."""
    text = _file("Dockerfile").replace("\\\n", " ")
    lines = [line.partition(" ")[::2] for line in text.splitlines()]
    assert [name for name, _ in lines] == [
        "FROM", "RUN", "RUN", "ENV", "COPY", "WORKDIR", "RUN", "USER", "ENV", "CMD",
    ]  # fmt: skip
    for name, rest in lines:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    _run("make", project)
    command: Any = YAML(typ="safe").load(lines[-1][1])
    _run(shlex.join(command), project, HOME=str(project))
