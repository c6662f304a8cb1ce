"""Aliases: a name for a piece of a command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BUILTIN = {
    "man": "help",
    "?": "help",
    "quit": "q",
    "sf": "set scroll off",
    "sn": "set scroll on",
    "hex": "set radix 16",
    "dec": "set radix 10",
    "g": "gdb",
    "px": "p -x",
    "pd": "p -d",
    "for": "foreach",
    "size": "*",
    "dmesg": "log",
    "lsmod": "mod",
    "last": "ps -l",
}


class Alias(NamedTuple):
    """``origin``: "builtin", the file that defined it, or "runtime"."""

    name: str
    text: str
    origin: str


class Aliases:
    """The aliases of a shell, oldest first."""

    def __init__(self) -> None:
        self.origin = "runtime"
        self._table = {name: Alias(name, text, "builtin") for name, text in BUILTIN.items()}

    def __iter__(self) -> Iterator[Alias]:
        return iter(self._table.values())

    def get(self, name: str) -> Alias | None:
        """The alias of that name."""
        return self._table.get(name)

    def set(self, name: str, text: str) -> None:
        """Define, or define anew; ``origin`` tells where."""
        self._table[name] = Alias(name, text, self.origin)

    def remove(self, name: str) -> bool:
        """Forget an alias; whether there was one."""
        return self._table.pop(name, None) is not None
