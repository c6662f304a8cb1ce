"""task on a kernel made by hand."""

from __future__ import annotations

import pytest

from tests.commands.task_shell import data, run
from tests.linux.synthetic import TaskKernel


@pytest.fixture
def kernel() -> TaskKernel:
    return TaskKernel()


def test_both_structs(kernel: TaskKernel) -> None:
    found = run(kernel, "task 1")
    assert found[:3] == [
        'PID: 1 TASK: <init> CPU: 0 COMMAND: "init"',
        "struct task_struct {",
        "thread_info = {",
    ]
    assert found[-4:] == ["struct thread_info {", "flags = 0,", "cpu = 0", "}"]


def test_members_of_either_struct(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], flags=0x400100, thread_info__flags=8)
    wanted = ["flags = 4194560,", "flags = 8,", "cpu = 0", "sched_info.last_arrival = 0"]
    assert run(kernel, "task -R flags,cpu,sched_info.last_arrival 1")[1:] == wanted
    assert run(kernel, "task -x -R flags 1")[1:] == ["flags = 0x400100,", "flags = 0x8,"]
    assert run(kernel, "task flags 1")[1:] == ["flags = 4194560,", "flags = 8,"]


def test_no_such_member(kernel: TaskKernel) -> None:
    found = run(kernel, "task -R nosuch,pid 1", status=1)
    assert found[1:] == ["task: nosuch: not a task_struct or thread_info member", "pid = 1,"]


def test_no_such_task(kernel: TaskKernel) -> None:
    found = run(kernel, "task -R pid 99999 1", status=1)
    assert found == [
        "task: invalid task or pid value: 99999",
        'PID: 1 TASK: <init> CPU: 0 COMMAND: "init"',
        "pid = 1,",
    ]


def test_a_task_that_cannot_be_read_is_a_fault(kernel: TaskKernel) -> None:
    run(kernel, "ps")
    kernel.memory.holes.add(kernel.tasks["init"] + kernel.types.offset("struct task_struct", "pid"))
    found = run(kernel, "task -R pid 1 2", status=1)
    assert "not in dump" in found[1]
    assert found[-1] == "pid = 2,"


def test_the_context_task_without_arguments(kernel: TaskKernel) -> None:
    run(kernel, "set 2")
    assert run(kernel, "task -R pid")[1] == "pid = 2,"


def test_json(kernel: TaskKernel) -> None:
    member = data(kernel, "task -R pid 1")[1]
    assert (member["member"], member["value"], member["type"]) == ("pid", 1, "struct task_struct")
    whole = data(kernel, "task 1")[1]
    assert whole["value"]["pid"] == 1
    assert whole["value"]["comm"] == "init"
