"""loongarch64's page tables of every page size, windows and vectors, by hand from the manual; its frames."""

from __future__ import annotations

import io
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from kcrash.arch.base import Entry, EntryKind
from kcrash.arch.loongarch64 import (
    DWARF,
    LOONGARCH64,
    copied_code,
    find_layout,
    make_paging,
    prologue,
    swap_entry,
    user_mode,
)
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import FaultReason, KcrashError, MemoryFault
from kcrash.linux.modules import module_symbols, modules
from kcrash.linux.stack import frames as frames_of
from kcrash.linux.tasks import task_table
from kcrash.memory.space import AddressSpace, PagedSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder
from tests.arch.conftest import Lab
from tests.arch.prologues import prologues_beside_tables

CACHED = 0x9000_0000_0000_0000
TOP = 0x8000_0000
PRESENT, HUGE, PROT_NONE, HUGE_GLOBAL, PRESENT_INVALID = 1 << 7, 1 << 6, 1 << 10, 1 << 12, 1 << 60
# Bits of a page's size, and the lowest address bit that each level resolves (Documentation/arch/loongarch).
FORMS = [
    (12, (30, 21, 12)), (12, (39, 30, 21, 12)), (14, (25, 14)), (14, (36, 25, 14)), (16, (29, 16)),
    (16, (42, 29, 16)),
]  # fmt: skip


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


def mapped(form: tuple[int, tuple[int, ...]], address: int, leaf: int, depth: int) -> PagedSpace:
    """A space in which ``address`` is mapped: the entry ``leaf`` stands at level ``depth``."""
    page, lowest = form
    memory, table = Memory(), TOP
    for number, low in enumerate(lowest[: depth + 1]):
        following = 0x1234_5600_0000 + (number + 1 << page)
        at = table + 8 * (address >> low & (1 << page - 3) - 1)
        memory.stored[at] = leaf if number == depth else CACHED | following
        table = following
    return PagedSpace("kernel", memory, make_paging(page, len(lowest)), TOP)


# -- translation


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [False, True])
def test_a_page(form: tuple[int, tuple[int, ...]], kernel: bool) -> None:
    page, lowest = form
    bits = min(lowest[0] + page - 3, 47)
    address = (1 << bits) - (5 << page) - 0x123 + (0xFFFF_8000_0000_0000 if kernel else 0)
    physical = 0x7654_3210_0000 | 3 << page
    space = mapped(form, address, physical & ~0xFFF | PRESENT | 1 | 3 << 2 | 5 << 61, len(lowest) - 1)
    assert space.translate(address) == physical + address % (1 << page)
    assert [space.paging.levels[step.level].shift for step in space.walk(address)] == list(lowest)
    assert not space.canonical(1 << 56)
    with pytest.raises(MemoryFault):
        space.translate(address ^ 1 << page)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flags", [PRESENT | HUGE_GLOBAL, PROT_NONE, PRESENT_INVALID])
def test_a_huge_page_whose_global_bit_is_one_of_its_address(
    form: tuple[int, tuple[int, ...]], flags: int
) -> None:
    page, lowest = form
    depth = len(lowest) - 2
    physical, address = 3 << lowest[depth], 0x12_3456_7890
    space = mapped(form, address, physical | HUGE | flags, depth)
    assert space.translate(address) == physical + address % (1 << lowest[depth])
    (run,) = space.runs(address & -(1 << page), (address & -(1 << page)) + (1 << page))
    assert run.page_size == 1 << lowest[depth]


def test_entries_that_map_nothing() -> None:
    paging = make_paging(14, 3, frozenset({0x1B2_0000}))
    assert paging.decode(CACHED | 0x1B2_0000, 0).kind is EntryKind.ABSENT
    assert paging.decode(CACHED | 0x1B2_4000, 0) == Entry(EntryKind.TABLE, 0x1B2_4000)
    assert paging.decode(0x1B2_4000, 0).kind is EntryKind.ABSENT, "tables are named by their addresses"
    assert paging.decode(0, 2).kind is EntryKind.ABSENT and paging.decode(HUGE, 2).kind is EntryKind.ABSENT
    swapped = 3 << 16 | 0x1234 << 24
    assert paging.decode(swapped, 2).kind is EntryKind.OTHER and swap_entry(swapped) == (3, 0x1234)
    assert paging.decode(swapped | HUGE, 1).kind is EntryKind.OTHER


