"""Where output goes: this process's standard output, a file, a shell pipeline, a pager.

Every destination has ``write``, ``flush`` and ``close``; a reader that went
away raises `OutputClosed`, a file that cannot be written raises
`CommandError` with one line that says why.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import IO, Protocol

from kcrash.errors import CommandError


class OutputClosed(Exception):
    """Nobody reads the output any more. ``ours``: it was this process's own standard output."""

    def __init__(self, ours: bool = False) -> None:
        self.ours = ours
        super().__init__("the reader of the output has gone")


class Output(Protocol):
    """A destination of text."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...

    def close(self) -> int: ...


def binary(output: Output | None) -> IO[bytes]:
    """The stream of bytes under an output, for what is no text; what was written to it so far goes first.

    Raises CommandError for a terminal, and for an output that has no bytes under it.
    """
    stream = output.raw() if isinstance(output, (Stdout, File, Pipe, Paged)) else None
    if stream is None:
        raise CommandError("this output takes no binary data")
    if stream.isatty():
        raise CommandError("standard output is a terminal: redirect it to a file or a pipe")
    stream.flush()
    found: IO[bytes] | None = getattr(stream, "buffer", None)
    if found is None:
        raise CommandError("this output takes no binary data")
    return found


class Stdout:
    """Standard output, never closed. ``close`` flushes and returns 0."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write, buffered; at once on a terminal."""
        self._guarded(lambda: self._stream.write(text))
        if self._stream.isatty():
            self.flush()

    def raw(self) -> IO[str]:
        """The stream itself."""
        return self._stream

    def flush(self) -> None:
        """Write out what is buffered."""
        self._guarded(self._stream.flush)

    def close(self) -> int:
        """Flush; the stream stays open."""
        self.flush()
        return 0

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            raise OutputClosed(ours=True) from None
        except OSError as error:
            raise CommandError(f"cannot write standard output: {error.strerror}") from None


class File:
    """A file made or appended to by ``> file`` and ``>> file``."""

    def __init__(self, path: str, append: bool = False) -> None:
        self.path = path
        try:
            self._stream = (
                Path(path)
                .expanduser()
                .open("a" if append else "w", encoding="utf-8", errors="backslashreplace")
            )
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Write, buffered."""
        self._guarded(lambda: self._stream.write(text))

    def raw(self) -> IO[str]:
        """The stream itself."""
        return self._stream

    def flush(self) -> None:
        """Write out what is buffered."""
        self._guarded(self._stream.flush)

    def close(self) -> int:
        """Write out and close; 0."""
        self._guarded(self._stream.close)
        return 0

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror}") from None


class Pipe:
    """A process that reads the output: a pipeline the user typed, or a pager."""

    def __init__(self, command: Sequence[str]) -> None:
        import subprocess

        sys.stdout.flush()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, encoding="utf-8", errors="backslashreplace"
            )
        except OSError as error:
            raise CommandError(f"{command[0]}: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Write, and let the reader see it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise OutputClosed from None

    def raw(self) -> IO[str]:
        """The stream itself."""
        assert self._process.stdin is not None
        return self._process.stdin

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> int:
        """Close the reader's input and wait for it; its exit status. Ctrl-C is the reader's meanwhile."""
        assert self._process.stdin is not None
        before = _ignore_interrupts()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        finally:
            status = self._process.wait()
            if before is not None:
                signal.signal(signal.SIGINT, before)
        return status


class Paged:
    """Standard output through a pager, once there is more of it than fits on the screen.

    Text is held back until it exceeds the screen or gets old, so that short
    answers are printed without a pager.
    """

    def __init__(self, pager: Sequence[str]) -> None:
        from shutil import get_terminal_size

        self._pager = pager
        self._held: list[str] = []
        self._lines = 0
        self._columns, lines = get_terminal_size()
        self._limit = lines - 1
        self._since = monotonic()
        self._output: Output | None = None

    def write(self, text: str) -> None:
        """Hold back or pass on."""
        if self._output is not None:
            self._output.write(text)
            return
        self._held.append(text)
        self._lines += sum(1 + max(len(line) - 1, 0) // self._columns for line in text.split("\n")[:-1])
        if self._lines > self._limit or monotonic() - self._since > 1:
            self._start(self._pager)

    def raw(self) -> IO[str]:
        """Standard output, not the pager."""
        return sys.stdout

    def flush(self) -> None:
        """What is held back stays so."""

    def close(self) -> int:
        """Print what was held back, or wait until the user leaves the pager."""
        if self._output is None:
            self._start(None)
        assert self._output is not None
        self._output.close()
        return 0

    def _start(self, pager: Sequence[str] | None) -> None:
        self._output = Pipe(pager) if pager else Stdout()
        held, self._held = "".join(self._held), []
        self._output.write(held)


def _ignore_interrupts() -> signal.Handlers | Callable[..., object] | int | None:
    """Ignore SIGINT; the handler before, or None where handlers cannot be changed."""
    try:
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        return None


def shell_command(text: str) -> list[str]:
    """The argument list that runs ``text`` in the user's shell."""
    return [os.environ.get("SHELL") or "/bin/sh", "-c", text]


def run_shell(text: str) -> int:
    """Run a shell command line the user typed, or a shell for ""; its exit status."""
    import subprocess

    sys.stdout.flush()
    command = shell_command(text) if text else [os.environ.get("SHELL") or "/bin/sh"]
    before = _ignore_interrupts()
    try:
        return subprocess.call(command, preexec_fn=_restore_interrupts)
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}") from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _restore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def pager_command(setting: str = "") -> list[str] | None:
    """The pager: "less", "more", "CRASHPAGER" or "" for the first there is; None without any.

    Only ``$CRASHPAGER`` and ``$PAGER`` are split at blanks; nothing goes through a shell.
    """
    from shutil import which

    if setting == "more":
        return ["more"]
    chosen = os.environ.get("CRASHPAGER") or (os.environ.get("PAGER") if setting != "CRASHPAGER" else None)
    if chosen and setting != "less":
        return chosen.split()
    return ["less", "-E", "-X", "-R"] if which("less") else ["more"] if which("more") else None


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()
