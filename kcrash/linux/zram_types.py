"""Layouts of zram, zsmalloc and z3fold for kernels that keep no BTF of modules: before v5.11.

Source: drivers/block/zram/zram_drv.h, zcomp.h, mm/zsmalloc.c and mm/z3fold.c of v5.10 on a 64-bit machine.
Where a build differs, an object does not start with its handle, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.types.model import ArrayType, CompoundType, EnumType, IntType, Member, PointerType, Type

_ULONG = IntType("unsigned long", 8, False)
_UINT = IntType("unsigned int", 4, False)
_USHORT = IntType("unsigned short", 2, False)
_CHAR = IntType("char", 1, True, is_char=True)


def _struct(name: str, size: int, *members: tuple[str, Type, int]) -> CompoundType:
    return CompoundType("struct", name, size, [Member(n, type_, 8 * offset) for n, type_, offset in members])


def _bits(name: str, start: int, size: int) -> Member:
    return Member(name, _UINT, start, size)


_ENTRY = _struct("zram_table_entry", 16, ("handle", _ULONG, 0), ("flags", _ULONG, 8))
_ZCOMP = _struct("zcomp", 32, ("name", PointerType(_CHAR, 8), 8))
# spinlock_t, four lists by fullness, then the size.
_CLASS = _struct("size_class", 160, ("size", _UINT, 72))
_POOL = _struct(
    "zs_pool",
    2048,
    ("name", PointerType(_CHAR, 8), 0),
    ("size_class", ArrayType(PointerType(_CLASS, 8), 255), 8),
)
_ZSPAGE = CompoundType(
    "struct", "zspage", 56, [_bits("fullness", 0, 2), _bits("class", 2, 9), _bits("magic", 14, 8)]
)
# A list, a lock, a count, a work_struct, two pointers, the CPU and three sizes, then:
_Z3FOLD = CompoundType(
    "struct",
    "z3fold_header",
    88,
    [Member("start_middle", _USHORT, 8 * 80), Member("first_num", _USHORT, 8 * 82, 2)],
)
# backing_dev: behind a semaphore, 16 counters, the size of the disk and the compressor's name.
_ZRAM = _struct(
    "zram",
    360,
    ("table", PointerType(_ENTRY, 8), 0),
    ("mem_pool", PointerType(_POOL, 8), 8),
    ("comp", PointerType(_ZCOMP, 8), 16),
    ("backing_dev", PointerType(_CHAR, 8), 352),
)
_FLAGS = EnumType(
    "zram_pageflags",
    4,
    {"ZRAM_LOCK": 24, "ZRAM_SAME": 25, "ZRAM_WB": 26, "ZRAM_UNDER_WB": 27, "ZRAM_HUGE": 28, "ZRAM_IDLE": 29},
)
_STRUCTS = {type_.name: type_ for type_ in (_ENTRY, _ZCOMP, _CLASS, _POOL, _ZSPAGE, _ZRAM, _Z3FOLD)}


class ZramDeclarations:
    """The layouts as a TypeSource, to be asked after every other one."""

    def find(self, kind: str, name: str) -> Type | None:
        """See TypeSource."""
        return _STRUCTS.get(name) if kind == "struct" else None

    def variable(self, name: str) -> Type | None:
        """None."""
        return None

    def function(self, name: str) -> Type | None:
        """None."""
        return None

    def enumerator(self, name: str) -> tuple[EnumType, int] | None:
        """See TypeSource."""
        found = _FLAGS.enumerators.get(name)
        return None if found is None else (_FLAGS, found)

    def names(self, kind: str) -> Iterator[str]:
        """The structs."""
        return iter(_STRUCTS if kind == "struct" else ())
