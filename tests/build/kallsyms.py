"""A writer of kallsyms tables in every form that scripts/kallsyms.c has had."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from kcrash.symbols.kallsyms import Tables

#: address, nm's letter, name
Entry = tuple[int, str, str]
ENCODINGS = ("absolute", "base", "per-cpu", "place", "direct")
WORDS = (
    "init",
    "_lock",
    "sys_",
    "struct",
    "__x64_",
    "get_",
    "put_",
    "_mutex",
    "tcp_",
    "page",
    "alloc",
    "free",
)


def make_tokens() -> list[bytes]:
    """Digits, letters and some more stand for themselves; all other codes for pieces of names."""
    alone = {ord(char) for char in "0123456789_.$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    pieces = iter([*WORDS, *(first + second for first in "abcdeghijklmnop" for second in "aeioulnrst_xy")])
    return [bytes([code]) if code in alone else next(pieces).encode() for code in range(256)]


def compressor(tokens: list[bytes]) -> Callable[[bytes], bytes]:
    """Greedily, longest token first: not as the kernel's build does it, but it expands to the same."""
    codes = {token: code for code, token in enumerate(tokens)}
    pattern = re.compile(b"|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
    return lambda text: bytes(codes[token] for token in pattern.findall(text))


@dataclass
class Kallsyms:
    """Tables to be written.

    ``encoding``: one of ENCODINGS; ``new_order``: v6.4's; ``long_words``: number and
    markers as unsigned long, as before v4.20; ``align``: .balign of every table.
    """

    entries: list[Entry]
    encoding: str = "base"
    order: str = "<"
    bits: int = 64
    new_order: bool = True
    seqs: bool = True
    long_words: bool = False
    align: int = 8
    parts: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = sorted(self.entries, key=lambda entry: entry[0])
        self.tokens = make_tokens()

    @property
    def count(self) -> int:
        return len(self.entries)

    def _pack(self, code: str, *values: int) -> bytes:
        return struct.pack(f"{self.order}{len(values)}{code}", *values)

    def _word(self, *values: int) -> bytes:
        return self._pack("Q" if self.bits == 64 else "I", *values)

    def _names(self) -> tuple[bytes, bytes]:
        out, markers, compress = bytearray(), [], compressor(self.tokens)
        for number, (_address, letter, name) in enumerate(self.entries):
            if number % 256 == 0:
                markers.append(len(out))
            codes = compress((letter + name).encode())
            size = len(codes)
            out += bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            out += codes
        return bytes(out), self._word(*markers) if self.long_words else self._pack("I", *markers)

    def _token_tables(self) -> tuple[bytes, bytes]:
        table, index = bytearray(), []
        for token in self.tokens:
            index.append(len(table))
            table += token + b"\0"
        return bytes(table), self._pack("H", *index)

    def _seqs(self) -> bytes:
        names = [name for _address, _letter, name in self.entries]
        order = sorted(range(self.count), key=lambda number: (names[number].encode(), number))
        return b"".join(number.to_bytes(3, "big") for number in order)

    def _base(self) -> int:
        return min(a for a, letter, _name in self.entries if self.encoding != "per-cpu" or letter not in "Aa")

    def _values(self, at: int) -> bytes:
        addresses, base = [entry[0] for entry in self.entries], self._base()
        if self.encoding == "absolute":
            return self._word(*addresses)
        if self.encoding == "base":
            return self._pack("I", *(address - base for address in addresses))
        if self.encoding == "direct":
            return self._pack("I", *addresses)
        if self.encoding == "per-cpu":
            pairs = [(address, letter in "Aa") for address, letter, _name in self.entries]
            return self._pack("i", *(address if fixed else base - address - 1 for address, fixed in pairs))
        return self._pack("i", *(address - at - 4 * number for number, address in enumerate(addresses)))

    def build(self, at: int) -> tuple[bytes, Tables]:
        """The tables as they lie from address ``at`` on. ``parts`` replaces the bytes of a table by name."""
        names, markers = self._names()
        table, index = self._token_tables()
        number = self._word(self.count) if self.long_words else self._pack("I", self.count)
        values = "addresses" if self.encoding == "absolute" else "offsets"
        based = self.encoding in ("base", "per-cpu")
        middle = [("num_syms", number), ("names", names), ("markers", markers)]
        tokens = [("token_table", table), ("token_index", index)]
        where = [(values, b""), *([("relative_base", self._word(self._base()))] if based else [])]
        seqs = [("seqs_of_names", self._seqs())] if self.seqs else []
        order = [*middle, *tokens, *where, *seqs] if self.new_order else [*where, *middle, *seqs, *tokens]
        out, places = bytearray(), {}
        for name, data in order:
            out += bytes(-(at + len(out)) % self.align)
            places[name] = at + len(out)
            out += self.parts.get(name, self._values(places[name]) if name == values else data)
        return bytes(out), Tables(**places)
