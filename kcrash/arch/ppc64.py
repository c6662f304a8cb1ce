"""ppc64le and ppc64: registers, Linux's page tables of the server processors, where Linux puts itself.

Sources: Power ISA 3.0B, Book III (radix tree translation, machine state register), "64-Bit ELF V2 ABI
Specification: Power Architecture" (stack frames, DWARF numbers), Linux arch/powerpc/include/asm/book3s/64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
from kcrash.errors import KcrashError, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Order = Literal["little", "big"]

PAGE_OFFSET = 0xC000000000000000
# Of an entry: valid; maps memory; not valid for a moment only (_PAGE_PRESENT, _PAGE_PTE, _PAGE_INVALID).
PRESENT, LEAF, INVALID = 1 << 63, 1 << 62, 1 << 61
TABLE_SIZE = 0x1F  # of an entry that refers to a table, how large that is: of radix tables only
TABLE_MASK = 0x0FFFFFFFFFFFFF00
ADDRESS_BITS = 53  # _PAGE_PA_MAX; above are the hash tables' own bits
FLAGS = (
    (PRESENT, "PRESENT"), (LEAF, "PTE"), (INVALID, "INVALID"), (0x1, "EXEC"), (0x2, "WRITE"), (0x4, "READ"),
    (0x8, "PRIVILEGED"), (0x80, "DIRTY"), (0x100, "ACCESSED"), (0x200, "SOFT_DIRTY"), (0x400, "SPECIAL"),
)  # fmt: skip
LEVELS = ("PGD", "PUD", "PMD", "PTE")

GPRS = tuple(f"r{number}" for number in range(32))
# nip and msr have no number; these are beyond those that call frame information can say.
DWARF = {name: number for number, name in enumerate(GPRS)} | {
    "link": 65, "ctr": 66, "ccr": 70, "xer": 76, "nip": 4096, "msr": 4097,
}  # fmt: skip
SPECIAL = (
    "nip", "msr", "orig_gpr3", "ctr", "link", "xer", "ccr", "softe", "trap", "dar", "dsisr", "result",
)  # fmt: skip
# struct pt_regs, arch/powerpc/include/asm/ptrace.h.
PT_REGS = {
    **{name: (f"gpr[{number}]",) for number, name in enumerate(GPRS)}, **{name: (name,) for name in SPECIAL},
}  # fmt: skip
# ELF_NGREG words (arch/powerpc/include/uapi/asm/elf.h), of which the last four mean nothing.
PRSTATUS = Prstatus(
    size=504, signal=12, pid=32, times=48, regs=112, fpvalid=496, registers=(*GPRS, *SPECIAL, *[""] * 4)
)

MSR_SF, MSR_PR, MSR_LE = 1 << 63, 1 << 14, 1
KEPT = (*GPRS[14:], "ccr")
# STACK_FRAME_REGS_MARKER (asm/ptrace.h): "regshere" up to v6.1, then "REGS", which is one number where the
# low byte comes first and another where the high one does.
MARKS = frozenset((0x7265677368657265, 0x52454753, 0x53474552))
# Where it stands in a frame and where struct pt_regs then is: in the small frames of ELFv2, in those of
# ELFv1, which kernels of both ABIs had up to v6.1.
MARKED = ((32, 48), (96, 112))

TRAPS = {
    0x100: "System Reset", 0x200: "Machine Check", 0x300: "Data Access", 0x380: "Data SLB Access",
    0x400: "Instruction Access", 0x480: "Instruction SLB Access", 0x500: "Hardware Interrupt",
    0x600: "Alignment", 0x700: "Program Check", 0x800: "FPU Unavailable", 0x900: "Decrementer",
    0x980: "Hypervisor Decrementer", 0xA00: "Doorbell", 0xC00: "System Call", 0xD00: "Single Step",
    0xE40: "Emulation Assist", 0xE60: "HMI", 0xE80: "Hypervisor Doorbell", 0xEA0: "Hypervisor Virtualization",
    0xF00: "Performance Monitor", 0xF20: "Altivec Unavailable", 0xF40: "VSX Unavailable",
    0xF60: "Facility Unavailable", 0xF80: "Hypervisor Facility Unavailable", 0x1700: "Altivec Assist",
    0x3000: "System Call Vectored",
}  # fmt: skip


# -- page tables


class Sizes(NamedTuple):
    """Bits of an address that each level of the tables takes, and those within a page."""

    pgd: int
    pud: int
    pmd: int
    pte: int
    page: int


RADIX_PGD = 13  # of radix tables the hardware's first level
# By radix or hash and the size of pages; asm/book3s/64: radix-4k.h, radix-64k.h, hash-4k.h, hash-64k.h.
SIZES = {
    (True, 12): Sizes(13, 9, 9, 9, 12), (True, 16): Sizes(13, 9, 9, 5, 16),
    (False, 12): Sizes(9, 9, 7, 9, 12), (False, 16): Sizes(8, 10, 10, 8, 16),
}  # fmt: skip


def make_paging(sizes: Sizes, regions: tuple[int, ...] = (PAGE_OFFSET,)) -> Paging:
    """Tables of four levels, or of three where one takes no bits; their entries are big-endian.

    Radix tables are the hardware's. Beside a hash table the kernel keeps its own, with the same entries.
    Hash kernels with 4 KiB pages had, up to v6.10, tables for huge pages that are indexed otherwise, and say
    their size (hash__hugepd_ok()): these are not followed.
    ``regions``: addresses, by whose upper bits these tables' addresses are told from others.
    """
    shifts = [sum(sizes[number + 1 :]) for number in range(4)]
    levels = [Level(*row) for row in zip(LEVELS, shifts, sizes[:4], strict=True) if row[2]]
    bits, last, radix = sum(sizes), len(levels) - 1, sizes.pgd == RADIX_PGD
    address_mask = (1 << ADDRESS_BITS) - (1 << sizes.page)

    def decode(value: int, level: int) -> Entry:
        if value & LEAF:
            if not value & (PRESENT | INVALID):
                return Entry(EntryKind.OTHER, 0)
            shift = levels[level].shift
            return Entry(EntryKind.LEAF, (value & address_mask) >> shift << shift)
        if level == last or not value & TABLE_MASK:
            return Entry(EntryKind.ABSENT, 0)
        if value & TABLE_SIZE and not radix:
            return Entry(EntryKind.OTHER, 0)
        return Entry(EntryKind.TABLE, value & TABLE_MASK)

    def decode_table(values: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        mapped: NDArray[np.bool_] = ((values & LEAF) != 0) & ((values & (PRESENT | INVALID)) != 0)
        return mapped, (values & address_mask).astype("u8")

    def swap_entry(value: int) -> tuple[int, int]:
        """``(type, offset)``: __swp_type(), __swp_offset() in asm/book3s/64/pgtable.h."""
        return value & 31, (value & address_mask) >> sizes.page

    return Paging(
        tuple(levels),
        8,
        decode,
        bits,
        1 << bits,
        flag_names,
        decode_table,
        swap_entry,
        regions=tuple({address >> bits for address in regions}),
        byte_order="big",
    )


def flag_names(value: int) -> list[str]:
    """Flags of an entry (arch/powerpc/include/asm/book3s/64/pgtable.h)."""
    return [name for mask, name in FLAGS if value & mask]


def user_paging(layout: KernelLayout, physical: Memory, top: int) -> Paging:
    """A process has tables of the same form, of addresses without an upper part."""
    return replace(layout.paging, regions=(0,))


# -- where the kernel is


class _Variables:
    """Variables of the kernel, which lie in the linear map. ``info``: VMCOREINFO, or None."""

    def __init__(self, probe: Any, info: Any, kaslr: int) -> None:
        self.probe, self.info, self.kaslr = probe, info, kaslr

    def address(self, name: str) -> int | None:
        """Of a symbol; None if nothing tells."""
        if self.info is not None and name in self.info.symbols:
            return int(self.info.symbols[name])
        linked = self.probe.link_address(name)
        return None if linked is None else int(linked) + self.kaslr

    def read(self, address: int) -> int | None:
        """The word at an address of the linear map; None if it cannot be had."""
        return self._read(self.probe.physical.u64, address)

    def half(self, address: int) -> int | None:
        """Likewise, 32 bits."""
        return self._read(self.probe.physical.u32, address)

    def _read(self, read: Callable[[int], int], address: int) -> int | None:
        try:
            return read(address - PAGE_OFFSET) if address >> 60 == 0xC else None
        except MemoryFault:
            return None

    def value(self, name: str) -> int | None:
        """The word that a variable holds."""
        address = self.address(name)
        return None if address is None else self.read(address)


def find_layout(probe: Any) -> KernelLayout:
    """The kernel runs in the linear map of all memory, so that one symbol's address tells everything.

    Raises KcrashError if there is none, or if memory is of the other byte order than this record's.
    """
    info = probe.vmcoreinfo
    kaslr = displacement(probe, info) if info is not None else PAGE_OFFSET - (probe.image_shift or 0)
    found = _Variables(probe, info, kaslr)
    top = found.address("swapper_pg_dir")
    if top is None or (info is None and probe.image_shift is None):
        raise KcrashError(f"{probe.dump.path}: no VMCOREINFO: cannot tell where the kernel was loaded")
    if top >> 60 != 0xC:
        raise KcrashError(f"{probe.dump.path}: the kernel's page tables at {top:x} are not in the linear map")
    _check_order(found)
    end = max((piece.end for piece in probe.dump.ranges()), default=0)
    linear = (LinearRange(PAGE_OFFSET, PAGE_OFFSET + end, 0), *_vmemmap_ranges(found))
    constants = {"PAGE_OFFSET": PAGE_OFFSET}
    vmemmap = _vmemmap(found)
    if vmemmap is not None:
        constants["VMEMMAP_START"] = vmemmap
    vmalloc = found.value("__vmalloc_start") or PAGE_OFFSET
    paging = make_paging(_sizes(found, top), (PAGE_OFFSET, vmalloc))
    return KernelLayout(kaslr, 0, paging, top - PAGE_OFFSET, linear, constants)


def _vmemmap(found: _Variables) -> int | None:
    """The struct page of frame 0: VMCOREINFO has not the variable's address, but what it holds."""
    said = found.info.symbols.get("vmemmap") if found.info is not None else None
    return found.value("vmemmap") if said is None else int(said)


