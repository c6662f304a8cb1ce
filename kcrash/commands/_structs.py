"""Structs as commands show them: ``struct``, ``union``, ``list -s``, ``tree -s``.

A `Layout` is what the user named (``task_struct.comm,se.vruntime``); a `Shower`
prints instances of one, from one read each, as text and as data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kcrash.commands.base import Address, Context, Fault, Item, Record
from kcrash.errors import CommandError, ExpressionError, MemoryFault, MissingMember
from kcrash.memory.space import AddressSpace
from kcrash.session import Session
from kcrash.types.ctext import declare
from kcrash.types.definition import Line, definition
from kcrash.types.model import CompoundType, FunctionType, Member, PointerType, Type, TypedefType
from kcrash.types.namespace import Types
from kcrash.values.format import (
    Decoder,
    Formatter,
    Selected,
    Style,
    escape,
    is_textual,
    read_string,
    select,
)
from kcrash.values.names import AddressNames
from kcrash.values.scope import Scope, scope_of

MAX_SIZE = 64 << 20
MAX_POINTED = 1 << 20  # bytes of what a pointer points to that -p prints


def style_of(context: Context, radix: int) -> Style:
    """How the session's settings want values to look."""
    settings = context.settings
    return Style(radix, settings.print_max, settings.null_stop, settings.print_array)


def names_of(session: Session) -> AddressNames:
    """The session's names of addresses."""
    return session.reading("address names", lambda: AddressNames(session))


def formatter_of(context: Context, radix: int, scope: Scope | None = None) -> Formatter:
    """A formatter for the session, with types as exact as they are known."""
    return Formatter(scope or scope_of(context.session), style_of(context, radix), names_of(context.session))


# -- what is shown


@dataclass(slots=True)
class Layout:
    """A struct or union, and the members of it that are wanted.

    ``kind``, ``name``: as they head the output; ``members``: paths, none for all of it;
    ``typedef``: the typedef that was named, if it was one.
    """

    kind: str
    name: str
    type: CompoundType
    members: list[str] = field(default_factory=list)
    typedef: TypedefType | None = None

    @property
    def full_name(self) -> str:
        """``struct name``."""
        return f"{self.kind} {self.name}"

    def head(self, line: str) -> str:
        """The first line of the definition."""
        return f"typedef {line}" if self.typedef else line

    def foot(self) -> str:
        """The last line of the definition."""
        return f"}} {self.name};" if self.typedef else "}"

    def select(self, path: str) -> Selected:
        """Where a member is. Raises CommandError as crash words it."""
        try:
            return select(self.type, path)
        except MissingMember:
            raise CommandError(f"invalid data structure reference: {self.name}.{path}") from None


def layout_of(session: Session, text: str, kind: str = "") -> Layout:
    """As parse_layout(), of the session's types; those of modules are looked at if the kernel has none."""
    return parse_layout(scope_of(session).types, text, kind)


def parse_layout(types: Types, text: str, kind: str = "") -> Layout:
    """``name[.member[,member]]``, which must be of ``kind`` ("struct" or "union") if that is given.

    Raises CommandError.
    """
    name, dot, members = text.partition(".")
    if dot and not members:
        raise CommandError(f"invalid format: {text}")
    found = find_compound(types, name, kind)
    if found is None:
        raise CommandError(f"invalid data structure reference: {name}")
    plain = found.underlying
    if not isinstance(plain, CompoundType) or (kind and plain.kind != kind):
        article = "a struct" if kind == "struct" else "a union" if kind else "a struct or union"
        raise CommandError(f"data type mismatch: {name} is not {article}")
    typedef = found if isinstance(found, TypedefType) else None
    return Layout(plain.kind, name, plain, [part for part in members.split(",") if part], typedef)


def find_compound(types: Types, name: str, kind: str = "") -> Type | None:
    """The struct, union or typedef ``name``, of ``kind`` first; a typedef may be of anything."""
    kinds = ["struct", "union"] if kind != "union" else ["union", "struct"]
    found = (types.find(each, name) for each in (*kinds, "typedef"))
    return next((type_ for type_ in found if type_ is not None), None)


