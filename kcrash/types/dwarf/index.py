"""What is kept on disk of a file's debug info: where its units are, and where names were found.

``$KCRASH_CACHE/dwarf/buildid/<key>``: one small file for each build, made of what was asked. It is written
under a temporary name; what two processes add at the same time is merged, or lost and found again. Damage is
noticed by a checksum, and every DIE that it leads to is checked again: a wrong one is ignored.

Header: magic, version, byte order mark, key, number of unit offsets, of the rows of two tables of addresses
(NO_TABLE for none), of names. Then 64-bit numbers: the unit offsets, and of each table the low ends, the high
ends and the units. Then the names: DIE offset (0: there is none), kind, length, name. Then the CRC-32 of all.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from contextlib import suppress
from pathlib import Path

from kcrash.errors import KcrashError
from kcrash.files.cache import Cache, default_root
from kcrash.symbols.elffile import ET_REL, ElfFile

VERSION = 1
LIMIT = 64 << 20  # bytes, of all files together
MAX_NAMES = 4096  # of one file; the oldest go
MAX_FILE = 16 << 20
NO_TABLE = 0xFFFFFFFF
TABLES = 2
#: Seconds from which a search is worth keeping.
SLOW = 0.002
_HEADER = struct.Struct("=8sII16s4I")
_CHECKSUM = struct.Struct("=I")
_NAME = struct.Struct("=QBH")
_MAGIC = b"KCRDWARF"
_ORDER_MARK = 0x01020304
KINDS = ("struct", "union", "enum", "typedef", "base", "variable", "function", "enumerator")
_SECTIONS = (".debug_info", ".debug_abbrev", ".debug_str", ".debug_aranges")

#: ``(low ends, high ends, owners)`` of address ranges, in order of their low ends.
Rows = tuple["array[int]", "array[int]", "array[int]"]


class Index:
    """What is known of one file; nothing is read before it is asked, nothing written without a build-id."""

    def __init__(self, elf: ElfFile, cache: Cache | None = None) -> None:
        self._elf = elf
        self._cache = cache
        self._state: _State | None = None
        self._dirty = False

    @property
    def state(self) -> _State:
        """What is known, read when first asked for."""
        if self._state is None:
            self._state = self._load() or _State()
        return self._state

    def name(self, kind: str, name: str) -> int | None:
        """Offset of the DIE of a name, 0 if there is none, None if that is not known."""
        return self.state.names.get((kind, name))

    def keep_name(self, kind: str, name: str, offset: int) -> None:
        """Remember what name() is to say."""
        if len(name) < 1 << 10:
            self.state.names[kind, name] = offset
            self._dirty = True

    def keep_starts(self, starts: array[int]) -> None:
        """Remember the offsets of the units."""
        self.state.starts = starts
        self._dirty = True

    def keep_table(self, number: int, rows: Rows) -> None:
        """Remember a table of addresses."""
        self.state.tables[number] = rows
        self._dirty = True

    def flush(self) -> None:
        """Write what is new. A folder that cannot be used is no error: nothing is kept then."""
        if not self._dirty:
            return
        self._dirty = False
        with suppress(KcrashError, OSError):
            self._save()

    # -- the file

    @property
    def _key(self) -> bytes | None:
        """Of the build, and of this file of it: another copy may be packed otherwise, or damaged."""
        elf = self._elf
        if elf.type == ET_REL or elf.build_id is None:
            return None
        try:
            changed = Path(elf.path).stat().st_mtime_ns
        except OSError:
            return None
        found = (elf.sections.get(name) for name in _SECTIONS)
        sizes = [(section.size, section.flags) if section else None for section in found]
        return hashlib.sha256(f"{elf.build_id} {changed} {sizes}".encode()).digest()[:16]

    def _folder(self) -> Cache:
        if self._cache is None:
            self._cache = Cache(default_root().parent / "dwarf", LIMIT)
        return self._cache

    def _load(self) -> _State | None:
        key = self._key
        if key is None:
            return None
        with suppress(OSError, KcrashError, ValueError, IndexError, struct.error):
            path = self._folder().lookup(self._folder().fetched(key.hex()))
            if path is not None and path.stat().st_size <= MAX_FILE:
                return _decode(path.read_bytes(), key, len(self._elf.mm))
        return None

    def _save(self) -> None:
        key, state = self._key, self.state
        if key is None:
            return
        other = self._load()
        if other is not None:
            state.names = {**other.names, **state.names}
        while len(state.names) > MAX_NAMES:
            del state.names[next(iter(state.names))]
        with self._folder().writing(self._folder().fetched(key.hex())) as writer:
            writer.write(_encode(state, key))
            writer.keep()


class _State:
    """The content of the file."""

    def __init__(self) -> None:
        self.starts: array[int] | None = None
        self.tables: list[Rows | None] = [None] * TABLES
        self.names: dict[tuple[str, str], int] = {}


def _encode(state: _State, key: bytes) -> bytes:
    parts, counts = [(state.starts or array("Q")).tobytes()], []
    for rows in state.tables:
        counts.append(NO_TABLE if rows is None else len(rows[0]))
        parts += [column.tobytes() for column in rows or ()]
    for (kind, name), offset in state.names.items():
        text = name.encode("utf-8", "surrogateescape")
        parts.append(_NAME.pack(offset, KINDS.index(kind), len(text)) + text)
    sizes = (len(state.starts or ()), *counts, len(state.names))
    return sealed(b"".join([_HEADER.pack(_MAGIC, VERSION, _ORDER_MARK, key, *sizes), *parts]))


def sealed(data: bytes) -> bytes:
    """The content of a file with its checksum."""
    return data + _CHECKSUM.pack(zlib.crc32(data))


def _decode(data: bytes, key: bytes, size: int) -> _State:
    """Raises ValueError or struct.error for a file that is damaged, or of another version or build."""
    end = len(data) - _CHECKSUM.size
    magic, version, mark, found, units, *counts, names = _HEADER.unpack_from(data)
    if (magic, version, mark, found) != (_MAGIC, VERSION, _ORDER_MARK, key) or data != sealed(data[:end]):
        raise ValueError("not what was written")
    body = memoryview(data)[_HEADER.size : end]
    state, at = _State(), 0
    starts, at = _numbers(body, at, units)
    if starts and starts[-1] >= size:
        raise ValueError("a unit beyond the end")
    state.starts = starts or None
    for number, count in enumerate(counts):
        if count != NO_TABLE:
            low, at = _numbers(body, at, count)
            high, at = _numbers(body, at, count)
            owner, at = _numbers(body, at, count)
            state.tables[number] = low, high, owner
    for _ in range(names):
        offset, kind, length = _NAME.unpack_from(body, at)
        at += _NAME.size + length
        state.names[KINDS[kind], bytes(body[at - length : at]).decode("utf-8", "surrogateescape")] = offset
    return state


def _numbers(body: memoryview, at: int, count: int) -> tuple[array[int], int]:
    end = at + 8 * count
    if end > len(body):
        raise ValueError("it is cut")
    numbers = array("Q")
    numbers.frombytes(body[at:end])
    return numbers, end
