"""i386: registers, page tables of two levels and of three (PAE), where Linux puts itself.

Sources: Intel SDM volume 3A chapter 4 ("32-bit paging", "PAE paging"), System V ABI Intel386 supplement
(DWARF register numbers), Linux arch/x86/entry/entry_32.S and Documentation/mm/highmem.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from kcrash.arch import x86_64
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

WORD = (1 << 32) - 1
#: What CONFIG_PAGE_OFFSET may be (arch/x86/Kconfig, "Memory split").
PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
CR4_PAE = 1 << 5
PCD_PWT = 0x18  # of CR3

_NAMES = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags")
DWARF = {name: number for number, name in enumerate(_NAMES)} | {
    "es": 40, "cs": 41, "ss": 42, "ds": 43, "fs": 44, "gs": 45,
}  # fmt: skip
CALLEE_SAVED = ("ebx", "ebp", "esi", "edi")

# struct pt_regs, arch/x86/include/asm/ptrace.h; the longer names are those of before v2.6.25.
PT_REGS = {
    "ebx": ("bx", "ebx"), "ecx": ("cx", "ecx"), "edx": ("dx", "edx"), "esi": ("si", "esi"),
    "edi": ("di", "edi"), "ebp": ("bp", "ebp"), "eax": ("ax", "eax"), "ds": ("ds", "xds"),
    "es": ("es", "xes"), "fs": ("fs", "xfs"), "gs": ("gs", "xgs"), "orig_eax": ("orig_ax", "orig_eax"),
    "eip": ("ip", "eip"), "cs": ("cs", "xcs"), "eflags": ("flags", "eflags"), "esp": ("sp", "esp"),
    "ss": ("ss", "xss"),
}  # fmt: skip

# struct user_regs_struct, arch/x86/include/asm/user_32.h, inside struct elf_prstatus.
PRSTATUS = Prstatus(
    size=144, signal=12, pid=24, times=40, regs=72, fpvalid=140,
    registers=(
        "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
        "eflags", "esp", "ss",
    ),
)  # fmt: skip


# Entry code (arch/x86/entry/entry_32.S, of several versions) with a struct pt_regs at the stack pointer. What
# the frame pointer held there is the user's. The last ones are where CPUs start.
ENTRY_FUNCTIONS = (
    "entry_INT80_32", "entry_SYSENTER_32", "ret_from_fork", "ret_from_kernel_thread", "system_call",
    "syscall_call", "sysenter_do_call", "ia32_sysenter_target", "sysenter_past_esp", "work_pending",
    "work_resched", "work_notifysig", "syscall_trace_entry", "syscall_exit_work",
    "handle_exception", "common_exception", "error_code", "apic_timer_interrupt", "reschedule_interrupt",
    "call_function_interrupt", "call_function_single_interrupt", "irq_work_interrupt",
    "startup_32", "startup_32_smp", "default_entry",
)  # fmt: skip


# -- page tables


def make_paging(pae: bool, user_end: int) -> Paging:
    """Two levels of entries of 32 bits, or PAE's three of 64."""
    if pae:
        levels = Level("PGD", 30, 2), Level("PMD", 21, 9), Level("PTE", 12, 9)
        return x86_64.paging_form(levels, 32, user_end, pae_swap_entry)
    levels_of_two = Level("PGD", 22, 10), Level("PTE", 12, 10)
    return Paging(levels_of_two, 4, decode, 32, user_end, x86_64.flag_names, decode_table, swap_entry)


def decode(value: int, level: int) -> Entry:
    """An entry of 32 bits. Bits 13 to 20 of one that maps 4 MiB are bits 32 to 39 of the address (PSE-36)."""
    if not value:
        return Entry(EntryKind.ABSENT, 0)
    if level == 0 and value & x86_64.PAGE_PRESENT and not value & x86_64.PAGE_PSE:
        return Entry(EntryKind.TABLE, value & 0xFFFFF000)
    if not value & (x86_64.PAGE_PRESENT | x86_64.PAGE_PROTNONE):
        return Entry(EntryKind.OTHER, 0)
    if level == 0:
        return Entry(EntryKind.LEAF, value & 0xFFC00000 | (value >> 13 & 0xFF) << 32)
    return Entry(EntryKind.LEAF, value & 0xFFFFF000)


