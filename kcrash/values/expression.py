"""C expressions as users of gdb type them: ``((struct page *)x)->flags & 0xff``, ``*init_task.cpus_ptr``.

A text is parsed to a chain of functions, which evaluates to a `Value`. Types
convert as in C for the target's word size; what gdb adds is understood too:
``@`` makes an array, ``$`` and ``$n`` are earlier values, ``{type} address`` is
an lvalue. Nothing is ever written. Errors carry the column.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, Protocol

from kcrash.errors import ExpressionError, FaultReason, KcrashError, MemoryFault, MissingMember, MissingSymbol
from kcrash.memory.space import AddressSpace
from kcrash.symbols.table import Symbol, Symbols
from kcrash.types.exact import ExactTypes
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
from kcrash.types.namespace import Types
from kcrash.types.parse import TypeParser
from kcrash.values.unknown import DATA, TEXT, UnknownType
from kcrash.values.value import Value, computed

MAX_DEPTH = 100  # of nested parentheses and operators
MAX_TEXT = 16384
MAX_HISTORY = 100_000
MAX_REPEAT = 1 << 24  # elements that @ may make

Node = Callable[["Scope"], Value]


class Scope:
    """What names in expressions mean, and the values printed so far.

    A target of values: ``memory``, ``types``, ``symbols``. ``history``: what ``$1``,
    ``$2`` ... are; share one list between scopes of a session. ``per_cpu``: the address
    of a per-CPU symbol for a CPU, for ``per_cpu(symbol, cpu)``.
    """

    def __init__(
        self,
        memory: AddressSpace,
        types: Types,
        symbols: Symbols,
        history: list[Value] | None = None,
        per_cpu: Callable[[str, int], int | None] | None = None,
    ) -> None:
        self.memory = memory
        self.types = types
        self.symbols = symbols
        self.history = [] if history is None else history
        self.per_cpu = per_cpu
        self.evaluating = True

    def evaluate(self, text: str) -> Value:
        """The value of an expression. Raises ExpressionError (with the column), or MemoryFault."""
        return parse(text, self)(self)

    def type_of(self, text: str) -> Type:
        """The type of an expression, without reading memory."""
        node = parse(text, self)
        with self.unevaluated():
            return node(self).type_

    @contextmanager
    def unevaluated(self) -> Iterator[None]:
        """Within it memory is all zeroes: only types matter, as in ``sizeof``."""
        memory, evaluating = self.memory, self.evaluating
        self.memory, self.evaluating = _Zeroes(memory), False
        try:
            yield
        finally:
            self.memory, self.evaluating = memory, evaluating

    def remember(self, value: Value) -> int:
        """Keep a value for ``$n``; its number."""
        if len(self.history) >= MAX_HISTORY:
            raise ExpressionError("the value history is full")
        self.history.append(value)
        return len(self.history)

    # -- names

    def name(self, name: str) -> Value:
        """A variable, function or enum constant. Raises ExpressionError."""
        symbol = self.symbols.symbol(name)
        if symbol is not None:
            found = self._typed(symbol)
            if found is not None:
                return Value(self, found, symbol.address)
        constant = self.types.enumerator(name)
        if constant is not None:
            return computed(self, constant[0], constant[1])
        if symbol is None:
            raise ExpressionError(self._unknown(name))
        return Value(self, TEXT if symbol.type in "tTwW" else DATA, symbol.address)

    def _typed(self, symbol: Symbol) -> Type | None:
        name, types = symbol.name, self.types
        ways = [types.variable, types.function]
        if symbol.type in "tTwW":
            ways.reverse()
        return ways[0](name, symbol.module) or ways[1](name, symbol.module)

    def _unknown(self, name: str) -> str:
        if self.types.find("typedef", name) is not None:
            return f"{name!r} is a type, not a value"
        if re.fullmatch("[0-9a-f]{4,16}", name):
            return f"no symbol {name!r}: a hexadecimal number is written 0x{name}"
        return f"no symbol {name!r}"

    def earlier(self, text: str) -> Value:
        """The value of ``$``, ``$$``, ``$n`` or ``$$n``. Raises ExpressionError."""
        digits = text.lstrip("$")
        if digits and not digits.isdecimal():
            raise ExpressionError(f"no convenience variable {text}: a dump has no registers to name")
        if text.startswith("$$"):
            index = len(self.history) - int(digits or 1)
        else:
            index = int(digits) if digits else len(self.history)
        if not self.history and not digits:
            return Value(self, VOID, data=b"")
        if not 0 < index <= len(self.history):
            raise ExpressionError(f"history has not yet reached ${index}")
        return self.history[index - 1]

    # -- types that expressions make

    def integer(self, size: int, signed: bool) -> Type:
        """The standard integer type of that size, at least ``int``."""
        sign = "" if signed else "unsigned "
        names = {4: "int", self.types.pointer_size: "long", 8: "long" if self._wide else "long long"}
        if size > 8:
            return IntType("__int128" if signed else "__int128 unsigned", 16, signed)
        return self.types.type(sign + (names[4] if size <= 4 else names[8]))

    @property
    def _wide(self) -> bool:
        return self.types.pointer_size == 8

    @property
    def size_type(self) -> Type:
        """``unsigned long``, which is also what pointers are compared as."""
        return self.types.type("unsigned long")

    def complete(self, type_: Type) -> Type:
        """A struct that was only declared, with its members if they are known somewhere."""
        plain = type_.underlying
        if isinstance(plain, CompoundType) and not plain.complete and plain.name:
            return self.types.find(plain.kind, plain.name) or type_
        return type_


class Source(Protocol):
    """What a scope takes from a session."""

    @property
    def memory(self) -> AddressSpace:
        """Kernel memory."""

    @property
    def types(self) -> Types:
        """All types."""

    @property
    def symbols(self) -> Symbols:
        """All symbols."""

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """See Session.memo."""

    def per_cpu_address(self, name: str, cpu: int) -> int | None:
        """See Session.per_cpu_address."""


def scope_of(session: Source, memory: AddressSpace | None = None) -> Scope:
    """The scope of a session: its names, with types as exact as debuginfo has them, and its history.

    ``memory``: read instead of kernel memory.
    """
    history = session.memo("value history", list)
    sources = tuple(id(source) for source in session.types.sources)
    types = session.memo(("exact types", sources), lambda: ExactTypes(session.types))
    return Scope(memory or session.memory, types, session.symbols, history, session.per_cpu_address)


def evaluate(session: Source, text: str) -> Value:
    """The value of an expression in a session. Raises ExpressionError, MemoryFault."""
    return scope_of(session).evaluate(text)


class _Zeroes(AddressSpace):
    """Memory that holds nothing but zeroes."""

    def __init__(self, like: AddressSpace) -> None:
        super().__init__(like.name, like.byte_order, like.word_bytes)

    def read(self, address: int, size: int) -> bytes:
        if size > 1 << 20:
            raise MemoryFault(self.name, address, FaultReason.NOT_MAPPED)
        return bytes(size)


# -- parsing


class Token(NamedTuple):
    """``kind``: "number", "name", "char", "string", "history", "operator", or "" at the end."""

    kind: str
    text: str
    column: int


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|0[bB][01]+[uUlL]*
        |(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?[fFlL]?|\d+[eE][+-]?\d+[fFlL]?|\d\w*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<history>\$\w*(?:\$\w*)?)
    |(?P<char>'(?:\\.|[^'\\])*')
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<operator>->|<<=?|>>=?|[-+*/%&|^=!<>]=|&&|\|\||\+\+|--|[-+*/%&|^!~<>=?:,.@()\[\]{}])
    |(?P<other>\S)
    )""",
    re.X | re.S,
)
_LEVELS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="),
    ("<<", ">>"), ("@",), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip
