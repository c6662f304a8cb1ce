"""arm64's page tables of every granule, written by hand from the manual (DDI 0487, D8.2 and D8.3)."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kcrash.arch.arm64 import INVALID_BY_NG, PROT_NONE_BIT, code_pointer, make_paging, user_mode
from kcrash.arch.base import Entry, EntryKind, KernelLayout
from kcrash.errors import FaultReason, KcrashError, MemoryFault
from kcrash.memory.space import AddressSpace, PagedSpace

TOP = 0x8000_0000
# Granule, bits of address, and the lowest address bit that each level from the top resolves.
FORMS = [
    (12, 39, (30, 21, 12)),
    (12, 48, (39, 30, 21, 12)),
    (12, 52, (48, 39, 30, 21, 12)),
    (14, 36, (25, 14)),
    (14, 47, (36, 25, 14)),
    (14, 48, (47, 36, 25, 14)),
    (14, 52, (47, 36, 25, 14)),
    (16, 42, (29, 16)),
    (16, 48, (42, 29, 16)),
    (16, 52, (42, 29, 16)),
]


class Memory(AddressSpace):
    """Physical memory: what was not written is zero."""

    def __init__(self) -> None:
        super().__init__("physical", "little", 8)
        self.stored: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        return struct.pack(
            f"<{size // 8}Q", *(self.stored.get(at, 0) for at in range(address, address + size, 8))
        )


def output(address: int, granule: int, wide: bool) -> int:
    """The bits of a descriptor that hold an output address."""
    if granule == 16:
        return (address & (1 << 48) - 1) | (address >> 48) << 12
    if wide:
        return (address & (1 << 50) - 1) | (address >> 50) << 8
    return address


def mapped(
    granule: int, bits: int, lowest: tuple[int, ...], address: int, leaf: int, depth: int
) -> PagedSpace:
    """A space in which ``address`` is mapped: the descriptor ``leaf`` stands at level ``depth``."""
    memory, table, wide = Memory(), TOP, granule != 16 and bits > 48
    for number, low in enumerate(lowest[: depth + 1]):
        high = lowest[number - 1] if number else bits
        at = table + 8 * (address >> low & (1 << high - low) - 1)
        following = (
            0x10_0000_0000_0000 - (number + 1 << 20) if wide or bits > 48 else TOP + (number + 1 << 20)
        )
        memory.stored[at] = leaf if number == depth else output(following, granule, wide) | 3
        table = following
    return PagedSpace("kernel", memory, make_paging(granule, bits), TOP)


@pytest.mark.parametrize("granule, bits, lowest", FORMS)
@pytest.mark.parametrize("kernel", [False, True])
def test_a_page(granule: int, bits: int, lowest: tuple[int, ...], kernel: bool) -> None:
    wide = granule != 16 and bits > 48
    address = (1 << bits) - (5 << granule) - 0x123 + (-(1 << bits) & (1 << 64) - 1 if kernel else 0)
    physical = (0xF_F000_0000_0000 if bits == 52 else 0xF000_0000_0000) + (7 << granule)
    leaf = output(physical, granule, wide) | 0x60_0000_0000_0403 | (0 if wide else 0x300)
    space = mapped(granule, bits, lowest, address, leaf, len(lowest) - 1)
    assert space.translate(address) == physical + address % (1 << granule)
    assert [space.paging.levels[step.level].shift for step in space.walk(address)] == list(lowest)
    assert space.translate(address ^ 0xA5 << 56) == space.translate(address), "memory tags do not matter"
    with pytest.raises(MemoryFault):
        space.translate(address ^ 1 << granule)


@pytest.mark.parametrize("granule, bits, lowest", [form for form in FORMS if len(form[2]) > 2])
def test_a_block(granule: int, bits: int, lowest: tuple[int, ...]) -> None:
    depth = len(lowest) - 2
    physical = 3 << lowest[depth]
    space = mapped(granule, bits, lowest, 0x1234_5678, physical | 0x401, depth)
    assert space.translate(0x1234_5678) == physical + 0x1234_5678 % (1 << lowest[depth])


def test_addresses_of_fewer_bits_than_the_tables() -> None:
    """A kernel for 52 bits and pages of 64 KiB, on a CPU with 48."""
    paging = make_paging(16, 52, canonical=48)
    space = PagedSpace("kernel", Memory(), paging, TOP)
    assert space.canonical(0xFFFF_0000_0000_0000) and not space.canonical(0xFFFE_0000_0000_0000)
    assert paging.user_end == 1 << 48 and paging.levels[0].bits == 10


def test_hidden_pages_and_swap_entries() -> None:
    """pte_present_invalid() and __swp_type(), __swp_offset() of asm/pgtable.h in v6.12 and in v6.1."""
    newer, older = (make_paging(12, 48, hidden=form) for form in (INVALID_BY_NG, PROT_NONE_BIT))
    page = 0x4567_8000
    assert newer.decode(page | 1 << 11 | 0x440, 3) == Entry(EntryKind.LEAF, page)
    assert older.decode(page | 1 << 58 | 0x440, 3) == Entry(EntryKind.LEAF, page)
    swapped = 3 << 6 | 0x1234 << 12
    assert newer.decode(swapped, 3).kind is EntryKind.OTHER and newer.swap_entry is not None
    assert newer.swap_entry(swapped) == (3, 0x1234)
    swapped = 3 << 3 | 0x1234 << 8
    assert older.decode(swapped, 3).kind is EntryKind.OTHER and older.swap_entry is not None
    assert older.swap_entry(swapped) == (3, 0x1234)


@pytest.mark.parametrize("granule, bits, lowest", FORMS)
def test_a_whole_table_decodes_as_its_entries_do(granule: int, bits: int, lowest: tuple[int, ...]) -> None:
    paging, random = make_paging(granule, bits), np.random.default_rng(granule * bits)
    values = random.integers(0, 1 << 64, 500, "u8")
    values[::7] = 0
    assert paging.decode_table is not None
    present, addresses = paging.decode_table(values)
    for value, is_page, address in zip(values.tolist(), present.tolist(), addresses.tolist(), strict=True):
        entry = paging.decode(value, len(lowest) - 1)
        assert (entry.kind is EntryKind.LEAF) == is_page
        assert not is_page or entry.address == address


@pytest.mark.parametrize("granule, bits", [(13, 48), (12, 10), (12, 64), (14, 0), (16, 90)])
def test_forms_that_do_not_exist(granule: int, bits: int) -> None:
    with pytest.raises(KcrashError, match="pages of"):
        make_paging(granule, bits)


@pytest.mark.parametrize("bits", [39, 48, 52])
def test_authentication_codes_go(bits: int) -> None:
    layout = KernelLayout(0, 0, make_paging(12, bits), None, (), {"VA_BITS": bits})
    clean = code_pointer(layout)
    kernel, user = (1 << 64) - (1 << bits) + 0x1234, 0x5678
    assert clean(kernel) == kernel and clean(kernel ^ 0x5A << 56) == kernel
    assert clean(user | 0x5A << 56) == user


def test_who_is_in_user_mode() -> None:
    assert user_mode({"pstate": 0x8000_1000}) and user_mode({"pstate": 0x10})
    assert not user_mode({"pstate": 0x6040_00C5}) and not user_mode({"pstate": 9}) and not user_mode({})


def test_a_fault_names_the_tagged_address() -> None:
    space = PagedSpace("kernel", Memory(), make_paging(12, 48), TOP)
    with pytest.raises(MemoryFault) as caught:
        space.translate(0xF3FF_8000_0000_1000)
    assert caught.value.reason is FaultReason.NOT_MAPPED
