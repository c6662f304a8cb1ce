"""Compressed carriers: a vmlinux or module in .gz, .xz, .zst or .bz2, and the kernel inside a boot image.

What a file is tells its content, never its name. Everything streams: memory stays at a few megabytes and
a file that unpacks to more than the limit, or than the disk has room for, stops there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from kcrash.debuginfo.cache import Cache, Writer
from kcrash.errors import BadFormat, KcrashError, MissingCodec

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
_INPUT = {"zstd": 2048, "gzip": 65536, "xz": 65536, "lzma": 65536, "bzip2": 65536}

_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO", "lzo"),
)


class Source(Protocol):
    """What can be unpacked: anything with ``read(n)``."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, none at the end."""


def compression(head: bytes) -> str | None:
    """The name of the compression that ``head``, a file's first bytes, shows; None if it is none."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def is_plain(path: Path) -> bool:
    """Whether the file starts as an ELF file does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def unpack(
    path: Path, cache: Cache, *, limit: int = MAX_UNPACKED, progress: Progress | None = None
) -> Path | None:
    """The unpacked form of a compressed ELF file, kept in the cache; None if ``path`` is not compressed.

    Raises BadFormat for a broken file, one that unpacks beyond ``limit`` bytes or holds no ELF file,
    MissingCodec, KcrashError for a cache that cannot be written, OSError.
    """
    with path.open("rb") as file:
        codec = compression(file.read(8))
        if codec is None:
            return None
        file.seek(0)
        return _store(_Carrier(path, file, codec, "", path.stat().st_size), cache, limit, progress)


@dataclass
class _Carrier:
    """A compressed stream in a file: read from where ``file`` stands; ``size``: bytes to its end."""

    path: Path
    file: IO[bytes]
    codec: str
    variant: str
    size: int


def _store(carrier: _Carrier, cache: Cache, limit: int, progress: Progress | None) -> Path:
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


def _fill(writer: Writer, carrier: _Carrier, room: int, limit: int, progress: Progress | None) -> None:
    start, name = carrier.file.tell(), str(carrier.path)
    for chunk in chunks(carrier.codec, carrier.file, name, one=bool(carrier.variant)):
        if writer.size == 0 and not chunk.startswith(b"\x7fELF"):
            raise BadFormat(name, f"unpacks ({carrier.codec}) to something that is no ELF file")
        if writer.size + len(chunk) > room:
            raise too_big(name, room, limit)
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
    if codec in ("lz4", "lzo"):
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


# -- boot images


@dataclass(frozen=True, slots=True)
class BootImage:
    """A kernel as boot loaders take it.

    ``kind``: what it is called; ``offset``, ``size``: its compressed kernel in the file, in bytes,
    size 0 if the format does not say or holds no ELF file.
    """

    kind: str
    offset: int = 0
    size: int = 0


def boot_image(path: Path) -> BootImage | None:
    """What boot image a file is, None if it is none. Raises OSError.

    Linux Documentation/arch/x86/boot.rst (setup header), arch/arm64/booting.rst,
    arch/riscv/boot-image-header.rst, drivers/firmware/efi/libstub/zboot-header.S; U-Boot include/image.h.
    """
    with path.open("rb") as file:
        head = file.read(0x268)
    if head[0x202:0x206] == b"HdrS":
        return _bzimage(head)
    if head[:8] == b"MZ\0\0zimg":
        return BootImage("an EFI zboot image")
    for offset, magic, kind in _IMAGE_MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return BootImage(kind)
    return None


_IMAGE_MAGICS = (
    (0x38, b"ARM\x64", "an arm64 boot Image"),
    (0x38, b"RSC\x05", "a RISC-V boot Image"),
    (0x24, b"\x18\x28\x6f\x01", "an ARM zImage"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
)


def _bzimage(head: bytes) -> BootImage:
    """The x86 form; the payload's place is told since boot protocol 2.08."""
    kind = "an x86 boot image (bzImage, vmlinuz)"
    if len(head) < 0x250 or struct.unpack_from("<H", head, 0x206)[0] < 0x208:
        return BootImage(kind)
    setup_sectors = head[0x1F1] or 4
    offset, size = struct.unpack_from("<II", head, 0x248)
    return BootImage(kind, (setup_sectors + 1) * 512 + offset, size)


def unpack_boot_image(
    path: Path, cache: Cache, *, limit: int = MAX_UNPACKED, progress: Progress | None = None
) -> Path:
    """The ELF kernel inside an x86 boot image, kept in the cache: code, ORC and BTF, but no symbols or DWARF.

    Raises BadFormat if there is none, KcrashError for a compression that Python cannot undo, OSError.
    """
    image = boot_image(path)
    if image is None or not image.size:
        raise BadFormat(str(path), "holds no compressed ELF kernel")
    with path.open("rb") as file:
        file.seek(image.offset)
        codec = compression(file.read(8))
        if codec is None:
            raise BadFormat(str(path), "unknown compression of the kernel inside", image.offset)
        file.seek(image.offset)
        return _store(_Carrier(path, file, codec, "boot image", image.size), cache, limit, progress)
