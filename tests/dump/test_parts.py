"""Intervals, bitmaps, notes, VMCOREINFO and codecs, each against a plain model of it."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kcrash.dump import bitmap, codecs
from kcrash.dump.base import Note
from kcrash.dump.bitmap import Bitmap
from kcrash.dump.codecs import CorruptPage, decompressor
from kcrash.dump.intervals import resolve
from kcrash.dump.notes import find_note, parse_notes, read_notes
from kcrash.dump.source import Source, open_source
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import MissingCodec
from tests.build.kdump_file import COMPRESS
from tests.build.notes import VMCOREINFO_TEXT, note_bytes


class BytesSource(Source):
    """Bytes as a file."""

    def __init__(self, data: bytes) -> None:
        super().__init__("bytes", len(data))
        self.data = data

    def read_at(self, offset: int, n: int) -> bytes:
        return self.data[offset : offset + n]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12), st.booleans())
def test_intervals(intervals: list[tuple[int, int]], last_wins: bool) -> None:
    starts = [start for start, _ in intervals]
    ends = [start + size for start, size in intervals]
    expected: dict[int, int] = {}
    for index in sorted(range(len(intervals)), reverse=not last_wins):
        expected.update(dict.fromkeys(range(starts[index], ends[index]), index))
    pieces = resolve(starts, ends, last_wins)
    found: dict[int, int] = {}
    for start, end, owner in zip(pieces.starts, pieces.ends, pieces.owners, strict=True):
        assert not found or start >= max(found) + 1
        found.update(dict.fromkeys(range(start, end), owner))
    assert found == expected


@settings(deadline=None)
@given(st.data())
def test_bitmap(data: st.DataObject) -> None:
    nbits = data.draw(st.integers(1, 3 * bitmap.CHUNK_BITS + 5))
    runs = data.draw(st.lists(st.tuples(st.integers(0, nbits), st.integers(1, 40000)), max_size=8))
    bits = np.zeros(nbits, dtype=np.uint8)
    for start, length in runs:
        bits[start : start + length] = 1
    bits[data.draw(st.integers(0, nbits - 1)) :: data.draw(st.integers(1, 5000))] ^= 1
    stored = np.packbits(bits, bitorder="little").tobytes()
    # Bits behind the last one must not matter.
    stored = stored[:-1] + bytes([stored[-1] | (0xFF << (nbits % 8 or 8)) & 0xFF])
    found = Bitmap(BytesSource(b"junk" + stored + b"\xff" * 100), 4, nbits)
    asked = data.draw(st.lists(st.integers(-3, nbits + 40), max_size=30))
    ranks = np.concatenate([[0], np.cumsum(bits)])
    for bit in asked:
        assert found.test(bit) == (0 <= bit < nbits and bool(bits[bit]))
        assert found.rank(bit) == ranks[min(max(bit, 0), nbits)]
    array = np.array(asked, dtype=np.int64)
    tests, below = found.test_rank_many(array)
    inside = (array >= 0) & (array < nbits)
    assert (tests[inside] == bits[array[inside]]).all()
    assert not tests[~inside].any()
    assert (below[inside] == ranks[array[inside]]).all()
    assert (found.test_many(array) == tests).all()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]]))).reshape(-1, 2)
    expected = [(int(start), int(end)) for start, end in edges]
    assert found.runs(1 << 20) == expected
    if expected:
        assert found.runs(len(expected) - 1) is None or len(expected) < bitmap.CHUNK_BITS


def test_bitmap_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmap, "BATCH", 2)
    monkeypatch.setattr(bitmap, "STRIDE", 2)
    monkeypatch.setattr(bitmap, "KEPT", 1)
    bits = np.random.default_rng(1).integers(0, 2, 10 * bitmap.CHUNK_BITS, dtype=np.uint8)
    found = Bitmap(BytesSource(np.packbits(bits, bitorder="little").tobytes()), 0, len(bits))
    asked = np.random.default_rng(2).integers(0, len(bits), 1000)
    tests, below = found.test_rank_many(asked)
    ranks = np.cumsum(bits) - bits
    assert (tests == bits[asked]).all()
    assert (below == ranks[asked]).all()
    for bit in asked.tolist():
        assert (found.test(bit), found.rank(bit)) == (bits[bit], ranks[bit])


def test_counts_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(1).bytes(5000) + bytes(8192) + b"\xff" * 9000
    with_numpy = Bitmap(BytesSource(data), 0, len(data) * 8)
    without = Bitmap(BytesSource(data), 0, len(data) * 8)
    assert with_numpy.rank(len(data) * 8)
    monkeypatch.delitem(sys.modules, "numpy")
    assert (
        without.rank(len(data) * 8)
        == with_numpy.rank(len(data) * 8)
        == int.from_bytes(data, "little").bit_count()
    )


def test_popcount_of_old_numpy() -> None:
    words = np.random.default_rng(1).integers(0, 1 << 64, 1000, dtype=np.uint64)
    words[:3] = [0, (1 << 64) - 1, 1 << 63]
    assert bitmap._popcount_by_halves(words).tolist() == [int(word).bit_count() for word in words]


NOTES = st.builds(Note, st.text("ABCxyz", max_size=9), st.integers(0, 1 << 32 - 1), st.binary(max_size=70))


@given(
    st.lists(NOTES.filter(lambda note: bool(note.name)), max_size=6),
    st.sampled_from("<>"),
    st.integers(0, 40),
)
def test_notes(notes: list[Note], order: str, zeros: int) -> None:
    data = note_bytes(notes, order) + bytes(zeros)
    assert parse_notes(data, "little" if order == "<" else "big") == notes


@given(st.binary(max_size=200))
def test_notes_of_noise(data: bytes) -> None:
    for note in parse_notes(data, "little"):
        assert len(note.data) <= len(data)


def test_padding_between_notes() -> None:
    one, two = Note("CORE", 1, b"x" * 336), Note("CORE", 1, b"y" * 336)
    data = note_bytes([one]) + bytes(1000) + note_bytes([two]) + bytes(8)
    assert parse_notes(data, "little") == [one, two]


def test_large_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = [Note("LINUX", 0x700, b"d" * 100000), Note("VMCOREINFO", 0, b"OSRELEASE=1\n\0\0")]
    monkeypatch.setattr("kcrash.dump.notes.MAX_WHOLE", 1000)
    path = tmp_path / "notes"
    path.write_bytes(b"12345" + note_bytes(notes))
    with open_source(path) as source:
        found = read_notes(source, 5, 1 << 60, "little")
    assert found == notes
    assert find_note(found, "VMCOREINFO") == b"OSRELEASE=1\n"
    assert find_note(found, "nobody") is None


def test_vmcoreinfo() -> None:
    info = parse_vmcoreinfo(VMCOREINFO_TEXT + b"NUMBER(kimage_voffset)=0xffff7fffc0000000\nCONFIG_X=y\n\0\0")
    assert info.osrelease == info["OSRELEASE"] == info.raw["OSRELEASE"] == "6.1.0-test"
    assert info.build_id == "00112233445566778899aabbccddeeff00112233"
    assert info.symbols == {"init_uts_ns": 0xFFFFFFFF82A0A3C0}
    assert (info.sizes, info.offsets, info.lengths) == (
        {"page": 64},
        {"page.flags": 0},
        {"mem_section": 2048},
    )
    assert info.numbers == {"phys_base": -16777216, "kimage_voffset": 0xFFFF7FFFC0000000}
    assert (info.kernel_offset, info.page_size, info.crash_time) == (0x1C00000, 4096, 1700000000)
    assert "CONFIG_X" in info
    assert len(info) == len(list(info)) == 12


@given(st.binary(max_size=300))
def test_vmcoreinfo_of_noise(data: bytes) -> None:
    info = parse_vmcoreinfo(data + b"\nSIZE(page)=x\nNUMBER()=1\nPAGESIZE=-\nBUILD-ID=zz\nKERNELOFFSET=\n")
    assert "page" not in info.sizes
    if not data:
        assert (info.page_size, info.kernel_offset, info.build_id) == (None, None, None)


PAGE = bytes(range(256)) * 16


@pytest.mark.parametrize("codec", COMPRESS)
def test_codecs(codec: int) -> None:
    stored = COMPRESS[codec](PAGE)
    expand = decompressor(codec)
    assert expand(stored, 4096) == PAGE
    for bad, size in ((stored[:-3], 4096), (b"", 4096), (stored, 4095), (stored, 8192), (b"\xff" * 50, 4096)):
        with pytest.raises(CorruptPage) as caught:
            expand(bad, size)
        assert len(str(caught.value)) < 150
    with pytest.raises(CorruptPage):
        expand(COMPRESS[codec](bytes(1 << 22)), 4096)


def test_zlib_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    expand = codecs._zlib()
    assert expand(zlib.compress(PAGE), 4096) == PAGE
    for bad in (b"", b"xx", zlib.compress(PAGE)[:-5], zlib.compress(bytes(5000))):
        with pytest.raises(CorruptPage):
            expand(bad, 4096)


def test_zstd_without_content_size() -> None:
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(PAGE)
    assert decompressor(codecs.ZSTD)(stored, 4096) == PAGE


@pytest.mark.parametrize(
    ("codec", "module", "package"),
    [(2, "lzallright", "lzallright"), (4, "cramjam", "cramjam"), (0x20, "zstandard", "zstandard")],
)
def test_missing_codec(monkeypatch: pytest.MonkeyPatch, codec: int, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(codecs, "_loaded", {})
    with pytest.raises(MissingCodec) as caught:
        decompressor(codec)
    assert caught.value.package == package


def test_unknown_codec() -> None:
    with pytest.raises(CorruptPage):
        decompressor(8)
