"""What kexec writes where it does not know the kernel: program headers with nonsense for addresses and sizes.

riscv64 with five-level tables gets addresses such as 0xc7f000, Debian's arm64 6.1 (whose kexec-tools finds no
_text) a segment of 1.8e19 bytes. The files here are QEMU's, with such headers.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import lab

pytestmark = pytest.mark.lab
PT_LOAD, ENTRY = 1, 56
COMMANDS = ("sys", "ps", "foreach bt", "mod", "log", "vtop init_task", "mach")
MACHINES = [("riscv64", "6.12"), ("arm64", "6.12"), ("arm64", "6.1"), ("s390x", "6.12"), ("ppc64el", "6.12")]


def rewritten(source: Path, target: Path, lie: str) -> Path:
    """A copy of an ELF64 dump with lies in its PT_LOADs."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    target.chmod(0o600)
    with target.open("r+b") as file:
        head = file.read(64)
        order = "<" if head[5] == 1 else ">"
        offset, count = struct.unpack_from(order + "32xQ16xH", head)
        for number in range(count):
            file.seek(offset + number * ENTRY)
            words = list(struct.unpack(order + "IIQQQQQQ", file.read(ENTRY)))
            if words[0] != PT_LOAD:
                continue
            if lie == "addresses":
                words[3] = 0xC7F000 + number * 0x2180000
            elif lie == "sizes":
                words[6] = 0xFFF8000080000000  # p_memsz
            elif lie == "less":
                words[5] = words[6] = words[5] - words[5] // 16
            file.seek(offset + number * ENTRY)
            file.write(struct.pack(order + "IIQQQQQQ", *words))
    return target


def output(words: list[str]) -> str:
    """What the commands print; a task that runs on a CPU may have no trace, which is no success."""
    argv = [sys.executable, "-m", "kcrash", "-s", *words, *(w for c in COMMANDS for w in ("-c", c))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.count("PID: ") > 50 and "TASKS: " in done.stdout, done.stderr[-2000:]
    return "".join(line for line in done.stdout.splitlines(keepends=True) if "DUMPFILE:" not in line)


@pytest.mark.parametrize(("arch", "version"), MACHINES, ids=lambda word: word)
def test_lies(arch: str, version: str, tmp_path: Path) -> None:
    lab.require(version, arch=arch)
    dumps = lab.dumps(version, names=["qemu-elf"], arch=arch)
    dump = dumps.forms["qemu-elf"]
    vmlinux = [str(dumps.vmlinux)] if arch == "arm64" else []  # Debian's 6.1 has no types in it
    original = output([*vmlinux, str(dump)])
    for lie in ("addresses", "sizes"):
        copy = rewritten(dump, tmp_path / "vmcore", lie)
        assert output([*vmlinux, str(copy)]) == original, lie
        copy.unlink()


def test_memory_without_the_kernels_page_tables(tmp_path: Path) -> None:
    """kexec-tools leaves out the end of riscv64's memory, where the tables of its map of all RAM are."""
    lab.require("6.12", arch="riscv64")
    dump = lab.dumps("6.12", names=["qemu-elf"], arch="riscv64").forms["qemu-elf"]
    whole, less = (
        subprocess.run(
            [sys.executable, "-m", "kcrash", "-s", path, "-c", "ps"], capture_output=True, text=True
        )
        for path in (dump, rewritten(dump, tmp_path / "vmcore", "less"))
    )
    rows = [line.lstrip("> ").split()[:4] for line in less.stdout.splitlines() if "lab-" in line]
    known = [line.lstrip("> ").split()[:4] for line in whole.stdout.splitlines() if "lab-" in line]
    assert len(known) > 20 and rows == known
