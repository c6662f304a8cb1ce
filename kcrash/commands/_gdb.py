"""Lines of gdb's that crash's users type, as lines of ours."""

from __future__ import annotations

import re

_WORDS = {"print": "p", "output": "p", "inspect": "p", "ptype": "whatis", "x": "x", "p": "p"}
_INFO = re.compile(r"(line|symbol|address)\s+\*?\s*(\S+)$")
_EXAMINE = re.compile(r"/?(?P<count>\d*)(?P<letters>[a-z]*)$")
# Characters are bytes and addresses are words, unless a size is given.
_SIZES = {"b": "-8", "h": "-16", "w": "-32", "g": "-64", "c": "-8", "a": ""}
_FORMS = {"a": "-s", "d": "-d", "u": "-D"}


def translated(line: str) -> str | None:
    """What ``line`` is in our commands, None if it is nothing of gdb's that we know.

    ``gdb`` before it is dropped; p/x, print, output, ptype, x/FMT, info line, info symbol.
    """
    line = line.strip()
    if line.startswith("gdb "):
        rest = line[4:].strip()
        return translated(rest) or rest
    word = re.match(r"[a-z]+", line)
    name, rest = (word.group(), line[word.end() :]) if word else ("", "")
    if name == "info":
        found = _INFO.match(rest.strip())
        return f"sym {found[2]}" if found else None
    ours = _WORDS.get(name)
    if ours is None or (ours == name == "p" and not rest.startswith("/")):
        return None
    if ours == "x":
        return _examine(rest)
    return f"{ours} {rest.strip()}"


def _examine(rest: str) -> str | None:
    """``x/4gx ADDRESS`` as ``rd``, ``x/4i`` as ``dis``, ``x/s`` as ``rd -a``."""
    form, _, address = rest.strip().partition(" ")
    match = _EXAMINE.match(form) if form.startswith("/") else _EXAMINE.match("")
    address = address.strip() if form.startswith("/") else rest.strip()
    if match is None or not address:
        return None
    count, letters = match["count"] or "1", set(match["letters"])
    address = address.removeprefix("&").removeprefix("*")
    if "i" in letters:
        return f"dis {address} {count}"
    if "s" in letters:
        return f"rd -a {address}"
    size = next((option for letter, option in _SIZES.items() if letter in letters), "-32")
    kind = next((option for letter, option in _FORMS.items() if letter in letters), "")
    return " ".join(f"rd {kind} {size} {address} {count}".split())