def parse_offset(types: Types, text: str, option: str = "-l") -> int:
    """``struct.member``, or a number of bytes. Raises CommandError."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    name, _dot, path = text.partition(".")
    found = find_compound(types, name) if path else None
    plain = found.underlying if found is not None else None
    try:
        if isinstance(plain, CompoundType):
            return plain.offset(path)
        return int(text, 16)
    except (MissingMember, ValueError):
        raise CommandError(f"invalid {option} option: {text}") from None


# -- definitions


def definition_text(layout: Layout) -> Iterator[str]:
    """The definition of a struct, as gdb writes it."""
    lines = [str(line) for line in definition(layout.type)]
    yield layout.head(lines[0])
    yield from lines[1:-1]
    yield layout.foot()


def offsets_text(layout: Layout, radix: int, address: int | None = None) -> Iterator[str]:
    """The definition with each member's offset, or address, before it."""
    columns = _Columns(layout.type, radix, address)
    lines = definition(layout.type)
    yield layout.head(str(lines[0]))
    yield from map(columns.text, lines[1:-1])
    yield layout.foot()


@dataclass(slots=True)
class _Columns:
    """The bracketed column of offsets."""

    type: CompoundType
    radix: int
    address: int | None

    def text(self, line: Line) -> str:
        """``  [16] type name;``"""
        width = len(self._number(self.type.size)) + 2 if self.address is None else 0
        body = "    " * (line.level - 1) + line.text
        if line.member is None:
            width = width or len(f"[{self.address:x}]")
            return f"  {'':{width}} {body}"
        shown = f"[{self._number(line.member.offset)}]"
        return f"  {shown:>{width}} {body}"

    def _number(self, offset: int) -> str:
        if self.address is not None:
            return f"{self.address + offset:x}"
        return f"{offset:#x}" if self.radix == 16 else str(offset)


def member_offset_lines(layout: Layout, path: str, radix: int, address: int | None) -> list[str]:
    """The line of one member with its offset (or address), between the struct's first and last."""
    found = layout.select(path)
    columns = _Columns(layout.type, radix, address)
    lines = definition(layout.type)
    shown = [line for line in lines if _is_line_of(line, found, path)]
    if shown:
        body = columns.text(shown[0])
    else:  # it lies deeper than the definition goes
        bits = f" : {found.member.bit_size}" if found.member.bit_size else ""
        body = columns.text(Line(1, f"{declare(found.member.type, path)}{bits};", found.member))
    return [layout.head(str(lines[0])), body, layout.foot()]


def _is_line_of(line: Line, found: Selected, path: str) -> bool:
    member = line.member
    return member is not None and member.name == path and member.bit_offset == found.member.bit_offset


def size_text(layout: Layout, radix: int) -> str:
    """``SIZE: 16``"""
    return f"SIZE: {layout.type.size:#x}" if radix == 16 else f"SIZE: {layout.type.size}"


# -- instances


def extent_of(selected: Sequence[Selected]) -> tuple[int, int]:
    """``(first, end)``: the bytes of an instance that some of its members take."""
    return min(found.member.offset for found in selected), max(_end(found.member) for found in selected)


def read_part(memory: AddressSpace, address: int, first: int, end: int) -> bytes:
    """An instance up to byte ``end``, with zeroes for what is before byte ``first``. Raises MemoryFault."""
    start = address + first & (1 << 8 * memory.word_bytes) - 1
    return bytes(first) + memory.read(start, end - first)


