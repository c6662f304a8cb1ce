"""Items to text and to JSON; the one place that cleans text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum

import pytest

from kcrash.output import Address, Column, Fault, Item, Record, Table, Text
from kcrash.output.clean import clean, clean_cell
from kcrash.output.render import JsonRenderer, TextRenderer
from tests.commands.helpers import Kept


def text(*items: Item, color: bool = False) -> str:
    kept = Kept()
    renderer = TextRenderer(kept, color)
    for item in items:
        renderer.render(item, "cmd")
    return kept.text


def objects(*items: Item) -> list[dict[str, object]]:
    kept = Kept()
    renderer = JsonRenderer(kept)
    for item in items:
        renderer.render(item, "cmd")
    return [json.loads(line) for line in kept.text.splitlines()]


COLUMNS = (
    Column("mark", width=1, text=True),
    Column("pid", "PID", 6, ">", gap=""),
    Column.address("task", "TASK", gap="  "),
    Column("state", "ST", 4, "^", header_align="<"),
    Column("mem", "%MEM", 5, ">", "%.1f"),
    Column("extra", text=False),
    Column("", "COMM"),
)
ROWS = [
    (">", 1, 0xFFFF888000001000, "RU", 0.25, {"a": 1}, "init"),
    ("", 22, 0x10, "I", None, None, "k"),
]


def test_columns_are_exact() -> None:
    assert text(Table(COLUMNS, ROWS)) == (
        "    PID        TASK       ST    %MEM COMM\n"
        ">     1  ffff888000001000  RU    0.2 init\n"
        "     22         10         I         k\n"
    )


def test_json_is_typed() -> None:
    assert objects(Table(COLUMNS, ROWS, kind="task", common={"cpu": 3}))[0] == {
        "command": "cmd",
        "kind": "task",
        "cpu": 3,
        "mark": ">",
        "pid": 1,
        "task": "0xffff888000001000",
        "state": "RU",
        "mem": 0.25,
        "extra": {"a": 1},
    }


def test_centring_puts_the_odd_blank_right_as_crash_does() -> None:
    column = Column("a", "AB", 5, "^")
    assert text(Table((column,), [("x",), ("xy",), ("xyzzyx",)])) == " AB  \n  x  \n xy  \nxyzzyx\n"


def test_headers() -> None:
    columns = (Column("a", "A", 3, ">"),)
    assert text(Table(columns, [], header_if_empty=False)) == ""
    assert text(Table(columns, [])) == "  A\n"
    assert text(Table(columns, [], empty="(none)", indent=2)) == "  (none)\n"
    assert text(Table(columns, [(1,)], header=False, indent=2)) == "    1\n"
    assert text(Table(columns, [(1,)], heading="X%Y")) == "X%Y\n  1\n"


def test_gaps_with_percent_signs() -> None:
    assert text(Table((Column("a"), Column("b", gap="%d ")), [(1, 2)], header=False)) == "1%d 2\n"


def test_fault_rows_are_counted() -> None:
    kept = Kept()
    renderer = TextRenderer(kept, color=True)
    renderer.render(Table((Column("a", "A"),), [(1,), Fault("bad\x1b"), (2,)]), "cmd")
    assert kept.text == "A\n1\n\x1b[31mcmd: bad\\x1b\x1b[0m\n2\n"
    assert renderer.faults == 1
    assert objects(Fault("bad", {"address": Address(16)})) == [
        {"command": "cmd", "kind": "fault", "error": "bad", "address": "0x10"}
    ]


def test_records() -> None:
    lazy: list[int] = []

    def lines() -> Iterator[str]:
        lazy.append(1)
        yield "one"
        yield "two"

    record = Record("frame", {"level": 0, "ip": Address(255), "none": None}, lines)
    assert objects(record) == [{"command": "cmd", "kind": "frame", "level": 0, "ip": "0xff", "none": None}]
    assert not lazy
    assert text(record) == "one\ntwo\n"
    assert text(Record("x", {}), Record("x", {}, ""), Record("x", {}, "a\nb")) == "\na\nb\n"


def test_texts() -> None:
    assert text(Text("a"), Text(), Text("b", end="")) == "a\n\nb"
    assert objects(Text("a"), Text(), Text("HEAD", layout=True), Text("c", {"v": 1}, kind="k")) == [
        {"command": "cmd", "kind": "text", "text": "a"},
        {"command": "cmd", "kind": "k", "v": 1},
    ]


class Color(Enum):
    RED = 1


class Big(int):
    pass


def test_plain_values() -> None:
    data = {
        "e": Color.RED,
        "b": b"\xff\0",
        "t": (1, Address(2)),
        "n": {"x": Address(3)},
        "i": Big(7),
        "f": float("inf"),
        "h": 1 << 80,
        "g": (n for n in (1, 2)),
    }
    (found,) = objects(Record("r", data))
    assert {k: found[k] for k in data} == {
        "e": "RED",
        "b": "ff00",
        "t": [1, "0x2"],
        "n": {"x": "0x3"},
        "i": 7,
        "f": None,
        "h": 1 << 80,
        "g": [1, 2],
    }


HOSTILE = "a\x1b[2J\x07b\x9bc\x7fd\u202ee\u2066f\rg\ud800h\u2028i"


def test_hostile_text_is_escaped_everywhere() -> None:
    shown = "a\\x1b[2J\\x07b\\x9bc\\x7fd\\u202ee\\u2066f\\rg\\ud800h\\u2028i"
    assert clean(HOSTILE) == shown
    for item in (Text(HOSTILE), Record("r", {}, HOSTILE), Record("r", {}, [HOSTILE])):
        assert text(item) == shown + "\n"
    assert text(Fault(HOSTILE)) == f"cmd: {shown}\n"
    assert text(Table((Column("a", HOSTILE),), [(HOSTILE,)])) == f"{shown}\n{shown}\n"


def test_newlines_cannot_forge_rows() -> None:
    assert clean("a\nb\tc") == "a\nb\tc"
    assert clean_cell("a\nb\tc") == "a\\nb\\tc"
    assert text(Table((Column("a", "A"),), [("x\n> 1",)])) == "A\nx\\n> 1\n"


def test_hostile_text_is_ascii_in_json() -> None:
    kept = Kept()
    JsonRenderer(kept).render(Record("r", {"name": HOSTILE}), "cmd")
    assert kept.text.isascii() and kept.text[:-1].isprintable()


def test_rows_stream() -> None:
    """A slow listing is seen while it grows; rows before an error are written."""
    kept = Kept()

    def rows() -> Iterator[tuple[int]]:
        for number in range(1000):
            yield (number,)
        assert kept.text.count("\n") >= 512
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextRenderer(kept).render(Table((Column("a"),), rows(), header=False), "cmd")
    assert kept.text.count("\n") == 1000
