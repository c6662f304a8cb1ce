"""Opened files: bytes at an offset, whatever wraps them."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kcrash.errors import BadFormat

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from kcrash.files.unpack import Progress

MAX_OFFSET = (1 << 63) - 1
PEEK = 8192


class Source:
    """An opened dump file.

    ``path``: as the user gave it; ``size``: bytes when it was opened;
    ``incomplete``: True if the wrapping (not the dump inside) ends too early;
    ``progress``: hears of work on it that takes long.
    """

    progress: Progress | None = None

    def __init__(self, path: str, size: int, incomplete: bool = False) -> None:
        self.path = path
        self.size = size
        self.incomplete = incomplete
        self._head: bytes | None = None

    def read_at(self, offset: int, n: int) -> bytes:
        """``n`` bytes at ``offset``, fewer at the end of the file. Raises BadFormat on an I/O error."""
        raise NotImplementedError

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` (of bytes) from ``offset``; how many bytes there were."""
        data = self.read_at(offset, len(view))
        view[: len(data)] = data
        return len(data)

    def has(self, offset: int, n: int) -> bool:
        """True if the file holds all of these bytes. Matters where ``incomplete``: a hole reads as zeros."""
        return 0 <= offset <= offset + n <= self.size

    def peek(self, n: int) -> bytes:
        """The first ``n`` bytes, fewer if the file is shorter."""
        if self._head is None:
            self._head = self.read_at(0, PEEK)
        return self._head[:n] if n <= PEEK else self.read_at(0, n)

    def close(self) -> None:
        """Give back the file."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Reader:
    """A source from its start, as a stream."""

    def __init__(self, source: Source, offset: int = 0) -> None:
        self._source = source
        self.offset = offset

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes (-1: all that are left), none at the end."""
        data = self._source.read_at(self.offset, size if size >= 0 else self._source.size - self.offset)
        self.offset += len(data)
        return data


class FileSource(Source):
    """A file as it lies on the disk, at ``location``; ``name``: what messages call it, if not that.

    Reads with pread and not through a mapping: a file truncated while it is
    mapped would kill the process with SIGBUS.
    """

    def __init__(self, path: str, name: str = "") -> None:
        self._fd, size = _open(path)
        self._pread: Callable[[int, int, int], bytes] = getattr(os, "pread", None) or _SeekingReader()
        self.location = path
        super().__init__(name or path, size)

    def read_at(self, offset: int, n: int) -> bytes:
        if offset < 0 or n <= 0 or offset > MAX_OFFSET:
            return b""
        try:
            data = self._pread(self._fd, min(n, max(self.size - offset, 0)), offset)
        except OSError as error:
            raise BadFormat(self.path, f"cannot be read: {error.strerror}", offset) from error
        if len(data) == n or not data or offset + len(data) >= self.size:
            return data
        # One system call moves at most 2 GiB.
        return data + self.read_at(offset + len(data), n - len(data))

    def read_into(self, offset: int, view: memoryview) -> int:
        if not hasattr(os, "preadv") or not 0 <= offset <= MAX_OFFSET:
            return super().read_into(offset, view)
        done = 0
        try:
            while done < len(view):
                got = os.preadv(self._fd, [view[done:]], offset + done)
                if not got:
                    break
                done += got
        except OSError as error:
            raise BadFormat(self.path, f"cannot be read: {error.strerror}", offset) from error
        return done

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _SeekingReader:
    """pread for systems that have none (Windows)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, fd: int, n: int, offset: int) -> bytes:
        with self._lock:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, n)


def _open(path: str) -> tuple[int, int]:
    """``(descriptor, size)``. Raises BadFormat for whatever is no readable, non-empty file."""
    try:
        # Not waiting for the writer of a FIFO: it is refused below.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if os.path.isdir(path):  # noqa: PTH112  # Windows refuses to open one; pathlib takes long to import
            raise BadFormat(path, "is a directory") from None
        raise BadFormat(path, f"cannot be opened: {error.strerror}") from None
    try:
        return fd, _size(path, fd)
    except BaseException:
        os.close(fd)
        raise


def _size(path: str, fd: int) -> int:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise BadFormat(path, "is a directory")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise BadFormat(path, "is neither a file nor a block device")
    size = os.lseek(fd, 0, os.SEEK_END)  # fstat says 0 for a block device
    if size == 0:
        raise BadFormat(path, "is empty")
    return size


def open_source(path: str | Path) -> Source:
    """Open a file; one in makedumpfile's flattened form is read as what it holds. Raises BadFormat."""
    return unwrapped(FileSource(str(path)))


def unwrapped(source: Source) -> Source:
    """What a source in makedumpfile's flattened form holds, itself if it is in none. Raises BadFormat."""
    from kcrash.dump.flattened import FlattenedSource, is_flattened

    if not is_flattened(source):
        return source
    try:
        return FlattenedSource(source)
    except BaseException:
        source.close()
        raise
