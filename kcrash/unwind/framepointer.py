"""Rules for where no table says anything: frame pointers, and what the code itself tells.

Sources: arch/x86/kernel/unwind_frame.c and arch/x86/include/asm/frame.h of the
kernel (ENCODE_FRAME_POINTER); the records' form is data (FrameLayout).
"""

from __future__ import annotations

from kcrash.arch.base import FrameLayout
from kcrash.errors import MemoryFault
from kcrash.unwind.memory import BlockReader
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from kcrash.unwind.target import RegsLayout, Target

#: The outermost frame has no caller.
END = Row(None, (), 0, False, "fp")

MAX_FRAME_BYTES = 16_384  # a stack's worth: how far up a frame pointer may point


FINAL, PT_REGS = 1, 2  # FRAME_META_TYPE_*, arch/arm64/include/asm/stacktrace/frame.h


def frame_row(target: Target, frame_pointer: int, memory: BlockReader) -> Row | None:
    """The rules of a frame whose frame pointer has this value; None if it cannot be one."""
    layout = target.frame
    if layout.regs_tag and frame_pointer & layout.regs_tag:
        return None if target.regs is None else saved_regs_row(target, target.regs, frame_pointer, memory)
    if layout.regs_hidden and frame_pointer and not frame_pointer & layout.regs_hidden:
        return entry_row(target, frame_pointer | layout.regs_hidden, memory)
    if layout.chained:
        return _chain_row(target, layout, frame_pointer, memory)
    if frame_pointer == 0 and layout.cfa is None:
        return END  # AAPCS64, 6.4.6 "The Frame Pointer": zero ends the chain
    if frame_pointer == 0 or frame_pointer % target.word_bytes:
        return None
    if target.regs is not None and target.regs.record is not None:
        found = _record_in_regs(target, target.regs, frame_pointer, memory)
        if found is not None:
            return found
    return _record_row(target, layout)


def _record_in_regs(target: Target, regs: RegsLayout, frame_pointer: int, memory: BlockReader) -> Row | None:
    """The rules where the record is part of a struct pt_regs; None where it is not.

    An exception's record held what was interrupted, until Linux commit c2c6b27b5aa1 ("arm64:
    stacktrace: unwind exception boundaries") in v6.13 emptied it and gave it a type. The last one of a
    stack is empty since Linux commit 7d7b720a4b80 ("arm64: Implement stack trace termination record") in
    v5.14; that of a task which has never been in user space is part of registers of zeros.
    """
    assert regs.record is not None
    address = frame_pointer - regs.record
    try:
        saved_fp, link = (memory.word(frame_pointer + at) for at in (0, target.word_bytes))
        kind = None if regs.record_type is None else memory.word(address + regs.record_type)
        saved = {n: memory.word(address + regs.fields[n][0]) for n in (target.pc, target.fp)}
        mode = {n: memory.word(address + at) for n, (at, _size) in regs.fields.items()}
    except MemoryFault:
        return None
    if saved_fp or link:
        same = kind is None and saved == {target.pc: link, target.fp: saved_fp}
        return saved_regs_row(target, regs, address) if same else None
    if kind in (None, FINAL) and not (any(mode.values()) and target.user_mode(mode)):
        return END
    return saved_regs_row(target, regs, address) if kind in (None, FINAL, PT_REGS) else None


def _chain_row(target: Target, layout: FrameLayout, sp: int, memory: BlockReader) -> Row | None:
    """The rules of a frame that is left by its back chain (arch/s390/kernel/unwind_bc.c)."""
    try:
        marked = _marked_regs(target, layout, sp, memory) if layout.marked else None
        if marked is not None:
            return entry_row(target, marked, memory)
        if memory.word(sp + layout.saved_fp):
            rules = {
                target.sp: Rule(Kind.CFA),
                target.return_column: Rule(Kind.SAVED, offset=layout.return_address),
            }
            cfa = Rule(Kind.AT_REGISTER, target.sp, layout.saved_fp)
            return Row(cfa, tuple(rules.items()), target.return_column, False, "fp")
    except MemoryFault:
        return None
    return END if layout.marked else entry_row(target, sp + layout.chained, memory)


def _marked_regs(target: Target, layout: FrameLayout, sp: int, memory: BlockReader) -> int | None:
    """The struct pt_regs in a frame that is marked as entry code's, None if it is not.

    Words of an older frame may be left on the stack: the chain must go on to where the registers say
    (show_stack(), arch/powerpc/kernel/process.c, trusts the mark alone).
    """
    if target.regs is None:
        return None
    own, caller = target.regs.fields[target.sp][0], memory.word(sp + layout.saved_fp)
    places = (sp + place for at, place in layout.marked if memory.word(sp + at) in layout.marks)
    return next((place for place in places if memory.word(place + own) == caller), None)


def entry_row(target: Target, address: int, memory: BlockReader) -> Row | None:
    """The rules of entry code whose struct pt_regs is at this address; None if it cannot be read.

    That of a task which has never been in user space holds no pc: nothing was interrupted.
    """
    if target.regs is None:
        return END
    try:
        interrupted = memory.word(address + target.regs.fields[target.pc][0])
    except MemoryFault:
        return None
    if interrupted:
        return saved_regs_row(target, target.regs, address, memory)
    return Row(Rule(Kind.CONSTANT, 0, address), (), target.return_column, False, "fp")


