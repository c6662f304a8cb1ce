"""The kernel's own core of a process, and a dump with that process's twin alive in it.

What gcore writes of the living one must be what the guest's kernel wrote of the dead one, but for the
signal, the ids and the times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, kernels, small
from tests.lab.architectures import ARCHITECTURES
from tests.lab.boots import MIB
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine
from tests.lab.toolbox import Toolbox, toolbox

HERE = Path(__file__).parent
LIVE = "twin-live"
DISK = 64  # MiB


@dataclass(frozen=True)
class Twins:
    """``core``: the kernel's, of the dead twin; ``dump``: of the machine with the living one, ELF."""

    kernel: kernels.Kernel
    core: Path
    dump: Path


def _name(kernel: kernels.Kernel, machine: Machine) -> str:
    made_of = (machine, machine.arch.key, kernel.release, kernel.package_version, HERE, Path(small.__file__))
    return f"twins/{kernel.version}-{kernel.arch.name}-{cache.digest(*made_of)}"


def _machine(arch: str, cpu: str) -> Machine:
    row = ARCHITECTURES[arch]
    return Machine(memory=512, cpu=cpu or row.cpu, arch=row)


def cached(version: str, *, arch: str, cpu: str = "") -> bool:
    """Whether they are there already: nothing is fetched or made."""
    if not (cache.root() / kernels.pin_name(version, ARCHITECTURES[arch])).exists():
        return False
    kernel = kernels.kernel(version, ARCHITECTURES[arch])
    return (cache.root() / _name(kernel, _machine(arch, cpu))).exists()


def twins(version: str, *, arch: str, cpu: str = "") -> Twins:
    """The twins of a machine, made when missing (about a minute once the kernel is there)."""
    kernel, machine = kernels.kernel(version, ARCHITECTURES[arch]), _machine(arch, cpu)
    box = toolbox(machine.arch)
    folder = cache.keep(_name(kernel, machine), lambda part: _make(box, kernel, machine, part))
    return Twins(kernel, folder / "core", folder / "dump")


def _make(box: Toolbox, kernel: kernels.Kernel, machine: Machine, folder: Path) -> None:
    def build(root: Path) -> None:
        small.build(box, kernel.arch, [HERE / "twins.c"], root, "-pthread", "-Wl,-z,now")

    def save(guest: Guest) -> None:
        guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/dump", format="elf")
        with (folder / DISKS[0]).open("rb") as disk:
            (folder / "core").write_bytes(disk.read(_core_size(guest)))

    small.boot(box, kernel, machine, HERE / "init", build, folder, DISK, save)
    for name in ("root", *DISKS):
        cache.remove(folder / name)


def _core_size(guest: Guest) -> int:
    found = re.search(r"^CORE (\d+)$", guest.console(), re.MULTILINE)
    if found is None or not 0 < int(found[1]) < DISK * MIB:
        raise GuestBroke("no core of the dead twin")
    return int(found[1])
