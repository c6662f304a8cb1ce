"""What drgn knows of addresses, types and frames of a dump; drgn's Python runs it.

    drgn-python drgn_debug.py VMLINUX VMCORE FOLDER-OF-DEBUG-MODULES < questions > answers

Questions and answers are JSON: ``addresses``: the functions there, innermost first, as
``[name, file, line]``; ``structs``: size and ``{member: bit offset}``.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any


def _places(program: Any, address: int) -> list[list[object]]:
    try:
        found = program.source_location(address)
    except LookupError:
        return []
    # Names are only in the text: "#0  name at file:line:column".
    names = [re.sub(r"^#\d+ +", "", line).partition(" at ")[0] for line in str(found).splitlines()]
    return [[name, place.filename, place.line] for name, place in zip(names, found, strict=True)]


def _struct(program: Any, name: str) -> list[object]:
    type_ = program.type(f"struct {name}")
    return [type_.size, {member.name: member.bit_offset for member in type_.members if member.name}]


def answer(program: Any, questions: dict[str, Any]) -> dict[str, Any]:
    """The answers, by question."""
    return {
        "addresses": [_places(program, address) for address in questions.get("addresses", ())],
        "structs": {name: _struct(program, name) for name in questions.get("structs", ())},
    }


def main() -> None:
    """See the module's docstring."""
    import drgn

    vmlinux, vmcore, folder = map(Path, sys.argv[1:4])
    program = drgn.Program()
    program.set_core_dump(str(vmcore))
    with contextlib.suppress(drgn.MissingDebugInfoError):
        program.load_debug_info([str(vmlinux), *map(str, folder.rglob("*.ko*"))])
    json.dump(answer(program, json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
