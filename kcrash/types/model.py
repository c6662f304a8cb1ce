"""The type model: what a C type is, whoever described it (BTF, DWARF, declarations).

Types know sizes and bit offsets but no byte order; decoding belongs to
:mod:`kcrash.types.layout` and :mod:`kcrash.values`. A reference to another type
is resolved when first asked for: a source hands over a callable instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Union

from kcrash.errors import MissingMember

# A type, or how to get it: sources decode a type when something asks for it.
Lazy = Union["Type", Callable[[], "Type"]]


class Type:
    """Base. ``name``: without "struct " and the like, "" if anonymous; ``size``: bytes, 0 if incomplete."""

    __slots__ = ("name", "size")
    kind = "type"

    def __init__(self, name: str = "", size: int = 0) -> None:
        self.name = name
        self.size = size

    @property
    def underlying(self) -> Type:
        """This type without typedefs and qualifiers."""
        return self

    def __str__(self) -> str:
        from kcrash.types.ctext import type_name

        return type_name(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class _Referring(Type):
    """A type that is made of another one."""

    __slots__ = ("_target",)

    def __init__(self, target: Lazy, name: str = "", size: int = 0) -> None:
        super().__init__(name, size)
        self._target: Lazy = target

    @property
    def target(self) -> Type:
        """The type referred to."""
        target = self._target
        if not isinstance(target, Type):
            target = self._target = target()
        return target


class VoidType(Type):
    """``void``."""

    __slots__ = ()
    kind = "void"

    def __init__(self) -> None:
        super().__init__("void", 0)


class IntType(Type):
    """An integer, a character or a bool."""

    __slots__ = ("is_bool", "is_char", "signed")
    kind = "int"

    def __init__(
        self, name: str, size: int, signed: bool, *, is_char: bool = False, is_bool: bool = False
    ) -> None:
        super().__init__(name, size)
        self.signed = signed
        self.is_char = is_char
        self.is_bool = is_bool


class FloatType(Type):
    """A floating-point number."""

    __slots__ = ()
    kind = "float"


class PointerType(_Referring):
    """``target *``; ``size`` is the machine's pointer size."""

    __slots__ = ()
    kind = "pointer"

    def __init__(self, target: Lazy, size: int) -> None:
        super().__init__(target, "", size)


