"""``foreach``: another command, once for each of the chosen tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kcrash.commands._tasks import find_tasks, header_item, task_data
from kcrash.commands.base import Arguments, Context, Fault, Item, Raw, Text, Word, command, split_words
from kcrash.commands.ps import tasks_called, tasks_matching
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.linux import process
from kcrash.linux.tasks import Task, TaskTable, task_table

if TYPE_CHECKING:
    from kcrash.session import Session

HEADERLESS = ("set", "vtop")
"""Those that print no header of their own over what they say of a task."""


@command(
    "foreach",
    summary="display command data for multiple tasks in the system",
    arguments=[
        Raw(
            "line", "which tasks, and the command with its arguments", "[selector ...] command [argument ...]"
        ),
    ],
    synopsis="[[pid | taskp | name | state | [kernel | user | gleader]] ...]\n"
    "          command [flag] [argument]",
    description="""
Runs a command for each of the chosen tasks, or for all if none is chosen, as
if each were the context task. The command is one that shows a task
(bt, ps, set, task, vtop), with its own options; of extensions, gcore, which
runs once for each user process.

Tasks are chosen by PID, by the hexadecimal address of the task_struct, by
name (with a backslash before it if it could be meant for something else), or
by a POSIX extended regular expression in single quotes. These may be narrowed
by a state (RU, IN, UN, ST, ZO, TR, SW, DE, WA, PA, ID or NE), by "kernel",
"user", "gleader" (user tasks that lead their thread group) or "active" (the
task that was on a CPU).""",
    examples=[
        ("The stacks of all tasks that wait and cannot be woken by signals:", "foreach UN bt"),
        ("The open files of every nfsd:", "foreach nfsd files"),
        ("What the active tasks were started with:", "foreach active ps -a"),
        (
            "The flags of the kernel threads whose names begin with kworker:",
            "foreach '^kworker' task -R flags",
        ),
    ],
)
def foreach(context: Context, args: Arguments) -> Iterator[Item]:
    words = split_words(args.line)
    if "--json" in words:  # of the whole line, wherever it stands
        words.remove(Word("--json"))
        args.json = True
    return _foreach(context, words)


def _foreach(context: Context, line: list[Word]) -> Iterator[Item]:
    table = task_table(context.session)
    chosen, words = _parse(context, table, line)
    yield from (Fault.of(error) for error in table.errors)
    tasks = [task for task in table.sorted() if chosen.has(task)]
    if _each_of(context, words[0]) == "process":
        tasks = _processes(tasks)
    try:
        context.inner = words[0]
        if words[0] == "ps":
            yield from _ps(context, words[1:], tasks)
        else:
            yield from _each(context, words, tasks)
    finally:
        context.inner = ""


# -- which tasks


class Choice:
    """Tasks by address (``named``; all if nothing was named), and conditions that all must hold."""

    def __init__(self) -> None:
        self.named: set[int] | None = None
        self.conditions: list[Callable[[Task], bool]] = []
        self.state = ""

    def add(self, tasks: Sequence[Task]) -> None:
        """These tasks are meant too."""
        self.named = (self.named or set()) | {task.address for task in tasks}

    def has(self, task: Task) -> bool:
        """Whether a task is chosen."""
        if self.named is not None and task.address not in self.named:
            return False
        return all(condition(task) for condition in self.conditions)


def _processes(tasks: Sequence[Task]) -> list[Task]:
    """The first of the tasks of each user process."""
    first: dict[int, Task] = {}
    for task in tasks:
        if not task.is_kernel:
            first.setdefault(task.tgid, task)
    return [*first.values()]


def _each_of(context: Context, word: str) -> str:
    """What foreach runs the command of this name once for; "" if it is none that foreach runs."""
    found = context.registry.get(word)
    return found.each if found else ""


def _parse(context: Context, table: TaskTable, words: list[Word]) -> tuple[Choice, list[Word]]:
    """The choice, and the words of the command."""
    session = context.session
    choice = Choice()
    conditions: dict[str, Callable[[Task], bool]] = {
        "kernel": lambda task: task.is_kernel,
        "user": lambda task: not task.is_kernel,
        "gleader": lambda task: not task.is_kernel and task.is_leader,
        "active": lambda task: task.address in table.active,
    }
    for place, word in enumerate(words):
        if word.quote == "'":
            choice.add(tasks_matching(table, word))
        elif _each_of(context, word):
            return choice, words[place:]
        elif word.removeprefix("\\") in process.LETTERS:
            _check_ambiguity(table, word)
            _add_state(session, choice, word.removeprefix("\\"))
        elif word in conditions:
            choice.conditions.append(conditions[word])
        else:
            choice.add(_named(session, table, word))
    raise CommandError("no keywords specified")


def _check_ambiguity(table: TaskTable, word: str) -> None:
    """Raises UsageError where the name of a state is also the pid of a task, in hexadecimal."""
    try:
        pid = int(word, 16)
    except ValueError:
        return
    if pid in table.by_pid:
        raise UsageError(
            f"ambiguous task-identifying argument: {word}\n"
            f'  for a "state" argument, use: \\{word}\n'
            f'  for a "pid" argument, use: 0x{word}, 0x{word.lower()}, {word.lower()} or {pid}'
        )


def _add_state(session: Session, choice: Choice, word: str) -> None:
    if choice.state and choice.state != word:
        raise CommandError("only one task state allowed")
    if word == "SW":  # TASK_SWAPPING went in Linux v2.5
        raise CommandError(f"invalid task state for this kernel: {word}")
    choice.state = word
    choice.conditions.append(lambda task: process.state_letters(session, task) == word)


def _named(session: Session, table: TaskTable, word: str) -> list[Task]:
    """The tasks of a pid, an address or a name. Raises CommandError."""
    if not word.startswith("\\"):
        try:
            return find_tasks(session, word)
        except CommandError:
            pass
    found = tasks_called(table, word.removeprefix("\\"))
    if not found:
        raise CommandError(f'unknown argument: "{word}"')
    return found


# -- the command


def _ps(context: Context, words: Sequence[str], tasks: Sequence[Task]) -> Iterator[Item]:
    """One listing of all the tasks, not one a task."""
    if any(not word.startswith("-") for word in words[:1]):
        raise UsageError(f'ps takes no tasks here: "{words[0]}"')
    if tasks:
        yield from context.call("ps", *words, *(f"{task.address:#x}" for task in tasks))


def _each(context: Context, words: Sequence[str], tasks: Sequence[Task]) -> Iterator[Item]:
    session, outer, between = context.session, context.session.context, False
    try:
        for task in tasks:
            session.context = task
            for number, item in enumerate(_one(context, words, task)):
                if not number and between:
                    yield Text("", layout=True)
                between = True
                yield item
    finally:
        session.context = outer


def _one(context: Context, words: Sequence[str], task: Task) -> Iterator[Item]:
    """The command for one task; wrong use of it ends all, any other failure only this one."""
    if words[0] in HEADERLESS:
        yield header_item(task)
    try:
        yield from context.call(*words)
    except UsageError:
        raise
    except KcrashError as error:
        yield Fault.of(error, **task_data(task))
