"""Random bytes: a result or BadFormat, soon, and nothing else."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcrash.errors import BadFormat, FaultReason, MemoryFault
from kcrash.unwind import CfiTable, CodeMap, OrcTable, Registers, Tables, Unwinder, choose_layout
from kcrash.unwind.expression import Unknown, evaluate
from kcrash.unwind.orc import ORC_FIRST, ORC_RENUMBERED, ORC_SIGNAL, ORC_TYPED
from tests.unwind.support import BIG32, X86, Memory

TEXT = 0xFFFFFFFF81000000
STACK = 0xFFFFC90000010000
many = settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def entry(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def exercise(table: CfiTable) -> None:
    with contextlib.suppress(BadFormat):
        for start, offset in list(zip(*table.index, strict=True))[:50]:
            with contextlib.suppress(BadFormat):
                table.row(start)
                table.rows(table.fde(offset))


@many
@given(st.binary(max_size=400), st.booleans(), st.sampled_from([X86, BIG32]))
def test_random_sections(data: bytes, eh: bool, target: object) -> None:
    exercise(CfiTable(data, target, eh=eh))  # type: ignore[arg-type]


@many
@given(st.binary(max_size=40), st.binary(max_size=200), st.booleans())
def test_random_instructions(cie: bytes, fde: bytes, eh: bool) -> None:
    if eh:
        head = entry(b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\0" + cie)
        body = struct.pack("<IQQ", len(head) + 4, 0x1000, 0x100) + b"\0" + fde
    else:
        head = entry(b"\xff\xff\xff\xff\x01\0\x01\x78\x10" + cie)
        body = struct.pack("<IQQ", 0, 0x1000, 0x100) + fde
    exercise(CfiTable(head + entry(body), X86, eh=eh))


@many
@given(st.binary(max_size=60), st.binary(max_size=100))
def test_random_augmentations(head: bytes, body: bytes) -> None:
    data = entry(b"\0\0\0\0\x01z" + head)
    exercise(CfiTable(data + entry(struct.pack("<I", len(data) + 4) + body), X86, eh=True))


@many
@given(st.binary(max_size=100))
def test_random_expressions(code: bytes) -> None:
    with contextlib.suppress(BadFormat, Unknown):
        value = evaluate(code, X86, {7: 0x1000, 6: 5}, Memory(X86, {0x1000: 0x1000}), 0x1000)
        assert 0 <= value < 1 << 64


@many
@given(
    st.lists(
        st.tuples(st.integers(-(1 << 31), (1 << 31) - 1), st.binary(min_size=6, max_size=6)), max_size=50
    ),
    st.sampled_from([ORC_FIRST, ORC_SIGNAL, ORC_TYPED, ORC_RENUMBERED]),
    st.integers(0, (1 << 64) - 1),
)
def test_random_orc(rows: list[tuple[int, bytes]], layout: object, pc: int) -> None:
    offsets = b"".join(struct.pack("<i", at) for at, _entry in rows)
    entries = b"".join(entry for _at, entry in rows)
    choose_layout(entries)
    with contextlib.suppress(BadFormat):
        table = OrcTable(offsets, entries, X86, address=TEXT, layout=layout)  # type: ignore[arg-type]
        for address in (pc, TEXT, TEXT + 100):
            with contextlib.suppress(BadFormat):
                table.row(address)
                table.switches_stack(address)


class RandomMemory:
    """The same bytes everywhere, or none."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, address: int, size: int) -> bytes:
        if not self.data or size < 0:
            raise MemoryFault("kernel", address, FaultReason.NOT_MAPPED)
        shift = address % len(self.data)
        repeated = self.data[shift:] + self.data * (size // len(self.data) + 1)
        return repeated[:size]


@many
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=6, max_size=6)), min_size=1, max_size=30),
    st.lists(st.one_of(st.integers(TEXT, TEXT + 4096), st.integers(STACK, STACK + 4096)), max_size=16),
    st.binary(max_size=120),
    st.booleans(),
)
def test_random_stacks(rows: list[tuple[int, bytes]], words: list[int], fde: bytes, prefer_orc: bool) -> None:
    rows.sort()
    offsets = b"".join(struct.pack("<i", at - 4 * i) for i, (at, _entry) in enumerate(rows))
    orc = OrcTable(offsets, b"".join(e for _at, e in rows), X86, address=TEXT, layout=ORC_TYPED)
    head = entry(b"\xff\xff\xff\xff\x01\0\x01\x78\x10\x0c\x07\x08\x90\x01")
    cfi = CfiTable(head + entry(struct.pack("<IQQ", 0, TEXT, 2048) + fde), X86)
    code = CodeMap()
    code.add(TEXT, TEXT + 4096, Tables(cfi, orc))
    memory = RandomMemory(b"".join(struct.pack("<Q", word) for word in words))
    first = Registers({16: TEXT + 10, 7: STACK, 6: STACK + 64, 10: STACK})
    frames = list(Unwinder(X86, code, memory).unwind(first, prefer_orc=prefer_orc))
    assert 1 <= len(frames) <= 1024
    assert all(0 <= value < 1 << 64 for frame in frames for value in frame.registers.values())
