"""LKCD, s390, VMware, Xen: what tests.dump.test_containers does not vary."""

from __future__ import annotations

import random
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcrash.dump import open_dump
from kcrash.dump.codecs import CorruptPage
from kcrash.dump.lkcd import expand_rle
from kcrash.errors import BadFormat
from tests.build.lkcd_file import GZIP, NONE, RLE, Lkcd, rle
from tests.build.pages import some_pages
from tests.build.s390_file import header, lowcore, write_extended, write_plain
from tests.build.vmware_files import write_guest, write_vmss
from tests.build.xen_core_file import write_xen_core
from tests.dump.helpers import check_bulk, opened

MEMORY = b"".join(some_pages(range(60)).values())
RANGES = [(0, MEMORY)]


# -- LKCD


@pytest.mark.parametrize("version", [1, 2, 3, 5, 6, 7, 8, 9, 10])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_lkcd(tmp_path: Path, version: int, bits: int, order: str) -> None:
    machine = {(32, "<"): "i686", (64, "<"): "ia64", (32, ">"): "ppc", (64, ">"): "s390x"}[bits, order]
    for compression in (NONE, RLE, GZIP) if version >= 5 else (RLE,):
        dump = opened(tmp_path, Lkcd(version, bits, order, 4096, compression, machine).to_bytes(RANGES))
        assert dump.read(0, len(MEMORY)) == MEMORY
        info = dump.info
        assert (info.utsname.machine, info.utsname.release, info.time) == (
            machine,
            "2.6.16-test",
            1700000000.25,
        )
        assert info.details["header_version"] == version and info.details["panic"] == "Oops"
        if version < 8 or machine == "i686":
            assert info.word_bits == bits
        check_bulk(dump, list(range(70)), 4096)


def test_lkcd_without_end_mark(tmp_path: Path) -> None:
    assert opened(tmp_path, Lkcd().to_bytes(RANGES, end=False)).info.incomplete


@given(st.binary(max_size=300).map(lambda data: (data + bytes(200))[:256] * 2))
def test_rle(page: bytes) -> None:
    assert expand_rle(rle(page), len(page)) == page
    for wrong in (len(page) - 1, len(page) + 1):
        with pytest.raises(CorruptPage):
            expand_rle(rle(page), wrong)


@given(st.binary(max_size=100))
def test_rle_of_noise(data: bytes) -> None:
    with suppress(CorruptPage):
        assert len(expand_rle(data, 64)) == 64


def test_lkcd_nonsense(tmp_path: Path) -> None:
    data = Lkcd().to_bytes(RANGES)
    for at, value, what in (
        (8, 99, "unknown version 99"),
        (20, 5000, "pages of 5000"),
        (65544, 9000, "of 9000"),
    ):
        changed = data[:at] + value.to_bytes(4, "little") + data[at + 4 :]
        with pytest.raises(BadFormat, match=what):
            opened(tmp_path, changed)
    with pytest.raises(BadFormat, match="ends within its LKCD header"):
        opened(tmp_path, data[:500])


# -- s390


def test_s390_registers(tmp_path: Path) -> None:
    """What the machine stored in the lowcores becomes the notes that a kernel would have written."""
    memory = bytearray(1 << 20)
    for number, at in enumerate((0x2000, 0x6000)):
        registers = {
            "r15": 0x1000 + number,
            "r0": 7,
            "psw_mask": 0x705C0001 << 32,
            "psw_addr": 0x12345678,
            "cr1": 9,
        }
        memory[at + 0x1200 : at + 0x1400] = lowcore(registers)
    out = BytesIO()
    write_plain(out, [(0, bytes(memory))], 1 << 20, (0x2000, 0x6000))
    info = opened(tmp_path, out.getvalue()).info
    assert (info.machine, info.byte_order, info.word_bits, info.nr_cpus) == (22, "big", 64, 2)
    assert info.time == 1700000000.0
    kinds = [(note.name, note.type) for note in info.notes]
    assert kinds[:7] == kinds[7:] == [
        ("CORE", 1), ("CORE", 2), ("LINUX", 0x301), ("LINUX", 0x302), ("LINUX", 0x303), ("LINUX", 0x304),
        ("LINUX", 0x305),
    ]  # fmt: skip
    prstatus = info.notes[7].data
    assert len(prstatus) == 336 and int.from_bytes(prstatus[32:36], "big") == 2
    assert int.from_bytes(prstatus[120:128], "big") == 0x12345678  # psw.addr
    assert int.from_bytes(prstatus[128 + 15 * 8 : 136 + 15 * 8], "big") == 0x1001
    assert int.from_bytes(info.notes[12].data[8:16], "big") == 9  # cr1


