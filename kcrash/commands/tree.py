"""``tree``: red-black trees, XArrays (and radix trees), maple trees."""

from __future__ import annotations

from collections.abc import Iterator

from kcrash.commands._addresses import parse_address
from kcrash.commands._entries import STRUCT_OPTIONS, Entries
from kcrash.commands._percpu import cpus_of
from kcrash.commands._structs import parse_offset
from kcrash.commands.base import (
    RADIX,
    Address,
    Arg,
    Arguments,
    Context,
    Fault,
    Flag,
    Item,
    Option,
    Record,
    Text,
    UsageError,
    command,
)
from kcrash.errors import CommandError, KcrashError
from kcrash.linux.trees import (
    MapleNode,
    MapleRange,
    for_each_maple_part,
    for_each_rb_node,
    for_each_xarray_entry,
    xarray_head,
)
from kcrash.session import Session
from kcrash.values.scope import scope_of

TYPES = ("rbtree", "xarray", "radix", "maple")
NAMES = {"rbtree": "red-black trees", "xarray": "Xarrays", "radix": "radix trees", "maple": "maple trees"}


def tree_type(text: str) -> str:
    """``rb``, ``ra``, ``x``, ``m`` and longer."""
    found = [name for name in TYPES if name.startswith(text)]
    if len(found) != 1:
        raise ValueError(f"invalid tree type: {text}")
    return found[0]


