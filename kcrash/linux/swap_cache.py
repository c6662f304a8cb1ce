"""The swap cache: swapped-out pages that are in memory all the same (mm/swap_state.c, mm/swap_table.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.errors import CorruptData
from kcrash.linux.page import page_to_pfn, pfn_to_page
from kcrash.linux.xarray import load
from kcrash.types.model import ArrayType

if TYPE_CHECKING:
    from kcrash.session import Session

AREA = "struct swap_info_struct"
CLUSTER = "struct swap_cluster_info"
TYPE_BITS = 5  # MAX_SWAPFILES_SHIFT
TRUNK_SHIFT = 14  # SWAP_ADDRESS_SPACE_SHIFT
MAX_FOLIO = 1 << 9  # pages of a folio that is swapped as one
PFN_MARK = 2  # the lowest bits of a page frame in a swap table, SWP_TB_PFN_MARK
ZERO_FLAG = 59  # SWP_TB_ZERO_FLAG: the lowest of the five flags at the top


class SwapCache:
    """What a session's swap cache has."""

    def __init__(self, session: Session) -> None:
        self.session = session
        types = session.types
        # Linux commit 8578e0c00dcf ("mm, swap: use the swap table for the swap cache and switch API"), v6.18.
        self.has_table = types.has(CLUSTER, "table")
        self.uptodate = types.constant("PG_uptodate", 2)
        self._flags = types.first_member("struct page", ("flags.f", "flags")) or "flags"

    def find(self, type_: int, area: int, offset: int) -> int | None:
        """The page frame with the page at an offset of a swap area (``area``: its swap_info_struct), or None.

        Raises KcrashError.
        """
        if self.has_table:
            page = self._in_table(area, offset)
            return None if page is None else self._frame(page, type_, offset)
        for page in self._in_trunk(type_, offset):
            found = self._frame(page, type_, offset)
            if found is not None:
                return found
        return None

    # -- a table a cluster of slots

    def table_entry(self, area: int, offset: int) -> int:
        """The word of the swap table; 0 where the cluster has none."""
        session, types = self.session, self.session.types
        count = self._slots()
        clusters = session.memory.word(area + types.offset(AREA, "cluster_info"))
        cluster = clusters + offset // count * types.size(CLUSTER)
        table = session.memory.word(cluster + types.offset(CLUSTER, "table")) if clusters else 0
        return session.memory.word(table + offset % count * session.arch.word_bytes) if table else 0

    def _slots(self) -> int:
        array = self.session.types.compound("struct swap_table").path("entries").type.underlying
        if not isinstance(array, ArrayType) or not array.count:
            raise CorruptData("swap: struct swap_table has no entries")
        return array.count

    def _in_table(self, area: int, offset: int) -> int | None:
        """A folio's address in v6.18, its page frame (between mark and flags) since then; else a shadow."""
        entry = self.table_entry(area, offset)
        if entry & 3 == PFN_MARK:
            return pfn_to_page(self.session, (entry & (1 << ZERO_FLAG) - 1) >> 2)
        return entry if entry and not entry & 7 else None

    # -- an XArray (or radix tree) a trunk of the area

    def _in_trunk(self, type_: int, offset: int) -> list[int]:
        """Linux commit 4b3ef9daa4fc ("mm/swap: split swap cache into 64MB trunks") in v4.11."""
        session, types = self.session, self.session.types
        spaces = session.symbols.find_kernel("swapper_spaces")
        first = 0 if spaces is None else session.memory.word(spaces + type_ * session.arch.word_bytes)
        if not first:
            return []
        member = types.first_member("struct address_space", ("i_pages", "page_tree")) or "i_pages"
        space = first + (offset >> TRUNK_SHIFT) * types.size("struct address_space")
        tree = space + types.offset("struct address_space", member)
        # The index is the offset within the trunk since v6.10, before that the whole offset.
        slots = [load(session, tree, i) for i in dict.fromkeys((offset, offset & (1 << TRUNK_SHIFT) - 1))]
        return [slot.entry for slot in slots if slot is not None and not slot.is_value]

    # -- the page itself

    def _frame(self, page: int, type_: int, offset: int) -> int | None:
        """All slots of a large folio hold its first page, whose private is its swp_entry_t.

        None for one that is being read in: its content is still where it was.
        """
        types, word = self.session.types, self.session.memory.word
        private = word(page + types.offset("struct page", "private"))
        shift = self.session.arch.word_bits - 1 - TYPE_BITS
        ahead = offset - (private & (1 << shift) - 1)
        pfn = page_to_pfn(self.session, page)
        if pfn is None or private >> shift != type_ or not 0 <= ahead < MAX_FOLIO:
            return None
        ready = word(page + types.offset("struct page", self._flags)) >> self.uptodate & 1
        return pfn + ahead if ready else None
