"""What the tests of this room share: targets, memory, programs compiled on the spot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kcrash.arch import find_arch
from kcrash.errors import FaultReason, MemoryFault
from kcrash.unwind import X86_64_REGS, FrameLayout, RegsLayout, Target, target_for
from tests.lab import cache, kernels

X86 = target_for(find_arch(62, "little", 64), X86_64_REGS)

# A machine that exists nowhere: 32-bit, big-endian, numbers unlike x86's, return address in a register.
BIG32 = Target(
    name="big32",
    word_bytes=4,
    byte_order="big",
    pc=40,
    sp=1,
    fp=31,
    return_column=65,
    callee_saved=frozenset(range(14, 32)),
    frame=FrameLayout(0, 4, None),
    regs=RegsLayout(16, {40: (0, 4), 1: (4, 4), 31: (8, 4), 14: (12, 4)}),
    user_mode=lambda registers: registers.get(40, 0) < 0x1000,
)

KERNELS = ("5.10", "6.1", "6.12", "7.2")


class Memory:
    """Bytes at addresses; whatever was not put there faults."""

    def __init__(self, target: Target, words: Mapping[int, int] | None = None) -> None:
        self.target = target
        self.reads = 0
        self.bytes: dict[int, int] = {}
        for address, value in (words or {}).items():
            self.put(address, value)

    def put(self, address: int, value: int) -> None:
        order = "little" if self.target.byte_order == "little" else "big"
        for i, byte in enumerate(value.to_bytes(self.target.word_bytes, order)):  # type: ignore[arg-type]
            self.bytes[address + i] = byte

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for at in range(address, address + size):
            if at not in self.bytes:
                raise MemoryFault("kernel", at, FaultReason.NOT_MAPPED)
        return bytes(self.bytes[at] for at in range(address, address + size))


def need(*programs: str) -> None:
    """Skip the test where a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def run(*command: str | Path) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def vmlinuxes() -> Iterator[tuple[str, Path]]:
    """Debug kernels that the lab has at hand; nothing is fetched for this room's sake."""
    for version in KERNELS:
        if any((cache.root() / "kernels").glob(f"{version}-*")):
            yield version, kernels.kernel(version).vmlinux
