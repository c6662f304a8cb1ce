"""``vtop``: a virtual address to its physical one, page table by page table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kcrash.arch.base import EntryKind
from kcrash.commands._addresses import is_user, parse_address
from kcrash.commands._entry import pte_lines, swap_lines, swap_place
from kcrash.commands.base import (
    Arguments,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Record,
    Rest,
    command,
)
from kcrash.errors import KcrashError, MemoryFault
from kcrash.linux.page import page_flag_names, read_page
from kcrash.linux.tasks import Task
from kcrash.memory.space import PagedSpace, Step
from kcrash.output import Address, Fault
from kcrash.session import Session

if TYPE_CHECKING:
    from kcrash.linux.mm import Vma

_SIZES = {20: "1MB", 22: "4MB", 24: "16MB", 21: "2MB", 30: "1GB", 25: "32MB", 29: "512MB", 39: "512GB"}


@command(
    "vtop",
    summary="virtual to physical",
    each="task",
    arguments=[
        Option("-c", "pid | task", "user addresses are this task's", completes="task"),
        Exclusive(Flag("-u", "the addresses are of user space"), Flag("-k", "they are the kernel's")),
        Rest("addresses", "hexadecimal, symbols, or expressions in parentheses", "address", minimum=1,
             completes="symbol"),
    ],
    description="Translates addresses and shows the page table entries on the way, what they say, and "
    "the page that they lead to.",
    examples=[
        ("A kernel address:", "vtop ffffffff81e10000"),
        ("A user address of PID 1:", "vtop -c 1 400000"),
    ],
)  # fmt: skip
def vtop(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    for number, word in enumerate(args.addresses):
        address = parse_address(context.session, word)
        try:
            task, space = _space(context, args, address)
            yield _record(context.session, task, space, address, first=number == 0)
        except KcrashError as error:
            yield Fault.of(error, address=Address(address))


def _space(context: Context, args: Arguments, address: int) -> tuple[Task | None, PagedSpace]:
    session = context.session
    if not args.u and (args.k or not is_user(session, address)):
        return None, session.memory
    from kcrash.commands._tasks import context_task, find_task, user_memory

    task = find_task(session, args.c) if args.c else context_task(context)
    return task, user_memory(session, task)


def _record(session: Session, task: Task | None, space: PagedSpace, address: int, *, first: bool) -> Item:
    """One address: the whole block that is shown about it, and its data."""
    try:
        steps, fault = list(space.walk(address)), None
    except MemoryFault as error:
        steps, fault = [], error
    try:
        physical: int | None = space.translate(address)
    except MemoryFault as error:
        physical, fault = None, fault or error
    data: dict[str, Any] = {
        "virtual": Address(address),
        "physical": None if physical is None else Address(physical),
        "walk": [_step_data(space, step) for step in steps],
    }
    lines = [*_header(session, address, physical, task), *_walk_lines(session, space, steps, task)]
    if steps and steps[-1].entry.kind is EntryKind.LEAF:
        lines += _leaf_lines(session, space, steps[-1], data)
    swap = _swap(session, space, steps[-1]) if steps else None
    if swap:
        data["swap"] = {"file": swap[0], "offset": swap[1]}
        lines += [*swap_lines(steps[-1].value, *swap), ""]
    vma = _find_vma(session, task, address)
    lines += _vma_lines(session, vma)
    if swap:
        lines.append(f"SWAP: {swap[0]}  OFFSET: {swap[1]}")
    elif physical is None and vma is not None and vma.file:
        lines.append(_file_line(session, vma, address, data))
    if physical is not None:
        lines += _page_lines(session, physical, data)
    elif fault is not None:
        data["reason"] = fault.reason.value
    return Record("translation", data, lines if first else ["", *lines])


def _header(session: Session, address: int, physical: int | None, task: Task | None) -> list[str]:
    digits = session.arch.word_bits // 4
    width = max(min(11, digits) if task else digits, len(f"{address:x}"))
    shown = f"{physical:x}" if physical is not None else "(not mapped)"
    return [f"{'VIRTUAL':<{width}}  {'PHYSICAL':<{digits}}", f"{address:<{width}x}  {shown:<{digits}}", ""]


def _step_data(space: PagedSpace, step: Step) -> dict[str, Any]:
    return {
        "level": space.paging.levels[step.level].name,
        "entry": Address(step.entry_address),
        "value": Address(step.value),
    }


def _walk_lines(session: Session, space: PagedSpace, steps: list[Step], task: Task | None) -> Iterator[str]:
    if session.arch.virtual_tables:
        yield from _virtual_walk(session, space, steps)
        return
    for step in steps:
        name = space.paging.levels[step.level].name
        if step.level == 0 and task is None:
            names = ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir")
            directory = next(filter(None, map(session.symbols.find_kernel, names)), None)
            yield f"PGD DIRECTORY: {directory or space.top or 0:x}"
            yield f"PAGE DIRECTORY: {step.value:x}"
        else:
            yield f"{name:>6}: {step.entry_address:x} => {step.value:x}"


def _virtual_walk(session: Session, space: PagedSpace, steps: list[Step]) -> Iterator[str]:
    """The walk with the tables at the kernel's addresses of them."""
    if steps:
        yield f"PAGE DIRECTORY: {_kernel_address(session, space.top or 0):x}"
    for step in steps:
        name = space.paging.levels[step.level].name
        yield f"{name:>6}: {_kernel_address(session, step.entry_address):x} => {step.value:x}"


