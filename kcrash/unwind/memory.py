"""Reading stacks: a block at a time, not a word at a time."""

from __future__ import annotations

from kcrash.errors import MemoryFault
from kcrash.unwind.target import MemoryReader, Target

STACK_BLOCK = 16_384  # a task's stack on most 64-bit machines, and aligned as they are
PAGE = 4_096
MAX_BLOCKS = 64


class BlockReader:
    """A reader over another one that fetches aligned blocks and keeps a few of them.

    Where a block cannot be read as a whole, its pages are, and where a page
    cannot, just the bytes that were asked for. Made anew for each trace, so that
    a running machine is read afresh.
    """

    def __init__(self, memory: MemoryReader, target: Target, block: int = STACK_BLOCK) -> None:
        self._memory = memory
        self._unpack = target.word.unpack_from
        self._word_bytes = target.word_bytes
        self._mask = target.mask
        self._widths = (block, PAGE)
        self._blocks: dict[tuple[int, int], bytes | None] = {}
        self._base, self._last = 0, -1  # the block used last, and the last offset of a word in it
        self._data = b""

    def word(self, address: int) -> int:
        """The unsigned word at an address. Raises MemoryFault."""
        offset = address - self._base
        if 0 <= offset <= self._last:
            value: int = self._unpack(self._data, offset)[0]
            return value
        return self._far_word(address)

    def _far_word(self, address: int) -> int:
        base, data = self._find(address, self._word_bytes)
        if len(data) > self._word_bytes:
            self._base, self._data, self._last = base, data, len(data) - self._word_bytes
        value: int = self._unpack(data, address - base)[0]
        return value

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises MemoryFault."""
        base, data = self._find(address & self._mask, size)
        return data[address - base : address - base + size]

    def _find(self, address: int, size: int) -> tuple[int, bytes]:
        for width in self._widths:
            base = address & -width
            data = self._block(base, width) if address + size <= base + width else None
            if data is not None:
                return base, data
        return address, self._memory.read(address, size)

    def _block(self, base: int, width: int) -> bytes | None:
        key = base, width
        if key not in self._blocks:
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = self._try(base, width)
        return self._blocks[key]

    def _try(self, base: int, width: int) -> bytes | None:
        try:
            return self._memory.read(base, width)
        except MemoryFault:
            return None
