"""Which code has which tables: the kernel's text, each module's, what was generated at run time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from kcrash.unwind.rules import Row


class RowTable(Protocol):
    """A source of rows."""

    def row(self, pc: int) -> Row | None:
        """The row at a runtime address, or None. Raises BadFormat."""


class SwitchingTable(RowTable, Protocol):
    """A source of rows that also knows where inline assembly switches stacks (ORC)."""

    def switches_stack(self, pc: int) -> bool:
        """True where the compiler's own information is wrong."""


@dataclass(slots=True)
class Tables:
    """The tables of one piece of code; both None for code that has none (BPF, trampolines).

    ``orc``: the kernel's own, which are ORC or ARM's index (kcrash.unwind.exidx).
    """

    cfi: RowTable | None = None
    orc: SwitchingTable | None = None


@dataclass(slots=True)
class _Region:
    end: int
    load: Callable[[], Tables]
    tables: Tables | None = None


@dataclass(slots=True)
class CodeMap:
    """Ranges of code by address. What lies in none of them is no code."""

    _starts: list[int] = field(default_factory=list)
    _regions: list[_Region] = field(default_factory=list)

    def add(self, start: int, end: int, tables: Tables | Callable[[], Tables] | None = None) -> None:
        """Runtime addresses ``[start, end)`` are code; ``tables`` may be made when they are first needed.

        Ranges must not overlap. Raises ValueError for an empty one.
        """
        if end <= start:
            raise ValueError(f"no code in {start:#x}-{end:#x}")
        fixed = None if callable(tables) else tables or Tables()
        load = tables if callable(tables) else Tables
        at = bisect_right(self._starts, start)
        self._starts.insert(at, start)
        self._regions.insert(at, _Region(end, load, fixed))

    def find(self, pc: int) -> Tables | None:
        """The tables for an address, or None if it is no code."""
        at = bisect_right(self._starts, pc) - 1
        if at < 0 or pc >= self._regions[at].end:
            return None
        region = self._regions[at]
        if region.tables is None:
            region.tables = region.load()
        return region.tables

    def __contains__(self, pc: int) -> bool:
        at = bisect_right(self._starts, pc) - 1
        return at >= 0 and pc < self._regions[at].end
