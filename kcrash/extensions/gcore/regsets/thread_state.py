"""Where a thread's registers are kept, as several architectures' ports ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.extensions.gcore.regsets.base import Unavailable
from kcrash.linux.mm import auxiliary_vector, read_mm

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread
    from kcrash.session import Session

AT_HWCAP, AT_HWCAP2 = 16, 26
TASK = "struct task_struct"


def member(thread: Thread, path: str, size: int) -> bytes | None:
    """Bytes of a member of the thread's task_struct; None if this kernel has no such member."""
    types = thread.session.types
    if not types.has(TASK, path):
        return None
    return thread.session.memory.read(thread.task.address + types.offset(TASK, path), size)


def number(thread: Thread, path: str, size: int = 8) -> int | None:
    """As member(), as an unsigned number."""
    found, order = member(thread, path, size), thread.session.arch.byte_order
    return None if found is None else int.from_bytes(found, order)  # type: ignore[arg-type]


def supports(thread: Thread, bit: int) -> bool:
    """Whether the kernel told the process of a feature: a bit of AT_HWCAP, from 64 on of AT_HWCAP2."""
    session = thread.session
    capabilities: int = session.memo(("hwcap", thread.task.mm), lambda: _capabilities(session, thread))
    return bool(capabilities >> bit & 1)


def _capabilities(session: Session, thread: Thread) -> int:
    vector = dict(auxiliary_vector(session, read_mm(session, thread.task.mm), 8))
    return vector.get(AT_HWCAP, 0) | vector.get(AT_HWCAP2, 0) << 64


def must_be_saved(thread: Thread) -> None:
    """Raises Unavailable for a thread that was on a CPU: what it has in registers is not in memory."""
    if thread.cpu is not None:
        raise Unavailable(f"in the registers of CPU {thread.cpu}, which the dump does not have")


def cpu_note(thread: Thread, name: str, kind: int, *, still: bool = False) -> bytes:
    """What QEMU noted of the thread's CPU, if that was in user mode. Raises Unavailable.

    ``still``: it was not, but the registers of this note still were those of the program.
    """
    notes = [note.data for note in thread.session.dump.info.notes if (note.name, note.type) == (name, kind)]
    if not (thread.stopped_in_user or still) or thread.cpu is None or thread.cpu >= len(notes):
        must_be_saved(thread)
    return notes[thread.cpu or 0]


def is_compat(process: Process) -> bool:
    """True for a program of the narrower kind that the kernel runs too, by the loader that started it."""
    compat = process.session.symbols.find_kernel("compat_elf_format")
    return compat is not None and process.mm.binfmt == compat
