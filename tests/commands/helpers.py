"""A shell in this process whose output is kept, for commands that need no dump."""

from __future__ import annotations

from kcrash.commands import REGISTRY, Registry
from kcrash.commands._shell import Shell


class Kept:
    """An output that keeps its text."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def close(self) -> int:
        return 0


def shell_with(registry: Registry = REGISTRY) -> tuple[Shell, Kept]:
    """A shell without a session, and its output."""
    kept = Kept()
    return Shell(None, registry, stdout=lambda: kept), kept


def run(*lines: str, registry: Registry = REGISTRY) -> str:
    """What lines print, all of which must succeed."""
    shell, kept = shell_with(registry)
    for line in lines:
        assert shell.run(line) == 0, line
    return kept.text
