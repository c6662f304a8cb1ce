"""Units and DIEs of .debug_info, reached by offset (DWARF 5, sections 7.5.1 and 7.5.2).

Nothing is indexed but where units start: a DIE is decoded when asked for, and
the way to a DIE in the middle of a unit is walked, over the heads of subtrees.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.abbrev import AbbrevReader, AbbrevTable, Layout, Raw
from kcrash.types.dwarf.alternate import find_alternate
from kcrash.types.dwarf.encoding import Malformed, initial_length, string_at, uleb
from kcrash.types.dwarf.index import Index
from kcrash.types.dwarf.sections import Sections

if TYPE_CHECKING:
    from kcrash.types.dwarf.split import Splits

STRX_FORMS = {
    dw.DW_FORM_strx, dw.DW_FORM_strx1, dw.DW_FORM_strx2, dw.DW_FORM_strx3, dw.DW_FORM_strx4,
    dw.DW_FORM_GNU_str_index,
}  # fmt: skip
ADDRX_FORMS = {
    dw.DW_FORM_addrx, dw.DW_FORM_addrx1, dw.DW_FORM_addrx2, dw.DW_FORM_addrx3, dw.DW_FORM_addrx4,
    dw.DW_FORM_GNU_addr_index,
}  # fmt: skip
UNIT_REFERENCES = {
    dw.DW_FORM_ref1, dw.DW_FORM_ref2, dw.DW_FORM_ref4, dw.DW_FORM_ref8, dw.DW_FORM_ref_udata,
}  # fmt: skip
ALTERNATE_STRINGS = {dw.DW_FORM_GNU_strp_alt, dw.DW_FORM_strp_sup}
_ALTERNATE_REFERENCES = {dw.DW_FORM_GNU_ref_alt, dw.DW_FORM_ref_sup4, dw.DW_FORM_ref_sup8}
#: Offsets from here on are of the file of shared debug info.
ALTERNATE = 1 << 62
#: From here on, of .dwo and .dwp files, each with so many numbers.
SPLIT = 1 << 61
SPLIT_SPAN = 1 << 40
# What the bases of a split unit count from: the tables of its own file.
_SPLIT_TABLES = {
    dw.DW_AT_str_offsets_base: ".debug_str_offsets",
    dw.DW_AT_rnglists_base: ".debug_rnglists",
    dw.DW_AT_loclists_base: ".debug_loclists",
}
_MAX_DEPTH = 10_000


class Unit:
    """One unit: ``offset`` of its header, ``first`` of its first DIE, ``end``; all in .debug_info.

    Of a split unit, ``skeleton`` is what the linked file has of it, None if it has nothing (type units), and
    ``places`` where its parts start in the sections of a package; None for units that are not split.
    """

    __slots__ = (
        "_identity",
        "_root",
        "abbrev_offset",
        "end",
        "first",
        "info",
        "kind",
        "layout",
        "offset",
        "places",
        "signature",
        "skeleton",
        "type_offset",
    )

    def __init__(self, info: DebugInfo, offset: int) -> None:
        self.info = info
        self.offset = offset
        self._root: Die | None = None
        self._identity: int | None = None
        self.skeleton: Unit | None = None
        self.places: dict[str, int] | None = None
        data, order = info.data, info.order
        length, offset_size, position = initial_length(data, offset, order)
        self.end = position + length
        if self.end > len(data):
            raise Malformed(f"the unit at {offset:#x} is cut")
        version = struct.unpack_from(order + "H", data, position)[0]
        wide = "I" if offset_size == 4 else "Q"
        kind = dw.DW_UT_compile
        if version >= 5:
            kind, address_size, self.abbrev_offset = struct.unpack_from(
                order + "BB" + wide, data, position + 2
            )
            position += 4 + offset_size
        else:
            self.abbrev_offset, address_size = struct.unpack_from(order + wide + "B", data, position + 2)
            position += 3 + offset_size
        if not 2 <= version <= 5 or address_size not in (2, 4, 8):
            raise Malformed(f"a unit of version {version} and {address_size}-byte addresses at {offset:#x}")
        self.signature = self.type_offset = 0
        if kind in (dw.DW_UT_type, dw.DW_UT_split_type):
            self.signature, self.type_offset = struct.unpack_from(order + "Q" + wide, data, position)
            position += 8 + offset_size
        elif kind in (dw.DW_UT_skeleton, dw.DW_UT_split_compile):
            self._identity = struct.unpack_from(order + "Q", data, position)[0]
            position += 8
        self.kind = kind
        self.first = position
        self.layout = Layout(order, address_size, offset_size, version)

    @property
    def abbrevs(self) -> AbbrevTable:
        """The unit's abbreviation table."""
        return self.info.abbrevs.table(self.abbrev_offset, self.layout)

    @property
    def root(self) -> Die:
        """The unit's own DIE."""
        if self._root is None:
            self._root = self.info.die(self.first, self)
        return self._root

    def base(self, attribute: int) -> int:
        """DW_AT_str_offsets_base and its like; what a sole unit would have where the unit is silent."""
        if self.skeleton is not None and attribute not in _SPLIT_TABLES:
            return self.skeleton.base(attribute)
        if self.places is not None:
            if attribute not in _SPLIT_TABLES:
                raise Malformed(f"the unit at {self.offset:#x} has addresses, but no skeleton")
            return self.places.get(_SPLIT_TABLES[attribute], 0) + self._table_header(attribute)
        if attribute == dw.DW_AT_addr_base and self.layout.version < 5:
            attribute = dw.DW_AT_GNU_addr_base
        # The root's own strings need the base: read it raw.
        found = self.root.values.get(attribute)
        return found if isinstance(found, int) else self._table_header(attribute)

    def _table_header(self, attribute: int) -> int:
        """Bytes in front of the entries of a table of offsets or addresses; DWARF 4 has none."""
        if self.layout.version < 5:
            return 0
        header = 8 if self.layout.offset_size == 4 else 16
        return header + 4 if attribute in (dw.DW_AT_rnglists_base, dw.DW_AT_loclists_base) else header

    @property
    def low_pc(self) -> int:
        """What the addresses of its lists are relative to, unless they say otherwise."""
        return (self.skeleton or self).root.address(dw.DW_AT_low_pc) or 0

    @property
    def identity(self) -> int:
        """What a skeleton and its split unit have in common; 0 for other units."""
        if self._identity is None:
            self._identity = self.root.number(dw.DW_AT_GNU_dwo_id) or 0
        return self._identity

    @property
    def split_name(self) -> str:
        """The .dwo file of a skeleton, as the compiler named it; "" for other units."""
        if self.layout.version < 5:
            return self.root.string(dw.DW_AT_GNU_dwo_name) if self.identity and self.places is None else ""
        return self.root.string(dw.DW_AT_dwo_name) if self.kind == dw.DW_UT_skeleton else ""


