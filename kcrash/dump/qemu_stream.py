"""QEMU's migration streams: ``migrate file:...`` or ``exec:...``, and what ``savevm`` and libvirt wrap.

QEMU migration/savevm.c (sections), migration/ram.c (pages), docs/devel/migration/mapped-ram.rst. All
big-endian. Memory comes as pages in any order, a later copy of a page instead of an earlier one, or, as
"mapped-ram", with every page at a place of its own. Devices follow, the CPUs among them, in a form
that only the JSON at the very end describes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from kcrash.dump.base import (
    EXCLUDED,
    NOT_IN_DUMP,
    PRESENT,
    TRUNCATED,
    Dump,
    DumpInfo,
    PhysicalRange,
    merge_ranges,
    register_format,
)
from kcrash.dump.bitmap import Bitmap
from kcrash.dump.blocks import BlockDump, BlockIndex
from kcrash.dump.codecs import ZLIB, decompressor
from kcrash.dump.pieces import ZERO_FILL, PieceDump, Stretches
from kcrash.dump.source import Source
from kcrash.errors import BadFormat, FaultReason, MemoryFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcrash.dump._qemu_cpus import Devices
    from kcrash.dump.base import Pages

MAGIC = b"QEVM"
VERSION = 3
EOF, START, PART, END, FULL, SUBSECTION, DESCRIPTION, CONFIGURATION, COMMAND = range(9)
FOOTER = 0x7E
# Flags of a page's word, whose other bits are the page's offset in its block.
ZERO, MEM_SIZE, PAGE, END_OF_SECTION, CONTINUE, XBZRLE, COMPRESSED, FLUSH = 2, 4, 8, 16, 32, 64, 0x100, 0x200
FLAGS = 0xFFF
# Where a page lies, in BlockIndex: at a file offset, packed there behind its length, or filled with a byte.
PACKED, FILLED = 1 << 62, 1 << 63
MAX_BLOCKS = 4096
MAX_RUNS = 1 << 22
SKIP_LIMIT = 64 << 20  # bytes looked at for the end of a section of unknown form
BUFFER = 1 << 18


class Region(NamedTuple):
    """Bytes ``[offset, offset + size)`` of a block of RAM lie at ``physical``."""

    offset: int
    size: int
    physical: int


class Block(NamedTuple):
    """A block of RAM as the stream names it; ``bitmap``, ``pages``: file offsets, of mapped-ram."""

    name: str
    size: int
    bitmap: int = 0
    pages: int = 0


# Physical address of the one block of RAM of machines that have no hole in it.
BASES = {"mach-virt.ram": 0x40000000, "riscv_virt_board.ram": 0x80000000, "ppc_spapr.ram": 0, "s390.ram": 0}
# Machines with a hole below 4 GiB: RAM of this size or more is cut at the second number
# (hw/i386/pc_piix.c, pc_q35.c, microvm.c).
HOLES = (("q35", 0xB0000000, 0x80000000), ("microvm", 0xC0000000, 0xC0000000), ("", 0xE0000000, 0xC0000000))
FOUR_GIB = 1 << 32


class Cursor:
    """Reads a source forward, through a buffer. Raises Cut where it ends."""

    def __init__(self, source: Source, at: int) -> None:
        self.source = source
        self._start, self._buffer, self._next = at, b"", 0

    @property
    def at(self) -> int:
        """The offset of the next byte."""
        return self._start + self._next

    def seek(self, at: int) -> None:
        """Go on at another offset."""
        if self._start <= at <= self._start + len(self._buffer):
            self._next = at - self._start
        else:
            self._start, self._buffer, self._next = at, b"", 0

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        if self._next + n > len(self._buffer):
            self._start, self._next = self.at, 0
            self._buffer = self.source.read_at(self._start, max(n, BUFFER))
            if len(self._buffer) < n:
                raise Cut
        self._next += n
        return self._buffer[self._next - n : self._next]

    def number(self, n: int) -> int:
        """The next ``n`` bytes as a big-endian number."""
        return int.from_bytes(self.take(n), "big")

    def name(self) -> str:
        """A counted string."""
        return self.take(self.number(1)).decode("latin-1")


class Cut(Exception):
    """The stream ends too early."""


class Stream:
    """What the sections say: see ``read_stream``."""

    def __init__(self, source: Source, at: int) -> None:
        self.source = source
        self.cursor = Cursor(source, at)
        self.machine = ""
        self.capabilities: list[str] = []
        self.page_size = 4096
        self.blocks: dict[str, Block] = {}
        self.regions: dict[str, list[Region]] = {}
        self.index = BlockIndex()
        self.complete = False
        self.devices_at: int | None = None
        self._names: dict[int, str] = {}
        self._block = ""

    # -- sections

    def read(self) -> None:
        """Read all sections up to the devices. Raises BadFormat; a stream that is cut is not complete."""
        magic, version = self.cursor.take(4), self.cursor.number(4)
        if magic != MAGIC or version != VERSION:
            what = f"QEMU stream of version {version}, or none ({magic.hex(' ')})"
            raise BadFormat(self.source.path, what, self.cursor.at - 8)
        try:
            while self._section():
                pass
        except Cut:
            pass

    def _section(self) -> bool:
        """One section; False when those with memory are done."""
        at, kind = self.cursor.at, self.cursor.number(1)
        if kind in (START, FULL):
            return self._named_section(at, kind)
        if kind in (PART, END):
            return self._rest_of_section(kind, self.cursor.number(4))
        if kind == FOOTER:
            self.cursor.take(4)
        elif kind == CONFIGURATION:
            self.machine = self.cursor.take(min(self.cursor.number(4), 256)).decode("latin-1")
        elif kind == SUBSECTION:
            self._subsection(self.cursor.name(), self.cursor.number(4))
        elif kind == COMMAND:
            self.cursor.take(2)
            self.cursor.take(self.cursor.number(2))
        elif kind == EOF:
            return False
        else:
            raise BadFormat(self.source.path, f"QEMU stream with a section of type {kind}", at)
        return True

    def _subsection(self, name: str, _version: int) -> None:
        """Of the configuration (migration/savevm.c, vmstate_configuration)."""
        if name == "configuration/target-page-bits":
            bits = self.cursor.number(4)
            if not 10 <= bits <= 16:
                raise BadFormat(self.source.path, f"pages of 2^{bits} bytes", self.cursor.at)
            self.page_size = 1 << bits
        elif name == "configuration/capabilities":
            self.capabilities = [self.cursor.name() for _ in range(min(self.cursor.number(4), 256))]
        elif name == "configuration/uuid":
            self.cursor.take(16)
        else:
            raise BadFormat(self.source.path, f"QEMU stream with unknown {name!r}", self.cursor.at)

    def _named_section(self, at: int, kind: int) -> bool:
        number, name = self.cursor.number(4), self.cursor.name()
        self.cursor.take(8)  # instance, version
        self._names[number] = name
        if name != "ram" and (kind == FULL or self.complete):
            self.devices_at = at
            return False
        return self._rest_of_section(kind, number)

    def _rest_of_section(self, kind: int, number: int) -> bool:
        if self._names.get(number) == "ram":
            self._ram()
            self.complete = self.complete or kind == END
        else:
            self._skip(number)
        return True

    def _skip(self, number: int) -> None:
        """Past a section whose form is not known: its footer repeats its number (since QEMU 2.3)."""
        footer = bytes([FOOTER]) + number.to_bytes(4, "big")
        for start in range(self.cursor.at, self.cursor.at + SKIP_LIMIT, 1 << 20):
            found = self.source.read_at(start, (1 << 20) + 4).find(footer)
            if found >= 0:
                return self.cursor.seek(start + found)
        raise BadFormat(self.source.path, f"QEMU stream with section {number} without an end", self.cursor.at)

    # -- memory

    def _ram(self) -> None:
        cursor, told = self.cursor, 0
        while True:
            at, word = cursor.at, cursor.number(8)
            flags = word & FLAGS
            if flags == END_OF_SECTION:
                return
            if flags & MEM_SIZE:
                self._block_list(word & ~FLAGS)
            elif flags & (ZERO | PAGE | COMPRESSED):
                self._page(word & ~FLAGS, flags, at)
            elif flags != FLUSH:
                what = "xbzrle, which kcrash does not know" if flags & XBZRLE else f"page flags {flags:#x}"
                raise BadFormat(self.source.path, f"QEMU stream with {what}", at)
            if at - told > 1 << 24 and self.source.progress is not None:
                told = at
                self.source.progress("reading the migration stream", at, self.source.size)

    def _block_list(self, total: int) -> None:
        cursor = self.cursor
        while total > 0 and len(self.blocks) < MAX_BLOCKS:
            block = Block(cursor.name(), cursor.number(8))
            total -= block.size
            if "x-ignore-shared" in self.capabilities:
                cursor.take(8)
            if "mapped-ram" in self.capabilities:
                block = self._mapped(block)
            self.blocks[block.name] = block
        self.regions = lay_out(self.machine, list(self.blocks.values()))

    def _mapped(self, block: Block) -> Block:
        """The block with where its pages lie: {u32 version, u64 page size, bitmap, pages}."""
        at = self.cursor.at
        version, page_size, bitmap, pages = Struct(">I3Q").unpack(self.cursor.take(28))
        if version != 1 or page_size != self.page_size:
            raise BadFormat(self.source.path, f"mapped-ram {version}, pages of {page_size} bytes", at)
        if pages + block.size > 1 << 62 or bitmap > self.source.size:
            raise BadFormat(self.source.path, f"block {block.name!r} of {block.size:#x} bytes", at)
        self.cursor.seek(pages + block.size)
        return block._replace(bitmap=bitmap, pages=pages)

    def _page(self, offset: int, flags: int, at: int) -> None:
        cursor = self.cursor
        if not flags & CONTINUE:
            self._block = cursor.name()
        if flags & ZERO:
            place = FILLED | cursor.number(1)
        elif flags & PAGE:
            place = cursor.at
            cursor.take(self.page_size)
        else:
            place = PACKED | cursor.at
            cursor.take(min(cursor.number(4), 2 * self.page_size))
        if self._block not in self.blocks:
            raise BadFormat(self.source.path, f"a page of the unknown block {self._block!r}", at)
        for region in self.regions.get(self._block, ()):
            if 0 <= offset - region.offset < region.size:
                self.index.add((offset - region.offset + region.physical) // self.page_size, place)


def lay_out(machine: str, blocks: Sequence[Block]) -> dict[str, list[Region]]:
    """Where the machine's RAM lies in physical memory: regions of the blocks that are RAM."""
    ram = [block for block in blocks if block.name.rpartition("/")[2].endswith((".ram",))]
    ram = [block for block in ram if ":" not in block.name]  # a device's, by its PCI address
    nodes = [block for block in blocks if "node" in block.name]
    ram = nodes or ram or sorted(blocks, key=lambda block: block.size)[-1:]
    if not ram:
        return {}
    total = sum(block.size for block in ram)
    base = next((at for name, at in BASES.items() if ram[0].name.endswith(name)), None)
    cuts = [(0, total, base)] if base is not None else _x86_cuts(machine, total)
    regions: dict[str, list[Region]] = {}
    begin = 0
    for block in ram:
        for start, end, physical in cuts:
            low, high = max(start, begin), min(end, begin + block.size)
            if low < high:
                region = Region(low - begin, high - low, physical + low - start)
                regions.setdefault(block.name, []).append(region)
        begin += block.size
    return regions


