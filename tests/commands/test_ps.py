"""ps on a kernel made by hand; tests/parity compares it with crash on real dumps."""

from __future__ import annotations

import struct

import pytest

from tests.commands.task_shell import data, run
from tests.linux.synthetic import TaskKernel

HEADER = "PID PPID CPU TASK ST %MEM VSZ RSS COMM"
ROWS = [
    "0 0 0 <swapper/0> RU 0.0 0 0 [swapper/0]",
    "> 0 0 1 <swapper/1> RU 0.0 0 0 [swapper/1]",
    "1 0 0 <init> IN 3.3 2000 132 init",
    "2 0 0 <kthreadd> ID 0.0 0 0 [kthreadd]",
    "> 100 1 0 <worker> RU 3.3 2000 132 worker",
    "101 1 1 <worker-1> IN 3.3 2000 132 worker-1",
    "102 1 0 <worker-2> UN 3.3 2000 132 worker-2",
]


@pytest.fixture
def kernel() -> TaskKernel:
    return TaskKernel()


def test_all(kernel: TaskKernel) -> None:
    assert run(kernel, "ps") == [HEADER, *ROWS]


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("ps -k", [0, 1, 3]),
        ("ps -u", [2, 4, 5, 6]),
        ("ps -I", [2, 3, 4, 5, 6]),
        ("ps -G", [0, 1, 2, 3, 4]),
        ("ps -G 102", [4]),
        ("ps -A", [1, 4]),
        ("ps 1 init", [2, 2]),
        ("ps 102 1", [2, 6]),
        ("ps 0x64", [4]),
        ("ps worker", [4]),
        ("ps \\worker", [4]),
        ("ps 'worker.[12]$'", [5, 6]),
        ("ps nosuch", []),
        ("ps -k 1", []),
        ("ps -y 0,FIFO", [0, 1, 2, 3, 4, 5, 6]),
        ("ps -y RR", []),
    ],
)
def test_filters(kernel: TaskKernel, line: str, rows: list[int]) -> None:
    assert run(kernel, line) == [HEADER, *(ROWS[row] for row in rows)]


def test_no_header(kernel: TaskKernel) -> None:
    assert run(kernel, "ps -H 1") == ROWS[2:3]


def test_columns_are_those_of_crash() -> None:
    from kcrash.commands.ps import task_listing
    from kcrash.output.render import TextRenderer
    from tests.commands.helpers import Kept

    kept = Kept()
    row = ("active", 1, 0, 1, 0xFF28CEB5411F0000, "RU", 0.22, 2328, 1744, "init", "init", False)
    TextRenderer(kept).render(task_listing([row], 16, True), "ps")
    assert kept.text == (
        "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM\n"
        ">       1       0   1  ff28ceb5411f0000  RU   0.2     2328     1744  init\n"
    )


def test_stack_pointers(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], thread__sp=0xFFFFC900_00001234)
    assert run(kernel, "ps -s 1 100") == [
        "PID PPID CPU KSTACKP ST %MEM VSZ RSS COMM",
        "1 0 0 ffffc90000001234 IN 3.3 2000 132 init",
        "> 100 1 0 -- RU 3.3 2000 132 worker",
    ]


def test_policies(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], policy=1, prio=49)
    assert run(kernel, "ps -Y init") == ["PID PPID CPU TASK POLICY PRIO COMM", "1 0 0 <init> FIFO 49 init"]
    assert run(kernel, "ps -y fifo") == [HEADER, ROWS[2]]
    assert "9: invalid scheduling policy" in run(kernel, "ps -y 0,9", status=1)[0]


def test_a_wrong_selector_is_told_and_the_rest_listed(kernel: TaskKernel) -> None:
    assert run(kernel, "ps 99999 1", status=1) == ["ps: invalid task or pid value: 99999", HEADER, ROWS[2]]
    assert "invalid regular expression" in run(kernel, "ps 'a['", status=1)[0]


def test_a_name_of_hexadecimal_digits_is_a_name(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], comm=b"cafe")
    assert run(kernel, "ps cafe")[1:] == [ROWS[2].replace("init", "cafe").replace("<cafe>", "<init>")]


def test_a_name_cannot_write_to_the_terminal(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], comm=b"a\n\x1b[31m\xff")
    for line in ("ps 1", "ps -p 1", "ps -l 1", "set 1"):
        text = "".join(run(kernel, line))
        assert "\x1b" not in text
        assert "a\\n\\x1b[31m\ufffd" in text


def test_a_task_whose_memory_is_missing_is_a_fault_row(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], mm=0x1000)
    found = run(kernel, "ps", status=1)
    assert len(found) == 8
    assert found[3].startswith("ps: kernel address 1008: not in dump")


def test_a_broken_list_is_told_and_the_rest_listed(kernel: TaskKernel) -> None:
    at = kernel.tasks["worker"] + kernel.types.offset("struct task_struct", "tasks")
    kernel.memory.write(at, struct.pack("<Q", 0x10))
    found = run(kernel, "ps", status=1)
    assert "not in dump" in found[0]
    assert len(found) == 10


