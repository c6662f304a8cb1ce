"""``set``: the context task, and the variables of the shell.

Not in set.py: a submodule of that name would hide the built-in ``set`` from kcrash.commands itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.commands._tasks import context_task, find_task, task_data
from kcrash.commands.base import (
    Arguments,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Record,
    Rest,
    command,
    decimal,
)
from kcrash.commands.settings import all_settings, is_variable, settings_items
from kcrash.errors import CommandError, UsageError
from kcrash.linux import process
from kcrash.linux.cpus import present_cpus
from kcrash.linux.system import panic_cause
from kcrash.linux.tasks import Task, panic_task, task_table, thread_info
from kcrash.output import Address
from kcrash.output.clean import clean_cell

if TYPE_CHECKING:
    from kcrash.session import Session


@command(
    "set",
    summary="set a process context or internal variable",
    each="task",
    arguments=[
        Exclusive(
            Option("-a", "pid|task", "mark a task as the active one of its CPU", completes="task"),
            Option("-c", "cpu", "the task that was active on a CPU", parse=decimal),
            Flag("-p", "the task that panicked"),
            Flag("-v", "show all variables"),
        ),
        Rest("words", "the context task, or variables", "pid | task | variable [value]", completes="task"),
    ],
    synopsis="[[-a] [pid | task] | [-c cpu] | -p] | [variable [setting]] ... | -v",
    description="""
Sets the context task, which commands are about that take a task and are given
none, and shows it; without arguments it shows the one that is set. At the
start it is the task that panicked.

It also shows and sets variables; several may follow one another on a line.""",
    examples=[
        ("Make task 1018 the context:", "set 1018"),
        ("Go back to the task that panicked:", "set -p"),
        ("Print integers in hexadecimal from now on:", "set radix 16"),
        ("Show all variables:", "set -v"),
    ],
    minimal=True,
    needs_session=False,
)
def set_(context: Context, args: Arguments) -> Iterator[Item]:
    if args.v:
        yield from all_settings(context.settings)
    elif args.words and is_variable(args.words[0]):
        yield from settings_items(context.settings, args.words)
    elif context.session is None or context.minimal:
        raise CommandError(f"invalid variable: {args.words[0]}" if args.words else "no dump is open")
    elif args.a is not None:
        yield _mark_active(context, args.a)
    else:
        yield from _change(context, args)


def _change(context: Context, args: Arguments) -> Iterator[Item]:
    session = context.session
    if args.c is not None:
        session.context = _on_cpu(session, args.c)
    elif args.p:
        found = panic_task(session)
        if found is None:
            raise CommandError("no panic task found!")
        session.context = found
    elif args.words:
        if len(args.words) > 1:
            raise UsageError(f"too many arguments: {args.words[1]}")
        session.context = find_task(session, args.words[0])
    yield context_item(session, context_task(context))


def _on_cpu(session: Session, cpu: int) -> Task:
    known = present_cpus(session)
    if cpu not in known:
        many = "s" if len(known) > 1 else ""
        raise CommandError(f"invalid cpu number: system has only {len(known)} cpu{many}")
    table = task_table(session)
    found = table.by_address.get(table.on_cpu.get(cpu, 0))
    if found is None:
        raise CommandError(f"cannot determine the active task on cpu {cpu}")
    return found


def _mark_active(context: Context, word: str) -> Item:
    task = find_task(context.session, word)
    task_table(context.session).mark_active(task, panic_task(context.session))
    which = f'"{clean_cell(task.name)}" task {task.address:x}'
    text = f"{which} has been marked as the active task on cpu {task.cpu}"
    return Record("active", task_data(task), text)


# -- the block


def context_item(session: Session, task: Task) -> Item:
    """The context block: pid, name, addresses, CPU and state."""
    state = process.states(session).names(process.task_state(session, task))
    role = _role(session, task)
    info = thread_info(session, task)
    same = task_table(session).by_pid.get(task.pid, [task])
    place = f"({same.index(task) + 1} of {len(same)})  " if len(same) > 1 and task in same else ""
    shown = "" if info is None else f"[THREAD_INFO: {info:x}]"
    data = {
        **task_data(task),
        "thread_info": None if info is None else Address(info),
        "state": state.split("|") if state else [],
        "role": role,
    }
    lines = [
        f"    PID: {task.pid}",
        f'COMMAND: "{clean_cell(task.name)}"',
        f"   TASK: {task.address:x}  {place}{shown}",
        f"    CPU: {task.cpu}",
        f"  STATE: {state} {f'({role})' if role else ''}",
    ]
    return Record("context", data, lines)


def _role(session: Session, task: Task) -> str:
    found = panic_task(session)
    if found is not None and found.address == task.address:
        return "SYSRQ" if panic_cause(session).sysrq else "PANIC"
    return "ACTIVE" if task.address in task_table(session).active else ""
