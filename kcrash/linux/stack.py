"""Kernel stacks: which there are, and the frames on them.

The room ``unwind`` turns registers into frames; here is what it needs of a
kernel: where code is and its tables, where stacks are, and the registers that a
task starts from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kcrash.arch.base import StackRange
from kcrash.errors import KcrashError, MemoryFault
from kcrash.linux.cpu_registers import cpu_registers
from kcrash.linux.cpus import possible_cpus
from kcrash.linux.exidx import kernel_exidx, module_exidx
from kcrash.linux.modules import Module, modules
from kcrash.linux.tasks import Task, task_table
from kcrash.unwind.cfi import CfiTable
from kcrash.unwind.codemap import CodeMap, Tables
from kcrash.unwind.orc import OrcTable, choose_layout
from kcrash.unwind.registers import Registers
from kcrash.unwind.target import Ranges, RegsLayout, Target, target_for
from kcrash.unwind.unwinder import Frame, Unwinder

if TYPE_CHECKING:
    from kcrash.session import Session

MAX_ORC = 1 << 22
DEFAULT_STACK = 16384


# -- the unwinder of a session


def unwinder(session: Session) -> Unwinder:
    """The unwinder for kernel code, made once."""
    return session.reading("unwinder", lambda: _make_unwinder(session))


def unwind_target(session: Session) -> Target:
    """The architecture as unwinding sees it, with this kernel's struct pt_regs."""
    return session.memo("unwind target", lambda: _make_target(session))


def _make_target(session: Session) -> Target:
    arch = session.arch
    clean = arch.code_pointer and arch.code_pointer(session.layout)
    if arch.copied_code is not None:
        clean = arch.copied_code(StackProbe(session, possible_cpus(session)))
    entries = tuple(_ranges(session, _entry_functions(session)))
    text = () if session.image.section(".orc_unwind") else _entry_text(session)
    partial = tuple(_ranges(session, arch.frame.partial)) if text else ()
    return target_for(arch, _regs_layout(session), clean, entries, text, partial)


def _entry_text(session: Session) -> Ranges:
    start, end = (*map(session.symbols.find_kernel, session.arch.frame.entry_text), None, None)[:2]
    return ((start, end),) if start is not None and end is not None else ()


def _entry_functions(session: Session) -> tuple[str, ...]:
    """Without those that have become functions in C, which a routine of assembly of a similar name calls."""
    find, names = session.symbols.find_kernel, session.arch.frame.regs_functions
    return tuple(name for name in names if find(f"{name}_asm") is None)


def _regs_layout(session: Session) -> RegsLayout:
    fields, types = {}, session.types
    for name, (offset, size) in regs_fields(session).items():
        if name in session.arch.dwarf:
            fields[session.arch.dwarf[name]] = (offset, size)
    return RegsLayout(types.size("struct pt_regs"), fields, *_frame_record(session))


def _frame_record(session: Session) -> tuple[int | None, int | None]:
    """Where struct pt_regs has a frame record, and the record's type (struct frame_record_meta)."""
    types, member, found = session.types, session.arch.frame.regs_record, []
    for path in (member, f"{member}.type"):
        known = bool(member) and types.has("struct pt_regs", path)
        found.append(types.offset("struct pt_regs", path) if known else None)
    return found[0], found[1]


def regs_fields(session: Session) -> dict[str, tuple[int, int]]:
    """Register name -> (offset, bytes) in this kernel's struct pt_regs."""
    return session.memo("pt_regs", lambda: _regs_fields(session))


def _regs_fields(session: Session) -> dict[str, tuple[int, int]]:
    compound = session.types.compound("struct pt_regs")
    found = {}
    for name, members in session.arch.pt_regs.items():
        path = next((member for member in members if compound.has(member)), None)
        if path is not None:
            member = compound.path(path)
            # FRED keeps flags in the upper bits of the words of cs and ss.
            size = 2 if name in ("cs", "ss") else min(member.type.size, session.arch.word_bytes)
            found[name] = (member.offset, size)
    return found


