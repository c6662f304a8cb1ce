"""A writer of QEMU's migration streams and of libvirt's save files around them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from struct import pack
from typing import Any, BinaryIO

from tests.build.memory_images import Ranges
from tests.build.pages import is_zero, pages_of

PAGE = 4096
RAM, CPU = 2, 9
REGS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
PLAIN = {"rip": "env.eip", "rflags": "env.eflags"} | {f"cr{n}": f"env.cr[{n}]" for n in (0, 2, 3, 4)}
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")


def _text(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


def _footer(number: int) -> bytes:
    return b"\x7e" + pack(">I", number)


def offset_of(physical: int, below: int = 0xC0000000) -> int:
    """Where a physical address lies in the one block of a PC's RAM."""
    return physical - (1 << 32) + below if physical >= 1 << 32 else physical


def write_stream(
    out: BinaryIO,
    ranges: Ranges,
    size: int,
    cpus: Sequence[Mapping[str, int]] = (),
    *,
    machine: str = "pc-i440fx-7.2",
    packed: bool = False,
    description: bool = True,
) -> None:
    """A stream. ``size``: bytes of RAM; ``packed``: pages compressed one by one, as the capability
    "compress" did; ``description``: with the JSON at the end."""
    out.write(b"QEVM" + pack(">I", 3) + b"\x07" + pack(">I", len(machine)) + machine.encode())
    out.write(b"\x01" + pack(">I", RAM) + _text("ram") + pack(">II", 0, 4))
    out.write(pack(">Q", size + PAGE | 4) + _text("pc.ram") + pack(">Q", size) + _text("pc.bios"))
    out.write(pack(">QQ", PAGE, 0x10) + _footer(RAM))
    out.write(b"\x02" + pack(">I", RAM) + pack(">Q", 2) + _text("pc.bios") + b"\xff")
    first = True
    for physical, page in pages_of(ranges, PAGE):
        flag = 2 if is_zero(page) else 0x100 if packed else 8
        out.write(pack(">Q", offset_of(physical) | flag | (0 if first else 0x20)))
        out.write(_text("pc.ram") if first else b"")
        out.write({2: b"\0", 8: page}.get(flag) if flag != 0x100 else _counted(zlib.compress(page)))  # type: ignore[arg-type]
        first = False
    out.write(pack(">Q", 0x10) + _footer(RAM) + b"\x03" + pack(">IQ", RAM, 0x10) + _footer(RAM))
    _write_devices(out, cpus, description)


def _counted(data: bytes) -> bytes:
    return pack(">I", len(data)) + data


def write_mapped_ram(
    out: BinaryIO, ranges: Ranges, size: int, cpus: Sequence[Mapping[str, int]] = (), start: int = 0
) -> None:
    """A mapped-ram stream that starts at ``start``; its pages lie at places of their own."""
    bitmap = bytearray(-(-size // PAGE // 8))
    name = "configuration/capabilities"
    head = b"QEVM" + pack(">I", 3) + b"\x07" + pack(">I", 6) + b"pc-q35" + b"\x05" + _text(name)
    head += pack(">II", 1, 1) + _text("mapped-ram") + b"\x01" + pack(">I", RAM) + _text("ram")
    head += pack(">IIQ", 0, 4, size | 4) + _text("pc.ram") + pack(">Q", size)
    at = start + len(head) + 28
    pages = at + len(bitmap) + 0xFFF & ~0xFFF
    out.write(head + pack(">IQQQ", 1, PAGE, at, pages))
    for physical, page in pages_of(ranges, PAGE):
        if not is_zero(page):
            offset = offset_of(physical, 0x80000000)
            bitmap[offset // PAGE >> 3] |= 1 << (offset // PAGE & 7)
            out.seek(pages + offset)
            out.write(page)
    out.seek(at)
    out.write(bitmap)
    out.seek(pages + size)
    out.write(pack(">Q", 0x10) + _footer(RAM) + b"\x03" + pack(">IQ", RAM, 0x10) + _footer(RAM))
    _write_devices(out, cpus, True)


def _write_devices(out: BinaryIO, cpus: Sequence[Mapping[str, int]], description: bool) -> None:
    devices = []
    for number, registers in enumerate(cpus):
        fields, data = _cpu(registers)
        out.write(b"\x04" + pack(">I", CPU + number) + _text("cpu") + pack(">II", number, 12))
        out.write(data + _footer(CPU + number))
        devices.append({"name": "cpu", "instance_id": number, "version": 12, "fields": fields})
    text = json.dumps({"configuration": {}, "page_size": PAGE, "devices": devices}).encode()
    out.write(b"\x00" + (b"\x06" + _counted(text) if description else b""))


def _cpu(registers: Mapping[str, int]) -> tuple[list[dict[str, object]], bytes]:
    """Descriptions of the fields of a CPU, and the fields."""
    rows: list[tuple[str, int, list[bytes]]] = [
        ("env.regs", 8, [pack(">Q", registers.get(name, 0)) for name in REGS]),
        *((PLAIN[name], 8, [pack(">Q", registers.get(name, 0))]) for name in ("rip", "rflags")),
        ("env.fpregs", 10, [bytes(10)] * 8),
        ("env.segs", 20, [_segment(registers, name) for name in SEGMENTS]),
        ("env.idt", 20, [pack(">IQII", 0, registers.get("idt_base", 0), 0xFFF, 0)]),
        *((PLAIN[f"cr{n}"], 8, [pack(">Q", registers.get(f"cr{n}", 0))]) for n in (0, 2, 3, 4)),
    ]
    fields: list[dict[str, object]] = [
        {"name": name, "type": "x", "size": size} | ({"array_len": len(data)} if len(data) > 1 else {})
        for name, size, data in rows
    ]
    return fields, b"".join(b"".join(data) for _, _, data in rows)


def _segment(registers: Mapping[str, int], name: str) -> bytes:
    return pack(">IQII", registers.get(name, 0), registers.get(f"{name}_base", 0), 0, 0)


def libvirt_header(form: int = 0, *, partial: bool = False, order: str = "<", version: int = 2) -> bytes:
    """What libvirt writes in front of a stream; ``form``: how that is packed."""
    xml = b"<domain type='kvm'>\n</domain>\n\0".ljust(4096 - 92, b"\0")
    magic = b"LibvirtQemudPart" if partial else b"LibvirtQemudSave"
    return magic + pack(order + "5I56x", version, len(xml), 1, form, 0) + xml


def stream_bytes(ranges: Ranges, size: int, cpus: Sequence[Mapping[str, int]] = (), **options: Any) -> bytes:
    """A stream as bytes."""
    out = BytesIO()
    write_stream(out, ranges, size, cpus, **options)
    return out.getvalue()
