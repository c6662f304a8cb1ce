"""What is kept on disk of debug info: it changes nothing but the time, whatever happens to the file."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf import DwarfSource, index, source
from kcrash.types.dwarf.lookup import NameLookup
from tests.types import dwarf_samples as samples

NAMES = (
    ("struct", "everything"),
    ("union", "both"),
    ("enum", "color"),
    ("typedef", "u32"),
    ("struct", "nonesuch"),
)
VARIABLES = ("thing", "quiet", "sized_elsewhere", "the_hidden", "no_such_variable")


@pytest.fixture(scope="module")
def program() -> Path:
    """A linked file with a build-id."""
    path = samples.build("dwarf5").with_name("with-build-id")
    files = [str(path.with_name(name)) for name in ("first.c", "second.c")]
    samples.run(["gcc", "-O2", "-g", "-no-pie", "-fno-pie", "-w", "-Wl,--build-id", *files, "-o", str(path)])
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, into which everything goes."""
    monkeypatch.setenv("KCRASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "SLOW", -1.0)
    yield tmp_path / "cache" / "dwarf" / "buildid"


def answers(program: Path) -> list[str]:
    """What a new session learns of a file."""
    dwarf = DwarfSource(program)
    found: list[object] = [dwarf.find(kind, name) for kind, name in NAMES]
    found += [dwarf.variable(name) for name in VARIABLES]
    found += [dwarf.function("outer"), dwarf.function("no_such_function")]
    color = dwarf.enumerator("BLUE")
    assert color is not None and color[1] == 6
    found += [color[0], dwarf.enumerator("NO_SUCH_COLOR")]
    places = [row[0] for row in (dwarf._scopes.addresses._listed.lows,) if row]
    found += [dwarf.line_of(place) for place in places] + [dwarf.line_of(1)]
    return [str(item) for item in found]


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_second_session_searches_nothing(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answers(program)
    assert "struct everything" in first and first.count("None") == 5

    def hits(*args: object) -> None:
        raise AssertionError("a search")

    monkeypatch.setattr(NameLookup, "hits", hits)
    assert answers(program) == first


def test_damage_is_ignored_and_mended(program: Path, folder: Path) -> None:
    first = answers(program)
    good = only(folder).read_bytes()
    chooser = random.Random(3)
    spoilt = [good[:size] for size in (0, 5, 40, len(good) // 2, len(good) - 1)] + [good + b"\0", b"x" * 5000]
    for at in [*range(56), *(chooser.randrange(len(good)) for _ in range(40))]:
        spoilt.append(good[:at] + bytes([good[at] ^ 1 << chooser.randrange(8)]) + good[at + 1 :])
    for data in spoilt:
        only(folder).write_bytes(data)
        assert answers(program) == first
        assert only(folder).read_bytes() == good


def test_a_lie_with_a_right_checksum_is_found_out(program: Path, folder: Path) -> None:
    """DIE offsets of other things, and of nothing at all."""
    first = answers(program)
    key = bytes.fromhex(only(folder).name)
    for wrong in (1, 77, 1 << 40, (1 << 64) - 1):
        state = index._decode(only(folder).read_bytes(), key, 1 << 40)
        state.names = {name: wrong if offset else 0 for name, offset in state.names.items()}
        only(folder).write_bytes(index._encode(state, key))
        assert answers(program) == first


def test_hostile_numbers_of_units_do_no_harm(program: Path, folder: Path) -> None:
    answers(program)
    good = only(folder).read_bytes()
    size = index._HEADER.size
    for at in range(size, min(size + 400, len(good) - 12), 8):
        only(folder).write_bytes(index.sealed(good[:at] + b"\x11" * 8 + good[at + 8 : -4]))
        dwarf = DwarfSource(program)
        with contextlib.suppress(BadFormat):
            assert dwarf.find("struct", "nonesuch") is None
            dwarf.line_of(0x401000)


def test_another_build_has_its_own_file(program: Path, folder: Path, tmp_path: Path) -> None:
    first = answers(program)
    other = tmp_path / "other"
    note = "-Wl,--build-id=0x" + "ab" * 20
    sources = [str(program.with_name(name)) for name in ("second.c", "first.c")]
    samples.run(["gcc", "-O1", "-g", "-no-pie", "-fno-pie", "-w", note, *sources, "-o", str(other)])
    assert answers(other)[:10] == first[:10]
    assert len(list(folder.iterdir())) == 2
    packed = tmp_path / "packed"
    samples.run(["objcopy", "--compress-debug-sections=zlib", str(program), str(packed)])
    assert ElfFile(packed).build_id == ElfFile(program).build_id
    assert answers(packed) == first


_WRITER = """
import sys
from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf.index import Index
for number in range(20):
    index = Index(ElfFile(sys.argv[1]))
    index.keep_name("struct", f"{sys.argv[2]}_{number}", number + 1)
    index.flush()
"""


def test_a_damaged_copy_spoils_nothing(program: Path, folder: Path, tmp_path: Path) -> None:
    """It says the build-id of the good file, and finds less in itself."""
    copy = tmp_path / "copy"
    data = bytearray(program.read_bytes())
    section = ElfFile(program).sections[".debug_info"]
    data[section.offset + 64 : section.offset + section.size] = bytes(section.size - 64)
    copy.write_bytes(data)
    assert ElfFile(copy).build_id == ElfFile(program).build_id
    with contextlib.suppress(Exception):
        answers(copy)
    assert answers(program).count("None") == 5


def test_processes_that_write_at_once(program: Path, folder: Path) -> None:
    """The file is whole at every moment, and in the end holds what the last writers knew."""
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(program), name]) for name in "abcd"]
    key, read = None, 0
    while any(writer.poll() is None for writer in writers):
        for path in folder.iterdir() if folder.is_dir() else ():
            key = bytes.fromhex(path.name)
            index._decode(path.read_bytes(), key, 1 << 40)
            read += 1
    assert all(writer.wait() == 0 for writer in writers) and read and key
    names = index._decode(only(folder).read_bytes(), key, 1 << 40).names
    assert len(names) >= 20 and len(list((folder.parent / "tmp").iterdir())) == 0


def test_it_stays_small(program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_NAMES", 10)
    made = index.Index(ElfFile(program))
    for number in range(50):
        made.keep_name("struct", f"name_{number}", number)
        made.flush()
    again = index.Index(ElfFile(program))
    assert again.name("struct", "name_49") == 49 and again.name("struct", "name_39") is None
    assert len(again.state.names) == 10


def test_no_folder_no_harm(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KCRASH_CACHE", str(tmp_path / "file"))
    assert "struct everything" in answers(program)


def test_nothing_is_kept_of_objects(folder: Path) -> None:
    """A module's sections are elsewhere in every dump; and it is small."""
    found = DwarfSource(samples.build_object("x86_64-linux-gnu"))
    assert found.find("struct", "hidden") is not None and not folder.exists()
