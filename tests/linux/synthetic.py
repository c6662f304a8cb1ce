"""A kernel made by hand: struct types, memory and symbols, behind what helpers ask of a Session.

::

    kernel = Kernel()
    kernel.struct("mm_struct", total_vm="unsigned long", pgd="void *")
    mm = kernel.new("struct mm_struct", total_vm=100)     # address
    kernel.symbol("init_mm", mm)

Members are declared as ``name="type"`` with types that C knows, structs declared before, and arrays
(``"char [16]"``); they are laid out without padding. Reading where nothing was made faults.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

from kcrash.dump.base import DumpInfo
from kcrash.errors import FaultReason, MemoryFault, MissingSymbol
from kcrash.memory.space import AddressSpace
from kcrash.session import Session, SourceLine
from kcrash.symbols.table import Symbol
from kcrash.types.layout import member_format
from kcrash.types.model import CompoundType, EnumType, IntType, Member, Type
from kcrash.types.namespace import Types
from kcrash.values import Value

BASE = 0xFFFF888000000000
INTEGERS = {
    "char": (1, True), "unsigned char": (1, False), "short": (2, True), "unsigned short": (2, False),
    "int": (4, True), "unsigned int": (4, False), "long": (8, True), "unsigned long": (8, False),
    "long long": (8, True), "unsigned long long": (8, False),
}  # fmt: skip


class Source:
    """The declared types."""

    def __init__(self) -> None:
        self.types: dict[tuple[str, str], Type] = {}
        for name, (size, signed) in INTEGERS.items():
            self.types["base", name] = IntType(name, size, signed, is_char=size == 1)

    def find(self, kind: str, name: str) -> Type | None:
        return self.types.get((kind, name))

    def variable(self, name: str) -> Type | None:
        return None

    def function(self, name: str) -> Type | None:
        return None

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        return None

    def names(self, kind: str) -> Iterator[str]:
        return (name for found, name in self.types if found == kind)


class Memory(AddressSpace):
    """Bytes at addresses from BASE on; ``holes``: addresses that fault."""

    def __init__(self) -> None:
        super().__init__("kernel", "little", 8)
        self.data = bytearray(64)
        self.holes: set[int] = set()

    def read(self, address: int, size: int) -> bytes:
        at = address - BASE
        hole = next((hole for hole in self.holes if address <= hole < address + size), None)
        if hole is not None or at < 0 or at + size > len(self.data):
            raise MemoryFault("kernel", hole or address, FaultReason.NOT_IN_DUMP)
        return bytes(self.data[at : at + size])

    def translate(self, address: int) -> int:
        return address - BASE

    def add(self, data: bytes) -> int:
        """Put bytes into memory; their address."""
        self.data += bytes(-len(self.data) % 16)
        address = BASE + len(self.data)
        self.data += data
        return address

    def write(self, address: int, data: bytes) -> None:
        self.data[address - BASE : address - BASE + len(data)] = data


class SymbolNames:
    """Symbols by name."""

    def __init__(self) -> None:
        self.known: dict[str, Symbol] = {}

    def symbol(self, name: str) -> Symbol | None:
        return self.known.get(name)

    def find_kernel(self, name: str) -> int | None:
        found = self.known.get(name)
        return found.address if found else None

    find = find_kernel

    def address(self, name: str) -> int:
        found = self.find_kernel(name)
        if found is None:
            raise MissingSymbol(name)
        return found

    def at(self, address: int) -> tuple[Symbol, int] | None:
        found = next((symbol for symbol in self.known.values() if symbol.address == address), None)
        return (found, 0) if found else None

    def table_at(self, address: int) -> None:
        return None


class _Arch:
    word_bytes = 8
    word_bits = 64
    page_size = 4096
    byte_order = "little"


class _File:
    cut = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.info = DumpInfo("synthetic", "little", 64)


class Kernel:
    """Stands for a Session."""

    def __init__(self) -> None:
        self.source = Source()
        self.types = Types("little", 8)
        self.types.add(self.source)
        self.memory = Memory()
        self.symbols = SymbolNames()
        self.arch = _Arch()
        self.vmlinux = _File("vmlinux")
        self.dump = _File("vmcore")
        self.context: Any = None
        self.module_debug: dict[str, Any] = {}
        self.release_hint = "6.1"
        self.word_mask = (1 << 64) - 1
        self._cache: dict[Any, Any] = {}

    @property
    def session(self) -> Session:
        """Itself, to the type checker."""
        return cast(Session, self)

    # -- making

    def struct(self, name: str, /, **members: str) -> CompoundType:
        """Declare a struct."""
        laid: list[Member] = []
        made, at = CompoundType("struct", name, 0, laid), 0
        self.source.types["struct", name] = made  # its members may point to it
        self.types._found.clear()
        for member, text in members.items():
            type_ = self.types.type(text)
            laid.append(Member(member, type_, at * 8))
            at += type_.size
        made.size = at
        return made

    def enum(self, name: str, *constants: str) -> None:
        """Declare an enum that counts from 0."""
        made = EnumType(name, 4, {constant: number for number, constant in enumerate(constants)})
        self.source.types["enum", name] = made

    def new(self, type_: str, /, **values: Any) -> int:
        """A struct in memory, members by name (``se__load`` is ``se.load``); its address."""
        address = self.memory.add(bytes(self.types.size(type_)))
        self.set(type_, address, **values)
        return address

    def set(self, type_: str, address: int, /, **values: Any) -> None:
        """Change members of a struct in memory."""
        for name, value in values.items():
            member = self.types.compound(type_).path(name.replace("__", "."))
            if isinstance(value, bytes):
                data = value.ljust(member.type.size, b"\0")[: member.type.size]
            else:
                data = struct.pack("<" + str(member_format(member.type)), value)
            self.memory.write(address + member.offset, data)

    def words(self, *values: int) -> int:
        """Words in memory; their address."""
        return self.memory.add(struct.pack(f"<{len(values)}Q", *(value & self.word_mask for value in values)))

    def symbol(self, name: str, address: int, size: int = 0, type_: str = "D") -> int:
        """Name an address."""
        self.symbols.known[name] = Symbol(name, address, type_, size)
        return address

    # -- what a Session answers

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    reading = memo
    live = False

    def per_cpu_offset(self, cpu: int) -> int:
        return 0x10000 * cpu

    def per_cpu_address(self, name: str, cpu: int) -> int | None:
        return self.symbols.find_kernel(f"{name}:{cpu}")

    def value(self, type_: str | Type, address: int) -> Value:
        found = self.types.type(type_) if isinstance(type_, str) else type_
        return Value(cast(Any, self), found, address)

    def line_of(self, address: int) -> SourceLine | None:
        found = self.symbols.at(address)
        return SourceLine("../fs/read_write.c", 621) if found and "read" in found[0].name else None


TASK = {
    "thread_info": "struct thread_info", "__state": "unsigned int", "stack": "void *",
    "flags": "unsigned int", "prio": "int", "policy": "unsigned int", "sched_info": "struct sched_info",
    "mm": "struct mm_struct *",
    "active_mm": "struct mm_struct *", "exit_state": "int", "pid": "int", "tgid": "int",
    "real_parent": "struct task_struct *", "parent": "struct task_struct *",
    "group_leader": "struct task_struct *", "tasks": "struct list_head", "thread_node": "struct list_head",
    "utime": "unsigned long", "stime": "unsigned long", "start_time": "unsigned long", "comm": "char [16]",
    "signal": "struct signal_struct *", "rss_stat": "struct task_rss_stat", "thread": "struct thread_struct",
}  # fmt: skip


class TaskKernel(Kernel):
    """A kernel of two CPUs with idle tasks, init, a kernel thread and a process of three threads.

    ``tasks``: name -> address. CPU 0 runs "worker", CPU 1 its idle task.
    """

    def __init__(self) -> None:
        super().__init__()
        self._declare()
        self.tasks: dict[str, int] = {}
        self._cpu_masks(3)
        self.init_task = self.task("swapper/0", 0, flags=0x200000)
        self.symbol("init_task", self.init_task)
        self._head(self.init_task, "tasks")
        self.task("swapper/1", 0, flags=0x200000, parent=self.init_task, cpu=1)
        self.mm = self.process_memory()
        self.leader("init", 1, mm=self.mm, state=1)
        self.leader("kthreadd", 2, flags=0x200000, state=0x402)
        self.leader("worker", 100, mm=self.process_memory(), parent=self.tasks["init"])
        self.thread("worker-1", 101, "worker", state=1, cpu=1)
        self.thread("worker-2", 102, "worker", state=2)
        for cpu, current in ((0, "worker"), (1, "swapper/1")):
            idle = self.tasks[f"swapper/{cpu}"]
            self.symbol(
                f"runqueues:{cpu}", self.new("struct rq", curr=self.tasks[current], idle=idle, clock=10**10)
            )
        self.symbol("runqueues", BASE)
        self._globals()

    def _declare(self) -> None:
        self.struct("list_head", next="void *", prev="void *")
        self.struct("thread_info", flags="unsigned long", cpu="unsigned int")
        self.struct("sched_info", last_arrival="unsigned long long")
        self.struct("atomic64", counter="long")
        self.struct("mm_rss_stat", count="struct atomic64 [4]")
        self.struct("task_rss_stat", events="int", count="int [4]")
        self.struct("thread_struct", sp="unsigned long")
        self.struct("rlimit", rlim_cur="unsigned long", rlim_max="unsigned long")
        self.struct("signal_struct", thread_head="struct list_head", rlim="struct rlimit [16]")
        self.struct(
            "mm_struct", pgd="void *", total_vm="unsigned long", rss_stat="struct mm_rss_stat",
            arg_start="unsigned long", arg_end="unsigned long",
            env_start="unsigned long", env_end="unsigned long",
        )  # fmt: skip
        self.struct("task_struct", **TASK)
        self.struct("cpumask", bits="unsigned long [1]")
        self.struct("rq", clock="unsigned long long", curr="void *", idle="void *")
        self.struct("pglist_data", node_present_pages="unsigned long")

    def _cpu_masks(self, bits: int) -> None:
        for name in ("possible", "present", "online"):
            self.symbol(f"__cpu_{name}_mask", self.words(bits))

    def _globals(self) -> None:
        node = self.new("struct pglist_data", node_present_pages=1000)
        self.symbol("node_data", self.words(node, 0), 16)

    def process_memory(self, **values: Any) -> int:
        """An mm_struct."""
        mm = self.new("struct mm_struct", total_vm=500, **values)
        counts = struct.pack("<4q", 10, 20, 7, 3)  # file, anonymous, swap entries, shared
        self.memory.write(mm + self.types.offset("struct mm_struct", "rss_stat"), counts)
        return mm

    # -- tasks

    def task(self, name: str, pid: int, parent: int = 0, cpu: int = 0, state: int = 0, **values: Any) -> int:
        """A task_struct that is in no list."""
        address = self.new(
            "struct task_struct", comm=name.encode(), pid=pid, tgid=pid, real_parent=parent, parent=parent,
            __state=state, thread_info__cpu=cpu, **values,
        )  # fmt: skip
        parent = parent or getattr(self, "init_task", address)
        self.set("struct task_struct", address, group_leader=address, parent=parent, real_parent=parent)
        self.tasks[name] = address
        return address

    def set(self, type_: str, address: int, /, **values: Any) -> None:
        state = values.pop("__state", None)
        super().set(type_, address, **values)
        if state is not None:
            offset = self.types.offset(type_, "__state")
            self.memory.write(address + offset, struct.pack("<I", state))

    def leader(self, name: str, pid: int, **values: Any) -> int:
        """A process: a task in the list of tasks, with a signal_struct."""
        signal = self.new("struct signal_struct")
        self.memory.write(signal + self.types.offset("struct signal_struct", "rlim"), b"\xff" * 256)
        address = self.task(name, pid, signal=signal, **values)
        self._link(self.init_task + self._offset("tasks"), address + self._offset("tasks"))
        self._empty(signal)
        self._link(signal, address + self._offset("thread_node"))
        return address

    def thread(self, name: str, pid: int, leader: str, **values: Any) -> int:
        """One more thread of a process."""
        first = self.tasks[leader]
        mm, signal = (self._word(first, member) for member in ("mm", "signal"))
        parent = self._word(first, "parent")
        address = self.task(name, pid, parent, mm=mm, signal=signal, **values)
        self.set("struct task_struct", address, group_leader=first, tgid=self._pid(first))
        self._link(signal, address + self._offset("thread_node"))
        return address

    def _offset(self, member: str) -> int:
        return self.types.offset("struct task_struct", member)

    def _word(self, task: int, member: str) -> int:
        return self.memory.word(task + self._offset(member))

    def _pid(self, task: int) -> int:
        return self.memory.u32(task + self._offset("pid"))

    def _head(self, task: int, member: str) -> None:
        self._empty(task + self._offset(member))

    def _empty(self, head: int) -> None:
        self.memory.write(head, struct.pack("<QQ", head, head))

    def _link(self, head: int, node: int) -> None:
        """Put ``node`` at the end of the list."""
        last = self.memory.word(head + 8)
        self.memory.write(node, struct.pack("<QQ", head, last))
        self.memory.write(last, struct.pack("<Q", node))
        self.memory.write(head + 8, struct.pack("<Q", node))
