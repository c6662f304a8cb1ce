"""Objects of zsmalloc, where zram and zswap keep compressed pages (mm/zsmalloc.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.module_types import module_types
from kcrash.linux.page import page_to_pfn, pfn_to_page
from kcrash.linux.zram_types import ZramDeclarations

if TYPE_CHECKING:
    from kcrash.session import Session

MAGIC = 0x58  # ZSPAGE_MAGIC
ALLOCATED = 1  # OBJ_ALLOCATED_TAG


class _Place(NamedTuple):
    """Where an object starts, as the word behind its handle tells it.

    ``tag_bits``, ``index_bits``: OBJ_TAG_BITS and OBJ_INDEX_BITS.
    """

    tag_bits: int
    index_bits: int


# MAX_POSSIBLE_PHYSMEM_BITS: 52 or 46 (CONFIG_X86_5LEVEL or not) of x86, 52 or 48 of arm64 and so on; of
# 32-bit machines 36 with PAE and 40 with LPAE. By the bits of a word.
_PHYSICAL_BITS = {64: (52, 46, 48, 51, 56, 44), 32: (32, 36, 40)}


def _places(page_shift: int, word_bits: int) -> list[_Place]:
    """OBJ_INDEX_BITS = BITS_PER_LONG - (MAX_POSSIBLE_PHYSMEM_BITS - PAGE_SHIFT) - OBJ_TAG_BITS, with the tag
    below the index until v6.6. Nothing in the kernel's types tells which; but an object starts with its own
    handle, so the right one proves itself."""
    totals = [word_bits - bits + page_shift for bits in _PHYSICAL_BITS[word_bits]]
    return [_Place(tag, total - tag) for tags in ((1, 0), (2,)) for total in totals for tag in tags]


class Zspage(NamedTuple):
    """A zspage: ``class_`` is the index of its size class."""

    address: int
    class_: int


class Objects:
    """The objects of one ``struct zs_pool``."""

    def __init__(self, session: Session, pool: int) -> None:
        self.session = session
        self.pool = pool
        self.types = module_types(session, "zsmalloc", instead=ZramDeclarations())
        self.zspage = self.types.compound("struct zspage")
        # From v6.14 on zsmalloc has a struct of its own laid over struct page.
        own = self.types.has("struct zspage", "first_zpdesc")
        self.page = "struct zpdesc" if own else "struct page"
        self._sizes: dict[int, int] = {}
        self._places = _places(session.arch.page_shift, session.arch.word_bits)
        self._place = self._places[0]

    def read(self, handle: int, size: int) -> bytes:
        """The first ``size`` bytes of the object with that handle. Raises KcrashError."""
        word = self.session.memory.word(handle)
        for place in (self._place, *self._places):  # the last one that fitted, which may have been by chance
            found = self._try(place, word, handle, size)
            if found is not None:
                return found
        raise CorruptData(f"zsmalloc: no object behind handle {handle:x}")

    def _try(self, place: _Place, word: int, handle: int, size: int) -> bytes | None:
        word >>= place.tag_bits
        pfn, index = word >> place.index_bits, word & (1 << place.index_bits) - 1
        try:
            page = pfn_to_page(self.session, pfn)
            zspage = self._zspage_of(page)
            if zspage is None:
                return None
            if self._head(page) == handle & ~3:
                return self.session.physical.read(pfn * self.session.arch.page_size, size)
            header = self.session.arch.word_bytes  # the handle
            data = self._object(zspage, page, pfn, index, size + header)
        except KcrashError:
            return None
        order: Any = self.session.arch.byte_order
        if int.from_bytes(data[:header], order) & ~3 != handle & ~3:
            return None
        self._place = place
        return data[header:]

    def _head(self, page: int) -> int:
        """The handle of an object that has a page of its own (a "huge" one), instead of a next page."""
        member = self.types.first_member(self.page, ("handle", "index", "__folio_index")) or "flags"
        return self.session.memory.word(page + self.types.offset(self.page, member)) & ~3

    def _zspage_of(self, page: int) -> Zspage | None:
        member = "zspage" if self.page == "struct zpdesc" else "private"
        address = self.session.memory.word(page + self.types.offset(self.page, member))
        value = self.session.value(self.zspage, address)
        if int(value.member_("magic")) != MAGIC:
            return None
        return Zspage(address, int(value.member_("class")))

    def _object(self, zspage: Zspage, page: int, pfn: int, index: int, size: int) -> bytes:
        """The first ``size`` bytes of an object, which may go on in the zspage's next page."""
        page_size = self.session.arch.page_size
        offset = self._class_size(zspage.class_) * index % page_size
        here = min(size, page_size - offset)
        data = self.session.physical.read(pfn * page_size + offset, here)
        if here < size:
            data += self.session.physical.read(self._next_pfn(zspage, page) * page_size, size - here)
        return data

    def _class_size(self, number: int) -> int:
        if number not in self._sizes:
            pool = self.session.value(self.types.type("struct zs_pool"), self.pool)
            self._sizes[number] = int(pool.size_class[number].size)
        return self._sizes[number]

    def _next_pfn(self, zspage: Zspage, page: int) -> int:
        """The next page of a zspage: in zpdesc.next, page->index, before v4.20's end page->freelist."""
        for member in ("next", "index", "freelist"):
            if not self.types.has(self.page, member):
                continue
            following = self.session.memory.word(page + self.types.offset(self.page, member))
            pfn = page_to_pfn(self.session, following)
            if pfn is not None:
                other = self._zspage_of(following)
                if other is not None and other.address == zspage.address:
                    return pfn
        raise CorruptData(f"zsmalloc: zspage {zspage.address:x} has no next page")
