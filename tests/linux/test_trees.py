"""Maple trees and xarrays, whole and hostile."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kcrash.errors import CorruptData, KcrashError, MemoryFault
from kcrash.linux.maple import Range, for_each_range
from kcrash.linux.xarray import Slot, for_each_slot, load
from kcrash.session import Session
from tests.linux.fakes import POINTER, UCHAR, UINT, ULONG, FakeMemory, array, session, struct_type

MAPLE = (
    struct_type("maple_tree", ("ma_root", POINTER, 8)),
    struct_type(
        "maple_range_64",
        ("parent", POINTER, 0),
        ("pivot", array(ULONG, 15), 8),
        ("slot", array(POINTER, 16), 128),
    ),
    struct_type(
        "maple_arange_64",
        ("parent", POINTER, 0),
        ("pivot", array(ULONG, 9), 8),
        ("slot", array(POINTER, 10), 80),
        ("gap", array(ULONG, 10), 160),
    ),
)
LEAF, RANGE, ARANGE = 1, 2, 3
TREE, TOP = 0x1000, 2**64 - 1


def _node(address: int, kind: int) -> int:
    return address | kind << 3 | 6


def _range64(pivots: list[int], slots: list[int]) -> list[int]:
    return [0, *pivots, *[0] * (15 - len(pivots)), *slots, *[0] * (16 - len(slots))]


def _arange64(pivots: list[int], slots: list[int]) -> list[int]:
    return [0, *pivots, *[0] * (9 - len(pivots)), *slots, *[0] * (10 - len(slots)), *[0] * 12]


def _maple(root: int, nodes: dict[int, list[int]]) -> list[object]:
    memory = FakeMemory()
    memory.put(TREE, 0, root)
    for address, words in nodes.items():
        memory.put(address, *words)
    return list(for_each_range(session(memory, *MAPLE), TREE))


def test_empty_maple_tree() -> None:
    assert _maple(0, {}) == []


def test_maple_leaf() -> None:
    found = _maple(_node(0x2000, LEAF), {0x2000: _range64([0xFFF, 0x1FFF, 0x2FFF], [0, 0xA000, 0, 0xB000])})
    assert found == [Range(0x1000, 0x1FFF, 0xA000), Range(0x3000, TOP, 0xB000)]


def test_maple_of_two_levels() -> None:
    nodes = {
        0x2000: _arange64([0xFFFF], [_node(0x3000, LEAF), _node(0x4000, LEAF)]),
        0x3000: _range64([0xFFF, 0x1FFF, 0xFFFF], [0, 0xA000, 0]),
        0x4000: _range64([0x10FFF], [0xB000, 0]),
    }
    found = _maple(_node(0x2000, ARANGE), nodes)
    assert found == [Range(0x1000, 0x1FFF, 0xA000), Range(0x10000, 0x10FFF, 0xB000)]


def test_maple_full_leaf() -> None:
    pivots = [0x1000 * (n + 1) - 1 for n in range(15)]
    found = _maple(_node(0x2000, LEAF), {0x2000: _range64(pivots, [0xA000 + 0x100 * n for n in range(16)])})
    assert len(found) == 16
    assert found[-1] == Range(0xF000, TOP, 0xAF00)


def test_maple_zero_entries_are_passed_over() -> None:
    """XA_ZERO_ENTRY marks where a fork that failed stopped copying."""
    assert _maple(_node(0x2000, LEAF), {0x2000: _range64([0xFFF], [257 << 2 | 2, 0])}) == []


def test_maple_node_that_is_not_there() -> None:
    nodes = {
        0x2000: _arange64([0xFFFF], [_node(0x3000, LEAF), _node(0x4000, LEAF)]),
        0x4000: _range64([0x10FFF], [0xB000]),
    }
    lost, found = _maple(_node(0x2000, ARANGE), nodes)
    assert isinstance(lost, MemoryFault)
    assert found == Range(0x10000, 0x10FFF, 0xB000)


def test_maple_loop() -> None:
    found = _maple(_node(0x2000, ARANGE), {0x2000: _arange64([0xFFF], [_node(0x2000, ARANGE)] * 2)})
    assert len(found) == 2
    assert all(isinstance(each, CorruptData) for each in found)


def test_maple_pivots_out_of_order() -> None:
    *_, last = _maple(
        _node(0x2000, LEAF), {0x2000: _range64([0x5000, 0x100, 0x6000], [0xA000, 0xB000, 0xC000])}
    )
    assert isinstance(last, CorruptData)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_maple_trees(data: st.DataObject) -> None:
    """Whatever stands there: an end, ranges in order, nothing but kcrash's own errors."""
    pointers = st.builds(_node, st.sampled_from([0x2000, 0x2100, 0x2200, 0x9000]), st.integers(0, 15))
    words = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 0x10000), pointers)
    nodes = {a: data.draw(st.lists(words, min_size=32, max_size=32)) for a in (0x2000, 0x2100, 0x2200)}
    last = -1
    for found in _maple(data.draw(pointers), nodes):
        if isinstance(found, Range):
            assert last < found.first <= found.last
            last = found.last
        else:
            assert isinstance(found, KcrashError)


