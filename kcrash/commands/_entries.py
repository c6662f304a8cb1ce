"""What ``list`` and ``tree`` print of every entry: its address, and with -s or -S a struct there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from kcrash.commands._structs import Shower, layout_of
from kcrash.commands.base import Address, Argument, Context, Fault, Item, Option, Record
from kcrash.errors import CommandError, KcrashError
from kcrash.types.layout import bit_field, scalar_format
from kcrash.types.model import ArrayType, IntType, PointerType
from kcrash.values.format import Selected, escape, is_textual, read_string

STRUCT_OPTIONS: tuple[Argument, ...] = (
    Option("-s", "struct[.member,...]", "show a struct at every entry, or members of it", repeat=True,
           completes="type"),
    Option("-S", "struct[.member,...]", "the same, quickly: plain members as bare numbers", name="fast",
           repeat=True, completes="type"),
)  # fmt: skip

Part = Callable[[bytes, int], str]


class Entries:
    """Makes the items of entries.

    ``structs``, ``fast``: what -s and -S ask for; ``offset``: what lies between an entry's
    address and the struct there; ``data``: JSON that each entry gets too.
    """

    def __init__(
        self,
        context: Context,
        structs: Sequence[str],
        fast: Sequence[str],
        radix: int,
        offset: int = 0,
    ) -> None:
        self.mask = context.session.word_mask
        self.word = context.session.arch.word_bytes
        self.symbols = context.session.symbols
        self.offset = offset
        self.radix = radix
        self.showers: list[tuple[Shower, list[Part] | None]] = []
        for text, quick in [*((t, False) for t in structs), *((t, True) for t in fast)]:
            try:
                shower = Shower(context, layout_of(context.session, text), radix)
            except CommandError as error:
                raise CommandError(str(error).replace("data structure reference", "structure name")) from None
            parts = self._parts(shower) if quick and shower.selected else None
            self.showers.append((shower, parts))

    def item(self, address: int, lines: Sequence[str] = (), **data: Any) -> Iterator[Item]:
        """One entry; ``lines`` stand between its address and the structs."""
        first = f"{address:x}"
        known = {"address": Address(address), **data}
        if not self.showers:
            yield Record("entry", known, "\n".join((first, *lines)) if lines else first)
            return
        texts, values, faults = [first, *lines], list[Any](), list[Fault]()
        for shower, parts in self.showers:
            try:
                self._one(shower, parts, address - self.offset & self.mask, texts, values)
            except KcrashError as error:
                faults.append(Fault.of(error, address=Address(address)))
        yield Record("entry", {**known, "structs": values}, "\n".join(texts))
        yield from faults

    def _one(
        self, shower: Shower, parts: list[Part] | None, address: int, texts: list[str], values: list[Any]
    ) -> None:
        data = shower.read(address)
        values.append(_Lazy(shower, address, data))
        if parts is None:
            texts += shower.lines(address, data)
        else:
            texts += [part(data, address) for part in parts]
        texts += [f"  {message}" for message in shower.faults]

    # -- -S: plain numbers

    def _parts(self, shower: Shower) -> list[Part]:
        return [self._part(shower, found) for found in shower.selected]

    def _part(self, shower: Shower, found: Selected) -> Part:
        """How -S shows a member: numbers unsigned, strings up to their NUL, the rest as -s does."""
        member, prefix = found.member, f"  {found.path} = "
        plain = member.type.underlying
        show: Callable[[int], str] = hex if self.radix == 16 or isinstance(plain, PointerType) else str
        if member.bit_size:
            extract, mask = bit_field(member, shower.scope.types.byte_order), (1 << member.bit_size) - 1
            return lambda data, _address: prefix + show(extract(data) & mask)
        if isinstance(plain, ArrayType) and is_textual(plain.target.underlying) and plain.size:
            start, end = member.offset, member.offset + plain.size
            return lambda data, _address: f'{prefix}"{escape(data[start:end].split(bytes(1), 1)[0])}"'
        if isinstance(plain, PointerType) and _is_char(plain):
            return self._string_part(shower, found, prefix)
        if scalar_format(plain) and plain.kind != "float":
            order: Any = shower.scope.types.byte_order
            start, end = member.offset, member.offset + plain.size
            text = self._text_symbol if plain.size == self.word else _nothing
            return lambda data, _address: (
                prefix + (show(number := int.from_bytes(data[start:end], order)) + text(number))
            )
        return lambda data, address: shower.formatter.member_text(found, data, address)

    def _text_symbol(self, number: int) -> str:
        """`` <schedule+12>`` behind a number that is the address of an instruction."""
        found = self.symbols.at(number) if number >> 16 else None
        if found is None or found[0].type not in "tTwW":
            return ""
        return f" <{self.symbols.format(number)}>"

    def _string_part(self, shower: Shower, found: Selected, prefix: str) -> Part:
        space, limit = shower.scope.memory, shower.formatter.style.elements
        start, end = found.member.offset, found.member.offset + found.member.type.size
        order: Any = shower.scope.types.byte_order

        def part(data: bytes, _address: int) -> str:
            pointer = int.from_bytes(data[start:end], order)
            text = read_string(space, pointer, limit)[0].split(b"\0", 1)[0] if pointer else b""
            return f'{prefix}{pointer:#x}  "{escape(text)}"'

        return part


def _nothing(_number: int) -> str:
    return ""


def _is_char(pointer: PointerType) -> bool:
    target = pointer.target.underlying
    return isinstance(target, IntType) and target.name == "char"


class _Lazy(Mapping[str, Any]):
    """The data of a struct, made only if JSON is wanted."""

    def __init__(self, shower: Shower, address: int, data: bytes) -> None:
        self._arguments = shower, address, data

    @cached_property
    def _data(self) -> dict[str, Any]:
        shower, address, data = self._arguments
        return shower.data(address, data)

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)
