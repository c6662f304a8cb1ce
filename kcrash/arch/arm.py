"""arm (32 bits): registers, short descriptors and LPAE, where Linux puts itself.

Sources: Arm Architecture Reference Manual, ARMv7-A (DDI 0406) chapters B3.5 (short descriptors), B3.6 (long
descriptors) and B1.3 (CPSR), "DWARF for the Arm Architecture" (aadwarf32, register numbers), Linux
arch/arm/include/asm/pgtable-2level.h, pgtable-3level.h and memory.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kcrash.arch.arm_text import assembly
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
from kcrash.errors import KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD = (1 << 32) - 1
#: What CONFIG_PAGE_OFFSET may be (arch/arm/Kconfig, "Memory split").
PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x40000000)
#: How PHYS_OFFSET is aligned: Linux commit 9443076e4330 ("ARM: p2v: reduce p2v alignment requirement to
#: 2 MiB") in v5.11; more before.
PHYS_ALIGN = 1 << 21
MAX_GUESSES = 1 << 13

R = tuple(f"r{number}" for number in range(13))
# cpsr has no number in DWARF; this one is beyond those that call frame information can say.
DWARF = {name: number for number, name in enumerate((*R, "sp", "lr", "pc"))} | {"cpsr": 4096}
# struct pt_regs, arch/arm/include/asm/ptrace.h.
PT_REGS = {
    name: (f"uregs[{number}]",) for number, name in enumerate((*R, "sp", "lr", "pc", "cpsr", "orig_r0"))
}
PRSTATUS = Prstatus(
    size=148, signal=12, pid=24, times=40, regs=72, fpvalid=144, registers=tuple(PT_REGS)
)  # fmt: skip
# Members of struct cpu_context_save (arch/arm/include/asm/thread_info.h).
CPU_CONTEXT = {**{f"r{n}": f"r{n}" for n in range(4, 10)}, "r10": "sl", "r11": "fp", "sp": "sp", "pc": "pc"}
# Entry code (arch/arm/kernel/entry-armv.S, entry-common.S): a struct pt_regs lies at the stack pointer, or
# two words above, where arguments of a system call are.
ENTRY_FUNCTIONS = (
    "__dabt_svc", "__irq_svc", "__und_svc", "__pabt_svc", "__fiq_svc",
    "__dabt_usr", "__irq_usr", "__und_usr", "__pabt_usr", "__fiq_usr", "ret_from_exception",
    "ret_fast_syscall", "slow_work_pending", "ret_to_user", "ret_slow_syscall", "ret_to_user_from_irq",
    "no_work_pending", "ret_from_fork", "vector_swi", "local_restart", "__sys_trace", "__sys_trace_return",
    "__sys_trace_return_nosave",
)  # fmt: skip
MODE, USER_MODE = 0x1F, 0x10  # of CPSR

# Of pages in entries for Linux (L_PTE_*), in both forms.
SHORT_FLAGS = (
    (1, "PRESENT"), (1 << 1, "YOUNG"), (1 << 6, "DIRTY"), (1 << 7, "RDONLY"), (1 << 8, "USER"),
    (1 << 9, "XN"), (1 << 10, "SHARED"), (1 << 11, "NONE"),
)  # fmt: skip
# Of sections, which are the hardware's (DDI 0406, figure B3-4).
SECTION_FLAGS = (
    (1 << 2, "B"), (1 << 3, "C"), (1 << 4, "XN"), (1 << 10, "AP0"), (1 << 11, "AP1"), (1 << 15, "AP2"),
    (1 << 16, "SHARED"), (1 << 17, "NG"), (1 << 18, "SUPER"),
)  # fmt: skip
LONG_FLAGS = (
    (1, "VALID"), (1 << 1, "PRESENT"), (1 << 6, "USER"), (1 << 7, "AP2"), (3 << 8, "SHARED"),
    (1 << 10, "YOUNG"), (1 << 11, "NG"), (1 << 53, "PXN"), (1 << 54, "XN"), (1 << 55, "DIRTY"),
    (1 << 56, "SPECIAL"), (1 << 57, "NONE"), (1 << 58, "RDONLY"),
)  # fmt: skip


# -- page tables: short descriptors

# The hardware's tables of 256 entries stand behind Linux's own, which tell more of a page: with its accessed
# and dirty bits, and what is swapped out.
LINUX_TABLE = 2048


def short_paging(user_end: int, swap: Callable[[int], tuple[int, int]]) -> Paging:
    """Two levels: the hardware's first, of which Linux takes two entries for one, and its own second."""
    levels = Level("PGD", 20, 12), Level("PTE", 12, 8)
    return Paging(levels, 4, decode_short, 32, user_end, short_flags, decode_short_table, swap)


