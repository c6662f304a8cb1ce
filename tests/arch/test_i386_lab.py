"""i386: instructions as objdump writes them, and what makedumpfile wrote in the capture kernel."""

from __future__ import annotations

import re
import subprocess

import pytest

from kcrash.linux.code import routine
from kcrash.linux.stack import frames
from kcrash.linux.tasks import task_table
from kcrash.unwind.codemap import Tables
from tests.arch.conftest import Lab

ROUTINES = (
    "do_sys_poll",
    "tcp_v4_rcv",
    "vfs_read",
    "__schedule",
    "entry_INT80_32",
    "memcpy",
    "__switch_to_asm",
)


def test_instructions_are_objdumps(machine: Lab) -> None:
    session = machine.session
    if session.arch.name != "i386":
        pytest.skip("for i386")
    checked = 0
    for name in ROUTINES:
        start, end = routine(session, session.symbols.address(name))
        theirs = objdump(machine, start, end)
        for address, text in plain(machine.run(f"dis {name}")).items():
            code, expected = theirs.get(address, (b"", ""))
            if code and session.memory.read(address, len(code)) == code:
                assert text.replace(" [FTRACE NOP]", "") == expected, hex(address)
                checked += 1
    assert checked > 1000


def plain(shown: str) -> dict[int, str]:
    """By address, without labels; addresses of calls as they are."""
    found = {}
    for line in shown.splitlines():
        address, *words = re.sub(r"<[^>]*>:?", "", line).split()
        found[int(address, 16)] = " ".join(words)
    return found


def objdump(machine: Lab, start: int, end: int) -> dict[int, tuple[bytes, str]]:
    """``address -> (bytes, text)``, moved by KASLR; older versions leave out the 1 of a shift."""
    kaslr = machine.session.layout.kaslr
    limits = [f"--start-address={start - kaslr}", f"--stop-address={end - kaslr}"]
    words = ["objdump", "-d", "-w", *limits, str(machine.vmlinux)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = {}
    for address, code, text in re.findall(
        r"^\s*([0-9a-f]+):\t([0-9a-f ]+)\t(.*)$", done.stdout, re.MULTILINE
    ):
        text = re.sub(r"^(shr|sar|shl|rol|ror) (?=%\w+$)", r"\1 $1,", " ".join(text.split()))
        text = re.sub(r"<[^>]*>", "", text).strip()
        moved = re.sub(r"^(j\w+|call) ([0-9a-f]+)$", lambda m: f"{m[1]} {int(m[2], 16) + kaslr:#x}", text)
        found[int(address, 16) + kaslr] = bytes.fromhex(code), moved
    return found


def test_what_makedumpfile_wrote_is_what_proc_vmcore_was(machine: Lab) -> None:
    """By zlib, LZO and zstd, with headers of 32 bits; the last two without what -d 31 leaves out."""
    forms = [form for form in ("zlib-d1", "lzo-d31", "zstd-d31") if form in machine.dumps.forms]
    if machine.session.arch.name != "i386" or not forms:
        pytest.skip("for i386 whose capture kernel saves dumps")
    with machine.open("elf") as whole:
        expected = [machine.run(line, whole) for line in ("ps", "log", "foreach bt", "mod")]
    assert expected[2].count("PID:") > 60 and "sysrq_handle_crash" in expected[2]
    for form in forms:
        with machine.open(form) as session:
            assert [machine.run(line, session) for line in ("ps", "log", "foreach bt", "mod")] == expected, (
                form
            )


def test_frame_pointers_alone_give_the_frames_of_the_tables(machine: Lab) -> None:
    """Of every task, also of what interrupts and exceptions have left on the stacks."""
    if machine.session.arch.name != "i386":
        pytest.skip("for i386")
    checked = 0
    with machine.open("qemu-elf") as other:
        other.memo("kernel unwind tables", Tables)
        tasks = task_table(other).by_address
        for task in task_table(machine.session).tasks:
            expected = [frame.pc for frame in frames(machine.session, task)]
            assert [frame.pc for frame in frames(other, tasks[task.address])] == expected, task.name
            checked += len(expected)
    assert checked > 400
