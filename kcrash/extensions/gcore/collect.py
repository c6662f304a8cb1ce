"""A process's pages: what there is (survey), and the pages themselves, in bounded batches.

Nothing here grows with the size of the process: tables are read one by one, and
at most BATCH pages are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from kcrash.dump.base import CORRUPT, EXCLUDED, NOT_IN_DUMP, PRESENT, TRUNCATED
from kcrash.dump.workers import workers
from kcrash.errors import FaultReason, KcrashError
from kcrash.extensions.gcore.report import SegmentReport
from kcrash.extensions.gcore.segments import Segment
from kcrash.linux.compressors import Packed, Stored
from kcrash.linux.mm import VM_IO, VM_PFNMAP
from kcrash.linux.swap import swap
from kcrash.linux.userpages import Chunk, State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.extensions.gcore.process import Process

T = TypeVar("T")
BATCH = 2048  # pages; 8 MiB of 4 KiB pages
MAX_WRITES = 4096  # that are handed over together
NOT_ZERO_LEVELS = 0xE  # makedumpfile -d: what leaves out mapped pages for other reasons than being zero
_REASONS = {
    NOT_IN_DUMP: FaultReason.NOT_IN_DUMP.value,
    EXCLUDED: FaultReason.EXCLUDED.value,
    TRUNCATED: FaultReason.TRUNCATED.value,
    CORRUPT: FaultReason.CORRUPT.value,
}


class Batch(NamedTuple):
    """Neighbouring pages from ``start``: their frames (-1: none), their `State`, where those without a frame
    are, by number."""

    start: int
    pfns: NDArray[np.int64]
    states: NDArray[np.uint8]
    stored: dict[int, Stored]


class Ready(NamedTuple):
    """What is to be written: (offset in the file, bytes), in order; and how many pages were read for it."""

    writes: list[tuple[int, NDArray[np.uint8] | bytes]]
    pages: int


class Collector:
    """Finds and reads the pages of one process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.session = process.session
        self.dump = process.session.dump
        self.page_size = process.session.arch.page_size
        level = self.dump.info.dump_level
        #: True where a page can have been left out only for being zero.
        self.excluded_is_zero = level is not None and not level & NOT_ZERO_LEVELS

    # -- what there is

    def survey(self, segment: Segment) -> SegmentReport:
        """Count the pages of a segment, without reading them."""
        report = SegmentReport(segment)
        for piece in self._pieces(segment):
            if isinstance(piece, Batch):
                self._count(report, piece)
            else:
                self._count_alike(report, piece)
        return report

    def _count_alike(self, report: SegmentReport, chunk: Chunk) -> None:
        if report.segment.vma.flags & (VM_IO | VM_PFNMAP):
            report.undumped += chunk.pages
        elif chunk.state in (State.UNTOUCHED, State.BEYOND):
            report.zero += chunk.pages
        elif chunk.state is State.PRESENT:
            report.present += chunk.pages
        else:
            report.lose(chunk.start, chunk.pages, chunk.state.text, self.page_size)

    def _count(self, report: SegmentReport, batch: Batch) -> None:
        import numpy as np

        reasons = batch.states.astype("u2")
        framed = np.flatnonzero(batch.pfns >= 0)
        if len(framed):
            dumped = self.dump.page_states(batch.pfns[framed].astype("u8"), self.page_size)
            reasons[framed] = np.where(dumped == PRESENT, 0, dumped.astype("u2") + 256)
        if self.excluded_is_zero:
            reasons[reasons == 256 + EXCLUDED] = State.UNTOUCHED
        edges = np.flatnonzero(np.diff(reasons)) + 1
        for first, last in zip((0, *edges), (*edges, len(reasons)), strict=True):
            self._count_run(report, batch.start, int(first), int(last), int(reasons[first]))

    def _count_run(self, report: SegmentReport, start: int, first: int, last: int, code: int) -> None:
        pages, address = last - first, start + first * self.page_size
        if code >= 256:
            reason = _REASONS.get(code - 256, FaultReason.NOT_IN_DUMP.value)
            report.lose(address, pages, reason, self.page_size)
        else:
            self._count_alike(report, Chunk(address, pages, None, None, {}, State(code)))

    # -- in bounded pieces

    def _pieces(self, segment: Segment) -> Iterator[Batch | Chunk]:
        """The segment's pages: batches where pages differ, chunks where all are alike and have no frame."""
        if not segment.size:
            return
        vma = segment.vma
        if self.process.memory.find_vma(vma.start) != vma:
            yield self._gate(segment)
            return
        pending: list[Chunk] = []
        for chunk in self.process.memory.pages(vma, vma.start, vma.start + segment.size):
            full = sum(other.pages for other in pending) + chunk.pages > BATCH
            if pending and (full or chunk.pfns is None):
                yield _joined(pending)
                pending = []
            if chunk.pfns is None:
                yield chunk
            else:
                pending.append(chunk)
        if pending:
            yield _joined(pending)

    def _gate(self, segment: Segment) -> Batch:
        """The page above user space, through the kernel's tables; zeros if it is not there."""
        import numpy as np

        size, start = self.page_size, segment.vma.start
        count = segment.size // size
        there = self.session.memory.try_read(start, segment.size) is not None

        def page(number: int) -> Packed:
            return Packed(self.session.memory.read(start + number * size, size), size)

        pages: dict[int, Stored] = {n: partial(page, n) for n in range(count)} if there else {}
        state = State.PRESENT if there else State.UNTOUCHED
        return Batch(start, np.full(count, -1, "i8"), np.full(count, state, "u1"), pages)

    # -- the pages themselves

    def read(self, segment: Segment, offset: int, lost: list[tuple[int, str]]) -> Iterator[Ready]:
        """The segment's pages in order, zeros left out; ``offset``: of the segment in the file.

        ``lost``: gets address and reason of pages that could not be read although they seemed to be there.
        """
        for piece in self._pieces(segment):
            if isinstance(piece, Batch):
                yield self._read_batch(piece, offset + piece.start - segment.vma.start, lost)

    def _read_batch(self, batch: Batch, offset: int, lost: list[tuple[int, str]]) -> Ready:
        import numpy as np

        numbers = np.flatnonzero(batch.pfns >= 0)
        pieces: list[tuple[int, NDArray[np.uint8] | bytes]] = []
        count = 0
        if len(numbers):
            data, states = self.dump.read_pages(batch.pfns[numbers].astype("u8"), self.page_size)
            corrupt = numbers[states == CORRUPT]
            lost += [(batch.start + int(n) * self.page_size, FaultReason.CORRUPT.value) for n in corrupt]
            wanted = (states == PRESENT) & data.view("u8").any(axis=1)
            pieces += _runs(numbers, wanted, data)
            count += int((states == PRESENT).sum())
        zeros = bytes(self.page_size)
        for number, page in self._expanded(batch.stored):
            if page is None:
                lost.append((batch.start + number * self.page_size, State.SWAPPED.text))
                continue
            count += 1
            if page != zeros:
                pieces.append((number, page))
        pieces.sort(key=lambda piece: piece[0])
        return Ready([(offset + number * self.page_size, content) for number, content in pieces], count)

    def _expanded(self, stored: dict[int, Stored]) -> Iterator[tuple[int, bytes | None]]:
        """The pages by number, None for those that turn out to be broken: fetched here, one after the other,
        and decompressed by all CPUs."""
        packed = [(number, self._attempt(fetch)) for number, fetch in stored.items()]
        pages = workers().map(self._page, (found for _number, found in packed)) if packed else ()
        yield from zip((number for number, _found in packed), pages, strict=True)

    def _page(self, packed: Packed | None) -> bytes | None:
        return None if packed is None else self._attempt(packed.page)

    def _attempt(self, make: Callable[[], T]) -> T | None:
        """``make()``; None, and a line in the report, if it fails."""
        try:
            return make()
        except KcrashError as error:
            swap(self.session).note(error)
            return None


