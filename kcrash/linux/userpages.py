"""All memory of a process, wherever it is: page tables, page cache, swap cache, swap in memory.

What get_user_pages() would have found had the machine lived on (mm/gup.c), short of reading disks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, FaultReason, KcrashError, MemoryFault
from kcrash.linux.compressors import Stored
from kcrash.linux.mm import (
    VM_HUGETLB,
    VM_IO,
    VM_PFNMAP,
    Inode,
    Mm,
    Vma,
    file_inode,
    for_each_vma,
    read_mm,
    user_space,
)
from kcrash.linux.page import page_to_pfn
from kcrash.linux.pagecache import CachedPage, cached_pages
from kcrash.linux.swap import DEVICE, POISONED, Swapped, swap
from kcrash.memory.space import AddressSpace
from kcrash.memory.spans import Span, SpanKind, spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.session import Session

WINDOW = 512  # pages looked at together
MAX_SPECIAL = 256  # pages of a vdso


class State(IntEnum):
    """What is known of a page."""

    PRESENT = 0  # its frame or content is
    UNTOUCHED = 1  # the process would have read zeros
    NOT_CACHED = 2  # only the file on disk has it
    BEYOND = 3  # behind the end of the file: nothing to read
    SWAPPED = 4
    POISONED = 5
    DEVICE = 6  # I/O memory, or memory of a device
    LOST = 7  # the page table, or the file's tree of pages, is not in the dump

    @property
    def text(self) -> str:
        """As reports say it."""
        return _TEXTS[self]


_TEXTS = {
    State.PRESENT: "present",
    State.UNTOUCHED: "never touched",
    State.NOT_CACHED: "file page not in memory",
    State.BEYOND: "beyond the end of the file",
    State.SWAPPED: "swapped out",
    State.POISONED: "hardware poison",
    State.DEVICE: "device memory",
    State.LOST: "page table not in dump",
}
_SWAP_STATES = {POISONED: State.POISONED, DEVICE: State.DEVICE}


class Chunk(NamedTuple):
    """``pages`` neighbouring pages from ``start``.

    ``pfns``: the frame of each, -1 where it has none; ``states``: a `State` each;
    ``stored``: where those are that have none, by number. Where all pages are
    alike and have no frame, both arrays are None and ``state`` says how they are.
    """

    start: int
    pages: int
    pfns: NDArray[np.int64] | None
    states: NDArray[np.uint8] | None
    stored: dict[int, Stored]
    state: State = State.UNTOUCHED


class _Backing(NamedTuple):
    """The file behind a VMA. ``absent``: what a page is that its cache lacks; ``unit``: pages an index."""

    mapping: int
    absent: State
    pages: int
    shmem: bool
    unit: int


class UserMemory(AddressSpace):
    """A process's memory as the process saw it.

    ``mm``: address of its mm_struct; ``vmas``: its mappings; ``errors``: those
    that could not be read. Reading raises MemoryFault where memory is not to be had.
    """

    def __init__(self, session: Session, mm: int, name: str) -> None:
        super().__init__(name, session.arch.byte_order, session.arch.word_bytes)
        self.session = session
        self.mm: Mm = read_mm(session, mm)
        self.tables = user_space(session, self.mm, name)
        self.vmas: list[Vma] = []
        self.errors: list[KcrashError] = []
        for found in for_each_vma(session, mm):
            if isinstance(found, Vma):
                self.vmas.append(found)
            else:
                self.errors.append(found)
        self._starts = [vma.start for vma in self.vmas]
        self._shift = session.arch.page_shift
        self._size = session.arch.page_size
        self._backings: dict[int, _Backing | None] = {}

    # -- reading a little

    def find_vma(self, address: int) -> Vma | None:
        """The VMA that covers an address."""
        place = bisect_right(self._starts, address) - 1
        return self.vmas[place] if place >= 0 and address < self.vmas[place].end else None

    def read(self, address: int, size: int) -> bytes:
        """See AddressSpace."""
        pieces, end = [], address + size
        while address < end:
            offset = address % self._size
            count = min(self._size - offset, end - address)
            pieces.append(self._page(address - offset)[offset : offset + count])
            address += count
        return b"".join(pieces)

    def _page(self, address: int) -> bytes:
        vma = self.find_vma(address)
        if vma is None:
            raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)
        chunk = next(self.pages(vma, address, address + self._size))
        state = chunk.state if chunk.states is None else State(int(chunk.states[0]))
        if state is State.UNTOUCHED:
            return bytes(self._size)
        if state is not State.PRESENT:
            reason = FaultReason.SWAPPED if state is State.SWAPPED else FaultReason.NOT_IN_DUMP
            raise MemoryFault(self.name, address, reason, state.text)
        if 0 in chunk.stored:
            try:
                return chunk.stored[0]().page()
            except KcrashError as error:
                raise MemoryFault(self.name, address, FaultReason.SWAPPED, str(error)) from None
        assert chunk.pfns is not None
        try:
            return self.session.physical.read(int(chunk.pfns[0]) << self._shift, self._size)
        except MemoryFault as fault:
            raise MemoryFault(self.name, address, fault.reason, f"physical {fault.address:x}") from None

    # -- where all of it is

    def pages(self, vma: Vma, start: int | None = None, end: int | None = None) -> Iterator[Chunk]:
        """The pages of ``[start, end)`` (else the whole VMA) in order, without gaps.

        Chunks that have arrays are of at most WINDOW pages.
        """
        start, end = vma.start if start is None else start, vma.end if end is None else end
        if vma.flags & (VM_IO | VM_PFNMAP):  # no struct page behind it: check_vma_flags() in mm/gup.c
            yield Chunk(start, (end - start) >> self._shift, None, None, {}, State.DEVICE)
            return
        try:
            for span in spans(self.tables, start, end):
                yield from self._span(vma, span)
                start = span.end
        except CorruptData:
            yield Chunk(start, (end - start) >> self._shift, None, None, {}, State.LOST)

    def _span(self, vma: Vma, span: Span) -> Iterator[Chunk]:
        if span.kind is SpanKind.ABSENT:
            yield from self._absent(vma, span.start, span.end)
        elif span.kind is SpanKind.LOST:
            count = (span.end - span.start) >> self._shift
            yield Chunk(span.start, count, None, None, {}, State.LOST)
        elif span.kind is SpanKind.PAGES:
            yield self._small(vma, span)
        elif span.kind is SpanKind.LARGE:
            yield from self._frames(span.start, span.end, span.physical >> self._shift)
        else:
            yield from self._large_other(span)

    def _empty(self, start: int, count: int, state: State) -> Chunk:
        import numpy as np

        return Chunk(start, count, np.full(count, -1, "i8"), np.full(count, state, "u1"), {}, state)

    def _small(self, vma: Vma, span: Span) -> Chunk:
        """One page table's entries."""
        import numpy as np

        assert span.values is not None
        values = span.values
        chunk = self._empty(span.start, len(values), State.UNTOUCHED)
        assert chunk.pfns is not None and chunk.states is not None
        mapped, physical = self._decode(values, span.start >> self._shift)
        chunk.pfns[mapped] = (physical[mapped] >> np.uint64(self._shift)).astype("i8")
        chunk.states[mapped] = State.PRESENT
        for number in np.flatnonzero(~mapped & (values != 0) & (values != self.tables.paging.empty)):
            self._put(chunk, int(number), swap(self.session).entry(int(values[number])))
        missing = np.flatnonzero(chunk.states == State.UNTOUCHED)
        if len(missing) and self._backing(vma) is not None:
            self._fill(vma, chunk, missing)
        elif len(missing) and vma.ops:
            self._special(vma, chunk, missing)
        return chunk

    def _special(self, vma: Vma, chunk: Chunk, missing: NDArray[np.int64]) -> None:
        """Pages of the vdso that this process has not touched."""
        special = SpecialPages(self.session, self.mm)
        first = (chunk.start - vma.start) >> self._shift
        for number in missing[missing + first < MAX_SPECIAL]:
            pfn = special.pfn(vma, first + int(number))
            if pfn is not None:
                self._put(chunk, int(number), Swapped(pfn=pfn))

    def _decode(self, values: NDArray[np.uint64], first: int) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """Which entries map a page, and where it lies; ``first``: the number of their first virtual page."""
        import numpy as np

        mapped, physical = self._decode_each(values)
        if self.tables.paging.parts is not None:
            physical = physical + self.tables.paging.parts(
                values, np.arange(first, first + len(values), dtype="u8")
            )
        return mapped, physical

    def _decode_each(self, values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        paging = self.tables.paging
        if paging.decode_table is not None:
            return paging.decode_table(values)
        import numpy as np

        from kcrash.arch.base import EntryKind

        entries = [paging.decode(int(value), len(paging.levels) - 1) for value in values]
        mapped = np.array([entry.kind is EntryKind.LEAF for entry in entries], bool)
        return mapped, np.array([entry.address for entry in entries], "u8")

    def _put(self, chunk: Chunk, number: int, found: Swapped) -> None:
        assert chunk.pfns is not None and chunk.states is not None
        if found.pfn is not None:
            chunk.pfns[number], chunk.states[number] = found.pfn, State.PRESENT
        elif found.stored is not None:
            chunk.stored[number], chunk.states[number] = found.stored, State.PRESENT
        elif found.reason is not None:
            chunk.states[number] = _SWAP_STATES.get(found.reason, State.SWAPPED)

    def _frames(self, start: int, end: int, pfn: int) -> Iterator[Chunk]:
        """A large page, window by window."""
        import numpy as np

        while start < end:
            count = min((end - start) >> self._shift, WINDOW)
            yield Chunk(start, count, np.arange(pfn, pfn + count, dtype="i8"), np.zeros(count, "u1"), {})
            start, pfn = start + count * self._size, pfn + count

    def _large_other(self, span: Span) -> Iterator[Chunk]:
        """A large page that is being migrated; a poisoned or swapped one has no content here."""
        found = swap(self.session).entry(span.value)
        count = (span.end - span.start) >> self._shift
        if found.pfn is not None:
            inside = (span.start % span.page_size) >> self._shift
            yield from self._frames(span.start, span.end, found.pfn + inside)
        else:
            state = _SWAP_STATES.get(found.reason or "", State.SWAPPED if found.reason else State.UNTOUCHED)
            yield Chunk(span.start, count, None, None, {}, state)

    # -- pages that no page table maps

    def _absent(self, vma: Vma, start: int, end: int) -> Iterator[Chunk]:
        """A stretch without page tables: what the file's cache has of it, window by window."""
        import numpy as np

        backing, position = self._backing(vma), start
        if backing is None and vma.ops and end - start <= WINDOW * self._size:
            window = self._empty(start, (end - start) >> self._shift, State.UNTOUCHED)
            self._special(vma, window, np.arange(window.pages))
            yield window
            return
        if backing is not None:
            for cached in self._cached(vma, backing, start, end):
                address = vma.start + ((cached.place - vma.pgoff) << self._shift)
                if address < position:
                    continue
                if address > position:
                    yield from self._gap(vma, backing, position, address)
                window = self._empty(address, min((end - address) >> self._shift, WINDOW), backing.absent)
                self._fill(vma, window, np.arange(window.pages))
                yield window
                position = address + window.pages * self._size
        yield from self._gap(vma, backing, position, end)

    def _gap(self, vma: Vma, backing: _Backing | None, start: int, end: int) -> Iterator[Chunk]:
        """Pages that nothing holds, up to the file's end and behind it."""
        state = State.UNTOUCHED if backing is None else backing.absent
        border = end
        if backing is not None:
            border = min(max(vma.start + ((backing.pages - vma.pgoff) << self._shift), start), end)
        for low, high, how in ((start, border, state), (border, end, State.BEYOND)):
            if low < high:
                yield Chunk(low, (high - low) >> self._shift, None, None, {}, how)

    def _fill(self, vma: Vma, chunk: Chunk, missing: NDArray[np.int64]) -> None:
        """Look in the page cache for the pages with the numbers ``missing``."""
        import numpy as np

        backing = self._backing(vma)
        assert backing is not None and chunk.pfns is not None and chunk.states is not None
        chunk.states[missing] = backing.absent
        index = vma.pgoff + ((chunk.start - vma.start) >> self._shift)
        chunk.states[missing[missing + index >= backing.pages]] = State.BEYOND
        low, high = int(missing[0]), int(missing[-1])
        wanted = np.zeros(chunk.pages, bool)
        wanted[missing] = True
        start = chunk.start + low * self._size
        for cached in self._cached(vma, backing, start, chunk.start + (high + 1) * self._size):
            number = cached.place - index
            if not 0 <= number < chunk.pages or not wanted[number]:
                continue
            if cached.swapped is None:
                chunk.pfns[number], chunk.states[number] = cached.pfn, State.PRESENT
            elif backing.shmem:
                self._put(chunk, number, swap(self.session).value_entry(cached.swapped))

    def _cached(self, vma: Vma, backing: _Backing, start: int, end: int) -> Iterator[CachedPage]:
        """The cache's pages of an address range, by small page; nothing where its tree is broken."""
        first = vma.pgoff + ((start - vma.start) >> self._shift)
        last = vma.pgoff + ((end - 1 - vma.start) >> self._shift)
        unit = backing.unit
        try:
            for cached in cached_pages(self.session, backing.mapping, first // unit, last // unit):
                if unit == 1:
                    yield cached
                    continue
                low = max(cached.place * unit, first)
                for index in range(low, min((cached.place + 1) * unit, last + 1)):
                    yield CachedPage(index, cached.pfn + index - cached.place * unit, cached.swapped)
        except (MemoryFault, CorruptData):
            return

    def _backing(self, vma: Vma) -> _Backing | None:
        """The cache behind a VMA; None for anonymous memory (vma_is_anonymous(): it has no vm_ops)."""
        if vma.address not in self._backings:
            try:
                self._backings[vma.address] = self._find_backing(vma)
            except KcrashError:
                self._backings[vma.address] = _Backing(0, State.LOST, 1 << 52, False, 1)
        return self._backings[vma.address]

    def _find_backing(self, vma: Vma) -> _Backing | None:
        if not vma.file or not vma.ops:
            return None
        inode = file_inode(self.session, vma.file)
        pages = (inode.size + self._size - 1) >> self._shift
        known = self.session.symbols.find_kernel
        if vma.flags & VM_HUGETLB:
            return _Backing(inode.mapping, State.UNTOUCHED, pages, False, self._huge_unit(inode))
        if inode.a_ops and inode.a_ops == known("shmem_aops"):
            return _Backing(inode.mapping, State.UNTOUCHED, pages, True, 1)
        return _Backing(inode.mapping, State.NOT_CACHED, pages, False, 1)

    def _huge_unit(self, inode: Inode) -> int:
        """Huge pages were counted in units of their own until Linux commit a08c7193e4f1 ("mm/filemap:
        remove hugetlb special casing in filemap.c") in v6.7, which took hugetlb_basepage_index() away."""
        if self.session.symbols.find_kernel("hugetlb_basepage_index") is None:
            return 1
        block = self.session.value("struct inode", inode.address).i_sb.s_blocksize
        return max(int(block) >> self._shift, 1)


class SpecialPages:
    """Pages that the kernel maps into every process: vdso (struct vm_special_mapping, mm/mmap.c)."""

    def __init__(self, session: Session, mm: Mm) -> None:
        self.session = session
        self.mm = session.value("struct mm_struct", mm.address)

    def pfn(self, vma: Vma, number: int) -> int | None:
        """The frame of a special mapping's page ``number``; None if it cannot be told."""
        try:
            return self._from_pages(vma, number) or self._from_image(vma, number)
        except KcrashError:
            return None

    def _from_pages(self, vma: Vma, number: int) -> int | None:
        types, word = self.session.types, self.session.memory.word
        private = word(vma.address + types.offset("struct vm_area_struct", "vm_private_data"))
        pages = word(private + types.offset("struct vm_special_mapping", "pages")) if private else 0
        page = word(pages + number * self.session.arch.word_bytes) if pages else 0
        return page_to_pfn(self.session, page) if page else None

    def _from_image(self, vma: Vma, number: int) -> int | None:
        """x86 maps the pages of a struct vdso_image by hand (arch/x86/entry/vdso/vma.c)."""
        if not self.mm.has_("context.vdso_image") or int(self.mm.context.vdso) != vma.start:
            return None
        image = self.mm.context.vdso_image
        offset = number * self.session.arch.page_size
        if offset >= int(image.size):
            return None
        return self.session.memory.translate(int(image.data) + offset) >> self.session.arch.page_shift
