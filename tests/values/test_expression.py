"""C expressions, against gdb: values, types, and what both refuse."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kcrash.errors import ExpressionError, KcrashError
from kcrash.values.format import Formatter
from kcrash.values.names import AddressNames
from tests.values.conftest import Sample

EXPRESSIONS = (
    # bit-fields, negative and other enums in arithmetic
    *("first.bits.a + 1", "first.bits.c + 1", "first.bits.d * 2", "-first.bits.b", "~first.bits.a"),
    *("first.bits.c < 0", "first.bits.f == GREEN", "first.below < 0", "first.below + 1", "shade + 1"),
    *("RED", "BLUE", "GREEN + 1", "F_ONE | F_FOUR", "F_MANY", "B_MINUS", "RED == 0", "shade == BLUE"),
    *("flag + 1", "!flag", "-flag", "~flag", "first.small + first.letter"),
    # numbers: types of literals, conversions, signs
    *("1 + 2 * 3", "(1 + 2) * 3", "7 / 2", "-7 / 2", "-7 % 3", "7 % -3", "1 << 4", "1u << 31", "1 << 31"),
    *("-1 >> 1", "0xffffffff", "0xffffffffu + 1", "4294967295 + 1", "2147483647 + 1", "2147483648"),
    *("0x80000000", "0xffffffffffffffff", "18446744073709551615", "-1 < 1u", "negative < small_unsigned"),
    *("negative + small_unsigned", "negative * small_unsigned", "negative / small_unsigned", "5u - 6"),
    *("5u - 6l", "-5 / 2u", "-5ll / 2u", "010", "0b101", "1ul << 63", "1l << 63", "first.huge + 1"),
    *("jiffies / 250", "jiffies % 1000", "(int)jiffies", "!0", "!5", "~0", "~0u", "~0ul"),
    *("3 < 4 && 2 > 1", "0 || 0", "1 ? 2 : 3", "0 ? 2 : 3", "5 & 3", "5 | 3", "5 ^ 3", "1,2", "(1,2)"),
    # characters and strings
    *("'a'", "'\\n'", "'\\0'", "'\\\\'", "'\\x41'", "'\\101'", "'a' + 1", "'a' == 97", '"abc"', '"abc"[1]'),
    *("first.name[0]", "first.name[1] + 1", "*first.text", "first.text[3]"),
    # floating point
    *("1.5", "1.5 + 1", "1.5f", "1e10", "10 / 4.0", "3.0 / 2", "2.5e-3", "ratio * 3", "ratio > 0"),
    *("first.single * 2", "first.single + first.twice", "first.single == 0.1f", "first.single == 0.1"),
    *("(int)3.9", "(int)-3.9", "(char)65.5", "(int)first.number.f"),
    # casts
    *("(char)65", "(unsigned char)300", "(signed char)200"),
    *("(short)70000", "(long)-1", "(unsigned long)-1"),
    *("(unsigned int)-1", "(char *)head", "(void *)head", "(struct node *)0", "(enum color)5", "(u8)257"),
    *("(handler_t)handler", "(float)1.1", "(double)1.1"),
    *("(unsigned long)head", "(long long)1", "(unsigned)1"),
    *("(long unsigned int)7", "(char)('a' + 1)", "(char)first.value"),
    *("*(int *)&first", "*(char (*)[4])full"),
    # pointers and arrays
    *("head->next->color", "(long)head->next == (long)&second", "head + 1", "head - 1", "numbers + 2"),
    *("&numbers[7] - &numbers[2]", "*(numbers + 2)", "*&numbers[5]"),
    *("numbers[-1+1]", "&*head", "*&first.color"),
    *("!head", "head == 0", "head && 0", "numbers == &numbers[0]", "first.list.next == &first.list"),
    *("head[0].value", "head->matrix[0][1]", "(*head).value"),
    *("numbers[1]@3", "*numbers@3", "head->name[0]@5"),
    *("&((struct node *)0)->big", "(long)&first.big - (long)&first", "*(struct list_head *)&loop"),
    *("&handler", "handler == first.handler", "head->callbacks[0] == callback"),
    # sizeof
    *("sizeof(int)", "sizeof first", "sizeof(struct node)"),
    *("sizeof(first.name)", "sizeof(first.matrix[0])"),
    *("sizeof(struct bits)", "sizeof(struct node *)"),
    *("sizeof(int[4])", 'sizeof("abc")', "sizeof(first.tail)"),
    *("sizeof(flag)", "sizeof(shade)", "sizeof('a')", "sizeof(1.0f)", "sizeof(first.none[0])"),
)  # fmt: skip
REFUSED = (
    *("nosuch", "first.nosuch", "head->nosuch", "1 +", "(", ")", "1 / 0", "5 % 0", "&1", "*5", "first + 1"),
    *("1.5 % 2", "~1.5", "1 << 1.5", "head + head", "-head"),
    *("*first.none", "*first.wild", "08", "1'000", "''"),
    *("(enum nosuch)1", "(struct nosuch *)0", "sizeof(nosuch)", "first.value.x", "1 2", "\"abc"),
)  # fmt: skip


def shown(sample: Sample, text: str) -> str:
    scope = sample.scope()
    return Formatter(scope, names=AddressNames(scope)).top(scope.evaluate(text))


def differences(sample: Sample, expressions: tuple[str, ...]) -> list[str]:
    """Where gdb's value is another one, or none."""
    wrong = []
    theirs = sample.gdb([f"output {text}" for text in expressions])
    for text, wanted in zip(expressions, theirs, strict=True):
        try:
            got = shown(sample, text)
        except KcrashError as error:
            got = f"refused: {error}"
        if got != wanted and not ("division by zero" in got and wanted == "Division by zero"):
            wrong.append(f"{text}\n gdb:    {wanted}\n kcrash: {got}")
    return wrong


