"""What the guest said of itself on the console: TRUTH lines and the facts between BEGIN and END."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal, TypeVar

PAGE = 4096
TLS_REGISTERS = ("fs_base", "tpidr", "acr01", "tp")
T = TypeVar("T")
_MASK = (1 << 64) - 1


class Entry(IntEnum):
    """How a thread came into the kernel."""

    SYSCALL = 0
    SYSCALL_DONE = 1
    EXCEPTION = 2
    LIBC = 3
    COMPAT = 4


def mix64(x: int) -> int:
    """splitmix64's step, as guest/memory.c has it."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


FORMULAS: dict[str, Callable[[int, int], int]] = {
    "mix64": lambda seed, i: mix64((seed + i) & _MASK),
    "ramp64": lambda seed, i: (seed + i) & _MASK,
    "same64": lambda seed, i: seed,
    "zero": lambda seed, i: 0,
}


def words(formula: str, seed: int, first: int, count: int, order: str = "<") -> bytes:
    """The bytes of words first to first + count - 1 of a formula, in struct's byte order."""
    word = FORMULAS[formula]
    return struct.pack(f"{order}{count}Q", *(word(seed, i) for i in range(first, first + count)))


@dataclass(frozen=True)
class Run:
    """A part of an area: word i of the area (not of the run) is formula(seed, i)."""

    offset: int
    size: int
    formula: str
    seed: int


