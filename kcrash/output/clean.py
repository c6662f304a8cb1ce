"""The one place where text that came out of a dump loses its power over a terminal."""

from __future__ import annotations

import re

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROLS = f"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff"
_UNSAFE = re.compile(f"[{_CONTROLS}]")
_UNSAFE_CELL = re.compile(f"[\t\n{_CONTROLS}]")


def clean(text: str) -> str:
    """``text`` with C0, C1, DEL, line separators, bidi controls and lone surrogates escaped.

    Newline and tab stay. What is escaped stays readable: ESC becomes ``\\x1b``.
    """
    return _UNSAFE.sub(_escape, text) if _UNSAFE.search(text) else text


def clean_cell(text: str) -> str:
    """As `clean`, newline and tab too: a task's name cannot forge a row of a table."""
    return _UNSAFE_CELL.sub(_escape, text) if _UNSAFE_CELL.search(text) else text


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
