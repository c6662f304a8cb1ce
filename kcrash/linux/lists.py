"""Linked lists of the kernel (include/linux/list.h), walked with a bound and a cycle check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_LIST = 1 << 24


def list_for_each(session: Session, head: int, limit: int = MAX_LIST) -> Iterator[int]:
    """Addresses of the ``struct list_head`` nodes behind ``head``, without ``head`` itself.

    Raises MemoryFault where a node cannot be read, CorruptData on a loop that
    misses the head or a NULL link; what was yielded before stands.
    """
    word = session.memory.word
    node, seen = word(head), {head}
    while node != head:
        if node in seen or len(seen) > limit:
            raise CorruptData(f"list at {head:x} loops at {node:x} without coming back to its head")
        if not node:
            raise CorruptData(f"list at {head:x} ends in a NULL pointer")
        seen.add(node)
        yield node
        node = word(node)


def list_for_each_entry(session: Session, head: int, type_: str, member: str) -> Iterator[int]:
    """Addresses of the structs whose ``member`` is linked into the list at ``head``."""
    offset = session.types.offset(type_, member)
    for node in list_for_each(session, head):
        yield node - offset


def hlist_for_each(session: Session, head: int, limit: int = MAX_LIST) -> Iterator[int]:
    """Addresses of the ``struct hlist_node`` nodes of a hash list; an nulls marker (odd) ends it too."""
    word = session.memory.word
    node, seen = word(head), set[int]()
    while node and not node & 1:
        if node in seen or len(seen) > limit:
            raise CorruptData(f"hash list at {head:x} loops at {node:x}")
        seen.add(node)
        yield node
        node = word(node)