# -- xarrays

XARRAY = (
    struct_type("xarray", ("xa_head", POINTER, 8)),
    struct_type("xa_node", ("shift", UCHAR, 0), ("slots", array(POINTER, 64), 40)),
)
RADIX = (
    struct_type("radix_tree_root", ("rnode", POINTER, 8)),
    struct_type("radix_tree_node", ("shift", UCHAR, 0), ("slots", array(POINTER, 64), 40)),
)


def _xa_node(memory: FakeMemory, address: int, shift: int, slots: dict[int, int]) -> None:
    values = [slots.get(n, 0) for n in range(64)]
    memory.pieces[address] = struct.pack("<B39x64Q", shift, *values)


def _xarray(head: int, nodes: dict[int, tuple[int, dict[int, int]]], radix: bool = False) -> Session:
    memory = FakeMemory()
    memory.put(TREE, 0, head)
    for address, (shift, slots) in nodes.items():
        _xa_node(memory, address, shift, slots)
    return session(memory, *(RADIX if radix else XARRAY))


def test_xarray_of_one() -> None:
    assert list(for_each_slot(_xarray(0xA000, {}), TREE)) == [Slot(0, 0, 0xA000, False)]
    assert load(_xarray(0xA000, {}), TREE, 1) is None


def test_xarray_levels_values_and_ranges() -> None:
    nodes = {
        0x2000: (6, {0: 0x3002, 2: 0x4002}),
        0x3000: (0, {1: 0xA000, 63: 5 << 1 | 1}),
        0x4000: (0, {0: 0xB000}),
    }
    tree = _xarray(0x2002, nodes)
    every = [Slot(1, 1, 0xA000, False), Slot(63, 63, 5, True), Slot(128, 128, 0xB000, False)]
    assert list(for_each_slot(tree, TREE)) == every
    assert list(for_each_slot(tree, TREE, 2, 127)) == every[1:2]
    assert load(tree, TREE, 128) == every[2]
    assert load(tree, TREE, 129) is None


def test_xarray_siblings() -> None:
    """A folio of four pages: three slots refer to the first."""
    tree = _xarray(0x2002, {0x2000: (0, {4: 0xA000, 5: 4 << 2 | 2, 6: 4 << 2 | 2, 7: 4 << 2 | 2})})
    assert [slot.entry for slot in for_each_slot(tree, TREE)] == [0xA000] * 4


def test_radix_tree() -> None:
    nodes = {0x2000: (6, {1: 0x3001}), 0x3000: (0, {2: 0xA000, 3: 7 << 2 | 2})}
    tree = _xarray(0x2001, nodes, radix=True)
    assert list(for_each_slot(tree, TREE)) == [Slot(66, 66, 0xA000, False), Slot(67, 67, 7, True)]


@pytest.mark.parametrize("member", ["path", "height"])
def test_radix_tree_whose_nodes_have_heights(member: str) -> None:
    """Before v4.7: nodes are not marked; above the height, ``path`` has the place in the parent."""
    node = struct_type("radix_tree_node", (member, UINT, 0), ("slots", array(POINTER, 64), 40))
    memory = FakeMemory()
    memory.put(TREE, 0, 0x2001)
    place = 5 << 12 if member == "path" else 0
    _xa_node(memory, 0x2000, 0, {1: 0x3000})
    _xa_node(memory, 0x3000, 0, {2: 0xA000, 3: 7 << 2 | 2})
    for address in (0x2000, 0x3000):
        height = {0x2000: 2, 0x3000: place | 1}[address]
        memory.pieces[address] = struct.pack("<I", height) + memory.pieces[address][4:]
    tree = session(memory, RADIX[0], node)
    assert list(for_each_slot(tree, TREE)) == [Slot(66, 66, 0xA000, False), Slot(67, 67, 7, True)]
    memory.pieces[0x3000] = struct.pack("<I", 3) + memory.pieces[0x3000][4:]  # higher than its parent
    with pytest.raises(CorruptData):
        list(for_each_slot(tree, TREE))


@pytest.mark.parametrize("shift", [6, 12, 255])
def test_xarray_loop(shift: int) -> None:
    tree = _xarray(0x2002, {0x2000: (shift, {0: 0x2002})})
    with pytest.raises(CorruptData):
        list(for_each_slot(tree, TREE))
    assert load(tree, TREE, 0) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_xarrays(data: st.DataObject) -> None:
    entries = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0x2002, 0x3002, 0x9002, 0xA000]))
    slots = st.dictionaries(st.integers(0, 63), entries, max_size=5)
    nodes = {a: (data.draw(st.integers(0, 255)), data.draw(slots)) for a in (0x2000, 0x3000)}
    try:
        for slot in for_each_slot(
            _xarray(data.draw(entries), nodes), TREE, 0, data.draw(st.integers(0, 1 << 40))
        ):
            assert slot.first <= slot.last
    except (CorruptData, MemoryFault):
        pass
