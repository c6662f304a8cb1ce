"""kdump-compressed files (diskdump): makedumpfile's and QEMU's own form.

makedumpfile IMPLEMENTATION and diskdump_mod.h; QEMU include/system/dump.h. In
blocks of header.block_size bytes: header, sub header (1 .. sub_hdr_size),
two bitmaps of a bit a page frame (RAM; dumped), then a page descriptor for each
set bit of the second, then page data. Neither class nor byte order is declared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from kcrash.dump.base import (
    EXCLUDED,
    NOT_IN_DUMP,
    PRESENT,
    Dump,
    DumpInfo,
    PhysicalRange,
    Utsname,
    register_format,
)
from kcrash.dump.bitmap import Bitmap
from kcrash.dump.blocks import BlockDump
from kcrash.dump.codecs import CODEC_MASK, CODEC_NAMES, CorruptPage, decompressor
from kcrash.dump.kdump_header import Header, SubHeader, read_header, read_sub_header
from kcrash.dump.notes import VMCOREINFO, find_note, read_notes
from kcrash.dump.source import Source
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import BadFormat, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.dump.base import Pages

KDUMP_MAGICS = (b"KDUMP   ", b"DISKDUMP")
DESCRIPTOR_SIZE = 24
INCOMPLETE = 8  # header.status: DUMP_DH_COMPRESSED_INCOMPLETE
EXCLUDED_VMEMMAP = 0x10
DESCRIPTORS_KEPT = 64  # a block
DESCRIPTOR_BLOCKS = 4096
MAX_TEXT = 1 << 24  # bytes of VMCOREINFO or eraseinfo
MAX_RANGES = 1 << 20
TAIL = 4096  # descriptors looked at to tell whether the file was cut


class Descriptor(NamedTuple):
    """``struct page_desc``: where a page's data lies in its file, stored bytes, codec flag."""

    offset: int
    size: int
    flags: int


