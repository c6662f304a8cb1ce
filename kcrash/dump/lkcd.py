"""LKCD's dumps, of kernels 2.2 to 2.6, and those that zgetdump still writes.

LKCD's dump.h (crash has it as lkcd_dump_v1.h to lkcd_dump_v8.h): a header whose layout follows its
version and the machine's word size, then pages in any order, each behind {u64 address, u32 size,
u32 flags}. In the byte order of the machine. Nothing lists the pages: the file is read through once.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import (
    NOT_IN_DUMP,
    PRESENT,
    TRUNCATED,
    Dump,
    DumpInfo,
    PhysicalRange,
    Utsname,
    register_format,
)
from kcrash.dump.blocks import BlockDump, BlockIndex
from kcrash.dump.codecs import ZLIB, CorruptPage, decompressor
from kcrash.dump.kdump_header import UTS_LENGTH, decode_utsname
from kcrash.dump.source import Source
from kcrash.errors import BadFormat, FaultReason, MemoryFault

MAGIC = 0xA8190173618F23ED
MAGICS = {MAGIC.to_bytes(8, "little"): "<", MAGIC.to_bytes(8, "big"): ">"}
HEADER_BYTES = 1024
MCLX = 0xC0000000  # bits of the version: Mission Critical Linux's variants
FIRST_PAGE = 65536
RAW_PAGE, COMPRESSED_PAGE, END_PAGE = 1, 2, 4
NONE, RLE, GZIP = 0, 1, 2
COMPRESSION = {NONE: "none", RLE: "rle", GZIP: "gzip"}
MAX_PAGE = 1 << 16
PAGE_HEADER = 16
BUFFER = 1 << 20


class Header(NamedTuple):
    """What is needed of ``struct _dump_header``; ``time``: seconds since 1970, or None."""

    order: str
    bits: int
    version: int
    page_size: int
    memory_end: int
    time: float | None
    panic: str
    utsname: Utsname
    compression: int
    first_page: int


# By the first version that has it, (word size, offset of the panic string, of the time, of utsname, of
# dh_dump_compress). The compression is always RLE before version 5.
_LAYOUTS = (
    (8, ((64, 52, 308, 324, 722),)),
    (2, ((32, 52, 308, 316, 712), (64, 52, 312, 328, 728))),
    (1, ((32, 60, 316, 324, 0), (64, 60, 320, 336, 0))),
)
BUFFER_SIZE_AT = 734  # dh_dump_buffer_size, since version 9


def read_header(source: Source) -> Header:
    """The header in whichever layout makes sense. Raises BadFormat."""
    head = source.peek(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise BadFormat(source.path, "ends within its LKCD header", len(head))
    order = MAGICS[head[:8]]
    version, _, _, page_size = Struct(order + "4I").unpack_from(head, 8)
    version &= ~MCLX
    layouts = next((layouts for since, layouts in _LAYOUTS if version >= since), None)
    if layouts is None or version > 10:
        raise BadFormat(source.path, f"LKCD dump of unknown version {version}", 8)
    if not 1024 <= page_size <= MAX_PAGE or page_size & (page_size - 1):
        raise BadFormat(source.path, f"LKCD dump with pages of {page_size} bytes", 20)
    fitting = [layout for layout in layouts if _sane(decode_utsname(head, layout[3]))]
    bits, panic, at, uts, compress = (fitting or layouts)[0]
    sec, usec = Struct(order + ("2Q" if bits == 64 else "2I")).unpack_from(head, at)
    word = Struct(order + "I")
    return Header(
        order=order,
        bits=_word_bits(bits, decode_utsname(head, uts).machine),
        version=version,
        page_size=page_size,
        memory_end=Struct(order + "Q").unpack_from(head, 40)[0],
        time=sec + usec / 1e6 if 0 < sec < 1 << 40 and usec < 1_000_000 else None,
        panic=head[panic : panic + 256].split(b"\0")[0].decode("latin-1"),
        utsname=decode_utsname(head, uts),
        compression=word.unpack_from(head, compress)[0] if version >= 5 else RLE,
        first_page=Struct(order + "Q").unpack_from(head, BUFFER_SIZE_AT)[0] if version >= 9 else FIRST_PAGE,
    )


def _sane(name: Utsname) -> bool:
    texts = (name.sysname, name.release, name.machine)
    return all(text.isprintable() and 0 < len(text) < UTS_LENGTH for text in texts)


def _word_bits(layout: int, machine: str) -> int:
    """Since version 8 one layout serves all machines."""
    return 32 if machine[:1] == "i" and machine.endswith("86") else layout


class LkcdDump(BlockDump):
    """Physical memory of an LKCD dump."""

    def __init__(self, source: Source, header: Header) -> None:
        self.source = source
        self.header = header
        self._page_header = Struct(header.order + "QII")
        self._index = BlockIndex()
        complete = self._scan()
        super().__init__(source.path, _info(source, header, complete), header.page_size)

    def _scan(self) -> bool:
        """Find all pages; whether the mark of the end was there."""
        source, unpack, index = self.source, self._page_header.unpack_from, self._index
        page_size, at, start, buffer = self.header.page_size, self.header.first_page, 0, b""
        while True:
            if not start <= at <= start + len(buffer) - PAGE_HEADER:
                start, buffer = at, source.read_at(at, BUFFER)
                if len(buffer) < PAGE_HEADER:
                    index.sort()
                    return False
                if source.progress is not None:
                    source.progress("reading the LKCD dump", at, source.size)
            address, size, flags = unpack(buffer, at - start)
            if flags & END_PAGE:
                index.sort()
                return True
            if not size or size > 2 * page_size:
                raise BadFormat(source.path, f"LKCD page of {size} bytes", at)
            if at + PAGE_HEADER + size <= source.size:
                index.add(address // page_size, at)
            at += PAGE_HEADER + size

    def state(self, number: int) -> int:
        if self._index.find(number) is not None:
            return PRESENT
        lost = self.info.incomplete and number << self._shift < self.header.memory_end
        return TRUNCATED if lost else NOT_IN_DUMP

    def stored(self, number: int) -> bytes:
        at = self._index.find(number)
        assert at is not None
        _, size, flags = self._page_header.unpack(self.source.read_at(at, PAGE_HEADER))
        data = self.source.read_at(at + PAGE_HEADER, size)
        if len(data) < size:
            raise MemoryFault("physical", number << self._shift, FaultReason.TRUNCATED)
        if flags & (RAW_PAGE | COMPRESSED_PAGE) == RAW_PAGE:
            if size != self.block_size:
                raise CorruptPage(f"stored page has {size} bytes, not {self.block_size}")
            return data
        if self.header.compression == RLE:
            return expand_rle(data, self.block_size)
        if self.header.compression == GZIP:
            return decompressor(ZLIB)(data, self.block_size)
        raise CorruptPage(f"page flags {flags:#x}, compression {self.header.compression}")

    def ranges(self) -> list[PhysicalRange]:
        return [PhysicalRange(a << self._shift, b << self._shift) for a, b in self._index.runs()]

    def close(self) -> None:
        self.source.close()


def expand_rle(data: bytes, size: int) -> bytes:
    """LKCD's run lengths: 0 n c is n times c, 0 0 is 0, all else itself. Raises CorruptPage."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) <= size:
        zero = data.find(b"\0", at)
        if zero < 0:
            zero = len(data)
        out += data[at:zero]
        at = zero
        if at >= len(data):
            break
        if at + 1 >= len(data) or (data[at + 1] and at + 2 >= len(data)):
            raise CorruptPage("RLE: ends within a run")
        out += data[at + 2 : at + 3] * data[at + 1] if data[at + 1] else b"\0"
        at += 3 if data[at + 1] else 2
    if len(out) != size:
        raise CorruptPage(f"RLE: decompresses to {len(out)} bytes, not {size}")
    return bytes(out)


def _info(source: Source, header: Header, complete: bool) -> DumpInfo:
    return DumpInfo(
        format="LKCD",
        byte_order="little" if header.order == "<" else "big",
        word_bits=header.bits,
        page_size=header.page_size,
        utsname=header.utsname,
        time=header.time,
        incomplete=not complete or source.incomplete,
        details={
            "header_version": header.version,
            "compression": COMPRESSION.get(header.compression, str(header.compression)),
            "panic": header.panic,
        },
    )


@register_format("lkcd", sniff=lambda head: head[:8] in MAGICS, order=40)
def probe(source: Source) -> Dump | None:
    """An LKCD dump becomes an LkcdDump."""
    return LkcdDump(source, read_header(source))
