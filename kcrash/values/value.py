"""A typed value, either somewhere in memory (an lvalue) or computed.

Members are attributes, so methods end in an underscore and cannot collide with
them. Nothing is read until a value is asked for. A pointer's members are those
of what it points to. Code that reads thousands of structs takes a reader from
``types.reader()`` instead: attribute access is for the interactive case.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Protocol

from kcrash.errors import ExpressionError, MissingMember
from kcrash.memory.space import AddressSpace
from kcrash.types.layout import bit_field, scalar_format
from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FunctionType,
    IntType,
    Member,
    PointerType,
    Type,
)
from kcrash.types.namespace import Types

MAX_STRING = 4096


class Target(Protocol):
    """What a value needs of its session."""

    types: Types

    @property
    def memory(self) -> AddressSpace:
        """The kernel's address space."""


class Value:
    """A value of a C type.

    ``target``: where memory and types come from; ``address``: where it lies in
    ``space`` (kernel memory unless given), or None for a computed value, whose
    bytes are ``data``; ``member``: the bit field that it is, if it is one.
    """

    __slots__ = ("_address", "_data", "_member", "_space", "_target", "type_")

    def __init__(
        self,
        target: Target,
        type_: Type,
        address: int | None = None,
        *,
        data: bytes | None = None,
        member: Member | None = None,
        space: AddressSpace | None = None,
    ) -> None:
        self._target = target
        self.type_ = type_
        self._address = address
        self._data = data
        self._member = member
        self._space = space or target.memory

    # -- where and what

    @property
    def address_(self) -> int | None:
        """Its address, or None for a computed value."""
        return self._address

    @property
    def bit_field_(self) -> Member | None:
        """The member, if this is a bit field."""
        return self._member if self._member and self._member.bit_size else None

    def read_(self) -> bytes:
        """Its bytes. Raises MemoryFault. (A bit field: those of the struct up to its end.)"""
        if self._data is not None:
            return self._data
        if self._address is None:
            raise ExpressionError("the value is not in memory")
        size = self.type_.size
        if self.bit_field_ and self._member:
            size = (self._member.bit_offset + self._member.bit_size + 7) // 8
        return self._space.read(self._address, size)

    def value_(self) -> Any:
        """As a Python value: int, float, bool; bytes for arrays of char; list; dict by member name."""
        plain = self.type_.underlying
        if self.bit_field_ and self._member:
            return bit_field(self._member, self._target.types.byte_order)(self.read_())
        code = scalar_format(plain)
        if code:
            order = "<" if self._target.types.byte_order == "little" else ">"
            found = struct.unpack(order + code, self.read_())[0]
            return bool(found) if isinstance(plain, IntType) and plain.is_bool else found
        if isinstance(plain, ArrayType):
            if isinstance(plain.target.underlying, IntType) and plain.target.size == 1:
                return self.read_()
            return [element.value_() for element in self]
        if isinstance(plain, CompoundType):
            return {member.name: self.member_(member).value_() for member in plain.members}
        if isinstance(plain, IntType | EnumType):  # 128 bits and other odd sizes
            order_name: Any = self._target.types.byte_order
            return int.from_bytes(self.read_(), order_name, signed=plain.signed)
        if isinstance(plain, FunctionType) and self._address is not None:
            return self._address
        raise ExpressionError(f"a value of type {self.type_} cannot be read")

    def __int__(self) -> int:
        plain = self.type_.underlying
        if isinstance(plain, ArrayType | FunctionType) and self._address is not None:
            return self._address
        return int(self.value_())

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(int(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Value | int):
            return int(self) == int(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._address, str(self.type_)))

    def __repr__(self) -> str:
        where = "computed" if self._address is None else f"at {self._address:#x}"
        return f"<Value {self.type_} {where}>"

    # -- members and elements

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.member_(name)

    def member_(self, member: str | Member) -> Value:
        """A member by name (or dotted path), through a pointer too. Raises MissingMember."""
        plain = self.type_.underlying
        if isinstance(plain, PointerType):
            return self.deref_().member_(member)
        if not isinstance(plain, CompoundType):
            raise MissingMember(str(self.type_), str(member), self._target.types.kernel)
        try:
            found = plain.path(member) if isinstance(member, str) else member
        except MissingMember as error:
            raise error.in_kernel(self._target.types.kernel) from None
        if found.bit_size:
            return self._part(found.type, 0, found)
        return self._part(found.type, found.offset)

    def _part(self, type_: Type, offset: int, member: Member | None = None) -> Value:
        if self._address is not None:
            return Value(self._target, type_, self._address + offset, member=member, space=self._space)
        data = self._data or b""
        size = len(data) if member else type_.size
        return Value(self._target, type_, data=data[offset : offset + size], member=member)

    def has_(self, path: str) -> bool:
        """True if the (pointed-to) struct has the member path."""
        plain = self.type_.underlying
        if isinstance(plain, PointerType):
            plain = plain.target.underlying
        return isinstance(plain, CompoundType) and plain.has(path)

    def __getitem__(self, index: int) -> Value:
        plain = self.type_.underlying
        if isinstance(plain, PointerType):
            element = plain.target
            return Value(self._target, element, int(self) + index * element.size, space=self._space)
        if not isinstance(plain, ArrayType):
            raise ExpressionError(f"{self.type_} cannot be indexed")
        return self._part(plain.target, index * plain.target.size)

    def __len__(self) -> int:
        plain = self.type_.underlying
        if not isinstance(plain, ArrayType):
            raise ExpressionError(f"{self.type_} has no length")
        return plain.count or 0

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    # -- pointers

    def deref_(self) -> Value:
        """What the pointer points to. Reading it may fault."""
        plain = self.type_.underlying
        if isinstance(plain, ArrayType):
            return self[0]
        if not isinstance(plain, PointerType):
            raise ExpressionError(f"{self.type_} is not a pointer")
        return Value(self._target, plain.target, int(self), space=self._space)

    def address_of_(self) -> Value:
        """A pointer to this value."""
        if self._address is None or self.bit_field_:
            raise ExpressionError("the value has no address")
        types = self._target.types
        return computed(self._target, types.pointer_to(self.type_), self._address)

    def string_(self, limit: int = MAX_STRING) -> bytes:
        """The C string that a ``char *`` points to or a ``char []`` holds, without its NUL."""
        plain = self.type_.underlying
        if isinstance(plain, ArrayType) and plain.size:
            return self.read_().split(b"\0", 1)[0]
        return self._space.string(int(self), limit)

    def cast_(self, type_: str | Type) -> Value:
        """The same bits, or number, as another type."""
        if isinstance(type_, str):
            type_ = self._target.types.type(type_)
        if scalar_format(type_.underlying):
            return computed(self._target, type_, int(self))
        if self._address is None:
            raise ExpressionError(f"cannot cast {self.type_} to {type_}")
        return Value(self._target, type_, self._address, space=self._space)

    def container_of_(self, type_: str, member: str) -> Value:
        """The struct ``type_`` whose ``member`` this value (or what it points to) is."""
        owner = self._target.types.compound(type_)
        plain = self.type_.underlying
        address = int(self) if isinstance(plain, PointerType) else self._address
        if address is None:
            raise ExpressionError("the value has no address")
        return Value(self._target, owner, address - owner.offset(member), space=self._space)


def computed(target: Target, type_: Type, number: int | float) -> Value:
    """A value that is not in memory: ``number`` as ``type_``, cut to its size."""
    plain = type_.underlying
    order = "<" if target.types.byte_order == "little" else ">"
    code = scalar_format(plain)
    if code in ("f", "d"):
        return Value(target, type_, data=struct.pack(order + str(code), float(number)))
    size = plain.size or target.types.pointer_size
    if isinstance(plain, IntType) and plain.is_bool:
        number = int(bool(number))
    name: Any = target.types.byte_order
    data = (int(number) & (1 << 8 * size) - 1).to_bytes(size, name)
    return Value(target, type_, data=data)
