"""Bitmaps that stay in the file: is a bit set, and how many are set before it.

Bits are numbered from the least significant bit of the first byte. The bitmap
is read in chunks as they are asked for. Counts are kept a chunk (a number for
each 32768 bits), made up to the highest chunk that was asked for: a machine of
1 TiB has 8192 of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.dump.source import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK = 4096  # bytes
CHUNK_BITS = CHUNK * 8
CHUNK_SHIFT = 15
GROUP = 256  # bytes of a chunk that share a count
GROUP_BITS = GROUP * 8
GROUP_SHIFT = 11
STRIDE = 256  # chunks read at once when counting
KEPT = 1024  # chunks kept, with their counts
BATCH = 4096  # chunks looked at at once by the functions for arrays: 16 MiB
WORTH_NUMPY = 32 << 20  # bytes to count from which importing numpy pays off
EMPTY, FULL = bytes(CHUNK), b"\xff" * CHUNK


class Bitmap:
    """``nbits`` bits at ``offset`` of a file. Bits that the file lacks are clear."""

    def __init__(self, source: Source, offset: int, nbits: int) -> None:
        self._source = source
        self._offset = offset
        self.nbits = nbits
        self._nbytes = (nbits + 7) // 8
        self.chunks = (self._nbytes + CHUNK - 1) // CHUNK
        self._before = [0]  # set bits before each chunk, as far as counted
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[bytes, list[int]]] = {}

    def _read(self, first: int, count: int) -> bytes:
        """``count`` whole chunks from ``first``; bits from nbits on are clear."""
        start = first * CHUNK
        size = min(count * CHUNK, self._nbytes - start)
        data = self._source.read_at(self._offset + start, size).ljust(size, b"\0")
        if start + size == self._nbytes and self.nbits % 8:
            data = data[:-1] + bytes([data[-1] & (1 << self.nbits % 8) - 1])
        return data.ljust(count * CHUNK, b"\0")

    def _chunk(self, number: int) -> tuple[bytes, list[int]]:
        """A chunk's bytes and the set bits in it before each of its groups."""
        found = self._kept.get(number)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            data = self._read(number, 1)
            found = self._kept[number] = (data, _group_counts(data))
        return found

    def test(self, bit: int) -> bool:
        """True if the bit is set; False beyond the end."""
        if not 0 <= bit < self.nbits:
            return False
        data, _ = self._chunk(bit >> CHUNK_SHIFT)
        return data[(bit & CHUNK_BITS - 1) >> 3] >> (bit & 7) & 1 == 1

    def rank(self, bit: int) -> int:
        """How many bits below ``bit`` are set."""
        bit = min(max(bit, 0), self.nbits)
        number, bit = bit >> CHUNK_SHIFT, bit & CHUNK_BITS - 1
        before = self._before_chunk(number)
        if not bit:  # also at the very end, where there is no chunk
            return before
        data, counts = self._chunk(number)
        group, at = bit >> GROUP_SHIFT, bit >> 3
        below = int.from_bytes(data[group * GROUP : at + 1], "little") & (1 << (bit & GROUP_BITS - 1)) - 1
        return before + counts[group] + below.bit_count()

    def _before_chunk(self, number: int) -> int:
        if number >= len(self._before):
            with self._lock:
                self._count_to(number)
        return self._before[number]

    def _count_to(self, number: int) -> None:
        before = self._before
        missing = (number - len(before) + 1) * CHUNK
        counts = _chunk_counts_numpy if "numpy" in sys.modules or missing > WORTH_NUMPY else _chunk_counts
        while len(before) <= number:
            first = len(before) - 1
            total = before[-1]
            for count in counts(self._read(first, min(STRIDE, number - first))):
                total += count
                before.append(total)

    # -- arrays

    def test_many(self, bits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """test() of each."""
        return self._many(bits, ranks=False)[0]

    def test_rank_many(self, bits: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """``(test(), rank())`` of each; rank() is 0 for bits that are not there."""
        return self._many(bits, ranks=True)

    def _many(self, bits: NDArray[np.int64], ranks: bool) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        import numpy as np

        is_set = np.zeros(len(bits), dtype=np.bool_)
        rank = np.zeros(len(bits) if ranks else 0, dtype=np.int64)
        rows = np.flatnonzero((bits >= 0) & (bits < self.nbits))
        wanted = np.zeros(self.chunks, dtype=np.bool_)
        wanted[bits[rows] >> CHUNK_SHIFT] = True
        numbers = np.flatnonzero(wanted)
        which = (np.cumsum(wanted) - 1)[bits[rows] >> CHUNK_SHIFT]
        for first, some in _batches(which, len(numbers)):
            index = which[some] - first
            words = self._gather(numbers[first : first + BATCH])
            inner = bits[rows[some]] & CHUNK_BITS - 1
            flat = index * CHUNK + (inner >> 3)
            is_set[rows[some]] = words.reshape(-1).view(np.uint8)[flat] >> (inner & 7).astype(np.uint8) & 1
            if ranks:
                rank[rows[some]] = self._ranks(words, numbers[first : first + BATCH], index, inner)
        return is_set, rank

    def _gather(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The chunks of these (ascending) numbers as little-endian words: shape (n, 512)."""
        import numpy as np

        out = np.empty((len(numbers), CHUNK), dtype=np.uint8)
        for start, end in _runs(numbers):
            data = self._read(int(numbers[start]), end - start)
            out[start:end] = np.frombuffer(data, dtype=np.uint8).reshape(-1, CHUNK)
        return out.view("<u8")

    def _ranks(
        self,
        words: NDArray[np.uint64],
        numbers: NDArray[np.int64],
        index: NDArray[np.int64],
        inner: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        import numpy as np

        self._before_chunk(int(numbers[-1]))
        before = np.array([self._before[number] for number in numbers.tolist()], dtype=np.int64)
        counts = popcount(words)
        ahead = np.cumsum(counts, axis=1, dtype=np.int64) - counts
        word, shift = inner >> 6, (inner & 63).astype(np.uint64)
        below = words[index, word] & (np.uint64(1) << shift) - np.uint64(1)
        ranks: NDArray[np.int64] = before[index] + ahead[index, word] + popcount(below).astype(np.int64)
        return ranks

    # -- runs of set bits

    def runs(self, limit: int) -> list[tuple[int, int]] | None:
        """``[start, end)`` of each run of set bits; None if there are more than ``limit``."""
        found: list[tuple[int, int]] = []
        for first in range(0, self.chunks, STRIDE):
            block = self._read(first, min(STRIDE, self.chunks - first))
            for at in range(0, len(block), CHUNK):
                base = first * CHUNK_BITS + at * 8
                for start, end in _runs_of_chunk(block[at : at + CHUNK]):
                    if found and found[-1][1] == base + start:
                        found[-1] = (found[-1][0], base + end)
                    else:
                        found.append((base + start, base + end))
                if len(found) > limit:
                    return None
        return found


def _group_counts(chunk: bytes) -> list[int]:
    total, counts = 0, []
    for at in range(0, CHUNK, GROUP):
        counts.append(total)
        total += int.from_bytes(chunk[at : at + GROUP], "little").bit_count()
    return counts


def _chunk_counts(block: bytes) -> Iterator[int]:
    """Set bits of each chunk. Most chunks of large machines are all clear or all set."""
    for at in range(0, len(block), CHUNK):
        chunk = block[at : at + CHUNK]
        if chunk == EMPTY:
            yield 0
        elif chunk == FULL:
            yield CHUNK_BITS
        else:
            yield int.from_bytes(chunk, "little").bit_count()


def _chunk_counts_numpy(block: bytes) -> Iterator[int]:
    import numpy as np

    words = np.frombuffer(block, dtype=np.uint64).reshape(-1, CHUNK // 8)
    return iter(popcount(words).sum(axis=1, dtype=np.int64).tolist())


def popcount(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Set bits of each word. numpy has it since 2.0; before, the sums by halves of Hacker's Delight 5-1."""
    import numpy as np

    if hasattr(np, "bitwise_count"):
        counted: NDArray[np.uint8] = np.bitwise_count(words)
    else:
        counted = _popcount_by_halves(words)
    return counted


def _popcount_by_halves(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    import numpy as np

    u = np.uint64
    words = words - (words >> u(1) & u(0x5555555555555555))
    words = (words & u(0x3333333333333333)) + (words >> u(2) & u(0x3333333333333333))
    words = words + (words >> u(4)) & u(0x0F0F0F0F0F0F0F0F)
    counted: NDArray[np.uint8] = (words * u(0x0101010101010101) >> u(56)).astype(np.uint8)
    return counted


def _batches(which: NDArray[np.int64], chunks: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """``(first chunk, rows that lie in the BATCH chunks from there)``."""
    import numpy as np

    if chunks <= BATCH:
        if chunks:
            yield 0, np.arange(len(which))
        return
    order = np.argsort(which // BATCH, kind="stable")
    firsts = range(0, chunks, BATCH)
    ends = np.searchsorted(which[order] // BATCH, np.arange(len(firsts)), side="right").tolist()
    for first, start, end in zip(firsts, [0, *ends], ends, strict=False):
        yield first, order[start:end]


def _runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Index ranges in which ascending numbers follow each other, at most STRIDE long."""
    import numpy as np

    ends = [*(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    start = 0
    for end in ends:
        while start < end:
            until = min(end, start + STRIDE)
            yield start, until
            start = until


def _runs_of_chunk(chunk: bytes) -> Iterator[tuple[int, int]]:
    """Runs of set bits in a chunk, by words; a run may be split at a word's end."""
    if chunk == EMPTY:
        return
    if chunk == FULL:
        yield 0, CHUNK_BITS
        return
    for at in range(0, CHUNK, 8):
        word = int.from_bytes(chunk[at : at + 8], "little")
        base = at * 8
        while word:
            low = (word & -word).bit_length() - 1
            word >>= low
            length = (~word & word + 1).bit_length() - 1
            yield base + low, base + low + length
            word >>= length
            base += low + length
