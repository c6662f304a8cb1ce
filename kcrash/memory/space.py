"""Reading memory at an address of some space.

Every space reads bytes and integers; a paged one walks page tables whose form
is data (kcrash.arch.base.Paging). Page-table pages are kept, so that a walk of
neighbouring addresses costs a dictionary lookup a level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from kcrash.arch.base import Entry, EntryKind, LinearRange, Paging
from kcrash.errors import CorruptData, FaultReason, MemoryFault

if TYPE_CHECKING:
    from kcrash.dump.base import Dump

MAX_TABLES = 4096  # page-table pages kept per space: 16 MiB
MAX_WALKED = 1 << 17  # tables that one runs() looks at: 256 GiB mapped by 4 KiB pages, far more by larger
STRING_CHUNK = 256


class AddressSpace(ABC):
    """``name`` is what faults and messages call it."""

    def __init__(self, name: str, byte_order: str, word_bytes: int) -> None:
        self.name = name
        self.byte_order = byte_order
        self.word_bytes = word_bytes
        order = "<" if byte_order == "little" else ">"
        self._u8 = Struct("B").unpack
        self._u16 = Struct(order + "H").unpack
        self._u32 = Struct(order + "I").unpack
        self._u64 = Struct(order + "Q").unpack
        self._order = order

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises MemoryFault with the first address that failed."""

    def try_read(self, address: int, size: int) -> bytes | None:
        """As read(), None where it faults."""
        try:
            return self.read(address, size)
        except MemoryFault:
            return None

    def u8(self, address: int) -> int:
        """Unsigned 8-bit integer."""
        value: int = self._u8(self.read(address, 1))[0]
        return value

    def u16(self, address: int) -> int:
        """Unsigned 16-bit integer in the machine's byte order."""
        value: int = self._u16(self.read(address, 2))[0]
        return value

    def u32(self, address: int) -> int:
        """Unsigned 32-bit integer in the machine's byte order."""
        value: int = self._u32(self.read(address, 4))[0]
        return value

    def u64(self, address: int) -> int:
        """Unsigned 64-bit integer in the machine's byte order."""
        value: int = self._u64(self.read(address, 8))[0]
        return value

    def word(self, address: int) -> int:
        """Unsigned integer of a pointer's size."""
        return self.u64(address) if self.word_bytes == 8 else self.u32(address)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` unsigned integers of a pointer's size."""
        form = f"{self._order}{count}{'Q' if self.word_bytes == 8 else 'I'}"
        return Struct(form).unpack(self.read(address, count * self.word_bytes))

    def string(self, address: int, limit: int = 4096) -> bytes:
        """The bytes up to a NUL, at most ``limit``. Faults only if the very first bytes cannot be read."""
        out = b""
        while len(out) < limit:
            # Ends at a chunk boundary, so that a string at the end of a mapping does not fault.
            size = min(STRING_CHUNK - address % STRING_CHUNK, limit - len(out))
            try:
                piece = self.read(address, size)
            except MemoryFault:
                if not out:
                    raise
                break
            end = piece.find(b"\0")
            if end >= 0:
                return out + piece[:end]
            out += piece
            address += size
        return out


class PhysicalSpace(AddressSpace):
    """The machine's RAM as the dump holds it."""

    def __init__(self, dump: Dump, byte_order: str, word_bytes: int) -> None:
        super().__init__("physical", byte_order, word_bytes)
        self.dump = dump
        self.read = dump.read  # type: ignore[method-assign]  # one call less on the hottest path

    def read(self, address: int, size: int) -> bytes:
        return self.dump.read(address, size)


class Step(NamedTuple):
    """One level of a page-table walk.

    ``level``: index into ``Paging.levels``; ``entry_address``: physical address
    of the entry; ``value``: as it stands in memory; ``entry``: decoded.
    """

    level: int
    entry_address: int
    value: int
    entry: Entry


class Run(NamedTuple):
    """Virtual bytes ``[start, start + size)`` of one mapping state.

    ``physical``: address, or None where nothing is mapped; ``value``: the
    entry's raw value (0 where a table is absent); ``page_size``: bytes a leaf.
    """

    start: int
    size: int
    physical: int | None
    value: int
    page_size: int


class PagedSpace(AddressSpace):
    """Virtual memory behind page tables.

    ``top``: physical address of the top table; ``entry_order``: of the bytes of table entries, as struct
    and numpy spell it; ``linear``: ranges that need no
    walk (the kernel's direct map and image); ``limit``: first address above a
    user space, whose tables have the kernel's half too.
    """

    def __init__(
        self,
        name: str,
        physical: AddressSpace,
        paging: Paging,
        top: int | None,
        linear: Sequence[LinearRange] = (),
        limit: int | None = None,
    ) -> None:
        super().__init__(name, physical.byte_order, physical.word_bytes)
        self.physical = physical
        self.paging = paging
        self.top = top
        self.limit = limit
        self.linear = tuple(linear)
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._pages: dict[int, tuple[int, int]] = {}
        self._page_shift = paging.levels[-1].shift
        self._page_mask = (1 << self._page_shift) - 1
        self._mask = (1 << paging.canonical_bits) - 1
        self.entry_order = {"little": "<", "big": ">"}[paging.byte_order or self.byte_order]

    # -- translation

    def _table(self, address: int, level: int) -> Any:
        """The table at a physical address as a sequence of integers."""
        table = self._tables.get(address)
        if table is None:
            size = self.paging.entry_size << self.paging.levels[level].bits
            data = self.physical.read(address, size)
            code = "Q" if self.paging.entry_size == 8 else "I"
            table = Struct(f"{self.entry_order}{size // self.paging.entry_size}{code}").unpack(data)
            self._tables[address] = table
            if len(self._tables) > MAX_TABLES:
                self._tables.popitem(last=False)
        return table

    def walk(self, address: int) -> Iterator[Step]:
        """The entries that the hardware would visit for ``address``, until a leaf or a hole.

        Raises MemoryFault if a table itself is not in the dump.
        """
        if self.top is None or not self.canonical(address):
            return
        table, low = self.top, address & self._mask
        for number, level in enumerate(self.paging.levels):
            index = low >> level.shift & (1 << level.bits) - 1
            value = self._table(table, number)[index]
            entry = self.paging.decode(value, number)
            yield Step(number, table + index * self.paging.entry_size, value, entry)
            if entry.kind is not EntryKind.TABLE:
                return
            table = entry.address

    def translate(self, address: int) -> int:
        """The physical address behind ``address``. Raises MemoryFault (NOT_MAPPED, SWAPPED ...)."""
        for start, end, physical in self._linear_triples:
            if start <= address < end:
                return address - start + physical
        return self._translate_paged(address)

    @property
    def linear(self) -> tuple[LinearRange, ...]:
        """Ranges that are translated by an offset alone."""
        return self._linear

    @linear.setter
    def linear(self, ranges: Sequence[LinearRange]) -> None:
        self._linear = tuple(ranges)
        self._linear_triples = [(r.start, r.end, r.physical) for r in self._linear]

    def _translate_paged(self, address: int) -> int:
        page = address >> self._page_shift
        found = self._pages.get(page)
        if found is None:
            found = self._lookup(address)
            if len(self._pages) > 65536:
                self._pages.clear()
            self._pages[page] = found
        base, mask = found
        return base + (address & mask)

    def _lookup(self, address: int) -> tuple[int, int]:
        """``(physical address of the page, offset mask)`` of the leaf that maps ``address``."""
        plain = self._untagged(address)
        if plain != address:
            return self.translate(plain) & ~self._page_mask, self._page_mask
        try:
            for step in self.walk(address):
                if step.entry.kind is EntryKind.LEAF:
                    mask = (1 << (step.entry.shift or self.paging.levels[step.level].shift)) - 1
                    return step.entry.address, mask
                if step.entry.kind is EntryKind.OTHER:
                    raise MemoryFault(self.name, address, FaultReason.SWAPPED)
        except MemoryFault as fault:
            if fault.space == self.name:
                raise
            raise MemoryFault(self.name, address, fault.reason, "its page table") from None
        raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)

    def _untagged(self, address: int) -> int:
        """The address without what translation ignores: those bits as bit 55 has them (arm64)."""
        ignored = self.paging.ignored_bits
        if not ignored:
            return address
        return address | ignored if address >> 55 & 1 else address & ~ignored

    def canonical(self, address: int) -> bool:
        """True if the hardware would translate ``address`` at all, and for this space."""
        if self.limit is not None and address >= self.limit:
            return False
        if self.paging.regions:
            return address >> self.paging.canonical_bits in self.paging.regions
        if not self.paging.signed:
            return address >> self.paging.canonical_bits == 0
        top = address >> self.paging.canonical_bits - 1
        return top == 0 or top == (1 << 8 * self.word_bytes - self.paging.canonical_bits + 1) - 1

    def forget(self) -> None:
        """Read page tables anew from now on: a running system changes them."""
        self._tables.clear()
        self._pages.clear()

    # -- reading

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes; see AddressSpace.read()."""
        for start, end, physical in self._linear_triples:
            if start <= address and address + size <= end:
                return self._read_physical(address, address - start + physical, size)
        return self._read_paged(address, size)

    def _read_physical(self, address: int, physical: int, size: int) -> bytes:
        try:
            return self.physical.read(physical, size)
        except MemoryFault as fault:
            failed = address + fault.address - physical
            raise MemoryFault(self.name, failed, fault.reason, f"physical {fault.address:x}") from None

    def _read_paged(self, address: int, size: int) -> bytes:
        page = 1 << self._page_shift
        first = page - address % page
        if size <= first:
            return self._read_physical(address, self.translate(address), size)
        pieces, end = [], address + size
        while address < end:
            count = min(page - address % page, end - address)
            pieces.append(self._read_physical(address, self.translate(address), count))
            address += count
        return b"".join(pieces)

    # -- bulk

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """How ``[start, end)`` is mapped: neighbouring pages that go on physically make one run.

        Holes are runs with ``physical`` None; pages whose table is not in the
        dump count as holes with value 0. Swap entries are runs of one page.
        Raises CorruptData for tables without end (some that refer to themselves).
        """
        if self.top is not None:
            yield from _merge(self._leaves(self.top, 0, start, end, count()))

    def _leaves(self, table: int, number: int, start: int, end: int, walked: Iterator[int]) -> Iterator[Run]:
        level = self.paging.levels[number]
        span = 1 << level.shift
        if next(walked) > MAX_WALKED:
            raise CorruptData(f"{self.name}: more page tables than any machine has")
        try:
            entries = self._table(table, number)
        except MemoryFault:
            yield Run(start, end - start, None, 0, span)
            return
        position = start
        while position < end:
            stop = min((position | span - 1) + 1, end)
            value = entries[position >> level.shift & (1 << level.bits) - 1]
            entry = self.paging.decode(value, number)
            if entry.kind is EntryKind.TABLE:
                yield from self._leaves(entry.address, number + 1, position, stop, walked)
            elif entry.kind is EntryKind.LEAF:
                whole = 1 << entry.shift if entry.shift else span
                yield Run(position, stop - position, entry.address + position % whole, value, whole)
            else:
                yield Run(position, stop - position, None, value, span)
            position = stop


def _merge(runs: Iterator[Run]) -> Iterator[Run]:
    current: Run | None = None
    for run in runs:
        if current is not None and _continues(current, run):
            current = current._replace(size=current.size + run.size)
            continue
        if current is not None:
            yield current
        current = run
    if current is not None:
        yield current


def _continues(current: Run, run: Run) -> bool:
    if current.physical is None or run.physical is None:
        return current.physical is run.physical and current.value == run.value == 0
    return current.physical + current.size == run.physical and current.page_size == run.page_size
