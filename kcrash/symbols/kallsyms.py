"""The kernel's own symbol table, kallsyms, read out of its memory.

scripts/kallsyms.c writes the tables, kernel/kallsyms.c reads them. Symbols are
numbered by address. A name is a length and that many bytes, each of which
stands for one of 256 tokens; the first character of the expanded name is nm's
letter. ``kallsyms_markers`` says where every 256th name begins;
``kallsyms_seqs_of_names`` has the numbers in order of name.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

from kcrash.errors import CorruptData
from kcrash.symbols.table import CUT_AT, Symbol, plain_name

if TYPE_CHECKING:
    from kcrash.dump.vmcoreinfo import VmcoreInfo
    from kcrash.memory.space import AddressSpace

BLOCK = 256  # names between two markers
TOKENS = 256
MAX_SYMBOLS = 1 << 22
MAX_NAMES = 32 << 20  # bytes of compressed names
MAX_TOKEN = 512  # KSYM_NAME_LEN
MAX_CODES = 1024  # tokens a name
MAX_EXPANDED = 128 << 20  # bytes of all names
MAX_GROUP = 1024  # symbols at one address, or of one name, that are looked at
MAX_SIZE = 16 << 20  # a larger gap to the next symbol says nothing of a symbol's size
SAMPLES = 2048
# VMCOREINFO has these addresses, and every kallsyms one of these names.
ANCHORS = ("_stext", "init_uts_ns")
IMAGE_STARTS = ("_start", "_text", "_stext")  # riscv has code before _text

#: From a symbol's number to its address.
Reading = Callable[[int], int]


class Tables(NamedTuple):
    """Addresses of the tables in the space that they are read from; None: not there, or not known.

    Either ``addresses``, or ``offsets`` with a ``relative_base``, or ``offsets`` alone.
    """

    names: int
    num_syms: int
    token_table: int
    token_index: int
    addresses: int | None = None
    offsets: int | None = None
    relative_base: int | None = None
    markers: int | None = None
    seqs_of_names: int | None = None


def tables_of_vmcoreinfo(info: VmcoreInfo) -> Tables | None:
    """What VMCOREINFO says of the tables, None if nothing.

    Linux commits 5fd8fea935a1 ("vmcoreinfo: include kallsyms symbols") and f09bddbd8661
    ("vmcoreinfo: add kallsyms_num_syms symbol") in v6.0. Markers and order of names are not in it.
    """
    found = {name: info.symbols.get(f"kallsyms_{name}") for name in Tables._fields}
    needed = (found["names"], found["num_syms"], found["token_table"], found["token_index"])
    if None in needed or (found["addresses"] is None and found["offsets"] is None):
        return None
    return Tables(**found)  # type: ignore[arg-type]


def kallsyms_of_vmcoreinfo(memory: AddressSpace, info: VmcoreInfo) -> KallsymsSymbols | None:
    """The kernel's symbols by the tables that VMCOREINFO names, None if it names none.

    Raises CorruptData if the tables make no sense or contradict VMCOREINFO's own addresses,
    MemoryFault if they are not in the dump.
    """
    tables = tables_of_vmcoreinfo(info)
    return KallsymsSymbols(memory, tables, anchors=info.symbols) if tables else None


class KallsymsSymbols:
    """A SymbolTable (kcrash.symbols.table) of what the dump itself holds.

    ``memory``: the space that ``tables`` are addresses of. ``shift``: what to add
    to such an address for the kernel's virtual one (0 but for tables found in
    physical memory). ``anchors``: addresses that must come out. ``bias``: what
    KASLR added, where that is known: only :meth:`link_address` and
    :attr:`image` look at it. Sizes are the distance to the next symbol, 0 for the last of a range.

    Raises CorruptData or MemoryFault.
    """

    def __init__(
        self,
        memory: AddressSpace,
        tables: Tables,
        shift: int = 0,
        anchors: Mapping[str, int] | None = None,
        bias: int = 0,
    ) -> None:
        self.memory, self.tables, self.shift, self.bias = memory, tables, shift, bias
        self._swap = memory.byte_order != sys.byteorder
        self._mask = (1 << 8 * memory.word_bytes) - 1
        self.count = self._read_count()
        self._tokens = self._read_tokens()
        self._data, self._markers, markers_end = self._read_names()
        self._blocks: dict[int, list[int]] = {}
        self._seqs = self._read_seqs(markers_end)
        self._address_of = self._choose(anchors or {})

    # -- the tables

    def _read_count(self) -> int:
        """unsigned int; unsigned long before Linux commit 80ffbaa5b1bd ("kallsyms: reduce size a
        little on 64-bit") in v4.20; the markers likewise."""
        count = self.memory.u32(self.tables.num_syms) or self.memory.word(self.tables.num_syms)
        if not 0 < count <= MAX_SYMBOLS:
            raise CorruptData(f"kallsyms: {count} symbols")
        return count

    def _read_tokens(self) -> list[bytes]:
        tables = self.tables
        index = self._integers("H", tables.token_index, TOKENS)
        text = self.memory.read(tables.token_table, index[-1])
        text += self.memory.string(tables.token_table + index[-1], MAX_TOKEN + 1)
        return split_tokens(text + b"\0", index)

    def _integers(self, code: str, address: int, count: int) -> array[int]:
        """``count`` integers of array's type ``code``, in the machine's byte order."""
        values = array(code, self.memory.read(address, count * array(code).itemsize))
        if self._swap:
            values.byteswap()
        return values

    def _read_names(self) -> tuple[bytes, Sequence[int], int | None]:
        """The names (and what lies behind them), the markers, and where these end."""
        tables, count = self.tables, self.count
        end = tables.token_table if tables.markers is None else tables.markers
        size = end - tables.names
        if not 2 * count <= size <= MAX_NAMES:
            raise CorruptData(f"kallsyms: {count} names in {size} bytes")
        data = self.memory.read(tables.names, size)
        if tables.markers is not None:
            return data, *self._read_markers(data, tables.markers)
        found = self._find_markers(data)
        if found is None:
            return data, list(islice(self._walk(data), 0, None, BLOCK)), None
        return data, found[0], tables.names + found[1]

    def _read_markers(self, data: bytes, address: int) -> tuple[Sequence[int], int]:
        """``(markers, address of their end)``."""
        for code in "IQ" if self.memory.word_bytes == 8 else "I":
            values = self._integers(code, address, blocks(self.count))
            if fits(data, values, self.count):
                return values, address + len(values) * values.itemsize
        raise CorruptData("kallsyms: the markers do not fit the names")

    def _walk(self, data: bytes) -> Iterator[int]:
        at = 0
        for _ in range(self.count):
            yield at
            at = next_name(data, at)

    def _find_markers(self, data: bytes) -> tuple[Sequence[int], int] | None:
        """Between the names and what follows: the tokens, or first the numbers in order of name.

        ``(markers, offset of their end)``. Both have stood there: Linux commit 404bad70fcf7
        ("scripts/kallsyms: change the output order") in v6.4.
        """
        size = 4 * blocks(self.count)
        for behind in (0, 3 * self.count):
            highest = len(data) - behind - size
            for at in range(highest & -4, max(highest - 20, 0), -4):
                found = self._markers_at(data, at)
                if found is not None:
                    return found, at + size
        return None

    def _markers_at(self, data: bytes, at: int) -> Sequence[int] | None:
        values = array("I", data[at : at + 4 * blocks(self.count)])
        if self._swap:
            values.byteswap()
        return values if fits(data[:at], values, self.count) else None

    def _read_seqs(self, markers_end: int | None) -> bytes | None:
        """The numbers in order of name, three bytes each, most significant first; None where there are none.

        Linux commit 60443c88f3a8 ("kallsyms: Improve the performance of kallsyms_lookup_name()")
        in v6.2, with "kallsyms: Reduce the memory occupied by kallsyms_seqs_of_names[]" behind it.
        """
        for address in self._seqs_places(markers_end):
            data = self.memory.try_read(address, 3 * self.count)
            if data is not None and self._in_order(data):
                return data
        return None

    def _seqs_places(self, markers_end: int | None) -> Iterator[int]:
        tables, word = self.tables, self.memory.word_bytes
        if tables.seqs_of_names is not None:
            yield tables.seqs_of_names
            return
        ends = []
        if markers_end is not None and tables.token_table - markers_end >= 3 * self.count:
            ends.append(markers_end)
        if tables.relative_base is not None:
            ends.append(tables.relative_base + word)
        elif tables.offsets is not None:
            ends.append(tables.offsets + 4 * self.count)
        if tables.addresses is not None:
            ends.append(tables.addresses + word * self.count)
        for end in ends:
            yield end + 3 & -4
            if end + 3 & -4 != end + 7 & -8:
                yield end + 7 & -8

    def _in_order(self, data: bytes) -> bool:
        """True if names taken here and there by these numbers are in order."""
        numbers = [_seq(data, place) for place in range(0, self.count, max(self.count // 64, 1))]
        if max(numbers) >= self.count:
            return False
        heads = [_head(self._name(number)[1:]) for number in numbers]
        return all(low <= high for low, high in pairwise(heads))

    # -- addresses

    def _choose(self, anchors: Mapping[str, int]) -> Reading:
        """How the values are to be read: so that addresses ascend and the anchors come out.

        The configuration that decides it is not in the dump.
        """
        known = {name: anchors[name] for name in ANCHORS if name in anchors}
        numbers = {name: self._numbers_named(name.encode()) for name in known}
        for reading in self._readings():
            if self._ascends(reading) and all(
                known[name] in {reading(number) for number in found}
                for name, found in numbers.items()
                if found
            ):
                return reading
        raise CorruptData("kallsyms: the addresses make no sense")

    def _readings(self) -> Iterator[Reading]:
        """What the values can mean, the most telling first."""
        tables = self.tables
        if tables.addresses is not None:
            values = self._integers("Q" if self.memory.word_bytes == 8 else "I", tables.addresses, self.count)
            yield values.__getitem__
        if tables.offsets is None:
            return
        offsets = self._integers("i", tables.offsets, self.count)
        if tables.relative_base is not None:
            base = self.memory.word(tables.relative_base)
            yield _base_relative(offsets, base, self._mask)
            yield _per_cpu_absolute(offsets, base, self._mask)
        else:
            yield from self._without_base(offsets, tables.offsets + self.shift)

    def _without_base(self, offsets: array[int], table: int) -> Iterator[Reading]:
        """Relative to their place, which lies between the symbols; or the values themselves, where a
        32-bit kernel cannot be relocated."""
        place = _place_relative(offsets, table, self._mask)
        if self.memory.word_bytes == 4 and not place(0) <= table <= place(self.count - 1):
            yield _base_relative(offsets, 0, self._mask)
        yield place

    def _ascends(self, reading: Reading) -> bool:
        step = max(self.count // SAMPLES, 1)
        seen = [reading(number) for number in range(0, self.count, step)]
        return all(low <= high for low, high in pairwise(seen))

    # -- names

    def _block(self, number: int) -> list[int]:
        """Where the names from one marker to the next begin."""
        found = self._blocks.get(number)
        if found is None:
            at, found = self._markers[number], []
            for _ in range(min(BLOCK, self.count - number * BLOCK)):
                found.append(at)
                at = next_name(self._data, at)
            if number + 1 < len(self._markers) and at != self._markers[number + 1]:
                raise CorruptData(f"kallsyms: marker {number + 1} is not where a name begins")
            self._blocks[number] = found
        return found

    def _name(self, number: int) -> bytes:
        """The letter and the name of a symbol."""
        if "_all_names" in self.__dict__:
            return self._all_names[number]
        at = self._block(number // BLOCK)[number % BLOCK]
        codes = self._data[at + 1 + (self._data[at] >> 7) : next_name(self._data, at)]
        return b"".join(map(self._tokens.__getitem__, codes))

    @cached_property
    def _all_names(self) -> list[bytes]:
        """All names with their letters, in one pass."""
        out: list[bytes] = []
        data, token, left = self._data, self._tokens.__getitem__, MAX_EXPANDED
        for number in range(len(self._markers)):
            starts = self._block(number)
            ends = [*starts[1:], next_name(data, starts[-1])]
            spans = zip(starts, ends, strict=True)
            names = [b"".join(map(token, data[at + 1 + (data[at] >> 7) : end])) for at, end in spans]
            left -= sum(map(len, names))
            if left < 0:
                raise CorruptData("kallsyms: the names expand beyond all measure")
            out += names
        return out

    @cached_property
    def _numbers(self) -> tuple[dict[bytes, int], dict[bytes, list[int]]]:
        """``(name -> number, name -> further numbers)``, for kernels without an order of names."""
        first: dict[bytes, int] = {}
        more: dict[bytes, list[int]] = {}
        for number, name in enumerate([name[1:] for name in self._all_names]):
            if name in first:
                more.setdefault(name, []).append(number)
            else:
                first[name] = number
        return first, more

    def _numbers_named(self, name: bytes) -> list[int]:
        """Numbers of the symbols of exactly that name, by address."""
        if self._seqs is not None:
            return sorted(self._search(name, self._seqs))
        first, more = self._numbers
        return [first[name], *more.get(name, ())] if name in first else []

    def _search(self, name: bytes, seqs: bytes) -> Iterator[int]:
        """kallsyms_lookup_names() of kernel/kallsyms.c, by what stands before a name's first dot.

        For kernels built with clang's LTO ordered names without their suffix until Linux commit
        33f0467fe069 ("kallsyms: Fix kallsyms_selftest failure") in v6.6.
        """
        head = _head(name)
        low = bisect_left(range(self.count), head, key=lambda place: _head(self._named(seqs, place)))
        for place in range(low, min(low + 4 * MAX_GROUP, self.count)):
            found = self._named(seqs, place)
            if found == name:
                yield _seq(seqs, place)
            elif _head(found) != head:
                return

    def _named(self, seqs: bytes, place: int) -> bytes:
        number = _seq(seqs, place)
        if number >= self.count:
            raise CorruptData(f"kallsyms: order of names refers to symbol {number} of {self.count}")
        return self._name(number)[1:]

    def symbol(self, name: str) -> Symbol | None:
        """See SymbolTable. A global one before local ones, as for an ELF file's symbols."""
        found = self.symbols_named(name)
        return next((s for s in found if s.type.isupper()), found[0] if found else None)

    def symbols_named(self, name: str) -> list[Symbol]:
        """See SymbolTable. Without such a name: the copies that a compiler made of that function."""
        plain = name.encode()
        numbers = self._numbers_named(plain)
        if not numbers:
            numbers = [n for cut in CUT_AT for n in self._numbers_named(plain + cut + b"0")]
        found = [self._symbol(number)._replace(name=name) for number in numbers[:MAX_GROUP]]
        return sorted(found, key=lambda symbol: symbol.address)

    # -- by address

    def _symbol(self, number: int) -> Symbol:
        address, text = self._address_of(number), self._name(number)
        size = self._gap(address, bisect_right(range(self.count), address, number, key=self._address_of))
        return self._made(text, address, size)

    def _made(self, text: bytes, address: int, size: int) -> Symbol:
        letter = chr(text[0]) if text else "?"
        if letter == "A" and self._per_cpu[0] <= address <= self._per_cpu[1]:
            letter = "D"
        return Symbol(plain_name(text[1:]), address, letter, size)

    @cached_property
    def _per_cpu(self) -> tuple[int, int]:
        """First and last address of the per-CPU symbols, which make_percpus_absolute() of scripts/kallsyms.c
        lists as absolute before v6.15 (see _per_cpu_absolute)."""
        places = [self._numbers_named(name) for name in (b"__per_cpu_start", b"__per_cpu_end")]
        start, end = (self._address_of(found[0]) if found else -1 for found in places)
        return start, end

    def _gap(self, address: int, above: int) -> int:
        """Bytes from ``address`` to symbol number ``above``; 0 where they are no symbol's size."""
        size = self._address_of(above) - address if above < self.count else 0
        return size if 0 < size <= MAX_SIZE else 0

    def _group(self, number: int) -> list[Symbol]:
        """The symbols at the address of symbol ``number``, by name."""
        address, numbers = self._address_of(number), range(self.count)
        low = bisect_left(numbers, address, 0, number + 1, key=self._address_of)
        high = bisect_right(numbers, address, number, key=self._address_of)
        size = self._gap(address, high)
        found = [self._made(self._name(n), address, size) for n in range(low, min(high, low + MAX_GROUP))]
        return sorted(found, key=lambda symbol: symbol.name)

    def at(self, address: int) -> Symbol | None:
        """See SymbolTable. Of several at one address, by name: the first if ``address`` is exactly
        theirs, else the last (as crash chooses)."""
        place = bisect_right(range(self.count), address, key=self._address_of) - 1
        if place < 0:
            return None
        group = self._group(place)
        return group[0] if group[0].address == address else group[-1]

    def neighbours(self, address: int) -> tuple[Symbol | None, Symbol | None]:
        """The symbols next below and next above the one at ``address``."""
        below = bisect_left(range(self.count), address, key=self._address_of) - 1
        above = bisect_right(range(self.count), address, key=self._address_of)
        return (
            self._group(below)[-1] if below >= 0 else None,
            self._group(above)[0] if above < self.count else None,
        )

    def containing(self, text: str) -> Sequence[Symbol]:
        """See SymbolTable."""
        wanted = text.encode("utf-8", "replace")
        if not any(wanted in name for name in self._all_names):
            return []
        return [symbol for symbol in self.all() if text in symbol.name]

    def all(self) -> Sequence[Symbol]:
        """See SymbolTable."""
        addresses = [self._address_of(number) for number in range(self.count)]
        found, above, next_address = [], self.count, 0
        for number in range(self.count - 1, -1, -1):
            address = addresses[number]
            if number + 1 < self.count and addresses[number + 1] != address:
                above, next_address = number + 1, addresses[number + 1]
            size = next_address - address if above < self.count else 0
            found.append(self._made(self._all_names[number], address, size if 0 < size <= MAX_SIZE else 0))
        return sorted(found, key=lambda symbol: (symbol.address, symbol.name))

    # -- the kernel image

    @cached_property
    def _loaded(self) -> tuple[int, int]:
        """``[start, end)`` of the image where it runs; tables of text only do not know where it ends."""
        start = next((s for s in map(self.symbol, IMAGE_STARTS) if s), None)
        end = self.symbol("_end")
        first = start.address if start else self._address_of(0)
        return first, end.address if end else max(self._address_of(self.count - 1) + 1, first)

    @property
    def image(self) -> tuple[int, int]:
        """``[start, end)`` of what is loaded, as linked."""
        return self._loaded[0] - self.bias, self._loaded[1] - self.bias

    def link_address(self, name: str) -> int | None:
        """Where ``name`` was linked, before KASLR; None if there is no such symbol."""
        symbol = self.symbol(name)
        if symbol is None:
            return None
        return symbol.address - self.bias if symbol.address >= self._loaded[0] else symbol.address


def blocks(count: int) -> int:
    """How many markers ``count`` names have."""
    return (count + BLOCK - 1) // BLOCK


def split_tokens(text: bytes, index: Sequence[int]) -> list[bytes]:
    """The tokens of a token table and its index. Raises CorruptData."""
    tokens = []
    for offset in index:
        end = text.find(b"\0", offset, offset + MAX_TOKEN + 1)
        if end < 0:
            raise CorruptData(f"kallsyms: no token at {offset:#x} of the token table")
        tokens.append(text[offset:end])
    return tokens


def next_name(data: bytes, at: int) -> int:
    """Where the name behind the one at ``at`` begins. Raises CorruptData beyond the end.

    Lengths above 127 take two bytes since Linux commit 73bbb94466fd ("kallsyms: support "big"
    kernel symbols") in v6.1; before, no name was that long.
    """
    try:
        length = data[at]
        if length & 0x80:
            at += 1
            length = length & 0x7F | data[at] << 7
    except IndexError:
        length = 0
    end = at + 1 + length
    if not 0 < length <= MAX_CODES or end > len(data):
        raise CorruptData(f"kallsyms: broken name at {at:#x} of the names")
    return end


def fits(data: bytes, markers: Sequence[int], count: int) -> bool:
    """True if ``markers`` are those of ``count`` names that fill ``data``, up to 8 bytes of padding."""
    if not markers or markers[0] or len(markers) != blocks(count) or markers[-1] >= len(data):
        return False
    if not all(low < high for low, high in pairwise(markers)):
        return False
    last = count - (len(markers) - 1) * BLOCK
    try:
        if len(markers) > 1 and _skip(data, 0, BLOCK) != markers[1]:
            return False
        return 0 <= len(data) - _skip(data, markers[-1], last) < 8
    except CorruptData:
        return False


def _skip(data: bytes, at: int, names: int) -> int:
    for _ in range(names):
        at = next_name(data, at)
    return at


def _seq(data: bytes, place: int) -> int:
    return int.from_bytes(data[3 * place : 3 * place + 3], "big")


def _head(name: bytes) -> bytes:
    """What stands before the first dot: compilers append their suffixes with one, and it sorts before
    whatever else a C name consists of."""
    return name.split(b".", 1)[0] if b"." in name else name


def _base_relative(offsets: array[int], base: int, mask: int) -> Reading:
    """Unsigned and relative to the lowest symbol: Linux commit 2213e9a66bb8 ("kallsyms: add support
    for relative offsets in kallsyms address table") in v4.6."""
    return lambda number: base + (offsets[number] & 0xFFFFFFFF) & mask


def _per_cpu_absolute(offsets: array[int], base: int, mask: int) -> Reading:
    """Per-CPU symbols as they are, all else negative. Gone with Linux commit 01157ddc58dc ("kallsyms:
    Remove KALLSYMS_ABSOLUTE_PERCPU") in v6.15."""
    return lambda number: o if (o := offsets[number]) >= 0 else base - 1 - o & mask


def _place_relative(offsets: array[int], table: int, mask: int) -> Reading:
    """Relative to where the offset itself lies: Linux commit a081b5789255 ("kallsyms: Get rid of
    kallsyms relative base") in v7.0."""
    return lambda number: table + 4 * number + offsets[number] & mask
