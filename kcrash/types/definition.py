"""The C definition of a type, line by line, as gdb's ``ptype`` prints it inside crash.

The rules are those of gdb's c-typeprint.c: structs and enums without a name are
written out where they stand, but one inside another only if the inner member has
no name either; elsewhere they are ``struct {...}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kcrash.types.ctext import base_name, declare
from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FunctionType,
    Member,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
)

MAX_LEVEL = 32  # a hostile type section may nest for ever
MAX_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a definition.

    ``level``: of indentation; ``member``: what the line declares, its offset from the start of
    the outermost struct; None on lines that open or close something without a name, and inside
    members that have a name: only what the struct's own names reach has an offset in crash.
    """

    level: int
    text: str
    member: Member | None = None

    def __str__(self) -> str:
        return "    " * self.level + self.text


def definition(type_: Type) -> list[Line]:
    """The lines of ``ptype`` for a type; typedefs that it starts with are looked through."""
    return list(_bounded(_expanded(_without_typedef(type_), "", 1, 0, None)))


def _bounded(lines: Iterator[Line]) -> Iterator[Line]:
    for number, line in enumerate(lines):
        if number >= MAX_LINES:
            return
        yield line


def _expanded(type_: Type, name: str, show: int, level: int, member: Member | None) -> Iterator[Line]:
    """The declaration of ``name``: one line, or several if its struct is written out.

    ``show``: as gdb counts: above 0 everything is written out, at 0 what has no name, below nothing.
    """
    base = _base(type_)
    text = declare(type_, name)
    if isinstance(base, CompoundType | EnumType) and _is_shown(base, show) and level < MAX_LEVEL:
        before, _, after = text.partition(base_name(base))
        head = f"{before}{base.kind}{' ' if base.name else ''}{base.name}"
        if isinstance(base, EnumType):
            yield Line(level, f"{head} {{{_constants(base)}}}{after}", member)
            return
        yield Line(level, f"{head} {{")
        inner = _members(base, show, level + 1, member.bit_offset if member else 0)
        yield from (Line(line.level, line.text) for line in inner) if name else inner
        yield Line(level, f"}}{after}", member if name else None)
        return
    yield Line(level, text, member)


def _base(type_: Type) -> Type:
    """The type that a declaration starts with: without pointers, arrays, parameters and qualifiers."""
    for _ in range(64):
        if not isinstance(type_, PointerType | ArrayType | FunctionType | QualifiedType):
            return type_
        type_ = type_.target
    return type_


def _without_typedef(type_: Type, depth: int = 0) -> Type:
    """The type with the typedefs that its declaration starts with looked through."""
    if depth > MAX_LEVEL:
        return type_
    if isinstance(type_, TypedefType):
        return _without_typedef(type_.target, depth + 1)
    if isinstance(type_, PointerType):
        return PointerType(_without_typedef(type_.target, depth + 1), type_.size)
    if isinstance(type_, ArrayType):
        return ArrayType(_without_typedef(type_.target, depth + 1), type_.count)
    if isinstance(type_, QualifiedType):
        return QualifiedType(type_.qualifier, _without_typedef(type_.target, depth + 1))
    if isinstance(type_, FunctionType):
        result = _without_typedef(type_.target, depth + 1)
        return FunctionType(result, type_.parameters, variadic=type_.variadic)
    return type_


def _is_shown(base: Type, show: int) -> bool:
    return show > 0 or (show == 0 and not base.name)


def _members(owner: CompoundType, show: int, level: int, bit_offset: int) -> Iterator[Line]:
    if not owner.members:
        yield Line(level, "<no data fields>" if owner.complete else "<incomplete type>")
    for member in owner.members:
        moved = member._replace(bit_offset=member.bit_offset + bit_offset)
        lines = list(_expanded(member.type, member.name, show - bool(member.name), level, moved))
        bits = f" : {member.bit_size}" if member.bit_size else ""
        last = lines.pop()
        yield from lines
        yield Line(last.level, f"{last.text}{bits};", last.member)


def _constants(enum: EnumType) -> str:
    """``A, B = 4, C``: values only where they do not follow from the one before."""
    texts, expected = [], 0
    for name, number in enum.enumerators.items():
        texts.append(name if number == expected else f"{name} = {number}")
        expected = number + 1
    return ", ".join(texts)


def typedef_lines(typedef: TypedefType) -> list[str]:
    """A typedef as crash's ``whatis`` shows it, with what it stands for written out.

    crash puts the typedef's name behind gdb's text for the type, where it is not C (``typedef
    void (*)(struct work_struct *) work_func_t;``), and leaves it out where that text starts
    with the constants of an enum or, for an enum itself, if that has a name.
    """
    plain = typedef.underlying
    if isinstance(plain, EnumType):
        lines = enum_lines(plain)
        end = "};" if plain.name else f"}} {typedef.name};"
        return [f"typedef {lines[0]}", *lines[1:-1], end]
    lines = [str(line) for line in definition(typedef)]
    of_enum = isinstance(_base(_without_typedef(typedef)), EnumType)
    lines[-1] += "" if of_enum else f" {typedef.name};"
    return [f"typedef {lines[0]}", *lines[1:]]


def enum_lines(enum: EnumType) -> list[str]:
    """An enum as crash's ``whatis`` lists it, a constant a line."""
    body = [f"  {name} = {_as_long(number)}" for name, number in enum.enumerators.items()]
    return [f"enum {enum.name} {{" if enum.name else "enum {", *body, "};"]


def _as_long(number: int) -> int:
    return number - (1 << 64) if number >> 63 == 1 else number
