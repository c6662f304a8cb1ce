"""Address spaces on the lab's dumps, against the guest's own /proc; and hostile ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import kcrash
from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.linux.mm import VM_SHARED, Vma, auxiliary_vector, for_each_vma, read_mm, vma_path
from kcrash.linux.paths import task_root
from kcrash.linux.swap import swap
from kcrash.linux.tasks import Task, task_table
from kcrash.linux.userpages import State, UserMemory
from kcrash.memory.spans import SpanKind, spans
from kcrash.session import Session
from tests.lab import lab
from tests.lab.truth import Truth
from tests.linux.fakes import POINTER, ULONG, FakeMemory, session, struct_type

KERNELS = tuple(os.environ.get("KCRASH_LAB_KERNELS", "6.1,6.12").split(","))


class Opened:
    """A dump, and its truth."""

    def __init__(self, version: str) -> None:
        dumps = lab.dumps(version)
        self.truth: Truth = dumps.truth
        self.session: Session = kcrash.open(str(dumps.vmlinux), str(dumps.forms["elf"]))

    def task(self, pid: int) -> Task:
        return task_table(self.session).by_pid[pid][0]

    def memory(self, pid: int) -> UserMemory:
        return UserMemory(self.session, self.task(pid).mm, f"user of PID {pid}")


@pytest.fixture(scope="module", params=KERNELS)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    lab.require(request.param)
    made = Opened(request.param)
    yield made
    made.session.close()


def test_vmas_are_those_of_proc_maps(opened: Opened) -> None:
    checked = 0
    for process in opened.truth.processes:
        maps = opened.truth.facts.get(f"/proc/{process.pid}/maps", "").splitlines()
        task = opened.task(process.pid)
        if not maps or not task.mm:
            continue
        root = task_root(opened.session, task.address)
        found = list(for_each_vma(opened.session, task.mm))
        assert [_line(opened.session, vma, root) for vma in found] == [_told(line) for line in maps]
        checked += 1
    assert checked >= 5


def _line(session: Session, vma: object, root: object) -> tuple[object, ...]:
    assert isinstance(vma, Vma), vma
    path = vma_path(session, vma, root)  # type: ignore[arg-type]
    offset = vma.pgoff * 4096 if vma.file else 0
    return vma.start, vma.end, vma.permissions, offset, path.decode() if path else ""


def _told(line: str) -> tuple[object, ...]:
    where, permissions, offset, _device, _inode, *name = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in where.split("-"))
    path = name[0] if name and name[0].startswith("/") else ""
    return start, end, permissions, int(offset, 16) if path else 0, path


def test_auxiliary_vector(opened: Opened) -> None:
    pid = opened.truth.worker
    told = opened.truth.fact_bytes(f"/proc/{pid}/auxv")
    pairs = auxiliary_vector(opened.session, read_mm(opened.session, opened.task(pid).mm))
    assert b"".join(n.to_bytes(8, "little") for pair in pairs for n in pair) == told


def test_reading_memory_of_every_kind(opened: Opened) -> None:
    for area in opened.truth.areas:
        memory = opened.memory(area.pid)
        assert memory.read(area.start + 4000, 200) == area.content[4000:4200], area.kind


def test_frames_are_those_of_pagemap(opened: Opened) -> None:
    for area in opened.truth.areas:
        memory = opened.memory(area.pid)
        vma = memory.find_vma(area.start)
        assert vma is not None
        if vma.flags & VM_SHARED or area.file:
            continue  # pagemap shows only what page tables map
        chunks = list(memory.pages(vma, area.start, area.end))
        pfns = [pfn for c in chunks for pfn in (c.pfns.tolist() if c.pfns is not None else [-1] * c.pages)]
        for index in range(0, len(pfns), area.page_step):
            assert max(pfns[index], 0) == max(area.page_of(index), 0), (area.kind, index)


def test_arguments_through_the_string_reader(opened: Opened) -> None:
    pid = opened.truth.worker
    memory = opened.memory(pid)
    assert (
        memory.string(memory.mm.arg_start) == opened.truth.fact_bytes(f"/proc/{pid}/cmdline").split(b"\0")[0]
    )


def test_not_mapped(opened: Opened) -> None:
    memory = opened.memory(opened.truth.worker)
    with pytest.raises(MemoryFault):
        memory.read(0x10, 8)
    assert memory.find_vma(0) is None
    assert memory.find_vma(memory.vmas[0].start - 1) is None
    assert memory.find_vma(memory.vmas[-1].end - 1) is memory.vmas[-1]


def test_spans_cover_without_gaps(opened: Opened) -> None:
    memory = opened.memory(opened.truth.worker)
    position = 0
    for span in spans(memory.tables, 0, 1 << 47):
        assert span.start == position
        assert span.end > span.start
        if span.kind is SpanKind.PAGES:
            assert span.values is not None
            assert len(span.values) == (span.end - span.start) // 4096
        position = span.end
    assert position == 1 << 47


def test_zram_was_read(opened: Opened) -> None:
    """The swapped areas above came out of zram, not out of the swap cache."""
    area = opened.truth.area("swap-mix")
    memory = opened.memory(area.pid)
    vma = memory.find_vma(area.start)
    assert vma is not None
    assert any(chunk.stored for chunk in memory.pages(vma, area.start, area.end))
    device = swap(opened.session).area(0).zram
    assert device is not None
    assert re.match(r"lzo|zstd|lz4", device.compressor())
    with pytest.raises(KcrashError):
        device.locate(1 << 40)


def test_states_have_texts() -> None:
    assert len({state.text for state in State}) == len(State)


# -- hostile lists of VMAs

TYPES = (
    struct_type("mm_struct", ("mmap", POINTER, 0)),
    struct_type("vm_area_struct", ("vm_start", ULONG, 0), ("vm_end", ULONG, 8), ("vm_next", POINTER, 16)),
)


def _listed(monkeypatch: pytest.MonkeyPatch, nodes: dict[int, tuple[int, int, int]]) -> list[object]:
    memory = FakeMemory()
    memory.put(0x1000, 0x2000)
    for address, words in nodes.items():
        memory.put(address, *words)
    made = session(memory, *TYPES)
    made.layout = SimpleNamespace(paging=SimpleNamespace(user_end=1 << 47))  # type: ignore[assignment]

    def read_vma(_session: Session, address: int) -> Vma:
        start, end, _next = memory.words(address, 3)
        return Vma(address, start, end, 0, 0, 0, 0, 0)

    monkeypatch.setattr("kcrash.linux.mm.read_vma", read_vma)
    return list(for_each_vma(made, 0x1000))


def test_list_of_vmas(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _listed(monkeypatch, {0x2000: (0x1000, 0x2000, 0x3000), 0x3000: (0x2000, 0x5000, 0)})
    assert [(v.start, v.end) for v in found if isinstance(v, Vma)] == [(0x1000, 0x2000), (0x2000, 0x5000)]


def test_list_that_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    *vmas, error = _listed(monkeypatch, {0x2000: (0x1000, 0x2000, 0x2000)})
    assert len(vmas) == 1
    assert isinstance(error, CorruptData)


@pytest.mark.parametrize("bad", [(0x1000, 0x1000), (0x3000, 0x2000), (0x1001, 0x2000), (0x1000, 1 << 48)])
def test_absurd_vmas(monkeypatch: pytest.MonkeyPatch, bad: tuple[int, int]) -> None:
    error, good = _listed(monkeypatch, {0x2000: (*bad, 0x3000), 0x3000: (0x8000, 0x9000, 0)})
    assert isinstance(error, CorruptData)
    assert isinstance(good, Vma)


def test_overlapping_vmas(monkeypatch: pytest.MonkeyPatch) -> None:
    _, error = _listed(monkeypatch, {0x2000: (0x1000, 0x4000, 0x3000), 0x3000: (0x3000, 0x9000, 0)})
    assert isinstance(error, CorruptData)
