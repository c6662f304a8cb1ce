"""Page contents for synthetic dumps."""

from __future__ import annotations

import random
from collections.abc import Iterable


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
