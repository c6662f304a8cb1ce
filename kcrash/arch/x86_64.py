"""x86_64: registers, 4- and 5-level paging, where Linux puts itself.

Sources: Intel SDM volume 3A chapter 4 (paging), System V ABI AMD64 supplement
figure 3.36 (DWARF register numbers), Linux Documentation/arch/x86/x86_64/mm.rst.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kcrash.arch.base import (
    Arch,
    CallCode,
    Entry,
    EntryKind,
    FrameLayout,
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
from kcrash.arch.x86_text import assembly
from kcrash.errors import KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

START_KERNEL_MAP = 0xFFFFFFFF80000000
MAX_KERNEL_IMAGE = 1 << 30
PAGE_OFFSET_L4, PAGE_OFFSET_L5 = 0xFFFF888000000000, 0xFF11000000000000
PAGE_OFFSET_OLD = 0xFFFF880000000000
VMALLOC_L4, VMALLOC_L5 = 0xFFFFC90000000000, 0xFFA0000000000000  # unless vmalloc_base says otherwise
VMEMMAP_L4, VMEMMAP_L5 = 0xFFFFEA0000000000, 0xFFD4000000000000  # unless vmemmap_base says otherwise
PAGE_PRESENT, PAGE_PSE, PAGE_PROTNONE = 1, 1 << 7, 1 << 8
PHYSICAL_MASK = 0x000FFFFFFFFFF000

ENTRY_FLAGS = (
    (1, "PRESENT"), (2, "RW"), (4, "USER"), (8, "PWT"), (16, "PCD"), (32, "ACCESSED"), (64, "DIRTY"),
    (128, "PSE"), (256, "GLOBAL"), (1 << 63, "NX"),
)  # fmt: skip

_NAMES = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp",
          "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip")  # fmt: skip
DWARF = {name: number for number, name in enumerate(_NAMES)} | {
    "rflags": 49, "es": 50, "cs": 51, "ss": 52, "ds": 53, "fs": 54, "gs": 55, "fs_base": 58, "gs_base": 59,
}  # fmt: skip

# struct pt_regs, arch/x86/include/asm/ptrace.h. orig_rax has no DWARF number.
PT_REGS = {
    "r15": ("r15",), "r14": ("r14",), "r13": ("r13",), "r12": ("r12",), "rbp": ("bp", "rbp"),
    "rbx": ("bx", "rbx"), "r11": ("r11",), "r10": ("r10",), "r9": ("r9",), "r8": ("r8",),
    "rax": ("ax", "rax"), "rcx": ("cx", "rcx"), "rdx": ("dx", "rdx"), "rsi": ("si", "rsi"),
    "rdi": ("di", "rdi"), "orig_rax": ("orig_ax", "orig_rax"), "rip": ("ip", "rip"), "cs": ("cs",),
    "rflags": ("flags", "eflags"), "rsp": ("sp", "rsp"), "ss": ("ss",),
}  # fmt: skip

# struct user_regs_struct, arch/x86/include/asm/user_64.h, inside struct elf_prstatus.
PRSTATUS = Prstatus(
    size=336, signal=12, pid=32, times=48, regs=112, fpvalid=328,
    registers=(
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
        "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
    ),
)  # fmt: skip


def make_paging(five_level: bool, encryption_mask: int = 0, inverted: bool = True) -> Paging:
    """The form of the tables. ``encryption_mask``: of AMD SME; ``inverted``: see paging_form()."""
    levels = [
        Level("PGD", 39, 9), Level("PUD", 30, 9), Level("PMD", 21, 9), Level("PTE", 12, 9)
    ]  # fmt: skip
    if five_level:
        levels[:1] = [Level("PGD", 48, 9), Level("P4D", 39, 9)]
    bits = 57 if five_level else 48
    return paging_form(levels, bits, 1 << bits - 1, swap_entry, encryption_mask, inverted)


def paging_form(
    levels: Sequence[Level],
    canonical_bits: int,
    user_end: int,
    swap: Callable[[int], tuple[int, int]],
    encryption_mask: int = 0,
    inverted: bool = True,
) -> Paging:
    """Tables with entries of 64 bits: those of x86_64, and PAE's. At the top none map pages.

    ``inverted``: entries without the present bit have inverted address bits, against L1TF: Linux commit
    6b28baca9b1f ("x86/speculation/l1tf: Protect PROT_NONE PTEs against speculation") in v4.18, and where it
    was ported back to; pte_pfn(), pmd_pfn() in arch/x86/include/asm/pgtable.h.
    """
    last = len(levels) - 1
    masks = [PHYSICAL_MASK & ~encryption_mask & ~((1 << level.shift) - 1) for level in levels]
    table_mask = PHYSICAL_MASK & ~encryption_mask
    leaf_levels = range(max(last - 2, 1), last)
    flip = (1 << 64) - 1 if inverted else 0

    def decode(value: int, level: int) -> Entry:
        if not value:
            return Entry(EntryKind.ABSENT, 0)
        if not value & PAGE_PRESENT:
            can_be_leaf = level == last or level in leaf_levels
            return _decode_hidden(value, can_be_leaf, level == last, masks[level], flip)
        if level == last or (level in leaf_levels and value & PAGE_PSE):
            return Entry(EntryKind.LEAF, value & masks[level])
        return Entry(EntryKind.TABLE, value & table_mask)

    def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        present = (values & PAGE_PRESENT) != 0
        mapped = present | ((values & PAGE_PROTNONE) != 0)
        return mapped, (values ^ (present.astype("u8") - 1) & flip) & masks[last]

    return Paging(
        tuple(levels), 8, decode, canonical_bits, user_end, flag_names, decode_table, swap
    )  # fmt: skip


def flag_names(value: int) -> list[str]:
    """Flags of an entry. The bit of GLOBAL is Linux's PROTNONE in entries that are not present."""
    flags = [name for mask, name in ENTRY_FLAGS if value & mask]
    if value & PAGE_PRESENT:
        return flags
    return ["PROTNONE" if name == "GLOBAL" else name for name in flags]


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset() in arch/x86/include/asm/pgtable_64.h.

    The offset is inverted, and the type on top, since "x86/speculation/l1tf: Change order of offset/type in
    swap entry" in Linux v4.18 and in all that it was ported back to. The inverted offset's
    highest bits are ones then; no swap device reaches them in the older form.
    """
    if value >> 58 & 1:
        return value >> 59, (~value & (1 << 59) - 1) >> 9
    return value >> 9 & 0x1F, value >> 14


def _decode_hidden(value: int, can_be_leaf: bool, is_pte: bool, mask: int, flip: int) -> Entry:
    """An entry without the present bit: PROT_NONE memory, or swap. ``flip``: the bits that are inverted."""
    is_page = value & PAGE_PROTNONE or (not is_pte and value & PAGE_PSE)
    if can_be_leaf and is_page:
        return Entry(EntryKind.LEAF, (value ^ flip) & mask)
    return Entry(EntryKind.OTHER, 0)


# -- where the kernel is


def find_layout(probe: Any) -> KernelLayout:
    """Work out KASLR, phys_base and paging from VMCOREINFO, else from the kernel's page tables or a CPU's
    registers.

    ``probe``: see kcrash.locate.LayoutProbe. Raises KcrashError if nothing in
    the dump says where the kernel is.
    """
    facts = _from_vmcoreinfo(probe) or _from_page_tables(probe) or _from_cpu_registers(probe)
    if facts is None:
        raise KcrashError(
            f"{probe.dump.path}: no VMCOREINFO and no CPU registers: cannot tell where the kernel was loaded"
        )
    kaslr, phys_base, five_level, top, encryption = facts
    linear = _image_range(probe, kaslr, phys_base)
    paging = make_paging(five_level, encryption, _inverted(probe))
    page_offset = _page_offset(probe, kaslr, phys_base)
    if page_offset is None and probe.has_symbols and probe.link_address("page_offset_base") is None:
        page_offset = _fixed_page_offset(probe, paging, top, five_level)
    if page_offset is not None:
        linear = (*linear, LinearRange(page_offset, page_offset + _ram_end(probe), 0))
    constants = _constants(probe, kaslr, five_level)
    if page_offset is not None:
        constants["PAGE_OFFSET"] = page_offset
    return KernelLayout(kaslr, phys_base, paging, top, linear, constants)


def _from_vmcoreinfo(probe: Any) -> tuple[int, int, bool, int | None, int] | None:
    info = probe.vmcoreinfo
    if info is None:
        return None
    phys_base = info.numbers.get("phys_base", probe.dump.info.phys_base)
    if phys_base is None:
        return None
    kaslr = _kaslr(probe, info)
    top = info.symbols.get("init_top_pgt", info.symbols.get("swapper_pg_dir"))
    if top is not None:
        top = top - START_KERNEL_MAP + phys_base
    return (
        kaslr,
        phys_base,
        bool(info.numbers.get("pgtable_l5_enabled")),
        top,
        info.numbers.get("sme_mask", 0),
    )


def _kaslr(probe: Any, info: Any) -> int:
    """KERNELOFFSET, or by how much a symbol of VMCOREINFO is away from where it was linked."""
    text = info.raw.get("KERNELOFFSET")
    if text:
        return int(text, 16)
    return displacement(probe, info)


# init_top_pgt was named so by Linux commit 65ade2f872b4 ("x86/boot/64: Rename init_level4_pgt and
# early_level4_pgt[]") in v4.13.
TOP_TABLES = ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir")


def _from_page_tables(probe: Any) -> tuple[int, int, bool, int | None, int] | None:
    """From the kernel's own page tables, where physical addresses of its image are known."""
    linked = probe.link_address("_stext")
    top = next(filter(None, map(probe.link_address, TOP_TABLES)), None)
    if None in (probe.image_shift, linked, top):
        return None
    text, top = linked - probe.image_shift, top - probe.image_shift
    five_level = bool(_image_word(probe, "__pgtable_l5_enabled", 4))
    encryption = _image_word(probe, "sme_me_mask", 8)
    space = probe.space(make_paging(five_level, encryption), top)
    for run in space.runs(START_KERNEL_MAP, START_KERNEL_MAP + 2 * MAX_KERNEL_IMAGE):
        if run.physical is not None and run.physical <= text < run.physical + run.size:
            virtual = run.start + text - run.physical
            return virtual - linked, text - virtual + START_KERNEL_MAP, five_level, top, encryption
    return None


