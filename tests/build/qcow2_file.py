"""qcow2 disks with snapshots of a machine (QEMU docs/interop/qcow2.rst); the disk itself is empty."""

from __future__ import annotations

from struct import pack
from typing import BinaryIO


def write_qcow2(
    out: BinaryIO, states: list[bytes], *, bits: int = 16, disk: int = 1 << 20, large: bool = True
) -> None:
    """A disk with one snapshot a state, in order; the clusters of each lie backwards, zeros have none.

    ``large``: a snapshot's size and disk are in its extra data, as version 3 has them.
    """
    cluster = 1 << bits
    table = cluster // 8  # entries of an L2 table
    head = pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, bits, disk, 0, 0, 0, 0, 0, len(states), cluster)
    head += pack(">QQQII", 0, 0, 0, 4, 104)
    out.write(head.ljust(cluster, b"\0"))
    rows, end = b"", 2 * cluster
    first = -(-disk // (table * cluster)) * table  # the number of the first cluster of a state
    for number, state in enumerate(states):
        pieces = [state[at : at + cluster].ljust(cluster, b"\0") for at in range(0, len(state), cluster)]
        places: dict[int, int] = {}
        for index in reversed(range(len(pieces))):
            if any(pieces[index]):
                out.seek(end)
                out.write(pieces[index])
                places[first + index], end = end | 1 << 63, end + cluster
        last = first + len(pieces)
        l1 = bytearray()
        for start in range(0, last, table):
            entries = [places.get(each, 0) for each in range(start, start + table)]
            if any(entries):
                out.seek(end)
                out.write(pack(f">{table}Q", *entries))
            l1 += pack(">Q", end | 1 << 63 if any(entries) else 0)
            end += cluster if any(entries) else 0
        out.seek(end)
        out.write(l1)
        extra = pack(">QQ", len(state), disk) if large else b""
        identity, name = str(number).encode(), f"snapshot {number}".encode()
        small = 0 if large else len(state)
        row = pack(">QIHHII", end, len(l1) // 8, len(identity), len(name), 0, 0)
        row += pack(">QII", 0, small, len(extra)) + extra + identity + name
        rows += row.ljust(-(-len(row) // 8) * 8, b"\0")
        end += -(-len(l1) // cluster) * cluster
    out.seek(cluster)
    out.write(rows)
    out.seek(0, 2)
    out.truncate(max(out.tell(), end))
