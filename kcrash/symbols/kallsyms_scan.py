"""Finding the kallsyms tables in physical memory, where nothing says where they are.

VMCOREINFO names them only since v6.0 (kcrash.symbols.kallsyms). They are found
by their form: the index of the tokens is 256 ascending offsets, the tokens
before it are 256 strings, most characters of names among them as
themselves; all else lies around these two, in one of two orders:

    offsets, relative base, number, names, markers, [order of names], tokens, index
    number, names, markers, tokens, index, offsets, [relative base], [order of names]

The second since Linux commit 404bad70fcf7 ("scripts/kallsyms: change the output order") in v6.4.
Where there are no offsets there are addresses, and no relative base.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from kcrash.dump.scan import Piece, Progress, pieces
from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.symbols.kallsyms import (
    BLOCK,
    MAX_SYMBOLS,
    TOKENS,
    KallsymsSymbols,
    Tables,
    fits,
    split_tokens,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.memory.space import PagedSpace, PhysicalSpace

STRIDE = 64  # offsets of the index looked at together; an index holds three whole strides wherever it begins
MAX_TOKEN_BYTES = 48  # between two offsets: the longest token of Debian's kernels has 20
MAX_TRIES = 20000  # runs that ascend; a real dump has some hundred
MAX_TABLE = 16384  # bytes of the tokens
MAX_TABLES = 16  # tokens with their index: each is worth a look around
MAX_RUNS = 64  # that may be markers
MAX_IMAGE = 1 << 30  # bytes of a kernel
NEAR = 8  # padding between two tables: .balign 8, .balign 4 since v7.0
WINDOW = 1 << 20  # first look for markers this far before the tokens; then four times as far, up to
MAX_WINDOW = 16 << 20
SELF = b"0123456789_abcdefghijklmnopqrstuvwxyz"  # characters that hardly any kernel's names do without
BANNER = b"Linux version "


def find_tables(
    physical: PhysicalSpace,
    first: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
) -> Iterator[Tables]:
    """Kallsyms tables in memory, as physical addresses; more than one where a kernel was started by kexec.

    ``first``: physical ranges in which the kernel is thought to be, searched
    before the others. Stops at the first good one if the caller does.
    """
    tried = 0
    for index_at in token_indexes(physical, first, progress):
        table_at = _token_table(physical, index_at)
        if table_at is None:
            continue
        found = _around(physical, table_at, index_at)
        if found is not None:
            yield found
        tried += 1
        if tried == MAX_TABLES:
            return


def find_kallsyms(
    physical: PhysicalSpace,
    first: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
) -> tuple[KallsymsSymbols, int] | None:
    """The symbols of the kernel in memory, and what to add to a physical address of its image for the
    virtual one; None if there are none, or the kernel's banner is not where they say.

    Tables whose offsets are relative to their own place do not tell the virtual address: their symbols come
    out as physical addresses, with 0 to add. :func:`find_virtual` and :func:`moved` then help.
    """
    for tables in find_tables(physical, first, progress):
        try:
            symbols = KallsymsSymbols(physical, tables)
            shift = find_shift(physical, symbols)
        except (CorruptData, MemoryFault):
            continue
        if shift is not None:
            return symbols, shift
    return None


def moved(symbols: KallsymsSymbols, shift: int) -> KallsymsSymbols:
    """The same tables, known to lie ``shift`` above where they were read."""
    return KallsymsSymbols(symbols.memory, symbols.tables, shift)


# -- the tokens and their index


def token_indexes(
    physical: PhysicalSpace, first: Sequence[tuple[int, int]] = (), progress: Progress | None = None
) -> Iterator[int]:
    """Physical addresses of 256 ascending 16-bit offsets of which the first is 0."""
    form, tries = ("<u2" if physical.byte_order == "little" else ">u2"), 0
    for piece in pieces(physical.dump, first, overlap=2 * TOKENS, progress=progress):
        values = piece.data[: len(piece.data) & -2 * STRIDE].view(form)
        seen = -1
        for stride in _ascending_strides(values):
            start = _start_of_run(values, stride * STRIDE)
            tries += 1
            if start is not None and start != seen and _begins_in(piece, 2 * start):
                seen = start
                yield piece.address + 2 * start
            if tries > MAX_TRIES:
                return


def _begins_in(piece: Piece, offset: int) -> bool:
    """False for what the next piece will show again."""
    return offset < piece.size


def _ascending_strides(values: NDArray[np.uint16]) -> list[int]:
    """Numbers of the strides that ascend in steps of tokens' sizes; four values of each tell of most."""
    import numpy as np

    rows = values.reshape(-1, STRIDE)
    picked = rows[:, ::21].astype(np.int32)
    steps = picked[:, 1:] - picked[:, :-1]
    likely = np.flatnonzero(((steps >= 21) & (steps < 21 * MAX_TOKEN_BYTES)).all(axis=1))
    whole = rows[likely].astype(np.int32)
    steps = whole[:, 1:] - whole[:, :-1]
    found: list[int] = likely[((steps > 0) & (steps < MAX_TOKEN_BYTES)).all(axis=1)].tolist()
    return found


