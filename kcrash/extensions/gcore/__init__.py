"""``gcore``: the core of a process, pulled out of a dead kernel, as if the process had dumped itself.

The standard is what fs/binfmt_elf.c and fs/coredump.c of the kernel would have
written. See docs/gcore.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.commands._tasks import context_task, find_tasks
from kcrash.commands.base import (
    Arguments,
    Column,
    Context,
    Fault,
    Flag,
    Item,
    Option,
    Record,
    Rest,
    Table,
    Text,
    command,
)
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.linux.swap import swap
from kcrash.linux.tasks import Task, task_table

if TYPE_CHECKING:
    from kcrash.extensions.gcore.core import Core
    from kcrash.extensions.gcore.report import Report
    from kcrash.extensions.gcore.sink import FileSink, StreamSink

PROGRESS, ERRORS, FAULTS = 1, 2, 4
MAX_NAME = 200  # bytes of a file name that come from the dump


def vlevel(text: str) -> int:
    """A sum of PROGRESS, ERRORS and FAULTS."""
    return _bounded(text, 7, "bad vlevel")


def filter_bits(text: str) -> int:
    """crash-gcore's filter: 0 to 255, in decimal, or hexadecimal with 0x."""
    return _bounded(text, 255, "bad filter")


def _bounded(text: str, limit: int, what: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= limit:
        raise ValueError(f"{what}: {text!r} (0 to {limit})")
    return value


def device_file(text: str) -> tuple[str, str]:
    """``DEVICE=FILE``."""
    device, equals, file = text.partition("=")
    if not (device and equals and file):
        raise ValueError(f"bad swap area: {text!r} (DEVICE=FILE)")
    return device, file


VMAS = (
    Column.address("start", "START", 16),
    Column.address("end", "END", 16),
    Column("flags", "FLAGS", 5),
    Column("bytes", text=False),
    Column("present", "PRESENT", 9, ">"),
    Column("zero", "ZERO", 9, ">"),
    Column("missing", "MISSING", 9, ">", lambda missing: str(sum(missing.values()))),
    Column("undumped", text=False),
    Column("file", "FILE", absent=""),
)
THREADS = (
    Column("pid", "PID", 7, ">"),
    Column("comm", "COMM", 16),
    Column("origin", "REGISTERS FROM", absent="?"),
)


@command(
    "gcore",
    summary="write the core file of a process",
    each="process",
    arguments=[
        Option(
            "-v",
            "vlevel",
            "what to tell besides, a sum of: 1 progress, 2 what could not be found out, 4 missing pages (4)",
            parse=vlevel,
            default=FAULTS,
        ),
        Option(
            "-f",
            "filter",
            "memory to write, instead of what the process's own coredump_filter says; a sum of: "
            "1 anonymous private, 2 anonymous shared, 4 file private, 8 file shared, 16 ELF headers, "
            "32 hugetlb private, 64 hugetlb shared, 128 MADV_DONTDUMP too",
            parse=filter_bits,
        ),
        Option("-o", "file", "a file, a folder, or - for standard output", completes="file"),
        Option(
            "--swap",
            "device=file",
            "what the swap device or file (as /proc/swaps calls it) held is in a file; for several again",
            parse=device_file,
            repeat=True,
            completes="file",
        ),
        Flag("--report", "do not write: show what could be recovered"),
        Rest("tasks", "whose core; the context task without", "pid | task | command", completes="task"),
    ],
    description="""
Writes an ELF core that debuggers open as if the process had dumped itself: the
registers of all its threads, and its memory from wherever the dump has it: page
tables, page cache, swap cache, compressed swap (zram, zswap), and the files that
--swap gives. Pages that are not to be had are holes in the file, and counted.

The file is core.PID.COMMAND in the current folder. It appears under its name only
when it is complete. A thread given by its pid is the first one of the core, which
a debugger shows first; by command name, each process of that name is written.""",
    examples=[
        ("Write the core of process 184:", "gcore 184", "Saved core.184.lab-worker"),
        ("What could be had of it?", "gcore --report 184"),
        ("With the pages that were swapped out to a disk:", "gcore --swap /dev/sda2=sda2.img 184"),
    ],
)
def gcore(context: Context, args: Arguments) -> Iterator[Item]:
    for device, file in args.swap:
        swap(context.session).give(device, file)
    tasks = _tasks(context, args.tasks)
    wanted = [task for task in tasks if isinstance(task, Task)]
    if args.o == "-" and len(tasks) > 1:
        raise UsageError("standard output takes the core of one process only")
    if args.o and len(wanted) > 1 and not _is_folder(args.o):
        raise UsageError(f"{args.o} is no folder, and {len(wanted)} cores are to be written")
    for task in tasks:
        if isinstance(task, Fault):
            yield task
            continue
        try:
            yield from _one(context, args, task)
        except KcrashError as error:
            if args.o == "-":
                raise  # a message among the bytes would spoil them
            yield Fault.of(error, pid=task.tgid)


def _tasks(context: Context, words: Sequence[str]) -> list[Task | Fault]:
    if not words:
        return [context_task(context)]
    found: list[Task | Fault] = []
    for word in words:
        try:
            found += find_tasks(context.session, word)[:1]
        except CommandError as error:
            named = _named(context, word)
            found += named or [Fault.of(error, argument=str(word))]
    return found


def _named(context: Context, name: str) -> list[Task]:
    """One task of each process that has a thread of that name, its leader if it is that one's name."""
    processes: dict[int, Task] = {}
    for task in task_table(context.session).tasks:
        if task.name == name and task.mm:
            known = processes.get(task.leader)
            if known is None or task.is_leader:
                processes[task.leader] = task
    return list(processes.values())


def _one(context: Context, args: Arguments, task: Task) -> Iterator[Item]:
    from kcrash.extensions.gcore.core import make_core
    from kcrash.extensions.gcore.process import open_process

    core = make_core(open_process(context.session, task), args.f)
    if args.report:
        yield from _report_items(core.report)
        return
    if args.v & ERRORS:
        for problem in core.report.problems:
            context.note(problem)
    path = None if args.o == "-" else _path(args.o, core)
    _write(context, core, path, bool(args.v & PROGRESS))
    if path is None:
        return
    yield Record("core", {"file": str(path), **core.report.data()}, lambda: _saved(core.report, path, args.v))


def _write(context: Context, core: Core, path: Path | None, tell: bool) -> None:
    what = f"core of {core.report.pid}"
    if tell:
        context.note(f"{what}: {len(core.process.threads)} threads, {len(core.segments)} mappings")
    bar = context.progress(what, core.report.present, core.report.page_size)
    with _sink(context, path) as sink, bar:
        core.write(sink, bar.advance)


def _sink(context: Context, path: Path | None) -> FileSink | StreamSink:
    from kcrash.extensions.gcore.sink import StreamSink, open_sink

    return StreamSink(context.binary(), "standard output") if path is None else open_sink(path)


def _is_folder(text: str) -> bool:
    return text.endswith("/") or Path(text).is_dir()


def _path(given: str | None, core: Core) -> Path:
    name = core_name(core.report.pid, core.report.comm)
    if given is None:
        return Path(name)
    path = Path(given).expanduser()
    return path / name if _is_folder(given) or path.is_dir() else path


def core_name(pid: int, comm: bytes) -> str:
    """``core.PID.COMMAND``: the command is text out of the dump, so whatever is no plain character is a _."""
    text = comm.decode("ascii", "replace")[:MAX_NAME]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.+@:,=()[]") else "_" for c in text)
    return f"core.{pid}.{clean.lstrip('.') or '_'}"


def _saved(report: Report, path: Path, level: int) -> list[str]:
    from kcrash.extensions.gcore.report import missing_text

    lines = [f"Saved {path}"]
    if level & FAULTS:
        if report.missing:
            lines.append(f"  missing pages: {missing_text(report.missing)}")
        lines += _thread_lines(report)
    return lines


def _thread_lines(report: Report) -> list[str]:
    """What the threads lack, one line for all that lack the same for the same reason."""
    reasons: dict[str, list[int]] = {}
    for thread in report.threads:
        for what, why in thread.unavailable.items():
            reasons.setdefault(f"{what} registers not available ({why})", []).append(thread.pid)
    return [f"  {what}: {', '.join(map(str, pids))}" for what, pids in reasons.items()]


def _report_items(report: Report) -> Iterator[Item]:
    from kcrash.extensions.gcore.report import missing_text

    counts = f"{report.present} pages present, {report.zero} zero, {sum(report.missing.values())} missing"
    yield Record("gcore", report.data(ranges=True), f"PID: {report.pid}  {report.port}  {counts}")
    common = {"pid": report.pid}
    rows = [[d[c.key] for c in VMAS] for s in report.segments for d in [_vma_row(s.data())]]
    yield Table(VMAS, rows, kind="mapping", common=common)
    yield Text("", layout=True)
    threads = [(t.pid, t.comm.decode("utf-8", "replace"), t.origin or None) for t in report.threads]
    yield Table(THREADS, threads, kind="thread", common={"process": report.pid})
    lines = _thread_lines(report)
    if report.missing:
        lines.append(f"  missing pages: {missing_text(report.missing)}")
    for line in [*lines, *(f"  {problem}" for problem in report.problems)]:
        yield Text(line, layout=True)


def _vma_row(data: dict[str, object]) -> dict[str, object]:
    start, end = str(data["start"]), str(data["end"])
    return data | {"start": int(start, 16), "end": int(end, 16)}
