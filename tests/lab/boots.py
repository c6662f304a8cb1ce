"""One boot of one kernel: what QEMU saves at READY, what the capture kernel saves after the panic."""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.lab import cache, initrd
from tests.lab.architectures import ARCHITECTURES, Architecture
from tests.lab.kernels import CAPTURE_MODULES, Kernel
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import PACKAGES, Toolbox, guest_packages, versions

TRIES = 3
READY_LIMIT = 240.0
SAVE_LIMIT = 600.0

# What dump-guest-memory writes at READY, the machine stopped: file name -> its format.
QEMU_DUMPS = {
    "qemu-elf": "elf",
    "qemu-zlib": "kdump-zlib",
    "qemu-zlib-raw": "kdump-raw-zlib",
}

SCALE_CAPTURED = ("zlib-d31",)
MIB = 1 << 20


def recipe(arch: Architecture) -> str:
    """The digest of what makes an architecture's dumps: code, this machine's and the guest's, and tools."""
    here = Path(__file__).parent
    code = [here / name for name in ("boots.py", "initrd.py", "libraries.py", "qemu.py")]
    tools = guest_packages(arch) if arch.cross else _compiler()
    return cache.digest(arch.key, PACKAGES, tools, CAPTURE_MODULES, *initrd.sources(arch), *code)


@functools.cache
def _compiler() -> str:
    return subprocess.run(["gcc", "-dumpfullversion"], check=True, capture_output=True, text=True).stdout


def prune() -> None:
    """Removes the boots of other recipes."""
    current = {recipe(arch) for arch in ARCHITECTURES.values()}
    for folder in (cache.root() / "boots").glob("*"):
        if folder.name not in current:
            cache.remove(folder)


@dataclass(frozen=True)
class Boot:
    """A boot's recipe."""

    kernel: Kernel
    machine: Machine = field(default_factory=Machine)
    scale: int = 0

    @property
    def name(self) -> str:
        """Where it is kept below the cache: all that made it is in the name or its digests."""
        arch = self.kernel.arch
        kind = "".join(f"-{part}" for part in (arch.name if arch.cross else "", self.scale) if part)
        what = (self.kernel.release, self.kernel.package_version, self.machine, self.scale)
        return f"boots/{recipe(arch)}/{self.kernel.version}{kind}-{cache.digest(*what)}"

    @property
    def captured(self) -> initrd.Captured:
        """The forms that the capture kernel writes besides the raw one: of a large boot not all."""
        known = self.kernel.arch.captured
        return {name: known[name] for name in known if not self.scale or name in SCALE_CAPTURED}

    def run(self, box: Toolbox) -> Path:
        """The folder with what the boot left, booting (up to three times) when it is not there."""
        return cache.keep(self.name, lambda folder: self._make(box, folder))

    def _make(self, box: Toolbox, folder: Path) -> None:
        folder.mkdir()
        (folder / "made-of").write_text(f"{self}\n{versions(box)}")
        initrd.build_workload(folder / "root", box, self.kernel.arch)
        packed = initrd.first(self.kernel, folder / "root", self.captured)
        self._retry(folder, lambda: self._boot(box, folder, packed))

    def _retry(self, folder: Path, boot: Callable[[], None]) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                return boot()
            except GuestBroke as broke:
                say(f"{self.name}: try {attempt} of {TRIES} broke: {broke}")
                self._keep_console(folder)
                last = broke
        raise last

    def _keep_console(self, folder: Path) -> None:
        broken = cache.root() / "broken"
        broken.mkdir(exist_ok=True)
        (broken / f"{self.name.replace('/', '-')}.log").write_bytes((folder / "console.log").read_bytes())

    def _boot(self, box: Toolbox, folder: Path, packed: bytes) -> None:
        self._new_disks(folder)
        (folder / "initrd.gz").write_bytes(packed)
        started = time.monotonic()
        with booted(box, self.machine_with_scale(), self.kernel.image, folder) as guest:
            guest.wait_for("READY", READY_LIMIT)
            ready = time.monotonic()
            if not self.scale:
                _dump_stopped(guest, folder)
            if self.kernel.captures:
                guest.send("go")
                guest.wait_end(SAVE_LIMIT)
        saved = reports(guest.console())
        if self.kernel.captures:
            _take_saved(folder, saved, ["elf", *self.captured])
        total = time.monotonic() - started
        say(f"{self.name}: ready after {ready - started:.0f} s, saved after {total:.0f} s")
        say("in the capture kernel: " + ", ".join(f"{r.name} {r.seconds:.1f} s" for r in saved.values()))
        _tidy(folder)

    def _new_disks(self, folder: Path) -> None:
        one = self.machine.memory + 64
        for name, size in zip(DISKS, (one * (1 + len(self.captured)), 32, one), strict=True):
            cache.remove(folder / name)
            with (folder / name).open("wb") as disk:
                disk.truncate(size * MIB)

    def machine_with_scale(self) -> Machine:
        """The machine, its command line telling the guest how many threads to start."""
        if not self.scale:
            return self.machine
        append = f"{self.machine.append} lab_scale={self.scale}".strip()
        return replace(self.machine, append=append)