def _check_order(found: _Variables) -> None:
    """Raises KcrashError where a pointer of the kernel's reads as none: containers name the order wrongly."""
    for name in ("log_buf", "prb", "vmemmap_list"):
        value = found.value(name)
        if value:
            if value >> 60 != 0xC:
                order = found.probe.physical.byte_order
                raise KcrashError(f"{found.probe.dump.path}: memory is not {order}-endian")
            return


def _sizes(found: _Variables, top: int) -> Sizes:
    """What variables say in kernels that choose radix or hash as they boot (asm/book3s/64/pgtable.h);
    else that which kernels of its kind have."""
    info = found.info
    words = [found.value(f"__{name.lower()}_index_size") for name in LEVELS]
    said = [word for word in words if word is not None and word <= 16]
    if len(said) == 4 and said[3]:
        pgd, pud, pmd, pte = said
        return Sizes(pgd, pud, pmd, pte, _page_shift(info, 16 if pte in (5, 8) else 12))
    return SIZES[_radix(found, top), _page_shift(info, 12)]


def _page_shift(info: Any, otherwise: int) -> int:
    size = info.page_size if info is not None else None
    return 16 if size == 1 << 16 else 12 if size == 1 << 12 else otherwise


def _radix(found: _Variables, top: int) -> bool:
    """NUMBER(RADIX_MMU) of VMCOREINFO, else what only radix tables say in their first level."""
    if found.info is not None and "RADIX_MMU" in found.info.numbers:
        return bool(found.info.numbers["RADIX_MMU"])
    try:
        table = found.probe.physical.read(top - PAGE_OFFSET, 8 << 9)
    except MemoryFault:
        return True
    return any(table[at] & TABLE_SIZE for at in range(7, len(table), 8))


