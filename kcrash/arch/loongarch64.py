"""loongarch64: registers, page tables of every page size, windows to memory, where Linux puts itself.

Sources: LoongArch Reference Manual, volume 1 (5.2 "Direct mapped address translation mode", 5.4.5
"Multi-level page table structure", 7.4 CRMD, PRMD), "ELF for the LoongArch Architecture" (la-abi-specs:
DWARF numbers), Linux arch/loongarch/include/asm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from struct import iter_unpack, unpack
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
from kcrash.arch.stack_ranges import per_cpu_stacks
from kcrash.errors import KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SIZES = (1 << 12, 1 << 14, 1 << 16)
MAX_LEVELS = 4
PHYSICAL = (1 << 48) - 1  # of an address in a window (DMW_PABITS)
# Windows that Linux keeps open, by the highest four bits: uncached, cached, write-combining (CSR_DMW*_BASE).
WINDOWS = (0x8000_0000_0000_0000, 0x9000_0000_0000_0000, 0xA000_0000_0000_0000)
CACHED = WINDOWS[1]
ADDRESS_BITS = 48  # of virtual addresses, sign included, of all CPUs so far (CPUCFG1.VALEN)
# asm/pgtable-bits.h. HUGE and GLOBAL are one bit: the global bit of a huge page is one of its address's.
HUGE, PRESENT, PROT_NONE, PRESENT_INVALID = 1 << 6, 1 << 7, 1 << 10, 1 << 60
GLOBAL = 1 << 6
FRAME_MASK = PHYSICAL & ~0xFFF
FLAGS = (
    (1, "VALID"), (1 << 1, "DIRTY"), (3 << 2, "USER"), (1 << 6, "GLOBAL"), (1 << 7, "PRESENT"),
    (1 << 8, "WRITE"), (1 << 9, "MODIFIED"), (1 << 10, "PROTNONE"), (1 << 11, "SPECIAL"),
    (1 << 61, "NO_READ"), (1 << 62, "NO_EXEC"), (1 << 63, "RPLV"),
)  # fmt: skip
NAMES = {2: ("PGD", "PTE"), 3: ("PGD", "PMD", "PTE"), 4: ("PGD", "PUD", "PMD", "PTE")}

GPRS = tuple(f"r{number}" for number in range(32))
# The pc has no number of DWARF's; this one CFI cannot say.
DWARF = {name: number for number, name in enumerate(GPRS)} | {"pc": 4096}
SAVED = ("r22", *(f"r{number}" for number in range(23, 32)))
# struct pt_regs, arch/loongarch/include/asm/ptrace.h.
PT_REGS = {
    **{name: (f"regs[{number}]",) for number, name in enumerate(GPRS)},
    "pc": ("csr_era",), "badv": ("csr_badvaddr",), "orig_a0": ("orig_a0",), "crmd": ("csr_crmd",),
    "prmd": ("csr_prmd",), "euen": ("csr_euen",), "ecfg": ("csr_ecfg",), "estat": ("csr_estat",),
}  # fmt: skip
# struct user_pt_regs (uapi/asm/ptrace.h) in struct elf_prstatus.
PRSTATUS = Prstatus(
    size=480, signal=12, pid=32, times=48, regs=112, fpvalid=472,
    registers=(*GPRS, "orig_a0", "pc", "badv", *("" for _ in range(10))),
)  # fmt: skip
# What kernel and manuals call the registers.
ABI_NAMES = ("r0", "ra", "tp", "sp", *(f"a{n}" for n in range(8)), *(f"t{n}" for n in range(9)), "u0", "s9",
             *(f"s{n}" for n in range(9)))  # fmt: skip
# CRMD in the kernel with interrupts off: translation on; PRMD: what was interrupted.
PLV, IE, DIRECT, TRANSLATE = 3, 1 << 2, 1 << 3, 1 << 4
PRMD_BITS = 0xF
IRQ_STACK_LINK = 16  # bytes from IRQ_STACK_START to the stack's end (asm/irq.h)
SP, FP = 3, 22
# Instructions: opcodes, and the bits that are one.
ADDI_D, ST_D, ADDI_MASK = 0x02C0_0000, 0x29C0_0000, 0xFFC0_0000
STPTR_D, STPTR_MASK = 0x2700_0000, 0xFF00_0000
JR, JR_MASK, B, B_MASK = 0x4C00_0000, 0xFC00_001F, 0x5000_0000, 0xFC00_0000  # jr: jirl that links nothing
# Of exception_table and of the vectors (asm/loongarch.h, asm/setup.h); interrupts follow the exceptions.
EXCEPTIONS, VECTORS, VECTOR_BYTES = 64, 128, 512
# Entry code, of several versions of it (arch/loongarch/kernel/entry.S), and where CPUs start (head.S).
ENTRY_FUNCTIONS = (
    "handle_syscall", "ret_from_fork", "ret_from_fork_asm", "ret_from_kernel_thread",
    "ret_from_kernel_thread_asm", "kernel_entry", "smpboot_entry",
    "handle_vint", "handle_reserved", "handle_ade", "handle_ale", "handle_bce", "handle_bp", "handle_fpe",
    "handle_fpu", "handle_lsx", "handle_lasx", "handle_lbt", "handle_ri", "handle_watch",
    "handle_tlb_protect", "tlb_do_page_fault_0", "tlb_do_page_fault_1",
)  # fmt: skip


# -- page tables


def make_paging(page_shift: int, levels: int, invalid: frozenset[int] = frozenset()) -> Paging:
    """Tables of a page each. ``invalid``: physical addresses of the tables that empty entries refer to."""
    if 1 << page_shift not in PAGE_SIZES or levels not in NAMES:
        raise KcrashError(f"page tables of {levels} levels and pages of {1 << page_shift} bytes")
    bits, last = page_shift - 3, levels - 1
    shifts = [page_shift + bits * (last - level) for level in range(levels)]
    shown = tuple(Level(name, shift, bits) for name, shift in zip(NAMES[levels], shifts, strict=True))

    def decode(value: int, level: int) -> Entry:
        if level == last or value & HUGE:
            return decode_leaf(value, shifts[level])
        if value & ~PHYSICAL != CACHED or value & PHYSICAL in invalid:
            return Entry(EntryKind.ABSENT, 0)
        return Entry(EntryKind.TABLE, value & FRAME_MASK)

    covered = page_shift + bits * levels
    user_end = 1 << min(covered, ADDRESS_BITS - 1)
    return Paging(
        shown,
        8,
        decode,
        max(covered, ADDRESS_BITS),
        user_end,
        flag_names,
        decode_table,
        swap_entry,
        empty=GLOBAL,
    )


def decode_leaf(value: int, shift: int) -> Entry:
    """An entry of the last level, or of a huge page."""
    if value & (PRESENT | PROT_NONE) or (value & HUGE and value & PRESENT_INVALID):
        return Entry(EntryKind.LEAF, (value & FRAME_MASK) >> shift << shift)
    return Entry(EntryKind.OTHER if value & ~GLOBAL else EntryKind.ABSENT, 0)


def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table."""
    mapped: NDArray[np.bool_] = (values & (PRESENT | PROT_NONE)) != 0
    return mapped, (values & FRAME_MASK).astype("u8")


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset() in arch/loongarch/include/asm/pgtable.h."""
    return value >> 16 & 0x7F, value >> 24


def flag_names(value: int) -> list[str]:
    """Flags of an entry."""
    return [name for mask, name in FLAGS if value & mask == mask]


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """From VMCOREINFO, whose addresses are in the cached window. Raises KcrashError without it.

    The levels of the page tables are counted (empty_tables()): nothing says them.
    """
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else None
    if top is None or top & ~PHYSICAL != CACHED:
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    page_size = info.page_size or PAGE_SIZES[1]
    if page_size not in PAGE_SIZES:
        raise KcrashError(f"{probe.dump.path}: pages of {page_size} bytes")
    tables = empty_tables(probe.physical, top & PHYSICAL, page_size)
    paging = make_paging(page_size.bit_length() - 1, len(tables) + 1, frozenset(tables))
    end = max((piece.end for piece in probe.dump.ranges()), default=0)
    linear = tuple(LinearRange(window, window + end, 0) for window in (CACHED, WINDOWS[0], WINDOWS[2]))
    constants = {"PAGE_OFFSET": CACHED}
    if "vmemmap" in info.symbols:
        constants["VMEMMAP_START"] = info.symbols["vmemmap"]
    return KernelLayout(displacement(probe, info), 0, paging, top & PHYSICAL, linear, constants)


def empty_tables(physical: Memory, top: int, page_size: int) -> list[int]:
    """The tables that empty entries of each level refer to, from the second level on: physical addresses.

    Most entries of the kernel's top table (``top``) are empty ones, and those of these tables all are:
    invalid_pud_table, invalid_pmd_table, invalid_pte_table. Raises KcrashError, MemoryFault.
    """
    found: list[int] = []
    table = top
    while len(found) < MAX_LEVELS:
        entries = Counter(unpack(f"<{page_size // 8}Q", physical.read(table, page_size)))
        value = entries.most_common(1)[0][0]
        if not value & ~GLOBAL:
            break
        table = value & PHYSICAL
        if value & ~PHYSICAL != CACHED or table % page_size or table in (top, *found):
            break
        found.append(table)
    if not 1 <= len(found) < MAX_LEVELS:
        raise KcrashError(f"no page tables at physical address {top:x}")
    return found


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU: __switch_to() leaves them in its thread_struct."""
    start, size = types.offset("struct task_struct", "thread"), types.size("struct thread_struct")
    data, found = memory.read(task + start, size), {}
    for number in (1, 3, *range(22, 32)):
        at = types.offset("struct thread_struct", f"reg{number:02}")
        found[number] = int.from_bytes(data[at : at + 8], "little")
    return found | {DWARF["pc"]: found[1]}


