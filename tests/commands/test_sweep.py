"""Every command with each of its switches, on every kernel, with a vmlinux and without: no internal error.

The switches come from the declarations, so that a new one is swept too; OPERANDS says what a command is
asked about. A kernel may lack what a switch needs: then a line says so, which is no bug.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._arguments import Flag, Number, Option, spellings
from kcrash.commands.base import Command
from kcrash.session import Session
from tests.lab import lab
from tests.parity.conftest import run_kcrash, with_gcore
from tests.unwind.support import KERNELS

pytestmark = pytest.mark.lab

# What a command is asked about, where it needs something; {pid}, {task}, {file}: of the dump, of the test.
OPERANDS = {
    "*": "list_head modules", "alias": "pl ps -l", "ascii": "61", "btop": "12345", "dis": "schedule",
    "eval": "5*3", "foreach": "{pid} ps", "gcore": "-o {file} {pid}",
    "list": "task_struct.tasks -h {task}", "mod": "", "p": "init_task.pid", "ptob": "1",
    "pte": "8000000012345867",
    "rd": "init_task 4", "repeat": "-1 ps", "search": "-k 1234", "struct": "task_struct",
    "sym": "schedule", "tree": "-t rbtree vmap_area_root", "union": "sigval", "vtop": "init_task",
    "whatis": "task_struct",
}  # fmt: skip
# What an option is given, by its metavar where its values are of a kind, else by "command option".
VALUES = {
    "symbol": "init_task", "task": "{pid}", "type": "task_struct", "module": "zram", "cpus": "0",
    "cpu": "0", "foreach -C": "ps", "struct -l": "0", "list -s": "task_struct.pid",
    "list -S": "task_struct.pid", "bt -n": "idle", "bt -I": "{pc}", "bt -S": "{sp}", "tree -t": "rbtree",
    "gcore -o": "{file}", "gcore -f": "0", "rd -r": "{file}",
}  # fmt: skip
ENDS = {"exit", "q", "quit"}
WITHOUT = {"repeat": "runs for ever", "extend": "changes the registry"}


def commands(session: Session) -> Iterator[str]:
    """Each command bare, with its operand, and with each switch."""
    for command in REGISTRY.all():
        if command.name in ENDS or command.name in WITHOUT:
            continue
        operand = OPERANDS.get(command.name, "")
        yield command.name
        yield f"{command.name} {operand}"
        for switch in {id(s): s for s in command.declaration.switches.values()}.values():
            yield f"{command.name} {_switch(command, switch)} {operand}"


def _switch(command: Command, switch: Flag | Option) -> str:
    spelling = spellings(switch)[0]
    if isinstance(switch, Flag):
        return spelling
    value = (
        VALUES.get(f"{command.name} {spelling}") or VALUES.get(switch.completes) or VALUES.get(switch.metavar)
    )
    return f"{spelling} {value or '1'}"


def filled(line: str, session: Session, folder: str) -> str:
    """The line with what it names of the dump."""
    from kcrash.linux.tasks import task_table

    init = task_table(session).by_pid[1][0]
    values = {"pid": init.pid, "task": f"{init.address:x}", "file": f"{folder}/out", "sp": f"{init.sp:x}",
              "pc": f"{session.symbols.address('schedule') + 1:x}"}  # fmt: skip
    return line.format(**values)


def sweep(session: Session, folder: str) -> list[str]:
    """The lines that end in a bug, with what they print of it."""
    bad = []
    for line in commands(session):
        text = filled(line, session, folder)
        try:
            output = run_kcrash(session, text)
        except Exception as error:
            bad.append(f"{text}: {type(error).__name__}: {error}")
            continue
        found = re.search(r"internal error.*|Traceback.*", output)
        if found:
            bad.append(f"{text}: {found[0]}")
    return bad


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "vmlinux"])
@pytest.mark.parametrize("version", KERNELS)
def test_no_internal_error(
    version: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some switches write files
    if not lab.cached(version):
        pytest.skip(f"no dumps of {version} at hand")
    dumps = lab.dumps(version, names=["zlib-d31"])
    files = [str(dumps.forms["zlib-d31"])] + ([] if alone else [str(dumps.vmlinux)])
    session = kcrash.open(*files)
    with_gcore(session)
    assert len(list(commands(session))) > 150
    assert sweep(session, str(tmp_path)) == []
    session.close()


def test_numbers_are_switches_too() -> None:
    """repeat -5: the only kind of switch that the sweep leaves to its own test."""
    numbered = {c.name for c in REGISTRY.all() if isinstance(c.declaration.number, Number)}
    assert numbered <= {"repeat"}
