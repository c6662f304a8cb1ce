"""A process whose memory was swapped out, to a device, a file, zswap; and a large one for the bench.

Each dump is QEMU's, of the stopped machine, with what the disks held then.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.lab import cache, kernels, small
from tests.lab.architectures import AMD64, ARCHITECTURES, Architecture
from tests.lab.boots import MIB
from tests.lab.qemu import DISKS, Guest, Machine
from tests.lab.toolbox import Toolbox, toolbox
from tests.lab.truth import Truth, parse

HERE = Path(__file__).parent
SOURCES = (HERE / "init", HERE / "swaps.c", HERE.parent / "small.py")
DISK = 64  # MiB
DEVICE, FILE = "/dev/vda", "/disk/swapfile"  # as /proc/swaps calls them
BACKING = "/dev/vdc"  # of a zram device
# Copies on BACKING, behind what zram writes there: name, offset, size.
COPIES = (("packed", 32 * MIB, 8 * MIB), ("swapfile", 48 * MIB, 8 * MIB))
MORE_MODULES = ("zpool", "zbud", "z3fold", "xxhash", "zstd_decompress", "zstd")


@dataclass(frozen=True)
class Swaps:
    """``device``, ``file``, ``backing``: what the swap device, the swap file and the device behind zram held
    when ``dump`` was made; ``packed``: the same of the device where zram leaves pages compressed."""

    kernel: kernels.Kernel
    folder: Path

    @property
    def dump(self) -> Path:
        return self.folder / "dump"

    @property
    def device(self) -> Path:
        return self.folder / DISKS[0]

    @property
    def file(self) -> Path:
        return self.folder / "swapfile"

    @property
    def backing(self) -> Path:
        return self.folder / DISKS[2]

    @property
    def packed(self) -> tuple[str, Path] | None:
        """Its name and content; None before v7.0."""
        found = re.search(r"^PACKED (\S+)$", self.console, re.MULTILINE)
        return (found[1], self.folder / "packed") if found else None

    @cached_property
    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    @cached_property
    def truth(self) -> Truth:
        return parse(self.console)

    @property
    def resident(self) -> int:
        """The pid of the large process."""
        found = re.search(r"^RESIDENT (\d+) ", self.console, re.MULTILINE)
        assert found is not None
        return int(found[1])


def _machine(resident: int, arch: Architecture = AMD64) -> Machine:
    if not resident:
        return Machine(memory=512, cpu=arch.cpu, arch=arch)
    return Machine(memory=resident + 512, cpu=arch.cpu, append=f"lab_resident={resident}", arch=arch)


def _name(kernel: kernels.Kernel, machine: Machine) -> str:
    shape = (machine.memory, machine.cpus, machine.cpu, machine.append, machine.arch.key)
    made_of = (
        shape,
        *([] if "lab_resident" in machine.append else MORE_MODULES),
        DISK,
        kernel.release,
        kernel.package_version,
        *SOURCES,
    )
    return f"swaps/{kernel.version}-{kernel.arch.name}-{cache.digest(*made_of)}"


def cached(version: str, *, arch: str = AMD64.name, resident: int = 0) -> bool:
    """Whether it is there already: nothing is fetched or made."""
    row = ARCHITECTURES[arch]
    if not (cache.root() / kernels.pin_name(version, row)).exists():
        return False
    return (cache.root() / _name(kernels.kernel(version, row), _machine(resident, row))).exists()


def require(version: str, *, arch: str = AMD64.name, resident: int = 0) -> None:
    """Skips the test, loudly, where the dump is neither there nor allowed to be made."""
    if not cached(version, arch=arch, resident=resident) and os.environ.get("KCRASH_LAB") != "1":
        what = f"{version} {arch}" + (f", {resident} MiB" if resident else "")
        pytest.skip(f"NO SWAPPED PROCESS on {what}: set KCRASH_LAB=1, or python -m tests.lab --swaps")


def swaps(version: str, *, resident: int = 0, arch: str = AMD64.name) -> Swaps:
    """The dump of a kernel, made when missing (a minute). resident: MiB of a process that has them all."""
    row = ARCHITECTURES[arch]
    kernel, machine, box = kernels.kernel(version, row), _machine(resident, row), toolbox(row)

    def make(folder: Path) -> None:
        modules = () if resident else MORE_MODULES

        def save(guest: Guest) -> None:
            guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/dump", format="elf")

        def build(root: Path) -> None:
            small.build(box, kernel.arch, [HERE / "swaps.c"], root)

        small.boot(box, kernel, machine, HERE / "init", build, folder, DISK, save, modules=modules)
        _take_copies(folder)
        cache.remove(folder / DISKS[1])
        if resident:
            _compress(box, folder)

    return Swaps(kernel, cache.keep(_name(kernel, machine), make))


def _take_copies(folder: Path) -> None:
    with (folder / DISKS[2]).open("r+b") as disk:
        for name, at, size in COPIES:
            disk.seek(at)
            (folder / name).write_bytes(disk.read(size))
        disk.truncate(min(at for _name, at, _size in COPIES))


def _compress(box: Toolbox, folder: Path) -> None:
    """Makes of the ELF dump one as makedumpfile writes them, zlib and -d 1."""
    raw = (folder / "dump").rename(folder / "raw")
    _headers_first(raw)
    done = box.run(["makedumpfile", "-c", "-d", "1", raw, folder / "dump"], binds=[folder])
    if done.returncode:
        raise RuntimeError(f"makedumpfile: {(done.stdout + done.stderr)[-500:]}")
    cache.remove(raw)


def _headers_first(path: Path) -> None:
    """Makes program headers follow the ELF header, as makedumpfile wants them; QEMU has sections between."""
    with path.open("r+b") as file:
        header = bytearray(file.read(64))
        (at,), (count,) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<H", header, 56)
        file.seek(at)
        segments = file.read(56 * count)
        struct.pack_into("<QQ", header, 32, len(header), 0)
        struct.pack_into("<HHH", header, 58, 0, 0, 0)
        file.seek(0)
        file.write(header + segments)
