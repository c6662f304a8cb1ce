"""``mod``: the loaded modules."""

from __future__ import annotations

from collections.abc import Iterator

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
    command,
)
from kcrash.errors import KcrashError
from kcrash.linux.modules import Module, for_each_module, module_taints
from kcrash.output import Fault, Text
from kcrash.session import Session


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
        ),
        Rest("files", "an object file for -s, or a folder for -S", "objfile | directory", completes="file"),
    ],
    description="Lists the loaded modules by address.",
    examples=["mod", "mod -t"],
)
def mod(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    if args.s or args.d or args.S or args.D:
        raise CommandError("module debuginfo is not read yet; module symbols come from the dump itself")
    if args.t:
        yield from _tainting(context.session)
    else:
        yield _list(context.session)


def _modules(session: Session) -> list[Module | KcrashError]:
    """Modules by address, then the errors met."""
    return sorted(for_each_module(session), key=lambda m: m.base if isinstance(m, Module) else 1 << 64)


def _list(session: Session) -> Item:
    found = _modules(session)
    names = [len(module.name) for module in found if isinstance(module, Module)]
    sizes = [len(str(module.size)) for module in found if isinstance(module, Module)]
    separate = session.types.has("struct module", "mem")
    columns = (
        Column.address("module", "MODULE", 16),
        Column("name", "NAME", max([4, *names]), gap="  "),
        Column.address("base", "TEXT_BASE" if separate else "BASE", 16, gap="  "),
        Column("size", "SIZE", max([4, *sizes]), ">", gap="  "),
        Column("object_file", "OBJECT FILE", gap="  "),
    )
    return Table(columns, (_row(module) for module in found), kind="module", empty="no modules loaded")


def _row(module: Module | KcrashError) -> tuple[object, ...] | Fault:
    if not isinstance(module, Module):
        return Fault.of(module)
    return module.address, module.name, module.base, module.size, "(not loaded)  [CONFIG_KALLSYMS]"


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
