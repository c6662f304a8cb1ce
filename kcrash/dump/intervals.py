"""Overlapping intervals made disjoint: which of them owns each stretch."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush


class Pieces:
    """Disjoint ``[start, end)`` in ascending order, each with the index of the interval that owns it.

    Kept as arrays of unsigned 64-bit integers: a flattened dump has one piece
    for each 16 KiB.
    """

    def __init__(self) -> None:
        self.starts = array("Q")
        self.ends = array("Q")
        self.owners = array("Q")

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, start: int, end: int, owner: int) -> None:
        """Append; goes on with the last piece if it is the same interval's."""
        if self.ends and self.ends[-1] == start and self.owners[-1] == owner:
            self.ends[-1] = end
            return
        self.starts.append(start)
        self.ends.append(end)
        self.owners.append(owner)

    def find(self, at: int) -> int:
        """Index of the last piece that starts at or before ``at``, -1 if there is none."""
        return bisect_right(self.starts, at) - 1


def resolve(starts: Sequence[int], ends: Sequence[int], last_wins: bool = False) -> Pieces:
    """Disjoint pieces covering the intervals ``[starts[i], ends[i])``.

    Where several overlap, the one of lowest index owns the bytes, or of highest
    index if ``last_wins``. Empty intervals own nothing. O(n log n).
    """
    order = sorted(range(len(starts)), key=starts.__getitem__)
    order = [index for index in order if starts[index] < ends[index]]
    pieces, i = Pieces(), 0
    while i < len(order):
        first, reach, j = order[i], ends[order[i]], i + 1
        while j < len(order) and starts[order[j]] < reach:
            reach = max(reach, ends[order[j]])
            j += 1
        if j == i + 1:
            pieces.add(starts[first], reach, first)
        else:
            _split_cluster(order[i:j], starts, ends, -1 if last_wins else 1, pieces)
        i = j
    return pieces


def _split_cluster(
    members: list[int], starts: Sequence[int], ends: Sequence[int], sign: int, pieces: Pieces
) -> None:
    """``members``: overlapping intervals by ascending start. A sweep with a heap of those it is inside of."""
    heap: list[tuple[int, int]] = []
    at, k = starts[members[0]], 0
    while True:
        while k < len(members) and starts[members[k]] <= at:
            heappush(heap, (sign * members[k], members[k]))
            k += 1
        while heap and ends[heap[0][1]] <= at:
            heappop(heap)
        if not heap:
            return
        owner = heap[0][1]
        until = ends[owner] if k == len(members) else min(ends[owner], starts[members[k]])
        pieces.add(at, until, owner)
        at = until