def say(message: str) -> None:
    """Progress, for whoever waits."""
    print(message, file=sys.stderr, flush=True)


def _dump_stopped(guest: Guest, folder: Path) -> None:
    guest.do("stop")
    registers = guest.do("human-monitor-command", **{"command-line": "info registers -a"})
    (folder / "registers.txt").write_text(registers.replace("\r\n", "\n"))
    known = guest.do("query-dump-guest-memory-capability")["formats"]
    for name, form in QEMU_DUMPS.items():
        if form in known:
            guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/{name}", format=form)
    guest.do("cont")


# name, offset in MiB, size, MD5, and the time it took: from, until
_SAVED = r"^SAVED (\S+) (\d+) (\d+) ([0-9a-f]{32}) ([\d.]+) ([\d.]+)$"


@dataclass(frozen=True)
class Report:
    """What the capture kernel's console says of a dump it saved."""

    name: str
    offset: int  # on the disk "saved"
    size: int
    md5: str
    seconds: float


def reports(console: str) -> dict[str, Report]:
    """The capture kernel's reports, by the names of the forms."""
    return {
        name: Report(name, int(at) * MIB, int(size), md5, float(ended) - float(started))
        for name, at, size, md5, started, ended in re.findall(_SAVED, console, re.MULTILINE)
    }


def _take_saved(folder: Path, saved: Mapping[str, Report], wanted: Iterable[str]) -> None:
    """elf, and the others as they would be named if makedumpfile had made them here (see forms.py)."""
    if missing := [name for name in wanted if name not in saved]:
        raise GuestBroke(f"the capture kernel did not save {', '.join(missing)}")
    disk = folder / "saved"
    cache.remove(folder / "forms")
    (folder / "forms").mkdir()
    for report in saved.values():
        _check(disk, report)
        if report.name != "elf":
            _copy(disk, report, folder / "forms" / report.name)
    with disk.open("r+b") as file:
        file.truncate(saved["elf"].size)
    disk.rename(folder / "elf")


def _check(disk: Path, report: Report) -> None:
    total = hashlib.md5()
    for piece in _pieces(disk, report):
        total.update(piece)
    if total.hexdigest() != report.md5:
        raise GuestBroke(f"{report.name} is not what the capture kernel wrote")


def _copy(disk: Path, report: Report, target: Path) -> None:
    with target.open("wb") as out:
        out.writelines(_pieces(disk, report))


def _pieces(disk: Path, report: Report) -> Iterator[bytes]:
    with disk.open("rb") as file:
        file.seek(report.offset)
        for left in range(report.size, 0, -MIB):
            yield file.read(min(left, MIB))


def _tidy(folder: Path) -> None:
    for name in ("initrd.gz", "qmp", "scratch"):
        cache.remove(folder / name)
    for dump in folder.glob("*elf"):
        subprocess.run(["fallocate", "--dig-holes", str(dump)], check=True)
    disk = folder / "disk"
    (folder / "disk.gz").write_bytes(gzip.compress(disk.read_bytes(), 1))
    cache.remove(disk)