def test_tables_of_entries_are_as_single_ones() -> None:
    paging = make_paging(14, 3)
    values = [
        0,
        HUGE,
        0x4000 | PRESENT | 1,
        0x8000 | PROT_NONE,
        3 << 16 | 5 << 24,
        0xFFFF_FFFF_C000 | PRESENT,
    ]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, 2)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


def test_forms_that_there_are_not() -> None:
    with pytest.raises(KcrashError, match="5 levels"):
        make_paging(12, 5)
    with pytest.raises(KcrashError, match="8192 bytes"):
        make_paging(13, 3)


# -- where the kernel is


def probe(page: int, levels: int, physical: Memory) -> SimpleNamespace:
    """A machine whose top table is at TOP; its empty tables lie one after the other behind."""
    size, tables = 1 << page, [TOP + (number << page) for number in range(levels)]
    for number, table in enumerate(tables[:-1]):
        for at in range(table, table + size, 8):
            physical.stored[at] = CACHED | tables[number + 1]
    physical.stored[TOP] = CACHED | 0x5000_0000  # modules
    text = f"PAGESIZE={size}\nSYMBOL(swapper_pg_dir)={CACHED | TOP:x}\nSYMBOL(vmemmap)=fffffebffe000000\n"
    dump = SimpleNamespace(path="dump", ranges=lambda: [SimpleNamespace(start=0, end=1 << 32)])
    info = parse_vmcoreinfo(text.encode())
    return SimpleNamespace(physical=physical, vmcoreinfo=info, dump=dump, link_address=lambda name: None)


@pytest.mark.parametrize("page, lowest", FORMS)
def test_levels_are_those_of_the_chain_of_empty_tables(page: int, lowest: tuple[int, ...]) -> None:
    layout = find_layout(probe(page, len(lowest), Memory()))
    assert tuple(level.shift for level in layout.paging.levels) == lowest
    assert layout.top_table == TOP and layout.constants["VMEMMAP_START"] == 0xFFFF_FEBF_FE00_0000
    assert layout.paging.decode(CACHED | TOP + (1 << page), 0).kind is EntryKind.ABSENT
    assert layout.paging.user_end == 1 << min(lowest[0] + page - 3, 47)


def test_windows_are_memory() -> None:
    memory = Memory()
    layout = find_layout(probe(14, 3, memory))
    space = PagedSpace("kernel", memory, layout.paging, layout.top_table, layout.linear)
    for window in (0x8000_0000_0000_0000, CACHED, 0xA000_0000_0000_0000):
        assert space.translate(window + 0x1234_5678) == 0x1234_5678


@pytest.mark.parametrize("damage", [{}, {TOP + 8 * n: CACHED | TOP for n in range(2048)}])
def test_a_top_table_that_is_none(damage: dict[int, int]) -> None:
    found = probe(14, 3, Memory())
    found.physical.stored = damage
    with pytest.raises(KcrashError, match="no page tables at physical address 80000000"):
        find_layout(found)


def test_user_mode() -> None:
    assert user_mode({"prmd": 7, "pc": 0x1000}) and not user_mode({"prmd": 4, "pc": 0x1000})
    note = {"pc": 0x5555_5555_0000, "r3": 0x7FFF_0000_0000}
    assert user_mode(note) and not user_mode(note | {"r3": CACHED}) and not user_mode({})


