"""makedumpfile's flattened form, read in place.

Written where the output cannot seek (``makedumpfile -F | ssh``, QEMU's
dump-guest-memory -z): records of (offset, size, data) that a reader would have
to copy to their places. makedumpfile IMPLEMENTATION, "The flattened format";
makedumpfile.h ``struct makedumpfile_header`` and ``makedumpfile_data_header``.
All integers are big-endian. A later record overrides earlier ones.
"""

from __future__ import annotations

from array import array
from struct import Struct

from kcrash.dump.intervals import Pieces, resolve
from kcrash.dump.source import MAX_OFFSET, Source
from kcrash.errors import BadFormat

SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER = Struct(">16sqq")
HEADER_SIZE = 4096
RECORD = Struct(">qq")
TYPE_FLAT = 1
VERSION_FLAT = 1
MIN_RECORDS = 1 << 20


def is_flattened(source: Source) -> bool:
    """True if the file starts as a flattened one."""
    return source.peek(len(SIGNATURE)) == SIGNATURE


def inner_of_flattened(head: bytes) -> bytes:
    """What the first record of a flattened file holds, if ``head`` is the start of one; else nothing."""
    if not head.startswith(SIGNATURE) or len(head) <= HEADER_SIZE + RECORD.size:
        return b""
    offset, size = RECORD.unpack_from(head, HEADER_SIZE)
    return head[HEADER_SIZE + RECORD.size :][:size] if offset == 0 and size > 0 else b""


class FlattenedSource(Source):
    """The file inside a flattened one.

    Opening reads the record headers only. A file that was cut gives what it
    has: reads of bytes that the missing part held come back short, and
    ``incomplete`` is True. Bytes that no record wrote are zero: has() tells.
    """

    def __init__(self, outer: Source) -> None:
        self.outer = outer
        self._positions = array("Q")
        self._check_header()
        starts, ends, complete = self._scan()
        if not starts:
            raise BadFormat(outer.path, "flattened dump without any data", HEADER_SIZE)
        self._starts = starts
        self._pieces: Pieces = resolve(starts, ends, last_wins=True)
        super().__init__(outer.path, max(ends), incomplete=not complete)

    def _check_header(self) -> None:
        head = self.outer.peek(HEADER.size)
        if len(head) < HEADER.size:
            raise BadFormat(self.outer.path, "flattened dump ends within its header", len(head))
        _, kind, version = HEADER.unpack(head)
        if (kind, version) != (TYPE_FLAT, VERSION_FLAT):
            what = f"flattened dump of unknown type {kind}, version {version}"
            raise BadFormat(self.outer.path, what, len(SIGNATURE))

    def _scan(self) -> tuple[array[int], array[int], bool]:
        """Starts and ends of all records in the inner file, and whether the end record was there."""
        starts, ends, positions = array("Q"), array("Q"), self._positions
        read_at, unpack, at = self.outer.read_at, RECORD.unpack, HEADER_SIZE
        limit = max(MIN_RECORDS, self.outer.size >> 10)
        while len(header := read_at(at, 16)) == 16:
            offset, size = unpack(header)
            if offset < 0 or size < 0 or offset + size > MAX_OFFSET:
                return starts, ends, offset == size == -1
            at += 16
            if size:
                starts.append(offset)
                ends.append(offset + size)
                positions.append(at)
                if len(starts) > limit:
                    raise BadFormat(self.outer.path, "flattened dump of absurdly many small records", at)
            at += size
        return starts, ends, False

    def read_at(self, offset: int, n: int) -> bytes:
        end = min(offset + n, self.size)
        if offset < 0 or offset >= end:
            return b""
        index = self._pieces.find(offset)
        if index >= 0 and end <= self._pieces.ends[index]:
            return self.outer.read_at(self._position(index, offset), end - offset)
        return self._gather(index, offset, end)

    def has(self, offset: int, n: int) -> bool:
        pieces, end = self._pieces, offset + n
        index = pieces.find(offset)
        while 0 <= index < len(pieces) and pieces.starts[index] <= offset < pieces.ends[index]:
            until = min(pieces.ends[index], end)
            if self._position(index, until) > self.outer.size:
                return False
            if until == end:
                return True
            offset, index = until, index + 1
        return False

    def _position(self, index: int, offset: int) -> int:
        """Where in the outer file the byte ``offset`` of piece ``index`` lies."""
        owner = self._pieces.owners[index]
        return self._positions[owner] + offset - self._starts[owner]

    def _gather(self, index: int, offset: int, end: int) -> bytes:
        pieces, out, at = self._pieces, bytearray(), offset
        index += index < 0 or pieces.ends[index] <= offset
        while at < end:
            start = pieces.starts[index] if index < len(pieces) else end
            if at < start:  # a hole: nobody wrote there
                out += bytes(min(start, end) - at)
                at = min(start, end)
                continue
            until = min(pieces.ends[index], end)
            data = self.outer.read_at(self._position(index, at), until - at)
            out += data
            if len(data) < until - at:
                break
            at, index = until, index + 1
        return bytes(out)

    def close(self) -> None:
        self.outer.close()
