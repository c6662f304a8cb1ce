"""``struct``, ``union`` and ``*``: definitions of structs, and their contents in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from kcrash.commands._addresses import parse_address, parse_number
from kcrash.commands._dumpfile import FileSpace
from kcrash.commands._percpu import cpus_of, per_cpu_hint
from kcrash.commands._structs import (
    Layout,
    Shower,
    definition_text,
    layout_of,
    member_offset_lines,
    offsets_text,
    parse_offset,
    size_text,
)
from kcrash.commands.base import (
    RADIX,
    Address,
    Arg,
    Argument,
    Arguments,
    Context,
    Fault,
    Flag,
    Item,
    Option,
    Record,
    Text,
    command,
)
from kcrash.errors import CommandError, MemoryFault
from kcrash.memory.space import AddressSpace
from kcrash.types.definition import definition

if TYPE_CHECKING:
    from kcrash.types.model import Member

MAX_COUNT = 1 << 24

ARGUMENTS: list[Argument] = [
    Flag("-o", "offsets of the members, or with an address their addresses"),
    Option("-l", "offset", "the address is that of this member: struct.member, or a number of bytes"),
    Flag("-r", "the bytes, as rd shows them"),
    Flag("-f", "the address is an offset into the dump file"),
    Flag("-u", "the address is one of the context task's user space"),
    RADIX,
    Flag("-p", "show what pointers among the members point to"),
    Option("-c", "count", "how many structs side by side; negative: that many up to the address"),
    Arg("name", "the struct, and members of it", "name[.member[,member]]", completes="type"),
    Arg("where", "hexadecimal address, symbol or expression in parentheses; :cpuspec for per-CPU data",
        "address|symbol[:cpuspec]", optional=True, completes="symbol"),
    Arg("count", "how many structs side by side", optional=True),
]  # fmt: skip
DESCRIPTION = """
Without an address: the definition and the size, or where a member lies. With
an address: the contents. A member may lie deeper (se.vruntime) or be an element
of an array (comm[2]), several are separated by commas.
cpuspec: ":" is the context task's CPU, ":a" all, ":1,3-5" those."""