# -- the struct pages of a hash kernel, which are in no page table of Linux's

MAX_BACKINGS = 1 << 16


def _vmemmap_ranges(found: _Variables) -> tuple[LinearRange, ...]:
    """vmemmap_list: struct vmemmap_backing {list, phys, virt_addr} (arch/powerpc/include/asm/pgalloc.h)."""
    size = _backing_size(found)
    head = found.value("vmemmap_list")
    merged: list[LinearRange] = []
    for physical, virtual in sorted(_backings(found, head or 0), key=lambda pair: pair[1]):
        last = merged[-1] if merged else None
        if last is not None and last.end == virtual and last.physical + last.end - last.start == physical:
            merged[-1] = LinearRange(last.start, virtual + size, last.physical)
        else:
            merged.append(LinearRange(virtual, virtual + size, physical))
    return tuple(merged) if size else ()


def _backings(found: _Variables, address: int) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    while address and address not in seen and len(seen) < MAX_BACKINGS:
        seen.add(address)
        following, physical, virtual = (found.read(address + at) for at in (0, 8, 16))
        if following is None or physical is None or virtual is None:
            return
        yield physical, virtual
        address = following


def _backing_size(found: _Variables) -> int:
    """Bytes of one backing: mmu_psize_defs[mmu_vmemmap_psize].shift; 0 if nothing tells."""
    number, table = found.address("mmu_vmemmap_psize"), found.address("mmu_psize_defs")
    if found.info is None or number is None or table is None or "mmu_psize_def" not in found.info.sizes:
        return 0
    place = (found.half(number) or 0) * found.info.sizes["mmu_psize_def"]
    shift = found.half(table + place + found.info.offsets.get("mmu_psize_def.shift", 0)) or 0
    return 1 << shift if 12 <= shift <= 34 else 0


