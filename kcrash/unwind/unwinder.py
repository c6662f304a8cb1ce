"""From the registers of one frame to those of all its callers.

Per frame: CFI, then ORC, then the call that must have led here, then the frame
pointer; ORC first where inline assembly has switched the stack behind the
compiler's back. Nothing here raises for what a dump holds: a
trace that cannot go on ends with a frame whose note says why.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator
from typing import NamedTuple

from kcrash.errors import BadFormat, MemoryFault
from kcrash.unwind.codemap import CodeMap, RowTable, Tables
from kcrash.unwind.exidx import UNTOLD
from kcrash.unwind.expression import Unknown
from kcrash.unwind.framepointer import (
    call_row,
    entry_row,
    frame_row,
    kept_row,
    leaf_row,
    null_call_row,
    prologue_row,
    saved_regs_row,
)
from kcrash.unwind.memory import BlockReader
from kcrash.unwind.recover import Recovered, find_cfa, recover
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Kind, Row, Rule
from kcrash.unwind.target import MemoryReader, Ranges, Target

MAX_FRAMES = 1024
MAX_MEMO = 65_536
MAX_CALL_WORDS = 1024  # searched for the call of a function; kernels are built with -Wframe-larger-than=2048
MAX_PROLOGUE = 64
MAX_ARGUMENTS = 2  # words of a system call's arguments that entry code pushes (arm)
MAX_FUNCTION = 1 << 16  # bytes of code read of a function that no table describes


class Frame(NamedTuple):
    """One frame, innermost first.

    ``pc``: None if unknown; ``cfa``: the canonical frame address (on x86_64 the
    stack pointer before the call), None if nothing tells it; ``registers``: as
    they were in this frame; ``method``: how the step to this frame was made:
    "start", "cfi", "orc", "exidx", "call" (no table; found by the call), "prologue" (no table; what the
    function's code does), "fp" or "regs" (out of a saved struct pt_regs);
    ``interrupted``: ``pc`` is where the frame was interrupted, not a return
    address; ``regs_address``: of the pt_regs that ``registers`` came from;
    ``note``: why the trace ends here, "" if it goes on or has come to its proper end;
    ``exact``: ``pc`` is no return address, but an entry routine that returned to its very start.
    """

    level: int
    pc: int | None
    cfa: int | None
    registers: Registers
    method: str
    interrupted: bool
    regs_address: int | None
    note: str
    exact: bool = False

    @property
    def lookup_pc(self) -> int | None:
        """The address to look up symbols, lines and rows with.

        A return address may lie behind the end of the function that called, if
        the callee does not return.
        """
        return self.pc if self.pc is None or self.interrupted or self.exact else self.pc - 1


class _Step(NamedTuple):
    """What the row of a frame gives: its CFA and its caller, or why there is none."""

    cfa: int | None
    caller: Registers | None = None
    row: Row | None = None
    note: str = ""


class Unwinder:
    """Unwinds stacks of one machine.

    ``code``: what is code, and its tables; ``memory``: reads the kernel's
    addresses; ``stack_of(address)``: some value that is the same for all
    addresses of one stack, None for no stack (without it, addresses within one
    16 KiB block are of one stack); ``fix_return(address, slot)``: the true return
    address where a tracer has replaced the one at ``slot``; ``function_start(pc)``:
    where the function around a pc begins, None if nothing tells; ``user_regs(address)``: where the
    registers of user space are on the stack of an address, None where that is not known; ``links``: see
    StackRange.link.
    """

    def __init__(
        self,
        target: Target,
        code: CodeMap,
        memory: MemoryReader,
        *,
        stack_of: Callable[[int], Hashable] | None = None,
        fix_return: Callable[[int, int], int] | None = None,
        function_start: Callable[[int], int | None] | None = None,
        user_regs: Callable[[int], int | None] | None = None,
        links: Container[int] = (),
    ) -> None:
        self.target = target
        self.code = code
        self.memory = memory
        self._stack_of = stack_of
        self._fix_return = fix_return
        self._function_start = function_start
        self._user_regs = user_regs
        self._links = links
        self._memo: dict[tuple[int, bool], tuple[Row | None, str]] = {}
        self._prologues: dict[tuple[int, bool], Row | None] = {}

    # -- frames

    def unwind(
        self,
        registers: Registers,
        *,
        interrupted: bool = True,
        limit: int = MAX_FRAMES,
        prefer_orc: bool = False,
    ) -> Iterator[Frame]:
        """The frames from ``registers`` outwards, at most ``limit``.

        ``interrupted``: False if the first pc is a return address (a task that has
        been switched out). The first frame is yielded whatever happens.
        """
        memory = BlockReader(self.memory, self.target)
        seen: set[tuple[int | None, ...]] = set()
        method, regs_address = "start", None
        for level in range(limit):
            step = self._step(registers, interrupted, method, memory, prefer_orc)
            note = step.note or self._loop_note(step, seen)
            if step.caller is not None and not note and level + 1 == limit:
                note = f"stopped after {limit} frames"
            pc = registers.get(self.target.pc)
            exact = not interrupted and any(pc == low for low, _high in self.target.regs_code)
            yield Frame(level, pc, step.cfa, registers, method, interrupted, regs_address, note, exact)
            if note or step.caller is None or step.row is None:
                return
            row = step.row
            registers, interrupted, method = step.caller, row.interrupted, row.method
            regs_address = None
            if row.regs_offset is not None and step.cfa is not None:
                regs_address = step.cfa + row.regs_offset & self.target.mask

    def _loop_note(self, step: _Step, seen: set[tuple[int | None, ...]]) -> str:
        if step.caller is None:
            return ""
        target = self.target
        key = tuple(map(step.caller.get, (target.pc, target.sp, target.fp)))
        if key in seen:
            return "the stack goes round in a circle"
        seen.add(key)
        return ""

    def _step(
        self, registers: Registers, interrupted: bool, method: str, memory: BlockReader, prefer_orc: bool
    ) -> _Step:
        pc = registers.get(self.target.pc)
        if pc is None:
            return _Step(None, note="the pc is not known")
        if method in ("start", "regs") and self.target.user_mode(registers):
            return _Step(None)
        entry = self._linked_row(pc, interrupted, registers, memory)
        entry = entry or (None if interrupted else self._entry_row(pc, registers, memory))
        row, note = (entry, "") if entry else self._row(pc, interrupted, method, prefer_orc)
        if interrupted and row is UNTOLD and self._returns_to_code(registers, memory):
            row = null_call_row(self.target)
        try:
            step = self._apply(row, registers, memory) if row is not None else _Step(None, note=note)
            if row is not None and (step.cfa is not None or row.cfa is None):
                return step  # else its rules need what is not known: a call may still prove itself
            row, note = self._fallback(pc, registers, interrupted, memory, step.note)
            return _Step(None, note=note) if row is None else self._apply(row, registers, memory)
        except BadFormat as error:
            return _Step(None, note=str(error))

    # -- rows

    def _row(self, pc: int, interrupted: bool, method: str, prefer_orc: bool) -> tuple[Row | None, str]:
        found = self._table_row(pc if interrupted else pc - 1, prefer_orc)
        if found[0] is None and method == "start" and not interrupted:
            # A task that has never run returns to the very start of ret_from_fork.
            return self._table_row(pc, prefer_orc)
        return found

    def _table_row(self, address: int, prefer_orc: bool) -> tuple[Row | None, str]:
        key = address, prefer_orc
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= MAX_MEMO:
                self._memo.clear()
            found = self._memo[key] = self._find_row(address, prefer_orc)
        return found

    def _find_row(self, address: int, prefer_orc: bool) -> tuple[Row | None, str]:
        tables = self.code.find(address)
        if tables is None:
            return None, ""
        notes = []
        for table in self._in_order(tables, address, prefer_orc):
            try:
                row = table.row(address)
            except BadFormat as error:
                notes.append(str(error))
                continue
            if row is not None:
                return row, ""
        return None, "; ".join(notes)

    def _in_order(self, tables: Tables, address: int, prefer_orc: bool) -> list[RowTable]:
        cfi, orc = tables.cfi, tables.orc
        try:
            orc_first = orc is not None and (prefer_orc or orc.switches_stack(address))
        except BadFormat:
            orc_first = False
        order = (orc, cfi) if orc_first else (cfi, orc)
        return [table for table in order if table is not None]

    def _linked_row(
        self, pc: int, interrupted: bool, registers: Registers, memory: BlockReader
    ) -> Row | None:
        """The rules of a frame that has just switched to a CPU's stack, of which no table knows.

        Where frames are chained the tables tell where its registers are all the same.
        """
        target, sp = self.target, registers.get(self.target.sp)
        if sp is None or sp not in self._links or target.regs is None:
            return None
        try:
            if not target.frame.chained:
                return saved_regs_row(target, target.regs, memory.word(sp))
            before = memory.word(sp + target.frame.saved_fp)
        except MemoryFault:
            return None
        row = self._row(pc, interrupted, "", False)[0] if before else None
        if row is None:
            return frame_row(target, sp, memory)
        return row._replace(cfa=Rule(Kind.CONSTANT, 0, before + target.frame.chained))

    def _entry_row(self, pc: int, registers: Registers, memory: BlockReader) -> Row | None:
        """The rules of entry code: a struct pt_regs lies at the stack pointer, or behind arguments."""
        sp = registers.get(self.target.sp)
        if sp is None or not any(low <= pc < high for low, high in self.target.regs_code):
            return None
        own = self._user_regs(sp) if self._user_regs is not None else None
        near = own is not None and 0 <= own - sp <= MAX_ARGUMENTS * self.target.word_bytes
        return entry_row(self.target, own if near and own is not None else sp, memory)

    def _assembly_row(self, pc: int, registers: Registers, memory: BlockReader) -> Row | None:
        """The rules of entry code without a table: see FrameLayout.entry_text."""
        sp, target = registers.get(self.target.sp), self.target
        if sp is None or target.regs is None or not _within(pc, target.entry_text):
            return None
        own = self._user_regs(sp) if self._user_regs is not None else None
        try:
            places = [sp, memory.word(sp)]
        except MemoryFault:
            return None
        for place in places:
            row = entry_row(target, place, memory) if place == own else self._interrupted_row(place, memory)
            if row is not None:
                return kept_row(target, row) if _within(pc, target.partial) else row
        return None

    def _interrupted_row(self, place: int, memory: BlockReader) -> Row | None:
        """The rules where a struct pt_regs is at ``place``, if what is there can be one."""
        target, regs = self.target, self.target.regs
        if regs is None or place % target.word_bytes:
            return None
        try:
            words = {
                n: memory.word(place + at) & (1 << 8 * size) - 1 for n, (at, size) in regs.fields.items()
            }
        except MemoryFault:
            return None
        known = target.saved_registers(words, place + regs.size)
        return saved_regs_row(target, regs, place) if known else None

    def _fallback(
        self, pc: int, registers: Registers, interrupted: bool, memory: BlockReader, note: str
    ) -> tuple[Row | None, str]:
        """Where no table says anything: a call into nowhere, a call that proves itself, frame pointers."""
        in_code, sp = pc in self.code, registers.get(self.target.sp)
        if not in_code and not interrupted:
            return None, f"{pc:#x} is not in kernel code"
        if not in_code and self._returns_to_code(registers, memory):
            return null_call_row(self.target), ""
        entry = None if interrupted else self._assembly_row(pc, registers, memory)
        if entry is not None:
            return entry, ""
        called = self._call_row(pc if interrupted else pc - 1, registers, memory) if in_code else None
        called = called or (self._prologue_row(pc, registers, interrupted, memory) if in_code else None)
        if called is not None:
            return called, ""
        frame_pointer = registers.get(self.target.fp)
        row = None if frame_pointer is None else self._frame_row(frame_pointer, interrupted, memory)
        if row is None or frame_pointer is None:
            return None, note or f"nothing tells how to unwind {pc:#x}"
        if sp is not None and frame_pointer < sp and self._same_stack(frame_pointer, sp):
            return None, note or f"the frame pointer {frame_pointer:#x} is below the stack pointer"
        return row, ""

    def _frame_row(self, frame_pointer: int, interrupted: bool, memory: BlockReader) -> Row | None:
        leaf = leaf_row(self.target, frame_pointer, memory) if interrupted else None
        return leaf or frame_row(self.target, frame_pointer, memory)

    def _call_row(self, address: int, registers: Registers, memory: BlockReader) -> Row | None:
        """The rules of the first return address on the stack whose call leads to this function.

        The table of its caller must lead on to code, or to the end of the stack.
        """
        sp = registers.get(self.target.sp)
        start = self._function_start(address) if self._function_start is not None else None
        if self.target.call_code is None or sp is None or start is None or start == address:
            return None
        for cfa in self._calls_of(start, sp, memory):
            row = call_row(self.target, self._code_between(start, address), cfa, registers)
            step = self._apply(row, registers, memory)
            if step.caller is not None and self._goes_on(step.caller, memory):
                return row
        return None

    def _prologue_row(
        self, pc: int, registers: Registers, interrupted: bool, memory: BlockReader
    ) -> Row | None:
        """Where frames are chained that says more, but of an interrupted function.

        Entry code has been called by nothing: what the program left in the link register is no code.
        """
        if self.target.prologue is None or not (interrupted or not self.target.frame.chained):
            return None
        key = pc, interrupted
        if key not in self._prologues:
            if len(self._prologues) >= MAX_MEMO:
                self._prologues.clear()
            self._prologues[key] = self._read_prologue(pc, interrupted)
        row = self._prologues[key]
        if row is None or not interrupted or dict(row.rules)[row.return_column].kind == Kind.SAVED:
            return row
        return row if self._returns_to_code(registers, memory) else None

    def _read_prologue(self, pc: int, interrupted: bool) -> Row | None:
        start = self._function_start(pc if interrupted else pc - 1) if self._function_start else None
        if start is None or pc - start > MAX_FUNCTION:
            return None
        try:
            code = self.memory.read(start, pc - start)
        except MemoryFault:
            return None
        return prologue_row(self.target, code, interrupted)

    def _calls_of(self, function: int, sp: int, memory: BlockReader) -> Iterator[int]:
        """The CFAs that a frame of ``function`` may have: above a return address behind a call of it."""
        assert self.target.call_code is not None
        width = self.target.word_bytes
        for slot in range(sp, sp + MAX_CALL_WORDS * width, width):
            try:
                value = memory.word(slot)
                found = value in self.code and self.target.call_code.target(self.memory, value) == function
            except MemoryFault:
                return
            if not self._same_stack(slot, sp):
                return
            if found:
                yield slot + width

    def _code_between(self, start: int, end: int) -> bytes:
        try:
            return self.memory.read(start, min(end - start, MAX_PROLOGUE))
        except MemoryFault:
            return b""

    def _goes_on(self, registers: Registers, memory: BlockReader) -> bool:
        row, _note = self._row(registers[self.target.pc], False, "call", False)
        if row is None or row.cfa is None:
            return row is not None
        try:
            step = self._apply(row, registers, memory)
        except BadFormat:
            return False
        return step.caller is not None and step.caller[self.target.pc] in self.code

    def _returns_to_code(self, registers: Registers, memory: BlockReader) -> bool:
        if not self.target.null_call:
            link = registers.get(self.target.return_column)
            return link is not None and link in self.code
        sp = registers.get(self.target.sp)
        try:
            return sp is not None and memory.word(sp) in self.code
        except MemoryFault:
            return False

    # -- the step itself

    def _apply(self, row: Row, registers: Registers, memory: BlockReader) -> _Step:
        target = self.target
        if row.cfa is None:
            return _Step(None)
        try:
            cfa = find_cfa(row.cfa, registers, memory, target)
        except (Unknown, MemoryFault) as error:
            what = str(error) if isinstance(error, MemoryFault) else "it needs a register that is not known"
            return _Step(None, note=f"no frame address: {what}")
        found = recover(row, cfa, registers, memory, target)
        return_address = found.values.get(row.return_column)
        if return_address is None:
            return _Step(cfa, note=self._no_caller(row, found))
        if target.canonical is not None:
            return_address = found.values[row.return_column] = target.canonical(return_address)
        if not return_address:
            return _Step(cfa)  # of what nothing has called: __mmap_switched of arm; x86's pushed 0
        caller = self._caller(row, found, return_address)
        if self._goes_back(row, registers, caller):
            return _Step(cfa, note="the caller's stack pointer is not above this frame's")
        return _Step(cfa, caller, row)

    def _no_caller(self, row: Row, found: Recovered) -> str:
        """A return address without a rule is how CFI marks the outermost frame."""
        if all(number != row.return_column for number, _rule in row.rules):
            return ""
        return f"no return address: {found.fault or 'it is not known'}"

    def _caller(self, row: Row, found: Recovered, return_address: int) -> Registers:
        target = self.target
        if self._fix_return is not None:
            return_address = self._fix_return(return_address, _slot(row, found.cfa))
        found.values[target.pc] = return_address
        return Registers.adopt(found.values)

    def _goes_back(self, row: Row, registers: Registers, caller: Registers) -> bool:
        """True if the stack would shrink: unwind_next_frame() calls it bad data too."""
        old, new = registers.get(self.target.sp), caller.get(self.target.sp)
        if old is None or new is None or new > old or not self._same_stack(old, new):
            return False
        if row.regs_offset is not None and self._stack_of is None:
            return False  # an exception stack may stand next to the one that was interrupted
        # Only where a call pushes nothing can a leaf function leave the stack as it is.
        return new < old or bool(self.target.null_call)

    def _same_stack(self, one: int, other: int) -> bool:
        if self._stack_of is None:
            return one >> 14 == other >> 14
        stack = self._stack_of(one)
        return stack is not None and stack == self._stack_of(other)


def _within(pc: int, ranges: Ranges) -> bool:
    return any(low <= pc < high for low, high in ranges)


def _slot(row: Row, cfa: int) -> int:
    """Where the return address was read, 0 if it was not in memory."""
    for number, rule in row.rules:
        if number == row.return_column and rule.kind == Kind.SAVED:
            return cfa + rule.offset
    return 0
