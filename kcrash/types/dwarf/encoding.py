"""Numbers and strings as DWARF writes them, and how broken ones are reported."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from kcrash.errors import BadFormat

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Malformed(ValueError):
    """The DWARF data contradicts itself; becomes BadFormat where the file's name is known."""


def guarded(method: _Function) -> _Function:
    """Let a method of an object with a ``file`` report broken debug info as BadFormat.

    Reading past the end of a section is an IndexError or a struct.error of the
    buffer: checking before each of millions of reads would double their cost.
    """

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (Malformed, IndexError, struct.error, OverflowError) as error:
            raise BadFormat(self.file, f"bad debug info: {error}") from None

    return cast(_Function, wrapper)


def uleb(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned LEB128 and the position behind it (DWARF 5, section 7.6)."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value = byte & 0x7F
    shift = 7
    while shift < 70:  # more would not fit in 64 bits, and a run of 0x80 must not grow without bound
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise Malformed(f"a LEB128 number of more than ten bytes at {position:#x}")


def sleb(data: memoryview, position: int) -> tuple[int, int]:
    """A signed LEB128 and the position behind it (DWARF 5, section 7.6)."""
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value &= 0xFFFFFFFFFFFFFFFF if shift > 64 else (1 << shift) - 1
            sign = 1 << min(shift, 64) - 1
            return (value ^ sign) - sign, position
    raise Malformed(f"a LEB128 number of more than ten bytes at {position:#x}")


def string_end(data: memoryview, position: int) -> int:
    """Position of the NUL that ends the string at ``position``."""
    step = 64
    while position < len(data):
        found = bytes(data[position : position + step]).find(0)
        if found >= 0:
            return position + found
        position += step
        step = 4096
    raise Malformed(f"a string without end at {position:#x}")


def string_at(data: memoryview, position: int) -> str:
    """The NUL-terminated string at ``position``."""
    return str(data[position : string_end(data, position)], "utf-8", "replace")


def initial_length(data: memoryview, position: int, order: str) -> tuple[int, int, int]:
    """A unit's length, its offset size (4 or 8) and the position behind it (DWARF 5, section 7.4)."""
    length = struct.unpack_from(order + "I", data, position)[0]
    if length < 0xFFFFFFF0:
        return length, 4, position + 4
    if length != 0xFFFFFFFF:
        raise Malformed(f"a reserved unit length at {position:#x}")
    return struct.unpack_from(order + "Q", data, position + 4)[0], 8, position + 12
