"""ARM's own unwind tables: how to leave a function, from its prologue's end on.

Sources: "Exception Handling ABI for the Arm Architecture" (EHABI, IHI 0038), sections 6 ("Index table
entries"), 7 (the compact model) and 10.3 ("Frame unwinding instructions"); arch/arm/kernel/unwind.c uses the
same. The index has two words a function, in order: where it starts, and what to do: a bit pattern for
"cannot be unwound", the instructions themselves, or where they are.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from kcrash.errors import BadFormat, MemoryFault
from kcrash.unwind.rules import Kind, Row, Rule, same_value
from kcrash.unwind.target import MemoryReader, Target

ENTRY_SIZE = 8
CANNOT_UNWIND = 1  # EXIDX_CANTUNWIND
COMPACT = 0x80000000
FINISH = 0xB0
MAX_MEMO = 65_536
SP, LR, PC = 13, 14, 15
#: Of a function that "cannot be unwound": the outermost one, or assembly, which may be a leaf.
UNTOLD = Row(None, (), LR, False, "exidx")


class ExidxTable:
    """A RowTable of an index at ``address``; ``memory`` reads what it refers to (.ARM.extab)."""

    def __init__(
        self, index: bytes | memoryview, target: Target, memory: MemoryReader, *, address: int, file: str
    ) -> None:
        count = len(index) // ENTRY_SIZE
        words = struct.unpack(f"{target.order}{2 * count}I", bytes(index[: count * ENTRY_SIZE]))
        self.address = address
        self.file = file
        self._target = target
        self._memory = memory
        places = range(address, address + count * ENTRY_SIZE, ENTRY_SIZE)
        self._starts = [_prel31(place, word) for place, word in zip(places, words[::2], strict=True)]
        self._words = words[1::2]
        self._rows: dict[int, Row] = {}

    def switches_stack(self, pc: int) -> bool:
        """False: what switches stacks is a function of its own (call_with_stack())."""
        return False

    def row(self, pc: int) -> Row | None:
        """See RowTable. Of prologues nothing is told; at its very start a function has done nothing."""
        number = bisect_right(self._starts, pc) - 1
        if number < 0:
            return None
        if pc == self._starts[number] and self._words[number] != CANNOT_UNWIND:
            return _Frame().row()
        found = self._rows.get(number)
        if found is None:
            if len(self._rows) >= MAX_MEMO:
                self._rows.clear()
            found = self._rows[number] = self._decode(number)
        return found

    def _decode(self, number: int) -> Row:
        if self._words[number] == CANNOT_UNWIND:
            return UNTOLD
        frame, code = _Frame(), self._code(number)
        try:
            for opcode in code:
                if not frame.apply(opcode, code):
                    break
        except StopIteration:
            raise self._bad(number, "an instruction that is cut off") from None
        except NotImplementedError as error:
            raise self._bad(number, str(error)) from None
        return frame.row()

    def _code(self, number: int) -> Iterator[int]:
        """The bytes of the instructions: most significant first in each word (EHABI 7)."""
        word = self._words[number]
        if word & COMPACT:
            if word >> 24 != 0x80:
                raise self._bad(number, f"personality routine {word >> 24 & 15} in the index")
            return iter(word.to_bytes(4, "big")[1:])
        place = _prel31(self.address + number * ENTRY_SIZE + 4, word)
        head = self._word(number, place)
        if head >> 24 == 0x80:
            return iter(head.to_bytes(4, "big")[1:])
        if head >> 24 not in (0x81, 0x82):
            raise self._bad(number, f"personality routine {head:#x}")
        more = b"".join(
            self._word(number, place + 4 * at).to_bytes(4, "big") for at in range(1, 1 + (head >> 16 & 0xFF))
        )
        return iter(head.to_bytes(4, "big")[2:] + more)

    def _word(self, number: int, address: int) -> int:
        try:
            found: int = self._target.word.unpack(self._memory.read(address, 4))[0]
        except MemoryFault as fault:
            raise self._bad(number, f"instructions: {fault}") from None
        return found

    def _bad(self, number: int, what: str) -> BadFormat:
        return BadFormat(self.file, what, number * ENTRY_SIZE)


def _prel31(place: int, word: int) -> int:
    """The address that bits 0 to 30 tell, counted from where they stand."""
    return place + ((word & 0x7FFFFFFF) ^ 0x40000000) - 0x40000000 & 0xFFFFFFFF


class _Frame:
    """What instructions have found up to now: the virtual stack pointer is a register and an offset."""

    def __init__(self) -> None:
        self.base, self.offset = SP, 0
        self.rules: dict[int, Rule] = {}

    def apply(self, opcode: int, code: Iterator[int]) -> bool:
        """One instruction, further bytes of which are in ``code``; False for the last one.

        Raises NotImplementedError for one that kernels do not use, StopIteration.
        """
        if opcode < 0x80:
            step = ((opcode & 0x3F) << 2) + 4
            self.offset += step if opcode < 0x40 else -step
        elif opcode < 0x90:
            self._pop_mask((opcode & 15) << 8 | next(code), 4)
        elif opcode < 0xA0:
            self._set(opcode & 15)
        elif opcode < 0xB0:
            self._pop([*range(4, 5 + (opcode & 7)), *([LR] if opcode & 8 else [])])
        else:
            return self._rest(opcode, code)
        return True

    def _rest(self, opcode: int, code: Iterator[int]) -> bool:
        if opcode == FINISH:
            return False
        if opcode == 0xB1:
            self._pop_mask(next(code), 0)
        elif opcode == 0xB2:
            self.offset += 0x204 + (_uleb128(code) << 2)
        elif opcode in (0xB3, 0xC8, 0xC9):  # floating-point registers, as pairs of words
            self.offset += 8 * ((next(code) & 15) + 1) + (4 if opcode == 0xB3 else 0)
        elif opcode >> 3 in (0x17, 0x1A):
            self.offset += 8 * ((opcode & 7) + 1) + (4 if opcode < 0xC0 else 0)
        else:
            raise NotImplementedError(f"instruction {opcode:#x}")
        return True

    def _set(self, register: int) -> None:
        if register in (SP, PC) or register in self.rules:
            raise NotImplementedError(f"instruction {0x90 | register:#x}")
        self.base, self.offset = register, 0

    def _pop_mask(self, mask: int, first: int) -> None:
        if not mask:
            raise NotImplementedError("refused to unwind")
        self._pop([first + bit for bit in range(12) if mask >> bit & 1])

    def _pop(self, registers: list[int]) -> None:
        if SP in registers:
            raise NotImplementedError("the stack pointer is on the stack")
        for register in registers:
            self.rules[register] = Rule(Kind.AT_REGISTER, self.base, self.offset)
            self.offset += 4

    def row(self) -> Row:
        """The rules of the caller. What was not saved is as it was; temporaries are not known."""
        column = PC if PC in self.rules else LR
        kept = {number: same_value(number) for number in (*range(4, 12), LR)}
        rules = kept | self.rules | {SP: Rule(Kind.CFA)}
        cfa = Rule(Kind.REGISTER, self.base, self.offset)
        return Row(cfa, tuple(rules.items()), column, False, "exidx")


def _uleb128(code: Iterator[int]) -> int:
    """DWARF 5, 7.6; five bytes are more than any frame."""
    value = 0
    for shift in range(0, 35, 7):
        byte = next(code)
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value
    raise NotImplementedError("a frame beyond all measure")
