"""A compiled program, its memory as gdb's core file holds it, and what gdb says about it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kcrash.errors import FaultReason, MemoryFault
from kcrash.memory.space import AddressSpace
from kcrash.symbols.elffile import ElfFile
from kcrash.symbols.table import ElfSymbols, Symbols
from kcrash.types.dwarf import DwarfSource
from kcrash.types.namespace import Types
from kcrash.values.scope import Scope

SOURCE = Path(__file__).with_name("sample.c")
# As crash sets gdb up.
SETTINGS = (
    "set print pretty on",
    "set print repeats unlimited",
    "set print elements 256",
    "set print null-stop off",
    "set width 0",
    "set confirm off",
)


class Segments(AddressSpace):
    """Memory made of the loadable segments of ELF files, the first that has an address."""

    def __init__(self, *files: Path) -> None:
        super().__init__("process", "little", 8)
        self.pieces: list[tuple[int, bytes]] = []
        for file in files:
            self.pieces += _loads(file.read_bytes())

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.pieces:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)


def _loads(image: bytes) -> Iterator[tuple[int, bytes]]:
    at, count = int.from_bytes(image[32:40], "little"), int.from_bytes(image[56:58], "little")
    for number in range(count):
        header = image[at + number * 56 : at + number * 56 + 56]
        words = [int.from_bytes(header[i : i + 8], "little") for i in range(8, 56, 8)]
        if int.from_bytes(header[:4], "little") == 1:
            yield words[1], image[words[0] : words[0] + words[3]]


class Sample:
    """The program and the tools around it."""

    def __init__(self, folder: Path) -> None:
        self.program, self.core = folder / "sample", folder / "sample.core"
        flags = ["-g", "-O0", "-no-pie", "-fno-pie", "-gdwarf-4", "-o", str(self.program)]
        subprocess.run(["gcc", *flags, str(SOURCE)], check=True)
        self._run("break stop", "run", f"generate-core-file {self.core}", "kill")
        elf = ElfFile(str(self.program))
        table = ElfSymbols(elf)
        self.memory = Segments(self.core, self.program)
        self.types = Types("little", 8)
        self.types.add(DwarfSource(elf))
        self.symbols = Symbols(table, (0x400000, 0x500000))

    def scope(self) -> Scope:
        """A fresh scope over the program's memory at the moment of the core."""
        return Scope(self.memory, self.types, self.symbols)

    def gdb(self, commands: Sequence[str]) -> list[str]:
        """What gdb prints for each command."""
        marked = [part for c in commands for part in (c, "echo \\n@@@\\n")]
        text = self._run(f"core-file {self.core}", "echo \\n@@@\\n", *marked)
        return [part.strip("\n") for part in re.split(r"\n@@@\n", text)][1:-1]

    def _run(self, *commands: str) -> str:
        words = [word for c in (*SETTINGS, *commands) for word in ("-ex", c)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", *words, str(self.program)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            text=True,
            check=False,
        )
        return done.stdout


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The compiled sample program."""
    if not shutil.which("gcc") or not shutil.which("gdb"):
        pytest.skip("needs gcc and gdb")
    return Sample(tmp_path_factory.mktemp("sample"))
