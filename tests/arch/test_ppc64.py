"""ppc64's page tables, written by hand from the Power ISA and asm/book3s/64, its layout and its frames."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kcrash
from kcrash import locate
from kcrash.arch.base import Arch, Entry, EntryKind, LinearRange
from kcrash.arch.ppc64 import DWARF, PPC64, PPC64LE, SIZES, Sizes, find_layout, make_paging, user_mode
from kcrash.dump import open_dump
from kcrash.dump.base import Note
from kcrash.dump.vmcoreinfo import VmcoreInfo, parse_vmcoreinfo
from kcrash.errors import FaultReason, KcrashError, MemoryFault
from kcrash.linux.cpu_registers import cpu_registers
from kcrash.linux.stack import frames as frames_of
from kcrash.linux.tasks import task_table
from kcrash.memory.space import AddressSpace, PagedSpace
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import RegsLayout, target_for
from kcrash.unwind.unwinder import Frame, Unwinder
from tests.arch.conftest import Lab
from tests.arch.prologues import prologues_beside_tables
from tests.build.elf_core import ElfCore, Load
from tests.build.with_vmcoreinfo import with_vmcoreinfo

TOP = 0x8000_0000
LINEAR = 0xC000_0000_0000_0000
# Bits of a page and the lowest address bit that each level from the top resolves: radix-4k.h, radix-64k.h,
# hash-4k.h and hash-64k.h; then the hash tables with 64 KiB pages of v4.7, which had three levels.
FORMS = [
    (SIZES[True, 12], (39, 30, 21, 12)),
    (SIZES[True, 16], (39, 30, 21, 16)),
    (SIZES[False, 12], (37, 28, 21, 12)),
    (SIZES[False, 16], (44, 34, 24, 16)),
    (Sizes(12, 0, 10, 8, 16), (34, 24, 16)),
]
PRESENT, PTE, INVALID = 1 << 63, 1 << 62, 1 << 61


class Memory(AddressSpace):
    """Memory of words: what was not written is zero; ``stored`` as integers of the memory's byte order."""

    def __init__(self, byte_order: str = "little", name: str = "physical") -> None:
        super().__init__(name, byte_order, 8)
        self.stored: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        if 0 < address < 4096:
            raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)
        first = address & -8
        words = (self.stored.get(at, 0) for at in range(first, address + size, 8))
        data = b"".join(struct.pack(f"{self._order}Q", word) for word in words)
        return data[address - first :][:size]

    def entry(self, address: int, value: int) -> None:
        """An entry of a page table, the highest byte first whatever the order of the rest."""
        self.stored[address] = int.from_bytes(value.to_bytes(8, "big"), self.byte_order)  # type: ignore[arg-type]


def mapped(
    sizes: Sizes, lowest: tuple[int, ...], address: int, leaf: int, depth: int, order: str
) -> PagedSpace:
    """A space in which ``address`` is mapped: the entry ``leaf`` stands at level ``depth``."""
    memory, table = Memory(order), TOP
    ends, valid = (sum(sizes), *lowest), PRESENT | (9 if sizes.pgd == 13 else 0)
    for number, low in enumerate(lowest[: depth + 1]):
        following = 0x1F_FFFF_F000_0000 - (number + 1 << 20)
        index = address >> low & (1 << ends[number] - low) - 1
        memory.entry(table + 8 * index, leaf if number == depth else following | valid)
        table = following
    return PagedSpace("kernel", memory, make_paging(sizes, (LINEAR, address)), TOP)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("sizes, lowest", FORMS)
def test_a_page(sizes: Sizes, lowest: tuple[int, ...], order: str) -> None:
    bits, page = sum(sizes), 1 << sizes.page
    address = LINEAR + (1 << bits - 1) + 0x1234_5678_9ABC % (1 << bits - 1)
    physical = 0x1F_1234_5670_0000
    leaf = physical | PRESENT | PTE | 0x18D | 7 << 53  # above the address: slots in the hash table
    space = mapped(sizes, lowest, address, leaf, len(lowest) - 1, order)
    assert space.translate(address) == physical + address % page
    assert [space.paging.levels[step.level].shift for step in space.walk(address)] == list(lowest)
    with pytest.raises(MemoryFault):
        space.translate(address ^ page)
    assert not space.canonical(address - LINEAR), "a user's address"


