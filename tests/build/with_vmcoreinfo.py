"""A copy of an ELF dump with VMCOREINFO, as drgn wants it: QEMU has none to write of some machines."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from struct import pack, unpack, unpack_from

from kcrash.dump.base import Note
from kcrash.dump.notes import NT_PRSTATUS, parse_notes
from tests.build.notes import note_bytes

HEADER, PROGRAM_HEADER, PT_NOTE = 64, 56, 4
FILE_FORM, SEGMENT_FORM = "HHI3QI6H", "II6Q"  # behind e_ident; a program header


def with_vmcoreinfo(dump: Path, text: bytes, copy: Path, order: str = "") -> Path:
    """``dump`` (64-bit ELF with one note segment) at ``copy``, a note with the text behind its others.

    ``order``: the byte order that the copy shall say, as struct spells it: if it is another than the dump's
    (QEMU 7.2 says the wrong one of ppc64le), of the notes those with the CPUs' general registers are kept.
    """
    subprocess.run(["cp", "--sparse=always", str(dump), str(copy)], check=True)
    with copy.open("r+b") as file:
        head = file.read(HEADER)
        said = "<" if head[5] == 1 else ">"
        order = order or said
        fields = list(unpack_from(said + FILE_FORM, head, 16))
        at, count = fields[4], fields[9]
        fields[5], fields[11:] = 0, [0, 0]  # no sections
        file.seek(at)
        headers = file.read(count * PROGRAM_HEADER)
        segments = [list(unpack_from(said + SEGMENT_FORM, headers, 56 * n)) for n in range(count)]
        (note,) = (segment for segment in segments if segment[0] == PT_NOTE)
        file.seek(note[2])
        notes = file.read(note[5])
        if order != said:
            notes = _swapped(notes, said, order)
        notes += note_bytes([Note("VMCOREINFO", 0, text)] if text else [], order)
        note[2], note[5], note[6] = file.seek(0, 2), len(notes), len(notes)
        file.write(notes)
        file.seek(at)
        file.write(b"".join(pack(order + SEGMENT_FORM, *segment) for segment in segments))
        file.seek(0)
        file.write(
            head[:5] + (b"\1" if order == "<" else b"\2") + head[6:16] + pack(order + FILE_FORM, *fields)
        )
    return copy


def _swapped(notes: bytes, said: str, order: str) -> bytes:
    found = parse_notes(notes, "little" if said == "<" else "big")
    kept = [note for note in found if (note.name, note.type) == ("CORE", NT_PRSTATUS)]
    return note_bytes([replace(note, data=_status(note.data, said, order)) for note in kept], order)


def _status(data: bytes, said: str, order: str) -> bytes:
    """struct elf_prstatus (include/linux/elfcore.h) with words of 64 bits."""
    form = f"3ih2x2Q4i8Q{(len(data) - 120) // 8}Qi4x"
    return pack(order + form, *unpack(said + form, data))
