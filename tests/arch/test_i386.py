"""i386's page tables of both forms, by hand from Intel's manual, where the kernel lies, and its frames."""

from __future__ import annotations

import numpy as np
import pytest

from kcrash.arch.base import Entry, EntryKind
from kcrash.arch.i386 import (
    DWARF,
    I386,
    find_layout,
    format_registers,
    make_paging,
    pae_swap_entry,
    pushed_registers,
    saved_registers,
    swap_entry,
    switched_out,
    task_stack_padding,
    user_mode,
)
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import KcrashError, MemoryFault
from kcrash.locate import LayoutProbe
from kcrash.memory.space import PagedSpace, PhysicalSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder
from tests.arch.ram import Ram

TOP, TABLE, PAGE = 0x1000, 0x2000, 0x5000
P, RW, USER, PSE, GLOBAL = 1, 2, 4, 1 << 7, 1 << 8


# -- two levels


def two_levels(address: int, top: int, leaf: int = 0) -> PagedSpace:
    ram = Ram(4).put(TOP + 4 * (address >> 22), top).put(TABLE + 4 * (address >> 12 & 1023), leaf)
    return PagedSpace("kernel", ram, make_paging(False, 0xC0000000), TOP)


@pytest.mark.parametrize("address", [0xC1234ABC, 0x08048123, 0xFFFFF008])
def test_a_page_of_two_levels(address: int) -> None:
    space = two_levels(address, TABLE | P | RW | USER, 0xFEDCB000 | P | RW)
    assert space.translate(address) == 0xFEDCB000 | address & 0xFFF
    assert [space.paging.levels[step.level].name for step in space.walk(address)] == ["PGD", "PTE"]
    with pytest.raises(MemoryFault, match="not mapped"):
        space.translate(address ^ 1 << 12)
    assert not space.canonical(address | 1 << 32)


def test_4_mib_at_once() -> None:
    """Figure 4-4: bits 13 to 20 are bits 32 to 39 of the address (PSE-36), bit 12 is PAT."""
    space = two_levels(0xC1234ABC, 0x00C00000 | 1 << 12 | PSE | P)
    assert space.translate(0xC1234ABC) == 0x00C00000 + 0x234ABC
    assert two_levels(0xC1234ABC, 0x00C00000 | 5 << 13 | PSE | P).translate(0xC1234ABC) == 0x5_00E34ABC
    (run,) = space.runs(0xC1000000, 0xC1400000)
    assert (run.physical, run.page_size) == (0x00C00000, 4 << 20)


def test_what_is_not_present_of_two_levels() -> None:
    """PROT_NONE keeps the address as it is; swap entries: type in bits 1 to 5, offset from bit 9 on."""
    paging = make_paging(False, 0xC0000000)
    assert paging.decode(0x12345000 | GLOBAL, 1) == Entry(EntryKind.LEAF, 0x12345000)
    swapped = 3 << 1 | 0x1234 << 9
    assert paging.decode(swapped, 1).kind is EntryKind.OTHER and swap_entry(swapped) == (3, 0x1234)
    assert paging.decode(0, 0).kind is EntryKind.ABSENT


# -- PAE


def three_levels(address: int, middle: int, leaf: int = 0) -> PagedSpace:
    ram = Ram(8).put(TOP + 8 * (address >> 30), TABLE | P)
    ram.put(TABLE + 8 * (address >> 21 & 511), middle).put(PAGE + 8 * (address >> 12 & 511), leaf)
    return PagedSpace("kernel", ram, make_paging(True, 0xC0000000), TOP)


@pytest.mark.parametrize("address", [0xC1234ABC, 0x08048123, 0xFFFFF008])
def test_a_page_of_pae(address: int) -> None:
    space = three_levels(address, PAGE | P | RW | USER, 1 << 63 | 0xF_FEDCB000 | P)
    assert space.translate(address) == 0xF_FEDCB000 | address & 0xFFF
    assert [space.paging.levels[step.level].name for step in space.walk(address)] == ["PGD", "PMD", "PTE"]
    assert "NX" in space.paging.flag_names(1 << 63 | P)


def test_2_mib_at_once() -> None:
    space = three_levels(0xC1234ABC, 0x3_00200000 | PSE | P)
    assert space.translate(0xC1234ABC) == 0x3_00200000 + 0x34ABC
    entry = space.paging.decode(0x3_00000000 | PSE | P, 0)
    assert entry == Entry(EntryKind.TABLE, 0x3_00000000), "the top level has no large pages"


def test_what_is_not_present_of_pae() -> None:
    """Inverted addresses against L1TF; swap: type on top and an inverted offset, or all in the upper half."""
    paging = make_paging(True, 0xC0000000)
    hidden = ~0x1_2345_6000 & 0x000FFFFFFFFFF000 | GLOBAL
    assert paging.decode(hidden, 2) == Entry(EntryKind.LEAF, 0x1_2345_6000)
    assert pae_swap_entry(3 << 59 | (~0x1234 & (1 << 50) - 1) << 9) == (3, 0x1234)
    assert pae_swap_entry((3 | 0x1234 << 5) << 32) == (3, 0x1234)


