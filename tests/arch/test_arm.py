"""Page tables of 32-bit ARM, by hand from the architecture's manual and Linux's headers, and its stacks."""

from __future__ import annotations

import numpy as np
import pytest

from kcrash.arch.arm import (
    ARM,
    DWARF,
    code_pointer,
    find_layout,
    long_paging,
    older_swap_entry,
    short_paging,
    swap_entry,
    switched_out,
    user_mode,
)
from kcrash.arch.base import Entry, EntryKind, KernelLayout, Paging
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import KcrashError, MemoryFault
from kcrash.locate import LayoutProbe
from kcrash.memory.space import PagedSpace, PhysicalSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder
from tests.arch.ram import Ram
from tests.arch.test_i386 import Symbols, Types

TOP, TABLE, LEAVES = 0x40004000, 0x40010000, 0x40020000
PRESENT, NONE = 1, 1 << 11
SECTION, COARSE = 2, 1


def short(ram: Ram) -> PagedSpace:
    return PagedSpace("kernel", ram, short_paging(0xC0000000, swap_entry), TOP)


def long(ram: Ram) -> PagedSpace:
    return PagedSpace("kernel", ram, long_paging(0xC0000000, swap_entry), TOP)


# -- short descriptors


@pytest.mark.parametrize("address", [0xC0123ABC, 0x00010123, 0xFFFF0FFC])
def test_a_page_is_found_in_linuxs_own_table(address: int) -> None:
    """Two entries for 2 MiB refer to the hardware's tables of 1 KiB each, 2,048 bytes behind Linux's."""
    half = address >> 20 & 1
    ram = Ram(4).put(TOP + 4 * (address >> 20), TABLE + 2048 + 1024 * half | COARSE | 1 << 5)
    ram.put(TABLE + 1024 * half + 4 * (address >> 12 & 255), 0x4ABCD000 | PRESENT | 1 << 6)
    ram.put(TABLE + 2048 + 1024 * half + 4 * (address >> 12 & 255), 0xDEAD0000 | 2)
    space = short(ram)
    assert space.translate(address) == 0x4ABCD000 | address & 0xFFF
    assert [space.paging.levels[step.level].name for step in space.walk(address)] == ["PGD", "PTE"]
    with pytest.raises(MemoryFault, match="not mapped"):
        space.translate(address ^ 1 << 12)


def test_a_section_and_a_supersection() -> None:
    """DDI 0406, figure B3-4: bits 23 to 20 and 8 to 5 of a supersection are bits 35 to 32 and 39 to 36."""
    ram = Ram(4).put(TOP + 4 * 0xC01, 0x41100000 | SECTION | 1 << 10)
    assert short(ram).translate(0xC0123456) == 0x41123456
    assert short(ram).paging.flag_names(0x41100000 | SECTION | 1 << 10 | 1 << 16) == ["AP0", "SHARED"]
    for part in range(16):
        ram.put(TOP + 4 * (0xD00 + part), 0x52000000 | 3 << 20 | 4 << 5 | 1 << 18 | SECTION)
    space = short(ram)
    assert space.translate(0xD0FEDCBA) == 0x43_52FEDCBA
    assert [(run.start, run.size, run.physical) for run in space.runs(0xD0100000, 0xD0300000)] == [
        (0xD0100000, 0x200000, 0x43_52100000)
    ]


def test_pages_that_the_hardware_may_not_use() -> None:
    """L_PTE_NONE is PROT_NONE's; a swap entry lacks L_PTE_PRESENT (asm/pgtable-2level.h, pgtable.h)."""
    paging = short_paging(0xC0000000, swap_entry)
    assert paging.decode(0x4ABCD000 | PRESENT | NONE, 1) == Entry(EntryKind.LEAF, 0x4ABCD000)
    assert "NONE" in paging.flag_names(PRESENT | NONE)
    swapped = 3 << 2 | 0x1234 << 8
    assert paging.decode(swapped, 1).kind is EntryKind.OTHER and swap_entry(swapped) == (3, 0x1234)
    assert older_swap_entry(3 << 3 | 0x1234 << 8) == (3, 0x1234)
    assert paging.decode(0x41100000, 0).kind is EntryKind.ABSENT, "a fault of the first level"


