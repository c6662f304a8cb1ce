"""LiME, AVML and raw memory against the memory that they were made of."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from kcrash.dump import identify, is_dump, open_dump
from kcrash.dump.base import PhysicalRange
from kcrash.errors import BadFormat, FaultReason, MemoryFault
from tests.build.memory_images import write_avml, write_lime
from tests.build.pages import some_pages
from tests.dump.helpers import check_bulk, opened

LOW = b"".join(some_pages(range(40)).values())
HIGH = b"".join(some_pages(range(30), seed=2).values())
RANGES = [(0x1000, LOW), (0x100000, HIGH)]
EXPECTED = [PhysicalRange(0x1000, 0x1000 + len(LOW)), PhysicalRange(0x100000, 0x100000 + len(HIGH))]
PFNS = [*range(50), *range(0xF0, 0x130), 1 << 40]


def lime(order: str = "<") -> bytes:
    out = BytesIO()
    write_lime(out, RANGES, order)
    return out.getvalue()


def avml(inclusive: bool = False) -> bytes:
    out = BytesIO()
    write_avml(out, RANGES, inclusive)
    return out.getvalue()


FILES = {"lime": lime(), "lime, big-endian": lime(">"), "avml": avml(), "old avml": avml(True)}


@pytest.mark.parametrize("name", FILES)
def test_memory(tmp_path: Path, name: str) -> None:
    dump = opened(tmp_path, FILES[name])
    assert dump.ranges() == EXPECTED
    assert dump.read(0x1000, len(LOW)) == LOW
    assert dump.read(0x100001, 100000) == HIGH[1:100001]
    assert not dump.info.incomplete
    assert dump.info.byte_order == ("big" if "big" in name else "little")
    check_bulk(dump, PFNS, 4096)
    check_bulk(dump, PFNS[:20], 65536)
    assert identify(tmp_path / "vmcore0") == "dump"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.2, 0.7, 0.999])
def test_cut(tmp_path: Path, name: str, keep: float) -> None:
    data = FILES[name]
    dump = opened(tmp_path, data[: int(len(data) * keep)])
    assert dump.info.incomplete
    reasons = set()
    for pfn in PFNS:
        try:
            page = dump.read(pfn * 4096, 4096)
        except MemoryFault as fault:
            reasons.add(fault.reason)
        else:
            memory, base = (LOW, 0x1000) if pfn < 0x100 else (HIGH, 0x100000)
            assert page == memory[pfn * 4096 - base :][:4096]
    assert reasons <= {FaultReason.TRUNCATED, FaultReason.NOT_IN_DUMP}
    check_bulk(dump, PFNS, 4096)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"EMiL\1\0\0\0", "ends within"),
        (lime()[:4] + b"\2" + lime()[5:], "LiME version 2"),
        (lime()[: 32 + len(LOW)] + bytes(32), "no LiME header but 00 00 00 00"),
        (b"AVML\2\0\0\0", "without memory"),
        (avml()[:4] + b"\3" + avml()[5:], "AVML version 3"),
        (avml()[:42] + b"\x02" + avml()[43:], "snappy chunk of type 0x2"),
        (avml()[:50] + b"\xff\xff\xff\xff\x7f" + avml()[55:], "bytes unpacked"),
    ],
)
def test_nonsense(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(BadFormat, match=what):
        opened(tmp_path, content)


def test_raw(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high@home"
    low.write_bytes(LOW)
    high.write_bytes(HIGH)
    for words in ([f"{low}@0x1000,{high}@100000"], [f"{high}@100000", f"{low}@1000"]):
        dump = open_dump(words)
        assert dump.ranges() == EXPECTED
        assert dump.read(0x1000, len(LOW)) == LOW
        check_bulk(dump, PFNS, 4096)
        dump.close()
    assert is_dump(f"{low}@0x1000") and not is_dump(high)
    for word in (f"{low}@", "@0", f"{low}@zz", f"{low}@10000000000000000"):
        with pytest.raises(BadFormat, match="no memory at an address"):
            open_dump([word])
    with pytest.raises(BadFormat, match="cannot be opened"):
        open_dump([f"{tmp_path}/none@0"])
