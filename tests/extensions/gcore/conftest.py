"""Cores of the lab's workload, one a kernel and form of dump, made once.

As in tests/parity: KCRASH_LAB_KERNELS, KCRASH_LAB_FORMS choose; KCRASH_LAB=1 makes dumps that are not there.
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
from kcrash.session import Session
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile
from tests.lab import lab
from tests.lab.lab import Dumps

KERNELS = tuple(os.environ.get("KCRASH_LAB_KERNELS", "6.1,6.12").split(","))
FORMS = tuple(os.environ.get("KCRASH_LAB_FORMS", "elf,zlib-d1,qemu-elf,qemu-zlib").split(","))
# Of the oldest and the newest kernel two forms, unless the environment chooses.
MORE = (
    []
    if "KCRASH_LAB_KERNELS" in os.environ
    else [(k, f) for k in ("5.10", "7.2") for f in ("zlib-d1", "qemu-elf")]
)
CASES = [*((k, f) for k in KERNELS for f in FORMS), *MORE]


@dataclass
class Case:
    """A dump, and the cores made of it in ``folder``."""

    dumps: Dumps
    form: str
    folder: Path

    @cached_property
    def session(self) -> Session:
        return kcrash.open(str(self.dumps.vmlinux), str(self.dumps.forms[self.form]))

    def run(self, line: str) -> tuple[int, str]:
        """Status and output of a command line, with gcore loaded."""
        kept = Kept()
        shell = Shell(self.session, REGISTRY, stdout=lambda: kept)
        if "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        kept.text = ""
        return shell.run(line), kept.text

    def core(self, pid: int, options: str = "") -> CoreFile:
        """The core of a process, written once for the same options."""
        path = self.folder / f"{pid}{options.replace(' ', '')}.core"
        if not path.exists():
            status, text = self.run(f"gcore {options} -o {path} {pid}")
            assert status == 0, text
            assert text.startswith(f"Saved {path}")
        return CoreFile(path)

    @property
    def worker(self) -> CoreFile:
        return self.core(self.dumps.truth.worker)


def _dumps(version: str) -> Dumps:
    lab.require(version)
    return lab.dumps(version)


@pytest.fixture(scope="session", params=CASES, ids=lambda p: "-".join(p))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Each kernel and form."""
    version, form = request.param
    made = Case(_dumps(version), form, tmp_path_factory.mktemp("cores"))
    yield made
    if "session" in made.__dict__:
        made.session.close()


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """One dump, for what does not depend on the kernel."""
    made = Case(_dumps("6.1" if "6.1" in KERNELS else KERNELS[-1]), "elf", tmp_path_factory.mktemp("cores"))
    yield made
    if "session" in made.__dict__:
        made.session.close()
