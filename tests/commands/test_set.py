"""set on a kernel made by hand."""

from __future__ import annotations

import struct

import pytest

from kcrash.commands._shell import Shell
from tests.commands.helpers import Kept
from tests.commands.task_shell import data, run
from tests.linux.synthetic import TaskKernel


@pytest.fixture
def kernel() -> TaskKernel:
    return TaskKernel()


def block(pid: str, name: str, state: str, cpu: int = 0, place: str = "") -> list[str]:
    task = f"TASK: <{name}> {place}[THREAD_INFO: <{name}>]"
    return [f"PID: {pid}", f'COMMAND: "{name}"', task, f"CPU: {cpu}", f"STATE: {state}"]


def test_a_task_by_pid_address_or_hexadecimal_pid(kernel: TaskKernel) -> None:
    wanted = block("100", "worker", "TASK_RUNNING (ACTIVE)")
    for word in ("100", "64", "0x64", f"{kernel.tasks['worker']:x}", f"{kernel.tasks['worker']:#x}"):
        assert run(kernel, f"set {word}") == wanted
    assert run(kernel, "set") == wanted


def test_tasks_that_share_a_pid_are_counted(kernel: TaskKernel) -> None:
    assert run(kernel, "set 0") == block("0", "swapper/0", "TASK_RUNNING", place="(1 of 2) ")


@pytest.mark.parametrize("word", ["99999", "init", "0xgg", "1_0", "-1"])
def test_what_is_no_task(kernel: TaskKernel, word: str) -> None:
    assert f"{word.lstrip('-')}" in run(kernel, f"set {word}", status=1)[0]


def test_cpus(kernel: TaskKernel) -> None:
    assert run(kernel, "set -c 1") == block("0", "swapper/1", "TASK_RUNNING (ACTIVE)", 1, "(2 of 2) ")
    assert run(kernel, "set -c 9", status=1) == ["set: invalid cpu number: system has only 2 cpus"]


def test_the_task_that_panicked(kernel: TaskKernel) -> None:
    assert run(kernel, "set -p", status=1) == ["set: no panic task found!"]
    kernel.symbol("crashing_cpu", kernel.memory.add(struct.pack("<I", 0)))
    kernel.context = None
    assert run(kernel, "set -p")[-1] == "STATE: TASK_RUNNING (PANIC)"
    assert data(kernel, "set")[0]["role"] == "PANIC"


def test_marking_a_task_active(kernel: TaskKernel) -> None:
    kept = Kept()
    shell = Shell(kernel.session, stdout=lambda: kept)
    shell.run("set -a 102")
    assert "has been marked as the active task on cpu 0" in kept.text
    assert run(kernel, "set 102")[-1] == "STATE: TASK_UNINTERRUPTIBLE (ACTIVE)"
    assert run(kernel, "set 100")[-1] == "STATE: TASK_RUNNING"
    assert run(kernel, "set -c 0")[0] == "PID: 102"


def test_variables_need_no_dump() -> None:
    kept = Kept()
    assert Shell(None, stdout=lambda: kept).run("set radix 16") == 0
    assert "16" in kept.text
    assert Shell(None, stdout=lambda: kept).run("set 1") == 1


def test_two_tasks_are_too_many(kernel: TaskKernel) -> None:
    assert "too many arguments" in run(kernel, "set 1 2", status=1)[0]
