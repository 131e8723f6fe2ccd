"""All modules of a start in one file: it is used, and never instead of another source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from softsgx.sgx.scatter import OwnSha256
from tests.cache import ROOT

_RUN = "import sys; sys.argv = ['softsgx', 'run', '--help']; from softsgx.cli.entry import main; "
# What is opened to be executed, and the libraries that are loaded: both are told to audit hooks.
_HOOK = """
def hook(event, args):
    if event == 'open' and str(args[0]).endswith(('.py', '.pyc', '.modules')):
        print(args[0], file=sys.stderr)
    elif event == 'import' and args[1]:
        print(args[0], file=sys.stderr)
sys.addaudithook(hook)
"""


def _opened(told: str) -> tuple[set[str], set[str]]:
    """What the hook has told: files of sources and byte code, and libraries."""
    lines = told.splitlines()
    files = {Path(line).name.split(".")[0] for line in lines if line.endswith((".py", ".pyc"))}
    return files, {line for line in lines if not line.startswith("/")}


def _measures_itself() -> bool:
    """Whether compiled code hashes by the processor's own instructions."""
    try:
        OwnSha256()
    except LookupError:
        return False
    return True


def _start(
    tree: Path,
    *,
    hook: str = "",
    env: Mapping[str, str] | None = None,
    then: str = "",
    before: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """``softsgx run --help`` of a tree's softsgx, and what is done then.

    before: the command that starts Python.
    """
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\n{hook}\n{_RUN}"
    code += f"import os; os._exit = print; main()\n{then}" if then else " main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [*before, sys.executable, "-I", "-S", "-c", code],
        env=environment | dict(env or {}), capture_output=True, text=True, check=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources that has run once, so that there is byte code."""
    target = tmp_path_factory.mktemp("compiled")
    for path in (ROOT / "src").rglob("*.py"):
        copy = target / path.relative_to(ROOT / "src")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    _start(target)
    _file(target).unlink()
    return target


@pytest.fixture
def tree(compiled: Path, tmp_path: Path) -> Path:
    """Such a copy of the test's own."""
    return shutil.copytree(compiled, tmp_path / "src")


def _file(tree: Path) -> Path:
    (path,) = (tree / "softsgx" / "__pycache__").glob("*.modules")
    return path


def test_the_second_start_opens_one_file_for_all_modules(tree: Path) -> None:
    first = _start(tree)
    second = _start(tree, hook=_HOOK)
    assert second.stdout == first.stdout
    assert second.stderr.splitlines().count(str(_file(tree))) == 1
    files, libraries = _opened(second.stderr)
    assert files == {"__init__", "entry"}, "what finds and reads the file"
    assert libraries <= {"_ctypes", "_struct"}, "libraries that are loaded"


def test_nor_does_a_whole_run_of_a_program_open_more(tmp_path: Path) -> None:
    run = _RUN.replace("'--help'", "'/bin/true'")
    code = f"import sys; sys.path[:] = {sys.path!r}\n{_HOOK}\n{run} main()"
    # Not -I: the byte code goes to a folder of the test's own.
    command = [sys.executable, "-S", "-c", code]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    for _ in range(2):  # the first run compiles, and finds out what it keeps
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    files, libraries = _opened(done.stderr)
    assert files == {"__init__", "entry"}
    assert libraries <= {"_ctypes", "_struct"}


def test_what_calls_take_is_in_the_file_and_waits_for_one(tree: Path) -> None:
    _start(tree)
    then = (
        "before = {name for name in sys.modules if name.startswith('softsgx.supervisor.calls')}\n"
        f"{_HOOK}\n"
        "import gc; gc.enable()\n"
        "from softsgx.supervisor.calls import early\n"
        "print(gc.isenabled(), early.__file__, early.answer.__module__, *sorted(before))"
    )
    done = _start(tree, then=then)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "True"
    assert last[1] == str(tree / "softsgx" / "supervisor" / "calls" / "early.py")
    assert last[2] == "softsgx.supervisor.calls.early"
    assert "softsgx.supervisor.calls.sigaction" in last  # many programs stop for nothing else
    assert not {"softsgx.supervisor.calls.early", "softsgx.supervisor.calls.paths"} & set(last[3:])
    assert ".py" not in done.stderr


def test_what_a_cpuid_takes_comes_alone(tree: Path) -> None:
    _start(tree)
    then = (
        f"{_HOOK}\n"
        "before = set(sys.modules)\n"
        "from softsgx.supervisor.programs import cpuid\n"
        "print(*set(sys.modules) - before)"
    )
    done = _start(tree, then=then)
    assert done.stdout.splitlines()[-1] == "softsgx.supervisor.programs.cpuid"
    assert ".py" not in done.stderr


def test_what_objects_are_built_of_is_not_read_again(tree: Path) -> None:
    from softsgx.host import pathcode, vdso

    for path in (vdso.PATH, pathcode._PATH):
        shutil.copy(path, tree / Path(path).relative_to(ROOT / "src"))
    _start(tree)
    then = (
        "from softsgx.host import pathcode, vdso\n"
        "parse = vdso.parse_symbols\n"
        "vdso.parse_symbols = None\n"
        "image, code = vdso.load_image(), pathcode.load()\n"
        "print(image.symbols == parse(image.contents), code.most)"
    )
    assert _start(tree, then=then).stdout.splitlines()[-1] == f"True {pathcode.load().most}"
    other = tree / Path(vdso.PATH).relative_to(ROOT / "src")
    other.write_bytes(other.read_bytes() + b"x")  # it is read anew
    wanted = "from softsgx.host import vdso; print(len(vdso.SYMBOLS), vdso.load_image().enter > 0)"
    said = f"{wanted}; print(len(vdso.SYMBOLS))"
    assert _start(tree, then=said).stdout.split()[-3:] == ["2", "True", "3"]


def test_modules_say_of_themselves_what_they_say_without_it(tree: Path) -> None:
    _start(tree)
    told = (
        "import atexit, os; os._exit = lambda status: [print(n, m.__file__, m.__cached__,"
        " m.__package__, getattr(m, '__path__', None), m.__spec__.origin, m.__spec__.parent,"
        " m.__spec__.has_location, file=sys.stderr)"
        " for n, m in sorted(sys.modules.items()) if n.startswith('softsgx')]\n"
    )
    found = _start(tree, hook=told).stderr
    _file(tree).unlink()
    usual = _start(tree, hook=told + "sys.dont_write_bytecode = True").stderr
    assert "softsgx.supervisor.loop.supervisor" in found
    assert found == usual


def test_a_bug_is_shown_with_its_lines(tree: Path) -> None:
    """The file has none, which saves a fifth of it."""
    _start(tree)
    lines = (
        "from softsgx.cli import run; found = run.run.__code__.co_lines();"
        "print(len([line for _, _, line in found if line is not None]))"
    )
    before = _file(tree).read_bytes()
    assert _start(tree, then=lines).stdout.endswith("\n0\n")
    debugged = _start(tree, then=lines, env={"SOFTSGX_DEBUG": "1"}).stdout
    assert int(debugged.splitlines()[-1]) > 10
    assert _file(tree).read_bytes() == before


def test_a_mistake_in_code_without_lines_has_a_traceback(tree: Path) -> None:
    _start(tree)
    mistaken = """
import traceback
from softsgx.cli import run
try:
    run.run(None)
except TypeError as error:
    traceback.print_exc(file=sys.stdout)
    print(traceback.extract_tb(error.__traceback__)[-1].name)
"""
    told = _start(tree, then=mistaken).stdout
    assert "Traceback" in told
    assert told.endswith("\nparse_options\n")


def test_a_changed_source_is_what_runs(tree: Path) -> None:
    _start(tree)
    source = tree / "softsgx" / "cli" / "run.py"
    word, times = "software", source.stat().st_mtime
    # Another size, then another time alone.
    for new in ("soft", "tofs"):
        before = _file(tree).read_bytes()
        source.write_text(source.read_text().replace(f"a {word} SGX", f"a {new} SGX", 1))
        times, word = times + 10, new
        os.utime(source, (times, times))
        assert f"a {new} SGX" in _start(tree).stdout
        assert _file(tree).read_bytes() != before, "it is made again"
        last = _start(tree, hook=_HOOK)
        assert f"a {new} SGX" in last.stdout
        assert "/run.cpython-" not in last.stderr.replace(str(_file(tree)), "")


_OPENED = (
    "from softsgx.supervisor.effects import descriptors; import softsgx.supervisor.calls.table"
)


def test_what_other_programs_take_later_brings_nothing_of_enclaves(tree: Path) -> None:
    _start(tree)
    then = (
        "import softsgx.supervisor.loop.bystanders, softsgx.supervisor.programs.again, sys;"
        "print('softsgx.device' in sys.modules, 'typing' in sys.modules)"
    )
    done = _start(tree, hook=_HOOK, then=then)
    assert done.stdout.endswith("\nFalse False\n")
    assert _opened(done.stderr)[0] == {"__init__", "entry"}
    assert done.stderr.splitlines().count(str(_file(tree))) == 1


def test_what_enclaves_take_is_in_it_too(tree: Path) -> None:
    _start(tree)
    then = f"{_OPENED}; print(sorted({{'re', 'typing'}} & set(sys.modules)))"
    second = _start(tree, hook=_HOOK, then=then)
    # The file twice: for each part.
    assert second.stderr.splitlines().count(str(_file(tree))) == 2
    files, _ = _opened(second.stderr)
    assert files == {"__init__", "entry"}
    assert second.stdout.endswith("\n[]\n"), "what annotations alone need"


def test_a_source_of_the_second_part_that_changed_is_what_runs(tree: Path) -> None:
    _start(tree)
    before = _file(tree).read_bytes()
    source = tree / "softsgx" / "sgx" / "epcm.py"
    source.write_text(source.read_text() + "\nCHANGED = 1\n")
    then = f"{_OPENED}; import softsgx.sgx.epcm; print(softsgx.sgx.epcm.CHANGED)"
    assert _start(tree, then=then).stdout.endswith("\n1\n")
    assert not list(tree.rglob("*.modules")), "the next run makes it"
    _start(tree)
    assert _file(tree).read_bytes() != before
    second = _start(tree, hook=_HOOK, then=then)
    assert second.stdout.endswith("\n1\n")
    assert _opened(second.stderr)[0] == {"__init__", "entry"}


def test_a_file_that_is_not_whole_counts_for_nothing(tree: Path) -> None:
    said = _start(tree).stdout
    path = _file(tree)
    whole = path.read_bytes()
    for kept in (0, 5, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert _start(tree).stdout == said
        assert path.read_bytes() == whole, "it is made again"


def test_modules_of_neither_softsgx_nor_python_stay_out(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(Path(os.__file__).with_name("struct.py"), other / "struct.py")
    hook = f"sys.path.insert(0, {str(other)!r})"
    _start(tree, hook=hook)
    assert str(other).encode() not in _file(tree).read_bytes()
    assert str(other) in _start(tree, hook=hook + _HOOK).stderr


def test_who_may_not_write_there_imports_nothing_for_it(tree: Path) -> None:
    _start(tree)
    _file(tree).unlink()
    told = (
        "import builtins, os, sys; real = open\n"
        "def refused(path, mode='r', *rest, **more):\n"
        "    if 'x' in mode: raise PermissionError(path)\n"
        "    return real(path, mode, *rest, **more)\n"
        "builtins.open = refused\n"
    )
    then = "print('threading' in sys.modules, 'softsgx.sgx.late' in sys.modules)"
    assert _start(tree, hook=told, then=then).stdout.endswith("\nFalse False\n")
    assert not list(tree.rglob("*.modules*"))


def test_who_wants_no_byte_code_gets_none(tree: Path) -> None:
    _start(tree, hook="sys.dont_write_bytecode = True")
    assert not list(tree.rglob("*.modules"))


@pytest.fixture
def guarded(tree: Path) -> Iterator[tuple[Path, list[str]]]:
    """A tree in which nobody may write, and what starts a program that has no way around that."""
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write anywhere, and there is no setpriv (util-linux)")
        before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    folders = [tree, *(each for each in tree.rglob("*") if each.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield tree, before
    for folder in folders:
        folder.chmod(0o755)


def test_who_may_not_write_there_has_a_file_of_his_own(
    guarded: tuple[Path, list[str]], tmp_path: Path
) -> None:
    tree, before = guarded
    cache = tmp_path / "cache"
    env = {"XDG_CACHE_HOME": str(cache)}
    old = os.umask(0)
    try:
        said = _start(tree, env=env, before=before).stdout
    finally:
        os.umask(old)
    assert not list(tree.rglob("*.modules*"))
    (path,) = (cache / "softsgx" / "modules").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    second = _start(tree, hook=_HOOK, env=env, then=_OPENED, before=before)
    assert second.stdout.startswith(said)
    assert _opened(second.stderr)[0] == {"__init__", "entry"}


@pytest.mark.parametrize("odd", ["file", "folder", "owner", "link", "relative"])
def test_one_that_others_could_have_written_is_not_run(
    guarded: tuple[Path, list[str]], tmp_path: Path, odd: str
) -> None:
    tree, before = guarded
    cache = tmp_path / "cache"
    env = {"XDG_CACHE_HOME": str(cache)}
    _start(tree, env=env, before=before)
    folder = cache / "softsgx" / "modules"
    (path,) = folder.iterdir()
    usual = _start(tree, hook=_HOOK, env=env, before=before)
    assert _opened(usual.stderr)[0] == {"__init__", "entry"}
    if odd == "file":
        path.chmod(0o620)
    elif odd == "folder":
        folder.chmod(0o770)
    elif odd == "owner":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        path.chmod(0o644)
        os.chown(path, 65534, -1)
    elif odd == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        env = {"XDG_CACHE_HOME": os.path.relpath(cache), "HOME": str(tmp_path)}
    found = _start(tree, hook=_HOOK, env=env, before=before)
    assert "run" in _opened(found.stderr)[0], "the usual way"


def test_a_copy_of_the_package_runs_its_own_code(tree: Path, tmp_path: Path) -> None:
    _start(tree)
    copy = shutil.copytree(tree, tmp_path / "copy")
    then = "import softsgx.cli.run; print(softsgx.cli.run.__file__)"
    for _ in range(2):
        assert _start(copy, then=then).stdout.endswith(f"\n{copy}/softsgx/cli/run.py\n")


@pytest.mark.skipif(not _measures_itself(), reason="nothing is built, or no SHA instructions")
def test_an_enclave_takes_no_library_that_takes_long() -> None:
    """Neither OpenSSL's nor ctypes."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from softsgx.supervisor.effects import descriptors\n"
        "from softsgx.sdm.sigstruct import mrsigner\n"
        "from softsgx.sgx.measure import Measurement\n"
        "measurement = Measurement()\n"
        "measurement.ecreate(1, 4096)\n"
        "measurement.add_pages(0, 0x201, bytes(4096))\n"
        "print(measurement.digest() != mrsigner(bytes(384)))\n"
        "print(*{'ctypes', '_hashlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n\n"
