"""The machine and the kernel as a whole: names, memory, load, taint, why it died."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from kcrash.dump.base import Utsname
from kcrash.errors import CommandError, CorruptData, KcrashError, MemoryFault, MissingSymbol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kcrash.session import Session

MAX_NODES = 1024
MAX_STRING = 256
MAX_SYSTEM_CALLS = 4096
MAX_CONFIG = 1 << 20


# -- names


def utsname(session: Session) -> Utsname:
    """What ``uname -a`` printed: init_uts_ns.name (struct new_utsname). Raises KcrashError."""
    return session.memo("utsname", lambda: _utsname(session))


def _utsname(session: Session) -> Utsname:
    fields = ("sysname", "nodename", "release", "version", "machine", "domainname")
    base = session.symbols.address("init_uts_ns") + session.types.offset("struct uts_namespace", "name")
    reader = session.types.reader("struct new_utsname", *fields)
    values = reader(session.memory.read(base + reader.start, reader.size))
    return Utsname(*(value.split(b"\0", 1)[0].decode("utf-8", "replace") for value in values))


def dmi_strings(session: Session) -> list[tuple[str, str]]:
    """``("DMI_BIOS_VENDOR", "SeaBIOS")`` ... as drivers/firmware/dmi_scan.c keeps them.

    Raises KcrashError.
    """
    pointers = session.symbols.address("dmi_ident")
    names = session.types.type("enum dmi_field").underlying
    found = []
    for name, number in getattr(names, "enumerators", {}).items():
        if name in ("DMI_NONE", "DMI_STRING_MAX", "DMI_OEM_STRING"):
            continue
        pointer = session.memory.word(pointers + number * session.arch.word_bytes)
        if pointer:
            text = session.memory.string(pointer, MAX_STRING)
            found.append((name, text.decode("utf-8", "replace")))
    return found


# -- load and memory


class LoadAverage(NamedTuple):
    """The load averages over 1, 5 and 15 minutes."""

    one: float
    five: float
    fifteen: float


def load_average(session: Session) -> LoadAverage:
    """From avenrun: fixed point with 11 bits of fraction, rounded as /proc/loadavg does.

    Raises KcrashError.
    """
    words = session.memory.words(session.symbols.address("avenrun"), 3)
    return LoadAverage(*(_load(word) for word in words))


def _load(word: int) -> float:
    rounded = word + 2048 // 200
    return (rounded >> 11) + ((rounded & 2047) * 100 >> 11) / 100


def nodes(session: Session) -> list[int]:
    """Addresses of the struct pglist_data of the NUMA nodes that exist. Raises KcrashError."""
    return session.memo("numa nodes", lambda: list(_nodes(session)))


def _nodes(session: Session) -> Iterator[int]:
    symbol = session.symbols.symbol("node_data")
    if symbol is None or symbol.module:
        yield session.symbols.address("contig_page_data")
        return
    word = session.arch.word_bytes
    count = min(symbol.size // word or 1, MAX_NODES)
    yield from (pointer for pointer in session.memory.words(symbol.address, count) if pointer)


def present_pages(session: Session) -> int:
    """Pages of RAM that the kernel found, what it reserved included. Raises KcrashError."""
    return session.reading("present pages", lambda: _present_pages(session))


def _present_pages(session: Session) -> int:
    offset = session.types.offset("struct pglist_data", "node_present_pages")
    return sum(session.memory.word(node + offset) for node in nodes(session))


def highest_page(session: Session) -> int:
    """Pages up to the end of the directly mapped memory (``high_memory``), holes included.

    Raises KcrashError.
    """
    end = session.memory.word(session.symbols.address("high_memory"))
    page = session.arch.page_size
    return session.memory.translate(end - page & session.word_mask) // page + 1


def memory_size(session: Session) -> int:
    """Bytes of RAM. Raises KcrashError."""
    return present_pages(session) * session.arch.page_size


def cpu_khz(session: Session) -> int | None:
    """The CPUs' frequency in kHz, or that of their time stamp counter; None where the kernel keeps none."""
    counter, clock = map(session.symbols.find_kernel, ("cpu_khz", "cpu_clock_freq"))  # x86; LoongArch, in Hz
    try:
        if counter is not None:
            return session.memory.u32(counter) or None
        return session.memory.u64(clock) // 1000 or None if clock is not None else None
    except MemoryFault:
        return None


# -- taint


def tainted_mask(session: Session) -> int:
    """The kernel's taint bits (kernel/panic.c). Raises KcrashError.

    Linux v2.6.28 replaced the int ``tainted``.
    """
    address = session.symbols.find_kernel("tainted_mask")
    if address is not None:
        return session.memory.word(address)
    return session.memory.u32(session.symbols.address("tainted"))


def taint_letters(session: Session) -> dict[int, str]:
    """Bit number -> the letter that a panic prints when the bit is set. Raises KcrashError.

    ``taint_flags`` since Linux commit 7fd8329ba502 ("taint/module: Clean up global and module
    taint flags handling") in v4.10, ``tnts`` before.
    """
    if session.symbols.find_kernel("taint_flags") is None:
        return _taint_letters(session, "tnts", "struct tnt", "true", "bit")
    name = "c_true" if session.types.has("struct taint_flag", "c_true") else "true"
    return _taint_letters(session, "taint_flags", "struct taint_flag", name, None)


