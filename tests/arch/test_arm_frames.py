"""Frames and addresses of 32-bit ARM dumps: by the kernel's own tables as by the compiler's, and as crash
shows them (Debian's of that architecture, under QEMU)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kcrash.linux.stack import frames
from kcrash.linux.tasks import task_table
from tests.arch.conftest import Lab
from tests.lab.toolbox import foreign_crash

# The way into a kernel, which crash leaves out: of other than table-made frames it knows nothing.
ENTRY = re.compile(r"\((__\w+_(usr|svc)|ret_\w+|__sys_trace\w*|slow_work_pending)\)")
# Where a CPU that came up had begun by physical addresses.
BEGIN = re.compile(r"(\(secondary_start_kernel\)) from \[<\w+>\]")


@pytest.fixture
def arm(machine: Lab) -> Lab:
    """The machines of 32-bit ARM; skips the others."""
    if machine.session.arch.name != "arm":
        pytest.skip("for ARM of 32 bits")
    return machine


@pytest.fixture
def crash(arm: Lab) -> list[str]:
    """The command."""
    return foreign_crash(arm.dumps.kernel.arch)


def test_the_kernels_own_tables_say_what_the_compilers_say(arm: Lab) -> None:
    """Of every frame, and of every register that both know."""
    session, checked = arm.session, 0
    for task in task_table(session).tasks:
        ours, others = frames(session, task, prefer_orc=True), frames(session, task)
        assert [frame.pc for frame in ours] == [frame.pc for frame in others], task.name
        for frame, other in zip(ours, others, strict=True):
            known = frame.registers.keys() & other.registers.keys()
            assert {n: frame.registers[n] for n in known} == {n: other.registers[n] for n in known}, task.name
            checked += frame.method == "exidx"
    assert checked > 300


def run(crash: list[str], machine: Lab, commands: Path, *lines: str) -> str:
    commands.write_text("".join(f"{line}\n" for line in (*lines, "q")))
    words = [*crash, "-s", str(machine.vmlinux), str(machine.dumps.forms["qemu-elf"]), "-i", str(commands)]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    return done.stdout


def lines_of(shown: str) -> dict[str, list[str]]:
    """Lines of frames by task."""
    found = {}
    for part in re.split(r"^(?=PID: )", shown, flags=re.MULTILINE)[1:]:
        task = re.search(r"TASK: (\w+)", part)
        assert task is not None
        found[task[1]] = [BEGIN.sub(r"\1", line) for line in re.findall(r"^ *#\d.*", part, re.MULTILINE)]
    return found


def test_frames_are_crashs(machine: Lab, crash: list[str], tmp_path: Path) -> None:
    """All of crash's, and then the routine by which the kernel was entered."""
    theirs = lines_of(run(crash, machine, tmp_path / "commands", "foreach bt"))
    ours, checked = lines_of(machine.run("foreach bt")), 0
    assert ours.keys() == theirs.keys()
    for task, lines in theirs.items():
        assert ours[task][: len(lines)] == lines, task
        rest = ours[task][len(lines) :]
        assert not lines or all(ENTRY.search(line) for line in rest), (task, rest)
        checked += len(lines)
    assert checked > 300


def test_page_tables_are_crashs(machine: Lab, crash: list[str], tmp_path: Path) -> None:
    """Of one address of the kernel in every 16 MiB, and of the workload's memory."""
    area = machine.truth.area("anon")
    wanted = [f"vtop -k {address:x}" for address in range(0xC0000000, 0x100000000, 16 << 20)]
    wanted += [f"set {area.pid}", *(f"vtop -u {area.start + at:x}" for at in range(0, area.size, 4096))]
    theirs = translated(run(crash, machine, tmp_path / "commands", *wanted))
    assert len(theirs) > 40
    for address, physical in theirs.items():
        line = f"vtop -u -c {area.pid} {address:x}" if address < 0xC0000000 else f"vtop -k {address:x}"
        assert translated(machine.run(line)) == {address: physical}


def translated(shown: str) -> dict[int, int]:
    pairs = re.findall(r"^VIRTUAL +PHYSICAL *\n([0-9a-f]+) +([0-9a-f]+) *$", shown, re.MULTILINE)
    return {int(address, 16): int(physical, 16) for address, physical in pairs}


# Functions with many kinds of instructions.
CODE = (
    "do_sys_poll",
    "tcp_v4_rcv",
    "vfs_read",
    "__schedule",
    "do_DataAbort",
    "vfp_save_state",
)


def test_instructions_are_crashs(machine: Lab, crash: list[str], tmp_path: Path) -> None:
    """But for which name of several an address has, and for data that capstone takes for no instruction."""
    theirs = instructions(run(crash, machine, tmp_path / "commands", *(f"dis {name}" for name in CODE)))
    ours = instructions("".join(machine.run(f"dis {name}") for name in CODE))
    assert len(theirs) > 1000
    different = {
        at: (ours.get(at), text) for at, text in theirs.items() if ours.get(at) not in (text, "(bad)")
    }
    assert different == {}


def instructions(shown: str) -> dict[str, str]:
    """By address, without labels."""
    found = {}
    for line in shown.splitlines():
        if line.startswith("0x"):
            address, *words = re.sub(r"<[^>]*>:?", "", line).split()
            found[address] = " ".join(words).replace(" @ Impl def", "")
    return found
