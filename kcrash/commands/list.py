"""``list``: linked lists of any kind, walked with a bound and a check for loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kcrash.commands._addresses import parse_address
from kcrash.commands._entries import STRUCT_OPTIONS, Entries
from kcrash.commands._structs import parse_offset
from kcrash.commands.base import (
    RADIX,
    Address,
    Arguments,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Option,
    Rest,
    UsageError,
    command,
)
from kcrash.errors import CommandError, CorruptData, MemoryFault
from kcrash.session import Session
from kcrash.values.scope import scope_of

MAX_ENTRIES = 1 << 24
LOW = 1 << 16  # a number below this is an offset, not an address


@command(
    "list",
    summary="linked list",
    arguments=[
        Option("-o", "offset", "where the next pointer stands in a struct: struct.member, or bytes"),
        Option("-e", "end", "address that ends the list, where nothing else does"),
        *STRUCT_OPTIONS,
        Option("-l", "offset", "with -s: entries are list_heads at this offset in the struct"),
        RADIX,
        Exclusive(Flag("-r", "backwards, by the prev pointers of a list_head"),
                  Flag("-B", "find loops by Brent's algorithm, which needs no memory")),
        Flag("-h", "start is a struct that contains a list_head"),
        Option("-O", "offset", "with -h: where the head lies in its struct, if not where nodes do in theirs",
               name="head"),
        Flag("-H", "start is a list_head that stands for itself", name="external"),
        Rest("words", "offset as struct.member or bytes; start as symbol, hexadecimal address or expression",
             "[offset] start", completes="symbol"),
    ],
    description="""
Prints the address of every struct of a list, from start on, until a next pointer
is NULL, or leads back to the start, to the first entry, or to itself. Without -h
and -H next pointers are taken to lead to structs, not to list_heads in them.""",
    examples=[
        ("The loaded modules:", "list -H modules module.list -s module.name"),
        ("All processes:", "list task_struct.tasks -s task_struct.pid,comm -h init_task"),
        ("File systems, linked without list_heads:",
         "list file_system_type.next -s file_system_type.name proc_fs_type"),
    ],
)  # fmt: skip
def list_(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    if args.l and not (args.s or args.fast):
        raise UsageError("-l option can only be used with -s or -S option")
    walk = _walk(context, args)
    offset = parse_offset(context.session.types, args.l) if args.l else 0
    entries = Entries(context, args.s, args.fast, context.radix(args), offset)
    brent = args.B or not context.settings.hash
    try:
        for address in walk.addresses(_Brent() if brent else _Seen()):
            yield from entries.item(address)
    except MemoryFault as fault:
        yield Fault(f"{fault} (list entry)", {"address": Address(fault.address)})
    except CorruptData as error:
        yield Fault.of(error)


def _walk(context: Context, args: Arguments) -> _Walk:
    session = context.session
    words, offset = [str(word) for word in args.words], args.o
    if offset is None and len(words) > 1:
        place = next((i for i, word in enumerate(words) if _is_offset(session, word)), None)
        if place is None:
            raise CommandError(f"invalid argument: {words[0]}")
        offset = words.pop(place)
    if not words:
        raise UsageError("starting address required")
    if len(words) > 1:
        raise CommandError(f"invalid argument: {words[1]}")
    if args.l and offset is not None:
        raise UsageError("-l and -o are mutually exclusive")
    bytes_ = _offset(session, offset) if offset is not None else 0
    head = _offset(session, args.head) if args.head is not None else None
    if head is not None and not args.h:
        raise UsageError("-O needs -h")
    end = parse_address(session, args.e) if args.e else None
    step = session.arch.word_bytes if args.r else 0
    start = parse_address(session, words[0])
    return _Walk(session, start, bytes_, step, end, args.h and not args.external, args.external, head)


def _is_offset(session: Session, word: str) -> bool:
    """True for ``struct.member`` and for numbers too low to be addresses."""
    if session.symbols.find(word) is not None or word.startswith("("):
        return False
    try:
        return int(word, 0) < LOW
    except ValueError:
        name, dot, _path = word.partition(".")
        return bool(dot) and name.isidentifier()


def _offset(session: Session, text: str) -> int:
    try:
        return parse_offset(scope_of(session).types, text, "offset")
    except CommandError:
        raise CommandError(f"invalid argument: {text}") from None


@dataclass(frozen=True, slots=True)
class _Walk:
    """One walk.

    ``start``: as given; ``offset``: of the link in a struct; ``step``: of the prev pointer in the
    link; ``end``: what ends it too; ``embedded``, ``external``: -h and -H; ``head``: what -O says.
    """

    session: Session
    start: int
    offset: int
    step: int
    end: int | None
    embedded: bool
    external: bool
    head: int | None

    def addresses(self, loops: _Seen | _Brent) -> Iterator[int]:
        """The address of every entry. Raises MemoryFault, CorruptData."""
        mask, word = self.session.word_mask, self.session.memory.word
        if self.embedded or self.external:
            link = self._first_link()
            back = self.offset
        else:
            link, back = self.start + self.offset, 0
        stops = {0, link if back or self.embedded or self.external else self.start}
        shown = self._head_entry(link)
        if shown is not None:
            yield shown
            loops.check(shown)
        node, first, previous = word(link + self.step & mask), None, None
        while node not in stops and node not in (first, previous, self.end):
            address = node - back & mask
            loops.check(address)
            yield address
            first = node if first is None else first
            previous = node
            at = node if back or self.embedded or self.external else node + self.offset
            node = word(at + self.step & mask)

    def _first_link(self) -> int:
        """Where the head of the list lies."""
        if self.external:
            return self.start
        return self.start + (self.offset if self.head is None else self.head) & self.session.word_mask

    def _head_entry(self, link: int) -> int | None:
        """The start, if it is an entry itself."""
        if self.external or (self.embedded and self.head is not None):
            return None
        return self.start


class _Seen:
    """Finds loops by remembering every entry."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def check(self, address: int) -> None:
        """Raises CorruptData if ``address`` has come before, or too many have."""
        if address in self._seen:
            raise CorruptData(f"duplicate list entry: {address:x}")
        if len(self._seen) >= MAX_ENTRIES:
            raise CorruptData(f"more than {MAX_ENTRIES} entries: not followed further")
        self._seen.add(address)


class _Brent:
    """Finds loops by R. P. Brent's algorithm: one entry is remembered, a later one at each power of two."""

    def __init__(self) -> None:
        self._kept: int | None = None
        self._power, self._length, self._count = 1, 0, 0

    def check(self, address: int) -> None:
        """Raises CorruptData when the walk has gone once round a loop."""
        self._length += 1
        self._count += 1
        if address == self._kept:
            raise CorruptData(f"loop detected, loop length: {self._length}, at list entry {address:x}")
        if self._count >= MAX_ENTRIES:
            raise CorruptData(f"more than {MAX_ENTRIES} entries: not followed further")
        if self._length == self._power:
            self._kept, self._power, self._length = address, self._power * 2, 0
