"""What the program knows of a CPU: one frozen record a CPU, registered by its own file.

The functions of a record take plain things (a reader of memory, a lookup of
types or symbols) described by the protocols here, so that this room needs none
of the rooms above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Memory(Protocol):
    """An address space, as far as an architecture reads it."""

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes; MemoryFault if one of them cannot be had."""


class TypeLookup(Protocol):
    """Layouts, as far as an architecture asks for them."""

    def has(self, text: str, path: str = "") -> bool:
        """True if the type (and member path) exists."""

    def offset(self, text: str, path: str) -> int:
        """``offsetof`` in bytes."""

    def size(self, text: str) -> int:
        """``sizeof`` in bytes."""


class SymbolLookup(Protocol):
    """Addresses of symbols, as they were when the machine died."""

    def find(self, name: str) -> int | None:
        """The address of a symbol, or None."""


class EntryKind(Enum):
    """What an entry of a page table is."""

    ABSENT = "absent"  # zero
    TABLE = "table"  # refers to the next level
    LEAF = "leaf"  # maps memory (PROT_NONE pages too)
    OTHER = "other"  # a swap or migration entry: the kernel's own format


class Entry(NamedTuple):
    """A decoded page-table entry: ``address`` is physical, of the next table or of the page.

    ``shift``: of the page that the entry is one part of, where that is larger than what the
    level's entries cover (riscv's Svnapot, in which every part says the same); else 0.
    """

    kind: EntryKind
    address: int
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a page table: ``1 << bits`` entries, each covering ``1 << shift`` bytes."""

    name: str
    shift: int
    bits: int


@dataclass(frozen=True, slots=True)
class Paging:
    """A page-table form: levels from the top, bytes an entry, and how an entry reads.

    ``decode(value, level index)``; the last level's entries are never TABLE.
    ``user_end``: first address above user space; ``flag_names``: what the flags of
    an entry are called, in the order in which they are shown. ``decode_table``: for an array of
    entries of the last level, as uint64: which of them map a page, and where it
    lies. ``swap_entry``: for an OTHER entry of any level, ``(type, offset)`` of
    the kernel's swp_entry_t. ``ignored_bits``: of an address, that do not matter
    to translation (arm64's memory tags in the highest byte). ``signed``: addresses are continued by
    their highest bit; else those of more than ``canonical_bits`` are none, and kernel and user have
    all addresses each.
    ``regions``: what may stand above the ``canonical_bits`` of an address, where that is told by neither;
    empty where it is. ``byte_order``: of the entries, "" for the machine's.
    ``parts``: what to add to the addresses of decode_table for entries and the numbers of their virtual
    pages, where Entry.shift is used; None where it is not. ``empty``: besides 0, what an entry of the
    last level is that maps nothing.
    """

    levels: tuple[Level, ...]
    entry_size: int
    decode: Callable[[int, int], Entry]
    canonical_bits: int
    user_end: int
    flag_names: Callable[[int], list[str]] = lambda value: []
    decode_table: Callable[[NDArray[np.uint64]], tuple[NDArray[np.bool_], NDArray[np.uint64]]] | None = None
    swap_entry: Callable[[int], tuple[int, int]] | None = None
    ignored_bits: int = 0
    signed: bool = True
    empty: int = 0
    regions: tuple[int, ...] = ()
    byte_order: str = ""
    parts: Callable[[NDArray[np.uint64], NDArray[np.uint64]], NDArray[np.uint64]] | None = None


@dataclass(frozen=True, slots=True)
class LinearRange:
    """Kernel virtual ``[start, end)`` that maps to physical ``physical`` onwards."""

    start: int
    end: int
    physical: int


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """Where the kernel stands: enough to translate its addresses.

    ``kaslr``: bytes that the kernel image was moved by (virtual);
    ``phys_base``: what the architecture calls so; ``top_table``: physical
    address of the kernel's top page table, None if unknown; ``constants``:
    whatever else the architecture found: PAGE_OFFSET; VMEMMAP_START, the
    address of the struct page of frame 0 ...
    """

    kaslr: int
    phys_base: int
    paging: Paging
    top_table: int | None
    linear: tuple[LinearRange, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Prstatus:
    """Layout of the kernel's ``struct elf_prstatus`` (include/linux/elfcore.h): byte offsets.

    ``registers``: names of the words of ``pr_reg`` in order, "" for padding.
    """

    size: int
    signal: int
    pid: int
    times: int
    regs: int
    fpvalid: int
    registers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """The record that a frame pointer points at: byte offsets from the frame pointer.

    ``cfa``: offset of the caller's stack pointer, None where the record does not
    tell it (arm64, where the record may stand anywhere in the frame).
    ``regs_tag``: bits that mark a frame pointer as the address of a struct
    pt_regs, 0 for none. Linux commit 946c191161ce ("x86/entry/unwind: Create stack
    frames for saved interrupt registers") in v4.10 sets bit 0 on x86_64.
    ``regs_hidden``: a bit of such an address that the frame pointer lacks, 0 for none: on i386 since Linux
    commit 5c99b692cfd6 ("x86/unwind: Use MSB for frame pointer encoding on 32-bit") in v4.14.
    ``kernel_ss``: the number of the stack segment's register and what the kernel has in it, if struct pt_regs
    of interrupted kernel code may end in front of the stack pointer: before Linux commit 3c88c692c287
    ("x86/stackframe/32: Provide consistent pt_regs") in v5.3 there the interrupted stack goes on at once.
    ``regs_record``: the member of struct pt_regs that is a frame record itself, "" for none.
    ``regs_functions``: routines in whose frames a struct pt_regs lies at the stack pointer.
    ``entry_text``: symbols around entry code that, where no table describes it, does likewise, or has
    pushed the address of one before it went to another stack; ``partial``: routines of it that
    leave the places of callee-saved registers as they are.
    ``leaf_fp``: where a function that leaves the return address in its register has saved the frame
    pointer, None if it does not matter (arm64's save both or none).
    ``chained``: bytes of a frame where frames are chained by their stack pointers (s390x), else 0: at
    ``saved_fp`` is the caller's stack pointer, and ``return_address`` is counted from there; where
    the chain ends a struct pt_regs follows the frame.
    ``marks``, ``marked``: or the frames of entry code hold a word that says so (powerpc), and the chain goes
    on: what it may be, where it may be, and where the struct pt_regs then is, from the stack pointer.
    """

    saved_fp: int
    return_address: int
    cfa: int | None
    regs_tag: int = 0
    regs_hidden: int = 0
    kernel_ss: tuple[int, int] = (-1, 0)
    regs_record: str = ""
    regs_functions: tuple[str, ...] = ()
    entry_text: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    leaf_fp: int | None = None
    chained: int = 0
    marks: frozenset[int] = frozenset()
    marked: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class FrameStyle:
    """How crash shows the frames of an architecture.

    ``at_frame_pointer``: in brackets stands the frame pointer, not where the return address is;
    ``call_bytes``: of the call in front of a return address, which is shown in its place; 0 for neither;
    ``numbered``: interrupted frames have a number of their own, else their registers stand for them;
    ``caller``: in brackets stand the frame's pc and its caller's (arm).
    """

    at_frame_pointer: bool = False
    call_bytes: int = 0
    numbered: bool = False
    caller: bool = False


class StackRange(NamedTuple):
    """A kernel stack ``[low, high)``; ``name`` as crash prints it ("NMI exception", "IRQ").

    ``link``: the stack pointer of the frame that has switched to it, where tables do not know of that: a word
    there names the struct pt_regs of what was interrupted, or the frames are chained; else 0.
    """

    name: str
    low: int
    high: int
    cpu: int | None
    link: int = 0


@dataclass(frozen=True, slots=True)
class CallCode:
    """What machine code tells of calls, for functions that no table describes.

    Only for architectures whose calls push the return address.
    ``target(memory, address)``: where the direct call in front of a return address
    goes, None if there is none; raises MemoryFault.
    ``pushed(code)``: DWARF numbers of the registers that the code at the start of a
    function pushes, in order, as far as it is sure to do nothing else to the stack.
    """

    target: Callable[[Memory, int], int | None]
    pushed: Callable[[bytes], list[int]]


class Prologue(NamedTuple):
    """What a function has done to the stack: ``taken`` bytes; ``saved``: where registers (DWARF numbers) are,
    from the stack pointer that it was called with; ``frame_pointer``: what that is from there, if it is set.
    """

    taken: int
    saved: Mapping[int, int]
    frame_pointer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One CPU architecture.

    ``dwarf``: DWARF register numbers by name; ``pt_regs``: register names to
    members of ``struct pt_regs``, newest first where kernels differ.
    ``capstone``: names in the capstone package: of the architecture, and of its modes.
    ``virtual_tables``: crash shows where page tables lie by the kernel's addresses, not by physical ones.
    ``page_shift``: the smallest pages that kernels are built for; the layout's paging has a kernel's own.
    ``switched_out``: registers of a task that is on no CPU, by its task_struct's address.
    ``saved_registers``: True if these can be what the entry code saved, for searches of a stack; with the
    address behind them.
    ``frame``: the record of a frame pointer. ``stop_functions``: where the kernel leaves a CPU that is
    stopped for a dump and return addresses are pushed: the frames below belong to the dying, and a
    note's registers are those of the frames above. ``code_pointer``: for a layout, what takes the
    authentication code out of a return address; None where there is none.
    ``copied_code``: for a kernel (kcrash.linux.stack.StackProbe), what turns a return address in a CPU's copy
    of entry code into one in the original; None where there are no copies.
    ``ftrace_nop``: what stands at the start of a traceable function while nothing traces it.
    ``instruction_bytes``: of the instruction that begins there, for those that capstone does not know.
    ``assembly``: mnemonic and operands of an instruction of capstone's as GNU's disassembler writes them;
    ``remark``: what stands before an address that it refers to; ``pc_ahead``: bytes from its end to what it
    reads of the program counter.
    ``prologue``: what the code from a function's start up to some place has done to the stack; None where
    other things tell. Where frames are chained it is asked for interrupted ones only.
    ``user_paging``: the form of a process's tables, by physical memory and the top table there.
    ``format_registers(registers, symbol)``: ``symbol`` names the routine and offset of an address.
    """

    name: str
    machine: str
    elf_machine: int
    byte_order: str
    word_bits: int
    page_shift: int
    dwarf: Mapping[str, int]
    pc: str
    sp: str
    fp: str
    return_column: int
    callee_saved: frozenset[int]
    pt_regs: Mapping[str, tuple[str, ...]]
    prstatus: Prstatus
    capstone: tuple[str, ...]
    find_layout: Callable[[Any], KernelLayout]
    switched_out: Callable[[TypeLookup, SymbolLookup, Memory, int], dict[int, int]]
    frame: FrameLayout
    task_stack_padding: Callable[[SymbolLookup], int]
    user_mode: Callable[[Mapping[str, int]], bool]
    saved_registers: Callable[[Mapping[str, int], int], bool]
    stacks: Callable[[Any], list[StackRange]]
    format_registers: Callable[[Mapping[str, int | None], Callable[[int], str]], list[str]]
    frame_style: FrameStyle = FrameStyle()
    virtual_tables: bool = False
    stop_functions: tuple[str, ...] = ()
    code_pointer: Callable[[KernelLayout], Callable[[int], int]] | None = None
    copied_code: Callable[[Any], Callable[[int], int]] | None = None
    user_paging: Callable[[KernelLayout, Memory, int], Paging] = lambda layout, physical, top: layout.paging
    call_code: CallCode | None = None
    prologue: Callable[[bytes], Prologue] | None = None
    ftrace_nop: bytes = b""
    instruction_bytes: Callable[[bytes], int] = lambda code: 1
    assembly: Callable[[Any], tuple[str, str]] = lambda found: (found.mnemonic, found.op_str)
    remark: str = "        #"
    pc_ahead: int = 0

    @property
    def page_size(self) -> int:
        """Bytes."""
        return 1 << self.page_shift

    @property
    def word_bytes(self) -> int:
        """Bytes of a pointer."""
        return self.word_bits // 8


_arches: dict[tuple[int, str, int], Arch] = {}


def displacement(probe: Any, info: Any) -> int:
    """By how much a symbol that VMCOREINFO has (``info``) is away from where it was linked; 0 if none tells.

    ``probe``: see Arch.find_layout.
    """
    for name in ("_stext", "init_uts_ns", "swapper_pg_dir", "init_top_pgt"):
        linked = probe.link_address(name)
        if linked is not None and name in info.symbols:
            return int(info.symbols[name]) - int(linked)
    return 0


def register_arch(arch: Arch) -> Arch:
    """Make an architecture known; a second one for the same machine, order and word size is an error."""
    key = (arch.elf_machine, arch.byte_order, arch.word_bits)
    if key in _arches:
        raise ValueError(f"architecture {arch.name!r} is registered twice")
    _arches[key] = arch
    return arch


def registered() -> Mapping[tuple[int, str, int], Arch]:
    """Architectures by (ELF machine, byte order, word bits)."""
    return _arches
