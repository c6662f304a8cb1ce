"""The stack machine of DWARF expressions."""

from __future__ import annotations

import pytest

from kcrash.errors import BadFormat
from kcrash.unwind.expression import Unknown, evaluate, read_leb
from tests.unwind.support import BIG32, X86, Memory

MAX = (1 << 64) - 1


def value(*code: int, initial: int | None = None, registers: dict[int, int] | None = None) -> int:
    memory = Memory(X86, {0x1000: 0x1122334455667788})
    return evaluate(bytes(code), X86, registers or {7: 0x1000, 6: MAX}, memory, initial)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ([0x35], 5),
        ([0x08, 0xFF], 0xFF),
        ([0x09, 0xFF], MAX),
        ([0x0A, 1, 2], 0x201),
        ([0x0B, 0, 0x80], MAX - 0x7FFF),
        ([0x0C, 1, 0, 0, 0x80], 0x80000001),
        ([0x0D, 0, 0, 0, 0x80], MAX - 0x7FFFFFFF),
        ([0x0E, 1, 0, 0, 0, 0, 0, 0, 0x80], 0x8000000000000001),
        ([0x03, 1, 0, 0, 0, 0, 0, 0, 0x80], 0x8000000000000001),
        ([0x10, 0xE5, 0x8E, 0x26], 624485),
        ([0x11, 0x7E], MAX - 1),
        ([0x77, 0x08], 0x1008),
        ([0x92, 7, 0x78], 0xFF8),
        ([0x77, 0, 0x06], 0x1122334455667788),
        ([0x77, 0, 0x94, 2], 0x7788),
        ([0x31, 0x32, 0x12, 0x22], 4),
        ([0x31, 0x32, 0x13], 1),
        ([0x31, 0x32, 0x14], 1),
        ([0x31, 0x32, 0x33, 0x15, 2], 1),
        ([0x31, 0x32, 0x16, 0x1C], 1),
        ([0x31, 0x32, 0x33, 0x17], 2),
        ([0x09, 0xFB, 0x19], 5),
        ([0x37, 0x33, 0x1A], 3),
        ([0x09, 0xF9, 0x32, 0x1B], MAX - 2),
        ([0x32, 0x35, 0x1C], MAX - 2),
        ([0x37, 0x34, 0x1D], 3),
        ([0x33, 0x34, 0x1E], 12),
        ([0x31, 0x1F], MAX),
        ([0x30, 0x20], MAX),
        ([0x31, 0x32, 0x21], 3),
        ([0x31, 0x23, 0x80, 1], 129),
        ([0x31, 0x34, 0x24], 16),
        ([0x31, 0x0E, *[0xFF] * 8, 0x24], 0),
        ([0x76, 0, 0x08, 60, 0x25], 15),
        ([0x76, 0, 0x34, 0x26], MAX),
        ([0x33, 0x31, 0x27], 2),
        ([0x76, 0, 0x31, 0x2D], 1),
        ([0x31, 0x31, 0x29], 1),
        ([0x31, 0x31, 0x2E], 0),
        ([0x32, 0x31, 0x2B], 1),
        ([0x31, 0x31, 0x2A], 1),
        ([0x32, 0x31, 0x2C], 0),
        ([0x35, 0x31, 0x28, 1, 0, 0x36, 0x96], 5),
        ([0x35, 0x2F, 1, 0, 0x36], 5),
    ],
)  # fmt: skip
def test_operations(code: list[int], result: int) -> None:
    assert value(*code) == result


def test_starts_with_the_cfa() -> None:
    assert value(0x23, 8, initial=0x100) == 0x108


def test_plt_expression_of_the_linker() -> None:
    # What ld writes for .plt: rsp+8 + ((rip & 15) >= 11) * 8.
    code = bytes.fromhex("7708 8000 3f 1a 3b 2a 33 24 22")
    registers = {7: 0x1000, 16: 0x40100C}
    assert value(*code, registers=registers) == 0x1010
    assert value(*code, registers=registers | {16: 0x401005}) == 0x1008


@pytest.mark.parametrize(
    "code",
    [
        [],
        [0x22],
        [0x50],
        [0x9C],
        [0x08],
        [0x31, 0x30, 0x1B],
        [0x31, 0x30, 0x1D],
        [0x2F, 0xFD, 0xFF],
        [0x31, 0x2F, 0x7F, 0],
        [0x31, 0x12, 0x2F, 0xFC, 0xFF],
        [0x77, 0, 0x94, 9],
        [0x10, *[0x80] * 40],
    ],
)
def test_broken_expressions(code: list[int]) -> None:
    with pytest.raises(BadFormat):
        value(*code)


def test_unknown_register_and_missing_memory() -> None:
    with pytest.raises(Unknown):
        value(0x73, 0)
    with pytest.raises(Unknown):
        value(0x30, 0x06)


def test_other_byte_order_and_width() -> None:
    memory = Memory(BIG32, {0x2000: 0x11223344})
    assert evaluate(bytes([0x71, 0, 0x06]), BIG32, {1: 0x2000}, memory) == 0x11223344
    assert evaluate(bytes([0x0A, 1, 2]), BIG32, {}, memory) == 0x102
    assert evaluate(bytes([0x31, 0x1F]), BIG32, {}, memory) == 0xFFFFFFFF


def test_leb() -> None:
    assert read_leb(bytes([0xE5, 0x8E, 0x26]), 0) == (624485, 3)
    assert read_leb(bytes([0xC0, 0xBB, 0x78]), 0, True) == (-123456, 3)
    with pytest.raises(IndexError):
        read_leb(b"\x80\x80", 0)
