"""Call frame information: which rows there are, and the row of one pc.

Sources: DWARF 5, section 6.4 (.debug_frame; versions 1, 3 and 4 of a CIE are
those of DWARF 2, 3 and 4-5); Linux Standard Base, "Exception Frames"
(.eh_frame, its augmentations and pointer encodings). The index is made from the
headers of the entries alone; the instructions of an entry run when a pc asks.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from kcrash.errors import BadFormat
from kcrash.unwind.cfi_program import CfaProgram
from kcrash.unwind.expression import read_leb
from kcrash.unwind.rules import Row, Rule
from kcrash.unwind.target import Target

MAX_MEMO = 65_536  # rows kept, about 300 bytes each where they are not shared

_ENCODED = {0x2: "H", 0x3: "I", 0x4: "Q", 0xA: "h", 0xB: "i", 0xC: "q"}
_ABSOLUTE, _PC_RELATIVE, _TEXT_RELATIVE, _DATA_RELATIVE = 0x00, 0x10, 0x20, 0x30
_OMITTED = 0xFF


class Cie(NamedTuple):
    """A common information entry; ``begin`` and ``end``: its initial instructions in the section.

    ``encoding``: of code addresses in its FDEs (0: a plain address); ``sized``:
    FDEs carry augmentation data after their addresses; ``signal``: its FDEs cover
    signal trampolines, whose callers did not call.
    """

    version: int
    augmentation: str
    address_size: int
    segment_size: int
    code_align: int
    data_align: int
    return_column: int
    encoding: int
    sized: bool
    signal: bool
    begin: int
    end: int


class Fde(NamedTuple):
    """A frame description entry of ``[start, start + size)``, link-time addresses."""

    start: int
    size: int
    cie: Cie
    begin: int
    end: int


class _Entry(NamedTuple):
    """Header of an entry: ``cie``: offset of its CIE, None if it is one; ``body``: what follows the id."""

    cie: int | None
    body: int
    end: int


class CfiTable:
    """One .debug_frame or .eh_frame section.

    ``bias``: what is added to the section's addresses to get those of the machine
    (KASLR; where a module or a shared library was loaded). ``address``: of the
    section itself, which .eh_frame's pointers are relative to; ``text`` and
    ``data_base``: bases of the rarer encodings. ``relocate(offset in the section,
    raw value)`` gives the address for an ET_REL file whose section has not been
    relocated. Raises BadFormat, but only from find() on: nothing is read before.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        target: Target,
        *,
        file: str = "",
        eh: bool = False,
        bias: int = 0,
        address: int = 0,
        text: int = 0,
        data_base: int = 0,
        relocate: Callable[[int, int], int] | None = None,
    ) -> None:
        self.data = data
        self.target = target
        self.file = file or (".eh_frame" if eh else ".debug_frame")
        self.eh = eh
        self.bias = bias
        self._bases = {_TEXT_RELATIVE: text, _DATA_RELATIVE: data_base, _PC_RELATIVE: address}
        self._relocate = relocate
        self._cies: dict[int, Cie] = {}
        self.initial: dict[Cie, tuple[Rule | None, dict[int, Rule]]] = {}  # what a CIE's instructions leave
        self._memo: dict[int, Row | None] = {}
        self._index: tuple[array[int], array[int]] | None = None

    def _bad(self, what: str, offset: int) -> NoReturn:
        raise BadFormat(self.file, what, offset)

    # -- index

    @property
    def index(self) -> tuple[array[int], array[int]]:
        """Starts (link-time addresses, sorted) and section offsets of all FDEs.

        Without those of code that the linker threw away: they start at 0 or are empty.
        """
        if self._index is None:
            found = self._scan()
            starts = array("Q", sorted(found))
            self._index = starts, array("Q", map(found.__getitem__, starts))
        return self._index

    def __len__(self) -> int:
        return len(self.index[0])

    def _scan(self) -> dict[int, int]:
        """Section offsets of FDEs by their starts."""
        plain = not self.eh and self._relocate is None
        found = self._scan_plain() if plain else None
        return self._scan_any() if found is None else found

    def _scan_plain(self) -> dict[int, int] | None:
        """The usual .debug_frame: 32-bit DWARF, plain addresses. None if there is anything else in it."""
        data, size = self.data, len(self.data)
        header = struct.Struct(self.target.order + ("IIQQ" if self.target.word_bytes == 8 else "IIII"))
        unpack, last = header.unpack_from, size - header.size
        found: dict[int, int] = {}
        position = 0
        while position <= last:
            length, cie, start, count = unpack(data, position)
            if cie != 0xFFFFFFFF:
                if start and count:
                    found[start] = position
            elif not self._is_plain(position + 8):
                return None
            if length >= 0xFFFFFFF0:
                return None
            position += 4 + length
        if position > size:
            self._bad("an entry runs past the end of the section", size)
        return found

    def _is_plain(self, position: int) -> bool:
        """True if the CIE with its version at ``position`` has no address size of its own."""
        if self.data[position] < 4:
            return True
        # Version 4 with an empty augmentation: address size, segment selector size.
        return bytes(self.data[position + 1 : position + 4]) == bytes([0, self.target.word_bytes, 0])

    def _scan_any(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for position, entry in self._entries():
            if entry.cie is not None:
                start, size, _after = self._range(entry, self.cie(entry.cie))
                if start and size:
                    found[start] = position
        return found

    def _entries(self) -> Iterator[tuple[int, _Entry]]:
        position, end = 0, len(self.data)
        while position + 4 <= end:
            if self._u32(position) == 0:  # .eh_frame ends with a zero, and holds several where ld joined them
                position += 4
                continue
            entry = self._entry(position)
            yield position, entry
            position = entry.end

    def _entry(self, position: int) -> _Entry:
        length, start, wide = self._u32(position), position + 4, False
        if length == 0xFFFFFFFF:
            length, start, wide = self._number(position + 4, "Q"), position + 12, True
        elif length >= 0xFFFFFFF0:
            self._bad(f"reserved length {length:#x}", position)
        if start + length > len(self.data):
            self._bad("an entry runs past the end of the section", position)
        if self.eh:  # the id is four bytes wide even in a wide entry
            back = self._u32(start)
            return _Entry(start - back if back else None, start + 4, start + length)
        id_ = self._number(start, "Q" if wide else "I")
        is_cie = id_ == (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF)
        return _Entry(None if is_cie else id_, start + (8 if wide else 4), start + length)

    # -- numbers

    def _number(self, position: int, form: str) -> int:
        try:
            value: int = struct.unpack_from(self.target.order + form, self.data, position)[0]
        except struct.error:
            self._bad("the section is cut", position)
        return value

    def _u32(self, position: int) -> int:
        return self._number(position, "I")

    def _leb(self, position: int, signed: bool = False) -> tuple[int, int]:
        try:
            return read_leb(self.data, position, signed)
        except IndexError:
            self._bad("a LEB128 number does not end", position)

    def pointer(self, position: int, encoding: int, address_size: int) -> tuple[int, int]:
        """``(value, next position)`` of a pointer in a DW_EH_PE encoding; relative ones are made absolute."""
        value, after = self._raw_pointer(position, encoding & 0x0F, address_size)
        if encoding & 0x80:
            self._bad(f"indirect pointer encoding {encoding:#x}", position)
        base = encoding & 0x70
        if base == _ABSOLUTE:
            if self._relocate is not None:
                value = self._relocate(position, value)
        elif base in self._bases:
            value += self._bases[base] + (position if base == _PC_RELATIVE else 0)
        else:
            self._bad(f"unknown pointer encoding {encoding:#x}", position)
        return value & self.target.mask, after

    def _raw_pointer(self, position: int, form: int, address_size: int) -> tuple[int, int]:
        if form in (0x1, 0x9):
            return self._leb(position, form == 0x9)
        if form in (0x0, 0x8):
            code = {2: "H", 4: "I", 8: "Q"}.get(address_size)
        else:
            code = _ENCODED.get(form)
        if code is None:
            self._bad(f"unknown pointer format {form:#x} or address size {address_size}", position)
        return self._number(position, code), position + struct.calcsize(self.target.order + code)

    # -- entries

    def cie(self, offset: int) -> Cie:
        """The CIE at a section offset. Raises BadFormat."""
        found = self._cies.get(offset)
        if found is None:
            entry = self._entry(offset) if 0 <= offset < len(self.data) else None
            if entry is None or entry.cie is not None:
                self._bad("no common information entry where one is referred to", offset)
            found = self._cies[offset] = self._parse_cie(offset, entry)
        return found

    def _parse_cie(self, offset: int, entry: _Entry) -> Cie:
        version = self._number(entry.body, "B")
        if version not in (1, 3, 4):
            self._bad(f"common information entry of version {version}", offset)
        limit = bytes(self.data[entry.body + 1 : min(entry.end, entry.body + 65)])
        text, terminator, _rest = limit.partition(b"\0")
        if not terminator:
            self._bad("an augmentation string that does not end", offset)
        position = entry.body + 2 + len(text)
        address_size, segment_size = self.target.word_bytes, 0
        if version == 4:
            address_size, segment_size = self.data[position : position + 2]
            position += 2
        if text.startswith(b"eh"):  # before GCC 3: a word that nobody uses
            text, position = text[2:], position + address_size
        code_align, position = self._leb(position)
        data_align, position = self._leb(position, True)
        if version == 1:
            column, position = self._number(position, "B"), position + 1
        else:
            column, position = self._leb(position)
        augmentation = text.decode("ascii", "replace")
        sized = augmentation.startswith("z")
        encoding, position = self._augmentation(augmentation, position, address_size)
        return Cie(version, augmentation, address_size, segment_size, code_align, data_align, column,
                   encoding, sized, "S" in augmentation, position, entry.end)  # fmt: skip

    def _augmentation(self, text: str, position: int, address_size: int) -> tuple[int, int]:
        """``(encoding of code addresses, where the instructions begin)``."""
        encoding = 0
        if not text.strip("SBG"):  # the letters without an operand; gas writes a plain "S" into .debug_frame
            return encoding, position
        if not text.startswith("z"):
            self._bad(f"unknown augmentation {text!r}", position)
        size, position = self._leb(position)
        end = position + size
        for letter in text[1:]:
            if letter == "R":
                encoding, position = self._number(position, "B"), position + 1
            elif letter == "L":
                position += 1
            elif letter == "P":
                form = self._number(position, "B")
                position = self._raw_pointer(position + 1, form & 0x0F, address_size)[1]
            elif letter not in "SBG":  # unknown, but its size is known
                break
        return encoding, end

    def _range(self, entry: _Entry, cie: Cie) -> tuple[int, int, int]:
        """``(start, size, position after)`` of the code that an FDE covers."""
        position = entry.body + cie.segment_size
        start, position = self.pointer(position, cie.encoding, cie.address_size)
        size, position = self._raw_pointer(position, cie.encoding & 0x0F, cie.address_size)
        return start, size & self.target.mask, position

    def fde(self, offset: int) -> Fde:
        """The FDE at a section offset. Raises BadFormat."""
        entry = self._entry(offset)
        if entry.cie is None:
            self._bad("no frame description entry here", offset)
        cie = self.cie(entry.cie)
        start, size, position = self._range(entry, cie)
        if cie.sized:
            count, position = self._leb(position)
            position += count
        return Fde(start, size, cie, min(position, entry.end), entry.end)

    def find(self, pc: int) -> Fde | None:
        """The FDE that covers ``pc`` (a runtime address), or None. Raises BadFormat."""
        starts, offsets = self.index
        address = pc - self.bias & self.target.mask
        at = bisect_right(starts, address) - 1
        if at < 0:
            return None
        fde = self.fde(offsets[at])
        return fde if address - fde.start < fde.size else None

    # -- rows

    def row(self, pc: int) -> Row | None:
        """The row that holds at ``pc``, None if nothing covers it. Raises BadFormat."""
        try:
            return self._memo[pc]
        except KeyError:
            pass
        fde = self.find(pc)
        row = None if fde is None else self._program(fde).row(pc - self.bias & self.target.mask)
        if len(self._memo) >= MAX_MEMO:
            self._memo.clear()
        self._memo[pc] = row
        return row

    def rows(self, fde: Fde) -> list[tuple[int, Row]]:
        """All rows of an FDE with the link-time addresses where they begin. Raises BadFormat."""
        return self._program(fde).rows()

    def _program(self, fde: Fde) -> CfaProgram:
        return CfaProgram(self, fde)
