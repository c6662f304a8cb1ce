"""Dumps that keep memory in blocks of one size, each stored by itself.

The common part of kdump-compressed files, LKCD, sadump and QEMU's streams: reads of
any size from blocks, those used lately being kept.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.dump.base import (
    CORRUPT,
    EXCLUDED,
    NOT_IN_DUMP,
    PRESENT,
    TRUNCATED,
    Dump,
    DumpInfo,
    check_size,
)
from kcrash.dump.codecs import CorruptPage
from kcrash.errors import BadFormat, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.dump.base import Pages

CACHED_PAGES = 4096
CACHED_BYTES = 1 << 26

REASONS = {
    NOT_IN_DUMP: FaultReason.NOT_IN_DUMP,
    EXCLUDED: FaultReason.EXCLUDED,
    TRUNCATED: FaultReason.TRUNCATED,
    CORRUPT: FaultReason.CORRUPT,
}
STATES = {reason: state for state, reason in REASONS.items()}


class BlockDump(Dump):
    """Physical memory in blocks of ``block_size`` bytes, a power of two.

    ``cached_pages``: blocks that are kept unpacked; CACHED_PAGES or less if not given.
    """

    def __init__(self, path: str, info: DumpInfo, block_size: int, cached_pages: int | None = None) -> None:
        super().__init__(path, info)
        self.block_size = block_size
        self._shift = block_size.bit_length() - 1
        self._mask = block_size - 1
        # Two generations of blocks: a plain dictionary's speed, and what was used lately stays.
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        kept = min(CACHED_PAGES, CACHED_BYTES // block_size) if cached_pages is None else cached_pages
        self._generation = max(kept // 2, 1)

    @abstractmethod
    def state(self, number: int) -> int:
        """PRESENT if block ``number`` is in the file, or why not, without reading its data."""

    @abstractmethod
    def stored(self, number: int) -> bytes:
        """A present block. Raises CorruptPage, BadFormat; MemoryFault (its address is not looked at)."""

    # -- some bytes

    def read(self, address: int, size: int) -> bytes:
        page = self._young.get(address >> self._shift)
        if page is None:
            if not size:
                return b""
            page = self._page(address >> self._shift, address)
        at = address & self._mask
        if at + size <= self.block_size:
            return page[at : at + size]
        return b"".join(self._read_across(address, size))

    def _read_across(self, address: int, size: int) -> Iterator[bytes]:
        check_size(address, size)
        end = address + size
        while address < end:
            at = address & self._mask
            page = self._page(address >> self._shift, address)
            yield page[at : min(at + end - address, self.block_size)]
            address += self.block_size - at

    def _page(self, number: int, address: int) -> bytes:
        """A block kept or from the file. Raises MemoryFault for ``address``, which lies in it."""
        page = self._young.get(number)
        if page is not None:
            return page
        page = self._old.get(number)
        if page is None:
            page = self._load(number, address)
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}
        self._young[number] = page
        return page

    def _load(self, number: int, address: int) -> bytes:
        state = self.state(number)
        if state == EXCLUDED and self.zero_excluded:
            return bytes(self.block_size)
        if state != PRESENT:
            raise MemoryFault("physical", address, REASONS[state])
        try:
            return self.stored(number)
        except (CorruptPage, BadFormat) as error:
            raise MemoryFault("physical", address, FaultReason.CORRUPT, str(error)) from None
        except MemoryFault as fault:
            raise MemoryFault("physical", address, fault.reason, fault.detail) from None

    # -- many pages, one by one: formats that are used much have better

    def page_states(self, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
        import numpy as np

        each, state = max(page_size >> self._shift, 1), self.state
        states = np.empty(len(pfns), dtype=np.uint8)
        for row, pfn in enumerate(pfns.tolist()):
            first = pfn * page_size >> self._shift
            states[row] = max(state(number) for number in range(first, first + each))
        return states

    def read_pages(self, pfns: NDArray[np.uint64], page_size: int) -> Pages:
        import numpy as np

        data = np.zeros((len(pfns), page_size), dtype=np.uint8)
        states = np.zeros(len(pfns), dtype=np.uint8)
        for row, pfn in enumerate(pfns.tolist()):
            try:
                data[row] = np.frombuffer(self.read(pfn * page_size, page_size), dtype=np.uint8)
            except MemoryFault as fault:
                states[row] = STATES[fault.reason]
        return data, states


class BlockIndex:
    """Where blocks lie that a file holds in any order: 64 bits a block, of the format's own meaning."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.places = array("Q")

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, number: int, place: int) -> None:
        """The block lies there. Of several places the last one added counts."""
        self.numbers.append(number)
        self.places.append(place)

    def sort(self) -> None:
        """To be called when all are added, before find() and runs()."""
        import numpy as np

        if not self.numbers:
            return
        numbers = np.frombuffer(self.numbers, dtype=np.uint64)
        order = np.argsort(numbers, kind="stable")
        ascending = numbers[order]
        last = order[np.append(ascending[1:] != ascending[:-1], True)]
        places = np.frombuffer(self.places, dtype=np.uint64)[last]
        self.numbers, self.places = array("Q", numbers[last].tobytes()), array("Q", places.tobytes())

    def find(self, number: int) -> int | None:
        """The block's place."""
        at = bisect_left(self.numbers, number)
        return self.places[at] if at < len(self.numbers) and self.numbers[at] == number else None

    def find_many(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """Whether each block has a place, and which (0 where it has none)."""
        import numpy as np

        known = np.frombuffer(self.numbers, dtype=np.uint64)
        if not len(known):
            return np.zeros(len(numbers), dtype=np.bool_), np.zeros(len(numbers), dtype=np.uint64)
        at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        found = known[at] == numbers
        return found, np.where(found, np.frombuffer(self.places, dtype=np.uint64)[at], np.uint64(0))

    def runs(self) -> list[tuple[int, int]]:
        """``[start, end)`` of numbers that follow each other."""
        import numpy as np

        if not self.numbers:
            return []
        numbers = np.frombuffer(self.numbers, dtype=np.uint64)
        breaks = np.flatnonzero(np.diff(numbers) != 1)
        starts = numbers[np.append(0, breaks + 1)].tolist()
        ends = (numbers[np.append(breaks, len(numbers) - 1)] + np.uint64(1)).tolist()
        return list(zip(starts, ends, strict=True))
