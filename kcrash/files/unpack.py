"""Compressed files: what a stream unpacks to, kept in the cache.

What a file is tells its content, never its name. Everything streams: memory stays at a few megabytes and
a file that unpacks to more than the limit, or than the disk has room for, stops there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from kcrash.errors import BadFormat, KcrashError, MissingCodec

if TYPE_CHECKING:
    from kcrash.files.cache import Cache, Writer

#: Called now and then with what is done, the bytes done and the bytes in all (None if not known).
#: Whatever it raises stops the work and leaves nothing behind.
Progress = Callable[[str, int, "int | None"], None]

#: What a file may unpack to.
MAX_UNPACKED = 8 << 30
#: Room that stays free on the disk.
SPARE = 64 << 20
#: Memory that an .xz file may ask for (xz -9 needs 65 MiB, kernels' own images 33 MiB).
XZ_MEMORY = 512 << 20
#: The same for .zst (zstd --ultra -22 needs 128 MiB).
ZSTD_WINDOW = 512 << 20
_STEP = 1 << 20
#: Bytes to unpack at a time. A block of 4 bytes may be 128 KiB in zstd, which cannot be told to stop.
_INPUT = {"zstd": 2048, "gzip": 65536, "xz": 65536, "lzma": 65536, "bzip2": 65536, "lzop": 65536}

_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO\0\r\n\x1a", "lzop"),
)


class Source(Protocol):
    """What can be unpacked: anything with ``read(n)``."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, none at the end."""


def compression(head: bytes) -> str | None:
    """The name of the compression that ``head``, a file's first bytes, shows; None if it is none."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


@dataclass
class Carrier:
    """A compressed stream in a file: read from where ``file`` stands; ``size``: bytes to its end.

    ``check``: what is wrong with the first unpacked bytes, "" if nothing is; ``variant``: tells streams of
    the same file apart, and a stream that has one ends where the first of several would.
    """

    path: Path
    file: IO[bytes]
    codec: str
    variant: str
    size: int
    check: Callable[[bytes], str] = lambda head: ""


def store(carrier: Carrier, cache: Cache, limit: int, progress: Progress | None) -> Path:
    """The unpacked form of a stream, kept in the cache.

    Raises BadFormat for a broken stream, one that unpacks beyond ``limit`` bytes or that its ``check``
    refuses, MissingCodec, KcrashError for a cache that cannot be written, OSError.
    """
    target = cache.unpacked(carrier.path, carrier.variant)
    what = f"unpacking {carrier.path.name}"

    def waiting() -> None:
        if progress is not None:
            progress(f"{what} (another process does)", 0, None)

    with cache.lock(target, waiting):
        found = cache.lookup(target)
        if found is not None:
            return found
        with cache.writing(target) as writer:
            _fill(writer, carrier, min(limit, cache.free() - SPARE), limit, progress)
            return writer.keep()


def _fill(writer: Writer, carrier: Carrier, room: int, limit: int, progress: Progress | None) -> None:
    start, name = carrier.file.tell(), str(carrier.path)
    for chunk in chunks(carrier.codec, carrier.file, name, one=bool(carrier.variant)):
        if writer.size == 0 and (problem := carrier.check(chunk)):
            raise BadFormat(name, f"unpacks ({carrier.codec}) to {problem}")
        if writer.stored + len(chunk) > room:
            raise too_big(name, room, limit)
        if writer.size + len(chunk) > limit:
            raise too_big(name, limit, limit)
        writer.write(chunk)
        if progress is not None:
            progress(f"unpacking {carrier.path.name}", carrier.file.tell() - start, carrier.size)
    if writer.size == 0:
        raise BadFormat(name, f"unpacks ({carrier.codec}) to nothing")


def too_big(name: str, room: int, limit: int) -> KcrashError:
    """The error for more bytes than may be written, by the limit or for want of space."""
    if room < limit:
        return KcrashError(
            f"{name}: does not fit on the cache's disk, which has {max(room, 0) >> 20} MiB to spare"
        )
    return BadFormat(name, f"is of more than {_size(limit)}, the limit")


def _size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 1 << 30 else f"{count} bytes"


# -- streams


def chunks(codec: str, source: Source, name: str, *, one: bool = False) -> Iterator[bytes]:
    """The unpacked bytes of a stream, a megabyte at a time (a hostile .zst: at most 64 MiB).

    ``one``: stop after the first of several streams (what follows a kernel's payload is no stream).
    ``name``: for errors. Raises BadFormat, MissingCodec, and what ``source.read`` raises.
    """
    if codec == "lz4":
        raise KcrashError(f"{name}: is compressed with {codec}: unpack it first")
    errors, stream, data = _stream_errors(), _decompressor(codec), b""
    while True:
        if stream.needs_input and not data:
            data = source.read(_INPUT[codec])
            if not data:
                raise BadFormat(name, f"the {codec} stream is cut")
        try:
            plain = stream.decompress(data, _STEP)
        except errors as error:
            raise BadFormat(name, f"bad {codec} stream: {error}") from None
        data = b""
        if plain:
            yield plain
        if stream.eof:
            data = b"" if one else _next_stream(codec, stream.unused_data, source)
            if not data:
                return
            stream = _decompressor(codec)


class _Zlib:
    """zlib's decompressor in the form that those of lzma and bz2 have."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, max_length)


class _Zstd:
    """zstd's decompressor in that form. It cannot bound what it gives: its input must be short."""

    needs_input = True

    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingCodec("zstd", "zstandard") from None
        self._inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, _max_length: int) -> bytes:
        return self._inner.decompress(data)


def _decompressor(codec: str) -> Any:
    if codec == "zstd":
        return _Zstd()
    if codec == "gzip":
        return _Zlib()
    if codec == "lzop":
        from kcrash.files.lzop import Lzop

        return Lzop()
    if codec == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=XZ_MEMORY)


def _stream_errors() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    errors: list[type[Exception]] = [zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError]
    with suppress(ImportError):
        import zstandard

        errors.append(zstandard.ZstdError)
    return tuple(errors)


def _next_stream(codec: str, rest: bytes, source: Source) -> bytes:
    """The start of a further stream; nothing if the file ends or something else follows."""
    rest = rest.lstrip(b"\0")
    while len(rest) < 8:
        more = source.read(_STEP)
        if not more:
            break
        rest = (rest + more).lstrip(b"\0")
    return rest if compression(rest) == codec else b""
