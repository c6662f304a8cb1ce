"""The instructions of a frame description entry, run up to one address.

DWARF 5, section 6.4.2 "Call Frame Instructions"; the extensions of GNU, MIPS
and AArch64 as binutils' include/dwarf2.def lists them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from kcrash.errors import BadFormat
from kcrash.unwind.expression import read_leb
from kcrash.unwind.rules import Kind, Row, Rule, same_value

if TYPE_CHECKING:
    from kcrash.unwind.cfi import CfiTable, Fde

MAX_REMEMBERED = 256
MAX_REGISTER = 4096


class CfaProgram:
    """Runs the instructions of one FDE. Raises BadFormat for those that make no sense."""

    def __init__(self, table: CfiTable, fde: Fde) -> None:
        self.table = table
        self.fde = fde
        self.cie = fde.cie
        self.data = table.data
        self.location = fde.start
        self.position = 0
        self.limit = 0
        self.until: int | None = None
        self.cfa: Rule | None = None
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] = {}
        self.remembered: list[tuple[Rule | None, dict[int, Rule]]] = []
        self.collected: list[tuple[int, Row]] | None = None

    def _bad(self, what: str) -> NoReturn:
        raise BadFormat(self.table.file, what, self.position)

    # -- running

    def row(self, address: int) -> Row:
        """The row at a link-time address inside the FDE."""
        self.until = address
        self._run_both()
        return self._snapshot()

    def rows(self) -> list[tuple[int, Row]]:
        """All rows with the address at which each begins."""
        self.collected = []
        self._run_both()
        return [*self.collected, (self.location, self._snapshot())]

    def _run_both(self) -> None:
        known = self.table.initial.get(self.cie)
        if known is None:
            self.rules = _defaults(self.table)
            self._run(self.cie.begin, self.cie.end)
            known = self.table.initial[self.cie] = self.cfa, self.rules
        self.cfa, self.initial = known
        self.rules = dict(self.initial)
        self.location = self.fde.start
        self._run(self.fde.begin, self.fde.end)

    def _run(self, begin: int, end: int) -> None:
        self.position, self.limit = begin, end
        data = self.data
        try:
            while self.position < end:
                opcode = data[self.position]
                self.position += 1
                if not self._execute(opcode):
                    return
        except (IndexError, struct.error):
            self._bad("the instructions end in the middle of one")
        if self.position > end:
            self._bad("an instruction runs past the end of its entry")

    def _execute(self, opcode: int) -> bool:
        """False if the next row begins beyond the wanted address."""
        short, operand = opcode & 0xC0, opcode & 0x3F
        if short == 0x40:
            return self._advance(operand)
        if short == 0x80:
            self._set(operand, Kind.SAVED, self._uleb() * self.cie.data_align)
        elif short == 0xC0:
            self._restore(operand)
        elif opcode in _ADVANCES:
            return self._advance(self._fixed(_ADVANCES[opcode]))
        elif opcode == 0x01:  # DW_CFA_set_loc
            value, self.position = self.table.pointer(self.position, self.cie.encoding, self.cie.address_size)
            return self._move(value)
        elif opcode in _OPCODES:
            _OPCODES[opcode](self)
        else:
            self._bad(f"unknown call frame instruction {opcode:#x}")
        return True

    def _advance(self, delta: int) -> bool:
        return self._move(self.location + delta * self.cie.code_align & self.table.target.mask)

    def _move(self, location: int) -> bool:
        if self.until is not None and location > self.until:
            return False
        if self.collected is not None and location != self.location:
            self.collected.append((self.location, self._snapshot()))
        self.location = location
        return True

    def _snapshot(self) -> Row:
        return Row(
            self.cfa,
            tuple(self.rules.items()),
            self.cie.return_column,
            self.cie.signal,
            "cfi",
        )

    # -- operands

    def _fixed(self, form: str) -> int:
        value: int = struct.unpack_from(self.table.target.order + form, self.data, self.position)[0]
        self.position += struct.calcsize(form)
        return value

    def _uleb(self) -> int:
        value, self.position = read_leb(self.data, self.position)
        return value

    def _sleb(self) -> int:
        value, self.position = read_leb(self.data, self.position, True)
        return value

    def _block(self) -> bytes:
        size = self._uleb()
        if self.position + size > self.limit:
            self._bad(f"an expression of {size} bytes runs past the end of its entry")
        self.position += size
        return bytes(self.data[self.position - size : self.position])

    # -- what instructions do

    def _set(self, register: int, kind: Kind, offset: int = 0, other: int = 0) -> None:
        if register >= MAX_REGISTER:
            self._bad(f"register number {register}")
        self.rules[register] = Rule(kind, other, offset)

    def _restore(self, register: int) -> None:
        rule = self.initial.get(register)
        if rule is None:
            self.rules.pop(register, None)
        else:
            self.rules[register] = rule

    def _define_cfa(self, register: int, offset: int) -> None:
        self.cfa = Rule(Kind.REGISTER, register, offset)

    def _define_cfa_register(self) -> None:
        """LLVM begins with this one on MIPS, where no offset has been said yet: it is 0."""
        offset = 0 if self.cfa is None else self._plain_cfa().offset
        self._define_cfa(self._uleb(), offset)

    def _plain_cfa(self) -> Rule:
        if self.cfa is None or self.cfa.kind != Kind.REGISTER:
            self._bad("the CFA is no register and offset that could be changed")
        return self.cfa

    def _expression(self, kind: Kind) -> None:
        register = self._uleb()
        self._set(register, kind)
        self.rules[register] = Rule(kind, expression=self._block())

    def _remember(self) -> None:
        if len(self.remembered) >= MAX_REMEMBERED:
            self._bad(f"more than {MAX_REMEMBERED} remembered states")
        self.remembered.append((self.cfa, dict(self.rules)))

    def _recall(self) -> None:
        if not self.remembered:
            self._bad("no remembered state to restore")
        # The CFA too: DWARF does not say so, GCC and every consumer do.
        self.cfa, self.rules = self.remembered.pop()

    def _negate_ra_state(self) -> None:
        """AArch64's DW_CFA_AARCH64_negate_ra_state: the return address is signed, or no more."""
        number = self.table.target.ra_sign_state
        if number is None:  # the same opcode is SPARC's window save
            self._bad("a call frame instruction of another machine")
        old = self.rules.get(number)
        self._set(number, Kind.CONSTANT, 0 if old is not None and old.offset else 1)


