"""sadump: dumps that the firmware of Fujitsu's servers writes, of x86 machines.

Nobody published the format: the structures are those that makedumpfile (sadump_mod.h) and crash
(sadump.h) agree on. Little-endian. A partition begins with a header that fills a block with a chain of
numbers, by which the block size is found. Behind it follow, in blocks: the dump header, a sub header with
the CPUs' state, two bitmaps (RAM; dumped) and the pages. A disk set spreads the pages over several
files, a media backup has a block more in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct, unpack_from
from typing import NamedTuple

from kcrash.dump.base import (
    EXCLUDED,
    NOT_IN_DUMP,
    PRESENT,
    TRUNCATED,
    Dump,
    DumpInfo,
    PhysicalRange,
    register_format,
)
from kcrash.dump.bitmap import Bitmap
from kcrash.dump.blocks import BlockDump
from kcrash.dump.source import Source
from kcrash.errors import BadFormat, FaultReason, MemoryFault

PART_MAGIC, DUMP_MAGIC = b"sadump\0\0", b"sadump\0\0"
MEDIA_BLOCK = 4096
PART_SIZE = 168
MAX_BLOCK = 1 << 20
MAX_CPUS = 1 << 14
MAX_RANGES = 1 << 20
EM_386, EM_X86_64 = 3, 62
LONG_MODE = 1 << 10  # EFER.LMA
MSB_FIRST = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

HEADER = Struct("<8sI4x16s13I4x4Q")
# struct sadump_smram_cpu_state: the save area of system management mode (Intel SDM 3C, 31.4.1.1).
STATE_SIZE, APIC_SIZE = 1024, 16
REGISTERS_AT = 796
REGISTERS = ("r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
             "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")  # fmt: skip
SEGMENTS_AT, SEGMENTS = 936, ("es", "cs", "ss", "ds", "fs", "gs")
SYSTEM_AT, SYSTEM = 984, ("rip", "efer", "rflags", "cr3", "cr0")
CR4_AT, IDT_HIGH_AT, IDT_LOW_AT = 576, 472, 660


class Part(NamedTuple):
    """One file. ``ids``: system, disk set and time, the same in all files of a set; ``disk``: number
    in the set, 0 if it is none; ``start``: offset of what follows its header block."""

    source: Source
    ids: tuple[bytes, ...]
    disk: int
    used: int
    block_size: int
    start: int


class Header(NamedTuple):
    """The dump header, in blocks of ``block_size`` bytes, and where the areas behind it lie."""

    version: int
    time: float | None
    sub: int
    bitmap: int
    dumped: int
    data: int
    max_mapnr: int
    nr_cpus: int


class _MsbFirst(Source):
    """A source with the bits of every byte turned around: sadump's bitmaps count from the highest."""

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.path, inner.size)
        self._inner = inner

    def read_at(self, offset: int, n: int) -> bytes:
        return self._inner.read_at(offset, n).translate(MSB_FIRST)


