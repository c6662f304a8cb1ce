"""``mod``: the loaded modules, and the use of their debuginfo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kcrash.commands.base import (
    Arguments,
    Column,
    CommandError,
    Context,
    Exclusive,
    Flag,
    Item,
    Option,
    Rest,
    Table,
    UsageError,
    command,
)
from kcrash.errors import KcrashError
from kcrash.linux.module_debug import load, unload
from kcrash.linux.modules import Module, for_each_module, module_taints, modules
from kcrash.output import Fault, Text
from kcrash.session import Session

NOT_LOADED = "(not loaded)  [CONFIG_KALLSYMS]"


@command(
    "mod",
    summary="module information and loading of symbols and debugging data",
    arguments=[
        Exclusive(
            Option("-s", "module", "use the debuginfo of this module", completes="module"),
            Option("-d", "module", "stop using it", completes="module"),
            Flag("-S", "use the debuginfo of all modules"),
            Flag("-D", "stop using it"),
            Flag("-t", "only modules that taint the kernel, with the letters of what they taint"),
            Flag("-R", "read the list of modules anew, and stop using their debuginfo"),
        ),
        Flag("-g", "with -s or -S: the starts and ends of sections are among the symbols"),
        Flag("-r", "read all at once", hidden=True), Flag("-o", "the old method", hidden=True),
        Rest("files", "an object file for -s, or a folder for -S", "objfile | directory", completes="file"),
    ],
    description="""
Lists the loaded modules by address. With -s or -S the debuginfo of modules is
used from then on: types, lines of source, inlined functions. Without a file or
folder it is looked for by build-id, below the folder of --mod (or of
$CRASH_MODULE_PATH), beside the vmlinux, where distributions install it, and at
the servers of $DEBUGINFOD_URLS.
A file of another build is refused, unless kcrash was started with --force.""",
    examples=["mod", "mod -t", ("All modules, from a folder:", "mod -S /tmp/debug"),
              ("One, from a file:", "mod -s zram zram.ko.debug")],
)  # fmt: skip
def mod(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    if len(args.files) > 1 or (args.files and not (args.s or args.S)):
        raise UsageError(f"too many arguments: {' '.join(args.files)}")
    given = args.files[0] if args.files else None
    if args.s:
        module = _named(session, args.s)
        _load(session, module, given, bool(args.g))
        yield _list(session, [module])
    elif args.S:
        yield _loading(session, given, bool(args.g))
    elif args.d:
        unload(session, _named(session, args.d).name)
    elif args.D or args.R:
        for name in list(session.module_debug):
            unload(session, name)
        if args.R:
            session.forget("modules")
            yield _list(session, _modules(session))
    elif args.t:
        yield from _tainting(session)
    else:
        yield _list(session, _modules(session))


def _named(session: Session, name: str) -> Module:
    """A loaded module; "-" in the name means "_" as it does to modprobe."""
    wanted = name.replace("-", "_")
    found = next((module for module in modules(session) if module.name.replace("-", "_") == wanted), None)
    if found is None:
        raise CommandError(f"module {name} is not loaded")
    return found


def _modules(session: Session) -> list[Module | KcrashError]:
    """Modules by address, then the errors met."""
    return sorted(for_each_module(session), key=lambda m: m.base if isinstance(m, Module) else 1 << 64)


# -- the list


def _list(session: Session, found: Sequence[Module | KcrashError]) -> Item:
    return _table(session, (_row(session, module) for module in found))


def _table(session: Session, rows: Iterator[tuple[object, ...] | Fault]) -> Item:
    found = modules(session)
    separate = session.types.has("struct module", "mem")
    columns = (
        Column.address("module", "MODULE", 16, ">", header_align="^"),
        Column("name", "NAME", max([4, *(len(module.name) for module in found)]), gap="  "),
        Column.address("base", "TEXT_BASE" if separate else "BASE", 16, ">", gap="  ", header_align="^"),
        Column("size", "SIZE", max([4, *(len(str(module.size)) for module in found)]), ">", gap="  "),
        Column("object_file", "OBJECT FILE", gap="  "),
    )
    return Table(columns, rows, kind="module", empty="no modules installed")


def _row(session: Session, module: Module | KcrashError) -> tuple[object, ...] | Fault:
    if not isinstance(module, Module):
        return Fault.of(module)
    debug = session.module_debug.get(module.name)
    file = NOT_LOADED if debug is None else debug.path
    return module.address, module.name, module.base, module.size, file


def _tainting(session: Session) -> Iterator[Item]:
    rows = []
    for module in _modules(session):
        if not isinstance(module, Module):
            yield Fault.of(module)
        elif letters := module_taints(session, module):
            rows.append((module.name, letters))
    if not rows:
        yield Text("no tainted modules")
        return
    width = max([4, *(len(name) for name, _letters in rows)])
    yield Table((Column("name", "NAME", width), Column("taint", "TAINT", gap="  ")), rows, kind="module")


# -- debuginfo


def _load(session: Session, module: Module, given: str | None, marked: bool) -> None:
    """Use a module's debuginfo. Raises CommandError."""
    try:
        if given or module.name not in session.module_debug:
            load(session, module, given)
    except (KcrashError, OSError) as error:
        raise CommandError(f"cannot load the debuginfo of module {module.name}: {error}") from None
    session.module_debug[module.name].marked = marked


def _loading(session: Session, given: str | None, marked: bool) -> Item:
    """The rows of the modules whose debuginfo is in use now, and why that of others is not."""

    def rows() -> Iterator[tuple[object, ...] | Fault]:
        for module in modules(session):
            try:
                _load(session, module, given, marked)
            except CommandError as error:
                yield Fault.of(error, name=module.name)
            else:
                yield _row(session, module)

    return _table(session, rows())
