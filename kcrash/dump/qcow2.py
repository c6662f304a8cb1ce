"""Snapshots in qcow2 disk images: what QEMU's ``savevm`` leaves in a disk, a migration stream behind its end.

QEMU docs/interop/qcow2.rst: all big-endian. A snapshot has a table of its own (L1) of tables (L2) of the
clusters that hold the disk as it was; the stream lies where the disk would go on, from the first table of
clusters that no byte of the disk needs (block/qcow2.h, qcow2_vm_state_offset()).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import unpack_from
from typing import NamedTuple

from kcrash.dump.base import Dump, register_format
from kcrash.dump.qemu_stream import open_stream
from kcrash.dump.source import Source
from kcrash.errors import BadFormat

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104
OFFSET_MASK = (1 << 56) - (1 << 9)
COMPRESSED, ALL_ZEROS = 1 << 62, 1
# Features without which the clusters cannot be found: a data file of its own, L2 entries of 16 bytes.
EXTERNAL_DATA, EXTENDED_L2 = 1 << 2, 1 << 4
MAX_SNAPSHOTS = 65536
MAX_L1 = 32 << 20
ENTRY_SIZE = 40  # of a snapshot, before what varies in length


class Snapshot(NamedTuple):
    """``l1``, ``entries``: where its table lies, its length; ``disk``, ``size``: bytes of disk and stream."""

    name: str
    l1: int
    entries: int
    disk: int
    size: int


class Image(NamedTuple):
    """What the header says that matters here."""

    cluster_bits: int
    disk: int
    snapshots: int
    table: int


@register_format("qcow2", sniff=lambda head: head.startswith(MAGIC), order=30)
def probe(source: Source) -> Dump | None:
    """The last snapshot that has the machine's state."""
    image = _image(source)
    states = [snapshot for snapshot in _snapshots(source, image) if snapshot.size]
    if not states:
        raise BadFormat(source.path, "a qcow2 disk without a snapshot of a machine (savevm): no memory in it")
    chosen = states[-1]
    dump = open_stream(State(source, image, chosen), name="qcow2 snapshot")
    dump.info.details["snapshot"] = chosen.name
    if len(states) > 1:
        dump.info.details["other snapshots"] = ", ".join(snapshot.name for snapshot in states[:-1])
    return dump


def _image(source: Source) -> Image:
    head = source.peek(HEADER_SIZE)
    if len(head) < 72:
        raise BadFormat(source.path, "ends within its qcow2 header", len(head))
    version, _backing, _length, bits, disk, crypt = unpack_from(">IQIIQI", head, 4)
    count, table = unpack_from(">IQ", head, 60)
    if version not in (2, 3) or not 9 <= bits <= 21:
        raise BadFormat(source.path, f"qcow2 of version {version} with clusters of 2**{bits} bytes", 4)
    features = unpack_from(">Q", head, 72)[0] if version == 3 and len(head) >= 80 else 0
    if crypt:
        raise BadFormat(source.path, "an encrypted qcow2 disk", 32)
    if features & (EXTERNAL_DATA | EXTENDED_L2):
        raise BadFormat(source.path, f"a qcow2 disk with features that are not read ({features:#x})", 72)
    if count > MAX_SNAPSHOTS:
        raise BadFormat(source.path, f"{count} snapshots", 60)
    return Image(bits, disk, count, table)


def _snapshots(source: Source, image: Image) -> Iterator[Snapshot]:
    """Those of the table, as far as the file has them."""
    at = image.table
    for _number in range(image.snapshots):
        head = source.read_at(at, ENTRY_SIZE)
        if len(head) < ENTRY_SIZE:
            raise BadFormat(source.path, "ends within its table of snapshots", at)
        l1, entries, id_size, name_size = unpack_from(">QIHH", head)
        state, more = unpack_from(">II", head, 32)
        extra = source.read_at(at + ENTRY_SIZE, min(more, 16))
        size = unpack_from(">Q", extra)[0] if len(extra) >= 8 else state
        disk = unpack_from(">Q", extra, 8)[0] if len(extra) >= 16 else image.disk
        name = source.read_at(at + ENTRY_SIZE + more + id_size, name_size).decode("utf-8", "replace")
        if size:
            yield Snapshot(name, l1, entries, disk, size)
        at += ENTRY_SIZE + more + id_size + name_size + 7 & ~7


class State(Source):
    """The stream of a snapshot, put together from its clusters; what has none is zero."""

    def __init__(self, source: Source, image: Image, snapshot: Snapshot) -> None:
        super().__init__(source.path, snapshot.size, source.incomplete)
        self.progress = source.progress
        self._source = source
        self._bits = image.cluster_bits
        covered = 1 << image.cluster_bits + image.cluster_bits - 3  # bytes that a table of clusters is for
        self._start = -(-snapshot.disk // covered) * covered
        if snapshot.entries * 8 > MAX_L1:
            raise BadFormat(source.path, f"a snapshot's table of {snapshot.entries} entries", snapshot.l1)
        self._l1 = source.read_at(snapshot.l1, snapshot.entries * 8)
        # With "mapped-ram" the pages lie far behind what the snapshot says that it has: the table counts.
        self.size = max(len(self._l1) // 8 * covered - self._start, 0)
        self.incomplete = self.incomplete or snapshot.size > self.size
        self._table = lru_cache(64)(self._read_table)

    def read_at(self, offset: int, n: int) -> bytes:
        if offset < 0 or n <= 0:
            return b""
        end = min(offset + n, self.size)
        parts = []
        while offset < end:
            size = min(end - offset, (1 << self._bits) - (offset & (1 << self._bits) - 1))
            part = self._cluster_part(self._start + offset, size)
            parts.append(part)
            if len(part) < size:
                break
            offset += size
        return b"".join(parts)

    def _cluster_part(self, virtual: int, size: int) -> bytes:
        """``size`` bytes of one cluster, fewer where the file ends."""
        number = virtual >> self._bits
        entry = self._entry(self._table(number >> self._bits - 3), number & (1 << self._bits - 3) - 1)
        if entry & COMPRESSED:
            raise BadFormat(
                self.path, f"a compressed cluster in a snapshot's stream at {virtual - self._start}"
            )
        place = entry & OFFSET_MASK
        if not place or entry & ALL_ZEROS:
            return bytes(size)
        return self._source.read_at(place + (virtual & (1 << self._bits) - 1), size)

    def _read_table(self, number: int) -> bytes:
        place = self._entry(self._l1, number) & OFFSET_MASK
        return self._source.read_at(place, 1 << self._bits) if place else b""

    @staticmethod
    def _entry(table: bytes, number: int) -> int:
        at = number * 8
        return int.from_bytes(table[at : at + 8], "big") if at + 8 <= len(table) else 0

    def close(self) -> None:
        self._source.close()
