"""riscv64's page tables of every size, written by hand from the privileged specification, and its frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kcrash.arch.base import Entry, EntryKind
from kcrash.arch.riscv64 import DWARF, RISCV64, make_paging, user_mode
from kcrash.errors import FaultReason, KcrashError, MemoryFault
from kcrash.memory.space import AddressSpace, PagedSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder

TOP = 0x8000_0000
# Size of addresses, and the lowest address bit that each level from the top resolves (Sv39, Sv48, Sv57).
FORMS = [(39, (30, 21, 12)), (48, (39, 30, 21, 12)), (57, (48, 39, 30, 21, 12))]
V, R, W, X, N = 1, 2, 4, 8, 1 << 63
PROT_NONE = 1 << 5


def pte(physical: int, flags: int) -> int:
    """The frame number stands in bits 53 to 10."""
    return physical >> 12 << 10 | flags


class Memory(AddressSpace):
    """Memory of words: what was not written is zero."""

    def __init__(self, name: str = "physical") -> None:
        super().__init__(name, "little", 8)
        self.stored: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        if address < 4096:
            raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)
        words = (self.stored.get(at, 0) for at in range(address, address + size, 8))
        return struct.pack(f"<{-(-size // 8)}Q", *words)[:size]


def mapped(bits: int, lowest: tuple[int, ...], address: int, leaf: int, depth: int) -> PagedSpace:
    """A space in which ``address`` is mapped: the entry ``leaf`` stands at level ``depth``."""
    memory, table = Memory(), TOP
    for number, low in enumerate(lowest[: depth + 1]):
        following = 0xFF_FFFF_F000_0000 - (number + 1 << 20)
        at = table + 8 * (address >> low & 511)
        memory.stored[at] = leaf if number == depth else pte(following, V)
        table = following
    return PagedSpace("kernel", memory, make_paging(bits), TOP)


@pytest.mark.parametrize("bits, lowest", FORMS)
@pytest.mark.parametrize("kernel", [False, True])
def test_a_page(bits: int, lowest: tuple[int, ...], kernel: bool) -> None:
    address = (1 << bits - 1) - (5 << 12) - 0x123 + (-(1 << bits - 1) & (1 << 64) - 1 if kernel else 0)
    physical = 0xFF_1234_5678_9000
    space = mapped(bits, lowest, address, pte(physical, V | R | 0x3 << 61), len(lowest) - 1)
    assert space.translate(address) == physical + address % 4096
    assert [space.paging.levels[step.level].shift for step in space.walk(address)] == list(lowest)
    with pytest.raises(MemoryFault):
        space.translate(address ^ 1 << 12)
    if bits < 57:
        assert not space.canonical(address ^ 1 << bits)


@pytest.mark.parametrize(
    "bits, lowest, depth", [(*form, d) for form in FORMS for d in range(len(form[1]) - 1)]
)
def test_a_large_page(bits: int, lowest: tuple[int, ...], depth: int) -> None:
    physical = 3 << lowest[depth]
    space = mapped(bits, lowest, 0x12_3456_7890, pte(physical, V | X), depth)
    inside = 0x12_3456_7890 % (1 << lowest[depth])
    assert space.translate(0x12_3456_7890) == physical + inside
    (run,) = space.runs(0x12_3456_7000, 0x12_3456_9000)
    assert run.physical == physical + inside - 0x890 and run.page_size == 1 << lowest[depth]


def test_parts_of_a_64_kib_page_say_all_the_same() -> None:
    """Svnapot: the lowest four bits of the frame number are 1000, the address has the place in the page."""
    leaf = pte(0x4567_0000 | 8 << 12, V | R | W | N)
    space = mapped(39, (30, 21, 12), 0x1234_0000, leaf, 2)
    physical = space.physical
    assert isinstance(physical, Memory)
    first = next(at for at, value in physical.stored.items() if value == leaf)
    physical.stored |= {first + 8 * n: leaf for n in range(16)}
    for address in (0x1234_0000, 0x1234_0FFF, 0x1234_8123, 0x1234_F000):
        assert space.translate(address) == 0x4567_0000 + address % 0x10000
    assert [(run.start, run.size, run.physical) for run in space.runs(0x1234_3000, 0x1234_D000)] == [
        (0x1234_3000, 0xA000, 0x4567_3000)
    ]


def test_entries_that_are_not_valid() -> None:
    """pte_present(), __swp_type(), __swp_offset() of asm/pgtable.h in v6.12."""
    paging = make_paging(57)
    assert paging.decode(pte(0x4567_8000, PROT_NONE | 0xC0), 4) == Entry(EntryKind.LEAF, 0x4567_8000)
    swapped = 3 << 7 | 0x1234 << 12
    assert paging.decode(swapped, 4).kind is EntryKind.OTHER and paging.swap_entry is not None
    assert paging.swap_entry(swapped) == (3, 0x1234)
    assert paging.decode(0, 4).kind is EntryKind.ABSENT


def test_tables_of_entries_are_as_single_ones() -> None:
    paging = make_paging(48)
    values = [
        0,
        pte(0x1000, V | R),
        pte(0x2000, PROT_NONE),
        3 << 7 | 5 << 12,
        pte(0xFF_FFFF_FFFF_F000, V | X),
    ]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, 3)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


def test_parts_of_a_page_in_a_table() -> None:
    """As test_parts_of_a_64_kib_page_say_all_the_same(), for the bulk reader: it adds what parts() says."""
    paging, part = make_paging(39), pte(0x4567_0000 | 8 << 12, V | R | N)
    values = np.array([part, part, pte(0x9000, V | R), 0], "u8")
    assert paging.parts is not None
    added = paging.parts(values, np.array([0x1234_3, 0x1234_F, 0x1234_5, 0x1234_6], "u8"))
    assert added.tolist() == [0x3000, 0xF000, 0, 0]


def test_addresses_of_a_size_that_there_is_not() -> None:
    with pytest.raises(KcrashError, match="addresses of 52 bits"):
        make_paging(52)


def test_user_mode() -> None:
    assert user_mode({"status": 0x2_0000_4020, "pc": 0x1000})
    assert not user_mode({"status": 0x2_0000_0120, "pc": 0xFFFF_FFFF_8000_1000})
    assert not user_mode({}) and not user_mode({"status": 0, "pc": 0})
    assert user_mode({"pc": 0x5555_0000}) and not user_mode({"pc": 0xFFFF_FFFF_8000_1000}), "notes"


# -- frames

CODE, ENTRY, STACK = 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_8000_1000, 0xFF20_0000_0001_0000
REGS_FIELDS = {
    DWARF[name]: (8 * n, 8) for n, name in enumerate(("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0"))
}


def frames(words: dict[int, int], *, interrupted: bool, **registers: int) -> list[Frame]:
    memory, code = Memory("kernel"), CodeMap()
    memory.stored = words
    code.add(CODE, CODE + 0x2000, lambda: Tables(None, None))
    target = target_for(RISCV64, RegsLayout(288, REGS_FIELDS), regs_code=((ENTRY, ENTRY + 0x100),))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    return list(Unwinder(target, code, memory).unwind(start, interrupted=interrupted))


def test_frame_records_lead_to_the_border_of_user_space() -> None:
    regs = STACK + 0x400
    words = {
        STACK + 0x1F0: regs, STACK + 0x1F8: CODE + 0x500,
        regs - 16: 0x7FFF_0000, regs - 8: ENTRY + 0x10,
        regs: 0x5555_0000, regs + 16: 0x7FFF_1000,
    }  # fmt: skip
    found = frames(words, interrupted=False, pc=CODE + 0x100, sp=STACK + 0x100, s0=STACK + 0x200)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x500, ENTRY + 0x10, 0x5555_0000]
    assert [frame.cfa for frame in found[:3]] == [STACK + 0x200, regs, regs]
    assert found[-1].regs_address == regs and not found[-1].note


def test_a_kernel_thread_ends_in_entry_code() -> None:
    words = {STACK + 0x1F0: 0x1234, STACK + 0x1F8: ENTRY + 0x20}
    found = frames(words, interrupted=False, pc=CODE + 0x100, sp=STACK + 0x100, s0=STACK + 0x200)
    assert [frame.pc for frame in found] == [CODE + 0x100, ENTRY + 0x20] and not found[-1].note


def test_an_interrupted_leaf_has_saved_the_frame_pointer_only() -> None:
    words = {
        STACK + 0xF8: STACK + 0x200,
        STACK + 0x1F0: 0, STACK + 0x1F8: ENTRY + 0x20,
    }  # fmt: skip
    registers = {"pc": CODE + 0x100, "ra": CODE + 0x600, "sp": STACK + 0xE0, "s0": STACK + 0x100}
    found = frames(words, interrupted=True, **registers)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x600, ENTRY + 0x20]
    assert found[1].registers[DWARF["s0"]] == STACK + 0x200


def test_a_circle_of_frames_ends() -> None:
    words = {STACK + 0x1F0: STACK + 0x200, STACK + 0x1F8: CODE + 0x500}
    found = frames(words, interrupted=False, pc=CODE + 0x100, sp=STACK + 0x100, s0=STACK + 0x200)
    assert len(found) < 5 and found[-1].note
