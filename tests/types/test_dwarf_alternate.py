"""Debug info that files share (dwz -m): the same answers as without."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcrash.types.dwarf import DwarfSource
from tests.types import dwarf_samples as samples

NAMES = (
    ("struct", "everything"),
    ("struct", "flags"),
    ("union", "both"),
    ("enum", "color"),
    ("typedef", "u32"),
)


def described(path: Path) -> list[object]:
    """Types, variables, functions and places of a program, down to members and inlined functions."""
    dwarf = DwarfSource(path)
    found: list[object] = []
    for kind, name in NAMES:
        type_ = dwarf.find(kind, name)
        assert type_ is not None, name
        members = getattr(type_, "members", ())
        found += [str(type_), type_.size, [(m.name, m.bit_offset, m.bit_size, str(m.type)) for m in members]]
    found += [
        str(dwarf.variable(name)) for name in ("thing", "quiet", "the_hidden", "sized_elsewhere", "nonesuch")
    ]
    found += [str(dwarf.function(name)) for name in ("outer", "use", "variadic", "the_hidden_value")]
    blue = dwarf.enumerator("BLUE")
    assert blue is not None
    found.append((str(blue[0]), blue[1]))
    for address in samples.text_addresses(path):
        found += [dwarf.line_of(address), dwarf.inline_frames(address), str(dwarf.function_at(address))]
    return found


@pytest.mark.parametrize("flavour", ["dwarf4", "dwarf5"])
@pytest.mark.parametrize("flags", [(), ("--dwarf-5",)])
def test_shared_debug_info(flavour: str, flags: tuple[str, ...]) -> None:
    plain = samples.build(flavour)
    shared = samples.share(plain, *flags)
    info = DwarfSource(shared).info
    assert info.alternate is not None and len(info.alternate.data) > len(info.data) / 4
    assert described(shared) == described(plain)


def test_the_shared_file_is_not_there() -> None:
    """What is left still answers."""
    plain = samples.build("dwarf5")
    shared = samples.share(plain, "-q")
    shared.with_name("common").unlink()
    dwarf = DwarfSource(shared)
    assert dwarf.info.alternate is None and dwarf.find("struct", "nonesuch") is None
    places = samples.text_addresses(shared)
    assert any(dwarf.line_of(address) for address in places)
