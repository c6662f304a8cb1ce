"""s390x's tables of every depth, written by hand from the Principles of Operation; frames; CPUs' stacks."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest

from kcrash.arch.base import Entry, EntryKind, KernelLayout
from kcrash.arch.s390x import DWARF, S390X, make_paging, prologue, swap_entry, user_mode
from kcrash.errors import CorruptData, FaultReason, MemoryFault
from kcrash.linux.code import instructions
from kcrash.linux.stack import cpu_stacks, thread_size
from kcrash.memory.space import AddressSpace, PagedSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Kind, Row, Rule
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder
from tests.arch.conftest import Lab
from tests.arch.prologues import prologues_beside_tables
from tests.lab.toolbox import toolbox

TOP = 0x8000_0000
# The lowest address bit that each level from the top resolves; a table's type in its entries, from the top.
FORMS = {2: (20, 12), 3: (31, 20, 12), 4: (42, 31, 20, 12), 5: (53, 42, 31, 20, 12)}
SEGMENT_LEVEL, REGION_THIRD_LEVEL = -2, -3
LARGE, INVALID, PROTECT = 0x400, 0x20, 0x200
PAGE_INVALID = 0x400


class Memory(AddressSpace):
    """Memory of words: what was not written is 0."""

    def __init__(self, name: str = "physical") -> None:
        super().__init__(name, "big", 8)
        self.stored: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        if address < 4096:
            raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)
        words = (self.stored.get(at, 0) for at in range(address, address + size, 8))
        return struct.pack(f">{-(-size // 8)}Q", *words)[:size]


def mapped(levels: int, address: int, leaf: int, depth: int) -> PagedSpace:
    """A space in which ``address`` is mapped: the entry ``leaf`` stands at level ``depth`` from the top."""
    memory, table, lowest = Memory(), TOP, FORMS[levels]
    for number, low in enumerate(lowest[: depth + 1]):
        last = number == levels - 1
        following = 0x12_3456_0000_0000 + (number << 20) + (0x800 if number == levels - 2 else 0)
        kind = levels - 2 - number  # 3 region first, 2 second, 1 third, 0 segment
        flags = 0 if last else kind << 2 | (3 if kind else 0)
        at = table + 8 * (address >> low & (255 if last else 2047))
        memory.stored[at] = leaf if number == depth else following | flags
        table = following
    return PagedSpace("kernel", memory, make_paging(levels), TOP)


# -- translation


@pytest.mark.parametrize("levels", FORMS)
def test_a_page(levels: int) -> None:
    bits = FORMS[levels][0] + 11
    address = (1 << bits) - (5 << 12) - 0x123
    space = mapped(levels, address, 0x77_1234_5000 | PROTECT, levels - 1)
    assert space.translate(address) == 0x77_1234_5000 + address % 4096
    assert [space.paging.levels[step.level].shift for step in space.walk(address)] == list(FORMS[levels])
    if bits < 64:
        assert not space.canonical(1 << bits)


@pytest.mark.parametrize(
    "levels, level", [(n, SEGMENT_LEVEL) for n in FORMS] + [(n, REGION_THIRD_LEVEL) for n in (3, 4, 5)]
)
@pytest.mark.parametrize("flags", [LARGE, LARGE | INVALID | PROTECT, LARGE | INVALID | PROTECT | 0x8001])
def test_a_large_page_also_where_it_is_not_valid(levels: int, level: int, flags: int) -> None:
    """EDAT: 1 MiB and 2 GiB. Linux keeps those invalid that are old or PROT_NONE (asm/pgtable.h)."""
    depth = levels + level
    shift = FORMS[levels][depth]
    physical, address = 5 << shift, 0x1234_5678
    kind = 4 if level == REGION_THIRD_LEVEL else 0
    space = mapped(levels, address, physical | flags | kind, depth)
    assert space.translate(address) == physical + address % (1 << shift)
    (run,) = space.runs(0x1234_5000, 0x1234_7000)
    assert run.physical == physical + 0x1234_5000 % (1 << shift) and run.page_size == 1 << shift


def test_entries_that_map_nothing() -> None:
    paging = make_paging(3)
    assert paging.decode(INVALID, 1).kind is EntryKind.ABSENT
    assert paging.decode(4 | INVALID, 0).kind is EntryKind.ABSENT
    assert paging.decode(PAGE_INVALID, 2).kind is EntryKind.ABSENT
    assert paging.decode(0x5000 | PAGE_INVALID | PROTECT | 1, 2) == Entry(EntryKind.LEAF, 0x5000)  # PROT_NONE


@pytest.mark.parametrize("kind, offset", [(0, 1), (3, 0x1234), (12, 5), (29, 0xFFFF_FFFF)])
def test_swap_entries_of_pages_and_of_segments(kind: int, offset: int) -> None:
    """mk_swap_pte(), and mk_swap_rste() of v6.14 and later."""
    paging = make_paging(4)
    page = PAGE_INVALID | PROTECT | offset << 12 | kind << 2
    segment = 0x30 | offset << 12 | kind << 6
    assert paging.decode(page, 3).kind is EntryKind.OTHER and swap_entry(page) == (kind, offset)
    assert paging.decode(segment, 2).kind is EntryKind.OTHER and swap_entry(segment) == (kind, offset)


def test_tables_of_entries_are_as_single_ones() -> None:
    paging = make_paging(3)
    values = [0, 0x1000, 0x2000 | PAGE_INVALID | 1, PAGE_INVALID, 0x3000 | PAGE_INVALID | PROTECT, 0x4201]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, 2)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


@pytest.mark.parametrize("levels", FORMS)
def test_a_process_has_as_many_levels_as_its_top_table_says(levels: int) -> None:
    memory, kernel = Memory(), make_paging(3)
    layout = KernelLayout(0, 0, kernel, TOP, (), {})
    memory.stored[TOP] = levels - 2 << 2 | INVALID
    assert len(S390X.user_paging(layout, memory, TOP).levels) == levels
    with pytest.raises(CorruptData, match="no region or segment table"):
        S390X.user_paging(layout, memory, TOP + 0x10000)


def test_user_mode() -> None:
    assert user_mode({"pswm": 0x0705_1001_8000_0000})
    assert not user_mode({"pswm": 0x0704_C001_8000_0000}) and not user_mode({})


# -- frames

CODE, TASK, IRQ = 0x3FF_E000_0000, 0x37F_FE70_0000, 0x37F_FE7D_8000
REGS_FIELDS = {DWARF["pswm"]: (8, 8), DWARF["pswa"]: (16, 8)} | {n: (24 + 8 * n, 8) for n in range(16)}
BACK_CHAIN, SAVED_R14 = 152, 136  # in struct stack_frame


class Table:
    """A row for one routine: the compiler's, which knows of no other stack than the task's."""

    def row(self, pc: int) -> Row | None:
        saved = {number: Rule(Kind.SAVED, offset=8 * number - 136) for number in range(10, 16)}
        row = Row(Rule(Kind.REGISTER, 15, 224), tuple(saved.items()), 14, False, "cfi")
        return row if CODE + 0x280 <= pc < CODE + 0x300 else None


def frames(words: dict[int, int], table: Table | None = None, **registers: int) -> list[Frame]:
    memory, code = Memory("kernel"), CodeMap()
    memory.stored = words
    code.add(CODE, CODE + 0x2000, lambda: Tables(table, None))
    target = target_for(S390X, RegsLayout(208, REGS_FIELDS))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    return list(Unwinder(target, code, memory, links={IRQ + 0x100}).unwind(start, interrupted=False))


def test_the_chain_leads_from_a_cpus_stack_through_an_interrupt_to_user_space() -> None:
    """do_irq_async() links the stacks; where the chain is 0 a struct pt_regs follows the frame."""
    regs, outer = TASK + 0x1000, TASK + 0x3F00
    words = {
        IRQ + BACK_CHAIN: TASK + 0x800, TASK + 0x800 + SAVED_R14: CODE + 0x300,
        TASK + 0x800 + BACK_CHAIN: regs - 160, regs - 160 + SAVED_R14: CODE + 0x400,
        regs + 8: 0x0704_C001_8000_0000, regs + 16: CODE + 0x500, regs + 24 + 15 * 8: outer,
        outer + BACK_CHAIN: 0,
        outer + 160 + 8: 0x0705_1001_8000_0000, outer + 160 + 16: 0x2AA_0000_1000,
    }  # fmt: skip
    found = frames(words, pswm=0x0704_0001_8000_0000, pswa=CODE + 0x100, r15=IRQ)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x300, CODE + 0x400, CODE + 0x500,
                                             0x2AA_0000_1000]  # fmt: skip
    assert found[3].regs_address == regs and found[4].regs_address == outer + 160 and not found[4].note


def test_registers_of_who_switched_stacks_are_where_the_table_says() -> None:
    """As in do_irq_async(): r10 to r15 saved on the task's stack, then r15 changed by inline assembly."""
    before = TASK + 0x800
    words = {
        IRQ + BACK_CHAIN: IRQ + 0x100, IRQ + 0x100 + SAVED_R14: CODE + 0x300,
        IRQ + 0x100 + BACK_CHAIN: before,
        **{before + 160 + 8 * number - 136: 0x1000 + number for number in range(10, 14)},
        before + SAVED_R14: CODE + 0x400, before + SAVED_R14 + 8: before,
        before + BACK_CHAIN: 0, before + 160 + 8: 0x0705_1001_8000_0000, before + 160 + 16: 0x2AA_0000_1000,
    }  # fmt: skip
    found = frames(words, Table(), pswm=0, pswa=CODE + 0x100, r15=IRQ)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x300, CODE + 0x400, 0x2AA_0000_1000]
    assert found[2].registers[15] == before and found[2].registers[11] == 0x1000 + 11
    assert found[1].cfa == before + 160


