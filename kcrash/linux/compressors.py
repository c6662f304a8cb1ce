"""Compressors of swapped-out pages, by the kernel's names (crypto/, drivers/block/zram/backend_*.c)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

from kcrash.dump.codecs import LZO, ZSTD, decompressor
from kcrash.errors import CorruptData, KcrashError
from kcrash.linux import lzo_rle, sw842

Decompress = Callable[[bytes, int], bytes]


class Packed(NamedTuple):
    """What is kept of a page of ``size`` bytes, and what makes the page of it: None if it is the page."""

    data: bytes
    size: int
    expand: Decompress | None = None

    def page(self) -> bytes:
        """The page. Needs nothing of a session: any thread may do it. Raises CorruptData."""
        return self.data if self.expand is None else self.expand(self.data, self.size)


# Reads a page that is known to be somewhere; what is wrong with it shows only then. Raises KcrashError.
Stored = Callable[[], Packed]


class UnknownCompressor(KcrashError):
    """A compressor that nothing here undoes."""

    def __init__(self, name: str) -> None:
        super().__init__(f"nothing decompresses pages of {name!r}")


def codec(name: str) -> Decompress:
    """``(data, size of the page) -> page`` of that name. Raises UnknownCompressor, MissingCodec."""
    made = _CODECS.get(name)
    if made is None:
        raise UnknownCompressor(name)
    return made()


def _lzo() -> Decompress:
    plain = decompressor(LZO)
    return lambda data, size: (lzo_rle.decompress if lzo_rle.is_versioned(data) else plain)(data, size)


def _lz4() -> Decompress:
    import cramjam

    def expand(data: bytes, size: int) -> bytes:
        out = bytearray(size)
        try:
            written = cramjam.lz4.decompress_block_into(data, out, output_len=size)
        except cramjam.DecompressionError as error:
            raise CorruptData(f"LZ4: {error}") from None
        if written != size:
            raise CorruptData(f"LZ4: decompresses to {written} bytes, not {size}")
        return bytes(out)

    return expand


def _deflate() -> Decompress:
    def expand(data: bytes, size: int) -> bytes:
        try:
            page = zlib.decompressobj(-15).decompress(data, size)
        except zlib.error as error:
            raise CorruptData(f"deflate: {error}") from None
        if len(page) != size:
            raise CorruptData(f"deflate: decompresses to {len(page)} bytes, not {size}")
        return page

    return expand


_CODECS: dict[str, Callable[[], Decompress]] = {
    "lzo": _lzo,
    "lzo-rle": _lzo,
    "lz4": _lz4,
    "lz4hc": _lz4,
    "zstd": lambda: decompressor(ZSTD),
    "deflate": _deflate,
    "842": lambda: sw842.decompress,
}
