"""A writer of LKCD dumps: versions, word sizes, byte orders, compressions."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from io import BytesIO
from struct import pack
from typing import BinaryIO

from tests.build.memory_images import Ranges
from tests.build.pages import pages_of

NONE, RLE, GZIP = 0, 1, 2


def rle(page: bytes) -> bytes:
    """LKCD's run lengths."""

    def packed(match: re.Match[bytes]) -> bytes:
        text = match[0]
        return b"\0\0" if text == b"\0" else bytes([0, len(text), text[0]])

    # Zeros too come in runs; a lone one is 0 0.
    return re.sub(rb"(.)\1{3,254}|\0", packed, page, flags=re.DOTALL)


@dataclass
class Lkcd:
    """A dump to be written; ``order``: struct's "<" or ">"."""

    version: int = 8
    bits: int = 64
    order: str = "<"
    page_size: int = 4096
    compression: int = GZIP
    machine: str = "x86_64"
    memory_end: int = 1 << 30

    def header(self) -> bytes:
        """Up to the first page."""
        order, wide = self.order, self.bits == 64
        head = pack(order + "QIIIIQQQ", 0xA8190173618F23ED, self.version, 0, 4, self.page_size,
                    self.memory_end, 0, self.memory_end)  # fmt: skip
        head += pack(order + "II", 0, 0) if self.version == 1 else b""
        head += pack(order + "I", 0) + b"Oops".ljust(256, b"\0")
        if self.version < 8:
            head += bytes(4) if wide else b""
            head += pack(order + ("QQ" if wide else "II"), 1700000000, 250000)
        else:
            head += pack(order + "QQ", 1700000000, 250000)
        names = ("Linux", "host", "2.6.16-test", "#1 SMP", self.machine, "(none)")
        head += b"".join(name.encode().ljust(65, b"\0") for name in names)
        if self.version >= 8:
            head += pack(order + "Q", 0)
        elif self.version >= 2:
            head += bytes(2) + pack(order + ("Q" if wide else "I"), 0)
        if self.version >= 5:
            head += pack(order + "III", self.compression, 0, 0)
        return head + (pack(order + "Q", 65536) if self.version >= 9 else b"")

    def write(self, out: BinaryIO, ranges: Ranges, end: bool = True) -> None:
        """The file; ``end``: with the mark of the end."""
        out.write(self.header().ljust(65536, b"\0"))
        for physical, page in pages_of(ranges, self.page_size):
            stored, flags = self._stored(page)
            out.write(pack(self.order + "QII", physical, len(stored), flags) + stored)
        if end:
            out.write(pack(self.order + "QII", 0, 0, 4))

    def _stored(self, page: bytes) -> tuple[bytes, int]:
        kind = self.compression if self.version >= 5 else RLE
        packed = {NONE: page, RLE: rle(page) if kind == RLE else b"", GZIP: b""}[kind]
        if kind == GZIP:
            packed = zlib.compress(page, 1)
        return (packed, 2) if kind and len(packed) < len(page) else (page, 1)

    def to_bytes(self, ranges: Ranges, end: bool = True) -> bytes:
        """The file."""
        out = BytesIO()
        self.write(out, ranges, end)
        return out.getvalue()