def _image_word(probe: Any, name: str, size: int) -> int:
    """A variable of the kernel's image, 0 if there is none."""
    linked = probe.link_address(name)
    data = None if linked is None else probe.physical.try_read(linked - probe.image_shift, size)
    return int.from_bytes(data or b"", "little")


def _from_cpu_registers(probe: Any) -> tuple[int, int, bool, int | None, int] | None:
    """From a CPU's system registers: CR3 gives page tables, IDT base the interrupt table.

    The IDT is reached through a fixed alias (cpu_entry_area), so its *physical*
    address tells phys_base, and the handler of vector 0 tells KASLR.
    """
    linked_idt, linked_handler = probe.link_address("idt_table"), divide_handler(probe)
    if linked_idt is None or linked_handler is None:
        return None
    found = (_from_cpu(probe, cpu, linked_idt, linked_handler) for cpu in system_registers(probe.dump.info))
    return next((facts for facts in found if facts), None)


def _from_cpu(
    probe: Any, cpu: tuple[int, int, int], linked_idt: int, linked_handler: int
) -> tuple[int, int, bool, int | None, int] | None:
    cr3, cr4, idt_base = cpu
    five_level = bool(cr4 & 1 << 12)
    space = probe.space(make_paging(five_level), cr3 & PHYSICAL_MASK)
    try:
        idt = space.translate(idt_base)
        low, middle, high = struct.unpack_from("<H4xHI", space.read(idt_base, 12))
    except MemoryFault:
        return None
    kaslr = (high << 32 | middle << 16 | low) - linked_handler
    phys_base = idt - (linked_idt + kaslr - START_KERNEL_MAP)
    linked_top = next(filter(None, map(probe.link_address, TOP_TABLES)), None)
    top = linked_top + kaslr - START_KERNEL_MAP + phys_base if linked_top else cr3 & PHYSICAL_MASK
    return kaslr, phys_base, five_level, top, 0


