"""s390x: registers, DAT tables of two to five levels, where Linux puts itself.

Sources: z/Architecture Principles of Operation (SA22-7832) chapter 3 (dynamic address translation), "ELF
Application Binary Interface s390x Supplement" (DWARF numbers), Linux arch/s390/include/asm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kcrash.arch.base import (
    Arch,
    Entry,
    EntryKind,
    FrameLayout,
    FrameStyle,
    KernelLayout,
    Level,
    LinearRange,
    Memory,
    Paging,
    Prologue,
    Prstatus,
    StackRange,
    SymbolLookup,
    TypeLookup,
    displacement,
    register_arch,
)
from kcrash.arch.prologue import PrologueReader
from kcrash.errors import CorruptData, KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Bits of a region or segment entry, and of a page entry.
INVALID, FORMAT_CONTROL, TABLE_TYPE = 0x20, 0x400, 0xC
# With INVALID: an entry of swap, since Linux commit f934f6be76c1 ("s390/mm: Introduce region-third and
# segment table swap entries") in v6.14.
COMMON = 0x10
PAGE_INVALID, PAGE_PRESENT, PAGE_PROTECT = 0x400, 1, 0x200
USER_END = 1 << 64  # a process may have all addresses; the kernel has as many of its own
PAGE_MASK = 0xFFFFFFFFFFFFF000
# Names of the levels by the table type of the top one: segment, region third, second, first.
LEVELS = (
    Level("PGD", 53, 11), Level("P4D", 42, 11), Level("PUD", 31, 11), Level("PMD", 20, 11),
    Level("PTE", 12, 8),
)  # fmt: skip
FLAGS = ((1, "PRESENT"), (0x200, "PROTECT"), (0x400, "INVALID"))

GPRS = tuple(f"r{number}" for number in range(16))
DWARF = {name: number for number, name in enumerate(GPRS)} | {"pswm": 64, "pswa": 65}
PT_REGS = {
    **{name: (f"gprs[{number}]",) for number, name in enumerate(GPRS)},
    "pswm": ("psw.mask",), "pswa": ("psw.addr",), "orig_gpr2": ("orig_gpr2",),
    "int_code": ("int_code",), "last_break": ("last_break",),
}  # fmt: skip
# s390_regs, arch/s390/include/uapi/asm/ptrace.h, in struct elf_prstatus; access registers two a word.
ACCESS = tuple(f"a{number}a{number + 1}" for number in range(0, 16, 2))
PRSTATUS = Prstatus(
    size=336, signal=12, pid=32, times=48, regs=112, fpvalid=328,
    registers=("pswm", "pswa", *GPRS, *ACCESS, "orig_gpr2"),
)  # fmt: skip
# What GNU calls otherwise than capstone, and which instructions refer to an address by its distance.
NO_OPERATION = {"bc": "nop", "brcl": "jgnop", "brc": "jnop"}
COMPARING = ("ci", "cg", "cl", "cr", "loc", "stoc", "sel")
CONDITIONS = {"lh": "ne", "le": "nh", "he": "nl"}
RELATIVE = ("l", "st", "c", "ex", "pfd", "br")
HEXADECIMAL = re.compile(r"-?\b0x[0-9a-f]+")
# Stacks of a CPU, by the members of struct lowcore that point into them. That for code without translation
# was the panic stack before v4.20; all CPUs share one for a restart.
LOWCORE = "struct lowcore"
SP = 15
# Instructions: the first byte and the last of those of six, the first two of the others.
STMG, STG, LMG, LG, LAY = b"\xeb\x24", b"\xe3\x24", b"\xeb\x04", b"\xe3\x04", b"\xe3\x71"
AGHI_R15, BR, J, JG = b"\xa7\xfb", b"\x07\xf0", b"\xa7\xf4", b"\xc0\xf4"
LOWCORE_STACKS = {"async_stack": "IRQ", "nodat_stack": "NODAT", "panic_stack": "PANIC", "mcck_stack": "MCCK",
                  "restart_stack": "RESTART"}  # fmt: skip


# -- page tables


def make_paging(levels: int) -> Paging:
    """Tables of two levels (segment table), three, four or five. Kernel and user have all addresses each."""
    shown = LEVELS[-levels:]
    bits, last = shown[0].shift + shown[0].bits, levels - 1

    def decode(value: int, level: int) -> Entry:
        if level == last:
            return decode_page(value)
        large = level >= last - 2
        if large and value & (INVALID | COMMON) == INVALID | COMMON:
            return Entry(EntryKind.OTHER, 0)
        if large and value & FORMAT_CONTROL:
            return Entry(EntryKind.LEAF, value >> shown[level].shift << shown[level].shift)
        if value & INVALID:
            return Entry(EntryKind.ABSENT, 0)
        return Entry(EntryKind.TABLE, value & (~0x7FF if level == last - 1 else ~0xFFF))

    return Paging(
        shown,
        8,
        decode,
        bits,
        USER_END,
        flag_names,
        decode_table,
        swap_entry,
        signed=False,
        empty=PAGE_INVALID,
    )


def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table."""
    mapped: NDArray[np.bool_] = ((values & PAGE_INVALID) == 0) | ((values & PAGE_PRESENT) != 0)
    return mapped & (values != 0), (values & PAGE_MASK).astype("u8")


