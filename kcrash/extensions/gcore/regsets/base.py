"""What a port of the register sets is: a record of data and a few functions.

A port belongs to an architecture and to a range of kernels, which its label
tells and which `accepts` decides by the members and symbols that are there. A
new one is a file in this folder that calls `register_port`; no other file
changes. Several ports may be of one architecture, but only one may accept a
process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kcrash.arch.base import Prstatus
from kcrash.errors import KcrashError

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread
    from kcrash.linux.mm import Vma
    from kcrash.session import Session


class Unavailable(KcrashError):
    """A register set that the kernel has and the dump has not; the text says why."""


class UserRegisters(NamedTuple):
    """Registers of user space by the architecture's names; ``origin`` says where they come from.

    ``missing``: those that cannot be recovered; they are zero in the note.
    """

    values: dict[str, int]
    origin: str
    missing: tuple[str, ...] = ()


class Note(NamedTuple):
    """An ELF note."""

    name: str
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Regset:
    """One register set behind NT_PRSTATUS (struct user_regset, include/linux/regset.h).

    ``label``: what reports call it; ``read``: its bytes, None where the kernel
    would write no note for this thread; raises Unavailable, KcrashError.
    """

    label: str
    note_name: str
    note_type: int
    read: Callable[[Thread], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """The register sets of one architecture in a range of kernels (struct user_regset_view).

    ``arch``, ``kernels``: the labels; ``machine``, ``word_bytes``: of the core;
    ``prstatus``: layout of struct elf_prstatus; ``accepts``: whether this port is
    for a process; ``registers``: the general ones of a thread; ``regsets``: the
    others, in the kernel's order; ``extra_notes``: what follows all threads';
    ``gate_vma``: the mapping outside the process's own that the kernel dumps.
    """

    arch: str
    kernels: str
    machine: int
    word_bytes: int
    prstatus: Prstatus
    accepts: Callable[[Process], bool]
    registers: Callable[[Thread], UserRegisters]
    regsets: Sequence[Regset]
    extra_notes: Callable[[Session], list[Note]] = lambda session: []
    gate_vma: Callable[[Process], Vma | None] = lambda process: None


_ports: dict[tuple[str, str], Port] = {}


def register_port(port: Port) -> Port:
    """Make a port known; a second one with the same labels is an error."""
    key = (port.arch, port.kernels)
    if key in _ports:
        raise ValueError(f"register sets for {port.arch}, kernels {port.kernels}, are registered twice")
    _ports[key] = port
    return port


def find_port(process: Process) -> Port:
    """The port for a process. Raises KcrashError if there is none."""
    found = [port for port in _ports.values() if port.accepts(process)]
    if not found:
        raise KcrashError(f"no register sets for this kind of process on {process.session.arch.name}")
    if len(found) > 1:
        labels = ", ".join(f"{port.arch} ({port.kernels})" for port in found)
        raise KcrashError(f"more than one port of register sets claims the process: {labels}")
    return found[0]
