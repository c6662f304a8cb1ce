"""``task``: the task_struct and the thread_info of tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from kcrash.commands._structs import extent_of, read_part
from kcrash.commands._tasks import per_task, task_data
from kcrash.commands.base import RADIX, Arguments, Context, Fault, Item, Option, Record, Rest, command
from kcrash.errors import MemoryFault, MissingMember
from kcrash.linux.tasks import Task, thread_info
from kcrash.output import Address
from kcrash.values.format import Decoder, Formatter, Selected, Style, select
from kcrash.values.names import AddressNames

if TYPE_CHECKING:
    from kcrash.session import Session
    from kcrash.types.model import CompoundType

STRUCTS = ("struct task_struct", "struct thread_info")
_TASK_WORD = re.compile(r"(0[xX])?[0-9a-fA-F]+")


def members(text: str) -> list[str]:
    """``pid,se.vruntime`` -> its parts."""
    found = [part for part in text.split(",") if part]
    if not found:
        raise ValueError("no member named")
    return found


@command(
    "task",
    summary="task_struct and thread_info contents",
    each="task",
    arguments=[
        Option("-R", "member[,member]", "only these members of either struct", parse=members, repeat=True),
        RADIX,
        Rest("words", "which tasks", "pid | task", completes="task"),
    ],
    description="""
Shows the task_struct and the thread_info of tasks, of the context task if none
is named. A member may lie deeper (se.vruntime) or be an element (comm[2]);
outside of foreach, members may be named without -R.""",
    examples=[
        ("Two members of task 1:", "task -R flags,se.vruntime 1"),
        ("The priority of all kernel threads:", "foreach kernel task -R prio"),
    ],
)
def task(context: Context, args: Arguments) -> Iterator[Item]:
    wanted = [member for group in args.R for member in group]
    words = list(args.words)
    for word in args.words:
        if not _is_task(context.session, word):
            words.remove(word)
            wanted += members(word)
    show = _Show(context, context.radix(args), wanted)
    yield from per_task(context, words, show)


def _is_task(session: Session, word: str) -> bool:
    """Whether a word names a task, or is meant to: it is a number and no member of the structs."""
    if not _TASK_WORD.fullmatch(word):
        return False
    return word[:1].isdigit() or not any(session.types.has(name, word) for name in STRUCTS)


class _Show:
    """Shows one task; types are looked up and compiled once for all of them."""

    def __init__(self, context: Context, radix: int, wanted: list[str]) -> None:
        self.session = context.session
        settings = context.settings
        style = Style(
            radix=radix,
            elements=settings.print_max,
            null_stop=settings.null_stop,
            print_array=settings.print_array,
        )
        self.formatter = Formatter(self.session, style, AddressNames(self.session))
        self.types = [self.session.types.compound(name) for name in STRUCTS]
        self.selected = [(name, self._select(name)) for name in wanted]

    def _select(self, path: str) -> list[tuple[int, Selected]]:
        """Where a member is: (which of the structs, member)."""
        found = []
        for number, type_ in enumerate(self.types):
            try:
                found.append((number, select(type_, path)))
            except MissingMember:
                continue
        return found

    def __call__(self, task: Task) -> Iterable[Item]:
        info = thread_info(self.session, task)
        places = list(zip(self.types, (task.address, info), strict=True))
        return self._members(task, places) if self.selected else self._structs(task, places)

    def _structs(self, task: Task, places: list[tuple[CompoundType, int | None]]) -> Iterator[Item]:
        for type_, address in places:
            if address is None:
                continue
            data = self.session.memory.read(address, type_.size)
            text = f"{type_} {self.formatter.bytes_text(type_, data, address)}\n"
            value = Decoder(self.session, Address).data(type_, data, 0)
            yield Record(
                "struct",
                {**task_data(task), "type": str(type_), "address": Address(address), "value": value},
                text,
            )

    def _members(self, task: Task, places: list[tuple[CompoundType, int | None]]) -> Iterator[Item]:
        for path, found in self.selected:
            if not found:
                message = f"{path}: not a task_struct or thread_info member"
                yield Fault(message, {**task_data(task), "member": path})
            for number, selected in found:
                type_, address = places[number]
                if address is None:
                    continue
                try:
                    data = read_part(self.session.memory, address, *extent_of([selected]))
                except MemoryFault as fault:
                    yield Fault.of(fault, **task_data(task), member=path)
                    continue
                yield self._member(task, type_, selected, data, address)

    def _member(
        self, task: Task, type_: CompoundType, selected: Selected, data: bytes, address: int
    ) -> Record:
        return Record(
            "member",
            {
                **task_data(task),
                "type": str(type_),
                "member": selected.path,
                "value": Decoder(self.session, Address).member(selected, data),
            },
            self.formatter.member_text(selected, data, address),
        )