class Shower:
    """Shows instances of a layout.

    ``pointers``: show what direct pointer members point to (-p); ``memory``: read
    instead of kernel memory.
    """

    def __init__(
        self,
        context: Context,
        layout: Layout,
        radix: int,
        *,
        pointers: bool = False,
        memory: AddressSpace | None = None,
    ) -> None:
        self.session = context.session
        self.layout = layout
        self.pointers = pointers
        self.scope = scope_of(context.session, memory)
        self.formatter = formatter_of(context, radix, self.scope)
        self.faults: list[str] = []
        self.selected = list(self._select())
        if self.faults and not self.selected:
            raise CommandError(self.faults[0])

    def _select(self) -> Iterator[Selected]:
        for path in self.layout.members:
            try:
                yield self.layout.select(path)
            except CommandError as error:
                self.faults.append(str(error))

    @property
    def size(self) -> int:
        """Bytes of one instance."""
        return self.layout.type.size

    @cached_property
    def extent(self) -> tuple[int, int]:
        """``(first, end)``: the bytes of an instance that showing it needs."""
        return extent_of(self.selected) if self.selected else (0, self.size)

    def items(self, address: int, data: bytes | None = None) -> Iterator[Item]:
        """One instance. ``data``: its bytes, if they have been read. Raises MemoryFault."""
        if data is None:
            data = self.read(address)
        yield Record("struct", self.data(address, data), lambda: self.lines(address, data))
        for message in self.faults:
            yield Fault(message)

    def read(self, address: int) -> bytes:
        """The bytes of an instance; those that are not needed may be zeroes. Raises MemoryFault."""
        if self.size > MAX_SIZE:
            raise CommandError(f"{self.layout.name} has {self.size} bytes: not read")
        return read_part(self.scope.memory, address, *self.extent)

    def data(self, address: int, data: bytes) -> dict[str, Any]:
        """What JSON gets."""
        decoder = Decoder(self.scope, Address)
        value: Any
        if self.selected:
            value = {found.path: decoder.member(found, data) for found in self.selected}
        else:
            value = decoder.data(self.layout.type, data, 0)
        return {
            "type": self.layout.full_name,
            "address": Address(address),
            "value": value,
        }

    def lines(self, address: int, data: bytes) -> Iterator[str]:
        """What text gets."""
        if self.selected:
            for found in self.selected:
                yield from self._member(found, address, data)
        elif self.pointers:
            yield from self._with_pointers(address, data)
        else:
            text = self.formatter.bytes_text(self.layout.type, data, address)
            yield f"{self.layout.full_name} {text}"

    def _member(self, found: Selected, address: int, data: bytes) -> Iterator[str]:
        if self.pointers and found.recurse == 1 and "." not in found.path and _is_pointer(found.member):
            yield from self._pointer(found, data)
        else:
            yield self.formatter.member_text(found, data, address)

    def _with_pointers(self, address: int, data: bytes) -> Iterator[str]:
        yield f"{self.layout.full_name} {{"
        members = self.layout.type.members
        for number, member in enumerate(members):
            found = Selected(member.name, member, 1, number + 1 < len(members))
            if _is_pointer(member):
                yield from self._pointer(found, data)
            elif member.name:
                yield self.formatter.member_text(found, data, address)
            else:
                text = self.formatter.bytes_text(member.type, data, address, 1, member.offset)
                yield f"  {text}{',' if found.comma else ''}"
        yield "}"

    # -- what pointers point to

    def _pointer(self, found: Selected, data: bytes) -> Iterator[str]:
        member = found.member
        size = member.type.size
        order: Any = self.scope.types.byte_order
        address = int.from_bytes(data[member.offset : member.offset + size], order)
        yield f"  {declare(member.type, member.name or found.path)} = {address:#x}"
        yield f"  -> {self._pointed(member.type, address)}"

    def _pointed(self, type_: Type, address: int) -> str:
        plain = type_.underlying
        assert isinstance(plain, PointerType)
        target = plain.target.underlying
        if not address:
            return "NULL"
        if is_textual(target):
            return self._string(address)
        symbol = self._symbol_at(address)
        if isinstance(type_, PointerType) and isinstance(type_.target, FunctionType):
            return f"<{symbol}>" if symbol else "(unknown)"
        try:
            value = self._target_text(plain.target, address, symbol)
        except (ExpressionError, MemoryFault):
            value = "" if symbol else "(not accessible)"
        return f"<{symbol}> {value}".rstrip() if symbol else value

    def _target_text(self, target: Type, address: int, symbol: str) -> str:
        """The value behind a pointer, its lines moved right; a known variable has its own type."""
        if symbol:
            text = self.formatter.text(self.scope.name(symbol))
        else:
            target = self.scope.complete(target)
            if target.underlying.kind == "void":
                return "(unknown target type)"
            if target.underlying.kind == "function":
                return "(unknown)"
            if target.size > MAX_POINTED:
                raise ExpressionError("too large")
            data = self.scope.memory.read(address, target.size)
            text = self.formatter.bytes_text(target, data, address)
        return text.replace("\n", "\n     ")

    def _string(self, address: int) -> str:
        data, _fault = read_string(self.scope.memory, address, self.formatter.style.elements)
        data = data.split(b"\0", 1)[0]
        if not data or not all(32 <= byte < 127 or byte in b"\t\n\r" for byte in data):
            return "(not accessible)"
        return f'"{escape(data)}"'

    def _symbol_at(self, address: int) -> str:
        found = self.session.symbols.at(address)
        if found is None or found[1]:
            return ""
        name = names_of(self.session).name(address)
        return name if name and "+" not in name else found[0].name


def _is_pointer(member: Member) -> bool:
    return isinstance(member.type.underlying, PointerType) and not member.bit_size


def _end(member: Member) -> int:
    if member.bit_size:
        return (member.bit_offset + member.bit_size + 7) // 8
    return member.offset + member.type.size
