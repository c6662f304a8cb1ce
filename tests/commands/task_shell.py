"""A shell on the kernel made by hand."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from kcrash.commands._shell import Shell
from tests.commands.helpers import Kept
from tests.linux.synthetic import TaskKernel


def run(kernel: TaskKernel, line: str, status: int = 0) -> list[str]:
    """The lines that a command line prints, errors last; blanks squeezed, tasks' addresses as ``<name>``."""
    kept, errors = Kept(), io.StringIO()
    with contextlib.redirect_stderr(errors):
        found = Shell(kernel.session, stdout=lambda: kept).run(line)
    text = kept.text + errors.getvalue()
    for name, address in kernel.tasks.items():
        text = text.replace(f"{address:x}", f"<{name}>")
    assert found == status, text
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def data(kernel: TaskKernel, line: str) -> list[dict[str, Any]]:
    """The JSON lines of a command."""
    kept = Kept()
    Shell(kernel.session, stdout=lambda: kept).run(f"{line} --json")
    return [json.loads(line) for line in kept.text.splitlines()]