@pytest.mark.parametrize("pae", [False, True])
def test_tables_of_entries_are_as_single_ones(pae: bool) -> None:
    paging = make_paging(pae, 0xC0000000)
    values = [0, 0x1000 | P, 0x2000 | GLOBAL, 3 << 1 | 5 << 9, 0xFFFFF000 | P | USER]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, len(paging.levels) - 1)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


# -- where the kernel is


def probe(
    ram: Ram, text: str = "", symbols: dict[str, int] | None = None, shift: int | None = None
) -> LayoutProbe:
    info = parse_vmcoreinfo(text.encode()) if text else None
    physical = PhysicalSpace(ram.dump(), "little", 4)
    return LayoutProbe(
        ram.dump(), info, physical, (symbols or {}).get, (0xC1000000, 0xC2000000), image_shift=shift
    )


@pytest.mark.parametrize("page_offset", [0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000])
@pytest.mark.parametrize("pae", [False, True])
def test_page_offset_is_where_the_tables_map_themselves(page_offset: int, pae: bool) -> None:
    own = page_offset + TOP
    if pae:
        ram = Ram(8).put(TOP + 8 * (own >> 30), TABLE | P).put(TABLE + 8 * (own >> 21 & 511), 0 | PSE | P)
    else:
        ram = Ram(4).put(TOP + 4 * (own >> 22), 0 | PSE | P)
    text = f"SYMBOL(swapper_pg_dir)={own:x}\n" + ("CONFIG_X86_PAE=y\n" if pae else "")
    layout = find_layout(probe(ram, text, {"swapper_pg_dir": own - 0x1000000}))
    assert layout.constants["PAGE_OFFSET"] == page_offset and layout.top_table == TOP
    assert layout.kaslr == 0x1000000 and layout.paging.entry_size == (8 if pae else 4)
    without = find_layout(
        probe(ram, symbols={"swapper_pg_dir": own - 0x1000000}, shift=own - 0x1000000 - TOP)
    )
    assert (without.constants, without.top_table, without.kaslr) == (layout.constants, TOP, 0x1000000)


def test_no_tables_at_all() -> None:
    with pytest.raises(KcrashError, match="cannot tell where the kernel was loaded"):
        find_layout(probe(Ram(4), "SYMBOL(swapper_pg_dir)=c1000000\n"))
    with pytest.raises(KcrashError, match="cannot tell where the kernel was loaded"):
        find_layout(probe(Ram(4)))


# -- registers


class Types:
    """Members of structs at these offsets; no other exists."""

    sizes = 24

    def __init__(self, **offsets: int) -> None:
        self._offsets = {name.replace("__", "."): offset for name, offset in offsets.items()}

    def has(self, text: str, path: str = "") -> bool:
        return path in self._offsets

    def offset(self, text: str, path: str) -> int:
        return self._offsets[path]

    def size(self, text: str) -> int:
        return self.sizes


class Symbols:
    def __init__(self, **symbols: int) -> None:
        self._symbols = symbols

    def find(self, name: str) -> int | None:
        return self._symbols.get(name)


TASK, STACK = 0xC2000000, 0xC3000F00


def test_a_task_that_was_switched_out() -> None:
    types = Types(thread__sp=8, flags=0, si=4, di=8, bx=12, bp=16, ret_addr=20)
    ram = Ram(4).put(TASK + 8, STACK)
    for number, value in enumerate((0x202, 1, 2, 3, STACK + 64, 0xC0101234)):
        ram.put(STACK + 4 * number, value)
    found = switched_out(types, Symbols(), ram, TASK)
    assert found == {
        DWARF["esi"]: 1, DWARF["edi"]: 2, DWARF["ebx"]: 3, DWARF["ebp"]: STACK + 64, DWARF["eip"]: 0xC0101234,
        DWARF["esp"]: STACK + 24,
    }  # fmt: skip


def test_a_task_that_was_switched_out_before_v4_9() -> None:
    """pushfl; pushl %ebp; ...; movl $1f, thread.ip: arch/x86/include/asm/switch_to.h."""
    types = Types(thread__sp=8, thread__ip=12)
    ram = Ram(4).put(TASK + 8, STACK).put(TASK + 12, 0xC0101234).put(STACK, STACK + 64)
    found = switched_out(types, Symbols(ret_from_fork=0xC0100000), ram, TASK)
    assert found == {DWARF["esp"]: STACK + 8, DWARF["ebp"]: STACK + 64, DWARF["eip"]: 0xC0101234}
    ram.put(TASK + 12, 0xC0100000)
    found = switched_out(types, Symbols(ret_from_fork=0xC0100000), ram, TASK)
    assert found == {DWARF["esp"]: STACK, DWARF["eip"]: 0xC0100000}


def test_padding_above_the_users_registers() -> None:
    assert task_stack_padding(Symbols()) == 8
    assert task_stack_padding(Symbols(save_v86_state=1)) == 16


