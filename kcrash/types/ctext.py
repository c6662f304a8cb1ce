"""Types as C text: ``struct list_head *``, ``char [16]``, ``int (*)(struct file *, ...)``."""

from __future__ import annotations

from kcrash.types.model import (
    ArrayType,
    CompoundType,
    EnumType,
    FunctionType,
    PointerType,
    QualifiedType,
    Type,
)

MAX_DEPTH = 32  # a hostile type section may nest for ever

# BTF and DWARF name base types as gcc does; gdb writes the shortest form.
_SHORT = {
    "short int": "short", "short unsigned int": "unsigned short",
    "long int": "long", "long unsigned int": "unsigned long",
    "long long int": "long long", "long long unsigned int": "unsigned long long",
    "__int128 unsigned": "unsigned __int128",
}  # fmt: skip


def type_name(type_: Type) -> str:
    """The type's name as gdb writes it."""
    return declare(type_, "")


def declare(type_: Type, name: str, depth: int = 0) -> str:
    """A declaration of ``name`` with this type, as gdb writes it: ``char comm[16]``."""
    if depth > MAX_DEPTH:
        return f"... {name}".strip()
    if isinstance(type_, PointerType):
        return _declare_pointer(type_, name, depth)
    if isinstance(type_, ArrayType):
        count = "" if type_.count is None else str(type_.count)
        return declare(type_.target, f"{name}[{count}]", depth + 1)
    if isinstance(type_, FunctionType):
        return declare(type_.target, f"{name or ''}({parameters_text(type_, depth)})", depth + 1)
    if isinstance(type_, QualifiedType):
        return _declare_qualified(type_, name, depth)
    return _join(base_name(type_), name)


def base_name(type_: Type) -> str:
    """``struct x``, ``enum y``, ``int``; anonymous ones as ``struct {...}``."""
    if isinstance(type_, CompoundType | EnumType):
        return f"{type_.kind} {type_.name or '{...}'}"
    return _SHORT.get(type_.name, type_.name) or type_.kind


def _declare_pointer(type_: PointerType, name: str, depth: int) -> str:
    target = type_.target
    if isinstance(target, ArrayType | FunctionType):
        return declare(target, f"(*{name})", depth + 1)
    return declare(target, f"*{name}", depth + 1)


def _declare_qualified(type_: QualifiedType, name: str, depth: int) -> str:
    qualifiers, target = _qualifiers(type_)
    if isinstance(target, PointerType):  # the pointer is qualified: int * const p
        spaced = f"* {qualifiers} {name}".rstrip()
        inner = target.target
        if isinstance(inner, ArrayType | FunctionType):
            return declare(inner, f"({spaced})", depth + 1)
        return declare(inner, spaced, depth + 1)
    return f"{qualifiers} {declare(target, name, depth + 1)}"


def _qualifiers(type_: Type) -> tuple[str, Type]:
    """All qualifiers of a type, each once and in gdb's order, and the type below them."""
    found: set[str] = set()
    for _ in range(MAX_DEPTH):
        if not isinstance(type_, QualifiedType):
            break
        found.add(type_.qualifier)
        type_ = type_.target
    order = ("const", "volatile", "restrict")
    return " ".join(sorted(found, key=lambda word: order.index(word) if word in order else 3)), type_


def parameters_text(type_: FunctionType, depth: int = 0) -> str:
    """The parameter list without parentheses: ``struct file *, int``."""
    texts = [declare(parameter.type, "", depth + 1) for parameter in type_.parameters]
    if type_.variadic:
        texts.append("...")
    return ", ".join(texts) or "void"


def _join(base: str, name: str) -> str:
    if not name:
        return base
    return f"{base} {name}"
