"""Declared arguments: the parser, the synopsis and the help lines of a command come from here."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from kcrash.commands._words import Word
from kcrash.errors import CommandError, UsageError

Parser: TypeAlias = Callable[[str], Any]


class Flag:
    """A switch: ``args.k`` is a bool, or a number of times with ``count`` (``-FF`` is 2).

    ``spec``: one letter (``-k``), a word (``-panic``, ``-16``: only exactly so,
    never bundled), a long name (``--full``), or several, separated by commas;
    the first names the attribute unless ``name`` does (``-16`` is ``opt_16``).
    """

    def __init__(
        self, spec: str, help: str, name: str = "", count: bool = False, hidden: bool = False
    ) -> None:
        self.spec, self.help, self.name, self.count, self.hidden = spec, help, name, count, hidden


class Option(NamedTuple):
    """A switch with a value: ``-C cpus``, ``-Ccpus``, ``--cpus=...``; None if not given.

    ``metavar``: the value in the synopsis; ``parse``: function text -> value,
    ValueError("what is wrong") fails the command; ``optional``: the value comes only as
    ``-S=cpus``, plain ``-S`` gives ``bare``; ``repeat``: the attribute is the
    list of the values of all occurrences; ``completes``: as for `Arg`.
    """

    spec: str
    metavar: str
    help: str
    parse: Parser | None = None
    name: str = ""
    optional: bool = False
    bare: Any = True
    default: Any = None
    repeat: bool = False
    completes: str = ""
    hidden: bool = False


class Number(NamedTuple):
    """A switch that is a number, as in ``repeat -5 ps``: ``Number("seconds", ...)`` is ``args.seconds``."""

    name: str
    help: str
    default: int | None = None
    hidden: bool = False


class Arg(NamedTuple):
    """One positional argument, ``args.<name>``; None, or ``default``, if optional and absent.

    ``metavar``: how the synopsis shows it (default: the name);
    ``completes``: what completion offers: "symbol", "type", "task", "command",
    "variable", "file", "module", or words separated by ``|``.
    """

    name: str
    help: str = ""
    metavar: str = ""
    parse: Parser | None = None
    optional: bool = False
    default: Any = None
    completes: str = ""


class Rest(NamedTuple):
    """All the remaining positional arguments: ``args.<name>`` is a list, of `Word` s if nothing parses them.

    ``minimum``: fewer is a usage error.
    """

    name: str
    help: str = ""
    metavar: str = ""
    parse: Parser | None = None
    minimum: int = 0
    completes: str = ""


class Raw(NamedTuple):
    """The rest of the line, from the first word that is no declared option, exactly as typed: a str.

    Options are not looked for in it: an expression, or another command.
    """

    name: str
    help: str = ""
    metavar: str = ""
    required: bool = True
    completes: str = ""


class Exclusive:
    """Switches of which one at most may be given."""

    def __init__(self, *members: Flag | Option) -> None:
        self.members = members


Switch: TypeAlias = Flag | Option | Number
Positional: TypeAlias = Arg | Rest | Raw
Argument: TypeAlias = Switch | Positional | Exclusive

RADIX = Exclusive(Flag("-x", "show integers in hexadecimal"), Flag("-d", "show integers in decimal"))
"""The ``-x|-d`` of every command that prints structures; `Context.radix` reads it."""


class Arguments:
    """Parsed arguments, by attribute: ``args.k``, ``args.selector``. ``args.json``: ``--json`` was given."""

    def __init__(self, values: dict[str, Any], given: frozenset[str], json: bool = False) -> None:
        self._values = values
        self.given = given
        self.json = json

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __contains__(self, name: str) -> bool:
        """Whether the switch or argument was given on the line."""
        return name in self.given

    def __repr__(self) -> str:
        return f"Arguments({self._values})"


def spellings(switch: Flag | Option) -> list[str]:
    """``-x``, ``--hex`` ... of a switch."""
    return [s.strip() for s in switch.spec.split(",")]


def attribute(argument: Switch | Positional) -> str:
    """The attribute of `Arguments` that an argument fills."""
    if argument.name:
        return argument.name
    assert isinstance(argument, (Flag, Option))
    text = spellings(argument)[0].lstrip("-").replace("-", "_")
    return text if text.isidentifier() and not keyword.iskeyword(text) else f"opt_{text}"


class Declaration:
    """What the arguments of a command may be."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self.arguments = arguments
        self.switches: dict[str, Flag | Option] = {}
        self.number: Number | None = None
        self.positionals: list[Positional] = []
        names: set[str] = set()
        for argument in self.flat():
            name = attribute(argument)
            if name in names or hasattr(Arguments, name) or name in ("given", "json"):
                raise ValueError(f"argument name {name!r} is taken: give another name=")
            names.add(name)
            self._add(argument)
        self.groups = [list(a.members) for a in self.arguments if isinstance(a, Exclusive)]

    def _add(self, argument: Switch | Positional) -> None:
        if isinstance(argument, Number):
            self.number = argument
        elif isinstance(argument, (Flag, Option)):
            for spelling in spellings(argument):
                if spelling in self.switches:
                    raise ValueError(f"option {spelling} is declared twice")
                self.switches[spelling] = argument
        else:
            if self.positionals and isinstance(self.positionals[-1], (Rest, Raw)):
                raise ValueError("nothing can follow Rest or Raw")
            self.positionals.append(argument)

    def flat(self) -> Iterator[Switch | Positional]:
        """Every argument, those of exclusive groups too."""
        for argument in self.arguments:
            if isinstance(argument, Exclusive):
                yield from argument.members
            else:
                yield argument

    def parse(self, words: Sequence[Word], line: str) -> Arguments:
        """The arguments that ``words`` of ``line`` give; UsageError if they do not fit."""
        return _Parse(self, words, line).run()

    def synopsis(self) -> str:
        """``[-k|-u] [-C cpus] [pid | task ...]``."""
        return " ".join(s for s in map(_synopsis_of, self.arguments) if s)


