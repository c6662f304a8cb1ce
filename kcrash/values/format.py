"""Values as text, the way gdb prints them inside crash (``set print pretty on``), and as plain data.

A type is compiled once into a function that prints it out of bytes; a struct is
read in one piece and printed from precomputed offsets. What gdb does is in its
valprint.c, c-valprint.c and cp-valprint.c; crash never compresses repeats.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kcrash.errors import CorruptData, ExpressionError, MemoryFault, MissingMember
from kcrash.memory.space import AddressSpace
from kcrash.types.ctext import type_name
from kcrash.types.layout import bit_field, scalar_format
from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    FunctionType,
    IntType,
    Member,
    PointerType,
    Type,
    VoidType,
)
from kcrash.values.unknown import TEXT, UnknownType
from kcrash.values.value import Target, Value

# Prints the value at an offset of some bytes; the last argument is the address of the first of the bytes.
Printer = Callable[[bytes, int, int], str]
Number = Callable[[int], str]

MAX_VALUES = 2_000_000  # printed or decoded for one answer: a hostile type section may nest for ever
MAX_READ = 256 << 20
MAX_ANONYMOUS = 64
MAX_DATA_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Style:
    """How values look.

    ``radix``: 10 or 16, for integers; ``elements``: of an array or a string shown
    at most; ``null_stop``: strings end at a NUL; ``print_array``: one element a
    line; ``depth``: of nesting shown at most.
    """

    radix: int = 10
    elements: int = 256
    null_stop: bool = False
    print_array: bool = False
    depth: int = 20


def no_names(address: int) -> str:
    """Shows no symbol behind any address."""
    return ""


class Formatter:
    """Prints values of ``target``.

    ``names``: gives ``" <symbol+offset>"`` of an address, or ""; ``space``: where
    strings that pointers point to are read (kernel memory unless given).
    """

    def __init__(
        self,
        target: Target,
        style: Style | None = None,
        names: Callable[[int], str] = no_names,
        space: AddressSpace | None = None,
    ) -> None:
        self.style = style or Style()
        self.names = names
        self._target = target
        self._space = space or target.memory
        self._order = target.types.byte_order
        self._pack = "<" if self._order == "little" else ">"
        self._printers: dict[tuple[int, int, int], tuple[Type, Printer]] = {}
        self._budget = MAX_VALUES

    # -- the ways in

    def text(self, value: Value) -> str:
        """A value. Raises MemoryFault."""
        field = value.bit_field_
        if field is not None:
            return self._number(field.type)(int(value.value_()))
        plain = value.type_.underlying
        if isinstance(plain, VoidType):
            return "void"
        if isinstance(plain, FunctionType) or plain is TEXT:
            return self._function(plain, value.address_ or 0)
        if isinstance(plain, UnknownType):
            raise ExpressionError("its type is not known: cast it, as in (int)name or *(struct x *)&name")
        return self.bytes_text(value.type_, read_value(value), value.address_ or 0)

    def top(self, value: Value) -> str:
        """A value as the command ``print`` shows it: a pointer has its type before it."""
        plain, text = value.type_.underlying, self.text(value)
        if isinstance(plain, PointerType) and not _is_char_pointer(value.type_):
            return f"({type_name(value.type_)}) {text}"
        return text

    def bytes_text(self, type_: Type, data: bytes, address: int = 0, recurse: int = 0, base: int = 0) -> str:
        """The value of a type whose bytes are ``data`` from index ``base`` on; ``data`` lies at ``address``.

        ``recurse``: levels of nesting that it is printed at.
        """
        self._budget = MAX_VALUES
        return self.printer(type_, recurse)(data, base, address)

    def printer(self, type_: Type, recurse: int = 0, anonymous: int = 0) -> Printer:
        """The function that prints a type at a level of nesting; made once.

        ``anonymous``: how many of the levels are anonymous members, which do not count as depth.
        """
        key = (id(type_), recurse, anonymous)
        found = self._printers.get(key)
        if found is None:
            # The type is kept with its printer, so that its id is not given to another one.
            found = self._printers[key] = (type_, self._compile(type_, recurse, anonymous))
        return found[1]

    # -- compiling

    def _compile(self, type_: Type, recurse: int, anonymous: int) -> Printer:
        plain = type_.underlying
        if isinstance(plain, CompoundType):
            return self._compile_compound(plain, recurse, anonymous)
        if isinstance(plain, ArrayType):
            return self._compile_array(plain, recurse, anonymous)
        if isinstance(plain, PointerType):
            return self._scalar(plain, self._pointer(plain))
        if isinstance(plain, FloatType):
            return self._compile_float(plain)
        if isinstance(plain, IntType | EnumType):
            return self._scalar(plain, self._number(type_))
        if isinstance(plain, FunctionType):
            return lambda data, base, address: self._function(plain, address + base)
        return lambda data, base, address: "void"

    def _scalar(self, plain: Type, show: Number) -> Printer:
        code = scalar_format(plain)
        if code is None:
            return self._odd_scalar(plain, show)
        unpack = struct.Struct(self._pack + code).unpack_from
        return lambda data, base, address: show(unpack(data, base)[0])

    def _odd_scalar(self, plain: Type, show: Number) -> Printer:
        """An integer of 128 bits, or of a size that no machine has."""
        size, signed, order = plain.size, bool(getattr(plain, "signed", False)), self._byte_order()
        return lambda data, base, address: show(
            int.from_bytes(data[base : base + size], order, signed=signed)
        )

    def _byte_order(self) -> Any:
        return self._order

    def _compile_float(self, plain: FloatType) -> Printer:
        code, digits = scalar_format(plain), 9 if plain.size == 4 else 17
        if code is None:
            return lambda data, base, address: f"0x{data[base : base + plain.size][::-1].hex()}"
        unpack = struct.Struct(self._pack + code).unpack_from
        return lambda data, base, address: f"{unpack(data, base)[0]:.{digits}g}"

    # -- numbers

    def _number(self, type_: Type) -> Number:
        """How an integer, character, bool, enum or pointer is shown."""
        plain = type_.underlying
        if isinstance(plain, EnumType):
            return enum_shower(plain)
        if isinstance(plain, PointerType):
            return self._pointer(plain)
        mask = (1 << plain.size * 8) - 1
        if self.style.radix == 16:
            return lambda number: f"{number & mask:#x}"
        if isinstance(plain, IntType) and plain.is_bool:
            return _bool_text
        return _char_text if is_textual(plain) else str

    def _pointer(self, plain: PointerType) -> Number:
        names, target = self.names, plain.target
        mask = (1 << plain.size * 8) - 1
        if is_textual(target.underlying):
            return lambda number: self._char_pointer(number & mask)
        return lambda number: f"{number & mask:#x}{names(number & mask) if number else ''}"

    def _char_pointer(self, address: int) -> str:
        if not address:
            return "0x0"
        return f"{address:#x}{self.names(address)} {self._string_at(address)}"

    def _string_at(self, address: int) -> str:
        """The string that a ``char *`` points to, in quotes, or why it cannot be read."""
        limit = self.style.elements
        data, failed = read_string(self._space, address, limit + 1)
        cut = len(data) > limit and not data.endswith(b"\0")
        data = data[:limit] if cut else data.removesuffix(b"\0")
        text = f'"{escape(data)}"{"..." if cut else ""}' if data or failed is None else ""
        return text if failed is None else f"{text}<error: Cannot access memory at address {failed:#x}>"

    def _function(self, plain: Type, address: int) -> str:
        return f"{{{type_name(plain)}}} {address:#x}{self.names(address)}"

    # -- structs and unions

    def _compile_compound(self, plain: CompoundType, recurse: int, anonymous: int) -> Printer:
        if not plain.complete:
            return lambda data, base, address: "<incomplete type>"
        if recurse - anonymous >= self.style.depth or anonymous > MAX_ANONYMOUS:
            return lambda data, base, address: "{...}"
        if not plain.members:
            return lambda data, base, address: "{<No data fields>}"
        indent = "\n" + "  " * (recurse + 1)
        parts = [self._compile_member(member, recurse + 1, anonymous, indent) for member in plain.members]
        end = "\n" + "  " * recurse + "}"

        def show(data: bytes, base: int, address: int) -> str:
            self._spend(len(parts))
            texts = [prefix + print_(data, base + offset, address) for prefix, offset, print_ in parts]
            return "{" + ",".join(texts) + end

        return show

    def _compile_member(
        self, member: Member, recurse: int, anonymous: int, indent: str
    ) -> tuple[str, int, Printer]:
        prefix = f"{indent}{member.name} = " if member.name else indent
        if member.bit_size:
            return prefix, 0, self._compile_bits(member)
        anonymous += not member.name
        return prefix, member.offset, self.printer(member.type, recurse, anonymous)

    def _compile_bits(self, member: Member) -> Printer:
        extract, show = bit_field(member, self._order), self._number(member.type)
        size = (member.bit_offset + member.bit_size + 7) // 8
        return lambda data, base, address: show(extract(data[base : base + size]))

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise CorruptData(f"the value has more than {MAX_VALUES} parts: not shown")

    # -- arrays

    def _compile_array(self, plain: ArrayType, recurse: int, anonymous: int) -> Printer:
        element, size = plain.target, plain.target.size
        if not plain.count or not size:
            return self._compile_flexible(plain)
        count = plain.count
        if is_textual(element.underlying):
            return lambda data, base, address: self._char_array(data[base : base + count])
        if recurse - anonymous >= self.style.depth or anonymous > MAX_ANONYMOUS:
            return lambda data, base, address: "{...}"
        shown = min(count, self.style.elements)
        print_ = self.printer(element, recurse + 1, anonymous)
        before, between, after = self._array_marks(recurse, "..." if count > shown else "")

        def show(data: bytes, base: int, address: int) -> str:
            self._spend(shown)
            texts = [print_(data, at, address) for at in range(base, base + shown * size, size)]
            return before + between.join(texts) + after

        return show

    def _array_marks(self, recurse: int, cut: str) -> tuple[str, str, str]:
        """What stands before, between and behind the elements of an array."""
        if not self.style.print_array:
            return "{", ", ", cut + "}"
        indent = "\n" + "  " * (recurse + 1)
        return "{" + indent, "," + indent, f"{cut}\n{'  ' * recurse}}}"

    def _compile_flexible(self, plain: ArrayType) -> Printer:
        """An array of no length is shown as a pointer to its first element would be."""
        show = self._pointer(PointerType(plain.target, self._target.types.pointer_size))
        return lambda data, base, address: show(address + base)

    def _char_array(self, data: bytes) -> str:
        limit = self.style.elements
        if self.style.null_stop:
            end = data.find(b"\0")
            data = data if end < 0 else data[:end]
        elif data.endswith(b"\0"):
            data = data[:-1]  # the NUL that ends a string is not shown, others are
        return f'"{escape(data[:limit])}"{"..." if len(data) > limit else ""}'

    # -- members on their own

    def member_text(self, found: Selected, data: bytes, address: int) -> str:
        """``  name = value`` with a comma unless it is the last of its struct, as crash picks members.

        ``data``: the bytes of the whole struct, which lies at ``address``.
        """
        indent = "  " * found.recurse
        value = self.selected_text(found, data, address)
        return f"{indent}{found.path} = {value}{',' if found.comma else ''}"

    def selected_text(self, found: Selected, data: bytes, address: int) -> str:
        """The value of a selected member alone."""
        self._budget = MAX_VALUES
        member = found.member
        if member.bit_size:
            return self._compile_bits(member)(data, 0, address)
        return self.printer(member.type, found.recurse)(data, member.offset, address)


@dataclass(frozen=True, slots=True)
class Selected:
    """A member that a path such as ``se.load[1].weight`` leads to.

    ``member``: its type and its offset from the struct's start; ``recurse``: how deep it
    stands in the struct's printed form; ``comma``: whether something follows it in its struct.
    """

    path: str
    member: Member
    recurse: int
    comma: bool


def select(compound: CompoundType, path: str) -> Selected:
    """The member at a dotted path. Raises MissingMember."""
    member = _checked_path(compound, path)
    parts = path.split(".")
    owner: Type = compound
    if len(parts) > 1:
        owner = compound.path(".".join(parts[:-1])).type.underlying
    assert isinstance(owner, CompoundType)
    level, comma = _place(owner, parts[-1].split("[")[0], 0) or (0, False)
    return Selected(path, member, level + 1 if len(parts) == 1 else 1, comma)


def _checked_path(compound: CompoundType, path: str) -> Member:
    """As CompoundType.path(), but an index must be a number inside its array."""
    try:
        member = compound.path(path)
    except ValueError:
        raise MissingMember(str(compound), path) from None
    for match in _INDEX.finditer(path):
        array = compound.path(path[: match.start()]).type.underlying
        if isinstance(array, ArrayType) and array.count and not 0 <= int(match.group(1), 0) < array.count:
            raise MissingMember(str(compound), path)
    return member


_INDEX = re.compile(r"\[(\w+)\]")


def _place(owner: CompoundType, name: str, depth: int) -> tuple[int, bool] | None:
    """How many anonymous members stand around a member, and whether another follows it."""
    members = owner.members
    for number, member in enumerate(members):
        if member.name == name:
            return depth, number + 1 < len(members)
        inner = member.type.underlying if not member.name and depth < 32 else None
        if isinstance(inner, CompoundType):
            found = _place(inner, name, depth + 1)
            if found is not None:
                return found
    return None


# -- pieces that need no formatter


def is_textual(plain: Type) -> bool:
    """True for what gdb shows as characters: integers of one byte that are no bool."""
    return isinstance(plain, IntType) and plain.size == 1 and not plain.is_bool


def _is_char_pointer(type_: Type) -> bool:
    """True for ``char *``, spelled so: its type is not shown before it."""
    if not isinstance(type_, PointerType):
        return False
    target = type_.target
    while target.kind == "qualified":
        target = target.target  # type: ignore[attr-defined]
    return isinstance(target, IntType) and target.name == "char"


def read_value(value: Value) -> bytes:
    """All bytes of a value. Raises MemoryFault, or ExpressionError for an absurd size."""
    if value.type_.size > MAX_READ:
        raise ExpressionError(f"the value has {value.type_.size} bytes: not read")
    return value.read_()


def read_string(space: AddressSpace, address: int, limit: int) -> tuple[bytes, int | None]:
    """Bytes up to and with a NUL, at most ``limit``, and the address that could not be read, if any."""
    out = b""
    while len(out) < limit:
        at = address + len(out)
        try:
            piece = space.read(at, min(limit - len(out), 256 - at % 256))
        except MemoryFault:
            return out, at
        end = piece.find(b"\0")
        if end >= 0:
            return out + piece[: end + 1], None
        out += piece
    return out, None


def _bool_text(number: int) -> str:
    return "false" if number == 0 else "true" if number == 1 else str(number)


def _char_text(number: int) -> str:
    return _CHARS[number & 0xFF] if number >= 0 else f"{number} '{_ESCAPES[number & 0xFF]}'"


_NAMED = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}
_ESCAPES = {c: _NAMED.get(c) or (chr(c) if 32 <= c < 127 else f"\\{c:03o}") for c in range(256)}
_IN_STRING = {**_ESCAPES, 34: '\\"'}
_CHARS = [f"{c} '{_ESCAPES[c]}'" for c in range(256)]
_CHARS[39] = "39 '\\''"


def escape(data: bytes) -> str:
    """Bytes as the inside of a C string literal, as gdb writes one in the C locale."""
    return data.decode("latin-1").translate(_IN_STRING)


def enum_shower(enum: EnumType) -> Number:
    """How values of an enum are shown: by name, as ``(A | B)`` where constants are flags, as a number."""
    bits = enum.size * 8
    mask = (1 << bits) - 1
    by_value: dict[int, str] = {}
    for name, number in enum.enumerators.items():
        by_value.setdefault(number & mask, name)
    flags = _flags(enum)
    unsigned = not enum.signed and all(number >= 0 for number in enum.enumerators.values())

    def show(number: int) -> str:
        name = by_value.get(number & mask)
        if name is not None:
            return name
        if flags is not None:
            return _flags_text(flags, number & mask)
        return str(number & mask if unsigned else _signed(number & mask, bits))

    return show


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> bits - 1 & 1 else number


def _flags(enum: EnumType) -> list[tuple[str, int]] | None:
    """The constants of an enum that gdb takes for flags: each of one bit, or 0; else None."""
    values = list(enum.enumerators.items())
    if any(number < 0 or number & number - 1 for _name, number in values):
        return None
    return [(name, number) for name, number in values if number]


def _flags_text(flags: list[tuple[str, int]], number: int) -> str:
    shown = []
    for name, bits in flags:
        if number & bits:
            shown.append(name)
            number &= ~bits
    if number:
        shown.append(f"unknown: {number:#x}")
    return f"({' | '.join(shown)})" if shown else "0"


# -- data


class Decoder:
    """Values as plain data for JSON: numbers, bools, texts, lists, dicts by member name.

    A pointer is what ``address`` makes of its number. An enum is its constant's name, if it
    has one; a ``char`` array is text up to its NUL; another array of bytes is bytes. Members
    of anonymous members stand beside the others.
    """

    def __init__(self, target: Target, address: Callable[[int], object] = int) -> None:
        self._order = target.types.byte_order
        self._address = address
        self._left = MAX_VALUES

    def value(self, value: Value) -> Any:
        """The data of a value. Raises MemoryFault."""
        field = value.bit_field_
        if field is not None:
            return self._number(field.type, int(value.value_()))
        plain = value.type_.underlying
        if isinstance(plain, VoidType):
            return None
        if isinstance(plain, FunctionType):
            return self._address(value.address_ or 0)
        return self.data(value.type_, read_value(value), 0)

    def member(self, found: Selected, data: bytes) -> Any:
        """The data of a selected member of a struct whose bytes are ``data``."""
        if found.member.bit_size:
            return self._bits(found.member, data, 0)
        return self.data(found.member.type, data, found.member.offset)

    def data(self, type_: Type, data: bytes, base: int, depth: int = 0) -> Any:
        """The value of a type whose bytes start at index ``base``."""
        plain = type_.underlying
        self._left -= 1
        if self._left < 0 or depth > 64:
            return None
        if isinstance(plain, CompoundType):
            return dict(self._members(plain, data, base, depth))
        if isinstance(plain, ArrayType):
            return self._array(plain, data, base, depth)
        code = scalar_format(plain)
        if code is None:
            return self._odd(plain, data, base)
        number = struct.unpack_from(("<" if self._order == "little" else ">") + code, data, base)[0]
        return number if isinstance(plain, FloatType) else self._number(plain, number)

    def _odd(self, plain: Type, data: bytes, base: int) -> Any:
        if not isinstance(plain, IntType | EnumType):
            return None
        order: Any = self._order
        return int.from_bytes(data[base : base + plain.size], order, signed=plain.signed)

    def _number(self, type_: Type, number: int) -> Any:
        plain = type_.underlying
        if isinstance(plain, PointerType):
            return self._address(number)
        if isinstance(plain, EnumType):
            return plain.name_of(number) or number
        return bool(number) if isinstance(plain, IntType) and plain.is_bool else number

    def _members(
        self, plain: CompoundType, data: bytes, base: int, depth: int
    ) -> Iterator[tuple[str, object]]:
        for member in plain.members:
            if member.bit_size:
                yield member.name, self._bits(member, data, base)
                continue
            value = self.data(member.type, data, base + member.offset, depth + 1)
            if not member.name and isinstance(value, dict):
                yield from value.items()
            else:
                yield member.name, value

    def _bits(self, member: Member, data: bytes, base: int) -> Any:
        size = (member.bit_offset + member.bit_size + 7) // 8
        return self._number(member.type, bit_field(member, self._order)(data[base : base + size]))

    def _array(self, plain: ArrayType, data: bytes, base: int, depth: int) -> Any:
        element, count = plain.target.underlying, min(plain.count or 0, MAX_DATA_ELEMENTS)
        size = element.size
        if is_textual(element):
            piece = data[base : base + count]
            if element.name == "char":
                return piece.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
            return piece
        return [self.data(plain.target, data, base + i * size, depth + 1) for i in range(count)]
