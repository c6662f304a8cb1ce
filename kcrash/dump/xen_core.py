"""``xl dump-core``: an ELF core with sections and no program headers.

Xen docs/misc/dump-core-format.txt. Page i of .xen_pages is page frame i of .xen_pfn (fully virtual guests),
or of .xen_p2m (paravirtual ones: pairs of the frame that the guest's kernel calls physical, and the
machine's, which its page tables hold). .xen_prstatus has the virtual CPUs.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import Dump, DumpInfo, Note, register_format
from kcrash.dump.contents import ET_CORE, elf_type
from kcrash.dump.elf import Header, read_header
from kcrash.dump.notes import read_notes
from kcrash.dump.pieces import PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAX_SECTIONS = 256
MAX_NAMES = 1 << 16
NOTE_HEADER = 0x2000001  # {u64 magic, u64 vcpus, u64 pages, u64 page size}
MAGICS = {0xF00FEBED: "paravirtual", 0xF00FEBEE: "fully virtual"}
NO_FRAME = (1 << 64) - 1
NUMBERS_AT_ONCE = 1 << 16
MAX_CPUS = 4096
EM_X86_64 = 62

# struct vcpu_guest_context of x86_64, xen/include/public/arch-x86/xen.h.
CONTEXT_SIZE = 5168
REGS_AT, REGS = 520, ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx",
                      "rdx", "rsi", "rdi")  # fmt: skip
RIP_AT = REGS_AT + 128  # rip, cs (u16 in 8 bytes), rflags, rsp, ss (u16)
CONTROL_AT, BASES_AT = 4984, 5144


class Section(NamedTuple):
    """What is needed of a section header."""

    name: str
    offset: int
    size: int
    entry_size: int


def read_sections(source: Source, header: Header) -> dict[str, Section]:
    """The sections by name; none if there are not any, or too many."""
    wide = header.bits == 64
    shape = Struct(header.order + ("IIQQQQIIQQ" if wide else "10I"))
    tail = source.read_at(60 if wide else 48, 4)
    if len(tail) < 4 or not header.shoff:
        return {}
    count, names_in = Struct(header.order + "HH").unpack(tail)
    table = source.read_at(header.shoff, min(count, MAX_SECTIONS) * shape.size)
    rows = list(shape.iter_unpack(table[: len(table) // shape.size * shape.size]))
    if names_in >= len(rows):
        return {}
    names = source.read_at(rows[names_in][4], min(rows[names_in][5], MAX_NAMES))
    sections = (
        Section(names[row[0] :].split(b"\0", 1)[0].decode("latin-1"), row[4], row[5], row[9]) for row in rows
    )
    return {section.name: section for section in sections}


@register_format("xen core", sniff=lambda head: elf_type(head) == ET_CORE, order=5)
def probe(source: Source) -> Dump | None:
    """A core of xl dump-core becomes a PieceDump; other ELF cores are not for here."""
    if len(source.peek(64)) < 64:
        return None
    header = read_header(source)
    if header.phnum:
        return None
    sections = read_sections(source, header)
    pages = sections.get(".xen_pages")
    frames = sections.get(".xen_pfn") or sections.get(".xen_p2m")
    if pages is None or frames is None:
        return None
    note = sections.get(".note.Xen")
    order = "little" if header.order == "<" else "big"
    notes = read_notes(source, note.offset, note.size, order) if note else []
    magic, count, page_size = _told(source, header, notes, frames)
    stretches = _stretches(source, header, frames, pages, min(count, pages.size // page_size), page_size)
    return PieceDump(_info(source, header, notes, magic, page_size, sections), [source], stretches)


def _told(source: Source, header: Header, notes: list[Note], frames: Section) -> tuple[int, int, int]:
    """``(magic, pages, page size)`` of the header note."""
    data = next((note.data for note in notes if note.type == NOTE_HEADER and len(note.data) >= 32), None)
    if data is None:
        return 0, frames.size // (8 if frames.name == ".xen_pfn" else 16), 4096
    magic, _, count, page_size = Struct(header.order + "4Q").unpack_from(data)
    if page_size & (page_size - 1) or not 1024 <= page_size <= 1 << 20:
        raise BadFormat(source.path, f"Xen core with pages of {page_size} bytes", frames.offset)
    return magic, count, page_size


def _stretches(
    source: Source, header: Header, frames: Section, pages: Section, count: int, page_size: int
) -> Stretches:
    """Page frames that follow each other in both the list and memory are one stretch."""
    stretches = Stretches()
    count = min(count, max(source.size - pages.offset, 0) // page_size + 1)
    start, first, length = 0, NO_FRAME, 0
    step = 1 if frames.name == ".xen_pfn" else 2
    for number, pfn in enumerate([*_numbers(source, header, frames, count, step), NO_FRAME]):
        if length and pfn == first + length:
            length += 1
            continue
        if length:
            stretches.add(first * page_size, length * page_size, pages.offset + start * page_size)
            stretches.check(source, frames.offset + 8 * step * number)
        start, first, length = number, pfn, int(pfn < NO_FRAME // page_size)
    return stretches


def _numbers(source: Source, header: Header, frames: Section, count: int, step: int) -> array[int]:
    """The page frame numbers: of .xen_p2m the first of each pair."""
    size = min(count * step * 8, frames.size, max(source.size - frames.offset, 0))
    data = source.read_at(frames.offset, size)
    numbers = array("Q", data[: len(data) // 8 * 8])
    if (header.order == "<") != (Struct("=H").pack(1) == b"\1\0"):
        numbers.byteswap()
    return numbers[::step]


def _info(
    source: Source,
    header: Header,
    notes: list[Note],
    magic: int,
    page_size: int,
    sections: Mapping[str, Section],
) -> DumpInfo:
    status = sections.get(".xen_prstatus")
    cpus: list[Mapping[str, int]] = []
    if status and header.machine == EM_X86_64 and status.entry_size in (0, CONTEXT_SIZE):
        area = source.read_at(status.offset, min(status.size, MAX_CPUS * CONTEXT_SIZE))
        ends = range(CONTEXT_SIZE, len(area) + 1, CONTEXT_SIZE)
        cpus = [_registers(area[end - CONTEXT_SIZE : end]) for end in ends]
    return DumpInfo(
        format="Xen core",
        byte_order="little" if header.order == "<" else "big",
        word_bits=header.bits,
        machine=header.machine,
        page_size=page_size,
        notes=notes,
        nr_cpus=len(cpus) or None,
        cpus=cpus,
        incomplete=source.incomplete,
        details={"guest": MAGICS.get(magic, "unknown")},
    )


def _registers(context: bytes) -> dict[str, int]:
    found = dict(zip(REGS, Struct("<15Q").unpack_from(context, REGS_AT), strict=True))
    rip, cs, rflags, rsp, ss = Struct("<QH6xQQH").unpack_from(context, RIP_AT)
    found |= {"rip": rip, "cs": cs, "rflags": rflags, "rsp": rsp, "ss": ss}
    control = Struct("<5Q").unpack_from(context, CONTROL_AT)
    found |= {f"cr{number}": value for number, value in enumerate(control)}
    found["fs_base"], found["gs_base"] = Struct("<QQ").unpack_from(context, BASES_AT)
    return found
