"""Small guests beside the workload's: one program, an init of its own, dumped by QEMU while it waits.

They leave the boots of the workload as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab import cache, initrd, kernels
from tests.lab.architectures import Architecture
from tests.lab.boots import MIB, READY_LIMIT, TRIES, say
from tests.lab.initrd import Captured, _add_tool, _capture, _lay_out, _tool
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import Toolbox, guest_root, program

Save = Callable[[Guest], None]
Build = Callable[[Path], None]


def boot(
    box: Toolbox,
    kernel: kernels.Kernel,
    machine: Machine,
    init: Path,
    build: Build,
    folder: Path,
    disk: int,
    save: Save,
    captured: Captured | None = None,
    modules: Sequence[str] = (),
) -> None:
    """Boots ``init`` in ``folder``, which is made, with the programs that ``build`` lays below a folder.

    Disks have ``disk`` MiB. ``save`` is called when the guest says READY; what it leaves stays.
    ``captured``: what a capture kernel is to write when the guest panics, by name; None: there is none.
    ``modules``: what the kernel is to load more.
    """
    folder.mkdir()
    build(folder / "root")
    (folder / "initrd.gz").write_bytes(_initrd(kernel, init, folder / "root", captured, modules))
    for attempt in range(1, TRIES + 1):
        try:
            _once(box, kernel, machine, folder, disk, save)
            break
        except GuestBroke as broke:
            say(f"{init.parent.name}: try {attempt} of {TRIES} broke: {broke}")
            if attempt == TRIES:
                raise
    for name in ("initrd.gz", "qmp"):
        cache.remove(folder / name)


def build(box: Toolbox, arch: Architecture, code: Sequence[Path], root: Path, *flags: str) -> None:
    """Compiles a program, of the name of the first file, and lays out what it needs."""
    target = root / "bin" / code[0].stem
    target.parent.mkdir(parents=True, exist_ok=True)
    _tool(box, arch, "gcc", ["-g", "-O1", *arch.flags, *flags, "-o", target, *code])
    _lay_out(root, target, box, arch)


def _initrd(
    kernel: kernels.Kernel, init: Path, root: Path, captured: Captured | None, modules: Sequence[str]
) -> bytes:
    archive = initrd.Archive()
    archive.add_file("init", init)
    archive.add_file("bin/busybox", program(guest_root(kernel.arch), "busybox"))
    for number, name in enumerate((*kernels.MODULES, *modules)):
        if (data := kernel.module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(root)), path)
    if captured is not None and kernel.captures:
        _add_tool(archive, kernel.arch, "kexec")
        archive.add_file("vmlinuz", kernel.image)
        archive.add("capture.gz", _capture(kernel, captured))
    return archive.packed()


def _once(
    box: Toolbox, kernel: kernels.Kernel, machine: Machine, folder: Path, disk: int, save: Save
) -> None:
    for name in DISKS:
        cache.remove(folder / name)
        with (folder / name).open("wb") as file:
            file.truncate(disk * MIB)
    with booted(box, machine, kernel.image, folder) as guest:
        guest.wait_for("READY", READY_LIMIT)
        guest.do("stop")
        save(guest)
