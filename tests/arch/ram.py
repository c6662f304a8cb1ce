"""Memory of words for tests of page tables and stacks: what was not written is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kcrash.dump.base import DumpInfo, PhysicalRange
from kcrash.memory.space import AddressSpace

if TYPE_CHECKING:
    from kcrash.dump.base import Dump


class Ram(AddressSpace):
    """``width``: bytes of a word that put() writes; ``ranges``: physical memory that there is."""

    def __init__(self, width: int, *ranges: tuple[int, int]) -> None:
        super().__init__("physical", "little", 4)
        self.stored: dict[int, int] = {}
        self.path, self.info = "ram", DumpInfo("test", "little", 32)
        self._width = width
        self._ranges = [PhysicalRange(*one) for one in ranges or ((0, 1 << 30),)]

    def put(self, address: int, value: int) -> Ram:
        """Store a word; the memory itself, for more of them."""
        for at, byte in enumerate(value.to_bytes(self._width, "little")):
            self.stored[address + at] = byte
        return self

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.stored.get(at, 0) for at in range(address, address + size))

    def ranges(self) -> list[PhysicalRange]:
        """As Dump's."""
        return self._ranges

    def dump(self) -> Dump:
        """As far as an architecture looks at a dump."""
        return cast("Dump", self)
