"""kdump-compressed files against the pages that they were made of."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from kcrash.dump.kdump import KdumpDump
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import BadFormat, FaultReason, MemoryFault
from tests.build.kdump_file import LZO, SNAPPY, ZLIB, ZSTD, KdumpFile
from tests.build.notes import VMCOREINFO_TEXT, usual_notes
from tests.build.pages import some_pages
from tests.dump.helpers import check_bulk, opened

PFNS = [*range(3, 40), *range(64, 70), *range(500, 530), 4095, 4096, 33000]
EXCLUDED = {50, 51, 531, 32999}


def build(**options: object) -> KdumpFile:
    options.setdefault("excluded", EXCLUDED)
    size = options.get("block_size", 4096)
    assert isinstance(size, int)
    return KdumpFile(some_pages(PFNS, size), **options)  # type: ignore[arg-type]


def check(dump: KdumpDump, file: KdumpFile) -> None:
    size = file.block_size
    for pfn, page in file.pages.items():
        assert dump.read(pfn * size, size) == page
    check_bulk(dump, [*file.pages, 50, 0, 60, 33000, 40000, 1 << 50, 3, 3], size)


def kdump(folder: Path, *files: KdumpFile) -> KdumpDump:
    dump = opened(folder, *(file.to_bytes() for file in files))
    assert isinstance(dump, KdumpDump)
    return dump


@pytest.mark.parametrize("codecs", [(0,), (ZLIB,), (LZO,), (SNAPPY,), (ZSTD,), (ZLIB, LZO, SNAPPY, ZSTD, 0)])
def test_codecs(tmp_path: Path, codecs: tuple[int, ...]) -> None:
    file = build(codecs=codecs)
    check(kdump(tmp_path, file), file)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["64", "packed", "padded"])
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_layouts_and_versions(tmp_path: Path, order: str, layout: str, version: int) -> None:
    machine = {"64": "s390x", "packed": "i686", "padded": "armv7l"}[layout]
    file = build(order=order, layout=layout, version=version, machine=machine)
    file.notes, file.vmcoreinfo, file.eraseinfo = usual_notes(), VMCOREINFO_TEXT, b"erase jprobe.name\n"
    dump = kdump(tmp_path, file)
    check(dump, file)
    info = dump.info
    assert (info.format, info.word_bits, info.page_size) == ("kdump", 64 if layout == "64" else 32, 4096)
    assert info.byte_order == ("little" if order == "<" else "big")
    assert (info.dump_level, info.time, info.nr_cpus) == (31, 1700000000.25, 4)
    assert info.phys_base == (0x1000000 if version < 3 else -16777216)
    assert info.utsname.machine == machine
    assert info.utsname.release == "6.1.0-test"
    assert info.vmcoreinfo == (VMCOREINFO_TEXT if version >= 3 else None)
    assert info.notes == (usual_notes() if version >= 4 else [])
    assert info.eraseinfo == (b"erase jprobe.name\n" if version >= 5 else None)
    assert info.partial
    assert not info.incomplete
    assert info.details["header_version"] == version


def test_packed_sub_header_whatever_the_machine(tmp_path: Path) -> None:
    """QEMU packs the 32-bit sub header for all CPUs (include/system/dump.h)."""
    file = build(layout="packed", machine="armv7l", vmcoreinfo=VMCOREINFO_TEXT, notes=usual_notes())
    dump = kdump(tmp_path, file)
    assert dump.info.vmcoreinfo == VMCOREINFO_TEXT
    assert dump.info.notes == usual_notes()


def test_negative_phys_base(tmp_path: Path) -> None:
    assert kdump(tmp_path, build(phys_base=-0x2000000)).info.phys_base == -0x2000000


def test_what_vmcoreinfo_knows_better(tmp_path: Path) -> None:
    """QEMU's utsname has the machine only, its phys_base is wrong."""
    data = bytearray(build(notes=usual_notes(), phys_base=0x16777216).to_bytes())
    data[12 : 12 + 4 * 65] = bytes(4 * 65)
    info = opened(tmp_path, bytes(data)).info
    assert (info.utsname.release, info.utsname.machine) == ("6.1.0-test", "x86_64")
    assert info.phys_base == -16777216


def test_vmcoreinfo_from_note(tmp_path: Path) -> None:
    raw = kdump(tmp_path, build(notes=usual_notes())).info.vmcoreinfo
    assert raw is not None
    assert parse_vmcoreinfo(raw).kernel_offset == 0x1C00000


