"""``ps``: the tasks of the dead machine, and what one may ask of all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kcrash.commands._tasks import find_tasks, header_item, header_text, task_data
from kcrash.commands.base import (
    Address,
    Arguments,
    Column,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Option,
    Record,
    Rest,
    Table,
    Text,
    command,
    cpus,
)
from kcrash.errors import CommandError, KcrashError, MemoryFault, UsageError
from kcrash.linux import process
from kcrash.linux.cpus import online_cpus, possible_cpus
from kcrash.linux.system import highest_page, present_pages
from kcrash.linux.tasks import Task, TaskTable, task_table
from kcrash.output.items import Row

if TYPE_CHECKING:
    from kcrash.session import Session

MARKS = {"active": ">", "offline": "-", "": " "}


def _percent(value: float) -> str:
    return f"{value:4.1f}"


_FIRST = (
    Column("active", "", 1, format=MARKS.__getitem__, data=bool),
    Column("pid", "PID", 7, ">"),
    Column("ppid", "PPID", 7, ">"),
    Column("cpu", "CPU", 3, ">"),
)
_NAME = (
    Column("", "COMM", gap="  "),
    Column("comm", text=False),
    Column("kernel", text=False),
)
_MEMORY = (
    Column("state", "ST", 2, gap="  "),
    Column("mem", "%MEM", 4, ">", _percent, gap="  "),
    Column("vsz", "VSZ", 8, ">"),
    Column("rss", "RSS", 8, ">"),
)
_POLICY = (
    Column("policy", "POLICY", 8, gap="  "),
    Column("prio", "PRIO", 4, ">"),
)


def task_listing(rows: Iterable[Row | Fault], digits: int, header: bool, form: str = "") -> Table:
    """The table of tasks. ``digits``: of an address; ``form``: "s" for stack pointers, "Y" for policies."""
    key, title = ("kstackp", "KSTACKP") if form == "s" else ("task", "TASK")
    middle, end = (_POLICY, "POLICY    PRIO  COMM") if form == "Y" else (_MEMORY, _MEMORY_TITLES)
    where = Column.address(key, title, digits, gap="  ", absent="--")
    # crash puts CPU half beside its column
    heading = f"      PID    PPID  CPU {f'{title:^{digits}}'}  {end}"
    return Table((*_FIRST, where, *middle, *_NAME), rows, kind="task", heading=heading, header=header)


_MEMORY_TITLES = "ST  %MEM      VSZ      RSS  COMM"


class Selection(NamedTuple):
    """The chosen tasks, in the table's order; what was asked for but does not exist; whether it is all."""

    tasks: list[Task]
    faults: list[Fault]
    everything: bool


def policies(text: str) -> frozenset[int]:
    """``NORMAL,5``: scheduling policies by name or number."""
    found = set()
    for word in text.split(","):
        name = word.upper()
        if name in process.POLICIES:
            found.add(process.POLICIES.index(name))
        elif word.isdecimal() and int(word) < len(process.POLICIES):
            found.add(int(word))
        else:
            raise ValueError(f"{word}: invalid scheduling policy")
    return frozenset(found)