def grouped(parts: Iterable[Ready]) -> Iterator[Ready]:
    """``parts``, small ones joined: thousands of mappings are not handed over one by one."""
    writes: list[tuple[int, NDArray[np.uint8] | bytes]] = []
    pages = 0
    for part in parts:
        writes += part.writes
        pages += part.pages
        if pages >= BATCH // 2 or len(writes) >= MAX_WRITES:
            yield Ready(writes, pages)
            writes, pages = [], 0
    if writes:
        yield Ready(writes, pages)


def one_ahead(parts: Iterator[Ready]) -> Iterator[Ready]:
    """``parts``, each made in a thread while the one before is being written.

    Whoever uses them must leave the session alone until the last has come.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="kcrash-gcore") as pool:
        coming = pool.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = pool.submit(next, parts, None)
            yield part


def _joined(chunks: list[Chunk]) -> Batch:
    import numpy as np

    pfns = [chunk.pfns for chunk in chunks if chunk.pfns is not None]
    states = [chunk.states for chunk in chunks if chunk.states is not None]
    stored: dict[int, Stored] = {}
    at = 0
    for chunk in chunks:
        stored.update({at + number: fetch for number, fetch in chunk.stored.items()})
        at += chunk.pages
    return Batch(chunks[0].start, np.concatenate(pfns), np.concatenate(states), stored)


def _runs(
    numbers: NDArray[np.int64], wanted: NDArray[np.bool_], data: NDArray[np.uint8]
) -> list[tuple[int, NDArray[np.uint8]]]:
    """``(page number, its data and that of its neighbours)``: rows of ``data`` that follow each other."""
    import numpy as np

    rows = np.flatnonzero(wanted)
    if not len(rows):
        return []
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(numbers[rows]) != 1)) + 1
    return [(int(numbers[run[0]]), data[run[0] : run[-1] + 1]) for run in np.split(rows, breaks)]
