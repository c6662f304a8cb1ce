"""``bt -I -S``: a trace from what bt shows of a frame, no other register being known."""

from __future__ import annotations

import re

from kcrash.session import open_session
from tests.lab.lab import Dumps
from tests.parity.conftest import Parity, diff, normal, run_kcrash

FORMS = ("elf",)
_FRAME = re.compile(r"^ *#\d+ \[(\w+)\] \S+ at (\w+)", re.MULTILINE)


def COMMANDS(dumps: Dumps, form: str) -> list[str]:  # the name that conftest looks for
    with open_session([str(dumps.vmlinux), str(dumps.forms[form])]) as session:
        frames = _FRAME.findall(run_kcrash(session, "bt"))
    # Not do_syscall_64: its caller is behind stale frames, which crash takes for live ones.
    return [f"bt -I {pc} -S {stack}" for stack, pc in frames[2:-2]]


def test_same(parity: Parity) -> None:
    assert len(parity.commands) > 5
    for command in parity.commands:
        theirs, ours = normal(parity.crash(command)), normal(parity.kcrash(command))
        assert len(theirs) > 10 and theirs == ours, f"{command}\n{diff(theirs, ours)}"
