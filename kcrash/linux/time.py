"""Clocks of the dead machine: ticks, uptime, the time of day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcrash.errors import CorruptData, KcrashError, MissingSymbol

if TYPE_CHECKING:
    from kcrash.session import Session

CLOCKSOURCE = "struct clocksource"


def hz(session: Session) -> int:
    """Ticks a second (CONFIG_HZ), which no symbol holds as such. Raises KcrashError.

    ``tick_nsec`` (kernel/time/ntp.c) is the length of a tick that adjtimex() may bend a
    little; the jiffies clocksource multiplies ticks by its unbent length.
    """
    return session.memo("HZ", lambda: _hz(session))


def _hz(session: Session) -> int:
    length = _clocksource_tick(session) or _bent_tick(session)
    if not length:
        raise MissingSymbol("tick_nsec", session.release_hint)
    found = round(1e9 / length)
    if not 10 <= found <= 100000:
        raise CorruptData(f"a tick of {length} ns is absurd")
    return found


def _clocksource_tick(session: Session) -> float:
    address = session.symbols.find_kernel("clocksource_jiffies")
    if address is None or not session.types.has(CLOCKSOURCE, "mult"):
        return 0
    reader = session.types.reader(CLOCKSOURCE, "mult", "shift")
    data = session.memory.try_read(address + reader.start, reader.size)
    mult, shift = reader(data) if data else (0, 0)
    return float(mult / (1 << shift)) if shift < 64 else 0


def _bent_tick(session: Session) -> float:
    address = session.symbols.find_kernel("tick_nsec")
    return 0 if address is None else session.memory.word(address)


def jiffies(session: Session) -> int:
    """The 64-bit tick counter, as it stands in memory. Raises KcrashError."""
    return session.memory.u64(session.symbols.address("jiffies_64"))


def uptime_jiffies(session: Session) -> int:
    """Ticks since boot: the counter starts five minutes before it wraps (INITIAL_JIFFIES).

    Raises KcrashError.
    """
    start = -300 * hz(session) & 0xFFFFFFFF
    now = jiffies(session)
    # Up from 2**32 - 300 HZ, on 64-bit kernels too; less than that is no count of a kernel that ran.
    return now - start if now >= start else now


def uptime(session: Session) -> float:
    """Seconds since boot. Raises KcrashError."""
    return uptime_jiffies(session) / hz(session)


def wall_clock(session: Session) -> int:
    """Seconds since 1970 at the last tick (timekeeper.xtime_sec). Raises KcrashError."""
    base = timekeeper(session)
    return session.memory.u64(base + session.types.offset("struct timekeeper", "xtime_sec"))


def timekeeper(session: Session) -> int:
    """Address of the kernel's struct timekeeper (kernel/time/timekeeping.c).

    The core one is the first of ``timekeeper_data`` since Linux commit 22c62b9a84b8 ("timekeeping: Introduce
    auxiliary timekeepers") in v6.17. Before, it stands behind a sequence counter in ``tk_core``, an unnamed
    struct until commit 10f7c178a9da ("timekeeping: Define a struct type for tk_core to make it reusable") in
    v6.13; alone, as ``timekeeper``, before commit 3fdb14fd1df7 in v3.17.
    """
    address = session.symbols.find_kernel("timekeeper")
    if address is not None:
        return address
    address = session.symbols.find_kernel("timekeeper_data")
    if address is None:
        address = session.symbols.address("tk_core")
    types = session.types
    if types.has("struct tk_data", "timekeeper"):
        return address + types.offset("struct tk_data", "timekeeper")
    name = next((name for name in ("seqcount_raw_spinlock_t", "seqcount_t") if types.has(name)), None)
    size = types.size(name) if name else 4
    align = _u64_alignment(session)
    return address + (size + align - 1) // align * align


def _u64_alignment(session: Session) -> int:
    """How a u64 is aligned in a struct: seen where one stands behind a pointer."""
    if session.types.has("struct tk_read_base", "mask"):
        return session.types.offset("struct tk_read_base", "mask")
    return session.arch.word_bytes


def boot_time(session: Session) -> int | None:
    """Seconds since 1970 when the machine booted; None if a clock cannot be read.

    Both clocks are cut to seconds, for the wall clock is known no better.
    """
    try:
        return wall_clock(session) - int(uptime(session))
    except KcrashError:
        return None


def days_and_clock(seconds: int) -> str:
    """``01:35:32``, or ``1 days, 01:35:32``."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} days, {clock}" if days else clock