def divide_handler(probe: Any) -> int | None:
    for name in ("asm_exc_divide_error", "divide_error"):
        address = probe.link_address(name)
        if address is not None:
            return int(address)
    return None


def system_registers(info: Any) -> Iterator[tuple[int, int, int]]:
    """``(CR3, CR4, IDT base)`` of each CPU of which the container kept them."""
    for cpu in info.cpus:
        if cpu.get("cr3") and cpu.get("idt_base"):
            yield cpu["cr3"], cpu.get("cr4", 0), cpu["idt_base"]
    for note in info.notes:  # QEMU target/i386/arch_dump.c
        if note.name == "QEMU" and len(note.data) >= 432:
            registers = struct.unpack_from("<5Q", note.data, 392)
            idt_base = struct.unpack_from("<Q", note.data, 152 + 9 * 24 + 16)[0]
            yield registers[3], registers[4], idt_base


def _image_range(probe: Any, kaslr: int, phys_base: int) -> tuple[LinearRange, ...]:
    """The kernel image; its end must be known, for modules start where the largest image would end."""
    start, end = probe.image
    if not 0 < end - start < MAX_KERNEL_IMAGE:
        return ()
    start += kaslr
    return (LinearRange(start, end + kaslr, start - START_KERNEL_MAP + phys_base),)


