"""A writer of s390's stand-alone dumps, plain and extended."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from struct import pack, pack_into
from typing import BinaryIO

from tests.build.memory_images import Ranges
from tests.build.pages import is_zero

MIB = 1 << 20
MAGIC, EXTENDED = 0xA8190173618F23FD, 0xA8190173618F23FE
TOD = 0x7D91048BCA000000 + (1700000000 * 1_000_000 << 12)


def header(size: int, lowcores: tuple[int, ...] = (), magic: int = MAGIC, entry_size: int = 0) -> bytes:
    """The first page."""
    head = bytearray(4096)
    pack_into(">Q4IQQQI4xQQII", head, 0, magic, 2 if entry_size else 1, 4096, 4, 4096, size, 0, size,
              size // 4096, TOD, 0, 2, 0)  # fmt: skip
    pack_into(">IQ", head, 0x50, 2, size)
    pack_into(">HHBI", head, 0x5D, len(lowcores), len(lowcores), bool(entry_size), entry_size)
    pack_into(f">{len(lowcores)}I", head, 0x800, *lowcores)
    return bytes(head)


def end_mark() -> bytes:
    return b"DUMP_END" + pack(">Q", TOD)


def write_plain(out: BinaryIO, ranges: Ranges, size: int, lowcores: tuple[int, ...] = ()) -> None:
    """All memory as it is; what is in no range is zero."""
    out.write(header(size, lowcores))
    for start, data in ranges:
        out.seek(4096 + start)
        out.write(data)
    out.seek(4096 + size)
    out.write(end_mark())


def write_extended(
    out: BinaryIO, ranges: Ranges, size: int, lowcores: tuple[int, ...] = (), *, packed: bool = False
) -> None:
    """The megabytes that are not zero, each a segment; ``packed``: in entries of 256 KiB."""
    entry = MIB // 4
    size = -(-size // MIB) * MIB  # a machine has whole megabytes
    out.write(header(size, lowcores, EXTENDED, entry if packed else 0))
    segments = list(_megabytes(ranges))
    for number, (start, data) in enumerate(segments):
        stop = number + 1 == len(segments)
        body, offsets = _entries(data, entry) if packed else (data, [])
        head = pack(">3QII16xI", start, len(data), stop, len(body) // 4096 if packed else 0, 0, 0)
        head = head[:0x30] + pack(f">I{len(offsets)}I", len(offsets), *offsets)
        out.write(head.ljust(4096, b"\0") + body)
    out.write(end_mark())


def _megabytes(ranges: Ranges) -> Iterator[tuple[int, bytes]]:
    """Whole megabytes that are not all zero."""
    memory: dict[int, bytearray] = {}
    for start, data in ranges:
        at = start
        while at < start + len(data):
            until = min((at // MIB + 1) * MIB, start + len(data))
            piece = memory.setdefault(at // MIB, bytearray(MIB))
            piece[at % MIB : at % MIB + until - at] = data[at - start : until - start]
            at = until
    return ((number * MIB, bytes(data)) for number, data in sorted(memory.items()) if not is_zero(data))


def _entries(data: bytes, size: int) -> tuple[bytes, list[int]]:
    """Entries in whole blocks, and where each lies; every third is stored."""
    body, offsets = b"", []
    for number, at in enumerate(range(0, len(data), size)):
        plain = data[at : at + size]
        stored = number % 3 == 2
        offsets.append(len(body) // 4096 | (1 << 31 if stored else 0))
        entry = plain if stored else zlib.compress(plain, 1)
        body += entry + bytes(-len(entry) % 4096)
    return body, offsets


def lowcore(registers: Mapping[str, int]) -> bytes:
    """The area of a lowcore from 0x1200 on: gprs r0 to r15, psw_mask, psw_addr, cr0 to cr15."""
    area = bytearray(0x200)
    pack_into(">16Q", area, 0x80, *(registers.get(f"r{number}", 0) for number in range(16)))
    pack_into(">QQ", area, 0x100, registers.get("psw_mask", 0), registers.get("psw_addr", 0))
    pack_into(">16Q", area, 0x180, *(registers.get(f"cr{number}", 0) for number in range(16)))
    return bytes(area)
