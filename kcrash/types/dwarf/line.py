"""Line tables: the program of one unit, decoded when an address falls into it (DWARF 5, section 6.2)."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from kcrash.types.dwarf import constants as dw
from kcrash.types.dwarf.abbrev import Layout, read_form
from kcrash.types.dwarf.encoding import Malformed, initial_length, sleb, string_at, string_end, uleb
from kcrash.types.dwarf.info import DebugInfo, Unit

_MAX_ENTRIES = 1_000_000
_MASK = 0xFFFFFFFFFFFFFFFF


class LineInfo(NamedTuple):
    """A place in the source: ``file`` as the compiler was given it, made absolute; ``line``, 0 if unknown."""

    file: str
    line: int


_STATEMENT, _DISCRIMINATED = 1, 2


class _Sequence:
    """Rows of one run of code without holes, up to ``high``, in order of address.

    ``flags``: _STATEMENT where is_stmt is set, _DISCRIMINATED where the line so
    far has had a discriminator. Row i holds for addresses up to that of row i + 1.
    """

    __slots__ = ("_shown", "addresses", "files", "flags", "high", "lines", "low")

    def __init__(
        self, addresses: array[int], files: array[int], lines: array[int], flags: array[int], high: int
    ) -> None:
        if any(low > next_low for low, next_low in pairwise(addresses)):
            order = sorted(range(len(addresses)), key=addresses.__getitem__)
            columns = (addresses, files, lines, flags)
            addresses, files, lines, flags = (
                array(column.typecode, [column[at] for at in order]) for column in columns
            )
        self.low, self.high = addresses[0], high
        self.addresses, self.files, self.lines, self.flags = addresses, files, lines, flags
        self._shown: bytearray | None = None

    def last_row(self, address: int) -> int:
        """The last row that applies to an address."""
        return bisect_right(self.addresses, address) - 1

    def statement_row(self, address: int) -> int | None:
        """The row that gdb shows for an address: of those it keeps for the nearest address
        the last at which a statement starts, or else the last (gdb/symtab.c, find_pc_sect_line)."""
        if self._shown is None:
            self._shown = self._show()
        last = self._shown.rfind(1, 0, bisect_right(self.addresses, address))
        if last < 0:
            return None
        first = bisect_left(self.addresses, self.addresses[last])
        kept = (row for row in range(last, first - 1, -1) if self._shown[row])
        return next((row for row in kept if self.flags[row] & _STATEMENT), last)

    def _show(self) -> bytearray:
        """1 for each row that gdb keeps (gdb/dwarf2/read.c, lnp_state_machine::record_line)."""
        shown = bytearray(len(self.addresses))
        last_file = last_line = last_address = -1
        seen = 0  # a statement starts at last_address
        start = 0  # the first row for last_address
        for row, address in enumerate(self.addresses):
            file, line, flags = self.files[row], self.lines[row], self.flags[row]
            if address != last_address:
                start, seen, last_address = row, 0, address
            changed = file != last_file
            if line and (flags & _STATEMENT or not (changed and seen)):
                if changed and start < row:  # what another file has at this address is not shown
                    shown[start:row] = bytes(row - start)
                if changed or line != last_line or not flags & _DISCRIMINATED:
                    shown[row] = 1
                    last_file, last_line = file, line
            seen |= flags & _STATEMENT
        return shown


class LineTables:
    """The line tables of one file."""

    def __init__(self, info: DebugInfo) -> None:
        self.info = info
        self._table = lru_cache(maxsize=64)(self._load)

    def of(self, unit: Unit) -> LineTable | None:
        """The table of a unit; None if it has none. Raises Malformed."""
        offset = unit.root.number(dw.DW_AT_stmt_list)
        if offset is None:
            return None
        return self._table(offset, unit.root.string(dw.DW_AT_comp_dir), unit.layout)

    def _load(self, offset: int, directory: str, layout: Layout) -> LineTable:
        return LineTable(self.info, offset, directory, layout)


class LineTable:
    """The header of a line program; the program itself is run when a line is asked for.

    ``directory``: DW_AT_comp_dir, which relative names start from.
    """

    def __init__(self, info: DebugInfo, offset: int, directory: str, layout: Layout) -> None:
        self.info = info
        self._directory = directory
        self._layout = layout
        self._data = info.sections[".debug_line"]
        self._sequences: list[_Sequence] | None = None
        self._directories: list[str] = []
        self._files: list[tuple[str, int]] = []
        self._lows: list[int] = []
        self._header(offset)

    def _header(self, offset: int) -> None:
        data, order = self._data, self.info.order
        length, wide, position = initial_length(data, offset, order)
        self._end = min(position + length, len(data))
        self.version: int = struct.unpack_from(order + "H", data, position)[0]
        if not 2 <= self.version <= 5:
            raise Malformed(f"a line table of version {self.version} at {offset:#x}")
        position += 2
        self._layout = self._layout._replace(offset_size=wide, version=max(3, self._layout.version))
        if self.version >= 5:
            self._layout = self._layout._replace(address_size=_address_size(data[position]))
            position += 2
        header_length = struct.unpack_from(order + ("I" if wide == 4 else "Q"), data, position)[0]
        position += wide
        self._start = position + header_length
        self._minimum = data[position]
        position += 1 if self.version < 4 else 2  # maximum_operations_per_instruction: 1 but for VLIW
        fields = struct.unpack_from("<BbBB", data, position)
        default_is_stmt, self._line_base, self._line_range, self._opcode_base = fields
        self.default_is_stmt = int(bool(default_is_stmt))
        if not self._line_range or not self._opcode_base:
            raise Malformed(f"a line table without line range at {offset:#x}")
        position += 4
        self._operands = bytes(data[position : position + self._opcode_base - 1])
        position += self._opcode_base - 1
        self._names(position)

    # -- file names

    def _names(self, position: int) -> None:
        if self.version < 5:
            self._names_old(position)
            return
        directories, position = self._entries(position)
        files, position = self._entries(position)
        self._directories = [name for name, _directory in directories]
        self._files = files

    def _names_old(self, position: int) -> None:
        """Version 4 and older: strings; number 0 is the unit's directory, files count from 1."""
        data = self._data
        self._directories = [self._directory]
        while data[position]:
            end = string_end(data, position)
            self._directories.append(string_at(data, position))
            position = end + 1
        position += 1
        self._files = [("", 0)]
        while data[position]:
            name = string_at(data, position)
            directory, position = uleb(data, string_end(data, position) + 1)
            _time, position = uleb(data, position)
            _size, position = uleb(data, position)
            self._files.append((name, directory))
        if len(self._files) > 1:
            self._files[0] = self._files[1]

    def _entries(self, position: int) -> tuple[list[tuple[str, int]], int]:
        """A table of version 5: a description of the columns, then the rows."""
        data = self._data
        columns = []
        count = data[position]
        position += 1
        for _ in range(count):
            content, position = uleb(data, position)
            form, position = uleb(data, position)
            columns.append((content, form))
        rows: list[tuple[str, int]] = []
        total, position = uleb(data, position)
        if total > min(_MAX_ENTRIES, len(data)):
            raise Malformed(f"a line table of {total} names")
        for _ in range(total):
            name, directory = "", 0
            for content, form in columns:
                value, position = read_form(form, data, position, self._layout)
                if content == dw.DW_LNCT_path:
                    name = self._string(form, value)
                elif content == dw.DW_LNCT_directory_index and isinstance(value, int):
                    directory = value
            rows.append((name, directory))
        return rows, position

    def _string(self, form: int, value: object) -> str:
        if not isinstance(value, int):
            return ""
        if form == dw.DW_FORM_string:
            return string_at(self._data, value)
        sections = {dw.DW_FORM_line_strp: ".debug_line_str", dw.DW_FORM_strp: ".debug_str"}
        return string_at(self.info.sections[sections[form]], value) if form in sections else ""

    def file_name(self, number: int) -> str:
        """The name of file ``number``, joined as binutils does it: nothing is tidied up; "" if unknown."""
        if not 0 <= number < len(self._files):
            return ""
        name, directory = self._files[number]
        if not name or name.startswith("/"):
            return name
        inside = self._directories[directory] if directory < len(self._directories) else ""
        if inside.startswith("/"):
            return f"{inside}/{name}"
        parts = [self._directory, inside, name]
        return "/".join(part for part in parts if part)

    def same_files(self) -> list[int]:
        """For each file number the first of the same file: version 5 names the file of a unit twice."""
        first: dict[tuple[str, int], int] = {}
        return [first.setdefault(entry, number) for number, entry in enumerate(self._files)]

    # -- rows

    def find(self, address: int, *, last_row: bool = False) -> LineInfo | None:
        """The line of an address; None if the table does not cover it. Raises Malformed.

        As gdb has it, or with ``last_row`` that of the last row that applies, as addr2line has it.
        """
        if self._sequences is None:
            self._sequences = sorted(self._run(), key=lambda sequence: (sequence.low, sequence.high))
            self._lows = [sequence.low for sequence in self._sequences]
        index = bisect_right(self._lows, address) - 1
        for at in range(index, max(-1, index - 8), -1):
            sequence = self._sequences[at]
            if address < sequence.high:
                row = sequence.last_row(address) if last_row else sequence.statement_row(address)
                if row is None:
                    return None
                return LineInfo(self.file_name(sequence.files[row]), sequence.lines[row])
        return None

    def _run(self) -> list[_Sequence]:
        """Run the line number program (section 6.2.5)."""
        return _Program(self).run()


