"""What the operators of C do to values: conversions, arithmetic, pointers, members, as gdb has them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kcrash.errors import ExpressionError, KcrashError, MemoryFault, MissingMember
from kcrash.types.model import (
    VOID,
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    FunctionType,
    IntType,
    PointerType,
    Type,
    VoidType,
)
from kcrash.values.unknown import UnknownType
from kcrash.values.value import Value, computed

if TYPE_CHECKING:
    from kcrash.values.scope import Scope

MAX_REPEAT = 1 << 24  # elements that @ may make

Node = Callable[["Scope"], Value]


def located(column: int, node: Node) -> Node:
    """``node``, whose errors name the column."""

    def evaluate(scope: Scope) -> Value:
        try:
            return node(scope)
        except MemoryFault:
            raise
        except ExpressionError as error:
            if error.column is not None:
                raise
            raise ExpressionError(str(error), column) from None
        except KcrashError as error:
            raise ExpressionError(str(error), column) from None

    return evaluate


def both(first: Node, second: Node) -> Node:
    """``first, second``: both evaluated, the second's value."""

    def evaluate(scope: Scope) -> Value:
        first(scope)
        return second(scope)

    return evaluate


def choice(condition: Node, first: Node, second: Node) -> Node:
    """``condition ? first : second``."""
    return lambda scope: first(scope) if _truth(scope, condition(scope)) else second(scope)


def size_of(scope: Scope, node: Node) -> Value:
    """``sizeof``, without reading memory."""
    with scope.unevaluated():
        size = scope.complete(node(scope).type_).size
    return computed(scope, scope.size_type, size)


def compound_of(scope: Scope, type_: Type) -> CompoundType:
    """The struct or union that a type is. Raises ExpressionError."""
    plain = scope.complete(type_).underlying
    if not isinstance(plain, CompoundType):
        raise ExpressionError(f"{type_} is not a struct or union")
    return plain


def decayed(scope: Scope, value: Value) -> Value:
    """An array as a pointer to its first element, a function as a pointer to it; else the value."""
    plain = value.type_.underlying
    if isinstance(plain, UnknownType):
        raise ExpressionError("its type is not known: cast it, as in (int)name or *(struct x *)&name")
    if not isinstance(plain, ArrayType | FunctionType):
        return value
    if value.address_ is None:
        raise ExpressionError("the value is not in memory")
    target = plain.target if isinstance(plain, ArrayType) else value.type_
    return computed(scope, scope.types.pointer_to(target), value.address_)


def _scalar(scope: Scope, value: Value) -> tuple[Type, Any]:
    """The type and the number of a value in arithmetic."""
    value = decayed(scope, value)
    plain = value.type_.underlying
    if not isinstance(plain, IntType | EnumType | PointerType | FloatType):
        raise ExpressionError(f"a value of type {value.type_} is not a number")
    return value.type_, value.value_()


def integer(value: Value) -> int:
    """The number of an integer, pointer, array or function. Raises ExpressionError."""
    plain = value.type_.underlying
    if isinstance(plain, ArrayType | FunctionType):
        return int(value)
    if not isinstance(plain, IntType | EnumType | PointerType):
        raise ExpressionError(f"a value of type {value.type_} is not an integer")
    return int(value.value_())


def _truth(scope: Scope, value: Value) -> bool:
    return bool(_scalar(scope, value)[1])


def _common(scope: Scope, left: Type, right: Type) -> Type:
    """The usual arithmetic conversions (C 6.3.1.8), pointers counting as unsigned long."""
    sides = [left.underlying, right.underlying]
    floats = [side for side in sides if isinstance(side, FloatType)]
    if floats:
        return max(floats, key=lambda side: side.size)
    size, signed = 4, True
    for side in sides:
        width = max(side.size, 4)
        positive = not getattr(side, "signed", False) and side.size >= 4
        if width > size:
            size, signed = width, not positive
        elif width == size and positive:
            signed = False
    return scope.integer(size, signed)


def _flag(scope: Scope, truth: bool) -> Value:
    return computed(scope, scope.types.type("int"), int(truth))


