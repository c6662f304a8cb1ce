"""Reads ELF32 cores for the tests, on its own."""

from __future__ import annotations

import struct
from pathlib import Path

REGISTERS = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs",
    "eflags", "esp", "ss",
)  # fmt: skip


class Core32:
    """An i386 core: the first thread's registers, and memory."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:6] == b"\x7fELF\x01\x01"
        header = struct.unpack_from("<HHIIIIIHHH", self.data, 16)
        self.machine, at, count = header[1], header[4], header[9]
        # type, offset, virtual and physical address, bytes in the file and in memory, flags, alignment
        self.segments = list(struct.iter_unpack("<8I", self.data[at : at + 32 * count]))

    @property
    def registers(self) -> dict[str, int]:
        at = self.segments[0][1]
        name, size, kind = struct.unpack_from("<3I", self.data, at)
        assert (name, size, kind) == (5, 144, 1)
        words = struct.unpack_from("<17I", self.data, at + 20 + 72)
        return dict(zip(REGISTERS, words, strict=True))

    def memory(self, address: int, size: int) -> bytes:
        for _, offset, start, _, in_file, *_rest in self.segments[1:]:
            if start <= address and address + size <= start + in_file:
                return self.data[offset + address - start :][:size]
        raise LookupError(f"{address:x} is not in the file")
