"""A writer of ELF vmcores: both classes and byte orders, PN_XNUM, zero-filled tails."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import pack

from kcrash.dump.base import Note
from tests.build.notes import note_bytes


@dataclass
class Load:
    """A PT_LOAD: ``data`` lies at ``paddr``; ``memsz`` bytes in memory (None: as many as in the file)."""

    paddr: int
    data: bytes
    memsz: int | None = None
    vaddr: int = 0


@dataclass
class ElfCore:
    """An ELF core to be written; ``machine``: e_machine; ``order``: struct's "<" or ">"."""

    loads: list[Load]
    notes: list[Note] = field(default_factory=list)
    bits: int = 64
    order: str = "<"
    machine: int = 62
    type: int = 4
    flags: int = 0
    xnum: bool = False
    note_align: int = 4

    def to_bytes(self) -> bytes:
        """The file."""
        wide = self.bits == 64
        ehsize, phsize, shsize = (64, 56, 64) if wide else (52, 32, 40)
        count = len(self.loads) + 1
        shoff = ehsize + count * phsize
        notes = note_bytes(self.notes, self.order, self.note_align)
        at = shoff + (shsize if self.xnum else 0)
        headers = self._phdr(4, at, 0, 0, len(notes), len(notes))
        body = notes
        for load in self.loads:
            memsz = len(load.data) if load.memsz is None else load.memsz
            headers += self._phdr(1, at + len(body), load.vaddr, load.paddr, len(load.data), memsz)
            body += load.data
        section = self._section0(count) if self.xnum else b""
        return self._ehdr(ehsize, phsize, shsize, count, shoff) + headers + section + body

    def _ehdr(self, ehsize: int, phsize: int, shsize: int, count: int, shoff: int) -> bytes:
        ident = b"\x7fELF" + bytes([2 if self.bits == 64 else 1, 1 if self.order == "<" else 2, 1]) + bytes(9)
        form = self.order + ("HHIQQQIHHHHHH" if self.bits == 64 else "HHIIIIIHHHHHH")
        number, sections = (0xFFFF, 1) if self.xnum else (count, 0)
        return ident + pack(
            form,
            self.type,
            self.machine,
            1,
            0,
            ehsize,
            shoff if self.xnum else 0,
            self.flags,
            ehsize,
            phsize,
            number,
            shsize,
            sections,
            0,
        )

    def _phdr(self, kind: int, offset: int, vaddr: int, paddr: int, filesz: int, memsz: int) -> bytes:
        if self.bits == 64:
            return pack(self.order + "IIQQQQQQ", kind, 7, offset, vaddr, paddr, filesz, memsz, 0)
        return pack(self.order + "8I", kind, offset, vaddr, paddr, filesz, memsz, 7, 0)

    def _section0(self, count: int) -> bytes:
        form = "IIQQQQIIQQ" if self.bits == 64 else "10I"
        return pack(self.order + form, 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
