"""The streams of this process: standard output and error, and whether they are terminals."""

from __future__ import annotations

import contextlib
import sys

from kcrash.output.clean import clean


def notice(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(clean(message) + "\n")
    sys.stderr.flush()


def error_line(message: str) -> None:
    """What went wrong, on standard error, after what was already printed."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    lines = clean(message)
    red = message and sys.stderr.isatty()
    sys.stderr.write(f"\x1b[31m{lines}\x1b[0m\n" if red else lines + "\n")
    sys.stderr.flush()
