"""Reads ELF cores for the tests, on its own: nothing here is shared with what is tested."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
NAMES = {
    ("CORE", 1): "PRSTATUS", ("CORE", 2): "FPREGSET", ("CORE", 3): "PRPSINFO", ("CORE", 6): "AUXV",
    ("CORE", 0x53494749): "SIGINFO", ("CORE", 0x46494C45): "FILE", ("LINUX", 0x202): "XSTATE",
    ("LINUX", 0x201): "IOPERM", ("LINUX", 0x205): "XSAVE_LAYOUT", ("KCRASH", 0x6B637268): "KCRASH",
}  # fmt: skip


OF_THE_PROCESS = {"PRPSINFO", "SIGINFO", "AUXV", "FILE", "XSAVE_LAYOUT", "KCRASH"}


@dataclass
class Segment:
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int


@dataclass
class Thread:
    """The notes of a thread."""

    status: bytes
    notes: dict[str, bytes] = field(default_factory=dict)
    order: str = "<"
    wide: bool = True

    @property
    def pid(self) -> int:
        return self.ids[0]

    @property
    def ids(self) -> tuple[int, ...]:
        """pid, ppid, pgrp, sid."""
        return struct.unpack_from(self.order + "4i", self.status, 32 if self.wide else 24)

    @property
    def signal(self) -> int:
        return int(struct.unpack_from(self.order + "h", self.status, 12)[0])

    @property
    def times(self) -> list[float]:
        """utime, stime, cutime, cstime in seconds."""
        parts = struct.unpack_from(self.order + ("32x8Q" if self.wide else "24x8I"), self.status, 16)
        return [parts[i] + parts[i + 1] / 1e6 for i in range(0, 8, 2)]

    @property
    def registers(self) -> dict[str, int]:
        return dict(zip(REGISTERS, struct.unpack_from("<27Q", self.status, 112), strict=True))

    @property
    def fpvalid(self) -> int:
        return int(struct.unpack_from(self.order + "i", self.status, 328)[0])


class CoreFile:
    """A core on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")
        start = self.file.read(64)
        self.order = ">" if start[5] == 2 else "<"
        self.wide = start[4] == 2
        self.word = "Q" if self.wide else "I"
        header = struct.unpack_from(f"{self.order}16sHHI3{self.word}IHHHHHH", start)
        self.ident, self.type, self.machine = header[0], header[1], header[2]
        self.shoff, self.phnum = header[6], header[10]
        if self.phnum == 0xFFFF:
            self.file.seek(self.shoff)
            self.phnum = struct.unpack_from(self.order + "I", self.file.read(64), 44 if self.wide else 28)[0]
        self.file.seek(header[5])
        self.segments = [Segment(*row) for row in self._program_headers()]

    def _program_headers(self) -> list[tuple[int, ...]]:
        if self.wide:
            rows = struct.iter_unpack(self.order + "IIQQ8xQQQ", self.file.read(56 * self.phnum))
            return list(rows)
        rows = struct.iter_unpack(self.order + "III4xIIII", self.file.read(32 * self.phnum))
        return [(kind, flags, *row, align) for kind, *row, flags, align in rows]

    @property
    def loads(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.kind == 1]

    @cached_property
    def notes(self) -> list[tuple[str, bytes]]:
        """(kind, descriptor), in order."""
        segment = self.segments[0]
        self.file.seek(segment.offset)
        data = self.file.read(segment.file_size)
        found, at = [], 0
        while at < len(data):
            namesz, descsz, kind = struct.unpack_from(self.order + "3I", data, at)
            name = data[at + 12 : at + 12 + namesz].rstrip(b"\0").decode()
            start = at + 12 + (namesz + 3 & ~3)
            found.append((NAMES.get((name, kind), f"{name}:{kind:#x}"), data[start : start + descsz]))
            at = start + (descsz + 3 & ~3)
        return found

    def note(self, kind: str) -> bytes:
        """The first note of a kind."""
        return next(data for name, data in self.notes if name == kind)

    @cached_property
    def threads(self) -> list[Thread]:
        """In their order; XSAVE_LAYOUT and KCRASH are nobody's."""
        threads: list[Thread] = []
        for kind, data in self.notes:
            if kind == "PRSTATUS":
                threads.append(Thread(data, {}, self.order, self.wide))
            elif threads and kind not in OF_THE_PROCESS:
                threads[-1].notes[kind] = data
        return threads

    def thread(self, pid: int) -> Thread:
        return next(thread for thread in self.threads if thread.pid == pid)

    @property
    def report(self) -> dict[str, Any]:
        """The KCRASH note."""
        found: dict[str, Any] = json.loads(self.note("KCRASH"))
        return found

    def files(self) -> list[tuple[int, int, int, str]]:
        """NT_FILE: (start, end, offset in pages, name)."""
        data, size = self.note("FILE"), 8 if self.wide else 4
        count, page = struct.unpack_from(f"{self.order}2{self.word}", data)
        assert page == 4096
        end = size * (2 + 3 * count)
        names = data[end:].split(b"\0")
        rows = struct.iter_unpack(f"{self.order}3{self.word}", data[2 * size : end])
        assert len(names) == count + 1
        return [(*row, name.decode()) for row, name in zip(rows, names, strict=False)]

    def auxv(self) -> list[tuple[int, int]]:
        return list(struct.iter_unpack(f"{self.order}2{self.word}", self.note("AUXV")))

    def segment_at(self, address: int) -> Segment:
        return next(s for s in self.loads if s.address <= address < s.address + s.memory_size)

    def memory(self, address: int, size: int) -> bytes:
        """Bytes of one segment's part that is in the file."""
        segment = self.segment_at(address)
        start = address - segment.address
        assert start + size <= segment.file_size, f"{address:x} is not in the file"
        self.file.seek(segment.offset + start)
        data = self.file.read(size)
        return data.ljust(size, b"\0")
