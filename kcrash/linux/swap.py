"""Swapped-out pages: swap entries, the swap cache, swap in memory (swapops.h, mm/swap_state.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import KcrashError
from kcrash.linux.page import page_to_pfn
from kcrash.linux.xarray import load

if TYPE_CHECKING:
    from kcrash.linux.zram import Zram
    from kcrash.session import Session

TYPE_BITS = 5  # MAX_SWAPFILES_SHIFT
PFN_MASK = (1 << 40) - 1  # SWP_PFN_BITS with 52 bits of physical addresses; fewer have zeros there
CACHE_SHIFT = 14  # SWAP_ADDRESS_SPACE_SHIFT

SWAPPED = "swapped out"
POISONED = "hardware poison"
DEVICE = "device memory"


class Swapped(NamedTuple):
    """Where the content of a swap entry is: a page frame, bytes, or nowhere for ``reason``.

    ``reason`` None and nothing else: the entry is a mere marker, the page was never there.
    """

    pfn: int | None = None
    data: bytes | None = None
    reason: str | None = None


class Swap:
    """The swap areas of a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        info = session.symbols.symbol("swap_info")
        self.table = info.address if info else 0
        #: MAX_SWAPFILES: entries of higher types are no swap.
        self.limit = (info.size // session.arch.word_bytes if info else 0) or 23
        # SWP_HWPOISON is the first of them, if there is one at all (CONFIG_MEMORY_FAILURE).
        self.poison = 1 if session.symbols.find_kernel("num_poisoned_pages") is not None else 0
        self._zram: dict[int, Zram | None] = {}
        bits = session.arch.word_bits - 1
        # swp_entry_t within an xarray's value, or a radix tree's (which has one bit less to give).
        self.value_shift = bits - TYPE_BITS - (0 if session.types.has("struct xarray", "xa_head") else 1)

    def entry(self, value: int) -> Swapped:
        """What a page table's entry of the kind OTHER stands for."""
        decode = self.session.layout.paging.swap_entry
        if decode is None:
            return Swapped(reason=SWAPPED)
        return self.find(*decode(value))

    def value_entry(self, value: int) -> Swapped:
        """What a value in shmem's page cache stands for (radix_to_swp_entry())."""
        return self.find(value >> self.value_shift, value & (1 << self.value_shift) - 1)

    def find(self, type_: int, offset: int) -> Swapped:
        """The page at an offset of swap area ``type_``; types from MAX_SWAPFILES on are other things."""
        if type_ >= self.limit:
            return self._special(type_ - self.limit, offset)
        try:
            return self._cached(type_, offset) or self._stored(type_, offset)
        except KcrashError as error:
            return Swapped(reason=f"{SWAPPED} ({error})")

    def _special(self, number: int, offset: int) -> Swapped:
        """SWP_HWPOISON, then migration (two kinds, three since v5.19), devices, and markers at the top."""
        if self.poison and not number:
            return Swapped(reason=POISONED)
        if self.limit + number == (1 << TYPE_BITS) - 1:
            return Swapped()
        if number - self.poison < 3:
            return Swapped(pfn=offset & PFN_MASK)
        return Swapped(reason=DEVICE)

    # -- the swap cache

    def _cached(self, type_: int, offset: int) -> Swapped | None:
        """Linux commit 4b3ef9daa4fc ("mm/swap: split swap cache into 64MB trunks") in v4.11."""
        session = self.session
        spaces = session.symbols.find_kernel("swapper_spaces")
        if spaces is None:
            return None
        first = session.memory.word(spaces + type_ * session.arch.word_bytes)
        if not first:
            return None
        space = first + (offset >> CACHE_SHIFT) * session.types.size("struct address_space")
        member = session.types.first_member("struct address_space", ("i_pages", "page_tree")) or "i_pages"
        tree = space + session.types.offset("struct address_space", member)
        # The index is the offset within the trunk since v6.10, before that the whole offset.
        for index in dict.fromkeys((offset, offset & (1 << CACHE_SHIFT) - 1)):
            found = load(session, tree, index)
            if found is not None and not found.is_value:
                return self._cached_page(found.entry, type_, offset)
        return None

    def _cached_page(self, page: int, type_: int, offset: int) -> Swapped | None:
        """All slots of a large folio hold its first page, whose private is its swp_entry_t."""
        session = self.session
        private = session.memory.word(page + session.types.offset("struct page", "private"))
        shift = session.arch.word_bits - 1 - TYPE_BITS
        ahead = offset - (private & (1 << shift) - 1)
        pfn = page_to_pfn(session, page)
        if pfn is None or private >> shift != type_ or not 0 <= ahead < 1 << 9:
            return None
        return Swapped(pfn=pfn + ahead)

    # -- swap areas that are in memory themselves

    def _stored(self, type_: int, offset: int) -> Swapped:
        if self._in_zeromap(type_, offset):
            return Swapped(data=bytes(self.session.arch.page_size))
        device = self._device(type_)
        if device is None:
            return Swapped(reason=SWAPPED)
        return Swapped(data=device.read(offset))

    def _area(self, type_: int) -> int:
        return self.session.memory.word(self.table + type_ * self.session.arch.word_bytes)

    def _in_zeromap(self, type_: int, offset: int) -> bool:
        """Linux commit 0ca0c24e3211 ("mm: store zero pages to be swapped out in a bitmap") in v6.12."""
        session = self.session
        if not session.types.has("struct swap_info_struct", "zeromap"):
            return False
        area = self._area(type_)
        table = session.memory.word(area + session.types.offset("struct swap_info_struct", "zeromap"))
        return bool(table) and bool(session.memory.u8(table + offset // 8) >> offset % 8 & 1)

    def _device(self, type_: int) -> Zram | None:
        if type_ not in self._zram:
            self._zram[type_] = self._open(type_)
        return self._zram[type_]

    def _open(self, type_: int) -> Zram | None:
        """The zram device that a swap area lies on; None for real disks."""
        from kcrash.linux.zram import Zram

        area = self.session.value("struct swap_info_struct", self._area(type_))
        disk = area.bdev.bd_disk
        if not disk.disk_name.string_().startswith(b"zram"):
            return None
        return Zram(self.session, int(disk.private_data), int(area.max))


def swap(session: Session) -> Swap:
    """The session's swap areas."""
    return session.reading("swap", lambda: Swap(session))