def binary(symbol: str, left: Node, right: Node) -> Node:
    """``left symbol right``, the logical and comparing operators included."""
    if symbol == "&&":
        return lambda scope: _flag(scope, _truth(scope, left(scope)) and _truth(scope, right(scope)))
    if symbol == "||":
        return lambda scope: _flag(scope, _truth(scope, left(scope)) or _truth(scope, right(scope)))
    if symbol == "@":
        return lambda scope: _repeated(left(scope), integer(right(scope)))
    if symbol in _COMPARISONS:
        return lambda scope: _compare(scope, _COMPARISONS[symbol], left(scope), right(scope))
    if symbol in ("<<", ">>"):
        return lambda scope: _shift(scope, symbol, left(scope), right(scope))
    return lambda scope: _arithmetic(scope, symbol, left(scope), right(scope))


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le,
    ">=": operator.ge,
}  # fmt: skip
_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "&": operator.and_, "|": operator.or_,
    "^": operator.xor,
}  # fmt: skip


def _compare(scope: Scope, compare: Callable[[Any, Any], bool], left: Value, right: Value) -> Value:
    (left_type, a), (right_type, b) = _scalar(scope, left), _scalar(scope, right)
    common = _common(scope, left_type, right_type)
    return _flag(scope, compare(_converted(scope, common, a), _converted(scope, common, b)))


def _converted(scope: Scope, type_: Type, number: Any) -> Any:
    return computed(scope, type_, number).value_()


def _shift(scope: Scope, symbol: str, left: Value, right: Value) -> Value:
    type_, number = _scalar(scope, left)
    promoted = _common(scope, type_, scope.types.type("int"))
    count = integer(right)
    if isinstance(promoted, FloatType):
        raise ExpressionError("a floating-point number cannot be shifted")
    if not 0 <= count < 8 * promoted.size:  # undefined in C; nothing is left
        return computed(scope, promoted, -1 if number < 0 and symbol == ">>" else 0)
    return computed(scope, promoted, number << count if symbol == "<<" else number >> count)


def _arithmetic(scope: Scope, symbol: str, left: Value, right: Value) -> Value:
    (left_type, a), (right_type, b) = _scalar(scope, left), _scalar(scope, right)
    if symbol in ("+", "-"):
        moved = _pointer_arithmetic(scope, symbol, (left_type, a), (right_type, b))
        if moved is not None:
            return moved
    common = _common(scope, left_type, right_type)
    a, b = _converted(scope, common, a), _converted(scope, common, b)
    floating = isinstance(common, FloatType)
    if symbol in ("/", "%"):
        return computed(scope, common, _divided(scope, symbol, a, b, floating))
    if floating and symbol in "&|^":
        raise ExpressionError(f"{symbol!r} needs integers")
    return computed(scope, common, _OPERATIONS[symbol](a, b))


def _divided(scope: Scope, symbol: str, a: Any, b: Any, floating: bool) -> Any:
    if not b and not scope.evaluating:
        return a
    if not b:
        raise ExpressionError("division by zero")
    if floating:
        if symbol == "%":
            raise ExpressionError("'%' needs integers")
        return a / b
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # C rounds towards zero
    return quotient if symbol == "/" else a - b * quotient


