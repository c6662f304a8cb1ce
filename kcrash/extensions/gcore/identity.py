"""Who a process is: ids in its pid namespace, credentials in its user namespace, times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.tasks import Task

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.values import Value

TASK, SIGNAL = "struct task_struct", "struct signal_struct"
MAX_PID = 4 << 20  # PID_MAX_LIMIT, include/linux/threads.h
MAX_LEVEL = 32  # MAX_PID_NS_LEVEL, include/linux/pid_namespace.h
OVERFLOW_ID = 65534
MAX_EXTENTS = 340  # UID_GID_MAP_MAX_EXTENTS, include/linux/user_namespace.h


def _pid(session: Session, task: int, kind: str) -> int:
    """Address of a task's struct pid of a kind: task_pid_ptr().

    Linux commit 2c4704756cab ("pids: Move the pgrp and session pid pointers from task_struct to
    signal_struct") in v4.19.
    """
    types, word = session.types, session.memory.word
    number = types.constant(kind)
    if types.has(TASK, "thread_pid"):
        if kind == "PIDTYPE_PID":
            return word(task + types.offset(TASK, "thread_pid"))
        signal = word(task + types.offset(TASK, "signal"))
        return word(signal + types.offset(SIGNAL, f"pids[{number}]")) if signal else 0
    owner = task if kind == "PIDTYPE_PID" else word(task + types.offset(TASK, "group_leader"))
    return word(owner + types.offset(TASK, f"pids[{number}].pid"))


def _upid(session: Session, pid: int, level: int) -> tuple[int, int]:
    """``(number, namespace)`` at a level of the struct pid."""
    types, memory = session.types, session.memory
    size = types.size("struct upid")
    base = pid + types.offset("struct pid", "numbers") + level * size
    number = memory.u32(base + types.offset("struct upid", "nr"))
    if number > MAX_PID:
        raise CorruptData(f"struct pid {pid:x} claims the number {number}")
    return number, memory.word(base + types.offset("struct upid", "ns"))


def _level(session: Session, pid: int) -> int:
    return min(session.memory.u32(pid + session.types.offset("struct pid", "level")), MAX_LEVEL)


def pid_namespace(session: Session, task: Task) -> int:
    """Address of the pid namespace that a task lives in (task_active_pid_ns()); 0 if it cannot be told."""
    try:
        pid = _pid(session, task.address, "PIDTYPE_PID")
        return _upid(session, pid, _level(session, pid))[1]
    except KcrashError:
        return 0


def pid_in(session: Session, task: Task | int, kind: str, namespace: int) -> int:
    """The number that a pid namespace has for a task, its group or session (pid_nr_ns()); 0 for none."""
    address = task if isinstance(task, int) else task.address
    pid = _pid(session, address, kind) if address else 0
    if not pid:
        return 0
    for level in range(_level(session, pid) + 1):
        number, found = _upid(session, pid, level)
        if found == namespace or not namespace:
            return number
    return 0


def credentials(session: Session, task: Task) -> tuple[int, int]:
    """uid and gid as the task's own user namespace has them (from_kuid_munged())."""
    cred = session.value(TASK, task.address).real_cred
    space = cred.user_ns
    uid, gid = int(cred.uid.val), int(cred.gid.val)
    return _mapped(space.uid_map, uid), _mapped(space.gid_map, gid)


def _mapped(table: Value, value: int) -> int:
    """map_id_up(), kernel/user_namespace.c; up to five extents are in place, more behind a pointer."""
    count = min(int(table.nr_extents), MAX_EXTENTS)
    extents = table.extent if count <= 5 else table.forward
    for number in range(count):
        extent = extents[number]
        first = int(extent.lower_first)
        if first <= value < first + int(extent.count):
            return int(extent.first) + value - first
    return OVERFLOW_ID


def _tick(session: Session) -> int:
    """Nanoseconds of a unit of utime and stime.

    They are ns since Linux commit 5613fda9a503 ("sched/cputime: Convert task/group cputime to nsecs")
    in v4.11; before, of type cputime_t, which is jiffies in distributions' kernels.
    """
    member = session.types.compound(TASK).path("utime")
    if member.type.name != "cputime_t":
        return 1
    address = session.symbols.find_kernel("tick_nsec")
    return session.memory.word(address) if address is not None else 4_000_000


def thread_times(session: Session, task: Task, group: Sequence[Task] | None) -> list[int]:
    """utime and stime in ns; with ``group``, those of all its threads and of those that ended
    (thread_group_cputime(), kernel/sched/cputime.c)."""
    tick = _tick(session)
    reader = session.types.reader(TASK, "utime", "stime")
    totals = [0, 0]
    for other in group if group is not None else [task]:
        values = reader(session.memory.read(other.address + reader.start, reader.size))
        totals = [total + value * tick for total, value in zip(totals, values, strict=True)]
    if group is not None:
        ended = _signal_times(session, task, "utime", "stime")
        totals = [total + value for total, value in zip(totals, ended, strict=True)]
    return totals


def cumulative_times(session: Session, task: Task) -> list[int]:
    """cutime and cstime in ns: of children that were waited for."""
    return _signal_times(session, task, "cutime", "cstime")


def _signal_times(session: Session, task: Task, *members: str) -> list[int]:
    reader, tick = session.types.reader(SIGNAL, *members), _tick(session)
    return [value * tick for value in reader(session.memory.read(task.signal + reader.start, reader.size))]
