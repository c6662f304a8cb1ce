"""``ascii``: hexadecimal values as text, and the chart."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands.base import Address, Arguments, Context, Item, Record, Rest, Text, command, hexadecimal

_NAMES = tuple(
    "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI "  # noqa: SIM905
    "DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split()
)


def _value(text: str) -> int:
    value = hexadecimal(text)
    if not 0 <= value < 1 << 64:
        raise ValueError(f'input string too large: "{text}"')
    return value


@command(
    "ascii",
    summary="translate a hexadecimal string to ASCII",
    arguments=[Rest("value", "hexadecimal value of up to 64 bits", parse=_value)],
    description="""
Shows the characters in each value, in the byte order of the dump. Without
arguments, shows the ASCII chart.""",
    examples=[
        ("Translate the value of 8 bytes at once:", "ascii 62696c2f7273752f", "62696c2f7273752f: /usr/lib")
    ],
    needs_session=False,
)
def ascii_(context: Context, args: Arguments) -> Iterator[Item]:
    if not args.value:
        yield Text(chart(), kind="chart")
    for value in args.value:
        text = characters(value, context)
        yield Record("ascii", {"value": Address(value), "text": text}, f"{value:016x}: {text}")


def characters(value: int, context: Context) -> str:
    """The bytes of a value, as they lie in memory: control characters by name, others in hexadecimal."""
    session = context.session
    data = value.to_bytes(8, "big" if session and session.arch.byte_order == "big" else "little")
    return "".join(map(_show, data))


def _show(byte: int) -> str:
    if 0x20 <= byte < 0x7F:
        return chr(byte)
    return f"<{'DEL' if byte == 0x7F else _NAMES[byte]}>" if byte < 0x80 else f"<{byte:02x}>"


def chart() -> str:
    """The ASCII characters in 8 columns of 16."""
    lines = ["", "      0    1   2   3   4   5   6   7", "    +-------------------------------"]
    for low in range(16):
        cells = [f"{_NAMES[low]:>3}", f"{_NAMES[low + 16]:>3}"]
        cells += [_cell(low + 16 * high) for high in range(2, 8)]
        lines.append(f"  {low:X} | " + " ".join(cells).rstrip())
    return "\n".join([*lines, ""])


def _cell(code: int) -> str:
    return {0x20: " SP", 0x7F: "DEL"}.get(code, f" {chr(code)} ")