@command(
    "tree",
    summary="display a red-black tree, an XArray or a maple tree",
    description="This command follows a tree from its root and shows the address of every entry, or with -s\n"
    "the structs that they are. Memory that makes no sense ends the branch it stands in, with a line\n"
    "that says so; the rest is shown.",
    arguments=[
        Option("-t", "type", "rbtree (if not said otherwise), xarray, radix or maple; rb, x, ra, m will do",
               parse=tree_type, default="rbtree", completes="rbtree|xarray|radix|maple"),
        Option("-r", "offset", "where the root lies in the struct at start: struct.member, or bytes"),
        Option("-o", "offset", "red-black trees: where the rb_node lies in its struct, likewise"),
        *STRUCT_OPTIONS,
        Flag("-l", "red-black trees: from left to right"),
        Flag("-p", "show the position of every entry"),
        Flag("-v", "maple trees: show the nodes and all ranges"),
        Flag("-N", "start is a node, not a root", name="node"),
        RADIX,
        Arg("start", "hexadecimal address, symbol or expression in parentheses; :cpuspec for per-CPU data",
            optional=True, completes="symbol"),
    ],
    examples=[
        ("Areas of vmalloc:", "tree -t rbtree -o vmap_area.rb_node vmap_area_root -s vmap_area.va_start"),
        ("Pages of a file:", "tree -t xarray -r address_space.i_pages ffff94c235e76828 -p"),
        ("Memory areas of a process:", "tree -t maple -r mm_struct.mm_mt ffff9034c006aec0"),
    ],
)  # fmt: skip
def tree(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    _check(args)
    session = context.session
    offset = _offset(session, args.r, "-r") if args.r else 0
    entries = Entries(context, args.s, args.fast, context.radix(args))
    for address in _starts(context, str(args.start)):
        yield from _SHOW[args.t](context, args, address + offset & session.word_mask, entries)


def _check(args: Arguments) -> None:
    if args.start is None:
        raise UsageError("a starting address is required")
    for option, name in (("l", "rbtree"), ("o", "rbtree"), ("v", "maple")):
        if option in args and args.t != name:
            raise CommandError(f"-{option} option is not applicable to {NAMES[args.t]}")


def _offset(session: Session, text: str, option: str) -> int:
    try:
        return parse_offset(scope_of(session).types, text, option)
    except CommandError:
        raise CommandError(f"invalid {option} argument: {text}") from None


def _starts(context: Context, text: str) -> Iterator[int]:
    """The address that ``start`` is, or those of a per-CPU symbol."""
    where, colon, spec = text.partition(":")
    address = parse_address(context.session, where)
    if not colon:
        yield address
        return
    for cpu in cpus_of(context, spec):
        yield address + context.session.per_cpu_offset(cpu) & context.session.word_mask


# -- red-black trees


def _rbtree(context: Context, args: Arguments, address: int, entries: Entries) -> Iterator[Item]:
    session = context.session
    offset = _offset(session, args.o, "-o") if args.o else 0
    root = address if args.node else session.memory.word(address)  # struct rb_root has one member
    for found in for_each_rb_node(session, root, in_order=args.l):
        if isinstance(found, KcrashError):
            yield Fault.of(found)
            continue
        lines = [f"  position: {found.position}"] if args.p else []
        yield from entries.item(found.address - offset & session.word_mask, lines, position=found.position)


# -- XArrays


def _xarray(context: Context, args: Arguments, address: int, entries: Entries) -> Iterator[Item]:
    session = context.session
    head = address if args.node else xarray_head(session, address)
    way = "direct" if args.node else "root"
    for found in for_each_xarray_entry(session, head, way, force=args.node):
        if isinstance(found, KcrashError):
            yield Fault.of(found)
            continue
        lines = [f"  index: {found.key}  position: {found.position}"] if args.p else []
        yield from entries.item(found.address, lines, index=found.key, position=found.position)


# -- maple trees


def _maple(context: Context, args: Arguments, address: int, entries: Entries) -> Iterator[Item]:
    session = context.session
    if args.node:
        root, way = address, "direct"
    else:
        root, way = (
            session.memory.word(address + session.types.offset("struct maple_tree", "ma_root")),
            "root",
        )
    show = _Maple(context, args, entries)
    if args.v and not args.node:
        yield show.tree(address, root)
    for part in for_each_maple_part(session, root, way):
        if isinstance(part, KcrashError):
            yield Fault.of(part)
        elif isinstance(part, MapleNode):
            if args.v:
                yield show.node(part)
        else:
            yield from show.range(part)


class _Maple:
    """What is printed of a maple tree; entries are counted."""

    def __init__(self, context: Context, args: Arguments, entries: Entries) -> None:
        self.session, self.entries = context.session, entries
        self.verbose, self.positions = args.v, args.p
        self.number = (lambda n: f"{n:x}") if context.radix(args) == 16 else str
        self.count = 0

    def tree(self, address: int, root: int) -> Item:
        """The line over a tree. MT_FLAGS_HEIGHT_MASK is 0x7c (include/linux/maple_tree.h)."""
        flags = self.session.memory.u32(address + self.session.types.offset("struct maple_tree", "ma_flags"))
        height = (flags & 0x7C) >> 2
        text = f"maple_tree({address:x}) flags {flags:X}, height {height} root {root:#x}\n"
        data = {"address": Address(address), "flags": flags, "height": height, "root": Address(root)}
        return Record("maple_tree", data, text)

    def node(self, node: MapleNode) -> Item:
        """A node with everything in it."""
        data = {
            "address": Address(node.address),
            "first": node.low,
            "last": node.high,
            "depth": node.depth,
            "type": node.type,
            "parent": Address(node.parent),
        }
        text = (
            f"{self._head(node.low, node.high, node.depth)}: node {node.address:#x} depth {node.depth} "
            f"type {node.type} parent {_pointer(node.parent)} contents: {self._contents(node)}"
        )
        return Record("maple_node", data, text)

    def _head(self, low: int, high: int, depth: int) -> str:
        span = self.number(low) if low == high else f"{self.number(low)}-{self.number(high)}"
        return "  " * depth + span

    def _contents(self, node: MapleNode) -> str:
        words = [self.number(gap) for gap in node.gaps]
        if node.meta is not None:
            words.append(f"| {node.meta[0]:02X} {node.meta[1]:02X}|")
        for number, slot in enumerate(node.slots):
            words.append(_pointer(slot))
            if number < len(node.pivots):
                words.append(self.number(node.pivots[number]))
        return " ".join(words)

    def range(self, found: MapleRange) -> Iterator[Item]:
        """An entry, and with -v what holds none."""
        lines = []
        if found.entry:
            self.count += 1
            lines = [f"  index: {self.number(self.count)}  position: {found.place}"] if self.positions else []
        if self.verbose:
            head = f"{self._head(found.low, found.high, found.depth)}: {found.entry:#x}"
            yield Text(head, data={"first": found.low, "last": found.high, "entry": Address(found.entry)},
                       kind="maple_range")  # fmt: skip
        if found.entry:
            yield from self._entry(found, lines)

    def _entry(self, found: MapleRange, lines: list[str]) -> Iterator[Item]:
        data = {"first": found.low, "last": found.high, "position": found.place}
        for item in self.entries.item(found.entry, lines, **data):
            if self.verbose and isinstance(item, Record):
                text = item.text if isinstance(item.text, str) else ""
                below = text.partition("\n")[2]  # the range's line has the address
                if below:
                    yield Record(item.kind, item.data, below)
            else:
                yield item


def _pointer(number: int) -> str:
    return f"{number:#x}" if number else "(nil)"


_SHOW = {"rbtree": _rbtree, "xarray": _xarray, "radix": _xarray, "maple": _maple}
