"""The streams of this process: standard output and error, and whether they are terminals."""

from __future__ import annotations

import sys

from kcrash.output.clean import clean


def notice(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(clean(message) + "\n")
    sys.stderr.flush()
