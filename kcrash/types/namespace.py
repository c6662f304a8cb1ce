"""All types of a session: several sources, asked in turn, behind one name space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kcrash.errors import ExpressionError, MissingMember, MissingSymbol, MissingType
from kcrash.types.layout import Reader, require_compound
from kcrash.types.model import CompoundType, EnumType, PointerType, Type
from kcrash.types.parse import TypeParser
from kcrash.types.source import TypeSource


class Types:
    """Types by name, from the first source that knows them completely.

    ``byte_order``: "little" or "big"; ``pointer_size``: bytes; ``kernel``: the
    release, for messages about what it lacks.
    """

    def __init__(self, byte_order: str, pointer_size: int) -> None:
        self.byte_order = byte_order
        self.pointer_size = pointer_size
        self.kernel = ""
        self.sources: list[TypeSource] = []
        self._quick: list[TypeSource] = []
        #: Asked, by what shows types, for a kind and name that no source knows: it may be slow.
        self.elsewhere: Callable[[str, str], Type | None] | None = None
        #: The debuginfo of modules, by their names: also among ``sources``.
        self.modules: dict[str, TypeSource] = {}
        self._found: dict[tuple[str, str], Type | None] = {}
        self._readers: dict[tuple[str, tuple[str, ...]], Reader] = {}
        self._parsed: dict[str, Type] = {}

    def add(self, source: TypeSource, *, last_resort: bool = False, module: str = "") -> None:
        """Ask ``source`` too, after those already there.

        ``last_resort``: it is slow to say that it does not know a name (DWARF beside
        BTF), so has() does not ask it. ``module``: it is the debuginfo of that module.
        """
        if not last_resort:
            self._quick.append(source)
        self.sources.append(source)
        if module:
            self.modules[module] = source
        self._forget()

    def remove(self, source: TypeSource) -> None:
        """Ask ``source`` no longer."""
        for asked in (self.sources, self._quick):
            asked[:] = [other for other in asked if other is not source]
        self.modules = {name: other for name, other in self.modules.items() if other is not source}
        self._forget()

    def _forget(self) -> None:
        self._found.clear()
        self._parsed.clear()

    def _sources_for(self, module: str) -> list[TypeSource]:
        """All sources, that of ``module`` first: names of variables and functions are not unique."""
        own = self.modules.get(module)
        return self.sources if own is None else [own, *(s for s in self.sources if s is not own)]

    def find(self, kind: str, name: str) -> Type | None:
        """The type ``name`` of a kind ("struct", "union", "enum", "typedef", "base"), or None."""
        key = (kind, name)
        if key not in self._found:
            found = (source.find(kind, name) for source in self.sources)
            self._found[key] = next((type_ for type_ in found if type_ is not None), None)
        return self._found[key]

    def type(self, text: str) -> Type:
        """The type that a C type name stands for: ``"struct page *"``, ``"u64"``, ``"char [16]"``.

        Raises MissingType.
        """
        if text not in self._parsed:
            parser = TypeParser(text, self)
            try:
                found = parser.type_name()
                if parser.peek():
                    raise parser.error(f"unexpected {parser.peek()!r}")
            except ExpressionError as error:
                detail = "" if "no type named" in str(error) else str(error)
                raise MissingType(text, detail, self.kernel) from None
            self._parsed[text] = found
        return self._parsed[text]

    def compound(self, text: str) -> CompoundType:
        """As type(), which must be a struct or union (or a typedef of one)."""
        return require_compound(self.type(text))

    def has(self, text: str, path: str = "") -> bool:
        """True if the type exists, and the dotted member path in it.

        The question that tells kernels apart, asked often and often answered no:
        only quick sources are asked.
        """
        try:
            found = self._probe(text)
        except MissingType:
            return False
        plain = found.underlying
        return not path or (isinstance(plain, CompoundType) and plain.has(path))

    def _probe(self, text: str) -> Type:
        """As type(), from the quick sources."""
        if text in self._parsed:
            return self._parsed[text]
        kind, _blank, name = text.partition(" ")
        if kind in ("struct", "union", "enum") and name.isidentifier():
            found = (source.find(kind, name) for source in self._quick)
            if all(type_ is None for type_ in found):
                raise MissingType(text, kernel=self.kernel)
        return self.type(text)

    def offset(self, text: str, path: str) -> int:
        """Byte offset of a dotted member path in a type (``offsetof``)."""
        try:
            return self.compound(text).offset(path)
        except MissingMember as error:
            raise error.in_kernel(self.kernel) from None

    def first_member(self, text: str, paths: Sequence[str]) -> str | None:
        """The first of ``paths`` that the type has: newest form first. None if it has none."""
        return next((path for path in paths if self.has(text, path)), None)

    def size(self, text: str) -> int:
        """``sizeof`` in bytes."""
        return self.type(text).size

    def pointer_to(self, type_: Type) -> PointerType:
        """``type_ *``."""
        return PointerType(type_, self.pointer_size)

    def reader(self, text: str, *paths: str) -> Reader:
        """A decoder of the members ``paths`` of struct ``text``; worked out once."""
        key = (text, paths)
        if key not in self._readers:
            try:
                self._readers[key] = Reader(self.compound(text), paths, self.byte_order)
            except MissingMember as error:
                raise error.in_kernel(self.kernel) from None
        return self._readers[key]

    def variable(self, name: str, module: str = "") -> Type | None:
        """The type of a global variable, or None if no source knows it.

        ``module``: whose variable it is, "" for the kernel's.
        """
        found = (source.variable(name) for source in self._sources_for(module))
        return next((type_ for type_ in found if type_ is not None), None)

    def function(self, name: str, module: str = "") -> Type | None:
        """The FunctionType of a function (of a ``module``), or None."""
        found = (source.function(name) for source in self._sources_for(module))
        return next((type_ for type_ in found if type_ is not None), None)

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """The enum that declares ``name``, and the value; None if no source has it."""
        found = (source.enumerator(name) for source in self.sources)
        return next((pair for pair in found if pair is not None), None)

    def constant(self, name: str, default: int | None = None) -> int:
        """The value of an enumerator; ``default`` (or MissingSymbol) if this kernel has none."""
        found = self.enumerator(name)
        if found is not None:
            return found[1]
        if default is None:
            raise MissingSymbol(name, self.kernel)
        return default

    def names(self, kind: str) -> Iterator[str]:
        """All names of a kind, each once."""
        seen: set[str] = set()
        for source in self.sources:
            for name in source.names(kind):
                if name not in seen:
                    seen.add(name)
                    yield name
