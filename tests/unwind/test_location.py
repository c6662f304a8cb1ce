"""Location descriptions: what each kind gives, and that random bytes give nothing worse than an exception."""

from __future__ import annotations

import random
import time

import pytest

from kcrash.errors import BadFormat, FaultReason, MemoryFault
from kcrash.unwind.location import Absent, LocationMachine, Piece, assemble
from tests.unwind.support import X86

REGISTERS = {0: 0x1122334455667788, 3: 0xFFFFFFFFFFFFFFFE, 7: 0x1000}
TYPES = {1: (4, False), 2: (4, True), 3: (1, True), 4: (8, False), 5: (16, False)}


class Memory:
    """Each byte is the low part of its address; nothing from 1 MiB on."""

    def read(self, address: int, size: int) -> bytes:
        if not 0 <= address <= address + size <= 1 << 20:
            raise MemoryFault("test", address, FaultReason.NOT_MAPPED)
        return bytes((address + at) & 0xFF for at in range(size))


class Context:
    """A frame at 0x2000."""

    cfa = 0x2000
    bias = 0x100

    def frame_base(self) -> int:
        return self.cfa

    def entry_value(self, expression: bytes) -> int:
        if expression != b"\x55":
            raise Absent("not handed over")
        return 42

    def indexed(self, index: int) -> int:
        return 0x10 * index

    def base_type(self, offset: int) -> tuple[int, bool]:
        return TYPES.get(offset, (0, False))

    def register_name(self, number: int) -> str:
        return f"r{number}"


def machine(code: str) -> LocationMachine:
    return LocationMachine(bytes.fromhex(code), X86, REGISTERS, Memory(), Context())


def value(code: str, size: int) -> int:
    """The value of so many bytes, all known."""
    pieces = machine(code).locate()
    if len(pieces) == 1 and pieces[0].address is not None:
        return int.from_bytes(Memory().read(pieces[0].address, size), "little")
    data, known = assemble(pieces, size, X86, Memory())
    assert known == (1 << 8 * size) - 1
    return int.from_bytes(data, "little")


# Worked out by hand from DWARF 5, section 2.5 and 2.6.
KNOWN = [
    ("50", 8, 0x1122334455667788, "DW_OP_reg0"),
    ("9000", 4, 0x55667788, "DW_OP_regx 0, the low part"),
    ("7700", 2, 0x0100, "DW_OP_breg7 0: memory at 0x1000"),
    ("9110", 2, 0x1110, "DW_OP_fbreg 16: memory at 0x2010"),
    ("9c2308", 2, 0x0908, "DW_OP_call_frame_cfa, plus_uconst 8"),
    ("030200000000000000", 1, 0x02, "DW_OP_addr 2, moved by the bias"),
    ("a103", 1, 0x30, "DW_OP_addrx 3, moved by the bias"),
    ("a2039f", 4, 0x30, "DW_OP_constx 3"),
    ("08ff9f", 4, 0xFF, "DW_OP_const1u, stack_value"),
    ("09ff9f", 4, 0xFFFFFFFF, "DW_OP_const1s -1"),
    ("9e03aabbcc", 3, 0xCCBBAA, "DW_OP_implicit_value"),
    ("a301559f", 8, 42, "DW_OP_entry_value of DW_OP_reg5"),
    ("f301559f", 4, 42, "its GNU form"),
    ("50930408ff9f9304", 8, 0x000000FF55667788, "a register, then a value"),
    ("509d040808189f9d1c00", 4, 0x00000187, "four bits from the eighth on, then 28 bits of 0x18"),
    ("7300a802a8009f", 8, 0xFFFFFFFFFFFFFFFE, "-2 as int, as a word"),
    ("7300a801a8009f", 8, 0xFFFFFFFE, "-2 as unsigned int, as a word"),
    ("7300a8010805a80122a8009f", 8, 3, "unsigned int -2 + 5 wraps at 32 bits"),
    ("a5030331a8031ea8009f", 8, 0xFFFFFFFFFFFFFFFE, "regval_type of a signed char, times 1"),
    ("a40204ffffffffa8009f", 8, 0xFFFFFFFFFFFFFFFF, "const_type: -1 as int"),
    ("7700a60103a8009f", 8, 0x00, "deref_type: one byte at 0x1000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "size", "wanted", "what"), [row for row in KNOWN if "replaced" not in row[3]]
)
def test_values(code: str, size: int, wanted: int, what: str) -> None:
    assert value(code, size) == wanted, what


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "optimized out"),
        ("51", "register r1 is not known"),
        ("7108", "register r1 is not known"),
        ("f2000000000000", "optimized out"),
        ("a301569f", "not handed over"),
        ("50a8059f", "runs empty"),
        ("30a8059f", "wider"),
        ("e0", "cannot be evaluated"),
    ],
)
def test_what_cannot_be_had(code: str, why: str) -> None:
    with pytest.raises((Absent, BadFormat), match=why):
        machine(code).locate()


def test_an_empty_piece_is_unknown() -> None:
    data, known = assemble(machine("50930293029304").locate()[:2], 4, X86, Memory())
    assert data == b"\x88\x77\0\0" and known == 0xFFFF


def test_pieces_are_bounded() -> None:
    with pytest.raises(BadFormat):
        machine("509301" * 2000).locate()
    with pytest.raises(Absent, match="absurd"):
        assemble([Piece(address=0, bits=1 << 40)], 8, X86, Memory())


def test_random_expressions_end() -> None:
    """Whatever the bytes: pieces, Absent or BadFormat, soon."""
    chooser = random.Random(5)
    likely = [
        0x93,
        0x9D,
        0x9F,
        0xA3,
        0xA5,
        0xA6,
        0xA8,
        0x91,
        0x9E,
        0x2F,
        0x28,
        0x1E,
        0x24,
        0x50,
        0x70,
        0x73,
        0x12,
    ]
    began, ended = time.perf_counter(), 0
    for _ in range(4000):
        code = bytes(
            chooser.choice([chooser.randrange(256), chooser.choice(likely)])
            for _ in range(chooser.randrange(30))
        )
        found = LocationMachine(code, X86, REGISTERS, Memory(), Context())
        try:
            assemble(found.locate(), 8, X86, Memory())
            ended += 1
        except (Absent, BadFormat, MemoryFault):
            pass
    assert ended > 20 and time.perf_counter() - began < 60
