"""``sys``: the machine and its kernel at a glance; system calls, configuration, taint, firmware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kcrash.commands.base import (
    Arguments,
    Column,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Record,
    Rest,
    Table,
    command,
)
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.linux import system, time
from kcrash.linux.cpus import online_cpus, present_cpus
from kcrash.linux.tasks import task_table
from kcrash.output.clean import clean_cell
from kcrash.output.items import Row
from kcrash.output.sizes import size_text

if TYPE_CHECKING:
    from kcrash.session import Session


@command(
    "sys",
    summary="system data",
    arguments=[
        Exclusive(
            Flag("-c", "system calls: all, or those of a name or number"),
            Flag("-t", "the taint mask and what it means"),
            Flag("-i", "what the firmware (DMI) says of the machine"),
            Flag("-panic", "panic the live system (never done)", hidden=True),
        ),
        Rest("words", "config, or the name or number of a system call", "config | name | number"),
    ],
    synopsis="[-c [name|number]] [-t] [-i] config",
    description="""
Shows the data of the start banner: the files, the number of CPUs, when the
machine died and how long it had run, its load, its names and memory, and the
message of the panic.

"sys config" shows the kernel's configuration where it was built with
CONFIG_IKCONFIG.""",
    examples=[
        ("The banner again:", "sys"),
        ("System calls whose name contains read:", "sys -c read"),
        ("Is preemption configured?", "sys config | grep PREEMPT"),
    ],
)
def sys(context: Context, args: Arguments) -> Iterator[Item]:
    session = context.session
    if args.panic:
        raise CommandError("cannot panic a dumpfile!")
    if args.c:
        yield from _system_calls(session, args.words)
    elif args.t:
        yield _taint(session)
    elif args.i:
        yield from _firmware(session)
    elif list(args.words) == ["config"]:
        yield from _configuration(session)
    elif args.words:
        raise UsageError(f"unknown argument: {args.words[0]}")
    else:
        yield from banner(session)


# -- the banner


def banner(session: Session) -> Iterator[Item]:
    """The lines of the banner as one Record; what could not be read is a Fault each."""
    data: dict[str, object] = {}
    lines: list[str] = []
    faults: list[Fault] = []
    for name, field in FIELDS:
        try:
            text = field(session, data)
        except KcrashError as error:
            faults.append(Fault(f"{name}: {error}", {"field": name.lower()}))
            text = "(unknown)"
        if text is not None:
            lines.append(f"{name:>12}: {text}")
    yield Record("system", data, lines)
    yield from faults


Field = Callable[["Session", "dict[str, object]"], "str | None"]


def _kernel(session: Session, data: dict[str, object]) -> str:
    name = session.vmlinux.path if session.vmlinux else "(in the dump)"
    data["kernel"] = session.vmlinux.path if session.vmlinux else None
    tainted = bool(system.tainted_mask(session))
    patched, transition = system.livepatched(session), system.livepatch_transition(session)
    data.update(tainted=tainted, livepatch=patched, livepatch_transition=transition)
    marks = [(tainted, "[TAINTED]"), (patched, "[LIVEPATCH]"), (transition, "[TRANSITION]")]
    return "  ".join([name, *(mark for there, mark in marks if there)])


def _dumpfile(session: Session, data: dict[str, object]) -> str:
    info = session.dump.info
    data.update(dumpfile=session.dump.path, format=info.format, dump_level=info.dump_level)
    cut = session.dump.cut
    data.update(partial=info.partial, incomplete=cut)
    marks = [(info.partial, "[PARTIAL DUMP]"), (cut, "[INCOMPLETE]")]
    return "  ".join([session.dump.path, *(mark for there, mark in marks if there)])


def _cpus(session: Session, data: dict[str, object]) -> str:
    present, online = present_cpus(session), set(online_cpus(session))
    offline = sum(cpu not in online for cpu in present)
    data.update(cpus=len(present), cpus_offline=offline)
    return f"{len(present)} [OFFLINE: {offline}]" if offline else f"{len(present)}"


def _date(session: Session, data: dict[str, object]) -> str:
    from datetime import datetime

    seconds = time.wall_clock(session)
    data["date"] = seconds
    try:
        local = datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds since 1970"
    return f"{local:%a %b} {local.day:2} {local:%H:%M:%S %Z %Y}"


def _uptime(session: Session, data: dict[str, object]) -> str:
    seconds = time.uptime(session)
    data["uptime"] = seconds
    return time.days_and_clock(int(seconds))


def _load(session: Session, data: dict[str, object]) -> str:
    load = system.load_average(session)
    data["load_average"] = list(load)
    return ", ".join(f"{value:.2f}" for value in load)


def _tasks(session: Session, data: dict[str, object]) -> str:
    count = len(task_table(session).tasks)
    data["tasks"] = count
    return str(count)


def _uts(member: str) -> Field:
    def field(session: Session, data: dict[str, object]) -> str:
        text: str = getattr(system.utsname(session), member)
        data[member] = text
        return text

    return field


def _machine(session: Session, data: dict[str, object]) -> str:
    name, khz = system.utsname(session).machine, system.cpu_khz(session)
    data.update(machine=name, cpu_khz=khz)
    return f"{name}  ({f'{khz // 1000} Mhz' if khz else 'unknown Mhz'})"


def _memory(session: Session, data: dict[str, object]) -> str:
    size = system.memory_size(session)
    data["memory"] = size
    return size_text(size)


def _panic(session: Session, data: dict[str, object]) -> str | None:
    if session.live:
        return None
    cause = system.panic_cause(session)
    data["panic"] = cause.message
    return f'"{clean_cell(cause.message)}"{" (check log for details)" if cause.mark == "Oops: " else ""}'


FIELDS: tuple[tuple[str, Field], ...] = (
    ("KERNEL", _kernel),
    ("DUMPFILE", _dumpfile),
    ("CPUS", _cpus),
    ("DATE", _date),
    ("UPTIME", _uptime),
    ("LOAD AVERAGE", _load),
    ("TASKS", _tasks),
    ("NODENAME", _uts("nodename")),
    ("RELEASE", _uts("release")),
    ("VERSION", _uts("version")),
    ("MACHINE", _machine),
    ("MEMORY", _memory),
    ("PANIC", _panic),
)


# -- taint, firmware, configuration


def _taint(session: Session) -> Item:
    mask, letters = system.tainted_mask(session), system.taint(session)
    return Record("taint", {"mask": mask, "letters": letters}, f"TAINTED_MASK: {mask:x}  {letters}")


def _firmware(session: Session) -> Iterator[Item]:
    for name, text in system.dmi_strings(session):
        yield Record("dmi", {"name": name, "value": text}, f"{name:>25}: {text}")


def _configuration(session: Session) -> Iterator[Item]:
    for line in system.kernel_config(session):
        name, equals, value = line.partition("=")
        data: dict[str, object] = {"option": name, "value": value} if equals else {"text": line}
        yield Record("config", data, line)


# -- system calls

CALL_COLUMNS = (
    Column("number", "NUM", 3, ">"),
    Column("call", "SYSTEM CALL", 26, gap="  "),
    Column("", "FILE AND LINE NUMBER"),
    Column("file", text=False),
    Column("line", text=False),
)


def _system_calls(session: Session, words: list[str]) -> Iterator[Item]:
    if len(words) > 1:
        raise UsageError(f"too many arguments: {words[1]}")
    calls = system.system_calls(session)
    if words:
        calls = _chosen(calls, words[0])
    yield Table(CALL_COLUMNS, _call_rows(session, calls), kind="syscall", header_if_empty=False)


def _chosen(calls: list[system.SystemCall], word: str) -> list[system.SystemCall]:
    try:
        number = int(word, 0)
    except ValueError:
        return [call for call in calls if word in call.name]
    return [call for call in calls if call.number == number]


def _call_rows(session: Session, calls: list[system.SystemCall]) -> Iterator[Row]:
    folder = _build_folder(session)
    for call in calls:
        where = session.line_of(call.address)
        text = ""
        if where:
            inside = folder and where.file.startswith(folder)
            text = f"{f'../{where.file[len(folder) :]}' if inside else where.file}: {where.line}"
        yield (call.number, call.name, text, *(where or (None, None)))


def _build_folder(session: Session) -> str:
    """Where the kernel was built, as its debuginfo has it, with the slash behind; "" if unknown."""
    start = session.symbols.find_kernel("start_kernel")
    where = session.line_of(start) if start is not None else None
    return where.file.removesuffix("init/main.c") if where and where.file.endswith("/init/main.c") else ""
