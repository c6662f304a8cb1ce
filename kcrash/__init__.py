"""kcrash: open a crashed Linux kernel and ask what happened.

>>> import kcrash
>>> with kcrash.open("vmlinux", "vmcore") as session:
...     session["init_task"].comm.string_()
b'swapper/0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kcrash.errors import (
    BadFormat,
    CommandError,
    CorruptData,
    ExpressionError,
    FaultReason,
    KcrashError,
    MemoryFault,
    MismatchError,
    MissingCodec,
    MissingMember,
    MissingSymbol,
    MissingType,
    UsageError,
)

if TYPE_CHECKING:
    from kcrash.session import Session

__version__ = "0.1.0"

__all__ = [
    "BadFormat",
    "CommandError",
    "CorruptData",
    "ExpressionError",
    "FaultReason",
    "KcrashError",
    "MemoryFault",
    "MismatchError",
    "MissingCodec",
    "MissingMember",
    "MissingSymbol",
    "MissingType",
    "Session",
    "UsageError",
    "open",
]


def open(*files: str, force: bool = False, zero_excluded: bool = False) -> Session:
    """Open a vmlinux and a dump, given in any order; a dump alone; without any, the running system.

    ``force``: use a vmlinux of another build; ``zero_excluded``: pages that
    makedumpfile left out read as zeros. Raises KcrashError or OSError.
    """
    from kcrash.session import Options, open_session

    return open_session(files, Options(force=force, zero_excluded=zero_excluded))


def __getattr__(name: str) -> Any:
    if name == "Session":
        from kcrash.session import Session

        return Session
    raise AttributeError(f"module 'kcrash' has no attribute {name!r}")
