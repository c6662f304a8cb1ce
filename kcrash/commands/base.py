"""How a command is written.

One file a command, or one close family, in ``kcrash/commands/``; the file
that defines ``ps`` is best named ``ps.py``. Files are imported when one of
their commands is first used, so import numpy and the like inside functions
or accept it there; importing the file registers its commands. Files whose
name starts with ``_`` are helpers. A file is found by reading its text:
write ``@command("name"`` and ``aliases=("other",)`` literally.

::

    from __future__ import annotations

    from collections.abc import Iterator

    from kcrash.commands.base import (
        Arguments, Column, Context, Exclusive, Fault, Flag, Item, Option, Rest, Table, command, cpus,
    )

    COLUMNS = (
        Column("pid", "PID", 7, ">"),
        Column("cpu", "CPU", 4, ">"),
        Column.address("task", "TASK", 16),
        Column("mem", "%MEM", 5, ">", "%.1f"),
        Column("comm", "COMM"),
    )

    @command(
        "ps",
        summary="display process status information",
        arguments=[
            Exclusive(Flag("-k", "kernel threads only"), Flag("-u", "user tasks only")),
            Option("-C", "cpus", "only these CPUs", parse=cpus),
            Rest("selector", "what to show", "pid | task | command", completes="task"),
        ],
        description="This command ...",
        examples=[("Show the kernel threads:", "ps -k")],
    )
    def ps(context: Context, args: Arguments) -> Iterator[Item]:
        yield Table(COLUMNS, rows(context.session, args), kind="task")

* Arguments: `Flag`, `Option`, `Number`, `Exclusive`, and positional `Arg`, `Rest`, `Raw` (the rest of the
  line as typed, for expressions and other commands); ``RADIX`` is the usual ``-x|-d``. Short flags
  bundle, values attach or follow, flags may come after positionals, ``--`` ends them. Every command has
  ``--json``; it is not passed on. Ready parsers: `hexadecimal`, `decimal`, `number`, `cpus`.
* Wrong use: raise `UsageError` ("bad mask"): the message and the synopsis are printed.
  Refusal or failure: raise `CommandError` or let any `KcrashError` through: one line ``ps: message``.
  One bad object in a listing: yield `Fault` (in a table: as a row), go on. All three make the status failed.
* Items: `Table`, `Record`, `Text`, `Fault`: see `kcrash.output.items`. Never print.
* JSON: ``{"command": "ps", "kind": "task", "pid": 1, "task": "0xffff..."}``, a row or record a line.
* From `Context`: ``session``, ``settings`` (``context.settings.print_max`` ...), ``context.radix(args)``,
  ``context.call("bt", "-f", "1")`` (items of another command), ``context.run(line)`` (a line as if typed),
  ``with context.progress("reading pages", total) as bar: bar.advance(n)``, ``context.note("...")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from kcrash.commands._arguments import (
    RADIX,
    Arg,
    Argument,
    Arguments,
    Declaration,
    Exclusive,
    Flag,
    Number,
    Option,
    Raw,
    Rest,
    cpus,
    decimal,
    hexadecimal,
    number,
)
from kcrash.commands._extensions import Extensions
from kcrash.commands._words import Word, split_words
from kcrash.commands.settings import Settings
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.output import Address, Column, Fault, Item, Record, Table, Text
from kcrash.output.progress import Progress

if TYPE_CHECKING:
    from kcrash.commands import Registry
    from kcrash.commands._aliases import Aliases
    from kcrash.session import Session

Function: TypeAlias = Callable[["Context", Arguments], "Iterable[Item] | None"]
Example: TypeAlias = "tuple[str, str] | tuple[str, str, str] | str"
#: What `foreach` runs a command once for: nothing, a task, or a user process (by its first chosen thread).
Each: TypeAlias = Literal["", "task", "process"]


class Command(NamedTuple):
    """A command and its declaration. Made by `command`."""

    name: str
    run: Function
    summary: str
    declaration: Declaration
    description: str = ""
    examples: Sequence[Example] = ()
    synopses: Sequence[str] = ()
    minimal: bool = False
    aliases: Sequence[str] = ()
    hidden: bool = False
    needs_session: bool = True
    each: Each = ""
    module: str = ""

    def usage(self) -> Sequence[str]:
        """The synopsis lines, each with the command's name."""
        forms = self.synopses or (self.declaration.synopsis(),)
        return [f"{self.name} {form}".rstrip() for form in forms]

    def items(self, context: Context, words: Sequence[Word], line: str) -> tuple[Arguments, Iterable[Item]]:
        """Parse ``words`` of ``line`` and start the command."""
        args = self.declaration.parse(words, line)
        return args, self.run(context, args) or ()


