"""One boot of one kernel: what QEMU saves at READY, what the capture kernel saves after the panic."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import cache, initrd
from tests.lab.kernels import Kernel
from tests.lab.qemu import Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import PACKAGES, Toolbox, versions

TRIES = 3
READY_LIMIT = 240.0
SAVE_LIMIT = 400.0

# What dump-guest-memory writes at READY, the machine stopped: file name -> its format.
QEMU_DUMPS = {
    "qemu-elf": "elf",
    "qemu-zlib": "kdump-zlib",
    "qemu-zlib-raw": "kdump-raw-zlib",
}


def recipe() -> str:
    """The digest of the code that makes dumps, this machine's and the guest's."""
    here = Path(__file__).parent
    code = [here / name for name in ("boots.py", "initrd.py", "qemu.py", "guest/compat")]
    return cache.digest(PACKAGES, initrd.GUEST, *code)


def prune() -> None:
    """Removes the boots of other recipes."""
    for folder in (cache.root() / "boots").glob("*"):
        if folder.name != recipe():
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
        kind = f"-{self.scale}" if self.scale else ""
        what = (self.kernel.release, self.kernel.package_version, self.machine, self.scale)
        return f"boots/{recipe()}/{self.kernel.version}{kind}-{cache.digest(*what)}"

    def run(self, box: Toolbox) -> Path:
        """The folder with what the boot left, booting (up to three times) when it is not there."""
        return cache.keep(self.name, lambda folder: self._make(box, folder))

    def _make(self, box: Toolbox, folder: Path) -> None:
        folder.mkdir()
        (folder / "made-of").write_text(f"{self}\n{versions(box)}")
        initrd.build_workload(folder / "root")
        packed = initrd.first(self.kernel, box, folder / "root")
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
        for name, size in (("saved", self.machine.memory + 64), ("disk", 32)):
            cache.remove(folder / name)
            subprocess.run(["truncate", "-s", f"{size}M", str(folder / name)], check=True)
        (folder / "initrd.gz").write_bytes(packed)
        started = time.monotonic()
        with booted(box, self.machine_with_scale(), self.kernel.image, folder) as guest:
            guest.wait_for("READY", READY_LIMIT)
            ready = time.monotonic()
            if not self.scale:
                _dump_stopped(guest, folder)
            guest.send("go")
            guest.wait_end(SAVE_LIMIT)
            _take_saved(guest.console(), folder)
        total = time.monotonic() - started
        say(f"{self.name}: ready after {ready - started:.0f} s, saved after {total:.0f} s")
        _tidy(folder)

    def machine_with_scale(self) -> Machine:
        """The machine, its command line telling the guest how many threads to start."""
        if not self.scale:
            return self.machine
        append = f"{self.machine.append} lab_scale={self.scale}".strip()
        return Machine(self.machine.memory, self.machine.cpus, self.machine.cpu, append)


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


def _take_saved(console: str, folder: Path) -> None:
    found = re.search(r"^SAVED (\d+)$", console, re.MULTILINE)
    if not found:
        raise GuestBroke("the capture kernel saved nothing")
    saved = folder / "saved"
    with saved.open("r+b") as file:
        file.truncate(int(found[1]))
    saved.rename(folder / "elf")


def _tidy(folder: Path) -> None:
    for name in ("initrd.gz", "qmp"):
        cache.remove(folder / name)
    for dump in folder.glob("*elf"):
        subprocess.run(["fallocate", "--dig-holes", str(dump)], check=True)
    disk = folder / "disk"
    (folder / "disk.gz").write_bytes(gzip.compress(disk.read_bytes(), 1))
    cache.remove(disk)
