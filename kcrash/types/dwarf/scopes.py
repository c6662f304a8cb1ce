"""Functions and what was inlined into them (DWARF 5, section 3.3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.convert import Converter, inherited
from kcrash.types.dwarf.info import DebugInfo, Die, Unit
from kcrash.types.dwarf.line import LineInfo, LineTables
from kcrash.types.dwarf.ranges import AddressMap, covers, ranges_of
from kcrash.types.model import Parameter

_MAX_DEPTH = 256
_SCOPES = (dw.DW_TAG_inlined_subroutine, dw.DW_TAG_lexical_block)


class Frame(NamedTuple):
    """One of the functions that an address belongs to, and the place in it.

    For an ``inlined`` function's caller the place is that of the call.
    """

    function: str
    file: str
    line: int
    inlined: bool


class FunctionInfo(NamedTuple):
    """A function: the range of its code that was asked for, ``high`` exclusive, and its parameters."""

    name: str
    low: int
    high: int
    parameters: Sequence[Parameter]


class Scopes:
    """Functions of one file by address."""

    def __init__(
        self, info: DebugInfo, addresses: AddressMap, lines: LineTables, converter: Converter
    ) -> None:
        self.info = info
        self.addresses = addresses
        self.lines = lines
        self.converter = converter
        self._functions = lru_cache(maxsize=64)(self._load)

    def _load(self, offset: int) -> list[tuple[int, int, int]]:
        """``(low, high, DIE offset)`` of the functions of the unit at ``offset``, sorted."""
        unit = self.info.unit(offset)
        codes = {
            code
            for code, abbrev in unit.abbrevs.codes.items()
            if abbrev.tag == dw.DW_TAG_subprogram
            and (dw.DW_AT_low_pc in abbrev.forms or dw.DW_AT_ranges in abbrev.forms)
        }
        rows = []
        for position, code in self.info.top_level(unit):
            if code in codes:
                rows += [(low, high, position) for low, high in ranges_of(self.info.die(position, unit))]
        return sorted(rows)

    def _function(self, unit: Unit, address: int) -> tuple[int, int, Die] | None:
        rows = self._functions(unit.offset)
        index = bisect_right(rows, (address, 1 << 64, 0)) - 1
        for low, high, offset in reversed(rows[max(0, index - 3) : index + 1]):
            if low <= address < high:
                return low, high, self.info.die(offset, unit)
        return None

    def function_at(self, address: int) -> FunctionInfo | None:
        """The function at an address; None if no unit has one there. Raises Malformed."""
        unit = self.addresses.unit(address)
        found = self._function(unit, address) if unit else None
        if found is None:
            return None
        low, high, die = found
        name = inherited(die, dw.DW_AT_name).name
        return FunctionInfo(name, low, high, self.converter.parameters(die))

    def line_of(self, address: int, *, last_row: bool) -> LineInfo | None:
        """The source line of an address (see LineTable.find). Raises Malformed."""
        unit = self.addresses.unit(address)
        table = self.lines.of(unit) if unit else None
        return table.find(address, last_row=last_row) if table else None

    def inline_frames(self, address: int) -> list[Frame]:
        """The functions at an address, the innermost first; empty if none is known. Raises Malformed."""
        unit = self.addresses.unit(address)
        found = self._function(unit, address) if unit else None
        if unit is None or found is None:
            return []
        table = self.lines.of(unit)
        place = (table.find(address, last_row=True) if table else None) or LineInfo("", 0)
        frames: list[Frame] = []
        for die in reversed(self._inlined(found[2], address)):
            frames.append(Frame(inherited(die, dw.DW_AT_name).name, place.file, place.line, True))
            number = die.number(dw.DW_AT_call_file)
            file = table.file_name(number) if table and number is not None else ""
            place = LineInfo(file, die.number(dw.DW_AT_call_line) or 0)
        frames.append(Frame(inherited(found[2], dw.DW_AT_name).name, place.file, place.line, False))
        return frames

    def _inlined(self, function: Die, address: int) -> list[Die]:
        """The DW_TAG_inlined_subroutine DIEs around an address, the outermost first."""
        chain: list[Die] = []
        current: Die | None = function
        for _ in range(_MAX_DEPTH):
            if current is None:
                break
            current = self._inner(current, address)
            if current is not None and current.tag == dw.DW_TAG_inlined_subroutine:
                chain.append(current)
        return chain

    def _inner(self, scope: Die, address: int) -> Die | None:
        children = self.info.children(scope)
        return next((die for die in children if die.tag in _SCOPES and covers(die, address)), None)
