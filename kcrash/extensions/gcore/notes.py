"""The notes of a core: fill_note_info() and what it calls, fs/binfmt_elf.c."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from kcrash.errors import KcrashError, MemoryFault
from kcrash.extensions.gcore.identity import (
    credentials,
    cumulative_times,
    pid_in,
    pid_namespace,
    thread_times,
)
from kcrash.extensions.gcore.regsets.base import Note, Port, Regset, UserRegisters
from kcrash.linux.mm import auxiliary_vector
from kcrash.linux.tasks import PF_EXITING, Task

if TYPE_CHECKING:
    from kcrash.extensions.gcore.process import Process, Thread
    from kcrash.extensions.gcore.segments import Segment

T = TypeVar("T")
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6
NT_SIGINFO, NT_FILE = 0x53494749, 0x46494C45
MAX_SIGNAL = 128  # _NSIG of any architecture
SIGINFO_SIZE = 128
PSARGS = 80
NOTE_NAME = "KCRASH"
NOTE_TYPE = 0x6B637268  # "kcrh"; small numbers have names in tools that do not look at the owner


@dataclass
class ThreadReport:
    """What a thread's notes lack. ``origin``: where its registers come from; ``unavailable``: set -> why."""

    pid: int
    comm: bytes
    origin: str = ""
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass
class NoteSet:
    """The notes in the kernel's order, and what they lack."""

    notes: list[Note]
    threads: list[ThreadReport]
    problems: list[str]


def make_notes(process: Process, port: Port, segments: Sequence[Segment]) -> NoteSet:
    """All notes: those of the first thread with the process's own behind its PRSTATUS, then the others'."""
    maker = _Maker(process, port)
    notes: list[Note] = []
    for number, thread in enumerate(process.threads):
        status, others = maker.thread(thread)
        notes.append(status)
        if not number:
            notes += maker.process_notes(segments)
        notes += others
    notes += port.extra_notes(process.session)
    return NoteSet(notes, maker.reports, maker.problems)


