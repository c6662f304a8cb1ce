"""``whatis``: the definition of a type, the type of a symbol or expression, a search for structs."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands._structs import (
    Layout,
    definition_text,
    layout_of,
    member_offset_lines,
    offsets_text,
    size_text,
)
from kcrash.commands.base import (
    Arguments,
    Column,
    Context,
    Flag,
    Item,
    Option,
    Raw,
    Record,
    Table,
    UsageError,
    command,
)
from kcrash.commands.struct import definition_data
from kcrash.errors import CommandError, ExpressionError, KcrashError
from kcrash.types.btf import BtfSource
from kcrash.types.ctext import declare
from kcrash.types.definition import enum_lines, typedef_lines
from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FunctionType,
    IntType,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
)
from kcrash.types.namespace import Types
from kcrash.values.scope import Scope, scope_of
from kcrash.values.unknown import UnknownType

MAX_DEPTH = 16


def size_range(text: str) -> tuple[int, int]:
    """``64`` or ``64-128``, decimal or with 0x."""
    low, dash, high = text.partition("-")
    first = int(low, 0)
    return first, int(high, 0) if dash else first


@command(
    "whatis",
    summary="data or type information",
    arguments=[
        Flag("-o", "offsets of the members"),
        Option("-r", "size|range", "find structs of this size, or of a range of sizes: low-high",
               parse=size_range),
        Option("-m", "member", "find structs that hold this type or a pointer to it; part of a name will do"),
        Raw("name", "a struct, union, enum, typedef, symbol or expression",
            "struct | union | typedef | symbol", required=False, completes="type"),
    ],
    synopsis=("[-o] struct | union | typedef | symbol", "[-r size|range] [-m member]"),
    description="""
