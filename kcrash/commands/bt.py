"""``bt``: what a task was doing: the frames on its kernel stacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kcrash.arch.base import StackRange
from kcrash.commands._source import call_lines, functions_at, functions_data
from kcrash.commands._tasks import TASKS, context_task, header_item, per_task, task_data
from kcrash.commands._variables import VariableStyle
from kcrash.commands.base import (
    RADIX,
    Arguments,
    CommandError,
    Context,
    Exclusive,
    Fault,
    Flag,
    Item,
    Option,
    Record,
    Text,
    command,
    cpus,
    hexadecimal,
)
from kcrash.errors import KcrashError
from kcrash.linux.cpu_registers import cpu_registers
from kcrash.linux.cpus import online_cpus
from kcrash.linux.stack import (
    cpu_stacks,
    frames,
    read_regs,
    readable,
    stack_at,
    task_stack,
    unwind_target,
    unwinder,
    user_regs_address,
)
from kcrash.linux.tasks import Task, panic_task, task_table
from kcrash.output import Address
from kcrash.session import Session, SourceLine
from kcrash.unwind.registers import Registers
from kcrash.unwind.unwinder import Frame

MAX_TEXT_WORDS = 1 << 16


@command(
    "bt",
    summary="backtrace",
    each="task",
    arguments=[
        Exclusive(Flag("-a", "the task on each CPU"), Flag("-p", "the task that panicked"),
                  Option("-c", "cpus", "the tasks on these CPUs", parse=cpus),
                  Flag("-g", "all threads of the task's process, its leader first")),
        Option("-n", "idle", "with -a or -c: leave out idle tasks"),
        Exclusive(Flag("-r", "the raw stack"),
                  Flag("-t", "text addresses on the stack from the last known frame"),
                  Flag("-T", "text addresses on the whole stack"),
                  Flag("-e", "exception frames on the stack"),
                  Flag("-E", "exception frames on the CPUs' stacks for interrupts and exceptions"),
                  Flag("-v", "tasks whose stack has overflowed")),
        Flag("-l", "the line of source of each frame, and the functions inlined there"),
        Flag("-V", "the parameters and locals of each frame's functions, with their values"),
        Flag("-f", "the words of each frame"),
        Flag("-F", "the words of each frame, as symbols where they are addresses of one", count=True),
        Flag("-s", "offsets into the functions"),
        RADIX,
        Option("-R", "ref", "only tasks whose stack refers to this symbol or address", completes="symbol"),
        Option("-I", "ip", "start at this instruction", parse=hexadecimal),
        Option("-S", "sp", "start at this stack pointer", parse=hexadecimal),
        Flag("-o", "the old method", hidden=True), Flag("-O", "the old method from now on", hidden=True),
        TASKS,
    ],
    description="Shows the frames of the context task, or of those named. The address in brackets is where "
    "the return address stands; registers are shown where the kernel saved all of them: at exceptions and "
    "at the border to user space. The line of source that -l shows first is that of the address that a call "
    "returns to, as crash has it; the lines with (in), (inlined) and (inlined in) tell where the call is.",
    examples=[("The context task:", "bt"), ("What every CPU was doing, with lines of source:", "bt -al"),
              ("What the functions were called with:", "bt -V"), ("All tasks:", "foreach bt")],
)  # fmt: skip
def bt(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    if args.v:
        yield from _overflows(context.session)
        return
    style = _Style(context, args)
    if args.E:
        yield from style.all_exceptions()
        return
    tasks = _selected(context, args)
    if tasks is None:
        yield from per_task(context, args.tasks, style.show, header=not args.R)
        return
    for number, found in enumerate(tasks):
        if number and not args.R:
            yield Text("", layout=True)
        yield from _guarded(found, style, header=not args.R)


def _guarded(task: Task, style: _Style, *, header: bool) -> Iterator[Item]:
    if header:
        yield header_item(task)
    try:
        yield from style.show(task)
    except KcrashError as error:
        yield Fault.of(error, **task_data(task))


def _selected(context: Context, args: Arguments) -> list[Task] | None:
    """The tasks that a switch selects; None if the words do."""
    table = task_table(context.session)
    if args.p:
        found = panic_task(context.session)
        if found is None:
            raise CommandError("no panic task found!")
        return [found]
    if args.a or args.c is not None:
        wanted = online_cpus(context.session) if args.a else _known_cpus(context.session, args.c)
        tasks = [table.by_address[table.current[cpu]] for cpu in wanted if cpu in table.current
                 and table.current[cpu] in table.by_address]  # fmt: skip
        return [task for task in tasks if not (args.n and task.pid == 0)]
    if args.g:
        return table.threads(context_task(context) if not args.tasks else _one(context, args.tasks))
    return None


def _one(context: Context, words: Sequence[str]) -> Task:
    from kcrash.commands._tasks import find_task

    return find_task(context.session, words[0])


def _known_cpus(session: Session, wanted: Any) -> list[int]:
    known = online_cpus(session)
    if isinstance(wanted, range):
        return [cpu for cpu in known if cpu in wanted]
    for cpu in wanted:
        if cpu not in known:
            raise CommandError(f"invalid cpu number: {cpu}: the system has {len(known)}")
    return list(wanted)


def _overflows(session: Session) -> Iterator[Item]:
    """Tasks whose stack's end is overwritten (STACK_END_MAGIC, include/uapi/linux/magic.h)."""
    bad = 0
    for task in task_table(session).sorted():
        lowest = readable(session, task.stack, session.arch.word_bytes)
        if lowest is not None and lowest[:4] != (0x57AC6E9D).to_bytes(4, _order(session)):
            bad += 1
            yield header_item(task)
            yield Record(
                "overflow", task_data(task), f"  possible stack overflow: end magic at {task.stack:x}"
            )
    if not bad:
        yield Text("No stack overflows detected")