def _taint_letters(session: Session, table: str, type_: str, letter: str, bit: str | None) -> dict[int, str]:
    symbol, size = session.symbols.symbol(table), session.types.size(type_)
    if symbol is None:
        raise MissingSymbol(table, session.release_hint)
    reader = session.types.reader(type_, letter, *([bit] if bit else []))
    found = {}
    for number in range(min(symbol.size // size, 64)):
        values = reader(session.memory.read(symbol.address + number * size + reader.start, reader.size))
        found[values[1] if bit else number] = chr(values[0] & 0xFF)
    return found


def taint(session: Session) -> str:
    """The letters of the bits that are set, in order; an unknown bit is left out. Raises KcrashError."""
    mask = tainted_mask(session)
    return "".join(text for bit, text in taint_letters(session).items() if mask >> bit & 1) if mask else ""


# -- system calls and configuration


class SystemCall(NamedTuple):
    """``number``: its number; ``name``: the function's symbol, or its address; ``address``: the function."""

    number: int
    name: str
    address: int


def system_calls(session: Session) -> list[SystemCall]:
    """What sys_call_table holds. Raises KcrashError.

    x86-64 calls through a switch since Linux commit 1e3ad78334a6 ("x86/syscall: Don't force use of
    indirect calls for system calls") in v6.9, and keeps the table for tracing.
    """
    symbol = session.symbols.symbol("sys_call_table")
    if symbol is None:
        raise MissingSymbol("sys_call_table", session.release_hint)
    count = min(symbol.size // session.arch.word_bytes, MAX_SYSTEM_CALLS)
    pointers = list(session.memory.words(symbol.address, count))
    while pointers and not pointers[-1]:  # without sizes, a symbol lasts up to the next one
        pointers.pop()
    names = {pointer: _function(session, pointer) for pointer in set(pointers)}
    return [SystemCall(number, names[pointer], pointer) for number, pointer in enumerate(pointers)]


def _function(session: Session, address: int) -> str:
    found = session.symbols.at(address)
    return found[0].name if found and not found[1] else f"{address:x}"


def kernel_config(session: Session) -> list[str]:
    """The lines of the kernel's .config (kernel/configs.c), where CONFIG_IKCONFIG keeps it.

    The gzip data stands between the marks IKCFG_ST and IKCFG_ED; since Linux commit 13610aa908dc
    ("kernel/configs: use .incbin directive to embed config_data.gz") in v5.1 kernel_config_data begins
    behind the first. Raises KcrashError.
    """
    begin, end = (
        session.symbols.find_kernel(name) for name in ("kernel_config_data", "kernel_config_data_end")
    )
    if begin is None:
        raise CommandError("kernel_config_data does not exist in this kernel")
    if end is None:
        symbol = session.symbols.symbol("kernel_config_data")
        end = begin + (symbol.size if symbol else 0)
    data = session.memory.read(begin, min(max(end - begin, 0), MAX_CONFIG))
    data = data.removeprefix(b"IKCFG_ST").split(b"IKCFG_ED")[0]
    try:
        text = zlib.decompressobj(31).decompress(data, 16 * MAX_CONFIG)
    except zlib.error as error:
        raise CorruptData(f"the kernel's configuration cannot be unpacked: {error}") from None
    return text.decode("utf-8", "replace").splitlines()


# -- live patches


def livepatched(session: Session) -> bool:
    """Whether a live patch was in the kernel (kernel/livepatch/core.c: klp_patches is not empty)."""
    head = session.symbols.find_kernel("klp_patches")
    try:
        return head is not None and session.memory.word(head) != head
    except MemoryFault:
        return False


def livepatch_transition(session: Session) -> bool:
    """Whether a live patch was being put in or taken out: klp_transition_patch points to it."""
    address = session.symbols.find_kernel("klp_transition_patch")
    try:
        return address is not None and session.memory.word(address) != 0
    except MemoryFault:
        return False


# -- why it died

PANIC_MARKS = (
    ("SysRq : Netdump", "SysRq : Trigger a crash", "SysRq : Crash"),
    ("Kernel panic: ",),
    ("Kernel panic - ",),
    ("Kernel BUG at",),
    ("kernel BUG at",),
    ("general protection fault: ",),
    ("double fault: ",),
    ("divide error: ",),
    ("stack segment: ",),
    ("[Hardware Error]: ",),
    ("Oops: ",),
    ("Internal error: Oops", "Bad mode in", "Unable to handle kernel"),
)
"""What a line of the log that tells of the end contains. An earlier group wins over a later one, in a
group the line that came first: so crash ranks them (seen by giving it logs that hold several)."""


class PanicCause(NamedTuple):
    """``message``: the line of the log that says why the kernel died; ``mark``: by what; "" if none does."""

    message: str
    mark: str

    @property
    def sysrq(self) -> bool:
        """Whether somebody asked for the crash, as kernels told it that logged "SysRq : Trigger a crash"."""
        return self.mark in PANIC_MARKS[0]


def panic_cause(session: Session) -> PanicCause:
    """Why the kernel died, by its log."""
    return session.reading("panic cause", lambda: _panic_cause(session))


def _panic_cause(session: Session) -> PanicCause:
    lines = _log_lines(session)
    for group in PANIC_MARKS:
        for line in lines:
            mark = next((mark for mark in group if mark in line), None)
            if mark is not None:
                return PanicCause(line, mark)
    return PanicCause("", "")


def _log_lines(session: Session) -> list[str]:
    """The lines that have any of the marks; what cannot be read is no line."""
    from kcrash.linux.printk import log_records

    search = re.compile("|".join(re.escape(mark) for group in PANIC_MARKS for mark in group).encode()).search
    found = []
    try:
        for record in log_records(session):
            if search(record.text):
                found += [line.decode("utf-8", "replace") for line in record.text.split(b"\n")]
    except KcrashError:
        pass  # what was read of the log stands
    return found