def read_regs(session: Session, address: int) -> dict[str, int]:
    """The registers of a struct pt_regs at a kernel address, by name. Raises MemoryFault."""
    data = session.memory.read(address, session.types.size("struct pt_regs"))
    order: Any = session.arch.byte_order
    fields = regs_fields(session)
    return {name: int.from_bytes(data[at : at + size], order) for name, (at, size) in fields.items()}


def _make_unwinder(session: Session) -> Unwinder:
    code = CodeMap()
    for start, end in _kernel_text(session):
        code.add(start, end, lambda: _kernel_tables(session))
    for module in modules(session):
        for region in module.regions:
            if region.name in ("core", "text", "init_text") and region.size:
                end = region.start + region.size
                code.add(region.start, end, partial(_module_tables, session, module, region.start, end))
    return Unwinder(
        unwind_target(session),
        code,
        session.memory,
        stack_of=lambda address: stack_at(session, address),
        function_start=lambda address: _function_start(session, address),
        user_regs=lambda address: _user_regs_on_stack(session, address),
        links={stack.link for stack in cpu_stacks(session) if stack.link},
    )


def _function_start(session: Session, address: int) -> int | None:
    found = session.symbols.at(address)
    return None if found is None else found[0].address


def _kernel_text(session: Session) -> Iterator[tuple[int, int]]:
    find = session.symbols.find_kernel
    for first, last in (("_stext", "_etext"), ("_sinittext", "_einittext")):
        start, end = find(first), find(last)
        if start is not None and end is not None and start < end:
            yield start, end


def _kernel_tables(session: Session) -> Tables:
    return session.memo("kernel unwind tables", lambda: _read_kernel_tables(session))


def _read_kernel_tables(session: Session) -> Tables:
    target, frames = unwind_target(session), session.image.section(".debug_frame")
    cfi = None
    if frames is not None:
        cfi = CfiTable(frames.data, target, file=frames.file, bias=session.layout.kaslr)
    return Tables(cfi, _kernel_orc(session, target) or kernel_exidx(session, target))


def _kernel_orc(session: Session, target: Target) -> OrcTable | None:
    section = session.image.section
    offsets, entries, header = section(".orc_unwind_ip"), section(".orc_unwind"), section(".orc_header")
    if offsets is None or entries is None:
        return None
    layout = choose_layout(entries.data, bytes(header.data) if header else None, _orc_members(session))
    return OrcTable(
        offsets.data, entries.data, target, address=offsets.address, layout=layout, file=offsets.file
    )


def _orc_members(session: Session) -> dict[str, int]:
    """Members of struct orc_entry and their widths in bits, {} where no type tells."""
    if not session.types.has("struct orc_entry"):
        return {}
    members = session.types.compound("struct orc_entry").members
    return {member.name: member.bit_size or member.type.size * 8 for member in members}


def _module_tables(session: Session, module: Module, start: int, end: int) -> Tables:
    """CFI of the module's debuginfo, if that is in use, and the kernel's own tables of its code."""
    debug, target = session.module_debug.get(module.name), unwind_target(session)
    frames = debug.dwarf.info.sections[".debug_frame"] if debug else b""
    cfi = CfiTable(frames, target, file=debug.path) if debug and len(frames) else None
    return Tables(cfi, _module_orc(session, module) or module_exidx(session, start, end, target))


def _module_orc(session: Session, module: Module) -> OrcTable | None:
    """ORC of a module, out of memory (struct mod_arch_specific, arch/x86/include/asm/module.h)."""
    kernel = _kernel_tables(session).orc
    paths = ("arch.num_orcs", "arch.orc_unwind_ip", "arch.orc_unwind")
    if not isinstance(kernel, OrcTable) or not all(
        session.types.has("struct module", path) for path in paths
    ):
        return None
    value = session.value("struct module", module.address)
    count, offsets, entries = (int(value.member_(path)) for path in paths)
    if not 0 < count <= MAX_ORC:
        return None
    try:
        size = kernel.layout.entry_size
        ip, data = session.memory.read(offsets, 4 * count), session.memory.read(entries, size * count)
        return OrcTable(
            ip, data, unwind_target(session), address=offsets, layout=kernel.layout, file=module.name
        )
    except KcrashError:
        return None


# -- stacks


