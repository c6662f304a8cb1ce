"""foreach on a kernel made by hand."""

from __future__ import annotations

import pytest

from tests.commands.task_shell import data, run
from tests.linux.synthetic import TaskKernel


@pytest.fixture
def kernel() -> TaskKernel:
    return TaskKernel()


def pids(lines: list[str]) -> list[str]:
    """The pids of rows of ps."""
    return [line.removeprefix("> ").split()[0] for line in lines[1:]]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ("", "0 0 1 2 100 101 102"),
        ("kernel", "0 0 2"),
        ("user", "1 100 101 102"),
        ("gleader", "1 100"),
        ("active", "0 100"),
        ("RU", "0 0 100"),
        ("ID", "2"),
        ("UN", "102"),
        ("IN user", "1 101"),
        ("102 1", "1 102"),
        ("1 1", "1"),
        ("init kthreadd", "1 2"),
        ("'worker'", "100 101 102"),
        ("'-[12]$' 0x1", "1 101 102"),
        ("\\init", "1"),
        ("user RU 'w'", "100"),
    ],
)
def test_choices(kernel: TaskKernel, chosen: str, found: str) -> None:
    assert pids(run(kernel, f"foreach {chosen} ps")) == found.split()


@pytest.mark.parametrize("chosen", ["1 kernel", "'nosuch'", "ZO"])
def test_no_task_no_line(kernel: TaskKernel, chosen: str) -> None:
    assert run(kernel, f"foreach {chosen} ps") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nosuch ps", 'unknown argument: "nosuch"'),
        ("99999 ps", 'unknown argument: "99999"'),
        ("1", "no keywords specified"),
        ("IN UN ps", "only one task state allowed"),
        ("1 log", 'unknown argument: "log"'),
        ("1 ps 2", "ps takes no tasks here"),
        ("1 ps -Z", "invalid option -- 'Z'"),
    ],
)
def test_wrong_use(kernel: TaskKernel, line: str, message: str) -> None:
    assert message in run(kernel, f"foreach {line}", status=1)[0]


def test_set_shows_a_header_and_keeps_the_context(kernel: TaskKernel) -> None:
    run(kernel, "set 102")
    found = run(kernel, "foreach 1 2 set")
    assert found[0] == 'PID: 1 TASK: <init> CPU: 0 COMMAND: "init"'
    assert found[1] == "PID: 1"
    assert len(found) == 12
    assert run(kernel, "set")[0] == "PID: 102"


def test_members_of_each_task(kernel: TaskKernel) -> None:
    assert run(kernel, "foreach 1 100 task -R pid,tgid") == [
        'PID: 1 TASK: <init> CPU: 0 COMMAND: "init"', "pid = 1,", "tgid = 1,",
        'PID: 100 TASK: <worker> CPU: 0 COMMAND: "worker"', "pid = 100,", "tgid = 100,",
    ]  # fmt: skip


def test_a_task_that_fails_does_not_end_it(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], mm=0x1000)
    found = run(kernel, "foreach user ps", status=1)
    assert len(found) == 5
    assert found[1].startswith("ps: kernel address")


def test_json_names_the_task(kernel: TaskKernel) -> None:
    found = data(kernel, "foreach 1 100 task -R prio")
    assert [row["pid"] for row in found] == [1, 1, 100, 100]
    assert {row["command"] for row in found} == {"task"}


def test_words_of_another_command_are_names_behind_a_backslash(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], comm=b"bt")
    assert pids(run(kernel, "foreach \\bt ps")) == ["1"]
