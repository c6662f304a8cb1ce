"""``eval``: arithmetic on one or two values, shown in four bases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from kcrash.commands.base import Arguments, Context, Flag, Item, Raw, Record, command
from kcrash.errors import CommandError, KcrashError

_OPERATOR = re.compile(r"<<|>>|[+\-&|*/%^#]")
_NUMBER = re.compile(r"(0x)?[0-9a-f]+", re.I)
_FACTORS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<<": lambda a, b: a << (b & 0xFFFF),
    ">>": lambda a, b: a >> (b & 0xFFFF),
    "#": lambda a, b: pow(a, b, 1 << 64),
}


@command(
    "eval",
    summary="evaluate an expression or numeric value",
    arguments=[
        Flag("-b", "show which bits are set"),
        Flag("-l", "calculate in 64 bits on a 32-bit kernel"),
        Raw("expression", "value, or two values and an operator", "(expression) | value"),
    ],
    description="""
Shows a number in hexadecimal, decimal, octal and binary. A value is a decimal
number, a hexadecimal number (with 0x, or obvious from its digits) or a
kernel symbol; k, m and g after it multiply it by 1024, 1024k and 1024m, and ~
before it complements it. The operators between two values are

    +  -  &  |  ^  *  %  /  <<  >>

An expression in which > or | occur must be in parentheses, or it would be
taken for redirection.""",
    examples=[
        (
            "Show a number in all bases:",
            "eval 128m",
            "hexadecimal: 8000000  (128MB)\n    decimal: 134217728  \n      octal: 1000000000\n"
            "     binary: 0000000000000000000000000000000000001000000000000000000000000000",
        ),
        ("Shift a value, and list the bits:", "eval -b (c01012ac >> 12)"),
    ],
    minimal=True,
    needs_session=False,
)
def eval_(context: Context, args: Arguments) -> Iterator[Item]:
    bits = 64 if args.l else _word_bits(context)
    text = args.expression
    try:
        value = evaluate(text, lambda name: _symbol(context, name)) % (1 << 64)
    except (ValueError, ZeroDivisionError):
        shown = text if text.startswith("(") else f"({text})"
        raise CommandError(f"invalid expression: {shown}") from None
    bits = 64 if value >> 32 else bits
    yield Record("value", _data(value, bits), "\n".join(_lines(value, bits, args.b)))


def evaluate(text: str, symbol: Callable[[str], int | None]) -> int:
    """The value of ``text``: one value, or two with an operator, in parentheses or not, else ValueError.

    Not limited to a width. As in crash, the first operator found divides.
    """
    text = text.strip()
    if text.startswith("(") or ")" in text:
        if not (text.startswith("(") and text.endswith(")")):
            raise ValueError(text)
        text = text[1:-1].strip()
    if "(" in text or ")" in text:
        raise ValueError(text)
    text = f"0{text}" if text.startswith("-") else text
    operator = _OPERATOR.search(text)
    if operator is None:
        return _value(text, symbol)
    left = _value(text[: operator.start()].strip(), symbol)
    right = _value(text[operator.end() :].strip(), symbol)
    return _OPERATORS[operator.group()](left, right)


def _value(text: str, symbol: Callable[[str], int | None]) -> int:
    if text.startswith("~"):
        return ~_value(text[1:], symbol) % (1 << 64)
    address = symbol(text) if text else None
    if address is not None:
        return address
    factor = _FACTORS.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    if not _NUMBER.fullmatch(digits):
        raise ValueError(text)
    value = int(digits, 10 if digits.isdecimal() else 16) * factor
    return min(value, (1 << 64) - 1)  # as strtoull() has it


def _symbol(context: Context, name: str) -> int | None:
    if context.session is None or not (name[0].isalpha() or name[0] in "_."):
        return None
    try:
        return context.session.symbols.find(name)
    except KcrashError:
        return None


def _word_bits(context: Context) -> int:
    return 64 if context.session is None else context.session.arch.word_bits


def _data(value: int, bits: int) -> dict[str, object]:
    signed = value - (1 << bits) if value >> (bits - 1) else value
    return {"hexadecimal": f"{value:#x}", "decimal": value, "signed": signed, "bits": _bits_set(value)}


def _lines(value: int, bits: int, bit_list: bool) -> Iterator[str]:
    yield f"hexadecimal: {value:x}  {_in_units(value)}"
    negative = f"({value - (1 << bits)})" if value >> (bits - 1) else ""
    yield f"    decimal: {value}  {negative}"
    yield f"      octal: {value:o}"
    yield f"     binary: {value:0{bits}b}"
    if bit_list:
        yield from _bit_lines(value)


def _in_units(value: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if value >= 1 << 10 and value % size == 0:
            return f"({value // size}{unit})"
    return ""


def _bits_set(value: int) -> list[int]:
    return [bit for bit in range(value.bit_length() - 1, -1, -1) if value >> bit & 1]


def _bit_lines(value: int) -> Iterator[str]:
    line = "   bits set: "
    for bit in _bits_set(value):
        line += f"{bit} "
        if len(line) >= 77:
            yield line
            line = " " * 13
    yield line