def test_return_addresses_in_copies_of_the_handlers() -> None:
    """Exceptions 0 to 63 have a handler each, all interrupts one; a copy has 512 bytes for each."""
    memory, table, handlers, first, second = Memory("kernel"), 0x10000, 0x20000, 0x40_0000, 0x80_0000
    symbols = {"exception_table": table, "handle_vint": 0x30000, "eentry": 0x8000, "pcpu_handlers": 0x9000}
    memory.stored = {table + 8 * n: handlers + 0x100 * n for n in range(64)}
    memory.stored |= {0x8000: first, 0x9000: 0, 0x9008: second}
    kernel = SimpleNamespace(symbol=symbols.get, memory=memory, cpus=[0, 1])
    original = copied_code(kernel)
    assert original(first + 8 * 512 + 0x58) == handlers + 0x800 + 0x58
    assert original(second + 75 * 512 + 0x90) == 0x30000 + 0x90
    assert original(first - 8) == first - 8 and original(second + 0x10000) == second + 0x10000
    assert copied_code(SimpleNamespace(symbol=lambda name: None, memory=memory, cpus=[0]))(first) == first


# -- frames

IRQ_LINK = CACHED | 0x600_3FF0
CODE, ENTRY, STACK = CACHED | 0x20_0000, CACHED | 0x20_1000, CACHED | 0x700_0000
REGS_FIELDS = {number: (8 * number, 8) for number in range(32)} | {DWARF["pc"]: (8 * 33, 8)}
# addi.d $sp, $sp, -80; st.d $ra, $sp, 72; st.d $s0, $sp, 64; ld.d $s0, $a0, 104
BODY = struct.pack("<4I", 0x02FE_C063, 0x29C1_2061, 0x29C1_0077, 0x28C1_A097)
# ld.d $ra, $sp, 72; addi.d $sp, $sp, 80; ret
EPILOGUE = struct.pack("<3I", 0x28C1_2061, 0x02C1_4063, 0x4C00_0020)


def test_prologue_of_compiled_code() -> None:
    assert prologue(BODY[:4]) == (80, {}, None)
    assert prologue(BODY) == (80, {1: -8, 23: -16}, None)
    assert prologue(BODY + EPILOGUE[:8]) == (0, {}, None)
    assert prologue(BODY + EPILOGUE) == (80, {1: -8, 23: -16}, None), "the body goes on behind the return"
    assert prologue(BODY + struct.pack("<I", 0x02C1_4076)) == (80, {1: -8, 23: -16}, 0)  # addi.d $fp, $sp, 80
    wide = struct.pack("<2I", 0x02E0_0063, 0x2707_F861)  # addi.d $sp, $sp, -2048; stptr.d $ra, $sp, 2040
    assert prologue(wide) == (2048, {1: -8}, None)


@pytest.mark.parametrize("machine", ["loong64-7.2"], indirect=True)
def test_prologues_say_what_the_compilers_tables_say(machine: Lab) -> None:
    """Where .debug_frame finds the frame by the stack pointer."""
    prologues_beside_tables(machine)


@pytest.mark.parametrize("machine", ["loong64-7.2"], indirect=True)
def test_the_clock_is_the_guests(machine: Lab) -> None:
    (told,) = set(re.findall(r"^CPU MHz\s*: (\d+)\.", machine.truth.facts["/proc/cpuinfo"], re.MULTILINE))
    assert f"({told} Mhz)" in machine.run("sys")