@command(
    "ps",
    summary="display process status information",
    each="task",
    arguments=[
        Exclusive(Flag("-k", "only kernel threads"), Flag("-u", "only user tasks")),
        Flag("-G", "only the leader of each thread group"),
        Flag("-I", "leave out the CPUs' idle tasks"),
        Option("-y", "policy", "only tasks of these scheduling policies, by name or number", parse=policies),
        Flag("-s", "show the kernel stack pointer instead of the task's address"),
        Exclusive(
            Flag("-p", "the parents of each task"),
            Flag("-c", "the children of each task"),
            Flag("-t", "run time, start time, user and system time"),
            Flag("-l", "when each task last ran, the latest first"),
            Flag("-m", "as -l, but how long ago: days, hours, minutes, seconds"),
            Flag("-a", "arguments and environment"),
            Flag("-g", "the threads of each thread group"),
            Flag("-r", "resource limits"),
            Flag("-S", "how many tasks are in which state"),
            Flag("-A", "only the active task of each CPU"),
            Flag("-Y", "scheduling policy and priority"),
        ),
        Option("-C", "cpus", "with -l or -m: a block for each of these CPUs", parse=cpus),
        Flag("-H", "no header line"),
        Rest("selector", "which tasks", "pid | task | command | 'regex'", completes="task"),
    ],
    synopsis="[-k|-u|-G|-I|-y policy] [-s] [-p|-c|-t|-[l|m][-C cpu]|-a|-g|-r|-S|-A|-H|-Y]\n"
    "     [pid | task | command] ...",
    description="""
Shows the status of selected tasks, or of all. A task is selected by its PID,
by the hexadecimal address of its task_struct, by its command name, or by a
POSIX extended regular expression in single quotes that matches its name. A
name that consists of digits is preceded by a backslash.

The columns are the PID, the PID of the parent, the CPU that the task ran on
last, the address of the task_struct, the state (RU, IN, UN, ST, ZO, TR, DE,
WA, PA, ID, NE), the part of the machine's memory that is resident, virtual
and resident size in kilobytes, and the name, in brackets for kernel threads.
A ">" marks the active task of each CPU, or with "set offline hide" a "-" that
of a CPU that is offline.""",
    examples=[
        ("Show all tasks that are called nfsd or kswapd0:", "ps nfsd kswapd0"),
        ("The kernel threads that ran last:", "ps -k -l"),
        ("The children of task 1:", "ps -c 1"),
        ("What the shells were started with:", "ps -a bash"),
    ],
)
def ps(context: Context, args: Arguments) -> Iterator[Item]:
    _check(args)
    table = task_table(context.session)
    yield from (Fault.of(error) for error in table.errors)
    if args.S:
        yield from _summary(context.session, table)
        return
    chosen = _select(context.session, table, args.selector)
    yield from chosen.faults
    tasks = _filter(context.session, table, chosen, args)
    yield from _form(args)(context, args, tasks)


def _check(args: Arguments) -> None:
    if args.C is not None and not (args.l or args.m):
        raise UsageError("-C option is only applicable with -l and -m")
    if args.G and (args.l or args.m):
        raise CommandError(f"-G not supported with -{'l' if args.l else 'm'} option")
    if args.S and args.selector:
        raise CommandError("-S option takes no arguments")
    if args.S and args.given - {"S"}:
        raise CommandError("-S option cannot be used with other options")


# -- which tasks


def _select(session: Session, table: TaskTable, words: Sequence[str]) -> Selection:
    if not words:
        return Selection(table.sorted(), [], True)
    tasks: list[Task] = []
    faults: list[Fault] = []
    for word in words:
        try:
            tasks += _named(session, table, word)
        except CommandError as error:
            faults.append(Fault.of(error, argument=str(word)))
    place = {task.address: n for n, task in enumerate(table.sorted())}
    tasks.sort(key=lambda task: place[task.address])
    return Selection(tasks, faults, False)


def _named(session: Session, table: TaskTable, word: str) -> list[Task]:
    """The tasks of one word: a regular expression, a name, or a pid or address."""
    if getattr(word, "quote", "") == "'":
        return tasks_matching(table, word)
    if word.startswith("\\"):
        return tasks_called(table, word[1:])
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", word):
        try:
            return find_tasks(session, word)
        except CommandError:
            # "bad" and "cafe" are names too, if any task has them
            found = tasks_called(table, word)
            if not found:
                raise
            return found
    return tasks_called(table, word)