class SadumpDump(BlockDump):
    """Physical memory of an sadump, of which all files must be given."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = sorted(parts, key=lambda part: part.disk)
        first = self.parts[0]
        self.header = _read_header(first) if first.disk <= 1 else None
        super().__init__(first.source.path, _info(first, self.header), first.block_size)
        if self.header is not None:
            mirrored = _MsbFirst(first.source)
            self._ram = Bitmap(mirrored, self.header.bitmap, self.header.max_mapnr)
            self._dumped = Bitmap(mirrored, self.header.dumped, self.header.max_mapnr)

    def joined(self, others: Sequence[Dump]) -> Dump:
        parts = list(self.parts)
        for other in others:
            if not isinstance(other, SadumpDump) or not other.parts[0].disk or not parts[0].disk:
                raise BadFormat(other.path, f"does not belong to the sadump disk set {self.path}")
            parts += other.parts
        first = parts[0]
        for part in parts:
            if (part.ids, part.block_size) != (first.ids, first.block_size):
                raise BadFormat(part.source.path, f"is not of the same disk set as {first.source.path}")
        return SadumpDump(parts)

    def checked(self) -> Dump:
        disks = [part.disk for part in self.parts]
        count = _disks(self.parts[0]) if disks[0] == 1 else 0
        if disks == [0] or (disks == list(range(1, len(disks) + 1)) and len(disks) == count):
            return self
        told = f"{count} disks" if count else "disks"
        what = f"is of an sadump set of {told}, of which only {', '.join(map(str, disks))} was given"
        raise BadFormat(self.path, what)

    def state(self, number: int) -> int:
        if self._dumped.test(number):
            return TRUNCATED if self._place(number) is None else PRESENT
        return EXCLUDED if self._ram.test(number) else NOT_IN_DUMP

    def stored(self, number: int) -> bytes:
        place = self._place(number)
        data = place[0].read_at(place[1], self.block_size) if place else b""
        if len(data) < self.block_size:
            raise MemoryFault("physical", number << self._shift, FaultReason.TRUNCATED)
        return data

    def _place(self, number: int) -> tuple[Source, int] | None:
        """The file and the offset of a dumped block; None if they end before it."""
        assert self.header is not None
        at = self._dumped.rank(number) * self.block_size
        for part in self.parts:
            start = part.start if part.disk > 1 else self.header.data
            if at < part.used - start:
                held = start + at + self.block_size <= part.source.size
                return (part.source, start + at) if held else None
            at -= part.used - start
        return None

    def ranges(self) -> list[PhysicalRange]:
        runs = self._ram.runs(MAX_RANGES)
        if runs is None:
            raise BadFormat(self.path, f"the bitmap of RAM has more than {MAX_RANGES} runs")
        return [PhysicalRange(start << self._shift, end << self._shift) for start, end in runs]

    def close(self) -> None:
        for part in self.parts:
            part.source.close()


def _read_part(source: Source, at: int) -> Part:
    """The partition header at an offset. Raises BadFormat."""
    head = source.peek(at + PART_SIZE)[at:]
    if len(head) < PART_SIZE:
        raise BadFormat(source.path, "ends within its sadump header", at + len(head))
    disk, used = unpack_from("<I4xQ", head, 152)
    block_size = _block_size(source, at)
    return Part(
        source=source,
        ids=(head[88:104], head[104:120], head[136:152]),
        disk=0 if at else disk,
        used=used or source.size,
        block_size=block_size,
        start=at + block_size,
    )


def _block_size(source: Source, at: int) -> int:
    """Where the chain of numbers behind the header ends: each is 11 * (the one before + 7)."""
    words = source.read_at(at + PART_SIZE, MAX_BLOCK)
    numbers = unpack_from(f"<{len(words) // 4}I", words)
    count = 1
    while count < len(numbers) and numbers[count] == 11 * (numbers[count - 1] + 7) & 0xFFFFFFFF:
        count += 1
    size = PART_SIZE + 4 * count
    if size & (size - 1) or not 512 <= size <= MAX_BLOCK:
        raise BadFormat(source.path, f"sadump header whose chain of numbers makes blocks of {size} bytes", at)
    return size


def _disks(part: Part) -> int:
    """How many disks the set header of the first one says there are."""
    return int(unpack_from("<I", part.source.read_at(part.start + 4, 4).ljust(4, b"\0"))[0])


def _read_header(part: Part) -> Header:
    source, block, at = part.source, part.block_size, part.start
    if part.disk == 1:
        at += int.from_bytes(source.read_at(at, 4), "little") * block
    head = source.read_at(at, HEADER.size)
    if len(head) < HEADER.size or not head.startswith(DUMP_MAGIC):
        raise BadFormat(source.path, f"no sadump dump header but {head[:8].hex(' ') or 'the end'}", at)
    fields = HEADER.unpack(head)
    version, time = fields[1:3]
    block_size, _, sub, bitmap, dumped, mapnr = fields[5:11]
    if block_size != block:
        raise BadFormat(source.path, f"sadump blocks of {block_size} bytes, not {block}", at + 40)
    first = at + (1 + sub) * block
    data = first + (bitmap + dumped) * block
    if data > source.size or not dumped:
        raise BadFormat(source.path, "ends within its bitmaps", source.size)
    return Header(
        version=version,
        time=_time(time),
        sub=at + block,
        bitmap=first,
        dumped=first + bitmap * block,
        data=data,
        max_mapnr=min(fields[16] if version >= 1 else mapnr, bitmap * block * 8, dumped * block * 8),
        nr_cpus=fields[15],
    )


def _time(data: bytes) -> float | None:
    """Seconds since 1970 of an EFI_TIME (UEFI specification 8.3)."""
    from datetime import datetime, timedelta, timezone

    year, month, day, hour, minute, second, nano, zone = unpack_from("<H5BxIh", data)
    offset = timedelta(minutes=zone if -1440 < zone < 1440 else 0)
    try:
        at = datetime(year, month, day, hour, minute, second, nano // 1000, timezone.utc)
        return (at - offset).timestamp()
    except (ValueError, OverflowError):
        return None


def _info(part: Part, header: Header | None) -> DumpInfo:
    forms = {0: "single partition", 1: "disk set"}
    form = "media backup" if part.start > part.block_size else forms.get(part.disk, "disk set")
    cpus = _cpus(part, header) if header else []
    long_mode = any(cpu.get("efer", 0) & LONG_MODE for cpu in cpus)
    return DumpInfo(
        format="sadump",
        byte_order="little",
        word_bits=64 if long_mode or not cpus else 32,
        machine=(EM_X86_64 if long_mode else EM_386) if cpus else None,
        page_size=part.block_size,
        time=header.time if header else None,
        nr_cpus=header.nr_cpus if header else None,
        cpus=cpus,
        details={"form": form, "header_version": header.version if header else None},
    )


def _cpus(part: Part, header: Header) -> list[Mapping[str, int]]:
    """The states in the sub header: {u32 bytes of all, APIC state of each, state of each}."""
    count = header.nr_cpus
    if not 0 < count <= MAX_CPUS:
        return []
    area = part.source.read_at(header.sub, header.bitmap - header.sub)
    each = int.from_bytes(area[:4], "little") // count
    start = 4 + count * APIC_SIZE
    if each < STATE_SIZE or start + count * each > len(area):
        return []
    return [_registers(area[start + number * each :][:STATE_SIZE]) for number in range(count)]


def _registers(state: bytes) -> dict[str, int]:
    found = dict(zip(REGISTERS, unpack_from("<16Q", state, REGISTERS_AT), strict=True))
    found |= zip(SEGMENTS, unpack_from("<6I", state, SEGMENTS_AT), strict=True)
    found |= zip(SYSTEM, unpack_from("<5Q", state, SYSTEM_AT), strict=True)
    (high,) = unpack_from("<I", state, IDT_HIGH_AT)
    (low,) = unpack_from("<I", state, IDT_LOW_AT)
    found["idt_base"] = high << 32 | low
    (found["cr4"],) = unpack_from("<I", state, CR4_AT)
    return found


def _sniff(head: bytes) -> bool:
    return head.startswith(PART_MAGIC) or head[MEDIA_BLOCK : MEDIA_BLOCK + 8] == PART_MAGIC


@register_format("sadump", sniff=_sniff, order=40)
def probe(source: Source) -> Dump | None:
    """A file of an sadump becomes an SadumpDump."""
    if source.peek(8) == PART_MAGIC:
        return SadumpDump([_read_part(source, 0)])
    return SadumpDump([_read_part(source, MEDIA_BLOCK)])