def _kernel_word(probe: Any, name: str, moved: int) -> int | None:
    """A 64-bit variable; ``moved``: from where it was linked to its physical address."""
    linked = probe.link_address(name)
    data = None if linked is None else probe.physical.try_read(linked + moved, 8)
    return int.from_bytes(data, "little") if data else None


def _constants(probe: Any, kaslr: int, five_level: bool) -> dict[str, int]:
    """Where regions begin, as mm.rst has it; with CONFIG_DYNAMIC_MEMORY_LAYOUT variables say otherwise."""
    numbers = probe.vmcoreinfo.numbers if probe.vmcoreinfo is not None else {}
    image = numbers.get("KERNEL_IMAGE_SIZE")
    if image is None:
        randomised = kaslr or probe.link_address("module_load_offset") is not None  # CONFIG_RANDOMIZE_BASE
        image = MAX_KERNEL_IMAGE if randomised else MAX_KERNEL_IMAGE // 2
    return {
        "VMALLOC_START": VMALLOC_L5 if five_level else VMALLOC_L4,
        "VMEMMAP_START": VMEMMAP_L5 if five_level else VMEMMAP_L4,
        "START_KERNEL_map": START_KERNEL_MAP,
        "MODULES_VADDR": START_KERNEL_MAP + image,
    }


def _inverted(probe: Any) -> bool:
    """Whether PROT_NONE entries are inverted: /sys/devices/system/cpu/vulnerabilities/l1tf came with that.

    VMCOREINFO has a build-id since Linux commit 0935288c6e00 ("kdump: append kernel build-id string to
    VMCOREINFO") in v5.9.
    """
    if not probe.has_symbols or (probe.vmcoreinfo is not None and "BUILD-ID" in probe.vmcoreinfo.raw):
        return True
    return probe.link_address("cpu_show_l1tf") is not None


def _page_offset(probe: Any, kaslr: int, phys_base: int) -> int | None:
    """Where all RAM is mapped: the kernel's own variable, else what the dump's headers say."""
    value = _kernel_word(probe, "page_offset_base", kaslr - START_KERNEL_MAP + phys_base)
    if value is not None:
        return value
    for piece in probe.dump.info.virtual_ranges:
        base = piece.start - piece.physical
        if piece.start >> 47 and piece.start < START_KERNEL_MAP and base % (1 << 30) == 0:
            return int(base)
    return None


def _fixed_page_offset(probe: Any, paging: Paging, top: int | None, five_level: bool) -> int:
    """Of a kernel that was built without randomised memory: the page tables tell which of the two.

    Linux commit d52888aa2753 ("x86/mm: Move LDT remap out of KASLR region on 5-level paging") in v4.20 made
    room below it.
    """
    if top is not None:
        space = probe.space(paging, top)
        for base in (PAGE_OFFSET_L5, PAGE_OFFSET_L4, PAGE_OFFSET_OLD):
            try:
                if space.translate(base + top) == top:
                    return base
            except MemoryFault:
                continue
    return PAGE_OFFSET_L5 if five_level else PAGE_OFFSET_L4


def _ram_end(probe: Any) -> int:
    return max((piece.end for piece in probe.dump.ranges()), default=0)


# -- tasks and stacks


