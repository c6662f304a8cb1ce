"""The prompt: prompt_toolkit around the completion engine, the words and the history."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History as PromptHistory
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.shortcuts import CompleteStyle

from kcrash.commands._arguments import Declaration
from kcrash.commands._shell import Exit, Shell
from kcrash.errors import CommandError
from kcrash.output.terminal import error_line
from kcrash.repl.engine import Suggestion, suggest
from kcrash.repl.history import History, default_path
from kcrash.repl.words import Words

PROMPT = "kcrash> "
_TOKENS = re.compile(
    r"(?P<option>(?<=\s)-[-\w=]*)|(?P<number>\b(0x)?[0-9a-f]*\d[0-9a-f]*\b)|(?P<shell>[|<>!].*)"
)
_STYLES = {"option": "ansicyan", "number": "ansimagenta", "shell": "ansiyellow"}


def run(shell: Shell, done: Callable[[int], None]) -> None:
    """Read and run lines until the end of the input or ``exit``."""
    history = History(default_path())
    words = Words(shell)
    words.start()
    session: PromptSession[str] = PromptSession(
        history=_Loaded(history),
        completer=_Completer(shell, words),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        lexer=_Lexer(shell),
        enable_suspend=True,
    )
    try:
        _loop(shell, session, history, done)
    finally:
        words.stop()


def _loop(shell: Shell, session: PromptSession[str], history: History, done: Callable[[int], None]) -> None:
    while True:
        session.editing_mode = EditingMode.VI if shell.settings.edit == "vi" else EditingMode.EMACS
        try:
            line = session.prompt(PROMPT, pre_run=_forgive_interrupts)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            done(run_line(shell, history, line))
        except Exit:
            return


def _forgive_interrupts() -> None:
    """Ctrl-C and Ctrl-D at "Display all possibilities?" only end that question."""
    loop = asyncio.get_running_loop()
    usual = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if usual and not isinstance(context.get("exception"), (KeyboardInterrupt, EOFError)):
            usual(loop, context)

    loop.set_exception_handler(handle)


def run_line(shell: Shell, history: History, line: str) -> int:
    """Run one entered line, history commands too; its status."""
    if not line.strip():
        return 0
    try:
        again = history.expand(line)
    except CommandError as error:
        error_line(f"kcrash: {error}")
        return 1
    if again is not None:
        print(again)  # noqa: T201 - as every shell shows what it runs again
        line = again
    history.add(line.strip())
    if line.strip() == "h":
        print(history.listing())  # noqa: T201 - the prompt's own command, not a dump's data
        return 0
    return shell.run(line)


class _Loaded(PromptHistory):
    """prompt_toolkit's view of a `History`; `run_line` writes it."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    async def load(self) -> AsyncGenerator[str, None]:
        """Newest first."""
        for line in reversed([*self._history.before, *self._history.lines]):
            yield line

    def load_history_strings(self) -> Iterable[str]:
        """Newest first."""
        return reversed(self._history.before)

    def store_string(self, string: str) -> None:
        """Nothing: `run_line` does it."""

    def append_string(self, string: str) -> None:
        """Nothing: `run_line` does it."""


class _Completer(Completer):
    def __init__(self, shell: Shell, words: Words) -> None:
        self._shell = shell
        self._words = words

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        suggestion = suggest(document.text_before_cursor, self._declaration)
        words = list(self._words.matching(suggestion))
        blank = " " if len(words) == 1 and self._is_whole(words[0], suggestion) else ""
        for word in words:
            yield Completion(word + blank, -len(suggestion.prefix))

    def _is_whole(self, word: str, suggestion: Suggestion) -> bool:
        """Whether a blank can follow: not after a folder, nor a type, whose members may follow."""
        if "type" in suggestion.kinds:
            return "command" in suggestion.kinds and self._declaration(word) is not None
        return "member" not in suggestion.kinds and not word.endswith("/")

    def _declaration(self, name: str) -> Declaration | None:
        alias = self._shell.context.aliases.get(name)
        found = self._shell.registry.get(alias.text.split()[0] if alias else name)
        return found.declaration if found else None


class _Lexer(Lexer):
    """Commands bold, options, numbers and redirections coloured."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lines = document.lines
        return lambda number: self._line(lines[number])

    def _line(self, line: str) -> StyleAndTextTuples:
        first = line.split(None, 1)[0] if line.strip() else ""
        at = line.find(first) + len(first) if first else 0
        known = first in self._shell.registry or self._shell.context.aliases.get(first) is not None
        parts: StyleAndTextTuples = [("bold" if known else "", line[:at])]
        for match in _TOKENS.finditer(line, at):
            parts += [("", line[at : match.start()]), (_STYLES[str(match.lastgroup)], match.group())]
            at = match.end()
        return [*parts, ("", line[at:])]
