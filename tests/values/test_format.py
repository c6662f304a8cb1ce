"""How values look, against gdb's ``output`` of the same core."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kcrash.values.format import Formatter, Style
from kcrash.values.names import AddressNames
from tests.values.conftest import Sample

VARIABLES = (
    *(
        "first",
        "second",
        "loop",
        "numbers",
        "full",
        "banner",
        "jiffies",
        "shade",
        "flag",
        "ratio",
    ),
    *("head", "ragged", "negative", "small_unsigned", "handler", "callback"),
)
MEMBERS = (
    *("value", "name", "raw", "list", "x", "xy", "named", "named.inner", "named.inner.deep", "number"),
    *("bits", "bits.a", "bits.b", "bits.c", "bits.d", "bits.e", "bits.f", "bits.g", "number.bytes"),
    *("color", "flags", "mixed", "below", "yes", "odd", "letter"),
    *("small", "big", "huge", "single", "twice"),
    *("matrix", "matrix[1]", "matrix[1][2]", "words", "words[1]", "nothing", "handler", "text", "none"),
    *("anything", "unknown", "next", "fixed", "moving", "heads", "heads[1]", "callbacks", "callbacks[0]"),
    *("giant", "tail", "name[0]", "name[9]"),
)
CASTS = (
    *("*head", "(char *)head", "(void *)head", "&numbers[5]", "&first.next", "&first.tail", "head - 1"),
    *(
        "(enum color)5",
        "(enum color)7",
        "(enum color)-1",
        "(enum below)-1",
        "(enum below)-7",
        "(enum below)9",
    ),
    *(f"(enum flags){value:#x}" for value in (0, 1, 2, 3, 7, 8, 0x10, 0xF0, 0xF1, 0x105, 0xFFFFFFFF)),
    *(f"(enum mixed){value}" for value in (0, 1, 2, 3, 4, 5, 6, 7)),
    *(
        "(char)0",
        "(char)7",
        "(char)27",
        "(char)92",
        "(char)39",
        "(char)34",
        "(char)127",
        "(char)-1",
        "(u8)200",
    ),
    *(
        "*(char (*)[9])&first.name",
        "*(char (*)[12])&first.name",
        "*(u8 (*)[3])&full",
        "*(char (*)[1])&first.none",
    ),
    *(
        "numbers[1]@3",
        "*numbers@3",
        "first.name[0]@5",
        "*head->next@1",
        "(float)1.1",
        "1.1",
        "1e100",
        "1.0/3",
    ),
    *("(float)16777216", "1e-7", "100.0", "1e15", "1e16", "1e17", "2.5f"),
)
EVERYTHING = (
    *VARIABLES,
    *(f"first.{path}" for path in MEMBERS),
    *(f"second.{path}" for path in MEMBERS),
    *CASTS,
)

STYLES = {
    "plain": (Style(), ()),
    "hexadecimal": (Style(radix=16), ("set output-radix 16",)),
    "null-stop": (Style(null_stop=True), ("set print null-stop on",)),
    "array": (Style(print_array=True), ("set print array on",)),
}


def shown(sample: Sample, text: str, style: Style) -> str:
    scope = sample.scope()
    return Formatter(scope, style, AddressNames(scope)).top(scope.evaluate(text))


def compare(sample: Sample, texts: Sequence[str], style: Style, settings: Sequence[str]) -> None:
    commands = [*settings, *(f"output {text}" for text in texts)]
    theirs = sample.gdb(commands)[len(settings) :]
    wrong = [
        f"{text}\n gdb:    {wanted}\n kcrash: {got}"
        for text, wanted in zip(texts, theirs, strict=True)
        if (got := shown(sample, text, style)) != wanted
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", STYLES)
def test_as_gdb_prints_it(sample: Sample, name: str) -> None:
    compare(sample, EVERYTHING, *STYLES[name])


def test_the_limit_of_elements_is_gdb_s(sample: Sample) -> None:
    """Of numbers, structs and what is in them; of characters gdb's limit differs between its versions."""
    texts = ("numbers", "first.matrix", "first.heads", "first.callbacks", "numbers[1]@3", "*numbers@9")
    compare(sample, texts, Style(elements=4), ["set print elements 4"])


def test_a_long_string_is_cut(sample: Sample) -> None:
    assert shown(sample, "long_text", Style()) == f'"{"x" * 256}"...'
