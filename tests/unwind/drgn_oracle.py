"""Every frame of every task of a dump, unwound by drgn and by us: registers, pc and CFA.

    python -m tests.unwind.drgn_oracle VMLINUX VMCORE [FOLDER OF DEBUG MODULES] [--orc]

drgn gives memory, initial registers and modules, so that nothing but unwinding is compared.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from kcrash.errors import FaultReason, MemoryFault
from kcrash.symbols.elffile import ElfFile
from kcrash.types.dwarf.relocate import relocated
from kcrash.unwind import CfiTable, CodeMap, Frame, OrcTable, Registers, Tables, Unwinder, choose_layout
from kcrash.unwind.orc import OrcLayout
from tests.unwind.support import X86

DWARF = {
    name: n
    for n, name in enumerate(
        ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{i}" for i in range(8, 16)), "rip"]
    )
} | {"rflags": 49, "cs": 51, "ss": 52}


@dataclass
class Report:
    """What came out; ``differences``: one line each."""

    tasks: int = 0
    frames: int = 0
    registers: int = 0
    beyond: int = 0  # frames that drgn goes on to where the stack has ended
    differences: list[str] = field(default_factory=list)
    methods: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    their_seconds: float = 0.0

    def __str__(self) -> str:
        speed = self.frames / self.seconds if self.seconds else 0
        return (
            f"{self.tasks} tasks, {self.frames} frames, {self.registers} registers, methods {self.methods}: "
            f"{len(self.differences)} differences; drgn goes on for {self.beyond} frames beyond the end; "
            f"{speed:.0f} frames/s, drgn in all {self.their_seconds:.3f} s, we {self.seconds:.3f} s"
        )


class _Memory:
    def __init__(self, program: Any) -> None:
        self.program = program

    def read(self, address: int, size: int) -> bytes:
        import drgn

        try:
            return bytes(self.program.read(address, size))
        except (drgn.FaultError, OverflowError, ValueError):
            raise MemoryFault("kernel", address, FaultReason.NOT_MAPPED) from None


def debug_files(modules: Path | None) -> dict[str, Path]:
    """Modules with debug information below a folder, by the name that the kernel gives them."""
    if modules is None:
        return {}
    return {path.name.split(".")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}


def modules_agree(vmlinux: Path, vmcore: Path, modules: Path) -> tuple[int, int]:
    """In how many places of loaded modules CFI (of the file) and ORC (of the dump) agree, of how many."""
    files = debug_files(modules)
    program = _open([vmlinux, *files.values()], vmcore, False)
    code, same, total = _code(program, vmlinux, files), 0, 0
    for module in program.modules():
        start = module.section_addresses.get(".text") if module.name in files else None
        tables = code.find(start) if start else None
        if tables is None or not isinstance(tables.cfi, CfiTable) or tables.orc is None:
            continue
        for fde in map(tables.cfi.fde, tables.cfi.index[1]):
            for pc in (fde.start, fde.start + fde.size // 2, fde.start + fde.size - 1):
                ours, theirs = tables.cfi.row(pc), tables.orc.row(pc)
                if ours is not None and theirs is not None and pc in code:
                    total += 1
                    same += ours.cfa == theirs.cfa and dict(ours.rules)[6] == dict(theirs.rules).get(6)
    return same, total


def compare(vmlinux: Path, vmcore: Path, modules: Path | None, prefer_orc: bool) -> Report:
    """Compare all tasks, the idle ones too."""
    import drgn

    files = debug_files(modules)
    program = _open([vmlinux, *files.values()], vmcore, prefer_orc)
    unwinder = Unwinder(X86, _code(program, vmlinux, files), _Memory(program))
    report = Report()
    for name, task in _tasks(program):
        if not task.stack:
            continue  # a zombie's is somebody else's by now
        started = time.perf_counter()
        try:
            trace = program.stack_trace(task)
        except (ValueError, LookupError, drgn.FaultError):
            continue  # no registers (a dead task has lost its stack): neither of us has where to begin
        report.their_seconds += time.perf_counter() - started
        _compare_task(report, name, unwinder, _frames(trace), prefer_orc)
    return report


def _open(files: list[Path], vmcore: Path, prefer_orc: bool) -> Any:
    os.environ["DRGN_PREFER_ORC_UNWINDER"] = "1" if prefer_orc else "0"
    import drgn

    program = drgn.Program()
    program.set_core_dump(str(vmcore))
    with contextlib.suppress(drgn.MissingDebugInfoError):  # of modules
        program.load_debug_info(list(map(str, files)))
    return program


def _tasks(program: Any) -> Iterator[tuple[str, Any]]:
    from drgn.helpers.linux.cpumask import for_each_online_cpu
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.sched import idle_task

    for cpu in for_each_online_cpu(program):
        yield f"swapper/{cpu}", idle_task(program, cpu)
    for task in for_each_task(program):
        yield f"{task.pid.value_()} {task.comm.string_().decode(errors='replace')}", task


def _code(program: Any, vmlinux: Path, files: dict[str, Path]) -> CodeMap:
    elf = ElfFile(vmlinux)
    frames, entries, offsets = map(elf.section_data, (".debug_frame", ".orc_unwind", ".orc_unwind_ip"))
    header = elf.section_data(".orc_header")
    assert frames is not None and entries is not None and offsets is not None
    layout = choose_layout(entries, bytes(header) if header is not None else None)
    bias = program.symbol("_stext").address - elf.sections[".text"].addr
    orc = OrcTable(
        offsets, entries, X86, address=elf.sections[".orc_unwind_ip"].addr, layout=layout, bias=bias
    )
    tables = Tables(CfiTable(frames, X86, bias=bias), orc)
    code = CodeMap()
    for first, last in (("_stext", "_etext"), ("_sinittext", "_einittext")):
        code.add(program.symbol(first).address, program.symbol(last).address, tables)
    _add_modules(program, code, layout, files)
    return code


def _add_modules(program: Any, code: CodeMap, layout: OrcLayout, files: dict[str, Path]) -> None:
    from drgn.helpers.linux.module import for_each_module

    for module in for_each_module(program):
        arch = module.arch
        count, at = arch.num_orcs.value_(), arch.orc_unwind_ip.value_()
        offsets, entries = program.read(at, 4 * count), program.read(arch.orc_unwind.value_(), 6 * count)
        table = OrcTable(offsets, entries, X86, address=at, layout=layout)
        try:
            start, size = module.core_layout.base.value_(), module.core_layout.text_size.value_()
        except (
            AttributeError
        ):  # Linux commit ac3b43283923 ("module: replace module_layout with module_memory")
            text = module.mem[program.constant("MOD_TEXT")]
            start, size = text.base.value_(), text.size.value_()
        name = module.name.string_().decode()
        code.add(start, start + size, Tables(_module_cfi(program, name, files.get(name)), table))


def _module_cfi(program: Any, name: str, path: Path | None) -> CfiTable | None:
    """The module's .debug_frame, relocated to where its sections were loaded."""
    if path is None:
        return None
    elf = ElfFile(path)
    data = elf.section_data(".debug_frame")
    places = next(m.section_addresses for m in program.modules() if m.name == name)
    return None if data is None else CfiTable(relocated(elf, ".debug_frame", data, dict(places)), X86)


