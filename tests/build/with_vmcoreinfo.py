"""A copy of an ELF dump with VMCOREINFO, as drgn wants it: QEMU has none to write of some machines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from struct import pack, unpack_from

from kcrash.dump.base import Note
from tests.build.notes import note_bytes

HEADER, PROGRAM_HEADER, PT_NOTE = 64, 56, 4
FILE_FORM, SEGMENT_FORM = "HHI3QI6H", "II6Q"  # behind e_ident; a program header


def with_vmcoreinfo(dump: Path, text: bytes, copy: Path, order: str = "") -> Path:
    """``dump`` (64-bit ELF with one note segment) at ``copy``, the note behind its others.

    ``order``: of the machine's memory, as struct spells it: in a file that says another one (QEMU's of
    ppc64le) headers are written anew, and the notes, which were in that other order, left out.
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
        notes = file.read(note[5]) if order == said else b""
        notes += note_bytes([Note("VMCOREINFO", 0, text)], order)
        note[2], note[5], note[6] = file.seek(0, 2), len(notes), len(notes)
        file.write(notes)
        file.seek(at)
        file.write(b"".join(pack(order + SEGMENT_FORM, *segment) for segment in segments))
        file.seek(0)
        file.write(
            head[:5] + (b"\1" if order == "<" else b"\2") + head[6:16] + pack(order + FILE_FORM, *fields)
        )
    return copy
