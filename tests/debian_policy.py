"""Debian's whole SELinux policy, compiled without being installed; kept in the tests' cache.

Building it takes half a minute, so no test does so by itself: ``python -m
tests.debian_policy`` builds it once (it needs apt, dpkg and the package policycoreutils),
and what finds it there uses it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.cache import BuildError, build, cache_directory, locked

__all__ = ["build_policy", "find_policy"]

_PACKAGE = "selinux-policy-default"


def _root() -> Path:
    return cache_directory("debian-selinux-policy")


def find_policy() -> tuple[Path, Path] | None:
    """The policy and its file_contexts, None when they have not been built."""
    base = _root() / "etc" / "selinux" / "default"
    contexts = base / "contexts" / "files" / "file_contexts"
    policies = sorted((base / "policy").glob("policy.*")) if base.exists() else []
    return (policies[-1], contexts) if policies and contexts.exists() else None


def build_policy() -> tuple[Path, Path]:
    """Download the package and link its modules as its postinst does. Raises BuildError."""
    root = _root()
    with locked(root):
        found = find_policy()
        if found:
            return found
        package = root / "package"
        shutil.rmtree(package, ignore_errors=True)
        package.mkdir()
        done = subprocess.run(
            ["apt-get", "download", _PACKAGE],
            cwd=package,
            capture_output=True,
            text=True,
            check=False,
        )
        debs = list(package.glob("*.deb"))
        if done.returncode or not debs:
            raise BuildError(f"apt-get download {_PACKAGE}: {done.stderr}")
        build(["dpkg-deb", "-x", debs[0], package / "files"])
        build(["dpkg-deb", "-e", debs[0], package / "control"])
        shutil.copytree(package / "files" / "etc", root / "etc", dirs_exist_ok=True)
        (root / "var" / "lib" / "selinux").mkdir(parents=True, exist_ok=True)
        modules = package / "files" / "usr" / "share" / "selinux" / "default"
        postinst = (package / "control" / "postinst").read_text()
        unwanted = re.search(r'^notdefault="([^"]*)"', postinst, re.MULTILINE)
        command: list[str | Path] = ["semodule", "-X", "100", "-p", root, "-n", "-s", "default"]
        for name in (modules / ".modules").read_text().split():
            command += ["-i", modules / f"{name}.pp.bz2"]
        for name in unwanted.group(1).split() if unwanted else ():
            command += ["-d", name]
        build(command, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        shutil.rmtree(package)
        found = find_policy()
        if not found:
            raise BuildError("semodule wrote no policy")
        return found


if __name__ == "__main__":
    print(build_policy()[0])
