"""kcrash beside crash and drgn: the same command on the same dump, in turn, in one run.

    python -m bench.peers [--kernel 6.1] [--form elf --form zlib-d1] [--runs 5] [--threads 2000] [--markdown]

Each figure is of a whole process: wall seconds and peak resident memory as the operating system counts
them when it ends; the fastest of the runs (what else the machine does only adds), after one that is not
counted. Absolute times depend on the machine, the ratios of one run less so. "nothing": the program has
no such command, or gave up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from tests.lab import lab
from tests.lab.lab import Dumps

COMMANDS = ("ps", "sys", "bt", "bt -a", "foreach bt", "log", "mod", "struct task_struct")
TIMEOUT = 600


@dataclass(frozen=True)
class Figure:
    """A program on a command: wall ``seconds``, ``mib`` at its peak, exit ``status``, ``lines`` printed."""

    seconds: float
    mib: float
    status: int
    lines: int


def measure(argv: Sequence[str], script: str) -> Figure:
    """Run a program once, feeding it ``script``."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(script.encode())
        source.seek(0)
        started = time.perf_counter()
        status, peak = _wait(argv, source, sink)
        seconds = time.perf_counter() - started
        sink.seek(0)
        return Figure(seconds, peak, status, sum(1 for _line in sink))


def _wait(argv: Sequence[str], source: IO[bytes], sink: IO[bytes]) -> tuple[int, float]:
    """``(exit status, peak MiB)`` of a finished run."""
    process = subprocess.Popen(argv, stdin=source, stdout=sink, stderr=subprocess.DEVNULL, env=environment())
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


def environment() -> dict[str, str]:
    """Ours, with Python's compiled files allowed: an installed program has them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def fastest(argv: Sequence[str], script: str, runs: int) -> Figure:
    """The fastest of ``runs`` runs after a warm-up, and the highest peak of them."""
    measure(argv, script)
    figures = [measure(argv, script) for _ in range(runs)]
    best = min(figures, key=lambda figure: figure.seconds)
    return replace(best, mib=max(figure.mib for figure in figures))


def programs(dumps: Dumps, form: str) -> dict[str, list[str]]:
    """How each program is started on a dump; all read commands from standard input."""
    vmlinux, vmcore = str(dumps.vmlinux), str(dumps.forms[form])
    drgn = Path(lab.drgn()).with_name("drgn-crash")
    return {
        "kcrash": [sys.executable, "-m", "kcrash", "-s", vmlinux, vmcore],
        "alone": [sys.executable, "-m", "kcrash", "-s", vmcore],
        "drgn": [str(lab.drgn()), str(drgn), vmlinux, vmcore],
        "crash": lab.toolbox().command(["crash", "-s", vmlinux, vmcore], [dumps.vmlinux, dumps.forms[form]]),
    }


def compare(dumps: Dumps, form: str, commands: Sequence[str], runs: int) -> list[list[str]]:
    """A row a command: each program's figures, and kcrash's time as a part of the others'."""
    rows = []
    started = programs(dumps, form)
    for command in commands:
        figures = {name: fastest(argv, f"{command}\n", runs) for name, argv in started.items()}
        own = figures["kcrash"]
        ratios = [f"{own.seconds / figures[peer].seconds:.2f}" for peer in ("drgn", "crash")]
        rows.append([form, command, *map(cell, figures.values()), *ratios])
    return rows


def cell(figure: Figure) -> str:
    """A figure as text; a program that printed nothing has not answered."""
    return f"{figure.seconds:.2f} s, {figure.mib:.0f} MiB" + ("" if figure.lines else " (nothing)")


PROGRAMS = ["kcrash", "kcrash, no vmlinux", "drgn 0.3.0", "crash 9.0.2"]
HEADER = ["dump", "start + command", *PROGRAMS, "of drgn", "of crash"]


def show_table(table: list[list[str]], markdown: bool) -> None:
    """Print rows, the header first, in columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(cells) + " |" if markdown else "  ".join(cells))
        if markdown and number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--form", action="append")
    parser.add_argument("--command", action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="the scale dump: so many sleeping threads")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    forms = options.form or ["elf", "zlib-d1"]
    dumps = lab.dumps(options.kernel, names=forms, scale=options.threads)
    rows = []
    for form in forms:
        rows += compare(dumps, form, options.command or COMMANDS, options.runs)
    show_table([HEADER, *rows], options.markdown)


if __name__ == "__main__":
    main()
