"""The language of a command line: redirection, pipes, input files, comments, shell escapes."""

from __future__ import annotations

from typing import NamedTuple

from kcrash.errors import CommandError

EXTERNAL = frozenset({"vi", "pwd", "grep", "cat", "more", "less", "echo", "ls", "clear"})
"""Words that run in the shell although no ``!`` is before them."""


class Line(NamedTuple):
    """A line taken apart.

    ``command``: what is left for the command; ``shell``: a shell command
    instead ("" is a shell itself); ``pipe``: the pipeline that reads the
    output; ``output``, ``append``: the file that takes it; ``input``: the
    file of arguments, or of commands if ``command`` is empty; ``literal``:
    no aliases and no guessing, after a backslash.
    """

    command: str = ""
    shell: str | None = None
    pipe: str = ""
    output: str = ""
    append: bool = False
    input: str = ""
    literal: bool = False


def parse_line(text: str) -> Line:
    """Take a line apart; CommandError if a redirection has no file, or a pipe no command."""
    text = text.strip()
    if not text or text.startswith(("#", "//")):
        return Line()
    if text.startswith("!"):
        return Line(shell=text[1:].strip())
    if text.split(None, 1)[0] in EXTERNAL:
        return Line(shell=text)
    literal = text.startswith("\\")
    return _redirections(text[1:].lstrip() if literal else text, literal)


def _redirections(text: str, literal: bool) -> Line:
    at, source = find_redirection(text), ""
    end = len(text) if at is None else at
    if at is not None and text[at] == "<":
        after = find_redirection(text, at + 1)
        end = len(text) if after is None else after
        source = _operand(text[at + 1 : end], "missing input file").strip("\"'")
        command, at = text[:at].rstrip(), after
    else:
        command = text[:end].rstrip()
    rest = "" if at is None else text[at:]
    if rest.startswith("|"):
        return Line(
            command, pipe=_operand(rest[1:], "no shell command after |"), input=source, literal=literal
        )
    append = rest.startswith(">>")
    output = _operand(rest.lstrip(">"), "no file name after >") if rest else ""
    if " " in output.strip("\"'") and output[0] not in "\"'":
        raise CommandError(f"more than one file name after >: {output}")
    return Line(command, output=output.strip("\"'"), append=append, input=source, literal=literal)


def _operand(text: str, missing: str) -> str:
    text = text.strip()
    if not text:
        raise CommandError(missing)
    return text


def find_redirection(text: str, start: int = 0) -> int | None:
    """Where the first ``|``, ``>`` or ``<`` is that means redirection.

    Not in quotes at the start of a word, nor in parentheses, nor the arrow
    of ``p init_task->mm``, nor ``<<``.
    """
    depth, at = 0, start
    while at < len(text):
        char = text[at]
        if char in "\"'" and (at == 0 or text[at - 1] in " \t"):
            close = text.find(char, at + 1)
            at = len(text) if close < 0 else close
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif depth <= 0 and char in "|<>" and not _is_operator(text, at):
            return at
        at += 1
    return None


def _is_operator(text: str, at: int) -> bool:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if text[at] == ">":
        member = after.isidentifier() and at > 1 and (text[at - 2].isalnum() or text[at - 2] in "_])")
        return before == "-" and member
    return text[at] == "<" and "<" in (before, after)