def _start_of_run(values: NDArray[np.uint16], inside: int) -> int | None:
    """Where the 256 ascending values begin that ``inside`` is one of the first 193 of."""
    import numpy as np

    low = max(inside - TOKENS + STRIDE, 0)
    zeros = np.flatnonzero(values[low : inside + 1] == 0)
    if not len(zeros):
        return None
    start = low + int(zeros[-1])
    run = values[start : start + TOKENS].astype(np.int32)
    good = start % 2 == 0 and len(run) == TOKENS and bool((np.diff(run) > 0).all())
    return start if good else None


def _token_table(physical: PhysicalSpace, index_at: int) -> int | None:
    """Where the 256 strings before an index begin, None if they do not fit it."""
    try:
        index = _integers(physical, "H", index_at, TOKENS)
        size = min(index[-1] + MAX_TOKEN_BYTES + NEAR, MAX_TABLE, index_at)
        before = physical.read(index_at - size, size)
        end = len(before.rstrip(b"\0"))
        begin = before.rfind(b"\0", 0, end) + 1 - index[-1]
        if begin < 0 or size - end > NEAR:
            return None
        text = before[begin:]
        tokens = split_tokens(text, index)
    except (CorruptData, MemoryFault):
        return None
    whole = all(o + len(t) + 1 == n for t, (o, n) in zip(tokens, pairwise(index), strict=False))
    single = sum(tokens[char] == bytes([char]) for char in SELF)
    return index_at - len(text) if whole and single > len(SELF) // 2 else None


def _integers(physical: PhysicalSpace, code: str, address: int, count: int) -> array[int]:
    values = array(code, physical.read(address, count * array(code).itemsize))
    if physical.byte_order != sys.byteorder:
        values.byteswap()
    return values


# -- the tables around them


def _around(physical: PhysicalSpace, table_at: int, index_at: int) -> Tables | None:
    size = WINDOW
    while size <= MAX_WINDOW:
        window = _before(physical, table_at, size)
        found = _names(physical, window, table_at - len(window))
        if found is not None:
            return _values(
                physical, Tables(found[0], found[1], table_at, index_at, markers=found[2]), found[3]
            )
        if len(window) < size:
            return None
        size *= 4
    return None


def _before(physical: PhysicalSpace, end: int, size: int) -> bytes:
    """Up to ``size`` bytes before ``end``: what of them can be had without a hole."""
    page, out = physical.dump.info.page_size, []
    stop = max(end - size, 0)
    while end > stop:
        start = max(end - 1 & -(64 * page), stop)
        data = physical.try_read(start, end - start)
        if data is None:
            start = max(end - 1 & -page, stop)
            data = physical.try_read(start, end - start)
        if data is None:
            break
        out.append(data)
        end = start
    return b"".join(reversed(out))


def _names(physical: PhysicalSpace, window: bytes, base: int) -> tuple[int, int, int, int] | None:
    """``(names, num_syms, markers, number of symbols)``: addresses, by the last markers in the window.

    Markers were unsigned long before Linux commit 80ffbaa5b1bd ("kallsyms: reduce size a little on
    64-bit") in v4.20.
    """
    import numpy as np

    order = "<" if physical.byte_order == "little" else ">"
    skip = -base % 8
    words = np.frombuffer(window, dtype=order + "u4", count=(len(window) - skip) // 4, offset=skip)
    for width in dict.fromkeys((4, physical.word_bytes)):
        markers = words if width == 4 else words[: len(words) & -2].view(order + "u8")
        for start, length in _marker_runs(markers):
            at = skip + start * width
            run = markers[start : start + length].tolist()
            found = _before_markers(window[:at], words, skip, run)
            if found is not None:
                names, number_at, count = found
                return base + names, base + number_at, base + at, count
    return None


def _marker_runs(words: NDArray[Any]) -> list[tuple[int, int]]:
    """``(start, length)`` of runs that begin with 0 and go up by the size of 256 names, the last first."""
    import numpy as np

    steps = words[1:] - words[:-1]  # unsigned: what falls is out of bounds
    rising = (steps >= 2 * BLOCK) & (steps < BLOCK * 512)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], rising, [False])).astype(np.int8)))
    spans = edges.reshape(-1, 2)
    good = spans[words[spans[:, 0]] == 0]
    return [(int(low), int(high - low) + 1) for low, high in good[::-1][:MAX_RUNS].tolist()]