def test_prologue_of_compiled_code() -> None:
    """Instructions of arch_cpu_idle() and down_killable(), cut where a CPU might have been."""
    idle = bytes.fromhex("e3f0f0900024 b904001f e3f0ffe0ff71 e310f0980024 a52e0000")
    assert prologue(idle[:0]) == (0, {}, None)
    assert prologue(idle) == (0x20, {15: 0x90, 1: 0x98 - 0x20}, None)
    body = bytes.fromhex("c00400000000 ebaff0680024 b90400ef e3f0ffc0ff71")
    saved = {number: 0x68 + 8 * (number - 10) for number in range(10, 16)}
    assert prologue(body) == (0x40, saved, None)
    epilogue = bytes.fromhex("ebaff0a80004")
    assert prologue(body + epilogue) == (0, {}, None)
    assert prologue(body + epilogue + b"\x07\xf5") == (0x40, saved, None), (
        "behind the return the body goes on"
    )


@pytest.mark.parametrize("machine", ["s390x"], indirect=True)
def test_prologues_say_what_the_compilers_tables_say(machine: Lab) -> None:
    """Where .debug_frame finds the frame by the stack pointer."""
    prologues_beside_tables(machine, stack_bias=160)


def test_a_chain_in_a_circle_ends() -> None:
    words = {
        TASK + BACK_CHAIN: TASK + 0x100, TASK + 0x100 + SAVED_R14: CODE + 0x300,
        TASK + 0x100 + BACK_CHAIN: TASK, TASK + SAVED_R14: CODE + 0x400,
    }  # fmt: skip
    found = frames(words, pswm=0, pswa=CODE + 0x100, r15=TASK)
    assert len(found) < 5 and found[-1].note


