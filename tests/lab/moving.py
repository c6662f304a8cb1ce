"""Boots of machines whose hypervisor writes into the dead kernel's memory to the end.

QEMU's pseries counts how often it ran a CPU, in the lppaca that the kernel had given it (offset 0x100). What
the panic stopped spins on while the capture kernel runs: /proc/vmcore is not the same when it is read again,
and the MD5 of that second reading says nothing of the first. The other forms are files, and are checked.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from tests.lab import boots
from tests.lab.boots import Boot, Report
from tests.lab.toolbox import Toolbox

_check = boots._check


def _check_files(disk: Path, report: Report) -> None:
    if report.name != "elf":
        _check(disk, report)


class MovingBoot(Boot):
    """A boot whose raw dump is taken as it is."""

    # Not by a word in boots.py: whatever changes there makes the dumps of every machine anew.
    def _boot(self, box: Toolbox, folder: Path, packed: bytes) -> None:
        with mock.patch.object(boots, "_check", _check_files):
            super()._boot(box, folder, packed)
