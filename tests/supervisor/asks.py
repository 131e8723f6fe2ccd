"""A program that connects to a Unix socket in every way, and says what came of it.

usage: asks.py PATH; one line a question. Run on a real socket it is what ours has to answer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import stat
import struct
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)


def name(code: int) -> str:
    return errno.errorcode[code] if code else "0"


def connect(fd: int, raw: bytes, size: int | None = None) -> str:
    failed = _LIBC.connect(fd, raw, len(raw) if size is None else size)
    return name(ctypes.get_errno()) if failed else "0"


def attempt(what: object) -> str:
    try:
        return str(what())  # type: ignore[operator]
    except OSError as error:
        return name(error.errno or 0)


def main(path: str) -> None:
    folder, base = os.path.split(path)
    un = struct.pack("<H", socket.AF_UNIX)
    whole = un + path.encode()

    kept = []

    def fresh(kind: int = socket.SOCK_STREAM, family: int = socket.AF_UNIX) -> socket.socket:
        kept.append(socket.socket(family, kind))
        return kept[-1]

    print("with a zero", connect(fresh().fileno(), whole + b"\0"))
    print("without", connect(fresh().fileno(), whole))
    print("padded", connect(fresh().fileno(), whole.ljust(110, b"\0")))
    print("too long", connect(fresh().fileno(), whole.ljust(111, b"\0")))
    print("cut short", connect(fresh().fileno(), whole[:-1]))
    print("no name", connect(fresh().fileno(), un))
    print("no family", connect(fresh().fileno(), b"\1"))
    print("no memory", name(ctypes.get_errno()) if _LIBC.connect(fresh().fileno(), 8, 30) else "0")
    dotted = f"{folder}/../{os.path.basename(folder)}/./{base}"
    print("by dots", connect(fresh().fileno(), un + dotted.encode()))
    print("below", connect(fresh().fileno(), whole + b"/x"))
    print("beside", connect(fresh().fileno(), un + f"{folder}/other".encode()))
    print("abstract", connect(fresh().fileno(), un + b"\0" + path.encode()))
    print("dgram", connect(fresh(socket.SOCK_DGRAM).fileno(), whole))
    print("seqpacket", connect(fresh(socket.SOCK_SEQPACKET).fileno(), whole))
    print("inet", connect(fresh(family=socket.AF_INET).fileno(), whole))
    print("no descriptor", connect(999, whole))
    print("no socket", connect(os.open("/dev/null", os.O_RDWR), whole))
    client = fresh()
    client.setblocking(False)
    print("nonblocking", connect(client.fileno(), whole))
    print("again", connect(client.fileno(), whole))
    watch = select.epoll()
    watched = fresh()
    watch.register(watched, select.EPOLLOUT)
    print("watched", connect(watched.fileno(), whole), bool(watch.poll(10)))
    copy = os.dup(fresh().fileno())
    print("a copy", connect(copy, whole))
    s = os.stat(path)
    print("stat", stat.S_ISSOCK(s.st_mode), s.st_nlink, s.st_size, s.st_rdev)
    print("lstat", stat.S_ISSOCK(os.lstat(path).st_mode))
    print("access", os.access(path, os.R_OK | os.W_OK))
    print("open", attempt(lambda: os.open(path, os.O_RDWR)))
    print("exclusive", attempt(lambda: os.open(path, os.O_CREAT | os.O_EXCL)))
    print("mkdir", attempt(lambda: os.mkdir(path)))
    print("chdir", attempt(lambda: os.chdir(path)))
    print("readlink", attempt(lambda: os.readlink(path)))
    print("truncate", attempt(lambda: os.truncate(path, 0)))
    os.chdir(folder)
    print("listed", base in os.listdir("."))
    print("relative", connect(fresh().fileno(), un + base.encode()))
    print("dot", connect(fresh().fileno(), un + f"./{base}".encode() + b"\0"))
    child = os.fork()
    if not child:
        os._exit(connect(fresh().fileno(), whole) != "0")
    print("a child", os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1])
