"""What a command yields: typed data together with the text that shows it.

* `Table`: declared `Column` s and a lazy stream of rows.
* `Record`: one thing, a mapping of data, and the lines that show it.
* `Text`: a free line.
* `Fault`: something that could not be had; the listing goes on, the status is failed.

In JSON every row, record, text and fault is one object on one line, with
``command`` and ``kind`` first (so no data may be named so). Numbers are JSON integers (arbitrarily large);
addresses are strings ``"0x..."``: wrap them in `Address`, or declare the column
with `Column.address`. Absent values are None: ``null`` in JSON, the column's
``absent`` text in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

Align: TypeAlias = Literal["<", ">", "^"]
_NOTHING: Mapping[str, object] = MappingProxyType({})
Formatter: TypeAlias = Callable[[Any], str]


class Address(int):
    """An integer that is an address: text and JSON show it in hexadecimal (JSON with 0x)."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self:x}"


class Column(NamedTuple):
    """One column of a `Table`.

    ``key``: name in JSON ("" leaves the column out of JSON); ``header``: text
    over the column; ``width``: minimum width, nothing is ever cut;
    ``align``: "<", ">" or "^" (the odd blank of a centred text goes right);
    ``format``: printf format such as ``"%x"``, or a function value -> str;
    ``gap``: text before the column, None for the table's separator (nothing
    before the first column); ``absent``: text for None; ``text`` False: in
    JSON only; ``data``: function value -> JSON value.

    Text is exact: a column is padded to its width and never trimmed, so give
    the last left-aligned column a width of 0 unless trailing blanks are wanted.
    """

    key: str
    header: str = ""
    width: int = 0
    align: Align = "<"
    format: str | Formatter | None = None
    header_align: Align | None = None
    gap: str | None = None
    absent: str = ""
    text: bool = True
    data: Callable[[Any], object] | None = None

    @classmethod
    def address(
        cls,
        key: str,
        header: str = "",
        width: int = 16,
        align: Align = "^",
        format: str | Formatter = "%x",
        **more: Any,
    ) -> Column:
        """A column of addresses: hexadecimal digits in text, ``"0x..."`` in JSON."""
        return cls(key, header, width, align, format, data=hex_address, **more)


def hex_address(value: int) -> str:
    """The JSON form of an address."""
    return f"{value:#x}"


class Fault(NamedTuple):
    """A part of the answer that could not be had. Yield it as an item, or as a row of a table.

    The command goes on and its status is failed. ``data`` goes to JSON.
    """

    message: str
    data: Mapping[str, object] = _NOTHING

    @classmethod
    def of(cls, error: BaseException, **data: object) -> Fault:
        """The fault that an exception describes."""
        return cls(str(error), data)


Row: TypeAlias = Sequence[Any]


class Table(NamedTuple):
    """Rows under declared columns.

    ``rows``: sequences in column order (or `Fault`), consumed once and lazily;
    ``kind``: the JSON kind of each row; ``common``: JSON data put into every row;
    ``heading``: the header line in full, where it is not made of the columns' headers;
    ``header`` False prints none; ``header_if_empty`` False prints none without rows;
    ``empty``: the line printed when there are no rows; ``indent``: blanks before every line.
    """

    columns: Sequence[Column]
    rows: Iterable[Row | Fault]
    kind: str = "row"
    separator: str = " "
    common: Mapping[str, object] = _NOTHING
    heading: str | None = None
    header: bool = True
    header_if_empty: bool = True
    empty: str | None = None
    indent: int = 0


class Record(NamedTuple):
    """One thing: ``data`` is its JSON, ``text`` its line or lines (without the last newline).

    ``text`` may be a function, called only when text is wanted; None prints
    nothing and "" prints an empty line.
    """

    kind: str
    data: Mapping[str, object]
    text: str | Iterable[str] | Callable[[], str | Iterable[str]] | None = None


class Text(NamedTuple):
    """A free line of text.

    In JSON it is ``{"kind": kind, "text": ...}`` or ``data`` if given; with
    ``layout`` True (headings, blank lines) it is not in JSON at all.
    """

    text: str = ""
    data: Mapping[str, object] | None = None
    kind: str = "text"
    layout: bool = False
    end: str = "\n"


Item: TypeAlias = Table | Record | Text | Fault
