"""Swapped-out pages: swap entries and what they stand for (include/linux/swapops.h)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CommandError, CorruptData, KcrashError
from kcrash.linux.compressors import Stored
from kcrash.linux.swap_area import SwapArea, open_area
from kcrash.linux.swap_cache import TYPE_BITS, SwapCache
from kcrash.linux.swap_image import PageFile, SwapImage

if TYPE_CHECKING:
    from kcrash.linux.zram import Zram
    from kcrash.session import Session

PFN_MASK = (1 << 40) - 1  # SWP_PFN_BITS with 52 bits of physical addresses; fewer have zeros there
MAX_PROBLEMS = 16

SWAPPED = "swapped out"
POISONED = "hardware poison"
DEVICE = "device memory"


class Swapped(NamedTuple):
    """Where the content of a swap entry is: a page frame, elsewhere in memory or a file, or nowhere for
    ``reason``.

    ``reason`` None and nothing else: the entry is a mere marker, the page was never there.
    """

    pfn: int | None = None
    stored: Stored | None = None
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
        self._cache = SwapCache(session)
        self._areas: dict[int, SwapArea] = {}
        self._problems: dict[str, None] = {}
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
            area = self.area(type_)
            if offset >= area.pages:
                raise CorruptData(f"{area.name} has no page {offset:x}")
            pfn = area.cached(offset)
            return Swapped(stored=area.locate(offset)) if pfn is None else Swapped(pfn=pfn)
        except KcrashError as error:
            self.note(error)
            return Swapped(reason=SWAPPED)

    def _special(self, number: int, offset: int) -> Swapped:
        """SWP_HWPOISON, then migration (two kinds, three since v5.19), devices, and markers at the top."""
        if self.poison and not number:
            return Swapped(reason=POISONED)
        if self.limit + number == (1 << TYPE_BITS) - 1:
            return Swapped()
        if number - self.poison < 3:
            return Swapped(pfn=offset & PFN_MASK)
        return Swapped(reason=DEVICE)

    # -- swap areas

    def area(self, type_: int) -> SwapArea:
        """The swap area of that number. Raises KcrashError."""
        if type_ not in self._areas:
            address = self.session.memory.word(self.table + type_ * self.session.arch.word_bytes)
            self._areas[type_] = open_area(self.session, self._cache, type_, address)
        return self._areas[type_]

    def areas(self) -> Iterator[SwapArea]:
        """Those in use, as far as they can be read."""
        for type_ in range(self.limit):
            with suppress(KcrashError):
                yield self.area(type_)

    def give(self, device: str, path: str) -> None:
        """Take the pages of a swap device or file, named as in /proc/swaps, from a file; or those of the
        device behind a zram, as /sys/block/zramN/backing_dev names it. Raises KcrashError."""
        arch, names = self.session.arch, []
        for area in self.areas():
            for name, zram in _givable(area):
                if device not in (name, name.removeprefix("/dev/")):
                    names.append(name)
                elif zram is not None:
                    return zram.give(PageFile(path, arch.page_size))
                else:
                    return area.give(SwapImage(path, arch.page_size, arch.byte_order))
        known = ", ".join(names) or "none"
        raise CommandError(f"{device} is no swap area of this machine (there are: {known})")

    def note(self, error: KcrashError) -> None:
        """Remember why a page is missing."""
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[str(error)] = None

    def take_problems(self) -> list[str]:
        """Why pages that were asked for since the last time are missing."""
        problems, self._problems = list(self._problems), {}
        return problems


def _givable(area: SwapArea) -> Iterator[tuple[str, Zram | None]]:
    """The names of an area and of the device behind it, with the zram that has one."""
    with suppress(KcrashError):
        yield area.name, None
    if area.backing is not None:
        yield area.backing.backing_name, area.backing


def swap(session: Session) -> Swap:
    """The session's swap areas."""
    return session.reading("swap", lambda: Swap(session))
