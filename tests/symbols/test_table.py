"""Symbol tables against binutils: a program made for it, the lab's kernels and modules, and broken files."""

from __future__ import annotations

import random
import re
import subprocess
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcrash.errors import BadFormat, MissingCodec
from kcrash.symbols.elffile import ElfFile
from kcrash.symbols.image import FileImage
from kcrash.symbols.table import ElfSymbols, object_symbols
from tests.lab import cache, kernels

ONE = """
static int twice(int n) { return n * 2; }
int reboot_now(void) { return twice(1); }
int now(void) { return 7; }
int w(void) __attribute__((weak));
int w(void) { return twice(2); }
const char linux_banner[] = "Linux";
long data_word = 5, bss_word;
static long counter;
extern int other(void);
long *place(void) { return &counter; }
void _start(void) { counter = reboot_now() + now() + w() + other(); }
"""
TWO = """
static long counter = 3;
static int twice(int n) { return n + n; }
int other(void) { return twice(3) + counter; }
int counter_two = 9;
int other_alias(void) __attribute__((alias("other")));
"""


class Nm(NamedTuple):
    """A line of nm."""

    address: int
    letter: str
    name: str


def nm(path: Path) -> list[Nm]:
    """The symbols that nm lists, by address."""
    text = subprocess.run(["nm", "-n", path], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^([0-9a-f]+) (\S) (\S+)$", text, re.M)
    return [Nm(int(address, 16), letter, name) for address, letter, name in found]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program of two files: local symbols of one name, names that are tails of others, aliases."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "one.c").write_text(ONE)
    (folder / "two.c").write_text(TWO)
    flags = ["-O0", "-g", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-Wl,--build-id"]
    argv = ["gcc", *flags, "-o", "program", "one.c", "two.c"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder / "program"


def test_every_symbol_is_nm_s(program: Path) -> None:
    table, listed = ElfSymbols(ElfFile(program)), nm(program)
    assert len(listed) > 15 and {entry.letter for entry in listed} >= set("TtWRDdBb")
    ours = {Nm(symbol.address, symbol.type, symbol.name) for symbol in table.all()}
    assert {entry for entry in ours if not entry.name.startswith(".")} == set(listed)


def test_names_of_several_symbols(program: Path) -> None:
    table, listed = ElfSymbols(ElfFile(program)), nm(program)
    for name in ("twice", "counter"):
        told = [entry.address for entry in listed if entry.name == name]
        assert len(told) == 2 and [symbol.address for symbol in table.symbols_named(name)] == told
    assert table.symbol("nosuch") is None and table.symbols_named("rebo") == [] and table.symbol("") is None


def test_names_that_are_tails_of_others(program: Path) -> None:
    """The linker keeps "now" within "reboot_now"."""
    strings = ElfFile(program).section_data(".strtab")
    assert strings is not None and b"\0now\0" not in bytes(strings) and b"reboot_now\0" in bytes(strings)
    listed = {entry.name: entry.address for entry in nm(program)}
    table = ElfSymbols(ElfFile(program))
    for name in ("now", "reboot_now", "w", "other"):
        symbol = table.symbol(name)
        assert symbol is not None and symbol.address == listed[name]


def test_a_bias_moves_all_of_the_image(program: Path) -> None:
    bias, table = 0x1000000, ElfSymbols(ElfFile(program), 0x1000000)
    for entry in nm(program):
        assert entry.address + bias in [symbol.address for symbol in table.symbols_named(entry.name)]
    assert table.link_address("now") == ElfSymbols(ElfFile(program)).link_address("now")


def test_addresses_within_functions_are_addr2line_s(program: Path) -> None:
    table = ElfSymbols(ElfFile(program))
    functions = [symbol for symbol in table.all() if symbol.type in "tTW" and symbol.size]
    places = [symbol.address + offset for symbol in functions for offset in range(0, symbol.size, 3)]
    argv = ["addr2line", "-f", "-e", str(program), *map(hex, places)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[::2]
    aliases = {"other_alias": "other"}
    for place, name in zip(places, said, strict=True):
        found = table.at(place)
        assert found is not None and aliases.get(found.name, found.name) == name


def test_sections_are_objcopy_s(program: Path, tmp_path: Path) -> None:
    for name in (".text", ".rodata", ".debug_info", ".debug_str"):
        target = tmp_path / "section"
        argv: list[str | Path] = ["objcopy", "--dump-section", f"{name}={target}", program, "/dev/null"]
        subprocess.run(argv, check=True, capture_output=True)
        data = ElfFile(program).section_data(name)
        assert data is not None and bytes(data) == target.read_bytes(), name
    piece = FileImage(ElfFile(program), 0x100).section(".text")
    told = re.search(r"\.text +PROGBITS +(\w+)", readelf("-SW", program))
    assert piece is not None and told is not None and piece.address == int(told[1], 16) + 0x100


@pytest.mark.parametrize("kind", ["zlib", "zstd", "zlib-gnu"])
def test_compressed_sections(program: Path, tmp_path: Path, kind: str) -> None:
    packed = tmp_path / kind
    argv: list[str | Path] = ["objcopy", f"--compress-debug-sections={kind}", program, packed]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this objcopy has no {kind}: {done.stderr}")
    for name in (".debug_info", ".debug_str", ".debug_line"):
        plain, unpacked = ElfFile(program).section_data(name), ElfFile(packed).section_data(name)
        assert plain is not None and unpacked is not None and bytes(plain) == bytes(unpacked)


def test_the_build_id_is_readelf_s(program: Path) -> None:
    found = re.search(r"Build ID: (\w+)", readelf("-n", program))
    assert found is not None and ElfFile(program).build_id == found[1]


def readelf(*words: str | Path) -> str:
    return subprocess.run(["readelf", *words], capture_output=True, text=True, check=True).stdout


# -- kernels and their modules


@pytest.fixture(scope="module", params=tuple(kernels.SUITES))
def kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    """A kernel of the lab."""
    if not (cache.root() / "kernels" / f"{request.param}.json").exists():
        pytest.skip(f"NO LAB: python -m tests.lab --kernel {request.param} makes it")
    return kernels.kernel(request.param)


@pytest.fixture(scope="module")
def listed(kernel: kernels.Kernel) -> list[Nm]:
    """nm's list of the vmlinux."""
    return nm(kernel.vmlinux)


@pytest.fixture(scope="module")
def table(kernel: kernels.Kernel) -> ElfSymbols:
    return ElfSymbols(ElfFile(kernel.vmlinux))


@pytest.mark.lab
def test_a_kernel_s_names(listed: list[Nm], table: ElfSymbols) -> None:
    """Of 1,000 random names: every symbol of that name, with nm's letter."""
    named = defaultdict(list)
    for entry in listed:
        if entry.letter not in "aA" and "." not in entry.name:
            named[entry.name].append((entry.address, entry.letter))
    assert len(named) > 80_000
    for name in random.Random("names").sample(sorted(named), 1000):
        ours = [(symbol.address, symbol.type) for symbol in table.symbols_named(name)]
        assert sorted(ours) == sorted(named[name]), name


@pytest.mark.lab
def test_a_kernel_s_addresses(listed: list[Nm], table: ElfSymbols) -> None:
    """Of 2,000 random addresses: the symbol at the highest address that nm lists below."""
    text = [entry for entry in listed if entry.letter in "tTwW" and entry.address > 1 << 63]
    first, last = text[0].address, text[-1].address
    known = [entry for entry in listed if first <= entry.address and entry.letter != "a"]
    places, names = [entry.address for entry in known], defaultdict(set)
    for entry in known:
        names[entry.address].add(entry.name)
    chance = random.Random("addresses")
    for address in (chance.randrange(first, last) for _ in range(2000)):
        found, below = table.at(address), places[bisect_right(places, address) - 1]
        assert found is not None
        if not found.name.startswith("."):  # sections count too
            assert found.address == below, hex(address)
            # As crash shows it: without what the compiler appended.
            assert any(re.match(rf"{re.escape(found.name)}(\.|$)", name) for name in names[below]), hex(
                address
            )


@pytest.mark.lab
def test_a_module_s_symbols(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """Functions and variables, at the addresses that its sections were given."""
    compared = 0
    for name in ("zram", "virtio_blk", "ext4"):
        data = kernel.module(name)
        if data is None:
            continue
        path = tmp_path / f"{name}.ko"
        path.write_bytes(data)
        elf = ElfFile(path)
        sections = {s.name: 0x10000 * s.index for s in elf.section_list if s.flags & 2 and s.name}
        ours = {(symbol.name, symbol.address, symbol.size) for symbol in object_symbols(elf, sections)}
        told = set(of_readelf(path, sections, {s.index: s.name for s in elf.section_list}))
        assert ours == told
        compared += len(told)
    assert compared > 150


def of_readelf(path: Path, sections: dict[str, int], names: dict[int, str]) -> Iterator[tuple[str, int, int]]:
    """``(name, address, size)`` of the functions and variables that readelf lists."""
    row = re.compile(r"^ *\d+: (\w+) +(\w+) (FUNC|OBJECT) +\w+ +\w+ +(\d+) (\S+)", re.M)
    for value, size, _kind, index, name in row.findall(readelf("-sW", path)):
        section = names[int(index)]
        plain = re.sub(r"\.(isra|part|llvm)\..*", "", name)
        if section in sections and sections[section] == 0x10000 * int(index):
            yield plain, sections[section] + int(value, 16), int(size, 0)


# -- broken files


def used(path: Path) -> None:
    """All that can be asked of an ELF file."""
    elf = ElfFile(path)
    for section in elf.section_list:
        with suppress(BadFormat, MissingCodec):
            elf.section_data(section.name)
    assert elf.build_id is None or int(elf.build_id, 16) >= 0
    table = ElfSymbols(elf)
    symbols = table.all()
    for symbol in symbols[:20]:
        assert table.at(symbol.address) is not None
        table.symbols_named(symbol.name)
        table.neighbours(symbol.address)
    list(object_symbols(elf, {section.name: 0 for section in elf.section_list}))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_flipped_headers(program: Path, tmp_path: Path, flips: list[tuple[float, int]], cut: bool) -> None:
    """Bytes of the ELF header, the section headers, the symbols and the notes: BadFormat, or it works."""
    data = bytearray(program.read_bytes())
    places = headers(program)
    for where, value in flips:
        data[places[int(where * (len(places) - 1))]] ^= value
    if cut:
        del data[int(flips[0][0] * len(data)) :]
    path = tmp_path / "broken"
    path.write_bytes(data)
    with suppress(BadFormat, MissingCodec):
        used(path)


def headers(program: Path) -> list[int]:
    """Offsets of the bytes that say how to read the file."""
    elf = ElfFile(program)
    start = int.from_bytes(elf.mm[40:48], "little")
    pieces = [range(64), range(start, start + 64 * len(elf.section_list))]
    for name in (".symtab", ".note.gnu.build-id"):
        section = elf.sections[name]
        pieces.append(range(section.offset, section.offset + section.size))
    return [place for piece in pieces for place in piece]


def test_what_is_no_elf_file(tmp_path: Path) -> None:
    for content in (b"", b"\x7fEL", b"\x7fELF" + bytes(12), b"hello world, this is text", bytes(4096)):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(BadFormat):
            ElfFile(path)


def test_a_stripped_file_says_so(program: Path, tmp_path: Path) -> None:
    subprocess.run(["strip", "-o", tmp_path / "stripped", program], check=True)
    with pytest.raises(BadFormat, match="stripped"):
        ElfSymbols(ElfFile(tmp_path / "stripped"))