def _x86_cuts(machine: str, total: int) -> list[tuple[int, int, int]]:
    """``(start, end, physical address)`` of RAM below and above the hole."""
    limit, below = next((limit, below) for name, limit, below in HOLES if name in machine)
    if total < limit:
        return [(0, total, 0)]
    return [(0, below, 0), (below, total, FOUR_GIB)]


class QemuDump(BlockDump):
    """Physical memory out of a stream of pages."""

    def __init__(self, source: Source, info: DumpInfo, stream: Stream) -> None:
        super().__init__(source.path, info, stream.page_size)
        self.source = source
        self._index = stream.index
        self._ranges = _ranges(stream)

    def state(self, number: int) -> int:
        if self._index.find(number) is not None:
            return PRESENT
        address = number << self._shift
        if any(part.start <= address < part.end for part in self._ranges):
            # QEMU leaves out what the guest's balloon says is free.
            return TRUNCATED if self.info.incomplete else EXCLUDED
        return NOT_IN_DUMP

    def stored(self, number: int) -> bytes:
        place = self._index.find(number)
        assert place is not None
        if place & FILLED:
            return bytes([place & 0xFF]) * self.block_size
        size = self.block_size
        if place & PACKED:
            place &= ~PACKED
            size = int.from_bytes(self.source.read_at(place, 4), "big")
            data = self.source.read_at(place + 4, min(size, 2 * self.block_size))
            return decompressor(ZLIB)(data, self.block_size)
        data = self.source.read_at(place, size)
        if len(data) < size:
            raise MemoryFault("physical", number << self._shift, FaultReason.TRUNCATED)
        return data

    def page_states(self, pfns: NDArray[np.uint64], page_size: int) -> NDArray[np.uint8]:
        import numpy as np

        if page_size != self.block_size:
            return super().page_states(pfns, page_size)
        found, _ = self._index.find_many(pfns)
        states = np.where(found, PRESENT, NOT_IN_DUMP).astype(np.uint8)
        for row in np.flatnonzero(~found):
            states[row] = self.state(int(pfns[row]))
        return states

    def read_pages(self, pfns: NDArray[np.uint64], page_size: int) -> Pages:
        """Pages that are filled or byte for byte in the file take a short way."""
        import numpy as np

        if page_size != self.block_size:
            return super().read_pages(pfns, page_size)
        found, places = self._index.find_many(pfns)
        data = np.zeros((len(pfns), page_size), dtype=np.uint8)
        states = np.where(found, PRESENT, NOT_IN_DUMP).astype(np.uint8)
        filled, plain = found & (places >= FILLED), found & (places < PACKED)
        data[filled] = (places[filled] & np.uint64(0xFF)).astype(np.uint8)[:, None]
        for row, at in zip(np.flatnonzero(plain).tolist(), places[plain].tolist(), strict=True):
            if self.source.read_into(at, data[row].data) < page_size:
                states[row], data[row] = TRUNCATED, 0
        others = np.flatnonzero(~filled & ~plain)
        data[others], states[others] = super().read_pages(pfns[others], page_size)
        return data, states

    def ranges(self) -> list[PhysicalRange]:
        return self._ranges

    def data_ranges(self) -> list[PhysicalRange]:
        return [PhysicalRange(a << self._shift, b << self._shift) for a, b in self._index.runs()]

    def close(self) -> None:
        self.source.close()


