"""DWARF of small compiled files: the types, against gdb and pyelftools, and files of other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcrash.errors import BadFormat
from kcrash.types.dwarf import DwarfSource
from kcrash.types.dwarf import constants as dw
from kcrash.types.model import (
    VOID,
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    FunctionType,
    IntType,
    PointerType,
    QualifiedType,
    TypedefType,
)
from tests.types import dwarf_samples as samples


@pytest.fixture(params=samples.FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(flavour: str) -> Path:
    return samples.build(flavour)


@pytest.fixture
def source(path: Path) -> DwarfSource:
    return DwarfSource(path)


def compound(source: DwarfSource, kind: str, name: str) -> CompoundType:
    found = source.find(kind, name)
    assert isinstance(found, CompoundType), (kind, name)
    return found


def test_members_and_sizes(source: DwarfSource) -> None:
    everything = compound(source, "struct", "everything")
    assert everything.complete and everything.kind == "struct"
    assert everything.has("anon_a") and everything.has("y") and everything.has("list.prev")
    flags = everything.member("flags").type
    assert isinstance(flags, CompoundType)
    assert [(m.name, m.bit_offset, m.bit_size) for m in flags.members] == [
        ("a", 0, 3),
        ("b", 3, 7),
        ("c", 10, 5),
        ("d", 15, 40),
    ]
    both = compound(source, "union", "both")
    assert (both.kind, both.size, both.offset("bytes")) == ("union", 8, 0)


def test_layout_agrees_with_gdb(path: Path, flavour: str, source: DwarfSource) -> None:
    if "clang" in flavour:
        pytest.skip("the gdb of stable distributions is older than its clang; pyelftools checks these")
    for kind, name in (("struct", "everything"), ("struct", "flags"), ("struct", "list_head")):
        found = compound(source, kind, name)
        members = [member for member in found.members if member.name and not member.bit_size]
        wanted = [f"sizeof({kind} {name})"] + [f"&(({kind} {name} *)0)->{member.name}" for member in members]
        got = [found.size] + [member.offset for member in members]
        assert got == samples.gdb_values(path, wanted)


def test_kinds_of_types(source: DwarfSource) -> None:
    everything = compound(source, "struct", "everything")
    grid = everything.member("grid").type
    assert isinstance(grid, ArrayType) and isinstance(grid.target, ArrayType)
    assert (grid.count, grid.target.count, grid.size) == (2, 3, 24)
    tail = everything.member("tail").type
    assert isinstance(tail, ArrayType) and (tail.count, tail.size) == (None, 0)
    assert isinstance(tail.target, TypedefType) and tail.target.name == "u32"
    empty = everything.member("empty").type
    assert isinstance(empty, ArrayType) and not empty.count
    assert isinstance(everything.member("cv").type, QualifiedType)
    fixed = everything.member("fixed").type
    assert isinstance(fixed, QualifiedType) and isinstance(fixed.target, PointerType)
    on, real = everything.member("on").type, everything.member("real").type.underlying
    assert isinstance(on, IntType) and on.is_bool and isinstance(real, FloatType)
    opaque = everything.member("opaque").type
    assert isinstance(opaque, PointerType) and opaque.target is VOID and opaque.size == 8
    operation = everything.member("op").type
    assert isinstance(operation, PointerType) and isinstance(operation.target, FunctionType)
    assert operation.target.variadic and len(operation.target.parameters) == 2
    assert str(operation) == "int (*)(struct everything *, const char *, ...)"


def test_enums(source: DwarfSource) -> None:
    color, sign = source.find("enum", "color"), source.find("enum", "sign")
    assert isinstance(color, EnumType) and isinstance(sign, EnumType)
    assert color.enumerators == {"RED": 0, "GREEN": 5, "BLUE": 6} and not color.signed
    assert sign.enumerators == {"MINUS": -3, "PLUS": 7} and sign.signed
    found = source.enumerator("GREEN")
    assert found and (found[0].name, found[1]) == ("color", 5)
    assert source.enumerator("MINUS") is not None and source.enumerator("PURPLE") is None


def test_names_however_they_are_stored(source: DwarfSource) -> None:
    # "pid" is inline where gcc wrote it, "both" the tail of "thread_both", "list_head" of "my_list_head".
    assert compound(source, "struct", "pid").size == 4
    assert compound(source, "union", "both").size == 8
    assert compound(source, "struct", "list_head").size == 16
    assert source.find("typedef", "u32") is not None
    assert source.find("base", "int") is not None
    for kind, name in (
        ("struct", "nonesuch"),
        ("struct", "u32"),
        ("struct", ""),
        ("struct", "a\0b"),
        ("enum", "é"),
    ):
        assert source.find(kind, name) is None
    assert {"everything", "list_head", "pid", "flags", "hidden"} <= set(source.names("struct"))
    assert "color" in set(source.names("enum"))


def test_declarations_find_their_definition(source: DwarfSource) -> None:
    everything = compound(source, "struct", "everything")
    pointer = everything.member("hidden").type
    assert isinstance(pointer, PointerType) and isinstance(pointer.target, CompoundType)
    assert pointer.target.complete and pointer.target.size == 16 and pointer.target.has("self")
    nowhere = everything.member("nowhere").type
    assert isinstance(nowhere, PointerType) and isinstance(nowhere.target, CompoundType)
    assert not nowhere.target.complete and nowhere.target.size == 0 and not nowhere.target.members


def test_variables(source: DwarfSource) -> None:
    assert str(source.variable("thing")) == "struct everything"
    assert str(source.variable("quiet")) == "struct flags"
    assert str(source.variable("other_thing")) == "struct everything *"
    assert str(source.variable("sized_elsewhere")) == "char [42]"
    assert str(source.variable("banner")) == "const char [7]"
    assert str(source.variable("my_list_head")) == "struct list_head"
    assert source.variable("ret") is None and source.variable("count") is None  # locals, parameters
    assert source.variable("everything") is None


def test_functions(source: DwarfSource) -> None:
    outer = source.function("outer")
    assert isinstance(outer, FunctionType)
    assert [(p.name, str(p.type)) for p in outer.parameters] == [
        ("arg", "struct everything *"),
        ("count", "int"),
    ]
    variadic = source.function("variadic")
    assert isinstance(variadic, FunctionType) and variadic.variadic
    assert isinstance(source.function("deep"), FunctionType)  # only ever inlined
    assert source.function("thing") is None


def test_every_die_agrees_with_pyelftools(path: Path, source: DwarfSource) -> None:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        units = list(ELFFile(file).get_dwarf_info().iter_CUs())
        assert [unit.cu_offset for unit in units] == list(source.info.starts)
        for unit in units:
            mine = source.info.unit(unit.cu_offset)
            walked = [at for at, _depth, code in source.info.walk(mine, mine.first) if code]
            theirs = [die for die in unit.iter_DIEs() if die.tag]
            assert walked == [die.offset for die in theirs]
            for die in theirs:
                _compare(source, die)
                assert source.info.path_to(mine, die.offset)[-1] == die.offset
            top = [die.offset for die in unit.get_top_DIE().iter_children()]
            assert [at for at, _code in source.info.top_level(mine)] == top


def _compare(source: DwarfSource, theirs: object) -> None:
    mine = source.info.die(theirs.offset)  # type: ignore[attr-defined]
    for name, value in theirs.attributes.items():  # type: ignore[attr-defined]
        number = value.value
        attribute = getattr(dw, name, None) if isinstance(name, str) else None
        if attribute is None:
            continue
        if isinstance(number, bytes):
            assert mine.string(attribute).encode() == number
        elif "ref" in value.form:
            wanted = number if value.form == "DW_FORM_ref_addr" else number + mine.unit.offset
            assert mine.reference(attribute) == wanted
        elif value.form == "DW_FORM_addr" or value.form.startswith("DW_FORM_addrx"):
            assert mine.address(attribute) == number
        elif isinstance(number, bool):
            assert mine.flag(attribute) == number
        elif isinstance(number, int) and not value.form.endswith("listx"):
            assert mine.number(attribute) == number
        elif isinstance(number, list) and mine.block(attribute) is not None:
            assert list(mine.block(attribute) or b"") == number


def test_progress_of_unpacking_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    source = DwarfSource(samples.build("compressed"), progress=lambda *row: told.append(row))
    assert source.find("struct", "everything") is not None
    assert any(name == ".debug_info" and done == total for name, done, total in told)


MACHINES = ("x86_64", "aarch64", "riscv64", "powerpc64", "powerpc64le", "s390x", "mips64el", "loongarch64")
NARROW = ("i386", "armv7", "riscv32")


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
@pytest.mark.parametrize("machine", [*MACHINES, *NARROW])
def test_relocatable_files_of_other_machines(machine: str, version: str) -> None:
    if machine == "mips64el":
        pytest.skip("MIPS has its own form of relocations, which no dump of interest needs")
    source = DwarfSource(samples.build_object(f"{machine}-linux-gnu", version))
    pointer = 4 if machine in NARROW else 8
    hidden = compound(source, "struct", "hidden")
    assert (hidden.size, hidden.offset("self")) == (2 * pointer, pointer)
    assert str(source.variable("sized_elsewhere")) == "char [42]"
    everything = compound(source, "struct", "everything")
    assert everything.offset("list") == 16 and everything.member("pid").type.size == pointer
    flags = everything.member("flags").type
    assert isinstance(flags, CompoundType)
    assert [(m.name, m.bit_offset, m.bit_size) for m in flags.members][:3] == [
        ("a", 0, 3),
        ("b", 3, 7),
        ("c", 10, 5),
    ]
    assert str(source.function("use")) == "u32 (union both *)"
    assert source.variable("local") is None


def test_modules_are_relocated_to_where_they_were_loaded() -> None:
    path = samples.build_object("x86_64-linux-gnu", "-gdwarf-5")
    base = 0xFFFFFFFFC0000000
    at_zero, loaded = DwarfSource(path), DwarfSource(path, section_addresses={".text": base})
    here = at_zero.function_at(0)
    there = loaded.function_at(base)
    assert here and there and here.name == there.name and there.low == base
    assert loaded.line_of(base) == at_zero.line_of(0) is not None
    assert loaded.function_at(0) is None


def test_opening_reads_nothing_and_a_file_without_debug_info_knows_nothing(tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    samples.run([samples.need("objcopy"), "-g", str(samples.build("dwarf5")), str(stripped)])
    source = DwarfSource(stripped)
    assert not source.present()
    assert source.find("struct", "pid") is None and source.variable("thing") is None
    assert source.line_of(0x401000) is None and source.inline_frames(0x401000) == []
    assert list(source.names("struct")) == []
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BadFormat):
        DwarfSource(tmp_path / "empty")
