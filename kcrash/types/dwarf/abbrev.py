"""Abbreviations: what the attributes of a DIE are, compiled so that a DIE decodes in a few calls.

DWARF 5, sections 7.5.3 (abbreviation tables) and 7.5.6 (forms). The same
declarations come back in every unit of a kernel: each is compiled once.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.encoding import Malformed, sleb, string_end, uleb

# What a DIE's attribute is before it is interpreted: a number, the bytes of a
# data16, the position of an inline string, (position, length) of a block.
Raw = Any


class Layout(NamedTuple):
    """What the widths of forms depend on: byte order ("<" or ">"), bytes of an address, of an offset."""

    order: str
    address_size: int
    offset_size: int
    version: int


_FIXED = {
    dw.DW_FORM_data1: "B", dw.DW_FORM_data2: "H", dw.DW_FORM_data4: "I", dw.DW_FORM_data8: "Q",
    dw.DW_FORM_flag: "B", dw.DW_FORM_ref1: "B", dw.DW_FORM_ref2: "H", dw.DW_FORM_ref4: "I",
    dw.DW_FORM_ref8: "Q", dw.DW_FORM_ref_sig8: "Q", dw.DW_FORM_data16: "16s",
    dw.DW_FORM_strx1: "B", dw.DW_FORM_strx2: "H", dw.DW_FORM_strx3: "3s", dw.DW_FORM_strx4: "I",
    dw.DW_FORM_addrx1: "B", dw.DW_FORM_addrx2: "H", dw.DW_FORM_addrx3: "3s", dw.DW_FORM_addrx4: "I",
    dw.DW_FORM_ref_sup4: "I", dw.DW_FORM_ref_sup8: "Q",
}  # fmt: skip
_OFFSETS = {
    dw.DW_FORM_strp, dw.DW_FORM_sec_offset, dw.DW_FORM_line_strp, dw.DW_FORM_strp_sup,
    dw.DW_FORM_GNU_ref_alt, dw.DW_FORM_GNU_strp_alt, dw.DW_FORM_ref_addr,
}  # fmt: skip
_ULEBS = {
    dw.DW_FORM_udata, dw.DW_FORM_ref_udata, dw.DW_FORM_strx, dw.DW_FORM_addrx, dw.DW_FORM_loclistx,
    dw.DW_FORM_rnglistx, dw.DW_FORM_GNU_addr_index, dw.DW_FORM_GNU_str_index,
}  # fmt: skip
_BLOCKS = {dw.DW_FORM_block1: "B", dw.DW_FORM_block2: "H", dw.DW_FORM_block4: "I"}
_CONSTANT = {dw.DW_FORM_flag_present, dw.DW_FORM_implicit_const}
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _fixed_format(form: int, layout: Layout) -> str | None:
    """The struct-module code of a form that always takes the same bytes; None if it varies."""
    if form in _OFFSETS:
        if form == dw.DW_FORM_ref_addr and layout.version == 2:  # an address, in DWARF 2 only
            return _WIDTHS[layout.address_size]
        return _WIDTHS[layout.offset_size]
    if form == dw.DW_FORM_addr:
        return _WIDTHS[layout.address_size]
    return _FIXED.get(form)


def read_variable(form: int, data: memoryview, position: int, order: str) -> tuple[Raw, int]:
    """The raw value of a form of varying width, and the position behind it."""
    if form == dw.DW_FORM_exprloc or form == dw.DW_FORM_block:
        length, position = uleb(data, position)
        return (position, length), position + length
    if form in _ULEBS:
        return uleb(data, position)
    if form == dw.DW_FORM_sdata:
        return sleb(data, position)
    if form == dw.DW_FORM_string:
        return position, string_end(data, position) + 1
    width = _BLOCKS.get(form)
    if width is None:
        raise Malformed(f"form {form:#x} at {position:#x}")
    length = struct.unpack_from(order + width, data, position)[0]
    position += struct.calcsize(order + width)
    return (position, length), position + length


def read_form(form: int, data: memoryview, position: int, layout: Layout) -> tuple[Raw, int]:
    """The raw value of any form but the implicit ones; the line table's header needs it."""
    code = _fixed_format(form, layout)
    if code is None:
        return read_variable(form, data, position, layout.order)
    code = layout.order + code
    return struct.unpack_from(code, data, position)[0], position + struct.calcsize(code)


