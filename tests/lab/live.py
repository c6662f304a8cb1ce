"""kcrash in a guest: on the guest's own running kernel, or on a dead one from its capture kernel."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.lab import apt, cache, initrd, kernels
from tests.lab.qemu import DISKS, Guest, Machine, booted
from tests.lab.toolbox import SUITE, toolbox

PACKAGES = ("python3", "python3-numpy", "python3-capstone", "python3-pyelftools", "python3-platformdirs")
INIT = Path(__file__).with_name("guest-live.sh")
SOURCE = Path(__file__).resolve().parents[2] / "kcrash"
LIMIT = 400.0
MIB = 1 << 20


def run(version: str, script: Sequence[str]) -> Mapping[str, str]:
    """What the guest printed, by name: facts of its own, and ``kcrash``: what the script's lines print."""
    with _guest(version, _with_script(_archive(version), script)) as guest:
        guest.wait_for("READY", LIMIT)
        return _parts(guest.console())


def run_capture(version: str, script: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The same of a kernel that panics, and of its capture kernel, where the script is about /proc/vmcore."""
    first, kernel = _archive(version), kernels.kernel(version)
    initrd._add_tool(first, kernel.arch, "kexec")
    first.add_file("vmlinuz", kernel.image)
    first.add("capture.gz", _with_script(_archive(version), script))
    with _guest(version, first.packed()) as guest:
        guest.wait_end(LIMIT)
        dead, _panic, capture = guest.console().partition("Kernel panic")
        return _parts(dead), _parts(capture)


@contextlib.contextmanager
def _guest(version: str, packed: bytes) -> Iterator[Guest]:
    """A guest on its way; its disk has Python."""
    box, kernel = toolbox(), kernels.kernel(version)
    with tempfile.TemporaryDirectory(dir=cache.root()) as name:
        folder = Path(name)
        (folder / "initrd.gz").write_bytes(packed)
        for disk in DISKS:
            (folder / disk).write_bytes(bytes(MIB))
        (folder / "disk").unlink()
        (folder / "disk").hardlink_to(_python())
        with booted(box, Machine(memory=1024), kernel.image, folder) as guest:
            yield guest


def _parts(console: str) -> dict[str, str]:
    return dict(re.findall(r"^BEGIN (\S+)\n(.*?)^END$", console, re.MULTILINE | re.DOTALL))


def _archive(version: str) -> initrd.Archive:
    """What both kernels start from, without a script."""
    archive = initrd.Archive()
    archive.add_file("init", INIT)
    archive.add_file("bin/busybox", toolbox().root / "usr/bin/busybox")
    for number, name in enumerate(kernels.MODULES):
        if (data := kernels.kernel(version).module(name)) is not None:
            archive.add(f"mods/{number:02}-{name}.ko", data)
    for path in SOURCE.rglob("*.[ph]*"):
        if path.suffix in (".py", ".h"):
            archive.add_file(f"src/kcrash/{path.relative_to(SOURCE)}", path)
    return archive


def _with_script(archive: initrd.Archive, script: Sequence[str]) -> bytes:
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