def decode_short(value: int, level: int) -> Entry:
    """An entry: a section of 1 MiB or one of 16 that are a supersection, with 40 bits of address."""
    if not value:
        return Entry(EntryKind.ABSENT, 0)
    if level:
        return Entry(EntryKind.LEAF, value & 0xFFFFF000) if value & 1 else Entry(EntryKind.OTHER, 0)
    if value & 3 == 1:
        return Entry(EntryKind.TABLE, (value & 0xFFFFFC00) - LINUX_TABLE & WORD)
    if not value & 2:
        return Entry(EntryKind.ABSENT, 0)
    if value & 1 << 18:
        high = (value >> 20 & 15) << 32 | (value >> 5 & 15) << 36
        return Entry(EntryKind.LEAF, value & 0xFF000000 | high, 24)
    return Entry(EntryKind.LEAF, value & 0xFFF00000)


def decode_short_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table."""
    mapped: NDArray[np.bool_] = (values & 1) != 0
    return mapped, (values & 0xFFFFF000).astype("u8")


def short_flags(value: int) -> list[str]:
    """Flags of Linux's entries, which have bit 0, and of sections, which have bit 1 alone."""
    table = SECTION_FLAGS if value & 3 == 2 else SHORT_FLAGS
    return [name for mask, name in table if value & mask]


# -- page tables: long descriptors (LPAE)

LONG_MASK = (1 << 40) - 1
SECTION_NONE = 1 << 57  # of 2 MiB without access, not valid to the hardware


def long_paging(user_end: int, swap: Callable[[int], tuple[int, int]]) -> Paging:
    """Three levels with entries of 64 bits, those of the top for 1 GiB each."""
    levels = Level("PGD", 30, 2), Level("PMD", 21, 9), Level("PTE", 12, 9)
    return Paging(levels, 8, decode_long, 32, user_end, long_flags, decode_long_table, swap)


def decode_long(value: int, level: int) -> Entry:
    """An entry. PROT_NONE takes the valid bit of a page and leaves the next one (L_PTE_PRESENT is both)."""
    if not value:
        return Entry(EntryKind.ABSENT, 0)
    if level == 2:
        return Entry(EntryKind.LEAF, value & LONG_MASK & -4096) if value & 3 else Entry(EntryKind.OTHER, 0)
    if value & 3 == 3:
        return Entry(EntryKind.TABLE, value & LONG_MASK & -4096)
    if level == 1 and (value & 1 or value & SECTION_NONE):
        return Entry(EntryKind.LEAF, value & LONG_MASK & -(1 << 21))
    return Entry(EntryKind.LEAF, value & LONG_MASK & -(1 << 30)) if value & 1 else Entry(EntryKind.OTHER, 0)


def decode_long_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table."""
    mapped: NDArray[np.bool_] = (values & 3) != 0
    return mapped, (values & (LONG_MASK & ~0xFFF)).astype("u8")


def long_flags(value: int) -> list[str]:
    """Flags of an entry."""
    return [name for mask, name in LONG_FLAGS if value & mask == mask]


# -- swap entries, the same in both forms (arch/arm/include/asm/pgtable.h)


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset() since "arm/mm: support __HAVE_ARCH_PTE_SWP_EXCLUSIVE"
    in Linux v6.3."""
    return value >> 2 & 31, value >> 8 & 0xFFFFFF


