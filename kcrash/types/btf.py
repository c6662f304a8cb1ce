"""BTF, decoded lazily: one pass finds where each type starts, a type is decoded when asked for.

Format: kernel Documentation/bpf/btf.rst and include/uapi/linux/btf.h. A module's
BTF is "split": its ids and string offsets go on where the kernel's end.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from functools import partial

from kcrash.errors import BadFormat
from kcrash.types.model import (
    VOID,
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    FunctionType,
    IntType,
    Member,
    Parameter,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
)

MAGIC = 0xEB9F
(
    INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST,
    RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64,
) = range(1, 20)  # fmt: skip
# 32-bit words behind the three of struct btf_type: fixed, and for each of vlen.
_WORDS = {
    INT: (1, 0), PTR: (0, 0), ARRAY: (3, 0), STRUCT: (0, 3), UNION: (0, 3), ENUM: (0, 2), FWD: (0, 0),
    TYPEDEF: (0, 0), VOLATILE: (0, 0), CONST: (0, 0), RESTRICT: (0, 0), FUNC: (0, 0), FUNC_PROTO: (0, 2),
    VAR: (1, 0), DATASEC: (0, 3), FLOAT: (0, 0), DECL_TAG: (1, 0), TYPE_TAG: (0, 0), ENUM64: (0, 3),
}  # fmt: skip
_NAMED_KINDS = {
    "struct": (STRUCT,),
    "union": (UNION,),
    "enum": (ENUM, ENUM64),
    "typedef": (TYPEDEF,),
    "base": (INT, FLOAT),
}
_QUALIFIERS = {VOLATILE: "volatile", CONST: "const", RESTRICT: "restrict"}
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4
MAX_CACHED = 200_000
MAX_HITS = 2000  # of a search for a name's offset before the types are gone through instead


class BtfSource:
    """The types of one BTF blob (a TypeSource).

    ``data``: the blob, header included; ``file``: what to name in errors;
    ``pointer_size``: bytes (BTF does not say it); ``base``: the kernel's BTF
    for the split BTF of a module; ``starts``: what :attr:`starts` of an earlier
    reading of the same blob gave, which saves the pass. Raises BadFormat.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        file: str,
        *,
        pointer_size: int = 8,
        base: BtfSource | None = None,
        starts: array[int] | None = None,
    ) -> None:
        self.file = file
        self.pointer_size = pointer_size
        self.base = base
        self._parse_header(data)
        self.first_id: int = base.first_id + len(base.starts) if base else 1
        self._string_base: int = base.string_end if base else 0
        self.string_end: int = self._string_base + len(self._strings)
        self.starts: array[int] = self._scan() if starts is None else starts
        self._types: dict[int, Type] = {}
        self._named: dict[tuple[str, str], int] = {}

    def _parse_header(self, data: bytes | memoryview) -> None:
        if len(data) < 24:
            raise BadFormat(self.file, "BTF is shorter than its header")
        self._order = "<" if data[0] == MAGIC & 0xFF else ">"
        fields = struct.unpack_from(self._order + "HBBIIIII", data)
        magic, version, _flags, header, types_at, types_size, strings_at, strings_size = fields
        if magic != MAGIC or version != 1:
            raise BadFormat(self.file, f"not BTF (magic {magic:#x}, version {version})")
        if header + types_at + types_size > len(data) or header + strings_at + strings_size > len(data):
            raise BadFormat(self.file, f"BTF is cut: {len(data)} bytes do not hold its sections")
        self._data = bytes(data[header + types_at : header + types_at + types_size])
        self._strings = bytes(data[header + strings_at : header + strings_at + strings_size])

    def _scan(self) -> array[int]:
        """Byte offset of each type in the type section, in order of id."""
        data = self._data
        words = memoryview(data[: len(data) & ~3]).cast("I")
        if self._order != ("<" if struct.pack("=H", 1) == b"\1\0" else ">"):
            swapped = array("I", words)
            swapped.byteswap()
            words = memoryview(swapped)
        starts = array("I")
        append = starts.append
        sizes = [None] + [_WORDS[kind] for kind in range(1, 20)] + [None] * 12
        position, end = 0, len(words)
        while position + 3 <= end:
            info = words[position + 1]
            size = sizes[info >> 24 & 0x1F]
            if size is None:
                raise BadFormat(self.file, f"BTF type of unknown kind {info >> 24 & 0x1F}", position * 4)
            append(position * 4)
            position += 3 + size[0] + size[1] * (info & 0xFFFF)
        if position != end:
            raise BadFormat(self.file, "the last BTF type is cut", position * 4)
        return starts

    # -- strings and raw records

    def _string(self, offset: int) -> str:
        if offset < self._string_base:
            return self.base._string(offset) if self.base else ""
        at = offset - self._string_base
        end = self._strings.find(b"\0", at)
        return self._strings[at : max(at, end)].decode("utf-8", "replace")

    def _string_offsets(self, name: str) -> Iterator[int]:
        """Where ``name`` stands in the strings: pahole stores each once, but a blob may differ."""
        needle = b"\0" + name.encode() + b"\0"
        if self.base:
            yield from self.base._string_offsets(name)
        if self._strings.startswith(needle[1:]):
            yield self._string_base
        at = self._strings.find(needle)
        while at >= 0:
            yield at + 1 + self._string_base
            at = self._strings.find(needle, at + 1)

    def _record(self, type_id: int) -> tuple[int, int, int, int]:
        """``(name offset, info, size or type, byte offset of what follows)`` of a type of this blob."""
        index = type_id - self.first_id
        if not 0 <= index < len(self.starts):
            raise BadFormat(self.file, f"BTF refers to type {type_id}, which it does not have")
        at = self.starts[index]
        name, info, size = struct.unpack_from(self._order + "III", self._data, at)
        return name, info, size, at + 12

    def _ids_named(self, name: str, kinds: tuple[int, ...]) -> Iterator[int]:
        """Ids of the types with that name and one of those kinds."""
        from bisect import bisect_left

        starts, data = self.starts, self._data
        for offset in self._string_offsets(name):
            needle = struct.pack(self._order + "I", offset)
            at, hits = data.find(needle), 0
            while at >= 0 and hits < MAX_HITS:
                index, hits = bisect_left(starts, at), hits + 1
                if index < len(starts) and starts[index] == at:
                    info = struct.unpack_from(self._order + "I", data, at + 4)[0]
                    if info >> 24 & 0x1F in kinds:
                        yield index + self.first_id
                at = data.find(needle, at + 4 - at % 4)
            if at >= 0:
                yield from self._ids_with_name_at(offset, kinds, bisect_left(starts, at))

    def _ids_with_name_at(self, offset: int, kinds: tuple[int, ...], index: int) -> Iterator[int]:
        """As a search finds, type by type: a name at the start of the strings ("int") has a small
        offset, a number that stands everywhere."""
        read = struct.Struct(self._order + "II").unpack_from
        for number in range(index, len(self.starts)):
            name, info = read(self._data, self.starts[number])
            if name == offset and info >> 24 & 0x1F in kinds:
                yield number + self.first_id

    # -- the TypeSource protocol

    def find(self, kind: str, name: str) -> Type | None:
        """The type ``name`` of a kind (see kcrash.types.source)."""
        key = (kind, name)
        found = self._named.get(key)
        if found is None:
            found = self._named[key] = next(self._ids_named(name, _NAMED_KINDS[kind]), 0)
        return self.type_by_id(found) if found else None

    def unnamed(self, members: Sequence[str]) -> Type | None:
        """The struct without a name that has just these members, in this order."""
        from bisect import bisect_right

        for offset in self._string_offsets(members[0]):
            needle = struct.pack(self._order + "I", offset)
            at, hits = self._data.find(needle), 0
            while at >= 0 and hits < MAX_HITS:
                index, hits = bisect_right(self.starts, at) - 1, hits + 1
                # The name of the first member stands behind the three words of the struct.
                if index >= 0 and at == self.starts[index] + 12 and self._is_unnamed(index, len(members)):
                    found = self.type_by_id(index + self.first_id)
                    if isinstance(found, CompoundType) and [m.name for m in found.members] == list(members):
                        return found
                at = self._data.find(needle, at + 4 - at % 4)
        return None

    def _is_unnamed(self, index: int, count: int) -> bool:
        name, info, _size, _after = self._record(index + self.first_id)
        return not name and info >> 24 & 0x1F == STRUCT and info & 0xFFFF == count

    def variable(self, name: str) -> Type | None:
        """The type of a per-CPU variable: the only variables that pahole puts into BTF."""
        found = next(self._ids_named(name, (VAR,)), 0)
        return self.type_by_id(self._record(found)[2]) if found else None

    def function(self, name: str) -> Type | None:
        """The FunctionType of a function."""
        found = next(self._ids_named(name, (FUNC,)), 0)
        return self.type_by_id(self._record(found)[2]) if found else None

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """The enum that declares the constant ``name``, and its value."""
        from bisect import bisect_right

        for offset in self._string_offsets(name):
            needle = struct.pack(self._order + "I", offset)
            at = self._data.find(needle)
            while at >= 0:
                found = self._enumerator_at(bisect_right(self.starts, at) - 1, name)
                if found:
                    return found
                at = self._data.find(needle, at + 4 - at % 4)
        return None

    def _enumerator_at(self, index: int, name: str) -> tuple[EnumType, int] | None:
        if index < 0:
            return None
        type_id = index + self.first_id
        if self._record(type_id)[1] >> 24 & 0x1F not in (ENUM, ENUM64):
            return None
        enum = self.type_by_id(type_id)
        if isinstance(enum, EnumType) and name in enum.enumerators:
            return enum, enum.enumerators[name]
        return None

    def names(self, kind: str) -> Iterator[str]:
        """All names of a kind."""
        kinds = _NAMED_KINDS[kind]
        for at in self.starts:
            name, info = struct.unpack_from(self._order + "II", self._data, at)
            if name and info >> 24 & 0x1F in kinds:
                yield self._string(name)

    def compounds(self) -> Iterator[CompoundType]:
        """Every struct and union that has a name, in order of id; they are not kept."""
        for number, at in enumerate(self.starts):
            name, info, _size = struct.unpack_from(self._order + "III", self._data, at)
            if name and info >> 24 & 0x1F in (STRUCT, UNION):
                type_ = self._decode(number + self.first_id)
                assert isinstance(type_, CompoundType)
                yield type_

    # -- decoding

    def type_by_id(self, type_id: int) -> Type:
        """The type with that id; 0 is void."""
        if type_id == 0:
            return VOID
        if type_id < self.first_id and self.base:
            return self.base.type_by_id(type_id)
        found = self._types.get(type_id)
        if found is None:
            if len(self._types) > MAX_CACHED:
                self._types.clear()
            found = self._types[type_id] = self._decode(type_id)
        return found

    def _lazy(self, type_id: int) -> Type | partial[Type]:
        return self._types.get(type_id) or partial(self.type_by_id, type_id)

    def _decode(self, type_id: int) -> Type:
        name_offset, info, size, at = self._record(type_id)
        kind, count, flag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        name = self._string(name_offset)
        if kind == PTR:
            return PointerType(self._lazy(size), self.pointer_size)
        if kind in (STRUCT, UNION):
            members = partial(self._members, at, count, flag)
            return CompoundType("struct" if kind == STRUCT else "union", name, size, members)
        if kind == INT:
            return self._decode_int(name, size, at)
        if kind == ARRAY:
            element, _index, elements = struct.unpack_from(self._order + "III", self._data, at)
            return ArrayType(self._lazy(element), elements)
        if kind == TYPEDEF:
            return TypedefType(name, self._lazy(size))
        if kind in _QUALIFIERS:
            return QualifiedType(_QUALIFIERS[kind], self._lazy(size))
        return self._decode_rare(kind, name, size, at, count, flag)

    def _decode_rare(self, kind: int, name: str, size: int, at: int, count: int, flag: bool) -> Type:
        if kind in (ENUM, ENUM64):
            values = partial(self._enumerators, at, count, kind, flag)
            return EnumType(name, size, values, signed=flag)
        if kind == FWD:
            return CompoundType("union" if flag else "struct", name, 0, (), complete=False)
        if kind == FUNC_PROTO:
            return self._decode_function(size, at, count)
        if kind == FLOAT:
            return FloatType(name, size)
        if kind in (TYPE_TAG, FUNC, VAR):  # a tag says nothing of the layout
            return self.type_by_id(size) if kind != TYPE_TAG else _untagged(self, size)
        return VOID

    def _decode_int(self, name: str, size: int, at: int) -> IntType:
        encoding = struct.unpack_from(self._order + "I", self._data, at)[0] >> 24 & 0xF
        # pahole leaves out INT_CHAR: char types are known by name and size.
        is_char = bool(encoding & _INT_CHAR) or (size == 1 and name.endswith("char"))
        return IntType(
            name, size, bool(encoding & _INT_SIGNED), is_char=is_char, is_bool=bool(encoding & _INT_BOOL)
        )

    def _members(self, at: int, count: int, has_bit_sizes: bool) -> list[Member]:
        members = []
        for name, type_id, offset in struct.iter_unpack(
            self._order + "III", self._data[at : at + 12 * count]
        ):
            bits = offset >> 24 if has_bit_sizes else 0
            offset = offset & 0xFFFFFF if has_bit_sizes else offset
            members.append(Member(self._string(name), self._lazy(type_id), offset, bits))
        return members

    def _enumerators(self, at: int, count: int, kind: int, signed: bool) -> dict[str, int]:
        found = {}
        if kind == ENUM64:
            for name, low, high in struct.iter_unpack(self._order + "III", self._data[at : at + 12 * count]):
                value = high << 32 | low
                found[self._string(name)] = value - (1 << 64) if signed and high >> 31 else value
            return found
        # The kind flag of ENUM came with ENUM64 (Linux commit 6089fb325cf7 ("bpf: Add btf
        # enum64 support") in v6.0); before it every value is to be read as signed.
        for name, value in struct.iter_unpack(self._order + "Ii", self._data[at : at + 8 * count]):
            found[self._string(name)] = value
        return found

    def _decode_function(self, result: int, at: int, count: int) -> FunctionType:
        rows = list(struct.iter_unpack(self._order + "II", self._data[at : at + 8 * count]))
        variadic = bool(rows) and rows[-1] == (0, 0)
        if variadic:
            rows.pop()
        parameters = [Parameter(self._string(name), self._lazy(type_id)) for name, type_id in rows]
        return FunctionType(self._lazy(result), parameters, variadic=variadic)


def _untagged(source: BtfSource, type_id: int) -> Type:
    """What a type tag stands before; a chain of tags that goes round is void."""
    for _ in range(64):
        if type_id < source.first_id:
            return source.type_by_id(type_id)
        _name, info, target, _at = source._record(type_id)
        if info >> 24 & 0x1F != TYPE_TAG:
            return source.type_by_id(type_id)
        type_id = target
    return VOID
