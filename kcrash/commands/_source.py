"""Source lines and inlined functions as commands show them.

crash shows the line that gdb has for an address: those lines stay as they are. What the compiler inlined
there follows on lines of its own, each marked with words in parentheses, the innermost function first::

    (inlined) arch_atomic_read at arch/x86/include/asm/atomic.h: 29
    (inlined) atomic_read at include/linux/atomic/atomic-instrumented.h: 28
    (inlined in) proc_reg_write at fs/proc/inode.c: 352
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kcrash.errors import KcrashError
from kcrash.session import Session, SourceLine


class Function(Protocol):
    """A function at an address, and the place in it: of a call, but for the innermost."""

    @property
    def function(self) -> str:
        """Its name."""

    @property
    def file(self) -> str:
        """As the debuginfo names it, "" if unknown."""

    @property
    def line(self) -> int:
        """0 if unknown."""

    @property
    def inlined(self) -> bool:
        """False for the one that is no part of another."""


def functions_at(session: Session, address: int) -> Sequence[Function]:
    """The functions at a kernel address, the innermost first; none where nothing tells."""
    known = session.dwarf_at(address)
    try:
        return known[0].inline_frames(address - known[1]) if known else ()
    except KcrashError:
        return ()


def place(function: Function) -> str:
    """``name at file: line``."""
    return f"{function.function} at {function.file}: {function.line}" if function.line else function.function


def inlined_lines(functions: Sequence[Function]) -> list[str]:
    """The lines that tell of inlined functions; none if there are none."""
    if not any(function.inlined for function in functions):
        return []
    return [f"    ({'inlined' if f.inlined else 'inlined in'}) {place(f)}" for f in functions]


def inlined_below(functions: Sequence[Function]) -> list[str]:
    """As inlined_lines(), below a line that tells the place in the innermost function."""
    lines = inlined_lines(functions)
    return [f"    (inlined) {functions[0].function}", *lines[1:]] if lines else []


def call_lines(functions: Sequence[Function], shown: SourceLine | None) -> list[str]:
    """As inlined_lines(); without any, the line of the call where crash's is another."""
    lines = inlined_lines(functions)
    if lines or not functions or not functions[0].line:
        return lines
    same = shown is not None and (shown.file, shown.line) == (functions[0].file, functions[0].line)
    return [] if same else [f"    (in) {place(functions[0])}"]


def functions_data(functions: Sequence[Function]) -> list[dict[str, object]]:
    """The same as JSON, the function that is no part of another included."""
    return [{"function": f.function, "file": f.file, "line": f.line, "inlined": f.inlined} for f in functions]
