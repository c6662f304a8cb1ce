"""``pte``: what the contents of a page table's entry say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.arch.base import EntryKind
from kcrash.commands._entry import pte_lines, swap_lines, swap_place
from kcrash.commands.base import Arguments, Context, Fault, Item, Record, Rest, command
from kcrash.output import Address

if TYPE_CHECKING:
    from kcrash.session import Session


@command(
    "pte",
    summary="translate a page table entry",
    arguments=[Rest("contents", "hexadecimal values of entries of the lowest level", "contents", minimum=1)],
    description="""
Shows the physical address of the page that an entry maps, and what its other
bits say; of an entry that refers to swap, the swap file and the offset in
pages.""",
    examples=[("An entry as vtop shows it:", "pte 8000000012345867")],
)
def pte(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    for word in args.contents:
        try:
            value = int(word, 16) & context.session.word_mask
        except ValueError:
            yield Fault(f'invalid input: "{word}"', {"contents": word})
            continue
        yield _record(context.session, value)


def _record(session: Session, value: int) -> Record:
    paging = session.layout.paging
    entry = paging.decode(value, len(paging.levels) - 1)
    data: dict[str, object] = {"contents": Address(value), "kind": entry.kind.value}
    if entry.kind is EntryKind.OTHER:
        place = swap_place(session, paging, value)
        if place:
            data["swap"] = {"file": place[0], "offset": place[1]}
            return Record("entry", data, swap_lines(value, *place))
    data["physical"], data["flags"] = Address(entry.address), paging.flag_names(value) if value else []
    return Record("entry", data, pte_lines(value, entry.address, paging.flag_names(value) if value else []))
