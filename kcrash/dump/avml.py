"""AVML's files, version 2: ranges of physical memory, packed by snappy.

AVML src/image.rs: LiME's header with another magic, the range as a snappy stream, then 8 bytes that
tell the stream's length. google/snappy framing_format.txt: chunks {u8 type, u24 length}, of at most
64 KiB unpacked, each with a checksum in front; a chunk unpacks by itself, which makes the file seekable.
"""

from __future__ import annotations

from struct import Struct

from kcrash.dump.base import Dump, DumpInfo, register_format
from kcrash.dump.codecs import SNAPPY, decompressor
from kcrash.dump.pieces import PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAGIC = b"AVML"
VERSION = 2
HEADER = Struct("<4sIQQ8x")
TRAILER_SIZE = 8
COMPRESSED, STORED, FIRST_SKIPPABLE = 0, 1, 0x80
CHECKSUM_SIZE = 4
MAX_CHUNK = 1 << 16  # bytes unpacked, as the framing format says


class AvmlDump(PieceDump):
    """Physical memory of an AVML file."""

    def unpack(self, data: bytes, size: int) -> bytes:
        return decompressor(SNAPPY)(data, size)


@register_format("avml", sniff=lambda head: head.startswith(MAGIC), order=50)
def probe(source: Source) -> Dump | None:
    """An AVML file of version 2 becomes an AvmlDump."""
    stretches, complete = _read_ranges(source)
    info = DumpInfo(
        format="AVML",
        byte_order="little",
        word_bits=64,
        incomplete=not complete or source.incomplete,
        details={"segments": len(stretches)},
    )
    return AvmlDump(info, [source], stretches)


def _read_ranges(source: Source) -> tuple[Stretches, bool]:
    """All chunks, and whether the file ends where the last range does. Raises BadFormat."""
    stretches, at = Stretches(), 0
    while len(head := source.read_at(at, HEADER.size)) == HEADER.size:
        magic, version, start, end = HEADER.unpack(head)
        if magic != MAGIC:
            raise BadFormat(source.path, f"no AVML header but {magic.hex(' ')}", at)
        if version != VERSION or end < start:
            raise BadFormat(source.path, f"AVML version {version}, range {start:#x} to {end:#x}", at)
        at = _read_stream(source, at + HEADER.size, start, end, stretches) + TRAILER_SIZE
    if not len(stretches):
        raise BadFormat(source.path, "AVML file without memory", min(at, source.size))
    return stretches, at == source.size


def _read_stream(source: Source, at: int, start: int, end: int, stretches: Stretches) -> int:
    """Add the chunks of a range; where its stream ends.

    ``end`` was the range's last byte in AVML before 0.3 and is the one behind it since.
    """
    while start < end and at < source.size:
        head = source.read_at(at, 4 + CHECKSUM_SIZE + 5)
        kind, length = head[0], int.from_bytes(head[1:4], "little")
        if kind in (COMPRESSED, STORED) and length > CHECKSUM_SIZE and len(head) > 4 + CHECKSUM_SIZE:
            stored = length - CHECKSUM_SIZE
            size = stored if kind == STORED else _unpacked_size(source, at, head[4 + CHECKSUM_SIZE :])
            packed = stored if kind == COMPRESSED else 0
            stretches.add(start, min(size, end - start + 1), at + 4 + CHECKSUM_SIZE, packed)
            stretches.check(source, at)
            start += size
        elif kind < FIRST_SKIPPABLE:
            raise BadFormat(source.path, f"snappy chunk of type {kind:#x}, {length} bytes", at)
        at += 4 + length
    return at


def _unpacked_size(source: Source, at: int, data: bytes) -> int:
    """The varint with which a block of snappy's starts."""
    size = 0
    for index, byte in enumerate(data):
        size |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            break
    if not 0 < size <= MAX_CHUNK:
        raise BadFormat(source.path, f"snappy chunk of {size} bytes unpacked", at)
    return size
