"""Every container that kcrash reads, made of the same memory.

A row here puts a format into the tests that all formats share: memory and registers as they went in, the
fuzzing of readers, the commands' output on a real dump converted to it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import BinaryIO

import zstandard

from tests.build.lkcd_file import GZIP, NONE, RLE, Lkcd
from tests.build.memory_images import write_avml, write_lime
from tests.build.pages import pages_of
from tests.build.qcow2_file import write_qcow2
from tests.build.qemu_stream_file import libvirt_header, write_mapped_ram, write_stream
from tests.build.s390_file import write_extended, write_plain
from tests.build.sadump_file import Sadump
from tests.build.vmware_files import write_guest, write_vmss
from tests.build.xen_core_file import write_xen_core

PAGE = 4096


@dataclass(frozen=True)
class Memory:
    """What goes in: ``ranges``: physical address and bytes, whole pages, ascending; ``cpus``: registers."""

    ranges: Sequence[tuple[int, bytes | memoryview]]
    cpus: Sequence[Mapping[str, int]] = ()

    @property
    def size(self) -> int:
        """One more than the last physical address."""
        start, data = self.ranges[-1]
        return start + len(data)


#: Writes files into a folder; the words with which they are opened.
Write = Callable[[Path, Memory], list[str]]


@dataclass(frozen=True)
class Container:
    """``registers``: it keeps the CPUs'; ``zeros``: memory in no range is zero, up to the last one's end;
    ``big``: it is big-endian."""

    write: Write
    registers: bool = False
    zeros: bool = False
    big: bool = False


def _one(name: str, write: Callable[[BinaryIO, Memory], None]) -> Write:
    def to_file(folder: Path, memory: Memory) -> list[str]:
        path = folder / name
        with path.open("wb") as out:
            write(out, memory)
        return [str(path)]

    return to_file


@contextmanager
def _files(folder: Path, *names: str) -> Iterator[list[BinaryIO]]:
    with ExitStack() as stack:
        yield [stack.enter_context((folder / name).open("wb")) for name in names]


def _elf(out: BinaryIO, memory: Memory, order: str = "<") -> None:
    """A plain ELF core, streamed: tests.build.elf_core has all the variants."""
    count = len(memory.ranges)
    out.write((b"\x7fELF\2" + bytes([1 if order == "<" else 2]) + b"\1").ljust(16, b"\0"))
    out.write(pack(order + "HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0))
    at = 64 + 56 * count
    for start, data in memory.ranges:
        out.write(pack(order + "IIQQQQQQ", 1, 7, at, 0, start, len(data), len(data), 0))
        at += len(data)
    for _, data in memory.ranges:
        out.write(data)


def _raw(folder: Path, memory: Memory) -> list[str]:
    words = []
    for number, (start, data) in enumerate(memory.ranges):
        path = folder / f"ram{number}"
        path.write_bytes(data)
        words.append(f"{path}@{start:#x}")
    return [",".join(words)]


def _kdump(codec: bool, order: str = "<") -> Callable[[BinaryIO, Memory], None]:
    """kdump-compressed, streamed: tests.build.kdump_file has all the variants."""

    def write(out: BinaryIO, memory: Memory) -> None:
        pfns = [physical // PAGE for physical, _ in pages_of(memory.ranges)]
        top = pfns[-1] + 1
        half = -(-top // 8 // PAGE) * PAGE
        bits = bytearray(half)
        for pfn in pfns:
            bits[pfn >> 3] |= 1 << (pfn & 7)
        names = b"".join(text.ljust(65, b"\0") for text in (b"Linux", b"", b"", b"", b"x86_64", b""))
        head = (b"KDUMP   " + pack(order + "i", 6) + names).ljust(408, b"\0")
        head += pack(order + "qqIiiIIIIIIi", 0, 0, codec, PAGE, 1, 2 * half // PAGE, top, 0, 0, 0, 0, 1)
        sub = bytes(96) + pack(order + "Q", top)
        out.write(head.ljust(PAGE, b"\0") + sub.ljust(PAGE, b"\0") + bits + bits)
        table, data = out.tell(), out.tell() + 24 * len(pfns)
        out.seek(data)
        rows = bytearray()
        for _, page in pages_of(memory.ranges):
            packed = zlib.compress(page, 1) if codec else page
            stored, flag = (packed, 1) if len(packed) < PAGE else (page, 0)
            rows += pack(order + "QIIQ", data, len(stored), flag, 0)
            data += len(stored)
            out.write(stored)
        out.seek(table)
        out.write(rows)

    return write


def _stream(**options: bool) -> Callable[[BinaryIO, Memory], None]:
    def write(out: BinaryIO, memory: Memory) -> None:
        write_stream(out, memory.ranges, _pc_ram(memory), memory.cpus, **options)  # type: ignore[arg-type]

    return write


def _pc_ram(memory: Memory) -> int:
    """Bytes of RAM of a PC whose last page is the memory's."""
    return memory.size if memory.size <= 1 << 32 else memory.size - (1 << 32) + 0xC0000000


def _libvirt(form: int, pack_all: Callable[[bytes], bytes] | None = None) -> Write:
    def write(folder: Path, memory: Memory) -> list[str]:
        inner = folder / "stream"
        with inner.open("wb") as out:
            _stream()(out, memory)
        body = inner.read_bytes()
        inner.unlink()
        path = folder / "guest.save"
        path.write_bytes(libvirt_header(form) + (pack_all(body) if pack_all else body))
        return [str(path)]

    return write


def _snapshot(bits: int, large: bool) -> Callable[[BinaryIO, Memory], None]:
    def write(out: BinaryIO, memory: Memory) -> None:
        inner = BytesIO()
        _stream()(inner, memory)
        write_qcow2(out, [b"", b"QEVM of another time", inner.getvalue()], bits=bits, large=large)

    return write


