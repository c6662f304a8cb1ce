"""Cores beside those that the guest's kernel wrote of a twin process: every note, every segment.

Not the same are what tells the twins apart (ids, name, times), and what killed one of them: the signal, which
also made the kernel forget the system call.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from tests.arch.forms import CORES, CoreForm
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile
from tests.lab import twins
from tests.lab.twins import Twins

MACHINES = [
    ("arm64", "6.12", ""),
    ("arm64", "6.12", "cortex-a72"),
    ("arm64", "6.1", ""),
    ("arm64", "7.2", ""),
    ("s390x", "6.12", ""),
    ("riscv64", "6.12", ""),
    ("ppc64el", "6.12", ""),
    ("ppc64el", "6.12", "power8"),
    ("i386", "6.1", ""),
    ("i386-pae", "6.1", ""),
    ("armhf", "6.12", ""),
    ("armhf-lpae", "6.12", ""),
    ("ppc64el-64k", "6.12", ""),
    ("ppc64el-64k", "6.12", "power8"),
]
OWN = {"PRPSINFO", "SIGINFO", "LINUX:0x404", "LINUX:0x307"}
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


def test_notes_are_the_kernels(made: Twins, cores: tuple[CoreFile, CoreFile]) -> None:
    form = CORES[made.kernel.arch.debian]
    kernels, ours = (core.notes for core in cores)
    assert [(kind, len(data)) for kind, data in ours if kind != "KCRASH"] == [(k, len(d)) for k, d in kernels]
    for (kind, theirs), (_kind, data) in zip(kernels, ours, strict=False):
        if kind == "PRSTATUS":
            assert _registers_alike(form, theirs, data)
        elif kind not in OWN:
            assert data == theirs, kind


def _registers_alike(form: CoreForm, theirs: bytes, ours: bytes) -> bool:
    """The same words but for two at most, where the C library keeps something of the thread's own.

    The dead twin's pc may be at the system call again: its signal was about to restart it.
    """
    one, other = (form.general(data) for data in (theirs, ours))
    assert other[form.pc] - one[form.pc] in (0, form.call)
    assert one[form.sp] == other[form.sp] and (one.get("pstate", 0) ^ other.get("pstate", 0)) & ~SSBS == 0
    different = {name for name in one if one[name] != other[name]} - {form.pc, "pstate"} - form.loose
    return len(different) <= 2 and theirs[-8:] == ours[-8:]


def test_segments_are_the_kernels(cores: tuple[CoreFile, CoreFile]) -> None:
    kernels, ours = (
        [(s.flags, s.address, s.file_size, s.memory_size, s.align) for s in c.loads] for c in cores
    )
    assert ours == kernels