def task_stack_padding(symbols: SymbolLookup) -> int:
    """Nothing stands between the user's pt_regs and the top of the stack (task_pt_regs())."""
    return 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space: by PRMD, which notes lack.

    QEMU's notes have ERA for the pc, which a CPU in the kernel has left at what it interrupted: there the
    stack pointer has to be a program's, too.
    """
    mode = registers.get("prmd")
    if mode is not None:
        return mode & PLV == PLV
    return all(0 < registers.get(name, 0) < 1 << 63 for name in ("pc", "r3"))


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if CRMD is the kernel's with interrupts off, and PRMD that of a program or of the kernel."""
    mode, before = registers["crmd"], registers["prmd"]
    in_kernel = mode & (PLV | IE | DIRECT | TRANSLATE) == TRANSLATE
    known = not before & ~PRMD_BITS and before & PLV in (0, PLV)
    return in_kernel and known and not registers["r0"] and not registers["r3"] & 7


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks. ``kernel``: see kcrash.linux.stack.StackProbe.

    do_vint() leaves the interrupted stack pointer, which points at its registers, at IRQ_STACK_START.
    """
    found = per_cpu_stacks(kernel, {"irq_stack": "IRQ"})
    return [stack._replace(link=stack.high - IRQ_STACK_LINK) for stack in found]


def copied_code(kernel: Any) -> Callable[[int], int]:
    """Exceptions run in a CPU's copy of their handlers (bt_address() in arch/loongarch/kernel/unwind*.c)."""
    table, copies = _handlers(kernel), _copies(kernel)

    def original(address: int) -> int:
        for base in copies:
            number, offset = divmod(address - base, VECTOR_BYTES)
            if 0 <= number < VECTORS and table:
                return table[min(number, len(table) - 1)] + offset
        return address

    return original