def tasks_matching(table: TaskTable, pattern: str) -> list[Task]:
    """The tasks whose name the extended regular expression matches anywhere."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise CommandError(f"invalid regular expression: {pattern}: {error}") from None
    return [task for task in table.sorted() if search(task.name)]


def tasks_called(table: TaskTable, name: str) -> list[Task]:
    """The tasks of that name, of which the kernel keeps 15 bytes."""
    wanted = name.encode("utf-8", "surrogateescape")[:15]
    return [task for task in table.sorted() if task.comm == wanted]


def _filter(session: Session, table: TaskTable, chosen: Selection, args: Arguments) -> list[Task]:
    tasks = chosen.tasks
    if args.k or args.u:
        tasks = [task for task in tasks if task.is_kernel == args.k]
    if args.I:
        tasks = [task for task in tasks if task.idle_cpu is None]
    if args.A and chosen.everything:
        tasks = [task for task in tasks if task.address in table.active]
    if args.y is not None:
        tasks = [task for task in tasks if process.scheduling(session, task).policy in args.y]
    if args.G:
        tasks = _leaders(table, chosen.everything, tasks)
    return tasks


def _leaders(table: TaskTable, everything: bool, tasks: list[Task]) -> list[Task]:
    """Each thread group's leader once; a thread that was named stands for its leader."""
    found: dict[int, Task] = {}
    for task in tasks:
        leader = table.by_address.get(task.leader, task)
        if leader is task or not everything:
            found.setdefault(leader.address, leader)
    return list(found.values())


# -- the table of tasks

Form = Callable[[Context, Arguments, "list[Task]"], Iterator[Item]]


def _form(args: Arguments) -> Form:
    forms: dict[str, Form] = {
        "p": _parents, "c": _children, "t": _times, "l": _last_run, "m": _last_run, "a": _arguments,
        "g": _threads, "r": _limits, "Y": _policies,
    }  # fmt: skip
    return next((form for flag, form in forms.items() if getattr(args, flag)), _status)