class _Segment(NamedTuple):
    """A run of attributes of fixed width, then at most one of varying width (``form``, or 0)."""

    unpack: Callable[[Any, int], tuple[Raw, ...]]
    size: int
    attributes: tuple[int, ...]
    form: int
    attribute: int


class Abbrev:
    """One abbreviation declaration, for units of one layout.

    ``forms``: attribute -> form. ``size``: bytes of a DIE's attributes, -1 if
    they vary. ``sibling_at``: offset of a 4-byte DW_AT_sibling behind the
    abbreviation code, -1 if there is none. ``name_at``: likewise of DW_AT_name,
    -1 if it has no fixed place, None if there is no name.
    """

    __slots__ = (
        "_constants",
        "_segments",
        "children",
        "forms",
        "name_at",
        "order",
        "sibling_at",
        "size",
        "tag",
    )

    def __init__(
        self, tag: int, children: bool, attributes: list[tuple[int, int, int]], layout: Layout
    ) -> None:
        self.tag = tag
        self.children = children
        self.order = layout.order
        self.forms = {attribute: form for attribute, form, _value in attributes}
        self._constants = {
            attribute: value if form == dw.DW_FORM_implicit_const else 1
            for attribute, form, value in attributes
            if form in _CONSTANT
        }
        self._segments = tuple(_segments(attributes, layout))
        fixed = all(not segment.form for segment in self._segments)
        self.size = sum(segment.size for segment in self._segments) if fixed else -1
        places = _places(attributes, layout)
        self.name_at = places.get(dw.DW_AT_name, -1) if dw.DW_AT_name in self.forms else None
        sibling = self.forms.get(dw.DW_AT_sibling) == dw.DW_FORM_ref4
        self.sibling_at = places.get(dw.DW_AT_sibling, -1) if sibling else -1

    def read(self, data: memoryview, position: int) -> tuple[dict[int, Raw], int]:
        """The raw attributes of the DIE whose attributes start at ``position``, and where they end."""
        values = self._constants.copy()
        for unpack, size, attributes, form, attribute in self._segments:
            if size:
                values.update(zip(attributes, unpack(data, position), strict=False))
                position += size
            if form:
                values[attribute], position = read_variable(form, data, position, self.order)
        return values, position

    def skip(self, data: memoryview, position: int) -> int:
        """Where the attributes that start at ``position`` end."""
        for segment in self._segments:
            position += segment.size
            if segment.form == dw.DW_FORM_exprloc and data[position] < 0x80:
                position += data[position] + 1
            elif segment.form:
                position = read_variable(segment.form, data, position, self.order)[1]
        return position


def _segments(attributes: list[tuple[int, int, int]], layout: Layout) -> list[_Segment]:
    segments: list[_Segment] = []
    code, names = layout.order, []
    for attribute, form, _value in [*attributes, (0, 0, 0)]:
        if form in _CONSTANT:
            continue
        fixed = _fixed_format(form, layout) if form else None
        if fixed:
            code += fixed
            names.append(attribute)
            continue
        if form or names:
            run = struct.Struct(code)
            segments.append(_Segment(run.unpack_from, run.size, tuple(names), form, attribute))
        code, names = layout.order, []
    return segments


def _places(attributes: list[tuple[int, int, int]], layout: Layout) -> dict[int, int]:
    """Offsets of the attributes that always stand at the same place."""
    places: dict[int, int] = {}
    offset = 0
    for attribute, form, _value in attributes:
        places.setdefault(attribute, offset)
        if form in _CONSTANT:
            continue
        fixed = _fixed_format(form, layout)
        if not fixed:
            break
        offset += struct.calcsize(layout.order + fixed)
    return places


class AbbrevTable:
    """The abbreviations of a unit: ``codes`` maps abbreviation codes to declarations."""

    __slots__ = ("_wanted", "codes")

    def __init__(self, codes: dict[int, Abbrev]) -> None:
        self.codes = codes
        self._wanted: dict[Callable[[Abbrev], bool], Wanted] = {}

    def wanted(self, test: Callable[[Abbrev], bool]) -> Wanted:
        """The named abbreviations that pass ``test``."""
        found = self._wanted.get(test)
        if found is None:
            chosen = {
                code: abbrev
                for code, abbrev in self.codes.items()
                if abbrev.name_at is not None and test(abbrev)
            }
            found = self._wanted[test] = Wanted(chosen)
        return found


