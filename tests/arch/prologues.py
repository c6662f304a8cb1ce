"""What code is found to do to the stack, beside what the compiler says of it in .debug_frame."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.linux.stack import unwind_target, unwinder
from kcrash.session import Session
from kcrash.unwind.cfi import CfiTable
from kcrash.unwind.rules import Kind
from tests.arch.conftest import Lab

EVERY = 97  # of so many functions one is looked at
MAX_CODE = 4096


def prologues_beside_tables(machine: Lab, stack_bias: int = 0) -> None:
    """The frame's size is the table's nearly everywhere, and so is the place of the return address.

    Tables say that a register is saved some instructions later than it is, and that it is not while its value
    in memory still is right; where code jumps to and fro neither can be told from the order of instructions.
    ``stack_bias``: from the stack pointer that a function is called with to the CFA.
    """
    session = machine.session
    target, sizes, right, places, known = unwind_target(session), 0, 0, 0, 0
    for start, code, table in _functions(session):
        at = 0
        while at < len(code):
            row = table.row(start + at)
            if row is not None and row.cfa is not None and row.cfa[:2] == (Kind.REGISTER, target.sp):
                found = session.arch.prologue(code[:at]) if session.arch.prologue else None
                assert found is not None
                sizes, right = sizes + 1, right + (found.taken == row.cfa.offset - stack_bias)
                rule = dict(row.rules).get(target.return_column)
                if rule is not None and rule.kind == Kind.SAVED:
                    places += 1
                    known += found.saved.get(target.return_column) == rule.offset + stack_bias
            at += session.arch.instruction_bytes(code[at:])
    assert sizes > 10_000 and right > 0.95 * sizes, (right, sizes)
    assert places > 5_000 and known > 0.97 * places, (known, places)


def _functions(session: Session) -> Iterator[tuple[int, bytes, CfiTable]]:
    text = session.symbols.find_kernel("_stext")
    assert text is not None
    tables = unwinder(session).code.find(text)
    assert tables is not None and isinstance(tables.cfi, CfiTable)
    end = session.symbols.find_kernel("_etext") or 0
    for linked in tables.cfi.index[0][::EVERY]:
        start = linked + tables.cfi.bias
        fde = tables.cfi.find(start)
        if fde is not None and text <= start < end:
            yield start, session.memory.read(start, min(fde.size, MAX_CODE)), tables.cfi