def test_s390_nonsense(tmp_path: Path) -> None:
    out = BytesIO()
    write_extended(out, RANGES, 1 << 20, packed=True)
    extended = out.getvalue()
    plain = header(1 << 20)
    for data, what in (
        (plain[:4000], "ends within"),
        (plain[:0x48] + b"\0\0\0\7" + plain[0x4C:], "unknown architecture 7"),
        (plain[:0x5C] + b"\1" + plain[0x5D:], "several volumes"),
        (plain[:0x20] + b"\1" + plain[0x21:], "memory from"),
        (extended[:0x1008] + b"\1" + extended[0x1009:], "segment of"),
        (extended[:0x1030] + b"\xff" + extended[0x1031:], "entries of"),
        (extended[:0x1034] + b"\x7f" + extended[0x1035:], "lies outside"),
    ):
        with pytest.raises(BadFormat, match=what):
            opened(tmp_path, data)


# -- VMware


def test_vmware_needs_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "guest.vmss"
    with path.open("wb") as out:
        write_vmss(out, RANGES, [{"rip": 1}], vmem=BytesIO())
    with pytest.raises(BadFormat, match=r"no guest\.vmem beside it"):
        open_dump([path])
    path = tmp_path / "debug.guest"
    with path.open("wb") as out:
        write_guest(out, BytesIO(), RANGES, [{"rip": 1}])
    with pytest.raises(BadFormat, match=r"no debug\.vmem beside it"):
        open_dump([path])


def test_vmware_holes(tmp_path: Path) -> None:
    ranges = [(0, MEMORY[:8192]), (0x100000, MEMORY), (0x10000000, MEMORY[4096:])]
    with (tmp_path / "debug.guest").open("wb") as out, (tmp_path / "debug.vmem").open("wb") as vmem:
        write_guest(out, vmem, ranges, [{"rip": 1}])
    dump = open_dump([tmp_path / "debug.guest"])
    for start, data in ranges:
        assert dump.read(start, len(data)) == data
    assert [(piece.start, piece.end) for piece in dump.ranges()] == [
        (at, at + len(data)) for at, data in ranges
    ]


def test_vmware_nonsense(tmp_path: Path) -> None:
    out = BytesIO()
    write_vmss(out, RANGES, [{"rip": 1}])
    data = out.getvalue()
    packed = data.replace(b"\xbf\x06Memory", b"\xbe\x06Memory")
    assert packed != data
    for changed, what in (
        (b"\xd0\xbe\xd0\xbe" + data[4:], "32-bit form"),
        (data[:8] + bytes(4) + data[12:], "of 0 groups"),
        (data[:100], "list of groups"),
        (data[:300], "ends within"),
        (packed, "compressed memory"),
    ):
        with pytest.raises(BadFormat, match=what):
            opened(tmp_path, changed)


# -- Xen


def test_xen_is_no_other_elf(tmp_path: Path) -> None:
    out = BytesIO()
    write_xen_core(out, RANGES)
    data = out.getvalue()
    assert opened(tmp_path, data).info.details["guest"] == "fully virtual"
    with pytest.raises(BadFormat, match="without program headers"):
        opened(tmp_path, data.replace(b".xen_pages", b".xen_other"))
    frames = random.Random(1).sample(range(1000), 60)
    out = BytesIO()
    write_xen_core(out, [(pfn * 4096, MEMORY[at * 4096 :][:4096]) for at, pfn in enumerate(frames)])
    dump = opened(tmp_path, out.getvalue())
    for at, pfn in enumerate(frames):
        assert dump.read(pfn * 4096, 4096) == MEMORY[at * 4096 :][:4096]
