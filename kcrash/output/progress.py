"""A progress line on stderr: only on a terminal, rate-limited, erased at the end."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType

_FIRST = 0.5
_EVERY = 0.1


class Progress:
    """A line that shows how far a long task is; a context manager.

    ``what``: a few words; ``total``: number of steps, None if not known; ``unit``: bytes
    that a step stands for: then the line also says how fast it goes, and how long it will take.
    Nothing is shown for tasks shorter than half a second.
    """

    def __init__(self, what: str, total: int | None = None, unit: int = 0) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = 0
        self._started = monotonic()
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

    def text(self, seconds: float) -> str:
        """The line, so many seconds after the start."""
        share = f"{100 * self.done // self.total}%" if self.total else f"{self.done}"
        return f"{self.what}: {share}{self._speed(seconds) if self.unit and self.done else ''}"

    def _speed(self, seconds: float) -> str:
        rate = f", {self.done * self.unit / seconds / (1 << 20):.1f} MiB/s"
        if self.total is None:
            return rate
        left = round(max(self.total - self.done, 0) * seconds / self.done)
        return f"{rate}, {left // 60}:{left % 60:02} left"

    def _draw(self) -> None:
        sys.stderr.write(f"\r\x1b[K{self.text(monotonic() - self._started)}")
        sys.stderr.flush()
        self._shown = True
        self._next = monotonic() + _EVERY
