"""The headers of kdump-compressed files, in all their layouts.

``struct disk_dump_header`` and ``kdump_sub_header``: makedumpfile diskdump_mod.h
and crash diskdump.h. Both hold longs, so there are a 64-bit layout, a 32-bit one
as i386 aligns it (u64 at 4 bytes), and one as all other 32-bit CPUs do, each in
both byte orders. Nothing declares which: what makes sense is.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from kcrash.dump.base import Utsname
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MIN_BLOCK, MAX_BLOCK = 1024, 1 << 20
MAX_VERSION = 64  # written so far: 0 to 6
MAX_SUB_BLOCKS = 1 << 16
MAX_CPUS = 1 << 20
UTS_LENGTH = 65
UTS_OFFSET = 12
HEADER_BYTES = 512

# From the timeval on: sec, usec, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr,
# total_ram, device, written blocks, current_cpu, nr_cpus.
_TAIL64 = (408, "qqIiiIIIIIIi")
_TAIL32 = (404, "iiIiiIIIIIIi")


class Header(NamedTuple):
    """``struct disk_dump_header``; ``order`` is struct's "<" or ">", ``time`` seconds since 1970."""

    signature: bytes
    bits: int
    order: str
    version: int
    utsname: Utsname
    time: float | None
    status: int
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    max_mapnr: int
    current_cpu: int
    nr_cpus: int | None


class SubHeader(NamedTuple):
    """``struct kdump_sub_header``; None or 0 where its version lacks the member."""

    phys_base: int | None = None
    dump_level: int | None = None
    split: bool = False
    start_pfn: int = 0
    end_pfn: int = 0
    offset_vmcoreinfo: int = 0
    size_vmcoreinfo: int = 0
    offset_note: int = 0
    size_note: int = 0
    offset_eraseinfo: int = 0
    size_eraseinfo: int = 0
    max_mapnr: int = 0


