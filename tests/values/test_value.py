"""Values as Python code uses them: what gdb says of the same places is what they are."""

from __future__ import annotations

import re

import pytest

from kcrash.errors import ExpressionError, MemoryFault, MissingMember
from kcrash.values.value import Value, computed
from tests.values.conftest import Sample

# A path below `first`, as attributes and as gdb reads it.
NUMBERS = (
    *(
        "value",
        "x",
        "y",
        "xy",
        "named.in",
        "named.inner.deep",
        "bits.a",
        "bits.b",
        "bits.c",
        "bits.d",
        "bits.f",
    ),
    *("bits.g", "number.i", "color", "flags", "below", "letter", "small", "big", "giant"),
    *("matrix[1][2]", "matrix[0][0]", "raw[2]", "name[3]", "next", "fixed", "list.next", "next->color"),
)


@pytest.fixture
def first(sample: Sample) -> Value:
    return sample.scope().evaluate("first")


def reached(value: Value, path: str) -> Value:
    """The member at a path, by attributes and indices."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        value = value[int(index)] if index else getattr(value, name)
    return value


def test_numbers_are_gdb_s(sample: Sample, first: Value) -> None:
    theirs = sample.gdb([f"output/d first.{path}" for path in NUMBERS])
    wanted = dict(zip(NUMBERS, map(int, theirs), strict=True))
    assert {path: int(reached(first, path)) for path in NUMBERS} == wanted


def test_addresses_are_gdb_s(sample: Sample, first: Value) -> None:
    paths = [path for path in NUMBERS if "bits." not in path]
    theirs = sample.gdb([f"output/d (long)&first.{path}" for path in paths])
    assert [reached(first, path).address_ for path in paths] == [*map(int, theirs)]
    assert [int(reached(first, path).address_of_()) for path in paths] == [*map(int, theirs)]


def test_python_values(first: Value) -> None:
    assert first.yes.value_() is True and first.single.value_() == pytest.approx(0.1)
    assert first.twice.value_() == 1e100
    assert first.name.value_() == b"swapper/0".ljust(16, b"\0") and first.name.string_() == b"swapper/0"
    assert first.matrix.value_() == [[0, 0, 0], [0, 0, 6]] and len(first.matrix) == 2
    assert [int(row[2]) for row in first.matrix] == [0, 6]
    assert first.named.value_() == {"in": 3, "inner": {"deep": 4}}
    assert first.number.value_()["f"] == 1.5
    assert first.text.string_(7) == b'Linux "'
    assert bool(first.none) is False and first.none == 0 and first.value == -5


def test_pointers(first: Value) -> None:
    assert first.next.color.value_() == 5 and first.next.deref_().color == first.next.color
    assert first.next[0].address_ == first.next.value_() and first.next[1].address_ == int(first.next) + 304
    assert first.list.next.container_of_("struct node", "list").value == -5
    assert first.list.container_of_("struct node", "list").address_ == first.address_
    assert first.address_of_().name.string_() == b"swapper/0"
    assert first.matrix.deref_()[2] == 0 and int(first.matrix) == first.matrix.address_


def test_casts(first: Value) -> None:
    assert first.value.cast_("unsigned int") == 2**32 - 5 and first.value.cast_("unsigned char") == 251
    assert first.next.cast_("long") == int(first.next) and first.next.cast_("int *")[0] == 0


def test_bit_fields(first: Value) -> None:
    assert first.bits.c.bit_field_ is not None and first.value.bit_field_ is None
    with pytest.raises(ExpressionError, match="has no address"):
        first.bits.c.address_of_()


def test_what_is_not_there(first: Value) -> None:
    assert first.has_("named.inner.deep") and first.next.has_("color") and not first.has_("named.nosuch")
    with pytest.raises(MissingMember, match="struct node has no member 'nosuch'"):
        _ = first.nosuch
    with pytest.raises(MissingMember):
        _ = first.value.nosuch
    with pytest.raises(MemoryFault, match="process address 8: not mapped"):
        first.wild.string_()
    with pytest.raises(MemoryFault):
        int(first.none[0])
    for wrong in (lambda: first.value[0], lambda: len(first.next), lambda: first.value.deref_()):
        with pytest.raises(ExpressionError):
            wrong()


def test_computed_values_are_cut_to_their_size(sample: Sample) -> None:
    scope = sample.scope()
    types = scope.types
    assert computed(scope, types.type("unsigned char"), 300) == 44
    assert computed(scope, types.type("signed char"), 200) == -56
    assert computed(scope, types.type("_Bool"), 6).value_() is True
    assert computed(scope, types.type("float"), 0.1).value_() == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(ExpressionError, match="no address"):
        computed(scope, types.type("int"), 1).address_of_()
