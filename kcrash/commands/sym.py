"""``sym``: symbols by name and by address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kcrash.commands._addresses import not_found
from kcrash.commands._source import functions_at, functions_data, inlined_below
from kcrash.commands.base import (
    Arguments,
    CommandError,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Record,
    Rest,
    command,
)
from kcrash.commands.base import UsageError as Usage
from kcrash.linux.modules import Region, modules
from kcrash.output import Address, Fault
from kcrash.session import Session
from kcrash.symbols.table import Symbol


@command(
    "sym",
    summary="translate a symbol to its virtual address, or vice-versa",
    arguments=[
        Exclusive(
            Flag("-l", "all symbols of the kernel and of its modules"),
            Flag("-M", "all symbols of all modules"),
            Option("-m", "module", "all symbols of one module", completes="module"),
            Option("-q", "string", "symbols whose name contains the string"),
        ),
        Flag("-p", "the symbol before, too"),
        Flag("-n", "the symbol behind, too"),
        Rest("what", "a name or a hexadecimal address", "symbol | vaddr", completes="symbol"),
    ],
    description="Shows a symbol's address, nm's letter for its kind, its module, and the line of source "
    "that it comes from, with the functions inlined there, where the debuginfo tells.",
    examples=[
        ("By name:", "sym jiffies"),
        ("By address:", "sym ffffffff810a2f34"),
        ("A search:", "sym -q reboot"),
    ],
    minimal=True,
)
def sym(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    if args.l:
        yield from _all(session)
    elif args.M:
        for name in [module.name for module in modules(session)]:
            yield from _module(session, name)
    elif args.m:
        if args.m not in {module.name for module in modules(session)}:
            raise CommandError(f"module {args.m} is not loaded")
        yield from _module(session, args.m)
    elif args.q is not None:
        yield from (_plain(s) for s in session.symbols.containing(args.q))
    elif not args.what:
        raise Usage("a symbol or an address is needed")
    for word in args.what:
        yield from _one(session, word, args)


def _all(session: Session) -> Iterator[Item]:
    yield from (_plain(symbol) for symbol in session.symbols.kernel.all())
    for module in modules(session):
        yield from _module(session, module.name)


def _module(session: Session, name: str) -> Iterator[Item]:
    """A module's symbols between the marks of its memory."""
    module = next(m for m in modules(session) if m.name == name)
    table = session.symbols.module_table(name)
    symbols = table.all() if table else ()
    regions = module.regions
    entries: list[tuple[int, int, int, str | Symbol]] = []
    for place, region in enumerate(regions):  # in the kernel's order, wherever they lie
        entries.append((place, region.start, 1, f"MODULE {_region(region.name)}START: {name}"))
        entries.append((place, _end(region), 0, f"MODULE {_region(region.name)}END: {name}"))
    entries += [(_place(regions, s.address), s.address, 3, s) for s in symbols]
    for start, address, rank, text in _sections(session, name, [s.address for s in symbols]):
        entries.append((_place(regions, start), address, rank, text))
    for _where, address, _rank, entry in sorted(entries, key=lambda row: row[:3]):
        if isinstance(entry, Symbol):
            yield _plain(entry, show_module=False)
        else:
            yield Record("mark", {"address": Address(address), "module": name}, f"{address:x} {entry}")


def _place(regions: Sequence[Region], address: int) -> int:
    """Which of the regions an address lies in; their number if in none."""
    inside = (place for place, r in enumerate(regions) if r.start <= address < r.start + r.size)
    return next(inside, len(regions))


def _sections(session: Session, name: str, symbols: list[int]) -> Iterator[tuple[int, int, int, str]]:
    """The marks of the sections that have symbols, after ``mod -g``: ``(start of the section, address,
    rank, text)``."""
    debug = session.module_debug.get(name)
    for section, start, end in debug.section_ranges() if debug and debug.marked else ():
        if any(start <= address < end for address in symbols):
            yield start, start, 2, f"[{section}]: section start"
            yield start, end, 0, f"[{section}]: section end"


def _end(region: Region) -> int:
    """The mark of a region's end as crash sets it: the last byte of those that stand alone."""
    return region.start + region.size - (region.name not in ("core", "init"))


def _region(name: str) -> str:
    return "" if name == "core" else name.upper() + " "


def _plain(symbol: Symbol, *, show_module: bool = True) -> Item:
    return _record(symbol, 0, "", show_module)


def _record(symbol: Symbol, offset: int, line: str, show_module: bool = True, radix: int = 10) -> Record:
    data: dict[str, object] = {
        "address": Address(symbol.address + offset),
        "type": symbol.type,
        "name": symbol.name,
        "offset": offset,
    }
    if symbol.module:
        data["module"] = symbol.module
    if line:
        data["line"] = line
    shift = (f"+{offset:#x}" if radix == 16 else f"+{offset}") if offset else ""
    text = f"{symbol.address + offset:x} ({symbol.type}) {symbol.name}{shift}"
    if symbol.module and show_module:
        text += f" [{symbol.module}]"
    return Record("symbol", data, f"{text} {line}".rstrip())


def _one(session: Session, word: str, args: Arguments) -> Iterator[Item]:
    found = session.symbols.symbols_named(word)
    if not found:
        yield from _address(session, word, args)
        return
    for symbol in found:
        yield from _with_neighbours(session, symbol, 0, args)


def _address(session: Session, word: str, args: Arguments) -> Iterator[Item]:
    try:
        address = int(word, 16)
    except ValueError:
        yield Fault("\n".join(not_found(session, word)), {"name": word})
        return
    found = session.symbols.at(address)
    if found is None:
        yield Fault(f"invalid address: {word}", {"address": Address(address)})
        return
    yield from _with_neighbours(session, found[0], found[1], args)


def _with_neighbours(session: Session, symbol: Symbol, offset: int, args: Arguments) -> Iterator[Item]:
    below, above = None, None
    if args.p or args.n:
        owner = session.symbols.table_at(symbol.address)
        if owner is not None:
            below, above = owner[1].neighbours(symbol.address)
    if args.p and below:
        yield _located(session, below, 0)
    yield _located(session, symbol, offset)
    if args.n and above:
        yield _located(session, above, 0)


def _located(session: Session, symbol: Symbol, offset: int) -> Item:
    is_code = symbol.type in "tTwW"
    address = symbol.address + offset
    functions = functions_at(session, address) if is_code else ()
    found = _record(symbol, offset, source_line(session, address) if is_code else "")
    lines = inlined_below(functions)
    if not lines:
        return found
    return Record(
        found.kind, {**found.data, "functions": functions_data(functions)}, [str(found.text), *lines]
    )


def source_line(session: Session, address: int) -> str:
    """``file: line`` of a code address of the kernel, "" where the debuginfo does not tell."""
    line = session.line_of(address)
    return f"{line.file}: {line.line}" if line else ""