def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """See Paging.decode_table."""
    mapped: NDArray[np.bool_] = (values & (x86_64.PAGE_PRESENT | x86_64.PAGE_PROTNONE)) != 0
    return mapped, (values & 0xFFFFF000).astype("u8")


def swap_entry(value: int) -> tuple[int, int]:
    """``(type, offset)``: __swp_type(), __swp_offset() in arch/x86/include/asm/pgtable-2level.h."""
    return value >> 1 & 31, value >> 9


def pae_swap_entry(value: int) -> tuple[int, int]:
    """As x86_64's; in the upper half, as it is, before "x86/speculation/l1tf: Protect PAE swap entries
    against L1TF" in Linux v4.18 (arch/x86/include/asm/pgtable-3level.h)."""
    if not value & WORD:
        return value >> 32 & 31, value >> 37
    return x86_64.swap_entry(value)


# -- where the kernel is


class _Place(NamedTuple):
    """``top``: physical address of page tables with the whole kernel in them."""

    paging: Paging
    top: int
    kaslr: int
    page_offset: int


def find_layout(probe: Any) -> KernelLayout:
    """PAGE_OFFSET, KASLR and the form of the tables.

    From VMCOREINFO, the kernel's image or a CPU's registers. ``probe``: see kcrash.locate.LayoutProbe. The
    kernel lies in the memory that is mapped from PAGE_OFFSET on, at the same distance from it as from
    physical address 0, wherever it was loaded to. Raises KcrashError if nothing tells where that is.
    """
    place = next(_places(probe), None)
    if place is None:
        raise KcrashError(
            f"{probe.dump.path}: no VMCOREINFO and no CPU registers: cannot tell where the kernel was loaded"
        )
    paging, top, kaslr, page_offset = place
    linear = _linear(probe, place)
    # arch/x86/include/asm/sparsemem.h: with PAE and without.
    constants = {"PAGE_OFFSET": page_offset, "SECTION_SIZE_BITS": 29 if paging.entry_size == 8 else 26}
    return KernelLayout(kaslr, 0, paging, top, linear, constants)


def _places(probe: Any) -> Iterator[_Place]:
    yield from _from_vmcoreinfo(probe)
    yield from _from_image(probe)
    yield from _from_cpu_registers(probe)


def _from_vmcoreinfo(probe: Any) -> Iterator[_Place]:
    info = probe.vmcoreinfo
    top = info.symbols.get("swapper_pg_dir") if info is not None else None
    if top is None:
        return
    kaslr = displacement(probe, info)
    for page_offset in PAGE_OFFSETS:
        paging = make_paging("CONFIG_X86_PAE" in info.raw, page_offset)
        if _maps(probe, paging, top - page_offset, top):
            yield _Place(paging, top - page_offset, kaslr, page_offset)


def _from_image(probe: Any) -> Iterator[_Place]:
    """Where the physical addresses of the image are known."""
    linked = probe.link_address("swapper_pg_dir")
    if linked is None or probe.image_shift is None:
        return
    top = linked - probe.image_shift
    for page_offset in PAGE_OFFSETS:
        for pae in (True, False):
            paging = make_paging(pae, page_offset)
            if _maps(probe, paging, top, top + page_offset):
                yield _Place(paging, top, top + page_offset - linked, page_offset)


def _maps(probe: Any, paging: Paging, top: int, virtual: int) -> bool:
    """True if the tables at ``top`` map themselves at ``virtual``."""
    try:
        return 0 <= top <= WORD and probe.space(paging, top).translate(virtual) == top
    except MemoryFault:
        return False


