"""What a process is doing and what it holds: states, memory, limits, times, arguments.

Everything here takes a session and a `Task`. Members come through readers made
once; what depends on a whole process (its mm) is worked out once a process.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import MemoryFault
from kcrash.linux.cpus import possible_cpus
from kcrash.linux.mm import read_mm
from kcrash.linux.mm import user_space as space_of_mm
from kcrash.linux.tasks import PF_EXITING, Task, task_table
from kcrash.memory.space import PagedSpace
from kcrash.types.model import ArrayType

if TYPE_CHECKING:
    from kcrash.session import Session

TASK_STRUCT = "struct task_struct"
MM_STRUCT = "struct mm_struct"

# -- states


class States:
    """The state bits as this kernel numbers them (include/linux/sched.h).

    ``dead``, ``zombie``: EXIT_DEAD, EXIT_ZOMBIE; the others are TASK_DEAD, TASK_PARKED ...
    """

    noload = 0x400  # Linux commit 80ed87c8a9ca ("sched/wait: Introduce TASK_NOLOAD and TASK_IDLE") in v4.2
    new = 0x800  # Linux commit 7dc603c9028e ("sched/fair: Fix PELT integrity for new tasks") in v4.8

    def __init__(
        self, dead: int, zombie: int, task_dead: int, parked: int, wakekill: int, waking: int
    ) -> None:
        self.dead = dead
        self.zombie = zombie
        self.task_dead = task_dead
        self.parked = parked
        self.wakekill = wakekill
        self.waking = waking
        self._known: dict[int, str] = {0: "RU"}

    def letters(self, state: int) -> str:
        """crash's two letters for a state word, exit_state included; "??" if it has none."""
        found = self._known.get(state)
        if found is None:
            found = self._known[state] = self._letters(state)
        return found

    def _letters(self, state: int) -> str:
        """Of several bits a later one tells more; parked, waking and new count only alone."""
        if state & (2 | self.noload) == 2 | self.noload:
            return "ID"
        found = {self.parked: "PA", self.waking: "WA", self.new: "NE"}.get(state, "??")
        if state & (self.dead | self.task_dead):
            found = "DE"
        for bits, letters in ((1, "IN"), (2, "UN"), (self.zombie, "ZO"), (4, "ST"), (8, "TR")):
            if state & bits:
                found = letters
        return found

    def names(self, state: int) -> str:
        """The kernel's names of the bits, as ``set`` shows them."""
        if not state:
            return "TASK_RUNNING"
        if state == self.parked:
            return "TASK_PARKED"
        both = state & (self.dead | self.task_dead) == self.dead | self.task_dead
        named = (
            (1, "TASK_INTERRUPTIBLE"),
            (2, "TASK_UNINTERRUPTIBLE"),
            (4, "TASK_STOPPED"),
            (8, "TASK_TRACED"),
            (self.dead | self.task_dead, "EXIT_DEAD|TASK_DEAD" if both else "EXIT_DEAD"),
            (self.zombie, "EXIT_ZOMBIE"),
            (self.waking, "TASK_WAKING"),
            (self.wakekill, "TASK_WAKEKILL"),
            (self.noload, "TASK_NOLOAD"),
            (self.new, "TASK_NEW"),
        )
        return "|".join(name for bits, name in named if state & bits)


LETTERS = ("RU", "IN", "UN", "ST", "ZO", "TR", "SW", "DE", "WA", "PA", "ID", "NE")


def states(session: Session) -> States:
    """The state bits of this kernel."""
    return session.memo("task states", lambda: _read_states(session))


