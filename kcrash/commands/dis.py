"""``dis``: machine code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from kcrash.commands._addresses import parse_address, parse_number
from kcrash.commands._source import Function, functions_at, functions_data, inlined_below
from kcrash.commands.base import (
    RADIX,
    Arg,
    Arguments,
    CommandError,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Record,
    command,
)
from kcrash.errors import KcrashError
from kcrash.linux.code import Instruction, instructions, routine
from kcrash.memory.space import AddressSpace
from kcrash.output import Address, Fault, Text
from kcrash.session import Session, SourceLine

TEXT = "tTwW"  # the letters of code


@command(
    "dis",
    summary="disassemble",
    arguments=[
        Exclusive(
            Flag("-r", "from the start of the routine to the address"),
            Flag("-f", "from the address to the end of the routine"),
        ),
        Flag("-l", "the line of source over the instructions that it made, and the functions inlined there"),
        Flag("-u", "the address is the context task's"),
        Flag("-s", "where the source of the routine is"),
        Flag("-U", "as the decoder has it", hidden=True),
        RADIX,
        Option("-b", "num", "skip this many bytes behind each ud2", parse=parse_number, hidden=True),
        Arg("address", "hexadecimal, a symbol, or (an expression)", "address|symbol|(expression)",
            completes="symbol"),
        Arg("count", "how many instructions; a whole routine for a symbol, else 1", optional=True),
    ],
    description="Shows instructions as the assembler writes them, with the symbols that they refer to.",
    examples=[("A routine:", "dis schedule"), ("What led up to an address:", "dis -rl schedule+64")],
    minimal=True,
)  # fmt: skip
def dis(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    address = parse_address(session, args.address)
    if args.s:
        yield _source(session, address)
        return
    space: AddressSpace = _user(context) if args.u else session.memory
    start, end, count = _extent(session, args, address)
    hexadecimal = context.radix(args) == 16
    shown: SourceLine | None = None
    inlined: list[str] = []
    try:
        wanted = (one for one in instructions(session, space, start, end) if args.r or one.address >= address)
        for instruction in islice(wanted, count):
            line = session.line_of(instruction.address) if args.l else None
            functions = functions_at(session, instruction.address) if args.l else ()
            if line is not None and line != shown:
                shown = line
                yield Text(f"{line.file}: {line.line}", layout=True)
            if inlined != (inlined := inlined_below(functions)):
                yield from (Text(text, layout=True) for text in inlined)
            yield _record(session, instruction, hexadecimal, line, functions)
            if args.r and instruction.address >= address:
                return
    except KcrashError as error:
        yield Fault.of(error)


def _user(context: Context) -> AddressSpace:
    from kcrash.commands._tasks import context_task, user_memory

    return user_memory(context.session, context_task(context))


def _extent(session: Session, args: Arguments, address: int) -> tuple[int, int | None, int | None]:
    """``(start, end, how many)`` of what to show."""
    count = parse_number(args.count) if args.count else None
    if count is not None and count <= 0:
        raise CommandError(f"cannot show {count} instructions")
    if args.r:
        return routine(session, address)[0], None, None
    if args.f:  # from the routine's start, so that an address within an instruction is none
        return *routine(session, address), count
    found = session.symbols.at(address)
    whole = found is not None and found[1] == 0 and found[0].type in TEXT
    if count is None and whole and not args.u:
        return address, routine(session, address)[1], None
    return address, None, count or 1


def _source(session: Session, address: int) -> Item:
    line = session.line_of(address)
    if line is None:
        raise CommandError(f"{address:x}: line numbers are not available")
    data = {"address": Address(address), "file": line.file, "line": line.line}
    return Record("source", data, [f"FILE: {line.file}", f"LINE: {line.line}"])


def _label(session: Session, address: int, hexadecimal: bool) -> str:
    found = session.symbols.at(address)
    if found is None:
        return ""
    offset = found[1]
    shift = f"+{offset:#x}" if hexadecimal else f"+{offset}"
    return f"<{found[0].name}{shift if offset else ''}>"


def _record(
    session: Session,
    made: Instruction,
    hexadecimal: bool,
    line: SourceLine | None,
    functions: Sequence[Function],
) -> Item:
    label = _label(session, made.address, hexadecimal)
    where = f"{made.address:#x} {label}:" if label else f"{made.address:#x}:"
    code = f"{made.mnemonic:<6} {made.operands}".rstrip()
    data: dict[str, object] = {
        "address": Address(made.address),
        "symbol": label[1:-1],
        "bytes": made.data.hex(),
        "instruction": code,
    }
    if made.data == session.arch.ftrace_nop and "+" not in label:
        code += " [FTRACE NOP]"
    if made.target is not None:
        target = _label(session, made.target, hexadecimal)
        data |= {"target": Address(made.target), "target_symbol": target[1:-1]}
        if made.is_branch and target:
            code += f" {target}"
        elif not made.is_branch:
            code += f"{session.arch.remark} {made.target:#x} {target}".rstrip()
    if line is not None:
        data |= {"file": line.file, "line": line.line}
    if functions:
        data["functions"] = functions_data(functions)
    return Record("instruction", data, f"{where}\t{code}")
