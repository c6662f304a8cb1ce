"""Trees of the kernel with the place of every entry in them: red-black trees, XArrays, maple trees.

Every walk has a bound and finds loops. What cannot be read comes as the error, and
the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.types.model import ArrayType

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_NODES = 1 << 22
MAX_DEPTH = 128  # an rbtree of 2^64 nodes is no deeper
XA_INTERNAL = 2
INTERNAL_LIMIT = 4096
MAPLE_MASK = 0xFF  # a maple node is 256 bytes, aligned to that
MAPLE_LEVELS = 31


class Entry(NamedTuple):
    """An entry. ``position``: the way from the root, ``root/l/r`` or ``root/3/25``; ``key``: its index."""

    address: int
    position: str
    key: int = 0


class _Bound:
    """Refuses a node that comes twice, and more nodes than any tree has."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._seen: set[int] = set()

    def enter(self, node: int) -> None:
        """Raises CorruptData."""
        if node in self._seen or len(self._seen) >= MAX_NODES:
            raise CorruptData(f"{self.what}: node {node:x} comes twice")
        self._seen.add(node)


# -- red-black trees (include/linux/rbtree_types.h)


def for_each_rb_node(session: Session, root: int, *, in_order: bool = False) -> Iterator[Entry | KcrashError]:
    """The rb_nodes below the node ``root``: a node before its children, or from left to right."""
    types, word = session.types, session.memory.word
    left, right = types.offset("struct rb_node", "rb_left"), types.offset("struct rb_node", "rb_right")
    bound = _Bound("red-black tree")

    def child(node: int, offset: int, way: str, depth: int) -> Iterator[Entry | KcrashError]:
        try:
            found = word(node + offset)
        except MemoryFault as fault:
            yield fault
            return
        if found:
            yield from walk(found, way, depth)

    def walk(node: int, way: str, depth: int) -> Iterator[Entry | KcrashError]:
        try:
            bound.enter(node)
            if depth > MAX_DEPTH:
                raise CorruptData(f"red-black tree: node {node:x} lies too deep")
        except CorruptData as error:
            yield error
            return
        if not in_order:
            yield Entry(node, way)
        yield from child(node, left, f"{way}/l", depth + 1)
        if in_order:
            yield Entry(node, way)
        yield from child(node, right, f"{way}/r", depth + 1)

    if root:
        yield from walk(root, "root", 0)


# -- XArrays and radix trees


class _XarrayForm(NamedTuple):
    """The struct of a node, and what of it is read."""

    shift: int
    slots: int
    slot_count: int
    radix: bool


def _xarray_form(session: Session) -> _XarrayForm:
    """Linux commit f8d5d0cc145c ("xarray: Add definition of struct xarray") in v4.20 renamed the structs."""
    types = session.types
    radix = not types.has("struct xarray", "xa_head")
    node = "struct radix_tree_node" if radix else "struct xa_node"
    array = types.compound(node).path("slots").type.underlying
    count = array.count or 0 if isinstance(array, ArrayType) else 0
    return _XarrayForm(types.offset(node, "shift"), types.offset(node, "slots"), count, radix)


def xarray_head(session: Session, tree: int) -> int:
    """The head of a ``struct xarray`` or ``struct radix_tree_root``. Raises MemoryFault, MissingMember."""
    if session.types.has("struct xarray", "xa_head"):
        return session.memory.word(tree + session.types.offset("struct xarray", "xa_head"))
    return session.memory.word(tree + session.types.offset("struct radix_tree_root", "rnode"))


def for_each_xarray_entry(
    session: Session, head: int, root: str = "root", force: bool = False
) -> Iterator[Entry | KcrashError]:
    """The entries below ``head`` as they stand in their slots; of an entry in several slots, the first.

    ``force``: ``head`` is a node though its low bits do not say so.
    """
    form = session.memo("xarray form of tree", lambda: _xarray_form(session))
    memory, bound = session.memory, _Bound("xarray")

    def is_node(entry: int) -> bool:
        return entry & 3 == (1 if form.radix else XA_INTERNAL) and entry > INTERNAL_LIMIT

    def walk(encoded: int, base: int, way: str, above: int) -> Iterator[Entry | KcrashError]:
        address = encoded & ~3
        try:
            bound.enter(address)
            shift = memory.u8(address + form.shift)
            slots = memory.words(address + form.slots, form.slot_count)
            if shift >= above:
                raise CorruptData(f"xarray: node {address:x} has shift {shift} below one of {above}")
        except (MemoryFault, CorruptData) as error:
            yield error
            return
        for number, entry in enumerate(slots):
            start, place = base + (number << shift), f"{way}/{number}"
            if is_node(entry):
                yield from walk(entry, start, place, shift)
            elif entry and (form.radix or entry & 3 != XA_INTERNAL):
                yield Entry(entry, place, start)

    if is_node(head) or (force and head):
        yield from walk(head, 0, root, 65)
    elif head:
        yield Entry(head, root, 0)


