"""QEMU's migration streams and libvirt's files: what tests.dump.test_containers does not vary."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from struct import pack

import pytest

from kcrash.dump.base import PhysicalRange
from kcrash.dump.qemu_stream import Block, Region, lay_out
from kcrash.errors import BadFormat, FaultReason, MemoryFault
from tests.build.pages import some_pages
from tests.build.qemu_stream_file import libvirt_header, stream_bytes, write_mapped_ram
from tests.dump.helpers import opened

PAGES = some_pages(range(20))
MEMORY = b"".join(PAGES.values())
SIZE = 32 * 4096
STREAM = stream_bytes([(0, MEMORY)], SIZE)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("machine", "size", "expected"),
    [
        ("pc-i440fx-7.2", 3 * GIB, [(0, 0, 3 * GIB)]),
        ("pc-i440fx-7.2", 8 * GIB, [(0, 0, 3 * GIB), (3 * GIB, 4 * GIB, 5 * GIB)]),
        ("pc-q35-8.0", 2 * GIB, [(0, 0, 2 * GIB)]),
        ("pc-q35-8.0", 3 * GIB, [(0, 0, 2 * GIB), (2 * GIB, 4 * GIB, GIB)]),
        ("microvm", 4 * GIB, [(0, 0, 3 * GIB), (3 * GIB, 4 * GIB, GIB)]),
    ],
)
def test_where_ram_lies(machine: str, size: int, expected: list[tuple[int, int, int]]) -> None:
    blocks = [Block("0000:00:02.0/vga.vram", 1 << 24), Block("pc.ram", size), Block("pc.bios", 1 << 18)]
    regions = [Region(offset, length, at) for offset, at, length in expected]
    assert lay_out(machine, blocks) == {"pc.ram": regions}


def test_where_ram_of_other_machines_lies() -> None:
    assert lay_out("virt-8.2", [Block("mach-virt.ram", GIB)]) == {"mach-virt.ram": [Region(0, GIB, GIB)]}
    assert lay_out("s390-ccw-virtio-8.2", [Block("s390.ram", GIB)]) == {"s390.ram": [Region(0, GIB, 0)]}


def test_nodes_follow_each_other() -> None:
    blocks = [Block("ram-node0", 3 * GIB), Block("ram-node1", 3 * GIB), Block("pc.bios", 1 << 18)]
    assert lay_out("pc-q35-8.0", blocks) == {
        "ram-node0": [Region(0, 2 * GIB, 0), Region(2 * GIB, GIB, 4 * GIB)],
        "ram-node1": [Region(0, 3 * GIB, 5 * GIB)],
    }


def test_memory_above_the_hole(tmp_path: Path) -> None:
    data = stream_bytes([(0, MEMORY), (4 * GIB, MEMORY[::-1])], 4 * GIB)
    dump = opened(tmp_path, data)
    assert dump.read(4 * GIB, len(MEMORY)) == MEMORY[::-1]
    assert dump.ranges() == [PhysicalRange(0, 3 * GIB), PhysicalRange(4 * GIB, 5 * GIB)]


def test_a_later_copy_of_a_page_counts(tmp_path: Path) -> None:
    twice = [(0, MEMORY), (0, MEMORY[4096:8192]), (8192, b"z" * 4096)]
    dump = opened(tmp_path, stream_bytes(twice, SIZE))
    assert dump.read(0, 3 * 4096) == MEMORY[4096:8192] * 2 + b"z" * 4096


def test_pages_that_were_not_sent(tmp_path: Path) -> None:
    """Those that the guest gave back; behind a cut they may have been."""
    dump = opened(tmp_path, STREAM)
    with pytest.raises(MemoryFault) as caught:
        dump.read(25 * 4096, 4)
    assert caught.value.reason is FaultReason.EXCLUDED
    dump.zero_excluded = True
    assert dump.read(26 * 4096, 4) == bytes(4)
    cut = opened(tmp_path, STREAM[: len(STREAM) // 2])
    assert cut.info.incomplete
    with pytest.raises(MemoryFault) as caught:
        cut.read(25 * 4096, 4)
    assert caught.value.reason is FaultReason.TRUNCATED


def _ram(section: bytes) -> bytes:
    """A stream whose memory section begins so."""
    head = b"QEVM" + pack(">I", 3) + b"\x01" + pack(">I", 2) + b"\x03ram" + pack(">II", 0, 4)
    return head + pack(">Q", 0x2004) + b"\x06pc.ram" + pack(">Q", 0x2000) + section


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"QEVM\0\0\0\2rest", "QEMU stream of version 2"),
        (b"QEVM\0", "ends within the header"),
        (b"QEVM\0\0\0\3\x55", "section of type 85"),
        (b"QEVM\0\0\0\3\0", "without memory"),
        (_ram(pack(">Q", 0x40) + b"\x06pc.ram"), "xbzrle"),
        (_ram(pack(">Q", 0x800)), "page flags 0x800"),
        (_ram(pack(">Q", 8) + b"\x04none" + bytes(4096)), "unknown block 'none'"),
        (STREAM.replace(b"\x07\0\0\0", b"\x05\x03abc\0\0\0\0", 1), "unknown 'abc'"),
    ],
)
def test_nonsense(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(BadFormat, match=what):
        opened(tmp_path, data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("partial", [False, True])
def test_libvirt(tmp_path: Path, order: str, partial: bool) -> None:
    dump = opened(tmp_path, libvirt_header(order=order, partial=partial) + STREAM)
    assert dump.read(0, len(MEMORY)) == MEMORY
    assert dump.info.format == "libvirt save"
    assert dump.info.incomplete == partial


def test_libvirt_sparse(tmp_path: Path) -> None:
    """A mapped-ram stream behind libvirt's header: its offsets count from the start of the file."""
    header = libvirt_header(6, version=3).ljust(65536, b"\0")
    out = BytesIO(header)
    out.seek(len(header))
    write_mapped_ram(out, [(0, MEMORY)], SIZE, start=len(header))
    dump = opened(tmp_path, out.getvalue())
    assert dump.read(0, len(MEMORY)) == MEMORY


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (libvirt_header()[:50], "ends within its libvirt header"),
        (libvirt_header(9) + STREAM, "unknown format 9"),
        (libvirt_header(version=1 << 20) + STREAM, "unknown version"),
        (libvirt_header() + b"nothing of the kind", "QEMU stream of version .*or none"),
        (libvirt_header(1) + STREAM, "bad gzip stream"),
    ],
)
def test_libvirt_nonsense(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(BadFormat, match=what):
        opened(tmp_path, data)


@pytest.mark.parametrize(
    "text", [b"[" * 100000, b'{"devices": 5}', b'{"devices": [{"name": "cpu", "fields": 7}]}']
)
def test_descriptions_that_say_nothing(tmp_path: Path, text: bytes) -> None:
    """A hostile description costs the registers, not the dump."""
    at = STREAM.rindex(b"\x06")
    data = STREAM[:at] + b"\x06" + pack(">I", len(text)) + text
    dump = opened(tmp_path, data)
    assert dump.info.cpus == []
    assert dump.read(0, 4096) == MEMORY[:4096]
