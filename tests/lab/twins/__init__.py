"""The kernel's own core of a process, and a dump with that process's twin alive in it.

What gcore writes of the living one must be what the guest's kernel wrote of the dead one, but for the
signal, the ids and the times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, initrd, kernels
from tests.lab.architectures import ARCHITECTURES, Architecture
from tests.lab.boots import MIB, READY_LIMIT, TRIES, say
from tests.lab.initrd import _lay_out, _tool
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import Toolbox, guest_root, program, toolbox

HERE = Path(__file__).parent
LIVE = "twin-live"
DISK = 64 * MIB


@dataclass(frozen=True)
class Twins:
    """``core``: the kernel's, of the dead twin; ``dump``: of the machine with the living one, ELF."""

    kernel: kernels.Kernel
    core: Path
    dump: Path


def _name(kernel: kernels.Kernel, machine: Machine) -> str:
    made_of = (machine, machine.arch.key, kernel.release, kernel.package_version, HERE)
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
    folder.mkdir()
    root = folder / "root"
    _build(box, kernel.arch, root)
    (folder / "initrd.gz").write_bytes(_initrd(kernel, root))
    for attempt in range(1, TRIES + 1):
        try:
            _boot(box, kernel, machine, folder)
            break
        except GuestBroke as broke:
            say(f"twins: try {attempt} of {TRIES} broke: {broke}")
            if attempt == TRIES:
                raise
    for name in ("initrd.gz", "qmp", "root", *DISKS):
        cache.remove(folder / name)


def _build(box: Toolbox, arch: Architecture, root: Path) -> None:
    target = root / "bin" / "twins"
    target.parent.mkdir(parents=True)
    _tool(box, arch, "gcc", ["-g", "-O1", "-pthread", *arch.flags, "-o", target, HERE / "twins.c"])
    _lay_out(root, target, box, arch)


def _initrd(kernel: kernels.Kernel, root: Path) -> bytes:
    archive = initrd.Archive()
    archive.add_file("init", HERE / "init")
    archive.add_file("bin/busybox", program(guest_root(kernel.arch), "busybox"))
    for number, name in enumerate(kernels.MODULES):
        if (data := kernel.module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(root)), path)
    return archive.packed()


def _boot(box: Toolbox, kernel: kernels.Kernel, machine: Machine, folder: Path) -> None:
    for name in DISKS:
        with (folder / name).open("wb") as disk:
            disk.truncate(DISK)
    with booted(box, machine, kernel.image, folder) as guest:
        guest.wait_for("READY", READY_LIMIT)
        guest.do("stop")
        guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/dump", format="elf")
        size = _core_size(guest)
    with (folder / DISKS[0]).open("rb") as disk:
        (folder / "core").write_bytes(disk.read(size))


def _core_size(guest: Guest) -> int:
    found = re.search(r"^CORE (\d+)$", guest.console(), re.MULTILINE)
    if found is None or not 0 < int(found[1]) < DISK:
        raise GuestBroke("no core of the dead twin")
    return int(found[1])