def _defaults(table: CfiTable) -> dict[int, Rule]:
    """What holds before any instruction.

    DWARF leaves it to the ABI: callee-saved registers keep their values, the
    stack pointer is the CFA, and a return address that a call leaves in a
    register is still there.
    """
    target = table.target
    rules = {number: same_value(number) for number in target.callee_saved}
    if target.return_column != target.pc:
        rules[target.return_column] = same_value(target.return_column)
    rules[target.sp] = Rule(Kind.CFA)
    return rules


_ADVANCES = {0x02: "B", 0x03: "H", 0x04: "I", 0x1D: "Q"}  # the last is DW_CFA_MIPS_advance_loc8

_OPCODES: dict[int, Callable[[CfaProgram], object]] = {
    0x00: lambda p: None,  # nop
    0x05: lambda p: p._set(p._uleb(), Kind.SAVED, p._uleb() * p.cie.data_align),  # offset_extended
    0x06: lambda p: p._restore(p._uleb()),  # restore_extended
    0x07: lambda p: p.rules.pop(p._uleb(), None),  # undefined
    0x08: lambda p: p._set(number := p._uleb(), Kind.REGISTER, 0, number),  # same_value
    0x09: lambda p: p._set(p._uleb(), Kind.REGISTER, 0, p._uleb()),  # register
    0x0A: CfaProgram._remember,
    0x0B: CfaProgram._recall,
    0x0C: lambda p: p._define_cfa(p._uleb(), p._uleb()),  # def_cfa
    0x0D: CfaProgram._define_cfa_register,
    0x0E: lambda p: p._define_cfa(p._plain_cfa().register, p._uleb()),  # def_cfa_offset
    0x0F: lambda p: setattr(p, "cfa", Rule(Kind.VALUE, expression=p._block())),  # def_cfa_expression
    0x10: lambda p: p._expression(Kind.EXPRESSION),
    0x11: lambda p: p._set(p._uleb(), Kind.SAVED, p._sleb() * p.cie.data_align),  # offset_extended_sf
    0x12: lambda p: p._define_cfa(p._uleb(), p._sleb() * p.cie.data_align),  # def_cfa_sf
    0x13: lambda p: p._define_cfa(p._plain_cfa().register, p._sleb() * p.cie.data_align),  # .._offset_sf
    0x14: lambda p: p._set(p._uleb(), Kind.CFA, p._uleb() * p.cie.data_align),  # val_offset
    0x15: lambda p: p._set(p._uleb(), Kind.CFA, p._sleb() * p.cie.data_align),  # val_offset_sf
    0x16: lambda p: p._expression(Kind.VALUE),  # val_expression
    0x2C: CfaProgram._negate_ra_state,  # AARCH64_negate_ra_state_with_pc
    0x2D: CfaProgram._negate_ra_state,
    0x2E: lambda p: p._uleb(),  # GNU_args_size: does not matter to who only looks
    0x2F: lambda p: p._set(p._uleb(), Kind.SAVED, -p._uleb() * p.cie.data_align),  # GNU_negative_offset..
}
