"""A writer of kdump-compressed files: every header version, layout, byte order and codec."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import pack, pack_into

import cramjam
import zstandard
from lzallright import LZOCompressor

from kcrash.dump.base import Note
from tests.build.notes import note_bytes

ZLIB, LZO, SNAPPY, ZSTD = 1, 2, 4, 0x20
COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    ZLIB: lambda page: zlib.compress(page, 1),
    LZO: lambda page: bytes(LZOCompressor().compress(page)),
    SNAPPY: lambda page: bytes(cramjam.snappy.compress_raw(page)),
    ZSTD: lambda page: zstandard.ZstdCompressor(level=1).compress(page),
}
# Offsets in the sub header (makedumpfile diskdump_mod.h as compilers lay it out):
# dump_level, split, start_pfn, end_pfn, VMCOREINFO, note, eraseinfo, start_pfn_64.
SUB = {
    "64": (8, 12, 16, 24, 32, 48, 64, 80),
    "packed": (4, 8, 12, 16, 20, 32, 44, 56),
    "padded": (4, 8, 12, 16, 24, 40, 56, 72),
}


def bitmap(pfns: set[int], size: int) -> bytes:
    """A bit a page frame, least significant bit first."""
    out = bytearray(size)
    for pfn in pfns:
        out[pfn >> 3] |= 1 << (pfn & 7)
    return bytes(out)


@dataclass
class KdumpFile:
    """A dump to be written.

    ``pages``: what is dumped; ``excluded``: page frames of RAM that are not;
    ``codecs``: used in turn, page by page (0: stored); ``layout``: "64",
    "packed" or "padded".
    """

    pages: dict[int, bytes]
    excluded: set[int] = field(default_factory=set)
    max_mapnr: int = 0
    block_size: int = 4096
    layout: str = "64"
    order: str = "<"
    version: int = 6
    codecs: tuple[int, ...] = (ZLIB,)
    status: int = ZLIB
    signature: bytes = b"KDUMP   "
    machine: str = "x86_64"
    notes: list[Note] = field(default_factory=list)
    vmcoreinfo: bytes = b""
    eraseinfo: bytes = b""
    dump_level: int = 31
    phys_base: int = 0x1000000
    slice: tuple[int, int] | None = None
    whole_bitmap: bool = False  # in a slice, bitmap 2 also has the bits of the other slices
    one_bitmap: bool = False
    incomplete_from: int | None = None  # pages from that rank on have no data
    time: tuple[int, int] = (1700000000, 250000)

    @property
    def wide(self) -> bool:
        """True for the 64-bit layout."""
        return self.layout == "64"

    def to_bytes(self) -> bytes:
        """The file."""
        block = self.block_size
        self.max_mapnr = self.max_mapnr or max([*self.pages, *self.excluded, 0]) + 1
        half = -(-self.max_mapnr // 8)
        half += -half % block
        here = self.slice or (0, self.max_mapnr)
        mine = {pfn for pfn in self.pages if here[0] <= pfn < here[1]}
        dumped = bitmap(set(self.pages) if self.whole_bitmap else mine, half)
        ram = b"" if self.one_bitmap else bitmap(set(self.pages) | self.excluded, half)
        blobs = self._blobs()
        sub_blocks = -(-(104 + sum(map(len, blobs))) // block)
        out = self._header(sub_blocks, len(ram + dumped) // block).ljust(block, b"\0")
        out += (self._sub(blobs) + b"".join(blobs)).ljust(sub_blocks * block, b"\0") + ram + dumped
        return out + self._page_data(sorted(mine), len(out))

    def _blobs(self) -> list[bytes]:
        notes = note_bytes(self.notes, self.order) if self.version >= 4 else b""
        info = self.vmcoreinfo if self.version >= 3 else b""
        return [info, notes, self.eraseinfo if self.version >= 5 else b""]

    def _header(self, sub_blocks: int, bitmap_blocks: int) -> bytes:
        names = ("Linux", "host", "6.1.0-test", "#1 SMP", self.machine, "(none)")
        head = self.signature + pack(self.order + "i", self.version)
        head += b"".join(name.encode().ljust(65, b"\0") for name in names)
        head = head.ljust(408 if self.wide else 404, b"\0")
        head += pack(self.order + ("qq" if self.wide else "ii"), *self.time)
        old = min(self.max_mapnr, 0xFFFFFFFF)
        counts = (self.status, self.block_size, sub_blocks, bitmap_blocks, old, 0, 0, len(self.pages), 1, 4)
        return head + pack(self.order + "IiiIIIIIIi", *counts)

    def _sub(self, blobs: list[bytes]) -> bytes:
        level, split, start, end, info, note, erase, start64 = SUB[self.layout]
        word, order = "Q" if self.wide else "I", self.order
        sub = bytearray(104)
        pack_into(order + word, sub, 0, self.phys_base & ((1 << (64 if self.wide else 32)) - 1))
        if self.version >= 1:
            pack_into(order + "I", sub, level, self.dump_level)
        if self.version >= 2 and self.slice:
            pack_into(order + "I", sub, split, 1)
            pack_into(order + word, sub, start, self.slice[0])
            pack_into(order + word, sub, end, self.slice[1])
        at = self.block_size + 104
        for place, blob in zip((info, note, erase), blobs, strict=True):
            if blob:
                pack_into(order + "Q" + word, sub, place, at, len(blob))
            at += len(blob)
        if self.version >= 6:
            pack_into(order + "3Q", sub, start64, *(self.slice or (0, 0)), self.max_mapnr)
        return bytes(sub)

    def _page_data(self, pfns: list[int], base: int) -> bytes:
        """Descriptors, then data; zero pages share one copy, as makedumpfile's do."""
        at, table, data, zero = base + 24 * len(pfns), b"", [], 0
        for rank, pfn in enumerate(pfns):
            if self.incomplete_from is not None and rank >= self.incomplete_from:
                table += bytes(24)
                continue
            page = self.pages[pfn]
            if zero and not any(page):
                table += pack(self.order + "QIIQ", zero, self.block_size, 0, 0)
                continue
            stored, flags = self._stored(page, rank)
            if not any(page) and not flags:
                zero = at
            table += pack(self.order + "QIIQ", at, len(stored), flags, 0)
            data.append(stored)
            at += len(stored)
        return table + b"".join(data)

    def _stored(self, page: bytes, rank: int) -> tuple[bytes, int]:
        codec = self.codecs[rank % len(self.codecs)]
        if codec and any(page):
            packed = COMPRESS[codec](page)
            if len(packed) < len(page):
                return packed, codec
        return page, 0
