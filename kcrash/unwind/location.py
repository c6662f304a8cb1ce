"""Where a variable is: DWARF location descriptions, evaluated in a frame.

DWARF 5, sections 2.5 (expressions, typed ones included) and 2.6 (locations): in memory, in registers,
computed, or in pieces of these. What cannot be had is told by the exception's text.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from kcrash.errors import MemoryFault
from kcrash.unwind.expression import MAX_STEPS, Machine, Unknown
from kcrash.unwind.target import MemoryReader, Target

ByteOrder = Literal["little", "big"]
OPTIMIZED_OUT = "optimized out"
MAX_PIECES = 1024
# Operations whose result has the type of what they work on (section 2.5.1.4); comparisons give a truth value.
_ARITHMETIC = {0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27}


class Absent(Exception):
    """The variable has no value that can be shown; the text says why."""


class Context(Protocol):
    """What an expression may ask of its frame."""

    @property
    def cfa(self) -> int | None:
        """The canonical frame address."""

    def frame_base(self) -> int:
        """What DW_OP_fbreg counts from. Raises Absent."""

    def entry_value(self, expression: bytes) -> int:
        """What the expression gave when the function was entered. Raises Absent."""

    def indexed(self, index: int) -> int:
        """Entry ``index`` of .debug_addr, as it is in memory."""

    def base_type(self, offset: int) -> tuple[int, bool]:
        """``(bytes, signed)`` of the base type at an offset of the unit; (0, False) for the generic type."""

    @property
    def bias(self) -> int:
        """What to add to a linked address."""

    def register_name(self, number: int) -> str:
        """A register, as the user knows it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a value, in memory at ``address`` or ``data`` itself; with neither it is optimized out.

    ``bits``: how long, 0 for all of the value; ``skip``: bits before it.
    """

    address: int | None = None
    data: bytes | None = None
    bits: int = 0
    skip: int = 0


class _Typed(int):
    """A value of a base type on the stack: its bits, sign-extended to a word."""

    size: int
    signed: bool


class LocationMachine(Machine):
    """Evaluates one expression to pieces."""

    def __init__(
        self,
        code: bytes,
        target: Target,
        registers: Mapping[int, int],
        memory: MemoryReader,
        context: Context,
    ) -> None:
        super().__init__(code, target, registers, memory)
        self.context = context
        self._pieces: list[Piece] = []
        self._here: Piece | None = None  # of a description that is complete in itself

    def locate(self) -> list[Piece]:
        """The pieces, in order. Raises Absent, BadFormat."""
        if not self.code:
            raise Absent(OPTIMIZED_OUT)
        self._run()
        if not self._pieces:
            self._end_piece(0, 0)
        return self._pieces

    def value(self) -> int:
        """The value of an expression that describes no location but a value. Raises Absent, BadFormat."""
        self._run()
        if self._here is not None and self._here.data is not None:
            return int.from_bytes(self._here.data, self._byteorder)
        if not self.stack:
            raise Absent(OPTIMIZED_OUT)
        return self.stack[-1] & self.target.mask

    def _run(self) -> None:
        try:
            for _step in range(MAX_STEPS):
                if self.position >= len(self.code):
                    return
                self._step()
            self._bad(f"more than {MAX_STEPS} steps")
        except (IndexError, struct.error):
            self._bad("it ends too early or its stack runs empty")
        except MemoryFault as fault:
            raise Absent(str(fault)) from None
        except Unknown:
            raise Absent("unknown") from None

    def _step(self) -> None:
        opcode = self.code[self.position]
        handler = _LOCATION.get(opcode)
        if 0x50 <= opcode <= 0x6F:  # DW_OP_reg0..31
            self.position += 1
            self._here = self._register(opcode - 0x50)
        elif handler is not None:
            self.position += 1
            handler(self)
        elif opcode in _ARITHMETIC and self.stack:
            kind = self.stack[-1]
            super()._step()
            if isinstance(kind, _Typed):
                self.stack[-1] = self._typed(self.stack[-1], kind.size, kind.signed)
        else:
            super()._step()

    # -- registers

    @property
    def _byteorder(self) -> ByteOrder:
        return "little" if self.target.order == "<" else "big"

    def _known(self, number: int) -> int:
        value = self.registers.get(number)
        if value is None:
            raise Absent(f"register {self.context.register_name(number)} is not known")
        return value

    def _register(self, number: int) -> Piece:
        return Piece(data=self._known(number).to_bytes(self.target.word_bytes, self._byteorder))

    def _push_register(self, number: int) -> None:
        offset = self._leb(True)
        self._push(self._known(number) + offset)

    # -- descriptions

    def _end_piece(self, bits: int, skip: int) -> None:
        """Make a piece of what has been described since the last one."""
        if len(self._pieces) >= MAX_PIECES:
            self._bad(f"more than {MAX_PIECES} pieces")
        here, self._here = self._here, None
        if here is None and self.stack:
            here = Piece(address=self.stack.pop() & self.target.mask)
        if here is None:
            if not bits:
                raise Absent(OPTIMIZED_OUT)
            here = Piece()  # this part is nowhere
        self._pieces.append(Piece(here.address, here.data, bits, skip))
        self.stack.clear()

    def op_piece(self) -> None:
        """DW_OP_piece: bytes."""
        self._end_piece(8 * self._leb(False), 0)

    def op_bit_piece(self) -> None:
        """DW_OP_bit_piece: bits, then how many to skip."""
        bits = self._leb(False)
        self._end_piece(bits, self._leb(False))

    def op_stack_value(self) -> None:
        """DW_OP_stack_value."""
        value = self.stack.pop() & self.target.mask
        self._here = Piece(data=value.to_bytes(self.target.word_bytes, self._byteorder))

    def op_implicit_value(self) -> None:
        """DW_OP_implicit_value."""
        self._here = Piece(data=self._block())

    def op_implicit_pointer(self) -> None:
        """DW_OP_implicit_pointer: to a variable that is nowhere itself."""
        raise Absent("pointer to what is optimized out")

    def op_no_support(self) -> None:
        """Operations that kernels have no use for: procedures, threads, other address spaces."""
        raise Absent("its location cannot be evaluated")

    # -- values

    def _block(self) -> bytes:
        size = self._leb(False)
        if size > len(self.code) - self.position:
            self._bad("a block is cut")
        self.position += size
        return self.code[self.position - size : self.position]

    def op_addr(self) -> None:
        """DW_OP_addr: as linked."""
        self._push(self._fixed("Q" if self.target.word_bytes == 8 else "I") + self.context.bias)

    def op_fbreg(self) -> None:
        """DW_OP_fbreg."""
        offset = self._leb(True)
        self._push(self.context.frame_base() + offset)

    def op_call_frame_cfa(self) -> None:
        """DW_OP_call_frame_cfa."""
        if self.context.cfa is None:
            raise Absent("the frame's address is not known")
        self._push(self.context.cfa)

    def op_entry_value(self) -> None:
        """DW_OP_entry_value."""
        self._push(self.context.entry_value(self._block()))

    def op_addrx(self) -> None:
        """DW_OP_addrx."""
        self._push(self.context.indexed(self._leb(False)) + self.context.bias)

    def op_constx(self) -> None:
        """DW_OP_constx."""
        self._push(self.context.indexed(self._leb(False)))

    # -- typed values (section 2.5.1.4)

    def _typed(self, value: int, size: int, signed: bool) -> int:
        if not size:
            return int(value) & self.target.mask
        if size > self.target.word_bytes:
            raise Absent("a value wider than a word")
        bits = 8 * size
        number = value & (1 << bits) - 1
        if signed and number >> bits - 1:
            number -= 1 << bits
        made = _Typed(number & self.target.mask)
        made.size, made.signed = size, signed
        return made

    def _push_typed(self, value: int) -> None:
        self.stack.append(self._typed(value, *self.context.base_type(self._leb(False))))

    def op_const_type(self) -> None:
        """DW_OP_const_type: a type, a size, the bytes."""
        size, signed = self.context.base_type(self._leb(False))
        length = self._fixed("B")
        data = self.code[self.position : self.position + length]
        self.position += length
        self.stack.append(self._typed(int.from_bytes(data, self._byteorder), size, signed))

    def op_regval_type(self) -> None:
        """DW_OP_regval_type: a register, a type."""
        self._push_typed(self._known(self._leb(False)))

    def op_deref_type(self) -> None:
        """DW_OP_deref_type: a size, a type."""
        self._dereference(self._fixed("B"))
        self._push_typed(self.stack.pop())

    def op_convert(self) -> None:
        """DW_OP_convert: to a type, 0 for the generic one."""
        self._push_typed(self.stack.pop())


def _pick_register(machine: LocationMachine) -> None:
    machine._here = machine._register(machine._leb(False))


_LOCATION = {
    0x03: LocationMachine.op_addr,
    0x90: _pick_register,
    0x91: LocationMachine.op_fbreg,
    0x93: LocationMachine.op_piece,
    0x9C: LocationMachine.op_call_frame_cfa,
    0x9D: LocationMachine.op_bit_piece,
    0x9E: LocationMachine.op_implicit_value,
    0x9F: LocationMachine.op_stack_value,
    0xA0: LocationMachine.op_implicit_pointer,
    0xF2: LocationMachine.op_implicit_pointer,
    0xA1: LocationMachine.op_addrx,
    0xFB: LocationMachine.op_addrx,
    0xA2: LocationMachine.op_constx,
    0xFC: LocationMachine.op_constx,
    0xA3: LocationMachine.op_entry_value,
    0xF3: LocationMachine.op_entry_value,
    0xA4: LocationMachine.op_const_type,
    0xF4: LocationMachine.op_const_type,
    0xA5: LocationMachine.op_regval_type,
    0xF5: LocationMachine.op_regval_type,
    0xA6: LocationMachine.op_deref_type,
    0xF6: LocationMachine.op_deref_type,
    0xA8: LocationMachine.op_convert,
    0xF7: LocationMachine.op_convert,
    0xA9: LocationMachine.op_convert,  # DW_OP_reinterpret: of integers of one size the same
    0xF9: LocationMachine.op_convert,
    0xF0: lambda machine: None,  # DW_OP_GNU_uninit: the value is shown all the same
    **dict.fromkeys((0x97, 0x98, 0x99, 0x9A, 0x9B, 0xA7, 0xE0, 0xFA, 0xFD), LocationMachine.op_no_support),
}


def assemble(pieces: list[Piece], size: int, target: Target, memory: MemoryReader) -> tuple[bytes, int]:
    """``(bytes, mask)`` of a value of ``size`` bytes; the mask (a little-endian number) is of the known bits.

    Raises Absent, MemoryFault.
    """
    order: ByteOrder = "little" if target.order == "<" else "big"
    total = known = done = 0
    for piece in pieces:
        bits = piece.bits or max(0, 8 * size - done)
        there = piece.data is not None or piece.address is not None
        number, mask = (_piece_bits(piece, bits, memory, order), (1 << bits) - 1) if there else (0, 0)
        if order == "little":
            total, known = total | number << done, known | mask << done
        else:
            total, known = total << bits | number, known << bits | mask
        done += bits
    if order == "big":
        total, known = (n << max(0, 8 * size - done) >> max(0, done - 8 * size) for n in (total, known))
    whole = (1 << 8 * size) - 1
    mask_bytes = (known & whole).to_bytes(size, order)
    return (total & whole).to_bytes(size, order), int.from_bytes(mask_bytes, "little")


def _piece_bits(piece: Piece, bits: int, memory: MemoryReader, order: ByteOrder) -> int:
    """The piece as a number; of a register the low end counts."""
    if bits > 1 << 20:
        raise Absent("a piece of absurd size")
    if piece.data is not None:
        if piece.skip + bits > 8 * len(piece.data):
            raise Absent("only a part of it is in a register")
        number = int.from_bytes(piece.data, order)
        return number >> piece.skip & (1 << bits) - 1
    length = (piece.skip + bits + 7) // 8
    assert piece.address is not None
    number = int.from_bytes(memory.read(piece.address, length), order)
    shift = piece.skip if order == "little" else 8 * length - piece.skip - bits
    return number >> shift & (1 << bits) - 1