def _ranges(stream: Stream) -> list[PhysicalRange]:
    regions = [region for found in stream.regions.values() for region in found]
    return merge_ranges((region.physical, region.physical + region.size) for region in regions)


def open_stream(source: Source, offset: int = 0, name: str = "QEMU stream") -> Dump:
    """The memory in the stream that starts at ``offset``. Raises BadFormat."""
    stream = Stream(source, offset)
    try:
        stream.read()
    except Cut:
        raise BadFormat(source.path, "ends within the header of its QEMU stream", source.size) from None
    if not stream.regions:
        raise BadFormat(source.path, "QEMU stream without memory", stream.cursor.at)
    from kcrash.dump._qemu_cpus import read_devices  # brings json

    at = source.size if stream.devices_at is None else stream.devices_at
    info = _info(source, stream, read_devices(source, at), name)
    if "mapped-ram" in stream.capabilities:
        return PieceDump(info, [source], _stretches(source, stream))
    stream.index.sort()
    return QemuDump(source, info, stream)


def _info(source: Source, stream: Stream, devices: Devices, name: str) -> DumpInfo:
    return DumpInfo(
        format=name,
        byte_order=devices.byte_order,
        word_bits=devices.word_bits,
        machine=devices.machine,
        page_size=stream.page_size,
        cpus=devices.cpus,
        nr_cpus=devices.nr_cpus or None,
        incomplete=not stream.complete or source.incomplete,
        details={
            "machine": stream.machine,
            "blocks": {block.name: block.size for block in stream.blocks.values()},
            "mapped_ram": "mapped-ram" in stream.capabilities,
        },
    )