@pytest.mark.parametrize("sizes, lowest", FORMS)
def test_a_large_page(sizes: Sizes, lowest: tuple[int, ...]) -> None:
    depth, address = len(lowest) - 2, 0x12_3456_7890
    physical = 3 << lowest[depth]
    space = mapped(sizes, lowest, address, physical | PRESENT | PTE | 7, depth, "little")
    assert space.translate(address) == physical + address % (1 << lowest[depth])


def test_entries_that_are_not_present() -> None:
    """pte_present(), pmd_present(), __swp_type() and __swp_offset() in asm/book3s/64/pgtable.h."""
    paging = make_paging(SIZES[True, 12])
    assert paging.decode(0x4567_8000 | PTE | INVALID | 7, 3) == Entry(EntryKind.LEAF, 0x4567_8000)
    swapped = PTE | 0x1234 << 12 | 0x20 | 3
    assert paging.decode(swapped, 3).kind is EntryKind.OTHER and paging.swap_entry is not None
    assert paging.swap_entry(swapped) == (3, 0x1234)
    assert paging.decode(0, 3).kind is paging.decode(0, 0).kind is EntryKind.ABSENT


def test_a_table_for_huge_pages_is_not_taken_for_one_of_small_ones() -> None:
    """hugepd_populate(): of tables that hash kernels make only these say their size."""
    table = 0x4567_8000 | PRESENT | 5 << 2
    assert make_paging(SIZES[False, 12]).decode(table, 1).kind is EntryKind.OTHER
    assert make_paging(SIZES[True, 12]).decode(table, 1) == Entry(EntryKind.TABLE, 0x4567_8000)


def test_tables_of_entries_are_as_single_ones() -> None:
    paging = make_paging(SIZES[False, 16])
    values = [0, 0x10000 | PRESENT | PTE, 0x20000 | PTE | INVALID, PTE | 5 << 16 | 3, 7 << 53, (1 << 64) - 1]
    assert paging.decode_table is not None
    present, physical = paging.decode_table(np.array(values, "u8"))
    for number, value in enumerate(values):
        entry = paging.decode(value, 3)
        assert bool(present[number]) is (entry.kind is EntryKind.LEAF)
        assert not present[number] or int(physical[number]) == entry.address


def test_user_mode() -> None:
    assert user_mode({"msr": 0x8000_0000_0000_D033}) and not user_mode({"msr": 0x8000_0000_0000_9033})
    assert not user_mode({}) and not user_mode({"msr": 0, "nip": 0})


# -- where the kernel is

TABLE, LOG, MAP = LINEAR + 0x270_0000, LINEAR + 0x260_0000, LINEAR + 0x261_0000
INFO = f"""OSRELEASE=6.12
PAGESIZE=%d
SYMBOL(swapper_pg_dir)={TABLE:x}
SYMBOL(log_buf)={LOG:x}
NUMBER(RADIX_MMU)=%d
"""
HASH = f"""SYMBOL(vmemmap_list)={LINEAR + 0x3000:x}
SYMBOL(mmu_vmemmap_psize)={LINEAR + 0x4004:x}
SYMBOL(mmu_psize_defs)={LINEAR + 0x5000:x}
SIZE(mmu_psize_def)=72
OFFSET(mmu_psize_def.shift)=4
"""


def probe(memory: Memory, text: str, symbols: dict[str, int] | None = None) -> Any:
    """What find_layout() looks at, with 2 GiB of memory."""
    dump = SimpleNamespace(path="dump", ranges=lambda: [SimpleNamespace(start=0, end=1 << 31)])
    info: VmcoreInfo = parse_vmcoreinfo(text.encode())
    link = (symbols or {}).get
    return SimpleNamespace(dump=dump, vmcoreinfo=info, physical=memory, link_address=link, image_shift=None)


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("radix", [0, 1])
def test_form_of_the_tables_by_vmcoreinfo(page_size: int, radix: int) -> None:
    memory = Memory()
    memory.stored[LOG - LINEAR] = LINEAR + 0x1000
    layout = find_layout(probe(memory, INFO % (page_size, radix)))
    sizes = SIZES[bool(radix), page_size.bit_length() - 1]
    assert [level.bits for level in layout.paging.levels] == list(sizes[:4])
    assert layout.top_table == TABLE - LINEAR and layout.linear == (
        LinearRange(LINEAR, LINEAR + (1 << 31), 0),
    )


