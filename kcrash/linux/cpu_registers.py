"""Registers of the CPUs at the moment of the dump, as the container kept them.

kexec's capture kernel leaves one NT_PRSTATUS a CPU that stopped (arch crash.c,
kernel/crash_core.c); QEMU adds a note of its own with the system registers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kcrash.dump.notes import NT_PRSTATUS
from kcrash.errors import MemoryFault
from kcrash.linux.cpus import online_cpus, present_cpus
from kcrash.linux.tasks import current_tasks

if TYPE_CHECKING:
    from kcrash.session import Session


@dataclass(frozen=True, slots=True)
class CpuRegisters:
    """One CPU: ``registers`` by the architecture's names, ``pid`` as the note has it."""

    cpu: int
    pid: int
    registers: Mapping[str, int]
    user: bool


def cpu_registers(session: Session) -> dict[int, CpuRegisters]:
    """CPU number -> its registers; CPUs that left no note are absent."""
    return session.memo("cpu registers", lambda: _read_notes(session))


def _read_notes(session: Session) -> dict[int, CpuRegisters]:
    notes = [n for n in session.dump.info.notes if n.name == "CORE" and n.type == NT_PRSTATUS]
    found: list[tuple[int, Mapping[str, int]]] = [
        (pid, registers)
        for note in notes
        if (parsed := _parse(session, note.data))
        for pid, registers in [parsed]
    ]
    found = found or [(0, registers) for registers in session.dump.info.cpus]
    cpus = _assign(session, [pid for pid, _registers in found])
    user_mode = session.arch.user_mode
    return {
        cpu: CpuRegisters(cpu, pid, registers, user_mode(registers))
        for cpu, (pid, registers) in zip(cpus, found, strict=False)
        if any(registers.values())
    }


def _parse(session: Session, data: bytes) -> tuple[int, dict[str, int]] | None:
    layout, arch = session.arch.prstatus, session.arch
    # That of the container: QEMU writes the notes of ppc64le big-endian, memory being little-endian.
    order = "<" if session.dump.info.byte_order == "little" else ">"
    form = struct.Struct(order + str(len(layout.registers)) + ("Q" if arch.word_bits == 64 else "I"))
    if len(data) < layout.regs + form.size:
        return None
    pid = struct.unpack_from(order + "i", data, layout.pid)[0]
    values = form.unpack_from(data, layout.regs)
    return pid, {name: value for name, value in zip(layout.registers, values, strict=True) if name}


def _assign(session: Session, pids: list[int]) -> list[int]:
    """Which CPU each note is of. Notes come in order of CPU, but a CPU that did not stop left none:
    then the pid in the note (of the task that it ran) tells. Those that stopped may have gone offline
    (arm64's crash_smp_send_stop())."""
    cpus = present_cpus(session)
    for known in (online_cpus(session), cpus):
        if len(pids) == len(known):
            return known
    running = {cpu: _pid(session, task) for cpu, task in current_tasks(session).items()}
    assigned: list[int] = []
    for pid in pids:
        candidates = [cpu for cpu in cpus if cpu not in assigned and cpu > max(assigned, default=-1)]
        match = [cpu for cpu in candidates if running.get(cpu) == pid]
        assigned.append((match or candidates or [-1])[0])
    return assigned


def _pid(session: Session, task: int) -> int:
    try:
        return session.memory.u32(task + session.types.offset("struct task_struct", "pid"))
    except MemoryFault:
        return -1
