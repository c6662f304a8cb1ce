"""C expressions as users of gdb type them: ``((struct page *)x)->flags & 0xff``, ``*init_task.cpus_ptr``.

A text is parsed to a chain of functions, which evaluates to a `Value`. Types
convert as in C for the target's word size; what gdb adds is understood too:
``@`` makes an array, ``$`` and ``$n`` are earlier values, ``{type} address`` is
an lvalue. Nothing is ever written. Errors carry the column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from kcrash.errors import ExpressionError, MissingSymbol
from kcrash.types.model import (
    ArrayType,
    FloatType,
    Type,
)
from kcrash.types.parse import TypeParser
from kcrash.values.operations import (
    UNARY,
    Node,
    binary,
    both,
    cast,
    choice,
    compound_of,
    decayed,
    indexed,
    integer,
    located,
    member,
    size_of,
    unary,
)
from kcrash.values.value import Value, computed

if TYPE_CHECKING:
    from kcrash.values.scope import Scope

MAX_DEPTH = 100  # of nested parentheses and operators
MAX_TEXT = 16384


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
            node = both(node, self.conditional())
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
            return choice(condition, first, self.conditional())

    def binary(self, level: int) -> Node:
        left = self.unary()
        while self.token.kind == "operator" and _LEVEL.get(self.token.text, -1) >= level:
            token = self.take()
            with self.deeper():
                right = self.binary(_LEVEL[token.text] + 1)
            left = located(token.column, binary(token.text, left, right))
        return left

    def unary(self) -> Node:
        with self.deeper():
            token = self.token
            if token.kind == "name" and token.text in ("sizeof", "_Alignof"):
                return self.sizeof()
            if token.kind == "operator":
                if token.text in UNARY:
                    self.take()
                    return located(token.column, unary(UNARY[token.text], self.unary()))
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
        return located(column, lambda scope: size_of(scope, node))

    def braced(self) -> Node:
        """gdb's ``{type} address``."""
        column = self.take().column
        if not self.at_type():
            self.fail("expected a type after '{'")
        type_ = self.type_name()
        self.expect("}")
        operand = self.unary()
        return located(column, lambda scope: Value(scope, scope.complete(type_), integer(operand(scope))))

    def primary(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return _number(token, self.scope)
        if token.kind == "name":
            return self.named(token)
        if token.kind == "history":
            return located(token.column, lambda scope: scope.earlier(token.text))
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
            return located(opening.column, lambda scope: cast(scope, operand(scope), type_))
        node = self.comma()
        self.expect(")")
        return node

    def named(self, token: Token) -> Node:
        if self.token.text == "(" and token.text in _MACROS:
            return _MACROS[token.text](self, token)
        if self.token.text == "::":
            self.fail("a scope cannot be given")
        return located(token.column, lambda scope: scope.name(token.text))

    def quoted(self, token: Token) -> Node:
        body = token.text[1:-1]
        if token.kind == "string":
            data = _unescape(body, token.column) + b"\0"
            return lambda scope: Value(scope, ArrayType(scope.types.type("char"), len(data)), data=data)
        if len(body) > 1 and not body.startswith("\\"):  # a symbol with odd characters
            return located(token.column, lambda scope: scope.name(body))
        data = _unescape(body, token.column)
        if len(data) != 1:
            self._fail_at("a character constant has one character", token)
        return lambda scope: computed(scope, scope.types.type("char"), data[0])

    def postfix(self, node: Node) -> Node:
        while self.token.kind == "operator":
            token = self.token
            if token.text == "[":
                self.take()
                node = located(token.column, indexed(node, self.comma()))
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
        return located(name.column, lambda scope: member(scope, node(scope), name.text))

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
    return located(
        token.column, lambda scope: computed(scope, scope.size_type, compound_of(scope, type_).offset(path))
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
        address = integer(decayed(scope, pointer(scope))) - compound_of(scope, type_).offset(path)
        return computed(scope, scope.types.pointer_to(type_), address)

    return located(token.column, evaluate)


def _per_cpu(parser: _Parser, token: Token) -> Node:
    """``per_cpu(symbol, cpu)``."""
    parser.expect("(")
    name = parser.take()
    parser.expect(",")
    cpu = parser.conditional()
    parser.expect(")")

    def evaluate(scope: Scope) -> Value:
        address = scope.per_cpu(name.text, integer(cpu(scope))) if scope.per_cpu else None
        if address is None:
            raise MissingSymbol(name.text, scope.types.kernel)
        return Value(scope, scope.name(name.text).type_, address)

    return located(token.column, evaluate)


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