# -- tasks and stacks


def _switched_out(order: Order) -> Callable[[TypeLookup, SymbolLookup, Memory, int], dict[int, int]]:
    def switched_out(types: TypeLookup, symbols: SymbolLookup, memory: Memory, task: int) -> dict[int, int]:
        """Registers of a task that is not on a CPU: _switch() leaves them in a frame at thread.ksp.

        The frame holds a struct pt_regs and, below it, as much as the ABI wants: its size tells.
        """

        where, size = types.offset("struct task_struct", "thread.ksp"), types.size("struct pt_regs")
        frame = int.from_bytes(memory.read(task + where, 8), order)
        caller = int.from_bytes(memory.read(frame, 8), order)
        data, found = memory.read(frame + (48 if caller - frame == size + 48 else 112), size), {}
        for name in (*KEPT, "nip"):
            at = types.offset("struct pt_regs", PT_REGS[name][0])
            found[DWARF[name]] = int.from_bytes(data[at : at + 8], order)
        return found | {DWARF["link"]: found[DWARF["nip"]], DWARF["r1"]: caller}

    return switched_out


def task_stack_padding(symbols: SymbolLookup) -> int:
    """Nothing stands between the user's pt_regs and the top of the stack (copy_thread())."""
    return 0


def user_mode(registers: Mapping[str, int]) -> bool:
    """True in problem state."""
    return bool(registers.get("msr", 0) & MSR_PR)


def _saved_registers(order: Order) -> Callable[[Mapping[str, int], int], bool]:
    def saved_registers(registers: Mapping[str, int], end: int) -> bool:
        """True if trap and msr are such as an exception of a 64-bit program leaves."""
        msr, trap = registers["msr"], registers["trap"]
        right = bool(msr & MSR_SF) and bool(msr & MSR_LE) == (order == "little")
        return right and trap & ~15 in TRAPS and not registers["nip"] & 3

    return saved_registers


