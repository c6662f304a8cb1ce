"""The interactive shell. prompt_toolkit is imported only when it really starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kcrash.commands._shell import Shell


class Repl:
    """Reads lines from the terminal and gives them to a shell until it is left."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell

    def run(self, done: Callable[[int], None]) -> None:
        """Run until the end of the input or ``exit``; ``done`` gets the status of each line."""
        from kcrash.repl._prompt import run

        run(self.shell, done)
