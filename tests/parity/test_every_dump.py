"""Every form of every kernel: the tasks against drgn, the seven commands against crash.

The other modules here compare many more command lines, on a few forms each.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache

import pytest

from kcrash.linux.tasks import task_table
from tests.lab import forms, kernels, lab
from tests.parity.conftest import Parity, diff, lab_dumps, normal
from tests.parity.test_bt import comparable
from tests.parity.test_tasks import HZ_LINES, HZ_WRONG

pytestmark = pytest.mark.lab

KERNELS = tuple(kernels.SUITES)
FORMS = tuple(forms.FORMS)


def COMMANDS(dumps: lab.Dumps, form: str) -> list[str]:  # the name that conftest looks for
    """The seven commands; addresses are those that the guest itself told."""
    told = re.findall(r"^(\w+) \w (\S+)", dumps.truth.facts["/proc/kallsyms"], re.M)
    # Of the kernel's first byte crash has not all symbols (differences.md).
    symbols = [f"sym {address}" for address, name in told if name not in ("_text", "_stext")][:6]
    names = [f"sym {name}" for name in ("init_task", "schedule", "zram_add", "runqueues", "_etext")]
    structs = ("list_head modules", "task_struct init_task", "rq runqueues:a", "mm_struct init_mm", "module")
    lines = ["sys", "ps", "foreach bt", "log", "mod", *symbols, *names]
    return [*lines, *(f"struct {what}" for what in structs)]


def lines(parity: Parity, command: str, text: str) -> list[str]:
    """What both must share of an output (differences.md tells what else there is)."""
    if command == "foreach bt":
        return comparable(parity, command, text)
    known = HZ_LINES.get(command) if parity.kernel in HZ_WRONG else None
    return [line for line in normal(text) if known is None or not known(line)]


def test_the_seven_commands(parity: Parity) -> None:
    wrong = []
    for command in parity.commands:
        theirs = lines(parity, command, parity.crash(command))
        ours = lines(parity, command, parity.kcrash(command))
        assert theirs, command
        if theirs != ours:
            wrong.append(f"{command}\n{diff(theirs, ours)}")
    if wrong:
        pytest.fail(f"{parity.kernel} {parity.form}:\n" + "\n".join(wrong)[:6000], pytrace=False)


# -- drgn

TASKS_OF_DRGN = """
import sys
from drgn import Program
from drgn.helpers.linux.pid import for_each_task
prog = Program()
prog.set_core_dump(sys.argv[2])
prog.load_debug_info([sys.argv[1]])
for task in for_each_task(prog, idle=True):
    print(hex(task), task.pid.value_(), task.tgid.value_(), task.comm.string_().decode())
"""
# libkdumpfile does not find the architecture of kdump files that QEMU wrote.
NOT_FOR_DRGN = ("qemu-zlib", "qemu-zlib-raw")


EXCLUDED = "Excluded page"


@cache
def tasks_of_drgn(kernel: str, form: str) -> list[str]:
    """``address pid tgid comm`` of every task, idle ones too, sorted."""
    dumps = lab_dumps(kernel, form)
    argv = [str(lab.drgn()), "-c", TASKS_OF_DRGN, str(dumps.vmlinux), str(dumps.forms[form])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if EXCLUDED in done.stderr:
        return [EXCLUDED]
    assert done.returncode == 0, f"drgn on {form} of {kernel}: {done.stderr[-400:]}"
    return sorted(done.stdout.splitlines())


def test_same_tasks_as_drgn(parity: Parity) -> None:
    ours = [
        f"{task.address:#x} {task.pid} {task.tgid} {task.name}" for task in task_table(parity.session).tasks
    ]
    # Another form of the same moment says the same where drgn cannot open this one.
    form = "qemu-elf" if parity.form in NOT_FOR_DRGN else parity.form
    theirs = tasks_of_drgn(parity.kernel, form)
    if theirs == [EXCLUDED]:
        _only_excluded_ones_lack(parity, ours)
        return
    assert sorted(ours) == theirs
    assert len(ours) > 60 and sum(" 0 0 swapper/" in line for line in theirs) == 2


def _only_excluded_ones_lack(parity: Parity, ours: list[str]) -> None:
    """makedumpfile takes pages of kernels newer than itself for free: drgn gives up, kcrash says which."""
    missing = set(tasks_of_drgn(parity.kernel, "elf")) - set(ours)
    excluded = [error for error in task_table(parity.session).errors if "excluded" in str(error)]
    assert missing and set(ours) <= set(tasks_of_drgn(parity.kernel, "elf"))
    assert 0 < len(excluded) <= len(missing)  # a leader that is excluded takes its threads along


@pytest.mark.parametrize("form", NOT_FOR_DRGN)
def test_drgn_cannot_open_what_qemu_compressed(form: str) -> None:
    """The reason for comparing with another form: it goes when this fails."""
    with pytest.raises(AssertionError, match="KDUMP_ATTR_ARCH_NAME"):
        tasks_of_drgn("6.1", form)
