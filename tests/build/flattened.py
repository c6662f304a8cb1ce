"""makedumpfile's flattened form of a file."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

END = pack(">qq", -1, -1)


def flattened(records: Iterable[tuple[int, bytes]], end: bool = True) -> bytes:
    """A flattened file of records ``(offset, data)``, in that order."""
    head = (b"makedumpfile\0\0\0\0" + pack(">qq", 1, 1)).ljust(4096, b"\0")
    body = b"".join(pack(">qq", offset, len(data)) + data for offset, data in records)
    return head + body + (END if end else b"")


def in_records(data: bytes, size: int) -> list[tuple[int, bytes]]:
    """``data`` cut into records of ``size`` bytes."""
    return [(at, data[at : at + size]) for at in range(0, len(data), size)]