def older_swap_entry(value: int) -> tuple[int, int]:
    """As it was before."""
    return value >> 3 & 31, value >> 8 & 0xFFFFFF


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """PHYS_OFFSET by the page tables that VMCOREINFO tells of (arch/arm/kernel/vmcore_info.c), or the image.

    ``probe``: see kcrash.locate.LayoutProbe. The kernel patches itself for the memory that it finds: nothing
    says where that begins, but the page tables must map themselves. Raises KcrashError if none do.
    """
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else probe.link_address("swapper_pg_dir")
    if top is None:
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    page_offset = next((base for base in PAGE_OFFSETS if base <= top), PAGE_OFFSETS[-1])
    swap = swap_entry if _has_exclusive(probe) else older_swap_entry
    forms = [form(page_offset, swap) for form in _forms(info)]
    for start in _phys_offsets(probe):
        for paging in forms:
            if _maps(probe, paging, start + top - page_offset, top):
                return _layout(probe, paging, top, page_offset, start)
    raise KcrashError(f"{probe.dump.path}: no page tables of this kernel in it")


def _layout(probe: Any, paging: Paging, top: int, page_offset: int, start: int) -> KernelLayout:
    kaslr = displacement(probe, probe.vmcoreinfo) if probe.vmcoreinfo else 0
    linear = _linear(probe, probe.space(paging, start + top - page_offset), kaslr, page_offset, start)
    constants = {"PAGE_OFFSET": page_offset, "PHYS_OFFSET": start, "SECTION_SIZE_BITS": 28}
    return KernelLayout(kaslr, start, paging, start + top - page_offset, linear, constants)


def _forms(info: Any) -> tuple[Callable[..., Paging], ...]:
    if info is None:
        return short_paging, long_paging
    return (long_paging if "CONFIG_ARM_LPAE" in info.raw else short_paging,)


def _has_exclusive(probe: Any) -> bool:
    """Nothing in the dump says which form it is. cachestat() came in v6.5, two versions later."""
    return not probe.has_symbols or probe.link_address("sys_cachestat") is not None


