"""Where ``softsgx`` begins: what every ``run`` imports comes out of one file.

To find, open and read some seventy files costs a start 3 ms more than to read one. That file is a
cache like the byte code beside it, and believed as that is: the first run that may write there
makes it, and it counts for nothing as soon as one source has another size or time. Rejected: to
ship it (the byte code of each Python is another), and a zip file, which is read no faster.
"""

# No annotations are evaluated later: __future__ is one of those files.
import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, cache_from_source

# Not from typing, whose import takes 10 ms: type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    from softsgx.host.basefilter import Key
    from softsgx.host.bpf import Template

__all__ = ["main", "path_of"]

_HEAD = b"softsgx modules 3\0" + MAGIC_NUMBER


def main() -> int:
    """Run the command line; its exit status."""
    if sys.argv[1:2] != ["run"]:
        from softsgx.cli.main import main as command

        return command()
    import gc

    gc.disable()  # what is imported stays; it is on again before anything runs
    before = set(sys.modules)
    path = path_of()
    modules = _read(path)
    if modules is not None:
        sys.meta_path.insert(0, modules)
    from softsgx.cli.main import main as command

    try:
        import softsgx.cli.run  # noqa: F401 - what the command imports, as long as the file counts
    except KeyboardInterrupt:
        return 130
    except Exception:
        return command()  # which tells of it
    finally:
        if modules is not None:
            sys.meta_path.remove(modules)
    if modules is not None:
        from softsgx.host.basefilter import KNOWN

        KNOWN.update(modules.known)
    elif not sys.dont_write_bytecode:
        imported = set(sys.modules) - before
        from softsgx.cli.modules import write

        write(path, _HEAD, imported)
    return command()


def path_of() -> str:
    """Where the file is: with the byte code of the package, one for each Python."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return cache_from_source(os.path.join(package, "run.py")).removesuffix(".pyc") + ".modules"


class _Loader(SourceFileLoader):
    """The usual one, but the byte code is there already; a reload reads the file."""

    code: "CodeType | None" = None

    def get_code(self, fullname: str) -> "CodeType | None":
        code, self.code = self.code, None
        return super().get_code(fullname) if code is None else code


class _Modules:
    """A finder of what is in the file. known: of `softsgx.host.basefilter`, which were made."""

    def __init__(
        self, found: "dict[str, tuple[str, bool, str, CodeType]]", known: "dict[Key, Template]"
    ) -> None:
        self._found, self.known = found, known

    def find_spec(
        self,
        fullname: str,
        _path: "Sequence[str] | None",
        _target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """What the import system asks (`importlib.abc.MetaPathFinder`)."""
        if fullname not in self._found:
            return None
        path, is_package, cached, code = self._found[fullname]
        loader = _Loader(fullname, path)
        loader.code = code
        spec = ModuleSpec(fullname, loader, origin=path, is_package=is_package)
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(path)]
        spec.has_location, spec.cached = True, cached  # to find it out takes long
        return spec


def _read(path: str) -> "_Modules | None":
    """The file, if it is whole and of the sources as they are now."""
    try:
        with open(path, "rb", buffering=0) as f:
            raw = f.read()
        if not raw.startswith(_HEAD) or len(raw) < len(_HEAD) + 16:
            return None
        at = len(_HEAD) + 16
        codes_at = at + int.from_bytes(raw[at - 16 : at - 8], "little")
        if len(raw) != int.from_bytes(raw[at - 8 : at], "little"):
            return None
        rows = marshal.loads(raw[at:codes_at])
        for _, source, _, mtime_ns, size, _ in rows:
            now = os.stat(source)
            if now.st_mtime_ns != mtime_ns or now.st_size != size:
                return None
        codes, known = marshal.loads(memoryview(raw)[codes_at:])
    except (OSError, EOFError, ValueError, TypeError):
        return None
    # What has no code is what something known was made by.
    rows = rows[: len(codes)]
    found = {row[0]: (row[1], row[2], row[5], code) for row, code in zip(rows, codes, strict=True)}
    return _Modules(found, known)