@pytest.mark.parametrize("machine", ["loong64-7.2"], indirect=True)
def test_text_of_a_module_is_named_by_its_functions(machine: Lab) -> None:
    """Not by the labels that the assembler leaves for the linker, of which there are more."""
    file = machine.dumps.kernel.module("ext4")
    table = ELFFile(io.BytesIO(file or b"")).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    functions = {symbol.name for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"}
    (module,) = (module for module in modules(machine.session) if module.name == "ext4")
    found = {symbol.name for symbol in module_symbols(machine.session, module) if symbol.type in "tT"}
    assert len(found & functions) > 1000 and len(found - functions) < 50


@pytest.mark.parametrize("machine", ["loong64-7.2"], indirect=True)
def test_prologues_give_the_frames_of_the_tables(machine: Lab) -> None:
    """Where the first CPU starts code is behind a call that never returns, which only tables tell."""
    alone, checked = machine.open("qemu-elf"), 0
    alone.memo("kernel unwind tables", lambda: Tables(None, None))
    for task in task_table(machine.session).tasks:
        if not task.exit_state:
            found = frames_of(alone, task_table(alone).by_address[task.address])
            expected = frames_of(machine.session, task)
            assert [frame.pc for frame in found] == [frame.pc for frame in expected][: len(found)], task.name
            assert len(expected) - len(found) == (task.name == "swapper/0")
            checked += len(found)
    alone.close()
    assert checked > 300


def frames(words: dict[int, int], code: bytes, *, interrupted: bool, **registers: int) -> list[Frame]:
    """Of a machine in which ``code`` stands at CODE, and every function begins at a multiple of 256."""
    memory, known = Memory("kernel"), CodeMap()
    memory.stored = words
    padded = code.ljust(-(-len(code) // 8) * 8, b"\0")
    memory.stored |= {
        CODE + at: int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)
    }
    known.add(CODE, CODE + 0x2000, lambda: Tables(None, None))
    target = target_for(LOONGARCH64, RegsLayout(320, REGS_FIELDS), regs_code=((ENTRY, ENTRY + 0x100),))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    machine = Unwinder(
        target, known, memory, function_start=lambda address: address & ~0xFF, links={IRQ_LINK}
    )
    return list(machine.unwind(start, interrupted=interrupted))


def test_prologues_lead_to_the_border_of_user_space() -> None:
    regs = STACK + 80
    words = {
        STACK + 72: ENTRY + 0x10,
        STACK + 64: 0x1111,
        regs + 8 * 33: 0x1_2000_0000,
        regs + 24: 0x7FFF_0000,
    }
    found = frames(words, BODY, interrupted=False, pc=CODE + 16, r3=STACK, r1=CODE + 16)
    assert [frame.pc for frame in found] == [CODE + 16, ENTRY + 0x10, 0x1_2000_0000]
    assert found[0].cfa == regs and found[1].registers[23] == 0x1111
    assert found[-1].regs_address == regs and not found[-1].note


def test_the_stack_of_interrupts_tells_where_they_came_from() -> None:
    """The handler's frame ends at the link; do_vint(), which called it there, is left by the registers."""
    low, regs = IRQ_LINK - 80, STACK + 0x400
    words = {
        low + 72: CODE + 0x120, IRQ_LINK: regs,
        regs + 8 * 33: CODE + 0x204, regs + 8 * 3: STACK + 0x600, regs + 8: CODE + 0x300, regs + 8 * 35: 0xB0,
    }  # fmt: skip
    found = frames(words, BODY, interrupted=False, pc=CODE + 16, r3=low, r1=CODE + 16)
    assert [frame.pc for frame in found[:3]] == [CODE + 16, CODE + 0x120, CODE + 0x204]
    assert found[1].cfa == regs and found[2].regs_address == regs
    assert found[2].interrupted and found[2].registers[3] == STACK + 0x600


def test_an_interrupted_leaf_returns_by_its_register() -> None:
    regs = STACK + 80
    words = {regs + 8 * 33: 0x1_2000_0000, regs + 24: 0x7FFF_0000}
    found = frames(words, BODY, interrupted=True, pc=CODE + 4, r3=STACK, r1=ENTRY + 0x10)
    assert [(frame.pc, frame.cfa) for frame in found[:2]] == [(CODE + 4, regs), (ENTRY + 0x10, regs)]


def test_a_function_that_called_without_saving_its_return_address_has_no_caller() -> None:
    found = frames({}, BODY[:4] + bytes(12), interrupted=False, pc=CODE + 16, r3=STACK, r1=CODE + 16)
    assert [frame.pc for frame in found] == [CODE + 16] and not found[0].note
