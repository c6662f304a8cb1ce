"""Kernel 4.4, built by the lab: commands against crash 9.0.2, cores against what the workload said of itself.

Its system calls save half of struct pt_regs, and no table describes its entry code.
"""

from __future__ import annotations

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

COMMANDS = (
    *(
        "sys",
        "ps",
        "ps -m",
        "ps -t 1",
        "ps -s",
        "foreach bt",
        "bt -a",
        "foreach bt -f",
        "log",
        "mach",
        "mach -m",
    ),
    *("task -R pid,comm 1", "foreach task -R flags,state", "vtop init_task", "vtop linux_banner", "mod"),
    *("struct task_struct", "struct -o mm_struct", "struct thread_info", "struct radix_tree_node"),
    *("p init_task.comm", "p runqueues:a", "whatis schedule", "list task_struct.tasks -h init_task"),
    *("rd init_task 32", "set", "sym schedule", "sym ffffffff81000000"),
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
    return run_crash(cast(Any, made), "elf", COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_same_as_crash(session: Session, theirs: dict[str, str], command: str) -> None:
    expected, found = normal(theirs[command]), normal(run_kcrash(session, command))
    if command == "mach":  # differences.md: crash has no name for the machine checks' stack
        expected = [line.replace("(unknown)", "MCE") for line in expected]
    if command == "sys":
        expected, found = ([line for line in lines if "DUMPFILE" not in line] for lines in (expected, found))
    assert expected == found, diff(expected, found)


@pytest.fixture(scope="module")
def case(made: old_kernel.OldKernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    case = Case(cast(Any, made), "elf", tmp_path_factory.mktemp("cores"))
    yield case
    case.session.close()


CHECKS: tuple[Callable[[Case], None], ...] = (
    test_lab.test_general_registers_of_every_thread,
    test_lab.test_segment_bases,
    test_lab.test_floating_point_and_vector_registers,
    test_lab.test_memory_byte_for_byte,
    test_lab.test_auxiliary_vector,
    test_lab.test_segments_are_those_of_proc_maps,
    test_lab.test_mapped_files_are_those_of_proc_maps,
    test_lab.test_note_order_is_the_kernels,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_cores(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
