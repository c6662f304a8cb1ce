"""Debug info that the linker has not seen: .dwo files beside the objects, or all of them in a .dwp package.

DWARF 5, sections 3.1.2 (skeleton units), 7.3.2 (split objects) and 7.3.5 (packages); for DWARF 4, GNU's form:
https://gcc.gnu.org/wiki/DebugFission and https://gcc.gnu.org/wiki/DebugFissionDWP. The linked file keeps a
skeleton of each unit: its name and identity, its lines, and the addresses that the rest refers to by index.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.encoding import Malformed
from kcrash.types.dwarf.info import SPLIT, SPLIT_SPAN, DebugInfo, Unit
from kcrash.types.dwarf.sections import Sections

_LINKED = frozenset((".debug_addr", ".debug_ranges", ".debug_line", ".debug_line_str", ".debug_aranges"))
_PACKAGE = (1 << 20) - 1  # its number; the .dwo files have those of their skeletons
_BROKEN = (Malformed, IndexError, struct.error)

# Columns of a package's index (DWARF 5, section 7.3.5.3; of version 2, GNU's).
_COLUMNS = {1: ".debug_info", 3: ".debug_abbrev", 6: ".debug_str_offsets"}
_VERSIONS = {2: _COLUMNS | {5: ".debug_loc"}, 5: _COLUMNS | {5: ".debug_loclists", 8: ".debug_rnglists"}}

#: Where the parts of a unit start in the sections of a package.
Places = dict[str, int]


class SplitSections(Sections):
    """The sections of a .dwo or .dwp file, and those that only the linked file has."""

    def __init__(self, elf: ElfFile, linked: Sections) -> None:
        super().__init__(elf)
        self._linked = linked

    def __getitem__(self, name: str) -> memoryview:
        return self._linked[name] if name in _LINKED else super().__getitem__(name + ".dwo")


class SplitInfo(DebugInfo):
    """The units of one .dwo or .dwp file; ``number``: tells its DIEs from those of others."""

    def __init__(self, elf: ElfFile, splits: Splits, number: int) -> None:
        sections = SplitSections(elf, splits.info.sections)
        super().__init__(elf.path, sections, base=SPLIT + number * SPLIT_SPAN, linked=splits.info)
        self._splits = splits

    @cached_property
    def contributions(self) -> dict[int, tuple[int, Places]]:
        """``(identity, places)`` of the units of a package, by where they start; empty for a .dwo file."""
        found: dict[int, tuple[int, Places]] = {}
        for name in (".debug_cu_index", ".debug_tu_index"):
            data = self.sections.elf.section_data(name)
            if data is not None:
                for identity, places in _package_index(data, self.order):
                    found[places.get(".debug_info", 0)] = identity, places
        return found

    def _unit(self, offset: int) -> Unit:
        unit = super()._unit(offset)
        identity, unit.places = self.contributions.get(offset, (None, {}))
        unit.abbrev_offset += unit.places.get(".debug_abbrev", 0)
        unit.skeleton = self._splits.skeletons.get(unit.identity if identity is None else identity)
        return unit

    def find(self, identity: int) -> Unit | None:
        """The unit of an identity."""
        for offset, (known, _places) in self.contributions.items():
            if known == identity:
                return self.unit(offset)
        units = () if self.contributions else self.units()
        return next((unit for unit in units if unit.identity == identity), None)


class Splits:
    """The .dwo files of a linked file, or its package."""

    def __init__(self, info: DebugInfo) -> None:
        self.info = info
        #: Names of .dwo files that are not there.
        self.missing: list[str] = []
        self._file = lru_cache(maxsize=256)(self._open)

    @cached_property
    def skeletons(self) -> dict[int, Unit]:
        """The skeletons by identity."""
        # They refer to addresses by index, which compilers do for nothing else but by choice.
        if not len(self.info.sections[".debug_addr"]):
            return {}
        return {unit.identity: unit for unit in self.info.units() if _is_skeleton(unit)}

    @cached_property
    def package(self) -> SplitInfo | None:
        """The package beside the linked file."""
        try:
            made = SplitInfo(ElfFile(self.info.file + ".dwp"), self, _PACKAGE)
            return made if made.contributions else None
        except (BadFormat, OSError, ValueError, *_BROKEN):
            return None

    def full(self, skeleton: Unit) -> Unit | None:
        """The unit that a skeleton stands for; None if its file is not there."""
        found = self.package.find(skeleton.identity) if self.package else None
        if found is None and (file := self._file(self._number(skeleton))) is not None:
            found = file.find(skeleton.identity)
        return found

    def infos(self) -> Iterator[SplitInfo]:
        """All files."""
        if self.package:
            yield self.package
        for identity, skeleton in self.skeletons.items():
            if not self.package or self.package.find(identity) is None:
                file = self._file(self._number(skeleton))
                if file is not None:
                    yield file

    def at(self, number: int) -> SplitInfo | None:
        """The file of a number."""
        if number == _PACKAGE:
            return self.package
        return self._file(number) if number < len(self.info.starts) else None

    def _number(self, skeleton: Unit) -> int:
        return bisect_left(self.info.starts, skeleton.offset)

    def _open(self, number: int) -> SplitInfo | None:
        skeleton = self.info.unit(self.info.starts[number])
        name = skeleton.split_name
        for path in self._places(skeleton, name):
            try:
                file = SplitInfo(ElfFile(path, copy=True), self, number)
                if file.find(skeleton.identity) is not None:
                    return file
            except (BadFormat, OSError, ValueError, *_BROKEN):
                continue
        self._tell(name)
        return None

    def _places(self, skeleton: Unit, name: str) -> list[Path]:
        """Where it was compiled, or the same beside the linked file."""
        folder = Path(self.info.file).resolve().parent
        places = [
            Path(skeleton.root.string(dw.DW_AT_comp_dir)) / name,
            folder / name,
            folder / Path(name).name,
        ]
        return list(dict.fromkeys(places)) if name else []

    def _tell(self, name: str) -> None:
        if not self.missing and self.info.notice is not None:
            self.info.notice(
                f"{self.info.file}: its debug info is in .dwo files, of which {name} (or more of them) "
                "is not there or of another build: what is in it is not known"
            )
        self.missing.append(name)


def _is_skeleton(unit: Unit) -> bool:
    try:
        return bool(unit.split_name)
    except _BROKEN:
        return False


def _package_index(data: memoryview, order: str) -> Iterator[tuple[int, Places]]:
    """The rows of .debug_cu_index or .debug_tu_index: a hash table of the identities, then the offsets."""
    version, columns, rows, slots = struct.unpack_from(order + "4I", data)
    if version != 2:
        version = struct.unpack_from(order + "H", data)[0]
    names = _VERSIONS.get(version)
    if names is None:
        raise Malformed(f"a package's index of version {version}")
    if 16 + 12 * slots + 4 * columns * (rows + 1) > len(data):
        raise Malformed("a package's index is cut")
    identities = struct.unpack_from(f"{order}{slots}Q", data, 16)
    numbers = struct.unpack_from(f"{order}{slots}I", data, 16 + 8 * slots)
    table = 16 + 12 * slots
    row = struct.Struct(f"{order}{columns}I")
    kinds = row.unpack_from(data, table)
    for identity, number in zip(identities, numbers, strict=True):
        if 0 < number <= rows:
            offsets = row.unpack_from(data, table + number * row.size)
            yield (
                identity,
                {names[kind]: offset for kind, offset in zip(kinds, offsets, strict=True) if kind in names},
            )
