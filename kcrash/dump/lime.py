"""LiME's files: ranges of physical memory, each behind a header of its own.

LiME doc/README ("lime" format): {u32 magic, u32 version 1, u64 first and u64 last address, 8 reserved
bytes}, in the byte order of the machine. AVML's version 1 writes the same.
"""

from __future__ import annotations

from struct import Struct

from kcrash.dump.base import Dump, DumpInfo, register_format
from kcrash.dump.pieces import PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAGICS = {b"EMiL": "<", b"LiME": ">"}
VERSION = 1
HEADER_SIZE = 32


@register_format("lime", sniff=lambda head: head[:4] in MAGICS, order=50)
def probe(source: Source) -> Dump | None:
    """A LiME file becomes a PieceDump."""
    order = MAGICS[source.peek(4)]
    stretches, complete = read_ranges(source, order)
    info = DumpInfo(
        format="LiME",
        byte_order="little" if order == "<" else "big",
        word_bits=64,
        incomplete=not complete or source.incomplete,
        details={"segments": len(stretches)},
    )
    return PieceDump(info, [source], stretches)


def read_ranges(source: Source, order: str) -> tuple[Stretches, bool]:
    """All ranges, and whether the file ends where the last one does. Raises BadFormat."""
    form, stretches, at = Struct(order + "4sIQQ8x"), Stretches(), 0
    while len(head := source.read_at(at, HEADER_SIZE)) == HEADER_SIZE:
        magic, version, first, last = form.unpack(head)
        if MAGICS.get(magic) != order:
            raise BadFormat(source.path, f"no LiME header but {magic.hex(' ')}", at)
        if version != VERSION or last < first:
            raise BadFormat(source.path, f"LiME version {version}, range {first:#x} to {last:#x}", at)
        stretches.add(first, last - first + 1, at + HEADER_SIZE)
        stretches.check(source, at)
        at += HEADER_SIZE + last - first + 1
    if not len(stretches):
        raise BadFormat(source.path, "ends within its LiME header", source.size)
    return stretches, at == source.size