def test_values_are_gdb_s(sample: Sample) -> None:
    wrong = differences(sample, EXPRESSIONS)
    assert not wrong, "\n".join(wrong)


def test_types_are_gdb_s(sample: Sample) -> None:
    texts = [text for text in EXPRESSIONS if not text.startswith("sizeof")]  # int to gdb, size_t to C
    pairs = zip(texts, sample.gdb([f"whatis {text}" for text in texts]), strict=True)
    ours = {text: f"type = {sample.scope().type_of(text)}" for text in texts}
    wrong = [f"{text}: gdb {wanted}, kcrash {ours[text]}" for text, wanted in pairs if ours[text] != wanted]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", REFUSED)
def test_both_refuse(sample: Sample, text: str) -> None:
    assert not re.match(r"-?\d+$|\(.*\) 0x|\{", sample.gdb([f"output {text}"])[0])
    with pytest.raises(KcrashError):
        shown(sample, text)


def test_an_error_says_where(sample: Sample) -> None:
    with pytest.raises(ExpressionError) as caught:
        shown(sample, "1 + nosuch * 2")
    assert caught.value.column == 4


# -- random arithmetic

ATOMS = (
    *("0", "1", "7", "255", "65536", "2147483647", "2147483648"),
    *("4294967295", "4294967296", "0xffffffffffffffff"),
    *("3u", "5l", "9ul", "2ll", "'a'", "negative", "small_unsigned"),
    *("jiffies", "first.small", "first.letter"),
    *("first.big", "first.huge", "first.bits.b", "first.bits.c"),
    *("first.bits.d", "flag", "shade + 0", "B_MINUS + 0"),
)  # fmt: skip
OPERATORS = ("+", "-", "*", "/", "%", "&", "|", "^", "<", ">", "<=", ">=", "==", "!=", "&&", "||")
TYPES = ("char", "unsigned char", "short", "unsigned short", "int", "unsigned int", "long", "unsigned long")


def arithmetic(chance: random.Random, depth: int) -> str:
    """A random expression of integers."""
    kind = chance.randrange(7) if depth else 0
    if kind <= 1:
        return chance.choice(ATOMS)
    inner = arithmetic(chance, depth - 1)
    if kind == 2:
        return f"{chance.choice('-~!')}({inner})"
    if kind == 3:
        return f"({chance.choice(TYPES)})({inner})"
    if kind == 4:
        return f"({inner}) {chance.choice(('<<', '>>'))} {chance.randrange(31)}"
    return f"({inner}) {chance.choice(OPERATORS)} ({arithmetic(chance, depth - 1)})"


def test_random_arithmetic_is_gdb_s(sample: Sample) -> None:
    chance = random.Random("arithmetic")
    expressions = tuple(arithmetic(chance, 4) for _ in range(1500))
    wrong = differences(sample, expressions)
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:10])


# -- hostile texts

PIECES = (
    *ATOMS,
    *OPERATORS,
    *"()[]{}.,*&@$?:\"'\\",
    "->",
    "sizeof",
    "struct",
    "node",
    "first",
    "head",
    "(int)",
)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join), st.text(max_size=60)))
def test_any_text_is_a_value_or_an_error(sample: Sample, text: str) -> None:
    try:
        shown(sample, text)
    except KcrashError as error:
        assert "\n" not in str(error).replace(text, "")