@dataclass(frozen=True, slots=True)
class StackProbe:
    """What an architecture looks at to find its stacks (kcrash.arch.base.Arch.stacks)."""

    session: Session
    cpus: list[int]

    @property
    def thread_size(self) -> int:
        """Bytes of a task's stack."""
        return thread_size(self.session)

    @property
    def types(self) -> Any:
        """Layouts."""
        return self.session.types

    @property
    def memory(self) -> Any:
        """Kernel memory."""
        return self.session.memory

    def symbol(self, name: str) -> int | None:
        """The address of a symbol of the kernel, or None."""
        return self.session.symbols.find_kernel(name)

    def per_cpu(self, name: str, cpu: int) -> int | None:
        """Where a per-CPU variable lies, or None."""
        return self.session.per_cpu_address(name, cpu)


def cpu_stacks(session: Session) -> list[StackRange]:
    """The exception and interrupt stacks of every CPU."""
    return session.memo(
        "cpu stacks", lambda: session.arch.stacks(StackProbe(session, possible_cpus(session)))
    )


def thread_size(session: Session) -> int:
    """Bytes of a task's kernel stack (THREAD_SIZE)."""
    return session.memo("thread size", lambda: _thread_size(session))


def _thread_size(session: Session) -> int:
    # Linux commit 8f69cba096b5 ("x86: Rename __{start,end}_init_task to __{start,end}_init_stack") in v6.9.
    for first, last in (("__start_init_stack", "__end_init_stack"), ("__start_init_task", "__end_init_task")):
        start, end = session.symbols.find_kernel(first), session.symbols.find_kernel(last)
        if start is not None and end is not None and start < end:
            return end - start
    if session.types.has("union thread_union"):
        return session.types.size("union thread_union")
    return DEFAULT_STACK


def task_stack(session: Session, task: Task) -> StackRange:
    """A task's own kernel stack."""
    return StackRange("task", task.stack, task.stack + thread_size(session), None)


def stack_at(session: Session, address: int) -> StackRange | None:
    """The stack that an address lies on: a CPU's or a task's; None if on none."""
    for stack in cpu_stacks(session):
        if stack.low <= address < stack.high:
            return stack
    size = thread_size(session)
    low = address & ~(size - 1)  # stacks are aligned to their size, but where THREAD_ALIGN is less
    stacks = session.reading("task stacks", lambda: {task.stack: task for task in task_table(session).tasks})
    if low in stacks:
        return StackRange("task", low, low + size, None)
    return None


# -- where a trace starts


def user_regs_address(session: Session, task: Task) -> int:
    """Where the entry code left the registers of user space: task_pt_regs()."""
    size = session.types.size("struct pt_regs")
    return task.stack + thread_size(session) - session.arch.task_stack_padding(session.symbols) - size


def _user_regs_on_stack(session: Session, address: int) -> int | None:
    """user_regs_address() of the task on whose stack an address lies, None if it is no task's."""
    stack = stack_at(session, address)
    if stack is None or stack.cpu is not None:
        return None
    padding = session.arch.task_stack_padding(session.symbols)
    return stack.high - padding - session.types.size("struct pt_regs")


def start_registers(session: Session, task: Task) -> tuple[Registers, bool]:
    """``(registers, interrupted)`` that a task's trace starts from.

    A task on a CPU starts from the CPU's note, any other from what the switch
    away from it saved. Raises KcrashError where there is neither.
    """
    if task.address in task_table(session).active:
        note = cpu_registers(session).get(task.cpu)
        if note is None:
            where = "still in that CPU" if session.live else "not in the dump"
            raise KcrashError(
                f"task {task.pid} was running on CPU {task.cpu}: its registers are {where} (active)"
            )
        return _named(session, note.registers), True
    values = session.arch.switched_out(session.types, session.symbols, session.memory, task.address)
    return Registers(values), False


def _named(session: Session, registers: Mapping[str, int]) -> Registers:
    dwarf = session.arch.dwarf
    return Registers({dwarf[name]: value for name, value in registers.items() if name in dwarf})


