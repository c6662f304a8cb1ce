"""DIEs by name without an index.

A name stands once in .debug_str; its uses are the places of .debug_info that
hold its offset. Each such place is judged by its unit's abbreviations, and the
few plausible ones are proved by walking their unit from its start.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.abbrev import NOTHING, Abbrev, Wanted
from kcrash.types.dwarf.encoding import Malformed
from kcrash.types.dwarf.info import ALTERNATE_STRINGS, STRX_FORMS, DebugInfo, Die, Unit, as_index

Test = Callable[[Abbrev], bool]
Accept = Callable[[Die], bool]

# Linkers put a string into the tail of the first longer one in the order of
# reversed strings; the second is tried for linkers that choose another.
_TAILS = 2
_MAX_STRINGS = 20_000
_COMMON = frozenset(b"\x00\x01\x02\x03\x04\x08\x0b\x0f\x10\x13")


class Hit(NamedTuple):
    """A DIE and the offsets of those around it, the unit's own first."""

    die: Die
    parents: list[int]


class Query(NamedTuple):
    """What DIEs are wanted: those whose abbreviation passes ``test`` and that ``accept`` likes."""

    test: Test
    accept: Accept = lambda die: True


class NameLookup:
    """Finds DIEs of one file by DW_AT_name."""

    def __init__(self, info: DebugInfo) -> None:
        self.info = info

    def hits(self, name: str, query: Query) -> Iterator[Hit]:
        """The DIEs called ``name`` that a query wants, in no particular order."""
        wanted = name.encode("utf-8", "surrogateescape")
        if not wanted or b"\0" in wanted:
            return
        strings = self.info.sections[".debug_str"]
        # Compilers save the reference where the string is no longer than it.
        if len(wanted) < self._longest_reference or not len(strings):
            yield from self._inline(wanted, query)
        whole = list(islice(_exact_offsets(strings, wanted), _MAX_STRINGS))
        for offset in whole:
            yield from self._uses(offset, dw.DW_FORM_strp, query)
        if not whole:
            yield from self._tail_uses(strings, wanted, query)
        lines = self.info.sections[".debug_line_str"]
        for offset in _exact_offsets(lines, wanted):
            yield from self._uses(offset, dw.DW_FORM_line_strp, query)
        yield from self._alternate_hits(name, wanted, query)
        if not self.info.base:
            for split in self.info.splits.infos():
                yield from NameLookup(split).hits(name, query)

    def units_with(self, offset: int) -> Iterator[Unit]:
        """The units that hold the four bytes of an offset somewhere: those that may refer to it."""
        found: set[int] = set()
        for position in islice(_find_all(self.info.data, struct.pack(self.info.order + "I", offset)), 1000):
            unit = self._unit_at(position, Query(_nothing))[0]
            if unit is not None and unit.offset not in found:
                found.add(unit.offset)
                yield unit

    def _alternate_hits(self, name: str, wanted: bytes, query: Query) -> Iterator[Hit]:
        """The DIEs here with a name of the shared file, and the shared DIEs."""
        shared = self.info.alternate
        if shared is None:
            return
        strings = shared.sections[".debug_str"]
        whole = list(islice(_exact_offsets(strings, wanted), _MAX_STRINGS))
        for offset in whole or _tails(strings, wanted):
            for form in ALTERNATE_STRINGS:
                yield from self._uses(offset, form, query)
        yield from NameLookup(shared).hits(name, query)

    @cached_property
    def _longest_reference(self) -> int:
        """8 if any unit has 64-bit offsets, else 4."""
        data = self.info.data
        wide = any(bytes(data[start : start + 4]) == b"\xff\xff\xff\xff" for start in self.info.starts)
        return 8 if wide else 4

    def _tail_uses(self, strings: memoryview, name: bytes, query: Query) -> Iterator[Hit]:
        for offset in _tails(strings, name):
            found = False
            for hit in self._uses(offset, dw.DW_FORM_strp, query):
                found = True
                yield hit
            if found:
                return

    def _inline(self, name: bytes, query: Query) -> Iterator[Hit]:
        return self._scan(name + b"\0", dw.DW_FORM_string, None, query)

    def _uses(self, offset: int, form: int, query: Query) -> Iterator[Hit]:
        """The DIEs whose name is the string at ``offset`` of .debug_str or .debug_line_str."""
        if offset < 1 << 32:
            yield from self._scan(struct.pack(self.info.order + "I", offset), form, offset, query)
        if form == dw.DW_FORM_strp and len(self.info.sections[".debug_str_offsets"]):
            yield from self._indexed_uses(offset, query)

    def _scan(self, needle: bytes, form: int, value: int | None, query: Query) -> Iterator[Hit]:
        """The DIEs whose raw name is ``needle``; ``value`` is its value, None for its own position."""
        data, order = self.info.data, self.info.order
        end = shift = 0
        unit: Unit | None = None
        wanted = NOTHING
        for position in _find_all(data, needle):
            if position >= end:  # hits come in order: mostly the unit is that of the hit before
                unit, wanted, end = self._unit_at(position, query)
                wide = unit is not None and unit.layout.offset_size == 8
                # Of a wide big-endian offset the low half was found.
                shift = 4 if wide and order == ">" and form != dw.DW_FORM_string else 0
            if unit is not None and wanted.codes and wanted.plausible(data, position - shift):
                found = position if value is None else value
                hit = self._proved(unit, wanted, position - shift, form, found, query)
                if hit is not None:
                    yield hit

    def _unit_at(self, position: int, query: Query) -> tuple[Unit | None, Wanted, int]:
        """The unit around a hit, what is of interest in it, and where it ends."""
        try:
            unit = self.info.unit_at(position)
            return unit, unit.abbrevs.wanted(query.test), unit.end
        except (Malformed, IndexError, struct.error):
            return None, NOTHING, position + 1

    def _proved(
        self, unit: Unit, wanted: Wanted, position: int, form: int, value: int, query: Query
    ) -> Hit | None:
        """The DIE whose raw name is at ``position``, if there is one; None for a chance hit."""
        info = self.info
        # Most chance hits, and names of other things, do not survive a look at what stands around them.
        if not wanted.loose and not any(
            self._judge(unit, start, form, value, query) for start in wanted.starts(info.data, position)
        ):
            return None
        try:
            path = info.path_to(unit, position)
        except (Malformed, IndexError, struct.error):
            return None
        die = self._judge(unit, path[-1], form, value, query) if path else None
        return Hit(die, path[:-1]) if die is not None else None

    def _judge(self, unit: Unit, start: int, form: int, value: int, query: Query) -> Die | None:
        """The DIE at ``start``, if it is named so and wanted."""
        try:
            die = self.info.die(start, unit)
            named = die.values.get(dw.DW_AT_name) == value and die.abbrev.forms[dw.DW_AT_name] == form
            return die if named and query.test(die.abbrev) and query.accept(die) else None
        except (Malformed, IndexError, struct.error):
            return None

    # -- names by index (DWARF 5, section 7.26)

    def _indexed_uses(self, offset: int, query: Query) -> Iterator[Hit]:
        for unit, index in self._indices(offset):
            try:
                yield from list(self._named_by_index(unit, index, query))
            except (Malformed, IndexError, struct.error):
                continue

    def _indices(self, offset: int) -> Iterator[tuple[Unit, int]]:
        """The units that have the string at ``offset`` in their tables, and its index there."""
        from bisect import bisect_right

        table = self.info.sections[".debug_str_offsets"]
        bases = self._bases()
        starts = [base for base, _unit in bases]
        for position in _find_all(table, struct.pack(self.info.order + "I", offset)):
            at = bisect_right(starts, position) - 1
            if at >= 0:
                base, unit = bases[at]
                index, rest = divmod(position - base, unit.layout.offset_size)
                if not rest:
                    yield unit, index

    def _bases(self) -> list[tuple[int, Unit]]:
        bases = []
        for unit in self.info.units():
            try:
                bases.append((unit.base(dw.DW_AT_str_offsets_base), unit))
            except (Malformed, IndexError, struct.error):
                continue
        return sorted(bases, key=lambda pair: pair[0])

    def _named_by_index(self, unit: Unit, index: int, query: Query) -> Iterator[Hit]:
        info = self.info
        codes = unit.abbrevs.wanted(query.test).codes
        for position, _depth, code in info.walk(unit, unit.first):
            if code not in codes or codes[code].forms[dw.DW_AT_name] not in STRX_FORMS:
                continue
            die = info.die(position, unit)
            if as_index(die.values[dw.DW_AT_name], info.order) == index and query.accept(die):
                yield Hit(die, info.path_to(unit, position)[:-1])


