"""What kcrash reads out of QEMU's dumps against what the guest itself read in its /proc just before."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import pytest

import kcrash
from kcrash.linux.modules import Module, for_each_module
from kcrash.linux.printk import log_records
from kcrash.linux.tasks import task_table
from kcrash.linux.time import hz, uptime
from kcrash.session import Session
from tests.lab import kernels, lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", params=tuple(kernels.SUITES))
def dumps(request: pytest.FixtureRequest) -> lab.Dumps:
    """A kernel's dump that QEMU took while the guest waited."""
    if not lab.cached(request.param) and not os.environ.get("KCRASH_LAB"):
        pytest.skip(f"no dumps of {request.param} yet: python -m tests.lab makes them, or set KCRASH_LAB=1")
    return lab.dumps(request.param, names=["qemu-elf"])


@pytest.fixture(scope="module")
def session(dumps: lab.Dumps) -> Iterator[Session]:
    opened = kcrash.open(str(dumps.vmlinux), str(dumps.forms["qemu-elf"]))
    yield opened
    opened.close()


def test_the_log(dumps: lab.Dumps, session: Session) -> None:
    ours = []
    for record in log_records(session):
        assert record.time is not None
        stamp = f"[{record.time // 10**9:5}.{record.time // 1000 % 10**6:06}]"
        ours += [f"{stamp} {line.decode()}".rstrip() for line in record.text.split(b"\n")]
    told = [line.rstrip() for line in dumps.truth.fact("dmesg").splitlines()]
    assert len(told) > 300 and ours[: len(told)] == told


def test_modules(dumps: lab.Dumps, session: Session) -> None:
    """Names, sizes, addresses, in the kernel's order."""
    rows = (line.split() for line in dumps.truth.fact("/proc/modules").splitlines())
    told = [(row[0], int(row[1]), int(row[-1], 16)) for row in rows]
    found = [each for each in for_each_module(session) if isinstance(each, Module)]
    assert len(told) > 5 and [(each.name, each.size, each.base) for each in found] == told


def lasting(rows: Iterable[tuple[int, int, str]]) -> dict[int, tuple[int, str]]:
    """Threads that do not come and go: the kernel's workers do, and the sleep that init waits for."""
    passing = ("kworker", "sleep")
    return {tid: (tgid, comm) for tid, tgid, comm in rows if tid and not comm.startswith(passing)}


def test_tasks(dumps: lab.Dumps, session: Session) -> None:
    """Every thread with its process."""
    told = lasting((task.tid, task.tgid, task.comm) for task in dumps.truth.tasks)
    ours = lasting((task.pid, task.tgid, task.name) for task in task_table(session).tasks)
    assert len(told) > 50 and told.keys() == ours.keys()
    for tid, (tgid, name) in ours.items():
        # /proc writes the whole name of a kernel thread, comm has the first 15 bytes of it.
        assert told[tid][0] == tgid and (told[tid][1][:15] if len(name) == 15 else told[tid][1]) == name


def test_time(dumps: lab.Dumps, session: Session) -> None:
    told = float(dumps.truth.fact("/proc/uptime").split()[0])
    assert 0 <= uptime(session) - told < 30 and hz(session) == 250


def test_the_kernel_lies_where_the_guest_says(dumps: lab.Dumps, session: Session) -> None:
    """KASLR's two offsets: symbols as /proc/kallsyms has them, their memory as /proc/iomem has it."""
    code = re.search(r"(\w+)-\w+ : Kernel code", dumps.truth.fact("/proc/iomem"))
    assert code is not None
    text = session.symbols.address("_text")
    assert session.memory.translate(text) == int(code[1], 16)
    told = re.findall(r"^(\w+) \w (\w+)$", dumps.truth.fact("/proc/kallsyms"), re.M)
    assert len(told) >= 6
    assert all(session.symbols.address(name) == int(address, 16) for address, name in told)
