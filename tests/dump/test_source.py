"""Files, the flattened form, and telling what a file is."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from kcrash.dump import identify, is_vmlinux, open_dump
from kcrash.dump.flattened import FlattenedSource
from kcrash.dump.source import FileSource, open_source
from kcrash.errors import BadFormat
from tests.build.elf_core import ElfCore, Load
from tests.build.flattened import flattened, in_records
from tests.build.kdump_file import KdumpFile
from tests.build.pages import some_pages
from tests.dump.helpers import check_bulk, opened

KDUMP = KdumpFile(some_pages(range(10, 60)), excluded={5, 70})


def inner(folder: Path, content: bytes) -> FlattenedSource:
    path = folder / "flat"
    path.write_bytes(content)
    source = open_source(path)
    assert isinstance(source, FlattenedSource)
    return source


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    with open_source(path) as source:
        assert source.size == 256
        assert source.read_at(250, 10) == bytes(range(250, 256))
        assert source.read_at(256, 1) == source.read_at(-1, 1) == source.read_at(1 << 70, 1) == b""
        assert source.read_at(0, 1 << 60) == source.peek(5000) == bytes(range(256))
        assert source.peek(3) == bytes(range(3))
        view = memoryview(bytearray(300))
        assert source.read_into(10, view) == 246
        assert view[:246] == bytes(range(10, 256))


def test_file_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "preadv")
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    with FileSource(str(path)) as source:
        assert source.read_at(250, 10) == bytes(range(250, 256))
        view = memoryview(bytearray(300))
        assert source.read_into(10, view) == 246


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, what in (
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (fifo, "neither a file"),
        (tmp_path / "none", "cannot be opened: No such file"),
    ):
        with pytest.raises(BadFormat, match=what) as caught:
            open_dump([path])
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [100, 4096, 16384])
def test_flattened_dumps(tmp_path: Path, size: int) -> None:
    data = KDUMP.to_bytes()
    records = in_records(data, size)
    random.Random(1).shuffle(records)
    stale = [(0, b"\xaa" * 9000), (20000, b"\xbb" * 10)]
    dump = opened(tmp_path, flattened(stale + records))
    assert not dump.info.incomplete
    for pfn, page in KDUMP.pages.items():
        assert dump.read(pfn * 4096, 4096) == page
    check_bulk(dump, [*KDUMP.pages, 5, 70, 0], 4096)


def test_flattened_elf(tmp_path: Path) -> None:
    core = ElfCore([Load(0, bytes(range(256)) * 64)])
    dump = opened(tmp_path, flattened(in_records(core.to_bytes(), 1000)))
    assert dump.read(10, 10000) == (bytes(range(256)) * 64)[10:10010]
    check_bulk(dump, [0, 1, 2, 3, 4], 4096)


def test_later_records_win_and_holes_are_zero(tmp_path: Path) -> None:
    records = [(0, b"a" * 100), (200, b"b" * 100), (50, b"c" * 10), (95, b"d" * 10), (52, b"e"), (0, b"")]
    source = inner(tmp_path, flattened(records))
    expected = bytearray(300)
    for at, data in records:
        expected[at : at + len(data)] = data
    assert source.size == 300
    for at in range(0, 310, 7):
        for n in (1, 13, 64, 400):
            assert source.read_at(at, n) == expected[at : at + n]


def test_cut_flattened(tmp_path: Path) -> None:
    """What the missing part held comes back short; the dump opens with what there is."""
    data = KDUMP.to_bytes()
    whole = flattened(in_records(data, 4096))
    for cut in (16, 17, 4000, 50000):
        dump = opened(tmp_path, whole[:-cut])
        assert dump.info.incomplete
        assert dump.read(10 * 4096, 4096) == KDUMP.pages[10]
        check_bulk(dump, list(KDUMP.pages), 4096)
        dump.close()


def test_flattened_nonsense(tmp_path: Path) -> None:
    good = flattened([(0, b"x" * 100)])
    for bad, what in (
        (good[:20], "within its header"),
        (good[:16] + b"\xff" * 16 + good[32:], "unknown type"),
        (good[:4096], "without any data"),
        (flattened([], end=True), "without any data"),
    ):
        with pytest.raises(BadFormat, match=what):
            inner(tmp_path, bad)
    source = inner(tmp_path, good[:-16] + b"\x80" + bytes(15))
    assert (source.incomplete, source.size) == (True, 100)


def test_flattened_bomb_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcrash.dump.flattened.MIN_RECORDS", 100)
    with pytest.raises(BadFormat, match="absurdly many"):
        inner(tmp_path, flattened([(0, b"x")] * 1000))


def test_what_files_are(tmp_path: Path) -> None:
    elf = ElfCore([Load(0, b"x")]).to_bytes()
    cases = {
        "dump": [elf, KDUMP.to_bytes(), flattened([(0, elf)]), gzip.compress(elf)],
        "kernel": [ElfCore([], type=2).to_bytes(), ElfCore([], type=3, order=">").to_bytes()],
        "object": [ElfCore([], type=1).to_bytes()],
        "compressed": [
            gzip.compress(b"text"),
            b"\xfd7zXZ\0rest",
            b"\x28\xb5\x2f\xfdrest",
            b"\x04\x22\x4d\x18",
        ],
        "text": [b"ffffffff81000000 T _text\n", "Größe\n".encode()],
        "unknown": [bytes(100), b"\x01\x02\x03"],
    }
    path = tmp_path / "file"
    for kind, contents in cases.items():
        for content in contents:
            path.write_bytes(content)
            assert identify(path) == kind, content[:16]
            with open_source(path) as source:
                assert is_vmlinux(source) == (kind == "kernel")


def test_refusals_say_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    for content, text in (
        (ElfCore([], type=2).to_bytes(), "not a dump but an ELF executable"),
        (b"\x04\x22\x4d\x18rest", "is compressed with lz4: decompress it first (lz4 -d)"),
        (b"\xfd7zXZ\0rest", "the xz stream is cut"),
        (b"MZ" + bytes(100), "give the vmlinux"),
        (b"Linux version", "not a dump but a text file"),
        (b"\x01\x02\x03\x04", "not a dump in any known format (starts with 01 02 03 04)"),
        (bytes(5000), "zero bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFormat) as caught:
            open_dump([path])
        assert text in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")


def test_several_files_that_are_no_split_dump(tmp_path: Path) -> None:
    elf = ElfCore([Load(0, b"x")]).to_bytes()
    with pytest.raises(BadFormat, match="was given too"):
        opened(tmp_path, elf, elf)
    with pytest.raises(BadFormat, match="does not belong"):
        opened(tmp_path, KDUMP.to_bytes(), elf)
