"""Items to text, or to JSON lines.

A renderer writes to anything with ``write(str)``. Rows are written in
batches, by count or by age, so that a fast listing is fast and a slow one is
seen while it grows. What was made before an error or Ctrl-C is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain
from time import monotonic
from typing import Any, Protocol

from kcrash.output.clean import clean, clean_cell
from kcrash.output.items import Address, Align, Column, Fault, Item, Record, Row, Table, Text

_BATCH = 512
_AGE = 0.1


class Writer(Protocol):
    """Where a renderer writes."""

    def write(self, text: str, /) -> object: ...


class Renderer(Protocol):
    """Renders items one at a time; ``faults`` counts the `Fault` s seen."""

    faults: int

    def render(self, item: Item, command: str) -> None: ...


class TextRenderer:
    """Items as crash prints them. ``color``: faults stand out (a terminal)."""

    def __init__(self, out: Writer, color: bool = False) -> None:
        self.out = out
        self.color = color
        self.faults = 0

    def render(self, item: Item, command: str) -> None:
        """Write one item made by ``command``."""
        if isinstance(item, Table):
            _write_batches(self.out, self._table(item, command))
        elif isinstance(item, Fault):
            self.out.write(self._fault(item, command))
        elif isinstance(item, Text):
            self.out.write(clean(item.text) + item.end)
        elif item.text is not None:
            self.out.write(clean("\n".join(_lines(item))) + "\n")

    def _fault(self, fault: Fault, command: str) -> str:
        self.faults += 1
        line = clean(f"{command}: {fault.message}" if command else fault.message)
        return f"\x1b[31m{line}\x1b[0m\n" if self.color else line + "\n"

    def _table(self, table: Table, command: str) -> Iterator[str]:
        rows = iter(table.rows)
        first = next(rows, None)
        if table.header and (first is not None or (table.header_if_empty and table.empty is None)):
            yield clean(header_line(table)) + "\n"
        if first is None:
            if table.empty is not None:
                yield clean(" " * table.indent + table.empty) + "\n"
            return
        line_of = row_formatter(table)
        for row in chain((first,), rows):
            yield self._fault(row, command) if isinstance(row, Fault) else clean_cell(line_of(row)) + "\n"


class JsonRenderer:
    """One JSON object a line: ``{"command": ..., "kind": ..., ...}``, ASCII only."""

    def __init__(self, out: Writer) -> None:
        self.out = out
        self.faults = 0

    def render(self, item: Item, command: str) -> None:
        """Write one item made by ``command``."""
        if isinstance(item, Table):
            _write_batches(self.out, self._table(item, command))
        elif isinstance(item, Fault):
            self.out.write(self._fault(item, command, {}))
        elif isinstance(item, Record):
            self.out.write(_object(command, item.kind, item.data))
        elif not item.layout and (item.data is not None or item.text.strip()):
            self.out.write(
                _object(command, item.kind, {"text": item.text} if item.data is None else item.data)
            )

    def _fault(self, fault: Fault, command: str, common: Mapping[str, object]) -> str:
        self.faults += 1
        return _object(command, "fault", {"error": fault.message, **common, **fault.data})

    def _table(self, table: Table, command: str) -> Iterator[str]:
        data_of = _row_data(table.columns)
        for row in table.rows:
            if isinstance(row, Fault):
                yield self._fault(row, command, table.common)
            else:
                yield _object(command, table.kind, {**table.common, **data_of(row)})


def header_line(table: Table) -> str:
    """The line over a table's rows."""
    if table.heading is not None:
        return " " * table.indent + table.heading
    cells = [_pad(c.header, c.width, c.header_align or c.align) for c in table.columns if c.text]
    return _template(table, ["%s"] * len(cells)) % tuple(cells)


def row_formatter(table: Table) -> Callable[[Row], str]:
    """A function row -> line for rows of ``table``."""
    shown = [(i, c) for i, c in enumerate(table.columns) if c.text]
    cells = [(i, _cell_formatter(c)) for i, c in shown]
    template = _template(table, [_spec(c) for _, c in shown])
    return lambda row: template % tuple([cell(row[i]) for i, cell in cells])


def _template(table: Table, specs: Sequence[str]) -> str:
    parts = [" " * table.indent]
    for n, (column, spec) in enumerate(zip((c for c in table.columns if c.text), specs, strict=True)):
        gap = column.gap if column.gap is not None else (table.separator if n else "")
        parts += [gap.replace("%", "%%"), spec]
    return "".join(parts)


def _spec(column: Column) -> str:
    if column.align == "^" or not column.width:
        return "%s"
    return f"%{'-' if column.align == '<' else ''}{column.width}s"


def _cell_formatter(column: Column) -> Callable[[Any], str]:
    form = column.format
    show: Callable[[Any], str] = str if form is None else form.__mod__ if isinstance(form, str) else form
    width, absent = column.width, column.absent
    if column.align == "^" and width:
        return lambda value: _center(absent if value is None else show(value), width)
    return lambda value: absent if value is None else show(value)


def _pad(text: str, width: int, align: Align) -> str:
    if align == "^":
        return _center(text, width)
    return text.ljust(width) if align == "<" else text.rjust(width)


def _center(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return (" " * left + text).ljust(width)


def _lines(record: Record) -> Iterable[str]:
    text = record.text() if callable(record.text) else record.text
    return (text or "",) if isinstance(text, str) or text is None else text


def _row_data(columns: Sequence[Column]) -> Callable[[Row], dict[str, object]]:
    shown = [(i, c.key, c.data) for i, c in enumerate(columns) if c.key]

    def data_of(row: Row) -> dict[str, object]:
        return {
            key: row[i] if convert is None or row[i] is None else convert(row[i]) for i, key, convert in shown
        }

    return data_of


def _object(command: str, kind: str, data: Mapping[str, object]) -> str:
    if "command" in data or "kind" in data:
        raise ValueError(f"{command}: JSON data may not be named command or kind")
    return _encode({"command": command, "kind": kind, **plain_mapping(data)}) + "\n"


_encode = json.JSONEncoder(check_circular=False).encode


def plain_mapping(data: Mapping[Any, object]) -> dict[str, object]:
    """A mapping as JSON has it."""
    return {str(key): plain(value) for key, value in data.items()}


def plain(value: object) -> object:
    """A value as JSON has it: `Address` "0x...", bytes as hex digits, enum members by name."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, Address):
        return f"{int(value):#x}"
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has neither infinity nor NaN
    if isinstance(value, Enum):
        return value.name
    return _plain_container(value)


def _plain_container(value: object) -> object:
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple, set, frozenset, Iterator, range)):
        return [plain(v) for v in value]
    if isinstance(value, int):
        return int(value)
    return plain(value.item()) if hasattr(value, "item") else str(value)  # numpy scalars


def _write_batches(out: Writer, lines: Iterator[str]) -> None:
    batch: list[str] = []
    add, deadline = batch.append, monotonic() + _AGE
    try:
        for line in lines:
            add(line)
            if len(batch) >= _BATCH or monotonic() > deadline:
                out.write("".join(batch))
                batch.clear()
                deadline = monotonic() + _AGE
    finally:
        if batch:
            out.write("".join(batch))
