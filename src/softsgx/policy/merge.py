"""Permissions that a module adds to a policy's classes.

CIL lets a class be declared once, so a module cannot give one that is there another
permission; a kernel with a new hook has a new policy. Here a module that declares a class or a
common which an earlier file has adds its permissions to that declaration (and loses its own).
"""

from __future__ import annotations

import re

__all__ = ["merged"]

_TOKEN = re.compile(rb'[()]|"[^"]*"|;[^\n]*|[^\s()";]+')
_KINDS = (b"class", b"common")


def merged(sources: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Named CIL texts, of which those after the first may add permissions to earlier ones."""
    done = sources[:1]
    for name, module in sources[1:]:
        text = module
        for start, end, kind, what, perms in reversed(list(_declarations(text))):
            head = re.compile(
                rb"^[ \t]*\(" + kind + rb"\s+" + re.escape(what) + rb"\s+\(([^()]*)\)", re.MULTILINE
            )
            for i, (earlier, there) in enumerate(done):
                found = head.search(there)
                if found is None:
                    continue
                known = found[1].split()
                more = b" ".join(perm for perm in perms if perm not in known)
                at = found.end(1)
                done[i] = (earlier, there[:at] + (b" " + more if more else b"") + there[at:])
                text = text[:start] + text[end:]
                break
        done.append((name, text))
    return done


def _declarations(text: bytes) -> list[tuple[int, int, bytes, bytes, list[bytes]]]:
    """(start, end, class or common, name, permissions) of each at the top of a text."""
    found = []
    depth, start, words = 0, 0, list[bytes]()
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word.startswith(b";"):
            continue
        if word == b"(":
            if not depth:
                start, words = token.start(), []
            depth += 1
        elif word == b")":
            depth -= 1
            if not depth and len(words) > 1 and words[0] in _KINDS:
                found.append((start, token.end(), words[0], words[1], words[2:]))
        else:
            words.append(word)
    return found