def frames(session: Session, task: Task, *, prefer_orc: bool = False) -> list[Frame]:
    """The frames of a task, innermost first. Raises KcrashError if there is nothing to start from."""
    registers, interrupted = start_registers(session, task)
    machine = unwinder(session)
    if interrupted:
        deeper = _stopped_frames(session, task, registers, prefer_orc)
        if deeper:
            return _joined(deeper, machine.unwind(registers, prefer_orc=prefer_orc))
    return list(machine.unwind(registers, interrupted=interrupted, prefer_orc=prefer_orc))


def _joined(deeper: list[Frame], known: Iterator[Frame]) -> list[Frame]:
    """``deeper`` ends at the frame that ``known`` starts with; from there on all registers are known."""
    callers = list(known)[1:]
    found = [*deeper, *callers]
    return [frame._replace(level=level) for level, frame in enumerate(found)]


def _stopped_frames(
    session: Session, task: Task, registers: Registers, prefer_orc: bool = False
) -> list[Frame]:
    """Frames from where the kernel stopped the CPU, if they can be proven to lead to ``registers``.

    A note holds the registers of the code that was stopped. Deeper frames, of the
    stop itself, are still on the stack: a return address into one of
    Arch.stop_functions is taken if unwinding from it comes back to the note's frame,
    which is the last of those returned.
    """
    sp = registers.get(session.arch.dwarf[session.arch.sp])
    pc = registers.get(session.arch.dwarf[session.arch.pc])
    for stack in _candidate_stacks(session, task):
        for slot, value in _stop_slots(session, stack):
            dwarf, after = session.arch.dwarf, slot + session.arch.word_bytes
            start = Registers({dwarf[session.arch.pc]: value, dwarf[session.arch.sp]: after})
            found = list(unwinder(session).unwind(start, interrupted=False, prefer_orc=prefer_orc))
            reached = _reached(session, found, pc, sp)
            if reached:
                return [frame._replace(note="") for frame in found[: reached + 1]]
    return []


def _candidate_stacks(session: Session, task: Task) -> list[StackRange]:
    own = [stack for stack in cpu_stacks(session) if stack.cpu == task.cpu]
    return [task_stack(session, task), *own]


def _stop_slots(session: Session, stack: StackRange) -> Iterator[tuple[int, int]]:
    """``(address, value)`` of words on a stack that are return addresses into a stop function."""
    ranges = session.memo("stop functions", lambda: _ranges(session, session.arch.stop_functions))
    width = session.arch.word_bytes
    data = session.memory.try_read(stack.low, stack.high - stack.low)
    if data is None or not ranges:
        return
    order = "<" if session.arch.byte_order == "little" else ">"
    values = struct.unpack(f"{order}{len(data) // width}{'Q' if width == 8 else 'I'}", data)
    lowest, highest = min(low for low, _high in ranges), max(high for _low, high in ranges)
    for index, value in enumerate(values):
        if lowest < value < highest and any(low < value < high for low, high in ranges):
            yield stack.low + index * width, value


def _ranges(session: Session, functions: tuple[str, ...]) -> list[tuple[int, int]]:
    """Where functions are; one whose symbol says no size (of assembly) ends at the next symbol."""
    found = []
    for name in functions:
        symbol = session.symbols.kernel.symbol(name)
        if symbol is not None:
            following = session.symbols.kernel.neighbours(symbol.address)[1] if not symbol.size else None
            end = following.address if following else symbol.address + symbol.size
            found.append((symbol.address, end))
    return found


def _reached(session: Session, found: list[Frame], pc: int | None, sp: int | None) -> int:
    """The index of the note's frame: the same stack pointer, and the same function; 0 if there is none."""
    own = session.arch.dwarf[session.arch.sp]
    for index, frame in enumerate(found[1:], 1):
        if frame.registers.get(own) == sp and frame.pc is not None and pc is not None:
            same = frame.pc == pc or _same_function(session, frame.pc - 1, pc)
            return index if same else 0
    return 0


def _same_function(session: Session, one: int, other: int) -> bool:
    first, second = session.symbols.at(one), session.symbols.at(other)
    return first is not None and second is not None and first[0] == second[0]


def readable(session: Session, address: int, size: int) -> bytes | None:
    """Bytes of a stack, or None."""
    try:
        return session.memory.read(address, size)
    except MemoryFault:
        return None
