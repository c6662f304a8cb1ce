"""A copy of an ELF dump with VMCOREINFO, as drgn wants it: QEMU has none to write of some machines."""

from __future__ import annotations

import subprocess
from pathlib import Path
from struct import pack_into, unpack_from

from kcrash.dump.base import Note
from tests.build.notes import note_bytes

HEADER, PROGRAM_HEADER, PT_NOTE = 64, 56, 4


def with_vmcoreinfo(dump: Path, text: bytes, copy: Path) -> Path:
    """``dump`` (64-bit ELF with one note segment) at ``copy``, the note behind its others."""
    subprocess.run(["cp", "--sparse=always", str(dump), str(copy)], check=True)
    with copy.open("r+b") as file:
        head = file.read(HEADER)
        order = "<" if head[5] == 1 else ">"
        (at,) = unpack_from(order + "Q", head, 32)
        (count,) = unpack_from(order + "H", head, 56)
        file.seek(at)
        headers = bytearray(file.read(count * PROGRAM_HEADER))
        number = next(n for n in range(count) if unpack_from(order + "I", headers, 56 * n)[0] == PT_NOTE)
        offset, size = (unpack_from(order + "Q", headers, 56 * number + place)[0] for place in (8, 32))
        file.seek(offset)
        notes = file.read(size) + note_bytes([Note("VMCOREINFO", 0, text)], order)
        for place, value in ((8, file.seek(0, 2)), (32, len(notes)), (40, len(notes))):
            pack_into(order + "Q", headers, 56 * number + place, value)
        file.write(notes)
        file.seek(at)
        file.write(headers)
    return copy
