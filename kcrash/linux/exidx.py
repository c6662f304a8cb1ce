"""Where an ARM kernel keeps its unwind tables, and those of its modules (arch/arm/kernel/unwind.c)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError
from kcrash.linux.lists import list_for_each_entry
from kcrash.unwind.exidx import ENTRY_SIZE, ExidxTable

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.unwind.target import Target

MAX_ENTRIES = 1 << 22
TABLE = "struct unwind_table"


def kernel_exidx(session: Session, target: Target) -> ExidxTable | None:
    """The kernel's own table, None where it has none."""
    piece = session.image.section(".ARM.unwind_idx")
    if piece is None:
        return None
    return ExidxTable(piece.data, target, session.memory, address=piece.address, file=piece.file)


def module_exidx(session: Session, start: int, end: int, target: Target) -> ExidxTable | None:
    """The table of the code in ``[start, end)``, from the list that the kernel looks through."""
    head = session.symbols.find_kernel("unwind_tables")
    if head is None or not session.types.has(TABLE):
        return None
    with suppress(KcrashError):
        for address in list_for_each_entry(session, head, TABLE, "list"):
            table = session.value(TABLE, address)
            if start <= int(table.begin_addr) < end:
                return _module_table(session, int(table.start), int(table.stop), target)
    return None


def _module_table(session: Session, start: int, stop: int, target: Target) -> ExidxTable | None:
    if not 0 < stop - start <= MAX_ENTRIES * ENTRY_SIZE:
        return None
    data = session.memory.read(start, stop - start)
    return ExidxTable(data, target, session.memory, address=start, file="a module's unwind table")
