"""``struct``, ``union`` and ``*`` against crash: definitions, offsets, and contents of memory."""

from __future__ import annotations

import re

import pytest

from tests.lab.lab import Dumps
from tests.parity.conftest import Parity, diff, normal

pytestmark = pytest.mark.lab

FORMS = ("elf", "zlib-d31")
DEFINED = (
    *("task_struct", "mm_struct", "vm_area_struct", "rq", "page", "sk_buff", "inode", "file", "module"),
    *("zone", "tcp_sock", "irq_desc", "kernfs_node", "timekeeper", "signal_struct", "super_block"),
    *("perf_event", "cpuinfo_x86", "fscrypt_key_specifier", "nosuch"),
)
CONTENTS = (
    "task_struct init_task",
    "task_struct -x init_task",
    "task_struct -d init_task",
    "task_struct.pid,comm,se init_task",
    "task_struct.tasks,cpus_mask -x init_task",
    "task_struct.nosuch init_task",
    "task_struct.se.vruntime init_task",
    "task_struct -r init_task",
    "task_struct -o init_task",
    "-p task_struct.parent init_task",
    "-p task_struct.active_mm init_task",
    "-p task_struct.signal,cred init_task",
    "mm_struct init_mm",
    "mm_struct.pgd,map_count init_mm",
    "cred init_cred",
    "uts_namespace init_uts_ns",
    "list_head modules",
    "list_head modules 2",
    "list_head -l 8 modules",
    "list_head -c 3 modules",
    "cpuinfo_x86 boot_cpu_data",
    "rq runqueues:a",
    "rq.nr_running,curr runqueues:0",
    "rq.cfs runqueues:1",
    "-o rq.curr",
    "-o rq.cfs runqueues:0",
    "pid_namespace init_pid_ns",
    "resource iomem_resource",
    "-x resource iomem_resource",
    "list_head 10",
    "list_head ffffffffffffff00",
)


def COMMANDS(dumps: Dumps, form: str) -> list[str]:  # the name that conftest looks for
    plain = [f"struct {name}" for name in DEFINED]
    offsets = [f"struct -o {name}" for name in DEFINED]
    hexadecimal = [f"struct -ox {name}" for name in DEFINED[:4]]
    unions = ["union thread_union", "union sigval", "* list_head", "* list_head modules", "union task_struct"]
    contents = [f"struct {words}" for words in CONTENTS]
    return [*plain, *offsets, *hexadecimal, *unions, *contents, KERNEL_AS_USER]


KERNEL_AS_USER = "struct -u list_head ffffffffffffff00"


def without_outer_offsets(theirs: list[str], ours: list[str]) -> list[str]:
    """crash's lines, without the offsets of members of named structs within: it looks them up by their names
    in the outermost struct (see the test of its own)."""
    if len(theirs) != len(ours):
        return theirs
    pairs = zip(theirs, ours, strict=True)
    return [line if mine.startswith("[") else re.sub(r"^\[\w+\] ", "", line) for line, mine in pairs]


def is_refused(lines: list[str]) -> bool:
    """True if an address could not be read: both say so, in their own words."""
    said = r"invalid \w+ virtual address|read error|seek error|not mapped|no user memory"
    return len(lines) == 1 and re.search(said, lines[0]) is not None


def comparable(command: str, theirs: str, ours: str) -> tuple[list[str], list[str]]:
    """The lines that both must share."""
    if " -p " in command:  # crash breaks lines of more than 2 KiB, within numbers
        return ["".join(theirs.split())], ["".join(ours.split())]
    lines, mine = normal(theirs), normal(ours)
    if is_refused(lines) and is_refused(mine):
        return [], []
    return without_outer_offsets(lines, mine) if "-o" in command else lines, mine


def test_same(parity: Parity) -> None:
    wrong = []
    for command in parity.commands:
        theirs, ours = comparable(command, parity.crash(command), parity.kcrash(command))
        if theirs != ours:
            wrong.append(f"{command}\n{diff(theirs, ours)}")
    if wrong:
        pytest.fail(f"{parity.kernel} {parity.form}: {len(wrong)}\n" + "\n".join(wrong)[:6000], pytrace=False)
    assert sum(len(normal(parity.crash(command))) for command in parity.commands) > 5000


# -- where crash is wrong


SHADOWED = "struct -o fscrypt_key_specifier"  # its member u is an unnamed union with a __reserved of its own


def test_crash_prints_the_offset_of_a_namesake(parity: Parity) -> None:
    """``struct -o``: within a named member crash prints the offset of what has that name outside of it."""
    theirs, ours = normal(parity.crash(SHADOWED)), normal(parity.kcrash(SHADOWED))
    assert "[4] __u32 __reserved;" in ours and "[8] } u;" in ours
    assert "[4] __u8 __reserved[32];" in theirs
    assert "__u8 __reserved[32];" in ours
