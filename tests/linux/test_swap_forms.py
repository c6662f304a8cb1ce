"""Forms of swap that no kernel of the lab has: zswap with red-black trees and zbud, v6.18's swap table."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.compressors import UnknownCompressor, codec
from kcrash.linux.swap import POISONED, SWAPPED, Swap, Swapped
from kcrash.linux.swap_cache import SwapCache
from kcrash.linux.zswap import zswap
from tests.linux.synthetic import Kernel

PAGE_SIZE = 4096
PAGE = bytes(range(256)) * 16


def _packed(page: bytes) -> bytes:
    """As crypto/deflate.c does: no header."""
    made = zlib.compressobj(wbits=-11)
    return made.compress(page) + made.flush()


class Zswapped(Kernel):
    """zswap as v6.1 has it: one tree an area, sorted by offset; objects of zbud, after a zswap_header."""

    def __init__(self, kind: bytes = b"zbud", compressor: bytes = b"deflate", evictable: int = 1) -> None:
        super().__init__()
        self.struct("rb_node", __rb_parent_color="unsigned long", rb_right="void *", rb_left="void *")
        self.struct("rb_root", rb_node="void *")
        self.struct("zpool_driver", type="char *")
        self.struct("zpool", driver="struct zpool_driver *", pool="void *", evictable="char")
        self.struct("zswap_pool", zpool="struct zpool *", tfm_name="char [128]")
        self.struct(
            "zswap_entry", rbnode="struct rb_node", offset="unsigned long", refcount="int",
            length="unsigned int", pool="struct zswap_pool *", handle="unsigned long",
        )  # fmt: skip
        self.header = 8 * evictable
        driver = self.new("struct zpool_driver", type=self.memory.add(kind + b"\0"))
        zpool = self.new("struct zpool", driver=driver, evictable=bytes([evictable]))
        self.pool = self.new("struct zswap_pool", zpool=zpool, tfm_name=compressor)
        self.tree = self.new("struct rb_root")
        self.symbol("zswap_trees", self.words(0, self.tree), 16)

    def entry(self, offset: int, length: int, handle: int) -> int:
        return self.new(
            "struct zswap_entry", offset=offset, length=length, handle=handle, pool=self.pool, refcount=1
        )

    def stored(self, offset: int, page: bytes) -> int:
        data = _packed(page)
        return self.entry(offset, len(data), self.memory.add(b"\xaa" * self.header + data))

    def hang(self, root: int, left: int, right: int) -> None:
        self.set("struct rb_root", self.tree, rb_node=root)
        self.set("struct zswap_entry", root, rbnode__rb_left=left, rbnode__rb_right=right)

    def page(self, offset: int, type_: int = 1) -> bytes | None:
        found = zswap(self.session)
        assert found is not None
        stored = found.locate(type_, offset)
        return None if stored is None else stored().page()


@pytest.mark.parametrize("evictable", [0, 1])
def test_red_black_tree(evictable: int) -> None:
    kernel = Zswapped(evictable=evictable)
    pages = {3: PAGE, 9: PAGE[::-1]}
    low, high = (kernel.stored(offset, page) for offset, page in pages.items())
    middle = kernel.entry(5, 0, 0x4141414141414141)  # of one value: no object
    kernel.hang(middle, low, high)
    assert {offset: kernel.page(offset) for offset in (3, 5, 9)} == {**pages, 5: b"A" * 4096}
    assert kernel.page(4) is None
    assert kernel.page(10) is None
    assert kernel.page(3, type_=0) is None


class Threefold(Zswapped):
    """A page of z3fold with three objects, whose slots are numbered from ``first`` on."""

    def __init__(self, first: int) -> None:
        super().__init__(b"z3fold")
        self.first = first
        self.memory.data += bytes(-len(self.memory.data) % PAGE_SIZE)
        self.at = self.memory.add(bytes(PAGE_SIZE))
        self.memory.write(self.at + 80, (40 | first << 16).to_bytes(4, "little"))  # start_middle, first_num

    def object(self, buddy: int, page: bytes) -> tuple[int, int]:
        """``(length, handle)``; the header takes two chunks of 64 bytes, the last object ends the page."""
        data = b"\xaa" * self.header + _packed(page)
        chunks = (len(data) + 63) // 64
        offset = {1: 128, 2: 40 * 64, 3: PAGE_SIZE - chunks * 64}[buddy]
        self.memory.write(self.at + offset, data)
        slot = self.at | buddy + self.first & 3 | (chunks << 2 if buddy == 3 else 0)
        return len(data) - self.header, self.words(slot)


@pytest.mark.parametrize("first", range(4))
def test_three_objects_a_page(first: int) -> None:
    kernel = Threefold(first)
    pages = {3: PAGE, 5: PAGE[::-1], 9: bytes(100) + PAGE[100:]}
    entries = [
        kernel.entry(offset, *kernel.object(buddy, page))
        for buddy, (offset, page) in enumerate(pages.items(), 1)
    ]
    kernel.hang(entries[1], entries[0], entries[2])
    assert {offset: kernel.page(offset) for offset in pages} == pages


def test_an_object_of_a_whole_page() -> None:
    kernel = Threefold(0)
    kernel.memory.write(kernel.at, b"\xaa" * 8 + _packed(PAGE))
    kernel.hang(kernel.entry(5, len(_packed(PAGE)), kernel.at | 1), 0, 0)
    assert kernel.page(5) == PAGE


@pytest.mark.parametrize("slot", [0, 3 | 1 << 2, 3 | 0x3F << 2])
def test_slots_that_make_no_sense(slot: int) -> None:
    kernel = Threefold(0)
    kernel.hang(kernel.entry(5, 200, kernel.words(kernel.at | slot)), 0, 0)
    with pytest.raises(CorruptData, match="no object behind handle"):
        kernel.page(5)


def test_tree_that_loops() -> None:
    kernel = Zswapped()
    entry = kernel.stored(5, PAGE)
    kernel.hang(entry, entry, entry)
    with pytest.raises(CorruptData):
        kernel.page(4)


def test_what_cannot_be_read() -> None:
    for kernel, message in (
        (Zswapped(b"zfold"), "zfold"),
        (Zswapped(compressor=b"lzma"), "nothing decompresses pages of 'lzma'"),
    ):
        entry = kernel.stored(5, PAGE)
        kernel.hang(entry, 0, 0)
        with pytest.raises(KcrashError, match=message):
            kernel.page(5)
    kernel = Zswapped()
    kernel.hang(kernel.entry(5, 1 << 20, 0), 0, 0)
    with pytest.raises(CorruptData, match="claims 1048576 bytes"):
        kernel.page(5)
    with pytest.raises(UnknownCompressor):
        codec("lzma")


def test_no_zswap() -> None:
    assert zswap(Kernel().session) is None


# -- the swap table

UPTODATE = 1 << 2
SLOTS = 512
SWAP_TYPE = 1


class Tabled(Kernel):
    """A swap area of two clusters of SLOTS slots; frames' struct pages, the first at page frame 0."""

    def __init__(self) -> None:
        super().__init__()
        self.struct("swap_table", entries=f"unsigned long [{SLOTS}]")
        self.struct("swap_cluster_info", count="unsigned long", table="unsigned long *")
        self.struct("swap_info_struct", max="unsigned int", cluster_info="struct swap_cluster_info *")
        self.struct("page", flags="unsigned long", private="unsigned long")
        self.pages = [self.new("struct page", flags=UPTODATE) for _ in range(8)]
        assert {b - a for a, b in pairwise(self.pages)} == {self.types.size("struct page")}
        self.symbol("vmemmap_base", self.words(self.pages[0]))
        self.table = self.new("struct swap_table")
        clusters = self.memory.add(bytes(2 * self.types.size("struct swap_cluster_info")))
        size = self.types.size("struct swap_cluster_info")
        self.set("struct swap_cluster_info", clusters + size, table=self.table)
        self.area = self.new("struct swap_info_struct", max=2 * SLOTS, cluster_info=clusters)

    def put(self, slot: int, entry: int) -> None:
        self.memory.write(self.table + 8 * slot, entry.to_bytes(8, "little"))

    def find(self, offset: int) -> int | None:
        return SwapCache(self.session).find(SWAP_TYPE, self.area, offset)


