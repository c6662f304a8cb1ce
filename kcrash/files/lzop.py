"""lzop's files, as a stream (libvirt's save_image_format = "lzop").

lzop's documentation says nothing of the form; it is that of its ``lzop.c``, read by busybox and the
kernel's lib/decompress_unlzo.c too: a header, then blocks {u32 size, u32 stored size, checksums, data},
all big-endian, up to a size of 0.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Any

from kcrash.errors import MissingCodec

MAGIC = b"\x89LZO\0\r\n\x1a\n"
# Flags: a checksum of a block's data, unpacked or stored, and fields of the header.
ADLER_D, ADLER_C, EXTRA, CRC_D, CRC_C, FILTER = 1, 2, 0x40, 0x100, 0x200, 0x800
MAX_BLOCK = 64 << 20  # lzop's own MAX_BLOCK_SIZE
FIELDS_SINCE = 0x0940  # version from which the header has version_needed, level and mtime_high


class Lzop:
    """A decompressor in the form of those of lzma and bz2."""

    needs_input = True

    def __init__(self) -> None:
        try:
            from lzallright import LZOCompressor, LZOError
        except ImportError:
            raise MissingCodec("LZO", "lzallright") from None
        self._expand: Any = LZOCompressor.decompress
        self._error: type[Exception] = LZOError
        self._data = bytearray()
        self._flags: int | None = None
        self.eof = False

    @property
    def unused_data(self) -> bytes:
        """What follows the stream."""
        return bytes(self._data) if self.eof else b""

    def decompress(self, data: bytes, _max_length: int) -> bytes:
        """What ``data`` completes, in whole blocks. Raises ValueError for a broken stream."""
        self._data += data
        if self._flags is None and not self._header():
            return b""
        out: list[bytes] = []
        while not self.eof and (block := self._block()) is not None:
            out.append(block)
        return b"".join(out)

    def _header(self) -> bool:
        """Read past the header; False if it is not all there yet."""
        head = bytes(self._data[:512])
        if len(head) < 512 and not self._complete(head):
            return False
        at, flags = self._layout(head)
        if flags & EXTRA:
            raise ValueError("extra fields are not supported")
        self._flags = flags
        del self._data[:at]
        return True

    def _complete(self, head: bytes) -> bool:
        try:
            at, _ = self._layout(head)
        except (IndexError, ValueError):
            return False
        return len(head) >= at

    @staticmethod
    def _layout(head: bytes) -> tuple[int, int]:
        """``(bytes of the header, flags)``. Raises ValueError if it makes no sense."""
        if not head.startswith(MAGIC) or len(head) < 40:
            raise ValueError("no lzop header")
        new = unpack_from(">H", head, 9)[0] >= FIELDS_SINCE
        at = 17 if new else 14  # behind version, lib_version, (version_needed,) method, (level)
        flags: int = unpack_from(">I", head, at)[0]
        at += 4 + (4 if flags & FILTER else 0) + (12 if new else 8)
        return at + 1 + head[at] + 4, flags

    def _block(self) -> bytes | None:
        """The next block; None if it is not all there yet, b"" at the end."""
        data, flags = self._data, self._flags or 0
        if len(data) < 4:
            return None
        (size,) = unpack_from(">I", data)
        if size == 0:
            del data[:4]
            self.eof = True
            return b""
        if size > MAX_BLOCK:
            raise ValueError(f"a block of {size} bytes")
        if len(data) < 8:
            return None
        (stored,) = unpack_from(">I", data, 4)
        if not 0 < stored <= size:
            raise ValueError(f"a block of {size} bytes in {stored}")
        at = 8 + 4 * (bool(flags & ADLER_D) + bool(flags & CRC_D))
        if stored < size:
            at += 4 * (bool(flags & ADLER_C) + bool(flags & CRC_C))
        if len(data) < at + stored:
            return None
        packed = bytes(data[at : at + stored])
        del data[: at + stored]
        return packed if stored == size else self._unpacked(packed, size)

    def _unpacked(self, packed: bytes, size: int) -> bytes:
        try:
            plain: bytes = self._expand(packed, size)
        except self._error as error:
            # One of these errors carries the whole output: only the code is for people.
            raise ValueError(f"LZO: {error.args[0] if error.args else 'bad data'}") from None
        if len(plain) != size:
            raise ValueError(f"a block of {len(plain)} bytes, not {size}")
        return plain
