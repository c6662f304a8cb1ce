"""``log``: the kernel's message buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from kcrash.commands.base import Arguments, Context, Exclusive, Flag, Item, Record, command
from kcrash.errors import CorruptData, MemoryFault
from kcrash.linux.printk import CALLER_IS_CPU, LogRecord, audit_buffers, log_records, safe_buffers
from kcrash.output import Fault, Text
from kcrash.session import Session


@command(
    "log",
    summary="dump system message buffer",
    arguments=[
        Exclusive(
            Flag("-T", "human-readable time stamps, from the boot time as the kernel knew it"),
            Flag("-t", "no time stamps"),
        ),
        Flag("-d", "the dictionary of each message (device and subsystem) below it"),
        Flag("-m", "the level of each message before it"),
        Flag("-c", "the thread or CPU that logged the message"),
        Flag("-a", "messages still queued for the audit daemon"),
        Flag("-s", "the per-CPU printk_safe buffers"),
    ],
    description="The kernel's log, oldest message first. Several lines of a message stand together.",
    examples=[("The last words:", "log | tail -20"), ("With levels, in local words:", "log -T -m")],
    minimal=True,
)
def log(context: Context, args: Arguments) -> Iterator[Item]:
    """See the command's help."""
    session = context.session
    if args.a:
        yield from _audit(session)
        return
    if args.s:
        yield from _safe(session)
        return
    show = _formatter(session, args)
    try:
        for record in log_records(session):
            yield Record("message", _data(record), lambda record=record: show(record))  # type: ignore[misc]
    except (MemoryFault, CorruptData) as error:
        yield Fault.of(error)


def _data(record: LogRecord) -> dict[str, object]:
    data: dict[str, object] = {
        "seq": record.seq,
        "time": None if record.time is None else record.time / 1e9,
        "level": record.level,
        "facility": record.facility,
        "text": record.text.decode("utf-8", "replace"),
    }
    if record.caller is not None:
        data["caller"] = caller_name(record.caller)
    if record.dictionary:
        data["dictionary"] = [pair.decode("utf-8", "replace") for pair in record.dictionary]
    return data


def caller_name(caller: int) -> str:
    """``T1`` for a thread, ``C0`` for a CPU outside thread context (kernel/printk/printk.c)."""
    if caller & CALLER_IS_CPU:
        return f"C{caller & ~CALLER_IS_CPU}"
    return f"T{caller}"


def _formatter(session: Session, args: Arguments) -> Callable[[LogRecord], list[str]]:
    boot = None
    if args.T:
        from kcrash.linux.time import boot_time

        boot = boot_time(session)

    def show(record: LogRecord) -> list[str]:
        prefix = _prefix(record, args, boot)
        first, *others = record.text.decode("utf-8", "replace").split("\n")
        lines = [prefix + first, *(" " * len(prefix) + line for line in others)]
        if args.d:
            lines += [" " * len(prefix) + pair.decode("utf-8", "replace") for pair in record.dictionary]
        return lines

    return show


def _prefix(record: LogRecord, args: Arguments, boot: int | None) -> str:
    parts = []
    if record.time is not None and not args.t:
        if boot is None:
            parts.append(f"[{record.time // 10**9:5}.{record.time // 1000 % 10**6:06}] ")
        else:
            parts.append(f"[{_date(boot + record.time // 10**9)}] ")
    if args.c and record.caller is not None:
        parts.append(f"[{caller_name(record.caller):>6}] ")
    if args.m:
        parts.append(f"<{record.level:x}>")
    return "".join(parts)


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%a %b %e %H:%M:%S %Z %Y")


def _audit(session: Session) -> Iterator[Item]:
    empty = True
    for message in audit_buffers(session):
        empty = False
        text = message.split(b"\0", 1)[0].decode("utf-8", "replace")
        yield Record("audit", {"text": text}, text)
    if empty:
        yield Text("log: kernel audit log is empty")


def _safe(session: Session) -> Iterator[Item]:
    for name, cpu, address, text in safe_buffers(session):
        shown = text.decode("utf-8", "replace")
        lines = [f"CPU: {cpu}  {name}: {address:x}", shown or "(empty)", ""]
        yield Record("safe_buffer", {"cpu": cpu, "variable": name, "text": shown}, lines)
