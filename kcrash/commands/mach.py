"""``mach``: the machine as its kernel knows it: CPUs, regions of addresses, stacks, physical memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcrash.commands._structs import Shower, layout_of
from kcrash.commands.base import (
    RADIX,
    Address,
    Arguments,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Record,
    Text,
    command,
)
from kcrash.errors import KcrashError
from kcrash.linux import machine, system
from kcrash.linux.cpus import online_cpus, present_cpus
from kcrash.linux.stack import cpu_stacks, thread_size
from kcrash.linux.time import hz
from kcrash.output.sizes import size_text

if TYPE_CHECKING:
    from kcrash.arch.base import StackRange
    from kcrash.session import Session


@command(
    "mach",
    summary="machine specific data",
    arguments=[
        Exclusive(
            Flag("-m", "the map of physical memory: the firmware's, or the kernel's tree of resources"),
            Flag("-c", "what the kernel keeps of each CPU"),
            Flag("-o", "the log of the OPAL firmware's console (ppc64)"),
        ),
        RADIX,
    ],
    description="""
Shows the machine's type, memory and CPUs, where the kernel's regions of
addresses begin, and the stacks of each CPU; a stack that is not mapped is
marked as unavailable.""",
    examples=[
        ("At a glance:", "mach"),
        ("Which physical memory is there?", "mach -m"),
    ],
)
def mach(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    if args.m:
        yield from _memory_map(session)
    elif args.c:
        yield from _cpus(context, context.radix(args))
    elif args.o:
        text = machine.opal_console(session).decode("utf-8", "replace")
        yield from (Text(line, {"line": line}, "opal") for line in text.splitlines())
    else:
        yield from _machine(session)


# -- at a glance


REGIONS = {
    "PAGE_OFFSET": "KERNEL VIRTUAL BASE",
    "VMALLOC_START": "KERNEL VMALLOC BASE",
    "VMEMMAP_START": "KERNEL VMEMMAP BASE",
    "START_KERNEL_map": "KERNEL START MAP",
    "MODULES_VADDR": "KERNEL MODULES BASE",
}


def _machine(session: Session) -> Iterator[Item]:
    """One Record for all of it; what could not be read is a Fault each."""
    data: dict[str, object] = {}
    rows: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for part in (_processors, _pages, _regions, _stacks):
        try:
            rows += part(session, data)
        except KcrashError as error:
            faults.append(Fault(str(error)))
    width = max(22, *(len(label) for label, _value in rows)) if rows else 22
    yield Record("machine", data, [f"{label:>{width}}: {value}".rstrip() for label, value in rows])
    yield from faults


def _processors(session: Session, data: dict[str, object]) -> Iterator[tuple[str, str]]:
    data["machine"] = name = system.utsname(session).machine
    data["memory"] = size = system.memory_size(session)
    present, online = present_cpus(session), set(online_cpus(session))
    offline = sum(cpu not in online for cpu in present)
    data.update(cpus=len(present), cpus_offline=offline)
    yield "MACHINE TYPE", name
    yield "MEMORY SIZE", size_text(size)
    yield "CPUS", f"{len(present)} [OFFLINE: {offline}]" if offline else f"{len(present)}"
    data["hypervisor"] = found = machine.hypervisor(session)
    if found:
        yield "HYPERVISOR", found
    data["cpu_khz"] = khz = system.cpu_khz(session)
    if khz:
        yield "PROCESSOR SPEED", f"{khz // 1000} Mhz"


def _pages(session: Session, data: dict[str, object]) -> Iterator[tuple[str, str]]:
    data["hz"], data["page_size"] = hz(session), session.arch.page_size
    yield "HZ", f"{data['hz']}"
    yield "PAGE SIZE", f"{data['page_size']}"


def _regions(session: Session, data: dict[str, object]) -> Iterator[tuple[str, str]]:
    found = machine.regions(session)
    data["regions"] = {name: Address(value) for name, value in found.items()}
    width = session.arch.word_bytes * 2
    yield from ((REGIONS[name], f"{value:0{width}x}") for name, value in found.items())


def _stacks(session: Session, data: dict[str, object]) -> Iterator[tuple[str, str]]:
    data["stack_size"] = thread_size(session)
    yield "KERNEL STACK SIZE", f"{data['stack_size']}"
    groups: dict[str, list[StackRange]] = {}
    for stack in cpu_stacks(session):
        groups.setdefault(stack.name.removesuffix(" exception"), []).append(stack)
    shown: list[dict[str, object]] = []
    data["stacks"] = shown
    for name, stacks in sorted(groups.items(), key=lambda group: group[0] != "IRQ"):
        yield f"{name} STACK SIZE", f"{stacks[0].high - stacks[0].low}"
        yield f"{name} STACKS", ""
        for stack in stacks:
            there = session.memory.try_read(stack.high - 8, 8) is not None
            shown.append({"name": name, "cpu": stack.cpu, "address": Address(stack.low),
                          "size": stack.high - stack.low, "available": there})  # fmt: skip
            yield f"CPU {stack.cpu}", f"{stack.low:x}" + ("" if there else " [unavailable]")


# -- physical memory, CPUs


def _memory_map(session: Session) -> Iterator[Item]:
    yield Text("      PHYSICAL ADDRESS RANGE         TYPE", layout=True)
    for piece in machine.memory_map(session):
        data = {"start": Address(piece.start), "end": Address(piece.end), "type": piece.name,
                "level": piece.level}  # fmt: skip
        text = f"{piece.start:016x} - {piece.end:016x}  {'  ' * piece.level}{piece.name}"
        yield Record("memory", data, text)


def _cpus(context: Context, radix: int) -> Iterator[Item]:
    session = context.session
    for cpu in present_cpus(session):
        name, address = machine.cpu_record(session, cpu)
        layout = layout_of(session, name.removeprefix("struct "), "struct")
        yield Record("cpu", {"cpu": cpu, "address": Address(address)}, f"CPU {cpu}:")
        try:
            yield from Shower(context, layout, radix).items(address)
        except KcrashError as error:
            yield Fault.of(error, cpu=cpu)
        yield Text("", layout=True)