# -- a real machine


@pytest.mark.parametrize("machine", ["s390x"], indirect=True)
def test_prefix_registers_point_at_the_lowcores(machine: Lab) -> None:
    session = machine.session
    table = session.symbols.find_kernel("lowcore_ptr")
    prefixes = [int.from_bytes(note.data, "big") for note in session.dump.info.notes if note.type == 0x305]
    assert table is not None and len(prefixes) == 2
    kernel = [session.memory.word(table + 8 * cpu) for cpu in range(2)]
    assert [session.memory.translate(address) for address in kernel] == prefixes


@pytest.mark.parametrize("machine", ["s390x"], indirect=True)
def test_cpus_have_the_stacks_that_drgn_reads_of_their_lowcores(machine: Lab) -> None:
    drgn: Any = pytest.importorskip("drgn")
    session, size = machine.session, thread_size(machine.session)
    program = drgn.Program()
    program.set_core_dump(str(machine.for_drgn("qemu-elf")))
    program.load_debug_info([str(machine.vmlinux)])
    expected = set()
    for cpu in range(2):
        lowcore = program["lowcore_ptr"][cpu]
        expected |= {
            (int(getattr(lowcore, member)) & -size)
            for member in ("async_stack", "nodat_stack", "mcck_stack", "restart_stack")
        }
    found = cpu_stacks(session)
    assert {stack.low for stack in found} == expected
    assert [stack.name for stack in found if stack.cpu == 1] == ["IRQ", "NODAT", "MCCK"]


GNU_LINE = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(\S+)\s*([^\n<]*)", re.MULTILINE)


@pytest.mark.parametrize("machine", ["s390x"], indirect=True)
def test_instructions_are_written_as_gnu_does(machine: Lab) -> None:
    """Where the kernel has not changed its text since it was linked; objdump shows addresses as linked."""
    session, box = machine.session, toolbox(machine.dumps.kernel.arch)
    kaslr, start = session.layout.kaslr, session.symbols.find_kernel("_stext")
    assert start is not None and machine.vmlinux is not None
    file, span = machine.vmlinux.resolve(), 0x10000
    limits = [f"--start-address={start - kaslr:#x}", f"--stop-address={start - kaslr + span:#x}"]
    listing = box.run(["s390x-linux-gnu-objdump", "-d", *limits, file], binds=[file.parent]).stdout
    rows = GNU_LINE.findall(listing)
    gnus = {int(at, 16) + kaslr: (bytes.fromhex(data), name, rest.strip()) for at, data, name, rest in rows}
    checked, different = 0, []
    for found in instructions(session, session.memory, start, start + span):
        data, name, operands = gnus.get(found.address, (b"", "", ""))
        if data == found.data:
            head, comma, last = operands.rpartition(",")
            if re.fullmatch("[0-9a-f]+", last) and ("0x" in found.operands):
                operands = f"{head}{comma}{int(last, 16) + kaslr:#x}"
            checked += 1
            if (found.mnemonic, found.operands) != (name, operands):
                different.append((found, name, operands))
    assert checked > 8_000 and len(different) < checked // 200, different[:5]
