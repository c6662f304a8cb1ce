"""ELF notes for synthetic files."""

from __future__ import annotations

from struct import pack

from kcrash.dump.base import Note

VMCOREINFO_TEXT = (
    b"OSRELEASE=6.1.0-test\nBUILD-ID=00112233445566778899aabbccddeeff00112233\nPAGESIZE=4096\n"
    b"SYMBOL(init_uts_ns)=ffffffff82a0a3c0\nSIZE(page)=64\nOFFSET(page.flags)=0\nLENGTH(mem_section)=2048\n"
    b"NUMBER(phys_base)=-16777216\nKERNELOFFSET=1c00000\nCRASHTIME=1700000000\n"
)


def pad(data: bytes, align: int) -> bytes:
    """``data`` with zeros up to a multiple of ``align``."""
    return data + bytes(-len(data) % align)


def note_bytes(notes: list[Note], order: str = "<", align: int = 4) -> bytes:
    """The notes as an ELF file holds them."""
    out = b""
    for note in notes:
        name = note.name.encode() + b"\0"
        out += pad(pack(order + "3I", len(name), len(note.data), note.type) + name, align) + pad(
            note.data, align
        )
    return out


def usual_notes(cpus: int = 2) -> list[Note]:
    """What a Linux kdump has: a PRSTATUS for each CPU, then VMCOREINFO."""
    regs = [Note("CORE", 1, bytes([cpu]) * 336) for cpu in range(1, cpus + 1)]
    return [*regs, Note("VMCOREINFO", 0, VMCOREINFO_TEXT)]