class Part:
    """One file of a dump, which holds the page frames ``[start, end)``.

    A whole dump is one part; makedumpfile --split makes several, each with its
    own bitmaps and descriptors.
    """

    def __init__(self, source: Source, header: Header, sub: SubHeader) -> None:
        self.source = source
        self.header = header
        self.sub = sub
        self.max_mapnr = min(sub.max_mapnr or header.max_mapnr, header.bitmap_blocks * header.block_size * 8)
        self.start, self.end = 0, self.max_mapnr
        if sub.split:
            self.start, self.end = min(sub.start_pfn, self.end), min(sub.end_pfn, self.end)
        bitmaps = (1 + header.sub_hdr_size) * header.block_size
        size = header.bitmap_blocks * header.block_size
        # A file with one bitmap only (old diskdump) has no room for two.
        half = size // 2 if self.max_mapnr <= size // 2 * 8 else 0
        self.ram = Bitmap(source, bitmaps, self.max_mapnr)
        self.dumped = Bitmap(source, bitmaps + half, self.max_mapnr)
        self.descriptors = bitmaps + size
        self._format = Struct(header.order + "QII8x")
        self._blocks: dict[int, bytes] = {}

    def descriptor(self, pfn: int) -> Descriptor | None:
        """The descriptor of a dumped page frame; None if the file ends before it."""
        # The bits before the slice may or may not be there; there are no descriptors for them.
        number = self.dumped.rank(pfn) - (self.dumped.rank(self.start) if self.start else 0)
        block, index = divmod(number, DESCRIPTORS_KEPT)
        data = self._blocks.get(block)
        if data is None:
            if len(self._blocks) >= DESCRIPTOR_BLOCKS:
                self._blocks.clear()
            size = DESCRIPTORS_KEPT * DESCRIPTOR_SIZE
            data = self._blocks[block] = self.source.read_at(self.descriptors + block * size, size)
        at = index * DESCRIPTOR_SIZE
        if at + DESCRIPTOR_SIZE > len(data):
            return None
        return Descriptor._make(self._format.unpack_from(data, at))

    def cut(self) -> bool:
        """True if the file seems to end before its last pages' data do.

        Looks at the last descriptors only.
        """
        count = self.dumped.rank(self.end) - self.dumped.rank(self.start)
        first = max(count - TAIL, 0)
        size = (count - first) * DESCRIPTOR_SIZE
        table = self.source.read_at(self.descriptors + first * DESCRIPTOR_SIZE, size)
        whole = table[: len(table) // DESCRIPTOR_SIZE * DESCRIPTOR_SIZE]
        limit = self.source.size
        return len(table) < size or any(
            not offset or offset + stored > limit for offset, stored, _ in self._format.iter_unpack(whole)
        )


class KdumpDump(BlockDump):
    """Physical memory of a kdump-compressed dump, in one or more parts."""

    def __init__(self, parts: Sequence[Part], cached_pages: int | None = None) -> None:
        self.parts = sorted(parts, key=lambda part: part.start)
        first = self.parts[0]
        super().__init__(first.source.path, _info(self.parts), first.header.block_size, cached_pages)
        self.max_mapnr = first.max_mapnr
        self._starts = [part.start for part in self.parts]
        self._ranges: list[PhysicalRange] | None = None
        self._cut: bool | None = None

    def joined(self, others: Sequence[Dump]) -> Dump:
        parts = list(self.parts)
        for other in others:
            if not isinstance(other, KdumpDump):
                raise BadFormat(other.path, f"does not belong to the split dump {self.path}")
            parts += other.parts
        _check_split(parts)
        return KdumpDump(parts)

    # -- one page

    def state(self, number: int) -> int:
        return self._find(number)[0]

    def stored(self, number: int) -> bytes:
        part = self.part_of(number)
        descriptor = part.descriptor(number) if part else None
        if part is None or descriptor is None or not descriptor.offset:
            raise MemoryFault("physical", number << self._shift, FaultReason.TRUNCATED, "no page descriptor")
        self.check(descriptor.size, descriptor.flags)
        data = part.source.read_at(descriptor.offset, descriptor.size)
        if len(data) < descriptor.size or (part.source.incomplete and not part.source.has(*descriptor[:2])):
            raise MemoryFault("physical", number << self._shift, FaultReason.TRUNCATED)
        return self.unpack(data, descriptor.flags)

    def check(self, size: int, flags: int) -> None:
        """Raises CorruptPage if a descriptor's size or flags make no sense."""
        codec = flags & CODEC_MASK
        if not 0 < size <= 2 * self.block_size or (not codec and size != self.block_size):
            raise CorruptPage(f"page descriptor says {size} bytes")
        if codec not in CODEC_NAMES:
            raise CorruptPage(f"page descriptor says unknown compression {codec:#x}")

    def unpack(self, data: bytes, flags: int) -> bytes:
        """A page from its stored form. Raises CorruptPage, MissingCodec."""
        codec = flags & CODEC_MASK
        if codec:
            return decompressor(codec)(data, self.block_size)
        if len(data) != self.block_size:
            raise CorruptPage(f"stored page has {len(data)} bytes, not {self.block_size}")
        return data

    def part_of(self, pfn: int) -> Part | None:
        """The part whose slice holds a page frame."""
        part = self.parts[max(bisect_right(self._starts, pfn) - 1, 0)]
        return part if part.start <= pfn < part.end else None

    def _find(self, pfn: int) -> tuple[int, Part | None]:
        """PRESENT and the part that has the page, or why none has."""
        part = self.part_of(pfn)
        if part is not None and part.dumped.test(pfn):
            return PRESENT, part
        if not self.parts[0].ram.test(pfn):
            return NOT_IN_DUMP, None
        # In a slice whose file was not given: the page may exist, but not here.
        return (EXCLUDED if part is not None else NOT_IN_DUMP), None

    # -- many pages

    @property
    def cut(self) -> bool:
        """As Dump.cut: some present page may lack its data, descriptors must be looked at."""
        if self._cut is None:
            self._cut = self.info.incomplete or bool(self.missing) or any(part.cut() for part in self.parts)
        return self._cut

    @property
    def missing(self) -> str:
        """Parts of a split set: the page frames that no part given has."""
        if not self.parts[0].sub.split:
            return ""
        bounds = [0, *(end for part in self.parts for end in (part.start, part.end)), self.max_mapnr]
        gaps = [
            f"{start:#x} to {end:#x}"
            for start, end in zip(bounds[::2], bounds[1::2], strict=True)
            if start < end
        ]
        return f"parts of the split set with page frames {', '.join(gaps)} were not given" if gaps else ""

    def page_states(self, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
        from kcrash.dump._kdump_bulk import page_states

        return page_states(self, pfns, page_size)

    def read_pages(self, pfns: NDArray[np.uint64], page_size: int) -> Pages:
        from kcrash.dump._kdump_bulk import read_pages

        return read_pages(self, pfns, page_size)

    def ranges(self) -> list[PhysicalRange]:
        if self._ranges is None:
            runs = self.parts[0].ram.runs(MAX_RANGES)
            if runs is None:
                raise BadFormat(self.path, f"the bitmap of RAM has more than {MAX_RANGES} runs")
            self._ranges = [PhysicalRange(start << self._shift, end << self._shift) for start, end in runs]
        return self._ranges

    def close(self) -> None:
        for part in self.parts:
            part.source.close()


def _info(parts: Sequence[Part]) -> DumpInfo:
    part = parts[0]
    header, sub, source = part.header, part.sub, part.source
    order = "little" if header.order == "<" else "big"
    notes = read_notes(source, sub.offset_note, sub.size_note, order) if sub.size_note else []
    text = source.read_at(sub.offset_vmcoreinfo, min(sub.size_vmcoreinfo, MAX_TEXT)).rstrip(b"\0")
    vmcoreinfo = text or find_note(notes, VMCOREINFO)
    told = parse_vmcoreinfo(vmcoreinfo or b"")
    return DumpInfo(
        format="kdump" if header.signature == KDUMP_MAGICS[0] else "diskdump",
        byte_order=order,
        word_bits=header.bits,
        page_size=header.block_size,
        notes=notes,
        vmcoreinfo=vmcoreinfo,
        utsname=_utsname(header.utsname, told.osrelease),
        # QEMU reads this decimal number as a hexadecimal one for the sub header
        # (dump/dump.c, vmcoreinfo_update_phys_base()).
        phys_base=told.numbers.get("phys_base", sub.phys_base),
        dump_level=sub.dump_level,
        time=header.time,
        nr_cpus=header.nr_cpus,
        incomplete=any(p.header.status & INCOMPLETE or p.source.incomplete for p in parts),
        eraseinfo=source.read_at(sub.offset_eraseinfo, min(sub.size_eraseinfo, MAX_TEXT)) or None,
        details=_details(parts),
    )


def _utsname(said: Utsname, release: str | None) -> Utsname:
    """The header's; QEMU leaves all but the machine out."""
    return said if said.release or not release else replace(said, sysname="Linux", release=release)


def _details(parts: Sequence[Part]) -> dict[str, object]:
    header, sub = parts[0].header, parts[0].sub
    return {
        "header_version": header.version,
        "compression": CODEC_NAMES.get(header.status & CODEC_MASK, "several"),
        "status": header.status,
        "max_mapnr": parts[0].max_mapnr,
        "current_cpu": header.current_cpu,
        "excluded_vmemmap": bool(header.status & EXCLUDED_VMEMMAP),
        "split": [(part.start, part.end) for part in parts] if sub.split else [],
    }


def _check_split(parts: Sequence[Part]) -> None:
    """Raises BadFormat if these are not parts of one dump."""
    first = parts[0]
    ordered = sorted(parts, key=lambda part: part.start)
    for part in parts:
        if not part.sub.split:
            raise BadFormat(part.source.path, "is no part of a split dump, and other dumps were given too")
        same = (part.header.block_size, part.max_mapnr, part.header.time, part.header.utsname)
        if same != (first.header.block_size, first.max_mapnr, first.header.time, first.header.utsname):
            raise BadFormat(part.source.path, f"is not of the same dump as {first.source.path}")
    for left, right in pairwise(ordered):
        if right.start < left.end:
            what = f"holds page frames from {right.start:#x}, which {left.source.path} holds too"
            raise BadFormat(right.source.path, what)


@register_format("kdump", sniff=lambda head: head.startswith(KDUMP_MAGICS), order=20)
def probe(source: Source) -> Dump | None:
    """A kdump-compressed or diskdump file becomes a KdumpDump."""
    header = read_header(source)
    return KdumpDump([Part(source, header, read_sub_header(source, header))])
