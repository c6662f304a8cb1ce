"""Small guests beside the workload's: one program, an init of its own, dumped by QEMU while it waits.

They leave the boots of the workload as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.lab import cache, initrd, kernels
from tests.lab.architectures import Architecture
from tests.lab.boots import MIB, READY_LIMIT, TRIES, say
from tests.lab.initrd import _lay_out, _tool
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import Toolbox, guest_root, program

Save = Callable[[Guest], None]


def boot(
    box: Toolbox, kernel: kernels.Kernel, machine: Machine, source: Path, folder: Path, disk: int, save: Save
) -> None:
    """Boots ``source`` (an init, and a C program of the folder's name) in ``folder``, which is made.

    Disks have ``disk`` MiB. ``save`` is called when the guest says READY; what it leaves stays.
    """
    folder.mkdir()
    (folder / "initrd.gz").write_bytes(_initrd(box, kernel, source, folder / "root"))
    for attempt in range(1, TRIES + 1):
        try:
            _once(box, kernel, machine, folder, disk, save)
            break
        except GuestBroke as broke:
            say(f"{source.name}: try {attempt} of {TRIES} broke: {broke}")
            if attempt == TRIES:
                raise
    for name in ("initrd.gz", "qmp"):
        cache.remove(folder / name)


def _initrd(box: Toolbox, kernel: kernels.Kernel, source: Path, root: Path) -> bytes:
    _build(box, kernel.arch, source, root)
    archive = initrd.Archive()
    archive.add_file("init", source / "init")
    archive.add_file("bin/busybox", program(guest_root(kernel.arch), "busybox"))
    for number, name in enumerate(kernels.MODULES):
        if (data := kernel.module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(root)), path)
    return archive.packed()


def _build(box: Toolbox, arch: Architecture, source: Path, root: Path) -> None:
    target = root / "bin" / source.name
    target.parent.mkdir(parents=True)
    _tool(box, arch, "gcc", ["-g", "-O1", *arch.flags, "-o", target, source / f"{source.name}.c"])
    _lay_out(root, target, box, arch)


def _once(
    box: Toolbox, kernel: kernels.Kernel, machine: Machine, folder: Path, disk: int, save: Save
) -> None:
    for name in DISKS:
        with (folder / name).open("wb") as file:
            file.truncate(disk * MIB)
    with booted(box, machine, kernel.image, folder) as guest:
        guest.wait_for("READY", READY_LIMIT)
        guest.do("stop")
        save(guest)