def test_form_of_the_tables_by_the_kernels_variables() -> None:
    memory, places = Memory(), {}
    for number, (name, bits) in enumerate((("pgd", 12), ("pud", 0), ("pmd", 10), ("pte", 8))):
        places[f"__{name}_index_size"] = MAP + 8 * number
        memory.stored[MAP - LINEAR + 8 * number] = bits
    layout = find_layout(probe(memory, "OSRELEASE=4.9\n" + INFO % (65536, 0), places))
    assert [level.shift for level in layout.paging.levels] == [34, 24, 16]


@pytest.mark.parametrize("size, radix", [(9, True), (0, False)])
def test_form_of_the_tables_by_their_first_entry(size: int, radix: bool) -> None:
    memory = Memory()
    memory.entry(TABLE - LINEAR, 0x4FFF_B000 | PRESENT | size)
    text = INFO.replace("NUMBER(RADIX_MMU)=%d\n", "") % 4096
    levels = find_layout(probe(memory, text)).paging.levels
    assert [level.bits for level in levels] == list(SIZES[radix, 12][:4])


def test_where_struct_pages_are() -> None:
    """VMCOREINFO says the array's address; before it did, the variable of that name."""
    memory, start = Memory(), 0xC00C_0000_0000_0000
    memory.stored[MAP - LINEAR] = start
    said = find_layout(probe(memory, INFO % (4096, 1) + f"SYMBOL(vmemmap)={start:x}\n"))
    held = find_layout(probe(memory, INFO % (4096, 1), {"vmemmap": MAP}))
    assert said.constants["VMEMMAP_START"] == held.constants["VMEMMAP_START"] == start


def test_a_pointer_tells_the_byte_order() -> None:
    memory = Memory("big")
    memory.stored[LOG - LINEAR] = int.from_bytes((LINEAR + 0x1000).to_bytes(8, "little"), "big")
    with pytest.raises(KcrashError, match="memory is not big-endian"):
        find_layout(probe(memory, INFO % (4096, 1)))


@pytest.mark.parametrize("where", ["2700000", "d000000002700000", "1c000000002700000", "-1"])
def test_tables_outside_of_the_linear_map(where: str) -> None:
    with pytest.raises(KcrashError, match="not in the linear map"):
        find_layout(probe(Memory(), f"SYMBOL(swapper_pg_dir)={where}\n"))


def test_a_kernel_that_was_moved() -> None:
    """A relocatable kernel runs where it was loaded; what VMCOREINFO does not name moved along."""
    memory, moved = Memory(), 0x200_0000
    memory.stored[MAP - LINEAR + moved] = LINEAR + 0x7_0000_0000
    text = INFO % (4096, 1) + f"SYMBOL(_stext)={LINEAR + 0x1000 + moved:x}\n"
    layout = find_layout(probe(memory, text, {"_stext": LINEAR + 0x1000, "vmemmap": MAP}))
    assert layout.kaslr == moved and layout.top_table == TABLE - LINEAR
    assert layout.constants["VMEMMAP_START"] == LINEAR + 0x7_0000_0000


@pytest.mark.parametrize("arch", [PPC64LE, PPC64])
@pytest.mark.parametrize("label", ["<", ">"])
def test_memory_tells_the_architecture(arch: Arch, label: str, tmp_path: Path) -> None:
    """Of a file whose header may say either order: a pointer, and the kernel's release where it should be."""
    memory = bytearray(1 << 16)
    memory[0x1000:0x1008] = (LINEAR + 0x2000).to_bytes(8, arch.byte_order)  # type: ignore[arg-type]
    memory[0x3000:0x3010] = b"6.12-synthetic".ljust(16, b"\0")
    text = f"""OSRELEASE=6.12-synthetic\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={LINEAR + 0x3000:x}
SYMBOL(swapper_pg_dir)={LINEAR + 0x4000:x}\nSYMBOL(log_buf)={LINEAR + 0x1000:x}\n"""
    path = tmp_path / "core"
    notes = [Note("VMCOREINFO", 0, text.encode())]
    path.write_bytes(ElfCore([Load(0, bytes(memory))], notes, order=label, machine=21).to_bytes())
    dump = open_dump([path])
    likely = locate._likely(dump)
    assert {found.name for found in likely} == {"ppc64", "ppc64le"}
    assert locate._arch_by_trial(dump, parse_vmcoreinfo(text.encode()), likely) is arch
    dump.close()