class _Parse:
    """One run over the words of a line."""

    def __init__(self, declaration: Declaration, words: Sequence[Word], line: str) -> None:
        self.declaration = declaration
        self.words = words
        self.line = line
        self.at = 0
        self.values: dict[str, Any] = {}
        self.given: dict[str, str] = {}
        self.plain: list[Word] = []
        self.raw: str | None = None
        self.json = False

    def run(self) -> Arguments:
        last = self.declaration.positionals[-1:]
        has_raw = bool(last) and isinstance(last[0], Raw)
        before_raw = len(self.declaration.positionals) - 1
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "--" and not word.quote:
                self._end_of_switches(has_raw)
                break
            if word.startswith("-") and len(word) > 1 and not word.quote and self._switch(word, has_raw):
                continue
            if has_raw and len(self.plain) == before_raw:
                self.raw = self.line[word.start :].rstrip()
                break
            self.plain.append(word)
        self._defaults()
        self._positionals()
        self._exclusions()
        return Arguments(self.values, frozenset(self.given), self.json)

    def _end_of_switches(self, has_raw: bool) -> None:
        rest = self.words[self.at :]
        if has_raw:
            wanted = len(self.declaration.positionals) - 1 - len(self.plain)
            self.plain += rest[:wanted]
            rest = rest[wanted:]
            self.raw = self.line[rest[0].start :].rstrip() if rest else None
        else:
            self.plain += rest

    def _switch(self, word: Word, has_raw: bool) -> bool:
        known = self.declaration.switches
        name, equals, value = word.partition("=")
        if word == "--json":
            self.json = True
        elif name in known and (name.startswith("--") or len(name) > 2 or not equals):
            self._take(known[name], name, value if equals else None)
        elif self.declaration.number and word[1:].isdecimal():
            self._store(self.declaration.number, word, int(word[1:]))
        elif has_raw and word[:2] not in known:
            return False
        elif word.startswith("--"):
            raise UsageError(f"unrecognized option '{name}'")
        else:
            self._bundle(word)
        return True

    def _bundle(self, word: Word) -> None:
        letters = word[1:]
        while letters:
            spelling, letters = f"-{letters[0]}", letters[1:]
            switch = self.declaration.switches.get(spelling)
            if switch is None:
                raise UsageError(f"invalid option -- '{spelling[1]}'")
            if isinstance(switch, Flag) or (switch.optional and not letters.startswith("=")):
                self._take(switch, spelling, None)
            else:
                value = letters[1:] if switch.optional else letters
                self._take(switch, spelling, value or None)
                return

    def _take(self, switch: Flag | Option, spelling: str, value: str | None) -> None:
        if isinstance(switch, Flag):
            if value is not None:
                raise UsageError(f"option '{spelling}' takes no value")
            count = self.values.get(attribute(switch), 0) + 1
            self._store(switch, spelling, count if switch.count else True)
        elif value is None and switch.optional:
            self._store(switch, spelling, switch.bare)
        else:
            self._store(switch, spelling, self._value(switch, spelling, value))

    def _value(self, option: Option, spelling: str, value: str | None) -> Any:
        if value is None:
            if self.at == len(self.words):
                raise UsageError(f"option requires an argument -- '{spelling.lstrip('-')}'")
            value = self.words[self.at]
            self.at += 1
        return _parsed(option, value)

    def _store(self, switch: Switch, spelling: str, value: Any) -> None:
        name = attribute(switch)
        if isinstance(switch, Option) and switch.repeat:
            value = [*self.values.get(name, []), value]
        self.values[name] = value
        self.given[name] = spelling

    def _defaults(self) -> None:
        for argument in self.declaration.flat():
            self.values.setdefault(attribute(argument), _default(argument))

    def _positionals(self) -> None:
        left = self.plain
        for argument in self.declaration.positionals:
            if isinstance(argument, Arg):
                left = self._positional(argument, left)
            elif isinstance(argument, Rest):
                self._rest(argument, left)
                left = []
            else:
                self._raw(argument)
        if left:
            raise UsageError(f"too many arguments: {left[0]}")

    def _positional(self, argument: Arg, left: list[Word]) -> list[Word]:
        if left:
            self.values[argument.name] = _parsed(argument, left[0])
            self.given[argument.name] = left[0]
        elif not argument.optional:
            raise UsageError(f"missing argument: {argument.metavar or argument.name}")
        return left[1:]

    def _rest(self, argument: Rest, left: list[Word]) -> None:
        if len(left) < argument.minimum:
            raise UsageError(f"missing argument: {argument.metavar or argument.name}")
        self.values[argument.name] = [_parsed(argument, word) for word in left]
        if left:
            self.given[argument.name] = left[0]

    def _raw(self, argument: Raw) -> None:
        if self.raw is None and argument.required:
            raise UsageError(f"missing argument: {argument.metavar or argument.name}")
        if self.raw is not None:
            self.given[argument.name] = self.raw
        self.values[argument.name] = self.raw or ""

    def _exclusions(self) -> None:
        for group in self.declaration.groups:
            used = [self.given[a] for a in map(attribute, group) if a in self.given]
            if len(used) > 1:
                raise UsageError(f"{used[0]} and {used[1]} are mutually exclusive")


