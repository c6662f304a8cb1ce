"""Runs command lines: finds the command, opens its output, renders its items, reports its failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kcrash.commands import REGISTRY, Registry
from kcrash.commands._aliases import Aliases
from kcrash.commands._fallback import line_instead
from kcrash.commands._line import Line, parse_line
from kcrash.commands._words import split_words
from kcrash.commands.base import Command, Context
from kcrash.commands.settings import Settings
from kcrash.errors import CommandError, KcrashError, UsageError
from kcrash.output import Fault, Item
from kcrash.output.render import JsonRenderer, Renderer, TextRenderer
from kcrash.output.streams import (
    File,
    Output,
    OutputClosed,
    Paged,
    Pipe,
    Stdout,
    binary,
    pager_command,
    run_shell,
)
from kcrash.output.streams import shell_command as in_shell
from kcrash.output.terminal import error_line

if TYPE_CHECKING:
    from kcrash.session import Session

INTERRUPTED = 130
_NOT_RUN = (126, 127)
_DEPTH = 32


class Exit(BaseException):
    """The user asked to leave."""


class Shell:
    """A session with settings, aliases and a place for output; ``run`` runs one line.

    ``interactive``: output on a terminal goes through a pager. Without a session only
    commands that need none run.
    """

    def __init__(
        self,
        session: Session | None,
        registry: Registry = REGISTRY,
        *,
        settings: Settings | None = None,
        interactive: bool = False,
        minimal: bool = False,
        stdout: Callable[[], Output] = Stdout,
    ) -> None:
        self.settings = settings or Settings()
        self.registry = registry
        self.worst = 0
        self.context = Context(
            cast("Session", session),
            self.settings,
            Aliases(),
            registry,
            self.run,
            interactive=interactive,
            minimal=minimal,
        )
        self._stdout = stdout
        self._output: Output | None = None
        self.context._binary = lambda: binary(self._output)
        self._depth = 0

    def run(self, line: str) -> int:
        """Run a line; 0 if all of it succeeded, 1 if it failed, 130 if interrupted. Never raises KcrashError.

        `Exit` and `OutputClosed` of our own standard output go through. ``worst`` is the worst
        status of all lines so far.
        """
        self._depth += 1
        outer = self.context.command
        try:
            if self._depth > _DEPTH:
                raise CommandError("commands are nested too deeply")
            status = self._run_line(parse_line(line))
        except KeyboardInterrupt:
            if self._depth > 1:
                raise
            error_line("")
            status = INTERRUPTED
        except OutputClosed:
            raise
        except UsageError as error:
            status = self._usage(error)
        except KcrashError as error:
            status = self._failed(str(error))
        except Exception as error:
            status = self._bug(error)
        finally:
            self.context.command = outer
            self._depth -= 1
        self.worst = max(self.worst, status)
        return status

    def run_file(self, path: str) -> int:
        """Run the lines of a file; the worst status."""
        try:
            text = Path(path).expanduser().read_text("utf-8", "backslashreplace")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        return self.run_lines(text.splitlines())

    def run_startup(self, path: str) -> int:
        """Run a ``.kcrashrc``: aliases that it defines have it as their origin."""
        before = self.context.aliases.origin
        self.context.aliases.origin, self.settings.quiet = path, True
        try:
            return self.run_file(path)
        finally:
            self.context.aliases.origin, self.settings.quiet = before, False

    def run_lines(self, lines: Iterable[str]) -> int:
        """Run several lines; the worst status. Ctrl-C ends it."""
        worst = 0
        for line in lines:
            worst = max(worst, self.run(line))
            if worst == INTERRUPTED:
                break
        return worst

    def _run_line(self, line: Line) -> int:
        self.context.command = ""
        if line.shell is not None:
            if self._output is not None:
                self._output.flush()
            return 1 if run_shell(line.shell) else 0
        if not line.command and not line.input:
            return 0
        texts = self._expanded(line) if line.command else []
        with self._redirected(line) as statuses:
            if not line.command:
                statuses.append(self.run_file(line.input))
            for text in texts:
                statuses.append(self._execute(text, line.literal))
        return max(statuses, default=0)

    def _expanded(self, line: Line) -> list[str]:
        """The command, once for each line of its input file."""
        command = line.command if line.literal else self._without_alias(line.command)
        if not line.input:
            return [command]
        try:
            text = Path(line.input).expanduser().read_text("utf-8", "backslashreplace")
        except OSError as error:
            raise CommandError(f"{line.input}: {error.strerror}") from None
        return [f"{command} {each}" for each in text.splitlines() if each.strip()]

    def _without_alias(self, command: str) -> str:
        seen: set[str] = set()
        while True:
            first, _, rest = command.partition(" ")
            alias = self.context.aliases.get(first)
            if alias is None or first in seen:
                return command
            seen.add(first)
            command = f"{alias.text} {rest}".rstrip()

    def _execute(self, text: str, literal: bool) -> int:
        command, text = self._find(text, literal)
        words = split_words(text)
        self.context.command = command.name
        if self.context.session is None and command.needs_session:
            raise CommandError("no dump is open")
        if self._depth == 1 and self.settings.refresh and command.needs_session and self.context.session.live:
            self.context.session.refresh()
        if self.context.minimal and not command.minimal:
            raise CommandError(f"{words[0]}: command not available in minimal mode")
        args, items = command.items(self.context, words[1:], text)
        renderer = self._renderer(args.json)
        for item in items:
            self.context.command = command.name
            renderer.render(item, self.context.inner or command.name)
        return 1 if renderer.faults else 0

    def _find(self, text: str, literal: bool) -> tuple[Command, str]:
        """The command of a line, and the line as the command is to see it."""
        if text.startswith("*") and text[1:2] not in ("", " "):
            text = f"* {text[1:]}"
        name = str(split_words(text)[0])
        found = self.registry.get(name)
        if found is None and not literal:
            instead = line_instead(self.context.session, text, name)
            if instead:
                text = instead
                found = self.registry.get(str(split_words(text)[0]))
        if found is None:
            self.context.command = "kcrash"
            raise CommandError(f"command not found: {name[:100]}")
        return found, text

    def _renderer(self, json: bool) -> Renderer:
        assert self._output is not None
        if json or self.settings.json:
            return JsonRenderer(self._output)
        color = isinstance(self._output, (Stdout, Paged)) and sys.stdout.isatty()
        return TextRenderer(self._output, color)

    @contextmanager
    def _redirected(self, line: Line) -> Iterator[list[int]]:
        """Output for a line; the yielded list of statuses gets 1 if the reader of a pipe could not be run.

        A reader that has seen enough ends the line, and is no failure.
        """
        statuses: list[int] = []
        outer = self._output
        inner = self._open(line)
        if inner is None:
            yield statuses
            return
        self._output = inner
        try:
            yield statuses
        except OutputClosed as closed:
            if closed.ours:
                raise
        finally:
            self._output = outer
            if inner.close() in _NOT_RUN:
                statuses.append(1)

    def _open(self, line: Line) -> Output | None:
        """The output of a line; None if it stays as it is."""
        if line.pipe:
            return Pipe(in_shell(line.pipe))
        if line.output:
            return File(line.output, line.append)
        if self._output is not None:
            return None
        pager = self._pager()
        return Paged(pager) if pager else self._stdout()

    def _pager(self) -> list[str] | None:
        if not (self.context.interactive and self.settings.scroll and sys.stdout.isatty()):
            return None
        return pager_command(self.settings.pager)

    def _usage(self, error: UsageError) -> int:
        command = self.registry.get(self.context.command)
        if command is None or self.settings.json:
            return self._failed(str(error))
        usage = "\n  ".join(command.usage())
        return self._failed(f'{error}\nUsage:\n  {usage}\nEnter "help {command.name}" for details.')

    def _failed(self, message: str) -> int:
        name = self.context.command or "kcrash"
        if self.settings.json:
            output = self._output or self._stdout()
            JsonRenderer(output).render(Fault(message), name)
            output.flush()
        elif self.settings.error == "redirect" and self._output is not None:
            TextRenderer(self._output).render(Fault(message), name)
        else:
            self._report(f"{name}: {message}")
        return 1

    def _report(self, text: str) -> None:
        if self.settings.error in ("default", "redirect"):
            error_line(text)
            return
        try:
            with Path(self.settings.error).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError:
            error_line(text)

    def _bug(self, error: Exception) -> int:
        if self.settings.debug or os.environ.get("KCRASH_TRACEBACK"):
            import traceback

            traceback.print_exception(error)
        where = "" if self.settings.debug else ' (KCRASH_TRACEBACK=1 or "set debug 1" shows where)'
        return self._failed(f"internal error: {type(error).__name__}: {error}{where}")


def items_of(command: Command, context: Context, text: str) -> Iterable[Item]:
    """The items of ``command`` for the line ``text`` (which starts with its name); for tests."""
    return command.items(context, split_words(text)[1:], text)[1]
