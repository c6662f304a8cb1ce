"""What a symbol is that no debuginfo describes: gdb's words for it."""

from __future__ import annotations

from kcrash.types.model import Type


class UnknownType(Type):
    """The type of such a symbol. Its address is known, nothing else."""

    __slots__ = ()
    kind = "unknown"


TEXT = UnknownType("<text variable, no debug info>", 1)
DATA = UnknownType("<data variable, no debug info>", 1)
