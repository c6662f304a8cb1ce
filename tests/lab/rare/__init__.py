"""Threads in rare states and memory of rare kinds, beside the workload, with the same form of truth.

Dumps of one guest: QEMU's at READY, and what a capture kernel saves after one of the threads has crashed it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.lab import cache, kernels, small
from tests.lab.architectures import AMD64, ARCHITECTURES, Architecture
from tests.lab.boots import SAVE_LIMIT, _take_saved, reports
from tests.lab.initrd import GUEST, Captured, _tool
from tests.lab.qemu import DISKS, Guest, Machine
from tests.lab.toolbox import Toolbox, toolbox
from tests.lab.truth import Truth, parse

HERE = Path(__file__).parent
SHARED = ("cpu", "facts", "memory", "park", "states")  # files of the workload's that it is made of
CAPTURED = {"zlib-d1": ("-c", "-d", "1")}
FORMS = ("qemu-elf", "elf", *CAPTURED)
MEMORY = 768
PREEMPT = "preempt=full workqueue.watchdog_thresh=0"  # a thread that is always ready hogs a CPU


@dataclass(frozen=True)
class Rare:
    """``forms``: the dumps by name; all but "qemu-elf" are of the panic. Some machines have no zlib-d1."""

    kernel: kernels.Kernel
    folder: Path

    @property
    def forms(self) -> Mapping[str, Path]:
        places = {name: self.folder / "forms" / name for name in _captured(self.kernel.arch)}
        first = ("qemu-elf", "elf") if self.kernel.captures else ("qemu-elf",)
        return {name: self.folder / name for name in first} | places

    @cached_property
    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    @cached_property
    def truth(self) -> Truth:
        """As of READY; see tests.lab.lab.Dumps.truth."""
        return parse(self.console, ">" if self.kernel.arch.big_endian else "<")


def _captured(arch: Architecture) -> Captured:
    return {name: options for name, options in CAPTURED.items() if name in arch.captured}


def _machine(arch: Architecture, cpu: str) -> Machine:
    return Machine(memory=MEMORY, cpus=3, cpu=cpu or arch.cpu, append=PREEMPT, arch=arch)


def _name(kernel: kernels.Kernel, machine: Machine) -> str:
    own = GUEST / kernel.arch.folder
    code = (HERE, HERE / kernel.arch.folder, GUEST, own, Path(small.__file__))
    made_of = (machine, machine.arch.key, kernel.release, kernel.package_version, *code)
    return f"rare/{kernel.version}-{kernel.arch.name}-{cache.digest(*made_of)}"


def cached(version: str, *, arch: str = AMD64.name, cpu: str = "") -> bool:
    """Whether it is there already: nothing is fetched or made."""
    row = ARCHITECTURES[arch]
    if not (cache.root() / kernels.pin_name(version, row)).exists():
        return False
    return (cache.root() / _name(kernels.kernel(version, row), _machine(row, cpu))).exists()


def require(version: str, *, arch: str = AMD64.name, cpu: str = "") -> None:
    """Skips the test, loudly, where the dumps are neither there nor allowed to be made."""
    if not cached(version, arch=arch, cpu=cpu) and os.environ.get("KCRASH_LAB") != "1":
        pytest.skip(
            f"NO RARE STATES on {version} {arch} {cpu}: set KCRASH_LAB=1, or python -m tests.lab --rare"
        )


def rare(version: str, *, arch: str = AMD64.name, cpu: str = "") -> Rare:
    """The dumps of a kernel, made when missing (a minute or two)."""
    row = ARCHITECTURES[arch]
    kernel, machine, box = kernels.kernel(version, row), _machine(row, cpu), toolbox(row)

    def make(folder: Path) -> None:
        captured = _captured(row)

        def save(guest: Guest) -> None:
            guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/qemu-elf", format="elf")
            if kernel.captures:
                guest.do("cont")
                guest.send("go")
                guest.wait_end(SAVE_LIMIT)
                _take_saved(folder, reports(guest.console()), ["elf", *captured])

        def build(root: Path) -> None:
            _build(box, row, root)

        small.boot(box, kernel, machine, HERE / "init", build, folder, 2 * MEMORY, save, captured)
        for name in DISKS:
            cache.remove(folder / name)

    return Rare(kernel, cache.keep(_name(kernel, machine), make))


def _build(box: Toolbox, arch: Architecture, root: Path) -> None:
    own = GUEST / arch.folder
    code = [path for path in sorted([*GUEST.glob("*.c"), *own.glob("*.[cS]")]) if path.stem in SHARED]
    small.build(box, arch, [HERE / "rare.c", *code], root, "-pthread", f"-I{GUEST}", f"-I{own}")
    if (source := HERE / arch.folder / "fast32.S").exists():
        places = [
            f"-Wl,--section-start=.{name}={at}"
            for name, at in (("park", "0x8050000"), ("stack", "0x8060000"))
        ]
        _tool(
            box, arch, "gcc", ["-m32", "-nostdlib", "-static", *places, "-o", root / "bin" / "fast32", source]
        )
