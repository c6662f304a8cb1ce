"""Page contents for synthetic dumps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator


def some_pages(pfns: Iterable[int], size: int = 4096, seed: int = 1) -> dict[int, bytes]:
    """Pages by pfn: some compress well, some not at all, some are zero."""
    chance = random.Random(seed)
    makers = (
        lambda pfn: (b"page %x " % pfn * size)[:size],
        lambda pfn: chance.randbytes(size),
        lambda pfn: bytes(size),
        lambda pfn: chance.randbytes(size // 4) + bytes(size - size // 4),
    )
    return {pfn: chance.choice(makers)(pfn) for pfn in pfns}


def pages_of(
    ranges: Iterable[tuple[int, bytes | memoryview]], size: int = 4096
) -> Iterator[tuple[int, bytes]]:
    """``(physical address, bytes)`` of each page of ranges that begin and end with whole ones."""
    for start, data in ranges:
        for at in range(0, len(data), size):
            yield start + at, bytes(data[at : at + size])


def is_zero(page: bytes | bytearray) -> bool:
    """True if all of it is zero: any() takes a hundred times as long."""
    return page == bytes(len(page))
