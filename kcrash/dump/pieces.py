"""Dumps that keep memory in stretches: physical ``[start, end)`` at one place of a file.

The common part of the containers that are a list of those: ELF, LiME, raw memory,
s390 stand-alone, VMware, Xen. A stretch lies in its file byte for byte, or is not
stored because it is zero, or is packed as a whole (AVML, s390's extended form).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kcrash.dump.base import (
    CORRUPT,
    NOT_IN_DUMP,
    PRESENT,
    TRUNCATED,
    Dump,
    DumpInfo,
    PhysicalRange,
    check_size,
    merge_ranges,
)
from kcrash.dump.codecs import CorruptPage
from kcrash.dump.intervals import resolve
from kcrash.dump.source import Source
from kcrash.errors import BadFormat, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.dump.base import Pages

ZERO_FILL = -1
TOP = (1 << 64) - 1
MAX_OFFSET = TOP >> 2  # kept so that an offset plus a stretch's length fits 63 bits
MAX_RUN = 1 << 24  # bytes read at once by read_pages()
MIN_LIMIT = 1 << 20  # stretches that any file may have
UNPACKED_BYTES = 1 << 26  # of packed stretches, kept
STATES = {
    FaultReason.NOT_IN_DUMP: NOT_IN_DUMP,
    FaultReason.TRUNCATED: TRUNCATED,
    FaultReason.CORRUPT: CORRUPT,
}


class Stretches:
    """What a container says of its memory, in the order of preference where stretches overlap."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.ends = array("Q")
        self.offsets = array("q")
        self.stored = array("Q")
        self.sources = array("H")

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, start: int, size: int, offset: int, stored: int = 0, source: int = 0) -> None:
        """``size`` bytes from physical ``start`` on lie at ``offset`` of file number ``source``.

        ``offset`` ZERO_FILL: they are zero. ``stored``: if packed, how many bytes they are in the file.
        What goes beyond the last address is left out.
        """
        end = min(start + size, TOP)
        if 0 <= start < end and offset <= MAX_OFFSET:
            self.starts.append(start)
            self.ends.append(end)
            self.offsets.append(offset)
            self.stored.append(stored)
            self.sources.append(source)

    def check(self, source: Source, at: int) -> None:
        """Raises BadFormat if a file of this size cannot have that many on purpose."""
        if len(self) > max(MIN_LIMIT, source.size >> 10):
            raise BadFormat(source.path, "has absurdly many small stretches of memory", at)


class _Vectors(NamedTuple):
    """The pieces as arrays; ``offsets``: of each piece's first byte in its file, or ZERO_FILL."""

    starts: NDArray[np.uint64]
    ends: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    packed: NDArray[np.bool_]
    sources: NDArray[np.int64]
    sizes: NDArray[np.int64]  # of the files, by number


class _Located(NamedTuple):
    """Of each page: whether one piece has all of it byte for byte, whether it must be read by itself,
    its file and the offset there (or ZERO_FILL)."""

    whole: NDArray[np.bool_]
    single: NDArray[np.bool_]
    source: NDArray[np.int64]
    offset: NDArray[np.int64]


