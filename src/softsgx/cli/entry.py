"""Where ``softsgx`` begins: what every ``run`` imports comes out of one file.

To find, open and read some seventy files costs a start 3 ms more than to read one, and a program
that opens the device as much again. That file is a cache like the byte code beside it, and believed
as that is: the first run that may write there makes it, and it counts for nothing as soon as one
source has another size or time. Who may not write there has one in a folder of his own. What
programs with children take lies in it as it is until it is imported. Its second
part, what enclaves take, is looked at when a program opens the device. Rejected: to ship it (the
byte code of each Python is another), and a zip file, which is read no faster.
"""

# No annotations are evaluated later: __future__ is one of those files.
import _imp
import marshal
import os
import stat
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, cache_from_source
from _signal import SIG_DFL, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from io import FileIO
    from types import CodeType, ModuleType
    from typing import Any

    # Name, source, whether it is a package, time and size of the source, where its byte code is.
    Row = tuple[str, str, bool, int, int, str]

__all__ = ["is_own", "main", "own_path_of", "path_of"]

_SIGINT = 2
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A copy of the package is not to run what it was copied from: hence where it is.
_HEAD = b"softsgx modules 12\0" + MAGIC_NUMBER + os.fsencode(_PACKAGE) + b"\0"
_OPENED = "softsgx.supervisor.effects.descriptors"  # what the first open of the device imports
_PARTS = 4  # sizes behind it: of rows and codes, and of both for the second part


def main() -> int:
    """Run the command line; its exit status."""
    if getsignal(_SIGINT) is default_int_handler:  # it may come ignored
        signal(_SIGINT, SIG_DFL)  # why: softsgx.ending
    return _main()


def _main() -> int:
    if sys.argv[1:2] != ["run"]:
        from softsgx.cli.main import main as command

        return command()
    import gc

    gc.disable()  # what is imported stays; it is on again before anything runs
    before = set(sys.modules)
    path, own = path_of(), False
    if "SOFTSGX_DEBUG" in os.environ:  # whose lines the file does not have
        path = ""
    modules = _read(path) if path else None
    if path and modules is None and not _may_write(path):
        path, own = own_path_of(), True
        modules = _read(path, own=True)
    try:
        if modules is not None:
            sys.meta_path.insert(0, modules)
            modules.run()
        import softsgx.cli.run  # noqa: F401 - what the command imports, as long as the file counts
    except Exception:
        from softsgx.cli.main import main as command

        return command()  # which tells of it
    from softsgx.cli.main import main as command

    if modules is not None:
        from softsgx.host.basefilter import KNOWN
        from softsgx.host.vdso import SYMBOLS

        filters, symbols = modules.known
        KNOWN.update(filters)
        SYMBOLS.update(symbols)
    elif path and not sys.dont_write_bytecode:
        imported = set(sys.modules) - before
        from softsgx.cli.modules import write

        write(path, _HEAD, imported, before, own=own)
    return command()


def path_of() -> str:
    """Where the file is: with the byte code of the package, one for each Python."""
    return cache_from_source(os.path.join(_PACKAGE, "run.py")).removesuffix(".pyc") + ".modules"


def own_path_of() -> str:
    """Where it is for who may not write there; nothing if there is no such place.

    A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification, "Basics").
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    name = f"{_imp.source_hash(0, _HEAD).hex()}-{os.path.basename(path_of())}"
    return os.path.join(base, "softsgx", "modules", name) if os.path.isabs(base) else ""


def is_own(of: os.stat_result, kind: int) -> bool:
    """Whether a file or folder is ours, and nobody else's to change: what is in it is executed."""
    mode = of.st_mode
    return stat.S_IFMT(mode) == kind and of.st_uid == os.geteuid() and not mode & 0o022