# Instructions that prologues and epilogues are made of: mask and value.
STD, STDU, LD_R1, ADDI_R1 = (
    (0xFC1F0003, 0xF8010000), (0xFFFF0003, 0xF8210001), (0xFFFFFFFF, 0xE8210000), (0xFFFF0000, 0x38210000),
)  # fmt: skip
MFLR_R0, MTLR_R0 = (0xFFFFFFFF, 0x7C0802A6), (0xFFFFFFFF, 0x7C0803A6)
BLR, B = (0xFFFFFFFF, 0x4E800020), (0xFC000001, 0x48000000)


def _prologue(order: Order) -> Callable[[bytes], Prologue]:
    def prologue(code: bytes) -> Prologue:
        """What compiled code does to the stack: stdu and addi of its pointer, std and ld relative to it."""
        reader, link_in_r0 = PrologueReader(), False
        for at in range(0, len(code) & -4, 4):
            word = int.from_bytes(code[at : at + 4], order)
            link_in_r0 = _matches(word, MFLR_R0) or (link_in_r0 and not _matches(word, BLR))
            _instruction(reader, word, link_in_r0)
        return reader.result()

    return prologue


def _give_back(reader: PrologueReader, size: int) -> None:
    """The stack pointer goes up by ``size`` bytes, or to the caller's: the return address is above that."""
    link = reader.saved.get(DWARF["link"])
    if size:
        reader.take(-size)
    else:
        reader.restore()
    if link is not None and link >= 0:
        reader.saved[DWARF["link"]] = link


def _matches(word: int, form: tuple[int, int]) -> bool:
    return word & form[0] == form[1]


def _instruction(reader: PrologueReader, word: int, link_in_r0: bool) -> None:
    offset = (word & 0xFFFC) - ((word & 0x8000) << 1)
    register = word >> 21 & 31
    if _matches(word, STDU):
        reader.take(-offset)
    elif _matches(word, STD) and (register or link_in_r0):
        reader.save(register or DWARF["link"], offset)
    elif _matches(word, ADDI_R1) or _matches(word, LD_R1):
        _give_back(reader, (word & 0xFFFF) - ((word & 0x8000) << 1))
    elif _matches(word, MTLR_R0):
        reader.restore(reader.taken)
        reader.saved.pop(DWARF["link"], None)
    elif _matches(word, BLR) or _matches(word, B):
        reader.leave()


IRQ_STACKS = {"hardirq_ctx": "HARD IRQ", "softirq_ctx": "SOFT IRQ"}
EMERGENCY_STACKS = {
    "emergency_sp": "EMERGENCY", "nmi_emergency_sp": "NMI EMERGENCY", "mc_emergency_sp": "MC EMERGENCY",
}  # fmt: skip


def stacks(kernel: Any) -> list[StackRange]:
    """The CPUs' stacks: arrays of those for interrupts, and the tops of the emergency stacks in the paca.

    ``kernel``: see kcrash.linux.stack.StackProbe.
    """
    return [stack for cpu in kernel.cpus for stack in _cpu_stacks(kernel, cpu)]


def _cpu_stacks(kernel: Any, cpu: int) -> Iterator[StackRange]:
    size = kernel.thread_size
    for symbol, name in IRQ_STACKS.items():
        low = _pointer(kernel, kernel.symbol(symbol), cpu)
        if low:
            yield StackRange(name, low, low + size, cpu)
    paca = _paca(kernel, cpu)
    for member, name in EMERGENCY_STACKS.items() if paca else ():
        if kernel.types.has("struct paca_struct", member):
            top = _pointer(kernel, paca + kernel.types.offset("struct paca_struct", member), 0)
            if top > size:
                yield StackRange(name, top - size, top, cpu)


