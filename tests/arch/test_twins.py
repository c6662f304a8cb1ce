"""Cores beside those that the guest's kernel wrote of a twin process: every note, every segment.

Not the same are what tells the twins apart (ids, name, times), and what killed one of them: the signal, which
also made the kernel forget the system call.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Set
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from tests.arch.forms import CORES, CoreForm
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile, Thread
from tests.lab import twins
from tests.lab.twins import Twins

MACHINES = [
    ("amd64", "5.10", ""),
    ("amd64", "6.1", ""),
    ("amd64", "6.12", ""),
    ("amd64", "7.2", ""),
    ("arm64", "6.12", ""),
    ("arm64", "6.12", "cortex-a72"),
    ("arm64", "6.1", ""),
    ("arm64", "7.2", ""),
    ("s390x", "6.12", ""),
    ("s390x", "7.2", ""),
    ("riscv64", "6.12", ""),
    ("ppc64el", "6.12", ""),
    ("ppc64el", "6.12", "power8"),
    ("i386", "6.1", ""),
    ("i386-pae", "6.1", ""),
    ("armhf", "6.12", ""),
    ("armhf-lpae", "6.12", ""),
    ("ppc64el-64k", "6.12", ""),
    ("ppc64el-64k", "6.12", "power8"),
    ("ppc64el-64k", "7.2", ""),
    ("loong64", "7.2", ""),
]
OWN = {"PRPSINFO", "SIGINFO", "LINUX:0x404", "LINUX:0x307"}
LAST = ("XSAVE_LAYOUT", "KCRASH")  # notes of no thread
THREADS = 5  # at least
STRAY = 16  # words of a mapping
NOT_IN_MEMORY = {"LINUX:0xa00"}  # CPUCFG of LoongArch: what an instruction tells
AT_SYSINFO_EHDR = 33  # of the auxiliary vector: where [vdso] is
SSBS = 1 << 12  # of arm64's pstate: whether stores may be bypassed


@pytest.fixture(
    scope="module", params=MACHINES, ids=lambda machine: "-".join(part for part in machine if part)
)
def made(request: pytest.FixtureRequest) -> Twins:
    """Made only when asked for ($KCRASH_LAB=1)."""
    arch, version, cpu = request.param
    if not twins.cached(version, arch=arch, cpu=cpu) and os.environ.get("KCRASH_LAB") != "1":
        pytest.skip(f"NO TWINS on {arch} {version} {cpu}: set KCRASH_LAB=1")
    return twins.twins(version, arch=arch, cpu=cpu)


@pytest.fixture
def cores(made: Twins, tmp_path: Path) -> tuple[CoreFile, CoreFile]:
    """The kernel's, and gcore's."""
    path, kept = tmp_path / "core", Kept()
    files = [str(made.kernel.vmlinux)] if made.kernel.arch.debug else []
    with kcrash.open(*files, str(made.dump)) as session:
        shell = Shell(session, REGISTRY, stdout=lambda: kept)
        if "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        assert shell.run(f"gcore -o {path} {twins.LIVE}") == 0, kept.text
    return CoreFile(made.core), CoreFile(path)


Notes = list[tuple[str, bytes]]


def _threads(core: CoreFile) -> dict[int, Notes]:
    """Each thread's notes by id, in the order in which the twins started theirs.

    The kernel has them as they came to die.
    """
    found: dict[int, Notes] = {}
    for kind, data in core.notes:
        if kind == "PRSTATUS":
            found[Thread(data, {}, core.order, core.wide).pid] = last = []
        if kind not in LAST and kind not in NOT_IN_MEMORY:
            last.append((kind, data))
    return dict(sorted(found.items()))


def _common(form: CoreForm, cores: tuple[CoreFile, CoreFile]) -> tuple[dict[int, Notes], dict[int, Notes]]:
    """The threads of both cores. io_uring's workers, which have no place in user space, are threads since
    v5.12; one that ends before the signal reaches it is not in the kernel's core."""
    pair = _threads(cores[0]), _threads(cores[1])
    workers = [[tid for tid, notes in threads.items() if not _place(form, notes[0][1])] for threads in pair]
    if len(workers[0]) != len(workers[1]):
        for threads, tids in zip(pair, workers, strict=True):
            for tid in tids:
                del threads[tid]
    return pair


def _place(form: CoreForm, status: bytes) -> int:
    return form.general(status)[form.pc]


def test_notes_are_the_kernels(made: Twins, cores: tuple[CoreFile, CoreFile]) -> None:
    form = CORES[made.kernel.arch.debian]
    dead, live = _common(form, cores)
    assert len(dead) == len(live) >= THREADS
    for theirs, ours in zip(dead.values(), live.values(), strict=True):
        assert [(kind, len(data)) for kind, data in ours] == [(kind, len(data)) for kind, data in theirs]
        for (kind, one), (_kind, other) in zip(theirs, ours, strict=True):
            if kind == "PRSTATUS":
                assert _registers_alike(form, one, other, dead.keys(), live.keys())
            elif kind not in OWN:
                different = sum(a != b for a, b in zip(one, other, strict=True))
                assert different <= (8 if kind in form.leftovers else 0), kind
    last = [[note for note in core.notes if note[0] == "XSAVE_LAYOUT"] for core in cores]
    assert last[0] == last[1]


def _registers_alike(form: CoreForm, theirs: bytes, ours: bytes, dead: Set[int], live: Set[int]) -> bool:
    """The same words but for ids, and two at most where the C library keeps something of the thread's own.

    Threads that wait for the first one to dump have let go of fs before v5.16: there the kernel's is 0.
    The dead twin's pc may be at the system call again: its signal was about to restart it.
    """
    one, other = (form.general(data) for data in (theirs, ours))
    pc = form.pc
    assert other[pc] - one[pc] in ((0, form.call) if one[pc] else (0,))
    assert one[form.sp] == other[form.sp] and (one.get("pstate", 0) ^ other.get("pstate", 0)) & ~SSBS == 0
    different = {name for name in one if one[name] != other[name]} - {pc, "pstate"} - form.loose
    own = {name for name in different if one[name] in dead and other[name] in live}
    let_go = {name for name in different & {"fs_base"} if not one[name]}
    return len(different - own - let_go) <= 2 and theirs[-8:] == ours[-8:]


def test_segments_are_the_kernels(cores: tuple[CoreFile, CoreFile]) -> None:
    kernels, ours = (
        [(s.flags, s.address, s.file_size, s.memory_size, s.align) for s in c.loads] for c in cores
    )
    assert ours == kernels


def test_contents_are_the_kernels(cores: tuple[CoreFile, CoreFile]) -> None:
    """Every byte, but for ids and a few words a mapping that the C library keeps (ids in decimal, too)."""
    theirs, ours = cores
    ids = [_threads(core).keys() for core in cores]
    total, clock = 0, dict(theirs.auxv()).get(AT_SYSINFO_EHDR)
    for segment in theirs.loads:
        if segment.address + segment.memory_size == clock:
            continue  # [vvar], in cores of 32-bit ARM: the time, in front of the code that tells it
        pieces = [core.memory(segment.address, segment.file_size) for core in (theirs, ours)]
        total += segment.file_size
        count = len(pieces[0]) // (8 if theirs.wide else 4)
        words = [struct.unpack(f"{theirs.order}{count}{theirs.word}", piece) for piece in pieces]
        pairs = [(one, other) for one, other in zip(*words, strict=True) if one != other]
        other = [pair for pair in pairs if not (pair[0] in ids[0] and pair[1] in ids[1])]
        assert len(other) <= STRAY, hex(segment.address)
    assert total > 2 << 20