def decode_page(value: int) -> Entry:
    """A page entry: an invalid one may be of a page that is there (PROT_NONE), or of swap."""
    if not value & PAGE_INVALID or value & PAGE_PRESENT:
        return Entry(EntryKind.LEAF, value >> 12 << 12) if value else Entry(EntryKind.ABSENT, 0)
    return Entry(EntryKind.OTHER if value & PAGE_PROTECT else EntryKind.ABSENT, 0)


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset(), and __swp_type_rste() in asm/pgtable.h.

    Those of pages have PAGE_INVALID and PAGE_PROTECT, and nothing in the two bits below.
    """
    of_page = value & 0x780 == PAGE_INVALID | PAGE_PROTECT
    return value >> (2 if of_page else 6) & 31, value >> 12


def flag_names(value: int) -> list[str]:
    """Flags of a page entry."""
    return [name for mask, name in FLAGS if value & mask]


def user_paging(layout: KernelLayout, physical: Memory, top: int) -> Paging:
    """A process's tables have as many levels as it needs: every entry says of which kind its table is."""
    return make_paging(table_levels(physical, top))


def table_levels(physical: Memory, top: int) -> int:
    """How many levels begin with this table. Raises CorruptData, MemoryFault."""
    entry = int.from_bytes(physical.read(top, 8), "big")
    if not entry:
        raise CorruptData(f"no region or segment table at physical address {top:x}")
    return ((entry & TABLE_TYPE) >> 2) + 2


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """From VMCOREINFO (arch/s390/kernel/vmcore_info.c). Raises KcrashError without it.

    Since Linux commit c98d2ecae08f ("s390/mm: Uncouple physical vs virtual address spaces") in v6.10 the
    kernel runs elsewhere than it lies; before, addresses were physical ones.
    """
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else None
    if top is None:
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    virtual, physical = (int(info.raw.get(name, "0"), 16) for name in ("KERNELOFFSET", "KERNELOFFPHYS"))
    shift = virtual - physical if "KERNELOFFPHYS" in info.raw else 0
    identity = int(info.raw.get("IDENTITYBASE", "0"), 16)
    kaslr, top = displacement(probe, info), top - shift
    end = max((piece.end for piece in probe.dump.ranges()), default=0)
    linear: tuple[LinearRange, ...] = (LinearRange(identity, identity + end, 0),)
    low, high = (address + kaslr for address in probe.image)
    if low < high and shift:
        linear = (LinearRange(low, high, low - shift), *linear)
    constants = {"PAGE_OFFSET": identity}
    if "vmemmap" in info.symbols:
        constants["VMEMMAP_START"] = info.symbols["vmemmap"]
    paging = make_paging(table_levels(probe.physical, top))
    return KernelLayout(kaslr, -shift, paging, top, linear, constants)


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU: __switch_to() leaves r6 to r15 in the frame at thread.ksp."""
    where = types.offset("struct task_struct", "thread.ksp")
    frame = int.from_bytes(memory.read(task + where, 8), "big") + types.offset("struct stack_frame", "gprs")
    data = memory.read(frame, 80)
    found = {6 + n: int.from_bytes(data[8 * n : 8 * n + 8], "big") for n in range(10)}
    return found | {DWARF["pswa"]: found[14]}


def prologue(code: bytes) -> Prologue:
    """What compiled code does to the stack: stmg, stg and lmg relative to its pointer, aghi and lay of it."""
    reader, at = PrologueReader(), 0
    while at < len(code):
        size = instruction_bytes(code[at:])
        _instruction(reader, code[at : at + size])
        at += size
    return reader.result()


def instruction_bytes(code: bytes) -> int:
    """The two highest bits tell."""
    return (2, 4, 4, 6)[code[0] >> 6]


def _instruction(reader: PrologueReader, code: bytes) -> None:
    operation = code[:1] + code[-1:] if len(code) == 6 else code[:2]
    if code[:1] + bytes([code[-1] & 0xF0]) == BR or code[:2] in (J, JG):
        reader.leave()
    elif operation == AGHI_R15:
        reader.take(-int.from_bytes(code[2:4], "big", signed=True))
    elif len(code) == 6 and code[2] >> 4 == SP:
        first, third = code[1] >> 4, code[1] & 15
        offset = code[2] << 8 & 0xF00 | code[3] | code[4] << 12
        offset -= offset >> 19 << 20
        if operation in (STMG, STG):
            for number in range(first, (third if operation == STMG else first) + 1):
                reader.save(number, offset)
                offset += 8
        elif operation == LAY and first == SP and not third:
            reader.take(-offset)
        elif (operation == LMG and third == SP) or (operation == LG and first == SP):
            reader.restore()


def assembly(found: Any) -> tuple[str, str]:
    """Mnemonic and operands as GNU's disassembler writes them: numbers decimal, but for addresses of code."""
    name, operands = found.mnemonic, found.op_str.replace(", ", ",")
    if name == "bcr" and operands.startswith("0,"):
        return "nopr", f"%r{found.bytes[1] & 15}"
    if name in NO_OPERATION and operands.startswith("0,"):
        return NO_OPERATION[name], operands[2:] if operands != "0,0" else ""
    if name.startswith(COMPARING) and name[-2:] in CONDITIONS:
        name = name[:-2] + CONDITIONS[name[-2:]]
    if name.endswith("sbg"):
        name, operands = _selected_bits(name, operands)
    relative = name == "larl" or (name.startswith(RELATIVE) and name.endswith(("rl", "asl")))
    head, comma, last = operands.rpartition(",") if relative else (operands, "", "")
    return name, HEXADECIMAL.sub(lambda number: str(int(number[0], 16)), head) + comma + last