def _status(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    rows = _Rows(context, args.s)
    yield task_listing(map(rows, tasks), rows.digits, not args.H, "s" if args.s else "")


def _policies(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    rows = _Rows(context)
    yield task_listing(map(rows.policy, tasks), rows.digits, not args.H, "Y")


class _Rows:
    """Makes the rows: what is the same for all tasks is looked up once."""

    def __init__(self, context: Context, stack: bool = False) -> None:
        self.session = context.session
        self.table = task_table(self.session)
        self.stack = stack
        self.digits = 2 * self.session.arch.word_bytes
        self.kilobytes = self.session.arch.page_size // 1024
        self.total = _all_pages(self.session)
        self.letters = process.states(self.session).letters
        self.online = set(online_cpus(self.session)) if context.settings.offline == "hide" else None
        self.ppids = {task.address: task.pid for task in self.table.tasks}

    def __call__(self, task: Task) -> Row | Fault:
        try:
            memory = process.task_memory(self.session, task)
        except KcrashError as error:
            return Fault.of(error, **task_data(task))
        percent = 100 * memory.rss / self.total if self.total else None
        return (
            *self._first(task),
            (None if task.address in self.table.active else task.sp) if self.stack else task.address,
            self.letters(process.task_state(self.session, task)),
            percent,
            memory.total_vm * self.kilobytes,
            memory.rss * self.kilobytes,
            *_shown_name(task),
        )

    def policy(self, task: Task) -> Row | Fault:
        """A row of ``ps -Y``."""
        try:
            found = process.scheduling(self.session, task)
        except KcrashError as error:
            return Fault.of(error, **task_data(task))
        name = process.policy_name(found.policy)
        return (*self._first(task), task.address, name, found.prio, *_shown_name(task))

    def _first(self, task: Task) -> tuple[str, int, int | None, int]:
        return self._mark(task), task.pid, self.ppids.get(task.parent), task.cpu

    def _mark(self, task: Task) -> str:
        if task.address not in self.table.active:
            return ""
        return "active" if self.online is None or task.cpu in self.online else "offline"


def _all_pages(session: Session) -> int:
    """Pages of which %MEM is a part: as crash, all up to the end of the directly mapped memory."""
    for count in (highest_page, present_pages):
        try:
            return count(session)
        except KcrashError:
            continue
    return 0


def _shown_name(task: Task) -> tuple[str, str, bool]:
    name = task.name
    return f"[{name}]" if task.is_kernel else name, name, task.is_kernel


# -- forms that print a block for each task


def _blocks(tasks: Iterable[Task], block: Callable[[Task], Iterable[Item]]) -> Iterator[Item]:
    """Each task's block and a blank line behind it; one that fails tells why."""
    for task in tasks:
        try:
            yield from block(task)
        except KcrashError as error:
            yield Fault.of(error, **task_data(task))
        yield Text("", layout=True)


def _line(task: Task, indent: int, **data: object) -> Record:
    """A task's header line inside a block of another task."""
    return Record("task", {**task_data(task), **data}, f"{'':{indent}}{header_text(task)}")


def _parents(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    """From init_task down to the task, a blank further in at each step."""
    table = task_table(context.session)

    def block(task: Task) -> Iterator[Item]:
        chain = [task]
        while len(chain) < len(table.tasks):
            parent = table.by_address.get(chain[-1].parent)
            if parent is None or parent in chain:
                break
            chain.append(parent)
        for level, found in enumerate(reversed(chain)):
            yield _line(found, level, level=level, of=Address(task.address))

    return _blocks(tasks, block)


def _children(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    children: dict[int, list[Task]] = {}
    for task in task_table(context.session).sorted():
        children.setdefault(task.parent, []).append(task)

    def block(task: Task) -> Iterator[Item]:
        yield header_item(task)
        found = children.get(task.address, [])
        for child in found:
            yield _line(child, 2, parent=Address(task.address))
        if not found:
            yield Text("  (no children)", layout=True)

    return _blocks(tasks, block)


def _threads(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    table = task_table(context.session)

    def block(leader: Task) -> Iterator[Item]:
        yield header_item(leader)
        others = [task for task in table.threads(leader) if task is not leader]
        for task in others:
            yield _line(task, 2, leader=Address(leader.address))
        if not others and leader.idle_cpu is None:
            yield Text("  (no threads)", layout=True)

    if args.selector:
        return _blocks((table.by_address.get(task.leader, task) for task in tasks), block)
    return _blocks(_leaders(table, False, tasks), block)


def _times(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    from kcrash.linux import time

    session = context.session
    hz, now = time.hz(session), time.uptime_jiffies(session)
    if not args.selector:
        tasks = sorted(tasks, key=lambda task: _start(session, task))

    def block(task: Task) -> Iterator[Item]:
        times = process.task_times(session, task)
        # crash takes whole seconds off the ticks; the exact time is in the data
        run = max(now - times.start // 10**9 * hz, 0) // hz
        yield header_item(task)
        yield Record(
            "times",
            {
                **task_data(task),
                "run_seconds": max(now / hz - times.start / 10**9, 0.0),
                "start": times.raw_start,
                "start_ns": times.start,
                "utime": times.utime,
                "stime": times.stime,
            },
            (
                f"    RUN TIME: {time.days_and_clock(run)}",
                f"  START TIME: {times.raw_start}",
                f"       UTIME: {times.utime}",
                f"       STIME: {times.stime}",
            ),
        )

    return _blocks(tasks, block)


def _start(session: Session, task: Task) -> int:
    """When a task started, for sorting; 0 if that cannot be read."""
    try:
        return process.task_times(session, task).start
    except KcrashError:
        return 0


LIMIT_COLUMNS = (
    Column("limit", "RLIMIT", 12, ">"),
    Column("current", "CURRENT", 11, "^", absent="(unlimited)", gap="   "),
    Column("maximum", "MAXIMUM", 11, "^", absent="(unlimited)", gap="   "),
)


def _limits(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    def block(task: Task) -> Iterator[Item]:
        yield header_item(task)
        rows = process.rlimits(context.session, task)
        yield Table(LIMIT_COLUMNS, rows, kind="rlimit", common=task_data(task))

    return _blocks(tasks, block)


def _arguments(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    def block(task: Task) -> Iterator[Item]:
        yield header_item(task)
        if not task.mm:
            yield Record("arguments", {**task_data(task), "arguments": None}, "ps: no user stack")
            return
        try:
            given = [_text(part) for part in process.arguments(context.session, task)]
            variables = [_text(part) for part in process.environment(context.session, task)]
        except MemoryFault as fault:
            message = f"cannot access user stack address: {fault.address:x}"
            yield Fault(message, {**task_data(task), "reason": fault.reason.value})
            return
        lines = [f"ARG: {' '.join(given)} "]
        lines += [f"{'ENV: ' if not n else '     '}{text}" for n, text in enumerate(variables)]
        yield Record("arguments", {**task_data(task), "arguments": given, "environment": variables}, lines)

    return _blocks(tasks, block)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


# -- when tasks last ran


def _last_run(context: Context, args: Arguments, tasks: list[Task]) -> Iterator[Item]:
    session = context.session
    stamps: dict[int, int] = {}
    for task in tasks:
        try:
            stamps[task.address] = process.last_run(session, task)
        except KcrashError as error:
            yield Fault.of(error, **task_data(task))
    lines = _LastRun(session, stamps, ago=bool(args.m and not args.l))
    lines.width = max(lines.width, 0 if lines.ago else _widest(session))
    ordered = sorted((t for t in tasks if t.address in stamps), key=lambda t: -stamps[t.address])
    if args.C is None:
        yield from map(lines, ordered)
        return
    for number, cpu in enumerate(_chosen_cpus(session, args.C)):
        if number:
            yield Text("", layout=True)
        yield Text(f"CPU: {cpu}", layout=True)
        yield from (lines(task) for task in ordered if task.cpu == cpu)


def _widest(session: Session) -> int:
    """Digits of the latest time stamp of all tasks: the column is as wide as that whoever is chosen."""
    latest = 0
    for task in task_table(session).tasks:
        try:
            latest = max(latest, process.last_run(session, task))
        except KcrashError:
            continue
    return len(str(latest))


def _chosen_cpus(session: Session, chosen: range | list[int]) -> list[int]:
    known = possible_cpus(session)
    if isinstance(chosen, range):
        return known
    missing = next((cpu for cpu in chosen if cpu not in known), None)
    if missing is not None:
        raise CommandError(f"invalid cpu specification: {missing}")
    return chosen


class _LastRun:
    """Makes the lines of ``ps -l`` and ``ps -m``."""

    def __init__(self, session: Session, stamps: dict[int, int], ago: bool) -> None:
        self.session = session
        self.stamps = stamps
        self.ago = ago
        self.letters = process.states(session).letters
        self.clocks: dict[int, int] = {}
        self.width = len(str(max(stamps.values(), default=0)))
        if ago:
            oldest = max((self._ago(cpu, 0) for cpu in possible_cpus(session)), default=0)
            self.width = len(str(oldest // (86400 * 10**9)))

    def _ago(self, cpu: int, stamp: int) -> int:
        if cpu not in self.clocks:
            self.clocks[cpu] = process.runqueue_clock(self.session, cpu)
        return max(self.clocks[cpu] - stamp, 0)

    def __call__(self, task: Task) -> Record:
        stamp = self.stamps[task.address]
        state = self.letters(process.task_state(self.session, task))
        data = {**task_data(task), "state": state, "last_run": stamp}
        if self.ago:
            data["ago_ns"] = self._ago(task.cpu, stamp)
        shown = self._clock(self._ago(task.cpu, stamp)) if self.ago else f"{stamp:>{self.width}}"
        return Record("task", data, f"[{shown}] [{state}]  {header_text(task)}")

    def _clock(self, nanoseconds: int) -> str:
        seconds, rest = divmod(nanoseconds // 10**6, 1000)
        days, seconds = divmod(seconds, 86400)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{days:>{self.width}} {hours:02}:{minutes:02}:{seconds % 60:02}.{rest:03}"


# -- how many


def _summary(session: Session, table: TaskTable) -> Iterator[Item]:
    """States in the order in which they are first met."""
    letters = process.states(session).letters
    counts = Counter(letters(process.task_state(session, task)) for task in table.sorted())
    for state, count in counts.items():
        yield Record("state", {"state": state, "count": count}, f"  {state}: {count}")
