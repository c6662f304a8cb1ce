"""The lab's front door: real dumps with the truth about them, the tools to compare with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from tests.lab import cache, forms, initrd
from tests.lab import kernels as kernels_
from tests.lab.architectures import AMD64, ARCHITECTURES
from tests.lab.boots import Boot
from tests.lab.kernels import Kernel
from tests.lab.moving import MovingBoot
from tests.lab.qemu import Machine
from tests.lab.toolbox import Toolbox, toolbox
from tests.lab.truth import Truth, parse

__all__ = ["Dumps", "Toolbox", "cached", "drgn", "dumps", "toolbox"]

DRGN = "drgn==0.3.0"
SCALE_MEMORY = 3072


@dataclass(frozen=True)
class Dumps:
    """The dumps of one boot, and what is true of them."""

    kernel: Kernel
    folder: Path
    forms: Mapping[str, Path] = field(repr=False)

    @property
    def vmlinux(self) -> Path:
        """Debian's debug vmlinux: DWARF and BTF."""
        return self.kernel.vmlinux

    @property
    def modules(self) -> Path:
        """The folder of the modules as shipped (lib/modules/RELEASE)."""
        return self.kernel.modules

    @property
    def debug_modules(self) -> Path:
        """The folder with debug twins of the modules the guest loaded."""
        return self.kernel.debug_modules

    @property
    def sysroot(self) -> Path:
        """The workload and its libraries below the paths that the guest mapped them from."""
        return self.folder / "root"

    @property
    def workload(self) -> Path:
        """The workload's program, with DWARF."""
        return self.sysroot / "bin" / "workload"

    @property
    def registers(self) -> str:
        """QEMU's `info registers -a` at the moment of the QEMU dumps; '' when there are none."""
        path = self.folder / "registers.txt"
        return path.read_text() if path.exists() else ""

    @cached_property
    def console(self) -> str:
        """All the two kernels and the workload printed."""
        return (self.folder / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    @cached_property
    def truth(self) -> Truth:
        """The console's truth. It holds at both moments, but for which of the runnable threads run."""
        return parse(self.console, ">" if self.kernel.arch.big_endian else "<")

    def moment(self, form: str) -> str:
        """'ready': QEMU stopped the machine, no panic yet; 'panic': saved by the capture kernel."""
        return forms.FORMS[form].moment


def _boot(version: str, scale: int, cpu: str, arch: str) -> Boot:
    row = ARCHITECTURES[arch]
    machine = Machine(memory=SCALE_MEMORY if scale else row.memory, cpu=cpu or row.cpu, arch=row)
    return (MovingBoot if row.moving else Boot)(kernels_.kernel(version, row), machine, scale)


def _wanted(names: Iterable[str] | None, scale: int) -> list[str]:
    if names is None:
        return list(forms.SCALE_FORMS if scale else forms.FORMS)
    unknown = set(names) - set(forms.FORMS)
    if unknown:
        raise KeyError(f"no such form: {', '.join(sorted(unknown))}")
    return list(names)


def dumps(
    version: str,
    *,
    names: Iterable[str] | None = None,
    scale: int = 0,
    cpu: str = "",
    arch: str = AMD64.name,
) -> Dumps:
    """The dumps of a kernel ("6.1"), made when missing.

    names: the forms (all of them unless told). scale: so many sleeping threads more, 3 GiB of memory.
    cpu: QEMU's -cpu, the architecture's own unless told; "max,la57=off" for four-level page tables.
    arch: a row of architectures.ROWS.
    """
    wanted = _wanted(names, scale)
    boot = _boot(version, scale, cpu, arch)
    box = toolbox(boot.kernel.arch)
    folder = boot.run(box)
    return Dumps(boot.kernel, folder, forms.make(box, folder, wanted, boot.kernel))


def cached(version: str, *, scale: int = 0, cpu: str = "", arch: str = AMD64.name) -> bool:
    """Whether the boot is there already: nothing is fetched or made."""
    if not (cache.root() / kernels_.pin_name(version, ARCHITECTURES[arch])).exists():
        return False
    return (cache.root() / _boot(version, scale, cpu, arch).name).exists()


def require(version: str, *, cpu: str = "", arch: str = AMD64.name) -> None:
    """Skips the test, loudly, where the kernel's dumps are neither there nor allowed to be made.

    They are made only when asked for ($KCRASH_LAB=1): it takes minutes and a network.
    """
    if not cached(version, cpu=cpu, arch=arch) and os.environ.get("KCRASH_LAB") != "1":
        what = " ".join(part for part in (version, arch, cpu) if part)
        pytest.skip(f"NO DUMPS of {what}: python -m tests.lab makes them, or set KCRASH_LAB=1")


def drgn_name() -> str:
    """Where drgn's virtual environment is kept below the cache."""
    return f"drgn-{cache.digest(DRGN, sys.version, 'its scripts run')}"


def drgn() -> Path:
    """A Python that has drgn; drgn's scripts are beside it."""
    folder = cache.keep(drgn_name(), _make_drgn)
    return folder / "bin" / "python"


def _make_drgn(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", DRGN], check=True)
    _name_anew(folder, cache.final(folder))


def _name_anew(venv: Path, final: Path) -> None:
    """Scripts say the path of their Python: they must say the one that the folder is going to have."""
    for path in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        if not path.is_symlink() and path.is_file():
            path.write_bytes(path.read_bytes().replace(os.fsencode(venv.name), os.fsencode(final.name)))


def guest_source() -> Path:
    """The workload's source."""
    return initrd.GUEST
