"""Relocation of the debug sections of modules (ET_REL files).

Only absolute relocations can occur there, plus the pairs of additions and
subtractions by which RISC-V and LoongArch write differences. Numbers: each
machine's psABI, as collected in glibc's elf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile, Section

_SET, _ADD, _SUB = "set", "add", "sub"
_ORDER = (_SET, _ADD, _SUB)
_SHT_RELA, _SHT_REL = 4, 9

# Machine -> relocation type -> (bytes, what is done).
_TYPES: dict[int, dict[int, tuple[int, str]]] = {
    3: {1: (4, _SET)},  # 386
    20: {1: (4, _SET)},  # PPC
    21: {1: (4, _SET), 38: (8, _SET)},  # PPC64
    22: {4: (4, _SET), 22: (8, _SET)},  # S390
    40: {2: (4, _SET)},  # ARM
    62: {1: (8, _SET), 10: (4, _SET), 11: (4, _SET)},  # X86_64
    183: {257: (8, _SET), 258: (4, _SET)},  # AARCH64
    243: {
        1: (4, _SET), 2: (8, _SET),
        33: (1, _ADD), 34: (2, _ADD), 35: (4, _ADD), 36: (8, _ADD),
        37: (1, _SUB), 38: (2, _SUB), 39: (4, _SUB), 40: (8, _SUB),
        54: (1, _SET), 55: (2, _SET), 56: (4, _SET),
    },  # RISCV
    258: {
        1: (4, _SET), 2: (8, _SET),
        47: (1, _ADD), 48: (2, _ADD), 50: (4, _ADD), 51: (8, _ADD),
        52: (1, _SUB), 53: (2, _SUB), 55: (4, _SUB), 56: (8, _SUB),
    },  # LOONGARCH
}  # fmt: skip

# Fields of a symbol (System V gABI, "Symbol Table").
_SYMBOL_64 = [("name", "u4"), ("bits", "u2"), ("section", "u2"), ("value", "u8"), ("size", "u8")]
_SYMBOL_32 = [("name", "u4"), ("value", "u4"), ("size", "u4"), ("bits", "u2"), ("section", "u2")]


def relocated(elf: ElfFile, name: str, view: memoryview, addresses: Mapping[str, int]) -> memoryview:
    """A copy of a section with its relocations applied; the section itself if it has none.

    ``addresses``: load addresses of sections by name. Raises BadFormat.
    """
    for prefix, kind in ((".rela", _SHT_RELA), (".rel", _SHT_REL)):
        table = elf.sections.get(prefix + name)
        if table is not None and table.type == kind:
            return _Relocator(elf, table, addresses).apply(view)
    return view


class _Relocator:
    def __init__(self, elf: ElfFile, table: Section, addresses: Mapping[str, int]) -> None:
        self.elf = elf
        self.table = table
        self.addresses = addresses
        self.order = "<" if elf.byte_order == "little" else ">"
        self.wide = elf.word_bits == 64

    def apply(self, view: memoryview) -> memoryview:
        import numpy

        copy = numpy.frombuffer(view, numpy.uint8).copy()
        rows = self._rows(numpy)
        types = rows["info"] & 0xFFFFFFFF if self.wide else rows["info"] & 0xFF
        symbols = (rows["info"] >> (32 if self.wide else 8)).astype(numpy.int64)
        values = self._symbol_values(numpy)
        if len(symbols) and int(symbols.max()) >= len(values):
            raise BadFormat(self.elf.path, "a relocation refers to a symbol that is not there")
        known = _TYPES.get(self.elf.machine, {})
        present = [number for number in numpy.unique(types).tolist() if number in known]
        for number in sorted(present, key=lambda number: _ORDER.index(known[number][1])):
            size, action = known[number]
            chosen = types == number
            self._write(numpy, copy, rows[chosen], values[symbols[chosen]], size, action)
        copy.flags.writeable = False
        return memoryview(copy)

    def _rows(self, numpy: Any) -> Any:
        word = self.order + ("u8" if self.wide else "u4")
        fields = [("offset", word), ("info", word)]
        if self.table.type == _SHT_RELA:
            fields.append(("addend", word))
        return self._table(numpy, self.table, fields)

    def _table(self, numpy: Any, section: Section, fields: list[tuple[str, str]]) -> Any:
        dtype = numpy.dtype(fields)
        data = memoryview(self.elf.mm)[section.offset : section.offset + section.size]
        return numpy.frombuffer(data, dtype, len(data) // dtype.itemsize)

    def _symbol_values(self, numpy: Any) -> Any:
        """Where each symbol is: its value plus the load address of its section."""
        if self.table.link >= len(self.elf.section_list):
            raise BadFormat(self.elf.path, f"section {self.table.name} has no symbol table")
        linked = self.elf.section_list[self.table.link]
        widths = _SYMBOL_64 if self.wide else _SYMBOL_32
        rows = self._table(numpy, linked, [(name, self.order + width) for name, width in widths])
        bases = numpy.zeros(0x10000, numpy.uint64)
        for section in self.elf.section_list:
            if section.name in self.addresses and section.index < 0x10000:
                bases[section.index] = self.addresses[section.name]
        return rows["value"].astype(numpy.uint64) + bases[rows["section"]]

    def _write(self, numpy: Any, copy: Any, rows: Any, values: Any, size: int, action: str) -> None:
        if int(rows["offset"].max()) + size > len(copy):
            raise BadFormat(self.elf.path, "a relocation lies outside its section", self.table.offset)
        offsets = rows["offset"].astype(numpy.int64)
        if action != _SET:
            self._accumulate(copy, offsets.tolist(), rows, values.tolist(), size, 1 if action == _ADD else -1)
            return
        places = offsets[:, None] + numpy.arange(size)
        if self.table.type == _SHT_RELA:
            addends = rows["addend"].astype(numpy.uint64)
        else:
            addends = copy[places].view(f"{self.order}u{size}")[:, 0].astype(numpy.uint64)
        result = (values + addends).astype(f"{self.order}u{size}")
        copy[places] = result.view(numpy.uint8).reshape(-1, size)

    def _accumulate(
        self, copy: Any, offsets: list[int], rows: Any, values: list[int], size: int, sign: int
    ) -> None:
        """One after the other: the halves of a pair change the same place."""
        addends = rows["addend"].tolist() if self.table.type == _SHT_RELA else [0] * len(offsets)
        form = struct.Struct(self.order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size])
        mask = (1 << size * 8) - 1
        for offset, value, addend in zip(offsets, values, addends, strict=True):
            old = form.unpack_from(copy, offset)[0]
            form.pack_into(copy, offset, old + sign * (value + addend) & mask)