def _read_states(session: Session) -> States:
    """From task_state_array (fs/proc/array.c), whose n-th text describes bit n-1.

    Linux commit ad86622b478e ("wait: swap EXIT_ZOMBIE and EXIT_DEAD to hide EXIT_TRACE from
    user-space") in v3.14; commit 8ef9925b02c2 ("sched/debug: Add explicit TASK_PARKED printing")
    in v4.14 gave TASK_PARKED the bit of TASK_DEAD and moved those above it up by one.
    """
    named: dict[str, int] = {}
    for place, text in enumerate(_state_array(session)):
        named.setdefault(text, 1 << place >> 1)  # "X (dead)" is EXIT_DEAD, "x (dead)" behind it TASK_DEAD
    dead, zombie = named.get("dead", 0x10), named.get("zombie", 0x20)
    if not named or named.get("parked") == 0x40:
        return States(dead, zombie, 0x80, 0x40, 0x100, 0x200)
    return States(dead, zombie, 0x40, 0x200, 0x80, 0x100)


def _state_array(session: Session) -> list[str]:
    symbol = session.symbols.symbol("task_state_array")
    if symbol is None or symbol.module:
        return []
    count = min(symbol.size // session.arch.word_bytes, 16)
    try:
        pointers = session.memory.words(symbol.address, count)
        texts = [session.memory.string(pointer, 32).decode("ascii", "replace") for pointer in pointers]
    except MemoryFault:
        return []
    return [text.partition("(")[2].rstrip(")") for text in texts]


def task_state(session: Session, task: Task) -> int:
    """The state word together with the exit state, as crash shows them."""
    return (task.state | task.exit_state) & 0xFFFFFFFF


def state_letters(session: Session, task: Task) -> str:
    """crash's two letters: RU, IN, UN, ID, ZO ..."""
    return states(session).letters(task_state(session, task))


# -- memory


class Memory(NamedTuple):
    """Pages: ``rss`` resident, ``total_vm`` of address space."""

    rss: int
    total_vm: int


class _MmReader:
    """Decodes what ``ps`` wants of an mm_struct: one read an mm."""

    def __init__(self, session: Session) -> None:
        types = session.types
        self.session = session
        total = types.first_member(MM_STRUCT, ("total_vm",))
        self.paths, self.per_cpu = _rss_members(session)
        counters = [path.replace(".count", ".counters") for path in self.paths] if self.per_cpu else []
        self.reader = types.reader(MM_STRUCT, *([total] if total else []), *self.paths, *counters)
        self.count = len(self.paths)
        self.skip = 1 if total else 0
        self.task_paths = _task_rss_members(session, self.count)
        self.offsets = self._cpu_offsets() if self.per_cpu else ()
        self.known: dict[int, Memory] = {}

    def _cpu_offsets(self) -> tuple[int, ...]:
        session = self.session
        return tuple(session.per_cpu_offset(cpu) for cpu in possible_cpus(session))

    def memory(self, mm: int) -> Memory:
        """The mm's own counts; per-task caches come on top. Raises MemoryFault."""
        found = self.known.get(mm)
        if found is None:
            reader = self.reader
            fields = reader(self.session.memory.read(mm + reader.start, reader.size))
            rest = fields[self.skip :]
            rss = sum(_signed(value) for value in rest[: self.count])
            rss += self._deltas(rest[self.count :])
            found = self.known[mm] = Memory(rss, fields[0] if self.skip else 0)
        return found

    def _deltas(self, counters: tuple[int, ...]) -> int:
        """What the CPUs still hold of percpu_counters (include/linux/percpu_counter.h): s32 each."""
        if not counters or not all(counters):
            return 0
        low = min(counters)
        span = max(counters) - low + 4
        if span > 256:
            return sum(self._one_by_one(counter) for counter in counters)
        places = [(counter - low) // 4 for counter in counters]
        unpack = _s32s(span // 4, self.session.memory.byte_order)
        total = 0
        for offset in self.offsets:
            data = self.session.memory.try_read((low + offset) & self.session.word_mask, span)
            if data is not None:
                values = unpack(data)
                total += sum(values[place] for place in places)
        return total

    def _one_by_one(self, counter: int) -> int:
        unpack, total = _s32s(1, self.session.memory.byte_order), 0
        for offset in self.offsets:
            data = self.session.memory.try_read((counter + offset) & self.session.word_mask, 4)
            total += unpack(data)[0] if data else 0
        return total


def _s32s(count: int, byte_order: str) -> Callable[[bytes], tuple[int, ...]]:
    return Struct(f"{'<' if byte_order == 'little' else '>'}{count}i").unpack


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _rss_members(session: Session) -> tuple[list[str], bool]:
    """Paths of the counters that make up RSS, and whether they are percpu_counters.

    Linux commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter") in v6.2. Shared
    memory is counted apart since commit eca56ff906bd ("mm, shmem: add internal shmem resident
    memory accounting") in v4.5: MM_FILEPAGES 0, MM_ANONPAGES 1, MM_SWAPENTS 2, MM_SHMEMPAGES 3.
    """
    types = session.types
    if types.has(MM_STRUCT, "rss_stat[0].count"):
        return [f"rss_stat[{i}].count" for i in _resident(session, "rss_stat")], True
    if types.has(MM_STRUCT, "rss_stat.count"):
        return [f"rss_stat.count[{i}].counter" for i in _resident(session, "rss_stat.count")], False
    old = [name for name in ("_file_rss", "_anon_rss") if types.has(MM_STRUCT, name)]
    return old, False


def _resident(session: Session, path: str) -> tuple[int, ...]:
    array = session.types.compound(MM_STRUCT).path(path).type.underlying
    length = array.count if isinstance(array, ArrayType) else 0
    return (0, 1, 3) if (length or 0) > 3 else (0, 1)


def _task_rss_members(session: Session, count: int) -> tuple[str, ...]:
    """Counts that a task had not yet added to its mm's (SPLIT_RSS_COUNTING).

    Linux commit 34e55232e59f ("mm: avoid false sharing of mm_counter") in v2.6.34, gone with f1a7941243c1.
    """
    if not session.types.has(TASK_STRUCT, "rss_stat.count"):
        return ()
    return tuple(f"rss_stat.count[{i}]" for i in (0, 1, 3)[:count])


def _mm_reader(session: Session) -> _MmReader:
    return session.memo("mm reader", lambda: _MmReader(session))


def task_memory(session: Session, task: Task) -> Memory:
    """Resident and virtual pages of a task's process; zeros for kernel threads and those that exit.

    Raises MemoryFault.
    """
    if not task.mm or task.exit_state or task.flags & PF_EXITING:
        return Memory(0, 0)
    reader = _mm_reader(session)
    own = reader.memory(task.mm)
    if not reader.task_paths:
        return Memory(max(own.rss, 0), own.total_vm)
    cached = session.reading(
        ("rss of threads", task.tgid), lambda: _thread_counts(session, task, reader.task_paths)
    )
    return Memory(max(own.rss + cached, 0), own.total_vm)


def _thread_counts(session: Session, task: Task, paths: tuple[str, ...]) -> int:
    """What the threads of a process have not yet added to its counts."""
    reader, total = session.types.reader(TASK_STRUCT, *paths), 0
    for thread in task_table(session).by_leader.get(task.leader, [task]):
        data = session.memory.try_read(thread.address + reader.start, reader.size)
        total += sum(reader(data)) if data else 0
    return total


# -- limits

RLIMITS = ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
           "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME")  # fmt: skip
"""Names by number (include/uapi/asm-generic/resource.h)."""


class Rlimit(NamedTuple):
    """A limit; None is unlimited."""

    name: str
    current: int | None
    maximum: int | None


def rlimits(session: Session, task: Task) -> list[Rlimit]:
    """The resource limits of a task's process (signal_struct.rlim). Raises MemoryFault."""
    types, infinity = session.types, session.word_mask
    array = types.compound("struct signal_struct").path("rlim")
    count = min(array.type.size // (2 * session.arch.word_bytes), 64)
    words = session.memory.words(task.signal + array.offset, 2 * count)
    names = [*RLIMITS, *(str(number) for number in range(len(RLIMITS), count))]
    limits = [None if word == infinity else word for word in words]
    return [Rlimit(names[i], limits[2 * i], limits[2 * i + 1]) for i in range(count)]


# -- times


class Times(NamedTuple):
    """``start``: nanoseconds since boot; ``raw_start``, ``utime``, ``stime``: as the kernel holds them."""

    start: int
    raw_start: int
    utime: int
    stime: int


def task_times(session: Session, task: Task) -> Times:
    """When a task started and how long it ran. Raises MemoryFault.

    start_time became nanoseconds in Linux v3.17; utime and stime with commit 5613fda9a503 ("sched/cputime:
    Convert task/group cputime to nsecs") in v4.11, before that they count ticks.
    """
    types = session.types
    if types.has(TASK_STRUCT, "start_time.tv_sec"):
        reader = types.reader(TASK_STRUCT, "start_time.tv_sec", "start_time.tv_nsec", "utime", "stime")
        sec, nsec, utime, stime = reader(session.memory.read(task.address + reader.start, reader.size))
        return Times(sec * 10**9 + nsec, sec, utime, stime)
    reader = types.reader(TASK_STRUCT, "start_time", "utime", "stime")
    start, utime, stime = reader(session.memory.read(task.address + reader.start, reader.size))
    return Times(start, start, utime, stime)


def last_run(session: Session, task: Task) -> int:
    """When a task was last put on a CPU: nanoseconds of that CPU's scheduler clock. Raises MemoryFault."""
    path = session.types.first_member(TASK_STRUCT, ("sched_info.last_arrival", "se.exec_start", "timestamp"))
    if path is None:
        return 0
    value: int = session.memory.u64(task.address + session.types.offset(TASK_STRUCT, path))
    return value


def runqueue_clock(session: Session, cpu: int) -> int:
    """The scheduler clock of a CPU when it was last updated: nanoseconds. Raises KcrashError."""
    path = session.types.first_member("struct rq", ("clock", "most_recent_timestamp", "timestamp_last_tick"))
    address = session.per_cpu_address("runqueues", cpu)
    if path is None or address is None:
        return 0
    return session.memory.u64(address + session.types.offset("struct rq", path))


# -- scheduling

POLICIES = ("NORMAL", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE", "EXT")
"""Names by number (include/uapi/linux/sched.h); SCHED_EXT is in the kernel since v6.12."""


class Scheduling(NamedTuple):
    """Scheduling policy by number, and the dynamic priority (``prio``: 0 to 139, less is more urgent)."""

    policy: int
    prio: int


def scheduling(session: Session, task: Task) -> Scheduling:
    """Policy and priority of a task. Raises MemoryFault."""
    reader = session.types.reader(TASK_STRUCT, "policy", "prio")
    return Scheduling(*reader(session.memory.read(task.address + reader.start, reader.size)))


def policy_name(policy: int) -> str:
    """``NORMAL``, ``FIFO`` ..., or the number."""
    return POLICIES[policy] if 0 <= policy < len(POLICIES) else str(policy)


# -- arguments and environment


def user_space(session: Session, task: Task) -> PagedSpace:
    """The user address space of a task. Raises KcrashError."""
    return session.reading(("user space", task.mm), lambda: _user_space(session, task))


def _user_space(session: Session, task: Task) -> PagedSpace:
    return space_of_mm(session, read_mm(session, task.mm), f"user of PID {task.pid}")


MAX_ARGUMENTS = 1 << 22  # a fourth of the stack limit is the kernel's own bound; hostile dumps get this one


def arguments(session: Session, task: Task) -> list[bytes]:
    """The argument vector as it stands in the process's memory. Raises MemoryFault."""
    return _strings(session, task, "arg_start", "arg_end")


def environment(session: Session, task: Task) -> list[bytes]:
    """The environment as the process was started with. Raises MemoryFault."""
    return _strings(session, task, "env_start", "env_end")


def _strings(session: Session, task: Task, first: str, last: str) -> list[bytes]:
    if not task.mm:
        return []
    reader = session.types.reader(MM_STRUCT, first, last)
    start, end = reader(session.memory.read(task.mm + reader.start, reader.size))
    if not start < end <= start + MAX_ARGUMENTS:
        return []
    data = user_space(session, task).read(start, end - start)
    parts = data.split(b"\0")
    return parts[:-1] if parts and not parts[-1] else parts
