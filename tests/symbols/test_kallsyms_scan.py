"""kcrash.symbols.kallsyms_scan: tables of every form are found in a dump's memory, and nothing else is."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from kcrash.memory.space import PhysicalSpace
from kcrash.symbols.kallsyms import Tables
from kcrash.symbols.kallsyms_scan import find_kallsyms, find_tables, moved, token_indexes
from tests.build.elf_core import ElfCore, Load
from tests.build.kallsyms import Entry, Kallsyms
from tests.dump.helpers import opened
from tests.symbols.test_kallsyms import TEXT, entries

PHYSICAL = 0x3000000  # of _text
TABLES = 0x7FC68  # above it; a table of tokens crosses a page
BANNER = 0x4320
SIZE = 0x700000


def kernel(bits: int = 64, per_cpu: bool = False, count: int = 1500) -> list[Entry]:
    return [*entries(bits, count, per_cpu), (TEXT[bits] + BANNER, "D", "linux_banner")]


def physical_of(folder: Path, tables: Kallsyms, noise: bytes = b"") -> tuple[PhysicalSpace, Tables, int]:
    """Memory with a kernel image in it, where the tables lie, and what leads to the virtual address."""
    text = TEXT[tables.bits]
    data, places = tables.build(text + TABLES)
    image = bytearray(random.Random(9).randbytes(SIZE))
    image[BANNER : BANNER + 20] = b"Linux version 7.2.0 "
    image[TABLES : TABLES + len(data)] = data
    before = random.Random(8).randbytes(1 << 16) + noise
    loads = [Load(1 << 20, before + bytes(-len(before) % 4096)), Load(PHYSICAL, bytes(image))]
    core = ElfCore(loads, bits=tables.bits, order=tables.order, machine=62 if tables.bits == 64 else 3)
    space = PhysicalSpace(
        opened(folder, core.to_bytes()), "little" if tables.order == "<" else "big", tables.bits // 8
    )
    shift = text - PHYSICAL
    return space, Tables(*(None if p is None else p - shift for p in places)), shift  # type: ignore[arg-type]


FORMS = [
    (encoding, order, bits, new)
    for encoding in ("absolute", "base", "per-cpu", "place")
    for order in "<>"
    for bits in (64, 32)
    for new in (True, False)
    if not (bits == 32 and encoding == "per-cpu") and not (encoding == "place" and not new)
]


@pytest.mark.parametrize(("encoding", "order", "bits", "new"), FORMS)
@pytest.mark.parametrize("seqs", [True, False])
@pytest.mark.parametrize("count", [1500, 1501])
def test_every_form(
    tmp_path: Path, encoding: str, order: str, bits: int, new: bool, seqs: bool, count: int
) -> None:
    wanted = kernel(bits, encoding == "per-cpu", count)
    align = 4 if bits == 32 or encoding == "place" else 8
    space, places, shift = physical_of(
        tmp_path, Kallsyms(wanted, encoding, order, bits, new, seqs, align=align)
    )
    found = next(find_tables(space))
    if bits == 32 and encoding == "absolute" and new:  # the same as offsets that are the values themselves
        places = places._replace(offsets=places.addresses, addresses=None)
    assert found == places._replace(seqs_of_names=None)
    both = find_kallsyms(space)
    assert both is not None
    symbols, moved_by = both
    assert moved_by == (0 if encoding == "place" else shift)
    symbols = moved(symbols, shift)
    assert (symbols._seqs is not None) == seqs
    assert {(s.address, s.type) for s in symbols.all()} == {(a, letter) for a, letter, _name in wanted}


def test_words_of_old_kernels(tmp_path: Path) -> None:
    for order in "<>":
        tables = Kallsyms(kernel(), "absolute", order, long_words=True, new_order=False, seqs=False)
        space, places, shift = physical_of(tmp_path, tables)
        found = find_kallsyms(space)
        assert found is not None
        assert found[1] == shift
        assert found[0].tables._replace(num_syms=0) == places._replace(num_syms=0)


def test_first_where_it_is_thought_to_be(tmp_path: Path) -> None:
    space, places, _shift = physical_of(tmp_path, Kallsyms(kernel()))
    steps: list[tuple[int, int]] = []
    first = [(PHYSICAL, PHYSICAL + SIZE)]
    found = next(find_tables(space, first, lambda done, total: steps.append((done, total))))
    assert found.names == places.names
    assert not steps, "found before the first piece was done"


def test_another_kernels_tables_do_not_fit(tmp_path: Path) -> None:
    """Those of a kernel that was there before: no banner where they say."""
    other = Kallsyms([(a + 0x12345000, letter, name) for a, letter, name in kernel(count=3000)])
    data, _places = other.build(0)
    space, places, shift = physical_of(tmp_path, Kallsyms(kernel()), noise=data)
    assert len(list(find_tables(space))) == 2
    found = find_kallsyms(space)
    assert found is not None
    assert found[0].tables.names == places.names
    assert found[1] == shift


def test_no_shift_without_banner(tmp_path: Path) -> None:
    wanted = [entry for entry in kernel() if entry[2] != "linux_banner"]
    space, _places, _shift = physical_of(tmp_path, Kallsyms(wanted))
    assert find_kallsyms(space) is None
    endless = [(a if name != "_end" else (1 << 64) - 9, letter, name) for a, letter, name in kernel()]
    space, _places, _shift = physical_of(tmp_path, Kallsyms(endless, "absolute"))
    assert find_kallsyms(space) is None


def test_hostile_memory_takes_bounded_time(tmp_path: Path) -> None:
    """Ascending numbers all over, tokens with their index and nothing around them."""
    ramp = struct.pack("<4096H", *(3 * (i % 512) for i in range(4096)))
    table, index = Kallsyms(kernel())._token_tables()
    tokens = table + bytes(-len(table) % 8) + index
    markers = struct.pack("<300I", *(i * 1000 for i in range(300)))
    for filler in (ramp, tokens, index, markers + tokens, markers * 7 + tokens):
        data = filler * ((1 << 21) // len(filler))
        core = ElfCore([Load(1 << 20, data + bytes(-len(data) % 4096))])
        space = PhysicalSpace(opened(tmp_path, core.to_bytes()), "little", 8)
        began = time.monotonic()
        assert find_kallsyms(space) is None
        assert time.monotonic() - began < 60


def test_random_damage(tmp_path: Path) -> None:
    chance, tables = random.Random(2), Kallsyms(kernel(count=1200))
    data, _places = tables.build(0x200000)
    for _ in range(30):
        bad = bytearray(data + bytes(-len(data) % 4096))
        for _ in range(chance.choice((1, 5, 300))):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        space = PhysicalSpace(opened(tmp_path, ElfCore([Load(0x200000, bytes(bad))]).to_bytes()), "little", 8)
        list(find_tables(space))


def test_index_at_the_edges_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcrash.dump.scan.PIECE", 4096)
    _table, index = Kallsyms(kernel())._token_tables()
    for at in (0, 4, 3584, 3588, 4092, 4096, 8192 - 512):
        memory = bytearray(b"\xff" * 16384)
        memory[at : at + 512] = index
        space = PhysicalSpace(opened(tmp_path, ElfCore([Load(0, bytes(memory))]).to_bytes()), "little", 8)
        assert list(token_indexes(space)) == [at]