def prologue_row(target: Target, code: bytes, interrupted: bool) -> Row:
    """The rules of a function of which ``code`` has run. Registers that it has not saved it has not changed.

    One that has called without saving the return address never returns: there is no caller.
    """
    assert target.prologue is not None
    taken, saved, frame_pointer = target.prologue(code)
    if not interrupted and target.return_column not in saved:
        return END
    kept = {number: same_value(number) for number in (*target.callee_saved, target.return_column)}
    rules = {**kept, target.sp: Rule(Kind.CFA)}
    rules |= {number: Rule(Kind.SAVED, offset=at) for number, at in saved.items() if number in kept}
    cfa = Rule(Kind.REGISTER, target.sp, taken)
    if frame_pointer is not None:
        cfa = Rule(Kind.REGISTER, target.fp, -frame_pointer)
    return Row(cfa, tuple(rules.items()), target.return_column, False, "prologue")


def leaf_row(target: Target, frame_pointer: int, memory: BlockReader) -> Row | None:
    """The rules of an interrupted function that has saved the frame pointer only (FrameLayout.leaf_fp).

    None where the word there is no frame pointer further up.
    """
    layout, at = target.frame, target.frame.leaf_fp
    if at is None or layout.cfa is None or frame_pointer % target.word_bytes:
        return None
    try:
        saved = memory.word(frame_pointer + at)
    except MemoryFault:
        return None
    if not frame_pointer < saved < frame_pointer + MAX_FRAME_BYTES:
        return None
    rules = {
        target.fp: Rule(Kind.SAVED, offset=at - layout.cfa),
        target.return_column: same_value(target.return_column),
        target.sp: Rule(Kind.CFA),
    }
    cfa = Rule(Kind.REGISTER, target.fp, layout.cfa)
    return Row(cfa, tuple(rules.items()), target.return_column, False, "fp")


def _record_row(target: Target, layout: FrameLayout) -> Row:
    end = layout.cfa if layout.cfa is not None else layout.return_address + target.word_bytes
    rules = {
        target.fp: Rule(Kind.SAVED, offset=layout.saved_fp - end),
        target.return_column: Rule(Kind.SAVED, offset=layout.return_address - end),
    }
    if layout.cfa is not None:
        rules[target.sp] = Rule(Kind.CFA)
    cfa = Rule(Kind.REGISTER, target.fp, end)
    return Row(cfa, tuple(rules.items()), target.return_column, False, "fp")


def saved_regs_row(
    target: Target, regs: RegsLayout, frame_pointer: int, memory: BlockReader | None = None
) -> Row:
    """The rules of a frame whose frame pointer marks a struct pt_regs: everything is saved there.

    But for the stack pointer where FrameLayout.kernel_ss says so, if there is ``memory`` to look at.
    """
    address = frame_pointer & ~target.frame.regs_tag
    rules = {number: Rule(Kind.SAVED, 0, at, b"", size) for number, (at, size) in regs.fields.items()}
    if memory is not None and _ends_early(target, regs, address, memory):
        rules[target.sp] = Rule(Kind.CONSTANT, 0, address + regs.fields[target.sp][0])
        del rules[target.frame.kernel_ss[0]]
    return Row(Rule(Kind.CONSTANT, 0, address), tuple(rules.items()), target.pc, True, "regs", 0)


def kept_row(target: Target, row: Row) -> Row:
    """The rules where a struct pt_regs has no callee-saved registers: they are as the frame has them."""
    kept = tuple(
        (number, same_value(number) if number in target.callee_saved else rule) for number, rule in row.rules
    )
    return row._replace(rules=kept)


def _ends_early(target: Target, regs: RegsLayout, address: int, memory: BlockReader) -> bool:
    """See FrameLayout.kernel_ss."""
    number, kernel = target.frame.kernel_ss
    if number not in regs.fields:
        return False
    try:
        mode = {n: memory.word(address + at) for n, (at, _size) in regs.fields.items()}
    except MemoryFault:
        return False
    return not target.user_mode(mode) and mode[number] & 0xFFFF != kernel


def null_call_row(target: Target) -> Row:
    """The rules right after a call to an address that holds no code.

    "x86/unwind: Handle NULL pointer calls better in frame unwinder" in Linux v5.1; the null_orc_entry of
    unwind_orc.c.
    """
    unchanged = {
        number: Rule(Kind.REGISTER, number) for number in (*target.callee_saved, target.return_column)
    }
    if target.null_call:
        unchanged[target.return_column] = Rule(Kind.SAVED, offset=-target.null_call)
    rules = {**unchanged, target.sp: Rule(Kind.CFA)}
    cfa = Rule(Kind.REGISTER, target.sp, target.null_call)
    return Row(cfa, tuple(rules.items()), target.return_column, False, "fp")


def call_row(target: Target, prologue: bytes, cfa: int, registers: Registers) -> Row:
    """The rules of a frame whose CFA is known by the call that made it.

    ``prologue``: the function's code, from its start up to where it stands. What
    that pushes lies below the return address. A frame pointer that it does not
    push, and that points further up the stack, is taken for the caller's.
    """
    width = target.word_bytes
    rules = {target.sp: Rule(Kind.CFA), target.return_column: Rule(Kind.SAVED, offset=-width)}
    pushed = target.call_code.pushed(prologue) if target.call_code else []
    sp = registers.get(target.sp) or 0
    for place, number in enumerate(pushed, 2):
        if number in target.callee_saved and cfa - place * width >= sp:
            rules.setdefault(number, Rule(Kind.SAVED, offset=-place * width))
    fp = registers.get(target.fp)
    if target.fp not in rules and fp is not None and cfa <= fp < cfa + MAX_FRAME_BYTES:
        rules[target.fp] = same_value(target.fp)
    return Row(Rule(Kind.CONSTANT, 0, cfa), tuple(rules.items()), target.return_column, False, "call")