def _phys_offsets(probe: Any) -> Iterator[int]:
    """Where memory may begin for the kernel: most likely where a range of the dump does."""
    ranges = sorted(probe.dump.ranges(), key=lambda piece: int(piece.start))
    starts = [-(-piece.start // PHYS_ALIGN) * PHYS_ALIGN for piece in ranges]
    yield from starts
    left = MAX_GUESSES
    for piece, start in zip(ranges, starts, strict=True):
        for guess in range(start, min(piece.end, start + left * PHYS_ALIGN), PHYS_ALIGN):
            left -= 1
            yield guess


def _maps(probe: Any, paging: Paging, top: int, virtual: int) -> bool:
    """True if the tables at ``top`` map themselves at ``virtual``."""
    try:
        return bool(probe.space(paging, top).translate(virtual) == top)
    except MemoryFault:
        return False


def _linear(probe: Any, space: Any, kaslr: int, page_offset: int, start: int) -> tuple[LinearRange, ...]:
    """Memory that is always mapped, up to high_memory; of the rest page tables tell."""
    linked = probe.link_address("high_memory")
    try:
        end = 0 if linked is None else space.u32(linked + kaslr)
    except MemoryFault:
        end = 0
    return (LinearRange(page_offset, end, start),) if end > page_offset else ()


MAX_IMAGE = 1 << 25  # a kernel must be reached by branches


def code_pointer(layout: KernelLayout) -> Callable[[int], int]:
    """A CPU that comes up runs by physical addresses at first: what calls secondary_start_kernel() is the end
    of its stack, and so are addresses of the image there."""
    start = layout.constants["PHYS_OFFSET"]
    return lambda value: 0 if start <= value < start + MAX_IMAGE else value


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU: __switch_to() leaves them in its thread_info.

    That is in the task_struct since Linux commit 18ed1c01a7dd ("ARM: smp: Enable THREAD_INFO_IN_TASK") in
    v5.16, before at the low end of the stack.
    """
    info = thread_info(types, memory, task)
    start, size = types.offset("struct thread_info", "cpu_context"), types.size("struct cpu_context_save")
    data = memory.read(info + start, size)
    found = {}
    for name, member in CPU_CONTEXT.items():
        at = types.offset("struct cpu_context_save", member)
        found[DWARF[name]] = int.from_bytes(data[at : at + 4], "little")
    return found | {DWARF["lr"]: found[DWARF["pc"]]}


def thread_info(types: TypeLookup, memory: Memory, task: int) -> int:
    """The address of a task's struct thread_info."""
    if types.has("struct task_struct", "thread_info"):
        return task + types.offset("struct task_struct", "thread_info")
    stack = memory.read(task + types.offset("struct task_struct", "stack"), 4)
    return int.from_bytes(stack, "little")


def task_stack_padding(symbols: SymbolLookup) -> int:
    """THREAD_START_SP, arch/arm/include/asm/thread_info.h."""
    return 8


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space."""
    return registers.get("cpsr", 0) & MODE == USER_MODE


# Modes of CPSR (DDI 0406, B1.3.1): user, FIQ, IRQ, supervisor, abort, undefined.
MODES = {0x10, 0x11, 0x12, 0x13, 0x17, 0x1B}


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if cpsr is such as an exception leaves."""
    return registers["cpsr"] & MODE in MODES and registers["sp"] & 3 == 0


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks, whose pointers tell their upper ends (arch/arm/kernel/irq.c, traps.c)."""
    found = []
    for cpu in kernel.cpus:
        for symbol, name, size in (
            ("irq_stack_ptr", "IRQ", kernel.thread_size),
            ("overflow_stack_ptr", "OVERFLOW", 4096),
        ):
            address = kernel.per_cpu(symbol, cpu)
            high = _word_or_0(kernel.memory, address) if address is not None else 0
            if high:
                found.append(StackRange(name, high - size, high, cpu))
    return found


def _word_or_0(memory: Any, address: int) -> int:
    try:
        return int(memory.u32(address))
    except MemoryFault:
        return 0


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(name: str) -> str:
        value = registers.get(name)
        return f"{value:08x}" if value is not None else "(unknown)"

    lines = [
        f"    pc : [<{shown('pc')}>]    lr : [<{shown('lr')}>]    psr: {shown('cpsr')}",
        f"    sp : {shown('sp')}  ip : {shown('r12')}  fp : {shown('r11')}",
    ]
    for row in (("r10", "r9", "r8"), ("r7", "r6", "r5", "r4"), ("r3", "r2", "r1", "r0")):
        lines.append("    " + "  ".join(f"{name:3}: {shown(name)}" for name in row))
    return lines


ARM = register_arch(
    Arch(
        name="arm",
        machine="armv7l",
        elf_machine=40,
        byte_order="little",
        word_bits=32,
        page_shift=12,
        virtual_tables=True,
        dwarf=DWARF,
        pc="pc",
        sp="sp",
        fp="r11",
        return_column=14,
        callee_saved=frozenset(range(4, 12)),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_ARM", "CS_MODE_ARM"),
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=-12, return_address=-4, cfa=4, regs_functions=ENTRY_FUNCTIONS),
        frame_style=FrameStyle(numbered=True, caller=True),
        code_pointer=code_pointer,
        assembly=assembly,
        pc_ahead=4,
        instruction_bytes=lambda code: 4,
        remark="\t@",
    )
)