def command(
    name: str,
    *,
    summary: str,
    arguments: Sequence[Argument] = (),
    description: str = "",
    examples: Sequence[Example] = (),
    synopsis: str | Sequence[str] = (),
    minimal: bool = False,
    aliases: Sequence[str] = (),
    hidden: bool = False,
    needs_session: bool = True,
    each: Each = "",
    registry: Registry | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as command ``name``; the function itself is unchanged.

    ``summary``: a few words after the name on the help page; ``description``:
    paragraphs of the help page, before the list of arguments that is made
    from their declaration; ``examples``: (what, command line) or (what,
    command line, its output); ``synopsis``: instead of the derived one, one
    text a form, without the name; ``minimal``: works with --minimal;
    ``aliases``: further names of the same command; ``hidden``: not in the
    menu; ``needs_session`` False: works before a dump is open; ``each``: whether
    `foreach` may run it, and once for what.
    """

    def register(function: Function) -> Function:
        made = Command(
            name,
            function,
            summary,
            Declaration(arguments),
            description,
            examples,
            (synopsis,) if isinstance(synopsis, str) else synopsis,
            minimal,
            aliases,
            hidden,
            needs_session,
            each,
            function.__module__,
        )
        _registry(registry).add(made)
        return function

    return register


def _registry(given: Registry | None) -> Registry:
    if given is not None:
        return given
    from kcrash.commands import REGISTRY

    return REGISTRY


class Context:
    """What a command works with. One for a shell; ``session`` is the opened dump."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        aliases: Aliases,
        registry: Registry,
        run: Callable[[str], int],
        *,
        interactive: bool = False,
        minimal: bool = False,
    ) -> None:
        self.session = session
        self.settings = settings
        self.aliases = aliases
        self.registry = registry
        self.interactive = interactive
        self.minimal = minimal
        self.extensions = Extensions(registry)
        self.command = ""
        #: Whose items they are that a command like `foreach` passes on, "" for its own.
        self.inner = ""
        self._run = run
        self._binary: Callable[[], IO[bytes]] | None = None

    def run(self, line: str) -> int:
        """Run a command line as if typed, into the current output; its exit status."""
        return self._run(line)

    def binary(self) -> IO[bytes]:
        """Where the bytes of this command's output go: a file, a pipe. CommandError for a terminal."""
        if self._binary is None:
            raise CommandError("this output takes no binary data")
        return self._binary()

    def call(self, name: str, *words: str) -> Iterator[Item]:
        """The items of another command, its arguments given one by one (no quoting, pipes or aliases)."""
        made, at = [], 0
        for text in words:
            made.append(Word(text, at, at + len(text)))
            at += len(text) + 1
        found = self.registry.get(name)
        if found is None:
            raise CommandError(f"command not found: {name}")
        yield from found.items(self, made, " ".join(words))[1]

    def radix(self, args: Arguments) -> int:
        """16 or 10: what ``-x|-d`` (`RADIX`) ask for, else ``set radix``."""
        if args.x:
            return 16
        return 10 if args.d else self.settings.radix

    def progress(self, what: str, total: int | None = None, unit: int = 0) -> Progress:
        """A progress line on stderr, as a context manager; nothing if that is no terminal. See Progress."""
        return Progress(what, total, unit)

    def note(self, message: str) -> None:
        """Tell the user something that is not part of the answer (stderr)."""
        from kcrash.output.terminal import notice

        notice(f"{self.command}: {message}" if self.command else message)


__all__ = [
    "RADIX",
    "Address",
    "Arg",
    "Argument",
    "Arguments",
    "Column",
    "Command",
    "CommandError",
    "Context",
    "Declaration",
    "Example",
    "Exclusive",
    "Fault",
    "Flag",
    "Function",
    "Item",
    "KcrashError",
    "Number",
    "Option",
    "Progress",
    "Raw",
    "Record",
    "Rest",
    "Settings",
    "Table",
    "Text",
    "UsageError",
    "Word",
    "command",
    "cpus",
    "decimal",
    "hexadecimal",
    "number",
    "split_words",
]