def _from_cpu_registers(probe: Any) -> Iterator[_Place]:
    """The interrupt table of a CPU names the handler of vector 0 (Intel SDM volume 3A, 6.11)."""
    linked = x86_64.divide_handler(probe)
    if linked is None:
        return
    for cr3, cr4, idt in x86_64.system_registers(probe.dump.info):
        pae = bool(cr4 & CR4_PAE)
        space = probe.space(make_paging(pae, PAGE_OFFSETS[0]), cr3 & ~PCD_PWT)
        try:
            low, high = struct.unpack("<H4xH", space.read(idt, 8))
            page_offset = (high << 16 | low) - space.translate(high << 16 | low)
        except MemoryFault:
            continue
        kaslr, own = (high << 16 | low) - linked, probe.link_address("swapper_pg_dir")
        top = cr3 & ~PCD_PWT if own is None else own + kaslr - page_offset
        yield _Place(make_paging(pae, page_offset), top, kaslr, page_offset)


def _linear(probe: Any, place: _Place) -> tuple[LinearRange, ...]:
    """Memory that is always mapped, up to high_memory; of the rest page tables tell."""
    start, end = (address + place.kaslr for address in probe.image)
    linked = probe.link_address("high_memory")
    if linked is not None:
        start, end = place.page_offset, _word_or_0(probe.space(place.paging, place.top), linked + place.kaslr)
    return (LinearRange(start, end, start - place.page_offset),) if place.page_offset <= start < end else ()


def _word_or_0(memory: Any, address: int) -> int:
    try:
        return int(memory.u32(address))
    except MemoryFault:
        return 0


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
    names = {"esi": "si", "edi": "di", "ebx": "bx", "ebp": "bp", "eip": "ret_addr"}
    size = types.size(frame)
    data = memory.read(sp, size)
    known = {name: types.offset(frame, member) for name, member in names.items() if types.has(frame, member)}
    found = {DWARF[name]: struct.unpack_from("<I", data, at)[0] for name, at in known.items()}
    return found | {DWARF["esp"]: sp + size}


def _switched_out_inline(
    types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int, sp: int
) -> dict[int, int]:
    """The macro switch_to() pushes flags and ebp, which the compiler knows nothing of, and keeps the pc
    (arch/x86/include/asm/switch_to.h before v4.9). A task that has not run yet goes to ret_from_fork."""
    pc = _word(memory, task + types.offset("struct task_struct", "thread.ip"))
    if pc in (symbols.find("ret_from_fork"), symbols.find("ret_from_kernel_thread")):
        return {DWARF["esp"]: sp, DWARF["eip"]: pc}
    return {DWARF["esp"]: sp + 8, DWARF["ebp"]: _word(memory, sp), DWARF["eip"]: pc}


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 4), "little")


def task_stack_padding(symbols: SymbolLookup) -> int:
    """TOP_OF_KERNEL_STACK_PADDING (arch/x86/include/asm/thread_info.h): more where virtual 8086 mode is built
    in, whose entry to the kernel pushes four segments more."""
    return 16 if symbols.find("save_v86_state") is not None else 8


X86_VM_MASK = 1 << 17  # of EFLAGS


def user_mode(registers: Mapping[str, int]) -> bool:
    """True if the registers are those of user space: privilege level 3, or virtual 8086 mode."""
    return registers.get("cs", 0) & 3 == 3 or bool(registers.get("eflags", 0) & X86_VM_MASK)


# Bits of EFLAGS that are always 0, and the one that is always 1 (Intel SDM volume 1, 3.4.3).
EFLAGS_ZERO, EFLAGS_ONE = 0xFFC08028, 2
KERNEL_CS, KERNEL_SS = 0x60, 0x68  # arch/x86/include/asm/segment.h
USER_SEGMENTS = (0x73, 0x7B)


def saved_registers(registers: Mapping[str, int], end: int) -> bool:
    """True if segments and flags are such as a CPU pushes."""
    flags = registers["eflags"]
    if flags & EFLAGS_ZERO or not flags & EFLAGS_ONE:
        return False
    return registers["cs"] == KERNEL_CS or (registers["cs"], registers["ss"]) == USER_SEGMENTS


# Per-CPU pointers to the stacks of interrupts (arch/x86/kernel/irq_32.c), of several versions.
IRQ_STACKS = {
    "hardirq_stack_ptr": "hard IRQ", "softirq_stack_ptr": "soft IRQ",
    "hardirq_stack": "hard IRQ", "softirq_stack": "soft IRQ",
    "hardirq_ctx": "hard IRQ", "softirq_ctx": "soft IRQ",
}  # fmt: skip