def _handlers(kernel: Any) -> list[int]:
    """By their numbers; the last is that of all interrupts. Empty if they cannot be found."""
    table, interrupts = kernel.symbol("exception_table"), kernel.symbol("handle_vint")
    try:
        words = kernel.memory.read(table, 8 * EXCEPTIONS) if table and interrupts else b""
    except MemoryFault:
        return []
    return [*unpack(f"<{len(words) // 8}Q", words), interrupts] if words else []


def _copies(kernel: Any) -> list[int]:
    """Where CPUs have them: the first at eentry, the others, with NUMA, at pcpu_handlers."""
    first, others = kernel.symbol("eentry"), kernel.symbol("pcpu_handlers")
    places = [first] if first else []
    places += [others + 8 * cpu for cpu in kernel.cpus] if others else []
    found = []
    for place in places:
        try:
            found.append(int(kernel.memory.word(place)))
        except MemoryFault:
            continue
    return [base for base in found if base]


def prologue(code: bytes) -> Prologue:
    """What compiled code does to the stack: addi.d of the stack pointer, st.d and stptr.d relative to it."""
    reader = PrologueReader()
    for (word,) in iter_unpack("<I", code[: len(code) & ~3]):
        register, base = word & 31, word >> 5 & 31
        if word & ADDI_MASK == ADDI_D and register == base == SP:
            reader.take(-_signed(word >> 10 & 0xFFF, 12))
        elif word & ADDI_MASK == ADDI_D and register == FP and base == SP:
            reader.set_frame_pointer(_signed(word >> 10 & 0xFFF, 12))
        elif word & ADDI_MASK == ST_D and base == SP:
            reader.save(register, _signed(word >> 10 & 0xFFF, 12))
        elif word & STPTR_MASK == STPTR_D and base == SP:
            reader.save(register, 4 * _signed(word >> 10 & 0x3FFF, 14))
        elif word & JR_MASK == JR or word & B_MASK == B:
            reader.leave()
    return reader.result()


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space, as show_regs() does."""

    def shown(label: str, name: str) -> str:
        value = registers.get(name)
        return f"{label:>7} {value:016x}" if value is not None else f"{label:>7} {'(unknown)':>16}"

    order = [("pc", "pc"), *((ABI_NAMES[n], GPRS[n]) for n in (1, 2, 3, *range(4, 32)))]
    order += [(name, name) for name in ("orig_a0", "badv", "crmd", "prmd", "estat") if name in registers]
    cells = [shown(label, name) for label, name in order]
    lines = ["".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    known = {name: value for name, value in registers.items() if value is not None}
    if not user_mode(known):
        places = ((name, symbol(known.get(name) or 0)) for name in ("pc", "r1"))
        lines[:0] = [f"  {'ra' if name == 'r1' else name}: [{place}]" for name, place in places]
    return lines


LOONGARCH64 = register_arch(
    Arch(
        name="loongarch64",
        machine="loongarch64",
        elf_machine=258,
        byte_order="little",
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="pc",
        sp="r3",
        fp="r22",
        return_column=1,
        callee_saved=frozenset(DWARF[name] for name in SAVED),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_LOONGARCH", "CS_MODE_LOONGARCH64"),
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=-16, return_address=-8, cfa=0, regs_functions=ENTRY_FUNCTIONS, leaf_fp=-8),
        copied_code=copied_code,
        prologue=prologue,
        instruction_bytes=lambda code: 4,
        frame_style=FrameStyle(at_frame_pointer=True, numbered=True),
    )
)
