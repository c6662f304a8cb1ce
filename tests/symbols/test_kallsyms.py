"""kcrash.symbols.kallsyms on tables that tests.build.kallsyms writes: every form, and broken ones."""

from __future__ import annotations

import random
import struct
import time
from collections import defaultdict

import pytest

from kcrash.dump.vmcoreinfo import parse_vmcoreinfo
from kcrash.errors import CorruptData, FaultReason, KcrashError, MemoryFault
from kcrash.memory.space import AddressSpace
from kcrash.symbols.kallsyms import KallsymsSymbols, Tables, kallsyms_of_vmcoreinfo, tables_of_vmcoreinfo
from kcrash.symbols.table import plain_name
from tests.build.kallsyms import ENCODINGS, Entry, Kallsyms

TEXT = {64: 0xFFFFFFFF9AE00000, 32: 0xC1000000}
TABLES = {64: 0xFFFFFFFF9B100CD8, 32: 0xC1300CD8}
LONG = "Z" + "".join(random.Random(5).choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(300))


class Bytes(AddressSpace):
    """Memory that is one run of bytes."""

    def __init__(self, base: int, data: bytes, order: str = "<", bits: int = 64) -> None:
        super().__init__("test", "little" if order == "<" else "big", bits // 8)
        self.base, self.data = base, data

    def read(self, address: int, size: int) -> bytes:
        at = address - self.base
        if at < 0 or at + size > len(self.data):
            raise MemoryFault(self.name, address, FaultReason.NOT_IN_DUMP)
        return self.data[at : at + size]


def entries(bits: int = 64, count: int = 1500, per_cpu: bool = False) -> list[Entry]:
    """A kernel's symbols, some of them by the same name or at the same address."""
    text, chance = TEXT[bits], random.Random(count)
    found = [(text, "T", "_text"), (text, "T", "_stext"), (text + 0x40, "T", "startup_64")]
    found += [(text + 0x200000, "D", "init_uts_ns"), (text + 0x700000, "B", "_end")]
    found += [(text + 0x5000, "t", "helper"), (text + 0x9000, "t", "helper"), (text + 0xA000, "T", "helper")]
    found += [(text + 0x5100, "t", "worker.isra.0"), (text + 0x5200, "t", LONG)]
    found += [(text + 0x6000 + 16 * i, "d", f"__key.{i}") for i in range(40)]
    stems = ("tcp_get_page", "sys_open", "alloc_struct", "init_mutex", "x", "__put_lock")
    while len(found) < count:
        name = f"{chance.choice(stems)}{chance.randrange(1 << 30):x}"
        found.append((text + chance.randrange(0x10000, 0x600000), chance.choice("tTdDrRbBVW"), name))
    if per_cpu:
        found += [(0, "A", "__per_cpu_start"), (0, "A", "fixed_percpu_data"), (0x6000, "A", "cpu_tss_rw")]
    return found


def plain(name: str) -> str:
    return plain_name(name.encode())


def made(tables: Kallsyms, keep: bool = False, **parts: bytes) -> KallsymsSymbols:
    """The symbols of the tables, as VMCOREINFO tells of these (``keep``: with markers and order of names)."""
    tables.parts = parts
    data, places = tables.build(TABLES[tables.bits])
    if not keep:
        places = places._replace(markers=None, seqs_of_names=None)
    return KallsymsSymbols(Bytes(TABLES[tables.bits], data, tables.order, tables.bits), places)


FORMS = [
    (encoding, order, bits, new, seqs)
    for encoding in ENCODINGS
    for order in "<>"
    for bits in (64, 32)
    for new in (True, False)
    for seqs in (True, False)
    if not (bits == 64 and encoding == "direct") and not (bits == 32 and encoding == "per-cpu")
]


@pytest.mark.parametrize(("encoding", "order", "bits", "new", "seqs"), FORMS)
def test_every_form(encoding: str, order: str, bits: int, new: bool, seqs: bool) -> None:
    wanted = entries(bits, per_cpu=encoding == "per-cpu")
    tables = Kallsyms(wanted, encoding, order, bits, new, seqs)
    symbols = made(tables)
    assert (symbols._seqs is not None) == seqs
    for address, letter, name in wanted:
        assert (name, address, letter) in [(s.name, s.address, s.type) for s in symbols.symbols_named(name)]
    assert [(s.address, s.name) for s in symbols.all()] == sorted((a, plain(n)) for a, _letter, n in wanted)
    assert symbols.image == (TEXT[bits], TEXT[bits] + 0x700000)


@pytest.mark.parametrize("align", [4, 8])
@pytest.mark.parametrize("count", [40, 256, 257, 511, 512, 513])
def test_tables_of_any_size(align: int, count: int) -> None:
    """The markers are found behind the names whatever the padding between them."""
    wanted = entries(count=count)
    for new in (True, False):
        symbols = made(Kallsyms(wanted, "place", align=align, new_order=new))
        assert symbols._seqs is not None
        assert len(symbols.all()) == len(wanted)
        assert {s.name for s in symbols.all()} == {plain(name) for _address, _letter, name in wanted}


def test_words_of_old_kernels() -> None:
    for order in "<>":
        symbols = made(
            Kallsyms(entries(), "absolute", order, long_words=True, new_order=False, seqs=False), True
        )
        assert symbols.link_address("init_uts_ns") == TEXT[64] + 0x200000
        assert len(symbols._markers) == 6


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def table(request: pytest.FixtureRequest) -> KallsymsSymbols:
    return made(Kallsyms(entries(), seqs=request.param))


def test_by_name(table: KallsymsSymbols) -> None:
    text = TEXT[64]
    assert [s.address - text for s in table.symbols_named("helper")] == [0x5000, 0x9000, 0xA000]
    helper = table.symbol("helper")
    assert helper is not None
    assert helper.type == "T", "the global one is what the name means"
    assert table.symbol("helpe") is None
    assert table.symbol("") is None
    assert table.symbol("zzz") is None
    assert table.symbol("\N{SNOWMAN}") is None
    part = table.symbol("worker")
    assert part is not None
    assert (part.name, part.address) == ("worker", text + 0x5100)
    assert [s.address for s in table.symbols_named("__key.17")] == [text + 0x6000 + 16 * 17]
    assert table.symbols_named("__key") == []
    long = table.symbol(LONG)
    assert long is not None
    assert long.address == text + 0x5200


def test_by_address(table: KallsymsSymbols) -> None:
    text, names = TEXT[64], defaultdict[int, list[str]](list)
    for address, _letter, name in entries():
        names[address].append(plain(name))
    starts = sorted(names)
    for below, start, above in zip(starts, starts[1:], starts[2:], strict=False):
        found, inside = table.at(start), table.at(above - 1)
        assert found is not None
        assert (found.name, found.address, found.size) == (min(names[start]), start, above - start)
        assert inside is not None
        assert (inside.name, inside.address) == (
            max(names[start]) if above - start > 1 else found.name,
            start,
        )
        low, high = table.neighbours(start)
        assert low is not None
        assert high is not None
        assert (low.address, high.address) == (below, above)
    assert table.at(text - 1) is None
    first, last = table.neighbours(text)[0], table.neighbours(text + 0x700000)[1]
    assert first is last is None
    stext = table.at(text + 5)
    assert stext is not None
    assert stext.name == "_text", "the last by name for an address inside"


def test_bias() -> None:
    symbols = made(Kallsyms(entries(per_cpu=True), "per-cpu"))
    symbols.bias = 0x19E00000
    assert symbols.link_address("_stext") == 0xFFFFFFFF81000000
    assert symbols.link_address("cpu_tss_rw") == 0x6000, "per-CPU offsets do not move"
    assert symbols.link_address("nothing") is None
    assert symbols.image == (0xFFFFFFFF81000000, 0xFFFFFFFF81700000)


def test_per_cpu_gap_is_no_size() -> None:
    symbols = made(Kallsyms(entries(per_cpu=True), "per-cpu"))
    last = symbols.symbol("cpu_tss_rw")
    assert last is not None
    assert (last.address, last.type, last.size) == (0x6000, "A", 0)


def test_text_only() -> None:
    """Without CONFIG_KALLSYMS_ALL there is no _end: the last symbol ends the image."""
    wanted = [entry for entry in entries() if entry[1] in "tT"]
    symbols = made(Kallsyms(wanted, "base"))
    assert symbols.image == (TEXT[64], max(address for address, _letter, _name in wanted) + 1)


def test_names_ordered_without_suffix() -> None:
    """clang's LTO, until v6.6: names are ordered as if they ended at their first dot, then by address."""
    text = TEXT[64]
    wanted = [
        *entries(),
        (text + 0x100, "t", "lto.llvm.777"),
        (text + 0x200, "T", "lto"),
        (text + 0x300, "t", "lton"),
    ]
    tables = Kallsyms(wanted)
    names = [name.split(".")[0].encode() for _address, _letter, name in tables.entries]
    order = sorted(range(tables.count), key=lambda number: (names[number], number))
    symbols = made(tables, seqs_of_names=b"".join(number.to_bytes(3, "big") for number in order))
    assert symbols._seqs is not None
    for address, _letter, name in wanted:
        assert address in [symbol.address for symbol in symbols.symbols_named(name)], name


# -- VMCOREINFO


def vmcoreinfo(places: Tables, **more: int) -> bytes:
    lines = [f"SYMBOL(kallsyms_{name})={address:x}" for name, address in places._asdict().items() if address]
    return "\n".join(
        ["OSRELEASE=7.2", *lines, *(f"SYMBOL({name})={value:x}" for name, value in more.items())]
    ).encode()


def test_of_vmcoreinfo() -> None:
    data, places = Kallsyms(entries(), "place").build(TABLES[64])
    memory = Bytes(TABLES[64], data)
    info = parse_vmcoreinfo(vmcoreinfo(places._replace(markers=None, seqs_of_names=None), _stext=TEXT[64]))
    symbols = kallsyms_of_vmcoreinfo(memory, info)
    assert symbols is not None
    assert symbols.link_address("_end") == TEXT[64] + 0x700000
    assert kallsyms_of_vmcoreinfo(memory, parse_vmcoreinfo(b"OSRELEASE=5.10\nSYMBOL(_stext)=0\n")) is None
    assert tables_of_vmcoreinfo(parse_vmcoreinfo(vmcoreinfo(places._replace(offsets=None)))) is None


def test_contradicts_vmcoreinfo() -> None:
    data, places = Kallsyms(entries(), "base").build(TABLES[64])
    info = parse_vmcoreinfo(vmcoreinfo(places, _stext=TEXT[64] + 0x200000))
    with pytest.raises(CorruptData, match="make no sense"):
        kallsyms_of_vmcoreinfo(Bytes(TABLES[64], data), info)


# -- hostile tables


def broken(**parts: bytes) -> None:
    """Whatever is asked of such tables, the answer is an answer or a KcrashError, and comes soon."""
    began = time.monotonic()
    for keep in (True, False):
        try:
            symbols = made(Kallsyms(entries(count=600)), keep, **parts)
            symbols.symbol("helper")
            symbols.symbol("nothing")
            symbols.at(TEXT[64] + 0x5004)
            symbols.neighbours(TEXT[64] + 0x5000)
            symbols.all()
        except KcrashError:
            pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("count", [0, 1, 599, 601, 70000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wrong_number(count: int) -> None:
    broken(num_syms=struct.pack("<I", count))


def test_absurd_number_is_refused() -> None:
    with pytest.raises(CorruptData, match="4294967295 symbols"):
        made(Kallsyms(entries()), num_syms=b"\xff" * 4)
    with pytest.raises(CorruptData, match="names in"):
        made(Kallsyms(entries()), num_syms=struct.pack("<I", 1 << 20))


def test_lengths_beyond_the_table() -> None:
    size = len(Kallsyms(entries(count=600))._names()[0])
    for filler in (b"\0", b"\xff", b"\x01", b"\x7f", b"\x80\x08"):
        broken(names=(filler * size)[:size])


def test_markers_that_loop() -> None:
    for values in ([0, 0, 0], [0, 5, 10], [7, 7, 7], [0, 0xFFFFFFFF, 1], [0, 1 << 20, 1 << 21]):
        markers = struct.pack("<3I", *values)
        broken(markers=markers)
        with pytest.raises(CorruptData, match="markers"):
            made(Kallsyms(entries(count=600)), True, markers=markers)


def test_broken_tokens() -> None:
    for index in (b"\xff" * 512, bytes(512), struct.pack("<256H", *range(65535, 65535 - 256, -1))):
        broken(token_index=index)
    size = len(Kallsyms(entries())._token_tables()[0])
    broken(token_table=b"x" * size)
    broken(token_table=bytes(size))


def test_broken_order_of_names_is_not_used() -> None:
    for value in (b"\xff\xff\xff", b"\0\0\0"):
        symbols = made(Kallsyms(entries(count=600)), True, seqs_of_names=value * 600)
        found = symbols.symbol("helper")
        assert found is not None or symbols._seqs is not None
    chance = random.Random(3)
    for _ in range(5):
        broken(seqs_of_names=chance.randbytes(1800))


def test_addresses_that_fall() -> None:
    values = struct.pack("<600I", *range(600000, 0, -1000))
    with pytest.raises(CorruptData, match="make no sense"):
        made(Kallsyms(entries(count=600)), offsets=values)
    broken(offsets=random.Random(4).randbytes(2400))
    broken(offsets=bytes(2400))


def test_random_bytes() -> None:
    chance, tables = random.Random(6), Kallsyms(entries(count=600))
    data, places = tables.build(TABLES[64])
    for _ in range(60):
        bad = bytearray(data)
        for _ in range(chance.choice((1, 10, 1000))):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        try:
            symbols = KallsymsSymbols(Bytes(TABLES[64], bytes(bad)), places._replace(markers=None))
            symbols.symbol("helper")
            symbols.all()
        except KcrashError:
            pass


def test_outside_of_memory() -> None:
    data, places = Kallsyms(entries()).build(TABLES[64])
    for name in ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base"):
        for address in (0, TABLES[64] + len(data) - 3, (1 << 64) - 8):
            with pytest.raises((CorruptData, MemoryFault)):
                KallsymsSymbols(Bytes(TABLES[64], data), places._replace(**{name: address}))
