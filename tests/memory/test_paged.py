"""Page-table walks over tables of random entries, against a few lines of arithmetic."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcrash.arch.base import Entry, EntryKind, Level, LinearRange, Paging
from kcrash.errors import CorruptData, FaultReason, KcrashError, MemoryFault
from kcrash.memory import space, spans
from kcrash.memory.space import AddressSpace, PagedSpace
from kcrash.memory.spans import SpanKind

PAGE = 4096
TABLE = 32  # bytes of a table of four entries
FRAMES = 34  # of physical memory; some above 8 are not in the dump
PRESENT, LARGE = 1, 2
TOP = 0
# Three levels of four entries: 18 bits of addresses, half of them at the top of the 64-bit space.
LEVELS = (Level("TOP", 16, 2), Level("MIDDLE", 14, 2), Level("LAST", 12, 2))
HALF = 1 << 17
HIGH = (1 << 64) - HALF


def decode(value: int, level: int) -> Entry:
    if not value:
        return Entry(EntryKind.ABSENT, 0)
    if not value & PRESENT:
        return Entry(EntryKind.OTHER, 0)
    if level == 2:
        return Entry(EntryKind.LEAF, value & ~(PAGE - 1))
    if value & LARGE:
        return Entry(EntryKind.LEAF, value & ~((1 << LEVELS[level].shift) - 1))
    return Entry(EntryKind.TABLE, value & ~(TABLE - 1))


PAGING = Paging(LEVELS, 8, decode, 18, HALF)


class Ram(AddressSpace):
    """``FRAMES`` frames; every byte tells where it is, but for the tables in the first two frames."""

    def __init__(self, entries: list[int]) -> None:
        super().__init__("physical", "little", 8)
        self.tables = struct.pack(f"<{len(entries)}Q", *entries).ljust(2 * PAGE, b"\0")

    def byte(self, address: int) -> int | None:
        """The byte at a physical address; None if the dump does not have it."""
        frame = address // PAGE
        if address < len(self.tables):
            return self.tables[address]
        if frame >= FRAMES or (frame > 8 and frame % 5 == 4):
            return None
        return (address * 7 + frame) % 251

    def read(self, address: int, size: int) -> bytes:
        found = [self.byte(address + i) for i in range(size)]
        if None in found:
            raise MemoryFault(self.name, address + found.index(None), FaultReason.NOT_IN_DUMP)
        return bytes(byte for byte in found if byte is not None)

    def entry(self, address: int) -> int | None:
        data = [self.byte(address + i) for i in range(8)]
        return None if None in data else int.from_bytes(bytes(b for b in data if b is not None), "little")


def place(ram: Ram, address: int) -> int | FaultReason:
    """The physical address behind a virtual one, or why there is none."""
    if HALF <= address < HIGH or address >= 1 << 64:
        return FaultReason.NOT_MAPPED
    table = TOP
    for shift, last in ((16, False), (14, False), (12, True)):
        value = ram.entry(table + 8 * (address >> shift & 3))
        if value is None or ram.byte(table) is None or ram.byte(table + TABLE - 1) is None:
            return FaultReason.NOT_IN_DUMP
        if not value & PRESENT:
            return FaultReason.SWAPPED if value else FaultReason.NOT_MAPPED
        if last or value & LARGE:
            return value >> shift << shift | address & ((1 << shift) - 1)
        table = value & ~(TABLE - 1)
    raise AssertionError


def physical_entry(draw: st.DrawFn) -> int:
    """An entry: nothing, swapped, a page, a large page, or a table (a real one, or any memory)."""
    kind = draw(st.sampled_from(("none", "swap", "page", "page", "large", "table", "table", "table", "any")))
    if kind == "none":
        return 0
    if kind == "any":
        return draw(st.integers(0, (1 << 64) - 1))
    if kind == "table":
        return draw(st.integers(0, 40)) * TABLE | PRESENT
    frame = draw(st.integers(0, FRAMES + 2)) * PAGE
    return frame | {"swap": 0x800, "page": PRESENT, "large": PRESENT | LARGE}[kind]


entries = st.composite(lambda draw: [physical_entry(draw) for _ in range(4 * 12)])()
addresses = st.one_of(
    st.integers(0, HALF + PAGE), st.integers(HIGH - PAGE, (1 << 64) - 1), st.sampled_from([0, HALF, HIGH - 1])
)


def made(found: list[int], **options: int) -> tuple[Ram, PagedSpace]:
    ram = Ram(found)
    return ram, PagedSpace("kernel", ram, PAGING, TOP, **options)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(entries, st.lists(addresses, min_size=1, max_size=30))
def test_translation(found: list[int], wanted: list[int]) -> None:
    ram, paged = made(found)
    for address in wanted:
        expected = place(ram, address)
        try:
            got: int | FaultReason = paged.translate(address)
        except MemoryFault as fault:
            assert (fault.space, fault.address) == ("kernel", address)
            got = fault.reason
        assert got == expected, hex(address)


@settings(max_examples=150, deadline=None)
@given(entries, addresses, st.integers(1, 3 * PAGE))
def test_reading_across_pages(found: list[int], address: int, size: int) -> None:
    """Every byte, or the fault of the first that cannot be had."""
    ram, paged = made(found)
    expected = []
    for at in range(address, address + size):
        where = place(ram, at)
        byte = None if isinstance(where, FaultReason) else ram.byte(where)
        if byte is None:
            reason = where if isinstance(where, FaultReason) else FaultReason.NOT_IN_DUMP
            with pytest.raises(MemoryFault) as caught:
                paged.read(address, size)
            assert (caught.value.address, caught.value.reason) == (at, reason)
            return
        expected.append(byte)
    assert paged.read(address, size) == bytes(expected)


def pages(found: list[int], start: int, end: int) -> Mapping[int, int | None]:
    """Page addresses of a range to physical ones, None for those without."""
    ram, _paged = made(found)
    where = {at: place(ram, at) for at in range(start, end, PAGE)}
    return {at: None if isinstance(there, FaultReason) else there for at, there in where.items()}


ranges = st.tuples(st.sampled_from([0, HIGH]), st.integers(0, 31), st.integers(1, 32)).map(
    lambda drawn: (drawn[0] + drawn[1] * PAGE, drawn[0] + min(drawn[1] + drawn[2], 32) * PAGE)
)


@settings(max_examples=150, deadline=None)
@given(entries, ranges)
def test_runs(found: list[int], wanted: tuple[int, int]) -> None:
    """In order, without gaps, and page by page what a walk says."""
    _ram, paged = made(found)
    position, got = wanted[0], {}
    for run in paged.runs(*wanted):
        assert run.start == position and run.size > 0
        position += run.size
        for offset in range(0, run.size, PAGE):
            got[run.start + offset] = None if run.physical is None else run.physical + offset
    assert position == wanted[1]
    assert got == pages(found, *wanted)


@settings(max_examples=150, deadline=None)
@given(entries, ranges)
def test_spans(found: list[int], wanted: tuple[int, int]) -> None:
    """Likewise; what is not mapped is told apart by why."""
    ram, paged = made(found)
    position, got = wanted[0], {}
    for span in spans.spans(paged, *wanted):
        assert span.start == position < span.end
        position = span.end
        for number, at in enumerate(range(span.start, span.end, PAGE)):
            value = int(span.values[number]) if span.values is not None else None
            if value is not None:
                got[at] = value & ~(PAGE - 1) if value & PRESENT else None
            else:
                large = span.kind is SpanKind.LARGE
                got[at] = span.physical + at - span.start if large else None
                reason = place(ram, at)
                assert large or reason is REASONS[span.kind], (span, reason)
    assert position == wanted[1]
    assert got == pages(found, *wanted)


REASONS = {
    SpanKind.ABSENT: FaultReason.NOT_MAPPED,
    SpanKind.OTHER: FaultReason.SWAPPED,
    SpanKind.LOST: FaultReason.NOT_IN_DUMP,
}


# -- particular cases


def test_a_large_page_and_the_byte_behind_it() -> None:
    _ram, paged = made([0x10000 | PRESENT | LARGE, 0, 0, 0])
    assert paged.translate(0xFFFF) == 0x1FFFF
    with pytest.raises(MemoryFault, match="kernel address 10000: not mapped"):
        paged.translate(0x10000)


def test_the_top_of_the_address_space_does_not_wrap() -> None:
    _ram, paged = made([0x10000 | PRESENT | LARGE] * 4)
    assert paged.read((1 << 64) - 8, 8) == Ram([]).read(0x1FFF8, 8)
    with pytest.raises(MemoryFault) as caught:
        paged.read((1 << 64) - 8, 16)
    assert caught.value.address == 1 << 64 and caught.value.reason is FaultReason.NOT_MAPPED


def test_a_user_space_ends_at_its_limit() -> None:
    _ram, paged = made([0x10000 | PRESENT | LARGE] * 4, limit=0x8000)
    assert paged.translate(0x7FFF) == 0x17FFF
    for address in (0x8000, HIGH):
        assert list(paged.walk(address)) == []
        with pytest.raises(MemoryFault, match="not mapped"):
            paged.read(address, 1)


def test_linear_ranges_need_no_tables() -> None:
    ram = Ram([])
    paged = PagedSpace("kernel", ram, PAGING, None, [LinearRange(0x5000, 0x7000, 0x2000)])
    assert paged.read(0x5010, 16) == ram.read(0x2010, 16)
    with pytest.raises(MemoryFault) as caught:
        paged.read(0x6FF8, 16)
    assert caught.value.address == 0x7000


def test_tables_that_refer_to_themselves_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk is as long as there are levels; walks of ranges are bounded."""
    _ram, paged = made([TOP | PRESENT] * 4)
    assert len(list(paged.walk(0x1234))) == 3 and paged.translate(0x1234) == 0x234
    monkeypatch.setattr(space, "MAX_WALKED", 5)
    monkeypatch.setattr(spans, "MAX_TABLES", 5)
    with pytest.raises(CorruptData, match="more page tables"):
        list(paged.runs(0, HALF))
    with pytest.raises(CorruptData, match="more page tables"):
        list(spans.spans(paged, 0, HALF))


@settings(max_examples=200, deadline=None)
@given(entries, addresses, st.integers(1, 600))
def test_strings_end_where_memory_does(found: list[int], address: int, limit: int) -> None:
    ram, paged = made(found)
    expected = b""
    for at in range(address, address + limit):
        where = place(ram, at)
        byte = None if isinstance(where, FaultReason) else ram.byte(where)
        if not byte:
            break
        expected += bytes([byte])
    try:
        got = paged.string(address, limit)
    except KcrashError:
        got = b""
    # A chunk that cannot be read as a whole is left out: never more than there is, never other bytes.
    assert expected.startswith(got) and (got == expected or len(expected) - len(got) < space.STRING_CHUNK)