_LEVEL = {symbol: level for level, symbols in enumerate(_LEVELS) for symbol in symbols}
_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--"}


def parse(text: str, scope: Scope) -> Node:
    """The expression ``text``, ready to be evaluated in ``scope``. Raises ExpressionError."""
    if len(text) > MAX_TEXT:
        raise ExpressionError("the expression is too long", MAX_TEXT)
    parser = _Parser(text, scope)
    node = parser.comma()
    if parser.token.kind:
        parser.fail(f"unexpected {parser.token.text!r}")
    return node


class _Parser:
    """Recursive descent, operators by precedence."""

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope
        self.position = 0
        self.depth = 0
        self.token = self._read()

    # -- tokens

    def _read(self) -> Token:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            return Token("", "", len(self.text))
        self.position = match.end()
        kind = match.lastgroup or ""
        token = Token(kind, match.group(kind), match.start(kind))
        if kind == "other":
            unfinished = token.text in "'\""
            self._fail_at("unterminated quote" if unfinished else f"invalid character {token.text!r}", token)
        return token

    def take(self) -> Token:
        token, self.token = self.token, self._read()
        return token

    def accept(self, text: str) -> Token | None:
        """Consume an operator if it is next."""
        return self.take() if self.token.kind == "operator" and self.token.text == text else None

    def expect(self, text: str) -> Token:
        found = self.accept(text)
        if found is None:
            self.fail(f"expected {text!r}" + (f" before {self.token.text!r}" if self.token.kind else ""))
        return found

    def fail(self, what: str) -> NoReturn:
        self._fail_at(what, self.token)

    def _fail_at(self, what: str, token: Token) -> NoReturn:
        raise ExpressionError(what, token.column)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("the expression is nested too deeply")
        yield
        self.depth -= 1

    # -- types

    def at_type(self) -> bool:
        """True if a type name stands at the current token."""
        return self.token.kind == "name" and self._type_parser().at_type() and not self._is_variable()

    def _is_variable(self) -> bool:
        """True if a symbol hides a typedef of its name."""
        name, scope = self.token.text, self.scope
        return scope.types.find("typedef", name) is not None and scope.symbols.find(name) is not None

    def _type_parser(self) -> TypeParser:
        return TypeParser(self.text, self.scope.types, self.token.column)

    def type_name(self) -> Type:
        """Consume a type name."""
        parser = self._type_parser()
        type_ = parser.type_name()
        self.position = parser.position
        self.token = self._read()
        return type_

    # -- the grammar

    def comma(self) -> Node:
        node = self.conditional()
        while self.accept(","):
            node = _after(node, self.conditional())
        return node

    def conditional(self) -> Node:
        with self.deeper():
            condition = self.binary(0)
            if self.token.kind == "operator" and self.token.text in _ASSIGNMENTS:
                self.fail("nothing can be assigned: a dump is read only")
            if not self.accept("?"):
                return condition
            first = self.comma()
            self.expect(":")
            return _choice(condition, first, self.conditional())

    def binary(self, level: int) -> Node:
        left = self.unary()
        while self.token.kind == "operator" and _LEVEL.get(self.token.text, -1) >= level:
            token = self.take()
            with self.deeper():
                right = self.binary(_LEVEL[token.text] + 1)
            left = _located(token.column, _binary(token.text, left, right))
        return left

    def unary(self) -> Node:
        with self.deeper():
            token = self.token
            if token.kind == "name" and token.text in ("sizeof", "_Alignof"):
                return self.sizeof()
            if token.kind == "operator":
                if token.text in _UNARY:
                    self.take()
                    return _located(token.column, _unary(_UNARY[token.text], self.unary()))
                if token.text == "{":
                    return self.braced()
                if token.text in ("++", "--"):
                    self.fail("nothing can be assigned: a dump is read only")
            return self.postfix(self.primary())

    def sizeof(self) -> Node:
        column = self.take().column
        if self.token.text == "(":
            opening = self.take()
            if self.at_type():
                type_ = self.type_name()
                self.expect(")")
                return lambda scope: computed(scope, scope.size_type, scope.complete(type_).size)
            self.position, self.token = opening.column + 1, opening
        node = self.unary()
        return _located(column, lambda scope: _sizeof(scope, node))

    def braced(self) -> Node:
        """gdb's ``{type} address``."""
        column = self.take().column
        if not self.at_type():
            self.fail("expected a type after '{'")
        type_ = self.type_name()
        self.expect("}")
        operand = self.unary()
        return _located(column, lambda scope: Value(scope, scope.complete(type_), _integer(operand(scope))))

    def primary(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return _number(token, self.scope)
        if token.kind == "name":
            return self.named(token)
        if token.kind == "history":
            return _located(token.column, lambda scope: scope.earlier(token.text))
        if token.kind in ("char", "string"):
            return self.quoted(token)
        if token.text == "(":
            return self.parenthesis(token)
        what = f"unexpected {token.text!r}" if token.kind else "the expression ends too early"
        raise ExpressionError(what, token.column)

    def parenthesis(self, opening: Token) -> Node:
        """A cast, or an expression in parentheses."""
        if self.at_type():
            type_ = self.type_name()
            self.expect(")")
            operand = self.unary()
            return _located(opening.column, lambda scope: cast(scope, operand(scope), type_))
        node = self.comma()
        self.expect(")")
        return node

    def named(self, token: Token) -> Node:
        if self.token.text == "(" and token.text in _MACROS:
            return _MACROS[token.text](self, token)
        if self.token.text == "::":
            self.fail("a scope cannot be given")
        return _located(token.column, lambda scope: scope.name(token.text))

    def quoted(self, token: Token) -> Node:
        body = token.text[1:-1]
        if token.kind == "string":
            data = _unescape(body, token.column) + b"\0"
            return lambda scope: Value(scope, ArrayType(scope.types.type("char"), len(data)), data=data)
        if len(body) > 1 and not body.startswith("\\"):  # a symbol with odd characters
            return _located(token.column, lambda scope: scope.name(body))
        data = _unescape(body, token.column)
        if len(data) != 1:
            self._fail_at("a character constant has one character", token)
        return lambda scope: computed(scope, scope.types.type("char"), data[0])

    def postfix(self, node: Node) -> Node:
        while self.token.kind == "operator":
            token = self.token
            if token.text == "[":
                self.take()
                node = _located(token.column, _index(node, self.comma()))
                self.expect("]")
            elif token.text in (".", "->"):
                self.take()
                node = self.member(node)
            elif token.text == "(":
                self.fail("functions of a dump cannot be called")
            else:
                break
        return node

    def member(self, node: Node) -> Node:
        name = self.take()
        if name.kind != "name":
            self._fail_at("expected the name of a member", name)
        return _located(name.column, lambda scope: member(scope, node(scope), name.text))

    # -- macros of the kernel that help in a debugger

    def path(self) -> str:
        """A member path such as ``a.b[2].c``, as text."""
        start = self.token.column
        while self.token.kind and self.token.text not in (",", ")"):
            self.take()
        return self.text[start : self.token.column].strip()


def _offsetof(parser: _Parser, token: Token) -> Node:
    """``offsetof(type, member)``."""
    parser.expect("(")
    type_ = parser.type_name()
    parser.expect(",")
    path = parser.path()
    parser.expect(")")
    return _located(
        token.column, lambda scope: computed(scope, scope.size_type, _compound(scope, type_).offset(path))
    )


def _container_of(parser: _Parser, token: Token) -> Node:
    """``container_of(pointer, type, member)``: a pointer."""
    parser.expect("(")
    pointer = parser.conditional()
    parser.expect(",")
    type_ = parser.type_name()
    parser.expect(",")
    path = parser.path()
    parser.expect(")")

    def evaluate(scope: Scope) -> Value:
        address = _integer(_decayed(scope, pointer(scope))) - _compound(scope, type_).offset(path)
        return computed(scope, scope.types.pointer_to(type_), address)

    return _located(token.column, evaluate)


def _per_cpu(parser: _Parser, token: Token) -> Node:
    """``per_cpu(symbol, cpu)``."""
    parser.expect("(")
    name = parser.take()
    parser.expect(",")
    cpu = parser.conditional()
    parser.expect(")")

    def evaluate(scope: Scope) -> Value:
        address = scope.per_cpu(name.text, _integer(cpu(scope))) if scope.per_cpu else None
        if address is None:
            raise MissingSymbol(name.text, scope.types.kernel)
        return Value(scope, scope.name(name.text).type_, address)

    return _located(token.column, evaluate)


_MACROS: dict[str, Callable[[_Parser, Token], Node]] = {
    "offsetof": _offsetof,
    "container_of": _container_of,
    "per_cpu": _per_cpu,
}


# -- literals


def _number(token: Token, scope: Scope) -> Node:
    body = token.text.rstrip("uUlL")
    suffix = token.text[len(body) :].lower()
    if re.fullmatch(r"[\d.]+(?:e[+-]?\d+)?f?", body, re.I) and re.search("[.eE]|f$", body):
        return _float(body, scope)
    try:
        number = int(body, 0 if body[:2].lower() in ("0x", "0b") else 8 if body[0] == "0" else 10)
    except ValueError:
        raise ExpressionError(f"invalid number {token.text!r}", token.column) from None
    if suffix not in ("", "u", "l", "ul", "lu", "ll", "ull", "llu"):
        raise ExpressionError(f"invalid number {token.text!r}", token.column)
    type_ = _literal_type(number, suffix, body[0] == "0", scope)
    if number >> 8 * type_.size:
        raise ExpressionError("the number is too large", token.column)
    return lambda scope: computed(scope, type_, number)


def _literal_type(number: int, suffix: str, any_sign: bool, scope: Scope) -> Type:
    """The first of int, unsigned int, long, unsigned long that holds it, as C says (6.4.4.1)."""
    for size in (4, 8) if "l" not in suffix else (max(scope.types.pointer_size, 4 * suffix.count("l")), 8):
        bits = 8 * size
        if "u" not in suffix and number < 1 << bits - 1:
            return scope.integer(size, True)
        if ("u" in suffix or any_sign or size == 8) and number < 1 << bits:
            return scope.integer(size, False)
    return scope.integer(8, False)


def _float(body: str, scope: Scope) -> Node:
    single = body[-1] in "fF"
    number = float(body.rstrip("fF"))
    type_ = FloatType("float", 4) if single else FloatType("double", 8)
    return lambda scope: computed(scope, type_, number)


_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]+|[0-7]{1,3}|.)", re.S)
_ESCAPED = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "e": 27}