def _nothing(abbrev: Abbrev) -> bool:
    return False


def _find_all(data: memoryview, needle: bytes) -> Iterator[int]:
    """Every place of ``needle``, in order.

    The regular expression engine searches buffers without a copy, at 3 GB/s if
    the first byte is rare: so a common one is left out and compared afterwards.
    """
    skip = 1 if len(needle) > 3 and needle[0] in _COMMON and needle[1] not in _COMMON else 0
    for start in _occurrences(data, needle[skip:], skip):
        if not skip or data[start - 1] == needle[0]:
            yield start - skip


def _occurrences(data: memoryview, needle: bytes, first: int) -> Iterator[int]:
    pattern = re.compile(re.escape(needle))
    if not any(needle.endswith(needle[:size]) for size in range(1, len(needle))):
        for match in pattern.finditer(data, first):
            yield match.start()
        return
    found = pattern.search(data, first)  # occurrences may overlap
    while found:
        yield found.start()
        found = pattern.search(data, found.start() + 1)


def _exact_offsets(strings: memoryview, name: bytes) -> Iterator[int]:
    """Where ``name`` stands as a whole string; more than once in files that no linker merged."""
    if bytes(strings[: len(name) + 1]) == name + b"\0":
        yield 0
    for position in _find_all(strings, b"\0" + name + b"\0"):
        yield position + 1


def _tails(strings: memoryview, name: bytes) -> list[int]:
    """Where longer strings end in ``name``, in the order in which linkers pick them.

    binutils bfd/merge.c (merge_strings) and LLVM's StringTableBuilder sort by
    reversed string and put a string into the first that it is a tail of.
    """
    found = []
    for position in islice(_find_all(strings, name + b"\0"), _MAX_STRINGS):
        before = bytes(strings[max(0, position - 256) : position])
        found.append((before[before.rfind(b"\0") + 1 :][::-1], position))
    return [position for _reversed, position in sorted(found)[:_TAILS]]
