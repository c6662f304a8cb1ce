"""QEMU's `info registers -a` at the moment of its dumps: what each CPU held, by crash's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES = {"rfl": "rflags"}


def parse(text: str) -> list[Mapping[str, int]]:
    """The registers of each CPU, in order; ``cs`` and ``ss`` are the selectors, ``cr3`` is there too."""
    return [_cpu(part) for part in re.split(r"CPU#\d+\n", text)[1:]]


def _cpu(text: str) -> Mapping[str, int]:
    found = re.findall(r"\b([A-Z][A-Z0-9]{1,3}) *= *([0-9a-f]+)\b", text)
    named = ((name.lower(), int(value, 16)) for name, value in found)
    return {NAMES.get(name, name): value for name, value in named}


def in_user_mode(registers: Mapping[str, int]) -> bool:
    """True if the CPU ran at privilege level 3."""
    return registers["cs"] & 3 == 3
