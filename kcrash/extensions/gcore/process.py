"""What a core is made of: the process, its threads, and where the registers of each are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kcrash.errors import CommandError, KcrashError
from kcrash.extensions.gcore.regsets.base import Unavailable, UserRegisters
from kcrash.linux.cpu_registers import CpuRegisters, cpu_registers
from kcrash.linux.mm import Mm
from kcrash.linux.stack import frames, read_regs, user_regs_address
from kcrash.linux.tasks import Task, current_tasks, task_table, thread_flags
from kcrash.linux.userpages import UserMemory

if TYPE_CHECKING:
    from kcrash.session import Session


@dataclass(frozen=True)
class Thread:
    """A thread of the process; ``cpu``: the one it was running on, None if on none."""

    session: Session
    task: Task
    cpu: int | None

    @property
    def cpu_note(self) -> CpuRegisters | None:
        """What the dump's file holds of its CPU."""
        return cpu_registers(self.session).get(self.cpu) if self.cpu is not None else None

    @property
    def stopped_in_user(self) -> bool:
        """True if its CPU's registers are those of user space."""
        return self.cpu_note is not None and self.cpu_note.user

    def entry_registers(self) -> UserRegisters:
        """The registers of user space that the architecture's struct pt_regs has.

        Of a CPU that was stopped in user mode, from its note. Else they are where
        the entry to the kernel left them: so too when an NMI or an interrupt came in
        user mode, for its entry code builds the frame on the task's stack. Raises
        Unavailable.
        """
        note = self.cpu_note
        if note is not None and note.user:
            return UserRegisters(dict(note.registers), f"CPU {self.cpu}")
        try:
            values = read_regs(self.session, user_regs_address(self.session, self.task))
        except KcrashError as error:
            raise Unavailable(f"kernel stack: {error}") from None
        arch = self.session.arch
        if not arch.user_mode(values) and any(values[name] for name in (arch.pc, arch.sp)):
            raise Unavailable("the kernel stack holds no registers of user space")
        origin = "kernel stack"  # of io_uring's workers, too, which copy_thread() starts with pc and sp of 0
        if self.cpu is not None and note is None:
            origin = f"kernel stack, as of the last entry (no registers of CPU {self.cpu} in the dump)"
        return UserRegisters(values, origin)

    def unwound_registers(self) -> dict[str, int]:
        """Registers of the kernel's entry code, by name, as unwinding the kernel stack gives them.

        Empty unless the frames lead there: to a stack pointer within the user's pt_regs.
        A register that a function on the way may have changed is absent.
        """
        arch = self.session.arch
        names = {number: name for name, number in arch.dwarf.items()}
        low = user_regs_address(self.session, self.task)
        high = low + self.session.types.size("struct pt_regs")
        try:
            found = frames(self.session, self.task)
        except KcrashError:
            return {}
        for frame in found:
            if low <= (frame.registers.get(arch.dwarf[arch.sp]) or 0) < high:
                return {names[number]: value for number, value in frame.registers.items() if number in names}
        return {}

    def thread_flag(self, bit: int) -> bool:
        """A TIF_* flag."""
        return bool(thread_flags(self.task) >> bit & 1)


@dataclass
class Process:
    """The process that a core is written of.

    ``threads``: those alive, the one that would dump first; ``gone``: those that
    were exiting, which have no registers of user space any more.
    """

    session: Session
    memory: UserMemory
    leader: Task
    threads: Sequence[Thread]
    gone: Sequence[Task] = field(default_factory=list)

    @property
    def mm(self) -> Mm:
        """Its address space."""
        return self.memory.mm

    @property
    def dumper(self) -> Task:
        """The thread that stands first."""
        return self.threads[0].task

    @cached_property
    def group(self) -> list[Task]:
        """All threads, as the kernel's list has them."""
        return task_table(self.session).by_leader.get(self.leader.address, [self.leader])


def open_process(session: Session, task: Task) -> Process:
    """The process of ``task``, which becomes the core's first thread. Raises CommandError if it has none."""
    if task.is_kernel:
        raise CommandError(f"task {task.pid} is a kernel thread: it has no memory of its own")
    table = task_table(session)
    group = table.by_leader.get(task.leader, [task])
    alive = [other for other in group if other.mm and not other.exit_state]
    if not alive:
        what = "a zombie" if task.exit_state & 0x30 else "exiting"
        raise CommandError(f"process {task.tgid} is {what}: its memory is gone")
    leader = table.by_address.get(task.leader, task)
    first = next((t for t in (task, leader) if t in alive), alive[0])
    order = [first, *(other for other in alive if other is not first)]
    on_cpu = {address: cpu for cpu, address in current_tasks(session).items()}
    threads = [Thread(session, other, on_cpu.get(other.address)) for other in order]
    memory = UserMemory(session, first.mm, f"user of PID {first.tgid}")
    gone = [other for other in group if other not in alive]
    return Process(session, memory, leader, threads, gone)
