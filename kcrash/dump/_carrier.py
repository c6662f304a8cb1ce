"""Dumps that are compressed as a whole: unpacked into the cache, and read there.

Imported when there is one: most dumps are read as they lie.
"""

from __future__ import annotations

from pathlib import Path

from kcrash.dump.source import FileSource, Source, unwrapped
from kcrash.errors import BadFormat
from kcrash.files.cache import Cache
from kcrash.files.unpack import Carrier, store

#: What a dump may unpack to; less if the cache's disk has no room for it.
MAX_DUMP = 1 << 38


def unpacked(source: Source, codec: str, offset: int = 0) -> Source:
    """What the stream from ``offset`` to the end of a file unpacks to; ``source`` is given back.

    Raises BadFormat, MissingCodec, KcrashError for a cache that cannot be written.
    """
    path = Path(source.location if isinstance(source, FileSource) else source.path)
    source.close()
    try:
        with path.open("rb") as file:
            file.seek(offset)
            size = path.stat().st_size - offset
            carrier = Carrier(path, file, codec, f"from {offset}" if offset else "", size)
            kept = store(carrier, Cache(), MAX_DUMP, source.progress)
    except OSError as error:
        raise BadFormat(source.path, f"cannot be read: {error.strerror}") from None
    inner = FileSource(str(kept), source.path)
    inner.progress = source.progress
    return unwrapped(inner)
