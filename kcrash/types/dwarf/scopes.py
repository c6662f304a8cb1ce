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
from kcrash.types.dwarf.variables import CallSite, Variable, call_site, location_at, variables_of
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


class FrameScope(NamedTuple):
    """A function at an address, and the variables in sight there: parameters and outer ones first."""

    frame: Frame
    variables: list[Variable]


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
        unit = self.info.full(self.info.unit(offset))
        if unit is None:
            return []
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
                return low, high, self.info.die(offset, self.info.full(unit))
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
        return [frame for frame, _scopes in self._frames(address)]

    def frame_scopes(self, address: int) -> list[FrameScope]:
        """As inline_frames(), with the variables of each function. Raises Malformed."""
        return [
            FrameScope(frame, [v for scope in scopes for v in variables_of(scope, address, self.converter)])
            for frame, scopes in self._frames(address)
        ]

    def _frames(self, address: int) -> list[tuple[Frame, list[Die]]]:
        """Each function, the innermost first, with its DIE and the blocks around the address in it."""
        unit = self.addresses.unit(address)
        found = self._function(unit, address) if unit else None
        if unit is None or found is None:
            return []
        table = self.lines.of(unit)
        place = (table.find(address, last_row=True) if table else None) or LineInfo("", 0)
        frames: list[tuple[Frame, list[Die]]] = []
        for scopes in reversed(self._chain(found[2], address)):
            die = scopes[0]
            inlined = die.tag == dw.DW_TAG_inlined_subroutine
            name = inherited(die, dw.DW_AT_name).name
            frames.append((Frame(name, place.file, place.line, inlined), scopes))
            number = die.number(dw.DW_AT_call_file)
            file = table.file_name(number) if table and number is not None else ""
            place = LineInfo(file, die.number(dw.DW_AT_call_line) or 0)
        return frames

    def call_site(self, address: int) -> CallSite | None:
        """The call that returns to an address; None if it is not described. Raises Malformed."""
        unit = self.addresses.unit(address - 1)
        found = self._function(unit, address - 1) if unit else None
        return call_site(found[2], address) if found else None

    def frame_base(self, address: int) -> bytes | None:
        """The expression of the frame base of the function at an address (DWARF 5, section 3.3.5)."""
        unit = self.addresses.unit(address)
        found = self._function(unit, address) if unit else None
        return location_at(found[2], dw.DW_AT_frame_base, address) if found else None

    def _chain(self, function: Die, address: int) -> list[list[Die]]:
        """The function and those inlined around an address, outermost first, each before its blocks."""
        chain = [[function]]
        current: Die | None = function
        for _ in range(_MAX_DEPTH):
            current = self._inner(current, address) if current is not None else None
            if current is None:
                break
            if current.tag == dw.DW_TAG_inlined_subroutine:
                chain.append([])
            chain[-1].append(current)
        return chain

    def _inner(self, scope: Die, address: int) -> Die | None:
        children = self.info.children(scope)
        return next((die for die in children if die.tag in _SCOPES and covers(die, address)), None)
