"""Writers of plain images of memory: LiME, AVML.

All writers of containers in this folder take ``Ranges``: physical address and bytes, ascending. The
bytes may be any buffer, so that a large dump can be converted out of a mapping of its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import pack
from typing import BinaryIO

import cramjam

Ranges = Iterable[tuple[int, "bytes | memoryview"]]
PIECE = 1 << 16


def write_lime(out: BinaryIO, ranges: Ranges, order: str = "<") -> None:
    """LiME, version 1."""
    for start, data in ranges:
        out.write(pack(order + "IIQQ8x", 0x4C694D45, 1, start, start + len(data) - 1))
        out.write(data)


def write_avml(out: BinaryIO, ranges: Ranges, inclusive: bool = False) -> None:
    """AVML, version 2; ``inclusive``: as before its release 0.3."""
    for start, data in ranges:
        out.write(pack("<4sIQQ8x", b"AVML", 2, start, start + len(data) - inclusive))
        size = 0
        for frame in _frames(data):
            size += len(frame)
            out.write(frame)
        out.write(pack("<Q", size))


def _frames(data: bytes | memoryview) -> Iterator[bytes]:
    """A snappy stream; what does not get smaller is stored. The checksums are wrong: nobody looks."""
    yield b"\xff\x06\0\0sNaPpY"
    for at in range(0, len(data), PIECE):
        piece = bytes(data[at : at + PIECE])
        packed = bytes(cramjam.snappy.compress_raw(piece))
        kind, body = (0, packed) if len(packed) < len(piece) else (1, piece)
        yield bytes([kind]) + pack("<I", len(body) + 4)[:3] + bytes(4) + body
