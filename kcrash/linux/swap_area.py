"""Swap areas: where the content of their slots is (struct swap_info_struct, mm/swapfile.c, mm/page_io.c)."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from kcrash.errors import CommandError, CorruptData, KcrashError
from kcrash.linux.compressors import Packed, Stored
from kcrash.linux.paths import file_path
from kcrash.linux.swap_cache import AREA, CLUSTER, ZERO_FLAG, SwapCache
from kcrash.linux.swap_image import SwapImage
from kcrash.linux.zswap import zswap

if TYPE_CHECKING:
    from kcrash.linux.zram import Zram
    from kcrash.session import Session

SWP_USED, SWP_BLKDEV = 1, 1 << 6


class NotInMemory(KcrashError):
    """A page that only a disk has."""


class SwapArea:
    """Swap area ``type_`` at ``address``; ``pages``: its slots, the header's too. Raises KcrashError."""

    def __init__(self, session: Session, cache: SwapCache, type_: int, address: int) -> None:
        self.session, self.cache, self.type, self.address = session, cache, type_, address
        self.value = session.value(AREA, address)
        self.pages = int(self.value.max)
        self.flags = int(self.value.flags)
        self.image: SwapImage | None = None
        self._zswap = zswap(session)

    @cached_property
    def name(self) -> str:
        """Its device or file, as /proc/swaps has it. Raises KcrashError."""
        return file_path(self.session, int(self.value.swap_file)).decode("utf-8", "backslashreplace")

    def cached(self, offset: int) -> int | None:
        """The page frame of a slot that the swap cache has."""
        return self.cache.find(self.type, self.address, offset)

    def locate(self, offset: int) -> Stored:
        """Where the page of a slot is, as swap_read_folio() looks for it. Raises KcrashError."""
        if self._is_zero(offset):
            size = self.session.arch.page_size
            return lambda: Packed(bytes(size), size)
        compressed = self._zswap.locate(self.type, offset) if self._zswap is not None else None
        if compressed is not None:
            return compressed
        if self.image is not None:
            return self.image.locate(offset)
        if self.zram is None:
            raise NotInMemory(f"{self.name} is on a disk: its content is to be given")
        return self.zram.locate(offset)

    def give(self, image: SwapImage) -> None:
        """Take the area's content from a file. Raises CommandError if it is another area's.

        Of a file whose blocks are smaller than pages the kernel leaves some out (generic_swapfile_activate()
        in mm/page_io.c): its slots are fewer than the header says, and not where the header's are.
        """
        if image.pages != self.pages:
            sizes = f"{image.pages} pages, that on {self.name} has {self.pages}"
            raise CommandError(f"{image.path}: another swap area: this one has {sizes}")
        self.image = image

    def _is_zero(self, offset: int) -> bool:
        """Pages of zeros are not written since Linux commit 0ca0c24e3211 ("mm: store zero pages to be swapped
        out in a bitmap") in v6.12; Linux commit d9ceded101a1 ("mm, swap: merge zeromap into swap table")
        moved the bits."""
        types, word = self.session.types, self.session.memory.word
        if types.has(AREA, "zeromap"):
            return self._bit(word(self.address + types.offset(AREA, "zeromap")), offset)
        if not self.cache.has_table or types.has(CLUSTER, "zero_bitmap"):  # of 32-bit machines
            return False
        return bool(self.cache.table_entry(self.address, offset) >> ZERO_FLAG & 1)

    def _bit(self, table: int, number: int) -> bool:
        return bool(table) and bool(self.session.memory.u8(table + number // 8) >> number % 8 & 1)

    @cached_property
    def zram(self) -> Zram | None:
        """The zram device that the area is; None for other disks, and for files."""
        from kcrash.linux.zram import Zram

        disk = self.value.bdev.bd_disk
        if not self.flags & SWP_BLKDEV or not disk.disk_name.string_().startswith(b"zram"):
            return None
        return Zram(self.session, int(disk.private_data), self.pages)

    @property
    def backing(self) -> Zram | None:
        """The zram device that the area is, if it has a device behind it."""
        with suppress(KcrashError):
            if self.zram is not None and self.zram.backing_name:
                return self.zram
        return None


def open_area(session: Session, cache: SwapCache, type_: int, address: int) -> SwapArea:
    """The area with a swap_info_struct. Raises CorruptData if it is not in use."""
    area = SwapArea(session, cache, type_, address) if address else None
    if area is None or not area.flags & SWP_USED:
        raise CorruptData(f"there is no swap area {type_}")
    return area