def read_header(source: Source) -> Header:
    """The header in whichever layout makes sense. Raises BadFormat."""
    head = source.peek(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise BadFormat(source.path, "ends within its kdump header", len(head))
    wrong = ""
    for bits in (64, 32):
        for order in "<>":
            header = _decode(head, bits, order)
            problem = _problem(header)
            if not problem:
                return _checked(source, header)
            wrong = wrong or problem
    raise BadFormat(source.path, f"kdump header makes no sense: {wrong}", (_TAIL64[0] + 16))


def _decode(head: bytes, bits: int, order: str) -> Header:
    at, form = _TAIL64 if bits == 64 else _TAIL32
    sec, usec, status, block, sub, bitmaps, mapnr, _, _, _, cpu, cpus = Struct(order + form).unpack_from(
        head, at
    )
    return Header(
        signature=head[:8],
        bits=bits,
        order=order,
        version=Struct(order + "i").unpack_from(head, 8)[0],
        utsname=decode_utsname(head),
        time=sec + usec / 1e6 if sec > 0 and 0 <= usec < 1_000_000 else None,
        status=status,
        block_size=block,
        sub_hdr_size=sub,
        bitmap_blocks=bitmaps,
        max_mapnr=mapnr,
        current_cpu=cpu,
        nr_cpus=cpus if 0 < cpus < MAX_CPUS else None,
    )


def decode_utsname(head: bytes, offset: int = UTS_OFFSET) -> Utsname:
    """``struct new_utsname`` at an offset."""
    texts = (head[at : at + UTS_LENGTH] for at in range(offset, offset + 6 * UTS_LENGTH, UTS_LENGTH))
    return Utsname(*(text.split(b"\0", 1)[0].decode("utf-8", "replace") for text in texts))


def _problem(header: Header) -> str:
    """What is absurd about a header read in some layout; "" if nothing."""
    block = header.block_size
    if not MIN_BLOCK <= block <= MAX_BLOCK or block & (block - 1):
        return f"block size {block}"
    if not 0 <= header.version <= MAX_VERSION:
        return f"version {header.version}"
    if not 0 < header.sub_hdr_size <= MAX_SUB_BLOCKS:
        return f"sub header of {header.sub_hdr_size} blocks"
    return "" if header.bitmap_blocks else "no bitmap"


def _checked(source: Source, header: Header) -> Header:
    """The header, whose bitmaps must lie in the file."""
    block = header.block_size
    end = (1 + header.sub_hdr_size + header.bitmap_blocks) * block
    if end > source.size:
        what = f"ends within its bitmaps, which {header.bitmap_blocks} blocks of {block} bytes should hold"
        raise BadFormat(source.path, what, source.size)
    return header


# -- sub header

# Of each layout: start, and the offset where each later version's members begin.
_START = {
    "64": ("QII2Q", 0),
    "packed": ("III2I", 0),
    "padded": ("III2I", 0),
}
_REGIONS = {  # offsets of (offset, size) of VMCOREINFO, notes, eraseinfo
    "64": (32, 48, 64),
    "packed": (20, 32, 44),
    "padded": (24, 40, 56),
}
_PFNS64 = {"64": 80, "packed": 56, "padded": 72}  # start_pfn_64, end_pfn_64, max_mapnr_64
_SINCE = (3, 4, 5)
SUB_BYTES = 104


def read_sub_header(source: Source, header: Header) -> SubHeader:
    """The sub header. Regions that do not lie in the file are taken as absent. Raises BadFormat."""
    offset = header.block_size
    data = source.read_at(offset, SUB_BYTES)
    if len(data) < SUB_BYTES:
        raise BadFormat(source.path, "ends within its sub header", offset + len(data))
    if header.signature != b"KDUMP   ":
        return SubHeader()  # diskdump proper has another one, of ELF notes
    if header.bits == 64:
        sub = _decode_sub(data, header, "64", source)[0]
    else:
        likely = ("packed", "padded") if _packs(header) else ("padded", "packed")
        # max() takes the first of equals: the likely one.
        sub = max((_decode_sub(data, header, name, source) for name in likely), key=lambda pair: pair[1])[0]
    if sub.split and not sub.start_pfn <= sub.end_pfn:
        raise BadFormat(source.path, f"part of page frames {sub.start_pfn:#x} to {sub.end_pfn:#x}", offset)
    return sub


def _packs(header: Header) -> bool:
    machine = header.utsname.machine
    return machine in ("x86", "x86_64") or (machine[:1] == "i" and machine.endswith("86"))


def _decode_sub(data: bytes, header: Header, layout: str, source: Source) -> tuple[SubHeader, int]:
    """The sub header read in ``layout``, and how well that fits."""
    form, at = _START[layout]
    phys_base, level, split, start, end = Struct(header.order + form).unpack_from(data, at)
    regions = list(_regions(data, header, layout))
    fits = [_inside(source, header, *region) for region in regions]
    usable = [region if fit else (0, 0) for region, fit in zip(regions, fits, strict=True)]
    if usable[0][1] and not _is_text(source.read_at(usable[0][0], 16)):
        usable[0], fits[0] = (0, 0), False
    mapnr = 0
    if header.version >= 6:
        first, last, mapnr = Struct(header.order + "3Q").unpack_from(data, _PFNS64[layout])
        start, end = (first, last) if last else (start, end)
    sub = SubHeader(
        phys_base=phys_base - (1 << 64) if phys_base >> 63 else phys_base,
        dump_level=level if header.version >= 1 else None,
        split=header.version >= 2 and split == 1,
        start_pfn=start,
        end_pfn=end,
        offset_vmcoreinfo=usable[0][0],
        size_vmcoreinfo=usable[0][1],
        offset_note=usable[1][0],
        size_note=usable[1][1],
        offset_eraseinfo=usable[2][0],
        size_eraseinfo=usable[2][1],
        max_mapnr=mapnr,
    )
    return sub, sum(fit * (1 + 2 * bool(region[1])) for fit, region in zip(fits, regions, strict=True))


def _regions(data: bytes, header: Header, layout: str) -> Iterator[tuple[int, int]]:
    """``(offset, size)`` of VMCOREINFO, notes, eraseinfo; zeros where the version has none."""
    form = Struct(header.order + ("QQ" if layout == "64" else "QI"))
    for at, since in zip(_REGIONS[layout], _SINCE, strict=True):
        yield form.unpack_from(data, at) if header.version >= since else (0, 0)


def _inside(source: Source, header: Header, offset: int, size: int) -> bool:
    """True for a region behind the headers that starts in the file, and for none at all."""
    if not size:
        return True
    return header.block_size <= offset < source.size and size <= 1 << 40


def _is_text(data: bytes) -> bool:
    return bool(data) and all(byte in (9, 10, 13) or 32 <= byte < 127 for byte in data.rstrip(b"\0"))
