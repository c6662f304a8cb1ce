"""Inlined frames, parameters and locals of every blocked task, against drgn on the same dump."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import kcrash
from kcrash.linux.locals import FunctionFrame, Local, frame_functions
from kcrash.linux.stack import frames
from kcrash.linux.tasks import Task, task_table
from kcrash.session import Session
from kcrash.unwind.unwinder import Frame
from tests.lab import lab
from tests.parity import drgn_debug
from tests.parity.conftest import KERNELS, lab_dumps, run_kcrash

pytestmark = pytest.mark.lab
FORM = "zlib-d1"


@pytest.fixture(scope="module", params=KERNELS)
def dumps(request: pytest.FixtureRequest) -> lab.Dumps:
    return lab_dumps(request.param, FORM)


@pytest.fixture(scope="module")
def session(dumps: lab.Dumps) -> Iterator[Session]:
    made = kcrash.open(str(dumps.vmlinux), str(dumps.forms[FORM]))
    yield made
    made.close()


@pytest.fixture(scope="module")
def tasks(session: Session) -> list[Task]:
    """Those that no CPU ran: where the trace of the others starts is another question."""
    table = task_table(session)
    return [task for task in table.tasks if task.address not in table.active and task.stack]


@pytest.fixture(scope="module")
def theirs(dumps: lab.Dumps, tasks: Sequence[Task]) -> list[list[list[Any]]]:
    """drgn's frames of each task."""
    files = [dumps.vmlinux, dumps.forms[FORM], dumps.debug_modules]
    question = json.dumps({"tasks": [task.address for task in tasks]})
    command = [str(lab.drgn()), drgn_debug.__file__, *map(str, files)]
    done = subprocess.run(command, input=question, capture_output=True, text=True, check=True)
    found: list[list[list[Any]]] = json.loads(done.stdout)["tasks"]
    return found


def ours_of(session: Session, task: Task) -> list[tuple[Frame, FunctionFrame]]:
    trace = frames(session, task)
    return [(f, function) for i, f in enumerate(trace) for function in frame_functions(session, trace, i)]


def described(local: Local) -> list[object] | None:
    """As drgn_debug.py describes drgn's."""
    if local.value is None:
        return None
    if local.value.address_ is not None:
        return ["at", local.value.address_]
    return ["is", local.value.read_().hex()]


def test_frames_and_variables_are_those_of_drgn(
    session: Session, tasks: Sequence[Task], theirs: list[list[list[Any]]]
) -> None:
    compared = variables = more = 0
    for task, rows in zip(tasks, theirs, strict=True):
        by_place = {(row[0], row[1]): row for row in rows}
        for frame, function in ours_of(session, task):
            row = by_place.get((frame.pc, function.function))
            assert row is not None, (task.pid, hex(frame.pc or 0), function.function, list(by_place))
            assert [function.inlined, function.line] == row[2:4], (task.pid, function.function)
            mine = {local.name: local for local in function.variables}
            assert set(row[4]) == set(mine), function.function
            for name, value in row[4].items():
                ours = described(mine[name])
                if value is None and ours is not None:
                    more += 1
                else:
                    assert ours == value, (task.pid, function.function, name, mine[name].why)
                variables += 1
            compared += 1
    assert compared > 300 and variables > 1000
    assert 0 < more < variables // 10, "what callers handed over, which drgn does not look for"


def test_what_is_shown(session: Session) -> None:
    """The words of ``bt -V`` and ``bt -l``: the panic's own frame, and one with something inlined into it."""
    shown = run_kcrash(session, "bt -V 1")
    assert "        fmt = 0x" in shown and '"sysrq triggered crash\\n"' in shown
    assert "        key = <optimized out>" in shown and "        i = <optimized out>" in shown
    assert "is not known>" in shown  # callee-saved registers of the CPU that died
    lines = run_kcrash(session, "bt -l 1")
    assert "    (inlined in) " in lines and "    (in) " in lines
    assert {line for line in lines.splitlines() if line.startswith("    (")} <= set(shown.splitlines())
