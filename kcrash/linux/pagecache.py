"""Pages of files: what an address_space holds (include/linux/fs.h, mm/filemap.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, MemoryFault
from kcrash.linux.page import page_to_pfn
from kcrash.linux.xarray import Slot, for_each_slot

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_FOLIO = 1 << 18  # pages; no folio is larger than 1 GiB


class CachedPage(NamedTuple):
    """Page ``place`` of a file is in page frame ``pfn``; or it is ``swapped`` (a swp_entry_t's value)."""

    place: int
    pfn: int
    swapped: int | None = None


def _pages_member(session: Session) -> str:
    # Linux commit b93b016313b3 ("page cache: use xa_lock") in v4.17.
    return session.types.first_member("struct address_space", ("i_pages", "page_tree")) or "i_pages"


def cached_pages(session: Session, mapping: int, first: int, last: int) -> Iterator[CachedPage]:
    """The pages of an address_space at indices ``first`` to ``last``, as far as memory has them.

    Value entries come as ``swapped``: a swap entry for shmem, a mere shadow of an evicted page
    elsewhere. Raises MemoryFault, CorruptData where the tree is broken.
    """
    tree = mapping + session.types.offset("struct address_space", _pages_member(session))
    for slot in for_each_slot(session, tree, first, last):
        for index in range(max(slot.first, first), min(slot.last, last) + 1):
            found = _page_at(session, slot, index)
            if found is not None:
                yield found


def _page_at(session: Session, slot: Slot, index: int) -> CachedPage | None:
    """A large folio's slots all hold its first page (they once held each its own)."""
    if slot.is_value:
        return CachedPage(index, 0, slot.entry)
    pfn = page_to_pfn(session, slot.entry)
    if pfn is None:
        return None
    reader = session.memo("page index", lambda: session.types.reader("struct page", _index(session)))
    data = session.memory.try_read(slot.entry + reader.start, reader.size)
    ahead = index - reader(data)[0] if data else 0
    return CachedPage(index, pfn + ahead if 0 <= ahead < MAX_FOLIO else pfn)


def _index(session: Session) -> str:
    # Linux commit acc53a0b4c15 ("mm: rename page->index to page->__folio_index") in v6.16.
    return session.types.first_member("struct page", ("__folio_index", "index")) or "flags"


def find_page(session: Session, mapping: int, index: int) -> CachedPage | None:
    """The page at one index; None if memory has none, or the tree is broken."""
    try:
        return next(cached_pages(session, mapping, index, index), None)
    except (MemoryFault, CorruptData):
        return None
