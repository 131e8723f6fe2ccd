"""The house's rules that no linter knows, asked of every file that git tracks."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache import ROOT

_PACKAGE = ROOT / "src" / "softsgx"
_SOURCES = (".py", ".c", ".h", ".S", ".lds", ".sh")
# A table of cases is read row by row: tests may be longer.
_LINES, _LINES_OF_TESTS = 450, 650
_TABLES = {"src/softsgx/uapi/syscalls.py"}  # read by row, not from top to bottom


def _tracked() -> list[Path]:
    """Every file that git tracks and that is there."""
    done = subprocess.run(
        # Whoever owns it: a container's root, of the clone of a user.
        ["git", "-c", "safe.directory=*", "-C", ROOT, "ls-files", "-z"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


TRACKED = _tracked()
MODULES = sorted(path for path in TRACKED if path.is_relative_to(_PACKAGE) and path.suffix == ".py")
PYTHON = sorted(path for path in TRACKED if path.suffix == ".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _dotted(path: Path) -> str:
    """The module's name: src/softsgx/mm/rules.py is softsgx.mm.rules."""
    parts = list(path.relative_to(ROOT / "src").with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_git_tracks_this_tree() -> None:
    assert ROOT / "tests" / "project" / "test_repository.py" in TRACKED
    assert _PACKAGE / "errors.py" in MODULES


# Each is written so that this file doesn't hold what it looks for.
_BANNED = {
    "a path of one machine": r"(?<![\w.])/work[/]|/tmp[/]linux-\d",
    "a place of a package registry": r"pypi[.]org|pythonhosted[.]|deb[.]debian|npmjs[.]",
    "a word of how the text came about": (
        r"(?i)\b(this|last|previous|next|later|earlier)[ ]session\b|\bsub-?agent[s]?\b"
        r"|\bclaud[e]\b|\banthropi[c]\b|\bthe[ ]CE[O]\b|\bas an A[I]\b"
    ),
    "a number of somebody's tracker": r"(?i)\bissue[ ]#?\d+\b",
}


@pytest.mark.parametrize("what", _BANNED)
def test_nothing_speaks_of_where_it_was_written(what: str) -> None:
    pattern = re.compile(_BANNED[what])
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path in TRACKED
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_every_module_says_why_it_is() -> None:
    assert [_name(path) for path in PYTHON if not ast.get_docstring(_tree(path))] == []


def test_every_room_is_a_package() -> None:
    """A namespace package would escape import-linter and its floors."""
    rooms = {path.parent for path in MODULES}
    assert [_name(room) for room in rooms if not (room / "__init__.py").exists()] == []


def test_files_are_short_enough_to_read() -> None:
    long = {
        _name(path): lines
        for path in TRACKED
        if path.suffix in _SOURCES
        and _name(path) not in _TABLES
        and not path.is_relative_to(ROOT / "tests" / "data")
        and (lines := path.read_bytes().count(b"\n"))
        >= (_LINES_OF_TESTS if path.is_relative_to(ROOT / "tests") else _LINES)
    }
    assert long == {}


def _public(tree: ast.Module) -> list[str] | None:
    """The names in the module's __all__; None if it has none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            names = ast.literal_eval(node.value)
            assert all(isinstance(name, str) for name in names)
            return list(names)
    return None


def _definitions(
    tree: ast.Module,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The functions and classes of the module's top level, in an ``if`` or ``try`` too."""
    blocks: list[ast.AST] = [tree]
    while blocks:
        for node in ast.iter_child_nodes(blocks.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                blocks.append(node)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_public_names_are_declared_and_documented(path: Path) -> None:
    tree = _tree(path)
    public = _public(tree)
    definitions = list(_definitions(tree))
    if public is None:
        # A table of constants would be the same names twice: its head says so instead.
        public = [node.name for node in definitions if not node.name.startswith("_")]
        head = ast.get_docstring(tree) or ""
        assert not public or "public" in head, "no __all__, and its head doesn't say why"
    assert len(set(public)) == len(public)
    assert [name for name in public if name.startswith("_") and not name.startswith("__")] == []
    undeclared = {node.name for node in definitions if not node.name.startswith("_")} - set(public)
    assert undeclared == set(), "public by its name, and not in __all__"
    bare = [n.name for n in definitions if n.name in public and not ast.get_docstring(n)]
    assert bare == [], "in __all__ without a docstring"
    if path.name != "__main__.py":
        module = importlib.import_module(_dotted(path))
        assert [name for name in public if not hasattr(module, name)] == []


# L0 to L4 are functions of their arguments: what they decide can be replayed and proved.
_PURE = ("errors", "ranges", "law", "sdm", "uapi", "model", "mm", "sgx", "lsm", "designs")
# fmt: off
_OUTSIDE = {
    "asyncio", "ctypes", "fcntl", "glob", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "random", "resource", "select", "shutil", "signal", "socket", "subprocess",
    "tempfile", "threading", "time",
}
# fmt: on
# Measuring is pure, and fast because it reads beside the copying, from an fd it is handed.
# An enclave's pages are anonymous memory: that of mmap is sparse, however large.
_EXCEPTED = {
    "src/softsgx/sgx/late.py",
    "src/softsgx/sgx/measure.py",
    "src/softsgx/sgx/enclave.py",
    "src/softsgx/sgx/scatter.py",
}


def _imports(tree: ast.AST) -> set[str]:
    """The top names of all modules that the code imports, inside functions as well."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _room(path: Path) -> str:
    return path.relative_to(_PACKAGE).parts[0].removesuffix(".py")


def test_the_lower_floors_do_no_io() -> None:
    found = {
        _name(path): outside
        for path in MODULES
        if _room(path) in _PURE
        and _name(path) not in _EXCEPTED
        and (outside := _imports(_tree(path)) & _OUTSIDE)
    }
    assert found == {}


def test_the_lower_floors_open_no_file() -> None:
    found = [
        f"{_name(path)}:{node.lineno}"
        for path in MODULES
        if _room(path) in _PURE
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("open", "print", "input")
    ]
    assert found == []


def test_ctypes_is_in_one_file_a_room() -> None:
    users: dict[str, list[str]] = {}
    for path in MODULES:
        if "ctypes" in _imports(_tree(path)):
            users.setdefault(_room(path), []).append(_name(path))
    assert {room: files for room, files in users.items() if len(files) > 1} == {}


# What a start of ``softsgx run`` must not wait for (each costs some 5 to 160 ms), asked of
# every room that it imports before the program has touched a device.
# fmt: off
_SLOW = {
    "argparse", "asyncio", "capstone", "cffi", "cryptography", "dataclasses", "elftools",
    "enum", "hashlib", "inspect", "json", "logging", "numpy", "pathlib", "re", "subprocess",
    "z3",
}
# fmt: on


def test_the_way_to_a_run_imports_nothing_slow() -> None:
    modules = [_dotted(p) for p in MODULES if _dotted(p) == "softsgx.cli.main"]
    if not modules:
        pytest.skip("no softsgx.cli.main yet; add src/softsgx/cli/main.py")
    code = f"import sys; import {modules[0]}; print(*sys.modules)"
    # -S: the site's own .pth files import what they like, and are no part of softsgx.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert _SLOW & set(done.stdout.split()) == set()


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    released = [heading.split()[0] for heading in headings if heading != "Unreleased"]
    assert headings[0] == "Unreleased"
    assert released[0] == version
