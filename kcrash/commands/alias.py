"""``alias``: names for pieces of command lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kcrash.commands._aliases import Alias
from kcrash.commands.base import Arg, Arguments, Column, Context, Item, Raw, Table, Text, command
from kcrash.errors import CommandError

COLUMNS = (Column("origin", "ORIGIN", 8), Column("alias", "ALIAS", 8), Column("text", "COMMAND"))


@command(
    "alias",
    summary="command aliases",
    arguments=[
        Arg("alias", "the name", optional=True),
        Raw("text", "the command line it stands for; an empty string in quotes deletes it", required=False),
    ],
    synopsis="[alias] [command string]",
    description="""
Without arguments all aliases are listed, with one the alias of that name.
With two or more, an alias is defined for the rest of the line. What follows
an alias on a command line follows the text that it stands for.

ORIGIN is "builtin", the file that defined the alias, or "runtime".""",
    examples=[
        ("Make a shorthand that lists kernel threads by when they last ran:", "alias kl ps -k -l"),
        ("Delete it:", 'alias kl ""'),
    ],
    needs_session=False,
)
def alias(context: Context, args: Arguments) -> Iterator[Item]:
    if "text" in args:
        yield from _change(context, args.alias, args.text)
    elif args.alias is None:
        yield _table(context.aliases)
    else:
        found = context.aliases.get(args.alias)
        if found is None:
            raise CommandError(f"alias does not exist: {args.alias}")
        yield _table([found])


def _change(context: Context, name: str, text: str) -> Iterator[Item]:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    text = text[1:-1] if quoted else text
    if not text:
        if not context.aliases.remove(name):
            raise CommandError(f"no such alias exists: {name}")
        yield Text(f"alias deleted: {name}", {"alias": name}, kind="deleted")
        return
    if not name:
        raise CommandError("an alias must have a name")
    if name in context.registry:
        raise CommandError(f"cannot alias existing command name: {name}")
    context.aliases.set(name, text)
    found = context.aliases.get(name)
    assert found is not None
    if not context.settings.quiet:
        yield _table([found])


def _table(aliases: Iterable[Alias]) -> Table:
    return Table(COLUMNS, ((a.origin, a.name, a.text) for a in aliases), kind="alias")