def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
    """Registers of a task that is not on a CPU, from the stack at its thread.sp.

    __switch_to_asm leaves a struct inactive_task_frame there since Linux commit 0100301bfdf5
    ("sched/x86: Rewrite the switch_to() code") in v4.9.
    """
    sp = _word(memory, task + types.offset("struct task_struct", "thread.sp"))
    frame = "struct inactive_task_frame"
    if not types.has(frame, "ret_addr"):
        return _switched_out_inline(types, symbols, memory, task, sp)
    names = {
        "r15": "r15",
        "r14": "r14",
        "r13": "r13",
        "r12": "r12",
        "rbx": "bx",
        "rbp": "bp",
        "rip": "ret_addr",
    }
    size = types.size(frame)
    data = memory.read(sp, size)
    found = {DWARF["rsp"]: sp + size}
    for name, member in names.items():
        if types.has(frame, member):
            found[DWARF[name]] = struct.unpack_from("<Q", data, types.offset(frame, member))[0]
    return found


# The macro switch_to() before v4.9 (arch/x86/include/asm/switch_to.h): push %rbp; mov %rsi,%rbp;
# mov %rsp,SP(%rdi); mov SP(%rsi),%rsp; call __switch_to; ...; mov %rbp,%rsi; pop %rbp; and popf, if flags
# were pushed first, as before Linux commit 2c7577a75837 ("sched/x86_64: Don't save flags on context
# switch") in v4.0.
_SWITCH_TO = (
    b"\x55\x48\x89\xf5\x48\x89\xa7%b\x48\x8b\xa6%b(?P<call>\xe8.{4}).{,96}?\x48\x89\xee\x5d(?P<flags>\x9d?)"
)
_SWITCHING = ("__schedule", "schedule", "context_switch")
_SWITCHING_CODE = 8192
TIF_FORK = 18  # gone with the macro


def _switched_out_inline(
    types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int, sp: int
) -> dict[int, int]:
    """As the compiler, which knows nothing of what the macro pushes, describes the call of __switch_to.

    The call pushes its return address on the next task's stack: it is where the code says. A task that
    has not run yet goes to ret_from_fork instead, with nothing but a struct pt_regs on its stack.
    """
    info = _word(memory, task + types.offset("struct task_struct", "stack"))
    flags = int.from_bytes(memory.read(info + types.offset("struct thread_info", "flags"), 4), "little")
    fork = symbols.find("ret_from_fork")
    if flags >> TIF_FORK & 1 and fork is not None:
        return {DWARF["rsp"]: sp, DWARF["rip"]: fork}
    pc, pushed = _switching_call(symbols, memory, types.offset("struct task_struct", "thread.sp"))
    return {DWARF["rsp"]: sp + 8 * pushed, DWARF["rbp"]: _word(memory, sp), DWARF["rip"]: pc}


def _switching_call(symbols: SymbolLookup, memory: Memory, place: int) -> tuple[int, int]:
    """Where the call of __switch_to returns to, and how many words are pushed; ``place``: of thread.sp."""
    where = re.escape(place.to_bytes(4, "little"))
    pattern = re.compile(_SWITCH_TO % (where, where), re.DOTALL)
    for start in filter(None, map(symbols.find, _SWITCHING)):
        found = pattern.search(memory.read(start, _SWITCHING_CODE))
        if found:
            return start + found.end("call"), 2 if found["flags"] else 1
    raise KcrashError(
        "this kernel has no struct inactive_task_frame, and no code of switch_to() as before v4.9"
    )


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")


def task_stack_padding(symbols: SymbolLookup) -> int:
    """Bytes between the user's pt_regs and the top of the kernel stack.

    FRED entry code needs 16: Linux commit 65c9cc9e2c14 ("x86/fred: Reserve space for
    the FRED stack frame") in v6.9. Its entry points exist only where it is built in.
    """
    return 16 if symbols.find("asm_fred_entrypoint_user") is not None else 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space (privilege level 3)."""
    return registers.get("cs", 0) & 3 == 3


# Bits of RFLAGS that are always 0, and the one that is always 1 (Intel SDM volume 1, 3.4.3).
RFLAGS_ZERO, RFLAGS_ONE = 0xFFFFFFFFFFC08028, 2
# CS and SS (arch/x86/include/asm/segment.h): of the kernel, whose SS is 0 behind an interrupt of user
# space, of 64-bit and of 32-bit programs.
SEGMENTS = {(0x10, 0x18), (0x10, 0), (0x33, 0x2B), (0x23, 0x2B)}


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if segments and flags are such as a CPU pushes.

    SS comes last and may have been overwritten since, if the stack pointer says that the frame stood here.
    """
    flags = registers["rflags"]
    if flags & RFLAGS_ZERO or not flags & RFLAGS_ONE:
        return False
    if registers["cs"] == 0x10 and registers["rsp"] - end in (0, 8):
        return True
    return (registers["cs"], registers["ss"]) in SEGMENTS


