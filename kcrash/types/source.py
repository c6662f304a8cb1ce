"""What a source of types answers, and several sources asked in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from kcrash.types.model import EnumType, Type

# The name spaces of C that types are looked up in. "base" is int, long unsigned int, ...
KINDS = ("struct", "union", "enum", "typedef", "base")


class TypeSource(Protocol):
    """BTF of the kernel or of a module, DWARF, or parsed declarations."""

    def find(self, kind: str, name: str) -> Type | None:
        """The type ``name`` of a kind of KINDS, a complete one if there is any; None if unknown here."""

    def variable(self, name: str) -> Type | None:
        """The type of a global variable; None if unknown here."""

    def function(self, name: str) -> Type | None:
        """The FunctionType of a function; None if unknown here."""

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """The enum that has the constant ``name``, and its value."""

    def names(self, kind: str) -> Iterator[str]:
        """All names of a kind, for completion and searches; may be slow."""


class LazySource:
    """A source that is made when it is first asked something: ``make`` may be slow to import."""

    def __init__(self, make: Callable[[], TypeSource]) -> None:
        self._make = make
        self._made: TypeSource | None = None

    @property
    def source(self) -> TypeSource:
        """The source itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def find(self, kind: str, name: str) -> Type | None:
        """See TypeSource."""
        return self.source.find(kind, name)

    def variable(self, name: str) -> Type | None:
        """See TypeSource."""
        return self.source.variable(name)

    def function(self, name: str) -> Type | None:
        """See TypeSource."""
        return self.source.function(name)

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """See TypeSource."""
        return self.source.enumerator(name)

    def names(self, kind: str) -> Iterator[str]:
        """See TypeSource."""
        return self.source.names(kind)
