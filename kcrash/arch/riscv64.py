"""riscv64: registers, page tables of three to five levels, where Linux puts itself.

Sources: The RISC-V Instruction Set Manual, volume II ("Supervisor-Level ISA": Sv39, Sv48, Sv57, Svnapot;
sstatus), "RISC-V DWARF Specification" and "RISC-V Calling Conventions" (riscv-elf-psabi-doc), Linux
Documentation/arch/riscv/vm-layout.rst.
"""

from __future__ import annotations

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
    Prstatus,
    StackRange,
    SymbolLookup,
    TypeLookup,
    displacement,
    register_arch,
)
from kcrash.arch.stack_ranges import per_cpu_stacks
from kcrash.errors import FaultReason, KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD = (1 << 64) - 1
NAMES = {39: ("PGD", "PMD", "PTE"), 48: ("PGD", "PUD", "PMD", "PTE"),
         57: ("PGD", "P4D", "PUD", "PMD", "PTE")}  # fmt: skip
VALID, LEAF = 1, 0xE  # readable, writable, executable: none of them in an entry that refers to a table
NAPOT = 1 << 63
FRAME_MASK = (1 << 54) - (1 << 10)
FLAGS = (
    (1, "PRESENT"), (1 << 1, "READ"), (1 << 2, "WRITE"), (1 << 3, "EXEC"), (1 << 4, "USER"),
    (1 << 5, "GLOBAL"), (1 << 6, "ACCESSED"), (1 << 7, "DIRTY"), (1 << 8, "SPECIAL"),
    (1 << 61, "NOCACHE"), (1 << 62, "IO"), (1 << 63, "NAPOT"),
)  # fmt: skip
# Linux's _PAGE_PROT_NONE (arch/riscv/include/asm/pgtable-bits.h), of entries that are not valid.
PROT_NONE = 1 << 5

X = ("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", *(f"a{n}" for n in range(8)),
     *(f"s{n}" for n in range(2, 12)), "t3", "t4", "t5", "t6")  # fmt: skip
# Number 64 is the DWARF specification's alternate return column, which signal frames have the pc in.
DWARF = {name: number for number, name in enumerate(X)} | {"pc": 64}
# struct pt_regs, arch/riscv/include/asm/ptrace.h.
PT_REGS = {
    "pc": ("epc",), **{name: (name,) for name in X[1:]},
    "status": ("status",), "badaddr": ("badaddr",), "cause": ("cause",), "orig_a0": ("orig_a0",),
}  # fmt: skip
# struct user_regs_struct (arch/riscv/include/uapi/asm/ptrace.h) inside struct elf_prstatus.
PRSTATUS = Prstatus(size=376, signal=12, pid=32, times=48, regs=112, fpvalid=368, registers=("pc", *X[1:]))
# Entry code, of several versions of it (arch/riscv/kernel/entry.S), and where CPUs start (head.S).
ENTRY_FUNCTIONS = (
    "_start_kernel", "secondary_start_sbi",
    "handle_exception", "ret_from_exception", "ret_from_fork", "ret_from_fork_kernel_asm",
    "ret_from_fork_user_asm", "ret_from_kernel_thread",
)  # fmt: skip
SAVED = tuple(f"s{n}" for n in range(12))
SR_SIE, SR_SPP, SR_UXL = 1 << 1, 1 << 8, 32  # sstatus: bits and a bit's number


# -- page tables


def make_paging(va_bits: int) -> Paging:
    """Sv39, Sv48 or Sv57 by the size of addresses."""
    if va_bits not in NAMES:
        raise KcrashError(f"addresses of {va_bits} bits")
    names = NAMES[va_bits]
    shifts = [va_bits - 9 * number for number in range(1, len(names) + 1)]
    levels = tuple(Level(name, shift, 9) for name, shift in zip(names, shifts, strict=True))

    def decode(value: int, level: int) -> Entry:
        if not value & (VALID | PROT_NONE):
            return Entry(EntryKind.OTHER if value else EntryKind.ABSENT, 0)
        address = (value & FRAME_MASK) << 2
        last = level == len(levels) - 1
        if value & VALID and not value & LEAF and not last:
            return Entry(EntryKind.TABLE, address)
        part = napot_shift(value) if value & NAPOT and last else 0
        shift = part or shifts[level]
        return Entry(EntryKind.LEAF, address >> shift << shift, part)

    return Paging(
        levels, 8, decode, va_bits, 1 << va_bits - 1, flag_names, decode_table, swap_entry, parts=parts
    )  # fmt: skip


def napot_shift(value: int) -> int:
    """Of the page that an entry with the N bit is a part of: the lowest bit of the frame number tells."""
    frame = (value & FRAME_MASK) >> 10
    return 12 + (frame & -frame).bit_length() if frame else 0


def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table: the address of a part of a larger page is that of the page."""
    mapped: NDArray[np.bool_] = (values & (VALID | PROT_NONE)) != 0
    frames = (values & FRAME_MASK) >> 10
    frames &= frames - (values >> 63)  # the N bit: the lowest bit that is set is the size
    return mapped, (frames << 12).astype("u8")


def parts(values: NDArray[np.uint64], pages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """See Paging.parts: Svnapot."""
    frames = (values & FRAME_MASK) >> 10
    return ((pages & (frames ^ frames - 1)) * (values >> 63) << 12).astype("u8")


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset() in arch/riscv/include/asm/pgtable.h."""
    return value >> 7 & 31, value >> 12