Shows the definition of a type, or the declaration of a symbol, or the type of an
expression. -r and -m search all structs and unions; with -m, what is embedded in
them counts too.""",
    examples=[
        ("A struct:", "whatis linux_binfmt"),
        ("A function:", "whatis schedule"),
        ("Structs of 192 to 256 bytes that hold a list_head:", "whatis -r 192-256 -m list_head"),
    ],
)  # fmt: skip
def whatis(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    if args.r or args.m:
        if args.name:
            raise UsageError(f"-r and -m take no name: {args.name}")
        yield _found(context.session.types, args.r, args.m)
        return
    if not args.name:
        raise UsageError("missing argument: struct | union | typedef | symbol")
    yield from _described(context, str(args.name).strip(), bool(args.o))


def _described(context: Context, text: str, offsets: bool) -> Iterator[Item]:
    scope = scope_of(context.session)
    kind, _blank, rest = text.partition(" ")
    if kind in ("struct", "union", "enum"):
        if not rest.strip(" *"):
            raise UsageError(f"missing argument: the name of the {kind}")
        yield from _tagged(context, scope, kind, rest.strip(" *"), offsets)
        return
    name, radix = text.partition(".")[0], context.settings.radix
    found = scope.types.find("enum", text) or _compound_or_typedef(context, name)
    if isinstance(found, TypedefType) and not isinstance(found.underlying, CompoundType):
        if "." not in text:
            yield from _typedef(found)
            return
    elif found is not None and context.session.symbols.find(name) is None:
        yield from _type(context, found, text, offsets, radix)
        return
    yield from _symbol_or_expression(context, scope, text, found, offsets)


def _compound_or_typedef(context: Context, name: str) -> Type | None:
    """A struct, union or typedef; of the kernel, or else of a module."""
    try:
        layout = layout_of(context.session, name) if name.isidentifier() else None
    except CommandError:
        return scope_of(context.session).types.find("typedef", name)
    return None if layout is None else layout.typedef or layout.type


def _tagged(context: Context, scope: Scope, kind: str, name: str, offsets: bool) -> Iterator[Item]:
    """``struct name``, ``union name.member``, ``enum name``."""
    if kind == "enum":
        found = scope.types.find("enum", name)
        if not isinstance(found, EnumType):
            raise CommandError(f"cannot resolve: enum {name}")
        yield _enum(found)
        return
    try:
        layout = layout_of(context.session, name, kind)
    except CommandError:
        raise CommandError(f"cannot resolve: {kind} {name}") from None
    yield from _layout(layout, offsets, context.settings.radix)


def _type(context: Context, found: Type, text: str, offsets: bool, radix: int) -> Iterator[Item]:
    if isinstance(found, EnumType):
        yield _enum(found)
    else:
        yield from _layout(layout_of(context.session, text), offsets, radix)


def _layout(layout: Layout, offsets: bool, radix: int) -> Iterator[Item]:
    for path in layout.members:
        data = {"type": layout.full_name, "member": path, "offset": layout.select(path).member.offset}
        yield Record("member", data, member_offset_lines(layout, path, radix, None))
    if not layout.members:
        lines = offsets_text(layout, radix) if offsets else definition_text(layout)
        yield Record("definition", definition_data(layout), [*lines, size_text(layout, radix)])


def _enum(enum: EnumType) -> Item:
    data = {"type": f"enum {enum.name}", "size": enum.size, "constants": dict(enum.enumerators)}
    return Record("enum", data, enum_lines(enum))


def _typedef(typedef: TypedefType) -> Iterator[Item]:
    lines, plain = typedef_lines(typedef), typedef.underlying
    if isinstance(plain, IntType) and plain.is_bool:
        lines = [plain.name]  # crash shows this one as an expression's type
    elif not isinstance(plain, EnumType):
        lines.append(f"SIZE: {typedef.size}")
    data = {"type": typedef.name, "size": typedef.size, "is": str(typedef.target)}
    yield Record("typedef", data, lines)


def _symbol_or_expression(
    context: Context, scope: Scope, text: str, found: Type | None, offsets: bool
) -> Iterator[Item]:
    base = scope.types.find("base", text)
    try:
        named = base or scope.types.type(text)
    except KcrashError:
        named = None
    if named is not None and context.session.symbols.find(text) is None and found is None:
        yield Record("type", {"type": str(named), "size": named.size}, f"SIZE: {named.size}")
        return
    yield _declaration(scope, text, context.session.symbols.find(text) is not None)


def _declaration(scope: Scope, text: str, is_symbol: bool) -> Item:
    """``struct task_struct init_task;`` of a symbol, the type alone of an expression."""
    try:
        type_ = scope.type_of(text)
    except ExpressionError as error:
        why = "" if text.isidentifier() else f": {error}"
        raise CommandError(f"cannot resolve: {text}{why}") from None
    if isinstance(type_, UnknownType):
        raise CommandError(f"cannot resolve: {text}: no source says what type it has")
    shown = f"{declare(type_, text)};" if is_symbol else str(type_)
    return Record("declaration", {"name": text, "type": str(type_), "size": type_.size}, shown)


# -- searches


COLUMNS = (Column("size", "SIZE", 0, ">"), Column("type", "TYPE", gap="  "))


def _found(types: Types, sizes: tuple[int, int] | None, member: str | None) -> Table:
    """The structs and unions of a size that hold a member of a type."""
    rows = sorted(_matches(types, sizes, member))
    width = max((len(str(size)) for size, _name in rows), default=4)
    columns = (Column("size", "SIZE", max(4, width), ">"), COLUMNS[1])
    return Table(columns, rows, kind="type", empty="(none found)")


def _matches(types: Types, sizes: tuple[int, int] | None, member: str | None) -> Iterator[tuple[int, str]]:
    holds = _Holds(member) if member else None
    seen: set[tuple[str, str]] = set()
    for found in _compounds(types):
        key = (found.kind, found.name)
        if not found.size or key in seen or (sizes and not sizes[0] <= found.size <= sizes[1]):
            continue
        if holds is None or holds(found):
            seen.add(key)
            yield found.size, found.name


def _compounds(types: Types) -> Iterator[CompoundType]:
    """All structs and unions; BTF has them all at hand."""
    quick = [source for source in types.sources if isinstance(source, BtfSource)]
    for source in quick:
        yield from source.compounds()
    if not quick:
        for kind in ("struct", "union"):
            for name in types.names(kind):
                found = types.find(kind, name)
                if isinstance(found, CompoundType):
                    yield found


class _Holds:
    """Whether a struct, or what is embedded in it, has a member whose type's name holds a word."""

    def __init__(self, word: str) -> None:
        self.word = word
        self._known: dict[int, tuple[Type, bool]] = {}

    def __call__(self, compound: CompoundType, depth: int = 0) -> bool:
        known = self._known.get(id(compound))
        if known is None:
            known = self._known[id(compound)] = (compound, False)
            held = any(self._is_held(member.type, depth) for member in compound.members)
            self._known[id(compound)] = known = (compound, held)
        return known[1]

    def _is_held(self, type_: Type, depth: int) -> bool:
        while isinstance(type_, PointerType | ArrayType | QualifiedType):
            if isinstance(type_, PointerType) and isinstance(type_.target, FunctionType):
                return False
            pointed = isinstance(type_, PointerType)
            type_ = type_.target
            if pointed:
                return self.word in str(type_)
        if self.word in str(type_):
            return True
        plain = type_.underlying
        return isinstance(plain, CompoundType) and depth < MAX_DEPTH and self(plain, depth + 1)