def _may_write(path: str) -> bool:
    """Whether a file could be made there; its folder may have to be made first."""
    folder = os.path.dirname(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def _open(path: str, *, own: bool) -> "FileIO":
    """Open the file. Raises OSError, also where another user could have written it."""
    if not own:
        return open(path, "rb", buffering=0)
    folder = os.lstat(os.path.dirname(path))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not (is_own(os.fstat(fd), stat.S_IFREG) and is_own(folder, stat.S_IFDIR)):
        os.close(fd)
        raise PermissionError(path)
    return open(fd, "rb", buffering=0)


_Module = type(sys)


class _Loader(SourceFileLoader):
    """The usual one, but the byte code is there already; a reload reads the file."""

    code: "CodeType | None" = None

    def get_code(self, fullname: str) -> "CodeType | None":
        code, self.code = self.code, None
        return super().get_code(fullname) if code is None else code


class _Modules:
    """A finder of what is in the file. known: of `softsgx.host.basefilter`, which were made, and
    of `softsgx.host.vdso`, which were read.

    What it has is in the order of imports: so it is run from the first to the last, and no import
    in it has to look for anything, which is a fourth of the time.
    """

    _found: "dict[str, tuple[Row, CodeType | bytes | None]]"

    def __init__(
        self, where: tuple[str, bool], sizes: "list[int]", rows: "list[Row]", codes: "list[Any]"
    ) -> None:
        (self._path, self._own), self._sizes = where, sizes
        self.known = codes.pop()
        self._at_once: bytes = codes.pop()
        # What has no code is what something known was made by.
        self._found = {row[0]: (row, code) for row, code in zip(rows, codes, strict=False)}
        self._together = [name for name, (_, code) in self._found.items() if code is None]
        waits = {name for name, (_, code) in self._found.items() if isinstance(code, bytes)}
        self._waits = waits.union(self._together)

    def run(self, before: str = "") -> None:
        """Run what it has, as imports would; or what comes before one."""
        modules = sys.modules
        for name in list(self._found):
            if name == before:
                return
            if name in self._waits:
                continue
            parent, _, child = name.rpartition(".")
            # A package imports its own modules while it runs.
            if name in modules or name not in self._found or (parent and parent not in modules):
                continue
            spec = self._spec(name)
            loader: _Loader = spec.loader  # type: ignore[assignment]
            module = modules[name] = _Module(name)
            module.__spec__, module.__loader__, module.__package__ = spec, loader, spec.parent
            module.__file__ = spec.origin
            module.__cached__ = spec.cached  # type: ignore[attr-defined]
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations
            try:
                code, loader.code = loader.code, None
                exec(code, module.__dict__)  # type: ignore[arg-type] # as loaders do
            except BaseException:
                del modules[name]
                raise
            if parent:
                setattr(modules[parent], child, module)

    def _run_more(self, before: str) -> None:
        """The same while something runs: no garbage is looked for, and it stays, too."""
        import gc

        gc.disable()
        try:
            self.run(before)
        finally:
            gc.freeze()
            gc.enable()

    def find_spec(
        self,
        fullname: str,
        _path: "Sequence[str] | None",
        _target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """What the import system asks (`importlib.abc.MetaPathFinder`)."""
        if fullname in self._together:  # the others are to come
            codes = marshal.loads(self._at_once)
            for name, code in zip(self._together, codes, strict=True):
                self._found[name] = self._found[name][0], code
            self._waits.difference_update(self._together)
            self._together = []
            self._run_more(fullname)
        if fullname == _OPENED:
            self._load()
            self._run_more(fullname)
        if fullname not in self._found:
            return None
        return self._spec(fullname)

    def _spec(self, name: str) -> "ModuleSpec":
        (_, path, is_package, _, _, cached), code = self._found.pop(name)
        loader = _Loader(name, path)
        loader.code = marshal.loads(code) if isinstance(code, bytes) else code
        spec = ModuleSpec(name, loader, origin=path, is_package=is_package)
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(path)]
        spec.has_location, spec.cached = True, cached  # to find it out takes long
        return spec

    def _load(self) -> None:
        """Find what the second part has, too; if it is not of the sources as they are, it goes."""
        first_rows, first_codes, size, _ = self._sizes
        try:
            with _open(self._path, own=self._own) as f:
                if _sizes(f) != self._sizes:
                    return
                f.seek(first_rows + first_codes, 1)
                rows = marshal.loads(f.read(size))
                if not _is_now(row for row, _ in rows):
                    os.unlink(self._path)  # the next run makes it again
                    return
                for row, size in rows:
                    if row[0] in sys.modules:
                        f.seek(size, 1)
                    else:
                        self._found[row[0]] = row, f.read(size)
        except (OSError, EOFError, ValueError, TypeError):
            return


def _sizes(f: "FileIO") -> "list[int] | None":
    """The sizes of a file's parts, which begin where it is read next; None if it is not whole."""
    head = f.read(len(_HEAD) + 8 * _PARTS)
    if not head.startswith(_HEAD) or len(head) < len(_HEAD) + 8 * _PARTS:
        return None
    starts = range(len(_HEAD), len(head), 8)
    sizes = [int.from_bytes(head[at : at + 8], "little") for at in starts]
    return sizes if os.fstat(f.fileno()).st_size == len(head) + sum(sizes) else None


def _is_now(rows: "Iterable[Row]") -> bool:
    """Whether sources are as they were."""
    for _, source, _, mtime_ns, size, _ in rows:
        now = os.stat(source)
        if now.st_mtime_ns != mtime_ns or now.st_size != size:
            return False
    return True


def _read(path: str, *, own: bool = False) -> "_Modules | None":
    """The file, if it is whole and its first part of the sources as they are now."""
    try:
        with _open(path, own=own) as f:
            sizes = _sizes(f)
            if sizes is None:
                return None
            rows, pieces = marshal.loads(f.read(sizes[0]))
            if not _is_now(rows):
                return None
            # Each in the same memory: new memory costs a page fault a page.
            codes: list[Any] = []
            room = memoryview(bytearray(max(pieces)))
            for size in pieces:
                if f.readinto(room[:size]) != size:
                    return None
                codes += marshal.loads(room)
        return _Modules((path, own), sizes, rows, codes)
    except (OSError, EOFError, ValueError, TypeError):
        return None
