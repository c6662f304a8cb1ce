"""``mach`` and ``pte`` against crash 9.0.2."""

from __future__ import annotations

import pytest

from tests.lab.lab import Dumps
from tests.parity.conftest import Parity, diff, normal

pytestmark = pytest.mark.lab

SWAPPED = [(~offset << 9 | 2) & (1 << 59) - 1 for offset in (1, 1000, 1 << 20)]  # of swap area 0
VALUES = ("d8e067", "8000000012345867", "0", "67", "8000000000000001", *(f"{value:x}" for value in SWAPPED))


def COMMANDS(dumps: Dumps, form: str) -> list[str]:  # the name that conftest looks for
    maps = ["mach", "mach -m", "mach -c", "mach -cx", "mach -cd"]
    return [*maps, *(f"pte {value}" for value in VALUES), "pte 67 jjj"]


def comparable(lines: list[str]) -> list[str]:
    """Without what differences.md lists: HZ, and the machine check stacks of kernels before v6.2."""
    found, dropped = [], False
    for line in lines:
        if "STACK" in line:
            dropped = line.startswith(("MCE ", "(unknown) "))
        if not dropped and not line.startswith("HZ:"):
            found.append(line)
    return found


def test_same(parity: Parity) -> None:
    for command in parity.commands:
        theirs, ours = (comparable(normal(text)) for text in (parity.crash(command), parity.kcrash(command)))
        assert theirs == ours, f"{command}\n{diff(theirs, ours)}"