def _frames(trace: Any) -> list[tuple[dict[int, int], bool]]:
    """Registers of the real frames: drgn repeats those of inlined functions."""
    found: list[tuple[dict[int, int], bool]] = []
    for frame in trace:
        registers = {DWARF[name]: value for name, value in frame.registers().items() if name in DWARF}
        if not found or found[-1][0] != registers:
            found.append((registers, frame.interrupted))
    return found


def _compare_task(
    report: Report, name: str, unwinder: Unwinder, theirs: list[tuple[dict[int, int], bool]], prefer_orc: bool
) -> None:
    first, interrupted = theirs[0]
    started = time.perf_counter()
    ours = list(unwinder.unwind(Registers(first), interrupted=interrupted, prefer_orc=prefer_orc))
    report.seconds += time.perf_counter() - started
    report.tasks += 1
    report.frames += len(ours)
    report.differences += [f"{name}: {text}" for text in _differences(ours, theirs, report)]
    for frame in ours:
        report.methods[frame.method] = report.methods.get(frame.method, 0) + 1


def _differences(
    ours: list[Frame], theirs: list[tuple[dict[int, int], bool]], report: Report
) -> Iterator[str]:
    for frame, (registers, interrupted) in zip(ours, theirs, strict=False):
        report.registers += len(registers)
        if frame.registers != registers:
            wrong = sorted(set(frame.registers.items()) ^ set(registers.items()))
            yield f"#{frame.level} {frame.pc or 0:x}: {wrong}"
        if frame.interrupted != interrupted:
            yield f"#{frame.level}: interrupted is {frame.interrupted}"
    for frame, caller in pairwise(ours):
        if caller.method != "regs" and caller.registers.get(7) != frame.cfa:
            yield f"#{frame.level}: the CFA is not the caller's stack pointer"
    # After user space, and on the stack of a dead task, drgn reads on into whatever comes.
    over = X86.user_mode(ours[-1].registers) or "is not in kernel code" in ours[-1].note
    report.beyond += max(0, len(theirs) - len(ours))
    if len(ours) != len(theirs) and not (over and len(ours) < len(theirs)):
        yield f"{len(ours)} frames, drgn has {len(theirs)} ({ours[-1].note})"


def main(arguments: list[str]) -> int:
    """See the module's docstring."""
    files = [Path(a) for a in arguments if not a.startswith("-")]
    report = compare(files[0], files[1], files[2] if files[2:] else None, "--orc" in arguments)
    print(report)
    print("\n".join(report.differences[:20]))
    return bool(report.differences)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
