"""What a swap device or file held, in a file beside the dump (union swap_header, include/linux/swap.h)."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kcrash.errors import BadFormat, CommandError, CorruptData
from kcrash.linux.compressors import Packed, Stored

MAGIC = b"SWAPSPACE2"  # the last bytes of the first page
INFO = 1024  # of the header's version, last_page and nr_badpages
VERSION = 1


class PageFile:
    """Pages in a file, from its beginning. Raises CommandError if it cannot be read."""

    def __init__(self, path: str, page_size: int) -> None:
        self.path = path
        self.page_size = page_size
        try:
            self._file = Path(path).expanduser().open("rb")
            self.size = self._file.seek(0, os.SEEK_END)  # of a device too
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror or error}") from None

    def locate(self, offset: int) -> Stored:
        """Page ``offset``. Raises CorruptData behind the end of the file."""
        if (offset + 1) * self.page_size > self.size:
            raise CorruptData(f"{self.path}: ends before page {offset:x} of the swap area")
        return lambda: Packed(self._at(offset), self.page_size)

    def _at(self, offset: int) -> bytes:
        try:
            self._file.seek(offset * self.page_size)
            return self._file.read(self.page_size)
        except OSError as error:
            raise CorruptData(f"{self.path}: {error.strerror or error}") from None


class SwapImage(PageFile):
    """The content of a swap area; ``pages``: how many it has, the header among them.

    Raises CommandError if the file cannot be read, BadFormat if it holds no swap area.
    """

    def __init__(self, path: str, page_size: int, byte_order: str) -> None:
        super().__init__(path, page_size)
        self.pages = self._check("<" if byte_order == "little" else ">")

    def _check(self, order: str) -> int:
        header = self._at(0)
        if header[-len(MAGIC) :] != MAGIC:
            what = f"no swap area with pages of {self.page_size} bytes (no {MAGIC.decode()})"
            raise BadFormat(self.path, what, self.page_size - len(MAGIC))
        version, last_page = struct.unpack_from(f"{order}2I", header, INFO)
        if version != VERSION:
            raise BadFormat(self.path, f"swap area of version {version}", INFO)
        return int(last_page) + 1
