"""The commands, found by name without importing all of them.

``kcrash/commands/ps.py`` is imported when ``ps`` is first asked for. A name
that no file carries is looked up in an index made by reading the files'
text for ``@command("name"``, which costs about a millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.errors import CommandError

if TYPE_CHECKING:
    from kcrash.commands.base import Command

_DECLARED = re.compile(r'^@command\(\s*"([^"]+)"(.*?)^def ', re.M | re.S)
_ALIASES = re.compile(r"\baliases=[(\[]([^)\]]*)[)\]]")
_HIDDEN = re.compile(r"(?:\A[^\n]*|^ {4})\bhidden=True\b", re.M)  # of the command, not of an argument
_NOT_COMMANDS = {"base", "settings"}


class Registry:
    """Commands by name. ``folder`` and ``package``: where files of commands are, None for none."""

    def __init__(self, folder: Path | None = None, package: str = "") -> None:
        self._folder = folder
        self._package = package
        self._commands: dict[str, Command] = {}
        self._index: dict[str, str] | None = None
        self._hidden: set[str] = set()

    def add(self, command: Command) -> None:
        """Register a command under its name and aliases; a name that is taken is an error."""
        for name in (command.name, *command.aliases):
            other = self._commands.get(name)
            taken = other.module if other else self._file_of(name, command.module)
            if taken:
                raise CommandError(f"duplicate command {name!r}: in {taken} and in {command.module}")
        for name in (command.name, *command.aliases):
            self._commands[name] = command

    def _file_of(self, name: str, module: str) -> str:
        """The file, perhaps not imported yet, that has ``name``, for a command from elsewhere."""
        if module.startswith(f"{self._package}.") or not self._folder:
            return ""
        return self.index().get(name, "")

    def remove(self, module: str) -> list[str]:
        """Forget the commands of a module and those inside it; their names."""
        names = [
            n for n, c in self._commands.items() if c.module == module or c.module.startswith(module + ".")
        ]
        for name in names:
            del self._commands[name]
        return names

    def get(self, name: str) -> Command | None:
        """The command of that name, imported if need be."""
        if name not in self._commands and self._folder is not None:
            self._import(name)
        return self._commands.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._commands or name in self.index()

    def loaded(self) -> Iterator[Command]:
        """The commands imported so far, each once."""
        return iter({id(c): c for c in self._commands.values()}.values())

    def names(self, hidden: bool = False) -> list[str]:
        """All command names, sorted, without importing anything."""
        names = {*self.index(), *self._commands}
        if not hidden:
            names -= self._hidden
            names -= {n for n, c in self._commands.items() if c.hidden}
        return sorted(names)

    def all(self) -> list[Command]:
        """Every command, by name; imports all files."""
        for name in self.index():
            self.get(name)
        return sorted(self.loaded(), key=lambda c: c.name)

    def _import(self, name: str) -> None:
        assert self._folder is not None
        if name.isidentifier() and name not in _NOT_COMMANDS and self._has_file(name):
            import_module(f"{self._package}.{name}")
        if name not in self._commands and name in self.index():
            import_module(f"{self._package}.{self.index()[name]}")

    def _has_file(self, name: str) -> bool:
        try:
            return self._folder is not None and (self._folder / f"{name}.py").is_file()
        except OSError:  # a name longer than files can have
            return False

    def index(self) -> dict[str, str]:
        """Command name -> module name, of all files, from their text."""
        if self._index is None:
            self._index = {}
            for file in sorted(self._folder.glob("*.py")) if self._folder else ():
                if not file.name.startswith("_") and file.stem not in _NOT_COMMANDS:
                    self._scan(file, self._index)
        return self._index

    def _scan(self, file: Path, index: dict[str, str]) -> None:
        for match in _DECLARED.finditer(file.read_text("utf-8")):
            name, body = match.groups()
            names = [name]
            for aliases in _ALIASES.findall(body):
                names += re.findall(r'"([^"]+)"', aliases)
            for each in names:
                if each in index:
                    raise CommandError(f"duplicate command {each!r}: in {index[each]} and in {file.stem}")
                index[each] = file.stem
                if _HIDDEN.search(body) and each == name:
                    self._hidden.add(each)


REGISTRY = Registry(Path(__file__).parent, __name__)
"""Every command file registers here when it is imported."""
