"""``btop`` and ``ptob``: byte addresses to page frame numbers and back."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands.base import Address, Arguments, Context, Item, Record, Rest, command, hexadecimal, number


@command(
    "btop",
    summary="bytes to page",
    arguments=[Rest("address", "hexadecimal physical address", parse=hexadecimal, minimum=1)],
    description="Translates each byte address to its page frame number.",
    examples=[("Find the page of address 512a000:", "btop 512a000", "512a000: 512a")],
)
def btop(context: Context, args: Arguments) -> Iterator[Item]:
    shift = _page_shift(context)
    for address in args.address:
        pfn = address >> shift
        yield Record("page", {"address": Address(address), "pfn": pfn}, f"{address:x}: {pfn:x}")


@command(
    "ptob",
    summary="page to bytes",
    arguments=[
        Rest(
            "pfn",
            "page frame number: decimal, or hexadecimal if it cannot be that",
            "page_number",
            parse=number,
            minimum=1,
        )
    ],
    description="Translates each page frame number to its byte address.",
    examples=[("Find the address of page 512a:", "ptob 512a", "512a: 512a000")],
)
def ptob(context: Context, args: Arguments) -> Iterator[Item]:
    shift = _page_shift(context)
    for pfn in args.pfn:
        address = pfn << shift
        yield Record("page", {"address": Address(address), "pfn": pfn}, f"{pfn:x}: {address:x}")


def _page_shift(context: Context) -> int:
    return context.session.layout.paging.levels[-1].shift
