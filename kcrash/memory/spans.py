"""How a stretch of virtual memory is mapped, in bulk: whole page tables at a time.

`PagedSpace.runs` is for the interactive case; here a table of the last level is
one array, and an absent entry further up is one span however much it covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from kcrash.arch.base import EntryKind
from kcrash.errors import CorruptData, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.memory.space import PagedSpace

MAX_TABLES = 1 << 24  # of 2 MiB each with 4 KiB pages: 32 TiB mapped
MAX_VISITS = 16  # of one table above the last level: hugetlb shares some, others lead back to themselves


class SpanKind(Enum):
    """What a Span is."""

    ABSENT = "absent"  # nothing here, nor a table
    PAGES = "pages"  # ``values`` are the entries of small pages
    LARGE = "large"  # one large page, or a part of it, at ``physical``
    OTHER = "other"  # a large page's entry in the kernel's own format: swap or migration
    LOST = "lost"  # the table is not in the dump


class Span(NamedTuple):
    """Virtual ``[start, end)``.

    ``values``: raw entries (PAGES); ``physical``: address behind ``start``
    (LARGE); ``value``: the raw entry (LARGE, OTHER); ``page_size``: bytes an
    entry covers; ``reason``: why a table is LOST.
    """

    start: int
    end: int
    kind: SpanKind
    page_size: int
    values: NDArray[np.uint64] | None = None
    physical: int = 0
    value: int = 0
    reason: FaultReason | None = None


class _Walk:
    def __init__(self, space: PagedSpace) -> None:
        self.space = space
        self.paging = space.paging
        self.tables = 0
        self.visits: dict[int, int] = {}

    def enter(self, address: int) -> None:
        """Note that a table above the last level is gone through. Raises CorruptData."""
        self.visits[address] = self.visits.get(address, 0) + 1
        if self.visits[address] > MAX_VISITS:
            raise CorruptData(f"{self.space.name}: the page table at {address:x} comes again and again")

    def table(self, address: int, number: int) -> NDArray[np.uint64]:
        import numpy as np

        self.tables += 1
        if self.tables > MAX_TABLES:
            raise CorruptData(f"{self.space.name}: more page tables than any machine has")
        size = self.paging.entry_size << self.paging.levels[number].bits
        form = f"{self.space.entry_order}u{self.paging.entry_size}"
        data = np.frombuffer(self.space.physical.read(address, size), form)
        return data.astype(np.uint64)

    def level(self, address: int, number: int, start: int, end: int) -> Iterator[Span]:
        level = self.paging.levels[number]
        span = 1 << level.shift
        try:
            entries = self.table(address, number)
        except MemoryFault as fault:
            yield Span(start, end, SpanKind.LOST, span, reason=fault.reason)
            return
        first = start >> level.shift & (1 << level.bits) - 1
        if number == len(self.paging.levels) - 1:
            count = -(-(end - start) // span)
            yield Span(start, end, SpanKind.PAGES, span, entries[first : first + count])
            return
        self.enter(address)
        position = start
        while position < end:
            stop = min((position | span - 1) + 1, end)
            value = int(entries[position >> level.shift & (1 << level.bits) - 1])
            yield from self.entry(value, number, position, stop)
            position = stop

    def entry(self, value: int, number: int, start: int, end: int) -> Iterator[Span]:
        """One entry above the last level."""
        span = 1 << self.paging.levels[number].shift
        decoded = self.paging.decode(value, number)
        if decoded.kind is EntryKind.TABLE:
            yield from self.level(decoded.address, number + 1, start, end)
        elif decoded.kind is EntryKind.LEAF:
            yield Span(start, end, SpanKind.LARGE, span, physical=decoded.address + start % span, value=value)
        elif decoded.kind is EntryKind.OTHER:
            yield Span(start, end, SpanKind.OTHER, span, value=value)
        else:
            yield Span(start, end, SpanKind.ABSENT, span)


def spans(space: PagedSpace, start: int, end: int) -> Iterator[Span]:
    """The spans of ``[start, end)``, in order and without gaps; neighbouring ABSENT ones are one.

    Addresses are multiples of the smallest page. Raises CorruptData for tables without end.
    """
    if space.top is None or start >= end:
        return
    low = start & space._mask
    pending: Span | None = None
    for span in _Walk(space).level(space.top, 0, low, low + end - start):
        span = span._replace(start=span.start - low + start, end=span.end - low + start)
        if pending is not None and span.kind is SpanKind.ABSENT:
            pending = pending._replace(end=span.end)
            continue
        if pending is not None:
            yield pending
        pending = span if span.kind is SpanKind.ABSENT else None
        if pending is None:
            yield span
    if pending is not None:
        yield pending