def test_missing_pages(tmp_path: Path) -> None:
    dump = kdump(tmp_path, build())
    for pfn, reason in (
        (50, FaultReason.EXCLUDED),
        (0, FaultReason.NOT_IN_DUMP),
        (1 << 40, FaultReason.NOT_IN_DUMP),
    ):
        with pytest.raises(MemoryFault) as caught:
            dump.read(pfn * 4096 + 17, 4)
        assert (caught.value.reason, caught.value.address) == (reason, pfn * 4096 + 17)
    with pytest.raises(MemoryFault) as caught:
        dump.read(39 * 4096, 8192)
    assert caught.value.address == 40 * 4096
    assert dump.try_read(-1, 4) is None
    assert dump.read(0, 0) == b""
    with pytest.raises(MemoryFault, match=r"bytes wanted"):
        dump.read(3 * 4096, 1 << 61)


def test_zero_excluded(tmp_path: Path) -> None:
    file = build()
    dump = kdump(tmp_path, file)
    dump.zero_excluded = True
    assert dump.read(50 * 4096 + 4090, 12) == bytes(12)
    with pytest.raises(MemoryFault):
        dump.read(0, 1)
    import numpy as np

    _, states = dump.read_pages(np.array([50, 0, 3], dtype=np.uint64), 4096)
    assert states.tolist() == [0, 1, 0]


def test_reads_across_pages(tmp_path: Path) -> None:
    file = build()
    dump = kdump(tmp_path, file)
    run = b"".join(file.pages[pfn] for pfn in range(3, 40))
    chance = random.Random(2)
    for _ in range(200):
        at = chance.randrange(len(run))
        n = chance.randrange(min(20000, len(run) - at) + 1)
        assert dump.read(3 * 4096 + at, n) == run[at : at + n]


@pytest.mark.parametrize("block_size", [1024, 16384, 65536])
def test_other_page_sizes(tmp_path: Path, block_size: int) -> None:
    file = build(block_size=block_size)
    dump = kdump(tmp_path, file)
    check(dump, file)
    for page_size in (block_size // 2, block_size * 2):
        check_bulk(dump, [*range(90), *range(990, 1064), 8192, 66000, 66001], page_size)
    with pytest.raises(ValueError, match="does not fit"):
        dump.page_states([1], 3000)  # type: ignore[arg-type]


def test_small_cache(tmp_path: Path) -> None:
    file = build()
    dump = KdumpDump(kdump(tmp_path, file).parts, cached_pages=4)
    for pfn in [*file.pages, *reversed(file.pages)]:
        assert dump.read(pfn * 4096 + 1, 100) == file.pages[pfn][1:101]
        assert len(dump._young) + len(dump._old) <= 4


def test_ranges(tmp_path: Path) -> None:
    ranges = [(r.start >> 12, r.end >> 12) for r in kdump(tmp_path, build()).ranges()]
    assert ranges == [(3, 40), (50, 52), (64, 70), (500, 530), (531, 532), (4095, 4097), (32999, 33001)]


def test_one_bitmap(tmp_path: Path) -> None:
    """Old diskdump files have the second bitmap only."""
    file = build(one_bitmap=True, excluded=set(), max_mapnr=33001, signature=b"DISKDUMP", version=0)
    dump = kdump(tmp_path, file)
    assert dump.info.format == "diskdump"
    check(dump, file)


def test_max_mapnr_of_64_bits(tmp_path: Path) -> None:
    """The header's own field would be too narrow: version 6 has another."""
    file = build()
    data = bytearray(file.to_bytes())
    data[440:444] = bytes(4)
    check(opened(tmp_path, bytes(data)), file)  # type: ignore[arg-type]


def test_incomplete(tmp_path: Path) -> None:
    file = build(incomplete_from=20, status=ZLIB | 8)
    dump = kdump(tmp_path, file)
    assert dump.info.incomplete
    pfns = sorted(file.pages)
    assert dump.read(pfns[19] * 4096, 4096) == file.pages[pfns[19]]
    with pytest.raises(MemoryFault) as caught:
        dump.read(pfns[20] * 4096, 4096)
    assert caught.value.reason is FaultReason.TRUNCATED
    check_bulk(dump, pfns, 4096)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, keep: float) -> None:
    """Whatever is left of the pages can be read; the rest says why not."""
    file = build(max_mapnr=40000, excluded=set())
    data = file.to_bytes()
    headers = 4096 * 6
    dump = opened(tmp_path, data[: headers + int((len(data) - headers) * keep)])
    reasons = set()
    for pfn, page in file.pages.items():
        try:
            assert dump.read(pfn * 4096, 4096) == page
        except MemoryFault as fault:
            reasons.add(fault.reason)
    assert reasons == {FaultReason.TRUNCATED}
    check_bulk(dump, sorted(file.pages), 4096)