@dataclass(frozen=True)
class Area:
    """A piece of a process's memory. Later runs win over earlier ones."""

    kind: str
    pid: int
    start: int
    size: int
    file: str
    attr: str
    runs: tuple[Run, ...]
    page_step: int
    pages: tuple[int, ...]  # of every page_step-th page: frame number, -1 swapped out, 0 not there
    order: str = "<"

    @property
    def end(self) -> int:
        return self.start + self.size

    @cached_property
    def content(self) -> bytes:
        """What the area holds, all of it."""
        data = bytearray(self.size)
        for run in self.runs:
            piece = words(run.formula, run.seed, run.offset // 8, run.size // 8, self.order)
            data[run.offset : run.offset + run.size] = piece
        return bytes(data)

    def page_of(self, index: int) -> int:
        """Frame number of page index, -1 swapped out, 0 not there; KeyError when the guest did not say."""
        if index % self.page_step:
            raise KeyError(index)
        return self.pages[index // self.page_step]


Registers = Mapping[str, int]


@dataclass(frozen=True)
class Vector:
    """Floating-point and vector registers; those of a thread that runs are in its CPU, not in the dump.

    ``control``: st0, mxcsr and fcw of x86-64, fpsr and fpcr of arm64.
    """

    seed: int
    width: Literal[16, 32]
    control: Registers

    def ymm(self, number: int) -> bytes:
        """32 bytes of ymm0 to ymm15; only the first `width` of them were loaded."""
        return words("mix64", self.seed, 4 * number, 4)

    def xmm(self, number: int) -> bytes:
        """16 bytes of xmm0 to xmm15."""
        return self.ymm(number)[:16]

    def v(self, number: int) -> bytes:
        """16 bytes of arm64's v0 to v31."""
        return words("mix64", self.seed, 2 * number, 2)


@dataclass(frozen=True)
class Thread:
    """A parked thread. Frames are innermost first; '<signal>' stands for the signal frame."""

    state: str
    pid: int
    tid: int
    name: str
    seen: str
    expect: str
    entry: Entry
    cpu: int | None
    tls_base: int  # see TLS_REGISTERS
    gs_base: int
    tls_address: int
    tls_value: int
    frames: tuple[str, ...]
    registers: Registers
    vector: Vector | None
    altstack: range | None
    interrupted: Registers
    interrupted_vector: Vector | None


@dataclass(frozen=True)
class Process:
    """A process of the workload."""

    role: str
    pid: int
    seen: str
    coredump_filter: int | None


@dataclass(frozen=True)
class Task:
    """A line of the guest's own list of all threads."""

    tid: int
    tgid: int
    ppid: int
    state: str
    comm: str


@dataclass(frozen=True)
class Truth:
    """All the guest said."""

    head: Mapping[str, Any]
    threads: tuple[Thread, ...]
    areas: tuple[Area, ...]
    processes: tuple[Process, ...]
    failures: tuple[str, ...]
    complete: bool
    panic_pid: int
    facts: Mapping[str, str] = field(repr=False)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return int(self.head.get("page_size", PAGE))

    @property
    def launcher(self) -> int:
        """Pid of the process that printed it all."""
        return int(self.head["launcher"])

    @property
    def worker(self) -> int:
        """Pid of the process with the many threads and the memory."""
        return self.process("lab-worker").pid

    def process(self, role: str) -> Process:
        """The process of a role."""
        return _only((p for p in self.processes if p.role == role), role)

    def threads_in(self, state: str) -> list[Thread]:
        """Threads parked in a state."""
        return [thread for thread in self.threads if thread.state == state]

    def thread(self, state: str) -> Thread:
        """The first thread parked in a state."""
        return _only(self.threads_in(state), state)

    def area(self, kind: str, pid: int | None = None) -> Area:
        """The memory of a kind, of the worker unless told."""
        pid = self.worker if pid is None else pid
        return _only((a for a in self.areas if a.kind == kind and a.pid == pid), kind)

    def fact(self, path: str) -> str:
        """A file of the guest's /proc as text; '' when it could not be read."""
        return self.facts[path]

    def fact_bytes(self, path: str) -> bytes:
        """The files that are bytes: auxv, environ, cmdline."""
        return bytes.fromhex(self.facts[path])

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """All threads of the guest as its /proc listed them just before READY."""
        return tuple(_task(line) for line in self.facts["tasks"].splitlines())


def _only(found: Iterable[T], what: str) -> T:
    for item in found:
        return item
    raise KeyError(what)


def _task(line: str) -> Task:
    tid, tgid, ppid, state, comm = line.split(" ", 4)
    return Task(int(tid), int(tgid), int(ppid), state, comm)


def parse(console: str, order: str = "<") -> Truth:
    """The truth of a console's text; lines of the kernel in between do no harm.

    ``order``: of the machine's bytes, as struct spells it.
    """
    said = [json.loads(line) for line in re.findall(r"^TRUTH (\{.*\})$", console, re.MULTILINE)]
    panic = re.search(r"^PANIC-BY (\d+)$", console, re.MULTILINE)
    return Truth(
        head=next((item for item in said if "version" in item), {}),
        threads=tuple(_thread(item) for item in said if "thread" in item),
        areas=tuple(_area(item, order) for item in said if "area" in item),
        processes=tuple(_process(item) for item in said if "process" in item),
        failures=tuple(str(item["failed"]) for item in said if "failed" in item),
        complete=any("complete" in item for item in said),
        panic_pid=int(panic[1]) if panic else 0,
        facts=_facts(console),
    )


def _facts(console: str) -> dict[str, str]:
    found = re.finditer(r"^BEGIN (\S+)\n(.*?)^END \1$", console, re.MULTILINE | re.DOTALL)
    return {match[1]: match[2].removesuffix("\n") for match in found}


def _number(item: Mapping[str, Any], key: str) -> int:
    return int(item[key], 0)


def _registers(item: Mapping[str, str] | None) -> Registers:
    return {name: int(value, 0) for name, value in (item or {}).items()}


def _vector(item: Mapping[str, Any] | None) -> Vector | None:
    if item is None:
        return None
    width: Literal[16, 32] = 32 if item["bytes"] == 32 else 16
    control = {name: int(str(item[name]), 0) for name in item if name not in ("seed", "bytes")}
    return Vector(_number(item, "seed"), width, control)


def _altstack(item: Mapping[str, Any] | None) -> range | None:
    if item is None:
        return None
    start = _number(item, "start")
    return range(start, start + item["size"])


def _thread(item: Mapping[str, Any]) -> Thread:
    tls = item["tls_marker"]
    return Thread(
        state=item["thread"],
        pid=item["pid"],
        tid=item["tid"],
        name=item["name"],
        seen=item["seen"],
        expect=item["expect"],
        entry=Entry(item["entry"]),
        cpu=item["cpu"] if item["cpu"] >= 0 else None,
        tls_base=next(_number(item, name) for name in TLS_REGISTERS if name in item),
        gs_base=_number(item, "gs_base") if "gs_base" in item else 0,
        tls_address=_number(tls, "address"),
        tls_value=_number(tls, "value"),
        frames=tuple(item["frames"]),
        registers=_registers(item.get("registers")),
        vector=_vector(item.get("vector")),
        altstack=_altstack(item.get("altstack")),
        interrupted=_registers(item.get("interrupted")),
        interrupted_vector=_vector(item.get("interrupted_vector")),
    )


def _area(item: Mapping[str, Any], order: str) -> Area:
    runs = tuple(Run(r["offset"], r["size"], r["formula"], _number(r, "seed")) for r in item["runs"])
    return Area(
        kind=item["area"],
        pid=item["pid"],
        start=_number(item, "start"),
        size=item["size"],
        file=item["file"],
        attr=item["attr"],
        runs=runs,
        page_step=item["page_step"],
        pages=tuple(item["pages"]),
        order=order,
    )


def _process(item: Mapping[str, Any]) -> Process:
    said = item["coredump_filter"]
    return Process(item["process"], item["pid"], item["seen"], int(said, 0) if said else None)