def _order(session: Session) -> Any:
    return session.arch.byte_order


@dataclass(frozen=True, slots=True)
class _Shown:
    """A frame as it is numbered: ``slot``: where its pc was read, or its frame pointer."""

    number: int
    frame: Frame
    slot: int


class _Style:
    """How the arguments want frames to be shown."""

    def __init__(self, context: Context, args: Arguments) -> None:
        session = self.session = context.session
        self.args = args
        self.hexadecimal = context.radix(args) == 16
        self.radix = context.settings.radix
        self.word = session.arch.word_bytes
        self.variables = VariableStyle(context, context.radix(args))
        self.sp = session.arch.dwarf[session.arch.sp]
        self.shape = session.arch.frame_style

    def show(self, task: Task) -> Iterator[Item]:
        """The items of one task."""
        args = self.args
        if not task.stack:  # a zombie's has been freed
            yield Record("no_stack", task_data(task), "(no stack)")
        elif args.r:
            yield from self._raw(task)
        elif args.t or args.T:
            yield from self._texts(task)
        elif args.e:
            yield from self._exceptions(task)
        elif args.R:
            yield from self._referring(task)
        else:
            yield from self._trace(task)

    def frames(self, task: Task) -> list[Frame]:
        """The frames of the task, or from where -I and -S say."""
        args = self.args
        if args.I is None and args.S is None:
            return frames(self.session, task)
        if args.I is None or args.S is None:
            raise CommandError("-I and -S go together")
        slot = self._slot_of(args.I, args.S)
        sp = args.S if slot is None else slot + self.word
        start = Registers({self.session.arch.dwarf[self.session.arch.pc]: args.I, self.sp: sp})
        return list(unwinder(self.session).unwind(start, interrupted=slot is None))

    def _slot_of(self, pc: int, sp: int) -> int | None:
        """Where ``pc`` stands as a return address, if ``sp`` tells: there, as bt shows it, or just above."""
        slots = (sp, sp - self.word & self.session.word_mask)
        order = self.session.arch.byte_order
        wanted = (pc & self.session.word_mask).to_bytes(self.word, "little" if order == "little" else "big")
        return next((slot for slot in slots if self.session.memory.try_read(slot, self.word) == wanted), None)

    # -- the trace

    def _trace(self, task: Task) -> Iterator[Item]:
        found = self.frames(task)
        number, stack = 0, None
        for index, frame in enumerate(found):
            here = self._stack_name(frame)
            switched = stack is not None and here is not None and here != stack
            if index == 0 and frame.interrupted and self.args.I is None:
                stack = here
                if self._user(frame) or not self.shape.numbered:
                    yield from self._cpu_registers(task)
                    continue
            if frame.regs_address is not None:
                yield from self._saved_registers(task, frame)
                if self._user(frame):
                    return
            if switched and stack is not None and stack != "task":
                yield Text(f"--- <{stack} stack> ---", {"stack": stack}, kind="stack")
            stack = here or stack
            if frame.regs_address is not None and not switched and not self.shape.numbered:
                continue
            shown = _Shown(number, frame, self._slot(frame))
            yield from self._numbered(task, shown, found, index)
            number += 1
            if frame.note:
                yield Fault(f"the trace ends here: {frame.note}", task_data(task))

    def _slot(self, frame: Frame) -> int:
        """What stands in brackets."""
        if self.shape.at_frame_pointer:
            if frame.cfa is not None and self.session.arch.frame.cfa == 0:
                return frame.cfa  # the same, and in entry code, too, where the register is another's
            return frame.registers.get(self.session.arch.dwarf[self.session.arch.fp]) or 0
        return (frame.registers.get(self.sp) or 0) - (0 if frame.interrupted else self.word)

    def _user(self, frame: Frame) -> bool:
        named = {
            name: frame.registers[n] for name, n in self.session.arch.dwarf.items() if n in frame.registers
        }
        return self.session.arch.user_mode(named)

    def _stack_name(self, frame: Frame) -> str | None:
        sp = frame.registers.get(self.sp)
        stack = stack_at(self.session, sp - 1) if sp else None
        return stack.name if stack else None

    def _numbered(self, task: Task, shown: _Shown, found: list[Frame], index: int) -> Iterator[Item]:
        frame = shown.frame
        name, symbol, offset, module = self._name(frame)
        pc = (frame.pc or 0) - (0 if frame.interrupted or not frame.pc else self.shape.call_bytes)
        line = self.session.line_of(pc) if self.args.l else None
        data: dict[str, object] = {
            **task_data(task),
            "level": shown.number,
            "stack": Address(shown.slot),
            "pc": Address(pc),
            "symbol": symbol,
            "offset": offset,
        }
        if module:
            data["module"] = module
        lines = [self._frame_line(shown, pc, f"{name} [{module}]" if module else name, found[index + 1 :])]
        if line is not None:
            data |= {"file": line.file, "line": line.line}
            lines.append(f"    {line.file}: {line.line}")
        if self.args.l or self.args.V:
            data["functions"], more = self._functions(found, index, line)
            lines += more
        if self.args.f or self.args.F:
            words = self._frame_words(shown.slot, found[index + 1 : index + 2])
            data["words"] = [Address(value) for _address, value in words]
            lines += self._dump(words, symbolic=bool(self.args.F))
        yield Record("frame", data, lines)

    def _frame_line(self, shown: _Shown, pc: int, name: str, callers: list[Frame]) -> str:
        number = f"{f'#{shown.number}':>3}"
        if not self.shape.caller:
            function, _space, module = name.partition(" ")
            return f"{number} [{shown.slot:x}] {function} at {pc:x} {module}".rstrip()
        known = [frame.pc for frame in callers[:1] if frame.pc is not None]
        return f"{number} [<{pc:08x}>] ({name})" + "".join(f" from [<{at:08x}>]" for at in known)

    def _functions(
        self, found: list[Frame], index: int, line: SourceLine | None
    ) -> tuple[list[dict[str, object]], list[str]]:
        """``(data, lines)`` of the functions that a frame is in: with -V their variables, too."""
        if self.args.V:
            described = self.variables.of_frame(found, index)
            texts = (one.lines(alone=len(described) == 1) for one in described)
            return [one.data for one in described], [text for lines in texts for text in lines]
        functions = functions_at(self.session, found[index].lookup_pc or 0)
        return functions_data(functions), call_lines(functions, line)

    def _name(self, frame: Frame) -> tuple[str, str | None, int, str]:
        """``(text, symbol, offset, module)`` of a frame's code."""
        if frame.pc is None or frame.lookup_pc is None:
            return "(unknown)", None, 0, ""
        found = self.session.symbols.at(frame.lookup_pc)
        if found is None:
            return "(unknown)" if frame.pc else "0", None, 0, ""
        shown = frame.pc - (0 if frame.interrupted else self.shape.call_bytes)
        symbol, offset = found[0], shown - found[0].address
        shift = self._shift(offset) if self.args.s else ""
        return symbol.name + shift, symbol.name, offset, symbol.module

    def _shift(self, offset: int) -> str:
        return f"+{offset:#x}" if self.hexadecimal else f"+{offset}"

    def _saved_registers(self, task: Task, frame: Frame) -> Iterator[Item]:
        """The block of a struct pt_regs that the trace has come to."""
        assert frame.regs_address is not None
        registers = read_regs(self.session, frame.regs_address)
        yield self._registers_item(task, registers, {"regs": Address(frame.regs_address)})

    def _registers_item(self, task: Task, registers: dict[str, int], more: dict[str, object]) -> Item:
        lines = self.session.arch.format_registers(registers, self._shown_symbol)
        user = self.session.arch.user_mode(registers)
        data: dict[str, object] = {
            **task_data(task),
            **more,
            "user": user,
            "registers": {name: Address(value) for name, value in registers.items()},
        }
        return Record("registers", data, lines)

    def _cpu_registers(self, task: Task) -> Iterator[Item]:
        """The registers that the dump has of the CPU that runs the task."""
        registers = dict(cpu_registers(self.session)[task.cpu].registers)
        registers.pop("orig_rax", None)  # of the last entry to the kernel, if of anything
        yield self._registers_item(task, registers, {"cpu_registers": True})

    def _shown_symbol(self, address: int) -> str:
        found = self.session.symbols.at(address)
        if found is None:
            return "unknown or invalid address"
        # As crash: "set radix" counts here, -x does not.
        shift = f"{found[1]:#x}" if self.radix == 16 else str(found[1])
        return f"{found[0].name}+{shift}"

    # -- words

    def _frame_words(self, slot: int, following: list[Frame]) -> list[tuple[int, int]]:
        """The words above the slot up to the next frame's slot; none for the last frame."""
        if not following or (self.shape.at_frame_pointer and following[0].regs_address is not None):
            return []
        end = self._slot(following[0]) if self.shape.at_frame_pointer else self._below(following[0])
        start = slot if self.shape.at_frame_pointer else slot + self.word
        size = end - slot
        if not 0 < size <= 1 << 16:
            return []
        return self._words(start, size)

    def _below(self, frame: Frame) -> int:
        """The last word below a frame and its registers."""
        if frame.regs_address is not None:
            return frame.regs_address - self.word
        return (frame.registers.get(self.sp) or 0) - self.word

    def _words(self, address: int, size: int) -> list[tuple[int, int]]:
        data = readable(self.session, address, size // self.word * self.word) or b""
        order = _order(self.session)
        return [
            (address + at, int.from_bytes(data[at : at + self.word], order))
            for at in range(0, len(data), self.word)
        ]

    def _dump(self, words: list[tuple[int, int]], *, symbolic: bool, indent: str = "    ") -> Iterator[str]:
        width = self.word * 2
        for at in range(0, len(words), 2):
            row = words[at : at + 2]
            cells = (self._cell(value, width, symbolic) for _address, value in row)
            yield f"{indent}{row[0][0]:x}: " + "".join(f"{cell} " for cell in cells)

    def _cell(self, value: int, width: int, symbolic: bool) -> str:
        text = self.session.symbols.format(value) if symbolic and value else None
        return f"{text:<{width}}" if text else f"{value:0{width}x}"

    # -- other views

    def _raw(self, task: Task) -> Iterator[Item]:
        stack = task_stack(self.session, task)
        words = self._words(stack.low, stack.high - stack.low)
        for at in range(0, len(words), 2):
            row = words[at : at + 2]
            cells = "".join(f"{self._cell(value, self.word * 2, True)} " for _address, value in row)
            data = {**task_data(task), "address": Address(row[0][0]), "words": [Address(v) for _a, v in row]}
            yield Record("stack", data, f"{row[0][0]:x}:  {cells}")

    def _texts(self, task: Task) -> Iterator[Item]:
        """Words of the stack that are addresses of code."""
        stack = task_stack(self.session, task)
        low = stack.low
        if self.args.t:
            first = self.frames(task)[0]
            low = self._lowest_live(stack, first)
            _text, symbol, _offset, _module = self._name(first)
            start = f"              START: {symbol or '(unknown)'} at {first.pc or 0:x}"
            yield Record("start", task_data(task), start)
        clean = unwind_target(self.session).canonical or (lambda value: value)
        for address, word in self._words(low, stack.high - low):
            value = clean(word)
            found = self.session.symbols.at(value) if value in unwinder(self.session).code else None
            if found is None or found[0].type not in "tTwW":
                continue
            shift = self._shift(found[1]) if self.args.s and found[1] else ""
            suffix = f" [{found[0].module}]" if found[0].module else ""
            data = {**task_data(task), "address": Address(address), "pc": Address(value),
                    "symbol": found[0].name, "offset": found[1]}  # fmt: skip
            yield Record("text", data, f"  [{address:x}] {found[0].name}{shift} at {value:x}{suffix}")
        if not task.is_kernel:
            yield self._user_registers(task)

    def _lowest_live(self, stack: StackRange, first: Frame) -> int:
        """Where the last known frame starts on the task's stack; its end if the CPU is in user space."""
        if self._user(first):
            return stack.high
        low = (first.registers.get(self.sp) or 0) - (0 if first.interrupted else self.word)
        return low if stack.low <= low < stack.high else stack.low

    def _user_registers(self, task: Task) -> Item:
        """The registers of user space: the CPU's if it is there, else those that the entry code saved."""
        cpu = cpu_registers(self.session).get(task.cpu)
        if cpu is not None and cpu.user and task.address in task_table(self.session).active:
            return self._registers_item(task, dict(cpu.registers), {"cpu_registers": True})
        address = user_regs_address(self.session, task)
        return self._registers_item(task, read_regs(self.session, address), {"regs": Address(address)})

    def _exceptions(self, task: Task) -> Iterator[Item]:
        """What looks like a struct pt_regs on the task's stack."""
        for address, registers in self._saved_regs(task_stack(self.session, task)):
            yield self._exception(address, registers, task_data(task))

    def all_exceptions(self) -> Iterator[Item]:
        """Likewise on the stacks that the CPUs take interrupts and exceptions on."""
        by_kind = sorted(cpu_stacks(self.session), key=lambda stack: (stack.name != "IRQ", stack.cpu or 0))
        for stack in by_kind:
            data: dict[str, object] = {"cpu": stack.cpu, "stack": stack.name}
            yield Record("stack", data, ["", f"CPU {stack.cpu} {stack.name.upper()} STACK:"])
            found = list(self._saved_regs(stack))
            for address, registers in found:
                yield self._exception(address, registers, data)
            if not found:
                yield Text("(none found)", layout=True)

    def _exception(self, address: int, registers: dict[str, int], more: dict[str, object]) -> Item:
        user = self.session.arch.user_mode(registers)
        kind = "USER" if user else "KERNEL"
        lines = ["", f"  {kind}-MODE EXCEPTION FRAME AT: {address:x}"]
        lines += self.session.arch.format_registers(registers, self._shown_symbol)
        data = {**more, "regs": Address(address), "user": user,
                "registers": {name: Address(value) for name, value in registers.items()}}  # fmt: skip
        return Record("registers", data, lines)

    def _saved_regs(self, stack: StackRange) -> Iterator[tuple[int, dict[str, int]]]:
        """``(address, registers)`` of what looks like a struct pt_regs: the architecture's say so."""
        size = self.session.types.size("struct pt_regs")
        for address in range(stack.low, stack.high - size + 1, self.word):
            try:
                registers = read_regs(self.session, address)
            except KcrashError:
                break
            if self.session.arch.saved_registers(registers, address + size) and self._fits(registers):
                yield address, registers

    def _fits(self, registers: dict[str, int]) -> bool:
        """True if the program counter and the stack pointer are where such registers point to."""
        pc, sp = registers[self.session.arch.pc], registers[self.session.arch.sp]
        if self.session.arch.user_mode(registers):
            user = self.session.layout.paging.user_end
            return 0 < pc < user and 0 < sp < user
        return pc in unwinder(self.session).code and stack_at(self.session, sp) is not None

    def _referring(self, task: Task) -> Iterator[Item]:
        from kcrash.commands._addresses import parse_address

        wanted = parse_address(self.session, self.args.R)
        symbol = self.session.symbols.symbol(self.args.R)
        found = self.frames(task)
        names = {self._name(frame)[1] for frame in found}
        words = {
            value
            for _address, value in self._words(task.stack, task_stack(self.session, task).high - task.stack)
        }
        if (symbol and symbol.name in names) or wanted in words:
            yield header_item(task)
            yield from self._trace(task)
