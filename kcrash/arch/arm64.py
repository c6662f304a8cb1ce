"""arm64: registers, page tables of every granule, where Linux puts itself.

Sources: Arm Architecture Reference Manual (DDI 0487) chapters D8 (translation) and C5.2 (PSTATE), "DWARF for
the Arm 64-bit Architecture" (aadwarf64, register numbers), "Procedure Call Standard for the Arm 64-bit
Architecture" (aapcs64, frame records), Linux Documentation/arch/arm64/memory.rst.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
    register_arch,
)
from kcrash.arch.stack_ranges import per_cpu_stacks
from kcrash.errors import KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD = (1 << 64) - 1
LEVEL_NAMES = {2: ("PGD", "PTE"), 3: ("PGD", "PMD", "PTE"), 4: ("PGD", "PUD", "PMD", "PTE"),
               5: ("PGD", "P4D", "PUD", "PMD", "PTE")}  # fmt: skip
VALID, TABLE_OR_PAGE = 1, 2
FLAGS = (
    (1, "VALID"), (1 << 6, "USER"), (1 << 7, "RDONLY"), (3 << 8, "SHARED"), (1 << 10, "AF"), (1 << 11, "NG"),
    (1 << 53, "PXN"), (1 << 54, "UXN"), (1 << 55, "DIRTY"), (1 << 56, "SPECIAL"),
)  # fmt: skip

X = tuple(f"x{number}" for number in range(31))
# pstate has no number in DWARF; this one is beyond those that call frame information can say.
DWARF = {name: number for number, name in enumerate(X)} | {
    "sp": 31, "pc": 32, "ra_sign_state": 34, "pstate": 4096,
}  # fmt: skip

# struct pt_regs, arch/arm64/include/asm/ptrace.h.
PT_REGS = {
    **{name: (f"regs[{number}]",) for number, name in enumerate(X)},
    "sp": ("sp",), "pc": ("pc",), "pstate": ("pstate",), "orig_x0": ("orig_x0",), "syscallno": ("syscallno",),
}  # fmt: skip

# struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h, inside struct elf_prstatus.
PRSTATUS = Prstatus(
    size=392, signal=12, pid=32, times=48, regs=112, fpvalid=384, registers=(*X, "sp", "pc", "pstate")
)

# Members of struct cpu_context (arch/arm64/include/asm/processor.h).
CPU_CONTEXT = {**{f"x{n}": f"x{n}" for n in range(19, 29)}, "x29": "fp", "sp": "sp", "pc": "pc"}
# Per-CPU pointers to stacks (arch/arm64/kernel/irq.c, sdei.c).
STACKS = {
    "irq_stack_ptr": "IRQ",
    "sdei_stack_normal_ptr": "SDEI normal",
    "sdei_stack_critical_ptr": "SDEI critical",
}


# -- page tables


def make_paging(
    page_shift: int, va_bits: int, *, canonical: int | None = None, hidden: Hidden | None = None
) -> Paging:
    """The page-table form of a granule (12, 14 or 16) and a size of addresses.

    ``canonical``: bits that the hardware translates, where they are fewer than the tables are made for;
    ``hidden``: how entries without the valid bit read.
    """
    hidden = hidden or INVALID_BY_NG
    bits = page_shift - 3
    count = -(-(va_bits - page_shift) // bits)
    if page_shift not in (12, 14, 16) or count not in LEVEL_NAMES:
        raise KcrashError(f"pages of {1 << page_shift} bytes with addresses of {va_bits} bits")
    shifts = [page_shift + bits * (count - 1 - number) for number in range(count)]
    sizes = [va_bits - shifts[0], *[bits] * (count - 1)]
    levels = tuple(Level(*one) for one in zip(LEVEL_NAMES[count], shifts, sizes, strict=True))
    address = output_address(page_shift, wide=page_shift != 16 and va_bits > 48)

    def decode(value: int, level: int) -> Entry:
        if not value:
            return Entry(EntryKind.ABSENT, 0)
        last = level == count - 1
        if not value & VALID:
            kind = EntryKind.LEAF if hidden.is_page(value) else EntryKind.OTHER
            return Entry(kind, address(value) >> shifts[level] << shifts[level])
        if not last and value & TABLE_OR_PAGE:
            return Entry(EntryKind.TABLE, address(value))
        return Entry(EntryKind.LEAF, address(value) >> shifts[level] << shifts[level])

    def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        mapped = ((values & VALID) != 0) | ((values & hidden.page_bit) != 0)
        return mapped, address(values)

    actual = canonical or va_bits
    return Paging(levels, 8, decode, actual + 1, 1 << actual, flag_names, decode_table, hidden.swap_entry,
                  ignored_bits=0xFF << 56)  # fmt: skip


def output_address(page_shift: int, *, wide: bool) -> Callable[[Any], Any]:
    """What an entry refers to, for a number or an array of them (DDI 0487, D8.3.1).

    ``wide``: FEAT_LPA2's form, in which what the shareability was are address bits. Pages of 64 KiB
    (FEAT_LPA) have the highest bits below the others.
    """
    low = (1 << (50 if wide else 48)) - (1 << page_shift)
    if page_shift == 16:
        return lambda value: (value & low) | (value >> 12 & 15) << 48
    if wide:
        return lambda value: (value & low) | (value >> 8 & 3) << 50
    return lambda value: value & low


class Hidden:
    """Entries that are not valid: pages that are there all the same (PROT_NONE), and swap entries."""

    def __init__(self, page_bit: int, type_shift: int, offset_shift: int) -> None:
        self.page_bit = page_bit
        self._type_shift = type_shift
        self._offset_shift = offset_shift

    def is_page(self, value: int) -> bool:
        """Whether a nonzero entry without the valid bit maps a page."""
        return bool(value & self.page_bit)

    def swap_entry(self, value: int) -> tuple[int, int]:
        """``(type, offset)``: __swp_type(), __swp_offset() in arch/arm64/include/asm/pgtable.h."""
        return value >> self._type_shift & 31, value >> self._offset_shift & (1 << 50) - 1


# Linux commit f0f5863a0fb0 ("arm64/mm: Remove PTE_PROT_NONE bit") in v6.10 took the NG bit for it; before, it
# was bit 58 (of a large page since v5.10 bit 59 as well).
INVALID_BY_NG = Hidden(1 << 11, 6, 12)
PROT_NONE_BIT = Hidden(1 << 58 | 1 << 59, 3, 8)


def flag_names(value: int) -> list[str]:
    """Flags of an entry (arch/arm64/include/asm/pgtable-hwdef.h, pgtable-prot.h)."""
    return [name for mask, name in FLAGS if value & mask == mask]


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """Everything from VMCOREINFO (arch/arm64/kernel/vmcore_info.c). Raises KcrashError without it.

    ``probe``: see kcrash.locate.LayoutProbe.
    """
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else None
    if top is None or not {"VA_BITS", "kimage_voffset"} <= info.numbers.keys():
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    offset, kaslr = info.numbers["kimage_voffset"], info.kernel_offset or 0
    paging, top = _paging(probe, info), top - offset & WORD
    space = probe.space(paging, top)
    linear = _image_range(probe, kaslr, offset)
    constants = {"VA_BITS": paging.canonical_bits - 1}
    page_offset = _page_offset(space, info, top)
    if page_offset is not None:
        constants["PAGE_OFFSET"] = page_offset
        linear += _linear_map(probe, info, page_offset)
    vmemmap = _vmemmap(space, info, top)
    if vmemmap is not None:
        constants["VMEMMAP_START"] = vmemmap
    return KernelLayout(kaslr, -offset & WORD, paging, top, linear, constants)


def _paging(probe: Any, info: Any) -> Paging:
    """The kernel may be built for more bits than the CPU has: then T1SZ tells (since v5.11).

    Its tables have as many levels as the CPU's addresses need; with 64 KiB pages that is no difference.
    """
    built = info.numbers["VA_BITS"]
    size = info.numbers.get("TCR_EL1_T1SZ")
    actual = built if size is None else 64 - size
    shift = (info.page_size or 4096).bit_length() - 1
    if not 30 <= actual <= built <= 52:
        raise KcrashError(f"VMCOREINFO: addresses of {actual} bits in a kernel for {built} bits")
    return make_paging(shift, built if shift == 16 else actual, canonical=actual, hidden=_hidden(probe))


def _hidden(probe: Any) -> Hidden:
    """Nothing in the dump says which form it is. mseal() came in v6.10, as the newer one did."""
    known = not probe.has_symbols or probe.link_address("__arm64_sys_mseal") is not None
    return INVALID_BY_NG if known else PROT_NONE_BIT


def _image_range(probe: Any, kaslr: int, offset: int) -> tuple[LinearRange, ...]:
    start, end = (address + kaslr for address in probe.image)
    return (LinearRange(start, end, start - offset & WORD),) if start < end else ()


def _page_offset(space: Any, info: Any, top: int) -> int | None:
    """Where all RAM is mapped: at the lower end of the kernel's addresses since Linux commit 14c127c957c1
    ("arm64: mm: Flip kernel VA space") in v5.4, in the middle before. The page tables tell."""
    start = info.numbers.get("PHYS_OFFSET")
    for bits in (info.numbers["VA_BITS"], info.numbers["VA_BITS"] - 1):
        base = -(1 << bits) & WORD
        if start is not None and _leads_to(space, top - start + base & WORD, top):
            return int(base)
    return None


def _leads_to(space: Any, address: int, physical: int) -> bool:
    try:
        return bool(space.translate(address) == physical)
    except MemoryFault:
        return False


def _linear_map(probe: Any, info: Any, page_offset: int) -> tuple[LinearRange, ...]:
    ranges = list(probe.dump.ranges())
    if not ranges:
        return ()
    low, high = min(piece.start for piece in ranges), max(piece.end for piece in ranges)
    start = low - info.numbers["PHYS_OFFSET"] + page_offset & WORD
    return (LinearRange(start, start + high - low, low),)


def _vmemmap(space: Any, info: Any, top: int) -> int | None:
    """The struct page of frame 0, which may lie before the array. Page tables tell which guess is right."""
    size, shift = info.sizes.get("page"), (info.page_size or 4096).bit_length() - 1
    if size is None:
        return None
    for start in _vmemmap_starts(info, shift, size):
        try:
            space.translate(start + (top >> shift) * size & WORD)
        except MemoryFault:
            continue
        return start
    return None


def _vmemmap_starts(info: Any, shift: int, size: int) -> Iterator[int]:
    """``vmemmap`` is in VMCOREINFO since v6.5, VMEMMAP_START since Linux commit 2369f171d5c5 ("arm64:
    crash_core: Export MODULES, VMALLOC, and VMEMMAP ranges") in v5.19; before, memory.h has it in one form
    since v5.14, in another since v5.4."""
    if "vmemmap" in info.symbols:
        yield info.symbols["vmemmap"]
    first = info.numbers.get("PHYS_OFFSET", 0)
    before = ((first ^ 1 << 63) - (1 << 63) >> shift) * size  # memstart_addr is signed
    bits, order = info.numbers["VA_BITS"], (size - 1).bit_length()
    spread = (1 << bits) - (1 << min(bits, 48) - 1) >> shift - order
    for start in (info.numbers.get("VMEMMAP_START"), -(1 << bits - shift + order), -spread - (1 << 21)):
        if start is not None:
            yield start - before & WORD


def code_pointer(layout: KernelLayout) -> Callable[[int], int]:
    """Takes the pointer authentication code out of a return address of the kernel.

    It stands in the bits above the size of addresses, which all are as bit 55 is (ptrauth_kernel_pac_mask()).
    """
    mask = WORD & -(1 << layout.constants["VA_BITS"])
    return lambda value: value | mask if value >> 55 & 1 else value & ~mask


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU: cpu_switch_to() leaves them in its thread.cpu_context.

    It returns to the pc there by way of x30.
    """
    where = "thread.cpu_context"
    start, size = types.offset("struct task_struct", where), types.size("struct cpu_context")
    data = memory.read(task + start, size)
    found = {}
    for name, member in CPU_CONTEXT.items():
        at = types.offset("struct cpu_context", member)
        found[DWARF[name]] = int.from_bytes(data[at : at + 8], "little")
    return found | {DWARF["x30"]: found[DWARF["pc"]]}


def task_stack_padding(symbols: SymbolLookup) -> int:
    """Nothing stands between the user's pt_regs and the top of the stack (task_pt_regs())."""
    return 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space: EL0, with 64-bit registers or 32-bit ones."""
    return registers.get("pstate", 5) & 15 == 0


# M[4:0]: EL0 with either width, EL1 and EL2 with either stack pointer.
MODES = {0, 0x10, 4, 5, 8, 9}


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if pstate is such as an exception leaves in SPSR_ELx."""
    pstate = registers["pstate"]
    return pstate < 1 << 32 and pstate & 31 in MODES and registers["sp"] & 7 == 0


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks. ``kernel``: see kcrash.linux.stack.StackProbe."""
    return per_cpu_stacks(kernel, STACKS)


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(name: str) -> str:
        value = registers.get(name)
        return f"{value:016x}" if value is not None else f"{'(unknown)':>16}"

    pstate = registers.get("pstate") or 0
    if user_mode({"pstate": pstate}):
        lines = [f"     PC: {shown('pc')}   LR: {shown('x30')}   SP: {shown('sp')}"]
    else:
        lines = [f"     PC: {shown('pc')}  [{symbol(registers.get('pc') or 0)}]",
                 f"     LR: {shown('x30')}  [{symbol(registers.get('x30') or 0)}]",
                 f"     SP: {shown('sp')}  PSTATE: {pstate:08x}"]  # fmt: skip
    cells = [f"{f'X{number}':>3}: {shown(f'x{number}')}" for number in range(29, -1, -1)]
    lines += ["    " + "  ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)]
    if user_mode({"pstate": pstate}):
        lines.append(_last_line(registers, shown, pstate))
    return lines


def _last_line(registers: Mapping[str, int | None], shown: Callable[[str], str], pstate: int) -> str:
    if "orig_x0" not in registers:
        return f"    PSTATE: {pstate:08x}"
    number = registers.get("syscallno") or 0
    return f"    ORIG_X0: {shown('orig_x0')}  SYSCALLNO: {number:x}  PSTATE: {pstate:08x}"


_OFFSET = re.compile(r"(\[[^]]*#|\], #)(-?0x[0-9a-f]+)")


def assembly(found: Any) -> tuple[str, str]:
    """As GNU's disassembler: offsets of memory operands are decimal, other immediates are not."""
    return found.mnemonic, _OFFSET.sub(lambda match: f"{match[1]}{int(match[2], 16)}", found.op_str)


ARM64 = register_arch(
    Arch(
        name="arm64",
        machine="aarch64",
        elf_machine=183,
        byte_order="little",
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="pc",
        sp="sp",
        fp="x29",
        return_column=30,
        callee_saved=frozenset(range(19, 30)),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_ARM64", "CS_MODE_ARM"),
        instruction_bytes=lambda code: 4,
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=0, return_address=8, cfa=None, regs_record="stackframe"),
        frame_style=FrameStyle(at_frame_pointer=True, call_bytes=4, numbered=True),
        virtual_tables=True,
        assembly=assembly,
        code_pointer=code_pointer,
    )
)
