"""C type names and declarations, parsed: ``struct list_head *``, ``unsigned long x[4];``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Protocol

from kcrash.errors import ExpressionError
from kcrash.types.model import (
    VOID,
    ArrayType,
    EnumType,
    FunctionType,
    IntType,
    PointerType,
    QualifiedType,
    Type,
)

_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(0[xX][0-9a-fA-F]+|\d+)|(.))", re.S)
_QUALIFIERS = ("const", "volatile", "restrict")
_BASE_WORDS = ("unsigned", "signed", "long", "short", "int", "char", "_Bool", "bool", "float", "double")
MAX_DEPTH = 64

# Orders in which C lets the words of a base type stand, to the form that DWARF and BTF name.
_CANONICAL = {
    "char": "char", "signed char": "signed char", "unsigned char": "unsigned char",
    "short": "short int", "unsigned short": "short unsigned int",
    "int": "int", "signed": "int", "unsigned": "unsigned int",
    "long": "long int", "unsigned long": "long unsigned int",
    "long long": "long long int", "unsigned long long": "long long unsigned int",
    "_Bool": "_Bool", "bool": "_Bool", "float": "float", "double": "double", "long double": "long double",
}  # fmt: skip


class TypeNames(Protocol):
    """Where a parser looks names up."""

    pointer_size: int

    def find(self, kind: str, name: str) -> Type | None:
        """See kcrash.types.source.TypeSource.find."""

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """See kcrash.types.source.TypeSource.enumerator."""


def canonical_base(words: list[str]) -> str:
    """``["unsigned", "long", "int"]`` -> ``"long unsigned int"``."""
    longs = words.count("long")
    sign = "unsigned" if "unsigned" in words else ""
    core = [word for word in words if word in ("char", "_Bool", "bool", "float", "double", "short")]
    if "signed" in words and core == ["char"]:
        sign = "signed"
    parts = [sign, *["long"] * longs, *core]
    text = " ".join(part for part in parts if part) or "int"
    return _CANONICAL.get(text, text)


class TypeParser:
    """Parses type names out of a text, from ``position`` on.

    Used for casts, sizeof and declaration tables. Raises ExpressionError with
    the column of what it cannot understand.
    """

    def __init__(self, text: str, types: TypeNames, position: int = 0) -> None:
        self.text = text
        self.types = types
        self.position = position

    def peek(self) -> str:
        """The next token, "" at the end."""
        match = _TOKEN.match(self.text, self.position)
        return match.group(0).strip() if match else ""

    def take(self) -> str:
        """The next token, consumed."""
        match = _TOKEN.match(self.text, self.position)
        if not match:
            return ""
        self.position = match.end()
        return match.group(0).strip()

    def error(self, what: str) -> ExpressionError:
        """An error at the current place."""
        return ExpressionError(what, self.position)

    def expect(self, token: str) -> None:
        """Consume ``token`` or raise."""
        if self.take() != token:
            raise self.error(f"expected {token!r}")

    def at_type(self) -> bool:
        """True if a type name starts here."""
        word = self.peek()
        if word in ("struct", "union", "enum", "void", *_QUALIFIERS, *_BASE_WORDS):
            return True
        return bool(word) and word.isidentifier() and self.types.find("typedef", word) is not None

    def type_name(self) -> Type:
        """A whole type name, abstract declarator included: ``struct file *(*)[4]``."""
        _name, type_ = self.declarator(self.base_type())
        return type_

    def base_type(self) -> Type:
        """The specifiers: ``const struct file``, ``unsigned long``, ``u64``."""
        qualifiers = self._qualifiers()
        word = self.take()
        if word in ("struct", "union", "enum"):
            type_ = self._tagged(word)
        elif word == "void":
            type_ = VOID
        elif word in _BASE_WORDS:
            type_ = self._base(word)
        else:
            found = self.types.find("typedef", word) if word.isidentifier() else None
            if found is None:
                raise self.error(f"no type named {word!r}")
            type_ = found
        for qualifier in qualifiers + self._qualifiers():
            type_ = QualifiedType(qualifier, type_)
        return type_

    def _qualifiers(self) -> list[str]:
        found = []
        while self.peek() in _QUALIFIERS:
            found.append(self.take())
        return found

    def _tagged(self, kind: str) -> Type:
        name = self.take()
        found = self.types.find(kind, name) if name.isidentifier() else None
        if found is None:
            raise self.error(f"no type named '{kind} {name}'")
        return found

    def _base(self, word: str) -> Type:
        words = [word]
        while self.peek() in _BASE_WORDS:
            words.append(self.take())
        name = canonical_base(words)
        found = self.types.find("base", name)
        return found if found is not None else self._plain_base(name)

    def _plain_base(self, name: str) -> Type:
        """A base type that the debuginfo happens not to mention."""
        size = {"char": 1, "short": 2, "int": 4}.get(name.split()[0], 4)
        if name.startswith("long"):
            size = 8 if "long long" in name else self.types.pointer_size
        signed = "unsigned" not in name and name != "_Bool"
        if name in ("_Bool", "signed char", "unsigned char"):
            size = 1
        return IntType(name, size, signed, is_char=name.endswith("char"), is_bool=name == "_Bool")

    def declarator(self, base: Type, depth: int = 0) -> tuple[str, Type]:
        """``(name, type)`` of a declarator, abstract or not: ``*x[3]``, ``(*)(int)``."""
        if depth > MAX_DEPTH:
            raise self.error("declarator is nested too deep")
        while self.peek() == "*":
            self.take()
            base = PointerType(base, self.types.pointer_size)
            for qualifier in self._qualifiers():
                base = QualifiedType(qualifier, base)
        inner: Callable[[Type], tuple[str, Type]] | None = None
        name = ""
        if self.peek() == "(" and self._nested():
            self.take()
            inner = self._deferred(depth + 1)
        elif self.peek().isidentifier():
            name = self.take()
        type_ = self._suffixes(base)
        return inner(type_) if inner else (name, type_)

    def _nested(self) -> bool:
        """True if "(" opens an inner declarator rather than a parameter list."""
        ahead = TypeParser(self.text, self.types, self.position)
        ahead.take()
        word = ahead.peek()
        return word in ("*", "(") or (word.isidentifier() and not ahead.at_type())

    def _deferred(self, depth: int) -> Callable[[Type], tuple[str, Type]]:
        """Skip an inner declarator; it is parsed once its base, which follows it, is known."""
        start, level = self.position, 1
        while level:
            token = self.take()
            if not token:
                raise self.error("unbalanced '('")
            level += {"(": 1, ")": -1}.get(token, 0)
        end = self.position

        def parse(base: Type) -> tuple[str, Type]:
            parser = TypeParser(self.text[: end - 1], self.types, start)
            return parser.declarator(base, depth)

        return parse

    def _suffixes(self, base: Type) -> Type:
        counts: list[int | None] = []
        while self.peek() == "[":
            self.take()
            counts.append(None if self.peek() == "]" else self._bound())
            self.expect("]")
        for count in reversed(counts):
            base = ArrayType(base, count)
        if self.peek() == "(":
            self.take()
            base = self._parameters(base)
        return base

    def _bound(self) -> int:
        """The size of an array: a number or an enumerator."""
        word = self.take()
        if word.isidentifier():
            found = self.types.enumerator(word)
            if found is None or found[1] < 0:
                raise self.error(f"no constant {word!r}")
            return found[1]
        try:
            return int(word, 0)
        except ValueError:
            raise self.error(f"{word!r} is no size of an array") from None

    def _parameters(self, result: Type) -> Type:
        from kcrash.types.model import Parameter

        parameters, variadic = [], False
        while self.peek() not in (")", ""):
            if self.peek() == ".":
                variadic = [self.take(), self.take(), self.take()] == [".", ".", "."]
            else:
                name, type_ = self.declarator(self.base_type())
                parameters.append(Parameter(name, type_))
            if self.peek() == ",":
                self.take()
        self.expect(")")
        if len(parameters) == 1 and parameters[0].type is VOID:
            parameters = []
        return FunctionType(result, parameters, variadic=variadic)


def declarations(text: str, types: TypeNames) -> Iterator[tuple[str, Type]]:
    """``(name, type)`` of each declaration in a text of lines such as ``struct list_head modules;``."""
    parser = TypeParser(text, types)
    while parser.peek():
        yield parser.declarator(parser.base_type())
        parser.expect(";")
