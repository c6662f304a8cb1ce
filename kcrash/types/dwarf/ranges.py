"""Which addresses a DIE covers, and which unit covers an address.

DWARF 5, sections 2.17 (addresses of entries), 2.17.3 and 7.25 (range lists),
6.1.2 (lookup by address); DWARF 4, section 2.17.3 (.debug_ranges).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.encoding import Malformed, initial_length, uleb
from kcrash.types.dwarf.info import ADDRX_FORMS, DebugInfo, Die, Unit

_MAX_RANGES = 1_000_000
Range = tuple[int, int]


def ranges_of(die: Die) -> list[Range]:
    """``(low, high)`` of the code of a DIE, ``high`` exclusive; empty if it has none."""
    if dw.DW_AT_ranges in die.values:
        return _listed(die)
    low = die.address(dw.DW_AT_low_pc)
    if low is None or dw.DW_AT_high_pc not in die.values:
        return []
    high = die.address(dw.DW_AT_high_pc)
    form = die.abbrev.forms[dw.DW_AT_high_pc]
    if high is not None and form != dw.DW_FORM_addr and form not in ADDRX_FORMS:
        high += low  # a constant is the length (section 2.17.2)
    return [(low, high)] if high is not None and high > low else []


def covers(die: Die, address: int) -> bool:
    """True if the DIE's code includes ``address``."""
    return any(low <= address < high for low, high in ranges_of(die))


def _listed(die: Die) -> list[Range]:
    value = die.number(dw.DW_AT_ranges)
    if value is None:
        return []
    unit = die.unit
    base = unit.low_pc
    if unit.layout.version < 5:
        start = unit.base(dw.DW_AT_GNU_ranges_base) if unit.skeleton else 0
        return _old_list(unit, start + value, base)
    if die.abbrev.forms[dw.DW_AT_ranges] == dw.DW_FORM_rnglistx:
        value = list_offset(unit, value, dw.DW_AT_rnglists_base, ".debug_rnglists")
    return _new_list(unit, value, base)


def _old_list(unit: Unit, position: int, base: int) -> list[Range]:
    """Pairs of addresses relative to the base, or a new base behind the largest address."""
    data = unit.info.sections[".debug_ranges"]
    size = unit.layout.address_size
    pair = struct.Struct(unit.info.order + {2: "HH", 4: "II", 8: "QQ"}[size])
    largest = (1 << size * 8) - 1
    found: list[Range] = []
    while len(found) < _MAX_RANGES:
        low, high = pair.unpack_from(data, position)
        position += pair.size
        if low == largest:
            base = high
        elif not low and not high:
            return found
        elif low < high:
            found.append((base + low, base + high))
    raise Malformed("a range list without end")


def list_offset(unit: Unit, index: int, attribute: int, section: str) -> int:
    """Where the list ``index`` of the unit's table of lists starts; ``attribute``: tells where that is."""
    base = unit.base(attribute)
    width = {4: "I", 8: "Q"}[unit.layout.offset_size]
    data = unit.info.sections[section]
    offset: int = struct.unpack_from(unit.info.order + width, data, base + index * unit.layout.offset_size)[0]
    return base + offset


def _new_list(unit: Unit, position: int, base: int) -> list[Range]:
    found: list[Range] = []
    reader = ListReader(unit, position, ".debug_rnglists")
    while len(found) < _MAX_RANGES:
        kind = reader.byte()
        if kind == dw.DW_RLE_end_of_list:
            return found
        if kind in (dw.DW_RLE_base_addressx, dw.DW_RLE_base_address):
            base = reader.indexed() if kind == dw.DW_RLE_base_addressx else reader.address()
            continue
        low, high = reader.bounds(kind, base)
        if low < high:
            found.append((low, high))
    raise Malformed("a range list without end")


