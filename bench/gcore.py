"""The core of a large process: kcrash's gcore beside drgn's script, on the same compressed dump, in turn.

    python -m bench.gcore [--kernel 6.1] [--resident 1024] [--runs 3] [--folder /tmp] [--markdown]
                          [--crash-gcore gcore.so]

Figures as in bench.peers, of a whole process that opens the dump and writes the core to ``--folder``; also
processor seconds, to show how much was done at the same time. drgn's contrib/gcore.py is in its source
distribution only. crash's gcore extension is packaged neither by Debian nor on PyPI: it is measured where
``--crash-gcore`` names it, built for the crash of the lab's toolbox; its row says so where it is not.
"crash, reading" searches the process's memory for a word that is not there (``search -u``): what the
extension must do too, before it writes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import environment, show_table
from tests.lab import cache, lab
from tests.lab.swaps import Swaps, swaps

COMMAND = "swaps"  # of the process, which is in the name of the core that crash writes
ABSENT = 0x5EED_0F_A_0DD_B175  # no word of the process
HEADER = ["program", "wall", "user + system", "peak memory", "core", "on disk"]


@dataclass(frozen=True)
class Figure:
    """A run: wall ``seconds``, ``cpu`` seconds, ``mib`` at its peak; the core's bytes, and those on disk."""

    seconds: float
    cpu: float
    mib: float
    size: int
    stored: int

    def cells(self) -> list[str]:
        """As text."""
        sizes = [f"{count >> 20} MiB" for count in (self.size, self.stored)]
        return [f"{self.seconds:.2f} s", f"{self.cpu:.2f} s", f"{self.mib:.0f} MiB", *sizes]


def measure(argv: Sequence[str], core: Path) -> Figure:
    """Run a program that writes ``core``. Raises RuntimeError if it fails."""
    core.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment())
    _pid, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not core.exists():
        raise RuntimeError(f"{argv[0]} wrote no core")
    written = core.stat()
    cpu = usage.ru_utime + usage.ru_stime
    return Figure(seconds, cpu, usage.ru_maxrss / 1024, written.st_size, written.st_blocks * 512)


def fastest(argv: Sequence[str], core: Path, runs: int) -> Figure:
    """The fastest of ``runs`` runs after one that is not counted."""
    measure(argv, core)
    return min((measure(argv, core) for _ in range(runs)), key=lambda figure: figure.seconds)


def programs(made: Swaps, core: Path) -> dict[str, list[str]]:
    """How each program is told to write the core of the large process."""
    vmlinux, dump, pid = str(made.kernel.vmlinux), str(made.dump), str(made.resident)
    kcrash = [sys.executable, "-m", "kcrash", "-s", "-x"]
    line = f"gcore -o {core} {pid}"
    drgn = [str(lab.drgn()), str(lab.drgn().with_name("drgn")), "-q", "-c", dump, "-s", vmlinux]
    return {
        "kcrash": [*kcrash, vmlinux, dump, "-c", line],
        "kcrash, no vmlinux": [*kcrash, dump, "-c", line],
        "drgn 0.3.0": [*drgn, str(drgn_script()), pid, str(core)],
    }


def crash_program(made: Swaps, extension: Path, folder: Path) -> tuple[list[str], Path]:
    """crash with its gcore extension, and the core that it writes to ``folder``."""
    script = folder / "script"
    script.write_text(f"extend {extension}\ngcore {made.resident}\nquit\n")
    line = f"cd {folder} && exec crash -s -i {script} {made.kernel.vmlinux} {made.dump}"
    paths = [folder, extension, made.kernel.vmlinux, made.dump]
    return lab.toolbox().command(["sh", "-c", line], paths), folder / f"core.{made.resident}.{COMMAND}"


def crash_reading(made: Swaps, folder: Path) -> tuple[list[str], Path]:
    """crash, reading every page of the process, and what it says of that."""
    script, said = folder / "reading", folder / "said"
    script.write_text(f"set {made.resident}\nsearch -u {ABSENT:x}\nquit\n")
    line = f"exec crash -s -i {script} {made.kernel.vmlinux} {made.dump} >{said}"
    paths = [folder, made.kernel.vmlinux, made.dump]
    return lab.toolbox().command(["sh", "-c", line], paths), said


def drgn_script() -> Path:
    """drgn's contrib/gcore.py, fetched when missing."""
    return cache.keep(f"drgn-gcore-{cache.digest(lab.DRGN)}", _fetch_script)


def _fetch_script(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder, lab.DRGN]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        (archive,) = Path(folder).glob("drgn-*.tar.gz")
        with tarfile.open(archive) as source:
            name = next(name for name in source.getnames() if name.endswith("/contrib/gcore.py"))
            member = source.extractfile(name)
            assert member is not None
            path.write_bytes(member.read())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.gcore", description=__doc__)
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--resident", type=int, default=1024, help="MiB of the process")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--crash-gcore", type=Path, help="crash's gcore extension, built")
    options = parser.parse_args()
    made = swaps(options.kernel, resident=options.resident)
    rows = [["crash-gcore", "not measured: --crash-gcore names none", *[""] * (len(HEADER) - 2)]]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        core = Path(folder) / "core"
        todo = {name: (argv, core) for name, argv in programs(made, core).items()}
        if options.crash_gcore:
            todo["crash-gcore"] = crash_program(made, options.crash_gcore.resolve(), Path(folder))
            rows = []
        todo["crash, reading"] = crash_reading(made, Path(folder))
        for name, (argv, core) in todo.items():
            rows.append([name, *fastest(argv, core, options.runs).cells()])
    show_table([HEADER, *rows], options.markdown)


if __name__ == "__main__":
    main()
