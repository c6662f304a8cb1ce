"""A writer of Xen's cores (xl dump-core), of fully virtual and paravirtual guests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import pack, pack_into
from typing import BinaryIO

from kcrash.dump.base import Note
from tests.build.memory_images import Ranges
from tests.build.notes import note_bytes
from tests.build.pages import pages_of

PAGE = 4096
REGS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")


def write_xen_core(
    out: BinaryIO,
    ranges: Ranges,
    cpus: Sequence[Mapping[str, int]] = (),
    *,
    paravirtual: bool = False,
    holes: bool = False,
) -> None:
    """A core. ``holes``: entries that are no page frame, with a page of rubbish each, among the others."""
    frames: list[int] = []
    bodies: list[tuple[str, bytes, int]] = [
        (".xen_prstatus", b"".join(map(context, cpus)), 5168),
        (".xen_shared_info", bytes(PAGE), PAGE),
    ]
    at = 64
    for _, data, _ in bodies:
        out.seek(at)
        out.write(data)
        at += len(data)
    pages = at + -at % PAGE
    out.seek(pages)
    for number, (physical, page) in enumerate(pages_of(ranges, PAGE)):
        if holes and number % 7 == 3:
            frames.append((1 << 64) - 1)
            out.write(b"\xee" * PAGE)
        frames.append(physical // PAGE)
        out.write(page)
    name = ".xen_p2m" if paravirtual else ".xen_pfn"
    table = b"".join(pack("<QQ", pfn, pfn ^ 0x55) if paravirtual else pack("<Q", pfn) for pfn in frames)
    magic = 0xF00FEBED if paravirtual else 0xF00FEBEE
    note = note_bytes([
        Note("Xen", 0x2000000, b""),
        Note("Xen", 0x2000001, pack("<4Q", magic, len(cpus), len(frames), PAGE)),
    ])  # fmt: skip
    tail = [(".note.Xen", note, 0), (name, table, 16 if paravirtual else 8)]
    _write_sections(out, bodies, (pages, len(frames) * PAGE), tail)


def _write_sections(
    out: BinaryIO,
    front: list[tuple[str, bytes, int]],
    pages: tuple[int, int],
    tail: list[tuple[str, bytes, int]],
) -> None:
    """What follows the pages, the section headers, and the ELF header."""
    rows, at = [], 64
    for name, data, entry in front:
        rows.append((name, at, len(data), entry))
        at += len(data)
    rows.append((".xen_pages", *pages, PAGE))
    at = sum(pages)
    for name, data, entry in tail:
        rows.append((name, at, len(data), entry))
        out.write(data)
        at += len(data)
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in rows) + b".shstrtab\0"
    out.write(names)
    headers = [bytes(64)]
    for name, offset, size, entry in [*rows, (".shstrtab", at, len(names), 0)]:
        place = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(pack("<IIQQQQIIQQ", place, 1, 0, 0, offset, size, 0, 0, 0, entry))
    out.write(b"".join(headers))
    out.seek(0)
    out.write(b"\x7fELF\2\1\1".ljust(16, b"\0"))
    out.write(
        pack(
            "<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, at + len(names), 0, 64, 0, 0, 64, len(headers), len(headers) - 1
        )
    )


def context(registers: Mapping[str, int]) -> bytes:
    """struct vcpu_guest_context, as far as kcrash reads it."""
    out = bytearray(5168)
    pack_into("<15Q", out, 520, *(registers.get(name, 0) for name in REGS))
    named = (registers.get(name, 0) for name in ("rip", "cs", "rflags", "rsp", "ss"))
    pack_into("<QH6xQQH", out, 648, *named)
    pack_into("<5Q", out, 4984, *(registers.get(f"cr{number}", 0) for number in range(5)))
    pack_into("<QQ", out, 5144, registers.get("fs_base", 0), registers.get("gs_base", 0))
    return bytes(out)
