"""Debug info in .dwo files and .dwp packages: the same answers as without."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kcrash.types.dwarf import DwarfSource
from kcrash.types.dwarf.split import _package_index
from tests.types import dwarf_samples as samples
from tests.types.test_dwarf_alternate import described

# gcc's DWARF 5 is what no packer of Debian 12 can pack.
PACKERS = [("dwarf4", "dwp"), ("clang-dwarf4", "llvm-dwp"), ("clang-dwarf5", "llvm-dwp")]


def variables(path: Path) -> list[object]:
    """Variables, their places and constants, and calls, at all addresses of the samples."""
    dwarf = DwarfSource(path)
    found: list[object] = []
    for address in samples.text_addresses(path):
        for scope in dwarf.frame_scopes(address):
            found.append(scope.frame)
            found += [
                (v.name, v.parameter, v.constant, v.location and v.location[:1]) for v in scope.variables
            ]
        site = dwarf.call_site(address)
        found.append(site and (site.callee, sorted(site.values)))
        found.append(dwarf.frame_base(address))
    return found


@pytest.mark.parametrize("flavour", ["dwarf4", "dwarf5", "clang-dwarf4", "clang-dwarf5"])
def test_split_files(flavour: str) -> None:
    plain, split = samples.build(flavour), samples.split(flavour)
    assert described(split) == described(plain)
    assert set(DwarfSource(split).names("struct")) == set(DwarfSource(plain).names("struct"))
    assert_same(variables(split), variables(plain), exact="clang" in flavour)


@pytest.mark.parametrize(("flavour", "packer"), PACKERS)
def test_packages(flavour: str, packer: str) -> None:
    plain, packed = samples.build(flavour), samples.split(flavour, packer)
    assert not list(packed.parent.glob("*.dwo"))
    assert described(packed) == described(plain)
    assert_same(variables(packed), variables(plain), exact="clang" in flavour)


def assert_same(split: list[object], plain: list[object], *, exact: bool) -> None:
    """gcc lets ranges that start inside a call end two bytes early: it subtracts LABEL-1 without brackets."""
    pairs = list(zip(_indexed(split), _indexed(plain), strict=True))
    different = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    if exact:
        assert different == []
        return
    assert len(different) < len(pairs) / 50
    for ours, theirs in different:
        assert isinstance(ours, tuple) and isinstance(theirs, tuple) and ours == (*theirs[:3], None)


def _indexed(found: list[object]) -> list[object]:
    """An address may be given by index, or not."""
    same = {b"\x03": b"address", b"\xa1": b"address", b"\xfb": b"address"}
    return [
        (*one[:3], same.get(one[3], one[3])) if isinstance(one, tuple) and len(one) == 4 else one
        for one in found
    ]


@pytest.mark.parametrize("flavour", ["dwarf4", "dwarf5"])
def test_types_agree_with_gdb(flavour: str) -> None:
    path = samples.split(flavour)
    struct_ = DwarfSource(path).find("struct", "everything")
    assert struct_ is not None
    names = [member.name for member in struct_.members if member.name]  # type: ignore[attr-defined]
    offsets = samples.gdb_values(path, [f"&((struct everything *)0)->{name}" for name in names])
    assert [struct_.offset(name) for name in names] == offsets  # type: ignore[attr-defined]


def test_the_index_of_a_package_agrees_with_readelf() -> None:
    path = samples.split("dwarf4", "dwp")
    package = DwarfSource(path).info.splits.package
    assert package is not None
    command = [samples.need("readelf"), "--debug-dump=cu_index", f"{path}.dwp"]
    text = subprocess.run(
        command, check=False, capture_output=True, text=True
    ).stdout  # it deplores an empty table
    rows = re.findall(r"\[ *\d+\] 0x([0-9a-f]+) +(\d+) +(\d+)", text.partition("Size table")[0])
    ours = {
        (f"{one:x}", start, places[".debug_abbrev"]) for start, (one, places) in package.contributions.items()
    }
    assert len(ours) == 2 and ours == {(one, int(info), int(abbrev)) for one, info, abbrev in rows}


@pytest.mark.parametrize("flavour", ["dwarf4", "dwarf5"])
def test_a_missing_file_is_named_once_and_the_others_are_read(flavour: str, tmp_path: Path) -> None:
    """The files are looked for beside the linked one, too."""
    source = samples.split(flavour)
    path = Path(shutil.copy(source, tmp_path / "program"))
    shutil.copy(source.with_name("first.dwo"), tmp_path)
    hidden = source.with_name("second.dwo")
    moved = hidden.rename(hidden.with_suffix(".away"))
    told: list[str] = []
    try:
        dwarf = DwarfSource(path, notice=told.append)
        assert dwarf.variable("thing") is not None and dwarf.function("outer") is not None
        for _ in range(2):
            assert dwarf.function("the_hidden_value") is not None  # declared by the other unit
            assert dwarf.function("variadic") is None
        assert len(told) == 1 and "second.dwo" in told[0] and "\n" not in told[0]
        places = samples.text_addresses(path)
        lines = [dwarf.line_of(address) for address in places]
        assert {line.file.rpartition("/")[2] for line in lines if line} == {"first.c", "second.c"}
        assert any(dwarf.inline_frames(address) for address in places)
        shutil.copy(source.with_name("first.dwo"), tmp_path / "second.dwo")  # of another unit
        assert DwarfSource(path).function("variadic") is None
    finally:
        moved.rename(hidden)


@pytest.mark.parametrize("flavour", ["dwarf4", "dwarf5"])
def test_broken_files(flavour: str, tmp_path: Path) -> None:
    """They answer, or say one thing, whatever is in them."""
    from kcrash.errors import KcrashError

    source = samples.split(flavour)
    data = source.with_name("second.dwo").read_bytes()
    path = Path(shutil.copy(source, tmp_path / "program"))
    hidden = source.with_name("second.dwo")
    moved = hidden.rename(hidden.with_suffix(".away"))
    try:
        for at in range(0, len(data), 97):
            (tmp_path / "second.dwo").write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
            dwarf = DwarfSource(path)
            try:
                dwarf.function("variadic")
                dwarf.find("struct", "hidden")
            except KcrashError as error:
                assert "\n" not in str(error)
    finally:
        moved.rename(hidden)


def test_hostile_index() -> None:
    for words in ((2, 5, 2, 1 << 31), (2, 1 << 30, 1 << 30, 2), (9, 1, 1, 1)):
        with pytest.raises(ValueError, match="index"):
            list(_package_index(memoryview(struct.pack("<4I", *words) + bytes(64)), "<"))
