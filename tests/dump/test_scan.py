"""kcrash.dump.scan: every byte is looked at once, and VMCOREINFO is found among texts that look like it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from kcrash.dump import scan
from kcrash.dump.base import Dump
from kcrash.dump.scan import find_vmcoreinfo, pieces, vmcoreinfo_candidates
from tests.build.elf_core import ElfCore, Load
from tests.dump.helpers import opened

TEXT = (
    b"OSRELEASE=6.1.0-50-amd64\nBUILD-ID=00112233\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff9a000000\n"
    b"SYMBOL(_stext)=ffffffff99000000\nSIZE(page)=64\nKERNELOFFSET=18000000\n"
)
PANIC = TEXT + b"CRASHTIME=1700000000\n"


def dump_of(folder: Path, memory: dict[int, bytes], size: int = 1 << 20) -> Dump:
    """A dump of ``size`` bytes from 1 MiB on, and of one page far above, with these bytes in it."""
    low, high = bytearray(size), bytearray(4096)
    for address, data in memory.items():
        target, base = (low, 1 << 20) if address < 1 << 30 else (high, 1 << 30)
        target[address - base : address - base + len(data)] = data
    loads = [Load(1 << 20, bytes(low)), Load(1 << 30, bytes(high))]
    return opened(folder, ElfCore(loads).to_bytes())


@pytest.mark.parametrize("overlap", [0, 512])
def test_pieces_cover_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: int) -> None:
    monkeypatch.setattr(scan, "PIECE", 16384)
    content = random.Random(1).randbytes(100 * 1024)
    dump = dump_of(tmp_path, {1 << 20: content}, len(content))
    steps: list[tuple[int, int]] = []
    seen = bytearray()
    for piece in pieces(dump, overlap=overlap, progress=lambda done, total: steps.append((done, total))):
        if piece.address < 1 << 30:
            assert piece.address == (1 << 20) + len(seen)
            assert piece.data.tobytes() == content[len(seen) : len(seen) + len(piece.data)]
            assert len(piece.data) >= min(piece.size + overlap, len(content) - len(seen))
            seen += piece.data[: piece.size].tobytes()
    assert bytes(seen) == content
    assert steps[-1] == (len(content) + 4096,) * 2
    assert steps == sorted(steps)


def test_first_ranges_come_first_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PIECE", 65536)
    dump = dump_of(tmp_path, {})
    first = [(0x140010, 0x150000), (0x130000, 0x140000), (1 << 40, 1 << 41), (5, 5), (0x1F0000, 1 << 29)]
    found = [(piece.address, piece.size) for piece in pieces(dump, first)]
    assert found[:3] == [(0x130000, 0x10000), (0x140000, 0x10000), (0x1F0000, 0x10000)]
    assert sum(size for _address, size in found) == (1 << 20) + 4096
    assert len({address for address, _size in found}) == len(found)


def test_the_finished_text_wins(tmp_path: Path) -> None:
    note = b"\x0b\0\0\0\x10\0\0\0\0\0\0\0VMCOREINFO\0\0" + PANIC
    other = TEXT.replace(b"SYMBOL(_stext)=ffffffff99000000\n", b"").replace(b"6.1.0", b"5.1.0")
    memory = {
        0x101000: b"OSRELEASE=1\nno more than that\n",  # a user's page
        0x102000: TEXT + b"\xff\xfe",  # goes on as something else
        0x103000: b"OSRELEASE=6.1\nPAGESIZE=4096\n",  # names no symbol
        0x104000: other,
        0x110000: TEXT,
        0x123000: note,
        0x150008: TEXT,
        1 << 30: PANIC[:-1],
    }
    dump = dump_of(tmp_path, memory)
    found = find_vmcoreinfo(dump)
    assert [(c.physical, c.raw) for c in found] == [(0x123018, PANIC), (0x110000, TEXT), (0x104000, other)]
    assert found[0].info.crash_time == 1700000000
    assert found[0].info.kernel_offset == 0x18000000
    assert next(vmcoreinfo_candidates(dump)).physical == 0x104000


def test_text_over_pages_and_to_the_end_of_memory(tmp_path: Path) -> None:
    filler = b"".join(b"SYMBOL(s%d)=%x\n" % (i, i) for i in range(400))
    long = (TEXT + filler)[:]
    dump = dump_of(tmp_path, {0x1FF000 - 4096: long, (1 << 30) + 8: b"x"})
    assert [c.raw for c in find_vmcoreinfo(dump)] == [long]


def test_hostile_memory_takes_bounded_time(tmp_path: Path) -> None:
    """Each 16 bytes are the start of a text that runs to the end."""
    unit = b"OSRELEASE=aaaaa\n"
    dump = dump_of(tmp_path, {1 << 20: unit * ((1 << 20) // 16)})
    began = time.monotonic()
    assert find_vmcoreinfo(dump) == []
    assert time.monotonic() - began < 60


def test_nothing_there(tmp_path: Path) -> None:
    assert find_vmcoreinfo(dump_of(tmp_path, {})) == []
    assert np.all([piece.data.sum() == 0 for piece in pieces(dump_of(tmp_path, {}))])