def _paca(kernel: Any, cpu: int) -> int:
    """``paca_ptrs[cpu]``, since Linux commit d2e60075a3d4 ("powerpc/64: Use array of paca pointers and
    allocate pacas individually") in v4.17; 0 if there is none."""
    return _pointer(kernel, _pointer(kernel, kernel.symbol("paca_ptrs"), 0), cpu)


def _pointer(kernel: Any, array: int | None, index: int) -> int:
    try:
        return int(kernel.memory.u64(array + 8 * index)) if array else 0
    except MemoryFault:
        return 0


def format_registers(registers: Mapping[str, int | None], symbol: Callable[[int], str]) -> list[str]:
    """The block that ``bt`` prints at an exception and at the border to user space."""

    def shown(label: str, name: str) -> str:
        value = registers.get(name)
        text = f"{value:016x}" if value is not None else f"{'(unknown)':>16}"
        return f"{label + ':':<5}{text}"

    trap = (registers.get("trap") or 0) & ~15
    cells = [shown(name.upper(), name) for name in GPRS]
    cells += [
        shown(label, name)
        for label, name in (
            ("NIP", "nip"), ("MSR", "msr"), ("OR3", "orig_gpr3"), ("CTR", "ctr"), ("LR", "link"),
            ("XER", "xer"), ("CCR", "ccr"), ("MQ", "softe"), ("DAR", "dar"),
        )
    ]  # fmt: skip
    lines = [f" {TRAPS[trap]} [{trap:x}] exception frame:"] if trap in TRAPS else []
    lines += [" " + "    ".join(cells[at : at + 3]) for at in range(0, len(cells), 3)]
    known = {name: value for name, value in registers.items() if value is not None}
    if "dsisr" in known:
        lines.append(f" DSISR: {known['dsisr']:016x}     Syscall Result: {known.get('result', 0):016x}")
    if not user_mode(known):
        lines += [f" [NIP  : {symbol(known.get('nip', 0))}]", f" [LR   : {symbol(known.get('link', 0))}]"]
    return lines


_IMMEDIATE = re.compile(r"-?0x[0-9a-f]+")


def assembly(found: Any) -> tuple[str, str]:
    """As GNU's disassembler: no spaces, and decimal numbers but for the addresses that branches go to."""
    operands = found.op_str.replace(", ", ",")
    if found.mnemonic.startswith("b"):
        return found.mnemonic, operands
    return found.mnemonic, _IMMEDIATE.sub(lambda match: str(int(match[0], 16)), operands)


def _make(name: str, byte_order: Order) -> Arch:
    return Arch(
        name=name,
        machine=name,
        elf_machine=21,
        byte_order=byte_order,
        word_bits=64,
        page_shift=12,
        dwarf=DWARF,
        pc="nip",
        sp="r1",
        fp="r1",
        return_column=65,
        callee_saved=frozenset(DWARF[register] for register in ("r2", "r13", *KEPT)),
        pt_regs=PT_REGS,
        prstatus=PRSTATUS,
        capstone=("CS_ARCH_PPC", "CS_MODE_64", f"CS_MODE_{byte_order.upper()}_ENDIAN"),
        find_layout=find_layout,
        switched_out=_switched_out(byte_order),
        task_stack_padding=task_stack_padding,
        user_mode=user_mode,
        saved_registers=_saved_registers(byte_order),
        stacks=stacks,
        format_registers=format_registers,
        frame=FrameLayout(saved_fp=0, return_address=16, cfa=None, chained=32, marks=MARKS, marked=MARKED),
        frame_style=FrameStyle(at_frame_pointer=True, numbered=True),
        virtual_tables=True,
        user_paging=user_paging,
        prologue=_prologue(byte_order),
        instruction_bytes=lambda code: 4,
        assembly=assembly,
    )


PPC64LE, PPC64 = register_arch(_make("ppc64le", "little")), register_arch(_make("ppc64", "big"))