def _pointer_arithmetic(
    scope: Scope, symbol: str, left: tuple[Type, Any], right: tuple[Type, Any]
) -> Value | None:
    """Pointer plus or minus integer, pointer minus pointer; None if no pointer is involved."""
    first, second = left[0].underlying, right[0].underlying
    if isinstance(second, PointerType) and not isinstance(first, PointerType):
        if symbol == "-":
            return None
        left, right, first, second = right, left, second, first
    if not isinstance(first, PointerType):
        return None
    step = scope.complete(first.target).size or 1  # void and functions count bytes, as in GNU C
    if not isinstance(second, PointerType):
        if isinstance(second, FloatType):
            raise ExpressionError("a pointer moves by integers only")
        return computed(scope, left[0], left[1] + (right[1] if symbol == "+" else -right[1]) * step)
    if symbol == "+":
        raise ExpressionError("two pointers cannot be added")
    if (scope.complete(second.target).size or 1) != step:
        raise ExpressionError("pointers to types of different sizes cannot be subtracted")
    return computed(scope, scope.types.type("long"), (left[1] - right[1]) // step)


def _repeated(value: Value, count: int) -> Value:
    if value.address_ is None or value.bit_field_:
        raise ExpressionError("only values in memory can be extended with '@'")
    if not 0 < count <= MAX_REPEAT:
        raise ExpressionError(f"invalid number {count} of repetitions")
    return _like(value, ArrayType(value.type_, count), value.address_)


def _like(value: Value, type_: Type, address: int) -> Value:
    """Another value in the same memory as ``value``."""
    return Value(value._target, type_, address, space=value._space)


def indexed(node: Node, index: Node) -> Node:
    """``node[index]``."""

    def evaluate(scope: Scope) -> Value:
        value, number = node(scope), index(scope)
        if not isinstance(value.type_.underlying, ArrayType | PointerType):
            value, number = number, value
        plain = value.type_.underlying
        if isinstance(plain, PointerType):
            return dereferenced(scope, _arithmetic(scope, "+", value, number))
        return value[integer(number)]

    return evaluate


def member(scope: Scope, value: Value, name: str) -> Value:
    """``value.name`` or ``value->name``, which gdb takes for each other. Raises MissingMember."""
    plain = value.type_.underlying
    if isinstance(plain, PointerType):
        value = dereferenced(scope, value)
    elif isinstance(plain, ArrayType):
        raise MissingMember(str(value.type_), name, scope.types.kernel)
    elif isinstance(plain, CompoundType) and not plain.complete and value.address_ is not None:
        value = _like(value, scope.complete(plain), value.address_)
    return value.member_(name)


# -- unary operators


def dereferenced(scope: Scope, value: Value) -> Value:
    """``*value``. Raises ExpressionError if it is no pointer."""
    plain = value.type_.underlying
    if isinstance(plain, FunctionType):
        return value
    if isinstance(plain, IntType):  # gdb: an integer is taken for the address of a long
        return _like(value, scope.types.type("long"), int(value) & (1 << 8 * scope.types.pointer_size) - 1)
    if isinstance(plain, PointerType) and isinstance(plain.target.underlying, VoidType):
        raise ExpressionError("a pointer to void has nothing to show: cast it")
    pointer = decayed(scope, value)
    target = pointer.type_.underlying
    if not isinstance(target, PointerType):
        raise ExpressionError(f"{value.type_} is not a pointer")
    return _like(value, scope.complete(target.target), int(pointer))


def _negative(scope: Scope, value: Value) -> Value:
    type_, number = _scalar(scope, value)
    if isinstance(type_.underlying, PointerType):
        raise ExpressionError("a pointer has no negative")
    return computed(scope, _common(scope, type_, scope.types.type("int")), -number)


def _positive(scope: Scope, value: Value) -> Value:
    type_, number = _scalar(scope, value)
    return computed(scope, _common(scope, type_, scope.types.type("int")), number)


def _complement(scope: Scope, value: Value) -> Value:
    type_, number = _scalar(scope, value)
    if isinstance(type_.underlying, FloatType):
        raise ExpressionError("'~' needs an integer")
    return computed(scope, _common(scope, type_, scope.types.type("int")), ~number)


def _not(scope: Scope, value: Value) -> Value:
    return _flag(scope, not _truth(scope, value))


def _address_of(scope: Scope, value: Value) -> Value:
    if value.bit_field_:
        raise ExpressionError("a bit field has no address")
    return value.address_of_()


UNARY: dict[str, Callable[[Scope, Value], Value]] = {
    "*": dereferenced, "&": _address_of, "-": _negative, "+": _positive, "~": _complement, "!": _not,
}  # fmt: skip


def unary(operation: Callable[[Scope, Value], Value], operand: Node) -> Node:
    """One of UNARY on an operand."""
    return lambda scope: operation(scope, operand(scope))


def cast(scope: Scope, value: Value, type_: Type) -> Value:
    """``(type) value``. Raises ExpressionError."""
    type_, source = scope.complete(type_), value.type_.underlying
    plain = type_.underlying
    if isinstance(plain, VoidType):
        return Value(scope, VOID, data=b"")
    if isinstance(source, UnknownType) and value.address_ is not None:
        return _like(value, type_, value.address_)
    if isinstance(plain, IntType | EnumType | PointerType | FloatType):
        _type, number = _scalar(scope, value)
        return Value(scope, type_, data=computed(scope, type_, number).read_(), space=value._space)
    if isinstance(source, CompoundType | ArrayType) and value.address_ is not None:
        if plain.size != source.size and isinstance(source, CompoundType):
            raise ExpressionError(f"{value.type_} cannot be cast to {type_}")
        return _like(value, type_, value.address_)
    raise ExpressionError(f"{value.type_} cannot be cast to {type_}")
