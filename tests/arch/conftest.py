"""Dumps of every machine that the lab boots, but amd64's, which have the other tests to themselves.

``machine`` comes once for each; $KCRASH_LAB_MACHINES names those that must be there, as MACHINES has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from kcrash.errors import BadFormat
from kcrash.linux.tasks import Task, task_table
from kcrash.session import Session
from tests.build.with_vmcoreinfo import with_vmcoreinfo
from tests.commands.helpers import Kept
from tests.lab import lab
from tests.lab.lab import Dumps
from tests.lab.truth import Truth

# Architecture, kernel, QEMU's CPU.
MACHINES = {
    "arm64": ("arm64", "6.12", ""),
    "arm64-a72": ("arm64", "6.12", "cortex-a72"),
    "arm64-16k": ("arm64-16k", "6.12", ""),
    "arm64-6.1": ("arm64", "6.1", ""),
    "arm64-7.2": ("arm64", "7.2", ""),
    "s390x": ("s390x", "6.12", ""),
    "s390x-7.2": ("s390x", "7.2", ""),
    "riscv64": ("riscv64", "6.12", ""),
    "riscv64-sv48": ("riscv64", "6.12", "max,sv57=off"),
    "riscv64-sv39": ("riscv64", "6.12", "max,sv57=off,sv48=off"),
    "riscv64-7.2": ("riscv64", "7.2", ""),
    "ppc64el": ("ppc64el", "6.12", ""),
    "ppc64el-hash": ("ppc64el", "6.12", "power8"),
    "i386": ("i386", "6.1", ""),
    "i386-pae": ("i386-pae", "6.1", ""),
    "armhf": ("armhf", "6.12", ""),
    "armhf-lpae": ("armhf-lpae", "6.12", ""),
    "loong64-7.2": ("loong64", "7.2", ""),
}


@dataclass
class Lab:
    """One machine's dumps, opened when asked for."""

    name: str
    dumps: Dumps
    folder: Path

    @property
    def truth(self) -> Truth:
        return self.dumps.truth

    @property
    def vmlinux(self) -> Path | None:
        """With debugging information, where its package was fetched."""
        return self.dumps.vmlinux if self.dumps.kernel.arch.debug else None

    def open(self, form: str, *, alone: bool = False) -> Session:
        """A session on a form: with the vmlinux, or on the dump alone."""
        files = [] if alone or self.vmlinux is None else [str(self.vmlinux)]
        return kcrash.open(*files, str(self.dumps.forms[form]))

    @cached_property
    def session(self) -> Session:
        return self.open("qemu-elf")

    @cached_property
    def alone(self) -> Session:
        """On the dump alone; skips where the kernel was built without BTF."""
        try:
            return self.open("qemu-elf", alone=True)
        except BadFormat as error:
            if "neither BTF nor DWARF" not in str(error):
                raise
            pytest.skip(f"{self.dumps.kernel.release} has no types in it: {error}")

    def for_drgn(self, form: str) -> Path:
        """A form with VMCOREINFO in a note, without which drgn does not take it for a kernel's.

        A copy says memory's byte order, too, by which drgn reads.
        """
        dump, copy = self.dumps.forms[form], self.folder / f"{form}-info"
        if copy.exists() or any(note.name == "VMCOREINFO" for note in self.session.dump.info.notes):
            return copy if copy.exists() else dump
        assert self.session.vmcoreinfo is not None
        text = "".join(f"{name}={value}\n" for name, value in self.session.vmcoreinfo.items())
        order = ">" if self.dumps.kernel.arch.big_endian else "<"
        return with_vmcoreinfo(dump, text.encode(), copy, order)

    def task(self, tid: int) -> Task:
        return task_table(self.session).by_pid[tid][0]

    def run(self, line: str, session: Session | None = None) -> str:
        """The output of a command line, which must succeed."""
        kept = Kept()
        shell = Shell(session or self.session, REGISTRY, stdout=lambda: kept)
        if line.startswith("gcore") and "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        kept.text = ""
        assert shell.run(line) == 0, kept.text
        return kept.text


@pytest.fixture(scope="session", params=[*MACHINES])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Each machine; those of $KCRASH_LAB_MACHINES are made if they are not there."""
    name = str(request.param)
    arch, version, cpu = MACHINES[name]
    if name not in os.environ.get("KCRASH_LAB_MACHINES", "").split(","):
        lab.require(version, cpu=cpu, arch=arch)
    made = Lab(name, lab.dumps(version, cpu=cpu, arch=arch), tmp_path_factory.mktemp(name))
    yield made
    for key in {"session", "alone"} & made.__dict__.keys():
        getattr(made, key).close()
