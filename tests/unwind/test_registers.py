"""The map of registers."""

from __future__ import annotations

import pytest

from kcrash.unwind import Registers


def test_unknown_is_not_zero() -> None:
    registers = Registers({6: 0, 7: 0x1000})
    assert registers[6] == 0 and registers.get(6) == 0
    assert registers.get(3) is None and 3 not in registers
    with pytest.raises(KeyError):
        registers[3]


def test_replaced_leaves_the_original_alone() -> None:
    registers = Registers({6: 1, 7: 2})
    changed = registers.replaced({6: None, 16: 3})
    assert changed == {7: 2, 16: 3} and registers == {6: 1, 7: 2}
    assert len(changed) == 2 and sorted(changed) == [7, 16]
    assert hash(changed) == hash(Registers({16: 3, 7: 2}))
    assert changed != registers and changed != 5
    assert repr(changed) == "Registers({7: 0x2, 16: 0x3})"


def test_a_copy_is_taken() -> None:
    source = {1: 1}
    registers = Registers(source)
    source[1] = 2
    assert registers[1] == 1
