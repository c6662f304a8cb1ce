"""A progress line on stderr: only on a terminal, rate-limited, erased at the end."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType

_FIRST = 0.5
_EVERY = 0.1


class Progress:
    """A line that shows how far a long task is; a context manager.

    ``what``: a few words; ``total``: number of steps, None if not known.
    Nothing is shown for tasks shorter than half a second.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._shown = False
        self._active = sys.stderr is not None and sys.stderr.isatty()
        self._next = monotonic() + _FIRST

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def advance(self, steps: int = 1) -> None:
        """Note that ``steps`` more are done."""
        self.done += steps
        if self._active and monotonic() >= self._next:
            self._draw()

    def clear(self) -> None:
        """Erase the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def _draw(self) -> None:
        share = f"{100 * self.done // self.total}%" if self.total else f"{self.done}"
        sys.stderr.write(f"\r\x1b[K{self.what}: {share}")
        sys.stderr.flush()
        self._shown = True
        self._next = monotonic() + _EVERY
