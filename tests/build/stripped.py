"""Real dumps without what tells where the kernel is: as tools and bad luck leave them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from struct import pack_into, unpack_from
from typing import BinaryIO

PT_LOAD, PT_NOTE = 1, 4
NAME = b"VMCOREINFO\0"
HEAD = 1 << 20  # bytes at the start of a file that hold its headers and notes
# struct kdump_sub_header of a 64-bit machine: where offset_vmcoreinfo is; size_vmcoreinfo, offset_note
# and size_note follow.
OFFSET_VMCOREINFO = 32


def without_vmcoreinfo(dump: Path, to: Path) -> Path:
    """A copy of an ELF or kdump file whose note VMCOREINFO is gone; the text is still in the memory."""
    shutil.copyfile(dump, to)
    to.chmod(0o600)
    with to.open("r+b") as file:
        head = bytearray(file.read(HEAD))
        spans = list(_elf_notes(head)) if head.startswith(b"\x7fELF") else list(_kdump_notes(file, head))
        file.seek(0)
        file.write(head)
        found = sum(_wipe_note(file, offset, size) for offset, size in spans)
    assert found, f"{dump} had no VMCOREINFO"
    return to


def _elf_notes(head: bytearray) -> Iterator[tuple[int, int]]:
    for kind, offset, _physical, size in _segments(head):
        if kind == PT_NOTE:
            yield offset, size


def _segments(head: bytes | bytearray) -> Iterator[tuple[int, int, int, int]]:
    """``(type, file offset, physical address, bytes in the file)`` of each segment."""
    table, count = unpack_from("<Q", head, 32)[0], unpack_from("<H", head, 56)[0]
    for number in range(count):
        kind, _flags, offset, _virtual, physical, size = unpack_from("<IIQQQQ", head, table + 56 * number)
        yield kind, offset, physical, size


def _kdump_notes(file: BinaryIO, head: bytearray) -> Iterator[tuple[int, int]]:
    """Zeroes the sub header's reference to the text, and the text; the notes hold it once more."""
    sub = unpack_from("<i", head, 428)[0]  # block_size: the sub header is the second block
    offset, size, notes, notes_size = unpack_from("<4Q", head, sub + OFFSET_VMCOREINFO)
    pack_into("<2Q", head, sub + OFFSET_VMCOREINFO, 0, 0)
    assert offset + size <= len(head)
    head[offset : offset + size] = bytes(size)
    yield notes, notes_size


def _wipe_note(file: BinaryIO, offset: int, size: int) -> int:
    """Renames the note and zeroes its text; how many there were."""
    file.seek(offset)
    data, at, found = bytearray(file.read(size)), 0, 0
    while at + 12 <= len(data):
        name_size, text_size, _type = unpack_from("<3I", data, at)
        name, text = at + 12, at + 12 + (name_size + 3 & ~3)
        if data[name : name + name_size] == NAME:
            data[name : name + name_size] = b"NOTHING".ljust(name_size, b"\0")
            data[text : text + text_size] = bytes(text_size)
            found += 1
        elif not name_size and not text_size:
            break
        at = text + (text_size + 3 & ~3)
    file.seek(offset)
    file.write(data)
    return found


def without_copies(elf: Path) -> int:
    """Zeroes what an ELF dump's memory holds of the text, in place; how many copies there were."""
    from kcrash.dump import open_dump
    from kcrash.dump.scan import vmcoreinfo_candidates

    dump = open_dump([str(elf)])
    copies = [(found.physical, len(found.raw)) for found in vmcoreinfo_candidates(dump)]
    dump.close()
    with elf.open("r+b") as file:
        loads = [s for s in _segments(file.read(HEAD)) if s[0] == PT_LOAD]
        for physical, size in copies:
            base, start = next((o, p) for _kind, o, p, n in loads if p <= physical < p + n)
            file.seek(base + physical - start)
            file.write(bytes(size))
    return len(copies)
