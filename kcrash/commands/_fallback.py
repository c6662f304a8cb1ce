"""What a line means whose first word is no command: the name of a type or a symbol.

The only place in the front end that asks a session for names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.errors import KcrashError

if TYPE_CHECKING:
    from kcrash.session import Session


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
