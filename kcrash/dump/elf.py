"""ELF vmcores: /proc/vmcore and copies of it, makedumpfile -E, QEMU's dump-guest-memory.

ELF gABI for the container; kernel/crash_core.c and fs/proc/vmcore.c for what
Linux puts in; QEMU dump/dump.c. Both classes and byte orders.

Where segments overlap in physical memory, file bytes win over the zero-filled
tail of another segment, and else the earlier program header wins. The tail of a
segment whose p_memsz exceeds its p_filesz reads as zeros, as the gABI says and
as other readers do, although makedumpfile -E leaves out excluded pages that way:
``info.details["zero_filled"]`` says how many bytes they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import Dump, DumpInfo, Note, Utsname, VirtualRange, register_format
from kcrash.dump.contents import ET_CORE, elf_type
from kcrash.dump.notes import ERASEINFO, VMCOREINFO, find_note, read_notes
from kcrash.dump.pieces import ZERO_FILL, PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import BadFormat

PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF
NT_AUXV = 6  # only processes have one
DUMP_ELF_INCOMPLETE = 1  # e_flags; makedumpfile.h
MAX_SEGMENTS = 1 << 22
MAX_PHYSICAL = 1 << 56  # more than the physical address bits of any machine


class Segment(NamedTuple):
    """A program header, as Elf64_Phdr names its members (without the prefix)."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class Header(NamedTuple):
    """What is needed of the ELF header. ``shoff``: offset of section header 0, for PN_XNUM."""

    bits: int
    order: str
    machine: int
    phoff: int
    shoff: int
    flags: int
    phentsize: int
    phnum: int


def read_header(source: Source) -> Header:
    """The ELF header. Raises BadFormat."""
    head = source.peek(64)
    size = {1: 52, 2: 64}.get(head[4] if len(head) > 4 else 2)
    if size is None or head[5:6] not in (b"\1", b"\2"):
        raise BadFormat(source.path, "ELF header of unknown class or byte order", 4)
    if len(head) < size:
        raise BadFormat(source.path, f"ends within its ELF header, of {size} bytes", len(head))
    bits, order = (32, 64)[head[4] - 1], "<>"[head[5] - 1]
    fields = Struct(order + ("HHIIIIIHHHHHH" if bits == 32 else "HHIQQQIHHHHHH")).unpack_from(head, 16)
    _, machine, _, _, phoff, shoff, flags, _, phentsize, phnum = fields[:10]
    return Header(bits, order, machine, phoff, shoff, flags, phentsize, phnum)


def read_segments(source: Source, header: Header) -> list[Segment]:
    """All program headers. Raises BadFormat if the table does not fit into the file."""
    size = 32 if header.bits == 32 else 56
    count = _segment_count(source, header)
    if count == 0:
        raise BadFormat(source.path, "ELF core without program headers")
    if header.phentsize != size:
        raise BadFormat(source.path, f"program headers of {header.phentsize} bytes, not {size}")
    if count > MAX_SEGMENTS or header.phoff + count * size > source.size:
        what = f"{count} program headers at {header.phoff:#x} end beyond the file's {source.size} bytes"
        raise BadFormat(source.path, what, header.phoff)
    table = source.read_at(header.phoff, count * size)
    if len(table) < count * size:
        raise BadFormat(source.path, "ends within its program headers", header.phoff + len(table))
    return list(_decode(table, header))


def _segment_count(source: Source, header: Header) -> int:
    """e_phnum; where that overflowed, sh_info of section header 0 (gABI "PN_XNUM")."""
    if header.phnum != PN_XNUM:
        return header.phnum
    at = header.shoff + (28 if header.bits == 32 else 44)
    field = source.read_at(at, 4) if header.shoff else b""
    if len(field) < 4:
        what = "more than 65534 program headers, but their number (section header 0) is missing"
        raise BadFormat(source.path, what, at)
    return int.from_bytes(field, "little" if header.order == "<" else "big")


def _decode(table: bytes, header: Header) -> Iterator[Segment]:
    if header.bits == 64:
        yield from map(Segment._make, Struct(header.order + "IIQQQQQQ").iter_unpack(table))
        return
    # Elf32_Phdr has its flags nearly last.
    for kind, *middle, flags, align in Struct(header.order + "8I").iter_unpack(table):
        yield Segment._make((kind, flags, *middle, align))