class PieceDump(Dump):
    """Physical memory in stretches of one or more files.

    A container whose stretches are packed overrides unpack().
    """

    def __init__(self, info: DumpInfo, sources: Sequence[Source], stretches: Stretches) -> None:
        super().__init__(sources[0].path, info)
        self.sources = list(sources)
        self._stretches = stretches
        self._pieces = resolve(stretches.starts, stretches.ends)
        self._starts, self._ends = self._pieces.starts, self._pieces.ends
        self._unpacked: dict[int, bytes] = {}
        self._unpacked_bytes = 0
        self._arrays: _Vectors | None = None

    def unpack(self, data: bytes, size: int) -> bytes:
        """The ``size`` bytes of a packed stretch from what is stored. Raises CorruptPage, MissingCodec."""
        raise NotImplementedError

    # -- some bytes

    def read(self, address: int, size: int) -> bytes:
        i = bisect_right(self._starts, address) - 1 if 0 <= address <= TOP else -1
        if i >= 0 and address + size <= self._ends[i] and size > 0:
            return self._read_piece(i, address, size)
        return b"".join(self._read_across(address, size))

    def _read_across(self, address: int, size: int) -> Iterator[bytes]:
        check_size(address, size)
        end = address + size
        while address < end:
            i = bisect_right(self._starts, address) - 1 if 0 <= address <= TOP else -1
            if i < 0 or address >= self._ends[i]:
                raise MemoryFault("physical", address, FaultReason.NOT_IN_DUMP)
            until = min(end, self._ends[i])
            yield self._read_piece(i, address, until - address)
            address = until

    def _read_piece(self, i: int, address: int, size: int) -> bytes:
        """``size`` bytes that lie in piece ``i``."""
        check_size(address, size)
        owner = self._pieces.owners[i]
        at, offset = address - self._stretches.starts[owner], self._stretches.offsets[owner]
        if offset == ZERO_FILL:
            return bytes(size)
        if self._stretches.stored[owner]:
            return self._whole(owner, address)[at : at + size]
        source = self.sources[self._stretches.sources[owner]]
        try:
            data = source.read_at(offset + at, size)
        except BadFormat as error:
            raise MemoryFault("physical", address, FaultReason.CORRUPT, str(error)) from error
        if len(data) < size:
            raise MemoryFault("physical", address + len(data), FaultReason.TRUNCATED)
        if source.incomplete and not source.has(offset + at, size):
            raise MemoryFault("physical", address, FaultReason.TRUNCATED)
        return data

    def _whole(self, owner: int, address: int) -> bytes:
        """A packed stretch, unpacked. Raises MemoryFault for ``address``, which lies in it."""
        found = self._unpacked.get(owner)
        if found is None:
            found = self._load(owner, address)
            self._unpacked_bytes += len(found)
            if self._unpacked_bytes > UNPACKED_BYTES:
                self._unpacked, self._unpacked_bytes = {}, len(found)
            self._unpacked[owner] = found
        return found

    def _load(self, owner: int, address: int) -> bytes:
        stretches = self._stretches
        stored, size = stretches.stored[owner], stretches.ends[owner] - stretches.starts[owner]
        try:
            data = self.sources[stretches.sources[owner]].read_at(stretches.offsets[owner], stored)
            if len(data) < stored:
                raise MemoryFault("physical", address, FaultReason.TRUNCATED)
            return self.unpack(data, size)
        except (CorruptPage, BadFormat) as error:
            raise MemoryFault("physical", address, FaultReason.CORRUPT, str(error)) from None

    # -- many pages

    @property
    def _vectors(self) -> _Vectors:
        if self._arrays is None:
            self._arrays = self._make_vectors()
        return self._arrays

    def _make_vectors(self) -> _Vectors:
        import numpy as np

        stretches, owners = self._stretches, np.array(self._pieces.owners, dtype=np.int64)
        starts = np.array(self._starts, dtype=np.uint64)
        offsets = np.array(stretches.offsets, dtype=np.int64)[owners]
        moved = (starts - np.array(stretches.starts, dtype=np.uint64)[owners]).astype(np.int64)
        return _Vectors(
            starts=starts,
            ends=np.array(self._ends, dtype=np.uint64),
            offsets=np.where(offsets == ZERO_FILL, ZERO_FILL, offsets + moved),
            packed=np.array(stretches.stored, dtype=np.uint64)[owners] > 0,
            sources=np.array(stretches.sources, dtype=np.int64)[owners],
            sizes=np.array([source.size for source in self.sources], dtype=np.int64),
        )

    def _locate(self, pfns: NDArray[np.uint64], page_size: int) -> _Located:
        import numpy as np

        v = self._vectors
        pfns, last = np.asarray(pfns, dtype=np.uint64), np.uint64(TOP // page_size)
        if not len(v.starts):
            nowhere = np.zeros(len(pfns), dtype=np.int64)
            return _Located(nowhere > 0, nowhere > 0, nowhere, nowhere)
        addresses = np.minimum(pfns, last) * np.uint64(page_size)
        piece = np.searchsorted(v.starts, addresses, side="right") - 1
        inside = (pfns <= last) & (piece >= 0) & (addresses < v.ends[piece])
        whole = inside & (v.ends[piece] - addresses >= page_size) & ~v.packed[piece]
        offsets = v.offsets[piece] + (addresses - v.starts[piece]).astype(np.int64)
        offsets[v.offsets[piece] == ZERO_FILL] = ZERO_FILL
        return _Located(whole, inside & ~whole, v.sources[piece], offsets)

    def _states(self, found: _Located, page_size: int) -> NDArray[np.uint8]:
        """Of the pages that are stored byte for byte."""
        import numpy as np

        states = np.where(found.whole, PRESENT, NOT_IN_DUMP).astype(np.uint8)
        stored = found.whole & (found.offset != ZERO_FILL)
        states[stored & (found.offset + page_size > self._vectors.sizes[found.source])] = TRUNCATED
        for number, source in enumerate(self.sources):
            if source.incomplete:
                rows = np.flatnonzero(stored & (found.source == number))
                held = [source.has(offset, page_size) for offset in found.offset[rows].tolist()]
                states[rows[~np.array(held, dtype=np.bool_)]] = TRUNCATED
        return states

    def page_states(self, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
        import numpy as np

        found = self._locate(pfns, page_size)
        states = self._states(found, page_size)
        for row in np.flatnonzero(found.single):
            states[row] = self._single(int(pfns[row]) * page_size, page_size)[0]
        return states

    def _single(self, address: int, size: int) -> tuple[int, bytes]:
        """State and bytes of a page that several pieces have, or a packed one."""
        try:
            return PRESENT, self.read(address, size)
        except MemoryFault as fault:
            return STATES[fault.reason], bytes(size)

    def read_pages(self, pfns: NDArray[np.uint64], page_size: int) -> Pages:
        import numpy as np

        data = np.zeros((len(pfns), page_size), dtype=np.uint8)
        found = self._locate(pfns, page_size)
        states = self._states(found, page_size)
        self._read_runs(np.flatnonzero((states == PRESENT) & (found.offset >= 0)), found, data, states)
        for row in np.flatnonzero(found.single):
            states[row], page = self._single(int(pfns[row]) * page_size, page_size)
            data[row] = np.frombuffer(page, dtype=np.uint8)
        return data, states

    def _read_runs(
        self, rows: NDArray[np.int64], found: _Located, data: NDArray[np.uint8], states: NDArray[np.uint8]
    ) -> None:
        """Read the pages of ``rows``; those next to each other both in ``data`` and in the file at once."""
        import numpy as np

        page_size = data.shape[1]
        broken = (np.diff(rows) != 1) | (np.diff(found.offset[rows]) != page_size)
        broken |= np.diff(found.source[rows]) != 0
        most = max(MAX_RUN // page_size, 1)
        for run in np.split(rows, np.flatnonzero(broken) + 1):
            for at in range(0, len(run), most):
                first, last = int(run[at]), int(run[min(at + most, len(run)) - 1]) + 1
                source = self.sources[int(found.source[first])]
                got = source.read_into(int(found.offset[first]), data[first:last].reshape(-1).data)
                short = first + got // page_size
                states[short:last] = TRUNCATED
                data[short:last] = 0

    def ranges(self) -> list[PhysicalRange]:
        return merge_ranges(zip(self._starts, self._ends, strict=True))

    def data_ranges(self) -> list[PhysicalRange]:
        return merge_ranges(self._stored_pieces())

    def _stored_pieces(self) -> Iterator[tuple[int, int]]:
        """Of the pieces that are not zero-filled, what lies before the end of their file."""
        stretches = self._stretches
        for start, end, owner in zip(self._starts, self._ends, self._pieces.owners, strict=True):
            offset = stretches.offsets[owner]
            if offset == ZERO_FILL:
                continue
            if not stretches.stored[owner]:
                size = self.sources[stretches.sources[owner]].size
                end = min(end, stretches.starts[owner] + max(size - offset, 0))
            if start < end:
                yield start, end

    def close(self) -> None:
        for source in self.sources:
            source.close()
