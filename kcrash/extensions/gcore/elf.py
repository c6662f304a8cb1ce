"""ELF core files: headers and notes (ELF gABI; fs/binfmt_elf.c)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kcrash.extensions.gcore.regsets.base import Note

ET_CORE, PT_LOAD, PT_NOTE, PN_XNUM = 4, 1, 4, 0xFFFF
PF_X, PF_W, PF_R = 1, 2, 4


class Load(NamedTuple):
    """A PT_LOAD: ``address``, bytes in memory and in the file, PF_* flags."""

    address: int
    memory: int
    size: int
    flags: int


class Form(NamedTuple):
    """Word size and byte order of the file, e_machine, and how segments are aligned (ELF_EXEC_PAGESIZE)."""

    word_bytes: int
    byte_order: str
    machine: int
    page_size: int = 4096

    @property
    def order(self) -> str:
        """As struct spells the byte order."""
        return "<" if self.byte_order == "little" else ">"

    @property
    def header_size(self) -> int:
        """Of the ELF header."""
        return 64 if self.word_bytes == 8 else 52

    @property
    def segment_size(self) -> int:
        """Of a program header."""
        return 56 if self.word_bytes == 8 else 32

    @property
    def section_size(self) -> int:
        """Of a section header."""
        return 64 if self.word_bytes == 8 else 40


class Layout(NamedTuple):
    """Where things stand in the file: ``data``: offset of the first segment; ``loads``: (segment, its
    offset); ``total``: bytes of the file; ``head``: everything before ``data``; ``tail``: what follows the
    segments (the section header that holds the number of program headers if there are too many)."""

    notes: int
    data: int
    loads: Sequence[tuple[Load, int]]
    total: int
    head: bytes
    tail: bytes


def note_bytes(note: Note, order: str) -> bytes:
    """A note: header, name and descriptor, each padded to 4 bytes."""
    name = note.name.encode() + b"\0"
    head = struct.pack(order + "3I", len(name), len(note.data), note.type)
    return head + _padded(name) + _padded(note.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _ident(form: Form) -> bytes:
    kind = 2 if form.word_bytes == 8 else 1
    return b"\x7fELF" + bytes((kind, 1 if form.byte_order == "little" else 2, 1)) + bytes(9)


def _header(form: Form, segments: int, sections_at: int) -> bytes:
    word = "Q" if form.word_bytes == 8 else "I"
    many = segments >= PN_XNUM
    shoff, phnum, shentsize, shnum = 0, segments, 0, 0
    if many:
        shoff, phnum, shentsize, shnum = sections_at, PN_XNUM, form.section_size, 1
    return _ident(form) + struct.pack(
        f"{form.order}HHI3{word}I6H",
        ET_CORE, form.machine, 1, 0, form.header_size, shoff, 0,
        form.header_size, form.segment_size, phnum, shentsize, shnum, 0,
    )  # fmt: skip


def _segment(
    form: Form, kind: int, flags: int, offset: int, address: int, size: int, memory: int, align: int
) -> bytes:
    if form.word_bytes == 8:
        return struct.pack(form.order + "II6Q", kind, flags, offset, address, 0, size, memory, align)
    return struct.pack(form.order + "8I", kind, offset, address, 0, size, memory, flags, align)


def _section(form: Form, segments: int) -> bytes:
    """Section 0 holds the number of program headers in sh_info (fill_extnum_info())."""
    word = "Q" if form.word_bytes == 8 else "I"
    return struct.pack(f"{form.order}II4{word}II2{word}", 0, 0, 0, 0, 0, 1, 0, segments, 0, 0)


def make_layout(form: Form, notes: bytes, loads: Sequence[Load]) -> Layout:
    """Lay out a core file: headers, notes, then the segments from a page boundary on, in order."""
    segments = len(loads) + 1
    notes_at = form.header_size + segments * form.segment_size
    data = notes_at + len(notes) + form.page_size - 1 & -form.page_size
    placed, offset = [], data
    for load in loads:
        placed.append((load, offset))
        offset += load.size
    tail = _section(form, segments) if segments >= PN_XNUM else b""
    parts = [_header(form, segments, offset), _segment(form, PT_NOTE, 0, notes_at, 0, len(notes), 0, 4)]
    parts += [
        _segment(form, PT_LOAD, load.flags, at, load.address, load.size, load.memory, form.page_size)
        for load, at in placed
    ]
    head = b"".join((*parts, notes))
    return Layout(notes_at, data, placed, offset + len(tail), head, tail)