def _unescape(body: str, column: int) -> bytes:
    def replace(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16) & 0xFF)
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        return chr(_ESCAPED.get(code, ord(code)))

    try:
        return _ESCAPE.sub(replace, body).encode("latin-1")
    except UnicodeEncodeError:
        raise ExpressionError("only characters of one byte are understood", column) from None


# -- evaluation


def _located(column: int, node: Node) -> Node:
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


def _after(first: Node, second: Node) -> Node:
    def evaluate(scope: Scope) -> Value:
        first(scope)
        return second(scope)

    return evaluate


def _choice(condition: Node, first: Node, second: Node) -> Node:
    return lambda scope: first(scope) if _truth(scope, condition(scope)) else second(scope)


def _sizeof(scope: Scope, node: Node) -> Value:
    with scope.unevaluated():
        size = scope.complete(node(scope).type_).size
    return computed(scope, scope.size_type, size)


def _compound(scope: Scope, type_: Type) -> CompoundType:
    plain = scope.complete(type_).underlying
    if not isinstance(plain, CompoundType):
        raise ExpressionError(f"{type_} is not a struct or union")
    return plain


def _decayed(scope: Scope, value: Value) -> Value:
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
    value = _decayed(scope, value)
    plain = value.type_.underlying
    if not isinstance(plain, IntType | EnumType | PointerType | FloatType):
        raise ExpressionError(f"a value of type {value.type_} is not a number")
    return value.type_, value.value_()


def _integer(value: Value) -> int:
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


def _binary(symbol: str, left: Node, right: Node) -> Node:
    if symbol == "&&":
        return lambda scope: _flag(scope, _truth(scope, left(scope)) and _truth(scope, right(scope)))
    if symbol == "||":
        return lambda scope: _flag(scope, _truth(scope, left(scope)) or _truth(scope, right(scope)))
    if symbol == "@":
        return lambda scope: _repeated(left(scope), _integer(right(scope)))
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
    count = _integer(right)
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


def _index(node: Node, index: Node) -> Node:
    def evaluate(scope: Scope) -> Value:
        value, number = node(scope), index(scope)
        if not isinstance(value.type_.underlying, ArrayType | PointerType):
            value, number = number, value
        plain = value.type_.underlying
        if isinstance(plain, PointerType):
            return dereferenced(scope, _arithmetic(scope, "+", value, number))
        return value[_integer(number)]

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
    pointer = _decayed(scope, value)
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


_UNARY: dict[str, Callable[[Scope, Value], Value]] = {
    "*": dereferenced, "&": _address_of, "-": _negative, "+": _positive, "~": _complement, "!": _not,
}  # fmt: skip


def _unary(operation: Callable[[Scope, Value], Value], operand: Node) -> Node:
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
