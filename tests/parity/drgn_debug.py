"""What drgn knows of addresses, types and frames of a dump; drgn's Python runs it.

    drgn-python drgn_debug.py VMLINUX VMCORE FOLDER-OF-DEBUG-MODULES < questions > answers

Questions and answers are JSON: ``addresses``: the functions there, innermost first, as
``[name, file, line]``; ``structs``: size and ``{member: bit offset}``; ``tasks`` (their addresses): frames
with their variables.
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


def _local(frame: Any, name: str) -> list[object] | None:
    """``["at", address]`` of a variable in memory, ``["is", bytes in hex]`` of another, None if absent."""
    found = frame[name]
    if found.absent_:
        return None
    if found.address_ is not None:
        return ["at", found.address_]
    return ["is", found.to_bytes_().hex()]


def _frames(program: Any, task: int) -> list[list[object]]:
    """``[pc, name, inlined, line, locals]`` of each frame of the task at an address."""
    import drgn

    rows: list[list[object]] = []
    for frame in program.stack_trace(drgn.Object(program, "struct task_struct *", task)):
        try:
            line = frame.source()[1]
        except LookupError:
            line = 0
        names = {name: _local(frame, name) for name in frame.locals()}
        rows.append([frame.pc, frame.name, frame.is_inline, line, names])
    return rows


def answer(program: Any, questions: dict[str, Any]) -> dict[str, Any]:
    """The answers, by question."""
    return {
        "addresses": [_places(program, address) for address in questions.get("addresses", ())],
        "tasks": [_frames(program, task) for task in questions.get("tasks", ())],
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
