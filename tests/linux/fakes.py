"""A session of which only a few types and some memory exist."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from kcrash.errors import FaultReason, MemoryFault, MissingType
from kcrash.memory.space import AddressSpace
from kcrash.session import Session
from kcrash.types.model import ArrayType, CompoundType, IntType, Member, PointerType, Type, VoidType

ULONG = IntType("unsigned long", 8, False)
UCHAR = IntType("unsigned char", 1, False)
UINT = IntType("unsigned int", 4, False)
POINTER = PointerType(VoidType(), 8)


class FakeMemory(AddressSpace):
    """Memory made of pieces."""

    def __init__(self) -> None:
        super().__init__("kernel", "little", 8)
        self.pieces: dict[int, bytes] = {}

    def put(self, address: int, *words: int) -> None:
        self.pieces[address] = struct.pack(f"<{len(words)}Q", *(w & 2**64 - 1 for w in words))

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.pieces.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryFault("kernel", address, FaultReason.NOT_IN_DUMP)


def struct_type(name: str, *members: tuple[str, Type, int]) -> CompoundType:
    """A struct of (member, type, byte offset)."""
    end = max(offset + type_.size for _, type_, offset in members)
    return CompoundType("struct", name, end, [Member(n, t, 8 * o) for n, t, o in members])


def array(element: Type, count: int) -> ArrayType:
    return ArrayType(element, count)


class FakeTypes:
    """Types by their text."""

    def __init__(self, *types: CompoundType) -> None:
        self.known = {f"struct {type_.name}": type_ for type_ in types}

    def compound(self, text: str) -> CompoundType:
        if text not in self.known:
            raise MissingType(text)
        return self.known[text]

    def has(self, text: str, path: str = "") -> bool:
        return text in self.known and (not path or self.known[text].has(path))

    def offset(self, text: str, path: str) -> int:
        return self.compound(text).offset(path)

    def size(self, text: str) -> int:
        return self.compound(text).size

    def first_member(self, text: str, paths: list[str]) -> str | None:
        return next((path for path in paths if self.has(text, path)), None)

    def constant(self, name: str, default: int = 0) -> int:
        return default


class _Fake(SimpleNamespace):
    word_mask = 2**64 - 1

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        return self.cache.setdefault(key, make()) if key not in self.cache else self.cache[key]

    reading = memo
    live = False


def session(memory: FakeMemory, *types: CompoundType) -> Session:
    """What helpers take for a session."""
    arch = SimpleNamespace(byte_order="little", word_bytes=8, word_bits=64, page_size=4096, page_shift=12)
    made = _Fake(memory=memory, types=FakeTypes(*types), arch=arch, cache={})
    return cast(Session, made)