# -- code (Intel SDM volume 2: CALL rel32, PUSH r64)


def call_target(memory: Memory, address: int, mask: int = (1 << 64) - 1) -> int | None:
    """Where the direct call that ends at ``address`` goes; ``mask``: of an address. Raises MemoryFault."""
    code = memory.read(address - 5, 5)
    if code[0] != 0xE8:
        return None
    return address + int.from_bytes(code[1:], "little", signed=True) & mask


# What a function may begin with before it pushes registers: endbr64, the call of __fentry__ or of a
# tracer's trampoline, the nops that ftrace puts in its place (the second on AMD's CPUs before Linux commit
# a89dfde3dc3c ("x86: Remove dynamic NOP selection") in v5.13), and mov %rsp,%rbp behind push %rbp.
_ENTRY_CODE = (
    b"\xf3\x0f\x1e\xfa", b"\x0f\x1f\x44\x00\x00", b"\x66\x66\x66\x66\x90", b"\x48\x89\xe5"
)  # fmt: skip
# The CPU's numbering of registers to DWARF's.
_NUMBERS = (0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15)


def pushed_registers(
    code: bytes, entry_code: Sequence[bytes] = _ENTRY_CODE, numbers: Sequence[int] = _NUMBERS
) -> list[int]:
    """DWARF numbers of the registers that the code at a function's start pushes, in order.

    ``entry_code``: what may stand between; ``numbers``: of the registers, by the CPU's; 8 of them where there
    are no REX prefixes.
    """
    found: list[int] = []
    at = 0
    while at < len(code):
        known = next((len(entry) for entry in entry_code if code.startswith(entry, at)), 0)
        extended = code[at] == 0x41 and len(numbers) > 8
        opcode = code[at + extended : at + extended + 1]
        if known:
            at += known
        elif code[at] == 0xE8 and not found:
            at += 5
        elif opcode and 0x50 <= opcode[0] <= 0x57:
            found.append(numbers[opcode[0] - 0x50 + 8 * extended])
            at += 1 + extended
        else:
            break
    return found


# Entry code of system calls that saves half of struct pt_regs, before Linux commit 21d375b6b34f
# ("x86/entry/64: Remove the SYSCALL64 fast path") in v4.16.
FAST_PATHS = ("entry_SYSCALL64_slow_path", "entry_SYSCALL_64_fastpath", "system_call_fastpath")