@pytest.mark.parametrize("order", ["little", "big"])
def test_struct_pages_of_a_hash_kernel(order: str) -> None:
    """Three pieces of 16 MiB, of which two go on physically; the list does not end."""
    memory, start = Memory(order), 0xC00C_0000_0000_0000
    upper, lower = (32, 0) if order == "little" else (0, 32)  # of the second 32 bits of a word, and the first
    memory.stored |= {
        0x3000: LINEAR + 0x3100,
        0x4000: 4 << upper,
        0x5000 + 4 * 72: 24 << upper | 1 << lower,
        0x3100: LINEAR + 0x3200, 0x3108: 0x700_0000, 0x3110: start + 0x200_0000,
        0x3200: LINEAR + 0x3300, 0x3208: 0x500_0000, 0x3210: start,
        0x3300: LINEAR + 0x3100, 0x3308: 0x600_0000, 0x3310: start + 0x100_0000,
    }  # fmt: skip
    layout = find_layout(probe(memory, INFO % (4096, 0) + HASH))
    assert layout.linear[1:] == (LinearRange(start, start + 0x300_0000, 0x500_0000),)


# -- frames

CODE, STACK, SIZE = LINEAR + 0x10_0000, LINEAR + 0x100_0000, 384
REGS_FIELDS = {DWARF[f"r{n}"]: (8 * n, 8) for n in range(32)} | {
    DWARF["nip"]: (256, 8), DWARF["msr"]: (264, 8), DWARF["link"]: (288, 8),
}  # fmt: skip
KERNEL_MSR, USER_MSR = 0x8000_0000_0000_9033, 0x8000_0000_0000_D033
# STACK_INT_FRAME_MARKER, STACK_INT_FRAME_REGS and STACK_FRAME_REGS_MARKER of asm/ptrace.h: of both ABIs now,
# and of all kernels before v6.2.
MARKED = [(PPC64LE, 32, 48, 0x53474552), (PPC64, 96, 112, 0x52454753), (PPC64LE, 96, 112, 0x7265677368657265)]


def frames(words: dict[int, int], arch: Arch, interrupted: bool = False, **registers: int) -> list[Frame]:
    memory, code = Memory(arch.byte_order, "kernel"), CodeMap()
    memory.stored = words
    code.add(CODE, CODE + 0x2000, lambda: Tables(None, None))
    target = target_for(arch, RegsLayout(SIZE, REGS_FIELDS))
    start = Registers({DWARF[name]: value for name, value in registers.items()})
    unwinder = Unwinder(target, code, memory, function_start=lambda address: address & -0x100)
    return list(unwinder.unwind(start, interrupted=interrupted))


@pytest.mark.parametrize("arch, mark, regs, marker", MARKED)
def test_the_chain_of_frames_and_an_exception(arch: Arch, mark: int, regs: int, marker: int) -> None:
    """Entry code's frame leads to the registers that it saved: of the kernel, then of user space."""
    inner, outer = STACK + 0x200, STACK + 0x800
    words = {
        STACK + 0x100: inner, inner + 16: CODE + 0x500,
        inner: STACK + 0x600, inner + mark: marker,
        inner + regs + 8: STACK + 0x600, inner + regs + 256: CODE + 0x708, inner + regs + 264: KERNEL_MSR,
        STACK + 0x600: outer, outer + 16: CODE + 0x900,
        outer: 0x3FFF_F000, outer + mark: marker,
        CODE + 0x700: 0xF821_FFC1_F821_FFC1,  # stdu r1,-64(r1), in the function that was interrupted
        outer + regs + 8: 0x3FFF_F000, outer + regs + 256: 0x1000_1234, outer + regs + 264: USER_MSR,
    }  # fmt: skip
    found = frames(words, arch, nip=CODE + 0x100, r1=STACK + 0x100)
    assert [frame.pc for frame in found] == [
        CODE + 0x100, CODE + 0x500, CODE + 0x708, CODE + 0x900, 0x1000_1234,
    ]  # fmt: skip
    assert [frame.regs_address for frame in found if frame.regs_address] == [inner + regs, outer + regs]
    assert not found[-1].note


def test_a_marker_left_from_before_is_none() -> None:
    """The frame's chain does not go where those registers say."""
    inner = STACK + 0x200
    words = {
        STACK + 0x100: inner, inner + 16: CODE + 0x500,
        inner: STACK + 0x400, inner + 32: 0x53474552, inner + 48 + 8: STACK + 0x700,
        STACK + 0x400 + 16: CODE + 0x600,
    }  # fmt: skip
    found = frames(words, PPC64LE, nip=CODE + 0x100, r1=STACK + 0x100)
    assert [frame.pc for frame in found] == [CODE + 0x100, CODE + 0x500, CODE + 0x600]
    assert not found[-1].note, "a chain that ends with 0"


