"""Reading members in bulk: offsets are worked out once, then a struct is one unpack.

``Reader`` decodes any set of scalar members (integers, enums, bools, pointers,
bit fields) and byte arrays of one struct out of its raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from kcrash.errors import MissingMember
from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    IntType,
    Member,
    PointerType,
    Type,
)

_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}
_FLOATS = {4: "f", 8: "d"}


def scalar_format(type_: Type) -> str | None:
    """The struct-module character that decodes a scalar type; None if there is none."""
    type_ = type_.underlying
    if isinstance(type_, IntType | EnumType):
        return (_SIGNED if type_.signed else _UNSIGNED).get(type_.size)
    if isinstance(type_, PointerType):
        return _UNSIGNED.get(type_.size)
    if isinstance(type_, FloatType):
        return _FLOATS.get(type_.size)
    return None


def member_format(type_: Type) -> str | None:
    """As scalar_format(), and ``"16s"`` for arrays of bytes; None for anything else."""
    plain = type_.underlying
    if isinstance(plain, ArrayType):
        if plain.target.underlying.size == 1 and plain.size:
            return f"{plain.size}s"
        return None
    return scalar_format(plain)


def bit_field(member: Member, byte_order: str) -> Callable[[bytes], int]:
    """A function that takes the struct's bytes and returns the bit field's value."""
    start = member.bit_offset
    first, last = start // 8, (start + member.bit_size - 1) // 8 + 1
    if byte_order == "little":
        shift = start - first * 8
    else:
        shift = last * 8 - start - member.bit_size
    mask = (1 << member.bit_size) - 1
    plain = member.type.underlying
    sign = 1 << member.bit_size - 1 if getattr(plain, "signed", False) else 0
    order: Any = byte_order

    def extract(data: bytes) -> int:
        value = int.from_bytes(data[first:last], order) >> shift & mask
        return (value ^ sign) - sign if sign else value

    return extract


class Reader:
    """Decodes the wanted members of one struct type.

    ``paths``: dotted member paths. ``start``/``size``: the bytes of the struct
    that decoding needs, so that a caller reads no more than that; ``offsets``
    from the struct's start. Members that are neither scalar nor bytes (an
    embedded struct) decode to their offset, for the caller to add to an address.
    Raises MissingMember if a path does not exist.
    """

    __slots__ = ("_bits", "_order", "_unpack", "offsets", "paths", "size", "start")

    def __init__(self, type_: CompoundType, paths: Sequence[str], byte_order: str) -> None:
        members = [type_.path(path) for path in paths]
        self.paths = tuple(paths)
        self.offsets = [member.offset for member in members]
        self.start = min(self.offsets, default=0)
        ends = [_end(member) for member in members]
        self.size = max(ends, default=0) - self.start
        self._compile(members, byte_order)

    def _compile(self, members: list[Member], byte_order: str) -> None:
        """One struct.Struct for all members in order of offset, and the way back to the asked order."""
        form, position = "<" if byte_order == "little" else ">", self.start
        self._bits: list[tuple[int, Callable[[bytes], int]]] = []
        order: list[int | None] = [None] * len(members)
        for slot, index in enumerate(sorted(range(len(members)), key=lambda i: members[i].offset)):
            member = members[index]
            code = None if member.bit_size else member_format(member.type)
            if member.bit_size:
                self._bits.append(
                    (
                        index,
                        bit_field(
                            member._replace(
                                lazy_type=member.type, bit_offset=member.bit_offset - self.start * 8
                            ),
                            byte_order,
                        ),
                    )
                )
            if code is None or member.offset < position:  # not scalar, or a union's other face
                if code is not None:
                    self._bits.append((index, _face(form[0] + code, member.offset - self.start)))
                continue
            form += f"{member.offset - position}x{code}"
            position = member.offset + struct.calcsize("<" + code)
            order[index] = slot
        self._finish(form, order)

    def _finish(self, form: str, order: list[int | None]) -> None:
        self._unpack = struct.Struct(form).unpack_from
        used = sorted(slot for slot in order if slot is not None)
        rank = {slot: i for i, slot in enumerate(used)}
        places = [-1 if slot is None else rank[slot] for slot in order]
        plain = not self._bits and -1 not in places
        self._order = None if plain and places == list(range(len(places))) else places

    def __call__(self, data: bytes, base: int = 0) -> tuple[Any, ...]:
        """The members' values, in the order of ``paths``.

        ``data``: bytes that hold the struct from :attr:`start` on, at index ``base``.
        """
        values = self._unpack(data, base)
        if self._order is None:
            return values
        out = [values[place] if place >= 0 else self.offsets[i] for i, place in enumerate(self._order)]
        if self._bits:
            piece = data[base : base + self.size]
            for index, extract in self._bits:
                out[index] = extract(piece)
        return tuple(out)


def _end(member: Member) -> int:
    """The first byte behind what decoding the member needs."""
    if member.bit_size:
        return (member.bit_offset + member.bit_size + 7) // 8
    code = member_format(member.type)
    return member.offset + (struct.calcsize("<" + code) if code else 0)


def _face(code: str, offset: int) -> Callable[[bytes], Any]:
    unpack = struct.Struct(code).unpack_from
    return lambda data: unpack(data, offset)[0]


def require_compound(type_: Type, what: str = "") -> CompoundType:
    """``type_`` without typedefs, which must be a struct or union."""
    plain = type_.underlying
    if not isinstance(plain, CompoundType):
        raise MissingMember(str(type_), what)
    return plain
