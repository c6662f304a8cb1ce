"""sadump: disk sets, excluded pages, broken headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcrash.errors import BadFormat, FaultReason, MemoryFault
from tests.build.pages import some_pages
from tests.build.sadump_file import Sadump
from tests.dump.helpers import check_bulk, opened

MEMORY = b"".join(some_pages(range(100)).values())
RANGES = [(0x5000, MEMORY)]


def dump_of(**options: object) -> Sadump:
    return Sadump(200, [{"rip": 1, "efer": 0x500}], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("block_size", [4096, 8192])
def test_headers(tmp_path: Path, version: int, block_size: int) -> None:
    (data,) = dump_of(version=version, block_size=block_size, media=False).to_bytes([(0x8000, MEMORY)])
    info = opened(tmp_path, data).info
    assert (info.format, info.time, info.page_size, info.nr_cpus) == ("sadump", 1700000000.25, block_size, 1)
    assert opened(tmp_path, data).read(0x8000, len(MEMORY)) == MEMORY


def test_excluded_pages(tmp_path: Path) -> None:
    (data,) = dump_of(excluded=frozenset({3, 150})).to_bytes(RANGES)
    dump = opened(tmp_path, data)
    for pfn, reason in ((3, FaultReason.EXCLUDED), (150, FaultReason.EXCLUDED), (2, FaultReason.NOT_IN_DUMP)):
        with pytest.raises(MemoryFault) as caught:
            dump.read(pfn * 4096, 8)
        assert caught.value.reason is reason
    check_bulk(dump, list(range(160)), 4096)
    dump.zero_excluded = True
    assert dump.read(3 * 4096, 8) == bytes(8)


def test_disk_sets(tmp_path: Path) -> None:
    files = dump_of().to_bytes(RANGES, disks=3, disk_pages=40)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        dump = opened(tmp_path, *(files[number] for number in order))
        assert dump.read(0x5000, len(MEMORY)) == MEMORY
        check_bulk(dump, list(range(120)), 4096)
    for some in ((0, 1), (1, 2), (2,), (0, 0, 1)):
        with pytest.raises(BadFormat, match="of which only"):
            opened(tmp_path, *(files[number] for number in some))
    other = dump_of(time=bytes(16)).to_bytes(RANGES, disks=3, disk_pages=40)
    with pytest.raises(BadFormat, match="not of the same disk set"):
        opened(tmp_path, files[0], files[1], other[2])
    with pytest.raises(BadFormat, match="does not belong"):
        opened(tmp_path, files[0], *dump_of().to_bytes(RANGES))


def test_nonsense(tmp_path: Path) -> None:
    (data,) = dump_of().to_bytes(RANGES)
    for changed, what in (
        (data[:100], "ends within its sadump header"),
        (data[:200] + b"x" + data[201:], "chain of numbers"),
        (data[:4096] + b"X" + data[4097:], "no sadump dump header but 58 61"),
        (data[: 4096 + 40] + b"\0\1" + data[4096 + 42 :], "blocks of 256 bytes"),
        (data[:9000], "ends within its bitmaps"),
    ):
        with pytest.raises(BadFormat, match=what):
            opened(tmp_path, changed)
