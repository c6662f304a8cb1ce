"""``extend``: commands from outside."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands.base import (
    Arguments,
    Column,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Rest,
    Table,
    Text,
    command,
)
from kcrash.errors import CommandError

LOADED = (
    Column("name", "SHARED OBJECT", 15),
    Column("commands", "COMMANDS", format=" ".join),
    Column("file", text=False),
)
AVAILABLE = (Column("name", "EXTENSION", 15), Column("module", "MODULE"))


@command(
    "extend",
    summary="extend the command set",
    arguments=[
        Exclusive(
            Flag("-u", "unload the extensions named, or all of them"),
            Flag("-s", "show the extensions that can be loaded by name"),
        ),
        Rest("extension", "name of an extension, or path of a Python file", completes="extension"),
    ],
    description="""
Loads extensions, which add commands: those that come with kcrash, those of
installed packages (entry-point group "kcrash.extensions"), or a Python file.
Without arguments, shows what is loaded.""",
    examples=[("Load the extension that writes core files of processes:", "extend gcore")],
    minimal=True,
    needs_session=False,
)
def extend(context: Context, args: Arguments) -> Iterator[Item]:
    extensions = context.extensions
    if args.s:
        yield Table(AVAILABLE, extensions.available(), kind="available")
    elif args.u:
        yield from _each(args.extension or [e.name for e in extensions], extensions.unload, "unloaded")
    elif args.extension:
        yield from _each(args.extension, extensions.load, "loaded")
    else:
        rows = ((e.name, e.commands, e.file) for e in extensions)
        yield Table(LOADED, rows, kind="extension", empty="no extension modules loaded")


def _each(names: list[str], action: object, done: str) -> Iterator[Item]:
    assert callable(action)
    for name in names:
        try:
            found = action(name)
        except CommandError as error:
            yield Fault.of(error, extension=name)
        else:
            yield Text(f"{found.file or name}: {done}", {"name": name, "state": done}, kind="extension")
