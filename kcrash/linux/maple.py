"""Maple trees: ranges of indices to pointers (include/linux/maple_tree.h, lib/maple_tree.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, MemoryFault
from kcrash.types.model import ArrayType

if TYPE_CHECKING:
    from kcrash.session import Session

NODE_MASK = 0xFF  # nodes are 256 bytes, aligned to that: MAPLE_NODE_MASK
TYPE_SHIFT, TYPE_MASK = 3, 0xF
MAX_DEPTH = 31  # MAPLE_HEIGHT_MAX
MAX_NODES = 1 << 20
XA_INTERNAL = 2
INTERNAL_LIMIT = 4096


class Range(NamedTuple):
    """Indices ``first`` to ``last`` (both inside) hold the pointer ``entry``."""

    first: int
    last: int
    entry: int


class _Shape(NamedTuple):
    """Where pivots and slots stand in a node of one type."""

    pivots: int
    pivot_count: int
    slots: int
    slot_count: int
    leaf: bool


def _shape(session: Session, name: str, leaf: bool) -> _Shape:
    compound = session.types.compound(f"struct {name}")
    counts = []
    for member in ("pivot", "slot"):
        array = compound.path(member).type.underlying
        counts.append(array.count or 0 if isinstance(array, ArrayType) else 0)
    return _Shape(compound.offset("pivot"), counts[0], compound.offset("slot"), counts[1], leaf)


def _shapes(session: Session) -> dict[int, _Shape]:
    """By enum maple_type: maple_dense 0, maple_leaf_64 1, maple_range_64 2, maple_arange_64 3."""
    return {
        session.types.constant("maple_leaf_64", 1): _shape(session, "maple_range_64", True),
        session.types.constant("maple_range_64", 2): _shape(session, "maple_range_64", False),
        session.types.constant("maple_arange_64", 3): _shape(session, "maple_arange_64", False),
    }


def _is_node(entry: int) -> bool:
    return entry & 3 == XA_INTERNAL and entry > INTERNAL_LIMIT


class _Walk:
    """One walk over one tree: nodes seen, and the session's shapes."""

    def __init__(self, session: Session) -> None:
        self.memory = session.memory
        self.shapes = session.memo("maple shapes", lambda: _shapes(session))
        self.order = "<" if session.arch.byte_order == "little" else ">"
        self.seen: set[int] = set()

    def node(
        self, encoded: int, low: int, high: int, depth: int
    ) -> Iterator[Range | MemoryFault | CorruptData]:
        address, shape = encoded & ~NODE_MASK, self.shapes.get(encoded >> TYPE_SHIFT & TYPE_MASK)
        if shape is None or depth > MAX_DEPTH or address in self.seen or len(self.seen) > MAX_NODES:
            yield CorruptData(f"maple tree: bad or repeated node {encoded:x}")
            return
        self.seen.add(address)
        try:
            pivots = self.memory.words(address + shape.pivots, shape.pivot_count)
            slots = self.memory.words(address + shape.slots, shape.slot_count)
        except MemoryFault as fault:
            yield fault
            return
        yield from self._slots(shape, pivots, slots, low, high, depth)

    def _slots(
        self, shape: _Shape, pivots: tuple[int, ...], slots: tuple[int, ...], low: int, high: int, depth: int
    ) -> Iterator[Range | MemoryFault | CorruptData]:
        """A pivot is the last index of its slot; the pivot after the last one in use is 0."""
        for number, slot in enumerate(slots):
            last = pivots[number] if number < len(pivots) else high
            if (not last and (number or low)) or last > high:
                last = high
            if last < low:
                yield CorruptData(f"maple tree: pivots out of order at {low:x}")
                return
            if slot and shape.leaf:
                if slot & 3 != XA_INTERNAL:  # XA_ZERO_ENTRY marks what a failed fork left
                    yield Range(low, last, slot)
            elif slot:
                yield from self.node(slot, low, last, depth + 1)
            if last >= high:
                return
            low = last + 1


def for_each_range(session: Session, tree: int) -> Iterator[Range | MemoryFault | CorruptData]:
    """The entries of the ``struct maple_tree`` at ``tree``, in order of index.

    A node that cannot be read, or makes no sense, comes as the error; the rest goes on.
    """
    root = session.memory.word(tree + session.types.offset("struct maple_tree", "ma_root"))
    if not root:
        return
    if _is_node(root):
        yield from _Walk(session).node(root, 0, session.word_mask, 0)
    else:
        yield Range(0, 0, root)