class ElfDump(PieceDump):
    """Physical memory of an ELF core.

    ``segments``: its PT_LOADs with a physical address, in file order.
    """

    def __init__(self, source: Source) -> None:
        header = read_header(source)
        everything = read_segments(source, header)
        unknown = (1 << header.bits) - 1  # /proc/kcore: p_paddr is -1 where there is none
        loads = [s for s in everything if s.type == PT_LOAD and s.paddr != unknown and s.memsz]
        self.segments = [_plausible(segment, source) for segment in loads]
        notes = _notes(source, header, everything)
        info = _info(source, header, self.segments, notes)
        if not self.segments:
            raise BadFormat(source.path, "ELF core without memory (no PT_LOAD with a physical address)")
        super().__init__(info, [source], _stretches(self.segments))


def _plausible(segment: Segment, source: Source) -> Segment:
    """The segment; one that would end beyond all memory there can be is as long as the file has it.

    kexec-tools that do not find the kernel's symbols give /proc/vmcore such sizes (arm64, Debian 12).
    """
    if segment.paddr + segment.memsz <= MAX_PHYSICAL:
        return segment
    held = min(segment.filesz, max(source.size - segment.offset, 0))
    return segment._replace(filesz=held, memsz=held)


def _stretches(segments: Sequence[Segment]) -> Stretches:
    """File bytes first, then the zero-filled tails: the order in which overlaps are decided."""
    stretches = Stretches()
    for s in segments:
        stretches.add(s.paddr, min(s.filesz, s.memsz), s.offset)
    for s in segments:
        stretches.add(s.paddr, s.memsz, ZERO_FILL)
    return stretches


def _notes(source: Source, header: Header, segments: list[Segment]) -> list[Note]:
    order = "little" if header.order == "<" else "big"
    notes: list[Note] = []
    for segment in segments:
        if segment.type == PT_NOTE:
            notes += read_notes(source, segment.offset, segment.filesz, order)
    return notes


def _info(source: Source, header: Header, segments: list[Segment], notes: list[Note]) -> DumpInfo:
    vmcoreinfo = find_note(notes, VMCOREINFO)
    if vmcoreinfo is None and any(note.name == "CORE" and note.type == NT_AUXV for note in notes):
        raise BadFormat(source.path, "is the core of a process, not of a kernel")
    told = parse_vmcoreinfo(vmcoreinfo or b"")
    return DumpInfo(
        format="ELF",
        byte_order="little" if header.order == "<" else "big",
        word_bits=header.bits,
        machine=header.machine,
        page_size=_page_size(told.page_size),
        notes=notes,
        vmcoreinfo=vmcoreinfo,
        utsname=Utsname(sysname="Linux", release=told.osrelease) if told.osrelease else Utsname(),
        time=float(told.crash_time) if told.crash_time else None,
        incomplete=bool(header.flags & DUMP_ELF_INCOMPLETE)
        or source.incomplete
        or any(segment.offset + segment.filesz > source.size for segment in segments),
        virtual_ranges=_virtual_ranges(segments, header.bits),
        eraseinfo=find_note(notes, ERASEINFO),
        details={
            "segments": len(segments),
            "qemu": any(note.name == "QEMU" for note in notes),
            # makedumpfile -E leaves excluded pages out this way: not all of it was zero in the machine.
            "zero_filled": sum(max(segment.memsz - segment.filesz, 0) for segment in segments),
        },
    )


def _page_size(told: int | None) -> int:
    """PAGESIZE of VMCOREINFO if it can be one."""
    return told if told and 1024 <= told <= 1 << 20 and not told & (told - 1) else 4096


def _virtual_ranges(segments: list[Segment], bits: int) -> list[VirtualRange]:
    """What p_vaddr says. Writers that do not know it put 0, -1 or the physical address there."""
    top = (1 << bits) - 1
    return [
        VirtualRange(s.vaddr, s.memsz, s.paddr)
        for s in segments
        if s.vaddr not in (0, top, s.paddr) and s.vaddr + s.memsz - 1 <= top
    ]


@register_format("elf", sniff=lambda head: elf_type(head) == ET_CORE, order=10)
def probe(source: Source) -> Dump | None:
    """An ELF core file becomes an ElfDump."""
    return ElfDump(source)
