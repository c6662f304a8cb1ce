"""Symbols by name and by address.

A kernel has some 190,000 symbols. A script that needs thirty of them finds each
by a search of the string table; only what asks "which symbol is at this
address" sorts the table, once, with numpy.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kcrash.errors import BadFormat, MissingSymbol
from kcrash.symbols.elffile import SHT_NOBITS, ElfFile, Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 1, 2, 3, 4
STB_LOCAL, STB_WEAK = 0, 2
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4

MANY_OFFSETS = 128  # beyond, one pass over the table is cheaper than a search for each


# What compilers append to the name of a part or a changed copy of a function.
CUT_AT = (b".isra.", b".part.", b".llvm.")


def is_label(name: str, letter: str) -> bool:
    """True for what names no function or variable: marks of code and data ("$x", "$d": "ELF for the Arm
    64-bit Architecture", 5.5.2), the compiler's own labels in code (is_mapping_symbol() in
    include/linux/module_symbol.h). Those of data crash shows. ``letter``: nm's."""
    return name.startswith("$") or (letter in "tT" and name.startswith((".L", "L0")))


def plain_name(name: bytes) -> str:
    """A symbol's name as crash shows it: without what the compiler appended to it."""
    if b"." in name:
        for mark in CUT_AT:
            at = name.find(mark)
            if at > 0:
                name = name[:at]
                break
    return name.decode("utf-8", "replace")


class Symbol(NamedTuple):
    """A symbol as it stood in the dead machine.

    ``type``: nm's letter; ``size``: bytes, 0 if unknown; ``module``: name of
    the module that it belongs to, "" for the kernel.
    """

    name: str
    address: int
    type: str
    size: int = 0
    module: str = ""


class SymbolTable(Protocol):
    """The symbols of the kernel or of one module."""

    def symbol(self, name: str) -> Symbol | None:
        """The symbol ``name``; the first if there are several (local ones)."""

    def symbols_named(self, name: str) -> list[Symbol]:
        """All symbols of that name, by address."""

    def at(self, address: int) -> Symbol | None:
        """The symbol with the highest address not above ``address``; None outside the table's range."""

    def all(self) -> Sequence[Symbol]:
        """Every symbol, by address."""

    def containing(self, text: str) -> Sequence[Symbol]:
        """Every symbol with ``text`` in its name, by address."""