class Die:
    """A debugging information entry; ``end``: where its attributes end, ``values``: raw attributes."""

    __slots__ = ("abbrev", "end", "offset", "tag", "unit", "values")

    def __init__(self, unit: Unit, offset: int) -> None:
        data = unit.info.data
        self.unit = unit
        self.offset = offset
        code, position = uleb(data, offset)
        abbrev = unit.abbrevs.codes.get(code)
        if abbrev is None:
            raise Malformed(f"no DIE at {offset:#x}")
        self.abbrev = abbrev
        self.tag = abbrev.tag
        self.values, self.end = abbrev.read(data, position)
        if self.end > unit.end:
            raise Malformed(f"the DIE at {offset:#x} goes beyond its unit")

    @property
    def key(self) -> int:
        """What references to it say: its offset, in the numbering of its file (see DebugInfo.die)."""
        return self.unit.info.base + self.offset

    def has(self, attribute: int) -> bool:
        """True if the attribute is there."""
        return attribute in self.values

    def number(self, attribute: int) -> int | None:
        """A constant; None if there is none, or if it is an expression."""
        value = self.values.get(attribute)
        if isinstance(value, int):
            return value
        return None

    def flag(self, attribute: int) -> bool:
        """A flag; False if absent."""
        return bool(self.values.get(attribute))

    def block(self, attribute: int) -> memoryview | None:
        """A block or expression; None if it is something else or absent."""
        value = self.values.get(attribute)
        if not isinstance(value, tuple):
            return None
        return self.unit.info.data[value[0] : value[0] + value[1]]

    @property
    def name(self) -> str:
        """DW_AT_name, "" if there is none."""
        return self.string(dw.DW_AT_name)

    def string(self, attribute: int) -> str:
        """A string; "" if absent."""
        value = self.values.get(attribute)
        if value is None:
            return ""
        return self.unit.info.string(self.unit, self.abbrev.forms[attribute], value)

    def reference(self, attribute: int) -> int | None:
        """Offset in .debug_info of the DIE referred to; None if absent."""
        value = self.values.get(attribute)
        if value is None:
            return None
        return self.unit.info.reference(self.unit, self.abbrev.forms[attribute], value)

    def address(self, attribute: int) -> int | None:
        """An address; None if absent."""
        value = self.values.get(attribute)
        if value is None:
            return None
        if self.abbrev.forms[attribute] in ADDRX_FORMS:
            return self.unit.info.indexed_address(self.unit, as_index(value, self.unit.info.order))
        return value if isinstance(value, int) else None


