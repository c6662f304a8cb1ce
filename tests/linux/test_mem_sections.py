"""struct page arrays in pieces, as mm/sparse.c and the nodes of older kernels lay them out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kcrash.dump.base import PhysicalRange
from kcrash.errors import MemoryFault
from kcrash.linux.page import page_to_pfn, pfn_to_page
from kcrash.types.model import ArrayType, PointerType, Type
from tests.linux.synthetic import Kernel

BITS, FRAMES, SIZE = 26, 1 << 14, 64
MAPS = {1: 0xFFFF_8880_1000_0000, 3: 0xFFFF_8880_3000_0000}  # of two sections of memory


class Sparse(Kernel):
    """A kernel with 64 MiB a section, of which MAPS are there."""

    vmcoreinfo = None

    def __init__(self) -> None:
        super().__init__()
        self.struct("page", words="unsigned long [8]")
        self.section = self.struct("mem_section", section_mem_map="unsigned long", usage="void *")
        self.layout = SimpleNamespace(constants={"SECTION_SIZE_BITS": BITS})
        self.arch.page_shift = 12  # type: ignore[attr-defined]
        self.dump: Any = SimpleNamespace(ranges=lambda: [PhysicalRange(1 << BITS, 4 << BITS)])
        self.declared: Type | None = None
        self.types.variable = lambda name, module="": self.declared  # type: ignore[method-assign]

    def sections(self, count: int) -> int:
        """An array of them: its address."""
        values = [(MAPS[n] - n * FRAMES * SIZE | 7, 0) if n in MAPS else (0, 0) for n in range(count)]
        return self.words(*(word for pair in values for word in pair))


def static(kernel: Sparse) -> None:
    kernel.symbol("mem_section", kernel.sections(4))
    kernel.declared = ArrayType(ArrayType(kernel.section, 1), 4)


def extreme(kernel: Sparse) -> None:
    kernel.symbol("mem_section", kernel.words(kernel.words(kernel.sections(256), 0)))
    kernel.declared = PointerType(PointerType(kernel.section, 8), 8)


def extreme_before_v4_15(kernel: Sparse) -> None:
    kernel.symbol("mem_section", kernel.words(kernel.sections(256), 0))
    kernel.declared = ArrayType(PointerType(kernel.section, 8), 2)


@pytest.mark.parametrize("make", [static, extreme, extreme_before_v4_15])
def test_sections(make: Any) -> None:
    kernel = Sparse()
    make(kernel)
    for number, start in MAPS.items():
        for frame in (0, 5, FRAMES - 1):
            pfn = number * FRAMES + frame
            assert pfn_to_page(kernel.session, pfn) == start + frame * SIZE
            assert page_to_pfn(kernel.session, start + frame * SIZE) == pfn
    for pfn in (5, 2 * FRAMES, 9 * FRAMES):
        with pytest.raises(MemoryFault, match="no mem_map"):
            pfn_to_page(kernel.session, pfn)
    assert page_to_pfn(kernel.session, MAPS[3] + FRAMES * SIZE) is None


def test_nodes() -> None:
    """struct pglist_data of kernels with DISCONTIGMEM."""
    kernel = Sparse()
    members = dict.fromkeys(("node_start_pfn", "node_spanned_pages", "node_mem_map"), "unsigned long")
    kernel.struct("pglist_data", **members)
    nodes = [
        kernel.new("struct pglist_data", node_start_pfn=start, node_spanned_pages=0x100, node_mem_map=at)
        for start, at in ((0, MAPS[1]), (0x40000, MAPS[3]))
    ]
    kernel.symbol("node_data", kernel.words(*nodes), size=16)
    assert pfn_to_page(kernel.session, 0x40005) == MAPS[3] + 5 * SIZE
    assert page_to_pfn(kernel.session, MAPS[1] + 7 * SIZE) == 7
    assert page_to_pfn(kernel.session, MAPS[1] + 0x100 * SIZE) is None
