"""Applying a row: from the registers of a frame to those of its caller."""

from __future__ import annotations

from typing import NamedTuple

from kcrash.errors import MemoryFault
from kcrash.unwind.expression import Unknown, evaluate
from kcrash.unwind.memory import BlockReader
from kcrash.unwind.registers import Registers
from kcrash.unwind.rules import Kind, Row, Rule
from kcrash.unwind.target import Target

_SAVED, _CFA, _REGISTER = int(Kind.SAVED), int(Kind.CFA), int(Kind.REGISTER)


class Recovered(NamedTuple):
    """``cfa`` of the frame; ``values``: the caller's registers as far as they are known; ``fault``: the
    first that kept a register from being known, or None."""

    cfa: int
    values: dict[int, int]
    fault: MemoryFault | None


def find_cfa(rule: Rule, registers: Registers, memory: BlockReader, target: Target) -> int:
    """The canonical frame address. Raises Unknown, MemoryFault, BadFormat."""
    if rule.kind == _REGISTER:
        value = registers.get(rule.register)
        if value is None:
            raise Unknown
        return value + rule.offset & target.mask
    return compute(rule, 0, registers, memory, target, None)


def recover(row: Row, cfa: int, registers: Registers, memory: BlockReader, target: Target) -> Recovered:
    """The caller's registers. Those that cannot be had are left out. Raises BadFormat."""
    values: dict[int, int] = {}
    fault = None
    word, mask, known = memory.word, target.mask, registers.get
    for number, rule in row.rules:
        kind = rule[0]
        try:
            if kind == _SAVED and not rule[4]:
                values[number] = word(cfa + rule[2] & mask)
            elif kind == _REGISTER:
                value = known(rule[1])
                if value is not None:
                    values[number] = value + rule[2] & mask
            else:
                values[number] = compute(rule, cfa, registers, memory, target, cfa)
        except MemoryFault as error:
            fault = fault or error
        except Unknown:
            pass
    return Recovered(cfa, values, fault)


def compute(
    rule: Rule, cfa: int, registers: Registers, memory: BlockReader, target: Target, initial: int | None
) -> int:
    """The value of any rule. Raises Unknown, MemoryFault, BadFormat."""
    kind, register, offset, expression, size = rule
    if kind == _CFA:
        return cfa + offset & target.mask
    if kind == Kind.CONSTANT:
        return offset & target.mask
    if kind == Kind.VALUE:
        return evaluate(expression, target, registers, memory, initial)
    if kind == _SAVED:
        return _read(memory, cfa + offset, size, target)
    if kind == Kind.EXPRESSION:
        return _read(memory, evaluate(expression, target, registers, memory, initial), size, target)
    value = registers.get(register)
    if value is None:
        raise Unknown
    if kind == Kind.AT_REGISTER:
        return _read(memory, value + offset, size, target)
    if kind == Kind.FROM_REGISTER:
        return _read(memory, value, size, target) + offset & target.mask
    return value + offset & target.mask


def _read(memory: BlockReader, address: int, size: int, target: Target) -> int:
    address &= target.mask
    if not size or size == target.word_bytes:
        return memory.word(address)
    return int.from_bytes(memory.read(address, size), "little" if target.order == "<" else "big")
