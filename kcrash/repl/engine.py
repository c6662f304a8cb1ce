"""What could stand where the cursor is: a pure function of the text and of the declarations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kcrash.commands._arguments import Arg, Declaration, Exclusive, Flag, Option, Positional, Raw, spellings
from kcrash.commands._words import Word, split_words


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What to offer: ``kinds`` of words ("command", "symbol", "type", "member", "task", "file" ...),
    literal ``words``, all for the last ``len(prefix)`` characters of the text.

    ``owner``: for kind "member", the structure whose members are meant, with
    the path to them (``task_struct``, ``task_struct.se``).
    """

    prefix: str
    kinds: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    owner: str = ""


FIRST = ("command", "alias", "symbol", "type")
NOTHING = Suggestion("")


def suggest(text: str, declaration: Callable[[str], Declaration | None]) -> Suggestion:
    """What fits at the end of ``text``. ``declaration``: command or alias -> its declaration."""
    if text.lstrip().startswith(("!", "#", "//")):
        return NOTHING
    text = text.lstrip().removeprefix("\\")
    redirected = _redirection(text)
    if redirected is not None:
        return redirected
    words = split_words(text)
    ended = not text or text[-1] in " \t"
    prefix = "" if ended or not words else str(words[-1])
    before = words if ended else words[:-1]
    if not before:
        return _member(prefix) or Suggestion(prefix, FIRST)
    found = declaration(before[0])
    if found is None:
        return _member(prefix) or Suggestion(prefix, ("symbol", "type"))
    return _argument(found, before[1:], prefix, declaration, text[before[0].end :].lstrip())


def _redirection(text: str) -> Suggestion | None:
    from kcrash.commands._line import find_redirection

    at = find_redirection(text)
    if at is None:
        return None
    if text[at] == "|":
        return NOTHING
    return Suggestion(text[at:].lstrip("<> "), ("file",))


def _argument(
    found: Declaration,
    before: list[Word],
    prefix: str,
    declaration: Callable[[str], Declaration | None],
    rest: str,
) -> Suggestion:
    pending = _pending(found, before)
    if pending is not None:
        return _completed(pending.completes, prefix)
    positional = _positional(found, _count(found, before))
    if isinstance(positional, Raw) and positional.completes == "command":
        start = _start_of_raw(found, rest)
        if start < len(rest) or not prefix:
            return suggest(rest[start:], declaration)
    if prefix.startswith("-"):
        return Suggestion(prefix, words=_switches(found))
    if positional is None:
        return Suggestion(prefix)
    return _completed(positional.completes, prefix)


def _start_of_raw(found: Declaration, rest: str) -> int:
    """Where in ``rest`` the nested command starts: after the switches and the other arguments."""
    left = len(found.positionals) - 1
    for word in split_words(rest):
        if word.startswith("-"):
            continue
        if not left:
            return word.start
        left -= 1
    return len(rest)


def _completed(completes: str, prefix: str) -> Suggestion:
    if "|" in completes:
        words = [w.strip() for w in completes.split("|")]
        return Suggestion(prefix, words=tuple(words))
    kinds = tuple(completes.split())
    if "type" in kinds:
        return _member(prefix) or Suggestion(prefix, kinds)
    return Suggestion(prefix, kinds)


def _member(prefix: str) -> Suggestion | None:
    """``task_struct.se.vr``: members of what is before the last dot; after a comma, of the same structure."""
    owner, dot, member = prefix.rpartition(".")
    structure = prefix.split(".")[0]
    if not dot:
        return None
    if "," in member:
        return Suggestion(member.rpartition(",")[2], ("member",), owner=structure)
    if "," in owner:
        owner = f"{structure}.{owner.rpartition(',')[2]}"
    return Suggestion(member, ("member",), owner=owner)


def _pending(found: Declaration, before: list[Word]) -> Option | None:
    """The option that waits for its value."""
    last = str(before[-1]) if before else ""
    exact = found.switches.get(last)
    if isinstance(exact, Option):
        return None if exact.optional else exact
    if last.startswith("--") or not last.startswith("-") or exact is not None:
        return None
    for at, letter in enumerate(last[1:], 1):
        switch = found.switches.get(f"-{letter}")
        if isinstance(switch, Option):
            return switch if at == len(last) - 1 and not switch.optional else None
    return None


def _count(found: Declaration, before: list[Word]) -> int:
    """How many positional arguments there are already."""
    count = 0
    for at, word in enumerate(before):
        if not word.startswith("-") and _pending(found, before[:at]) is None:
            count += 1
    return count


def _positional(found: Declaration, at: int) -> Positional | None:
    positionals = found.positionals
    if at < len(positionals):
        return positionals[at]
    return positionals[-1] if positionals and not isinstance(positionals[-1], Arg) else None


def _switches(found: Declaration) -> tuple[str, ...]:
    words: list[str] = []
    for argument in found.arguments:
        for switch in argument.members if isinstance(argument, Exclusive) else (argument,):
            if isinstance(switch, (Flag, Option)) and not switch.hidden:
                words += spellings(switch)
    return (*words, "--json")