class ListReader:
    """The operands of a DWARF 5 range or location list."""

    def __init__(self, unit: Unit, position: int, section: str) -> None:
        self.unit = unit
        self.data = unit.info.sections[section]
        self.position = position

    def byte(self) -> int:
        """One byte: the kind of an entry."""
        self.position += 1
        return self.data[self.position - 1]

    def number(self) -> int:
        """An unsigned LEB128."""
        value, self.position = uleb(self.data, self.position)
        return value

    def indexed(self) -> int:
        """An address out of .debug_addr."""
        return self.unit.info.indexed_address(self.unit, self.number())

    def block(self, size: int) -> memoryview:
        """So many bytes."""
        self.position += size
        return self.data[self.position - size : self.position]

    def address(self) -> int:
        """An address that stands here."""
        size = self.unit.layout.address_size
        code = self.unit.info.order + {2: "H", 4: "I", 8: "Q"}[size]
        value: int = struct.unpack_from(code, self.data, self.position)[0]
        self.position += size
        return value

    def bounds(self, kind: int, base: int) -> Range:
        """The bounds of an entry; ``kind``: DW_RLE_*. Raises Malformed."""
        if kind == dw.DW_RLE_offset_pair:
            return base + self.number(), base + self.number()
        if kind == dw.DW_RLE_startx_endx:
            return self.indexed(), self.indexed()
        if kind == dw.DW_RLE_start_end:
            return self.address(), self.address()
        if kind in (dw.DW_RLE_startx_length, dw.DW_RLE_start_length):
            low = self.indexed() if kind == dw.DW_RLE_startx_length else self.address()
            return low, low + self.number()
        raise Malformed(f"a range list entry of kind {kind}")


class AddressMap:
    """Units by the addresses of their code."""

    def __init__(self, info: DebugInfo) -> None:
        self.info = info

    def unit(self, address: int) -> Unit | None:
        """The unit whose code includes ``address``; None if there is none."""
        for table in (self._listed, self._unlisted):
            offset = table.find(address)
            if offset is not None:
                return self.info.unit(offset)
            # Only if .debug_aranges (which clang leaves out) does not know: the units' own ranges.
        return None

    @cached_property
    def _listed(self) -> _Intervals:
        return self._kept(0, lambda: _address_ranges(self.info))

    @cached_property
    def _unlisted(self) -> _Intervals:
        """The ranges of the units that .debug_aranges leaves out."""
        return self._kept(1, self._ranges_of_units)

    def _kept(self, number: int, find: Callable[[], list[tuple[int, int, int]]]) -> _Intervals:
        rows = self.info.index.state.tables[number]
        if rows is None:
            found = sorted(find())
            lows, highs, owners = (array("Q", [row[column] for row in found]) for column in range(3))
            rows = lows, highs, owners
            self.info.index.keep_table(number, rows)
        return _Intervals(*rows)

    def _ranges_of_units(self) -> list[tuple[int, int, int]]:
        known = set(self._listed.owners)
        rows: list[tuple[int, int, int]] = []
        for unit in self.info.units():
            if unit.offset in known:
                continue
            try:
                rows += [(low, high, unit.offset) for low, high in ranges_of(unit.root)]
            except (Malformed, IndexError, struct.error, OverflowError):
                continue
        return [row for row in rows if row[1] < 1 << 64]


class _Intervals(NamedTuple):
    """Owners of address ranges. Where two overlap, the one that starts last is asked first."""

    lows: array[int]
    highs: array[int]
    owners: array[int]

    def find(self, address: int) -> int | None:
        """The owner of an address; None if it has none."""
        index = bisect_right(self.lows, address) - 1
        for at in range(index, max(-1, index - 8), -1):
            if address < self.highs[at]:
                return self.owners[at]
        return None


def _address_ranges(info: DebugInfo) -> list[tuple[int, int, int]]:
    """``(low, high, unit offset)`` of all of .debug_aranges; what is broken is left out."""
    data = info.sections[".debug_aranges"]
    rows: list[tuple[int, int, int]] = []
    position = 0
    while position + 12 <= len(data):
        try:
            length, wide, after = initial_length(data, position, info.order)
            rows += _address_set(info, data, position, after, wide, min(after + length, len(data)))
        except (Malformed, struct.error):
            break
        position = after + length
    return rows


def _address_set(
    info: DebugInfo, data: memoryview, start: int, position: int, wide: int, end: int
) -> list[tuple[int, int, int]]:
    """One set: a header, then (address, length) pairs at a multiple of their size from its start."""
    offset_code = "I" if wide == 4 else "Q"
    version, unit, size, segment = struct.unpack_from(f"{info.order}H{offset_code}BB", data, position)
    if version != 2 or segment or size not in (4, 8):
        return []
    pair = struct.Struct(info.order + ("II" if size == 4 else "QQ"))
    position += 4 + wide
    position += (start - position) % pair.size
    whole = (end - position) // pair.size * pair.size
    if whole <= 0:
        return []
    pairs = pair.iter_unpack(data[position : position + whole])
    return [(low, low + length, unit) for low, length in pairs if length and low + length < 1 << 64]
