"""Dumps whose structures lie: maple trees that loop, overlapping VMAs, page tables that lead back.

A real process's own structures are changed word by word, to what they could point to or claim.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kcrash
from kcrash.errors import KcrashError
from kcrash.extensions.gcore.core import Core, make_core
from kcrash.extensions.gcore.process import open_process
from kcrash.extensions.gcore.sink import open_sink
from kcrash.linux.mm import MM, VMA, Vma, for_each_vma, read_mm
from kcrash.linux.tasks import Task, task_table
from kcrash.session import Session
from tests.extensions.gcore.conftest import Case
from tests.extensions.gcore.corefile import CoreFile

LARGEST = 1 << 30  # of cores that are written to be read again
SECONDS = 60
MEMORY = 256 << 10  # KiB that all of the lies together may cost
NODE = 256  # bytes of a maple node
ENTRIES = 512  # of a page table


@dataclass
class Victim:
    """A process, where its structures lie (physical addresses of words), and what may be put there."""

    session: Session
    task: Task
    lies: dict[int, bytes] = field(default_factory=dict)
    nodes: list[int] = field(default_factory=list)  # as a parent has them: address and type
    vmas: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        real = self.session.dump.read
        self.session.physical.read = lambda address, size: self._lied(  # type: ignore[method-assign]
            address, real(address, size)
        )
        self.root = self.task.mm + self.session.types.offset(MM, "mm_mt.ma_root")
        self._collect(self.session.memory.word(self.root))
        self.vmas = [v.address for v in for_each_vma(self.session, self.task.mm) if isinstance(v, Vma)]
        top = self.session.memory.translate(read_mm(self.session, self.task.mm).pgd)
        self._collect_tables(top, 0)

    def _collect(self, encoded: int) -> None:
        self.nodes.append(encoded)
        for word in self.session.memory.words(encoded & -NODE, NODE // 8):
            if word & 7 == 4 and word >> 60 == 15 and len(self.nodes) < 64:  # MAPLE_ENODE_NULL
                self._collect(word)

    def _collect_tables(self, address: int, level: int) -> None:
        self.tables.append(address)
        levels = len(self.session.layout.paging.levels)
        for word in self.session.physical.words(address, ENTRIES // 2):  # the half that is the user's
            if level < levels - 1 and word & 0x81 == 1 and len(self.tables) < 200:
                self._collect_tables(word & 0xFFFFFFFFFF000, level + 1)

    def _lied(self, address: int, data: bytes) -> bytes:
        changed = bytearray(data)
        for place, lie in self.lies.items():
            if address <= place and place + 8 <= address + len(data):
                changed[place - address : place - address + 8] = lie
        return bytes(changed)

    def forget(self) -> None:
        """What was read before."""
        self.session._readings.clear()
        self.session.memory.forget()
        self.session.memory._tables.clear()

    def physical(self, address: int) -> int:
        return self.session.memory.translate(address)

    # -- lies

    def tree_lies(self) -> st.SearchStrategy[tuple[int, int]]:
        """A word of a maple node, or the root: another node, a VMA, an index out of order."""
        words = [node & -NODE | 8 * n for node in self.nodes for n in range(NODE // 8)]
        values = st.sampled_from([*self.nodes, *self.vmas]) | _numbers()
        return st.tuples(st.sampled_from([self.root, *words]).map(self.physical), values)

    def vma_lies(self) -> st.SearchStrategy[tuple[int, int]]:
        """A member of a VMA: what another one claims, no end, flags of every kind, pointers to anywhere."""
        names = ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "vm_file", "vm_ops", "anon_vma")
        places = [vma + self.session.types.offset(VMA, name) for vma in self.vmas for name in names]
        real = [self.session.memory.word(place) for place in places]
        values = st.sampled_from([*real, *self.vmas]) | _numbers()
        return st.tuples(st.sampled_from(places).map(self.physical), values)

    def table_lies(self) -> st.SearchStrategy[tuple[int, int]]:
        """An entry of a page table: a table (of any level), a large page, a frame that is not there, swap."""
        entry = st.tuples(st.sampled_from(self.tables), st.integers(0, ENTRIES // 2 - 1))
        flags = st.sampled_from([0x67, 0xE7, 0x25, 0x100, 0x8000000000000067])
        values = st.tuples(st.sampled_from(self.tables), flags).map(lambda pair: pair[0] | pair[1])
        return st.tuples(entry.map(lambda pair: pair[0] + 8 * pair[1]), values | _numbers())


def _numbers() -> st.SearchStrategy[int]:
    edges = [0, 1, 0xFFF, 1 << 46, 1 << 47, 1 << 55, (1 << 64) - 1, (1 << 64) - 4096, 0xFFFF888000000000]
    pages = st.integers(0, 1 << 47).map(lambda address: address & -4096)
    return st.sampled_from(edges) | pages | st.integers(0, (1 << 64) - 1)


@pytest.fixture(scope="module")
def victim(one: Case) -> Iterator[Victim]:
    session = kcrash.open(str(one.dumps.vmlinux), str(one.dumps.forms[one.form]))
    found = Victim(session, task_table(session).by_pid[one.dumps.truth.worker][0])
    assert min(len(found.nodes), len(found.tables)) > 5
    assert len(found.vmas) > 50
    yield found
    session.close()


@pytest.mark.parametrize("kind", ["tree", "vma", "table", "all"])
def test_a_valid_core_or_a_refusal(
    victim: Victim, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    known = {"tree": victim.tree_lies(), "vma": victim.vma_lies(), "table": victim.table_lies()}
    lies = st.lists(st.one_of(*known.values()) if kind == "all" else known[kind], min_size=1, max_size=8)
    path = tmp_path_factory.mktemp("hostile") / "core"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(lies)
    def check(told: list[tuple[int, int]]) -> None:
        victim.lies = {place: value.to_bytes(8, "little") for place, value in told}
        victim.forget()
        started = time.monotonic()
        try:
            _check(victim, path)
        finally:
            victim.lies = {}
            path.unlink(missing_ok=True)
        assert time.monotonic() - started < SECONDS

    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def test_a_table_that_leads_back_to_itself(victim: Victim, tmp_path: Path) -> None:
    """With a mapping up to the end of user space over it: as deep as the machine goes, everywhere."""
    top, vma, end = victim.tables[0], victim.vmas[-1], victim.session.layout.paging.user_end
    victim.lies = {top + 8 * n: (top | 0x67).to_bytes(8, "little") for n in range(ENTRIES // 2)}
    place = victim.physical(vma + victim.session.types.offset(VMA, "vm_end"))
    victim.lies[place] = end.to_bytes(8, "little")
    victim.forget()
    started = time.monotonic()
    try:
        core = make_core(open_process(victim.session, victim.task), 255)
    finally:
        victim.lies = {}
    assert any(segment.vma.end == end for segment in core.segments)
    assert core.report.missing["page table not in dump"] > 1 << 30
    assert time.monotonic() - started < SECONDS


def _check(victim: Victim, path: Path) -> None:
    try:
        core = make_core(open_process(victim.session, victim.task), 255)
    except KcrashError as error:
        assert "\n" not in str(error)
        return
    _check_order([(vma.start, vma.end) for vma in (segment.vma for segment in core.segments)])
    if core.layout.total < LARGEST:
        _check_file(core, path)


def _check_file(core: Core, path: Path) -> None:
    try:
        with open_sink(path) as sink:
            core.write(sink, lambda pages: None)
    except KcrashError as error:
        assert "\n" not in str(error)
        assert not path.exists()
        return
    found = CoreFile(path)
    _check_order([(load.address, load.address + load.memory_size) for load in found.loads])
    assert all(load.offset + load.file_size <= path.stat().st_size for load in found.loads)
    done = subprocess.run(
        ["readelf", "-lW", str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("  LOAD ") == len(core.segments)
    assert not done.stderr


def _check_order(ranges: list[tuple[int, int]]) -> None:
    assert all(start < end for start, end in ranges)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
