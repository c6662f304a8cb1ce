"""readelf's interpretation of frame tables, and ours in the same words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kcrash.unwind.rules import Kind, Row, Rule

NAMES = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "ra"]
_FDE = re.compile(r"([0-9a-f]+) [0-9a-f]+ [0-9a-f]+ FDE cie=([0-9a-f]+) pc=([0-9a-f]+)\.\.([0-9a-f]+)")

Rows = dict[int, dict[str, str]]  # address -> column -> rule


def read(path: Path, eh: bool) -> Iterator[tuple[int, int, int, Rows]]:
    """``(section offset, start, end, rows)`` of every FDE; no rows where there are only those of its CIE."""
    section = ".eh_frame" if eh else ".debug_frame"
    text = subprocess.run(
        ["readelf", "--debug-dump=frames-interp", "--wide", str(path)], capture_output=True, text=True
    ).stdout  # its exit status is 1 where a library's separate debug file is missing
    part = next((p for p in text.split("Contents of the ") if p.startswith(section + " ")), "")
    for block in part.split("\n\n"):
        lines = block.strip().splitlines()
        match = _FDE.match(lines[0]) if lines else None
        if match:
            offset, _cie, start, end = (int(group, 16) for group in match.groups())
            yield offset, start, end, _rows(lines[1:])


def _rows(lines: list[str]) -> Rows:
    if not lines:
        return {}
    columns = lines[0].split()[1:]
    found = {}
    for line in lines[1:]:
        address, *cells = re.sub(r"(r[0-9]+) \([a-z0-9]+\)", r"=\1", line).split()
        found[int(address, 16)] = dict(zip(columns, cells, strict=True))
    return found


def render(row: Row, columns: list[str]) -> dict[str, str]:
    """Our row as readelf prints it."""
    rules = dict(row.rules)
    return {
        column: _cfa(row) if column == "CFA" else _rule(column, rules.get(NAMES.index(column)))
        for column in columns
    }


def _cfa(row: Row) -> str:
    if row.cfa is None:
        return "?"
    return f"{NAMES[row.cfa.register]}{row.cfa.offset:+d}" if row.cfa.kind == Kind.REGISTER else "exp"


def _rule(column: str, rule: Rule | None) -> str:
    if rule is None or rule == Rule(Kind.REGISTER, NAMES.index(column)):
        return "u"  # readelf knows no defaults; "s" is said only by DW_CFA_same_value
    if column == "rsp" and rule == Rule(Kind.CFA):
        return "u"
    words = {
        Kind.SAVED: f"c{rule.offset:+d}",
        Kind.CFA: f"v{rule.offset:+d}",
        Kind.EXPRESSION: "exp",
        Kind.VALUE: "vexp",
        Kind.REGISTER: f"=r{rule.register}",
    }
    return words[Kind(rule.kind)]