def _swapped(offset: int) -> int:
    return SWAP_TYPE << 58 | offset


@pytest.mark.parametrize("form", ["pointer", "frame", "frame with flags"])
def test_swap_table(form: str) -> None:
    kernel = Tabled()
    offset = SLOTS + 7
    kernel.set("struct page", kernel.pages[4], private=_swapped(offset))
    frame = 4 << 2 | 2
    entry = {"pointer": kernel.pages[4], "frame": frame, "frame with flags": frame | 0b10011 << 59}[form]
    for slot in (7, 8):  # a folio of two pages
        kernel.put(slot, entry)
    assert kernel.find(offset) == 4
    assert kernel.find(offset + 1) == 5
    assert kernel.find(7) is None  # a cluster without a table
    assert kernel.find(offset + 5) is None
    kernel.put(12, 0x1234 << 1 | 1)  # a shadow
    assert kernel.find(SLOTS + 12) is None
    kernel.put(13, (1 << 64) - 8)  # a bad slot
    with pytest.raises(KcrashError):
        kernel.find(SLOTS + 13)


def test_page_that_is_being_read_in() -> None:
    kernel = Tabled()
    kernel.set("struct page", kernel.pages[4], private=_swapped(SLOTS), flags=0)
    kernel.put(0, 4 << 2 | 2)
    assert kernel.find(SLOTS) is None


def test_page_of_another_slot() -> None:
    kernel = Tabled()
    for private in (_swapped(SLOTS + 1), 2 << 58 | SLOTS, _swapped(0)):
        kernel.set("struct page", kernel.pages[4], private=private)
        kernel.put(0, 4 << 2 | 2)
        assert kernel.find(SLOTS) is None


# -- entries that are no swap (include/linux/swapops.h)


@pytest.mark.parametrize("poison", [True, False])
def test_entries_of_the_highest_types(poison: bool) -> None:
    """A poisoned page, three kinds of pages on their way to another frame, and a marker, as of v6.1."""
    kernel = Kernel()
    kernel.struct("page", flags="unsigned long", private="unsigned long")
    limit = 32 - 3 - 1 - poison  # no memory of devices
    kernel.symbol("swap_info", kernel.words(*[0] * limit), 8 * limit)
    if poison:
        kernel.symbol("num_poisoned_pages", kernel.words(0))
    swap = Swap(kernel.session)
    assert swap.find(limit, 0x1234).reason == (POISONED if poison else None)
    moving = [swap.find(limit + poison + number, 0x1234) for number in range(3)]
    assert moving == [Swapped(pfn=0x1234)] * 3
    # Above the frame number are the accessed and dirty bits that the page had.
    assert swap.find(limit + poison, 3 << 40 | 0x1234) == Swapped(pfn=0x1234)
    assert swap.find(31, 2) == Swapped()
    assert swap.find(1, 5).reason == SWAPPED
    assert swap.take_problems() == ["there is no swap area 1"]
