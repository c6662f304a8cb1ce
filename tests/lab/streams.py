"""What QEMU writes besides dumps: migration streams, each with a dump of the same stopped machine.

Kept apart from the boots: a new form here leaves those as they are.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache, initrd, kernels
from tests.lab.boots import MIB, READY_LIMIT, TRIES, say
from tests.lab.qemu import DISKS, Guest, GuestBroke, Machine, booted
from tests.lab.toolbox import PACKAGES, Toolbox, toolbox

MIGRATE_LIMIT = 300.0
MACHINE = Machine(memory=512)
#: Names of the streams -> capabilities that are turned on, and the address to migrate to; of a snapshot none.
STREAMS = {
    "stream": ((), "exec:cat > {path}"),
    "snapshot.qcow2": ((), ""),
    "mapped-ram": (("mapped-ram",), "file:{path}"),
    "mapped-ram.qcow2": (("mapped-ram",), ""),  # it stays turned on
}


@dataclass(frozen=True)
class Streams:
    """``dumps[name]``: dump-guest-memory's ELF file of the machine that ``files[name]`` was made of."""

    kernel: kernels.Kernel
    files: dict[str, Path]
    dumps: dict[str, Path]


def _name(kernel: kernels.Kernel) -> str:
    here = Path(__file__).parent
    code = [here / name for name in ("streams.py", "initrd.py", "qemu.py")]
    made_of = (PACKAGES, MACHINE, kernel.release, kernel.package_version, *initrd.sources(kernel.arch), *code)
    return f"streams/{kernel.version}-{cache.digest(*made_of)}"


def cached(version: str) -> bool:
    """Whether they are there already: nothing is fetched or made."""
    if not (cache.root() / "kernels" / f"{version}.json").exists():
        return False
    return (cache.root() / _name(kernels.kernel(version))).exists()


def streams(version: str) -> Streams:
    """The streams of a kernel ("6.12"), made when missing."""
    kernel, box = kernels.kernel(version), toolbox()
    folder = cache.keep(_name(kernel), lambda part: _make(box, kernel, part))
    return Streams(
        kernel,
        {name: folder / name for name in STREAMS},
        {name: folder / f"{name}.elf" for name in STREAMS},
    )


def _make(box: Toolbox, kernel: kernels.Kernel, folder: Path) -> None:
    folder.mkdir()
    initrd.build_workload(folder / "root", box, kernel.arch)
    (folder / "initrd.gz").write_bytes(initrd.first(kernel, folder / "root", {}))
    _retry(lambda: _boot(box, kernel, folder))
    for name in ("initrd.gz", "qmp", "root", *DISKS):
        cache.remove(folder / name)
    for path in folder.glob("*.elf"):
        subprocess.run(["fallocate", "--dig-holes", str(path)], check=True)


def _retry(boot: Callable[[], None]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            return boot()
        except GuestBroke as broke:
            say(f"streams: try {attempt} of {TRIES} broke: {broke}")
            last = broke
    raise last


def _boot(box: Toolbox, kernel: kernels.Kernel, folder: Path) -> None:
    for name in DISKS:
        with (folder / name).open("wb") as disk:
            disk.truncate(32 * MIB)
    with booted(box, MACHINE, kernel.image, folder) as guest:
        guest.wait_for("READY", READY_LIMIT)
        for name in STREAMS:
            guest.do("stop")
            guest.do("dump-guest-memory", paging=False, protocol=f"file:{folder}/{name}.elf", format="elf")
            capabilities, address = STREAMS[name]
            if address:
                _migrate(guest, folder / name, capabilities, address)
            else:
                _save_snapshot(guest, folder / name)
            guest.do("cont")  # after a migration QEMU refuses another one unless the machine has run


def _save_snapshot(guest: Guest, path: Path) -> None:
    """As ``savevm``, in a disk of which the machine knows nothing."""
    path.touch()
    guest.do("blockdev-add", driver="file", **{"node-name": "file", "filename": str(path)})
    options = {"driver": "qcow2", "file": "file", "size": 4 * MIB}
    _job(guest, "blockdev-create", options=options)
    guest.do("blockdev-add", driver="qcow2", file="file", **{"node-name": "disk"})
    _job(guest, "snapshot-save", tag="lab", vmstate="disk", devices=["disk"])
    guest.do("blockdev-del", **{"node-name": "disk"})
    guest.do("blockdev-del", **{"node-name": "file"})


def _job(guest: Guest, command: str, **arguments: object) -> None:
    guest.do(command, **{"job-id": "lab"}, **arguments)
    end = time.monotonic() + MIGRATE_LIMIT
    while (job := guest.do("query-jobs")[0])["status"] != "concluded":
        if time.monotonic() > end:
            raise GuestBroke(f"{command}: {job['status']}")
        time.sleep(0.25)
    guest.do("job-dismiss", id="lab")
    if "error" in job:
        raise GuestBroke(f"{command}: {job['error']}")


def _migrate(guest: Guest, path: Path, capabilities: tuple[str, ...], address: str) -> None:
    states = [{"capability": name, "state": True} for name in capabilities]
    if states:
        guest.do("migrate-set-capabilities", capabilities=states)
    guest.do("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
    guest.do("migrate", uri=address.format(path=path))
    end = time.monotonic() + MIGRATE_LIMIT
    while (status := guest.do("query-migrate").get("status")) != "completed":
        if status == "failed" or time.monotonic() > end:
            raise GuestBroke(f"migration: {status}")
        time.sleep(0.25)