def _stretches(source: Source, stream: Stream) -> Stretches:
    """Of mapped-ram: the pages whose bits are set, then zeros."""
    stretches = Stretches()
    for block in stream.blocks.values():
        for region in stream.regions.get(block.name, ()):
            for start, end in _runs(source, block, region, stream.page_size):
                stretches.add(region.physical + start - region.offset, end - start, block.pages + start)
    for found in stream.regions.values():
        for region in found:
            stretches.add(region.physical, region.size, ZERO_FILL)
    return stretches


def _runs(source: Source, block: Block, region: Region, page_size: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of a block that are in the file and in the region."""
    bits = min(block.size // page_size, (source.size - block.bitmap) * 8)
    runs = Bitmap(source, block.bitmap, bits).runs(MAX_RUNS)
    if runs is None:
        raise BadFormat(source.path, f"a bitmap of pages with more than {MAX_RUNS} runs", block.bitmap)
    for start, end in runs:
        low = max(start * page_size, region.offset)
        high = min(end * page_size, region.offset + region.size)
        if low < high:
            yield low, high


@register_format("qemu", sniff=lambda head: head.startswith(MAGIC), order=30)
def probe(source: Source) -> Dump | None:
    """A migration stream becomes a QemuDump, or a PieceDump if it is mapped-ram."""
    return open_stream(source)
