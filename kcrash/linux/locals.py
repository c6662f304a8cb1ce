"""Parameters and locals of the frames on a kernel stack, with their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import KcrashError, MemoryFault
from kcrash.linux.stack import unwind_target
from kcrash.types.dwarf import constants as dw
from kcrash.types.model import CompoundType, Type
from kcrash.unwind.location import OPTIMIZED_OUT, Absent, LocationMachine, Piece, assemble
from kcrash.unwind.unwinder import Frame
from kcrash.values.value import Value

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.types.dwarf import CallSite, DwarfSource, FrameScope, Variable
    from kcrash.types.dwarf.info import Unit

MAX_NESTED = 16
MAX_ASKED = 10_000
MAX_ENTRY_DEPTH = 16  # of calls through which what was handed over is followed
_SIGNED = (dw.DW_ATE_signed, dw.DW_ATE_signed_char)


class Local(NamedTuple):
    """A variable of a frame: ``value``, or None and ``why`` there is none."""

    name: str
    parameter: bool
    type: Type
    value: Value | None
    why: str = ""


class FunctionFrame(NamedTuple):
    """A function of a frame, the place in it (of the call, but for the innermost), and its variables."""

    function: str
    file: str
    line: int
    inlined: bool
    variables: list[Local]


def frame_functions(session: Session, frames: Sequence[Frame], index: int) -> list[FunctionFrame]:
    """The functions of frame ``index``, innermost first; empty where no debuginfo tells. Raises BadFormat."""
    pc = frames[index].lookup_pc
    known = session.dwarf_at(pc) if pc is not None else None
    if pc is None or known is None:
        return []
    scopes = known[0].frame_scopes(pc - known[1])
    view = _FrameView(session, frames, index)
    return [_function(view, scope) for scope in scopes]


def _function(view: _FrameView, scope: FrameScope) -> FunctionFrame:
    variables = [_local(view, variable) for variable in scope.variables]
    return FunctionFrame(*scope.frame, variables)


def _local(view: _FrameView, variable: Variable) -> Local:
    type_ = variable.type if isinstance(variable.type, Type) else variable.type()
    try:
        return Local(variable.name, variable.parameter, type_, view.value(variable, type_))
    except Absent as reason:
        return Local(variable.name, variable.parameter, type_, None, str(reason))
    except (MemoryFault, KcrashError) as error:
        return Local(variable.name, variable.parameter, type_, None, str(error))


@dataclass
class _FrameView:
    """One frame, and those that called it."""

    session: Session
    frames: Sequence[Frame]
    index: int
    depth: int = 0
    #: One entry for each time that a caller was asked; shared with the views of the callers.
    asked: list[bytes] = field(default_factory=list)

    @property
    def frame(self) -> Frame:
        return self.frames[self.index]

    @cached_property
    def debug(self) -> tuple[DwarfSource, int]:
        """``(source, bias)`` of the DWARF that describes the frame. Raises Absent."""
        pc = self.frame.lookup_pc
        found = self.session.dwarf_at(pc) if pc is not None else None
        if found is None:
            raise Absent("unknown")
        return found

    @property
    def address(self) -> int:
        """The address in the function, as linked."""
        return (self.frame.lookup_pc or 0) - self.debug[1]

    def machine(self, code: bytes, unit: Unit | None) -> LocationMachine:
        """To evaluate an expression of ``unit`` in this frame."""
        target = unwind_target(self.session)
        return LocationMachine(code, target, self.frame.registers, self.session.memory, _Context(self, unit))

    def value(self, variable: Variable, type_: Type) -> Value:
        """A variable's value. Raises Absent, MemoryFault."""
        if variable.constant is not None:
            return self._of_constant(variable.constant, type_)
        if variable.location is None:
            raise Absent(OPTIMIZED_OUT)
        pieces = self.machine(variable.location, variable.unit).locate()
        if len(pieces) == 1 and pieces[0].address is not None and not pieces[0].skip:
            return Value(self.session, type_, pieces[0].address)
        return self._assembled(pieces, type_)

    def _assembled(self, pieces: list[Piece], type_: Type) -> Value:
        data, known = assemble(pieces, type_.size, unwind_target(self.session), self.session.memory)
        if _significant(type_) & ~known:
            raise Absent(f"partly {OPTIMIZED_OUT}" if known else OPTIMIZED_OUT)
        return Value(self.session, type_, data=data)

    def _of_constant(self, constant: int | bytes, type_: Type) -> Value:
        size = type_.size
        if isinstance(constant, bytes):
            return Value(self.session, type_, data=constant[:size].ljust(size, b"\0"))
        order = self.session.arch.byte_order
        data = (constant & (1 << 8 * size) - 1).to_bytes(size, "little" if order == "little" else "big")
        return Value(self.session, type_, data=data)

    # -- what a call handed over

    def handed_over(self, place: bytes) -> int:
        """What the caller had put into ``place`` when this function was entered. Raises Absent."""
        if len(self.asked) >= MAX_ASKED:
            raise Absent("its location asks too many callers")
        self.asked.append(place)
        caller = self._caller()
        site = caller.debug[0].call_site((caller.frame.pc or 0) - caller.debug[1])
        if site is None or place not in site.values or not self._calls_this(caller, site):
            raise Absent(OPTIMIZED_OUT)
        return caller.machine(site.values[place], site.unit).value()

    def _caller(self) -> _FrameView:
        callers = self.frames[self.index + 1 : self.index + 2]
        if not callers or callers[0].interrupted or self.depth >= MAX_ENTRY_DEPTH:
            raise Absent(OPTIMIZED_OUT)
        return _FrameView(self.session, self.frames, self.index + 1, self.depth + 1, self.asked)

    def _calls_this(self, caller: _FrameView, site: CallSite) -> bool:
        """False if the call may have come here through others, by tail calls."""
        this = self.debug[0].function_at(self.address)
        if this is None:
            return False
        if site.target is None:
            return site.callee == this.name
        return caller.machine(site.target, site.unit).value() - self.debug[1] == this.low