def _kernel_address(session: Session, physical: int) -> int:
    """Where the kernel has a physical address: in its image, else in its map of all RAM."""
    for piece in session.layout.linear:
        if piece.physical <= physical < piece.physical + piece.end - piece.start:
            return piece.start + physical - piece.physical
    return physical


def _leaf_lines(session: Session, space: PagedSpace, step: Step, data: dict[str, Any]) -> list[str]:
    level = space.paging.levels[step.level]
    flags = space.paging.flag_names(step.value)
    data["flags"] = flags
    size = _SIZES.get(step.entry.shift or level.shift) if step.level != len(space.paging.levels) - 1 else None
    page = f"{step.entry.address:x}"
    return [
        f"  PAGE: {page}" + (f"  ({size})" if size else _zero_page(session, step.entry.address)),
        "",
        *pte_lines(step.value, step.entry.address, flags),
        "",
    ]


def _zero_page(session: Session, physical: int) -> str:
    """The mark of the page of zeros that all untouched memory shares (arch/x86/kernel/head_64.S)."""
    symbol = session.symbols.find_kernel("empty_zero_page")
    try:
        return "  (ZERO PAGE)" if symbol and session.memory.translate(symbol) == physical else ""
    except MemoryFault:
        return ""


def _swap(session: Session, space: PagedSpace, step: Step) -> tuple[str, int] | None:
    return swap_place(session, space.paging, step.value) if step.entry.kind is EntryKind.OTHER else None


def _find_vma(session: Session, task: Task | None, address: int) -> Vma | None:
    """The user mapping that the address lies in."""
    if task is None:
        return None
    from kcrash.linux.mm import Vma, for_each_vma

    mappings = (found for found in for_each_vma(session, task.mm) if isinstance(found, Vma))
    return next((found for found in mappings if found.start <= address < found.end), None)


def _vma_file(session: Session, vma: Vma) -> str:
    from kcrash.linux.mm import vma_path

    return (vma_path(session, vma) or b"").decode("utf-8", "replace")


def _vma_lines(session: Session, vma: Vma | None) -> list[str]:
    if vma is None:
        return []
    name = _vma_file(session, vma)
    row = f"{vma.address:x} {vma.start:>10x} {vma.end:>10x} {vma.flags:x} {name}".rstrip()
    return ["      VMA           START       END     FLAGS FILE", row, ""]


def _file_line(session: Session, vma: Vma, address: int, data: dict[str, Any]) -> str:
    """Where the page that is not mapped lies in its file: from its first byte, in bytes."""
    shift = session.arch.page_shift
    offset = vma.pgoff + ((address - vma.start) >> shift) << shift
    data["file"] = {"name": _vma_file(session, vma), "offset": offset}
    return f"FILE: {data['file']['name']}  OFFSET: {offset:x}"


def _page_lines(session: Session, physical: int, data: dict[str, Any]) -> list[str]:
    """The line of the page frame, as ``kmem -p`` has it; nothing where its struct page is not to be had."""
    try:
        page = read_page(session, physical >> session.arch.page_shift)
    except KcrashError:
        return []
    names = page_flag_names(session, page.flags)
    where = page.pfn << session.arch.page_shift
    data["page"] = {"address": Address(page.address), "mapping": Address(page.mapping), "index": page.index,
                    "count": page.count, "flags": names}  # fmt: skip
    digits = session.arch.word_bits // 4
    fields = f"{where:>8x}", f"{page.mapping:>{digits}x}", f"{page.index:>8x}"
    last = f" {page.count:>2} {page.flags:x} {','.join(names)}".rstrip()
    if session.arch.word_bits == 32:
        header = "  PAGE    PHYSICAL   MAPPING    INDEX CNT FLAGS"
        return [header, "  ".join((f"{page.address:x}", *fields)) + last]
    header = "      PAGE       PHYSICAL      MAPPING       INDEX CNT FLAGS"
    return [header, " ".join((f"{page.address:x}", *fields)) + last]
