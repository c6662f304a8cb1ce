"""The words that completion offers: suggestion kinds to lists of names.

Symbols and types are many and slow to list: that is done once, in the
background (kcrash.repl.names), and the sorted lists are swapped in when whole.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kcrash.errors import KcrashError
from kcrash.repl.engine import Suggestion
from kcrash.repl.names import Listing

if TYPE_CHECKING:
    from kcrash.commands._shell import Shell

LIMIT = 2000


class Words:
    """Words for a shell. `start` begins to list those that take long."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._lists: dict[str, Sequence[str]] = {}
        self._thread: threading.Thread | None = None
        self._listing: Listing | None = None

    def start(self) -> None:
        """List symbols and types in the background."""
        session = self._shell.context.session
        if session is None:
            return
        self._listing = Listing(session.kernel_name, session.build_id)
        self._thread = threading.Thread(target=self._refresh, name="completion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what runs in the background."""
        if self._listing is not None:
            self._listing.stop()

    def wait(self) -> None:
        """Wait until the lists are there (tests)."""
        if self._thread is not None:
            self._thread.join()

    def matching(self, suggestion: Suggestion) -> Iterator[str]:
        """The words that start with the prefix, each once, `LIMIT` at most of a kind."""
        seen: set[str] = set()
        prefix = suggestion.prefix
        for source in (suggestion.words, *(self._of(kind, suggestion) for kind in suggestion.kinds)):
            for word in source:
                if word.startswith(prefix) and word not in seen:
                    seen.add(word)
                    yield word

    def _of(self, kind: str, suggestion: Suggestion) -> Iterable[str]:
        shell = self._shell
        if kind in ("symbol", "type"):
            return _run_of(self._lists.get(kind, ()), suggestion.prefix)
        makers: dict[str, Callable[[], Iterable[str]]] = {
            "command": shell.registry.names,
            "alias": lambda: sorted(alias.name for alias in shell.context.aliases),
            "variable": _variables,
            "extension": lambda: [name for name, _ in shell.context.extensions.available()],
            "file": lambda: files(suggestion.prefix),
            "member": lambda: self._members(suggestion.owner),
            "task": self._tasks,
            "module": self._modules,
        }
        return makers[kind]() if kind in makers else ()

    def _refresh(self) -> None:
        assert self._listing is not None
        try:
            symbols, types = self._listing.read()
        except OSError:
            return
        self._lists = {"symbol": symbols, "type": types}

    def _members(self, owner: str) -> Iterable[str]:
        types = self._shell.context.session.types
        structure, *path = owner.split(".")
        try:
            found = types.compound(_tagged(types, structure))
            for name in path:
                inner = next(m for m in found.members if m.name == name.split("[")[0])
                found = types.compound(str(inner.type))
            return [m.name for m in found.members if m.name]
        except (KcrashError, StopIteration):
            return ()

    def _tasks(self) -> Iterable[str]:
        """Names of tasks, for what takes a task by name; none while they cannot be listed."""
        from kcrash.linux.tasks import for_each_task

        session = self._shell.context.session
        try:
            tasks = [task for task in for_each_task(session) if not isinstance(task, KcrashError)]
            return sorted({task.comm.decode("utf-8", "backslashreplace") for task in tasks})
        except (KcrashError, AttributeError):
            return ()

    def _modules(self) -> Iterable[str]:
        return ()


def _tagged(types: object, name: str) -> str:
    find = getattr(types, "find")  # noqa: B009 - any namespace of types
    for kind in ("struct", "union"):
        if find(kind, name) is not None:
            return f"{kind} {name}"
    return name


def _variables() -> list[str]:
    from kcrash.commands.settings import VARIABLES

    return [variable.name for variable in VARIABLES]


def _run_of(words: Sequence[str], prefix: str) -> Sequence[str]:
    """The words of a sorted list that start with a prefix; none for an empty one: they are too many."""
    if not prefix:
        return ()
    start = bisect_left(words, prefix)
    return words[start : bisect_left(words, prefix + "\U0010ffff", start, min(len(words), start + LIMIT))]


def files(prefix: str) -> list[str]:
    """Paths that start with ``prefix``, folders with a slash."""
    head, slash, tail = prefix.rpartition("/")
    try:
        found = [p for p in Path((head + slash) or ".").expanduser().iterdir() if p.name.startswith(tail)]
    except OSError:
        return []
    return sorted(f"{head}{slash}{p.name}{'/' if p.is_dir() else ''}" for p in found)