def test_parents_children_threads(kernel: TaskKernel) -> None:
    swapper = 'PID: 0 TASK: <swapper/0> CPU: 0 COMMAND: "swapper/0"'
    init = 'PID: 1 TASK: <init> CPU: 0 COMMAND: "init"'
    worker = 'PID: 100 TASK: <worker> CPU: 0 COMMAND: "worker"'
    others = [
        'PID: 101 TASK: <worker-1> CPU: 1 COMMAND: "worker-1"',
        'PID: 102 TASK: <worker-2> CPU: 0 COMMAND: "worker-2"',
    ]
    assert run(kernel, "ps -p 100") == [swapper, init, worker]
    assert run(kernel, "ps -c 1 2") == [
        init, worker, *others, 'PID: 2 TASK: <kthreadd> CPU: 0 COMMAND: "kthreadd"', "(no children)",
    ]  # fmt: skip
    assert run(kernel, "ps -g 101") == [worker, *others]
    assert run(kernel, "ps -g 1") == [init, "(no threads)"]
    assert run(kernel, "ps -g")[0:2] == [swapper, swapper.replace("/0", "/1").replace("CPU: 0", "CPU: 1")]


def test_a_loop_of_parents_ends(kernel: TaskKernel) -> None:
    kernel.set("struct task_struct", kernel.tasks["init"], parent=kernel.tasks["worker"])
    assert len(run(kernel, "ps -p 1")) == 2


def test_limits(kernel: TaskKernel) -> None:
    found = run(kernel, "ps -r 1")
    assert found[1:3] == ["RLIMIT CURRENT MAXIMUM", "CPU (unlimited) (unlimited)"]
    assert data(kernel, "ps -r 1")[1]["current"] is None


def test_last_run(kernel: TaskKernel) -> None:
    for name, stamp in (("init", 9_000_000_000), ("worker", 9_999_000_000), ("worker-1", 5)):
        kernel.set("struct task_struct", kernel.tasks[name], sched_info__last_arrival=stamp)
    assert run(kernel, "ps -l worker 1") == [
        '[9999000000] [RU] PID: 100 TASK: <worker> CPU: 0 COMMAND: "worker"',
        '[9000000000] [IN] PID: 1 TASK: <init> CPU: 0 COMMAND: "init"',
    ]
    assert run(kernel, "ps -m 1 100")[1] == '[0 00:00:01.000] [IN] PID: 1 TASK: <init> CPU: 0 COMMAND: "init"'
    assert run(kernel, "ps -l -C 1")[:2] == [
        "CPU: 1",
        '[ 5] [IN] PID: 101 TASK: <worker-1> CPU: 1 COMMAND: "worker-1"',
    ]
    assert run(kernel, "ps -l -C 5", status=1) == ["ps: invalid cpu specification: 5"]
    assert data(kernel, "ps -m 1")[0]["ago_ns"] == 10**9


def test_summary(kernel: TaskKernel) -> None:
    assert run(kernel, "ps -S") == ["RU: 3", "IN: 2", "ID: 1", "UN: 1"]
    assert run(kernel, "ps -S 1", status=1) == ["ps: -S option takes no arguments"]
    assert run(kernel, "ps -S -u", status=1) == ["ps: -S option cannot be used with other options"]


@pytest.mark.parametrize("line", ["ps -p -c", "ps -k -u", "ps -C 0", "ps -G -l", "ps -Z"])
def test_wrong_use(kernel: TaskKernel, line: str) -> None:
    assert run(kernel, line, status=1)[0].startswith("ps: ")


def test_offline_cpus_can_be_marked(kernel: TaskKernel) -> None:
    kernel.memory.write(kernel.symbols.address("__cpu_online_mask"), struct.pack("<Q", 1))
    assert run(kernel, "ps -A")[1:] == [ROWS[1], ROWS[4]]
    from kcrash.commands._shell import Shell
    from tests.commands.helpers import Kept

    kept = Kept()
    shell = Shell(kernel.session, stdout=lambda: kept)
    shell.run("set offline hide")
    shell.run("ps -A")
    assert [line[0] for line in kept.text.splitlines()[-2:]] == ["-", ">"]


def test_json(kernel: TaskKernel) -> None:
    row = data(kernel, "ps 2")[0]
    address = row.pop("task")
    assert int(address, 16) == kernel.tasks["kthreadd"]
    assert row == {
        "command": "ps", "kind": "task", "active": False, "pid": 2, "ppid": 0, "cpu": 0, "state": "ID",
        "mem": 0.0, "vsz": 0, "rss": 0, "comm": "kthreadd", "kernel": True,
    }  # fmt: skip


def test_arguments_of_kernel_threads(kernel: TaskKernel) -> None:
    assert run(kernel, "ps -a 2")[1] == "ps: no user stack"
