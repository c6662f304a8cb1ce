"""Dumps that are compressed as a whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from kcrash.dump import identify, open_dump
from kcrash.errors import BadFormat, KcrashError
from kcrash.session import sort_files
from tests.build.elf_core import ElfCore, Load
from tests.build.flattened import flattened, in_records
from tests.build.kdump_file import KdumpFile
from tests.build.pages import some_pages

PAGES = some_pages(range(3, 600))
MEMORY = b"".join(PAGES.values())
ELF = ElfCore([Load(0x3000, MEMORY)]).to_bytes()
FILES = {
    "elf": ELF,
    "kdump": KdumpFile(PAGES).to_bytes(),
    "flattened": flattened(in_records(KdumpFile(PAGES).to_bytes(), 5000)),
}


def _lzop(data: bytes) -> bytes:
    lzop = shutil.which("lzop")
    if lzop is None:
        pytest.skip("there is no lzop")
    return subprocess.run([lzop, "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "lzo": _lzop,
}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("form", FILES)
def test_packed(tmp_path: Path, own_cache: Path, suffix: str, form: str) -> None:
    path = tmp_path / f"vmcore.{suffix}"
    path.write_bytes(PACKERS[suffix](FILES[form]))
    heard: list[tuple[str, int, int | None]] = []
    dump = open_dump([path], lambda *told: heard.append(told))
    assert dump.read(0x3000, len(MEMORY)) == MEMORY
    assert dump.path == str(path)
    dump.close()
    assert heard[-1] == (f"unpacking vmcore.{suffix}", path.stat().st_size, path.stat().st_size)
    heard.clear()
    open_dump([path], lambda *told: heard.append(told)).close()
    assert not heard  # kept
    assert identify(path) == "dump"
    assert sort_files([str(path)]) == ([], [str(path)])
    assert len(list(own_cache.glob("*/unpacked/*"))) == 1


def test_what_is_packed_decides(tmp_path: Path) -> None:
    """A packed vmlinux is no dump; whatever else is packed is refused by what it is."""
    path = tmp_path / "vmlinux.gz"
    path.write_bytes(gzip.compress(ElfCore([], type=2).to_bytes()))
    assert identify(path) == "compressed"
    assert sort_files([str(path)]) == ([str(path)], [])
    with pytest.raises(BadFormat, match="not a dump but an ELF executable"):
        open_dump([path])


def test_holes(tmp_path: Path, own_cache: Path) -> None:
    """Zeros take no room in the cache."""
    memory = bytes(32 << 20) + b"end."
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(ElfCore([Load(0, memory)]).to_bytes(), 1))
    dump = open_dump([path])
    assert dump.read(0, len(memory)) == memory
    (kept,) = own_cache.glob("*/unpacked/*")
    assert kept.stat().st_size > len(memory)
    assert kept.stat().st_blocks * 512 < 4 << 20


@pytest.mark.parametrize("cut", [20, 1000, 50_000])
def test_cut(tmp_path: Path, own_cache: Path, cut: int) -> None:
    path = tmp_path / "vmcore.gz"
    path.write_bytes(gzip.compress(FILES["elf"])[:cut])
    with pytest.raises(KcrashError, match="stream is cut"):
        open_dump([path])
    assert not list(own_cache.glob("*/unpacked/*"))
    assert not list(own_cache.glob("*/tmp/*"))