@command(
    "struct",
    summary="structure contents",
    arguments=ARGUMENTS,
    description=DESCRIPTION,
    examples=[
        ("The definition, with offsets:", "struct -o list_head"),
        ("Some members of a task:", "struct task_struct.comm,pid,se.vruntime ffff888100200000"),
        ("One member of every CPU's run queue:", "struct rq.nr_running runqueues:a"),
    ],
)
def struct(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    yield from show(context, args, "struct")


@command(
    "union",
    summary="union contents",
    arguments=ARGUMENTS,
    description=DESCRIPTION,
    examples=[("A union at an address:", "union thread_union ffffffff82a00000")],
)
def union(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    yield from show(context, args, "union")


@command(
    "*",
    summary="structure or union contents: a shortcut",
    arguments=ARGUMENTS,
    description=DESCRIPTION + "\nNo blank is needed after the star.",
    examples=[("A page:", "*page ffffea0000000000")],
)
def star(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    yield from show(context, args, "")


def show(context: Context, args: Arguments, kind: str) -> Iterator[Item]:
    """What all three do; ``kind``: what the name must be, "" if either."""
    layout = layout_of(context.session, args.name, kind)
    if args.r and len(layout.members) > 1:
        raise CommandError("only one structure member allowed with -r")
    if args.where is None:
        if args.p:
            raise CommandError("-p option requires address argument")
        yield from _definition(layout, args, context.radix(args))
        return
    yield from _Instances(context, args, layout).items()


def _definition(layout: Layout, args: Arguments, radix: int) -> Iterator[Item]:
    for path in layout.members:
        lines = member_offset_lines(layout, path, radix, None)
        found = layout.select(path).member
        yield Record("member", {"type": layout.full_name, "member": _member_data(found, path)}, lines)
    if layout.members:
        return
    shown = offsets_text(layout, radix) if args.o else definition_text(layout)
    yield Record("definition", definition_data(layout), [*shown, size_text(layout, radix)])


def definition_data(layout: Layout) -> dict[str, object]:
    """A definition for JSON: size, and name, type, offset, size (bits) of the members."""
    members = [_member_data(line.member, line.member.name) for line in definition(layout.type) if line.member]
    return {"type": layout.full_name, "size": layout.type.size, "members": members}


def _member_data(member: Member, path: str) -> dict[str, object]:
    data: dict[str, object] = {
        "name": path,
        "type": str(member.type),
        "offset": member.offset,
        "size": member.type.size,
    }
    if member.bit_size:
        data |= {"bit_offset": member.bit_offset, "bits": member.bit_size}
    return data


class _Instances:
    """Structs in memory."""

    def __init__(self, context: Context, args: Arguments, layout: Layout) -> None:
        self.context, self.args, self.layout = context, args, layout
        self.session = context.session
        self.radix = context.radix(args)
        where, _colon, self.cpus = str(args.where).partition(":")
        self.per_cpu = bool(_colon)
        self.symbol = where
        self.address = self._file_offset(where) if args.f else parse_address(self.session, where)
        self.count, self.step = self._count()
        self.offset = parse_offset(self.session.types, args.l) if args.l else 0

    def _file_offset(self, text: str) -> int:
        try:
            return int(text, 16)
        except ValueError:
            return parse_address(self.session, text)

    def _count(self) -> tuple[int, int]:
        text = self.args.c if self.args.c is not None else self.args.count
        count = parse_number(text) if text is not None else 1
        if abs(count) > MAX_COUNT:
            raise CommandError(f"invalid count request: {count}")
        return abs(count), -1 if count < 0 else 1

    def items(self) -> Iterator[Item]:
        """Everything that was asked for."""
        if not self.per_cpu:
            try:
                yield from self._array(self.address)
            except MemoryFault as fault:
                raise per_cpu_hint(self.session, self.symbol, fault) from None
            return
        for cpu in cpus_of(self.context, self.cpus):
            address = self.address + self.session.per_cpu_offset(cpu) & self.session.word_mask
            yield Record("cpu", {"cpu": cpu, "address": Address(address)}, f"[{cpu}]: {address:x}")
            try:
                yield from self._array(address)
            except MemoryFault as fault:
                yield Fault.of(fault, cpu=cpu)

    def _array(self, address: int) -> Iterator[Item]:
        """``count`` structs side by side, blank lines between them."""
        address = address - self.offset & self.session.word_mask
        if self.step < 0:
            address -= (self.count - 1) * self.layout.type.size
        for number in range(self.count):
            if number:
                yield Text("", layout=True)
            yield from self._one(address + number * self.layout.type.size)

    def _one(self, address: int) -> Iterator[Item]:
        if self.args.o:
            yield from self._addresses(address)
        elif self.args.r:
            yield from self._raw(address)
        else:
            yield from self._shower.items(address)

    @cached_property
    def _shower(self) -> Shower:
        return Shower(self.context, self.layout, self.radix, pointers=self.args.p, memory=self._memory())

    def _memory(self) -> AddressSpace | None:
        if self.args.f:
            return FileSpace(self.session)
        if self.args.u:
            from kcrash.commands._tasks import context_task, user_memory

            return user_memory(self.session, context_task(self.context))
        return None

    def _addresses(self, address: int) -> Iterator[Item]:
        """-o with an address."""
        layout, radix = self.layout, self.radix
        for path in layout.members:
            found = layout.select(path).member
            data = {"type": layout.full_name, "name": path, "address": Address(address + found.offset)}
            yield Record("member", data, member_offset_lines(layout, path, radix, address))
        if not layout.members:
            lines = [*offsets_text(layout, radix, address), size_text(layout, radix)]
            yield Record("definition", {**definition_data(layout), "address": Address(address)}, lines)

    def _raw(self, address: int) -> Iterator[Item]:
        size = self.layout.type.size
        for path in self.layout.members:
            found = self.layout.select(path).member
            address, size = address + found.offset, found.type.size
        width = 8 if size >= 8 else size if size in (1, 2, 4) else 1
        space = [flag for flag in ("-f", "-u") if getattr(self.args, flag[1])]
        yield from self.context.call(
            "rd", *space, f"-{width * 8}", f"{address:x}", str(max(1, -(-size // width)))
        )
