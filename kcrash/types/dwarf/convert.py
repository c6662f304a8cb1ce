"""DIEs turned into the type model (DWARF 5, chapter 5: Type Entries)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.encoding import Malformed, guarded, uleb
from kcrash.types.dwarf.info import UNIT_REFERENCES, DebugInfo, Die
from kcrash.types.model import (
    VOID,
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    FunctionType,
    IntType,
    Lazy,
    Member,
    Parameter,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
)

MAX_CACHED = 200_000
_MAX_CHAIN = 64

_COMPOUNDS = {
    dw.DW_TAG_structure_type: "struct",
    dw.DW_TAG_class_type: "struct",
    dw.DW_TAG_union_type: "union",
}
_QUALIFIERS = {
    dw.DW_TAG_const_type: "const",
    dw.DW_TAG_volatile_type: "volatile",
    dw.DW_TAG_restrict_type: "restrict",
    dw.DW_TAG_atomic_type: "_Atomic",
}
_POINTERS = {dw.DW_TAG_pointer_type, dw.DW_TAG_reference_type, dw.DW_TAG_rvalue_reference_type}
# Tags of types that are nothing but a way to another type.
_CHAINED = {*_QUALIFIERS, *_POINTERS, dw.DW_TAG_typedef, dw.DW_TAG_array_type, dw.DW_TAG_subroutine_type}
_SIGNED = (dw.DW_ATE_signed, dw.DW_ATE_signed_char)
_CHARS = (dw.DW_ATE_signed_char, dw.DW_ATE_unsigned_char, dw.DW_ATE_UTF)
# Finds the complete struct or union of a kind and name, wherever it is.
Complete = Callable[[str, str], Type | None]


class DeclaredType(CompoundType):
    """A struct or union that a unit only declares: its definition is looked for when it matters.

    ``complete`` is False if there is none anywhere in the file.
    """

    __slots__ = ("_definition", "_find")

    def __init__(self, kind: str, name: str, find: Complete) -> None:
        self._find: Complete | None = find
        self._definition: CompoundType | None = None
        super().__init__(kind, name, 0, self._defined_members)

    def definition(self) -> CompoundType | None:
        """The complete type, or None."""
        if self._find is not None:
            find, self._find = self._find, None
            found = find(self.kind, self.name)
            if isinstance(found, CompoundType) and not isinstance(found, DeclaredType):
                self._definition = found
        return self._definition

    def _defined_members(self) -> list[Member]:
        found = self.definition()
        return list(found.members) if found else []

    @property
    def size(self) -> int:
        """Bytes; 0 if there is no definition."""
        found = self.definition()
        return found.size if found else 0

    @size.setter
    def size(self, value: int) -> None:
        pass  # the definition's

    @property
    def complete(self) -> bool:
        """True if there is a definition."""
        found = self.definition()
        return found is not None and found.complete

    @complete.setter
    def complete(self, value: bool) -> None:
        pass  # the definition's


def inherited(die: Die, attribute: int) -> Die:
    """The DIE that has an attribute of ``die``: itself, its specification or its abstract origin.

    DWARF 5, sections 2.13.2 and 3.3.8.2. ``die`` itself if none has it.
    """
    current = die
    for _ in range(8):
        if attribute in current.values:
            return current
        origin = current.reference(dw.DW_AT_abstract_origin)
        if origin is None:
            origin = current.reference(dw.DW_AT_specification)
        if origin is None:
            break
        current = current.unit.info.die(origin)
    return die


class Converter:
    """Types of one file by the offset of their DIE."""

    def __init__(self, info: DebugInfo, complete: Complete) -> None:
        self.info = info
        self.file = info.file
        self._complete = complete
        self._types: dict[int, Type] = {}
        self._makers: dict[int, Callable[[Die], Type]] = {
            dw.DW_TAG_base_type: self._base,
            dw.DW_TAG_typedef: self._typedef,
            dw.DW_TAG_array_type: self._array,
            dw.DW_TAG_enumeration_type: self.enum,
            dw.DW_TAG_subroutine_type: self.function,
            dw.DW_TAG_subprogram: self.function,
            **dict.fromkeys(_COMPOUNDS, self._compound),
            **dict.fromkeys(_QUALIFIERS, self._qualified),
            **dict.fromkeys(_POINTERS, self._pointer),
        }

    @guarded
    def at(self, offset: int) -> Type:
        """The type whose DIE starts at ``offset``. Raises BadFormat."""
        found = self._types.get(offset)
        return found if found is not None else self.of(self.info.die(offset))

    def of(self, die: Die) -> Type:
        """The type that a DIE describes; ``void`` for tags of no C type. Raises Malformed."""
        found = self._types.get(die.key)
        if found is None:
            if die.tag in _CHAINED:
                self._check_chain(die)
            maker = self._makers.get(die.tag)
            found = maker(die) if maker else VOID
            if len(self._types) >= MAX_CACHED:
                self._types.clear()
            self._types[die.key] = found
        return found

    def _check_chain(self, die: Die) -> None:
        """A type made of itself would have neither size nor name: only a struct can break the circle."""
        current = die
        for _ in range(_MAX_CHAIN):
            target = current.reference(dw.DW_AT_type)
            if target is None:
                return
            current = self.info.die(target)
            if current.tag not in _CHAINED:
                return
        raise Malformed(f"the type at {die.offset:#x} is made of itself")

    def target(self, die: Die) -> Lazy:
        """The type that DW_AT_type of ``die`` (or of what it specifies) refers to."""
        offset = inherited(die, dw.DW_AT_type).reference(dw.DW_AT_type)
        if offset is None:
            return VOID
        return self._types.get(offset) or partial(self.at, offset)

    def _base(self, die: Die) -> Type:
        name, size = die.name, die.number(dw.DW_AT_byte_size) or 0
        encoding = die.number(dw.DW_AT_encoding) or 0
        if encoding in (dw.DW_ATE_float, dw.DW_ATE_complex_float):
            return FloatType(name, size)
        return IntType(
            name,
            size,
            encoding in _SIGNED,
            is_char=encoding in _CHARS,
            is_bool=encoding == dw.DW_ATE_boolean,
        )

    def _typedef(self, die: Die) -> Type:
        return TypedefType(die.name, self.target(die))

    def _qualified(self, die: Die) -> Type:
        offset = die.reference(dw.DW_AT_type)
        target = self.info.die(offset) if offset is not None else None
        if target is not None and target.tag == dw.DW_TAG_array_type:
            element = target.reference(dw.DW_AT_type)
            if element is not None and self.info.die(element).tag == die.tag:
                return self.of(target)  # gcc qualifies a constant array and its elements: C does so once
        return QualifiedType(_QUALIFIERS[die.tag], self.target(die))

    def _pointer(self, die: Die) -> Type:
        size = die.number(dw.DW_AT_byte_size)
        return PointerType(self.target(die), die.unit.layout.address_size if size is None else size)

    def _array(self, die: Die) -> Type:
        """Dimensions are children, the outermost first (section 5.5)."""
        counts = [_count(child) for child in self.info.children(die) if child.tag == dw.DW_TAG_subrange_type]
        if len(counts) > _MAX_CHAIN:
            raise Malformed(f"an array of {len(counts)} dimensions at {die.offset:#x}")
        inner = self.target(die)
        for count in reversed(counts[1:]):
            inner = ArrayType(inner, count)
        return ArrayType(inner, counts[0] if counts else None)

    def enum(self, die: Die) -> EnumType:
        """An enumeration (section 5.7)."""
        size = die.number(dw.DW_AT_byte_size)
        return EnumType(
            die.name,
            size or 0,
            partial(self._enumerators, die),
            signed=self._enum_signed(die),
            complete=size is not None and not die.flag(dw.DW_AT_declaration),
        )

    def _enum_signed(self, die: Die) -> bool:
        encoding = die.number(dw.DW_AT_encoding)
        base = die.reference(dw.DW_AT_type)
        if encoding is None and base is not None:
            encoding = self.info.die(base).number(dw.DW_AT_encoding)
        if encoding is not None:
            return encoding in _SIGNED
        return any(value < 0 for value in self._enumerators(die).values())

    @guarded
    def _enumerators(self, die: Die) -> dict[str, int]:
        return {
            child.name: child.number(dw.DW_AT_const_value) or 0
            for child in self.info.children(die)
            if child.tag == dw.DW_TAG_enumerator
        }

    def _compound(self, die: Die) -> Type:
        """A struct or union (section 5.7)."""
        signature = die.reference(dw.DW_AT_signature)
        if signature is not None and signature != die.key:
            die = self.info.die(signature)
        kind = _COMPOUNDS.get(die.tag, "struct")
        name = inherited(die, dw.DW_AT_name).name
        size = die.number(dw.DW_AT_byte_size)
        if name and die.flag(dw.DW_AT_declaration):
            return DeclaredType(kind, name, self._complete)
        return CompoundType(kind, name, size or 0, partial(self._members, die), complete=size is not None)

    @guarded
    def _members(self, die: Die) -> list[Member]:
        return [
            self._member(child)
            for child in self.info.children(die)
            if child.tag == dw.DW_TAG_member and not child.flag(dw.DW_AT_external)
        ]

    def _member(self, die: Die) -> Member:
        """Sections 5.7.6 (members) and, for DW_AT_bit_offset, DWARF 3's 5.6.6."""
        target = self.target(die)
        location = 0
        if dw.DW_AT_data_member_location in die.values:
            location = _member_location(die)
        bit_size = die.number(dw.DW_AT_bit_size)
        if not bit_size:
            return Member(die.name, target, location * 8)
        start = die.number(dw.DW_AT_data_bit_offset)
        if start is None:
            start = location * 8 + self._old_bit_offset(die, target, bit_size)
        return Member(die.name, target, start, bit_size)

    def _old_bit_offset(self, die: Die, target: Lazy, bit_size: int) -> int:
        """DW_AT_bit_offset counts from the most significant bit of a storage unit."""
        from_top = die.number(dw.DW_AT_bit_offset)
        if from_top is None:
            return 0
        if self.info.order == ">":
            return from_top
        storage = die.number(dw.DW_AT_byte_size)
        if storage is None:
            storage = (target if isinstance(target, Type) else target()).size
        return storage * 8 - from_top - bit_size

    def function(self, die: Die) -> FunctionType:
        """A function or a function type (sections 3.3 and 5.10)."""
        tags = [child.tag for child in self.info.children(die)]
        return FunctionType(
            self.target(die),
            partial(self.parameters, die),
            variadic=dw.DW_TAG_unspecified_parameters in tags,
        )

    @guarded
    def parameters(self, die: Die) -> list[Parameter]:
        """The parameters of a function's DIE. Raises BadFormat."""
        return [
            Parameter(inherited(child, dw.DW_AT_name).name, self.target(child))
            for child in self.info.children(die)
            if child.tag == dw.DW_TAG_formal_parameter
        ]


def _count(subrange: Die) -> int | None:
    """Elements of one dimension; None for ``[]`` and for lengths known only at run time (section 5.13)."""
    for attribute, more in ((dw.DW_AT_count, 0), (dw.DW_AT_upper_bound, 1)):
        value = subrange.number(attribute)
        if value is None or subrange.abbrev.forms[attribute] in UNIT_REFERENCES:
            continue
        if more and value in (-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):  # how old compilers wrote [0]
            return 0
        return max(0, value + more)
    return None


def _member_location(die: Die) -> int:
    """A constant, or the expression ``DW_OP_plus_uconst n`` of DWARF 2."""
    value = die.number(dw.DW_AT_data_member_location)
    if value is not None:
        return value
    block = die.block(dw.DW_AT_data_member_location)
    if block and block[0] in (dw.DW_OP_plus_uconst, dw.DW_OP_constu):
        return uleb(block, 1)[0]
    raise Malformed(f"the member at {die.offset:#x} has no constant place")
