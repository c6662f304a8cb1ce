"""Lines taken apart."""

from __future__ import annotations

import pytest

from kcrash.commands._line import Line, parse_line
from kcrash.errors import CommandError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", Line()),
        ("  # ps", Line()),
        ("// ps", Line()),
        ("ps -k", Line("ps -k")),
        ("ps | grep x > f", Line("ps", pipe="grep x > f")),
        ("ps > f", Line("ps", output="f")),
        ("ps>>f", Line("ps", output="f", append=True)),
        ('ps > "a b"', Line("ps", output="a b")),
        ("!ls | wc", Line(shell="ls | wc")),
        ("!", Line(shell="")),
        ("ls -l > x", Line(shell="ls -l > x")),
        ("< file", Line("", input="file")),
        ("rd < args", Line("rd", input="args")),
        ("rd < args | wc", Line("rd", input="args", pipe="wc")),
        ("rd < args > out", Line("rd", input="args", output="out")),
        ("\\ps -k", Line("ps -k", literal=True)),
        ("eval (1 << 3 | 4)", Line("eval (1 << 3 | 4)")),
        ("eval 1 << 3", Line("eval 1 << 3")),
        ("ps 'a|b'", Line("ps 'a|b'")),
        ("p init_task->mm->pgd", Line("p init_task->mm->pgd")),
        ("p &a[1]->b > out", Line("p &a[1]->b", output="out")),
        ("foreach bt > out", Line("foreach bt", output="out")),
        ("p ((struct x *)y)->z | cat", Line("p ((struct x *)y)->z", pipe="cat")),
    ],
)
def test_parts(text: str, line: Line) -> None:
    assert parse_line(text) == line


@pytest.mark.parametrize("text", ["ps >", "ps |", "ps <", "ps > a b"])
def test_operands_must_be_there(text: str) -> None:
    with pytest.raises(CommandError):
        parse_line(text)