def _parsed(argument: Option | Arg | Rest, text: str) -> Any:
    if argument.parse is None:
        return text
    try:
        return argument.parse(text)
    except ValueError as error:
        told = str(error)
        raise CommandError(f"not a number: {text}" if told.startswith("invalid literal") else told) from None


def _default(argument: Switch | Positional) -> Any:
    if isinstance(argument, Flag):
        return 0 if argument.count else False
    if isinstance(argument, Option):
        return [] if argument.repeat else argument.default
    if isinstance(argument, (Number, Arg)):
        return argument.default
    return [] if isinstance(argument, Rest) else ""


def _synopsis_of(argument: Argument) -> str:
    if isinstance(argument, Exclusive):
        members = [_switch_synopsis(m) for m in argument.members if not m.hidden]
        return f"[{'|'.join(members)}]" if members else ""
    if isinstance(argument, (Flag, Option)):
        return "" if argument.hidden else f"[{_switch_synopsis(argument)}]"
    if isinstance(argument, Number):
        return "" if argument.hidden else f"[-{argument.name}]"
    shown = argument.metavar or argument.name
    if isinstance(argument, Rest):
        return f"{shown} ..." if argument.minimum else f"[{shown}] ..."
    optional = argument.optional if isinstance(argument, Arg) else not argument.required
    return f"[{shown}]" if optional else shown


def _switch_synopsis(switch: Flag | Option) -> str:
    first = spellings(switch)[0]
    if isinstance(switch, Flag):
        return first
    if switch.optional:
        return f"{first}[={switch.metavar}]"
    return f"{first}{'=' if first.startswith('--') else ' '}{switch.metavar}"


def hexadecimal(text: str) -> int:
    """An address: hexadecimal, with or without 0x."""
    try:
        return int(text, 16)
    except ValueError:
        raise ValueError(f'invalid input: "{text}"') from None


def decimal(text: str) -> int:
    """A decimal number, or hexadecimal with 0x."""
    try:
        return int(text, 0) if text.lower().startswith("0x") else int(text, 10)
    except ValueError:
        raise ValueError(f"not a decimal number: {text}") from None


def number(text: str) -> int:
    """Decimal if it can be, else hexadecimal, as crash takes numbers of either kind."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return int(text, 16)
    except ValueError:
        raise ValueError(f"not a valid number: {text}") from None


def cpus(text: str) -> range | list[int]:
    """CPU numbers of ``3``, ``1,8,9``, ``1-23``, ``a``, ``all``; all is ``range(2**16)``: intersect it."""
    if text in ("a", "all"):
        return range(1 << 16)
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) >= 1 << 16:
            raise ValueError(f"invalid cpu specification: {text}")
        chosen.update(range(int(first), int(last or first) + 1))
    return sorted(chosen)
