"""zswap: swapped-out pages, compressed in memory before they go to the swap area (mm/zswap.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kcrash.errors import CorruptData, KcrashError
from kcrash.linux.compressors import Decompress, Packed, Stored, codec
from kcrash.linux.module_types import module_types
from kcrash.linux.xarray import load
from kcrash.linux.zram_types import ZramDeclarations
from kcrash.linux.zsmalloc import Objects

if TYPE_CHECKING:
    from kcrash.session import Session

TRUNK_SHIFT = 14  # ZSWAP_ADDRESS_SPACE_SHIFT, once SWAP_ADDRESS_SPACE_SHIFT
MAX_DEPTH = 128
ENTRY = "struct zswap_entry"
POOL = "struct zswap_pool"


class Store(Protocol):
    """Where the compressed pages of a pool are."""

    def read(self, handle: int, size: int) -> bytes: ...


class _Buddies:
    """zbud: a handle is the address of the object itself (mm/zbud.c, until v6.15)."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def read(self, handle: int, size: int) -> bytes:
        return self.session.memory.read(handle, size)


class _Threefold:
    """z3fold: up to three objects a page, and a header before them (mm/z3fold.c, until v6.15).

    A handle is the address of a word: the page's, with the number of the object's slot in the lowest bits,
    and above them, of the page's last object, how many chunks it has. Of an object with a page of its own
    the handle is that page's address plus one.
    """

    FIRST, MIDDLE, LAST = 1, 2, 3
    CHUNKS = 64  # a page
    HEADER = "struct z3fold_header"

    def __init__(self, session: Session) -> None:
        self.session = session
        self.types = module_types(session, "z3fold", instead=ZramDeclarations())
        self.chunk = session.arch.page_size // self.CHUNKS
        self.start = (self.types.size(self.HEADER) + self.chunk - 1) & -self.chunk

    def read(self, handle: int, size: int) -> bytes:
        memory, page_size = self.session.memory, self.session.arch.page_size
        if handle & 1:
            return memory.read(handle & -page_size, size)
        word = memory.word(handle)
        page, inside = word & -page_size, word & page_size - 1
        offset = self._offset(page, inside)
        if not self.start <= offset <= page_size - size:
            raise CorruptData(f"z3fold: no object behind handle {handle:x}")
        return memory.read(page + offset, size)

    def _offset(self, page: int, inside: int) -> int:
        header = self.session.value(self.types.type(self.HEADER), page)
        buddy = (inside - int(header.first_num)) & 3
        if buddy == self.FIRST:
            return self.start
        if buddy == self.MIDDLE:
            return int(header.start_middle) * self.chunk
        return self.session.arch.page_size - (inside >> 2) * self.chunk if buddy == self.LAST else 0


class _Pool:
    """One ``struct zswap_pool``: a store and a compressor."""

    def __init__(self, session: Session, address: int) -> None:
        self.value = session.value(POOL, address)
        self.header = 0
        self.store = self._store(session)
        self.expand: Decompress = codec(self.value.tfm_name.string_(128).decode("latin-1"))

    def _store(self, session: Session) -> Store:
        """zsmalloc alone since Linux commit 5c3f8be0c6b1 ("mm: zswap: interact directly with zsmalloc").

        Of the pools that v6.5 to v6.8 have (zpools), the first: they differ in nothing that reading asks.
        """
        if self.value.has_("zs_pool"):
            return Objects(session, int(self.value.zs_pool))
        pool = self.value.zpools[0] if self.value.has_("zpools") else self.value.zpool
        # Until v6.6 an object began with its swp_entry_t, in pools that could write back (zswap_header).
        if pool.has_("evictable") and int(pool.evictable):
            self.header = session.arch.word_bytes
        kind = pool.driver.type.string_(32).decode("latin-1")
        if kind == "zsmalloc":
            return Objects(session, int(pool.pool))
        if kind == "zbud":
            return _Buddies(session)
        if kind == "z3fold":
            return _Threefold(session)
        raise KcrashError(f"zswap: pages that {kind!r} keeps cannot be read")


class Zswap:
    """The zswap of a session. ``trees``: address of zswap_trees[]."""

    def __init__(self, session: Session, trees: int) -> None:
        self.session = session
        self.trees = trees
        types = session.types
        self.by_offset = types.has(ENTRY, "rbnode")
        self.trunks = session.symbols.find_kernel("nr_zswap_trees") is not None
        self._fields = types.reader(ENTRY, "length", "handle", "pool")
        self._pools: dict[int, _Pool] = {}

    def locate(self, type_: int, offset: int) -> Stored | None:
        """The page at an offset of a swap area; None if zswap does not have it. Raises KcrashError."""
        tree = self.session.memory.word(self.trees + type_ * self.session.arch.word_bytes)
        entry = self._find(tree, offset) if tree else None
        if entry is None:
            return None
        fields = self._fields
        length, handle, pool = fields(self.session.memory.read(entry + fields.start, fields.size))
        return self._stored(length, handle, pool)

    def _stored(self, length: int, handle: int, pool: int) -> Stored:
        size = self.session.arch.page_size
        if not length:  # pages of one value had no object until v6.12, and no length
            word = self.session.arch.word_bytes
            value: bytes = handle.to_bytes(word, self.session.arch.byte_order)  # type: ignore[arg-type]
            return lambda: Packed(value * (size // word), size)
        if length > size:
            raise CorruptData(f"zswap: a page claims {length} bytes")
        if pool not in self._pools:
            self._pools[pool] = _Pool(self.session, pool)
        made = self._pools[pool]
        expand = made.expand if length < size else None
        return lambda: Packed(made.store.read(handle, made.header + length)[made.header :], size, expand)

    # -- its trees

    def _find(self, tree: int, offset: int) -> int | None:
        """Linux commit 44c7c734a513 ("mm/zswap: split zswap rb-tree") in v6.9 made a tree of 64 MiB each of
        one, Linux commit 796c2c23e14e ("zswap: replace RB tree with xarray") in v6.10 made them XArrays."""
        types = self.session.types
        if self.trunks:
            one = "struct rb_root" if self.by_offset else "struct xarray"
            tree += (offset >> TRUNK_SHIFT) * types.size(one)
        if self.by_offset:
            return self._in_rb_tree(tree, offset)
        found = load(self.session, tree, offset)
        return None if found is None or found.is_value else found.entry

    def _in_rb_tree(self, tree: int, offset: int) -> int | None:
        types, word = self.session.types, self.session.memory.word
        left, right = types.offset("struct rb_node", "rb_left"), types.offset("struct rb_node", "rb_right")
        inside = types.offset(ENTRY, "rbnode")
        key = types.offset(ENTRY, types.first_member(ENTRY, ("swpentry.val", "offset")) or "offset")
        mask = (1 << (self.session.arch.word_bits - 6)) - 1  # SWP_OFFSET_MASK
        node = word(tree)
        for _ in range(MAX_DEPTH):
            if not node:
                return None
            entry = node - inside
            at = word(entry + key) & mask
            if at == offset:
                return entry
            node = word(node + (left if offset < at else right))
        raise CorruptData("zswap: a tree without end")


def zswap(session: Session) -> Zswap | None:
    """The session's zswap; None if this kernel has none, or it was never used."""
    trees = session.symbols.find_kernel("zswap_trees")
    if trees is None or not session.types.has(ENTRY):
        return None
    return session.reading("zswap", lambda: Zswap(session, trees))
