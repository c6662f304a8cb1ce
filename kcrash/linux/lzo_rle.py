"""LZO1X with runs of zeros, "lzo-rle": what zram compresses with unless told otherwise.

Format: Linux Documentation/staging/lzo.rst ("bitstream version 1"). Linux commit 5ee4014af99f
("lib/lzo: implement run-length encoding") in v5.1. Codec packages know version 0 only.
"""

from __future__ import annotations

from kcrash.errors import CorruptData

VERSIONED = 17  # first byte of a stream that says its version


def is_versioned(data: bytes) -> bool:
    """True if the stream starts with a version byte, which LZO1X proper cannot."""
    return len(data) >= 5 and data[0] == VERSIONED


class _Stream:
    """Input with a position, output that grows to ``limit`` at most."""

    def __init__(self, data: bytes, limit: int) -> None:
        self.data = data
        self.at = 0
        self.limit = limit
        self.out = bytearray()

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def literals(self, count: int) -> None:
        self.out += self.data[self.at : self.at + count]
        self.at += count
        if self.at > len(self.data) or len(self.out) > self.limit:
            raise CorruptData("LZO: literals run over an end")

    def copy(self, distance: int, length: int) -> None:
        """``length`` bytes again from ``distance`` back; they may overlap what is written."""
        start = len(self.out) - distance
        if start < 0 or len(self.out) + length > self.limit:
            raise CorruptData("LZO: a copy from outside the page")
        piece = self.out[start : start + length]
        if len(piece) < length:
            piece = (piece * (length // distance + 1))[:length]
        self.out += piece

    def length(self, bits: int, mask: int) -> int:
        """A length in the low bits, or 255 for each zero byte and the byte after them."""
        if bits:
            return bits
        extra = mask
        while not (value := self.byte()):
            extra += 255
            if extra > self.limit + 255:
                raise CorruptData("LZO: an absurd length")
        return extra + value


def decompress(data: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``data`` stands for. Raises CorruptData."""
    stream = _Stream(data, size)
    try:
        _decode(stream)
    except IndexError:
        raise CorruptData("LZO: the stream is cut") from None
    if len(stream.out) != size:
        raise CorruptData(f"LZO: decompresses to {len(stream.out)} bytes, not {size}")
    return bytes(stream.out)


def _decode(stream: _Stream) -> None:
    version = 0
    if is_versioned(stream.data):
        version, stream.at = stream.data[1], 2
    state = _first(stream)
    while (state := _instruction(stream, state, version)) >= 0:
        pass


def _first(stream: _Stream) -> int:
    """A first byte above 17 is a number of literals."""
    if stream.data[stream.at] <= VERSIONED:
        return 0
    count = stream.byte() - VERSIONED
    stream.literals(count)
    return min(count, 4)


def _instruction(stream: _Stream, state: int, version: int) -> int:
    """One instruction and the literals after it; the next state (how many those were), -1 at the end."""
    code = stream.byte()
    if code >= 64:
        distance = (stream.byte() << 3) + (code >> 2 & 7) + 1
        return _matched(stream, distance, (code >> 5) + 1, code & 3)
    if code >= 32:
        length = stream.length(code & 31, 31) + 2
        low = stream.byte() | stream.byte() << 8
        return _matched(stream, (low >> 2) + 1, length, low & 3)
    if code >= 16:
        return _far(stream, code, version)
    if not state:
        stream.literals(stream.length(code, 15) + 3)
        return 4
    distance = (code >> 2) + (stream.byte() << 2) + 1
    if state == 4:
        return _matched(stream, distance + 2048, 3, code & 3)
    return _matched(stream, distance, 2, code & 3)


def _far(stream: _Stream, code: int, version: int) -> int:
    """A copy from 16 KiB and further, a run of zeros, or the end."""
    here = stream.at
    if version and code & 8 and here + 2 < len(stream.data):
        low = stream.data[here] | stream.data[here + 1] << 8
        if low & 0xFFFC == 0xFFFC:
            return _zeros(stream, code, low)
    length = stream.length(code & 7, 7) + 2
    low = stream.byte() | stream.byte() << 8
    distance = 16384 + ((code & 8) << 11) + (low >> 2)
    if distance == 16384:
        return -1
    return _matched(stream, distance, length, low & 3)


def _zeros(stream: _Stream, code: int, low: int) -> int:
    stream.at += 2
    count = (stream.byte() << 3 | code & 7) + 4
    if len(stream.out) + count > stream.limit:
        raise CorruptData("LZO: zeros run over the end of the page")
    stream.out += bytes(count)
    stream.literals(low & 3)
    return low & 3


def _matched(stream: _Stream, distance: int, length: int, literals: int) -> int:
    stream.copy(distance, length)
    stream.literals(literals)
    return literals
