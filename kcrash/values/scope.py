"""What names in expressions mean, and where expressions of a session are evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from kcrash.errors import ExpressionError, FaultReason, MemoryFault
from kcrash.memory.space import AddressSpace
from kcrash.symbols.table import Symbol, Symbols
from kcrash.types.exact import ExactTypes
from kcrash.types.model import (
    VOID,
    CompoundType,
    IntType,
    Type,
)
from kcrash.types.namespace import Types
from kcrash.values.expression import parse
from kcrash.values.unknown import DATA, TEXT
from kcrash.values.value import Value, computed

MAX_HISTORY = 100_000


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