def test_truncated_while_open(tmp_path: Path) -> None:
    file = build()
    dump = kdump(tmp_path, file)
    path = tmp_path / "vmcore0"
    with path.open("r+b") as handle:
        handle.truncate(4096 * 6)
    with pytest.raises(MemoryFault) as caught:
        dump.read(3 * 4096, 8)
    assert caught.value.reason is FaultReason.TRUNCATED


def test_corrupt_page(tmp_path: Path) -> None:
    for codec in (ZLIB, LZO, SNAPPY, ZSTD):
        file = KdumpFile({5: b"0123456789abcdef" * 256, 6: b"x" * 4096}, codecs=(codec,))
        data = bytearray(file.to_bytes())
        offset = int.from_bytes(data[4 * 4096 : 4 * 4096 + 8], "little")
        data[offset : offset + 12] = b"\xff" * 12
        dump = opened(tmp_path, bytes(data))
        with pytest.raises(MemoryFault) as caught:
            dump.read(5 * 4096, 8)
        assert caught.value.reason is FaultReason.CORRUPT
        assert len(str(caught.value)) < 200
        assert dump.read(6 * 4096, 8) == b"x" * 8
        assert dump.read_pages([5, 6], 4096)[1].tolist() == [4, 0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "flags"), [(0, 1), (1 << 31, 1), (4095, 0), (4096, 0x40000 | 3), (4097, 0)])
def test_absurd_descriptors(tmp_path: Path, size: int, flags: int) -> None:
    data = bytearray(KdumpFile({5: b"x" * 4096}).to_bytes())
    data[4 * 4096 + 8 : 4 * 4096 + 16] = size.to_bytes(4, "little") + flags.to_bytes(4, "little")
    dump = opened(tmp_path, bytes(data))
    with pytest.raises(MemoryFault) as caught:
        dump.read(5 * 4096, 8)
    assert caught.value.reason is FaultReason.CORRUPT
    check_bulk(dump, [5], 4096)


@pytest.mark.parametrize("whole_bitmap", [False, True])
def test_split(tmp_path: Path, whole_bitmap: bool) -> None:
    cuts = (0, 30, 515, 33001)
    files = [build(slice=(start, end), whole_bitmap=whole_bitmap) for start, end in pairwise(cuts)]
    for order in ((0, 1, 2), (2, 0, 1)):
        dump = kdump(tmp_path, *(files[i] for i in order))
        check(dump, files[0])
        assert not dump.missing
    part = kdump(tmp_path, files[1])
    assert (
        part.missing.startswith("parts of the split set with page frames 0x0 to 0x1e, 0x203 to ") and part.cut
    )
    assert part.read(500 * 4096, 4096) == files[1].pages[500]
    assert part.try_read(3 * 4096, 1) is None


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    first, second = build(slice=(0, 30)), build(slice=(30, 33001), time=(5, 6))
    with pytest.raises(BadFormat, match="not of the same dump"):
        kdump(tmp_path, first, second)
    with pytest.raises(BadFormat, match="holds too"):
        kdump(tmp_path, first, build(slice=(29, 100)))
    with pytest.raises(BadFormat, match="no part of a split dump"):
        kdump(tmp_path, first, build())


HEADER_LIES = {
    "block size": (428, 3000),
    "huge block size": (428, 1 << 30),
    "sub header": (432, -5),
    "bitmaps beyond the file": (436, 1 << 31),
    "no bitmap": (436, 0),
    "version": (8, 1 << 20),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_lies_in_the_header(tmp_path: Path, lie: str) -> None:
    at, value = HEADER_LIES[lie]
    data = bytearray(build().to_bytes())
    data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(BadFormat) as caught:
        opened(tmp_path, bytes(data))
    assert caught.value.offset is not None


def test_absurd_regions_are_absent(tmp_path: Path) -> None:
    data = bytearray(build(vmcoreinfo=VMCOREINFO_TEXT, notes=usual_notes(), eraseinfo=b"x").to_bytes())
    for at in (32, 48, 64):
        data[4096 + at : 4096 + at + 16] = (1 << 62).to_bytes(8, "little") * 2
    info = opened(tmp_path, bytes(data)).info
    assert (info.vmcoreinfo, info.notes, info.eraseinfo) == (None, [], None)


@pytest.mark.parametrize("size", [1, 8, 100, 511, 600, 4096, 4150, 8192, 12288, 20479])
def test_cut_headers(tmp_path: Path, size: int) -> None:
    with pytest.raises(BadFormat, match=r"ends within|not a dump"):
        opened(tmp_path, build().to_bytes()[:size])
