"""``rd``: memory as numbers, symbols or text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import iter_unpack

from kcrash.commands._addresses import is_user, parse_address, parse_number
from kcrash.commands._dumpfile import FileSpace
from kcrash.commands.base import (
    Arg,
    Arguments,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Record,
    Text,
    command,
    number,
)
from kcrash.errors import CommandError, MemoryFault
from kcrash.output import Address, Fault
from kcrash.session import Session

LINE = 16
TEXT_LINE = 60
CHUNK = 4096
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_DECIMAL_WIDTHS = {1: 3, 2: 5, 4: 12, 8: 16}
_UNSIGNED_WIDTHS = {1: 3, 2: 5, 4: 12, 8: 20}


@dataclass(frozen=True, slots=True)
class _Form:
    """How words are shown: their ``size`` in bytes, ``order``, and the text of one value."""

    size: int
    order: str
    show: Callable[[int], str]
    ascii: bool

    @property
    def width(self) -> int:
        """Characters that the words of a full line take."""
        return (LINE // self.size) * (len(self.show(0)) + 1)


@command(
    "rd",
    summary="read memory",
    arguments=[
        Exclusive(Flag("-p", "the address is physical"), Flag("-u", "the address is the context task's"),
                  Flag("-f", "the address is an offset into the dump file"),
                  Flag("-m", "the address is a Xen machine address")),
        Exclusive(Flag("-d", "signed decimal"), Flag("-D", "unsigned decimal"),
                  Flag("-s", "symbols where a value is the address of one"),
                  Flag("-S", "symbols; with -SS slab objects too (repeat it)", count=True),
                  Flag("-a", "ASCII only, up to the first character that is none"),
                  Flag("-N", "network byte order")),
        Flag("-x", "no ASCII at the end of the line"),
        Flag("-R", "the words that end at the address"),
        Exclusive(Flag("-8", "bytes"), Flag("-16", "16-bit words"), Flag("-32", "32-bit words"),
                  Flag("-64", "64-bit words")),
        Option("-o", "offs", "add this offset to the address", parse=number),
        Option("-e", "addr", "read up to this address"),
        Option("-r", "file", "write the bytes to this file instead", completes="file"),
        Arg("address", "hexadecimal, a symbol or an expression in parentheses", "address|symbol",
            completes="symbol"),
        Arg("count", "how many words; 1 if left out", optional=True),
    ],
    description="Shows memory at an address. Words are of the machine's size unless one is asked for.",
    examples=[("Eight words at a symbol:", "rd init_task 8"), ("A string:", "rd -a linux_banner")],
    minimal=True,
)  # fmt: skip
def rd(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    address = parse_address(session, args.address) + (args.o or 0) & session.word_mask
    read = _reader(context, args, address)
    size = _word_size(args, session)
    count = _count(session, args, address, size)
    if args.R:
        address -= (count - 1) * size
    if args.r:
        yield _to_file(read, address, count * size, args.r)
    elif args.a:
        yield from _ascii(read, address, count if args.count else None)
    else:
        yield from _lines(read, address, count, _form(session, args, size))


Read = Callable[[int, int], bytes]


def _reader(context: Context, args: Arguments, address: int) -> Read:
    """How the asked address space is read."""
    session = context.session
    if args.p or args.m:
        return session.physical.read
    if args.f:
        return FileSpace(session).read
    if args.u or is_user(session, address):
        return _user_reader(context)
    return session.memory.read


def _user_reader(context: Context) -> Read:
    from kcrash.commands._tasks import context_task, user_memory

    return user_memory(context.session, context_task(context)).read


def _word_size(args: Arguments, session: Session) -> int:
    sizes = ((1, args.opt_8), (2, args.opt_16), (4, args.opt_32), (8, args.opt_64))
    return next((size for size, given in sizes if given), session.arch.word_bytes)


def _count(session: Session, args: Arguments, address: int, size: int) -> int:
    if args.count:
        count = parse_number(args.count)
    elif args.e:
        end = parse_address(session, args.e)
        if end <= address:
            raise CommandError(f"the end address {end:x} is not above {address:x}")
        count = (end - address + size - 1) // size
    else:
        count = 1
    if not 0 < count <= 1 << 32:
        raise CommandError(f"cannot read {count} words")
    return count


def _form(session: Session, args: Arguments, size: int) -> _Form:
    order = "<" if session.arch.byte_order == "little" else ">"
    if args.d or args.D:
        code = _CODES[size].lower() if args.d else _CODES[size]
        width = (_DECIMAL_WIDTHS if args.d else _UNSIGNED_WIDTHS)[size]
        return _Form(size, order + code, lambda value: f"{value:{width}}", False)
    if args.s or args.S:
        return _Form(size, order + _CODES[size], _symbolic(session, size), False)
    digits = size * 2
    order = ">" if args.N else order
    return _Form(size, order + _CODES[size], lambda value: f"{value:0{digits}x}", not args.x)


def _symbolic(session: Session, size: int) -> Callable[[int], str]:
    width = size * 2

    def show(value: int) -> str:
        text = session.symbols.format(value) if size == session.arch.word_bytes and value else None
        return f"{text:<{width}}" if text else f"{value:0{width}x}"

    return show


def _lines(read: Read, address: int, count: int, form: _Form) -> Iterator[Item]:
    """The words line by line; memory is read in chunks, and up to where it can be read."""
    left = count * form.size
    while left:
        chunk = min(CHUNK, left)
        try:
            data, fault = read(address, chunk), None
        except MemoryFault as error:
            data, fault = _readable(read, address, chunk, form.size), error
        for at in range(0, len(data), LINE):
            yield _line(address + at, data[at : at + LINE], form)
        if fault is not None:
            yield Fault.of(fault, address=Address(address + len(data)))
            return
        address += chunk
        left -= chunk


def _readable(read: Read, address: int, size: int, step: int) -> bytes:
    """The bytes up to the first word that cannot be read."""
    data = b""
    for at in range(0, size, step):
        try:
            data += read(address + at, step)
        except MemoryFault:
            break
    return data


def _line(address: int, data: bytes, form: _Form) -> Item:
    values = [row[0] for row in iter_unpack(form.order, data)]
    words = "".join(form.show(value) + " " for value in values)
    text = f"{address:16x}:  {words}"
    if form.ascii:
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
        text = f"{address:16x}:  {words:<{form.width}}  {shown}"
    return Record("memory", {"address": Address(address), "size": form.size, "values": values}, text)


def _ascii(read: Read, address: int, count: int | None) -> Iterator[Item]:
    """Printable characters only, as crash's -a: to the first other one, or ``count`` of them."""
    done = False
    limit = count if count is not None else 1 << 20
    while limit > 0 and not done:
        data = _readable(read, address, min(TEXT_LINE, limit), 1)
        end = next((i for i, byte in enumerate(data) if not (32 <= byte < 127 or byte in (9, 10))), len(data))
        done = end < min(TEXT_LINE, limit)
        text = data[:end].decode("ascii", "replace")
        if text:
            yield Record("text", {"address": Address(address), "text": text}, f"{address:16x}:  {text}")
        address += end
        limit -= end


def _to_file(read: Read, address: int, size: int, name: str) -> Item:
    path = Path(name)
    try:
        with path.open("wb") as file:
            for at in range(0, size, 1 << 20):
                file.write(read(address + at, min(1 << 20, size - at)))
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from None
    return Text(
        f"{size} bytes copied from {address:#x} to {name}",
        {"address": Address(address), "size": size, "file": name},
    )
