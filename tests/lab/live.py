"""kcrash in a guest, on the guest's own running kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import apt, cache, initrd, kernels
from tests.lab.qemu import DISKS, Machine, booted
from tests.lab.toolbox import SUITE, toolbox

PACKAGES = ("python3", "python3-numpy", "python3-capstone", "python3-pyelftools", "python3-platformdirs")
INIT = Path(__file__).with_name("guest-live.sh")
SOURCE = Path(__file__).resolve().parents[2] / "kcrash"
LIMIT = 400.0
MIB = 1 << 20


def run(version: str, script: Sequence[str]) -> Mapping[str, str]:
    """What the guest printed, by name: facts of its own, and ``kcrash``: what the script's lines print."""
    box, kernel = toolbox(), kernels.kernel(version)
    with tempfile.TemporaryDirectory(dir=cache.root()) as name:
        folder = Path(name)
        (folder / "initrd.gz").write_bytes(_initrd(version, script))
        for disk in DISKS:
            (folder / disk).write_bytes(bytes(MIB))
        (folder / "disk").unlink()
        (folder / "disk").hardlink_to(_python())
        with booted(box, Machine(memory=1024), kernel.image, folder) as guest:
            guest.wait_for("READY", LIMIT)
            return _parts(guest.console())


def _parts(console: str) -> dict[str, str]:
    return dict(re.findall(r"^BEGIN (\S+)\n(.*?)^END$", console, re.MULTILINE | re.DOTALL))


def _initrd(version: str, script: Sequence[str]) -> bytes:
    archive = initrd.Archive()
    archive.add_file("init", INIT)
    archive.add_file("bin/busybox", toolbox().root / "usr/bin/busybox")
    for number, name in enumerate(kernels.MODULES):
        if (data := kernels.kernel(version).module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    for path in SOURCE.rglob("*.[ph]*"):
        if path.suffix in (".py", ".h"):
            archive.add_file(f"src/kcrash/{path.relative_to(SOURCE)}", path)
    archive.add("script", "".join(f"{line}\n" for line in script).encode())
    return archive.packed()


def _python() -> Path:
    """A file system with Python and what kcrash imports."""
    return cache.keep(f"python-{cache.digest(SUITE, PACKAGES, 'with a shell')}", _make)


def _make(image: Path) -> None:
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        root, debs = Path(temporary) / "root", Path(temporary) / "debs"
        for folder in ("usr", "proc", "sys", "dev", "tmp"):
            (root / folder).mkdir(parents=True)
        for folder in ("bin", "sbin", "lib", "lib64"):
            (root / folder).symlink_to(f"usr/{folder}")
        for package in apt.Suite(SUITE).fetch_all(PACKAGES, debs):
            apt.unpack(package, root)
        for name in ("sh", "sleep"):
            shutil.copy(toolbox().root / "usr/bin/busybox", root / "usr/bin" / name)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), "600M"], check=True)
