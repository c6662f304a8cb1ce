"""s390's stand-alone dumps: from a DASD or SCSI disk that zipl prepared, single volume.

s390-tools include/dump/s390_dump.h, zdump/dfi_s390.c. Big-endian. A header of a page, then all memory;
in the extended form only the megabytes that are not zero, in segments, packed by zlib if they like.
The CPUs' registers are where the machine stored them, in their lowcores (z/Architecture Principles of
Operation, "Store status"; kernel arch/s390/include/asm/lowcore.h).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import Dump, DumpInfo, Note, register_format
from kcrash.dump.codecs import ZLIB, decompressor
from kcrash.dump.pieces import ZERO_FILL, PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAGIC, MAGIC_EXTENDED = (0xA8190173618F23FD).to_bytes(8, "big"), (0xA8190173618F23FE).to_bytes(8, "big")
HEADER_SIZE = 4096
END_MARK = b"DUMP_END"
EM_S390 = 22
ARCH_BITS = {1: 32, 2: 64}
MAX_CPUS = 512
BLOCK = 4096  # bytes of a DASD's block, in which the extended form counts
TOD_EPOCH = 0x7D91048BCA000000  # 1970 on the time-of-day clock, whose bit 51 is a microsecond

SEGMENT = Struct(">3QII16xII")  # start, length, stop mark, blocks on disk, ..., entries, the first of them
ENTRIES_AT = 0x34
STORED = 1 << 31  # bit of an entry's offset: not packed

# Lowcore of 64-bit mode: registers stored by the machine.
LOWCORE = 0x1200
FPREGS, GPRS, PSW, PREFIX, FPC, TODPREG, TIMER, TODCMP, ACRS, CTRS = (
    0x000, 0x080, 0x100, 0x118, 0x11C, 0x124, 0x128, 0x130, 0x140, 0x180,
)  # fmt: skip
LOWCORE_SIZE = 0x200
NT_PRSTATUS, NT_FPREGSET = 1, 2
NT_TIMER, NT_TODCMP, NT_TODPREG, NT_CTRS, NT_PREFIX = 0x301, 0x302, 0x303, 0x304, 0x305
PRSTATUS_SIZE, PRSTATUS_PID, PRSTATUS_REGS = 336, 32, 112  # struct elf_prstatus of s390x


class Header(NamedTuple):
    """What is needed of ``struct df_s390_hdr``; sizes in bytes."""

    bits: int
    memory_size: int
    tod: int
    entry_size: int
    lowcores: tuple[int, ...]


class S390Dump(PieceDump):
    """Physical memory of a stand-alone dump."""

    def unpack(self, data: bytes, size: int) -> bytes:
        # Where a packed entry ends is told in blocks only.
        return decompressor(ZLIB)(data, size)


@register_format("s390", sniff=lambda head: head.startswith((MAGIC, MAGIC_EXTENDED)), order=40)
def probe(source: Source) -> Dump | None:
    """A stand-alone dump becomes an S390Dump."""
    header = _read_header(source)
    extended = source.peek(8) == MAGIC_EXTENDED
    stretches = Stretches()
    if extended:
        complete = _read_segments(source, header, stretches)
    else:
        stretches.add(0, header.memory_size, HEADER_SIZE)
        complete = source.read_at(HEADER_SIZE + header.memory_size, 8) == END_MARK
    dump = S390Dump(_info(source, header, complete, extended), [source], stretches)
    for number, lowcore in enumerate(header.lowcores):
        dump.info.notes += _notes(number, dump.try_read(lowcore + LOWCORE, LOWCORE_SIZE))
    return dump


def _read_header(source: Source) -> Header:
    head = source.peek(HEADER_SIZE)
    if len(head) < HEADER_SIZE:
        raise BadFormat(source.path, "ends within its s390 dump header", len(head))
    size, start = Struct(">QQ").unpack_from(head, 0x18)
    (arch,) = Struct(">I").unpack_from(head, 0x48)
    (count,) = Struct(">H").unpack_from(head, 0x5D)
    if arch not in ARCH_BITS:
        raise BadFormat(source.path, f"s390 dump of unknown architecture {arch}", 0x48)
    if head[0x5C]:
        raise BadFormat(source.path, "s390 dump over several volumes: copy it with zgetdump first", 0x5C)
    if start or not 0 < size < 1 << 56:
        raise BadFormat(source.path, f"s390 dump of memory from {start:#x}, {size:#x} bytes", 0x18)
    return Header(
        bits=ARCH_BITS[arch],
        memory_size=size,
        tod=Struct(">Q").unpack_from(head, 0x38)[0],
        entry_size=Struct(">I").unpack_from(head, 0x62)[0],
        lowcores=Struct(f">{min(count, MAX_CPUS)}I").unpack_from(head, 0x800),
    )


def _read_segments(source: Source, header: Header, stretches: Stretches) -> bool:
    """Add the segments of the extended form; whether the mark of the end follows them."""
    at, stop, end = HEADER_SIZE, 0, 0
    while not stop:
        head = source.read_at(at, HEADER_SIZE)
        if len(head) < HEADER_SIZE:
            break
        start, length, stop, stored, _, entries, _ = SEGMENT.unpack_from(head)
        if start + length > header.memory_size:
            raise BadFormat(source.path, f"segment of {length:#x} bytes at {start:#x}", at)
        at += HEADER_SIZE
        if stored:
            _add_entries(source, header, head, (start, length, at, stored * BLOCK, entries), stretches)
        else:
            stretches.add(start, length, at)
        stretches.check(source, at)
        at += stored * BLOCK or length
        end = start + length
    # What lies between segments is zero; behind the last one only if that is there.
    stretches.add(0, header.memory_size if stop else end, ZERO_FILL)
    return source.read_at(at, 8) == END_MARK


def _add_entries(
    source: Source, header: Header, head: bytes, segment: tuple[int, int, int, int, int], stretches: Stretches
) -> None:
    start, length, at, stored, count = segment
    size = header.entry_size
    if not 4096 <= size <= 1 << 26 or not 0 < count <= (HEADER_SIZE - ENTRIES_AT) // 4:
        raise BadFormat(source.path, f"segment of {count} entries of {size} bytes", at - HEADER_SIZE)
    offsets = Struct(f">{count}I").unpack_from(head, ENTRIES_AT)
    places = [(offset & ~STORED) * BLOCK for offset in offsets]
    for number, (offset, place) in enumerate(zip(offsets, places, strict=True)):
        end = places[number + 1] if number + 1 < count else stored
        here = min(size, length - number * size)
        if here <= 0 or place > stored:
            raise BadFormat(source.path, f"entry {number} of a segment lies outside of it", at - HEADER_SIZE)
        packed = 0 if offset & STORED else max(end - place, 1)
        stretches.add(start + number * size, here, at + place, packed)


def _info(source: Source, header: Header, complete: bool, extended: bool) -> DumpInfo:
    return DumpInfo(
        format="s390 extended" if extended else "s390",
        byte_order="big",
        word_bits=header.bits,
        machine=EM_S390,
        time=((header.tod - TOD_EPOCH) >> 12) / 1e6 if header.tod > TOD_EPOCH else None,
        nr_cpus=len(header.lowcores) or None,
        incomplete=not complete or source.incomplete,
        details={"lowcores": list(header.lowcores)},
    )


def _notes(cpu: int, lowcore: bytes | None) -> list[Note]:
    """The notes that the kernel would write of a CPU (arch/s390/kernel/crash_dump.c)."""
    if lowcore is None:
        return []
    prstatus = bytearray(PRSTATUS_SIZE)
    prstatus[PRSTATUS_PID : PRSTATUS_PID + 4] = (cpu + 1).to_bytes(4, "big")
    registers = lowcore[PSW : PSW + 16] + lowcore[GPRS : GPRS + 128] + lowcore[ACRS : ACRS + 64]
    prstatus[PRSTATUS_REGS : PRSTATUS_REGS + len(registers)] = registers
    prstatus[-8:-4] = (1).to_bytes(4, "big")  # pr_fpvalid
    floats = lowcore[FPC : FPC + 4] + bytes(4) + lowcore[FPREGS : FPREGS + 128]
    others = ((NT_TIMER, TIMER, 8), (NT_TODCMP, TODCMP, 8), (NT_TODPREG, TODPREG, 4), (NT_CTRS, CTRS, 128),
              (NT_PREFIX, PREFIX, 4))  # fmt: skip
    return [
        Note("CORE", NT_PRSTATUS, bytes(prstatus)),
        Note("CORE", NT_FPREGSET, floats),
        *(Note("LINUX", kind, lowcore[at : at + size]) for kind, at, size in others),
    ]
