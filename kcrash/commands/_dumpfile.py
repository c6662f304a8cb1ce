"""The dump file itself as memory, for ``-f``: addresses are offsets into it."""

from __future__ import annotations

from pathlib import Path

from kcrash.errors import FaultReason, MemoryFault
from kcrash.memory.space import AddressSpace
from kcrash.session import Session


class FileSpace(AddressSpace):
    """The dump file itself, byte by byte."""

    def __init__(self, session: Session) -> None:
        super().__init__("dump file", session.arch.byte_order, session.arch.word_bytes)
        self.path = Path(session.dump.path)

    def read(self, address: int, size: int) -> bytes:
        if address >= self.path.stat().st_size:
            raise MemoryFault(self.name, address, FaultReason.TRUNCATED)
        with self.path.open("rb") as file:
            file.seek(address)
            data = file.read(size)
        if len(data) < size:
            raise MemoryFault(self.name, address + len(data), FaultReason.TRUNCATED)
        return data
