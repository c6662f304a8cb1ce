"""Many pages of a kdump-compressed dump at once, by vectors.

Imported by the first such read only: it needs numpy, which takes longer to
import than a small dump takes to open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kcrash.dump.base import CORRUPT, EXCLUDED, NOT_IN_DUMP, PRESENT, TRUNCATED
from kcrash.dump.codecs import CODEC_MASK, CODEC_NAMES, CorruptPage
from kcrash.dump.kdump import DESCRIPTOR_SIZE
from kcrash.dump.workers import workers
from kcrash.errors import BadFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kcrash.dump.kdump import KdumpDump, Part
    from kcrash.dump.source import Source

BATCH = 8192  # pages whose descriptors are looked at together
STATES_BATCH = 1 << 20  # pages of which only the state is asked
MAX_RUN = 1 << 20  # bytes of a file read at once
MAX_GAP = 1 << 14  # unwanted bytes between two wanted ones that are read rather than skipped
THREADED = 256  # pages from which threads are worth their start


class Located(NamedTuple):
    """Of each page: its state, the number of its part, its rank among the pages of that part."""

    states: NDArray[np.uint8]
    part: NDArray[np.int64]
    rank: NDArray[np.int64]


class Descriptors(NamedTuple):
    """Columns of page descriptors; ``states`` is what they say of their pages."""

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    flags: NDArray[np.uint32]
    states: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64]) -> Descriptors:
        """Those of some rows."""
        return Descriptors(self.offset[rows], self.size[rows], self.flags[rows], self.states[rows])


def page_states(dump: KdumpDump, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
    """See Dump.page_states(). Descriptors are read only if the file looks cut."""
    blocks, shape = _blocks(dump, pfns, page_size)
    states = np.empty(len(blocks), dtype=np.uint8)
    for at in range(0, len(blocks), STATES_BATCH):
        states[at : at + STATES_BATCH] = _states(dump, blocks[at : at + STATES_BATCH])
    return states.reshape(shape).max(axis=1) if len(blocks) else states


def _states(dump: KdumpDump, blocks: NDArray[np.int64]) -> NDArray[np.uint8]:
    found = _locate(dump, blocks, ranks=dump.cut)
    if dump.cut:
        for number, part in enumerate(dump.parts):
            rows = np.flatnonzero((found.states == PRESENT) & (found.part == number))
            found.states[rows] = _descriptors(dump, part, found.rank[rows]).states
        found.states[found.states == CORRUPT] = PRESENT  # said when it is read
    return found.states


def read_pages(
    dump: KdumpDump, pfns: NDArray[np.uint64], page_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """See Dump.read_pages(). Pages may also be fractions of the dump's blocks."""
    blocks, shape = _blocks(dump, pfns, page_size)
    data = np.zeros((len(pfns), page_size), dtype=np.uint8)
    if page_size < dump.block_size:
        return data, _read_fractions(dump, pfns, data)
    states = np.empty(len(blocks), dtype=np.uint8)
    rows = data.reshape(len(blocks), dump.block_size)
    for at in range(0, len(blocks), BATCH):
        part = slice(at, at + BATCH)
        _read_batch(dump, blocks[part], rows[part], states[part])
    states = states.reshape(shape).max(axis=1) if len(blocks) else states
    data[states != PRESENT] = 0
    return data, states


def _blocks(
    dump: KdumpDump, pfns: NDArray[np.uint64], page_size: int
) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """The dump's blocks that make up the pages, and the shape (pages, blocks a page)."""
    block = dump.block_size
    if page_size <= 0 or (page_size % block and block % page_size):
        raise ValueError(f"page size {page_size} does not fit blocks of {block} bytes")
    frames = np.minimum(np.asarray(pfns, dtype=np.uint64), np.uint64(1 << 52)).astype(np.int64)
    if page_size <= block:
        return frames // (block // page_size), (len(frames), 1)
    each = page_size // block
    return (frames[:, None] * each + np.arange(each)).reshape(-1), (len(frames), each)


