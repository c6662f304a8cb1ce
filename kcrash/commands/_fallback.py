"""What a line means whose first word is no command: a line of gdb's, the name of a type or a symbol.

The only place in the front end that asks a session for names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.commands._gdb import translated
from kcrash.errors import CommandError, KcrashError

if TYPE_CHECKING:
    from kcrash.session import Session


#: Commands of crash that kcrash does not have yet: none of them is a symbol to be printed.
NOT_YET = frozenset(
    (
        *("bpf", "dev", "files", "fuser", "ipcs", "irq", "kmem", "map", "mount", "net", "ptov", "runq"),
        *("rustfilt", "s390dbf", "sbitmapq", "search", "sig", "swap", "timer", "vm", "waitq", "wr"),
    )
)


def line_instead(session: Session, line: str, name: str) -> str | None:
    """The line that ``line``, whose first word is ``name``, stands for; None if it stands for nothing.

    Raises CommandError for what crash has and kcrash has not.
    """
    if name in NOT_YET or line == "gdb":
        raise CommandError(f"{name}: kcrash does not have this command of crash yet")
    line_of_gdb = translated(line)
    if line_of_gdb is not None:
        return line_of_gdb
    found = command_for_name(session, name, alone=line == name)
    return f"{found} {line}" if found else None


def command_for_name(session: Session, name: str, alone: bool) -> str | None:
    """The command that a first word stands for: a symbol ``p``, a type ``struct``, ``union`` or ``whatis``.

    As crash decides: a symbol with nothing after it comes first, then types.
    """
    if session is None:
        return None
    if alone and _is_symbol(session, name):
        return "p"
    return "whatis" if name == "enum" else _type_command(session, name)


def _is_symbol(session: Session, name: str) -> bool:
    try:
        return session.symbols.find(name) is not None
    except KcrashError:
        return False


def _type_command(session: Session, name: str) -> str | None:
    base = name.split(".")[0].split("[")[0]
    for kind, command in (("struct", "struct"), ("union", "union"), ("typedef", "whatis")):
        try:
            if session.types.find(kind, base) is not None:
                return command
        except KcrashError:
            continue
    return None
