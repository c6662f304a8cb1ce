"""Tasks: every process and thread of the dead kernel (include/linux/sched.h).

A Task is decoded from one read of the part of its task_struct that listings
need; anything else is asked of :attr:`Task.value`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData, KcrashError, MemoryFault, MissingSymbol
from kcrash.linux.cpus import online_cpus, present_cpus

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.values import Value

MAX_TASKS = 4 << 20  # PID_MAX_LIMIT, include/linux/threads.h
PF_KTHREAD = 0x00200000
PF_EXITING = 0x00000004


class _Members(NamedTuple):
    """Paths of what a Task holds, as this kernel spells them."""

    paths: tuple[str, ...]
    cpu_on_stack: bool


@dataclass(slots=True, eq=False)
class Task:
    """A task.

    ``address``: of its task_struct; ``comm``: raw bytes, as the process named
    itself; ``state``: the state word, and ``exit_state``; ``stack``: lowest
    address of its kernel stack; ``sp``: saved stack pointer of a task that is
    off the CPU; ``mm``: 0 for kernel threads; ``real_parent``: the task that made
    it (or took it over); ``parent``: the same, or the debugger that traces it;
    ``idle_cpu``: CPU whose idle task this is, else None.
    """

    session: Session
    address: int
    pid: int
    tgid: int
    comm: bytes
    state: int
    exit_state: int
    flags: int
    stack: int
    sp: int
    mm: int
    active_mm: int
    parent: int
    real_parent: int
    leader: int
    signal: int
    cpu: int
    idle_cpu: int | None = None

    @property
    def value(self) -> Value:
        """The whole ``struct task_struct``."""
        return self.session.value("struct task_struct", self.address)

    @property
    def name(self) -> str:
        """``comm`` as text."""
        return self.comm.decode("utf-8", "replace")

    @property
    def is_kernel(self) -> bool:
        """True for kernel threads (one may borrow an mm for a while) and idle tasks."""
        return bool(self.flags & PF_KTHREAD) or self.pid == 0

    @property
    def is_leader(self) -> bool:
        """True for the first thread of a process."""
        return self.leader == self.address


def _members(session: Session) -> _Members:
    types = session.types
    name = "struct task_struct"
    # Linux commit 2f064a59a11f ("sched: Change task_struct::state") in v5.14.
    state = types.first_member(name, ("__state", "state")) or "state"
    # Linux commit bcf9033e5449 ("sched: move CPU field back into thread_info if
    # THREAD_INFO_IN_TASK=y") in v5.16; before v4.9 thread_info was on the stack.
    cpu = types.first_member(name, ("thread_info.cpu", "cpu"))
    sp = types.first_member(name, ("thread.sp", "thread.cpu_context.sp", "thread.ksp", "thread.sp0"))
    paths = ("pid", "tgid", "comm", state, "exit_state", "flags", "stack", sp or "stack", "mm", "active_mm",
             "parent", "real_parent", "group_leader", "signal", cpu or "flags")  # fmt: skip
    return _Members(paths, cpu is None)


def read_task(session: Session, address: int, idle_cpu: int | None = None) -> Task:
    """Decode the task_struct at ``address``. Raises MemoryFault."""
    members = session.memo("task members", lambda: _members(session))
    reader = session.types.reader("struct task_struct", *members.paths)
    fields = reader(session.memory.read(address + reader.start, reader.size))
    (pid, tgid, comm, state, exit_state, flags, stack, sp, mm, active_mm,
     parent, real_parent, leader, signal, cpu) = fields  # fmt: skip
    if members.cpu_on_stack:
        cpu = _cpu_on_stack(session, stack)
    if idle_cpu is not None:
        cpu = idle_cpu
    return Task(session, address, pid, tgid, comm.split(b"\0", 1)[0], state, exit_state, flags, stack, sp, mm,
                active_mm, parent, real_parent, leader, signal, cpu, idle_cpu)  # fmt: skip


def _cpu_on_stack(session: Session, stack: int) -> int:
    """thread_info at the lowest address of the stack, before Linux v4.9."""
    if not session.types.has("struct thread_info", "cpu"):
        return 0
    value = session.memory.u32(stack + session.types.offset("struct thread_info", "cpu"))
    return value if value < 1 << 16 else 0


def thread_info(session: Session, task: Task) -> int | None:
    """Address of a task's struct thread_info: in the task_struct, or at the base of its stack.

    Linux commit c65eacbe290b ("sched/core: Allow putting thread_info into task_struct") in v4.9.
    """
    types = session.types
    if types.has("struct task_struct", "thread_info"):
        member = types.compound("struct task_struct").path("thread_info")
        if member.type.underlying.kind == "struct":
            return task.address + member.offset
    return task.stack or None


# -- all tasks


def idle_tasks(session: Session) -> dict[int, int]:
    """CPU number -> address of its idle task (``struct rq``.idle), CPUs that are plugged in only."""
    return session.reading("idle_tasks", lambda: _rq_pointers(session, "idle", present_cpus(session)))


def current_tasks(session: Session) -> dict[int, int]:
    """CPU number -> address of the task that was on it (``struct rq``.curr), online CPUs only."""
    return session.reading("current_tasks", lambda: _rq_pointers(session, "curr", online_cpus(session)))


def _rq_pointers(session: Session, member: str, cpus: list[int]) -> dict[int, int]:
    offset = session.types.offset("struct rq", member)
    found = {}
    for cpu in cpus:
        address = session.per_cpu_address("runqueues", cpu)
        if address is None:
            raise MissingSymbol("runqueues", session.release_hint)
        try:
            pointer = session.memory.word(address + offset)
        except MemoryFault:
            continue
        if pointer:
            found[cpu] = pointer
    return found


def for_each_task(session: Session, idle: bool = True) -> Iterator[Task | KcrashError]:
    """Every task: idle tasks by CPU, then every process and its threads in the kernel's list order.

    A task that cannot be read, or a list that breaks off, comes as the error it
    raised; the walk goes on where it can.
    """
    if idle:
        for cpu, address in sorted(idle_tasks(session).items()):
            yield _attempt(session, address, cpu)
    yield from _walk_processes(session)


def _attempt(session: Session, address: int, idle_cpu: int | None = None) -> Task | KcrashError:
    try:
        return read_task(session, address, idle_cpu)
    except KcrashError as error:
        return error


def _walk_processes(session: Session) -> Iterator[Task | KcrashError]:
    """The list of processes (init_task.tasks), and of each the list of its threads."""
    types, word = session.types, session.memory.word
    init = session.symbols.address("init_task")
    tasks = types.offset("struct task_struct", "tasks")
    seen: set[int] = {init}
    leader = init
    while True:
        try:
            leader = word(leader + tasks & session.word_mask) - tasks & session.word_mask
        except MemoryFault as fault:
            yield fault
            return
        if leader == init:
            return
        if leader in seen or len(seen) > MAX_TASKS:
            yield CorruptData(f"the list of tasks loops at {leader:x}")
            return
        seen.add(leader)
        yield from _walk_threads(session, leader, seen)


def _walk_threads(session: Session, leader: int, seen: set[int]) -> Iterator[Task | KcrashError]:
    """The threads of one process, its leader first."""
    task = _attempt(session, leader)
    yield task
    if not isinstance(task, Task):
        return
    offset, node, end = _thread_list(session, task)
    word = session.memory.word
    try:
        node = word(node)
        while node != end:
            address = node - offset & session.word_mask
            if address != leader:
                if address in seen or len(seen) > MAX_TASKS or not node:
                    yield CorruptData(f"the list of threads of task {leader:x} loops at {address:x}")
                    return
                seen.add(address)
                yield _attempt(session, address)
            node = word(node)
    except MemoryFault as fault:
        yield fault


def _thread_list(session: Session, leader: Task) -> tuple[int, int, int]:
    """``(offset of the link, first node, end node)`` of a process's list of threads.

    Linux commit 0c740d0afc3b ("introduce for_each_thread() to replace the buggy
    while_each_thread()") in v3.14 added signal->thread_head; thread_group went with
    commit 8e1f385104ac ("kill task_struct->thread_group") in v6.7.
    """
    types = session.types
    if types.has("struct signal_struct", "thread_head") and types.has("struct task_struct", "thread_node"):
        head = leader.signal + types.offset("struct signal_struct", "thread_head")
        return types.offset("struct task_struct", "thread_node"), head, head
    offset = types.offset("struct task_struct", "thread_group")
    return offset, leader.address + offset, leader.address + offset


# -- the table, kept


class TaskTable:
    """All tasks of a session, read once: by address, by pid, and the errors met on the way.

    ``current``: online CPU -> address of the task that was on it; ``on_cpu``: likewise, with the
    CPUs that are offline (and sit in their idle task); ``active``: the addresses in ``on_cpu``.
    """

    def __init__(self, session: Session) -> None:
        self.tasks: list[Task] = []
        self.errors: list[KcrashError] = []
        for found in for_each_task(session):
            if isinstance(found, Task):
                self.tasks.append(found)
            else:
                self.errors.append(found)
        self.by_address = {task.address: task for task in self.tasks}
        self.by_pid: dict[int, list[Task]] = {}
        for task in self.tasks:
            self.by_pid.setdefault(task.pid, []).append(task)
        self.by_leader: dict[int, list[Task]] = {}
        for task in self.tasks:
            self.by_leader.setdefault(task.leader, []).append(task)
        try:
            self.current = dict(current_tasks(session))
            self.on_cpu = _rq_pointers(session, "curr", present_cpus(session))
        except KcrashError as error:
            self.errors.append(error)
            self.current, self.on_cpu = {}, {}
        self.active = set(self.on_cpu.values())

    def mark_active(self, task: Task, keep: Task | None = None) -> None:
        """Take ``task`` for the one that was on its CPU; ``keep`` stays active all the same."""
        self.active.discard(self.on_cpu.get(task.cpu, 0))
        self.current[task.cpu] = self.on_cpu[task.cpu] = task.address
        self.active.update({task.address} if keep is None else {task.address, keep.address})

    def sorted(self) -> list[Task]:
        """Idle tasks by CPU, then by pid, as crash lists them."""
        return sorted(self.tasks, key=lambda task: (task.pid, task.cpu if task.pid == 0 else 0))

    def threads(self, task: Task) -> list[Task]:
        """The threads of the process that ``task`` belongs to, the leader first."""
        group = self.by_leader.get(task.leader, [task])
        return sorted(group, key=lambda other: (other.address != task.leader, other.pid))


def task_table(session: Session) -> TaskTable:
    """The table of all tasks, made when first asked for."""
    return session.reading("task table", lambda: TaskTable(session))


def panic_cpu(session: Session) -> int | None:
    """The CPU that panicked or crashed; None if the machine was dumped from outside.

    ``crashing_cpu`` is set by the kexec path (arch crash.c), ``panic_cpu`` by panic().
    """
    for name in ("crashing_cpu", "panic_cpu"):
        address = session.symbols.find_kernel(name)
        if address is None:
            continue
        try:
            cpu = session.memory.u32(address)
        except MemoryFault:
            continue
        if cpu in present_cpus(session):
            return cpu
    return None


def panic_task(session: Session) -> Task | None:
    """The task that was on the CPU that panicked."""
    cpu, table = panic_cpu(session), task_table(session)
    return None if cpu is None or session.live else session.reading("panic task", lambda: _was_on(table, cpu))


def _was_on(table: TaskTable, cpu: int) -> Task | None:
    return table.by_address.get(table.on_cpu.get(cpu, 0))


def _own_task(table: TaskTable) -> Task | None:
    """The task of this process, if its namespace counts as the kernel does."""
    found = table.by_pid.get(os.getpid(), [])
    return next((task for task in found if task.mm), None)


def default_task(session: Session) -> Task | None:
    """The task that a session starts in: the one that panicked, else the first active one, else the first
    that can be read; live, our own."""
    table = task_table(session)
    found = _own_task(table) if session.live else panic_task(session)
    if found is not None:
        return found
    cpu = min(table.current, default=None)
    active = None if cpu is None else table.by_address.get(table.current[cpu])
    return active or next(iter(table.tasks), None)


def thread_flags(task: Task) -> int:
    """The TIF_* flags, in the task or at the start of its stack (task_thread_info()). Raises MemoryFault."""
    types, memory = task.session.types, task.session.memory
    path = "thread_info.flags"
    if types.has("struct task_struct", path):
        return memory.word(task.address + types.offset("struct task_struct", path))
    return memory.word(task.stack + types.offset("struct thread_info", "flags"))
