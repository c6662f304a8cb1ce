"""Searching all of a dump's physical memory, in bounded pieces: for what nothing points to.

A dump without a VMCOREINFO note (QEMU's without the vmcoreinfo device, a cut
one) still has the kernel's own copies of the text in its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kcrash.dump.base import PRESENT, Dump
from kcrash.dump.vmcoreinfo import VmcoreInfo, parse_vmcoreinfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: ``(bytes searched, bytes in all)``, called after each piece.
Progress = Callable[[int, int], None]

PIECE = 8 << 20  # bytes searched at once
START = b"OSRELEASE="
MAX_TEXT = 65536
MAX_TRIES = 1024  # places that begin like the text: a hostile dump can hold as many as it has words


class Piece(NamedTuple):
    """Physical memory from ``address`` on; ``data``: uint8, zeros where the dump has no page.

    What begins in the first ``size`` bytes is this piece's; the rest is the next piece's
    first bytes, so that nothing is cut.
    """

    address: int
    data: NDArray[np.uint8]
    size: int


def pieces(
    dump: Dump,
    first: Sequence[tuple[int, int]] = (),
    overlap: int = 0,
    progress: Progress | None = None,
) -> Iterator[Piece]:
    """All memory of the dump that is not known to be zero, piece by piece.

    The physical ranges ``first`` come before the others.

    ``overlap``: bytes that a piece goes on into its successor. Pages that
    are not in the dump cost next to nothing.
    """
    page = dump.info.page_size
    spans = _spans(dump, first, page)
    total, done = sum(high - low for low, high in spans), 0
    for low, high in spans:
        for start in range(low, high, PIECE):
            end = min(start + PIECE, high)
            data = _pages(dump, start, min(end + overlap + page - 1 & -page, high), page)
            if data is not None:
                yield Piece(start, data, end - start)
            done += end - start
            if progress is not None:
                progress(done, total)


def _spans(dump: Dump, first: Sequence[tuple[int, int]], page: int) -> list[tuple[int, int]]:
    """Whole pages of what the dump has data of: those of ``first``, then all that is left."""
    ranges = [(piece.start & -page, piece.end + page - 1 & -page) for piece in dump.data_ranges()]
    wanted = sorted((low & -page, high + page - 1 & -page) for low, high in first if low < high)
    chosen = [(max(a, low), min(b, high)) for low, high in wanted for a, b in ranges]
    chosen = [span for span in chosen if span[0] < span[1]]
    return chosen + [span for start, end in ranges for span in _rest(start, end, chosen)]


def _rest(start: int, end: int, taken: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of ``[start, end)`` is in none of the spans ``taken``, which are sorted."""
    for low, high in taken:
        if low < end and high > start:
            if start < low:
                yield start, low
            start = max(start, high)
    if start < end:
        yield start, end


def _pages(dump: Dump, start: int, end: int, page: int) -> NDArray[np.uint8] | None:
    """The pages of ``[start, end)`` as one row of bytes; None if the dump has none of them."""
    import numpy as np

    pfns = np.arange(start // page, end // page, dtype=np.uint64)
    if not (dump.page_states(pfns, page) == PRESENT).any():
        return None
    data: NDArray[np.uint8] = dump.read_pages(pfns, page)[0].reshape(-1)
    return data


# -- VMCOREINFO


class FoundInfo(NamedTuple):
    """A text that reads as VMCOREINFO: where it lies, its bytes, and what they say."""

    physical: int
    raw: bytes
    info: VmcoreInfo

    @property
    def rank(self) -> tuple[int, int, bool, int]:
        """The higher, the likelier that it is the dead kernel's own and whole.

        The copy with CRASHTIME is the one that crash_save_vmcoreinfo() finished as the kernel died.
        """
        keyed = [key for key in self.info if "(" in key]
        return (len(self.info.symbols) > 0, len(keyed), self.info.crash_time is not None, len(self.raw))


def find_vmcoreinfo(dump: Dump, progress: Progress | None = None) -> list[FoundInfo]:
    """All texts in memory that can be the dead kernel's VMCOREINFO, the likeliest first.

    A kernel before a kexec, or a virtual machine's guest, leaves such a text
    too: the caller tries whether the addresses of a candidate make sense, and takes the next if not.
    """
    found: dict[bytes, FoundInfo] = {}
    for candidate in vmcoreinfo_candidates(dump, progress):
        found.setdefault(candidate.raw, candidate)
    return sorted(found.values(), key=lambda candidate: candidate.rank, reverse=True)


def vmcoreinfo_candidates(dump: Dump, progress: Progress | None = None) -> Iterator[FoundInfo]:
    """Texts that can be VMCOREINFO, in order of address: for a caller that stops at the first good one.

    The kernel keeps them 8-byte aligned: at the start of a page since Linux commit 203e9e41219b
    ("kexec: move vmcoreinfo out of the kernel's .bss section") in v4.13, and behind the 24 bytes
    of a note's header (kernel/vmcore_info.c).
    """
    import numpy as np

    mark = np.frombuffer(START[:8], dtype="u8")[0]
    tries = 0
    for piece in pieces(dump, progress=progress):
        words = piece.data[: piece.size & -8].view("u8")
        for place in np.flatnonzero(words == mark).tolist():
            found = _read_info(dump, piece.address + place * 8)
            if found is not None:
                yield found
            tries += 1
            if tries == MAX_TRIES:
                return


def _read_info(dump: Dump, physical: int) -> FoundInfo | None:
    raw = _text(dump, physical)
    if not raw.startswith(START) or not raw.endswith(b"\n"):
        return None
    info = parse_vmcoreinfo(raw)
    # PAGESIZE and SYMBOL(init_uts_ns) are there since the first version: Linux commit fd59d231f81c
    # ("Add vmcoreinfo") in v2.6.24.
    plausible = info.page_size is not None and "init_uts_ns" in info.symbols
    return FoundInfo(physical, raw, info) if plausible else None


def _text(dump: Dump, physical: int) -> bytes:
    """The printable text at a physical address, to its NUL or to the last byte of a page that can be had."""
    page, out, end = dump.info.page_size, b"", physical + MAX_TEXT
    while physical < end:
        size = page - physical % page
        data = dump.try_read(physical, size)
        if data is None:
            break
        text = data.split(b"\0", 1)[0]
        out += text
        if len(text) < size:
            break
        physical += size
    return out if _printable(out) else b""


def _printable(text: bytes) -> bool:
    return not text.translate(None, bytes(range(32, 127)) + b"\n\t")
