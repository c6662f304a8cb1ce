"""Broken debug info: BadFormat or no answer, never another exception, a hang or a flood."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcrash.errors import BadFormat
from kcrash.symbols.elffile import ElfFile, Section
from kcrash.types.dwarf import DwarfSource
from kcrash.types.dwarf.encoding import Malformed, sleb, uleb
from kcrash.types.model import ArrayType, CompoundType, EnumType, FunctionType, Type
from tests.types import dwarf_samples as samples

FLAVOURS = ["dwarf4", "dwarf5", "clang-dwarf5"]
SECTIONS = [
    ".debug_info", ".debug_abbrev", ".debug_str", ".debug_line", ".debug_aranges", ".debug_rnglists",
    ".debug_ranges", ".debug_line_str", ".debug_str_offsets", ".debug_addr",
]  # fmt: skip


def explore(found: Type | None, depth: int = 0) -> None:
    """Ask a type for all it has, some levels down."""
    if found is None or depth > 3:
        return
    plain = found.underlying
    str(found), found.size, plain.kind
    if isinstance(plain, CompoundType):
        for member in plain.members[:40]:
            explore(member.type, depth + 1)
        plain.find("anon_a")
    elif isinstance(plain, EnumType):
        plain.name_of(3)
    elif isinstance(plain, FunctionType):
        for parameter in plain.parameters[:40]:
            explore(parameter.type, depth + 1)
    elif isinstance(plain, ArrayType) or hasattr(plain, "target"):
        explore(plain.target, depth + 1)


def interrogate(source: DwarfSource, addresses: list[int]) -> int:
    """Every question there is; how many were answered."""
    questions: list[Callable[[], object]] = [
        *[
            lambda n=name: explore(source.find("struct", n))
            for name in ("everything", "pid", "hidden", "list_head")
        ],
        lambda: explore(source.find("union", "both")),
        lambda: explore(source.find("enum", "sign")),
        lambda: explore(source.find("base", "int")),
        *[lambda n=name: explore(source.variable(n)) for name in ("thing", "sized_elsewhere", "quiet")],
        *[lambda n=name: explore(source.function(n)) for name in ("outer", "variadic", "deep")],
        lambda: source.enumerator("GREEN"),
        *[lambda k=kind: list(source.names(k)) for kind in ("struct", "typedef")],
        *[lambda a=address: source.line_of(a) for address in addresses],
        *[lambda a=address: source.inline_frames(a) for address in addresses],
        *[lambda a=address: source.function_at(a) for address in addresses],
    ]
    answered = 0
    for question in questions:
        try:
            question()
            answered += 1
        except BadFormat:
            pass
    return answered


def broken(path: Path, section: str, edits: list[tuple[int, int]], cut: int | None) -> DwarfSource | None:
    """The file with bytes of a section changed, and the section cut; None if it has no such section."""
    elf = ElfFile(path)
    found = elf.sections.get(section)
    if found is None or not found.size:
        return None
    content = bytearray(elf.mm)
    for place, value in edits:
        content[found.offset + place % found.size] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        changed = ElfFile(file.name)
    if cut is not None:
        fields = {name: getattr(found, name) for name in Section.__slots__}
        changed.sections[section] = Section(**{**fields, "size": cut % found.size})
    return DwarfSource(changed)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    flavour=st.sampled_from(FLAVOURS),
    section=st.sampled_from(SECTIONS),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=30),
    cut=st.none() | st.integers(0, 1 << 16),
)
def test_flipped_bytes_and_cut_sections(
    flavour: str, section: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    path = samples.build(flavour)
    source = broken(path, section, edits, cut)
    if source is not None:
        interrogate(source, list(samples.text_addresses(path))[::17])


@settings(max_examples=30, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 20), st.sampled_from([0x00, 0x7F, 0x80, 0xFF]), st.sampled_from(SECTIONS))
def test_runs_of_one_byte(start: int, value: int, section: str) -> None:
    path = samples.build("dwarf5")
    source = broken(path, section, [(start + at, value) for at in range(400)], None)
    if source is not None:
        interrogate(source, list(samples.text_addresses(path))[::17])


def test_a_good_file_answers_everything() -> None:
    path = samples.build("dwarf5")
    addresses = list(samples.text_addresses(path))[::17]
    assert interrogate(DwarfSource(path), addresses) == 16 + 3 * len(addresses)


def test_a_type_made_of_itself_is_refused() -> None:
    path = samples.build("dwarf4")
    source = DwarfSource(path)
    hit = next(iter(source._hits("typedef", "u32")))
    places = [at for at in range(hit.die.offset, hit.die.end) if _reads(source, at, hit.die.reference(0x49))]
    own = (hit.die.offset - hit.die.unit.offset).to_bytes(4, "little")
    assert len(places) == 1
    changed = broken(path, ".debug_info", [(places[0] + i, byte) for i, byte in enumerate(own)], None)
    assert changed is not None
    with pytest.raises(BadFormat, match="made of itself"):
        changed.find("typedef", "u32")


def _reads(source: DwarfSource, position: int, target: int | None) -> bool:
    value = int.from_bytes(source.info.data[position : position + 4], "little")
    return value + source.info.unit_at(position).offset == target


@given(st.binary(max_size=24))
def test_leb128_of_anything(data: bytes) -> None:
    for read in (uleb, sleb):
        try:
            value, end = read(memoryview(data), 0)
        except (Malformed, IndexError):
            continue
        assert 0 < end <= 10 and -(1 << 63) <= value < 1 << 64


@pytest.mark.parametrize("value", [0, 1, -1, 63, 64, -64, -65, 127, 128, 2**31, -(2**63), 2**63 - 1])
def test_signed_leb128(value: int) -> None:
    data, rest = bytearray(), value
    while True:
        byte, rest = rest & 0x7F, rest >> 7
        done = (rest == 0 and not byte & 0x40) or (rest == -1 and byte & 0x40)
        data.append(byte if done else byte | 0x80)
        if done:
            break
    assert sleb(memoryview(bytes(data)), 0) == (value, len(data))