def _significant(type_: Type, depth: int = 0) -> int:
    """The bits of a type that are no padding, as a little-endian number: compilers describe no others."""
    plain = type_.underlying
    if not isinstance(plain, CompoundType) or depth > MAX_NESTED:
        return (1 << 8 * type_.size) - 1
    mask = 0
    for member in plain.members:
        own = (1 << member.bit_size) - 1 if member.bit_size else _significant(member.type, depth + 1)
        mask |= own << member.bit_offset
    return mask


@dataclass(frozen=True)
class _Context:
    """A frame as location expressions ask of it (kcrash.unwind.location.Context).

    ``unit``: of the expression; None for that of the frame base.
    """

    view: _FrameView
    unit: Unit | None

    @property
    def cfa(self) -> int | None:
        return self.view.frame.cfa

    @property
    def bias(self) -> int:
        return self.view.debug[1]

    def frame_base(self) -> int:
        if self.unit is None:
            raise Absent("the frame base is made of itself")
        source = self.view.debug[0]
        base = source.frame_base(self.view.address)
        if base is None:
            raise Absent(OPTIMIZED_OUT)
        return self.view.machine(base, None).value()

    def entry_value(self, expression: bytes) -> int:
        return self.view.handed_over(expression)

    def indexed(self, index: int) -> int:
        if self.unit is None:
            raise Absent("unknown")
        return self.unit.info.indexed_address(self.unit, index)

    def base_type(self, offset: int) -> tuple[int, bool]:
        if not offset or self.unit is None:
            return 0, False
        die = self.unit.info.die(self.unit.offset + offset, self.unit)
        encoding = die.number(dw.DW_AT_encoding)
        if encoding in (dw.DW_ATE_float, dw.DW_ATE_complex_float):
            raise Absent("a floating-point value")
        return die.number(dw.DW_AT_byte_size) or 0, encoding in _SIGNED

    def register_name(self, number: int) -> str:
        names = (name for name, known in self.view.session.arch.dwarf.items() if known == number)
        return next(names, str(number))
