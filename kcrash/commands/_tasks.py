"""Tasks as commands name and show them: for every command that takes ``[pid | task ...]``.

* ``per_task(context, args.tasks, show)``: the whole of such a command. ``show(task)`` yields the items of one
  task; before them comes the header line, between tasks a blank one; an argument that is no task is a
  Fault and the others go on. Without arguments it is the context task (what ``set`` shows, or what
  ``foreach`` is at). An error that ``show`` raises becomes a Fault of that task.
* ``each_task(context, words)``: only the tasks (or a Fault), for commands that print no header.
* ``find_tasks(session, word)``: the tasks that one word names: a decimal pid (0 is every CPU's idle task),
  the address of a task_struct in hexadecimal, or a pid in hexadecimal, tried in this order as crash does.
  CommandError "invalid task or pid value: ..." if there is none. ``find_task`` is the first of them.
* ``context_task(context)``: the context task; CommandError if there is none.
* ``header_text(task)``: ``PID: 1018     TASK: f2814000  CPU: 1    COMMAND: "java"``; ``header_item(task)``:
  the same as a Record (kind "task"). ``task_data(task)``: pid, task, cpu, comm for JSON: give it to
  ``Table(common=...)`` and put it into Records, so that each JSON line says whose it is.
* ``TASKS``: the declaration of the positional arguments: ``args.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kcrash.commands.base import Context, Fault, Item, Record, Rest, Text
from kcrash.errors import CommandError, KcrashError
from kcrash.linux.tasks import Task, default_task, task_table
from kcrash.output import Address
from kcrash.output.clean import clean_cell

if TYPE_CHECKING:
    from kcrash.memory.space import PagedSpace
    from kcrash.session import Session

TASKS = Rest(
    "tasks", "a process id, or the hexadecimal address of a task_struct", "pid | task", completes="task"
)


def _number(word: str, base: int) -> int | None:
    """The number that ``word`` is; None for anything else, and for Python's own spellings (1_0, +1)."""
    try:
        return int(word, base) if word[:2].isalnum() and "_" not in word else None
    except ValueError:
        return None


def find_tasks(session: Session, word: str) -> list[Task]:
    """The tasks that ``word`` names. Raises CommandError."""
    table = task_table(session)
    decimal, hexadecimal = _number(word, 10), _number(word, 16)
    if decimal is not None and decimal in table.by_pid:
        return table.by_pid[decimal]
    if hexadecimal is not None:
        found = table.by_address.get(hexadecimal)
        if found is not None:
            return [found]
        if hexadecimal in table.by_pid:
            return table.by_pid[hexadecimal]
    raise CommandError(f"invalid task or pid value: {word}")


def find_task(session: Session, word: str) -> Task:
    """The first task that ``word`` names. Raises CommandError."""
    return find_tasks(session, word)[0]


def context_task(context: Context) -> Task:
    """The task that commands are about unless told otherwise. Raises CommandError."""
    session = context.session
    if session.context is None:
        session.context = default_task(session)
    if session.context is None:
        raise CommandError("no task of this dump can be read: there is no context task")
    found: Task = session.context
    return found


def each_task(context: Context, words: Sequence[str]) -> Iterator[Task | Fault]:
    """The tasks that ``words`` name, in their order; the context task without any."""
    if not words:
        yield context_task(context)
    for word in words:
        try:
            yield from find_tasks(context.session, word)
        except CommandError as error:
            yield Fault.of(error, argument=str(word))


def per_task(
    context: Context, words: Sequence[str], show: Callable[[Task], Iterable[Item]], *, header: bool = True
) -> Iterator[Item]:
    """The header and the items of every task that ``words`` name, a blank line between tasks."""
    between = False
    for found in each_task(context, words):
        if isinstance(found, Fault):
            yield found
            continue
        if between:
            yield Text("", layout=True)
        between = True
        if header:
            yield header_item(found)
        yield from _guarded(found, show)


def _guarded(task: Task, show: Callable[[Task], Iterable[Item]]) -> Iterator[Item]:
    try:
        yield from show(task)
    except KcrashError as error:
        yield Fault.of(error, **task_data(task))


def user_memory(session: Session, task: Task) -> PagedSpace:
    """The user space of a task, as its page tables map it. Raises CommandError for a kernel thread."""
    from kcrash.linux.mm import read_mm, user_space

    if not task.mm:
        raise CommandError(f"task {task.pid} has no user memory")
    return user_space(session, read_mm(session, task.mm), f"user of PID {task.pid}")


def header_text(task: Task) -> str:
    """The line that stands over what is said about a task."""
    name = clean_cell(task.name)  # a name with a newline must not look like another task's line
    width = 2 * task.session.arch.word_bytes
    return f'PID: {task.pid:<7}  TASK: {task.address:<{width}x}  CPU: {task.cpu:<3}  COMMAND: "{name}"'


def task_data(task: Task) -> dict[str, object]:
    """Which task it is, for JSON."""
    return {"pid": task.pid, "task": Address(task.address), "cpu": task.cpu, "comm": task.name}


def header_item(task: Task) -> Record:
    """The header line as an item."""
    return Record("task", task_data(task), header_text(task))
