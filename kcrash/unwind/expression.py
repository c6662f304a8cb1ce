"""DWARF expressions as far as call frame information uses them.

DWARF 5, sections 2.5.1 (operations) and 6.4.2 (those that make no sense in
CFI). The steps are bounded: an expression can branch backwards.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping
from typing import NoReturn

from kcrash.errors import BadFormat, MemoryFault
from kcrash.unwind.target import MemoryReader, Target

MAX_STEPS = 10_000
MAX_STACK = 1_000

_CONSTANTS = {0x08: "B", 0x09: "b", 0x0A: "H", 0x0B: "h", 0x0C: "I", 0x0D: "i", 0x0E: "Q", 0x0F: "q"}
_COMPARE = {
    0x29: operator.eq, 0x2A: operator.ge, 0x2B: operator.gt, 0x2C: operator.le, 0x2D: operator.lt,
    0x2E: operator.ne,
}  # fmt: skip
_BINARY = {
    0x1A: operator.and_, 0x1C: operator.sub, 0x1E: operator.mul, 0x21: operator.or_, 0x22: operator.add,
    0x27: operator.xor,
}  # fmt: skip


class Unknown(Exception):
    """The expression needs a register that is not known, or memory that is not there."""


def evaluate(
    code: bytes,
    target: Target,
    registers: Mapping[int, int],
    memory: MemoryReader,
    initial: int | None = None,
) -> int:
    """The value on top of the stack in the end, reduced to a word.

    ``initial``: what the stack starts with (the CFA), None for nothing. Raises
    Unknown, or BadFormat if the expression is broken or does not come to an end.
    """
    return Machine(code, target, registers, memory).run([] if initial is None else [initial])


class Machine:
    """The stack machine of one expression."""

    def __init__(
        self, code: bytes, target: Target, registers: Mapping[int, int], memory: MemoryReader
    ) -> None:
        self.code = code
        self.target = target
        self.registers = registers
        self.memory = memory
        self.position = 0
        self.stack: list[int] = []

    def run(self, stack: list[int]) -> int:
        """Execute to the end of the code."""
        self.stack = stack
        try:
            for _step in range(MAX_STEPS):
                if self.position >= len(self.code):
                    break
                self._step()
            else:
                self._bad(f"more than {MAX_STEPS} steps")
            return self.stack[-1] & self.target.mask
        except (IndexError, struct.error):
            self._bad("it ends too early or its stack runs empty")
        except MemoryFault:
            raise Unknown from None

    def _bad(self, what: str) -> NoReturn:
        raise BadFormat("DWARF expression", what, self.position)

    def _step(self) -> None:
        opcode = self.code[self.position]
        self.position += 1
        if len(self.stack) > MAX_STACK:
            self._bad(f"more than {MAX_STACK} values on its stack")
        if 0x30 <= opcode <= 0x4F:  # DW_OP_lit0..31
            self.stack.append(opcode - 0x30)
        elif 0x70 <= opcode <= 0x8F:  # DW_OP_breg0..31
            self._push_register(opcode - 0x70)
        elif opcode in _CONSTANTS:
            self._push(self._fixed(_CONSTANTS[opcode]))
        elif opcode in _BINARY:
            right = self.stack.pop()
            self._push(_BINARY[opcode](self.stack.pop(), right))
        elif opcode in _COMPARE:
            right = self._signed(self.stack.pop())
            self._push(_COMPARE[opcode](self._signed(self.stack.pop()), right))
        elif opcode in _OTHERS:
            _OTHERS[opcode](self)
        else:
            self._bad(f"operation {opcode:#x} has no meaning in call frame information")

    # -- operands

    def _fixed(self, form: str) -> int:
        value: int = struct.unpack_from(self.target.order + form, self.code, self.position)[0]
        self.position += struct.calcsize(form)
        return value

    def _leb(self, signed: bool) -> int:
        value, self.position = read_leb(self.code, self.position, signed)
        return value

    # -- values

    def _push(self, value: int) -> None:
        self.stack.append(value & self.target.mask)

    def _signed(self, value: int) -> int:
        half = (self.target.mask >> 1) + 1
        return (value ^ half) - half

    def _push_register(self, number: int) -> None:
        offset = self._leb(True)
        value = self.registers.get(number)
        if value is None:
            raise Unknown
        self._push(value + offset)

    def _dereference(self, size: int) -> None:
        if not 1 <= size <= self.target.word_bytes:
            self._bad(f"a memory access of {size} bytes")
        data = self.memory.read(self.stack.pop(), size)
        self._push(int.from_bytes(data, "little" if self.target.order == "<" else "big"))

    # -- operations

    def op_addr(self) -> None:
        """DW_OP_addr."""
        self._push(self._fixed("Q" if self.target.word_bytes == 8 else "I"))

    def op_drop(self) -> None:
        """DW_OP_drop."""
        self.stack.pop()

    def op_bregx(self) -> None:
        """DW_OP_bregx."""
        self._push_register(self._leb(False))

    def op_deref_size(self) -> None:
        """DW_OP_deref_size."""
        self._dereference(self._fixed("B"))

    def op_pick(self) -> None:
        """DW_OP_pick: 0 is the top."""
        self._pick(self._fixed("B"))

    def _pick(self, depth: int) -> None:
        self.stack.append(self.stack[-1 - depth])

    def op_rot(self) -> None:
        """DW_OP_rot: the top goes below the two others."""
        top, second, third = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack += [top, third, second]

    def op_swap(self) -> None:
        """DW_OP_swap."""
        top, second = self.stack.pop(), self.stack.pop()
        self.stack += [top, second]

    def op_div(self) -> None:
        """DW_OP_div: signed, towards zero as in C."""
        right, left = self._signed(self.stack.pop()), self._signed(self.stack.pop())
        if right == 0:
            self._bad("division by zero")
        quotient = abs(left) // abs(right)
        self._push(quotient if (left < 0) == (right < 0) else -quotient)

    def op_mod(self) -> None:
        """DW_OP_mod: unsigned."""
        right, left = self.stack.pop(), self.stack.pop()
        if right == 0:
            self._bad("division by zero")
        self._push(left % right)

    def _shift(self, shift: Callable[[int, int], int], signed: bool = False) -> None:
        # A shift by the word's width or more leaves nothing; Python would build a huge number.
        count, value = min(self.stack.pop(), 8 * self.target.word_bytes), self.stack.pop()
        self._push(shift(self._signed(value) if signed else value, count))

    def op_bra(self) -> None:
        """DW_OP_bra: jump if the top is not zero."""
        distance = self._fixed("h")
        if self.stack.pop():
            self._jump(distance)

    def _jump(self, distance: int) -> None:
        self.position += distance
        if not 0 <= self.position <= len(self.code):
            self._bad("a branch out of the expression")


_OTHERS: dict[int, Callable[[Machine], None]] = {
    0x03: Machine.op_addr,
    0x06: lambda m: m._dereference(m.target.word_bytes),
    0x10: lambda m: m._push(m._leb(False)),
    0x11: lambda m: m._push(m._leb(True)),
    0x12: lambda m: m._pick(0),
    0x13: Machine.op_drop,
    0x14: lambda m: m._pick(1),
    0x15: Machine.op_pick,
    0x16: Machine.op_swap,
    0x17: Machine.op_rot,
    0x19: lambda m: m._push(abs(m._signed(m.stack.pop()))),
    0x1B: Machine.op_div,
    0x1D: Machine.op_mod,
    0x1F: lambda m: m._push(-m.stack.pop()),
    0x20: lambda m: m._push(~m.stack.pop()),
    0x23: lambda m: m._push(m.stack.pop() + m._leb(False)),
    0x24: lambda m: m._shift(operator.lshift),
    0x25: lambda m: m._shift(operator.rshift),
    0x26: lambda m: m._shift(operator.rshift, signed=True),
    0x28: Machine.op_bra,
    0x2F: lambda m: m._jump(m._fixed("h")),
    0x92: Machine.op_bregx,
    0x94: Machine.op_deref_size,
    0x96: lambda m: None,
}


def read_leb(data: bytes | memoryview, position: int, signed: bool = False) -> tuple[int, int]:
    """``(value, next position)`` of a LEB128 number (DWARF 5, section 7.6).

    Raises IndexError at the end of the data, and after 20 bytes: no more than 64
    bits are ever meant.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
        if shift > 140:
            raise IndexError
    if signed and byte & 0x40:
        value -= 1 << shift
    return value, position