# -- maple trees (lib/maple_tree.c)


class _MapleForm(NamedTuple):
    """A node of one type: ``gaps`` and ``meta`` only where it has them."""

    name: str
    pivots: int
    pivot_count: int
    slots: int
    slot_count: int
    gaps: int | None
    meta: int | None
    leaf: bool


@dataclass(frozen=True, slots=True)
class MapleNode:
    """A node as it lies in memory. ``type``: enum maple_type; ``gaps``: () but for maple_arange_64."""

    address: int
    low: int
    high: int
    depth: int
    type: int
    parent: int
    pivots: tuple[int, ...]
    slots: tuple[int, ...]
    gaps: tuple[int, ...]
    meta: tuple[int, int] | None


class MapleRange(NamedTuple):
    """Indices ``low`` to ``high`` hold ``entry``, 0 for none. ``place``: the slots on the way there."""

    low: int
    high: int
    entry: int
    place: str
    depth: int


def _maple_forms(session: Session) -> dict[int, _MapleForm]:
    names = (
        ("maple_leaf_64", 1, "maple_range_64", True),
        ("maple_range_64", 2, "maple_range_64", False),
        ("maple_arange_64", 3, "maple_arange_64", False),
    )
    return {
        session.types.constant(constant, default): _maple_form(session, name, leaf)
        for constant, default, name, leaf in names
    }


def _maple_form(session: Session, name: str, leaf: bool) -> _MapleForm:
    compound = session.types.compound(f"struct {name}")
    counts = []
    for member in ("pivot", "slot"):
        array = compound.path(member).type.underlying
        counts.append(array.count or 0 if isinstance(array, ArrayType) else 0)
    gaps = compound.offset("gap") if compound.has("gap") else None
    meta = compound.offset("meta") if gaps is not None and compound.has("meta") else None
    return _MapleForm(
        name, compound.offset("pivot"), counts[0], compound.offset("slot"), counts[1], gaps, meta, leaf
    )


def for_each_maple_part(
    session: Session, root: int, way: str = "root"
) -> Iterator[MapleNode | MapleRange | KcrashError]:
    """Every node, followed by what is in it, in order of index; empty ranges too."""
    forms = session.memo("maple forms", lambda: _maple_forms(session))
    memory, bound = session.memory, _Bound("maple tree")

    def read(encoded: int, low: int, high: int, depth: int) -> MapleNode:
        address, kind = encoded & ~MAPLE_MASK, encoded >> 3 & 0xF
        form = forms.get(kind)
        if form is None or depth > MAPLE_LEVELS:
            raise CorruptData(f"maple tree: {encoded:x} is no node of a known type")
        bound.enter(address)
        return MapleNode(
            address,
            low,
            high,
            depth,
            kind,
            memory.word(address),
            memory.words(address + form.pivots, form.pivot_count),
            memory.words(address + form.slots, form.slot_count),
            memory.words(address + form.gaps, form.slot_count) if form.gaps is not None else (),
            None
            if form.meta is None
            else (memory.u8(address + form.meta), memory.u8(address + form.meta + 1)),
        )

    def walk(
        encoded: int, low: int, high: int, depth: int, place: str
    ) -> Iterator[MapleNode | MapleRange | KcrashError]:
        try:
            node = read(encoded, low, high, depth)
        except (MemoryFault, CorruptData) as error:
            yield error
            return
        yield node
        for number, slot in enumerate(node.slots):
            last = node.pivots[number] if number < len(node.pivots) else high
            # The pivot behind the last one in use is 0.
            if (not last and (number or low)) or last > high:
                last = high
            if last < low:
                yield CorruptData(f"maple tree: pivots out of order in node {node.address:x}")
                return
            if slot and not forms[node.type].leaf:
                yield from walk(slot, low, last, depth + 1, f"{place}/{number}")
            else:
                yield MapleRange(low, last, slot, f"{place}/{number}", depth + 1)
            if last >= high:
                return
            low = last + 1

    if root & 3 == XA_INTERNAL and root > INTERNAL_LIMIT:
        yield from walk(root, 0, session.word_mask, 0, way)
    elif root:
        yield MapleRange(0, 0, root, way, 0)