def _address_size(size: int) -> int:
    if size not in (2, 4, 8):
        raise Malformed(f"a line table with {size}-byte addresses")
    return size


class _Program:
    """The state machine of one line number program."""

    def __init__(self, table: LineTable) -> None:
        self.table = table
        self.data = table._data[: table._end]
        self.sequences: list[_Sequence] = []
        base, span = table._opcode_base, table._line_range
        steps = [(opcode - base if opcode >= base else 0) for opcode in range(256)]
        self.advances = [step // span * table._minimum for step in steps]
        self.moves = [table._line_base + step % span for step in steps]
        self._clear()

    def _clear(self) -> None:
        self.addresses, self.files, self.lines = array("Q"), array("I"), array("I")
        self.flags = array("B")
        self.statement = self.table.default_is_stmt
        self.discriminator = self.discriminated = 0

    def run(self) -> list[_Sequence]:
        table, data = self.table, self.data
        base, minimum, advances, moves = table._opcode_base, table._minimum, self.advances, self.moves
        same = table.same_files()
        first_file = same[1] if len(same) > 1 else 1
        position, end = table._start, len(data)
        address, file, line = 0, first_file, 1
        while position < end:
            opcode = data[position]
            position += 1
            if opcode >= base:
                address += advances[opcode]
                if moves[opcode]:
                    line += moves[opcode]
                    self.discriminated = self.discriminator
                self._row(address, file, line)
            elif opcode == dw.DW_LNS_set_column:  # by far the most frequent of the others
                position += 1
                while data[position - 1] >= 0x80:
                    position += 1
            elif opcode == dw.DW_LNS_negate_stmt:
                self.statement ^= 1
            elif opcode == dw.DW_LNS_copy:
                self._row(address, file, line)
            elif opcode == dw.DW_LNS_advance_line:
                step, position = sleb(data, position)
                line += step
                if step:
                    self.discriminated = self.discriminator
            elif opcode == dw.DW_LNS_advance_pc:
                step, position = uleb(data, position)
                address += step * minimum
            elif opcode == dw.DW_LNS_set_file:
                file, position = uleb(data, position)
                file = same[file] if file < len(same) else file
            elif opcode == dw.DW_LNS_const_add_pc:
                address += advances[255]
            elif opcode == dw.DW_LNS_fixed_advance_pc:
                address += struct.unpack_from(table.info.order + "H", data, position)[0]
                position += 2
            elif opcode:
                for _ in range(table._operands[opcode - 1]):
                    _value, position = uleb(data, position)
            else:
                length, position = uleb(data, position)
                if length and data[position] == dw.DW_LNE_end_sequence:
                    self._end_sequence(address & _MASK)
                    address, file, line = 0, first_file, 1
                elif length and data[position] == dw.DW_LNE_set_address:
                    address = self._address(position + 1, length - 1)
                elif length and data[position] == dw.DW_LNE_set_discriminator:
                    self.discriminator = _DISCRIMINATED if uleb(data, position + 1)[0] else 0
                    self.discriminated |= self.discriminator
                position += length
        return self.sequences

    def _address(self, position: int, size: int) -> int:
        if size not in (2, 4, 8):
            raise Malformed(f"a {size}-byte address in a line program")
        code = self.table.info.order + {2: "H", 4: "I", 8: "Q"}[size]
        value: int = struct.unpack_from(code, self.data, position)[0]
        return value

    def _row(self, address: int, file: int, line: int) -> None:
        self.addresses.append(address & _MASK)
        self.files.append(file & 0xFFFFFFFF)
        self.lines.append(line & 0xFFFFFFFF)
        self.flags.append(self.statement | self.discriminated)
        self.discriminator = 0

    def _end_sequence(self, high: int) -> None:
        columns = self.addresses, self.files, self.lines, self.flags
        self._clear()
        if columns[0]:
            self.sequences.append(_Sequence(*columns, high))