def _sadump(disks: int = 1, media: bool = False) -> Write:
    def write(folder: Path, memory: Memory) -> list[str]:
        names = [f"sadump{number}" for number in range(disks)]
        count = sum(len(data) for _, data in memory.ranges) // PAGE
        with _files(folder, *names) as outs:
            Sadump(memory.size // PAGE, _long_mode(memory.cpus), media=media).write(
                outs, memory.ranges, -(-count // disks)
            )
        return [str(folder / name) for name in names]

    return write


def _long_mode(cpus: Sequence[Mapping[str, int]]) -> Sequence[Mapping[str, int]]:
    return [{"efer": 0xD01, **cpu} for cpu in cpus]


def _lkcd(version: int, compression: int, order: str = "<") -> Write:
    machine = "x86_64" if order == "<" else "s390x"
    return _one(
        "lkcd",
        lambda out, memory: Lkcd(version, compression=compression, order=order, machine=machine).write(
            out, memory.ranges
        ),
    )


def _vmss(beside: bool, blocks: bool) -> Write:
    def write(folder: Path, memory: Memory) -> list[str]:
        names = ["guest.vmss", "guest.vmem"] if beside else ["guest.vmss"]
        with _files(folder, *names) as outs:
            vmem = outs[1] if beside else None
            write_vmss(outs[0], memory.ranges, memory.cpus, vmem=vmem, blocks=blocks)
        return [str(folder / "guest.vmss")]

    return write


def _guest(folder: Path, memory: Memory) -> list[str]:
    with _files(folder, "debug.guest", "debug.vmem") as (out, vmem):
        write_guest(out, vmem, memory.ranges, memory.cpus)
    return [str(folder / "debug.guest")]


def _packed(pack_all: Callable[[bytes], bytes], suffix: str) -> Write:
    def write(folder: Path, memory: Memory) -> list[str]:
        (path,) = _one("vmcore", _elf)(folder, memory)
        packed = folder / f"vmcore.{suffix}"
        packed.write_bytes(pack_all(Path(path).read_bytes()))
        Path(path).unlink()
        return [str(packed)]

    return write


CONTAINERS = {
    "elf": Container(_one("vmcore", _elf)),
    "elf, labelled big-endian": Container(_one("vmcore", lambda out, m: _elf(out, m, ">")), big=True),
    "kdump": Container(_one("vmcore", _kdump(True))),
    "kdump plain, big-endian": Container(_one("vmcore", _kdump(False, ">")), big=True),
    "elf in gzip": Container(_packed(lambda data: gzip.compress(data, 1), "gz")),
    "elf in xz": Container(_packed(lambda data: lzma.compress(data, preset=0), "xz")),
    "elf in zstd": Container(_packed(lambda data: zstandard.compress(data, 1), "zst")),
    "lime": Container(_one("lime", lambda out, memory: write_lime(out, memory.ranges))),
    "avml": Container(_one("avml", lambda out, memory: write_avml(out, memory.ranges))),
    "raw": Container(_raw),
    "qemu": Container(_one("stream", _stream()), registers=True),
    "qemu, packed pages": Container(_one("stream", _stream(packed=True)), registers=True),
    "qemu, no description": Container(_one("stream", _stream(description=False))),
    "qemu mapped-ram": Container(
        _one("stream", lambda out, m: write_mapped_ram(out, m.ranges, m.size, m.cpus)),
        registers=True,
        zeros=True,
    ),
    "qcow2 snapshot": Container(_one("disk.qcow2", _snapshot(16, True)), registers=True),
    "qcow2 snapshot, small clusters": Container(_one("disk.qcow2", _snapshot(9, False)), registers=True),
    "libvirt": Container(_libvirt(0), registers=True),
    "libvirt gzip": Container(_libvirt(1, lambda data: gzip.compress(data, 1)), registers=True),
    "libvirt bzip2": Container(_libvirt(2, lambda data: bz2.compress(data, 1)), registers=True),
    "libvirt xz": Container(_libvirt(3, lambda data: lzma.compress(data, preset=0)), registers=True),
    "libvirt zstd": Container(_libvirt(5, lambda data: zstandard.compress(data, 1)), registers=True),
    "sadump": Container(_sadump(), registers=True),
    "sadump disk set": Container(_sadump(disks=3), registers=True),
    "sadump media": Container(_sadump(media=True), registers=True),
    "lkcd 1": Container(_lkcd(1, RLE)),
    "lkcd 5 rle": Container(_lkcd(5, RLE)),
    "lkcd 8 gzip": Container(_lkcd(8, GZIP)),
    "lkcd 9 plain, big-endian": Container(_lkcd(9, NONE, ">"), big=True),
    "s390": Container(
        _one("s390", lambda out, m: write_plain(out, m.ranges, m.size)), zeros=True, big=True
    ),
    "s390 extended": Container(
        _one("s390", lambda out, m: write_extended(out, m.ranges, m.size)), zeros=True, big=True
    ),
    "s390 extended, packed": Container(
        _one("s390", lambda out, m: write_extended(out, m.ranges, m.size, packed=True)), zeros=True, big=True
    ),
    "vmss": Container(_vmss(beside=False, blocks=False), registers=True),
    "vmss and vmem": Container(_vmss(beside=True, blocks=True), registers=True),
    "vmware guest dump": Container(_guest, registers=True),
    "xen core": Container(_one("core", lambda out, m: write_xen_core(out, m.ranges, m.cpus)), registers=True),
    "xen core, paravirtual": Container(
        _one("core", lambda out, m: write_xen_core(out, m.ranges, m.cpus, paravirtual=True, holes=True)),
        registers=True,
    ),
}  # fmt: skip