MAX_EXCEPTION_STACK = 1 << 16
EXCEPTION_STACKS = (("DF", "DOUBLEFAULT"), ("NMI", "NMI"), ("DB", "DEBUG"), ("MCE", "MCE"), ("VC", "VC"))


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks: exceptions', interrupts'. ``kernel``: see kcrash.linux.stacks.StackProbe."""
    found: list[StackRange] = []
    for cpu in kernel.cpus:
        found += _exception_stacks(kernel, cpu)
        found += _irq_stack(kernel, cpu)
    return found


def _exception_stacks(kernel: Any, cpu: int) -> list[StackRange]:
    """In cpu_entry_area since Linux commit 019b17b3ffe4 ("x86/exceptions: Add structs for
    exception stacks") in v5.2; before, addresses in the per-CPU orig_ist."""
    struct_name = "struct cea_exception_stacks"
    pointer = kernel.per_cpu("cea_exception_stacks", cpu)
    if pointer is None or not kernel.types.has(struct_name):
        return _old_exception_stacks(kernel, cpu)
    try:
        base = kernel.memory.word(pointer)
    except MemoryFault:
        return []
    found = []
    for member, name in EXCEPTION_STACKS:
        if kernel.types.has(struct_name, f"{member}_stack"):
            place = kernel.types.compound(struct_name).path(f"{member}_stack")
            low, size = base + place.offset, place.type.size
            if size:
                found.append(StackRange(f"{name} exception", low, low + size, cpu))
    return found


def _old_exception_stacks(kernel: Any, cpu: int) -> list[StackRange]:
    """``orig_ist`` has their ends, of one behind the other; the first two are of one size.

    The one for stack faults, the first of five, went with Linux commit 6f442be2fb22 ("x86_64, traps: Stop
    using IST for #SS") in v3.19; that for VMware's and SEV's exceptions came later.
    """
    pointer = kernel.per_cpu("orig_ist", cpu)
    try:
        ends = [] if pointer is None else [kernel.memory.word(pointer + 8 * index) for index in range(7)]
    except MemoryFault:
        return []
    ends = [end for end in ends if end]
    names = [name for _member, name in EXCEPTION_STACKS[:4]]
    names = names if len(ends) < 5 else ["STACKFAULT", *names]
    if len(ends) < 2 or not ends[0] < ends[1] < ends[0] + MAX_EXCEPTION_STACK:
        return []
    starts = [2 * ends[0] - ends[1], *ends]
    ranges = zip(names, starts, ends, strict=False)
    return [StackRange(f"{name} exception", low, high, cpu) for name, low, high in ranges if low < high]


def _irq_stack(kernel: Any, cpu: int) -> list[StackRange]:
    """The pointer moved into struct pcpu_hot with Linux commit d7b6d709a76a ("x86/percpu: Move
    irq_stack variables next to current_task") in v6.2, and out of it again in v6.15; irq_stack_ptr before
    commit 758a2e312228 ("x86/irq/64: Rename irq_stack_ptr to hardirq_stack_ptr") in v5.2."""
    pointer = kernel.per_cpu("hardirq_stack_ptr", cpu)
    if pointer is None and kernel.types.has("struct pcpu_hot", "hardirq_stack_ptr"):
        hot = kernel.per_cpu("pcpu_hot", cpu)
        pointer = None if hot is None else hot + kernel.types.offset("struct pcpu_hot", "hardirq_stack_ptr")
    elif pointer is None:
        pointer = kernel.per_cpu("irq_stack_ptr", cpu)
    if pointer is None:
        return []
    size = kernel.types.size("struct irq_stack") if kernel.types.has("struct irq_stack") else 16384
    try:
        top = kernel.memory.word(pointer)
    except MemoryFault:
        return []
    high = top + 4095 & ~4095
    return [StackRange("IRQ", high - size, high, cpu)]


_BLOCK = (("RIP", "rip", "RSP", "rsp", "RFLAGS", "rflags"), ("RAX", "rax", "RBX", "rbx", "RCX", "rcx"),
          ("RDX", "rdx", "RSI", "rsi", "RDI", "rdi"), ("RBP", "rbp", " R8", "r8", " R9", "r9"),
          ("R10", "r10", "R11", "r11", "R12", "r12"), ("R13", "r13", "R14", "r14", "R15", "r15"),
          ("ORIG_RAX", "orig_rax", "CS", "cs", "SS", "ss"))  # fmt: skip
_WIDTHS = {"rflags": 8, "cs": 4, "ss": 4}


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""
    lines = []
    if (registers.get("cs") or 0) & 3 != 3:
        lines.append(f"    [exception RIP: {symbol(registers.get('rip') or 0)}]")
    for row in _BLOCK:
        cells = []
        for label, name in zip(row[::2], row[1::2], strict=True):
            if name == "orig_rax" and name not in registers:
                continue  # registers of a CPU, not of an entry to the kernel
            value, width = registers.get(name), _WIDTHS.get(name, 16)
            text = f"{value:0{width}x}" if value is not None else "(unknown)".rjust(width)
            cells.append(f"{label}: {text}")
        lines.append("    " + "  ".join(cells))
    return lines


X86_64 = register_arch(
    Arch(
        name="x86_64",
        machine="x86_64",
        elf_machine=62,
        byte_order="little",
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="rip",
        sp="rsp",
        fp="rbp",
        return_column=16,
        callee_saved=frozenset(DWARF[name] for name in ("rbx", "rbp", "r12", "r13", "r14", "r15")),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_X86", "CS_MODE_64"),
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(
            saved_fp=0,
            return_address=8,
            cfa=16,
            regs_tag=1,
            entry_text=("__entry_text_start", "__entry_text_end"),
            partial=FAST_PATHS,
        ),
        stop_functions=("machine_kexec", "crash_nmi_callback", "kdump_nmi_callback", "stop_this_cpu"),
        call_code=CallCode(call_target, pushed_registers),
        assembly=assembly,
        ftrace_nop=bytes.fromhex("0f1f440000"),
    )
)