class _Maker:
    """Makes the notes of one process."""

    def __init__(self, process: Process, port: Port) -> None:
        self.process = process
        self.port = port
        self.session = process.session
        self.order = "<" if self.session.arch.byte_order == "little" else ">"
        self.wide = port.word_bytes == 8
        self.word = "Q" if self.wide else "I"
        self.reports: list[ThreadReport] = []
        self.problems: list[str] = []
        self.namespace = pid_namespace(self.session, process.dumper)
        self.signal = _signal(process)

    # -- a thread

    def thread(self, thread: Thread) -> tuple[Note, list[Note]]:
        """NT_PRSTATUS and the other register sets (fill_thread_core_info())."""
        report = ThreadReport(thread.task.pid, thread.task.comm)
        self.reports.append(report)
        registers = self._registers(thread, report)
        notes = [note for regset in self.port.regsets if (note := self._regset(thread, regset, report))]
        has_fp = any(note.name == "CORE" for note in notes)
        return self._prstatus(thread, registers, has_fp), notes

    def _registers(self, thread: Thread, report: ThreadReport) -> UserRegisters:
        try:
            found = self.port.registers(thread)
        except KcrashError as error:
            report.unavailable["general"] = str(error)
            return UserRegisters({}, "")
        report.origin = found.origin
        if found.missing:
            report.unavailable["general: " + " ".join(found.missing)] = "cannot be recovered"
        return found

    def _regset(self, thread: Thread, regset: Regset, report: ThreadReport) -> Note | None:
        try:
            data = regset.read(thread)
        except KcrashError as error:
            report.unavailable[regset.label] = str(error)
            return None
        return None if data is None else Note(regset.note_name, regset.note_type, data)

    def _prstatus(self, thread: Thread, registers: UserRegisters, has_fp: bool) -> Note:
        """struct elf_prstatus (fill_prstatus()); registers that are not known are zero."""
        layout, order, task = self.port.prstatus, self.order, thread.task
        out = bytearray(layout.size)
        struct.pack_into(order + "i", out, 0, self.signal)
        struct.pack_into(order + "h", out, layout.signal, self.signal)
        pending, blocked = self._signal_sets(task)
        size = self.port.word_bytes
        struct.pack_into(f"{order}2{self.word}", out, layout.pid - 2 * size, *self._words(pending, blocked))
        struct.pack_into(order + "4i", out, layout.pid, *self._ids(task))
        times = self._times(task)
        pairs = [part for ns in times for part in (ns // 10**9, ns % 10**9 // 1000)]
        struct.pack_into(f"{order}8{self.word}", out, layout.times, *self._words(*pairs))
        values = [registers.values.get(name, 0) for name in layout.registers]
        struct.pack_into(f"{order}{len(values)}{self.word}", out, layout.regs, *self._words(*values))
        struct.pack_into(order + "i", out, layout.fpvalid, int(has_fp))
        return Note("CORE", NT_PRSTATUS, bytes(out))

    def _words(self, *values: int) -> list[int]:
        mask = (1 << 8 * self.port.word_bytes) - 1
        return [value & mask for value in values]

    def _signal_sets(self, task: Task) -> tuple[int, int]:
        """The thread's own pending signals, and those it blocks: the first word of each set."""
        types, memory = self.session.types, self.session.memory
        return self._try(
            lambda: (
                memory.word(task.address + types.offset("struct task_struct", "pending.signal")),
                memory.word(task.address + types.offset("struct task_struct", "blocked")),
            ),
            (0, 0),
            f"signals of {task.pid}",
        )

    def _ids(self, task: Task) -> tuple[int, int, int, int]:
        """pid, ppid, pgrp and sid as the process's own pid namespace numbers them."""
        session, space = self.session, self.namespace

        def find() -> tuple[int, int, int, int]:
            return (
                pid_in(session, task, "PIDTYPE_PID", space),
                pid_in(session, task.parent, "PIDTYPE_PID", space),
                pid_in(session, task, "PIDTYPE_PGID", space),
                pid_in(session, task, "PIDTYPE_SID", space),
            )

        return self._try(find, (task.pid, 0, 0, 0), f"ids of {task.pid}")

    def _times(self, task: Task) -> list[int]:
        """utime, stime, cutime, cstime in ns: of the leader the whole group's, of others their own."""

        def find() -> list[int]:
            group = self.process.group if task.is_leader else None
            return [*thread_times(self.session, task, group), *cumulative_times(self.session, task)]

        return self._try(find, [0, 0, 0, 0], f"times of {task.pid}")

    def _try(self, make: Callable[[], T], default: T, what: str) -> T:
        """``make()``; ``default``, and a line in the report, where the dump lacks it."""
        try:
            return make()
        except KcrashError as error:
            self.problems.append(f"{what}: {error}")
            return default

    # -- the process

    def process_notes(self, segments: Sequence[Segment]) -> list[Note]:
        """NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE."""
        notes = [self._prpsinfo(), self._siginfo(), self._auxv()]
        files = self._files(segments)
        return [*notes, files] if files is not None else notes

    def _prpsinfo(self) -> Note:
        """struct elf_prpsinfo (fill_psinfo()): of the group's leader."""
        leader, order = self.process.leader, self.order
        state = leader.state & 0xFFFFFFFF
        number = (state & -state).bit_length()
        letter = "RSDTZW"[number] if number <= 5 else "."
        uid, gid = self._try(lambda: credentials(self.session, leader), (0, 0), "credentials")
        nice = self._try(lambda: self._nice(leader), 0, "nice value")
        head = struct.pack(order + "BcBb", number & 0xFF, letter.encode(), int(letter == "Z"), nice)
        ids = "II" if self.wide else "HH"
        padding = "4x" if self.wide else ""
        form = f"{order}{padding}{self.word}{ids}4i16s{PSARGS}s"
        mask = 0xFFFFFFFF if self.wide else 0xFFFF
        body = struct.pack(
            form, leader.flags & 0xFFFFFFFF, uid & mask, gid & mask, *self._ids(leader),
            leader.comm[:15], self._arguments(),
        )  # fmt: skip
        return Note("CORE", NT_PRPSINFO, head + body)

    def _nice(self, task: Task) -> int:
        offset = self.session.types.offset("struct task_struct", "static_prio")
        return max(-128, min(self.session.memory.u32(task.address + offset) - 120, 127))

    def _arguments(self) -> bytes:
        """The beginning of the argument area, NULs as blanks."""
        mm = self.process.mm
        size = min(max(mm.arg_end - mm.arg_start, 0), PSARGS - 1)
        try:
            return self.process.memory.read(mm.arg_start, size).replace(b"\0", b" ") if size else b""
        except MemoryFault as fault:
            self.problems.append(f"arguments: {fault}")
            return b""

    def _siginfo(self) -> Note:
        """siginfo_t: si_signo alone is known of a process that was not killed by a signal of its own."""
        found = _stop_info(self.process.dumper)
        if found is None:
            found = struct.pack(self.order + "i", self.signal)
        if not self.wide:
            found = found[:12]  # the unions behind si_code are laid out otherwise for 32 bits
        return Note("CORE", NT_SIGINFO, found.ljust(SIGINFO_SIZE, b"\0")[:SIGINFO_SIZE])

    def _auxv(self) -> Note:
        pairs = auxiliary_vector(self.session, self.process.mm, self.port.word_bytes)
        values = [value for pair in pairs for value in pair]
        return Note("CORE", NT_AUXV, struct.pack(f"{self.order}{len(values)}{self.word}", *values))

    def _files(self, segments: Sequence[Segment]) -> Note | None:
        """NT_FILE (fill_files_note()): count, page size, {start, end, page offset}, then the names."""
        mapped = [segment for segment in segments if segment.name is not None]
        if not mapped:
            return None
        numbers = [len(mapped), self.session.arch.page_size]
        for segment in mapped:
            numbers += [segment.vma.start, segment.vma.end, segment.vma.pgoff]
        names = b"".join((segment.name or b"") + b"\0" for segment in mapped)
        data = struct.pack(f"{self.order}{len(numbers)}{self.word}", *self._words(*numbers)) + names
        return Note("CORE", NT_FILE, data)


def _signal(process: Process) -> int:
    """pr_cursig: the signal that was killing the process, or that the first thread is stopped for; else 0.

    A machine's crash is no signal to its processes: most show 0, which no process that dumped itself
    would. A fatal signal under way is in signal_struct (zap_process()).
    """
    session, task = process.session, process.dumper
    found = _stop_info(task)
    if found is not None:
        number = int.from_bytes(found[:4], session.arch.byte_order)  # type: ignore[arg-type]
        return number if number <= MAX_SIGNAL else 0
    types, memory = session.types, session.memory
    if not task.signal or not task.flags & PF_EXITING:
        return 0
    try:
        return memory.u32(task.signal + types.offset("struct signal_struct", "group_exit_code")) & 0x7F
    except KcrashError:
        return 0


def _stop_info(task: Task) -> bytes | None:
    """The siginfo of a signal that a tracer has stopped the thread for (task->last_siginfo)."""
    types, memory = task.session.types, task.session.memory
    if not types.has("struct task_struct", "last_siginfo"):
        return None
    try:
        pointer = memory.word(task.address + types.offset("struct task_struct", "last_siginfo"))
        return memory.read(pointer, 48) if pointer else None
    except KcrashError:
        return None