# -- LPAE


@pytest.mark.parametrize("address", [0xC0123ABC, 0x00010123, 0xFFFF0FFC])
def test_a_page_of_three_levels(address: int) -> None:
    ram = Ram(8).put(TOP + 8 * (address >> 30), TABLE | 3).put(TABLE + 8 * (address >> 21 & 511), LEAVES | 3)
    ram.put(LEAVES + 8 * (address >> 12 & 511), 1 << 54 | 0xAB_12345000 | 1 << 10 | 3)
    space = long(ram)
    assert space.translate(address) == 0xAB_12345000 | address & 0xFFF
    assert [space.paging.levels[step.level].name for step in space.walk(address)] == ["PGD", "PMD", "PTE"]
    assert {"XN", "YOUNG", "VALID"} <= set(space.paging.flag_names(1 << 54 | 1 << 10 | 3))


def test_2_mib_and_1_gib_at_once() -> None:
    ram = Ram(8).put(TOP + 24, TABLE | 3).put(TABLE + 8 * 1, 0x1_40200000 | 1).put(TOP + 16, 0x2_40000000 | 1)
    assert long(ram).translate(0xC02ABCDE) == 0x1_402ABCDE
    assert long(ram).translate(0x8ABCDEF0) == 0x2_4ABCDEF0


def test_prot_none_of_three_levels() -> None:
    """Without the valid bit, but with the other of L_PTE_PRESENT; of 2 MiB with L_PMD_SECT_NONE."""
    paging = long_paging(0xC0000000, swap_entry)
    assert paging.decode(1 << 57 | 0x1_40001000 | 2, 2) == Entry(EntryKind.LEAF, 0x1_40001000)
    assert paging.decode(1 << 57 | 0x1_40200000 | 1 << 10, 1) == Entry(EntryKind.LEAF, 0x1_40200000)
    assert paging.decode(3 << 2 | 0x1234 << 8, 2).kind is EntryKind.OTHER


@pytest.mark.parametrize("form", [short_paging, long_paging])
def test_tables_of_entries_are_as_single_ones(form: object) -> None:
    assert callable(form)
    paging: Paging = form(0xC0000000, swap_entry)
    values = [0, 0x4ABCD000 | 3, 0x40001000 | 3 | NONE, 3 << 2 | 5 << 8, 0xFFFFF000 | 3]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, len(paging.levels) - 1)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


# -- where the kernel is


def layout(ram: Ram, text: str) -> KernelLayout:
    info = parse_vmcoreinfo(text.encode()) if text else None
    physical = PhysicalSpace(ram.dump(), "little", 4)
    return find_layout(LayoutProbe(ram.dump(), info, physical, lambda name: None, (0, 0)))


@pytest.mark.parametrize("page_offset", [0xC0000000, 0xB0000000, 0x80000000, 0x40000000])
@pytest.mark.parametrize("start", [0, 0x40000000, 0x60000000, 0x80200000])
@pytest.mark.parametrize("lpae", [False, True])
def test_phys_offset_is_where_the_tables_map_themselves(page_offset: int, start: int, lpae: bool) -> None:
    """Memory that another owner has may stand before the kernel's."""
    own = page_offset + 0x4000
    ram = Ram(8 if lpae else 4, (0x1000, 0x3000), (start, start + 0x10000000))
    top = start + 0x4000
    if lpae:
        ram.put(top + 8 * (own >> 30), start + 0x6000 | 3)
        ram.put(start + 0x6000 + 8 * (own >> 21 & 511), start | 1)
    else:
        ram.put(top + 4 * (own >> 20), start | SECTION)
    text = f"SYMBOL(swapper_pg_dir)={own:x}\n" + ("CONFIG_ARM_LPAE=y\n" if lpae else "")
    found = layout(ram, text)
    assert (found.constants["PAGE_OFFSET"], found.constants["PHYS_OFFSET"]) == (page_offset, start)
    assert found.top_table == top and found.paging.entry_size == (8 if lpae else 4)


