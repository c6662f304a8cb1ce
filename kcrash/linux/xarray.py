"""XArrays and radix trees: index to pointer or value (include/linux/xarray.h, radix-tree.h).

Linux commit f8d5d0cc145c ("xarray: Add definition of struct xarray") in v4.20 turned radix trees into
XArrays: the nodes are the same, the low bits of the entries are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, MemoryFault
from kcrash.types.model import ArrayType

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_NODES = 1 << 22
XA_INTERNAL, XA_VALUE = 2, 1
RADIX_INTERNAL, RADIX_EXCEPTIONAL = 1, 2
INTERNAL_LIMIT = 4096
HEIGHT_MASK = (1 << 12) - 1  # RADIX_TREE_HEIGHT_MASK, with 64-bit indices


class Slot(NamedTuple):
    """Indices ``first`` to ``last`` (both inside) hold ``entry``.

    ``is_value``: the entry is a number, which is then ``entry``, and not a pointer.
    """

    first: int
    last: int
    entry: int
    is_value: bool


class _Form(NamedTuple):
    """How this kernel's nodes read.

    ``height``: where a node's height is, in kernels before v4.7, whose nodes have no ``shift``; their
    pointers to nodes are marked in the root only.
    """

    node: str
    root: str
    shift: int
    slots: int
    slot_count: int
    radix: bool
    height: int | None


def _form(session: Session) -> _Form:
    types = session.types
    radix = not types.has("struct xarray", "xa_head")
    node = "struct radix_tree_node" if radix else "struct xa_node"
    array = types.compound(node).path("slots").type.underlying
    count = array.count or 0 if isinstance(array, ArrayType) else 0
    root = "struct radix_tree_root" if radix else "struct xarray"
    # Linux v3.15 put the height into the low bits of ``path``.
    old = None if types.has(node, "shift") else types.first_member(node, ["path", "height"])
    height = None if old is None else types.offset(node, old)
    shift = types.offset(node, "shift") if height is None else 0
    return _Form(node, root, shift, types.offset(node, "slots"), count, radix, height)


class _Walk:
    def __init__(self, session: Session, first: int, last: int) -> None:
        self.memory = session.memory
        self.form = session.memo("xarray form", lambda: _form(session))
        self.first, self.last = first, last
        self.seen: set[int] = set()

    def root(self, head: int) -> Iterator[Slot]:
        if self._is_node(head):
            yield from self._node(head, 0, 64)
        elif head and not self.first:
            yield from self._leaf(head, 0, 0)

    def _is_node(self, entry: int) -> bool:
        if self.form.radix:
            return entry & 3 == RADIX_INTERNAL
        return entry & 3 == XA_INTERNAL and entry > INTERNAL_LIMIT

    def _node(self, encoded: int, base: int, above: int) -> Iterator[Slot]:
        address = encoded & ~3
        if address in self.seen or len(self.seen) > MAX_NODES:
            raise CorruptData(f"xarray: node {address:x} comes twice")
        self.seen.add(address)
        form = self.form
        shift = self._shift(address)
        if shift >= above:
            raise CorruptData(f"xarray: node {address:x} has shift {shift} below one of {above}")
        slots = self.memory.words(address + form.slots, form.slot_count)
        low = max(self.first - base, 0) >> shift
        high = min((self.last - base) >> shift, form.slot_count - 1)
        for number in range(low, high + 1):
            entry = slots[number]
            if not entry:
                continue
            start = base + (number << shift)
            if shift and (self._is_node(entry) or form.height is not None):
                yield from self._node(entry, start, shift)
            else:
                yield from self._leaf(self._sibling(entry, slots), start, start + (1 << shift) - 1)

    def _shift(self, address: int) -> int:
        """Of what index bits a node's slots are for, the lowest; more than 64 where that is broken."""
        if self.form.height is None:
            return self.memory.u8(address + self.form.shift)
        height = self.memory.u32(address + self.form.height) & HEIGHT_MASK
        return (height - 1) * (self.form.slot_count.bit_length() - 1) if height else 65

    def _sibling(self, entry: int, slots: tuple[int, ...]) -> int:
        """An entry of several slots stands in the first; the others say which that is."""
        if self.form.radix:
            return entry
        if entry & 3 == XA_INTERNAL and entry >> 2 < len(slots):
            return slots[entry >> 2]
        return entry

    def _leaf(self, entry: int, first: int, last: int) -> Iterator[Slot]:
        if self.form.radix:
            if entry & 3 == RADIX_EXCEPTIONAL:
                yield Slot(first, last, entry >> 2, True)
            elif not entry & 3:
                yield Slot(first, last, entry, False)
        elif entry & 1 == XA_VALUE:
            yield Slot(first, last, entry >> 1, True)
        elif not entry & 3:
            yield Slot(first, last, entry, False)


def for_each_slot(session: Session, tree: int, first: int = 0, last: int = (1 << 64) - 1) -> Iterator[Slot]:
    """The entries at indices ``first`` to ``last`` of the xarray (or radix tree) at ``tree``.

    Entries of several slots come slot by slot. Raises MemoryFault, CorruptData.
    """
    walk = _Walk(session, first, last)
    member = "rnode" if walk.form.radix else "xa_head"
    yield from walk.root(session.memory.word(tree + session.types.offset(walk.form.root, member)))


def load(session: Session, tree: int, index: int) -> Slot | None:
    """The entry at one index, or None; also where the tree is broken or not in the dump."""
    try:
        return next(for_each_slot(session, tree, index, index), None)
    except (MemoryFault, CorruptData):
        return None
