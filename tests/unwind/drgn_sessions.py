"""Every frame of every task as a session finds it, beside drgn's, for any architecture that drgn unwinds.

    python -m tests.unwind.drgn_sessions VMLINUX VMCORE

Unlike drgn_oracle all comes from the session: memory, page tables, registers to start from, tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kcrash
from kcrash.linux.stack import frames
from kcrash.linux.tasks import Task, task_table
from kcrash.session import Session
from kcrash.unwind import Frame

Numbered = dict[int, int]


@dataclass
class Report:
    """What came out; ``differences``: one line each."""

    tasks: int = 0
    frames: int = 0
    registers: int = 0
    beyond: int = 0  # frames of user space, which drgn does not reach
    differences: list[str] = field(default_factory=list)


def compare(vmlinux: Path, vmcore: Path) -> Report:
    """Compare all tasks that both have registers of."""
    session, program = kcrash.open(str(vmlinux), str(vmcore)), _open(vmlinux, vmcore)
    report = Report()
    for task in task_table(session).tasks:
        if not task.stack:
            continue  # a zombie's is somebody else's by now
        theirs = _theirs(session, program, task)
        if not theirs:
            continue
        report.tasks += 1
        ours = frames(session, task)
        label = f"{task.pid} {task.name}"
        report.differences += [f"{label}: {text}" for text in _differences(session, ours, theirs, report)]
    return report


def _open(vmlinux: Path, vmcore: Path) -> Any:
    import drgn

    program = drgn.Program()
    program.set_core_dump(str(vmcore))
    program.load_debug_info([str(vmlinux)])
    return program


def _theirs(session: Session, program: Any, task: Task) -> list[Numbered]:
    """Registers of drgn's frames by DWARF number: it repeats those of inlined functions.

    On s390x the struct pt_regs without a pc that kernel threads begin with is a frame to it.
    """
    import drgn

    try:
        trace = program.stack_trace(drgn.Object(program, "struct task_struct *", task.address))
    except (ValueError, LookupError, drgn.FaultError):
        return []
    dwarf, found = session.arch.dwarf, list[Numbered]()
    for frame in trace:
        named = {session.arch.fp if name == "fp" else name: v for name, v in frame.registers().items()}
        named |= {"x30": named["lr"]} if "lr" in named else {}
        registers = {dwarf[name]: value for name, value in named.items() if name in dwarf}
        registers.setdefault(dwarf[session.arch.pc], frame.pc)
        if not found or found[-1] != registers:
            found.append(registers)
    return found if not found or found[-1][dwarf[session.arch.pc]] else found[:-1]


def _differences(
    session: Session, ours: list[Frame], theirs: list[Numbered], report: Report
) -> Iterator[str]:
    user = [frame for frame in ours if frame.regs_address is not None and _in_user(session, frame)]
    kernel = ours[: len(ours) - len(user)] if len(ours) > len(theirs) else ours
    report.beyond += len(ours) - len(kernel)
    report.frames += len(kernel)
    if _frameless(session, ours):
        # drgn goes by the chain of frames, and passes over who called a function that has none.
        if [kernel[0].pc, *(frame.pc for frame in kernel[2:])] != _pcs(session, theirs):
            yield f"{[frame.pc for frame in kernel]}, drgn has {_pcs(session, theirs)}"
        return
    for frame, registers in zip(kernel, theirs, strict=False):
        both = frame.registers.keys() & registers.keys()
        report.registers += len(both)
        wrong = {
            n: (hex(frame.registers[n]), hex(registers[n]))
            for n in both
            if frame.registers[n] != registers[n]
        }
        lost = sorted(registers.keys() - frame.registers.keys())
        if wrong or lost:
            yield f"#{frame.level} {frame.pc or 0:x} ({frame.method}): {wrong} without {lost}"
    if len(kernel) != len(theirs):
        yield f"{len(kernel)} frames, drgn has {len(theirs)} ({ours[-1].note})"


def _frameless(session: Session, ours: list[Frame]) -> bool:
    """True if the innermost function was interrupted without a frame of its own, as its code tells."""
    own = ours[0].registers.get(session.arch.dwarf[session.arch.sp])
    return (
        bool(session.arch.frame.chained)
        and len(ours) > 1
        and (ours[0].interrupted, ours[0].cfa, ours[1].method) == (True, own, "prologue")
    )


def _pcs(session: Session, theirs: list[Numbered]) -> list[int]:
    return [registers[session.arch.dwarf[session.arch.pc]] for registers in theirs]


def _in_user(session: Session, frame: Frame) -> bool:
    named = {name: frame.registers[n] for name, n in session.arch.dwarf.items() if n in frame.registers}
    return session.arch.user_mode(named)


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    report = compare(Path(arguments[0]), Path(arguments[1]))
    print(f"{report.tasks} tasks, {report.frames} frames, {report.registers} registers: "
          f"{len(report.differences)} differences, {report.beyond} frames of user space beyond")  # fmt: skip
    print("\n".join(report.differences[:20]))
    return bool(report.differences)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
