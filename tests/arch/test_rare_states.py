"""Threads in rare states on other machines than x86_64: every register beside what the threads said.

(tests/extensions/gcore/test_rare.py has x86_64's, and more of each.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

import kcrash
from kcrash.commands import REGISTRY
from kcrash.commands._shell import Shell
from tests.arch.forms import CORES
from tests.commands.helpers import Kept
from tests.extensions.gcore.corefile import CoreFile
from tests.lab import rare

MACHINES = [("arm64", "6.12", "qemu-elf"), ("arm64", "6.12", "elf"), ("riscv64", "6.12", "qemu-elf")]
STATES = {"sleep", "filtered", "notifying", "new", "hog", "busy", "entering", "leaving", "half", "crash"}


@pytest.mark.parametrize(("arch", "version", "form"), MACHINES)
def test_registers(arch: str, version: str, form: str, tmp_path: Path) -> None:
    rare.require(version, arch=arch)
    made = rare.rare(version, arch=arch)
    truth, kept = made.truth, Kept()
    assert truth.complete
    assert not truth.failures
    assert {thread.state for thread in truth.threads} == STATES
    files = [str(made.kernel.vmlinux)] if made.kernel.arch.debug else []
    with kcrash.open(*files, str(made.forms[form])) as session:
        shell = Shell(session, REGISTRY, stdout=lambda: kept)
        if "gcore" not in REGISTRY:
            shell.context.extensions.load("gcore")
        for thread in truth.threads:
            if not thread.registers:
                continue
            path = tmp_path / str(thread.tid)
            assert shell.run(f"gcore -o {path} {thread.pid}") == 0, kept.text
            found = CORES[arch].general(CoreFile(path).thread(thread.tid).status)
            true = dict(thread.registers)
            if thread.state == "crash" and form == "elf":
                del true["x8"]  # the number of the call that crashed the machine, not of the one before
            if thread.state == "entering":
                true.pop("x7", None)  # of arm64: there a tracer is told which of the stops at a call it is
            names = true.keys() & found.keys()
            assert len(names) > 30
            wrong = {n: (hex(found[n]), hex(true[n])) for n in names if found[n] != true[n]}
            assert not wrong, f"{thread.state}: (found, true) {wrong}"