@pytest.mark.parametrize("arch", [PPC64LE, PPC64])
@pytest.mark.parametrize("pc, callers", [(4, [0x580, 0x680]), (12, [0x680])], ids=["before", "after"])
def test_an_interrupted_function_may_have_no_frame_yet(arch: Arch, pc: int, callers: list[int]) -> None:
    """mflr r0; std r0,16(r1); stdu r1,-64(r1): until then the return address is in its register."""
    code = [0x7C0802A6, 0xF8010010, 0xF821FFC1, 0x60000000]
    pairs = [code[at : at + 2] if arch is PPC64LE else code[at : at + 2][::-1] for at in (0, 2)]
    words = {CODE + 8 * n: low | high << 32 for n, (low, high) in enumerate(pairs)}
    words |= {STACK + 0x100: STACK + 0x140, STACK + 0x140 + 16: CODE + 0x680}
    registers = {"nip": CODE + pc, "link": CODE + 0x580, "r1": STACK + 0x100}
    found = frames(words, arch, interrupted=True, **registers)
    assert [frame.pc for frame in found[1:]] == [CODE + at for at in callers]


@pytest.mark.parametrize("machine", ["ppc64el"], indirect=True)
def test_prologues_say_what_the_compilers_tables_say(machine: Lab) -> None:
    prologues_beside_tables(machine)


def test_a_circle_of_frames_ends() -> None:
    words = {STACK + 0x100: STACK + 0x200, STACK + 0x200: STACK + 0x100}
    words |= {at + 16: CODE + 0x500 for at in words}
    found = frames(words, PPC64LE, nip=CODE + 0x100, r1=STACK + 0x100)
    assert len(found) < 5 and found[-1].note


@pytest.mark.parametrize("machine", ["ppc64el"], indirect=True)
@pytest.mark.parametrize("said", [True, False], ids=["vmcoreinfo", "no-vmcoreinfo"])
def test_a_dump_that_says_the_other_byte_order(
    machine: Lab, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As QEMU 7.2 does: what memory holds tells its order, and notes are in that of the container."""
    copy = with_vmcoreinfo(machine.dumps.forms["qemu-elf"], b"", machine.folder / "big", ">")
    if not said:
        monkeypatch.setattr(locate, "_info_in_memory", lambda dump, progress: None)
    with kcrash.open(str(copy)) as session:
        assert (session.dump.info.byte_order, session.arch.byte_order) == ("big", "little")
        assert len(task_table(session).tasks) == len(task_table(machine.session).tasks)
        assert session.layout.constants == machine.session.layout.constants
        assert cpu_registers(session) == cpu_registers(machine.session)
    copy.unlink()


@pytest.mark.parametrize("machine", ["ppc64el", "ppc64el-hash"], indirect=True)
def test_the_dying_tasks_frames_are_those_that_the_kernel_printed(machine: Lab) -> None:
    """Behind panic(), which went on from where it printed them; then the pc of user space."""
    with machine.open("elf", alone=True) as session:
        said = machine.run("log", session).rsplit("Call Trace:", 1)[1]
        traced = re.findall(r"\] \[([0-9a-f]{16})\] \[([0-9a-f]{16})\]", said)
        behind = [(int(sp, 16), int(pc, 16)) for sp, pc in traced[2:]]
        user = re.search(r"--- interrupt: \w+ at (0x[0-9a-f]+)", said)
        task = task_table(session).by_pid[machine.truth.panic_pid][0]
        shown = [(frame.registers[DWARF["r1"]], frame.pc) for frame in frames_of(session, task)]
        assert user is not None and len(behind) > 5
        assert shown[-1][1] == int(user[1], 16)
        assert [frame for frame in shown if frame in behind] == behind


@pytest.mark.parametrize("machine", ["ppc64el-hash"], indirect=True)
@pytest.mark.parametrize("form", ["zlib-d1", "zstd-d31"])
def test_what_makedumpfile_wrote_tells_the_same(machine: Lab, form: str) -> None:
    """Of a hash kernel; of radix ones it leaves out what it should not (tests/lab/architectures.py)."""
    lines = ("ps", f"bt {machine.truth.panic_pid}", "mod")
    with machine.open("elf", alone=True) as whole, machine.open(form, alone=True) as session:
        assert session.dump.info.format == "kdump"
        for line in lines:
            assert machine.run(line, session) == machine.run(line, whole), line