class Wanted:
    """Abbreviations of interest in one unit, by where their names stand.

    ``loose``: some name has no fixed place (or some code has three bytes): any hit may be a name.
    """

    __slots__ = ("_lasts", "codes", "loose", "places")

    def __init__(self, codes: dict[int, Abbrev]) -> None:
        self.codes = codes
        self.loose = any(abbrev.name_at == -1 or code >= 1 << 14 for code, abbrev in codes.items())
        self.places: dict[int, set[int]] = {}
        for code, abbrev in codes.items():
            self.places.setdefault(abbrev.name_at or 0, set()).add(code)
        self._lasts = [
            (place, frozenset(code if code < 0x80 else code >> 7 & 0x7F for code in found))
            for place, found in self.places.items()
        ]

    def plausible(self, data: memoryview, position: int) -> bool:
        """False if no DIE of interest can have its name at ``position``: a first, quick look."""
        if self.loose:
            return True
        # The last byte of an abbreviation code stands before the name.
        return any(position > place and data[position - place - 1] in lasts for place, lasts in self._lasts)

    def starts(self, data: memoryview, position: int) -> Iterator[int]:
        """Where a DIE of interest may start whose name is at ``position``: its code stands before it."""
        for place, codes in self.places.items():
            end = position - place - 1
            if end < 1 or data[end] >= 0x80:
                continue
            if data[end] in codes:
                yield end
            if data[end - 1] >= 0x80 and (data[end - 1] & 0x7F | data[end] << 7) in codes:
                yield end - 1


NOTHING = Wanted({})

_NUMBER = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
# A code, then tag, children flag, pairs of attribute and form up to a pair of zeros.
_DECLARATION = re.compile(
    b"(%b)(%b[\x00\x01](?:(?!\x00\x00)%b(?:\x21%b|(?!\x21)%b))*\x00\x00)" % ((_NUMBER,) * 5), re.DOTALL
)


_PIECE = 1 << 14
_MAX_COMPILED = 50_000  # no compiler makes as many


class AbbrevReader:
    """The abbreviation tables of one file; ``data``: its .debug_abbrev."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._compiled: dict[Layout, dict[bytes, Abbrev]] = {}
        # One a unit: a search that visits all units of a kernel must not read them all again the next time.
        self.table = lru_cache(maxsize=4096)(self._table)

    def _table(self, offset: int, layout: Layout) -> AbbrevTable:
        """The table at ``offset`` of the section. Raises Malformed."""
        size = _PIECE
        while True:
            piece = bytes(self._data[offset : offset + size])
            codes = self._codes(piece, layout)
            if codes is not None:
                return AbbrevTable(codes)
            if len(piece) < size:
                raise Malformed(f"the abbreviation table at {offset:#x} is broken or has no end")
            size *= 4

    def _codes(self, piece: bytes, layout: Layout) -> dict[int, Abbrev] | None:
        """The declarations at the start of ``piece``; None if they do not end in it."""
        compiled = self._compiled.setdefault(layout, {})
        if len(compiled) > _MAX_COMPILED:
            compiled.clear()
        match = _DECLARATION.match
        codes: dict[int, Abbrev] = {}
        position, end = 0, len(piece)
        while position < end and piece[position]:
            found = match(piece, position)
            if found is None:
                return None
            number, body = found.groups()
            abbrev = compiled.get(body)
            if abbrev is None:
                abbrev = compiled[body] = _compile(memoryview(body), layout)
            codes[number[0] if len(number) == 1 else uleb(memoryview(number), 0)[0]] = abbrev
            position = found.end()
        return codes if position < end else None


def _compile(body: memoryview, layout: Layout) -> Abbrev:
    tag, position = uleb(body, 0)
    children = bool(body[position])
    position += 1
    attributes: list[tuple[int, int, int]] = []
    while True:
        attribute, position = uleb(body, position)
        form, position = uleb(body, position)
        value = 0
        if form == dw.DW_FORM_implicit_const:
            value, position = sleb(body, position)
        if not attribute and not form:
            return Abbrev(tag, children, attributes, layout)
        attributes.append((attribute, form, value))
