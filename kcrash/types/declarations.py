"""Types of global variables that BTF does not carry, from a table of C declarations.

BTF describes types, functions and per-CPU variables, not other variables. The
table is kernel.h beside this file: one declaration a line, several for one name
where kernels differ; the first whose types this kernel has is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from kcrash.errors import ExpressionError
from kcrash.types.model import EnumType, Type
from kcrash.types.parse import TypeNames, TypeParser


class DeclarationSource:
    """Variables only (a TypeSource); ``types`` is where the declared types come from."""

    def __init__(self, types: TypeNames, text: str | None = None) -> None:
        self._types = types
        self._given = text

    @cached_property
    def _text(self) -> str:
        if self._given is not None:
            return self._given
        return Path(__file__).with_name("kernel.h").read_text()

    def variable(self, name: str) -> Type | None:
        """The declared type of a variable; None if it is not in the table, or its type not in this kernel."""
        pattern = rf"^[^/\n]*\b{re.escape(name)}(?:\[[^;\n]*)?;"
        for match in re.finditer(pattern, self._text, re.M):
            parser = TypeParser(match.group(0), self._types)
            try:
                declared, type_ = parser.declarator(parser.base_type())
            except ExpressionError:
                continue
            if declared == name:
                return type_
        return None

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
