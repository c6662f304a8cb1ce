"""ELF notes, of whatever container.

A note is ``{u32 namesz, u32 descsz, u32 type}``, the name and the descriptor,
each padded to 4 bytes (ELF gABI "Note Section"). Some writers pad to 8.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import Note
from kcrash.dump.source import Source

NT_PRSTATUS = 1  # include/uapi/linux/elf.h

MAX_NAME = 256
MAX_WHOLE = 1 << 20  # note data up to this size is read at once
MAX_TOTAL = 1 << 28  # descriptor bytes kept in all; device dumps (NT_VMCOREDD) can be large
MAX_NOTES = 1 << 17
VMCOREINFO = "VMCOREINFO"
ERASEINFO = "ERASEINFO"

Reader = Callable[[int, int], bytes]


class _Parsed(NamedTuple):
    notes: list[Note]
    clean: bool


def parse_notes(data: bytes, byte_order: str) -> list[Note]:
    """The notes in ``data``, in their order; stops where it makes no sense any more."""
    return _parse(lambda offset, n: data[offset : offset + n], len(data), byte_order)


def read_notes(source: Source, offset: int, size: int, byte_order: str) -> list[Note]:
    """As parse_notes(), of ``size`` bytes at ``offset`` of a file, or what it has of them."""
    size = min(size, max(source.size - offset, 0))
    if size <= MAX_WHOLE:
        return parse_notes(source.read_at(offset, size), byte_order)
    return _parse(lambda at, n: source.read_at(offset + at, n), size, byte_order)


def _parse(read: Reader, size: int, byte_order: str) -> list[Note]:
    four = _walk(read, size, byte_order, 4)
    if four.clean:
        return four.notes
    eight = _walk(read, size, byte_order, 8)
    return eight.notes if eight.clean and len(eight.notes) >= len(four.notes) else four.notes


def _walk(read: Reader, size: int, byte_order: str, align: int) -> _Parsed:
    """All notes with that alignment, and whether they fill ``size`` without nonsense."""
    header = Struct(("<" if byte_order == "little" else ">") + "3I")
    notes: list[Note] = []
    at = total = 0
    while at + 12 <= size and len(notes) < MAX_NOTES:
        namesz, descsz, kind = header.unpack(read(at, 12).ljust(12, b"\0"))
        if not (namesz or descsz or kind):
            at = _skip_zeros(read, at, size)
            continue
        start = at + _aligned(12 + namesz, align)
        if namesz > MAX_NAME or start + descsz > size or total + descsz > MAX_TOTAL:
            return _Parsed(notes, False)
        name = read(at + 12, namesz).split(b"\0", 1)[0].decode("latin-1")
        notes.append(Note(name, kind, read(start, descsz)))
        total += descsz
        at = start + _aligned(descsz, align)
    return _Parsed(notes, True)


def _aligned(n: int, align: int) -> int:
    return (n + align - 1) & -align


def _skip_zeros(read: Reader, at: int, size: int) -> int:
    """The next offset from ``at`` in steps of 4 where a byte is not zero: buffers end with zeros."""
    while at < size:
        block = read(at, 4096)
        rest = block.lstrip(b"\0")
        if not block:
            return size
        if rest:
            return at + ((len(block) - len(rest)) & ~3)
        at += len(block)
    return size


def find_note(notes: list[Note], name: str) -> bytes | None:
    """The descriptor of the first note of that name that is not empty, without trailing NULs."""
    return next((text for note in notes if note.name == name and (text := note.data.rstrip(b"\0"))), None)
