"""Kernel 4.4, which no supported distribution has any more: built from Ubuntu 16.04's source by the compiler
of that time (5 minutes, 150 MB to download), and a guest of it with the workload, stopped and dumped.

What it has that newer ones do not: system calls that save half of struct pt_regs, entry code that no table
describes, thread_info on the stack, radix trees, task stacks in the direct map, no KASLR, no VMCOREINFO in a
QEMU dump.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.lab import apt, cache, initrd
from tests.lab.architectures import AMD64
from tests.lab.boots import MIB, READY_LIMIT
from tests.lab.qemu import DISKS, Machine, booted
from tests.lab.toolbox import PACKAGES, Toolbox, settle, toolbox
from tests.lab.truth import Truth, parse

HERE = Path(__file__).parent
MIRROR = "http://archive.ubuntu.com/ubuntu"
SUITE, SOURCE = "xenial", "linux-source-4.4.0"
COMPILER = ("gcc", "make", "bc", "perl", "libc6-dev", "binutils", "bash", "coreutils", "dash", "diffutils",
            "findutils", "gawk", "grep", "gzip", "libc-bin", "sed", "xz-utils")  # fmt: skip
BUILD_LIMIT = 3600.0
MACHINE = Machine(memory=512)
FORMS = {"elf": "elf", "zlib": "kdump-zlib"}


@dataclass(frozen=True)
class OldKernel:
    """As lab.Dumps, as far as there is no kernel package behind it."""

    vmlinux: Path
    sysroot: Path
    forms: Mapping[str, Path]
    console: str

    @cached_property
    def truth(self) -> Truth:
        """The console's truth."""
        return parse(self.console)


class _Ubuntu(apt.Suite):
    """A suite of Ubuntu's; its key is not on this machine."""

    def _source(self) -> str:
        return f"deb [arch={self.arch} trusted=yes] {MIRROR} {self.name} main\n"


def _built_name() -> str:
    return f"old/kernel-{cache.digest(SUITE, SOURCE, COMPILER, HERE / 'config', HERE / 'build.sh')}"


def _name() -> str:
    code = [Path(initrd.__file__), Path(initrd.__file__).with_name("qemu.py"), *initrd.sources(AMD64)]
    return f"old/boot-{cache.digest(_built_name(), PACKAGES, MACHINE, FORMS, *code)}"


def cached() -> bool:
    """Whether it is there already: nothing is fetched or made."""
    return (cache.root() / _name()).exists()


def old_kernel() -> OldKernel:
    """Kernel 4.4 with its dumps, made when missing."""
    built = cache.keep(_built_name(), _build)
    folder = cache.keep(_name(), lambda part: _boot(toolbox(), built / "bzImage", part))
    console = (folder / "console.log").read_text(errors="replace").replace("\r\n", "\n")
    return OldKernel(built / "vmlinux", folder / "root", {name: folder / name for name in FORMS}, console)


def _build(folder: Path) -> None:
    root = cache.keep(f"old/root-{cache.digest(SUITE, SOURCE, COMPILER)}", _unpack)
    folder.mkdir(parents=True)
    (folder / "source").mkdir()
    archive = root / "usr/src" / SOURCE / f"{SOURCE}.tar.bz2"
    subprocess.run(["tar", "-xjf", archive, "-C", folder / "source", "--strip-components=1"], check=True)
    words: list[str | Path] = ["bash", HERE / "build.sh", HERE / "config", folder]
    done = Toolbox(root).run(words, binds=[folder, HERE], timeout=BUILD_LIMIT)
    if done.returncode:
        raise RuntimeError(f"kernel 4.4 was not built: {done.stderr[-2000:]}")
    cache.remove(folder / "source")


def _unpack(root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    suite = _Ubuntu(SUITE)
    suite.update()
    with tempfile.TemporaryDirectory(dir=root.parent) as debs:
        packages = suite.fetch_all(COMPILER, Path(debs))
        for package in (*packages, *suite.fetch([SOURCE], Path(debs))):
            apt.unpack(package, root)
    settle(root)


def _boot(box: Toolbox, image: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    initrd.build_workload(folder / "root", box, AMD64)
    archive = initrd.Archive()
    archive.add_file("init", initrd.GUEST / "init")
    archive.add_file("bin/busybox", box.root / "usr/bin/busybox")
    for path in sorted((folder / "root").rglob("*")):
        if path.is_file():
            archive.add_file(str(path.relative_to(folder / "root")), path)
    (folder / "initrd.gz").write_bytes(archive.packed())
    for name in DISKS:
        with (folder / name).open("wb") as disk:
            disk.truncate(32 * MIB)
    with booted(box, MACHINE, image, folder) as guest:
        guest.wait_for("READY", READY_LIMIT)
        guest.do("stop")
        for name, form in FORMS.items():
            guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/{name}", format=form)
    for name in ("initrd.gz", "qmp", *DISKS):
        cache.remove(folder / name)
    subprocess.run(["fallocate", "--dig-holes", str(folder / "elf")], check=True)
