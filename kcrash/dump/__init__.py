"""Dump files become physical memory and notes.

Importing this package registers every format that it holds: one module each.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING

from kcrash.dump.base import HEAD, Dump, formats
from kcrash.dump.contents import describe, identify, is_vmlinux
from kcrash.dump.raw import open_raw, parse_places
from kcrash.dump.source import Source, open_source
from kcrash.errors import BadFormat
from kcrash.files.unpack import compression

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kcrash.files.unpack import Progress

__all__ = ["identify", "is_dump", "is_vmlinux", "open_dump"]

# A module whose name begins with "_" is a part of another one, imported when that needs it.
for _module in sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name[0] != "_"):
    import_module(f"{__name__}.{_module}")


def open_dump(paths: Sequence[str | Path], progress: Progress | None = None) -> Dump:
    """Open a dump: one file, or all files of a split one in any order, or ``file@address`` words.

    The format is found by content, also inside a compressed file, of whose
    unpacking ``progress`` hears. Raises BadFormat, whose text says what was
    seen instead.
    """
    if not paths:
        raise ValueError("open_dump() needs a path")
    places = [places for path in paths if (places := parse_places(str(path)))]
    if len(places) == len(paths):
        return open_raw(list(chain(*places)), lambda path: _source(path, progress))
    dumps: list[Dump] = []
    try:
        for path in paths:
            dumps.append(_open_one(_source(path, progress)))
        return (dumps[0] if len(dumps) == 1 else dumps[0].joined(dumps[1:])).checked()
    except BaseException:
        for dump in dumps:
            dump.close()
        raise


def is_dump(path: str | Path) -> bool:
    """Whether the file starts as a dump does, compressed or not, or is memory at an address that the
    argument gives. False for one that cannot be read."""
    try:
        return parse_places(str(path)) is not None or identify(path) == "dump"
    except BadFormat:
        return False


def _source(path: str | Path, progress: Progress | None) -> Source:
    source = open_source(path)
    source.progress = progress
    codec = compression(source.peek(8))
    if codec is None or codec == "lz4":  # which nothing here can undo: describe() says what does
        return source
    from kcrash.dump._carrier import unpacked

    return unpacked(source, codec)


def _open_one(source: Source) -> Dump:
    try:
        head = source.peek(HEAD)
        for entry in formats():
            dump = entry.probe(source) if entry.sniff(head) else None
            if dump is not None:
                return dump
        raise BadFormat(source.path, describe(source))
    except BaseException:
        source.close()
        raise
