"""The lines entered before: ``h``, ``r``, ``!!`` and ``!5``; kept in a private file between sessions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kcrash.errors import CommandError

LIMIT = 5000


class History:
    """Lines, oldest first. ``path`` None keeps them in memory only.

    A line entered again moves to the end of what is loaded next time. The
    file is made with mode 0600; a file of somebody else is not used.
    """

    def __init__(self, path: Path | None) -> None:
        self.lines: list[str] = []
        self._path = path if path is not None and _usable(path) else None
        self.before = self._load()

    def add(self, line: str) -> None:
        """Remember a line, unless it repeats the last."""
        if self.lines and self.lines[-1] == line:
            return
        self.lines.append(line)
        if self._path is None:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError:
            self._path = None

    def expand(self, line: str) -> str | None:
        """The line that ``!!``, ``!5``, ``r``, ``r 5``, ``r5`` or ``r text`` means; None for others."""
        text = line.strip()
        if text in ("!!", "r"):
            return self._numbered(len(self.lines))
        if text.startswith("!") and text[1:].isdecimal():
            return self._numbered(int(text[1:]))
        if text.startswith("r") and text[1:].strip().isdecimal():
            return self._numbered(int(text[1:]))
        return self._starting(text[2:].strip()) if text.startswith("r ") else None

    def listing(self) -> str:
        """What ``h`` shows."""
        return "\n".join(f"[{number}] {line}" for number, line in enumerate(self.lines, 1))

    def _numbered(self, number: int) -> str:
        if not 1 <= number <= len(self.lines):
            raise CommandError("no such line in the history")
        return self.lines[number - 1]

    def _starting(self, prefix: str) -> str:
        for line in reversed(self.lines):
            if line.startswith(prefix):
                return line
        raise CommandError(f"no line in the history starts with: {prefix}")

    def _load(self) -> list[str]:
        if self._path is None:
            return []
        try:
            lines = self._path.read_text("utf-8", "backslashreplace").splitlines()
        except OSError:
            return []
        kept = unique(lines)[-LIMIT:]
        if len(lines) > 2 * LIMIT:
            self._rewrite(kept)
        return kept

    def _rewrite(self, lines: Sequence[str]) -> None:
        assert self._path is not None
        new = self._path.with_name(self._path.name + ".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)
            new.replace(self._path)
        except OSError:
            return


def unique(lines: Sequence[str]) -> list[str]:
    """The lines, each once, where it was last."""
    return list(reversed(dict.fromkeys(reversed(lines))))


def default_path() -> Path | None:
    """Where the history is kept; None if there can be no such folder."""
    from platformdirs import user_state_path

    folder = user_state_path("kcrash")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / "history"


def _usable(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if not path.is_file() or path.is_symlink() or status.st_uid != os.getuid():
        return False
    path.chmod(0o600)
    return True
