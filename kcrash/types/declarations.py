"""Types of global variables that BTF does not carry, from a table of C declarations.

BTF describes types, functions and per-CPU variables, not other variables. The
table is kernel.h beside this file: one declaration a line, several for one name
where kernels differ. The first whose types this kernel has is taken, and, of a
line that says ``// with struct NAME.MEMBER``, that member too. Array bounds may be
enumerators. An array without bounds is as long as its symbol. ``struct { a, b } x;``
is the struct without a name whose members are just those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from kcrash.errors import ExpressionError
from kcrash.types.model import ArrayType, CompoundType, EnumType, IntType, Type
from kcrash.types.parse import TypeNames, TypeParser

_UNNAMED = re.compile(r"struct \{ ([\w, ]+) \} (.*)")
_CONDITION = re.compile(r"// with struct (\w+)\.([\w.]+)")


class DeclarationSource:
    """Variables only (a TypeSource); ``types`` is where the declared types come from.

    ``size_of``: bytes of a variable by its symbol, 0 if that does not tell. :attr:`unnamed`
    finds the struct without a name that has just the given members.
    """

    def __init__(
        self,
        types: TypeNames,
        text: str | None = None,
        size_of: Callable[[str], int] = lambda name: 0,
    ) -> None:
        self._types = types
        self.unnamed: Callable[[Sequence[str]], Type | None] = lambda members: None
        self._given = text
        self._size_of = size_of

    @cached_property
    def _text(self) -> str:
        if self._given is not None:
            return self._given
        return Path(__file__).with_name("kernel.h").read_text()

    def variable(self, name: str) -> Type | None:
        """The declared type of a variable; None if it is not in the table, or its type not in this kernel."""
        pattern = rf"^([^/\n]*\b{re.escape(name)}(?:\[[^;\n]*)?;)(.*)$"
        for match in re.finditer(pattern, self._text, re.M):
            if not self._holds(match[2]):
                continue
            try:
                declared, type_ = self._parsed(match[1])
            except ExpressionError:
                continue
            if declared == name:
                return self._completed(name, type_)
        return None

    def _parsed(self, line: str) -> tuple[str, Type]:
        """The name and type of a declaration. Raises ExpressionError if this kernel has no such type."""
        unnamed = _UNNAMED.match(line)
        parser = TypeParser(unnamed[2] if unnamed else line, self._types)
        if unnamed is None:
            return parser.declarator(parser.base_type())
        base = self.unnamed(unnamed[1].split(", "))
        if base is None:
            raise ExpressionError("no struct has these members")
        return parser.declarator(base)

    def _holds(self, comment: str) -> bool:
        condition = _CONDITION.search(comment)
        if condition is None:
            return True
        found = self._types.find("struct", condition[1])
        return isinstance(found, CompoundType) and found.has(condition[2])

    def _completed(self, name: str, type_: Type) -> Type:
        """An array without bounds with those of its symbol; text ends by itself."""
        if not isinstance(type_, ArrayType) or type_.count is not None or _is_text(type_.target):
            return type_
        count = self._size_of(name) // type_.target.size if type_.target.size else 0
        return ArrayType(type_.target, count) if count else type_

    def find(self, kind: str, name: str) -> Type | None:
        """Nothing: the table declares variables only."""
        return None

    def function(self, name: str) -> Type | None:
        """Nothing: BTF has the functions."""
        return None

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """Nothing."""
        return None

    def names(self, kind: str) -> Iterator[str]:
        """Nothing."""
        return iter(())


def _is_text(type_: Type) -> bool:
    plain = type_.underlying
    return isinstance(plain, IntType) and plain.is_char
