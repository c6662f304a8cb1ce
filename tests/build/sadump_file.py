"""A writer of sadump's files: single partition, disk set, media backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from struct import pack, pack_into
from typing import BinaryIO

from tests.build.memory_images import Ranges
from tests.build.pages import pages_of

SYSTEM, SET = bytes(range(16)), bytes(range(16, 32))
TIME = pack("<H6BIhBx", 2023, 11, 14, 22, 13, 20, 0, 250_000_000, 0, 0)
REGISTERS = ("r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
             "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")  # fmt: skip


@dataclass
class Sadump:
    """A dump to be written. ``media``: a media backup; ``excluded``: page frames of RAM that are not
    in it; ``max_mapnr``: one more than the highest page frame."""

    max_mapnr: int
    cpus: Sequence[Mapping[str, int]] = ()
    block_size: int = 4096
    version: int = 1
    media: bool = False
    excluded: frozenset[int] = frozenset()
    time: bytes = field(default=TIME)

    def part_header(self, disk: int, used: int) -> bytes:
        """The block with which every file (of a media backup: the second block) begins."""
        head = pack("<8s4I64x16s16s16s16sI4xQ", b"sadump\0\0", 1, 0, 0, 0, SYSTEM, SET,
                    bytes([disk]) * 16, self.time, disk, used)  # fmt: skip
        number = 1234567
        while len(head) < self.block_size:
            head += pack("<I", number)
            number = 11 * (number + 7) & 0xFFFFFFFF
        return head

    @property
    def bitmap_blocks(self) -> int:
        return -(-self.max_mapnr // (8 * self.block_size))

    def dump_header(self) -> bytes:
        """Header and sub header; the bitmaps follow."""
        counts = (1, 0, self.block_size, 0, self.sub_blocks, self.bitmap_blocks, self.bitmap_blocks,
                  min(self.max_mapnr, 0xFFFFFFFF), 0, 0, 0, 0, len(self.cpus))  # fmt: skip
        head = pack(
            "<8sI4x16s13I4x4Q", b"sadump\0\0", self.version, self.time, *counts, self.max_mapnr, 0, 0, 0
        )
        states = b"".join(map(state, self.cpus))
        sub = pack("<I", len(states)) + bytes(16 * len(self.cpus)) + states
        return head.ljust(self.block_size, b"\0") + sub.ljust(self.sub_blocks * self.block_size, b"\0")

    @property
    def sub_blocks(self) -> int:
        return -(-(4 + len(self.cpus) * 1040) // self.block_size) or 1

    def write(self, outs: Sequence[BinaryIO], ranges: Ranges, disk_pages: int = 0) -> None:
        """The file, or one a disk: ``disk_pages`` on each but the last."""
        many, block = len(outs) > 1, self.block_size
        ram, dumped = bytearray(self.bitmap_blocks * block), bytearray(self.bitmap_blocks * block)
        front = bytes(0)
        if self.media:
            front = (SYSTEM + SET + self.time + bytes([1, 0, 0, 1])).ljust(4096, b"\0")
        if many:
            volumes = b"".join(bytes([disk + 1]) * 16 + bytes(16) for disk in range(len(outs)))
            disk_set = pack("<IIQ", 1, len(outs), 0) + volumes
            front += self.part_header(1, 0) + disk_set.ljust(block, b"\0")
        else:
            front += self.part_header(0, 0)
        data = len(front) + (1 + self.sub_blocks + 2 * self.bitmap_blocks) * block
        for number, out in enumerate(outs):
            out.seek(block if number else data)
        for pfn in self.excluded:
            ram[pfn >> 3] |= 0x80 >> (pfn & 7)
        for count, (physical, page) in enumerate(pages_of(ranges, block)):
            pfn = physical // block
            for bits in (ram, dumped):
                bits[pfn >> 3] |= 0x80 >> (pfn & 7)
            outs[min(count // disk_pages, len(outs) - 1) if many else 0].write(page)
        for number, out in enumerate(outs):
            used = out.tell()
            out.seek(0)
            if number:
                out.write(self.part_header(number + 1, used))
            else:
                out.write(front + self.dump_header() + ram + dumped)
                out.seek((4096 if self.media else 0) + 160)
                out.write(pack("<Q", used))

    def to_bytes(self, ranges: Ranges, disks: int = 1, disk_pages: int = 0) -> list[bytes]:
        """The files."""
        outs = [BytesIO() for _ in range(disks)]
        self.write(outs, ranges, disk_pages)
        return [out.getvalue() for out in outs]


def state(registers: Mapping[str, int]) -> bytes:
    """struct sadump_smram_cpu_state, as far as kcrash reads it."""
    out = bytearray(1024)
    pack_into("<I", out, 472, registers.get("idt_base", 0) >> 32)
    pack_into("<I", out, 576, registers.get("cr4", 0) & 0xFFFFFFFF)
    pack_into("<I", out, 660, registers.get("idt_base", 0) & 0xFFFFFFFF)
    pack_into("<16Q", out, 796, *(registers.get(name, 0) for name in REGISTERS))
    pack_into("<6I", out, 936, *(registers.get(name, 0) for name in ("es", "cs", "ss", "ds", "fs", "gs")))
    pack_into("<5Q", out, 984, *(registers.get(name, 0) for name in ("rip", "efer", "rflags", "cr3", "cr0")))
    return bytes(out)
