"""Writers of VMware's files: .vmss with the memory inside or beside it, debug.guest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from struct import pack
from typing import BinaryIO

from tests.build.memory_images import Ranges

PAGE = 4096
GPREGS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
PT_REGS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
           "rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss")  # fmt: skip


def tag(name: str, data: bytes, *indices: int) -> bytes:
    """A value."""
    head = pack("<H", len(name) << 8 | len(indices) << 6 | len(data)) + name.encode()
    return head + pack(f"<{len(indices)}I", *indices) + data


def block(name: str, data: bytes, *indices: int, pad: int = 0) -> bytes:
    """A block."""
    head = pack("<H", len(name) << 8 | len(indices) << 6 | 63) + name.encode()
    return (
        head
        + pack(f"<{len(indices)}I", *indices)
        + pack("<QQH", len(data), len(data), pad)
        + bytes(pad)
        + data
    )


def write_vmss(
    out: BinaryIO,
    ranges: Sequence[tuple[int, bytes | memoryview]],
    cpus: Sequence[Mapping[str, int]] = (),
    *,
    vmem: BinaryIO | None = None,
    blocks: bool = False,
) -> None:
    """A vmss; the memory in it, or in ``vmem``. ``blocks``: registers as newer releases write them."""
    cpu = tag("cpu:numVCPUs", pack("<I", len(cpus)))
    for number, registers in enumerate(cpus):
        cpu += _blocks(number, registers) if blocks else _values(number, registers)
    memory = tag("align_mask", pack("<I", 0xFFFF)) + tag("regionsCount", pack("<I", len(ranges)))
    page = 0
    for number, (start, data) in enumerate(ranges):
        memory += tag("regionPageNum", pack("<I", page), number)
        memory += tag("regionPPN", pack("<I", start // PAGE), number)
        memory += tag("regionSize", pack("<I", len(data) // PAGE), number)
        page += len(data) // PAGE
    groups = {"Checkpoint": tag("fileversion", pack("<I", 8)), "cpu": cpu, "memory": memory}
    at = 12 + 80 * len(groups)
    table = b""
    for name, body in groups.items():
        inside = page * PAGE if name == "memory" and vmem is None else 0
        table += pack("<64sQQ", name.encode(), at, len(body) + 2 + inside)
        at += len(body) + 2
    out.write(pack("<III", 0xBED2BED2, 8, len(groups)) + table)
    for name, body in groups.items():
        out.write(body)
        if name == "memory":
            _write_memory(out, vmem, ranges, page * PAGE)
        out.write(bytes(2))


def _write_memory(out: BinaryIO, vmem: BinaryIO | None, ranges: Ranges, size: int) -> None:
    if vmem is None:
        out.write(
            pack("<H", 6 << 8 | 2 << 6 | 63) + b"Memory" + pack("<IIQQH", 0, 0, size, size, 5) + bytes(5)
        )
    for _, data in ranges:
        (out if vmem is None else vmem).write(data)


def _values(cpu: int, registers: Mapping[str, int]) -> bytes:
    out = b"".join(tag(name, pack("<Q", registers.get(name, 0)), cpu) for name in (*GPREGS, "rip"))
    out += tag("eflags", pack("<I", registers.get("rflags", 0)), cpu)
    out += b"".join(tag("CR64", pack("<Q", registers.get(f"cr{n}", 0)), cpu, n) for n in range(5))
    idt = registers.get("idt_base", 0)
    return (
        out + tag("IDTR", pack("<I", idt & 0xFFFFFFFF), cpu, 1) + tag("IDTR", pack("<I", idt >> 32), cpu, 2)
    )


def _blocks(cpu: int, registers: Mapping[str, int]) -> bytes:
    out = block("gpregs", pack("<16Q", *(registers.get(name, 0) for name in GPREGS)), cpu, pad=3)
    out += tag("rip", pack("<Q", registers.get("rip", 0)), cpu)
    out += tag("eflags", pack("<I", registers.get("rflags", 0)), cpu)
    out += block("CR64", pack("<9Q", *(registers.get(f"cr{n}", 0) for n in range(9))), cpu)
    return out + block("IDTR", pack("<HQ", 0xFFF, registers.get("idt_base", 0)), cpu)


def write_guest(
    out: BinaryIO,
    vmem: BinaryIO,
    ranges: Sequence[tuple[int, bytes | memoryview]],
    cpus: Sequence[Mapping[str, int]] = (),
) -> None:
    """A debug.guest and its debug.vmem; the ranges begin at 0 and leave at most two holes."""
    holes = [
        (start + len(data), following - start - len(data))
        for (start, data), (following, _) in pairwise(ranges)
    ]
    start, data = ranges[-1]
    pages = sum(len(data) for _, data in ranges) // PAGE
    flat = [number // PAGE for hole in [*holes, (0, 0), (0, 0)][:2] for number in hole]
    out.write(
        pack("<IIBBIQQQII4Q", 4, len(cpus), 1, 0, 0, 0, start + len(data) - 1, pages, 0, len(holes), *flat)
    )
    for registers in cpus:
        out.write(_state(registers))
    out.write(bytes(PAGE * len(cpus)))
    for _, data in ranges:
        vmem.write(data)


def _state(registers: Mapping[str, int]) -> bytes:
    control: Iterable[int] = (registers.get(f"cr{number}", 0) for number in (0, 2, 3, 4))
    state = pack("<I3Q", *control) + bytes(80) + pack("<Q", registers.get("idt_base", 0)) + bytes(42)
    return state + pack("<21Q", *(registers.get(name, 0) for name in PT_REGS)) + bytes(65)
