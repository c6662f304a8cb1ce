"""Broken files: only errors of the family come out, in little time and memory."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcrash.dump import open_dump
from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import KcrashError
from tests.build.elf_core import ElfCore, Load
from tests.build.flattened import flattened, in_records
from tests.build.kdump_file import LZO, SNAPPY, ZLIB, ZSTD, KdumpFile
from tests.build.notes import VMCOREINFO_TEXT, usual_notes
from tests.build.pages import some_pages
from tests.fuzz.readers import seeds

PAGES = some_pages(range(3, 30))
LOAD = Load(0x3000, b"".join(PAGES.values()), memsz=40 * 4096, vaddr=0xC0003000)


def kdump(**options: object) -> bytes:
    file = KdumpFile(
        PAGES,
        excluded={1, 40},
        codecs=(ZLIB, LZO, SNAPPY, ZSTD, 0),
        vmcoreinfo=VMCOREINFO_TEXT,
        notes=usual_notes(),
        eraseinfo=b"erase\n",
        **options,  # type: ignore[arg-type]
    )
    return file.to_bytes()


FILES = {
    "kdump": kdump(),
    "kdump32": kdump(layout="packed", order=">", machine="i686"),
    "split": kdump(slice=(5, 20)),
    "elf": ElfCore([LOAD, Load(0x5000, b"z" * 10000)], usual_notes()).to_bytes(),
    "elf32": ElfCore([LOAD], usual_notes(), bits=32, order=">", xnum=True).to_bytes(),
    "flattened": flattened(in_records(kdump(), 3000)),
}
HEAD = {name: 6 * 4096 if "elf" not in name else 1200 for name in FILES}
# Of every other container what is small enough to be written a few hundred times.
OTHERS = {name: data for name, data in seeds().items() if name not in FILES and len(data) < 100_000}
FILES |= OTHERS
HEAD |= {name: min(len(data), 9000) for name, data in OTHERS.items()}


def use(path: Path) -> None:
    """All that can be asked of a dump."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kcrash.dump.kdump.MAX_RANGES", 1000)
        try:
            dump = open_dump([path])
        except KcrashError:
            return
        try:
            _ask(dump)
        finally:
            dump.close()


def _ask(dump: object) -> None:
    from kcrash.dump.base import Dump

    assert isinstance(dump, Dump)
    parse_vmcoreinfo(dump.info.vmcoreinfo or b"")
    page = dump.info.page_size
    for address in (0, 0x3000, 0x3FFE, 0x5000, 29 * 4096, 40 * 4096, 1 << 40, (1 << 64) - 2):
        dump.try_read(address, 5000)
    pfns = np.array([*range(45), 1 << 30, (1 << 64) // page - 1], dtype=np.uint64)
    for call in (dump.ranges, lambda: dump.page_states(pfns, page), lambda: dump.read_pages(pfns[:45], page)):
        with suppress(KcrashError):
            call()


CHECKS = settings(
    deadline=5000,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@CHECKS
@given(st.sampled_from(sorted(FILES)), st.data())
def test_truncations(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / "file"
    content = FILES[name]
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    use(path)


@CHECKS
@given(st.sampled_from(sorted(FILES)), st.data())
def test_flipped_bytes(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / "file"
    content = bytearray(FILES[name])
    interesting = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, HEAD[name] - 1))] = data.draw(interesting)
    path.write_bytes(content)
    use(path)


@CHECKS
@given(st.sampled_from(sorted(FILES)), st.data())
def test_overwritten_words(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / "file"
    content = bytearray(FILES[name])
    values = st.sampled_from([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 4096, 1 << 62, (1 << 64) - 1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, HEAD[name] // 4 - 2)) * 4
        width, order = data.draw(st.sampled_from([4, 8])), data.draw(st.sampled_from(["little", "big"]))
        value = data.draw(values) & ((1 << 8 * width) - 1)
        content[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
    path.write_bytes(content)
    use(path)


def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    """Every 32-bit word of the headers, one after the other, says four milliards or two."""
    path = tmp_path / "file"
    for name in FILES.keys() - OTHERS:
        content = FILES[name]
        words = (
            range(0, 700, 4)
            if "elf" in name
            else [*range(0, 20, 4), *range(400, 500, 4), *range(4096, 4200, 4)]
        )
        for at in words:
            for value in (0xFFFFFFFF, 0x7FFFFFFF):
                changed = bytearray(content)
                changed[at : at + 4] = value.to_bytes(4, "little")
                path.write_bytes(changed)
                tracemalloc.start()
                use(path)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                assert peak < 64 << 20, (name, at)
