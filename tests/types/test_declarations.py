"""The table of declarations, held against what DWARF says of the same variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kcrash
from kcrash.session import Session
from kcrash.types import declarations
from kcrash.types.btf import BtfSource
from kcrash.types.declarations import DeclarationSource
from kcrash.types.model import ArrayType, CompoundType, IntType, PointerType, Type
from tests.lab import lab
from tests.unwind.support import KERNELS

TABLE = Path(declarations.__file__).with_name("kernel.h").read_text()
LINE = re.compile(r"^[^/\n]*?\b(\w+)(?:\[[^;\n]*)?;(.*)$", re.M)


def names() -> list[str]:
    return list(dict.fromkeys(match[1] for match in LINE.finditer(TABLE)))


@pytest.fixture(scope="module", params=KERNELS)
def opened(request: pytest.FixtureRequest) -> tuple[str, Session]:
    if not lab.cached(request.param):
        pytest.skip("the lab has no such dump at hand")
    dumps = lab.dumps(request.param, names=["zlib-d31"])
    return request.param, kcrash.open(str(dumps.vmlinux), str(dumps.forms["zlib-d31"]))


def shape(type_: Type) -> str:
    """What counts of a type: not its qualifiers, the names of typedefs, nor (BTF of 5.10) a char's sign."""
    plain = type_.underlying
    if isinstance(plain, ArrayType):
        return f"{shape(plain.target)}[{'' if plain.count is None else plain.count}]"
    if isinstance(plain, PointerType):
        return f"{shape(plain.target)} *"
    if isinstance(plain, IntType):
        return "char" if plain.is_char else f"{'' if plain.signed else 'unsigned '}{plain.size}-byte int"
    if isinstance(plain, CompoundType) and not plain.name:
        return f"{plain.kind} {[(m.name, m.bit_offset, shape(m.type)) for m in plain.members]}"
    return f"{plain.kind} {plain.name}"


def same(one: str, other: str) -> bool:
    """True if they differ at most in bounds that one of them leaves open."""
    return one == other or any(
        re.fullmatch(re.escape(a).replace(r"\[\]", r"\[\d*\]"), b) for a, b in ((one, other), (other, one))
    )


@pytest.mark.lab
def test_the_table_says_what_dwarf_says(opened: tuple[str, Session]) -> None:
    """A quarter of the names on each kernel, and on all of them those that kernels differ in."""
    version, session = opened
    without_dwarf = [s for s in session.types.sources if isinstance(s, BtfSource | DeclarationSource)]
    all_names = [match[1] for match in LINE.finditer(TABLE)]
    twice = {name for name in all_names if all_names.count(name) > 1}
    chosen = [name for n, name in enumerate(names()) if n % 4 == KERNELS.index(version) or name in twice]
    checked, wrong, untyped = 0, [], set()
    for name in chosen:
        exact = session.dwarf.variable(name) if session.symbols.kernel.symbol(name) else None
        ours = next((found for s in without_dwarf if (found := s.variable(name)) is not None), None)
        if exact is not None and ours is None:
            untyped.add(name)
        elif exact is not None and ours is not None:
            checked += 1
            if not same(shape(exact), shape(ours)):
                wrong.append(f"{name}: {shape(ours)}, DWARF has {shape(exact)}")
    assert wrong == [] and checked > 100
    assert untyped == set()


@pytest.mark.lab
def test_the_kernels_that_the_comments_name(opened: tuple[str, Session]) -> None:
    version, session = opened
    for match in LINE.finditer(TABLE):
        named = re.search(r"// (?:with struct \S+, )?((?:\d+\.\d+(?:, )?)+)$", match[0])
        if named:
            has = session.symbols.kernel.symbol(match[1]) is not None
            assert has == (version in named[1].split(", ")), match[0]


# -- what a line can say


@pytest.fixture(scope="module")
def types(opened: tuple[str, Session]) -> Session:
    return opened[1]


@pytest.mark.lab
def test_bounds_conditions_and_sizes(types: Session) -> None:
    text = """
atomic_long_t by_enum[NR_VM_NODE_STAT_ITEMS];
int unknown_bound[NO_SUCH_ENUMERATOR];
int negative[-1];
struct list_head *open[];
const char text[];
int empty[];
struct file chosen; // with struct task_struct.no_such_member
struct page chosen; // with struct no_such_struct.x
struct list_head chosen; // with struct task_struct.pid, 5.10
"""
    sizes = {"open": 39, "text": 100}
    source = DeclarationSource(types.types, text, lambda name: sizes.get(name, 0))
    found = {name: source.variable(name) for name in ("by_enum", "open", "text", "empty", "chosen")}
    count = types.types.constant("NR_VM_NODE_STAT_ITEMS")
    assert shape(found["by_enum"]).endswith(f"[{count}]")  # type: ignore[arg-type]
    assert shape(found["open"]) == "struct list_head *[4]"  # type: ignore[arg-type]
    assert shape(found["text"]) == "char[]" and shape(found["empty"]) == "4-byte int[]"  # type: ignore[arg-type]
    assert shape(found["chosen"]) == "struct list_head"  # type: ignore[arg-type]
    assert source.variable("unknown_bound") is None and source.variable("negative") is None