def _selected_bits(name: str, operands: str) -> tuple[str, str]:
    """Of instructions that rotate, then take bits: no rotation by 0; "z" says that the rest is cleared."""
    *parts, end, rotation = operands.split(",")
    clears = int(end, 0) & 0x80
    shown = [*parts, str(int(end, 0) & 0x3F), *([rotation] if int(rotation, 0) else [])]
    return name + ("z" if clears else ""), ",".join(shown)


def task_stack_padding(symbols: SymbolLookup) -> int:
    """Nothing stands between the user's pt_regs and the top of the stack (task_pt_regs())."""
    return 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True in problem state: PSW_MASK_PSTATE."""
    return bool(registers.get("pswm", 0) & 1 << 48)


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if the PSW is one of Linux's: translation on, 64-bit addresses, no bits that must be zero."""
    mask = registers["pswm"]
    return mask >> 58 & 1 == 1 and mask & 0x180000000 == 0x180000000 and not mask & 0xB808000078FFFFFF


def stacks(kernel: Any) -> list[StackRange]:
    """Those that a CPU's lowcore points into. ``kernel``: see kcrash.linux.stack.StackProbe."""
    table, found = kernel.symbol("lowcore_ptr"), dict[int, StackRange]()
    for cpu in kernel.cpus if table is not None else ():
        for member, name in LOWCORE_STACKS.items():
            first = _first_frame(kernel, table + 8 * cpu, member)
            if first:
                low = first // kernel.thread_size * kernel.thread_size
                found.setdefault(low, StackRange(name, low, low + kernel.thread_size, cpu, first))
    return list(found.values())


def _first_frame(kernel: Any, pointer: int, member: str) -> int:
    """The stack pointer that a lowcore's member holds for who switches to that stack, 0 if none.

    It is in the stack's highest part (STACK_INIT_OFFSET).
    """
    if not kernel.types.has(LOWCORE, member):
        return 0
    try:
        lowcore = int(kernel.memory.word(pointer))
        return int(kernel.memory.word(lowcore + kernel.types.offset(LOWCORE, member))) if lowcore else 0
    except MemoryFault:
        return 0


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(name: str) -> str:
        value = registers.get(name)
        return f"{value:016x}" if value is not None else f"{'(unknown)':>16}"

    in_user = user_mode({"pswm": registers.get("pswm") or 0})
    place = "user space" if in_user else symbol(registers.get("pswa") or 0)
    lines = [f" PSW:  {shown('pswm')} {shown('pswa')} ({place})"]
    for at in range(0, 16, 4):
        label = " GPRS: " if not at else "       "
        lines.append(label + " ".join(shown(f"r{number}") for number in range(at, at + 4)))
    return lines


S390X = register_arch(
    Arch(
        name="s390x",
        machine="s390x",
        elf_machine=22,
        byte_order="big",
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="pswa",
        sp="r15",
        fp="r15",
        return_column=14,
        callee_saved=frozenset(range(6, 16)),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_SYSZ", "CS_MODE_BIG_ENDIAN"),
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=152, return_address=136, cfa=None, chained=160),
        prologue=prologue,
        instruction_bytes=instruction_bytes,
        assembly=assembly,
        frame_style=FrameStyle(at_frame_pointer=True, numbered=True),
        user_paging=user_paging,
    )
)
