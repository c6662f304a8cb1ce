"""Lines and inlined functions, against addr2line and gdb, at every address of the samples."""

from __future__ import annotations

import pytest

from kcrash.types.dwarf import DwarfSource, Frame
from tests.types import dwarf_samples as samples

GCC = [name for name, (compiler, *_flags) in samples.FLAVOURS.items() if compiler == "gcc"]


@pytest.mark.parametrize("flavour", samples.FLAVOURS)
def test_inlined_frames_agree_with_addr2line(flavour: str) -> None:
    path = samples.build(flavour)
    source = DwarfSource(path)
    compared = 0
    for address, wanted in samples.addr2line(path, samples.text_addresses(path)).items():
        frames = source.inline_frames(address)
        if not frames or "?" in wanted[0][1]:  # the padding between functions: addr2line guesses by symbol
            continue
        assert [(f.function, f"{f.file}:{f.line}") for f in frames] == wanted, hex(address)
        assert [f.inlined for f in frames] == [True] * (len(frames) - 1) + [False]
        assert source.line_of(address, last_row=True) == (frames[0].file, frames[0].line)
        compared += len(frames) > 1
    assert compared > 5


@pytest.mark.parametrize("flavour", GCC)
def test_lines_agree_with_gdb(flavour: str) -> None:
    path = samples.build(flavour)
    source = DwarfSource(path)
    known = 0
    for address, wanted in samples.gdb_lines(path, samples.text_addresses(path)).items():
        found = source.line_of(address)
        if wanted is None:
            assert found is None, hex(address)
            continue
        assert found is not None and found.line == wanted[1] and found.file.endswith(wanted[0]), hex(address)
        known += 1
    assert known > 50


@pytest.mark.parametrize("flavour", samples.FLAVOURS)
def test_functions_by_address(flavour: str) -> None:
    path = samples.build(flavour)
    source = DwarfSource(path)
    rows = [row.split() for row in samples.run(["nm", "-S", str(path)]).splitlines()]
    symbols = {row[3]: (int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4}
    for name in ("outer", "the_hidden_value", "variadic", "use", "main"):
        low, size = symbols[name]
        for address in (low, low + size - 1):
            found = source.function_at(address)
            assert found and (found.name, found.low, found.high) == (name, low, low + size)
    outer = source.function_at(symbols["outer"][0])
    assert outer and [parameter.name for parameter in outer.parameters] == ["arg", "count"]
    assert str(outer.parameters[0].type) == "struct everything *"


def test_addresses_of_nothing() -> None:
    source = DwarfSource(samples.build("dwarf5"))
    for address in (0, 1, 0xFFFFFFFFFFFFFFFF, 1 << 70, -1):
        assert source.line_of(address) is None
        assert source.inline_frames(address) == []
        assert source.function_at(address) is None


def test_frames_name_the_place_of_the_call() -> None:
    path = samples.build("dwarf5")
    source = DwarfSource(path)
    found = [source.inline_frames(address) for address in samples.text_addresses(path)]
    deepest = max(found, key=len)
    assert [frame.function for frame in deepest] == ["deep", "middle", "outer"]
    lines = (path.parent / "first.c").read_text().splitlines()
    assert "v = deep(v + 1)" in lines[deepest[1].line - 1]
    assert "middle(at)" in lines[deepest[2].line - 1]
    assert isinstance(deepest[0], Frame) and deepest[0].file == str(path.parent / "first.c")