def _before_markers(
    window: bytes, words: NDArray[np.uint32], skip: int, markers: list[int]
) -> tuple[int, int, int] | None:
    """``(names, num_syms, number)``: offsets in ``window``, which the markers stand behind.

    The number stands right before the names: as unsigned int with padding to 8 or none, or the
    low half of a big-endian unsigned long.
    """
    import numpy as np

    high = max((len(window) - skip - markers[-1]) // 4, 0)
    low = max(high - BLOCK * 128, 0)
    counts = words[low:high]
    most = len(markers) * BLOCK
    fitting = (counts > most - BLOCK) & (counts <= min(most, MAX_SYMBOLS))
    for place in islice(np.flatnonzero(fitting).tolist(), MAX_RUNS):
        number_at = skip + 4 * (low + place)
        for names in (number_at + 4, number_at + 8):
            if fits(window[names:], markers, int(counts[place])):
                return names, number_at, int(counts[place])
    return None


def _values(physical: PhysicalSpace, tables: Tables, count: int) -> Tables | None:
    """``tables`` with the place of the addresses: behind the index, else before the number."""
    for candidate in _candidates(physical, tables, count):
        try:
            KallsymsSymbols(physical, candidate)
        except KcrashError:
            continue
        return candidate
    return None


def _candidates(physical: PhysicalSpace, tables: Tables, count: int) -> Iterator[Tables]:
    """The newest form first. A table of offsets that begins with 0, or -1, has a base: the lowest symbol."""
    word = physical.word_bytes
    behind = tables.token_index + 2 * TOKENS
    for at in dict.fromkeys((_up(behind, 4), _up(behind, 8))):
        if _has_base(physical, at, count):
            yield tables._replace(offsets=at, relative_base=_up(at + 4 * count, word))
        else:
            yield tables._replace(offsets=at)
        yield tables._replace(addresses=at)
    number = tables.num_syms & -word
    yield tables._replace(offsets=number - word - 4 * count & -word, relative_base=number - word)
    yield tables._replace(addresses=number - word * count)


def _up(address: int, to: int) -> int:
    return address + to - 1 & -to


def _has_base(physical: PhysicalSpace, at: int, count: int) -> bool:
    """True if the least of the offsets, or the first that is no per-CPU symbol's, is where the base is."""
    data = physical.try_read(at, 4 * count)
    if data is None:
        return False
    values = array("i", data)
    if physical.byte_order != sys.byteorder:
        values.byteswap()
    return values[0] == 0 or next((value for value in values if value < 0), 0) == -1


# -- where the kernel runs


def find_shift(physical: PhysicalSpace, symbols: KallsymsSymbols) -> int | None:
    """What to add to a physical address of the kernel image for the virtual one.

    The tables lie in the image, between its first symbol and its last; the right one of the page
    steps that leave them there is where linux_banner is the banner. None if no step does that.
    """
    banner = symbols.symbol("linux_banner")
    if banner is None:
        return None
    start, end = symbols.image
    if end - start > MAX_IMAGE:
        return None
    tables, page = symbols.tables, physical.dump.info.page_size
    if start <= tables.names < end:
        return 0 if _is_banner(physical, banner.address) else None
    lowest = start - tables.names & -page
    for shift in range(lowest, end - tables.names, page):
        if _is_banner(physical, banner.address - shift):
            return shift
    return None


def _is_banner(physical: PhysicalSpace, address: int) -> bool:
    return address >= 0 and physical.try_read(address, len(BANNER)) == BANNER


def find_virtual(space: PagedSpace, physical: int, start: int, end: int) -> int | None:
    """The highest virtual address in ``[start, end)`` that page tables map to ``physical``, None if none.

    A kernel's image lies above the mapping of all memory that has it too.
    """
    found = None
    for run in space.runs(start, end):
        if run.physical is not None and run.physical <= physical < run.physical + run.size:
            found = run.start + physical - run.physical
    return found
