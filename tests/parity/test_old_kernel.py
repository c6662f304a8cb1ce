"""Kernel 4.4, built by the lab: commands against crash 9.0.2, cores against what the workload said of itself.

Its system calls save half of struct pt_regs, and no table describes its entry code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import kcrash
from kcrash.session import Session
from tests.extensions.gcore import test_lab
from tests.extensions.gcore.conftest import Case
from tests.lab import old_kernel
from tests.parity.conftest import diff, normal, run_crash, run_kcrash

pytestmark = pytest.mark.lab

LINES = (
    *("sys", "ps", "ps -t 1", "ps -s", "foreach bt", "foreach bt -f", "log", "mach", "mach -m", "mod", "set"),
    *("task -R pid,comm 1", "foreach task -R flags,state", "vtop ffffffff81000000", "vtop ffff880000060000"),
    *("struct task_struct", "struct -o mm_struct", "struct thread_info", "struct radix_tree_node"),
    *("p init_task.comm", "p runqueues:a", "whatis schedule", "list task_struct.tasks -h init_task"),
    *("rd init_task 32", "sym schedule", "sym ffffffff81000000", "dis schedule 5"),
)


@pytest.fixture(scope="module")
def made() -> old_kernel.OldKernel:
    if not old_kernel.cached():
        pytest.skip("NO KERNEL 4.4: python -m tests.lab --old builds it")
    return old_kernel.old_kernel()


@pytest.fixture(scope="module", params=[*old_kernel.FORMS])
def session(request: pytest.FixtureRequest, made: old_kernel.OldKernel) -> Iterator[Session]:
    opened = kcrash.open(str(made.vmlinux), str(made.forms[request.param]))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def theirs(made: old_kernel.OldKernel) -> dict[str, str]:
    return run_crash(cast(Any, made), "elf", LINES)


@pytest.mark.parametrize("line", LINES)
def test_same_as_crash(session: Session, theirs: dict[str, str], line: str) -> None:
    """But for what differences.md lists."""
    expected, found = (comparable(text) for text in (theirs[line], run_kcrash(session, line)))
    assert expected == found, diff(expected, found)


def comparable(text: str) -> list[str]:
    """Lines, without the trace of the thread that spins in user space, the file's name, a date near 1970."""
    text = re.sub(r"^PID: \d+ .*COMMAND: \"lab-spin\"\n(.+\n)*", "", text, flags=re.MULTILINE)
    lines = [line.replace("(unknown) STACK", "MCE STACK") for line in normal(text)]
    return [line for line in lines if not line.startswith(("DUMPFILE:", "DATE:"))]


@pytest.fixture(scope="module")
def case(made: old_kernel.OldKernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    case = Case(cast(Any, made), "elf", tmp_path_factory.mktemp("cores"))
    yield case
    case.session.close()


CHECKS: tuple[Callable[[Case], None], ...] = (
    test_lab.test_segment_bases,
    test_lab.test_floating_point_and_vector_registers,
    test_lab.test_memory_byte_for_byte,
    test_lab.test_auxiliary_vector,
    test_lab.test_mapped_files_are_those_of_proc_maps,
    test_lab.test_note_order_is_the_kernels,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_cores(case: Case, check: Callable[[Case], None]) -> None:
    check(case)


def test_general_registers(case: Case) -> None:
    """Those that the fast path of system calls did not save, too; what an interrupt leaves in orig_rax is the
    inverted number of its vector, which newer kernels set to -1."""
    checked = 0
    for core, threads in test_lab._cores(case):
        for thread in threads:
            found, true = core.thread(thread.tid).registers, dict(thread.registers)
            if true.get("orig_rax") == 2**64 - 1:
                assert found["orig_rax"] >= 2**64 - 256, thread.name
                del true["orig_rax"]
            found["eflags"] &= ~test_lab.RESUME_FLAG
            assert {name: found[name] for name in true} == true, thread.name
            checked += len(true)
    assert checked > 300


def test_segments(case: Case) -> None:
    """/proc/PID/maps of these kernels leaves out the guard page of a stack; cores have it, as a hole."""
    core, truth = case.worker, case.dumps.truth
    maps = truth.fact(f"/proc/{truth.worker}/maps").splitlines()
    ends = {int(line.split("-")[1].split()[0], 16) for line in maps if "vvar" not in line}
    assert len(ends) > 50 and ends <= {segment.address + segment.memory_size for segment in core.loads}
