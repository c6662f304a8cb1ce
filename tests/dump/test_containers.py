"""The same memory in every container: what went in must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kcrash.dump import open_dump
from kcrash.dump.base import PRESENT
from kcrash.errors import MemoryFault
from kcrash.session import sort_files
from tests.build.containers import CONTAINERS, PAGE, Memory
from tests.build.pages import some_pages
from tests.dump.helpers import check_bulk
from tests.dump.libkdumpfile import same_pages

LOW = b"".join(some_pages(range(150)).values())
HIGH = b"".join(some_pages(range(300), seed=2).values())
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip")
CPUS = [
    {name: 0xFFFF_8880_0000_0000 + 256 * number + cpu for number, name in enumerate(NAMES)}
    | {"rflags": 0x246, "cr0": 0x80050033, "cr3": 0x3464000 + cpu * PAGE, "cr4": 0x751EF0}
    | {"idt_base": 0xFFFFFE0000000000, "cs": 0x10, "ss": 0x18}
    for cpu in range(2)
]
MEMORY = Memory([(0, LOW), (0x200000, HIGH)], CPUS)
PFNS = [*range(152), *range(0x1FE, 0x330), 5, 5, 1 << 40]
# Not all formats keep all of these.
OPTIONAL = {"cr0", "cr4", "idt_base", "cs", "ss"}


@pytest.fixture(params=CONTAINERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_memory(tmp_path: Path, name: str) -> None:
    container = CONTAINERS[name]
    words = container.write(tmp_path, MEMORY)
    dump = open_dump(words)
    assert dump.read(0, len(LOW)) == LOW
    assert dump.read(0x200000, len(HIGH)) == HIGH
    assert dump.read(0x200FFE, 5) == HIGH[0xFFE:0x1003]
    assert dump.info.byte_order == ("big" if container.big else "little")
    assert not dump.info.incomplete
    check_bulk(dump, PFNS, PAGE)
    check_bulk(dump, list(range(40)), 4 * PAGE)
    if container.zeros:
        assert dump.read(len(LOW), PAGE) == bytes(PAGE)
    else:
        with pytest.raises(MemoryFault):
            dump.read(len(LOW), PAGE)
    held = sum(piece.end - piece.start for piece in dump.ranges())
    assert held >= len(LOW) + len(HIGH)
    dump.close()
    assert sort_files(words) == ([], words)


def test_registers(tmp_path: Path, name: str) -> None:
    container = CONTAINERS[name]
    dump = open_dump(container.write(tmp_path, MEMORY))
    if not container.registers:
        assert not dump.info.cpus
        return
    assert dump.info.machine == 62
    assert dump.info.nr_cpus == len(dump.info.cpus) == 2
    for told, went in zip(dump.info.cpus, CPUS, strict=True):
        assert {key: told[key] for key in went if key in told or key not in OPTIONAL} == {
            key: value for key, value in went.items() if key in told or key not in OPTIONAL
        }


READ_BY_LIBKDUMPFILE = {
    "elf", "kdump", "kdump plain, big-endian", "sadump", "sadump disk set", "sadump media", "lkcd 1",
    "lkcd 5 rle", "lkcd 8 gzip", "lkcd 9 plain, big-endian", "s390", "xen core", "xen core, paravirtual",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(READ_BY_LIBKDUMPFILE))
def test_against_libkdumpfile(tmp_path: Path, name: str) -> None:
    """Our writers and readers may be wrong alike: this reader is not ours."""
    memory = MEMORY
    if "sadump" in name:
        # libkdumpfile 0.5.1 gives the first page of a run of them for all others: here runs are one page.
        pages = [LOW[at : at + PAGE] for at in range(0, len(LOW), PAGE)]
        memory = Memory([(2 * number * PAGE, page) for number, page in enumerate(pages)], CPUS)
    words = CONTAINERS[name].write(tmp_path, memory)
    dump = open_dump(words)
    # A paravirtual guest's machine addresses are others than those its kernel calls physical.
    space = "KPHYSADDR" if "paravirtual" in name else "MACHPHYSADDR"
    pfns = [(start + at) // PAGE for start, data in memory.ranges for at in range(0, len(data), PAGE)]
    assert same_pages(dump, words, np.array(pfns, dtype=np.uint64), space) == len(pfns)


# Not raw memory, whose size is all it says, nor what unpacks as a whole or has several files.
CUT = [name for name in CONTAINERS if name not in ("raw", "sadump disk set") and " in " not in name
       and not name.startswith("libvirt ")]  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_cut(tmp_path: Path, name: str) -> None:
    """Whatever is left of a cut file is right; the rest says that it is not there."""
    words = CONTAINERS[name].write(tmp_path, MEMORY)
    path = Path(words[0])
    path = path.with_suffix(".vmem") if path.with_suffix(".vmem").exists() else path
    size = path.stat().st_size
    for keep in (0.9, 0.5, 0.35):
        with path.open("r+b") as file:
            file.truncate(int(size * keep))
        try:
            dump = open_dump(words)
        except Exception as error:
            assert type(error).__name__ == "BadFormat", error
            continue
        data, states = dump.read_pages(np.array(PFNS, dtype=np.uint64), PAGE)
        for row, pfn in enumerate(PFNS):
            if states[row] == PRESENT and pfn * PAGE < MEMORY.size:
                memory, base = (LOW, 0) if pfn < 0x200 else (HIGH, 0x200000)
                expected = memory[pfn * PAGE - base :][:PAGE] or bytes(PAGE)
                assert data[row].tobytes() == expected, (keep, pfn)
        assert (states != PRESENT).any()
        check_bulk(dump, PFNS, PAGE)
        dump.close()
