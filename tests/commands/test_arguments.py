"""Declared arguments: parsing as getopt does it, usage errors, synopses."""

from __future__ import annotations

import pytest

from kcrash.commands._arguments import (
    RADIX,
    Arg,
    Argument,
    Arguments,
    Declaration,
    Exclusive,
    Flag,
    Number,
    Option,
    Raw,
    Rest,
    cpus,
    decimal,
    hexadecimal,
    number,
)
from kcrash.commands._words import split_words
from kcrash.errors import CommandError, UsageError


def parse(line: str, *arguments: Argument) -> Arguments:
    return Declaration(arguments).parse(split_words(line), line)


PS = (
    Exclusive(Flag("-k", "kernel threads"), Flag("-u", "user tasks")),
    Option("-C", "cpus", "CPUs", parse=cpus),
    Flag("-s", "stack"),
    Rest("selector", metavar="pid | task"),
)


def test_flags_bundle_and_options_take_the_rest_of_the_word() -> None:
    args = parse("-ksC1,3 12", *PS)
    assert (args.k, args.s, args.u, args.C, args.selector) == (True, True, False, [1, 3], ["12"])


def test_option_value_may_be_the_next_word() -> None:
    assert parse("-C 2-4", *PS).C == [2, 3, 4]


def test_flags_after_positionals() -> None:
    args = parse("1 -k 2", *PS)
    assert args.k and args.selector == ["1", "2"]


def test_two_dashes_end_the_flags() -> None:
    args = parse("-- -k 2", *PS)
    assert not args.k and args.selector == ["-k", "2"]


def test_quoted_words_are_no_flags_and_keep_their_quote() -> None:
    word = parse("'-k'", *PS).selector[0]
    assert (word, word.quote) == ("-k", "'")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-Z", "invalid option -- 'Z'"),
        ("-ku", "-k and -u are mutually exclusive"),
        ("-C", "option requires an argument -- 'C'"),
        ("--nope", "unrecognized option '--nope'"),
    ],
)
def test_wrong_use(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parse(line, *PS)


def test_bad_value_is_an_error_without_usage() -> None:
    with pytest.raises(CommandError, match="invalid cpu specification: x") as caught:
        parse("-C x", *PS)
    assert not isinstance(caught.value, UsageError)


def test_count() -> None:
    assert parse("-FF", Flag("-F", "f", count=True)).F == 2
    assert parse("", Flag("-F", "f", count=True)).F == 0


def test_multi_letter_flags_are_exact() -> None:
    declared = (Flag("-16", "16 bits"), Flag("-panic", "panic"), Flag("-p", "p"))
    args = parse("-16 -panic", *declared)
    assert args.opt_16 and args.panic and not args.p
    assert parse("-p", *declared).p


@pytest.mark.parametrize(("line", "value"), [("", None), ("-S", True), ("-S=1,2", [1, 2])])
def test_optional_value(line: str, value: object) -> None:
    assert value == parse(line, Option("-S", "cpus", "s", parse=cpus, optional=True)).S


def test_optional_value_does_not_take_the_next_word() -> None:
    args = parse("-S 5", Option("-S", "cpus", "s", optional=True), Rest("x"))
    assert args.S is True and args.x == ["5"]


def test_long_options() -> None:
    declared = (Option("--mod", "dir", "d", repeat=True), Flag("-v,--version", "v", name="version"))
    args = parse("--mod=a --mod b --version", *declared)
    assert args.mod == ["a", "b"] and args.version


def test_json_is_always_there() -> None:
    assert parse("1 --json", *PS).json
    assert not parse("1", *PS).json


def test_number() -> None:
    args = parse("-5 ps -k", Number("seconds", "s"), Raw("command"))
    assert (args.seconds, args.command) == (5, "ps -k")


@pytest.mark.parametrize(
    ("line", "b", "text"),
    [
        ("-b (1 + 2)", True, "(1 + 2)"),
        ("1 - -b", False, "1 - -b"),
        ("-5", False, "-5"),
        ("-- -b", False, "-b"),
        ("a   'b c'  ", False, "a   'b c'"),
    ],
)
def test_raw_is_as_typed(line: str, b: bool, text: str) -> None:
    args = parse(line, Flag("-b", "b"), Raw("text"))
    assert (args.b, args.text) == (b, text)


def test_raw_after_a_positional() -> None:
    args = parse("name ps -k", Arg("alias"), Raw("text", required=False))
    assert (args.alias, args.text) == ("name", "ps -k")
    assert "text" not in parse("name", Arg("alias"), Raw("text", required=False))


def test_missing_and_too_many() -> None:
    with pytest.raises(UsageError, match="missing argument: pfn"):
        parse("", Rest("pfn", minimum=1))
    with pytest.raises(UsageError, match="missing argument: command"):
        parse("", Raw("command"))
    with pytest.raises(UsageError, match="too many arguments: b"):
        parse("a b", Arg("one"))


def test_names_must_not_collide() -> None:
    with pytest.raises(ValueError, match="taken"):
        Declaration([Flag("-k", "a"), Rest("k")])
    with pytest.raises(ValueError, match="declared twice"):
        Declaration([Flag("-k", "a"), Flag("-k", "b", name="other")])


def test_synopsis() -> None:
    assert Declaration(PS).synopsis() == "[-k|-u] [-C cpus] [-s] [pid | task] ..."
    declared: list[Argument] = [
        RADIX,
        Option("-S", "cpus", "", optional=True),
        Number("seconds", ""),
        Raw("command"),
    ]
    assert Declaration(declared).synopsis() == "[-x|-d] [-S[=cpus]] [-seconds] command"
    assert Declaration([Flag("-D", "", hidden=True), Arg("a"), Arg("b", optional=True)]).synopsis() == "a [b]"


def test_numbers_as_crash_reads_them() -> None:
    assert (hexadecimal("ffff"), hexadecimal("0x10"), number("10"), number("1f"), number("0x10")) == (
        0xFFFF,
        16,
        10,
        31,
        16,
    )
    assert (decimal("10"), decimal("0x10")) == (10, 16)
    for parser in (hexadecimal, decimal, number):
        with pytest.raises(ValueError, match="zz"):
            parser("zz")


def test_cpu_lists() -> None:
    assert cpus("1,8,9-11") == [1, 8, 9, 10, 11]
    assert 5000 in cpus("a") and cpus("all") == cpus("a")
    for bad in ("", "-1", "1-", "x", "99999999999"):
        with pytest.raises(ValueError, match="invalid cpu"):
            cpus(bad)


def test_words() -> None:
    words = split_words("a 'b c' \"d  e\" (1 + (2)) f'g h (open")
    assert words == ["a", "b c", "d  e", "(1 + (2))", "f'g", "h", "(open"]
    assert [w.quote for w in words] == ["", "'", '"', "(", "", "", "("]
    assert split_words("x 'never ends")[1] == "never ends"