class ArrayType(_Referring):
    """``count`` elements of ``target``; ``count`` is None for ``[]``."""

    __slots__ = ("_size", "count")
    kind = "array"

    def __init__(self, target: Lazy, count: int | None) -> None:
        super().__init__(target)
        self.count = count
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole array; 0 for ``[]``."""
        if self._size is None:
            self._size = (self.count or 0) * self.target.size
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        pass  # follows from the element


class Member(NamedTuple):
    """A member of a struct or union.

    ``bit_offset``: from the start of the struct, least significant bit first on
    little-endian machines, most significant first on big-endian ones (as BTF and
    DWARF 4's DW_AT_data_bit_offset count); ``bit_size``: 0 unless a bit field.
    """

    name: str
    lazy_type: Lazy
    bit_offset: int
    bit_size: int = 0

    @property
    def type(self) -> Type:
        """The member's type."""
        lazy = self.lazy_type
        return lazy if isinstance(lazy, Type) else lazy()

    @property
    def offset(self) -> int:
        """Bytes from the start of the struct."""
        return self.bit_offset // 8


class CompoundType(Type):
    """``struct`` or ``union`` (``kind``); ``complete`` is False for a mere declaration."""

    __slots__ = ("_by_name", "_members", "complete", "kind")

    def __init__(
        self,
        kind: str,
        name: str,
        size: int,
        members: Sequence[Member] | Callable[[], Sequence[Member]],
        *,
        complete: bool = True,
    ) -> None:
        super().__init__(name, size)
        self.kind = kind
        self.complete = complete
        self._members = members
        self._by_name: dict[str, Member] | None = None

    @property
    def members(self) -> Sequence[Member]:
        """Direct members in order; anonymous structs and unions stand as members named ""."""
        members = self._members
        if callable(members):
            members = self._members = members()
        return members

    def find(self, name: str) -> Member | None:
        """The member ``name``, also inside anonymous members; its offset is from the start of this type."""
        if self._by_name is None:
            self._by_name = {member.name: member for member in reversed(list(_flatten(self)))}
        return self._by_name.get(name)

    def member(self, name: str) -> Member:
        """As find(); MissingMember if there is none."""
        member = self.find(name)
        if member is None:
            raise MissingMember(str(self), name)
        return member

    def has(self, path: str) -> bool:
        """True if the dotted member path exists."""
        try:
            self.path(path)
        except MissingMember:
            return False
        return True

    def path(self, path: str) -> Member:
        """The member at a dotted path such as ``"se.vruntime"`` or ``"a[2].b"``, offset from here.

        Raises MissingMember naming the type and the part that it lacks.
        """
        current: Type = self
        bit_offset = 0
        member: Member | None = None
        for part in path.split("."):
            name, *indices = part.replace("]", "").split("[")
            compound = current.underlying
            if not isinstance(compound, CompoundType):
                raise MissingMember(str(current), name)
            member = compound.member(name)
            bit_offset += member.bit_offset
            current = member.type
            for index in indices:
                array = current.underlying
                if not isinstance(array, ArrayType):
                    raise MissingMember(str(current), part)
                current = array.target
                bit_offset += int(index, 0) * current.size * 8
        assert member is not None
        return Member(path, current, bit_offset, member.bit_size)

    def offset(self, path: str) -> int:
        """Byte offset of the member at a dotted path (``offsetof``)."""
        return self.path(path).offset


def _flatten(compound: CompoundType, bit_offset: int = 0, depth: int = 0) -> Iterator[Member]:
    """Every member reachable by name, those of anonymous members included."""
    for member in compound.members:
        if member.name:
            yield member._replace(bit_offset=member.bit_offset + bit_offset) if bit_offset else member
        elif depth < 32:
            inner = member.type.underlying
            if isinstance(inner, CompoundType):
                yield from _flatten(inner, bit_offset + member.bit_offset, depth + 1)


class EnumType(Type):
    """``enum``; ``enumerators`` maps names to values in order of declaration."""

    __slots__ = ("_enumerators", "complete", "signed")
    kind = "enum"

    def __init__(
        self,
        name: str,
        size: int,
        enumerators: dict[str, int] | Callable[[], dict[str, int]],
        *,
        signed: bool = False,
        complete: bool = True,
    ) -> None:
        super().__init__(name, size)
        self._enumerators = enumerators
        self.signed = signed
        self.complete = complete

    @property
    def enumerators(self) -> dict[str, int]:
        """Names to values."""
        enumerators = self._enumerators
        if callable(enumerators):
            enumerators = self._enumerators = enumerators()
        return enumerators

    def name_of(self, value: int) -> str | None:
        """The first enumerator with that value."""
        return next((name for name, number in self.enumerators.items() if number == value), None)


class _Alias(_Referring):
    """Another face of a type: as large, and the same underneath."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes of the type itself."""
        return self.target.size

    @size.setter
    def size(self, value: int) -> None:
        pass  # follows from the target

    @property
    def underlying(self) -> Type:
        return _strip(self)


class TypedefType(_Alias):
    """``typedef target name``."""

    __slots__ = ()
    kind = "typedef"

    def __init__(self, name: str, target: Lazy) -> None:
        super().__init__(target, name)


class QualifiedType(_Alias):
    """``const``, ``volatile`` or ``restrict`` (``qualifier``) target."""

    __slots__ = ("qualifier",)
    kind = "qualified"

    def __init__(self, qualifier: str, target: Lazy) -> None:
        super().__init__(target)
        self.qualifier = qualifier


def _strip(current: Type) -> Type:
    for _ in range(64):  # a hostile type section may refer to itself
        if not isinstance(current, _Alias):
            return current
        current = current.target
    return VoidType()


class Parameter(NamedTuple):
    """A parameter of a function: name ("" if unknown) and type."""

    name: str
    lazy_type: Lazy

    @property
    def type(self) -> Type:
        """The parameter's type."""
        lazy = self.lazy_type
        return lazy if isinstance(lazy, Type) else lazy()


class FunctionType(_Referring):
    """A function that returns ``target``."""

    __slots__ = ("_parameters", "variadic")
    kind = "function"

    def __init__(
        self,
        target: Lazy,
        parameters: Sequence[Parameter] | Callable[[], Sequence[Parameter]] = (),
        *,
        variadic: bool = False,
    ) -> None:
        super().__init__(target, "", 1)
        self._parameters = parameters
        self.variadic = variadic

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The parameters in order."""
        parameters = self._parameters
        if callable(parameters):
            parameters = self._parameters = parameters()
        return parameters


VOID = VoidType()
