"""Plain memory at addresses that the user gives: ``file@address[,file@address...]``.

What QEMU's pmemsave, hardware debuggers and boot loaders leave. crash takes the
same words (its "ramdump" argument).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kcrash.dump.base import Dump, DumpInfo
from kcrash.dump.pieces import TOP, PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat


class Place(NamedTuple):
    """A file, and the physical address of its first byte."""

    path: str
    address: int


def parse_places(word: str) -> list[Place] | None:
    """The places that an argument names; None if it names a file instead. Raises BadFormat for an
    address that is none."""
    if "@" not in word or os.path.exists(word):  # noqa: PTH110
        return None
    return [_place(part) for part in word.split(",")]


def _place(text: str) -> Place:
    path, at, number = text.rpartition("@")
    try:
        address = int(number, 16)
    except ValueError:
        address = -1
    if not at or not path or not 0 <= address < TOP:
        raise BadFormat(text, "is no file, and no memory at an address either (file@hexadecimal address)")
    return Place(path, address)


def open_raw(places: Sequence[Place], open_file: Callable[[str], Source]) -> Dump:
    """The memory in these files; where they overlap the first counts. Raises BadFormat."""
    sources: list[Source] = []
    stretches = Stretches()
    try:
        for number, place in enumerate(places):
            source = open_file(place.path)
            sources.append(source)
            stretches.add(place.address, source.size, 0, source=number)
    except BaseException:
        for source in sources:
            source.close()
        raise
    info = DumpInfo("raw memory", "little", 64, details={"segments": len(stretches)})
    return PieceDump(info, sources, stretches)