def stacks(kernel: Any) -> list[StackRange]:
    """The per-CPU stacks. ``kernel``: see kcrash.linux.stack.StackProbe."""
    found = []
    for cpu in kernel.cpus:
        for symbol, name in IRQ_STACKS.items():
            low = _pointer(kernel, symbol, cpu)
            if low:
                found.append(StackRange(name, low, low + kernel.thread_size, cpu))
        fault = kernel.per_cpu("doublefault_stack", cpu)
        if fault is not None and kernel.types.has("struct doublefault_stack"):
            size = kernel.types.size("struct doublefault_stack")
            found.append(StackRange("DOUBLEFAULT exception", fault, fault + size, cpu))
    return found


def _pointer(kernel: Any, symbol: str, cpu: int) -> int:
    """The pointers were in struct pcpu_hot from v6.2 to v6.14."""
    address = kernel.per_cpu(symbol, cpu)
    if address is None and kernel.types.has("struct pcpu_hot", symbol):
        hot = kernel.per_cpu("pcpu_hot", cpu)
        address = None if hot is None else hot + kernel.types.offset("struct pcpu_hot", symbol)
    try:
        return int(kernel.memory.word(address)) if address is not None else 0
    except MemoryFault:
        return 0


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(label: str, name: str) -> str:
        value, width = registers.get(name), 4 if len(label) == 2 else 8
        text = f"{value:0{width}x}" if value is not None else "(unknown)"
        return f"{label}: {text}" if width == 8 else f"{label + ':':4} {text:8}"

    known = {name: value for name, value in registers.items() if value is not None}
    first = [shown(name.upper(), name) for name in ("eax", "ebx", "ecx", "edx")]
    second = [shown("DS", "ds"), shown("ESI", "esi"), shown("ES", "es"), shown("EDI", "edi")]
    last = [shown("CS", "cs"), shown("EIP", "eip"), shown("ERR", "orig_eax"), shown("EFLAGS", "eflags")]
    if user_mode(known):
        middle = [[shown("SS", "ss"), shown("ESP", "esp"), shown("EBP", "ebp"), shown("GS", "gs")]]
    else:
        middle = []
        first.append(shown("EBP", "ebp"))
        second.append(shown("GS", "gs"))
    rows = ["    " + "  ".join(cells).rstrip() for cells in (first, second, *middle, last)]
    if not user_mode(known):
        rows.insert(0, f"    [exception EIP: {symbol(registers.get('eip') or 0)}]")
    return rows


# push %ebp; mov %esp,%ebp and what may stand before (the nop of ftrace, and the older one of AMD's).
_ENTRY_CODE = b"\x0f\x1f\x44\x00\x00", b"\x3e\x8d\x74\x26\x00", b"\x89\xe5"
_NUMBERS = tuple(range(8))  # the CPU's are DWARF's


def pushed_registers(code: bytes) -> list[int]:
    """See CallCode.pushed."""
    return x86_64.pushed_registers(code, _ENTRY_CODE, _NUMBERS)


I386 = register_arch(
    Arch(
        name="i386",
        machine="i686",
        elf_machine=3,
        byte_order="little",
        word_bits=32,
        page_shift=12,
        virtual_tables=True,
        dwarf=DWARF,
        pc="eip",
        sp="esp",
        fp="ebp",
        return_column=DWARF["eip"],
        callee_saved=frozenset(DWARF[name] for name in CALLEE_SAVED),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_X86", "CS_MODE_32"),
        find_layout=find_layout,
        switched_out=switched_out,
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=saved_registers,
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(
            saved_fp=0,
            return_address=4,
            cfa=8,
            regs_tag=1,
            regs_hidden=1 << 31,
            kernel_ss=(DWARF["ss"], KERNEL_SS),
            regs_functions=ENTRY_FUNCTIONS,
        ),
        stop_functions=("machine_kexec", "crash_nmi_callback", "kdump_nmi_callback", "stop_this_cpu"),
        call_code=CallCode(partial(x86_64.call_target, mask=WORD), pushed_registers),
        assembly=assembly,
        ftrace_nop=bytes.fromhex("3e8d742600"),
    )
)