class ElfSymbols:
    """The symbol table of an ELF file that is linked to run at fixed addresses.

    ``bias``: what KASLR added. Per-CPU symbols (``per_cpu`` section) are offsets
    and do not move; neither do absolute ones below it.
    """

    def __init__(self, elf: ElfFile, bias: int = 0) -> None:
        self.elf = elf
        self.bias = bias
        table = elf.sections.get(".symtab")
        if table is None or not table.size:
            raise BadFormat(elf.path, "has no symbol table (.symtab): it is stripped")
        if table.link >= len(elf.section_list):
            raise BadFormat(elf.path, f"symbol table refers to section {table.link}", table.offset)
        strings = elf.section_list[table.link]
        # Copies: a search of bytes is fifty times as fast as one of a mapping.
        self._table = bytes(elf.mm[table.offset : table.offset + table.size])
        self._strings = bytes(elf.mm[strings.offset : strings.offset + strings.size])
        order = "<" if elf.byte_order == "little" else ">"
        # Elf64_Sym: name, info, other, shndx, value, size; Elf32_Sym: name, value, size, info, other, shndx
        self._wide = elf.word_bits == 64
        self._record = struct.Struct(order + ("IBBHQQ" if self._wide else "IIIBBH"))
        self._name_pack = struct.Struct(order + "I").pack

    # -- by name

    def symbol(self, name: str) -> Symbol | None:
        """See SymbolTable."""
        found = self.symbols_named(name)
        # Several local symbols may share a name; a global one is what the name means.
        return next((s for s in found if s.type.isupper()), found[0] if found else None)

    def symbols_named(self, name: str) -> list[Symbol]:
        """See SymbolTable."""
        offsets = list(self._string_offsets(name.encode()))
        if not offsets:
            offsets = [at for cut in CUT_AT for at in self._string_offsets(name.encode() + cut + b"0")]
        numbers = self._records_named(offsets)
        found = [symbol for number in numbers if (symbol := self._decode(number, name))]
        return sorted(found, key=lambda symbol: symbol.address)

    def _string_offsets(self, name: bytes) -> Iterator[int]:
        """Where the string stands. The linker also lets a string be the tail of a longer one."""
        strings = self._strings
        exact = strings.find(b"\0" + name + b"\0")
        if exact >= 0:
            yield exact + 1
            return
        at = strings.find(name + b"\0")
        while at >= 0:
            yield at
            at = strings.find(name + b"\0", at + 1)

    def _records_named(self, offsets: list[int]) -> Iterator[int]:
        """Numbers of the records whose st_name is one of ``offsets``."""
        if len(offsets) > MANY_OFFSETS:
            wanted = set(offsets)
            yield from (i for i, offset in enumerate(self._name_offsets()) if offset in wanted)
            return
        column = self._name_column
        for offset in offsets:
            needle = self._name_pack(offset)
            at = column.find(needle)
            while at >= 0:
                if at % 4 == 0:
                    yield at // 4
                at = column.find(needle, at + 1)

    @cached_property
    def _name_column(self) -> bytes:
        """st_name of every record, side by side: a sixth of the table to search."""
        size = self._record.size
        return array("I", self._table[: len(self._table) // size * size])[:: size // 4].tobytes()

    def _name_offsets(self) -> list[int]:
        """st_name of every record."""
        words = array("I", self._name_column)
        if self.elf.byte_order != sys.byteorder:
            words.byteswap()
        return words.tolist()

    def _decode(self, number: int, name: str) -> Symbol | None:
        fields = self._record.unpack_from(self._table, number * self._record.size)
        if self._wide:
            _name, info, _other, section, value, size = fields
        else:
            _name, value, size, info, _other, section = fields
        if section == SHN_UNDEF or info & 15 == STT_FILE:
            return None
        return Symbol(name, self._moved(value, section), self._letter(info, section), size)

    def _moved(self, value: int, section: int) -> int:
        return value + self.bias if value >= self._fixed_below else value

    @cached_property
    def image(self) -> tuple[int, int]:
        """``[start, end)`` of what is loaded, as linked; per-CPU data linked at 0 is left out."""
        first = self._fixed_below
        loaded = [s for s in self.elf.section_list if s.flags & SHF_ALLOC and s.addr >= first]
        return first, max((section.addr + section.size for section in loaded), default=first)

    @cached_property
    def _fixed_below(self) -> int:
        """Values below the image's first code are offsets (per-CPU data linked at 0) or constants."""
        code = SHF_ALLOC | SHF_EXECINSTR
        return min((s.addr for s in self.elf.section_list if s.flags & code == code), default=0)

    def _letter(self, info: int, section: int) -> str:
        """nm's letter for a symbol of that st_info in that section."""
        if info >> 4 == STB_WEAK:
            return "V" if info & 15 == STT_OBJECT else "W"
        letter = "a" if section == SHN_ABS else self._section_letters.get(section, "?")
        return letter if info >> 4 == STB_LOCAL else letter.upper()

    @cached_property
    def _section_letters(self) -> dict[int, str]:
        return {section.index: _section_letter(section) for section in self.elf.section_list}

    # -- by address

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """``(addresses, record numbers)`` in order of address, then of the file."""
        import numpy as np

        order = "<" if self.elf.byte_order == "little" else ">"
        wide = [
            ("name", "u4"),
            ("info", "u1"),
            ("other", "u1"),
            ("shndx", "u2"),
            ("value", "u8"),
            ("size", "u8"),
        ]
        narrow = [
            ("name", "u4"),
            ("value", "u4"),
            ("size", "u4"),
            ("info", "u1"),
            ("other", "u1"),
            ("shndx", "u2"),
        ]
        fields = [(name, order + form) for name, form in (wide if self._wide else narrow)]
        usable = len(self._table) // self._record.size * self._record.size
        rows = np.frombuffer(self._table[:usable], dtype=np.dtype(fields))
        kind = rows["info"] & 15
        named = self._names_something(rows["name"], rows["shndx"]) & (kind != STT_SECTION)
        # Sections count as symbols behind the start of the image, as crash has it.
        section = (kind == STT_SECTION) & (rows["value"] > self._fixed_below)
        wanted = (rows["shndx"] != SHN_UNDEF) & (kind != STT_FILE) & (named | section)
        # Absolute symbols that are local or below the image are constants, no addresses.
        local = (rows["info"] >> 4 == STB_LOCAL) | (rows["value"] < self._fixed_below)
        indices = np.nonzero(wanted & ~((rows["shndx"] == SHN_ABS) & local))[0]
        values = rows["value"][indices].astype(np.uint64)
        values = np.where(values >= self._fixed_below, values + np.uint64(self.bias & (1 << 64) - 1), values)
        by_address = np.argsort(values, kind="stable")
        return values[by_address], indices[by_address]

    def _names_something(self, names: NDArray[np.uint32], sections: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Which st_name, of a symbol in which section, are names: see is_label()."""
        import numpy as np

        code = np.zeros(1 << 16, bool)
        code[[section.index for section in self.elf.section_list if section.flags & SHF_EXECINSTR]] = True
        text = np.frombuffer((self._strings or b"") + b"\0\0", "u1")
        at = np.minimum(names, len(text) - 2)
        first, pair = text[at], text[at].astype("u2") << 8 | text[at + 1]
        own = (pair == int.from_bytes(b".L", "big")) | (pair == int.from_bytes(b"L0", "big"))
        named: NDArray[np.bool_] = (names != 0) & (first != ord("$")) & ~(own & code[sections])
        return named

    def _numbered(self, number: int) -> Symbol:
        fields = self._record.unpack_from(self._table, number * self._record.size)
        info, section = (fields[1], fields[3]) if self._wide else (fields[3], fields[5])
        if info & 15 == STT_SECTION and section < len(self.elf.section_list):
            name = self.elf.section_list[section].name
        else:
            end = self._strings.find(b"\0", fields[0])
            name = plain_name(self._strings[fields[0] : max(end, fields[0])])
        symbol = self._decode(number, name)
        assert symbol is not None  # _sorted leaves the others out
        return symbol

    def at(self, address: int) -> Symbol | None:
        """See SymbolTable. Of several symbols at one address, by name: the first if ``address``
        is exactly theirs, else the last (as crash chooses)."""
        import numpy as np

        addresses, _numbers = self._sorted
        place = int(np.searchsorted(addresses, np.uint64(address), side="right")) - 1
        if place < 0:
            return None
        group = self._group(int(addresses[place]))
        return group[0] if group[0].address == address else group[-1]

    def _group(self, address: int) -> list[Symbol]:
        """The symbols at exactly that address, by name."""
        import numpy as np

        addresses, numbers = self._sorted
        low = int(np.searchsorted(addresses, np.uint64(address), side="left"))
        high = int(np.searchsorted(addresses, np.uint64(address), side="right"))
        found = [self._numbered(number) for number in numbers[low:high].tolist()]
        return sorted(found, key=lambda symbol: symbol.name)

    def neighbours(self, address: int) -> tuple[Symbol | None, Symbol | None]:
        """The symbols next below and next above the one at ``address``."""
        import numpy as np

        addresses, numbers = self._sorted
        below = int(np.searchsorted(addresses, np.uint64(address), side="left")) - 1
        above = int(np.searchsorted(addresses, np.uint64(address), side="right"))
        return (
            self._group(int(addresses[below]))[-1] if below >= 0 else None,
            self._group(int(addresses[above]))[0] if above < len(numbers) else None,
        )

    def all(self) -> Sequence[Symbol]:
        """See SymbolTable."""
        found = [self._numbered(number) for number in self._sorted[1].tolist()]
        return sorted(found, key=lambda symbol: (symbol.address, symbol.name))

    def containing(self, text: str) -> Sequence[Symbol]:
        """See SymbolTable."""
        named = text.encode("utf-8", "replace") in self._strings
        if not named and not any(text in section.name for section in self.elf.section_list):
            return []
        return [symbol for symbol in self.all() if text in symbol.name]

    def link_address(self, name: str) -> int | None:
        """Where ``name`` was linked, before KASLR; None if there is no such symbol."""
        symbol = self.symbol(name)
        if symbol is None:
            return None
        return symbol.address - self.bias if symbol.address >= self._fixed_below else symbol.address


def _section_letter(section: Section) -> str:
    """As nm decides: text, read-only, data, uninitialised; "n" for debugging sections."""
    if not section.flags & SHF_ALLOC:
        return "n"
    if section.flags & SHF_EXECINSTR:
        return "t"
    if section.type == SHT_NOBITS:
        return "b"
    return "d" if section.flags & SHF_WRITE else "r"


def object_symbols(elf: ElfFile, sections: Mapping[str, int]) -> Iterator[Symbol]:
    """The functions and variables of an object file (a module) whose sections were loaded at ``sections``.

    A section without an address there, and one of a name that another had before it, is left out.
    """
    table = elf.sections.get(".symtab")
    if table is None or table.link >= len(elf.section_list):
        return
    strings = elf.section_list[table.link]
    wide, order = elf.word_bits == 64, "<" if elf.byte_order == "little" else ">"
    record = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
    data = elf.mm[table.offset : table.offset + table.size // record.size * record.size]
    for row in record.iter_unpack(data):
        name, info, index, value, size = (row[0], row[1], row[3], row[4], row[5]) if wide else (
            row[0], row[3], row[5], row[1], row[2])  # fmt: skip
        if info & 15 not in (STT_OBJECT, STT_FUNC) or not 0 < index < len(elf.section_list):
            continue
        section = elf.section_list[index]
        if section.name in sections and elf.sections[section.name] is section:
            start = strings.offset + name
            text = plain_name(elf.mm[start : max(elf.mm.find(b"\0", start), start)])
            letter = _section_letter(section)
            letter = letter if info >> 4 == STB_LOCAL else letter.upper()
            yield Symbol(text, sections[section.name] + value, letter, size)


class ListedSymbols:
    """A table made from a list, for modules and for what is recovered from a dump.

    ``start``, ``end``: the addresses that the table answers for.
    """

    def __init__(self, symbols: Sequence[Symbol], ranges: Sequence[tuple[int, int]]) -> None:
        self._symbols = sorted(symbols, key=lambda symbol: symbol.address)
        self._addresses = [symbol.address for symbol in self._symbols]
        self._by_name: dict[str, list[Symbol]] = {}
        for symbol in self._symbols:
            self._by_name.setdefault(symbol.name, []).append(symbol)
        self.ranges = list(ranges)

    def symbol(self, name: str) -> Symbol | None:
        """See SymbolTable."""
        found = self._by_name.get(name, ())
        return next((s for s in found if s.type.isupper()), found[0] if found else None)

    def symbols_named(self, name: str) -> list[Symbol]:
        """See SymbolTable."""
        return list(self._by_name.get(name, ()))

    def covers(self, address: int) -> bool:
        """True if ``address`` lies in one of the table's ranges."""
        return any(low <= address < high for low, high in self.ranges)

    def at(self, address: int) -> Symbol | None:
        """See SymbolTable."""
        place = bisect_right(self._addresses, address) - 1
        if place < 0 or not self.covers(address):
            return None
        if self._addresses[place] == address:
            place = bisect_left(self._addresses, address)
        return self._symbols[place]

    def neighbours(self, address: int) -> tuple[Symbol | None, Symbol | None]:
        """The symbols next below and next above the one at ``address``."""
        below, above = bisect_left(self._addresses, address) - 1, bisect_right(self._addresses, address)
        return (
            self._symbols[below] if below >= 0 else None,
            self._symbols[above] if above < len(self._symbols) else None,
        )

    def all(self) -> Sequence[Symbol]:
        """See SymbolTable."""
        return self._symbols

    def containing(self, text: str) -> Sequence[Symbol]:
        """See SymbolTable."""
        return [symbol for symbol in self._symbols if text in symbol.name]


class Symbols:
    """All symbols of a session: the kernel's table and one a module.

    ``kernel_range``: ``[low, high)`` of the kernel image, for "which symbol is
    at this address"; addresses outside belong to modules or to nobody.
    """

    def __init__(self, kernel: Any, kernel_range: tuple[int, int], release: str = "") -> None:
        self.kernel = kernel
        self.kernel_range = kernel_range
        self.release = release
        self.modules: dict[str, ListedSymbols] = {}
        self._found: dict[str, Symbol | None] = {}
        self._load_modules: Any = None

    def on_demand(self, load: Any) -> None:
        """``load()`` fills :attr:`modules` when a search first misses the kernel's table."""
        self._load_modules = load

    def _modules(self) -> dict[str, ListedSymbols]:
        if self._load_modules is not None:
            load, self._load_modules = self._load_modules, None
            load()
        return self.modules

    def module_table(self, name: str) -> ListedSymbols | None:
        """The table of a module, or None if it is not loaded."""
        return self._modules().get(name)

    def symbol(self, name: str) -> Symbol | None:
        """The symbol ``name``: the kernel's, else the first module's that has it."""
        if name not in self._found:
            self._found[name] = self.kernel.symbol(name)
        found = self._found[name]
        if found is None:
            tables = self._modules().values()
            found = next((s for table in tables if (s := table.symbol(name))), None)
        return found

    def symbols_named(self, name: str) -> list[Symbol]:
        """All symbols of that name, the kernel's first."""
        found: list[Symbol] = list(self.kernel.symbols_named(name))
        for table in self._modules().values():
            found += table.symbols_named(name)
        return found

    def find_kernel(self, name: str) -> int | None:
        """The address of a symbol of the kernel itself (no module is looked at), or None."""
        if name not in self._found:
            self._found[name] = self.kernel.symbol(name)
        found = self._found[name]
        return None if found is None else found.address

    def find(self, name: str) -> int | None:
        """The address of a symbol, or None."""
        found = self.symbol(name)
        return None if found is None else found.address

    def address(self, name: str) -> int:
        """The address of a symbol. Raises MissingSymbol."""
        found = self.find_kernel(name)
        if found is None:
            found = self.find(name)
        if found is None:
            raise MissingSymbol(name, self.release)
        return found

    def table_at(self, address: int) -> tuple[str, Any] | None:
        """``(module name, table)`` that answers for ``address``; "" is the kernel."""
        if self.kernel_range[0] <= address < self.kernel_range[1]:
            return "", self.kernel
        for name, table in self._modules().items():
            if table.covers(address):
                return name, table
        return None

    def at(self, address: int) -> tuple[Symbol, int] | None:
        """The symbol that ``address`` belongs to, and the offset into it; None if to none."""
        owner = self.table_at(address)
        found = owner[1].at(address) if owner else None
        return None if found is None else (found, address - found.address)

    def format(self, address: int) -> str | None:
        """``"schedule+64"``, ``"schedule"`` at offset 0, None if nothing is there."""
        found = self.at(address)
        if found is None:
            return None
        return f"{found[0].name}+{found[1]}" if found[1] else found[0].name

    def all(self) -> Iterator[Symbol]:
        """Every symbol: the kernel's, then each module's."""
        yield from self.kernel.all()
        for table in self._modules().values():
            yield from table.all()

    def containing(self, text: str) -> Iterator[Symbol]:
        """Every symbol with ``text`` in its name: the kernel's, then each module's."""
        yield from self.kernel.containing(text)
        for table in self._modules().values():
            yield from table.containing(text)