def as_index(value: Raw, order: str) -> int:
    """An index: three-byte forms are raw bytes."""
    if isinstance(value, bytes):
        return int.from_bytes(value, "little" if order == "<" else "big")
    if isinstance(value, int):
        return value
    raise Malformed("an index that is no number")


class DebugInfo:
    """.debug_info of one file and the sections that it leans on.

    ``base``: what is added to the offsets of DIEs in references, ALTERNATE for the
    file that others share DIEs of, from SPLIT on for .dwo and .dwp files. ``linked``: the file that theirs
    belongs to; its own for all others.
    """

    def __init__(
        self,
        file: str,
        sections: Sections,
        index: Index | None = None,
        *,
        base: int = 0,
        linked: DebugInfo | None = None,
    ) -> None:
        self.file = file
        self.linked = linked or self
        #: Told of what is missing.
        self.notice: Callable[[str], None] | None = None
        self.sections = sections
        self.base = base
        #: What earlier sessions found.
        self.index = index or Index(sections.elf)
        self.order = sections.order
        self.unit = lru_cache(maxsize=4096)(self._unit)

    @cached_property
    def data(self) -> memoryview:
        """The section .debug_info."""
        return self.sections[".debug_info"]

    @cached_property
    def abbrevs(self) -> AbbrevReader:
        """The abbreviation tables."""
        return AbbrevReader(self.sections[".debug_abbrev"])

    @cached_property
    def starts(self) -> array[int]:
        """Offsets of the unit headers."""
        kept = self.index.state.starts
        if kept is None:
            kept = self._scan_starts()
            self.index.keep_starts(kept)
        return kept

    def _scan_starts(self) -> array[int]:
        """They are found by hopping from length to length."""
        starts = array("Q")
        data, end = self.data, len(self.data)
        position = 0
        while position + 11 <= end:
            length, _offset_size, after = initial_length(data, position, self.order)
            if after + length > end:  # cut: the units before it are good
                break
            starts.append(position)
            position = after + length
        return starts

    def units(self) -> Iterator[Unit]:
        """All units in file order; one with a broken header is left out."""
        for start in self.starts:
            try:
                yield self.unit(start)
            except (Malformed, struct.error):
                continue

    def _unit(self, offset: int) -> Unit:
        return Unit(self, offset)

    def unit_at(self, offset: int) -> Unit:
        """The unit that holds a byte of the section. Raises Malformed."""
        index = bisect_right(self.starts, offset) - 1
        if index < 0:
            raise Malformed(f"no unit at {offset:#x}")
        unit = self.unit(self.starts[index])
        if not unit.first <= offset < unit.end:
            raise Malformed(f"no unit at {offset:#x}")
        return unit

    @cached_property
    def alternate(self) -> DebugInfo | None:
        """The debug info that this file shares with others (dwz -m); None if it is not there."""
        found = None if self.base else find_alternate(self.sections.elf)
        return DebugInfo(found.path, Sections(found), base=ALTERNATE) if found else None

    def die(self, offset: int, unit: Unit | None = None) -> Die:
        """The DIE that starts at ``offset``; from ALTERNATE on, in the file of shared debug info.

        Raises Malformed if none can be there.
        """
        if offset >= SPLIT:
            owner = self._owner(offset)
            return Die(owner.unit_at(offset - owner.base), offset - owner.base)
        return Die(unit or self.unit_at(offset), offset)

    def _owner(self, offset: int) -> DebugInfo:
        """The file that a DIE of an offset from SPLIT on is in."""
        if offset >= ALTERNATE:
            shared = self if self.base == ALTERNATE else self.linked.alternate
            if shared is None:
                raise Malformed("the file of shared debug info (.gnu_debugaltlink) is not there")
            return shared
        if self.base <= offset < self.base + SPLIT_SPAN:
            return self
        split = self.linked.splits.at((offset - SPLIT) // SPLIT_SPAN)
        if split is None:
            raise Malformed("a .dwo file is not there")
        return split

    @cached_property
    def splits(self) -> Splits:
        """The .dwo files of this file, or its package."""
        from kcrash.types.dwarf.split import Splits

        return Splits(self)

    def full(self, unit: Unit) -> Unit | None:
        """The unit, or what its skeleton stands for; None if that is not there."""
        return self.splits.full(unit) if unit.split_name else unit

    # -- ways through a unit

    def children(self, die: Die) -> Iterator[Die]:
        """The direct children of a DIE."""
        if not die.abbrev.children:
            return
        unit, position = die.unit, die.end
        data = unit.info.data
        while position < unit.end and data[position]:
            child = Die(unit, position)
            yield child
            position = self.after(child)

    def after(self, die: Die) -> int:
        """Where the DIE that follows ``die`` and its descendants starts."""
        if not die.abbrev.children:
            return die.end
        sibling = (die.reference(dw.DW_AT_sibling) or 0) - die.unit.info.base
        if die.end < sibling < die.unit.end:
            return sibling
        for position, depth, _code in self.walk(die.unit, die.end):
            if depth < 0:
                return position + 1
        raise Malformed(f"the children of the DIE at {die.offset:#x} have no end")

    def walk(self, unit: Unit, position: int) -> Iterator[tuple[int, int, int]]:
        """``(offset, depth, abbreviation code)`` of all DIEs from ``position`` on.

        Depth 0 is that of the first; the end of a list of children is a DIE of
        code 0, at the depth of the DIE that has the children.
        """
        data, codes, end = unit.info.data, unit.abbrevs.codes, unit.end
        depth = 0
        while position < end:
            start = position
            code, position = uleb(data, position)
            if not code:
                depth -= 1
                yield start, depth, 0
                continue
            abbrev = codes.get(code)
            if abbrev is None:
                raise Malformed(f"no DIE at {start:#x}")
            yield start, depth, code
            position = position + abbrev.size if abbrev.size >= 0 else abbrev.skip(data, position)
            depth += abbrev.children

    def top_level(self, unit: Unit) -> Iterator[tuple[int, int]]:
        """``(offset, abbreviation code)`` of the children of the unit's DIE."""
        data, order = unit.info.data, self.order
        codes, base, end = unit.abbrevs.codes, unit.offset, unit.end
        sibling = struct.Struct(order + "I").unpack_from
        position, depth = unit.first, 0
        while position < end:
            start = position
            code, position = uleb(data, position)
            if not code:
                depth -= 1
                if depth <= 0:
                    return
                continue
            abbrev = codes.get(code)
            if abbrev is None:
                raise Malformed(f"no DIE at {start:#x}")
            if depth == 1:
                yield start, code
            if depth and abbrev.sibling_at >= 0:
                after = sibling(data, position + abbrev.sibling_at)[0] + base
                if after > position:
                    position = after
                    continue
            position = position + abbrev.size if abbrev.size >= 0 else abbrev.skip(data, position)
            depth += abbrev.children

    def path_to(self, unit: Unit, target: int) -> list[int]:
        """Offsets of the DIEs from the unit's own down to the one that has the byte ``target``.

        Exact, for it starts at the unit's header, and cheap, for it hops over
        subtrees by DW_AT_sibling: 0.2 us a DIE. Empty if the byte belongs to none.
        """
        data, order = unit.info.data, self.order
        codes, base, position = unit.abbrevs.codes, unit.offset, unit.first
        sibling = struct.Struct(order + "I").unpack_from
        path: list[int] = []
        while position <= target:
            start = position
            code = data[position]
            position += 1
            if not code:
                if not path:
                    return []
                path.pop()
                continue
            if code >= 0x80:
                code, position = uleb(data, start)
            abbrev = codes.get(code)
            if abbrev is None:
                raise Malformed(f"no DIE at {start:#x}")
            if abbrev.sibling_at >= 0:
                after = sibling(data, position + abbrev.sibling_at)[0] + base
                if position < after <= target:
                    position = after
                    continue
            position = position + abbrev.size if abbrev.size >= 0 else abbrev.skip(data, position)
            if target < position:
                return [*path, start]
            if abbrev.children:
                path.append(start)
                if len(path) > _MAX_DEPTH:
                    raise Malformed(f"DIEs nested {_MAX_DEPTH} deep at {start:#x}")
        return []

    # -- what raw attributes mean

    def string(self, unit: Unit, form: int, value: Raw) -> str:
        """The string of a form of class string; "" for forms that refer to another file."""
        if form == dw.DW_FORM_strp:
            return string_at(self.sections[".debug_str"], value)
        if form == dw.DW_FORM_string:
            return string_at(self.data, value)
        if form == dw.DW_FORM_line_strp:
            return string_at(self.sections[".debug_line_str"], value)
        if form in ALTERNATE_STRINGS:
            return string_at(self.alternate.sections[".debug_str"], value) if self.alternate else ""
        if form in STRX_FORMS:
            index = as_index(value, self.order)
            base = unit.base(dw.DW_AT_str_offsets_base)
            offset = self._indexed(".debug_str_offsets", base, index, unit.layout.offset_size)
            return string_at(self.sections[".debug_str"], offset)
        return ""

    def reference(self, unit: Unit, form: int, value: Raw) -> int | None:
        """Offset in .debug_info of what a form of class reference refers to."""
        if form in UNIT_REFERENCES:
            return int(unit.offset + value) + self.base
        if form == dw.DW_FORM_ref_addr:
            return int(value) + self.base
        if form in _ALTERNATE_REFERENCES:
            return int(value) + ALTERNATE
        if form == dw.DW_FORM_ref_sig8:
            return self._signatures.get(value)
        return None

    @cached_property
    def _signatures(self) -> dict[int, int]:
        """Offsets of the types of type units (DWARF 5, section 7.32)."""
        return {
            unit.signature: unit.offset + unit.type_offset + self.base
            for unit in self.units()
            if unit.signature
        }

    def indexed_address(self, unit: Unit, index: int) -> int:
        """Entry ``index`` of the unit's part of .debug_addr (DWARF 5, section 7.27)."""
        base = unit.base(dw.DW_AT_addr_base)
        return self._indexed(".debug_addr", base, index, unit.layout.address_size)

    def _indexed(self, section: str, base: int, index: int, size: int) -> int:
        width = {2: "H", 4: "I", 8: "Q"}[size]
        found: int = struct.unpack_from(self.order + width, self.sections[section], base + index * size)[0]
        return found