def _read_fractions(dump: KdumpDump, pfns: NDArray[np.uint64], data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pages smaller than a block: each block is read once."""
    page_size = data.shape[1]
    each = dump.block_size // page_size
    states = np.empty(len(pfns), dtype=np.uint8)
    blocks, which = np.unique(np.asarray(pfns, dtype=np.uint64) // np.uint64(each), return_inverse=True)
    inner = (np.asarray(pfns, dtype=np.uint64) % np.uint64(each)).astype(np.int64)
    for at in range(0, len(blocks), BATCH // 16):
        whole, found = read_pages(dump, blocks[at : at + BATCH // 16], dump.block_size)
        rows = np.flatnonzero((which >= at) & (which < at + BATCH // 16))
        data[rows] = whole.reshape(-1, each, page_size)[which[rows] - at, inner[rows]]
        states[rows] = found[which[rows] - at]
    return states


def _locate(dump: KdumpDump, blocks: NDArray[np.int64], ranks: bool) -> Located:
    states = np.full(len(blocks), NOT_IN_DUMP, dtype=np.uint8)
    part_of = np.full(len(blocks), -1, dtype=np.int64)
    rank = np.zeros(len(blocks), dtype=np.int64)
    for number, part in enumerate(dump.parts):
        rows = np.flatnonzero((blocks >= part.start) & (blocks < part.end))
        if ranks:
            dumped, below = part.dumped.test_rank_many(blocks[rows])
            rank[rows] = below - part.dumped.rank(part.start)
        else:
            dumped = part.dumped.test_many(blocks[rows])
        part_of[rows] = number
        states[rows] = np.where(dumped, PRESENT, EXCLUDED)
    missing = np.flatnonzero(states == EXCLUDED)
    states[missing[~dump.parts[0].ram.test_many(blocks[missing])]] = NOT_IN_DUMP
    return Located(states, part_of, rank)


def _read_batch(
    dump: KdumpDump, blocks: NDArray[np.int64], data: NDArray[np.uint8], states: NDArray[np.uint8]
) -> None:
    found = _locate(dump, blocks, ranks=True)
    states[:] = found.states
    if dump.zero_excluded:
        states[states == EXCLUDED] = PRESENT
    for number, part in enumerate(dump.parts):
        rows = np.flatnonzero((found.states == PRESENT) & (found.part == number))
        described = _descriptors(dump, part, found.rank[rows])
        states[rows] = described.states
        good = np.flatnonzero(described.states == PRESENT)
        order = good[np.argsort(described.offset[good], kind="stable")]
        jobs = [
            Job(dump, part.source, rows[run], described.take(run), data, states)
            for run in _close_together(order, described.offset, described.size)
        ]
        _run(jobs, len(order))


def _descriptors(dump: KdumpDump, part: Part, ranks: NDArray[np.int64]) -> Descriptors:
    """The descriptors of these ranks in a part."""
    raw = np.zeros((len(ranks), DESCRIPTOR_SIZE), dtype=np.uint8)
    there = np.zeros(len(ranks), dtype=np.bool_)
    order = np.argsort(ranks, kind="stable")
    at = ranks * DESCRIPTOR_SIZE
    for run in _close_together(order, at, np.full(len(ranks), DESCRIPTOR_SIZE)):
        start = int(at[run[0]])
        block = part.source.read_at(part.descriptors + start, int(at[run[-1]]) + DESCRIPTOR_SIZE - start)
        whole = np.frombuffer(block, dtype=np.uint8)[: len(block) // DESCRIPTOR_SIZE * DESCRIPTOR_SIZE]
        index = ranks[run] - ranks[run[0]]
        inside = index < len(whole) // DESCRIPTOR_SIZE
        raw[run[inside]] = whole.reshape(-1, DESCRIPTOR_SIZE)[index[inside]]
        there[run[inside]] = True
    return _judge(dump, part, raw, there)


def _judge(dump: KdumpDump, part: Part, raw: NDArray[np.uint8], there: NDArray[np.bool_]) -> Descriptors:
    order = part.header.order
    columns = raw.view(
        [("offset", f"{order}u8"), ("size", f"{order}u4"), ("flags", f"{order}u4"), ("page", "u8")]
    )
    offset = np.minimum(columns["offset"][:, 0], np.uint64(1 << 62)).astype(np.int64)
    size = columns["size"][:, 0].astype(np.int64)
    flags = columns["flags"][:, 0].astype(np.uint32)
    codec = flags & np.uint32(CODEC_MASK)
    absurd = (size == 0) | (size > 2 * dump.block_size) | ~np.isin(codec, list(CODEC_NAMES))
    absurd |= (codec == 0) & (size != dump.block_size)
    states = np.full(len(raw), PRESENT, dtype=np.uint8)
    states[offset + size > part.source.size] = TRUNCATED
    if part.source.incomplete:
        held = [part.source.has(*where) for where in zip(offset.tolist(), size.tolist(), strict=True)]
        states[~np.array(held, dtype=np.bool_)] = TRUNCATED
    states[absurd] = CORRUPT
    states[~there | (offset == 0)] = TRUNCATED
    return Descriptors(offset, size, flags, states)


def _close_together(
    order: NDArray[np.int64], at: NDArray[np.int64], size: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Cut ``order`` (indices by ascending ``at``) where the gap to the next is wide, and every MAX_RUN."""
    if not len(order):
        return
    starts, ends = at[order], at[order] + size[order]
    wide = starts[1:] > np.maximum.accumulate(ends)[:-1] + MAX_GAP
    full = np.diff(starts // MAX_RUN) != 0
    yield from np.split(order, np.flatnonzero(wide | full) + 1)


class Job(NamedTuple):
    """Pages whose stored data lie close together; ``rows``: where they go in ``data`` and ``states``."""

    dump: KdumpDump
    source: Source
    rows: NDArray[np.int64]
    stored: Descriptors
    data: NDArray[np.uint8]
    states: NDArray[np.uint8]

    def do(self) -> None:
        """Read and decompress; a page that fails says so in ``states``."""
        offset, size, flags, _ = self.stored
        start = int(offset[0])
        try:
            stored = self.source.read_at(start, int((offset + size).max()) - start)
        except BadFormat:
            self.states[self.rows] = CORRUPT
            return
        out, block, unpack = self.data.reshape(-1).data, self.dump.block_size, self.dump.unpack
        columns = (self.rows.tolist(), (offset - start).tolist(), size.tolist(), flags.tolist())
        for row, at, length, flag in zip(*columns, strict=True):
            piece = stored[at : at + length]
            try:
                out[row * block : (row + 1) * block] = unpack(piece, flag)
            except CorruptPage:
                self.states[row] = CORRUPT if len(piece) == length else TRUNCATED


def _run(jobs: list[Job], pages: int) -> None:
    if pages < THREADED or len(jobs) < 2 or (os.cpu_count() or 1) < 2:
        for job in jobs:
            job.do()
        return
    for _ in workers().map(Job.do, jobs):
        pass