def test_no_tables_at_all() -> None:
    with pytest.raises(KcrashError, match="no page tables of this kernel"):
        layout(Ram(4, (0, 1 << 25)), "SYMBOL(swapper_pg_dir)=c0004000\n")
    with pytest.raises(KcrashError, match="no VMCOREINFO"):
        layout(Ram(4), "")


# -- registers

TASK, STACK = 0xC2000000, 0xC3000F00


@pytest.mark.parametrize("in_task", [True, False])
def test_a_task_that_was_switched_out(in_task: bool) -> None:
    """The thread_info has been in the task_struct since v5.16."""
    own = {"thread_info": 64} if in_task else {"stack": 4}
    names = ("r4", "r5", "r6", "r7", "r8", "r9", "sl", "fp", "sp", "pc")
    types = Types(cpu_context=8, **own, **{name: 4 * n for n, name in enumerate(names)})
    ram = Ram(4).put(TASK + 4, STACK)
    start = (TASK + 64 if in_task else STACK) + 8
    types.sizes = 48
    for number in range(10):
        ram.put(start + 4 * number, 100 + number)
    found = switched_out(types, Symbols(), ram, TASK)
    assert [found[DWARF[name]] for name in ("r4", "r9", "r10", "r11", "sp", "pc", "lr")] == [
        100, 105, 106, 107, 108, 109, 109,
    ]  # fmt: skip


def test_user_mode() -> None:
    assert user_mode({"cpsr": 0x60000010}) and user_mode({"cpsr": 0x30})
    assert not user_mode({"cpsr": 0x13}) and not user_mode({"cpsr": 0}) and not user_mode({})


# -- frames

CODE, ENTRY = 0xC0100000, 0xC0200000
REGS = RegsLayout(72, {DWARF[name]: (4 * n, 4) for n, name in enumerate([*DWARF][:17])})


def unwind(ram: Ram, user_regs: int | None = None, **registers: int) -> list[Frame]:
    code = CodeMap()
    code.add(CODE, ENTRY + 0x1000, Tables())
    found = KernelLayout(0, 0, short_paging(0, swap_entry), None, (), {"PHYS_OFFSET": 0x40000000})
    target = target_for(ARM, REGS, code_pointer(found), regs_code=((ENTRY, ENTRY + 0x100),))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    made = Unwinder(target, code, ram, user_regs=lambda address: user_regs)
    return list(made.unwind(start, interrupted=False))


def frame(ram: Ram, at: int, fp: int, lr: int) -> None:
    """What push {fp, ip, lr, pc} of the APCS leaves: the frame pointer is where the pc was saved."""
    ram.put(at - 12, fp).put(at - 4, lr)


@pytest.mark.parametrize("arguments", [0, 8])
def test_frames_up_to_a_system_call(arguments: int) -> None:
    """ret_fast_syscall is returned to at its very start; two arguments of the call may be on the stack."""
    ram = Ram(4)
    frame(ram, STACK, STACK + 0x40, CODE + 0x10)
    frame(ram, STACK + 0x40, 0, ENTRY)
    regs = STACK + 0x44 + arguments
    ram.put(regs + 4 * 15, 0x10123).put(regs + 4 * 16, 0x60000010).put(regs + 4 * 13, 0xBE800000)
    found = unwind(ram, regs, pc=CODE + 0x100, sp=STACK - 32, r11=STACK)
    assert [one.pc for one in found] == [CODE + 0x100, CODE + 0x10, ENTRY, 0x10123]
    assert found[2].lookup_pc == ENTRY and found[1].lookup_pc == CODE + 0xF
    assert found[3].registers[DWARF["sp"]] == 0xBE800000 and not found[3].note


def test_the_first_code_of_a_cpu_ends_its_stack() -> None:
    ram = Ram(4)
    frame(ram, STACK, 0, 0x40301880)
    found = unwind(ram, pc=CODE + 0x100, sp=STACK - 32, r11=STACK)
    assert [one.pc for one in found] == [CODE + 0x100] and not found[0].note
