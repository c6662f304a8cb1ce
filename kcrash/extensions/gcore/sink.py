"""Where a core goes: a file that appears under its name only when it is whole, or a stream."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from kcrash.errors import CommandError

ZEROS = bytes(1 << 20)


class Sink(Protocol):
    """Written at growing offsets; what is left out reads as zeros."""

    def write(self, offset: int, data: memoryview) -> None: ...

    def rewrite(self, offset: int, data: bytes) -> bool:
        """Change what was written; False where that is not possible."""

    def finish(self, size: int) -> None:
        """All is written: the core is ``size`` bytes."""


class FileSink:
    """A regular file, sparse. A context manager: leaving it without `finish` removes what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
        try:
            # A core holds all that the process knew: for its owner only, as the kernel makes it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._fd = os.open(self._temporary, flags, 0o600)
        except OSError as error:
            raise _failure(path, error) from None
        self._open = True

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(OSError):
                os.close(self._fd)
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def write(self, offset: int, data: memoryview) -> None:
        """See Sink. Raises CommandError."""
        try:
            os.lseek(self._fd, offset, os.SEEK_SET)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise _failure(self.path, error) from None

    def rewrite(self, offset: int, data: bytes) -> bool:
        """See Sink."""
        self.write(offset, memoryview(data))
        return True

    def finish(self, size: int) -> None:
        """Give the file its size and its name."""
        try:
            os.truncate(self._fd, size)
            self._open = False
            os.close(self._fd)  # some file systems tell only now that they are full
            self._temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            raise _failure(self.path, error) from None


class StreamSink:
    """A pipe or a device, written in one forward pass; zeros are written out."""

    def __init__(self, stream: IO[bytes], name: str, *, ours: bool = True) -> None:
        self._stream = stream
        self._name = name
        self._ours = ours
        self._at = 0

    def __enter__(self) -> StreamSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ours:
            with contextlib.suppress(OSError):
                self._stream.close()

    def write(self, offset: int, data: memoryview) -> None:
        """See Sink. Raises CommandError."""
        try:
            while self._at < offset:
                self._put(memoryview(ZEROS)[: offset - self._at])
            self._put(data)
        except OSError as error:
            raise _failure(self._name, error) from None

    def _put(self, data: memoryview) -> None:
        self._stream.write(data)
        self._at += len(data)

    def rewrite(self, offset: int, data: bytes) -> bool:
        """See Sink."""
        return False

    def finish(self, size: int) -> None:
        """Write the zeros at the end."""
        self.write(size, memoryview(b""))
        try:
            self._stream.flush()
        except OSError as error:
            raise _failure(self._name, error) from None


def _failure(where: object, error: OSError) -> CommandError:
    return CommandError(f"{where}: {error.strerror or error}")


def open_sink(path: Path) -> FileSink | StreamSink:
    """A file to be made or replaced; what is there and is no regular file (a FIFO, a device) is a stream."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return FileSink(path)
        if stat.S_ISDIR(mode):
            raise CommandError(f"{path}: Is a directory")
        return StreamSink(path.open("wb"), str(path), ours=False)
    except FileNotFoundError:
        return FileSink(path)
    except OSError as error:
        raise _failure(path, error) from None
