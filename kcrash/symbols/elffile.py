"""A mapped ELF file: its sections, found by name, without reading them.

pyelftools reads ELF too, but costs 38 ms to import and an object a section;
opening a kernel needs the section table and nothing else (System V gABI,
"Sections"; compressed sections: gABI "Section Compression").
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath

from kcrash.errors import BadFormat, MissingCodec

SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_NOTE, SHT_NOBITS = 0, 1, 2, 7, 8
SHF_COMPRESSED = 0x800
ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD = 1, 2
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
NT_GNU_BUILD_ID = 3

# A section that claims to unpack to more than this is a lie.
MAX_UNPACKED = 4 << 30


@dataclass(frozen=True, slots=True)
class Section:
    """One section header; ``offset`` and ``size`` in bytes of the file."""

    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    entsize: int
    index: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the fields of the headers stand, per word size."""

    header: str
    section: str
    compression: str


_LAYOUTS = {
    64: _Layout("HHIQQQIHHHHHH", "IIQQQQIIQQ", "IIQQ"),
    32: _Layout("HHIIIIIHHHHHH", "IIIIIIIIII", "III"),
}


def _open_at_once(path: str, flags: int) -> int:
    """Not waiting for the writer of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class ElfFile:
    """An ELF file, mapped read-only.

    Raises BadFormat for what is no ELF file or has a broken header, OSError if
    the file cannot be opened. ``copy``: it is small, and one of more than there may be open files: its
    content is copied, and the file not held open.
    """

    def __init__(self, path: str | PathLike[str], *, copy: bool = False) -> None:
        self.path = fspath(path)
        with open(path, "rb", opener=_open_at_once) as file:  # pathlib has no opener
            try:
                self.mm = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise BadFormat(self.path, "the file is empty", 0) from None
        if copy:
            with self.mm as mapped:
                self.mm = mmap.mmap(-1, len(mapped))
                self.mm[:] = mapped[:]
        self._unpacked: dict[str, memoryview] = {}
        self._read_header()

    def _read_header(self) -> None:
        ident = self.mm[:16]
        if len(ident) < 16 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise BadFormat(self.path, "not an ELF file", 0)
        self.word_bits = 64 if ident[4] == 2 else 32
        self.byte_order = "little" if ident[5] == 1 else "big"
        self._order = "<" if ident[5] == 1 else ">"
        self._layout = _LAYOUTS[self.word_bits]
        fields = self._unpack(self._layout.header, 16, "ELF header")
        self.type, self.machine = fields[0], fields[1]
        self.entry = fields[3]
        self._section_table = (fields[5], fields[10], fields[11], fields[12])

    def _unpack(self, form: str, offset: int, what: str) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + form, self.mm, offset)
        except (struct.error, OverflowError):
            raise BadFormat(self.path, f"the file ends inside its {what}", offset) from None

    @cached_property
    def section_list(self) -> list[Section]:
        """All sections in file order, index 0 included."""
        offset, entry_size, count, names_index = self._section_table
        form = self._layout.section
        if offset == 0:
            return []
        if entry_size < struct.calcsize(self._order + form):
            raise BadFormat(self.path, f"section headers of {entry_size} bytes", 16)
        if count == 0 or names_index == 0xFFFF:  # gABI: too many sections, section 0 says how many
            first = self._unpack(form, offset, "section headers")
            count = count or first[5]
            names_index = first[6] if names_index == 0xFFFF else names_index
        if count * entry_size > len(self.mm):
            raise BadFormat(self.path, f"{count} section headers do not fit in the file", offset)
        rows = [self._unpack(form, offset + i * entry_size, "section headers") for i in range(count)]
        names = rows[names_index] if names_index < len(rows) else None
        return [self._section(index, row, names) for index, row in enumerate(rows)]

    def _section(self, index: int, row: tuple[int, ...], names: tuple[int, ...] | None) -> Section:
        name, kind, flags, addr, offset, size, link, info, _align, entsize = row
        if kind not in (SHT_NOBITS, SHT_NULL) and offset + size > len(self.mm):
            raise BadFormat(self.path, f"section {index} lies beyond the end of the file", offset)
        text = self._string(names[4] + name) if names else ""
        return Section(text, kind, flags, addr, offset, size, link, info, entsize, index)

    def _string(self, offset: int) -> str:
        end = self.mm.find(b"\0", offset, offset + 4096) if offset < len(self.mm) else -1
        return self.mm[offset:end].decode("utf-8", "replace") if end >= 0 else ""

    @cached_property
    def sections(self) -> dict[str, Section]:
        """Sections by name; the first of a name wins."""
        found: dict[str, Section] = {}
        for section in self.section_list:
            found.setdefault(section.name, section)
        return found

    def section_data(self, name: str) -> memoryview | None:
        """The bytes of a section, unpacked if it is compressed; None if there are none."""
        section = self.sections.get(name)
        if section is None:
            return self._old_compressed(name)
        if section.type == SHT_NOBITS:
            return None
        data = memoryview(self.mm)[section.offset : section.offset + section.size]
        if not section.flags & SHF_COMPRESSED:
            return data
        if name not in self._unpacked:
            self._unpacked[name] = self._decompress(section, data)
        return self._unpacked[name]

    def _decompress(self, section: Section, data: memoryview) -> memoryview:
        form = self._order + self._layout.compression
        if len(data) < struct.calcsize(form):
            raise BadFormat(self.path, f"compressed section {section.name} is cut", section.offset)
        kind, *rest = struct.unpack_from(form, data)
        size = rest[1] if self.word_bits == 64 else rest[0]
        packed = data[struct.calcsize(form) :]
        if size > MAX_UNPACKED:
            raise BadFormat(self.path, f"section {section.name} claims {size} bytes", section.offset)
        if kind == ELFCOMPRESS_ZLIB:
            return self._inflate(section.name, packed, size, section.offset)
        if kind == ELFCOMPRESS_ZSTD:
            return self._unzstd(section.name, packed, size, section.offset)
        raise BadFormat(self.path, f"section {section.name}: unknown compression {kind}", section.offset)

    def _inflate(self, name: str, packed: memoryview, size: int, offset: int) -> memoryview:
        import zlib

        unpacker = zlib.decompressobj()
        try:
            plain = unpacker.decompress(packed, size or 1)
        except zlib.error as error:
            raise BadFormat(self.path, f"section {name}: {error}", offset) from None
        return self._checked(name, plain, size, offset)

    def _unzstd(self, name: str, packed: memoryview, size: int, offset: int) -> memoryview:
        try:
            import zstandard
        except ImportError:
            raise MissingCodec("zstd", "zstandard") from None
        try:
            plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError as error:
            raise BadFormat(self.path, f"section {name}: {error}", offset) from None
        return self._checked(name, plain, size, offset)

    def _checked(self, name: str, plain: bytes, size: int, offset: int) -> memoryview:
        if len(plain) != size:
            raise BadFormat(self.path, f"section {name} unpacks to {len(plain)} of {size} bytes", offset)
        return memoryview(plain)

    def _old_compressed(self, name: str) -> memoryview | None:
        """GNU's form before the gABI had one: ".zdebug_x" holds "ZLIB", a big-endian size, data."""
        section = self.sections.get(name.replace(".", ".z", 1))
        if section is None or not name.startswith(".debug"):
            return None
        if name not in self._unpacked:
            data = memoryview(self.mm)[section.offset : section.offset + section.size]
            if len(data) < 12 or bytes(data[:4]) != b"ZLIB":
                raise BadFormat(self.path, f"section {section.name} is cut", section.offset)
            size = int.from_bytes(data[4:12], "big")
            if size > MAX_UNPACKED:
                raise BadFormat(self.path, f"section {section.name} claims {size} bytes", section.offset)
            self._unpacked[name] = self._inflate(name, data[12:], size, section.offset)
        return self._unpacked[name]

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build-id in hex, or None."""
        for name in (".note.gnu.build-id", ".notes", ".note"):
            data = self.section_data(name)
            if data is not None:
                found = find_build_id(bytes(data), self.byte_order)
                if found:
                    return found
        return None


def find_build_id(notes: bytes, byte_order: str) -> str | None:
    """The GNU build-id among the ELF notes in ``notes`` (4-byte aligned), in hex."""
    order = "<" if byte_order == "little" else ">"
    position = 0
    while position + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from(order + "III", notes, position)
        name = notes[position + 12 : position + 12 + name_size]
        data = position + 12 + (name_size + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and name == b"GNU\0" and 0 < data_size <= 64:
            return notes[data : data + data_size].hex()
        position = data + (data_size + 3 & ~3)
    return None