def test_user_mode() -> None:
    assert user_mode({"cs": 0x73, "eflags": 0x202}) and user_mode({"cs": 0x60, "eflags": 0x20202})
    assert not user_mode({"cs": 0x60, "eflags": 0x202}) and not user_mode({})


def test_saved_registers() -> None:
    assert saved_registers({"eflags": 0x246, "cs": 0x60, "ss": 0xC1234567}, 0)
    assert saved_registers({"eflags": 0x246, "cs": 0x73, "ss": 0x7B}, 0)
    assert not saved_registers({"eflags": 0x246, "cs": 0x73, "ss": 0x68}, 0)
    assert not saved_registers({"eflags": 0x244, "cs": 0x60, "ss": 0x68}, 0)


def test_what_a_function_pushes() -> None:
    code = bytes.fromhex("0f1f440000 55 89e5 57 56 53 83ec10")  # nop; push ebp; mov; push edi, esi, ebx; sub
    assert pushed_registers(code) == [DWARF[name] for name in ("ebp", "edi", "esi", "ebx")]


def test_unknown_registers_are_shown_so() -> None:
    lines = format_registers(
        {"eip": 0xC0101234, "cs": 0x60, "eflags": 0x202, "eax": None}, lambda at: f"f+{at:x}"
    )
    assert lines[0] == "    [exception EIP: f+c0101234]" and "EAX: (unknown)" in lines[1]


# -- frames by frame pointers

CODE, ENTRY = 0xC0100000, 0xC0200000
# struct pt_regs: bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss.
REGS = RegsLayout(
    68,
    {DWARF[name]: (4 * n, 2 if name in ("cs", "ss") else 4) for name, n in (
        ("ebx", 0), ("esi", 3), ("edi", 4), ("ebp", 5), ("eax", 6), ("eip", 12), ("cs", 13), ("eflags", 14),
        ("esp", 15), ("ss", 16),
    )},
)  # fmt: skip


def unwind(ram: Ram, **registers: int) -> list[Frame]:
    code = CodeMap()
    code.add(CODE, ENTRY + 0x1000, Tables())
    target = target_for(I386, REGS, regs_code=((ENTRY, ENTRY + 0x100),))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    return list(Unwinder(target, code, ram).unwind(start, interrupted=False))


def regs(ram: Ram, at: int, **values: int) -> None:
    places = {"ebp": 5, "eip": 12, "cs": 13, "eflags": 14, "esp": 15, "ss": 16}
    for name, value in values.items():
        ram.put(at + 4 * places[name], value)


def test_frame_pointers_up_to_a_system_call() -> None:
    """A frame pointer and what a call pushed, each; entry code has a struct pt_regs at the stack pointer."""
    ram = Ram(4)
    ram.put(STACK, STACK + 0x20).put(STACK + 4, CODE + 0x10)
    ram.put(STACK + 0x20, 0xBFFF0000).put(STACK + 0x24, ENTRY + 0x20)
    regs(ram, STACK + 0x28, eip=0x8048123, cs=0x73, eflags=0x202, esp=0xBFFF1234, ss=0x7B)
    found = unwind(ram, eip=CODE + 0x100, esp=STACK - 16, ebp=STACK)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x10, ENTRY + 0x20, 0x8048123]
    assert found[-1].registers[DWARF["esp"]] == 0xBFFF1234 and not found[-1].note
    assert found[-1].regs_address == STACK + 0x28


def test_an_exception_by_a_frame_pointer_that_lacks_its_highest_bit() -> None:
    """ENCODE_FRAME_POINTER of arch/x86/entry/entry_32.S; with bit 0 set it was v4.10 to v4.13."""
    for encoded in (STACK + 0x40 & 0x7FFFFFFF, STACK + 0x40 | 1):
        ram = Ram(4)
        ram.put(STACK, encoded).put(STACK + 4, CODE + 0x10)
        regs(ram, STACK + 0x40, ebp=0, eip=CODE + 0x500, cs=0x60, eflags=0x202, esp=STACK + 0x90, ss=0x68)
        found = unwind(ram, eip=CODE + 0x100, esp=STACK - 16, ebp=STACK)
        assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x10, CODE + 0x500]
        assert found[2].interrupted and found[2].registers[DWARF["esp"]] == STACK + 0x90


@pytest.mark.parametrize("ss, sp", [(0x68, STACK + 0x90), (0xC0101234, STACK + 0x40 + 60)])
def test_an_exception_in_the_kernel_before_v5_3_has_no_stack_pointer(ss: int, sp: int) -> None:
    """Then the interrupted stack goes on where the members sp and ss of struct pt_regs would be."""
    ram = Ram(4).put(STACK, STACK + 0x40 & 0x7FFFFFFF).put(STACK + 4, CODE + 0x10)
    regs(ram, STACK + 0x40, ebp=0, eip=CODE + 0x500, cs=0x60, eflags=0x202, esp=STACK + 0x90, ss=ss)
    found = unwind(ram, eip=CODE + 0x100, esp=STACK - 16, ebp=STACK)
    assert found[2].pc == CODE + 0x500 and found[2].registers[DWARF["esp"]] == sp
