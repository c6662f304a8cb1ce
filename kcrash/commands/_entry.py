"""What an entry of a page table says, as ``vtop`` and ``pte`` show it."""

from __future__ import annotations

from kcrash.arch.base import Paging
from kcrash.errors import KcrashError
from kcrash.linux.paths import file_path
from kcrash.linux.swap import swap
from kcrash.session import Session


def pte_lines(value: int, physical: int, flags: list[str]) -> list[str]:
    """An entry that maps a page: its value, the page, what its bits mean."""
    entry, page = f"{value:x}", f"{physical:x}"
    left, right = max(len(entry), 3), max(len(page), 8)
    shown = "|".join(flags) or "no mapping"
    return [f"{'PTE':^{left}}  {'PHYSICAL':^{right}}  FLAGS", f"{entry:>{left}}  {page:^{right}}  ({shown})"]


def swap_lines(value: int, file: str, offset: int) -> list[str]:
    """An entry whose page is swapped out."""
    entry, place = f"{value:x}", f"{offset}"
    widths = max(len(entry), 3), max(len(file), 4), max(len(place), 6)
    cells = ("PTE", "SWAP", "OFFSET"), (entry, file, place)
    return ["  ".join(f"{cell:^{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]


def swap_place(session: Session, paging: Paging, value: int) -> tuple[str, int] | None:
    """``(swap file, offset in pages)`` of an entry that refers to swap; None for any other one."""
    if paging.swap_entry is None:
        return None
    kind, offset = paging.swap_entry(value)
    areas, word = swap(session), session.arch.word_bytes
    if kind >= areas.limit:
        return None
    try:
        area = session.memory.word(areas.table + kind * word)
        file = session.memory.word(area + session.types.offset("struct swap_info_struct", "swap_file"))
        return file_path(session, file).decode("utf-8", "replace"), offset
    except KcrashError:
        return f"swap area {kind}", offset