def flag_names(value: int) -> list[str]:
    """Flags of an entry (arch/riscv/include/asm/pgtable-bits.h, pgtable-64.h)."""
    return [name for mask, name in FLAGS if value & mask]


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """Everything from VMCOREINFO (arch/riscv/kernel/vmcore_info.c). Raises KcrashError without it."""
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else None
    if top is None or not {"VA_BITS", "va_kernel_pa_offset"} <= info.numbers.keys():
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    shift, kaslr = info.numbers["va_kernel_pa_offset"], displacement(probe, info)
    paging, top = make_paging(info.numbers["VA_BITS"]), top - shift & WORD
    linear = _image_range(probe, kaslr, shift)
    space = probe.space(paging, top)
    constants = {"VA_BITS": info.numbers["VA_BITS"]}
    page_offset = info.numbers.get("PAGE_OFFSET")
    if page_offset is not None:
        constants["PAGE_OFFSET"] = page_offset
        linear += _linear_map(probe, info, space, page_offset)
    vmemmap = _vmemmap(probe, info, space, kaslr)
    if vmemmap is not None:
        constants["VMEMMAP_START"] = vmemmap
    return KernelLayout(kaslr, -shift & WORD, paging, top, linear, constants)


def _image_range(probe: Any, kaslr: int, shift: int) -> tuple[LinearRange, ...]:
    start, end = (address + kaslr for address in probe.image)
    return (LinearRange(start, end, start - shift & WORD),) if start < end else ()


def _linear_map(probe: Any, info: Any, space: Any, page_offset: int) -> tuple[LinearRange, ...]:
    """RAM at PAGE_OFFSET, unless the kernel's page tables say otherwise of the first page of the dump's last
    range: what kexec-tools takes for RAM does not have the tables themselves."""
    base = info.numbers.get("phys_ram_base")
    last = max(probe.dump.ranges(), key=lambda piece: piece.end, default=None)
    if base is None or last is None or not 0 <= base < last.end:
        return ()
    low = max(last.start, base)
    try:
        agreed = space.translate(page_offset + low - base & WORD) == low
    except MemoryFault as fault:
        agreed = fault.reason is FaultReason.NOT_IN_DUMP
    return (LinearRange(page_offset, page_offset + last.end - base, base),) if agreed else ()


def _vmemmap(probe: Any, info: Any, space: Any, kaslr: int) -> int | None:
    """The struct page of frame 0, which lies before the array.

    ``vmemmap_start_pfn`` tells where that begins since the Linux commit "riscv: mm: Fix the out of bound
    issue of vmemmap address", phys_ram_base before.
    """
    start, size, base = (
        info.numbers.get("VMEMMAP_START"),
        info.sizes.get("page"),
        info.numbers.get("phys_ram_base"),
    )
    if start is None or size is None or base is None:
        return None
    variable = probe.link_address("vmemmap_start_pfn")
    first = base >> 12
    if variable is not None:
        try:
            first = space.u64(variable + kaslr)
        except MemoryFault:
            return None
    return int(start - first * size & WORD)


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU: __switch_to() leaves them in its thread_struct."""
    data = memory.read(
        task + types.offset("struct task_struct", "thread"), types.size("struct thread_struct")
    )
    found = {}
    for name, member in {"ra": "ra", "sp": "sp", **{f"s{n}": f"s[{n}]" for n in range(12)}}.items():
        at = types.offset("struct thread_struct", member)
        found[DWARF[name]] = int.from_bytes(data[at : at + 8], "little")
    return found | {DWARF["pc"]: found[DWARF["ra"]]}


def task_stack_padding(symbols: SymbolLookup) -> int:
    """The size of struct pt_regs is rounded up to STACK_ALIGN; 36 words need nothing (task_pt_regs())."""
    return 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space: by sstatus, by the pc in notes, which lack it."""
    status = registers.get("status")
    if status is not None:
        return status != 0 and not status & SR_SPP
    return 0 < registers.get("pc", 0) < 1 << 63


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if sstatus is such as an exception leaves: interrupts off, 64-bit programs."""
    status = registers["status"]
    return not status & SR_SIE and status >> SR_UXL & 3 == 2 and registers["sp"] & 7 == 0


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks. ``kernel``: see kcrash.linux.stack.StackProbe."""
    return per_cpu_stacks(kernel, {"irq_stack_ptr": "IRQ"})


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(name: str, label: str = "") -> str:
        value = registers.get(name)
        text = f"{value:016x}" if value is not None else f"{'(unknown)':>16}"
        return f"{label or name:>7}: {text}"

    cells = [shown("pc", "epc"), *(shown(name) for name in X[1:])]
    cells += [shown(name) for name in ("status", "badaddr", "cause", "orig_a0") if name in registers]
    lines = ["  ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)]
    known = {name: value for name, value in registers.items() if value is not None}
    if not user_mode(known):
        lines[:0] = [
            f"    {label}: [{symbol(known.get(name) or 0)}]" for name, label in (("pc", "epc"), ("ra", " ra"))
        ]
    return lines


RISCV64 = register_arch(
    Arch(
        name="riscv64",
        machine="riscv64",
        elf_machine=243,
        byte_order="little",
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="pc",
        sp="sp",
        fp="s0",
        return_column=1,
        callee_saved=frozenset(DWARF[name] for name in SAVED),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_RISCV", "CS_MODE_RISCV64", "CS_MODE_RISCVC"),
        instruction_bytes=lambda code: 4 if code[0] & 3 == 3 else 2,
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=-16, return_address=-8, cfa=0, regs_functions=ENTRY_FUNCTIONS, leaf_fp=-8),
        frame_style=FrameStyle(at_frame_pointer=True, numbered=True),
    )
)
