"""The debug sections of an ELF file as buffers: mapped, or unpacked and relocated when first asked for."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator, Mapping

from kcrash.errors import BadFormat, MissingCodec
from kcrash.symbols.elffile import (
    ELFCOMPRESS_ZLIB,
    ELFCOMPRESS_ZSTD,
    ET_REL,
    MAX_UNPACKED,
    SHF_COMPRESSED,
    SHT_NOBITS,
    ElfFile,
    Section,
)

# Called with a section's name, the bytes unpacked so far, and how many there will be.
Progress = Callable[[str, int, int], None]

_CHUNK = 1 << 20
_EMPTY = memoryview(b"")


class Sections:
    """Sections of ``elf`` by name.

    ``section_addresses``: where the sections of a relocatable file (a module)
    were loaded, by name; without it they all start at 0. ``progress`` hears of
    the unpacking of compressed sections, which takes seconds for a kernel.
    """

    def __init__(
        self,
        elf: ElfFile,
        section_addresses: Mapping[str, int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.elf = elf
        self.order = "<" if elf.byte_order == "little" else ">"
        self.section_addresses = dict(section_addresses or {})
        self._progress = progress
        self._views: dict[str, memoryview] = {}

    def __getitem__(self, name: str) -> memoryview:
        """The content of a section, empty if there is none. Raises BadFormat, MissingCodec."""
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._load(name)
        return view

    def _load(self, name: str) -> memoryview:
        section = self.elf.sections.get(name)
        if section is None:
            section = self.elf.sections.get(name.replace(".", ".z", 1))
        if section is None or section.type == SHT_NOBITS:
            return _EMPTY
        raw = memoryview(self.elf.mm)[section.offset : section.offset + section.size]
        view = self._unpack(section, raw)
        # A linked kernel may keep its .rela.debug_*: they are applied already.
        return self._relocate(name, view) if self.elf.type == ET_REL else view

    def _relocate(self, name: str, view: memoryview) -> memoryview:
        from kcrash.types.dwarf.relocate import relocated

        return relocated(self.elf, name, view, self.section_addresses)

    def _unpack(self, section: Section, raw: memoryview) -> memoryview:
        """The plain content: of gABI compressed sections, of GNU's older .zdebug ones, or as it is."""
        if section.flags & SHF_COMPRESSED:
            form = self.order + ("IIQQ" if self.elf.word_bits == 64 else "III")
            if len(raw) < struct.calcsize(form):
                raise BadFormat(self.elf.path, f"section {section.name} is cut", section.offset)
            fields = struct.unpack_from(form, raw)
            size = fields[2] if self.elf.word_bits == 64 else fields[1]
            return self._inflate(section, fields[0], raw[struct.calcsize(form) :], size)
        if section.name.startswith(".zdebug") and bytes(raw[:4]) == b"ZLIB":
            return self._inflate(section, ELFCOMPRESS_ZLIB, raw[12:], int.from_bytes(raw[4:12], "big"))
        return raw

    def _inflate(self, section: Section, kind: int, packed: memoryview, size: int) -> memoryview:
        """Into a temporary file, so that the system can take the memory back."""
        if size > MAX_UNPACKED:
            raise BadFormat(self.elf.path, f"section {section.name} claims {size} bytes", section.offset)
        if not size:
            return _EMPTY
        import tempfile

        done = 0
        with tempfile.TemporaryFile() as file:
            for piece in self._pieces(section, kind, packed):
                done += len(piece)
                if done > size:
                    break
                file.write(piece)
                if self._progress:
                    self._progress(section.name, done, size)
            if done != size:
                what = f"section {section.name} does not unpack to {size} bytes"
                raise BadFormat(self.elf.path, what, section.offset)
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _pieces(self, section: Section, kind: int, packed: memoryview) -> Iterator[bytes]:
        if kind == ELFCOMPRESS_ZLIB:
            return self._zlib_pieces(section, packed)
        if kind == ELFCOMPRESS_ZSTD:
            return self._zstd_pieces(section, packed)
        raise BadFormat(self.elf.path, f"section {section.name}: unknown compression {kind}", section.offset)

    def _zlib_pieces(self, section: Section, packed: memoryview) -> Iterator[bytes]:
        import zlib

        unpacker = zlib.decompressobj()
        try:
            for start in range(0, len(packed), _CHUNK):
                pending: bytes | memoryview = packed[start : start + _CHUNK]
                while pending:
                    yield unpacker.decompress(pending, 4 * _CHUNK)
                    pending = unpacker.unconsumed_tail
            yield unpacker.flush()
        except zlib.error as error:
            raise BadFormat(self.elf.path, f"section {section.name}: {error}", section.offset) from None

    def _zstd_pieces(self, section: Section, packed: memoryview) -> Iterator[bytes]:
        try:
            import zstandard
        except ImportError:
            raise MissingCodec("zstd", "zstandard") from None
        try:
            yield from zstandard.ZstdDecompressor().read_to_iter(packed, write_size=_CHUNK)
        except zstandard.ZstdError as error:
            raise BadFormat(self.elf.path, f"section {section.name}: {error}", section.offset) from None
