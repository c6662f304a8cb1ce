"""``p``: the value of a C expression, of a variable, of per-CPU variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.commands._percpu import cpus_of, per_cpu_hint
from kcrash.commands._structs import formatter_of
from kcrash.commands.base import RADIX, Address, Arguments, Context, Flag, Item, Raw, Record, command
from kcrash.errors import CommandError, ExpressionError, MemoryFault
from kcrash.linux.cpus import is_per_cpu, possible_cpus
from kcrash.types.ctext import declare
from kcrash.types.model import VoidType
from kcrash.values.format import Decoder
from kcrash.values.scope import Scope, scope_of
from kcrash.values.unknown import UnknownType
from kcrash.values.value import Value

if TYPE_CHECKING:
    from kcrash.memory.space import AddressSpace

_PER_CPU = re.compile(r"([A-Za-z_]\w*)\s*:([\w,-]*)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_FORMAT = re.compile(r"/[xd]\b\s*")


@command(
    "p",
    summary="print the value of an expression",
    arguments=[
        RADIX,
        Flag("-u", "addresses are of the context task's user space"),
        Raw("expression", "a C expression, or a symbol[:cpuspec]", "expression | symbol[:cpuspec]",
            completes="symbol"),
    ],
    description="""
Evaluates a C expression as gdb does: with @ for arrays (*pointer@3), $ and $n
for earlier values, {type} address. A per-CPU symbol alone shows its type and
addresses; with a cpuspec (":" the context task's CPU, ":a" all, ":1,3-5" those)
its values.""",
    examples=[
        ("A variable:", "p jiffies"),
        ("A member of a struct at an address:", "p ((struct task_struct *)0xffff888100200000)->comm"),
        ("A per-CPU variable of two CPUs:", "p irq_stat:0,1"),
    ],
)  # fmt: skip
def p(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    text, radix = str(args.expression).strip(), context.radix(args)
    if text[:2] in ("/x", "/d") and _FORMAT.match(text):
        radix, text = (16 if text[1] == "x" else 10), text[2:].strip()
    text = _without_prefix(context, text)
    per_cpu = _PER_CPU.fullmatch(text)
    if per_cpu and context.session.symbols.find(per_cpu[1]) is not None:
        if is_per_cpu(context.session, per_cpu[1]):
            yield from _values(context, per_cpu[1], per_cpu[2], radix)
            return
        context.note(f"{per_cpu[1]} is not per-CPU data: the CPUs are ignored")
        text = per_cpu[1]
    if _NAME.fullmatch(text) and is_per_cpu(context.session, text):
        yield _addresses(context, text)
        return
    yield _expression(context, text, radix, _user(context) if args.u else None)


def _without_prefix(context: Context, text: str) -> str:
    """``per_cpu__name`` of old kernels is taken for ``name``, as crash does."""
    name = text.partition(":")[0]
    if name.startswith("per_cpu__") and context.session.symbols.find(name) is None:
        return text.removeprefix("per_cpu__")
    return text


def _user(context: Context) -> AddressSpace:
    from kcrash.commands._tasks import context_task, user_memory

    return user_memory(context.session, context_task(context))


# -- expressions


def _expression(context: Context, text: str, radix: int, memory: AddressSpace | None) -> Item:
    scope = scope_of(context.session, memory)
    try:
        value = scope.evaluate(text)
        name = text if _NAME.fullmatch(text) and context.session.symbols.find(text) is not None else ""
        return _shown(context, scope, value, radix, f"{name} = " if name else "", {"expression": text})
    except ExpressionError as error:
        raise CommandError(_marked(text, error)) from None
    except MemoryFault as fault:
        names = _NAME.findall(text)
        raise next((h for h in (per_cpu_hint(context.session, n, fault) for n in names) if h is not fault),
                   fault) from None  # fmt: skip


def _marked(text: str, error: ExpressionError) -> str:
    """The message, and under the expression a mark where it is wrong."""
    if error.column is None or len(text) > 120:
        return str(error)
    return f"{error}\n  {text}\n  {' ' * error.column}^"


def _shown(
    context: Context, scope: Scope, value: Value, radix: int, leader: str, data: dict[str, object]
) -> Item:
    """``name = $1 = value``, remembered as ``$1``."""
    formatter = formatter_of(context, radix, scope)
    shown = formatter.top(value)
    number = scope.remember(value)
    data |= {"history": number, "type": _type_text(value), "value": Decoder(scope, Address).value(value)}
    if value.address_ is not None:
        data["address"] = Address(value.address_)
    # crash starts a new line after a symbol whose value is a list on one line.
    broken = leader and shown.startswith("{") and not shown.split("\n", 1)[0].endswith("{")
    return Record("value", data, f"{leader}${number} = " + ("\n " if broken else "") + shown)


def _type_text(value: Value) -> str | None:
    return None if isinstance(value.type_.underlying, UnknownType | VoidType) else str(value.type_)


# -- per-CPU data


def _typed(context: Context, name: str) -> Value:
    scope = scope_of(context.session)
    found = scope.name(name)
    if isinstance(found.type_, UnknownType):
        raise CommandError(f"no source says what type the per-CPU variable {name} has")
    return found


def _values(context: Context, name: str, spec: str, radix: int) -> Iterator[Item]:
    scope = scope_of(context.session)
    type_ = _typed(context, name).type_
    for cpu in cpus_of(context, spec):
        address = context.session.per_cpu_address(name, cpu)
        value = Value(scope, type_, address)
        yield _shown(context, scope, value, radix, f"per_cpu({name}, {cpu}) = ", {"symbol": name, "cpu": cpu})


def _addresses(context: Context, name: str) -> Item:
    """The type and, for every CPU, the address of a per-CPU variable."""
    session = context.session
    declared = declare(scope_of(session).name(name).type_, name)
    places = {cpu: session.per_cpu_address(name, cpu) or 0 for cpu in possible_cpus(session)}
    lines = ["PER-CPU DATA TYPE:", f"  {declared};", "PER-CPU ADDRESSES:"]
    lines += [f"  [{cpu}]: {address:x}" for cpu, address in places.items()]
    data = {"symbol": name, "declaration": f"{declared};"}
    return Record(
        "per_cpu", {**data, "addresses": {cpu: Address(place) for cpu, place in places.items()}}, lines
    )
