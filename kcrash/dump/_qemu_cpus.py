"""CPUs in QEMU's migration streams: registers out of the sections named "cpu".

The sections hold fields without names or sizes; the JSON at the end of the stream (QEMU 2.3 and later:
migration/savevm.c, qemu_savevm_state_complete_precopy()) lists them. target/i386/machine.c,
vmstate_x86_cpu, for what they are called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kcrash.dump.source import Source

TAIL = 64 << 20  # bytes of device state looked at
MAX_CPUS = 4096
MAX_FIELDS = 1 << 16
MAX_BYTES = 1 << 20  # of one field
EM_386, EM_X86_64 = 3, 62
_JSON = re.compile(rb'\x06(....)\{"', re.DOTALL)
_CPU = re.compile(rb"\x04....\x03cpu(....)....", re.DOTALL)

# The order of env.regs and env.segs: target/i386/cpu.h, R_EAX and R_ES on.
REGS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
# Others: the field, the register.
PLAIN = {
    "env.eip": "rip",
    "env.eflags": "rflags",
    "env.cr[0]": "cr0",
    "env.cr[2]": "cr2",
    "env.cr[3]": "cr3",
    "env.cr[4]": "cr4",
    "env.efer": "efer",
    "env.kernelgsbase": "kernel_gs_base",
}
TABLES = {"env.gdt": "gdt_base", "env.idt": "idt_base"}
SEGMENT_BASE = 4  # struct segment: u32 selector, u64 base, u32 limit, u32 flags


@dataclass
class Devices:
    """What the devices' state tells of the CPUs."""

    cpus: list[Mapping[str, int]] = field(default_factory=list)
    nr_cpus: int = 0
    machine: int | None = None
    word_bits: int = 64
    byte_order: str = "little"


def read_devices(source: Source, at: int) -> Devices:
    """The CPUs in the device state that starts at ``at``; none where nothing describes it."""
    tail = source.read_at(at, min(source.size - at, TAIL))
    sections = {int.from_bytes(m[1], "big"): m.end() for m in _CPU.finditer(tail)}
    found = Devices(nr_cpus=min(len(sections), MAX_CPUS))
    for device in _devices(tail):
        number = device.get("instance_id")
        if device.get("name") != "cpu" or number not in sections or len(found.cpus) >= MAX_CPUS:
            continue
        fields = list(_fields(device))
        registers = _registers(fields, tail[sections[number] :][:MAX_BYTES])
        if registers:
            found.cpus.append(registers)
            found.machine = EM_X86_64 if ("env.regs", 8, 16) in fields else EM_386
    if found.machine == EM_386:
        found.word_bits = 32
    return found


def _devices(tail: bytes) -> Iterator[dict[str, Any]]:
    """The descriptions of devices: a JSON text that fills the rest of the stream."""
    for match in _JSON.finditer(tail):
        size = int.from_bytes(match[1], "big")
        if match.end() - 2 + size > len(tail):
            continue
        try:
            text = json.loads(tail[match.end() - 2 :][:size])
        except (ValueError, RecursionError):
            continue
        devices = text.get("devices") if isinstance(text, dict) else None
        yield from (device for device in devices or () if isinstance(device, dict))
        return


def _fields(device: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """``(name, bytes of an element, elements)`` of each field, in order; ends where it makes no sense."""
    fields = device.get("fields")
    for told in fields[:MAX_FIELDS] if isinstance(fields, list) else ():
        if not isinstance(told, dict):
            return
        name, size, count = told.get("name"), told.get("size"), told.get("array_len", 1)
        if not (isinstance(name, str) and isinstance(size, int) and isinstance(count, int)):
            return
        if size < 0 or count < 0 or size * count > MAX_BYTES:
            return
        yield name, size, count


def _registers(fields: list[tuple[str, int, int]], data: bytes) -> dict[str, int]:
    """The registers of an x86 CPU whose section is ``data``; nothing if it is another one."""
    found: dict[str, int] = {}
    at = 0
    for name, size, count in fields:
        elements = [data[at + index * size : at + (index + 1) * size] for index in range(min(count, 64))]
        if name == "env.regs":
            found |= zip(REGS, map(_number, elements), strict=False)
        elif name in PLAIN:
            found[PLAIN[name]] = _number(elements[0]) if elements else 0
        elif name in TABLES:
            found[TABLES[name]] = _base(elements)
        elif name == "env.segs":
            found |= zip(SEGMENTS, (_number(element[:4]) for element in elements), strict=False)
            found |= {"fs_base": _base(elements[4:]), "gs_base": _base(elements[5:])}
        at += size * count
    return found if "rax" in found else {}


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _base(elements: list[bytes]) -> int:
    """The base of the first segment of several."""
    return _number(elements[0][SEGMENT_BASE:-8]) if elements and len(elements[0]) > 12 else 0
