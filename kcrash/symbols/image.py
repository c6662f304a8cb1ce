"""Sections of the kernel, from its vmlinux or out of its own memory.

A running kernel keeps some of its sections: BTF, the ORC tables. The linker
script brackets them by symbols (include/asm-generic/vmlinux.lds.h), so a dump
alone gives what a vmlinux would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kcrash.errors import MemoryFault
from kcrash.symbols.elffile import ElfFile

MAX_SECTION = 1 << 28


class Piece(NamedTuple):
    """The bytes of a section; ``address``: where they stand in the dead machine; ``file``: for messages."""

    data: bytes | memoryview
    address: int
    file: str


class KernelImage(Protocol):
    """Where sections come from."""

    def section(self, name: str) -> Piece | None:
        """A section by its ELF name, or None. Raises BadFormat for a broken file."""


class FileImage:
    """Sections of a vmlinux; ``bias``: what KASLR added to its addresses."""

    def __init__(self, elf: ElfFile, bias: int = 0) -> None:
        self.elf = elf
        self.bias = bias

    def section(self, name: str) -> Piece | None:
        """See KernelImage."""
        data = self.elf.section_data(name)
        if data is None or not len(data):
            return None
        found = self.elf.sections.get(name)
        return Piece(data, (found.addr if found else 0) + self.bias, self.elf.path)


# Symbols around sections that stay in memory. Linux commit 341dfcf8d78e ("btf: expose BTF info through
# sysfs") in v5.4 brought .BTF's, under other names; commit 90ceddcb4950 ("bpf: Support llvm-objcopy for
# vmlinux BTF") in v5.7 these.
_BRACKETS = {
    ".BTF": ("__start_BTF", "__stop_BTF"),
    ".orc_unwind_ip": ("__start_orc_unwind_ip", "__stop_orc_unwind_ip"),
    ".orc_unwind": ("__start_orc_unwind", "__stop_orc_unwind"),
    ".orc_header": ("__start_orc_header", "__stop_orc_header"),
    ".ARM.unwind_idx": ("__start_unwind_idx", "__stop_unwind_idx"),
}


class MemoryImage:
    """Sections out of kernel memory; ``find``: address of a kernel symbol; ``read``: kernel memory."""

    def __init__(self, find: Callable[[str], int | None], read: Callable[[int, int], bytes]) -> None:
        self._find = find
        self._read = read

    def section(self, name: str) -> Piece | None:
        """See KernelImage; None too where the memory is not in the dump."""
        if name not in _BRACKETS:
            return None
        start, end = (self._find(symbol) for symbol in _BRACKETS[name])
        if start is None or end is None or not 0 < end - start <= MAX_SECTION:
            return None
        try:
            return Piece(self._read(start, end - start), start, f"{name} in memory")
        except MemoryFault:
            return None


class FirstOf:
    """Several images asked in turn."""

    def __init__(self, *images: KernelImage) -> None:
        self._images = images

    def section(self, name: str) -> Piece | None:
        """See KernelImage."""
        found = (image.section(name) for image in self._images)
        return next((piece for piece in found if piece is not None), None)
