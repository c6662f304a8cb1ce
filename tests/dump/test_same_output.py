"""A real dump converted to every container: the commands must print what they print of the original."""

from __future__ import annotations

import mmap
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kcrash.arch.x86_64 import PRSTATUS, system_registers
from kcrash.dump import open_dump
from kcrash.dump.elf import ElfDump
from tests.build.containers import CONTAINERS, Memory

if TYPE_CHECKING:
    from tests.lab.streams import Streams

pytestmark = pytest.mark.lab
KERNEL = "6.12"
COMMANDS = ("sys", "ps", "foreach bt", "log", "mod")
# As many others as there are kinds: none of them needs a CPU's registers.
OTHERS = (
    *(
        "mach",
        "mach -m",
        "task 1",
        "foreach task -R pid,comm",
        "ps -t 1",
        "vtop init_task",
        "rd init_task 64",
    ),
    *("struct task_struct init_task", "p runqueues:a", "dis schedule 8", "sym schedule", "whatis jiffies"),
    *(
        "list task_struct.tasks -h init_task -s task_struct.pid",
        "tree -t maple -p -r mm_struct.mm_mt init_mm",
    ),
)
ROM = 0xC0000000  # QEMU maps video memory above: no RAM


@pytest.fixture(scope="module")
def made() -> Streams:
    streams = pytest.importorskip("tests.lab.streams")
    if not streams.cached(KERNEL):
        pytest.skip(f"the lab has no migration streams of {KERNEL}: python -m tests.lab --streams makes them")
    found: Streams = streams.streams(KERNEL)
    return found


def registers(dump: ElfDump) -> Sequence[Mapping[str, int]]:
    """What the notes of a dump of QEMU's say of each CPU."""
    form, found = struct.Struct(f"<{len(PRSTATUS.registers)}Q"), []
    notes = [note.data for note in dump.info.notes if (note.name, note.type) == ("CORE", 1)]
    for note, (cr3, cr4, idt_base) in zip(notes, system_registers(dump.info), strict=True):
        named = dict(zip(PRSTATUS.registers, form.unpack_from(note, PRSTATUS.regs), strict=True))
        found.append({**named, "cr0": 0x80050033, "cr3": cr3, "cr4": cr4, "idt_base": idt_base})
    return found


@pytest.fixture(scope="module")
def memory(made: Streams) -> Memory:
    """The original's RAM, mapped."""
    path = made.dumps["stream"]
    dump = open_dump([path])
    assert isinstance(dump, ElfDump)
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    loads = sorted((s for s in dump.segments if s.paddr < ROM), key=lambda segment: segment.paddr)
    return Memory([(s.paddr, view[s.offset : s.offset + s.filesz]) for s in loads], registers(dump))


def output(
    vmlinux: Path | None, words: Sequence[str], all_rows: bool = True, commands: Sequence[str] = COMMANDS
) -> str:
    """What the commands print, without the names of the files; ``all_rows``: none may fail."""
    argv = [sys.executable, "-m", "kcrash", "-s", *([str(vmlinux)] if vmlinux else []), *words]
    argv += [word for command in commands for word in ("-c", command)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == (not all_rows), done.stdout[-500:] + done.stderr[-2000:]
    return re.sub(r"DUMPFILE: .*", "", done.stdout)


@pytest.fixture(scope="module")
def original(made: Streams) -> str:
    text = output(made.kernel.vmlinux, [str(made.dumps["stream"])])
    assert text.count("PID: ") > 60
    return text


@pytest.fixture(scope="module")
def original_others(made: Streams) -> str:
    return output(made.kernel.vmlinux, [str(made.dumps["stream"])], commands=OTHERS)


def comparable(text: str) -> str:
    """Without SS of kernel code (0 behind an interrupt of user space), which a vmss is not known to have."""
    return re.sub(r"SS: (0000|0018)", "SS:", text)


def without_active(text: str) -> str:
    """Leave out the traces of tasks that were on a CPU, which want its registers: their TASKs lead ps's rows
    with ">"."""
    active = re.findall(r"^> +\d+ +\d+ +\d+ +([0-9a-f]{16}) ", text, re.MULTILINE)
    assert len(active) == 2
    for task in active:
        text, count = re.subn(rf"^PID: .*TASK: {task} (.*\n)*?\n", "", text, flags=re.MULTILINE)
        assert count == 1
    return text


# They pack half a gigabyte as others do that are faster; tests.dump.test_containers has them.
SLOW = ("qcow2 snapshot, small clusters", "elf in xz", "libvirt xz", "libvirt bzip2", "lkcd 1")


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in SLOW])
def test_same_output(
    made: Streams, memory: Memory, original: str, original_others: str, tmp_path: Path, name: str
) -> None:
    container = CONTAINERS[name]
    words = container.write(tmp_path, memory)
    text = output(made.kernel.vmlinux, words, all_rows=container.registers)
    others = output(made.kernel.vmlinux, words, commands=OTHERS)
    for path in tmp_path.iterdir():
        path.unlink()
    if container.registers:
        known = comparable if name.startswith("vmss") else str
        assert known(text) == known(original)
    else:
        assert without_active(text) == without_active(original)
    assert others == original_others


ALONE = ("lime", "raw", "lkcd 8 gzip", "sadump", "qemu, no description", "elf, labelled big-endian")


@pytest.mark.parametrize("name", ALONE)
def test_the_dump_alone(made: Streams, memory: Memory, tmp_path: Path, name: str) -> None:
    """Containers that do not name the machine, or with the wrong byte order (as QEMU does ppc64le's), and
    no vmlinux: all has to come out of memory."""
    original = output(None, [str(made.dumps["stream"])])
    container = CONTAINERS[name]
    text = output(None, container.write(tmp_path, memory), all_rows=container.registers)
    for path in tmp_path.iterdir():
        path.unlink()
    assert without_active(text) == without_active(original)


@pytest.mark.parametrize("name", ["stream", "snapshot.qcow2", "mapped-ram", "mapped-ram.qcow2"])
def test_streams_of_qemu(made: Streams, name: str) -> None:
    """Those that QEMU wrote, beside its own dump of the same stopped machine."""
    theirs = output(made.kernel.vmlinux, [str(made.dumps[name])])
    assert output(made.kernel.vmlinux, [str(made.files[name])]) == theirs
