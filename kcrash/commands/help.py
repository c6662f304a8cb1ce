"""``help``: the menu, and the page of a command, made from its declaration."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands._arguments import Arg, Declaration, Number, Option, Positional, Raw, Switch, spellings
from kcrash.commands._help_text import INPUT, OUTPUT
from kcrash.commands.base import Arguments, Command, Context, Example, Flag, Item, Record, Rest, Text, command
from kcrash.errors import CommandError

_COLUMNS = 5


@command(
    "help",
    summary="get help",
    arguments=[Rest("topic", "a command, or all, input, output, commands", completes="command")],
    description="""
Without arguments, shows the menu of commands; with the name of a command or
an alias, its page. "help all" shows the pages of all commands, "help input"
and "help output" how command lines are written and what can be done with
their output, "help commands" one line about each command.""",
    minimal=True,
    needs_session=False,
)
def help_(context: Context, args: Arguments) -> Iterator[Item]:
    if not args.topic:
        yield _menu(context)
    for topic in args.topic:
        yield from _topic(context, topic)


def _topic(context: Context, topic: str) -> Iterator[Item]:
    if topic == "all":
        for each in context.registry.all():
            if not each.hidden:
                yield page(each)
    elif topic == "commands":
        for each in context.registry.all():
            yield Record(
                "command", {"name": each.name, "summary": each.summary}, f"{each.name:<15}{each.summary}"
            )
    elif topic in ("input", "output"):
        yield Text(INPUT if topic == "input" else OUTPUT)
    else:
        yield page(_command(context, topic))


def _command(context: Context, topic: str) -> Command:
    name, seen = topic, set[str]()
    while (found := context.registry.get(name)) is None:
        alias = context.aliases.get(name)
        if alias is None or name in seen:
            raise CommandError(f'No help data for "{topic}" is available.')
        seen.add(name)
        name = alias.text.split()[0]
    return found


def _menu(context: Context) -> Item:
    from kcrash.version import VERSION

    names = sorted(context.registry.names(), key=lambda name: (name == "q", name))
    rows = -(-len(names) // _COLUMNS)
    lines = ["", *("".join(f"{name:<15}" for name in names[row::rows]) for row in range(rows)), ""]
    lines += [
        f"kcrash version: {VERSION}",
        'For help on any command above, enter "help <command>".',
        'For help on input options, enter "help input".',
        'For help on output options, enter "help output".',
        "",
    ]
    return Record("menu", {"commands": names, "version": VERSION}, lines)


def page(found: Command) -> Item:
    """The manual page of a command."""
    return Record("help", _data(found), lambda: "\n".join(_page_lines(found)))


def _page_lines(found: Command) -> Iterator[str]:
    yield from ("", "NAME", f"  {found.name} - {found.summary}", "", "SYNOPSIS")
    yield from (f"  {form}" for form in found.usage())
    if found.aliases:
        yield f"  also known as: {', '.join(found.aliases)}"
    yield from ("", "DESCRIPTION")
    yield from _indented(found.description.strip("\n"))
    arguments = list(argument_lines(found.declaration))
    if arguments and found.description:
        yield ""
    yield from arguments
    if found.examples:
        yield from ("", "EXAMPLES")
        for example in found.examples:
            yield from _example(example)
    yield ""


def _indented(text: str, by: str = "  ") -> Iterator[str]:
    return (f"{by}{line}" if line else "" for line in text.splitlines())


def _example(example: Example) -> Iterator[str]:
    if isinstance(example, str):
        yield from (*_indented(example), "")
        return
    what, line, *output = example
    yield from (*_indented(what), "", f"    kcrash> {line}")
    for text in output:
        yield from _indented(text, "    ")
    yield ""


def argument_lines(declaration: Declaration, width: int = 10) -> Iterator[str]:
    """A list of the arguments and what each means, those with long names over their text."""
    blank = " " * (width + 4)
    for argument in declaration.flat():
        if getattr(argument, "hidden", False) or not argument.help:
            continue
        head, lines = spelled(argument), argument.help.strip().splitlines()
        if len(head) > width:
            yield f"  {head}"
        else:
            yield f"  {head:>{width}}  {lines.pop(0)}"
        yield from (f"{blank}{line.strip()}" for line in lines)


def spelled(argument: Switch | Positional) -> str:
    """How an argument is written, for a list of arguments."""
    if isinstance(argument, Number):
        return f"-{argument.name}"
    if isinstance(argument, Flag):
        return ", ".join(spellings(argument))
    if isinstance(argument, Option):
        form = f"[={argument.metavar}]" if argument.optional else f" {argument.metavar}"
        return ", ".join(spellings(argument)) + form
    assert isinstance(argument, (Arg, Rest, Raw))
    return argument.metavar or argument.name


def _data(found: Command) -> dict[str, object]:
    return {
        "name": found.name,
        "summary": found.summary,
        "synopsis": list(found.usage()),
        "description": found.description.strip(),
        "arguments": [
            {"argument": spelled(a), "help": a.help}
            for a in found.declaration.flat()
            if not getattr(a, "hidden", False)
        ],
        "aliases": list(found.aliases),
    }
